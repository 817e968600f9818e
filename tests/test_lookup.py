"""The one path from a VIN to its vehicle, over a vPIC on a socket and a cache in a file."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tenacity import wait_none

from tests.conftest import numbered_vins, rows
from tests.vpic_server import Fault, black_hole, closed_port, flat_record
from vin_datasette import VIN, Lookup, Rejected, Rejection, SourceError, Vehicle
from vin_datasette.breaker import FIRST_PAUSE
from vin_datasette.cache import CacheError
from vin_datasette.lookup import Answer, Failure
from vin_datasette.sources import Question, vpic as vpic_module
from vin_datasette.sources.embedded import EmbeddedSource
from vin_datasette.sources.vpic import VpicSource
from vin_datasette.vehicle import interpret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from tests.conftest import Clock, MakeSettings
    from tests.vpic_server import VpicServer
    from vin_datasette.record import Record, SourceName
    from vin_datasette.settings import Settings

HONDA, PETERBILT, AUDI = VIN("1HGCM82633A004352"), VIN("1XP5DB9X7XD487964"), VIN("WA1A4AFY2J2008189")
MISTYPED = VIN("1HGCM82643A004352")
"""HONDA with another check digit: vPIC's code 1, and no other."""
NONSENSE = VIN("12345678901234567")
"""vPIC's codes 1, 11, 14 and 400."""
AWAY = Fault.status(503, retry_after=30)
"""A vPIC that is away and says so: there is nothing to try again within the deadline."""


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Lookup]:
    async with Lookup(settings) as lookup:
        yield lookup


@pytest.fixture
async def lookup(make_settings: MakeSettings) -> AsyncIterator[Lookup]:
    async with Lookup(make_settings()) as lookup:
        yield lookup


@pytest.fixture
def db(make_settings: MakeSettings) -> Path:
    return make_settings().db


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once, where nothing depends on the time between them."""
    monkeypatch.setattr(vpic_module, "_backoff", wait_none())


def age(db: Path, table: str, when: str = "2001-02-03T04:05:06Z") -> None:
    """Let a cache's rows be from `when`."""
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(f"UPDATE {table} SET fetched_at = ?", [when])


def vehicle_of(answer: Answer | Failure) -> Vehicle:
    assert isinstance(answer, Answer)
    return answer.vehicle


async def until(true: Callable[[], object]) -> None:
    """Wait for what is to come about; a test in which it does not fails by its time limit."""

    async def watch() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(watch(), 5)


async def within(seconds: float, tasks: Iterable[asyncio.Task[Answer]]) -> list[Answer | BaseException]:
    """What became of tasks that all have to end in this time."""
    ended = asyncio.gather(*tasks, return_exceptions=True)
    return list(await asyncio.wait_for(ended, seconds))


async def all_of(lookup: Lookup, texts: Iterable[str], model_year: int | None = None) -> list[Answer | Failure]:
    return [each async for each in lookup.answers(texts, model_year=model_year)]


