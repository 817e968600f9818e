"""How one comes to the lookup and to the charts from Datasette's own pages: entries of its
menus for everybody, and links that a script sets under their headings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from vin_datasette.schema import VEHICLES
from vin_datasette.web import guard, html
from vin_datasette.web.page_query import NOT_THE_ROWS
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

LOOKUP = "Look up a VIN"


async def lookup_links(
    datasette: Datasette, actor: dict[str, Any] | None, database: str | None = None
) -> list[dict[str, str]]:
    """The menu entry for the lookup, for those who may see the vehicles; on pages of the cache, or of no database."""
    if database not in (None, state_of(datasette).database) or not await guard.may_see(datasette, actor):
        return []
    return [{"href": datasette.urls.path("/-/vin/lookup"), "label": LOOKUP}]


async def table_links(
    datasette: Datasette, actor: dict[str, Any] | None, database: str, table: str, request: Request | None
) -> list[dict[str, str]]:
    """The menu entries of a table page of the cache: the lookup, and for the vehicles their charts."""
    links = await lookup_links(datasette, actor, database)
    if not links or table != VEHICLES:
        return links
    asked = parse_qsl(request.query_string, keep_blank_values=True) if request else []
    kept = [(key, value) for key, value in asked if key not in NOT_THE_ROWS]
    if not {"_sort", "_sort_desc"} & {key for key, _ in kept}:
        kept.append(("_sort", "vin"))
    # What Datasette does for the page before it comes to the charts: facets, and rows in an order that takes long.
    query = urlencode([*kept, ("_nofacet", "1"), ("_nocount", "1")])
    charts = f"{datasette.urls.table(database, VEHICLES, format='charts')}?{query}"
    return [{"href": charts, "label": "Charts"}, *links]


async def scripts(
    datasette: Datasette, view_name: str | None, database: str | None, table: str | None, request: Request | None
) -> list[dict[str, Any]]:
    """The modules of a page of Datasette: one that sets a link to the lookup under the heading of the
    home page and of the cache's pages, and one that shows charts above the vehicles."""
    if view_name not in ("index", "database", "table") or request is None:
        return []
    if not await lookup_links(datasette, request.actor, database):
        return []
    # The pages of queries count as pages of their database.
    names = ["ways_in.js"]
    if view_name == "table" and table == VEHICLES:
        names.append("charts.js")
    return [{"url": html.static(datasette, name), "module": True} for name in names]


def styles(datasette: Datasette, view_name: str | None, database: str | None, table: str | None) -> list[str]:
    """The style sheets of the charts, for the table page of the vehicles."""
    if view_name != "table" or table != VEHICLES or database != state_of(datasette).database:
        return []
    return [html.static(datasette, name) for name in ("vin.css", "charts.css")]
