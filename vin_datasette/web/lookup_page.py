"""`GET /lookup`: the page with one box, and what it asks the server beside `POST /lookup`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from datasette import Response

from vin_datasette.schema import VEHICLES
from vin_datasette.sources import SourceError
from vin_datasette.vehicle import Vehicle
from vin_datasette.web import guard, html
from vin_datasette.web.asking import Refused, answer_for
from vin_datasette.web.posted import BadBody, vins_of
from vin_datasette.web.routes import answering, bad_body, error, sight_refusal
from vin_datasette.web.state import state_of
from vin_datasette.web.streams import PRIVATE
from vin_datasette.words import duration

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette

    from vin_datasette.web.state import State

MOST_LISTED = 50_000
"""VINs of a list that is kept for a table page; as many as the page itself takes."""


@answering
async def page(request: Request, datasette: Datasette) -> Response:
    """`GET /lookup`: a page with one box for one VIN or many.

    With `?vin=` it leads to the vehicle (302), or says why there is none: 404 for a VIN
    that is rejected, 403 for one that is not cached and may not be asked about, 503 where
    no source could be asked.
    """
    refusal = await sight_refusal(datasette, request)
    if refusal:
        return refusal
    own = state_of(datasette)
    text = (request.args.get("vin") or "").strip()
    answered = await _answered(datasette, request, text) if text else {}
    if isinstance(answered, Response):
        return answered
    context = {
        "vin": text[:64],
        "note": _note(own),
        "table_path": datasette.urls.table(own.database, VEHICLES),
        "page_path": datasette.urls.path("/-/vin/lookup"),
        "lists_path": datasette.urls.path("/-/vin/lists"),
        **answered,
    }
    return await html.page(datasette, request, "vin_lookup.html", context, status=answered.get("status", 200))


async def _answered(datasette: Datasette, request: Request, text: str) -> Response | dict[str, Any]:
    """The way to the vehicle, or what the page says of a VIN that has none."""
    try:
        answer = await answer_for(datasette, request, text)
    except SourceError as failure:
        return {"reason": f"No source could be asked: {failure}", "status": 503, "again": True}
    except Refused as refusal:
        return {"reason": str(refusal), "status": refusal.status, "again": refusal.status == 429}
    if isinstance(answer.result, Vehicle):
        return Response.redirect(datasette.urls.row(state_of(datasette).database, VEHICLES, answer.result.vin))
    return {
        "reason": answer.result.reason,
        "status": 404,
        "suggested_vin": answer.result.likely_vin,
        "doubted_vin": answer.result.suggested_vin,
    }


def _note(own: State) -> dict[str, Any] | None:
    """What to know of the sources before one asks, where vPIC itself does not answer."""
    health = own.lookup.health()
    if health["source"] == "embedded":
        words = "Answers come from the copy of vPIC's database within this server, as it is set up not to ask the API."
        return {"words": words, "warns": False}
    vpic = health["vpic"]
    if isinstance(vpic, dict) and vpic["retry_in"]:
        stands_in = (
            "Its embedded copy answers, and each vehicle says so."
            if health["source"] == "auto"
            else "What is cached is answered."
        )
        words = f"vPIC cannot be reached just now, and is tried again in {duration(vpic['retry_in'])}. {stands_in}"
        return {"words": words, "warns": True}
    return None


@answering
async def keep_list(request: Request, datasette: Datasette) -> Response:
    """`POST /-/vin/lists`: keep a list of VINs for a table page.

    Takes what `POST /lookup` takes, up to 50,000 VINs, and answers `{"ok": true, "list":
    name, "vins": how many}`; `/vin/vehicles?_list=name` shows those of them that are
    cached. It is kept beside the cache, for every server that has the same cache, until lists
    that were given later need its place.
    """
    refusal = await sight_refusal(datasette, request)
    if refusal:
        return refusal
    reason = guard.write_refusal(datasette, request)
    if reason:
        return error(datasette, reason, 403)
    try:
        vins = await vins_of(request, most=MOST_LISTED, limit=state_of(datasette).settings.body_timeout)
    except BadBody as problem:
        return bad_body(datasette, request, problem)
    name, count = await asyncio.to_thread(state_of(datasette).vin_lists.keep, vins)
    said = json.dumps({"ok": True, "list": name, "vins": count})
    return Response(said, headers={**PRIVATE}, content_type="application/json")