class TestTheCache:
    async def test_is_asked_before_vpic_is(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        await lookup.answer(HONDA)
        await lookup.answer(HONDA)
        assert len(vpic_server.calls) == 1

    async def test_does_not_have_what_was_never_asked(self, lookup: Lookup) -> None:
        answer = await lookup.answer(HONDA)
        assert (answer.how, answer.cached, answer.stored) == ("miss", False, True)

    async def test_has_what_was_asked_before(self, lookup: Lookup) -> None:
        first = await lookup.answer(HONDA)
        second = await lookup.answer(HONDA)
        assert (second.how, second.cached, second.result) == ("hit", True, first.result)

    async def test_has_what_another_lookup_asked_before(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with opened(make_settings()) as lookup:
            first = await lookup.answer(HONDA)
        async with opened(make_settings()) as lookup:
            second = await lookup.answer(HONDA)
        assert (second.how, second.result, len(vpic_server.calls)) == ("hit", first.result, 1)

    async def test_knows_a_vin_in_every_spelling(self, lookup: Lookup) -> None:
        await lookup.answer(HONDA)
        assert (await lookup.answer(" 1hgcm-82633-a004352 ")).how == "hit"

    async def test_keeps_the_whole_record(self, lookup: Lookup) -> None:
        await lookup.answer(HONDA)
        assert vehicle_of(await lookup.answer(HONDA)).record.values == flat_record(HONDA)

    async def test_keeps_a_vehicle_for_ever(self, lookup: Lookup, db: Path) -> None:
        await lookup.answer(HONDA)
        age(db, "vehicles")
        assert (await lookup.answer(HONDA)).how == "hit"

    async def test_forgets_what_is_removed(self, lookup: Lookup) -> None:
        await lookup.answer(HONDA)
        removed = [await lookup.remove(HONDA.lower()), await lookup.remove(HONDA), await lookup.remove("no VIN")]
        assert removed == [True, False, False]
        assert (await lookup.answer(HONDA)).how == "miss"

    async def test_tells_what_it_has_while_more_writes_than_there_are_threads_wait_for_a_lock(
        self, lookup: Lookup, db: Path
    ) -> None:
        await lookup.answer(HONDA)
        with closing(sqlite3.connect(db)) as other:
            other.execute("BEGIN IMMEDIATE")
            removing = [asyncio.ensure_future(lookup.remove(vin)) for vin in numbered_vins(40)]
            await asyncio.sleep(0)
            known = await asyncio.wait_for(lookup.known([HONDA]), 5)
        assert known[HONDA].how == "hit"
        assert await asyncio.gather(*removing) == [False] * 40

    async def test_tells_what_it_has_without_asking_anybody(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        before = lookup.cached(HONDA)
        await lookup.answer(HONDA)
        after = lookup.cached(HONDA)
        assert (before, after and after.how, len(vpic_server.calls)) == (None, "hit", 1)

    async def test_replaces_a_row_that_cannot_be_read(self, lookup: Lookup, db: Path) -> None:
        await lookup.answer(HONDA)
        with closing(sqlite3.connect(db)) as connection, connection:
            connection.execute("UPDATE vehicles SET record = '{'")
        assert [(await lookup.answer(HONDA)).how for _ in "12"] == ["miss", "hit"]


class TestRejections:
    async def test_is_an_answer_with_vpics_codes(self, lookup: Lookup) -> None:
        answer = await lookup.answer(NONSENSE)
        assert isinstance(answer.result, Rejection)
        assert answer.result.codes == (1, 11, 14, 400)

    async def test_has_no_vehicle(self, lookup: Lookup) -> None:
        answer = await lookup.answer(NONSENSE)
        with pytest.raises(Rejected, match="400 - Invalid Characters Present") as caught:
            _ = answer.vehicle
        assert caught.value.rejection is answer.result

    async def test_costs_one_call_for_a_thousand_askings(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        answers = [await lookup.answer(NONSENSE) for _ in range(1_000)]
        assert [answer.how for answer in answers] == ["miss"] + ["hit"] * 999
        assert len(vpic_server.calls) == 1

    async def test_is_asked_again_when_it_is_old(self, lookup: Lookup, db: Path, vpic_server: VpicServer) -> None:
        await lookup.answer(NONSENSE)
        age(db, "rejections")
        assert (await lookup.answer(NONSENSE)).how == "miss"
        assert len(vpic_server.calls) == 2

    async def test_that_was_asked_again_is_remembered_anew(self, lookup: Lookup, db: Path) -> None:
        await lookup.answer(NONSENSE)
        age(db, "rejections")
        await lookup.answer(NONSENSE)
        assert (await lookup.answer(NONSENSE)).how == "hit"

    @pytest.mark.parametrize(("max_age", "how"), [("30m", "miss"), ("2h", "hit"), ("0", "miss")])
    async def test_is_remembered_for_as_long_as_set(
        self, make_settings: MakeSettings, db: Path, max_age: str, how: str
    ) -> None:
        async with opened(make_settings(rejection_max_age=max_age)) as lookup:
            await lookup.answer(NONSENSE)
            age(db, "rejections", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600)))
            assert (await lookup.answer(NONSENSE)).how == how

    async def test_becomes_a_vehicle_when_vpic_has_learned_of_it(
        self, lookup: Lookup, db: Path, vpic_server: VpicServer
    ) -> None:
        vpic_server.records[HONDA] = {**flat_record(HONDA), "Make": "", "ErrorCode": "7"}
        await lookup.answer(HONDA)
        age(db, "rejections")
        vpic_server.records.clear()
        assert vehicle_of(await lookup.answer(HONDA)).make == "HONDA"
        assert (len(rows(db, "vehicles")), len(rows(db, "rejections"))) == (1, 0)


class TestMalformedVINs:
    TEXTS = ("", "1HGCM82633A00435", "IHGCM82633A004352", "1HGCM82633A00435É", "x" * 100_000, "\0" * 17)

    @pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:20]))
    async def test_is_rejected_without_codes(self, lookup: Lookup, text: str) -> None:
        answer = await lookup.answer(text)
        assert isinstance(answer.result, Rejection)
        assert (answer.how, answer.result.codes, answer.result.record) == ("malformed", (), None)

    async def test_reaches_neither_a_source_nor_a_cache(
        self, lookup: Lookup, db: Path, vpic_server: VpicServer
    ) -> None:
        for text in self.TEXTS:
            await lookup.answer(text)
        await all_of(lookup, self.TEXTS)
        assert (vpic_server.calls, db.exists()) == ([], False)

    async def test_is_suggested_the_vin_that_was_likely_meant(self, lookup: Lookup) -> None:
        answer = await lookup.answer("IHGCM82633AOO4352")
        assert isinstance(answer.result, Rejection)
        assert answer.result.suggested_vin == HONDA


