"""A route of Datasette that answers with the same bytes each time: what its router costs."""

from __future__ import annotations

from typing import Any

from datasette import Response, hookimpl

from benchmarks.hits.peers import BODY


async def constant() -> Any:
    """The answer."""
    return Response(BODY, content_type="application/json")


@hookimpl
def register_routes() -> list[tuple[str, Any]]:
    """`/-/constant`."""
    return [(r"^/-/constant$", constant)]
