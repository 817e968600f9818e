"""A route of Datasette that answers with the same bytes each time: what its router costs."""

from __future__ import annotations

from typing import Any

from datasette import Response, hookimpl

from benchmarks.hits.peers import BODY, HEAD

_FURTHER = {name: value for name, value in HEAD.items() if name != "Content-Type"}


async def constant() -> Any:
    """The answer."""
    return Response(BODY, headers=_FURTHER, content_type=HEAD["Content-Type"])


@hookimpl
def register_routes() -> list[tuple[str, Any]]:
    """`/-/constant`."""
    return [(r"^/-/constant$", constant)]
