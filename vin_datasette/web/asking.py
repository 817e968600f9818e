"""Answers for who asks by a route: the cache's for all who may see it, a source's for who may ask,
and not for too many at once."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vin_datasette.lookup import Answer, Failure
from vin_datasette.schema import REJECTIONS
from vin_datasette.sources import SourceError
from vin_datasette.vehicle import Rejection
from vin_datasette.web import guard
from vin_datasette.web.leaving import WORDS
from vin_datasette.web.observed import hit_observed, observed
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from datasette import Request
    from datasette.app import Datasette

    from vin_datasette.lookup import Outcome
    from vin_datasette.web.hits import Hit
    from vin_datasette.web.state import State

RETRY_AFTER = 30
"""Seconds after which to ask again, where nobody says better."""

SHED_FOR = 2
"""Seconds after which to ask again where too many ask at once: those that wait are asked about in full calls."""


class Refused(Exception):
    """A request that is not answered, though it may be in order: 403 for who may not, 429
    with `retry_after`, in seconds, where as much is under way as is allowed, 503 with it where
    nothing new is begun. The message says why."""

    def __init__(self, reason: str, status: int, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.headers = {} if retry_after is None else {"Retry-After": str(retry_after)}


async def hit_for(datasette: Datasette, request: Request, text: str) -> Hit | None:
    """What the cache has of a VIN, for an actor of a request who may see it; None where there is no
    fresh vehicle or they may not, which is for `answer_for`. Raises `CacheError`."""
    own, began = state_of(datasette), time.perf_counter()
    # Before the cache is read: who may not see it is not to learn from the time that it takes what it holds.
    hit = own.hits.find(text) if await guard.may_see(datasette, request.actor) else None
    if hit:
        hit_observed(own, hit, began)
    return hit


async def answer_for(datasette: Datasette, request: Request, text: str) -> Answer:
    """What a VIN is, for the actor of a request: from the cache, a stale answer being asked
    about anew behind, or from a source. Other sites' pages get what is cached, and have nobody asked.

    Raises `Refused`, `SourceError` when no source could be asked, and `CacheError`.
    """
    own, began = state_of(datasette), time.perf_counter()
    # Before the cache is read: who may not see it is not to learn from the time that it takes what it holds.
    if not await guard.may_see(datasette, request.actor):
        raise Refused("You may not see the vehicles: view-table is needed.", 403)
    known = own.lookup.cached(text)
    shown = known is not None and await _may_be_shown(datasette, request, known)
    barred = None if known and shown and known.how != "stale" else await _bar(datasette, request)
    if barred and not shown:
        raise Refused(barred, 403)
    if known is None:
        with asking(own):
            try:
                known = await own.lookup.answer(text)
            except SourceError as error:
                observed(own, Failure(text, error.reason), began)
                raise
    elif barred is None:
        own.lookup.renew(known)
    observed(own, known, began)
    return known


def is_kept_rejection(outcome: Outcome | None) -> bool:
    """Whether this stands in the table of rejections, which has permissions of its own."""
    return isinstance(outcome, Answer) and outcome.cached and isinstance(outcome.result, Rejection)


async def _may_be_shown(datasette: Datasette, request: Request, known: Answer) -> bool:
    """Whether the actor, who may see the vehicles, may see what is kept of a VIN."""
    return not is_kept_rejection(known) or await guard.may_see(datasette, request.actor, REJECTIONS)


async def _bar(datasette: Datasette, request: Request) -> str | None:
    """Why this request may not have a source asked, or None."""
    if not await guard.may(datasette, request.actor, "vin-lookup"):
        return "This VIN is not cached, and you may not look up others: vin-lookup is needed."
    return guard.asking_refusal(datasette, request)


@contextmanager
def asking(own: State) -> Iterator[None]:
    """A place among those that may have a source asked at once. Raises `Refused` where there is none."""
    check_leaving(own)
    check_queue(own)
    if not own.asking.take():
        own.lookup.tally.refused["lookups"] += 1
        words = f"{own.settings.lookup_concurrency} lookups wait for a source, as many as are allowed"
        raise Refused(f"{words}; try again in {SHED_FOR} seconds.", 429, SHED_FOR)
    try:
        yield
    finally:
        own.asking.give_back()


def check_leaving(own: State) -> None:
    """Raises `Refused` when the server was told to end."""
    if own.leaving.begun:
        raise Refused(f"{WORDS}.", 503, RETRY_AFTER)


def check_queue(own: State) -> None:
    """Raises `Refused` while as many VINs as are allowed wait for their turn to be asked about."""
    if own.lookup.waiting >= own.settings.queue_length:
        own.lookup.tally.refused["queue"] += 1
        words = f"{own.lookup.waiting:,} VINs wait for their turn to be asked about, as many as are allowed"
        raise Refused(f"{words}; try again in {SHED_FOR} seconds.", 429, SHED_FOR)
