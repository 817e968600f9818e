"""The short way to a cached vehicle: past Datasette's router, for who sends neither a cookie nor a token.

Where it cannot be sure to give the very answer that the route would give, the route gives it.
"""

from __future__ import annotations

import contextlib
import re
import time
from typing import TYPE_CHECKING, Any

from vin_datasette.cache import CacheError
from vin_datasette.web import guard
from vin_datasette.web.observed import hit_observed
from vin_datasette.web.routes import condition_of, shown
from vin_datasette.web.state import settings_of, state_of

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from datasette import Response
    from datasette.app import Datasette

    from vin_datasette.web.shutdown import App, Receive, Send

_SOMEBODYS = (b"cookie", b"authorization")


def wrapped(datasette: Datasette, app: App) -> App:
    """`app`, past which a GET of a cached vehicle is answered where that is sure to make no difference.

    That is so when who sends neither a cookie nor a token is nobody (no other plugin says who
    they are), may see the vehicles (which is known since the route was last asked), and the
    cache has a fresh answer. What stands around the whole application, such as other
    plugins' wrappers, has its say as ever.
    """
    path = _path(datasette)

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        response = _known(datasette, path, scope) if scope["type"] == "http" else None
        await (response.asgi_send(send) if response else app(scope, receive, send))

    return application


def _path(datasette: Datasette) -> re.Pattern[str]:
    """The paths of the lookup of a VIN in the spelling that ISO 3779 gives it, as the router takes them."""
    base = re.escape(datasette.setting("base_url").strip("/"))
    prefix = "(?:/-/vin)?" if settings_of(datasette).short_routes else "/-/vin"
    return re.compile(rf"{f'(?:/{base})?' if base else ''}{prefix}/lookup/([A-HJ-NPR-Z0-9]{{17}})")


def _known(datasette: Datasette, path: re.Pattern[str], scope: MutableMapping[str, Any]) -> Response | None:
    match = path.fullmatch(scope["path"]) if scope["method"] == "GET" and not scope["query_string"] else None
    if not match:
        return None
    began = time.perf_counter()
    if any(name in _SOMEBODYS for name, _ in scope["headers"]):
        return None
    if not guard.is_open(datasette):
        return None
    own = state_of(datasette)
    # What is wrong with a cache that cannot be used, the route says.
    with contextlib.suppress(CacheError):
        hit = own.hits.find(match[1])
        if hit:
            hit_observed(own, hit, began)
            return shown(datasette, "GET", condition_of(scope), hit)
    return None
