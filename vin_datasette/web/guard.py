"""Who may do what: the permissions of the plugin, and what every write has to pass.

The one place that knows how Datasette 0.65 and 1.0 differ in permissions.
"""

from __future__ import annotations

import ipaddress
import json
import sqlite3
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from datasette import Forbidden
from datasette.plugins import pm
from datasette.utils import actor_matches_allow

from vin_datasette.cache import CacheError
from vin_datasette.schema import VEHICLES
from vin_datasette.web.state import settings_of, state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from datasette import Request
    from datasette.app import Datasette
    from pluggy import HookImpl

Action = Literal["vin-lookup", "vin-remove", "vin-export"]

ACTIONS: dict[Action, str] = {
    "vin-lookup": "Ask a source for a VIN that is not cached",
    "vin-remove": "Remove a VIN from the cache",
    "vin-export": "Export the cache",
}
"""The plugin's permissions. Each also requires `view-table` on the vehicles."""

_INDEX = f"{VEHICLES}_fts"
"""The search index, as sqlite-utils names it; SQLite keeps it in tables whose names begin so (FTS5, 9)."""

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
    return await _decided(datasette, actor, "view-table", table, partial(_may_see, datasette, actor, table))


async def may(datasette: Datasette, actor: dict[str, Any] | None, action: Action) -> bool:
    """Whether an actor has one of the plugin's permissions, and may see the table. Raises `CacheError`."""
    return await _decided(datasette, actor, action, VEHICLES, partial(_may, datasette, actor, action))


def is_open(datasette: Datasette) -> bool:
    """Whether it is known that who sends neither a cookie nor a token may see the vehicles."""
    if not _is_settled() or _others_answer("actor_from_request"):
        return False
    return state_of(datasette).decisions.get(_key(datasette, None, "view-table", VEHICLES), False)


async def _decided(
    datasette: Datasette,
    actor: dict[str, Any] | None,
    action: str,
    table: str,
    decide: Callable[[], Awaitable[bool]],
) -> bool:
    """What `decide` says, asked once for an actor where the answer cannot change.

    Datasette asks its own database for each decision, which takes ten times as long as all else
    that a cached vehicle costs.
    """
    if not _is_settled():
        return await decide()
    known, key = state_of(datasette).decisions, _key(datasette, actor, action, table)
    if key not in known:
        decision = await decide()
        if len(known) >= _MOST_DECISIONS:
            known.clear()
        known[key] = decision
    return known[key]


_MOST_DECISIONS = 4096

_DECIDING = ("permission_allowed", "permission_resources_sql", "get_metadata")
"""The hooks of both Datasettes by which a plugin has a say in who may do what."""


def _is_settled() -> bool:
    """Whether the configuration alone decides who may do what, which does not change while the server runs."""
    return not any(map(_others_answer, _DECIDING))


def _others_answer(hook: str) -> bool:
    """Whether a plugin other than Datasette's own and this one has a say in something."""
    caller = getattr(pm.hook, hook, None)
    found = caller.get_hookimpls() if caller else []
    # Plugins come and go, as tests' do; the same ones give the same answer.
    if hook not in _ANSWERED or _ANSWERED[hook][0] != found:
        own = all(each.function.__module__.startswith(("datasette.", "vin_datasette.")) for each in found)
        _ANSWERED[hook] = found, not own
    return _ANSWERED[hook][1]


_ANSWERED: dict[str, tuple[list[HookImpl], bool]] = {}
"""By hook, who answers it, and whether somebody else's plugin is among them."""


def _key(datasette: Datasette, actor: dict[str, Any] | None, action: str, table: str) -> tuple[object, ...]:
    who = actor and json.dumps(actor, sort_keys=True, default=repr)
    return who, action, table, getattr(datasette, "root_enabled", None)


async def _may_see(datasette: Datasette, actor: dict[str, Any] | None, table: str) -> bool:
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


async def may_see_instance(datasette: Datasette, actor: dict[str, Any] | None) -> bool:
    """Whether an actor may see the instance at all."""
    if hasattr(datasette, "allowed"):
        return bool(await datasette.allowed(action="view-instance", actor=actor))
    return bool(await datasette.permission_allowed(actor, "view-instance", default=True))


async def permits_index(datasette: Datasette, actor: dict[str, Any] | None, database: str, table: str) -> bool | None:
    """Whether an actor may see a table of Datasette 0.65: False for the search index of the vehicles, which
    holds their VINs, where they are not to be seen; None where Datasette's own rules decide, as 1.0's do."""
    if table != _INDEX and not table.startswith(f"{_INDEX}_"):
        return None
    try:
        own = state_of(datasette).database
    except KeyError:
        return None
    return None if database != own or await may_see(datasette, actor) else False


async def _may(datasette: Datasette, actor: dict[str, Any] | None, action: Action) -> bool:
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
    forge, and, where the server is bound to loopback or the setting `hosts` names it, at `Host`.
    """
    return _foreign(datasette, request, "change the cache")


def asking_refusal(datasette: Datasette, request: Request) -> str | None:
    """Why a source may not be asked because of this GET or HEAD, whoever sends it, or None.

    An image on another site's page is enough for a GET. What is asked goes into the cache and
    out to the DOT, so this wants of the request what `write_refusal` wants of a write, but for one:
    a link that a person follows from elsewhere, by what the browser says of it. What is
    cached needs none of this.

    HEAD is treated as GET: it has to be answered with the status and the headers that GET would
    get (RFC 9110, section 9.3.2), and for a VIN that is not cached only a source knows them.

    Browsers say where a request comes from to HTTPS and to loopback (Fetch Metadata Request
    Headers, W3C); to plain HTTP elsewhere a GET may come without a word of it, as a program's does.
    """
    return _foreign(datasette, request, "have a source asked about a VIN", followed_link=_is_followed_link(request))


def _foreign(datasette: Datasette, request: Request, deed: str, *, followed_link: bool = False) -> str | None:
    """Why a request from elsewhere may not do something, or None for one from here."""
    headers = request.headers
    host = _host_and_port(f"//{headers.get('host', '')}")
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed_link:
        return f"This page of another site may not {deed}."
    origin = headers.get("origin")
    if origin is not None and _host_and_port(origin) != host:
        return f"This page of another origin may not {deed}."
    names, on_loopback = settings_of(datasette).hosts, _bound_to_loopback(request)
    if (names or on_loopback) and not is_loopback(host[0]) and host[0] not in names:
        server = "A server bound to loopback" if on_loopback else "This server"
        return f"{server} is not known as {host[0] or 'nothing'}; see the setting hosts."
    return None


def _is_followed_link(request: Request) -> bool:
    """Whether the browser itself goes to this page, in a tab of its own and now."""
    headers = request.headers
    goes = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
    # A page may have another one fetched before anybody follows a link to it.
    return goes and "prefetch" not in f"{headers.get('sec-purpose')} {headers.get('purpose')}"


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
