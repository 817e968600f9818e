"""The one path from a VIN to its vehicle: cache, then a source, then the cache."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sqlite3
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Literal

from vin_datasette import portal
from vin_datasette.breaker import Breaker
from vin_datasette.cache import Cache, CacheError
from vin_datasette.settings import Settings
from vin_datasette.sources import Question, SourceError
from vin_datasette.vehicle import (
    MODEL_YEAR_MISMATCH_CODE,
    Rejection,
    Vehicle,
    error_text,
    interpret,
)
from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence
    from types import TracebackType

    from vin_datasette.record import Record
    from vin_datasette.sources import Source
    from vin_datasette.sources.vpic import VpicSource

log = logging.getLogger(__name__)

_BATCHES_AT_ONCE = 4
_ENDED = "the lookup was ended before a source answered"


class Rejected(LookupError):
    """There is no vehicle for this VIN; `rejection` says why."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.vin}: {rejection.reason}")
        self.rejection = rejection

    def __reduce__(self) -> tuple[type[Rejected], tuple[Rejection]]:
        """For workers that send it to another process."""
        return type(self), (self.rejection,)


@dataclass(frozen=True)
class Answer:
    """What came of a lookup.

    `how` tells whether the cache had it (`hit`), a source was asked (`miss`), or
    nobody was, as the VIN is malformed (`malformed`). `stored` is false for an
    answer that could not be written to the cache.
    """

    result: Vehicle | Rejection
    how: Literal["hit", "miss", "malformed"]
    stored: bool = True

    @property
    def cached(self) -> bool:
        """Whether the cache had it."""
        return self.how == "hit"

    @property
    def vehicle(self) -> Vehicle:
        """The vehicle; raises `Rejected` when there is none."""
        if isinstance(self.result, Rejection):
            raise Rejected(self.result)
        return self.result


@dataclass(frozen=True)
class Failure:
    """A VIN that no source could be asked about; asking again later may help."""

    vin: str
    reason: str


