"""Whether the server lives, and whether it can be sent requests: for those who restart it and those who route to it."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING

from datasette import Response

from vin_datasette.cache import CacheError
from vin_datasette.vin import LENGTH, VIN
from vin_datasette.web.routes import error
from vin_datasette.web.state import state_of
from vin_datasette.web.streams import PRIVATE

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

PATIENCE = 2.0
"""Seconds that the cache has to answer a readiness probe; probes themselves wait a second or some."""

_PROBE = VIN("0" * LENGTH)
"""No vehicle's."""


async def live(request: Request, datasette: Datasette) -> Response:
    """`GET /-/vin/live`: 200 as long as the server answers at all.

    Liveness: who does not get this restarts the process. It looks at nothing, tells
    nothing of the data, and is for everyone.
    """
    return _well()


async def ready(request: Request, datasette: Datasette) -> Response:
    """`GET /-/vin/ready`: 200 when requests can be answered, else 503 with the reason in words.

    Readiness: who does not get this sends requests elsewhere for a while. The cache has to be
    readable, and the server not about to end. That vPIC is away, or the cache
    cannot be written, costs no answer that is cached and is told by `/-/vin.json`. For everyone.
    """
    own = state_of(datasette)
    if own.leaving.begun:
        return _not_ready(datasette, "The server is shutting down.")
    try:
        await asyncio.wait_for(asyncio.to_thread(own.lookup.cache.get, _PROBE), PATIENCE)
    except asyncio.TimeoutError:
        return _not_ready(datasette, f"The cache gave no answer within {PATIENCE:g} seconds.")
    except (sqlite3.Error, CacheError) as failure:
        own.lookup.cache.not_read(failure)
        # Where the file is, and what is wrong with it, is not for everyone.
        return _not_ready(datasette, "The cache cannot be read; the log says why.")
    return _well()


def _well() -> Response:
    return Response('{"ok": true}', headers={**_FRESH}, content_type="application/json")


def _not_ready(datasette: Datasette, reason: str) -> Response:
    return error(datasette, reason, 503, {**_FRESH})


_FRESH = {**PRIVATE, "Cache-Control": "no-store"}
