"""`POST /-/vin/refresh/<vin>`: ask about a vehicle that is known already."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from vin_datasette.lookup import Answer, Failure, Plan
from vin_datasette.schema import VEHICLES
from vin_datasette.vehicle import Rejection, Vehicle
from vin_datasette.web import guard
from vin_datasette.web.asking import RETRY_AFTER, asking
from vin_datasette.web.forms import is_form, led_to
from vin_datasette.web.observed import observed
from vin_datasette.web.routes import (
    answering,
    error,
    forbidden,
    found,
    provenance,
    vin_of,
)
from vin_datasette.web.state import state_of
from vin_datasette.words import duration

if TYPE_CHECKING:
    from datasette import Request, Response
    from datasette.app import Datasette

    from vin_datasette.record import Record
    from vin_datasette.web.state import State


@answering
async def refresh(request: Request, datasette: Datasette) -> Response:
    """Ask a source about a VIN, also where the cache has an answer, and keep what it says.

    Answers as `GET /lookup/<vin>` does, with `fwd=request` in `Cache-Status` (RFC 9211) for
    an answer that was asked anew; where no source could be asked the cached one, with
    `ttl=0`, and 503 with `Retry-After` where there is none. 403 for who may not, 405 for
    other methods. A browser's form is led to the vehicle's page (303), or to that of the
    lookup where there is no vehicle, and told in words what came of it.
    """
    reason = guard.write_refusal(datasette, request)
    if reason is None and not await guard.may(datasette, request.actor, "vin-lookup"):
        reason = "You may not ask a source about a VIN: vin-lookup is needed."
    if reason:
        return forbidden(datasette, request, reason)
    own, text = state_of(datasette), vin_of(request)
    before, began = own.lookup.cached(text), time.perf_counter()
    with asking(own):
        [asked] = await own.lookup.resolve([(text, None)], Plan(refresh=True))
    observed(own, asked, began)
    # Only a brief plan leaves vehicles unread.
    outcome = cast("Answer | Failure", asked)
    if is_form(request):
        return _told(datasette, request, outcome, before.result.record if before else None)
    if isinstance(outcome, Failure):
        headers = {"Retry-After": str(max(RETRY_AFTER, _retry_in(own)))}
        return error(datasette, f"No source could be asked: {outcome.reason}", 503, headers)
    if isinstance(outcome.result, Rejection):
        return error(datasette, outcome.result.reason, 404, provenance(outcome))
    return found(datasette, request.method, None, outcome)


def _told(datasette: Datasette, request: Request, outcome: Answer | Failure, before: Record | None) -> Response:
    """Where a person goes, and what they are told."""
    own = state_of(datasette)
    if isinstance(outcome, Failure) or isinstance(outcome.result, Rejection):
        vin = outcome.vin if isinstance(outcome, Failure) else outcome.result.vin
        page = datasette.urls.path(f"/-/vin/lookup?vin={quote(vin)}")
        return led_to(datasette, request, page, _no_vehicle(outcome), datasette.ERROR)
    page = datasette.urls.row(own.database, VEHICLES, outcome.result.vin)
    if outcome.how == "stale":
        return led_to(datasette, request, page, _not_asked(own, outcome.result), datasette.WARNING)
    if outcome.how == "hit":
        words = "Only the embedded database is asked here, and it does not replace what vPIC itself said."
        return led_to(datasette, request, page, words)
    if not outcome.stored:
        words = "The cache could not be written, so this page still shows what was known before."
        return led_to(datasette, request, page, words, datasette.WARNING)
    return led_to(datasette, request, page, _asked_anew(outcome.result, before))


def _no_vehicle(outcome: Answer | Failure) -> str:
    if isinstance(outcome, Failure):
        return f"No source could be asked about {outcome.vin}: {outcome.reason}"
    return f"{outcome.result.vin} was asked about anew, and is no vehicle any more by what was answered."


def _not_asked(own: State, vehicle: Vehicle) -> str:
    seconds = _retry_in(own)
    when = f"in {duration(seconds)}" if seconds else "later"
    return (
        f"vPIC could not be asked just now, so the answer of {vehicle.record.fetched_at:%Y-%m-%d} stays. "
        f"Try again {when}."
    )


def _asked_anew(vehicle: Vehicle, before: Record | None) -> str:
    who = "vPIC" if vehicle.source == "vpic" else "The embedded copy of vPIC's database"
    was, now = before.values if before else {}, vehicle.record.values
    changed = sum((was.get(key) or "") != (now.get(key) or "") for key in {**was, **now})
    if not changed:
        return f"{who} was asked anew and says the same as before."
    return f"{who} was asked anew: {changed} {'value has' if changed == 1 else 'values have'} changed."


def _retry_in(own: State) -> int:
    """Seconds until vPIC is asked again, 0 while it is not left alone."""
    vpic = own.lookup.health()["vpic"]
    return int(vpic["retry_in"]) if isinstance(vpic, dict) else 0