class Lookup:
    """Answers VINs from the cache and, where it has none, from a source.

    Concurrent questions for one VIN are asked once, and questions that wait for
    their turn travel together in batches. A cache that cannot be written is
    reported in the log and costs no answer. Use one instance on one event loop.

    >>> async with Lookup(Settings.load({"source": "embedded"})) as lookup:
    ...     (await lookup.answer("1XP5DB9X7XD487964")).vehicle.make
    'PETERBILT'
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.cache = Cache(self.settings.db)
        self._vpic: VpicSource | None = None
        self._embedded: Source | None = None
        self._breaker = Breaker()
        self._flights: dict[VIN, asyncio.Future[Answer]] = {}
        self._waiting: deque[Question] = deque()
        self._workers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Lookup:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End what is in flight, and close connections and the cache."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._waiting.clear()
        self._fail([Question(vin) for vin in self._flights], SourceError(_ENDED, asked=False))
        for source in (self._vpic, self._embedded):
            if source:
                await source.aclose()
        self.cache.close()

    def cached(self, text: str) -> Answer | None:
        """The answer that needs nobody outside: of the cache, or that the VIN is
        malformed; None when a source has to be asked."""
        try:
            vin = VIN(text)
        except InvalidVIN as error:
            return Answer(Rejection.malformed(text, error), "malformed")
        return self._hits([vin]).get(vin)

    async def answer(self, text: str, *, model_year: int | None = None) -> Answer:
        """What a VIN is. `model_year` is a hint to vPIC and better left out unless
        it is known for sure.

        Raises `SourceError` when the cache does not know and no source could be
        asked, and `CacheError` when the cache file cannot be opened.
        """
        try:
            vin = VIN(text)
        except InvalidVIN as error:
            return Answer(Rejection.malformed(text, error), "malformed")
        if not self.cache.is_open:
            # Making or migrating a file takes its time; what is wrong with it, the next line tells.
            with contextlib.suppress(CacheError):
                await asyncio.to_thread(self.cache.open)
        return self._hits([vin]).get(vin) or await self._ask(Question(vin, model_year))

    async def answers(self, texts: Iterable[str], *, model_year: int | None = None) -> AsyncIterator[Answer | Failure]:
        """What many VINs are, in their order, asked in batches.

        Never raises `SourceError`: a VIN that no source could be asked about is a
        `Failure`. `texts` is read as the answers are taken.
        """
        size = self.settings.batch_size * _BATCHES_AT_ONCE
        chunk: list[str] = []
        for text in texts:
            chunk.append(text)
            if len(chunk) == size:
                for outcome in await self._chunk(chunk, model_year):
                    yield outcome
                chunk = []
        for outcome in await self._chunk(chunk, model_year):
            yield outcome

    async def remove(self, text: str) -> bool:
        """Forget a VIN; whether the cache held an answer for it.

        Raises `sqlite3.Error` when the cache cannot be written.
        """
        try:
            vin = VIN(text)
        except InvalidVIN:
            return False
        return await asyncio.to_thread(self.cache.remove, vin)

    def health(self) -> dict[str, object]:
        """The state of the sources and of the queue, as plain JSON."""
        return {
            "source": self.settings.source,
            "vpic": {
                "url": self.settings.vpic_url,
                "breaker": self._breaker.state,
                "retry_in": round(self._breaker.pause),
            },
            "in_flight": len(self._flights) - len(self._waiting),
            "waiting": len(self._waiting),
        }

    async def _chunk(self, texts: Sequence[str], model_year: int | None) -> list[Answer | Failure]:
        known: dict[str, Answer | VIN] = {}
        for text in texts:
            try:
                known[text] = VIN(text)
            except InvalidVIN as error:
                known[text] = Answer(Rejection.malformed(text, error), "malformed")
        vins = [vin for vin in known.values() if isinstance(vin, VIN)]
        hits = await asyncio.to_thread(self._hits, vins)
        missing = list(dict.fromkeys(vin for vin in vins if vin not in hits))
        asked = await asyncio.gather(*(self._try(Question(vin, model_year)) for vin in missing))
        found: dict[VIN, Answer | Failure] = {**hits, **dict(zip(missing, asked, strict=True))}
        return [found[said] if isinstance(said, VIN) else said for said in (known[text] for text in texts)]

    async def _try(self, question: Question) -> Answer | Failure:
        try:
            return await self._ask(question)
        except SourceError as error:
            return Failure(question.vin, error.reason)

    def _hits(self, vins: Sequence[VIN]) -> dict[VIN, Answer]:
        """What the cache knows and may still say. Raises `CacheError` where it never can."""
        try:
            records = self.cache.get_many(vins) if vins else {}
        except (sqlite3.Error, CacheError) as error:
            if isinstance(error, CacheError) and not error.temporary:
                raise
            log.warning("The cache %s cannot be read (%s); asking a source instead", self.cache.path, error)
            return {}
        answers = {vin: Answer(interpret(record, self.settings.check_digit), "hit") for vin, record in records.items()}
        return {vin: answer for vin, answer in answers.items() if not self._outlived(answer.result)}

    def _outlived(self, result: Vehicle | Rejection) -> bool:
        """Whether a rejection is too old to be repeated: vPIC's data grows by the month."""
        if isinstance(result, Vehicle) or result.record is None:
            return False
        age = (datetime.now(timezone.utc) - result.record.fetched_at).total_seconds()
        return age >= self.settings.rejection_max_age

    async def _ask(self, question: Question) -> Answer:
        flight = self._flights.get(question.vin)
        if flight is None:
            flight = self._flights[question.vin] = asyncio.get_running_loop().create_future()
            # Nobody may be left to take the error when all who waited have gone.
            flight.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._waiting.append(question)
            self._send_worker()
        # One caller who leaves must not end the flight for the others.
        return await asyncio.shield(flight)

    def _send_worker(self) -> None:
        if len(self._workers) < self.settings.concurrency:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self.settings.batch_size))]
            try:
                await self._settle(batch)
            except SourceError as error:
                self._fail(batch, error)
            except asyncio.CancelledError:
                self._fail(batch, SourceError(_ENDED, asked=False))
                raise
            except Exception as error:  # a defect must not leave its callers waiting forever
                log.exception("Looking up %d VINs failed", len(batch))
                self._fail(batch, SourceError(f"an unexpected error: {error}", transient=False))

    async def _settle(self, batch: Sequence[Question]) -> None:
        records = await self._corrected(batch, await self._records(batch))
        results = [interpret(record, self.settings.check_digit) for record in records]
        stored = await self._store(results)
        for question, result in zip(batch, results, strict=True):
            flight = self._flights.pop(question.vin)
            if not flight.done():
                flight.set_result(Answer(result, "miss", stored))

    def _fail(self, batch: Iterable[Question], error: SourceError) -> None:
        for question in batch:
            flight = self._flights.pop(question.vin, None)
            if flight and not flight.done():
                flight.set_exception(error)

    async def _corrected(self, batch: Sequence[Question], records: list[Record]) -> list[Record]:
        """The records, asked again without the model year where vPIC found it to
        contradict the VIN (code 12): a wrong year can destroy the answer."""
        doubtful = [
            index
            for index, (question, record) in enumerate(zip(batch, records, strict=True))
            if question.model_year and MODEL_YEAR_MISMATCH_CODE in record.error_codes
        ]
        if doubtful:
            again = await self._records([Question(batch[index].vin) for index in doubtful])
            for index, record in zip(doubtful, again, strict=True):
                note = f"Asked with model year {batch[index].model_year}, vPIC said: {error_text(records[index])}"
                records[index] = replace(record, notes=(note,))
        return records

    async def _store(self, results: Sequence[Vehicle | Rejection]) -> bool:
        try:
            await asyncio.to_thread(self.cache.save, results)
        except (sqlite3.Error, CacheError) as error:
            log.error(  # noqa: TRY400
                "%d answers could not be kept in the cache %s: %s", len(results), self.cache.path, error
            )
            return False
        return True

    async def _records(self, questions: Sequence[Question]) -> list[Record]:
        """The source's records: vPIC's, and the embedded database's when vPIC is away and may be stood in for."""
        if self.settings.source == "embedded":
            return await self._from_embedded(questions)
        if self._breaker.admits():
            try:
                return await self._from_vpic(questions)
            except SourceError as error:
                if self.settings.source == "vpic":
                    raise
                if not error.unreachable:
                    log.warning("%s; the embedded database answers for %d VINs", error, len(questions))
            except Exception:
                # A defect of ours, and no reason to leave anybody without an answer.
                if self.settings.source == "vpic":
                    raise
                log.exception("Asking vPIC failed; the embedded database answers for %d VINs", len(questions))
        elif self.settings.source == "vpic":
            pause = self._breaker.pause
            raise SourceError(
                f"vPIC was away when last asked, and will be asked again in {pause:.0f} seconds",
                unreachable=True,
                retry_after=pause,
            )
        return await self._from_embedded(questions)

    async def _from_vpic(self, questions: Sequence[Question]) -> list[Record]:
        if self._vpic is None:
            from vin_datasette.sources.vpic import VpicSource

            self._vpic = VpicSource(self.settings)
        try:
            records = await self._vpic.decode(questions)
        except SourceError as error:
            if not error.asked:
                self._breaker.abandoned()
            elif not error.unreachable:
                # It is there, and a VIN that it chokes on must not shut it off for others.
                self._breaker.succeeded()
            elif self._breaker.failed(error.retry_after):
                stand_in = "; the embedded database answers" if self.settings.source == "auto" else ""
                log.warning("%s%s. vPIC is asked again in %.0f seconds", error, stand_in, self._breaker.pause)
            if error.unreachable:
                # Nobody will be let through earlier.
                error.retry_after = self._breaker.pause
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        if self._breaker.succeeded():
            log.warning("vPIC is back")
        return records

    async def _from_embedded(self, questions: Sequence[Question]) -> list[Record]:
        if self._embedded is None:
            from vin_datasette.sources.embedded import EmbeddedSource

            self._embedded = EmbeddedSource()
        return await self._embedded.decode(questions)


