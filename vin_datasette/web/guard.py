"""Who may do what: the permissions of the plugin, and what every write has to pass.

The one place that knows how Datasette 0.65 and 1.0 differ in permissions.
"""

from __future__ import annotations

import ipaddress
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from datasette import Forbidden
from datasette.utils import actor_matches_allow

from vin_datasette.cache import CacheError
from vin_datasette.schema import VEHICLES
from vin_datasette.web.state import settings_of, state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from datasette import Request
    from datasette.app import Datasette

Action = Literal["vin-lookup", "vin-remove", "vin-export"]

ACTIONS: dict[Action, str] = {
    "vin-lookup": "Ask a source for a VIN that is not cached",
    "vin-remove": "Remove a VIN from the cache",
    "vin-export": "Export the cache",
}
"""The plugin's permissions. Each also requires `view-table` on the vehicles."""

_ALLOW_SETTINGS = {"vin-lookup": "allow_lookup", "vin-remove": "allow_remove", "vin-export": "allow_export"}


def plugin_allows(datasette: Datasette, actor: dict[str, Any] | None, action: str) -> bool | None:
    """What the plugin says of an actor, before Datasette's own rules: the setting
    `allow_…` where there is one; else `vin-lookup` and `vin-export` for everyone who
    may see the table, and `vin-remove` for `root` alone. None where it says nothing, for
    others' actions and so that Datasette's configuration can still allow more."""
    if action not in _ALLOW_SETTINGS:
        return None
    block = getattr(settings_of(datasette), _ALLOW_SETTINGS[action])
    if block is not None:
        return bool(actor_matches_allow(actor, block))
    return True if action != "vin-remove" or (actor or {}).get("id") == "root" else None


@asynccontextmanager
async def _in_words() -> AsyncIterator[None]:
    """To tell whether a table may be seen, Datasette reads its database."""
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(f"The cache cannot be read: {error}.") from error


async def may_see(datasette: Datasette, actor: dict[str, Any] | None, table: str = VEHICLES) -> bool:
    """Whether an actor may see a table of the cache. Raises `CacheError` where the database cannot be read."""
    database = state_of(datasette).database
    if hasattr(datasette, "allowed"):
        return await _allowed(datasette, actor, "view-table", database, table)
    try:
        async with _in_words():
            await datasette.ensure_permissions(
                actor, [("view-table", (database, table)), ("view-database", database), "view-instance"]
            )
    except Forbidden:
        return False
    return True


async def may(datasette: Datasette, actor: dict[str, Any] | None, action: Action) -> bool:
    """Whether an actor has one of the plugin's permissions, and may see the table. Raises `CacheError`."""
    database = state_of(datasette).database
    if hasattr(datasette, "allowed"):
        return await _allowed(datasette, actor, action, database)
    return await may_see(datasette, actor) and bool(
        await datasette.permission_allowed(actor, action, resource=(database, VEHICLES), default=False)
    )


async def _allowed(
    datasette: Datasette, actor: dict[str, Any] | None, action: str, database: str, table: str = VEHICLES
) -> bool:
    from datasette.resources import TableResource

    resource = TableResource(database=database, table=table)
    async with _in_words():
        return bool(await datasette.allowed(action=action, resource=resource, actor=actor))


def write_refusal(datasette: Datasette, request: Request) -> str | None:
    """Why a request may not change anything, whoever sends it, or None.

    Datasette 0.65 checks only requests with a cookie for where they come from, and
    neither it nor 1.0 notices a foreign host name that was rebound to loopback. So
    this looks at `Sec-Fetch-Site` and `Origin`, which browsers do not let a page
    forge, and, where the server is bound to loopback, at `Host`.
    """
    headers = request.headers
    host = _host_and_port(f"//{headers.get('host', '')}")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return "This page of another site may not change the cache."
    origin = headers.get("origin")
    if origin is not None and _host_and_port(origin) != host:
        return "This page of another origin may not change the cache."
    if _bound_to_loopback(request) and not is_loopback(host[0]) and host[0] not in settings_of(datasette).hosts:
        return f"A server bound to loopback is not known as {host[0] or 'nothing'}; see the setting hosts."
    return None


def _host_and_port(url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        default = {"http": 80, "https": 443}.get(parts.scheme)
        return (parts.hostname or "").rstrip("."), parts.port if parts.port != default else None
    except ValueError:
        return "", None


def _bound_to_loopback(request: Request) -> bool:
    server = request.scope.get("server")
    return bool(server and is_loopback(str(server[0])))


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own (RFC 1122, RFC 4291)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
