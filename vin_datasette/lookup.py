"""The one path from a VIN to its vehicle: cache, then a source, then the cache."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import sqlite3
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from vin_datasette import portal
from vin_datasette.cache import Cache, CacheError
from vin_datasette.flights import Flights
from vin_datasette.many import stream
from vin_datasette.record import seconds_since
from vin_datasette.settings import Settings
from vin_datasette.siblings import as_sibling, family
from vin_datasette.sources import Question, SourceError
from vin_datasette.sources.standin import WithStandIn
from vin_datasette.tally import Tally
from vin_datasette.vehicle import Rejection, Vehicle, interpret
from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
    from types import TracebackType

    from vin_datasette.record import Record

log = logging.getLogger(__name__)

T = TypeVar("T")


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

    `how` tells whether the cache had it, fresh (`hit`) or too old (`stale`); whether a
    source was asked as the cache had none (`miss`) or one that it no longer repeats
    (`refresh`); whether a cached vehicle alike answered (`sibling`); or whether nobody had
    to, as the VIN is malformed (`malformed`). `stored` is false for an answer that could
    not be written to the cache, or was removed from it while it was asked about anew.
    """

    result: Vehicle | Rejection
    how: Literal["hit", "stale", "miss", "refresh", "sibling", "malformed"]
    stored: bool = True

    @property
    def cached(self) -> bool:
        """Whether the cache had it."""
        return self.how in ("hit", "stale")

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


class Known(NamedTuple):
    """A vehicle that the cache holds, fresh, and that was not read as nobody wants to see it."""

    cached: bool = True


KNOWN = Known()

Outcome = Answer | Failure | Known
"""What came of one VIN of many."""


class Plan(NamedTuple):
    """How many VINs are to be looked up.

    `refresh` asks about cached vehicles too, and `max_age`, in seconds, about those that
    are older; what cannot be asked anew is answered as it is. `brief` leaves vehicles that
    are cached and fresh unread: their outcome is `KNOWN`. With `hold`, calls are not made
    before they are full, unless `Lookup.flush` is called.
    """

    refresh: bool = False
    max_age: float | None = None
    brief: bool = False
    hold: bool = False


_PLAIN = Plan()


