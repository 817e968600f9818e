"""Hooks, and nothing else. Those that one Datasette does not know are ignored by it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from datasette import hookimpl

from vin_datasette.schema import VEHICLES
from vin_datasette.web import analyses, guard, presentation, short_way, shutdown, vehicle_page, ways_in
from vin_datasette.web.charts import can_render_charts, render_charts
from vin_datasette.web.doors import registered
from vin_datasette.web.lists import FUNCTION, PARAMETER
from vin_datasette.web.presentation import CONFIGURATION_KEYS, TABLES, fold_record, shown_beside
from vin_datasette.web.renderer import can_render_parquet, render_parquet
from vin_datasette.web.state import PLUGIN_NAME, settings_of, start, state_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable

    from datasette import Request
    from datasette.app import Datasette
    from jinja2 import Environment

    from vin_datasette.web.routes import View


@hookimpl
def register_routes(datasette: Datasette) -> list[tuple[str, View]]:
    return registered(short=settings_of(datasette).short_routes)


@hookimpl
def register_output_renderer() -> list[dict[str, Any]]:
    return [
        {"extension": "parquet", "render": render_parquet, "can_render": can_render_parquet},
        {"extension": "charts", "render": render_charts, "can_render": can_render_charts},
    ]


@hookimpl
def startup(datasette: Datasette) -> Callable[[], Awaitable[None]]:
    async def inner() -> None:
        state = await start(datasette)
        if hasattr(datasette, "set_column_metadata"):
            await _describe(datasette, state.database)
            await analyses.store(datasette)

    return inner


@hookimpl(tryfirst=True)
def asgi_wrapper(datasette: Datasette) -> Callable[[shutdown.App], shutdown.App]:
    """First, so that the wrappers of other plugins stand around it."""
    return lambda app: shutdown.wrapped(datasette, short_way.wrapped(datasette, app))


async def _describe(datasette: Datasette, database: str) -> None:
    """Datasette 1.0 keeps metadata in its internal database and table configuration in
    a dictionary; what the instance itself says there stays."""
    configured = datasette.config.setdefault("databases", {}).setdefault(database, {}).setdefault("tables", {})
    for table, shown in shown_beside(configured).items():
        own = configured.setdefault(table, {})
        for key in CONFIGURATION_KEYS & shown.keys():
            own.setdefault(key, shown[key])
    await presentation.store(datasette.get_internal_database(), database)


@hookimpl
def get_metadata(datasette: Datasette, database: str | None) -> dict[str, Any]:
    """Datasette 0.65 asks for metadata at every turn and writes into what it is given."""
    try:
        own = state_of(datasette).database
    except KeyError:
        return {}
    if database not in (None, own):
        return {}
    said = ((datasette._metadata_local or {}).get("databases") or {}).get(own) or {}  # noqa: SLF001
    # 1.0 hides what begins with an underscore. The latter two are Litestream's, where it copies the cache.
    internal = {name: {"hidden": True} for name in ("_sqlite_migrations", "_litestream_lock", "_litestream_seq")}
    tables = {**shown_beside(said.get("tables") or {}), **internal}
    return {"databases": {own: {"tables": tables}}}


@hookimpl
def permission_allowed(datasette: Datasette, actor: dict[str, Any] | None, action: str, resource: Any) -> Any:
    """Datasette 0.65."""
    if action == "view-query":
        return analyses.permits(datasette, actor, *resource)
    if action == "view-table":
        return guard.permits_index(datasette, actor, *resource)
    return guard.plugin_allows(datasette, actor, action)


@hookimpl
def register_actions() -> list[Any]:
    """Datasette 1.0."""
    from datasette.permissions import Action
    from datasette.resources import TableResource

    return [
        Action(name=name, description=text, resource_class=TableResource, also_requires="view-table")
        for name, text in guard.ACTIONS.items()
    ]


@hookimpl
def permission_resources_sql(datasette: Datasette, actor: dict[str, Any] | None, action: str) -> Any:
    """Datasette 1.0."""
    from datasette.permissions import PermissionSQL

    if action == "view-query":
        return _query_rules(datasette, actor)
    allows = guard.plugin_allows(datasette, actor, action)
    if allows is None:
        return None
    said = "allows" if allows else "does not allow"
    return PermissionSQL.allow(reason=f"vin-datasette {said} {action}", _allow=allows)


async def _query_rules(datasette: Datasette, actor: dict[str, Any] | None) -> Any:
    from datasette.permissions import PermissionSQL

    denials = await analyses.denials(datasette, actor)
    return PermissionSQL(sql=denials) if denials else None


@hookimpl
def canned_queries(datasette: Datasette, database: str) -> dict[str, dict[str, Any]]:
    """Datasette 0.65; 1.0 has them from the start."""
    return analyses.canned(datasette, database)


@hookimpl
def extra_js_urls(
    datasette: Datasette, database: str | None, table: str | None, view_name: str | None, request: Request | None
) -> Callable[[], Awaitable[list[dict[str, Any]]]]:
    async def inner() -> list[dict[str, Any]]:
        ours = await ways_in.scripts(datasette, view_name, database, table, request)
        if table in TABLES and database == state_of(datasette).database:
            ours.append({"url": datasette.urls.static_plugins(PLUGIN_NAME, "columns.js"), "module": True})
        return ours

    return inner


@hookimpl
def extra_css_urls(datasette: Datasette, database: str | None, table: str | None, view_name: str | None) -> list[str]:
    return ways_in.styles(datasette, view_name, database, table)


@hookimpl
def render_cell(value: Any, column: str, table: str | None, database: str, datasette: Datasette) -> Any:
    """A whole record is folded: it is some hundred lines. A VIN in a query's result leads to its vehicle."""
    if database != state_of(datasette).database:
        return None
    if table is None:
        return analyses.linked_vin(datasette, column, value)
    return fold_record(value) if column == "record" and table in TABLES else None


