"""Routes of Datasette that answer with the same bytes each time, and with a row: what its router costs."""

from __future__ import annotations

from typing import Any

from datasette import Request, Response, hookimpl

from benchmarks.hits.peers import BODY, HEAD, row_of

_FURTHER = {name: value for name, value in HEAD.items() if name != "Content-Type"}


async def constant() -> Any:
    """The answer."""
    return Response(BODY, headers=_FURTHER, content_type=HEAD["Content-Type"])


async def row(request: Request) -> Any:
    """The answer of a vehicle, read anew each time and without a question asked."""
    return Response(row_of(request.url_vars["vin"]), headers=_FURTHER, content_type=HEAD["Content-Type"])


@hookimpl
def register_routes() -> list[tuple[str, Any]]:
    """`/-/constant` and `/-/row/<vin>`."""
    return [(r"^/-/constant$", constant), (r"^/-/row/(?P<vin>[^/]+)$", row)]
