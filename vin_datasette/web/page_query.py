"""What a table page of Datasette is made of, as Datasette tells it to the same actor, so
that its permissions, its filters and its search hold for whatever is made of the same rows."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasette import Request
    from datasette.app import Datasette

# What a page is asked with; what the reader asked for stands beside it.
_PAGING = {
    "_extra": "query,human_description_en",
    "_shape": "arrays",
    "_size": "1",
    "_labels": "off",
    "_nofacet": "1",
    "_nocount": "1",
}

NOT_THE_ROWS = {
    *_PAGING,
    "_next",
    "_dl",
    "_stream",
    "_nl",
    "_json",
    "_facet",
    "_facet_array",
    "_facet_date",
}
"""Parameters of a page that say how it is shown, and not which rows it has, nor in which order."""

_HEADERS_NOT_PASSED_ON = {"host", "accept", "accept-encoding", "connection", "content-length", "range", "if-none-match"}

_LONGEST_ADDRESS = 60_000
"""Characters of what Datasette's client is asked for; it takes 65,536, its own base URL among them."""


class PageError(Exception):
    """A page that Datasette did not give; the message is its own."""


@dataclass(frozen=True)
class PageQuery:
    """All rows of a table page: SQL without a limit, its parameters, and the filter in
    Datasette's own words."""

    sql: str
    parameters: dict[str, Any]
    description: str


async def page_query(
    datasette: Datasette, request: Request, instead: Mapping[str, str | None] | None = None
) -> PageQuery:
    """The query of the table's or view's page that `request` asks for in a format of ours.

    `instead` are parameters that take the place of the reader's; None leaves one out.
    Raises `PageError`.
    """
    own = {**_PAGING, **(instead or {})}
    path = re.sub(r"\.\w+$", ".json", request.scope.get("route_path") or request.path)
    asked = parse_qsl(request.query_string, keep_blank_values=True)
    passed = [pair for pair in asked if pair[0] not in NOT_THE_ROWS and pair[0] not in own]
    added = [(key, value) for key, value in own.items() if value is not None]
    address = f"{path}?{urlencode([*passed, *added])}"
    if len(address) > _LONGEST_ADDRESS:
        raise PageError("the address is too long")
    # By the bytes that came: a client takes no text here that is not ASCII.
    headers = {
        key.encode("latin-1"): value.encode("latin-1")
        for key, value in request.headers.items()
        if key.lower() not in _HEADERS_NOT_PASSED_ON
    }
    answer = await datasette.client.get(address, headers=headers)
    told = json.loads(answer.text) if answer.status_code == 200 else {}
    if not told.get("query"):
        raise PageError(f"the page was answered with status {answer.status_code}")
    sql = re.sub(r"\s+limit \d+(?:\s+offset \d+)?\s*$", "", told["query"]["sql"])
    return PageQuery(sql, told["query"]["params"], told.get("human_description_en") or "")