class TestAskingTogether:
    async def test_three_hundred_who_ask_for_one_vin_make_one_call(
        self, lookup: Lookup, vpic_server: VpicServer
    ) -> None:
        answers = await asyncio.gather(*(lookup.answer(HONDA) for _ in range(300)))
        assert {id(answer) for answer in answers} == {id(answers[0])}
        assert [call.vins for call in vpic_server.calls] == [(HONDA,)]

    async def test_who_asks_for_what_is_being_asked_waits_for_that_answer(
        self, lookup: Lookup, vpic_server: VpicServer
    ) -> None:
        vpic_server.latency = 0.1
        first = asyncio.create_task(lookup.answer(HONDA))
        await until(lambda: vpic_server.calls)
        assert await lookup.answer(HONDA) is await first
        assert len(vpic_server.calls) == 1

    async def test_different_vins_travel_in_batches_of_fifty(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        vins = numbered_vins(120)
        lookup.cache.open()
        await asyncio.gather(*(lookup.answer(vin) for vin in vins))
        assert [call.vins for call in sorted(vpic_server.calls, key=lambda call: vins.index(VIN(call.vins[0])))] == [
            tuple(vins[:50]),
            tuple(vins[50:100]),
            tuple(vins[100:]),
        ]

    async def test_batches_are_as_small_as_set(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        async with opened(make_settings(batch_size=7)) as lookup:
            lookup.cache.open()
            await asyncio.gather(*(lookup.answer(vin) for vin in numbered_vins(20)))
        assert sorted(len(call.vins) for call in vpic_server.calls) == [6, 7, 7]

    async def test_everybody_gets_the_answer_about_his_own_vin(self, lookup: Lookup) -> None:
        vins = numbered_vins(120)
        answers = await asyncio.gather(*(lookup.answer(vin) for vin in vins))
        assert [vehicle_of(answer).vin for answer in answers] == vins

    async def test_a_batch_is_stored_whole(self, lookup: Lookup, db: Path) -> None:
        vins = numbered_vins(60)
        await asyncio.gather(*(lookup.answer(vin) for vin in vins))
        assert [row["vin"] for row in rows(db)] == sorted(vins)

    async def test_no_more_calls_are_in_flight_than_allowed(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.latency = 0.05
        async with opened(make_settings(batch_size=1, concurrency=3)) as lookup:
            await asyncio.gather(*(lookup.answer(vin) for vin in numbered_vins(12)))
        assert vpic_server.max_in_flight == 3

    async def test_who_leaves_does_not_end_it_for_the_others(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        vpic_server.latency = 0.1
        leaving, staying = (asyncio.create_task(lookup.answer(HONDA)) for _ in "12")
        await until(lambda: vpic_server.calls)
        leaving.cancel()
        assert vehicle_of(await staying).make == "HONDA"
        assert leaving.cancelled()

    async def test_what_all_have_left_is_stored_nevertheless(
        self, lookup: Lookup, db: Path, vpic_server: VpicServer
    ) -> None:
        vpic_server.latency = 0.1
        leaving = asyncio.create_task(lookup.answer(HONDA))
        await until(lambda: vpic_server.calls)
        leaving.cancel()
        await until(lambda: rows(db))
        assert (await lookup.answer(HONDA)).how == "hit"

    async def test_a_failure_that_all_have_left_is_nobodys(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.latency = 0.1
        vpic_server.fail_always(Fault.status(404))
        async with opened(make_settings(source="vpic")) as lookup:
            leaving = asyncio.create_task(lookup.answer(HONDA))
            await until(lambda: vpic_server.calls)
            leaving.cancel()
            await until(lambda: not lookup.health()["in_flight"])

    async def test_an_error_reaches_all_who_wait(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.status(404))
        async with opened(make_settings(source="vpic")) as lookup:
            tasks = [asyncio.create_task(lookup.answer(HONDA)) for _ in range(5)]
            reasons = [str(each) for each in await within(2, tasks)]
        assert reasons == ["vPIC answered with status 404 (Not Found)"] * 5

    async def test_a_failure_is_not_remembered(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_next(Fault.status(404))
        async with opened(make_settings(source="vpic")) as lookup:
            with pytest.raises(SourceError):
                await lookup.answer(HONDA)
            assert (await lookup.answer(HONDA)).how == "miss"


class Broken:
    """A source with a defect."""

    name: SourceName = "embedded"

    async def decode(self, questions: Sequence[Question]) -> list[Record]:
        raise ZeroDivisionError("a defect")

    async def aclose(self) -> None:
        pass


class TestDefects:
    async def test_an_unexpected_error_reaches_all_who_wait(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(source="embedded")) as lookup:
            lookup._sources._embedded = Broken()
            tasks = [asyncio.create_task(lookup.answer(vin)) for vin in (HONDA, HONDA, PETERBILT)]
            outcomes = await within(2, tasks)
        assert [repr(each) for each in outcomes] == [
            repr(SourceError("an unexpected error: a defect", transient=False))
        ] * 3

    async def test_an_unexpected_error_is_logged_with_its_traceback(
        self, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened(make_settings(source="embedded")) as lookup:
            lookup._sources._embedded = Broken()
            with pytest.raises(SourceError):
                await lookup.answer(HONDA)
        assert "ZeroDivisionError: a defect" in caplog.text

    async def test_an_unexpected_error_does_not_end_the_lookup(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(source="embedded")) as lookup:
            lookup._sources._embedded = Broken()
            with pytest.raises(SourceError):
                await lookup.answer(HONDA)
            lookup._sources._embedded = EmbeddedSource()
            assert vehicle_of(await lookup.answer(HONDA)).make == "HONDA"


class TestTheEmbeddedDatabase:
    async def test_answers_when_vpic_cannot_be_reached(self, make_settings: MakeSettings) -> None:
        with closed_port() as url:
            async with opened(make_settings(vpic_url=url)) as lookup:
                answer = await lookup.answer(HONDA)
        assert (vehicle_of(answer).source, vehicle_of(answer).model, answer.how) == ("embedded", "Accord", "miss")

    async def test_is_named_in_the_cache(self, make_settings: MakeSettings, db: Path) -> None:
        with closed_port() as url:
            async with opened(make_settings(vpic_url=url)) as lookup:
                await lookup.answer(HONDA)
        [row] = rows(db)
        assert (row["source"], row["source_version"]) == ("embedded", EmbeddedSource().version)

    async def test_is_named_again_by_the_cache(self, make_settings: MakeSettings) -> None:
        with closed_port() as url:
            async with opened(make_settings(vpic_url=url)) as lookup:
                await lookup.answer(HONDA)
                answer = await lookup.answer(HONDA)
        assert (answer.how, vehicle_of(answer).source) == ("stale", "embedded")

    @pytest.mark.parametrize(
        "fault",
        [Fault.html_200, Fault.short_results, Fault.wrong_vin, Fault.missing_keys, Fault.status(403), Fault.reset],
        ids=lambda fault: str(fault.name),
    )
    @pytest.mark.usefixtures("no_backoff")
    async def test_answers_when_vpic_gives_no_answer(
        self, lookup: Lookup, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fail_always(fault)
        assert vehicle_of(await lookup.answer(HONDA)).source == "embedded"

    async def test_rejects_when_vpic_cannot_be_reached(self, make_settings: MakeSettings) -> None:
        with closed_port() as url:
            async with opened(make_settings(vpic_url=url)) as lookup:
                result = (await lookup.answer(NONSENSE)).result
        assert isinstance(result, Rejection)
        assert (result.codes, result.record and result.record.source) == ((1, 11, 14, 400), "embedded")

    async def test_answers_within_three_seconds_when_calls_to_vpic_vanish(self, make_settings: MakeSettings) -> None:
        with black_hole() as url:
            async with opened(make_settings(vpic_url=url)) as lookup:
                began = time.monotonic()
                await lookup.answer(HONDA)
                first = time.monotonic() - began
                await lookup.answer(PETERBILT)
                second = time.monotonic() - began - first
        assert first < 3
        assert second < 0.5

    async def test_alone_never_asks_vpic(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        async with opened(make_settings(source="embedded")) as lookup:
            assert vehicle_of(await lookup.answer(HONDA)).source == "embedded"
        assert vpic_server.calls == []

    @pytest.mark.usefixtures("no_backoff")
    async def test_does_not_answer_where_vpic_alone_is_to(
        self, make_settings: MakeSettings, vpic_server: VpicServer, db: Path
    ) -> None:
        vpic_server.fail_always(Fault.html_200)
        async with opened(make_settings(source="vpic")) as lookup:
            with pytest.raises(SourceError, match="HTML or XML"):
                await lookup.answer(HONDA)
        assert rows(db) == []

    async def test_gives_way_to_vpic_in_the_cache(self, make_settings: MakeSettings, lookup: Lookup) -> None:
        by_vpic, embedded = await both(make_settings())
        lookup.cache.save([embedded])
        lookup.cache.save([by_vpic])
        assert lookup.cache.get(HONDA) == by_vpic.record

    async def test_does_not_take_the_place_of_vpic_in_the_cache(
        self, make_settings: MakeSettings, lookup: Lookup
    ) -> None:
        by_vpic, embedded = await both(make_settings())
        lookup.cache.save([by_vpic])
        lookup.cache.save([embedded])
        assert lookup.cache.get(HONDA) == by_vpic.record

    async def test_does_not_take_the_place_of_a_rejection_of_vpics_that_is_old(
        self, lookup: Lookup, vpic_server: VpicServer, db: Path
    ) -> None:
        vpic_server.records[HONDA] = {**flat_record(HONDA), "Make": "", "ErrorCode": "7"}
        await lookup.answer(HONDA)
        age(db, "rejections")
        vpic_server.fail_always(AWAY)
        assert vehicle_of(await lookup.answer(HONDA)).source == "embedded"
        assert [row["source"] for row in rows(db, "rejections")] == ["vpic"]


async def both(settings: Settings) -> tuple[Vehicle, Vehicle]:
    """What vPIC and the embedded database say of the same VIN."""
    vpic = VpicSource(settings)
    try:
        [first] = await vpic.decode([Question(HONDA)])
    finally:
        await vpic.aclose()
    [second] = await EmbeddedSource().decode([Question(HONDA)])
    by_vpic, embedded = interpret(first), interpret(second)
    assert isinstance(by_vpic, Vehicle)
    assert isinstance(embedded, Vehicle)
    return by_vpic, embedded


class TestAVpicThatIsAway:
    async def test_is_left_alone_by_those_who_ask_next(
        self, lookup: Lookup, vpic_server: VpicServer, clock: Clock
    ) -> None:
        vpic_server.fail_always(AWAY)
        await lookup.answer(HONDA)
        calls = len(vpic_server.calls)
        vpic_server.fail_always(None)
        clock.now += FIRST_PAUSE - 0.1
        answers = [await lookup.answer(vin) for vin in numbered_vins(5)]
        assert {vehicle_of(answer).source for answer in answers} == {"embedded"}
        assert len(vpic_server.calls) == calls

    async def test_is_asked_by_one_when_the_pause_is_over(
        self, make_settings: MakeSettings, vpic_server: VpicServer, clock: Clock
    ) -> None:
        async with opened(make_settings(batch_size=1, concurrency=4)) as lookup:
            vpic_server.fail_next(AWAY)
            await lookup.answer(HONDA)
            vpic_server.reset()
            vpic_server.latency = 0.2
            clock.now += FIRST_PAUSE
            answers = await asyncio.gather(*(lookup.answer(vin) for vin in numbered_vins(4)))
        assert sorted(vehicle_of(answer).source for answer in answers) == ["embedded"] * 3 + ["vpic"]
        assert len(vpic_server.calls) == 1

    async def test_is_asked_by_all_once_it_is_back(self, lookup: Lookup, vpic_server: VpicServer, clock: Clock) -> None:
        vpic_server.fail_next(AWAY)
        await lookup.answer(HONDA)
        clock.now += FIRST_PAUSE
        answers = [await lookup.answer(vin) for vin in numbered_vins(3)]
        assert {vehicle_of(answer).source for answer in answers} == {"vpic"}

    async def test_is_left_alone_for_longer_when_it_is_still_away(
        self, lookup: Lookup, vpic_server: VpicServer, clock: Clock
    ) -> None:
        vpic_server.fail_always(AWAY)
        first, second = numbered_vins(2)
        await lookup.answer(first)
        clock.now += FIRST_PAUSE
        await lookup.answer(second)
        calls = len(vpic_server.calls)
        clock.now += FIRST_PAUSE
        await lookup.answer(HONDA)
        assert len(vpic_server.calls) == calls

    async def test_is_left_alone_for_as_long_as_it_asks(
        self, lookup: Lookup, vpic_server: VpicServer, clock: Clock
    ) -> None:
        vpic_server.fail_next(Fault.status(429, retry_after=90))
        await lookup.answer(HONDA)
        assert lookup.health()["vpic"] == {"url": vpic_server.url, "breaker": "open", "retry_in": 90}

    async def test_is_reported_once_and_so_is_its_return(
        self, lookup: Lookup, vpic_server: VpicServer, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        vpic_server.fail_next(AWAY)
        for vin in numbered_vins(3):
            await lookup.answer(vin)
        clock.now += FIRST_PAUSE
        await lookup.answer(HONDA)
        assert [record.getMessage() for record in caplog.records if record.name.startswith("vin_datasette.")] == [
            "vPIC answered with status 503 (Service Unavailable); the embedded database answers."
            " vPIC is asked again in 30 seconds",
            "vPIC is back",
        ]

    async def test_alone_is_an_error_that_tells_when_it_is_asked_again(
        self, make_settings: MakeSettings, vpic_server: VpicServer, clock: Clock
    ) -> None:
        vpic_server.fail_always(Fault.status(503, retry_after=60))
        async with opened(make_settings(source="vpic")) as lookup:
            with pytest.raises(SourceError, match="status 503"):
                await lookup.answer(HONDA)
            clock.now += 20
            with pytest.raises(SourceError, match="asked again in 40 seconds") as caught:
                await lookup.answer(HONDA)
        assert (caught.value.retry_after, caught.value.unreachable, len(vpic_server.calls)) == (40, True, 1)

    @pytest.mark.usefixtures("no_backoff")
    async def test_is_not_one_that_chokes_on_a_vin(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        vpic_server.fault_for[HONDA] = Fault.html_200
        choked_on, next_one = await lookup.answer(HONDA), await lookup.answer(PETERBILT)
        assert (vehicle_of(choked_on).source, vehicle_of(next_one).source) == ("embedded", "vpic")

    async def test_is_not_one_that_is_asked_no_faster_than_set(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(rate=1, timeout=0.5)) as lookup:
            for vin in (HONDA, PETERBILT):
                await lookup.answer(vin)
            vpic = lookup.health()["vpic"]
        assert isinstance(vpic, dict)
        assert vpic["breaker"] == "closed"

    async def test_does_not_matter_to_what_is_cached(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with opened(make_settings(source="vpic")) as lookup:
            await lookup.answer(HONDA)
            vpic_server.fail_next(AWAY)
            with pytest.raises(SourceError):
                await lookup.answer(PETERBILT)
            assert (await lookup.answer(HONDA)).how == "hit"


class TestTheCheckDigit:
    async def test_that_is_wrong_rejects_when_strict(self, lookup: Lookup) -> None:
        answer = await lookup.answer(MISTYPED)
        assert isinstance(answer.result, Rejection)
        assert answer.result.codes == (1,)

    async def test_that_is_wrong_is_a_warning_when_lenient(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(check_digit="lenient")) as lookup:
            vehicle = vehicle_of(await lookup.answer(MISTYPED))
        assert (vehicle.make, vehicle.warnings) == (
            "HONDA",
            ("1 - Check Digit (9th position) does not calculate properly",),
        )

    async def test_that_was_rejected_is_a_vehicle_once_lenient_and_nobody_is_asked(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with opened(make_settings()) as strict:
            await strict.answer(MISTYPED)
        async with opened(make_settings(check_digit="lenient")) as lenient:
            answer = await lenient.answer(MISTYPED)
        assert (answer.how, vehicle_of(answer).make, len(vpic_server.calls)) == ("hit", "HONDA", 1)

    async def test_that_was_accepted_is_rejected_once_strict_and_nobody_is_asked(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with opened(make_settings(check_digit="lenient")) as lenient:
            await lenient.answer(MISTYPED)
        async with opened(make_settings()) as strict:
            answer = await strict.answer(MISTYPED)
        assert isinstance(answer.result, Rejection)
        assert (answer.how, answer.result.codes, len(vpic_server.calls)) == ("hit", (1,), 1)

    async def test_is_not_all_that_can_be_wrong(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(check_digit="lenient")) as lookup:
            assert isinstance((await lookup.answer(NONSENSE)).result, Rejection)


class TestTheModelYear:
    NOTE = "Asked with model year 2011, vPIC said: "

    async def test_is_sent(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        await lookup.answer(AUDI, model_year=2018)
        assert [call.years for call in vpic_server.calls] == [(2018,)]

    async def test_that_contradicts_the_vin_is_dropped_and_the_vin_asked_again(
        self, lookup: Lookup, vpic_server: VpicServer
    ) -> None:
        await lookup.answer(AUDI, model_year=2011)
        assert [(call.vins, call.years) for call in vpic_server.calls] == [((AUDI,), (2011,)), ((AUDI,), (None,))]

    async def test_that_contradicts_the_vin_does_not_spoil_the_answer(self, lookup: Lookup) -> None:
        spoilt = flat_record(AUDI, 2011)
        assert (spoilt["Model"], spoilt["ModelYear"]) == ("", "2011")
        vehicle = vehicle_of(await lookup.answer(AUDI, model_year=2011))
        assert (vehicle.model, vehicle.model_year) == ("SQ5", 2018)

    async def test_that_contradicts_the_vin_is_noted(self, lookup: Lookup) -> None:
        vehicle = vehicle_of(await lookup.answer(AUDI, model_year=2011))
        [note] = vehicle.record.notes
        assert note.startswith(self.NOTE)
        assert "12 - Model Year Warning" in note
        assert vehicle.warnings[-1] == note

    async def test_note_comes_back_from_the_cache(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings()) as lookup:
            first = vehicle_of(await lookup.answer(AUDI, model_year=2011))
        async with opened(make_settings()) as lookup:
            answer = await lookup.answer(AUDI)
        assert (answer.how, vehicle_of(answer).warnings) == ("hit", first.warnings)

    async def test_of_a_batch_is_dropped_for_those_that_it_contradicts(
        self, lookup: Lookup, vpic_server: VpicServer
    ) -> None:
        answers = await all_of(lookup, [HONDA, AUDI], model_year=2003)
        assert [(call.vins, call.years) for call in vpic_server.calls] == [
            ((HONDA, AUDI), (2003, 2003)),
            ((AUDI,), (None,)),
        ]
        assert [len(vehicle_of(answer).record.notes) for answer in answers] == [0, 1]

    async def test_is_dropped_for_the_embedded_database_too(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(source="embedded")) as lookup:
            vehicle = vehicle_of(await lookup.answer(AUDI, model_year=2011))
        assert (vehicle["ErrorCode"], len(vehicle.record.notes)) == ("0", 1)


@contextmanager
def read_only(folder_too: bool, content: bytes) -> Iterator[Path]:
    """A cache that this process must not write to, not even as root, nor its folder if so said."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        db = folder / "vin.db"
        db.write_bytes(content)
        db.chmod(0o444)
        folder.chmod(0o555 if folder_too else 0o777)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield db
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(f"BEGIN {sys.argv[2]}")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(db: Path, how: str) -> Iterator[None]:
    """The file, locked by another process."""
    command = [sys.executable, "-c", HOLDER, str(db), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        yield
        process.communicate()


def not_in_wal_mode(db: Path) -> None:
    """Make the file one in which readers wait for a writer, as somebody may have done to it."""
    with closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


@contextmanager
def read(db: Path) -> Iterator[None]:
    """The file, read by another connection at length."""
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM vehicles").fetchone()
        yield


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == level]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes wait for a lock for a moment only."""
    monkeypatch.setattr("vin_datasette.cache.WRITE_TIMEOUT", 0.2)


async def a_cache_with(settings: Settings, vin: VIN) -> None:
    async with opened(settings) as lookup:
        await lookup.answer(vin)


class TestACacheInTrouble:
    @pytest.mark.parametrize("folder_too", [False, True], ids=["file", "file and folder"])
    async def test_read_only_says_what_it_has(self, make_settings: MakeSettings, db: Path, folder_too: bool) -> None:
        await a_cache_with(make_settings(), HONDA)
        with read_only(folder_too, db.read_bytes()) as path:
            async with opened(make_settings(db=path, source="embedded")) as lookup:
                assert (await lookup.answer(HONDA)).how == "hit"

    @pytest.mark.parametrize("folder_too", [False, True], ids=["file", "file and folder"])
    async def test_read_only_costs_no_answer(
        self, make_settings: MakeSettings, db: Path, folder_too: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        await a_cache_with(make_settings(), HONDA)
        with read_only(folder_too, db.read_bytes()) as path:
            async with opened(make_settings(db=path, source="embedded")) as lookup:
                answer = await lookup.answer(PETERBILT)
        assert (vehicle_of(answer).make, answer.stored) == ("PETERBILT", False)
        [message] = messages(caplog, logging.ERROR)
        assert message == (
            f"The cache {path} cannot be written (attempt to write a readonly database): "
            "answers are given, and not kept."
        )

    @pytest.mark.usefixtures("impatient")
    async def test_that_another_process_writes_to_costs_no_answer(
        self, make_settings: MakeSettings, db: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await a_cache_with(make_settings(), HONDA)
        async with opened(make_settings()) as lookup:
            with locked(db, "IMMEDIATE"):
                answer = await lookup.answer(PETERBILT)
        assert (vehicle_of(answer).make, answer.stored) == ("PETERBILT", False)
        [message] = messages(caplog, logging.ERROR)
        assert message == f"The cache {db} cannot be written (database is locked): answers are given, and not kept."

    @pytest.mark.usefixtures("impatient")
    async def test_that_was_locked_is_written_once_it_is_free(self, make_settings: MakeSettings, db: Path) -> None:
        await a_cache_with(make_settings(), HONDA)
        async with opened(make_settings()) as lookup:
            with locked(db, "IMMEDIATE"):
                await lookup.answer(PETERBILT)
            answers = [await lookup.answer(PETERBILT) for _ in "12"]
        assert [(answer.how, answer.stored) for answer in answers] == [("miss", True), ("hit", True)]

    async def test_that_waits_to_be_written_holds_up_no_reader(self, make_settings: MakeSettings, db: Path) -> None:
        await a_cache_with(make_settings(), HONDA)
        async with opened(make_settings()) as lookup:
            with locked(db, "IMMEDIATE"):
                writing = asyncio.create_task(lookup.answer(PETERBILT))
                await until(lookup.cache._write_lock.locked)
                began = time.monotonic()
                assert (await lookup.answer(HONDA)).how == "hit"
                assert time.monotonic() - began < 2
                assert not writing.done()
            assert (await writing).stored

    @pytest.mark.usefixtures("impatient")
    async def test_that_cannot_be_read_for_a_lock_sends_to_the_source(
        self, make_settings: MakeSettings, db: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        await a_cache_with(make_settings(), HONDA)
        not_in_wal_mode(db)
        async with opened(make_settings()) as lookup:
            with read(db):  # so that it is opened in the mode that it has
                await lookup.answer(HONDA)
            with locked(db, "EXCLUSIVE"):
                answer = await lookup.answer(HONDA)
        assert (vehicle_of(answer).make, answer.how, answer.stored) == ("HONDA", "miss", False)
        assert messages(caplog, logging.WARNING) == [
            f"The cache {db} cannot be read (database is locked): asking a source instead."
        ]

    async def test_that_somebody_reads_in_another_mode_is_used_as_it_is(
        self, make_settings: MakeSettings, db: Path
    ) -> None:
        await a_cache_with(make_settings(), HONDA)
        not_in_wal_mode(db)
        began = time.monotonic()
        with read(db):
            async with opened(make_settings()) as lookup:
                assert (await lookup.answer(HONDA)).how == "hit"
        assert time.monotonic() - began < 2

    @pytest.mark.usefixtures("impatient")
    async def test_that_cannot_be_opened_for_a_lock_sends_to_the_source(
        self, make_settings: MakeSettings, db: Path
    ) -> None:
        await a_cache_with(make_settings(), HONDA)
        not_in_wal_mode(db)
        async with opened(make_settings()) as lookup:
            with locked(db, "EXCLUSIVE"):
                answer = await lookup.answer(HONDA)
            assert (vehicle_of(answer).make, answer.how, answer.stored) == ("HONDA", "miss", False)

    async def test_full_costs_no_answer(self, lookup: Lookup, caplog: pytest.LogCaptureFixture) -> None:
        await lookup.answer(HONDA)
        writer = lookup.cache._open()[1]
        [[pages]] = writer.execute("PRAGMA page_count")
        writer.execute(f"PRAGMA max_page_count = {pages}")
        answers = await all_of(lookup, numbered_vins(20))
        assert [(vehicle_of(answer).make, answer) for answer in answers if isinstance(answer, Answer)] == [
            ("HONDA", answer) for answer in answers if isinstance(answer, Answer) and not answer.stored
        ]
        [message] = messages(caplog, logging.ERROR)
        assert "cannot be written (database or disk is full)" in message

    async def test_full_says_what_it_has(self, lookup: Lookup) -> None:
        await lookup.answer(HONDA)
        writer = lookup.cache._open()[1]
        [[pages]] = writer.execute("PRAGMA page_count")
        writer.execute(f"PRAGMA max_page_count = {pages}")
        await all_of(lookup, numbered_vins(20))
        assert (await lookup.answer(HONDA)).how == "hit"

    async def test_damaged_while_open_sends_to_the_source(
        self, make_settings: MakeSettings, db: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with opened(make_settings()) as lookup:
            await all_of(lookup, numbered_vins(20))
        async with opened(make_settings()) as lookup:
            lookup.cache.open()
            page = 4096
            db.write_bytes(db.read_bytes()[:page] + b"\xa5" * (db.stat().st_size - page))
            answer = await lookup.answer(numbered_vins(1)[0])
        assert (vehicle_of(answer).make, answer.how, answer.stored) == ("HONDA", "miss", False)
        assert "cannot be read" in messages(caplog, logging.WARNING)[0]

    async def test_that_is_no_cache_is_an_error_that_names_it(self, make_settings: MakeSettings, db: Path) -> None:
        db.write_text("no database, and long enough to be seen for none " * 100)
        async with opened(make_settings()) as lookup:
            with pytest.raises(CacheError, match=str(db)):
                await lookup.answer(HONDA)


class TestClosing:
    async def test_leaves_nobody_waiting(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.silence)
        lookup = Lookup(make_settings(source="vpic", concurrency=1, batch_size=1))
        tasks = [asyncio.create_task(lookup.answer(vin)) for vin in (HONDA, HONDA, PETERBILT, AUDI)]
        await until(lambda: vpic_server.calls)
        await lookup.aclose()
        assert [type(each) for each in await within(2, tasks)] == [SourceError] * 4

    async def test_before_the_first_call_leaves_nobody_waiting(self, make_settings: MakeSettings) -> None:
        lookup = Lookup(make_settings())
        lookup.cache.open()
        tasks = [asyncio.create_task(lookup.answer(vin)) for vin in (HONDA, PETERBILT)]
        # They have asked by then, and nobody has begun to answer.
        await asyncio.sleep(0)
        assert lookup.health()["waiting"] == 2
        await lookup.aclose()
        assert [type(each) for each in await within(2, tasks)] == [SourceError] * 2

    async def test_tells_who_waited_why(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.silence)
        lookup = Lookup(make_settings())
        asking = asyncio.create_task(lookup.answer(HONDA))
        await until(lambda: vpic_server.calls)
        await lookup.aclose()
        with pytest.raises(SourceError, match="ended before a source answered"):
            await asyncio.wait_for(asking, 2)

    async def test_ends_the_calls_in_flight(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.silence)
        lookup = Lookup(make_settings())
        asking = asyncio.create_task(lookup.answer(HONDA))
        await until(lambda: vpic_server.calls)
        await lookup.aclose()
        await until(lambda: not vpic_server._in_flight)
        await within(2, [asking])

    async def test_before_use_makes_no_file(self, make_settings: MakeSettings, db: Path) -> None:
        await Lookup(make_settings()).aclose()
        assert not db.exists()

    async def test_leaves_nothing_in_flight(self, lookup: Lookup) -> None:
        await all_of(lookup, numbered_vins(120))
        health = lookup.health()
        assert (health["in_flight"], health["waiting"], lookup._flights._workers) == (0, 0, set())


class TestAnswers:
    async def test_come_in_the_order_of_the_vins(self, lookup: Lookup) -> None:
        vins = numbered_vins(450)
        assert [vehicle_of(answer).vin for answer in await all_of(lookup, vins)] == vins

    async def test_travel_in_full_batches(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        await all_of(lookup, numbered_vins(430))
        assert sorted(len(call.vins) for call in vpic_server.calls) == [30, *[50] * 8]

    async def test_are_of_every_kind(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fault_for[PETERBILT] = Fault.status(404)
        async with opened(make_settings(source="vpic", batch_size=1)) as lookup:
            await lookup.answer(AUDI)
            texts = [HONDA, f" {HONDA.lower()}", "no VIN", AUDI, NONSENSE, PETERBILT, "no VIN", AUDI, HONDA]
            answers = await all_of(lookup, texts)
        kinds = [each.how if isinstance(each, Answer) else type(each).__name__ for each in answers]
        assert kinds == ["miss", "miss", "malformed", "hit", "miss", "Failure", "malformed", "hit", "miss"]
        assert [each.vin if isinstance(each, Failure) else each.result.vin for each in answers] == [
            *[HONDA, HONDA, "no VIN", AUDI],
            *[NONSENSE, PETERBILT, "no VIN", AUDI, HONDA],
        ]

    async def test_of_a_vin_that_comes_often_cost_one_call(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        await all_of(lookup, [HONDA, HONDA.lower()] * 300)
        assert [call.vins for call in vpic_server.calls] == [(HONDA,)]

    async def test_that_failed_say_why(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.status(404))
        async with opened(make_settings(source="vpic")) as lookup:
            answers = await all_of(lookup, [HONDA, PETERBILT])
        reason = "vPIC answered with status 404 (Not Found)"
        assert answers == [Failure(HONDA, reason), Failure(PETERBILT, reason)]

    async def test_to_no_questions_are_none(self, lookup: Lookup) -> None:
        assert await all_of(lookup, []) == []

    async def test_read_the_vins_as_they_are_taken(self, lookup: Lookup) -> None:
        texts = iter(["no VIN"] * 10_000)
        taken = await anext(lookup.answers(texts))
        assert isinstance(taken, Answer)
        assert len(list(texts)) >= 8_000


SECOND_PROCESS = """
import asyncio, sys
from vin_datasette import Lookup, Settings

async def main():
    async with Lookup(Settings.load({"db": sys.argv[1], "source": "embedded"})) as lookup:
        print("ready", flush=True)
        vins = sys.stdin.readline().split()
        print(*[answer.stored async for answer in lookup.answers(vins)])

asyncio.run(main())
"""


def a_process(db: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SECOND_PROCESS, str(db)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class TestTwoOnOneFile:
    async def test_see_each_others_answers(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        async with opened(make_settings()) as one, opened(make_settings()) as other:
            await one.answer(HONDA)
            await other.answer(PETERBILT)
            answers = [await other.answer(HONDA), await one.answer(PETERBILT)]
        assert [answer.how for answer in answers] == ["hit", "hit"]
        assert len(vpic_server.calls) == 2

    async def test_lose_nothing_when_they_write_at_once(self, make_settings: MakeSettings, db: Path) -> None:
        vins = numbered_vins(200)
        async with opened(make_settings(batch_size=5)) as one, opened(make_settings(batch_size=5)) as other:
            answers = await asyncio.gather(all_of(one, vins[:120]), all_of(other, vins[80:]))
        assert all(isinstance(each, Answer) and each.stored for part in answers for each in part)
        assert [row["vin"] for row in rows(db)] == sorted(vins)

    def test_lose_nothing_when_they_are_processes(self, db: Path) -> None:
        vins = numbered_vins(60)
        with a_process(db) as one, a_process(db) as two:
            for process in (one, two):
                assert process.stdout
                assert process.stdout.readline() == "ready\n"
            for process, part in ((one, vins[:40]), (two, vins[20:])):
                assert process.stdin
                process.stdin.write(" ".join(part) + "\n")
                process.stdin.flush()
            said = [process.communicate(timeout=30)[0].split() for process in (one, two)]
        assert said == [["True"] * 40] * 2
        assert [row["vin"] for row in rows(db)] == sorted(vins)