class Lookup:
    """Answers VINs from the cache and, where it has none, from a source.

    Concurrent questions for one VIN are asked once, and questions that come together
    travel together. A vehicle that is older than `max_age`, and one that the embedded
    database answered while vPIC was away, is answered from the cache and asked about anew
    behind. A cache that cannot be written is reported in the log and costs no answer. Use
    one instance on one event loop.

    >>> async with Lookup(Settings.load({"source": "embedded"})) as lookup:
    ...     (await lookup.answer("1XP5DB9X7XD487964")).vehicle.make
    'PETERBILT'
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings.load()
        self.cache = Cache(self.settings.db)
        self.tally = Tally()
        self._sources = WithStandIn(self.settings, self.tally)
        # More than calls may be in flight, which its client sees to: while some batches are kept, others are asked.
        places = 2 * self.settings.concurrency
        self._flights: Flights[Answer] = Flights(self._settle, lambda: self._sources.batch_size, places)
        self._renewals: Flights[Answer] = Flights(self._renew, lambda: self._sources.batch_size, places)
        self._leading: dict[str, asyncio.Future[Answer]] = {}
        self._write_turn = asyncio.Lock()

    async def __aenter__(self) -> Lookup:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def take_no_more(self, reason: str) -> None:
        """Ask nobody about anything new: who would is told `reason`. What is in flight goes on, and
        what the cache knows is answered."""
        self._flights.close(reason)
        self._renewals.close(reason)

    async def end_questions(self) -> None:
        """End what is in flight; who waits for it gets a `SourceError`. What was answered is kept before."""
        await self._flights.aclose()
        await self._renewals.aclose()

    async def aclose(self) -> None:
        """End what is in flight, and close connections and the cache."""
        await self.end_questions()
        await self._sources.aclose()
        self.cache.close()

    def cached(self, text: str) -> Answer | None:
        """The answer that needs nobody outside: of the cache, or that the VIN is
        malformed; None when a source has to be asked. A stale one is for `renew`."""
        vin = _read(text)
        if isinstance(vin, Answer):
            return vin
        try:
            record = self.cache.glance(vin)
        except (sqlite3.Error, CacheError):
            # What is wrong, and what can be read nevertheless, is found out on the long way.
            record = None
        if record is not None:
            self.cache.reading.passed()
            return self._cached(record, self.settings.max_age)
        answer = self._hits([vin]).get(vin)
        return None if answer is None or self._outlived(answer.result) else answer

    def renew(self, answer: Answer) -> None:
        """Have a stale answer asked about anew, behind; nothing for others. Call it on the event loop."""
        vin = answer.result.vin
        if answer.how != "stale" or not isinstance(vin, VIN):
            return
        if self._sources.breaker.pause == 0 and self._renewals.waiting < _MOST_RENEWALS:
            self._renewals.board([Question(vin)])

    async def answer(self, text: str, *, model_year: int | None = None) -> Answer:
        """What a VIN is. `model_year` is a hint to vPIC and better left out unless
        it is known for sure.

        Raises `SourceError` when the cache does not know and no source could be
        asked, and `CacheError` when the cache file cannot be opened.
        """
        vin = _read(text)
        if isinstance(vin, Answer):
            return vin
        if not self.cache.is_open:
            # Making or migrating a file takes its time; what is wrong with it, the next line tells.
            with contextlib.suppress(CacheError):
                await _to_its_end(self.cache.open)
        answer = self.cached(vin)
        if answer:
            self.renew(answer)
            return answer
        if self.settings.siblings:
            answer = (await _to_its_end(self._from_siblings, [Question(vin, model_year)])).get(vin)
        if answer is None:
            [flight] = self._flights.board([Question(vin, model_year)])
            # One caller who leaves must not end the flight for the others.
            answer = await asyncio.shield(flight)
        return answer

    async def answers(
        self,
        texts: Iterable[str],
        *,
        model_year: int | None = None,
        refresh: bool = False,
        max_age: float | None = None,
    ) -> AsyncGenerator[Answer | Failure, None]:
        """What many VINs are, in their order, asked in full batches.

        Never raises `SourceError`: a VIN that no source could be asked about is a
        `Failure`. `texts` is read on a thread, a little ahead of the answers that are
        taken. `refresh` and `max_age` are those of `Plan`.
        """
        plan = Plan(refresh=refresh, max_age=max_age, hold=True)
        async for outcomes in stream(self, ((text, model_year) for text in texts), plan):
            for outcome in outcomes:
                if not isinstance(outcome, Known):
                    yield outcome

    async def known(self, texts: Sequence[str]) -> dict[str, Answer]:
        """What of many VINs needs nobody outside, by their texts: see `cached`."""
        said = {text: _read(text) for text in texts}
        vins = list(dict.fromkeys(vin for vin in said.values() if isinstance(vin, VIN)))
        hits = await _to_its_end(self._known, vins, _PLAIN)
        answers = {text: hits.get(vin) if isinstance(vin, VIN) else vin for text, vin in said.items()}
        return {text: answer for text, answer in answers.items() if answer}

    async def resolve(self, asked: Sequence[Asked], plan: Plan = _PLAIN) -> list[Outcome]:
        """What some VINs are, in their order: the step of `stream`, which takes many."""
        if not plan.brief or plan.refresh:
            return await self._resolve(asked, plan)
        # As they were written: those of a fleet that is known are not even parsed.
        fresh = await _to_its_end(self._fresh, [text for text, _ in asked], plan)
        if len(fresh) == len(asked):
            return [KNOWN] * len(asked)
        rest = iter(await self._resolve([each for each in asked if each[0] not in fresh], plan))
        return [KNOWN if text in fresh else next(rest) for text, _ in asked]

    async def _resolve(self, asked: Sequence[Asked], plan: Plan) -> list[Outcome]:
        said = [_read(text) for text, _ in asked]
        questions = {
            vin: Question(vin, year) for vin, (_, year) in zip(said, asked, strict=True) if isinstance(vin, VIN)
        }
        found: dict[VIN, Outcome] = {**await _to_its_end(self._known, [*questions], plan)}
        old = [
            questions[vin] for vin, outcome in found.items() if isinstance(outcome, Answer) and outcome.how == "stale"
        ]
        missing = [question for vin, question in questions.items() if vin not in found]
        asked_anew, renewed = await asyncio.gather(self._ask(missing, plan), self._ask_again(old, plan))
        found.update({**asked_anew, **renewed})
        return [found[vin] if isinstance(vin, VIN) else vin for vin in said]

    def flush(self) -> None:
        """Send what waits for a full call."""
        self._flights.flush()
        self._renewals.flush()

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way to a source."""
        return not (self._flights.in_flight or self._renewals.in_flight)

    @property
    def breaker_state(self) -> str:
        """Whether vPIC is asked: see `Breaker.state`."""
        return self._sources.breaker.state

    @property
    def waiting(self) -> int:
        """How many VINs wait for their turn to be asked about, renewals not among them."""
        return self._flights.waiting

    @property
    def in_flight(self) -> int:
        """How many VINs a source is being asked about."""
        return self._flights.in_flight + self._renewals.in_flight

    @property
    def batch_size(self) -> int:
        """How many VINs a source takes at once, as things stand."""
        return self._sources.batch_size

    @property
    def window(self) -> int:
        """How many VINs to have in hand at once, so that no source waits for questions."""
        return 3 * self.batch_size * self.settings.concurrency

    def be_patient(self) -> None:
        """Wait for vPIC to come back where nobody can stand in, as long as settings say, and for
        a cache that is locked each time."""
        self._sources.patience = self.settings.patience
        self.cache.patient = True

    async def remove(self, text: str) -> bool:
        """Forget a VIN; whether the cache held an answer for it.

        Raises `sqlite3.Error` when the cache cannot be written.
        """
        vin = _read(text)
        return False if isinstance(vin, Answer) else await self._written(self.cache.remove, vin)

    def health(self) -> dict[str, object]:
        """The state of the sources and of the queue, as plain JSON; with `trouble` where something
        else failed when it was last tried: what, and why."""
        breaker = self._sources.breaker
        found = {
            "The cache cannot be read": self.cache.reading.reason,
            "The cache cannot be written": self.cache.writing.reason,
            "vPIC gives no usable answer": self._sources.nonsense.reason,
        }
        trouble = [f"{what}: {reason}" for what, reason in found.items() if reason]
        return {
            "source": self.settings.source,
            "vpic": {
                "url": _without_password(self.settings.vpic_url),
                "breaker": breaker.state,
                "retry_in": round(breaker.pause),
            },
            "in_flight": self.in_flight,
            "waiting": self._flights.waiting + self._renewals.waiting,
            **({"trouble": trouble} if trouble else {}),
        }

    # What the cache knows

    def _fresh(self, texts: Sequence[str], plan: Plan) -> set[str]:
        """Those of `texts` that are VINs of vehicles about which nobody need be asked."""
        max_age = self.settings.max_age if plan.max_age is None else plan.max_age
        # Not by a timedelta: an age that was set may be longer than all of its time.
        since = None if max_age is None else datetime.fromtimestamp(max(time.time() - max_age, 0), timezone.utc)
        by_vpic, clean = self.settings.source != "embedded", self.settings.check_digit == "strict"
        try:
            fresh = self.cache.fresh(texts, since, by_vpic=by_vpic, clean=clean)
        except (sqlite3.Error, CacheError) as error:
            self._unreadable(error)
            return set()
        self.cache.reading.passed()
        return fresh

    def _known(self, vins: Sequence[VIN], plan: Plan) -> dict[VIN, Answer]:
        """What the cache knows of these VINs and may still say."""
        hits = self._hits(vins, self.settings.max_age if plan.max_age is None else plan.max_age)
        known = {vin: answer for vin, answer in hits.items() if not self._outlived(answer.result)}
        if not plan.refresh:
            return known
        return {
            vin: Answer(answer.result, "stale" if self._may_renew(answer.result.record) else "hit")
            for vin, answer in known.items()
        }

    def _may_renew(self, record: Record | None) -> bool:
        """What vPIC itself said is not for the embedded database to correct."""
        return self.settings.source != "embedded" or record is None or record.source != "vpic"

    def _hits(self, vins: Sequence[VIN], max_age: float | None = None) -> dict[VIN, Answer]:
        """What the cache holds. Raises `CacheError` where it never can."""
        try:
            records = self.cache.get_many(vins) if vins else {}
        except (sqlite3.Error, CacheError) as error:
            self._unreadable(error)
            return {}
        self.cache.reading.passed()
        max_age = self.settings.max_age if max_age is None else max_age
        return {vin: self._cached(record, max_age) for vin, record in records.items()}

    def _cached(self, record: Record, max_age: float | None) -> Answer:
        result = interpret(record, self.settings.check_digit)
        return Answer(result, "stale" if self._old(result, record, max_age) else "hit")

    def _unreadable(self, error: sqlite3.Error | CacheError) -> None:
        if isinstance(error, CacheError) and not error.temporary:
            raise error
        self.cache.not_read(error)

    def _old(self, result: Vehicle | Rejection, record: Record, max_age: float | None) -> bool:
        """Whether a VIN is to be asked about anew, though it may be answered meanwhile. How
        long rejections are repeated is a setting of its own."""
        aged = isinstance(result, Vehicle) and max_age is not None and seconds_since(record.fetched_at) >= max_age
        if self.settings.source == "embedded":
            return aged and self._may_renew(record)
        return aged or record.source.startswith("embedded")

    def _outlived(self, result: Vehicle | Rejection) -> bool:
        return outlived(result, self.settings.rejection_max_age)

    # Who is asked

    async def _ask_again(self, questions: Sequence[Question], plan: Plan) -> dict[VIN, Outcome]:
        """New answers to old questions, as far as there are any: what is old is still better than nothing."""
        if not questions or (self.settings.source != "embedded" and self._sources.breaker.pause > 0):
            return {}
        outcomes = await _landed(self._renewals, questions, self._renewals.board(questions, hold=plan.hold))
        return {vin: outcome for vin, outcome in outcomes.items() if not isinstance(outcome, Failure)}

    async def _ask(self, questions: Sequence[Question], plan: Plan) -> dict[VIN, Outcome]:
        """Answers that the cache does not have. Of siblings the first is asked, and the others wait for it."""
        if not self.settings.siblings:
            return await _landed(self._flights, questions, self._flights.board(questions, hold=plan.hold))
        found: dict[VIN, Outcome] = {**await _to_its_end(self._from_siblings, questions)}
        leaders: dict[str, Question] = {}
        alone, led, awaited = [], [], set()
        for question in questions:
            key = _family(question)
            if question.vin in found:
                continue
            if key is None:
                alone.append(question)
            elif key in self._leading:
                led.append(question)
                awaited.add(self._leading[key])
            elif leaders.setdefault(key, question) is not question:
                led.append(question)
        first = [*leaders.values(), *alone]
        flights = self._flights.board(first, hold=plan.hold)
        for key, flight in zip(leaders, flights, strict=False):
            self._leading[key] = flight
            flight.add_done_callback(partial(self._led, key))
        found.update(await _landed(self._flights, first, flights))
        if awaited:
            await asyncio.wait(awaited)
        found.update(await _to_its_end(self._from_siblings, led))
        rest = [question for question in led if question.vin not in found]
        found.update(await _landed(self._flights, rest, self._flights.board(rest, hold=plan.hold)))
        return found

    def _led(self, key: str, _: asyncio.Future[Answer]) -> None:
        self._leading.pop(key, None)

    def _from_siblings(self, questions: Sequence[Question]) -> dict[VIN, Answer]:
        """Answers from the records of cached vehicles alike, kept as such."""
        by_family: dict[str, list[VIN]] = {}
        for question in questions:
            key = _family(question)
            if key is not None:
                by_family.setdefault(key, []).append(question.vin)
        results: dict[VIN, Vehicle | Rejection] = {}
        try:
            for vins in by_family.values():
                record = self.cache.sibling(vins[0].descriptor)
                if record is not None and family(record.vin) == family(vins[0]):
                    results.update((vin, interpret(as_sibling(record, vin))) for vin in vins)
        except (sqlite3.Error, CacheError) as error:
            self._unreadable(error)
        stored = self._store(list(results.values())) if results else set()
        return {vin: Answer(result, "sibling", vin in stored) for vin, result in results.items()}

    # What came of it

    async def _settle(self, batch: Sequence[Question]) -> list[Answer | SourceError]:
        return await self._kept(await self._sources.records(batch), "miss")

    async def _renew(self, batch: Sequence[Question]) -> list[Answer | SourceError]:
        return await self._kept(await self._sources.records(batch, stand_in=False), "refresh")

    async def _kept(
        self, records: Sequence[Record | SourceError], how: Literal["miss", "refresh"]
    ) -> list[Answer | SourceError]:
        """Records as answers, written to the cache."""
        self.tally.records.update(record.source for record in records if not isinstance(record, SourceError))
        results = [
            record if isinstance(record, SourceError) else interpret(record, self.settings.check_digit)
            for record in records
        ]
        answers = [result for result in results if not isinstance(result, SourceError)]
        # Who removes a vehicle that is being asked about anew means that one too.
        stored = await self._written(self._store, answers, how == "refresh")
        return [
            result if isinstance(result, SourceError) else Answer(result, how, result.vin in stored)
            for result in results
        ]

    async def _written(self, write: Callable[..., T], *arguments: Any) -> T:
        """What `write` returns, done on a thread when those before it are done: all of them wait for one lock,
        and would take every thread there is from those who read."""

        async def in_turn() -> T:
            async with self._write_turn:
                return await asyncio.to_thread(write, *arguments)

        return await portal.to_its_end(asyncio.ensure_future(in_turn()))

    def _store(self, results: Sequence[Vehicle | Rejection], renewals: bool = False) -> set[str]:
        """The VINs of those that are kept."""
        try:
            stored = self.cache.save(results, renewals=renewals)
        except (sqlite3.Error, CacheError) as error:
            self.cache.not_written(error, len(results))
            return set()
        self.cache.writing.passed()
        return stored