# By process as well: a forked child must not touch its parent's connections, not even to close them.
_shared: dict[tuple[int, str], Lookup] = {}


async def _shared_lookup(vin: str, model_year: int | None, settings: Settings) -> Vehicle:
    """A lookup on the process's own loop, by one `Lookup` for all calls with the same
    settings: that vPIC is away, and what is already asked, is then known to each."""
    key = os.getpid(), repr(settings)
    path = _shared.get(key) or _shared.setdefault(key, Lookup(settings))
    return (await path.answer(vin, model_year=model_year)).vehicle


@atexit.register
def _close_shared() -> None:
    """Leave no connection to the interpreter's last clean-up."""
    for (process, _), path in _shared.items():
        if process == os.getpid():
            with contextlib.suppress(Exception):
                portal.submit(path.aclose()).result(timeout=_CLOSING)


_CLOSING = 2.0
"""Seconds that connections have to close when the process ends."""


async def alookup(vin: str, *, model_year: int | None = None, **settings: object) -> Vehicle:
    """The vehicle that a VIN names, awaited, on any event loop. See `lookup`."""
    return await asyncio.wrap_future(portal.submit(_shared_lookup(vin, model_year, Settings.load(settings))))


def lookup(vin: str, *, model_year: int | None = None, **settings: object) -> Vehicle:
    """The vehicle that a VIN names, from the cache or a source.

    `settings` are those of `Settings`, such as `db="fleet.db"` or
    `source="embedded"`. Works inside a running event loop too, which it blocks.

    Raises `Rejected` when there is no such vehicle, `SourceError` when no source
    could be asked, `SettingError` and `CacheError` for what cannot be used.

    >>> lookup("1XP5DB9X7XD487964", source="embedded").model
    '379'
    """
    return portal.run(_shared_lookup(vin, model_year, Settings.load(settings)))