@hookimpl
def prepare_jinja2_environment(env: Environment, datasette: Datasette) -> None:
    vehicle_page.offer_template(env, datasette)


@hookimpl
def extra_template_vars(
    datasette: Datasette, request: Request | None, database: str | None, table: str | None, view_name: str | None
) -> Callable[[], Awaitable[dict[str, Any]]] | None:
    if view_name != "row" or table != VEHICLES or request is None or database != state_of(datasette).database:
        return None
    return partial(vehicle_page.variables, datasette, request)


@hookimpl
def menu_links(datasette: Datasette, actor: dict[str, Any] | None) -> Callable[[], Awaitable[Any]]:
    return partial(ways_in.lookup_links, datasette, actor)


@hookimpl
def homepage_actions(datasette: Datasette, actor: dict[str, Any] | None) -> Callable[[], Awaitable[Any]]:
    """Datasette 1.0."""
    return partial(ways_in.lookup_links, datasette, actor)


@hookimpl
def database_actions(datasette: Datasette, actor: dict[str, Any] | None, database: str) -> Callable[[], Awaitable[Any]]:
    return partial(ways_in.lookup_links, datasette, actor, database)


@hookimpl
def table_actions(
    datasette: Datasette, actor: dict[str, Any] | None, database: str, table: str, request: Request | None
) -> Callable[[], Awaitable[Any]]:
    return partial(ways_in.table_links, datasette, actor, database, table, request)


@hookimpl
def prepare_connection(conn: sqlite3.Connection, database: str, datasette: Datasette) -> None:
    def listed(name: object) -> str:
        # Datasette may connect before this plugin is started.
        own = state_of(datasette)
        # Who may run SQL on another database is not thereby one who may see the vehicles.
        return own.vin_lists.array(str(name)) if database == own.database else "[]"

    conn.create_function(FUNCTION, 1, listed)


@hookimpl
def filters_from_request(
    request: Request, database: str, table: str, datasette: Datasette
) -> Callable[[], Awaitable[Any]]:
    async def inner() -> Any:
        own, name = state_of(datasette), request.args.get(PARAMETER)
        if not name or database != own.database or table != VEHICLES:
            return None
        return own.vin_lists.filter(name)

    return inner
