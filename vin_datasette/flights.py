"""Questions on their way to a source: each VIN asked once at a time, and many together."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from vin_datasette.sources import SourceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from vin_datasette.sources import Question
    from vin_datasette.vin import VIN

log = logging.getLogger(__name__)

T = TypeVar("T")

GATHERING = 0.005
"""Seconds without a further question after which those that wait go together."""

LONGEST_GATHERING = 0.05
"""Seconds that the first of them waits at most for a full batch."""

_ENDED = "the lookup was ended before a source answered"
_LEFT = "nobody waited for an answer any longer"


class Flights(Generic[T]):
    """Sends questions to `settle` in batches, of which a few are under way at once.

    A question that finds nothing under way leaves at once. Those that come while
    something is gather for some milliseconds or until a batch is full; where all places
    are taken they gather until one is free. `settle` gives a result or a `SourceError` for
    each question of a batch, in order, or raises one for all of them; `batch_size` is asked anew
    for each batch, and `at_once` are the batches under way. Use on one event loop.
    """

    def __init__(
        self,
        settle: Callable[[Sequence[Question]], Awaitable[Sequence[T | SourceError]]],
        batch_size: Callable[[], int],
        at_once: int,
    ) -> None:
        self._settle = settle
        self._batch_size = batch_size
        self._at_once = at_once
        self._under_way: dict[VIN, asyncio.Future[T]] = {}
        # How many wait for each.
        self._wanted: dict[VIN, int] = {}
        self._waiting: deque[Question] = deque()
        # Of those that wait, the last that may wait for a full batch.
        self._held = 0
        self._workers: set[asyncio.Task[None]] = set()
        self._leaving: asyncio.Handle | None = None
        self._gathering_ends = 0.0
        # Why nothing new is taken; empty while it is.
        self._closed = ""

    @property
    def waiting(self) -> int:
        """Questions that have not left yet."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Questions that have left and have no answer yet."""
        return len(self._under_way) - len(self._waiting)

    def board(self, questions: Iterable[Question], *, hold: bool = False) -> list[asyncio.Future[T]]:
        """The futures of these questions' results, sent unless they are under way already.

        With `hold` they wait until they fill a batch or `flush` is called: who has many more
        to ask makes fewer calls. Others wait for the same futures: await them shielded, and
        never cancel one; who waits no longer may say so by `leave`.
        """
        loop = asyncio.get_running_loop()
        waited = len(self._waiting)
        boarded: list[asyncio.Future[T]] = []
        for question in questions:
            flight = self._under_way.get(question.vin)
            if flight is None:
                flight = loop.create_future()
                # Nobody may be left to take the error when all who waited have gone.
                flight.add_done_callback(_seen)
                if self._closed:
                    flight.set_exception(self._ended)
                    boarded.append(flight)
                    continue
                self._under_way[question.vin] = flight
                self._waiting.append(question)
            self._wanted[question.vin] = self._wanted.get(question.vin, 0) + 1
            boarded.append(flight)
        self._held = self._held + len(self._waiting) - waited if hold else 0
        self._dispatch()
        return boarded

    def leave(self, questions: Iterable[Question]) -> None:
        """Take back questions that were boarded, once each: those for which nobody else waits
        are not sent, if they have not left yet. Their futures end with a `SourceError`."""
        unwanted = set()
        for question in questions:
            if question.vin in self._wanted:
                self._wanted[question.vin] -= 1
                if self._wanted[question.vin] == 0:
                    unwanted.add(question.vin)
        gone = [question.vin for question in self._waiting if question.vin in unwanted]
        kept = [question for question in self._waiting if question.vin not in unwanted]
        self._held = sum(
            question.vin not in unwanted for question in [*self._waiting][len(self._waiting) - self._held :]
        )
        self._waiting = deque(kept)
        self._fail(gone, SourceError(_LEFT, asked=False))

    def flush(self) -> None:
        """Hold nothing any longer."""
        if self._held:
            self._held = 0
            self._dispatch()

    def close(self, reason: str) -> None:
        """Take no further questions: their futures end with a `SourceError` that says why. What has
        boarded goes on."""
        self._closed = reason

    async def aclose(self) -> None:
        """End what is under way; who still waits gets a `SourceError`."""
        self._unboard()
        # One that has just landed, or a question that comes meanwhile, may have sent another.
        while self._workers:
            ended = [*self._workers]
            for worker in ended:
                worker.cancel()
            await asyncio.gather(*ended, return_exceptions=True)
            self._workers.difference_update(ended)
        self._unboard()
        # Of a worker that was ended before it began.
        self._fail([*self._under_way], self._ended)

    @property
    def _ended(self) -> SourceError:
        return SourceError(self._closed or _ENDED, asked=False)

    def _unboard(self) -> None:
        """Send none of those that wait, and tell them."""
        if self._leaving:
            self._leaving.cancel()
            self._leaving = None
        waiting = [question.vin for question in self._waiting]
        self._waiting.clear()
        self._held = 0
        self._fail(waiting, self._ended)

    def _dispatch(self) -> None:
        """Send full batches, and see to it that the rest is sent soon."""
        while len(self._waiting) >= self._batch_size() and self._has_place:
            self._send_batch()
        if len(self._waiting) == self._held or not self._has_place:
            return
        loop = asyncio.get_running_loop()
        if not self._workers:
            # Not here and now: what is asked in the same turn of the loop travels along.
            self._leaving = self._leaving or loop.call_soon(self._send)
            return
        if self._leaving:
            self._leaving.cancel()
        else:
            self._gathering_ends = loop.time() + LONGEST_GATHERING
        self._leaving = loop.call_at(min(loop.time() + GATHERING, self._gathering_ends), self._send)

    @property
    def _has_place(self) -> bool:
        return len(self._workers) < self._at_once

    def _send(self) -> None:
        """Send all that waits and is not held, as far as there are places."""
        if self._leaving:
            self._leaving.cancel()
            self._leaving = None
        while self._has_place and (len(self._waiting) > self._held or len(self._waiting) >= self._batch_size()):
            self._send_batch()

    def _send_batch(self) -> None:
        size = min(len(self._waiting), self._batch_size())
        self._held = min(self._held, len(self._waiting) - size)
        batch = [self._waiting.popleft() for _ in range(size)]
        worker = asyncio.create_task(self._work(batch))
        self._workers.add(worker)
        worker.add_done_callback(self._landed)

    def _landed(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled():
            self._send()

    async def _work(self, batch: Sequence[Question]) -> None:
        vins = [question.vin for question in batch]
        try:
            results = list(zip(vins, await self._settle(batch), strict=True))
        except SourceError as error:
            self._fail(vins, error)
        except asyncio.CancelledError:
            self._fail(vins, self._ended)
            raise
        except Exception as error:  # a defect must not leave its callers waiting forever
            log.exception("Looking up %d VINs failed", len(batch))
            self._fail(vins, SourceError(f"an unexpected error: {error}", transient=False))
        else:
            for vin, result in results:
                if isinstance(result, SourceError):
                    self._fail([vin], result)
                    continue
                flight = self._under_way.pop(vin)
                self._wanted.pop(vin)
                if not flight.done():
                    flight.set_result(result)

    def _fail(self, vins: Iterable[VIN], error: SourceError) -> None:
        for vin in vins:
            flight = self._under_way.pop(vin, None)
            self._wanted.pop(vin, None)
            if flight and not flight.done():
                flight.set_exception(error)


def _seen(flight: asyncio.Future[T]) -> None:
    if not flight.cancelled():
        flight.exception()
