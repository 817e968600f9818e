"""`GET /-/vin/metrics`: what the server does, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasette import Response

from vin_datasette.web.routes import answering, sight_refusal
from vin_datasette.web.state import state_of
from vin_datasette.web.streams import PRIVATE

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


@answering
async def metrics(request: Request, datasette: Datasette) -> Response:
    """`GET /-/vin/metrics`: counts, times and states, in Prometheus's text format or OpenMetrics, as `Accept` says.

    Hits, misses and their latency, calls to vPIC by what came of them, the breaker, the
    queue, what is under way and what was turned away, since the process began; of the process
    its memory, descriptors and CPU time. No VIN is among them. 403 for who may not see the
    vehicles: give Prometheus a token of Datasette's where not everyone may.
    """
    refusal = await sight_refusal(datasette, request)
    if refusal:
        return refusal
    # It takes some 50 ms to import, which whoever has no Prometheus is spared.
    from vin_datasette.web.account import exposition

    body, media_type = exposition(state_of(datasette), request.headers.get("accept") or "")
    return Response(body, headers={**PRIVATE}, content_type=media_type)