_MOST_RENEWALS = 10_000
"""Stale vehicles that wait to be asked about anew; further ones wait until they are asked for again."""

Asked = tuple[str, int | None]
"""A VIN as it was given, and its model year where that is known for sure."""


def _read(text: str) -> VIN | Answer:
    try:
        return VIN(text)
    except InvalidVIN as error:
        return Answer(Rejection.malformed(text, error), "malformed")


async def _to_its_end(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, done on a thread."""
    return await portal.to_its_end(asyncio.ensure_future(asyncio.to_thread(work, *arguments)))


def _family(question: Question) -> str | None:
    """The key of those that may answer for each other; a model year that is given makes a question its own."""
    return None if question.model_year else family(question.vin)


async def _landed(
    flights: Flights[Answer], questions: Sequence[Question], boarded: Sequence[asyncio.Future[Answer]]
) -> dict[VIN, Outcome]:
    """What came of questions that were boarded, when all have landed."""
    try:
        if boarded:
            await asyncio.wait(boarded)
    except asyncio.CancelledError:
        flights.leave(questions)
        raise
    return {question.vin: _outcome(question, flight) for question, flight in zip(questions, boarded, strict=True)}


def _outcome(question: Question, flight: asyncio.Future[Answer]) -> Answer | Failure:
    error = flight.exception()
    return Failure(question.vin, error.reason) if isinstance(error, SourceError) else flight.result()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def outlived(result: Vehicle | Rejection, max_age: float) -> bool:
    """Whether a rejection is too old, in seconds, to be repeated: vPIC's data grows by the month."""
    if isinstance(result, Vehicle) or result.record is None:
        return False
    return seconds_since(result.record.fetched_at) >= max_age


# By process as well: a forked child must not touch its parent's connections, not even to close them.
_shared: dict[tuple[int, str], Lookup] = {}


def shared(settings: Settings) -> Lookup:
    """The one `Lookup` of this process for all that has these settings: that vPIC is away, and
    what is already asked, is then known to each. For the process's own loop, `portal.submit`."""
    key = os.getpid(), repr(settings)
    return _shared.get(key) or _shared.setdefault(key, Lookup(settings))


async def _vehicle(vin: str, model_year: int | None, settings: Settings) -> Vehicle:
    return (await shared(settings).answer(vin, model_year=model_year)).vehicle


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
    return await asyncio.wrap_future(portal.submit(_vehicle(vin, model_year, Settings.load(settings))))


def lookup(vin: str, *, model_year: int | None = None, **settings: object) -> Vehicle:
    """The vehicle that a VIN names, from the cache or a source.

    `settings` are those of `Settings`, such as `db="fleet.db"` or
    `source="embedded"`. Works inside a running event loop too, which it blocks.

    Raises `Rejected` when there is no such vehicle, `SourceError` when no source
    could be asked, `SettingError` and `CacheError` for what cannot be used.

    >>> lookup("1XP5DB9X7XD487964", source="embedded").model
    '379'
    """
    return portal.run(_vehicle(vin, model_year, Settings.load(settings)))
