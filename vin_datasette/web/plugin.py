"""Hooks, and nothing else. Those that one Datasette does not know are ignored by it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from datasette import hookimpl

from vin_datasette.schema import VEHICLES
from vin_datasette.web import guard, lookup_page, refresh, routes, vehicle_page
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

_ROUTES: tuple[tuple[str, Callable[..., Awaitable[Any]]], ...] = (
    (r"/lookup/(?P<vin>.*)$", routes.lookup),
    (r"/lookup$", lookup_page.page),
    (r"/remove/(?P<vin>.*)$", routes.remove),
    (r"/export$", routes.export),
)


@hookimpl
def register_routes(datasette: Datasette) -> list[tuple[str, Callable[..., Awaitable[Any]]]]:
    prefixes = ("/-/vin", "") if settings_of(datasette).short_routes else ("/-/vin",)
    own = [(rf"^{prefix}{pattern}", view) for prefix in prefixes for pattern, view in _ROUTES]
    return [
        *own,
        (r"^/-/vin/refresh/(?P<vin>.*)$", refresh.refresh),
        (r"^/-/vin\.json$", routes.state),
        (r"^/-/vin/lists$", lookup_page.keep_list),
    ]


@hookimpl
def register_output_renderer() -> dict[str, Any]:
    return {"extension": "parquet", "render": render_parquet, "can_render": can_render_parquet}


@hookimpl
def startup(datasette: Datasette) -> Callable[[], Awaitable[None]]:
    async def inner() -> None:
        state = await start(datasette)
        if hasattr(datasette, "set_column_metadata"):
            await _describe(datasette, state.database)

    return inner


async def _describe(datasette: Datasette, database: str) -> None:
    """Datasette 1.0 keeps metadata in its internal database and table configuration in
    a dictionary; what the instance itself says there stays."""
    configured = datasette.config.setdefault("databases", {}).setdefault(database, {}).setdefault("tables", {})
    for table, shown in shown_beside(configured).items():
        own = configured.setdefault(table, {})
        for key in CONFIGURATION_KEYS & shown.keys():
            own.setdefault(key, shown[key])
        known = await datasette.get_resource_metadata(database, table)
        for key in ("title", "description"):
            if not known.get(key):
                await datasette.set_resource_metadata(database, table, key, shown[key])
        for column, text in shown["columns"].items():
            if not (await datasette.get_column_metadata(database, table, column)).get("description"):
                await datasette.set_column_metadata(database, table, column, "description", text)


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
    return {"databases": {own: {"tables": shown_beside(said.get("tables") or {})}}}


@hookimpl
def permission_allowed(datasette: Datasette, actor: dict[str, Any] | None, action: str) -> bool | None:
    """Datasette 0.65."""
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

    allows = guard.plugin_allows(datasette, actor, action)
    if allows is None:
        return None
    said = "allows" if allows else "does not allow"
    return PermissionSQL.allow(reason=f"vin-datasette {said} {action}", _allow=allows)


@hookimpl
def extra_js_urls(datasette: Datasette, database: str | None, table: str | None) -> list[dict[str, Any]]:
    if table not in TABLES or database != state_of(datasette).database:
        return []
    return [{"url": datasette.urls.static_plugins(PLUGIN_NAME, "columns.js"), "module": True}]


@hookimpl
def render_cell(value: Any, column: str, table: str | None, database: str, datasette: Datasette) -> Any:
    """A whole record is folded: it is some hundred lines."""
    if column != "record" or table not in TABLES or database != state_of(datasette).database:
        return None
    return fold_record(value)


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
def menu_links(datasette: Datasette, actor: dict[str, Any] | None, request: Request) -> Callable[[], Awaitable[Any]]:
    async def inner() -> list[dict[str, str]]:
        if not await guard.may_see(datasette, actor):
            return []
        return [{"href": datasette.urls.path("/-/vin/lookup"), "label": "Look up a VIN"}]

    return inner


@hookimpl
def prepare_connection(connection: sqlite3.Connection, datasette: Datasette) -> None:
    # Datasette may connect before this plugin is started.
    connection.create_function(FUNCTION, 1, lambda name: state_of(datasette).vin_lists.array(str(name)))


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
