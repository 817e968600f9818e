"""Whoever can be asked: what one VIN that vPIC cannot take costs the others, who waits for vPIC, and who stands in."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tenacity import wait_none

from tests.conftest import numbered_vins
from tests.vpic_server import Fault, closed_port
from vin_datasette import VIN, Lookup, SourceError
from vin_datasette.breaker import FIRST_PAUSE
from vin_datasette.lookup import Failure
from vin_datasette.record import Record
from vin_datasette.sources import Question, vpic as vpic_module
from vin_datasette.sources.standin import EMBEDDED_BATCH, WithStandIn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.conftest import Clock, MakeSettings
    from tests.vpic_server import VpicServer
    from vin_datasette.settings import Settings

VINS = numbered_vins(50)
HONDA, AUDI = VIN("1HGCM82633A004352"), VIN("WA1A4AFY2J2008189")
AWAY = Fault.status(503, retry_after=30)
"""A vPIC that is away and says so: there is nothing to try again within the deadline."""
CHOKES = [Fault.status(500), Fault.html_200, Fault.short_results, Fault.doubled_results, Fault.status(400)]
TRIES = {"auto": vpic_module.ATTEMPTS_WITH_STAND_IN, "vpic": vpic_module.ATTEMPTS_ALONE}
both_ways = pytest.mark.parametrize("source", ["vpic", "auto"])


def named(fault: object) -> str:
    return str(getattr(fault, "name", fault))


@asynccontextmanager
async def opened(settings: Settings, patience: float = 0) -> AsyncIterator[WithStandIn]:
    sources = WithStandIn(settings)
    sources.patience = patience
    try:
        yield sources
    finally:
        await sources.aclose()


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once: nothing here depends on the time between them."""
    monkeypatch.setattr(vpic_module, "_backoff", wait_none())


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """vPIC is left alone for moments, not for minutes."""
    monkeypatch.setattr("vin_datasette.breaker.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("vin_datasette.breaker.LONGEST_PAUSE", 0.05)
    monkeypatch.setattr("vin_datasette.sources.standin._LOOKING_AGAIN", 0.01)


async def until(true: Callable[[], object]) -> None:
    async def watch() -> None:
        while not true():
            await asyncio.sleep(0.002)

    await asyncio.wait_for(watch(), 10)


def questions(vins: Sequence[VIN] = VINS) -> list[Question]:
    return [Question(vin) for vin in vins]


def said(records: Sequence[Record | SourceError]) -> list[str]:
    """Who answered each question, `error` where nobody did."""
    return [each.source if isinstance(each, Record) else "error" for each in records]


class TestOneVinThatVpicCannotTake:
    @both_ways
    @pytest.mark.parametrize("fault", CHOKES, ids=named)
    async def test_costs_no_other_vpics_record(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, fault: Fault
    ) -> None:
        vpic_server.fault_for[VINS[17]] = fault
        async with opened(make_settings(source=source)) as sources:
            records = await sources.records(questions())
        others = [each for each in records if isinstance(each, Record) and each.source == "vpic"]
        assert [each.vin for each in others] == [*VINS[:17], *VINS[18:]]

    @pytest.mark.parametrize("fault", CHOKES, ids=named)
    async def test_has_an_error_of_its_own_where_vpic_alone_is_asked(
        self, make_settings: MakeSettings, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fault_for[VINS[17]] = fault
        async with opened(make_settings(source="vpic")) as sources:
            error = (await sources.records(questions()))[17]
        assert isinstance(error, SourceError)
        assert error.reason.startswith("vPIC answered ")

    @pytest.mark.parametrize("fault", CHOKES, ids=named)
    async def test_is_answered_by_the_embedded_database_where_it_may_be(
        self, make_settings: MakeSettings, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fault_for[VINS[17]] = fault
        async with opened(make_settings()) as sources:
            record = (await sources.records(questions()))[17]
        assert isinstance(record, Record)
        assert (record.vin, record.source, record.text("Make")) == (VINS[17], "embedded", "HONDA")

    @both_ways
    @pytest.mark.parametrize("place", [0, 1, 24, 25, 49])
    async def test_makes_few_calls_wherever_it_stands(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, place: int
    ) -> None:
        vpic_server.fault_for[VINS[place]] = Fault.html_200
        async with opened(make_settings(source=source)) as sources:
            records = await sources.records(questions())
        assert said(records).count("vpic") == 49
        # All of them; then at most six times two halves, of which the one that fails is tried twice.
        assert len(vpic_server.calls) <= TRIES[source] + 6 * 3

    async def test_does_not_shut_vpic_off(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fault_for[VINS[17]] = Fault.status(500)
        async with opened(make_settings()) as sources:
            await sources.records(questions())
            assert sources.breaker.state == "closed"

    async def test_is_named_in_the_log(
        self, make_settings: MakeSettings, vpic_server: VpicServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        vpic_server.fault_for[VINS[17]] = Fault.html_200
        async with opened(make_settings()) as sources:
            await sources.records(questions())
        assert [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING] == [
            f"{VINS[17]}: vPIC answered HTML or XML where JSON was due; the embedded database answers"
        ]

    async def test_is_a_failure_among_the_answers(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fault_for[VINS[17]] = Fault.html_200
        async with Lookup(make_settings(source="vpic")) as lookup:
            answers = [each async for each in lookup.answers(VINS)]
        assert [each.vin for each in answers if isinstance(each, Failure)] == [VINS[17]]

    @both_ways
    @pytest.mark.parametrize("places", [(0, 49), (10, 11), (24, 25), (3, 40)], ids=str)
    async def test_may_be_two(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, places: tuple[int, int]
    ) -> None:
        for place in places:
            vpic_server.fault_for[VINS[place]] = Fault.short_results
        async with opened(make_settings(source=source)) as sources:
            records = await sources.records(questions())
        other = "error" if source == "vpic" else "embedded"
        assert [place for place, who in enumerate(said(records)) if who == other] == list(places)
        assert len(vpic_server.calls) <= TRIES[source] + 2 * 6 * 3

    @both_ways
    @pytest.mark.parametrize("count", [3, 5, 9])
    @pytest.mark.parametrize("first", [0, 10, 41])
    async def test_may_be_many_side_by_side(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, first: int, count: int
    ) -> None:
        bad = VINS[first : first + count]
        for vin in bad:
            vpic_server.fault_for[vin] = Fault.html_200
        async with opened(make_settings(source=source)) as sources:
            records = await sources.records(questions())
        others = [each.vin for each in records if isinstance(each, Record) and each.source == "vpic"]
        assert others == [vin for vin in VINS if vin not in bad]
        assert len(vpic_server.calls) <= TRIES[source] + 25 + 4 * count

    async def test_are_not_found_without_end(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        for vin in VINS[10:]:
            vpic_server.fault_for[vin] = Fault.html_200
        async with opened(make_settings()) as sources:
            assert said(await sources.records(questions())) == ["embedded"] * 50
        assert len(vpic_server.calls) < 60


class TestNonsenseForEverybody:
    @both_ways
    @pytest.mark.parametrize("fault", [Fault.html_200, Fault.status(500), Fault.empty_results], ids=named)
    async def test_is_given_up_after_few_calls(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, fault: Fault
    ) -> None:
        vpic_server.fail_always(fault)
        async with opened(make_settings(source=source)) as sources:
            await asyncio.gather(sources.records(questions()), return_exceptions=True)
        assert len(vpic_server.calls) < 25

    @pytest.mark.parametrize("fault", [Fault.html_200, Fault.status(500)], ids=named)
    async def test_is_an_error_for_all(
        self, make_settings: MakeSettings, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fail_always(fault)
        async with opened(make_settings(source="vpic")) as sources:
            with pytest.raises(SourceError, match="vPIC answered"):
                await sources.records(questions())

    @pytest.mark.parametrize("fault", [Fault.html_200, Fault.status(500)], ids=named)
    async def test_leaves_all_to_the_embedded_database(
        self, make_settings: MakeSettings, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fail_always(fault)
        async with opened(make_settings()) as sources:
            assert said(await sources.records(questions())) == ["embedded"] * 50

    async def test_of_status_500_shuts_vpic_off(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.status(500))
        async with opened(make_settings()) as sources:
            await sources.records(questions())
            assert sources.breaker.state == "open"


class TestABatchIsNotHalved:
    @both_ways
    @pytest.mark.parametrize(
        "fault",
        [
            *[Fault.status(code) for code in (503, 429, 502, 504, 403, 404)],
            Fault.status(429, retry_after=60),
            Fault.reset,
            Fault.close,
            Fault.silence,
        ],
        ids=named,
    )
    async def test_when_vpic_is_away_or_refuses_who_asks(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, fault: Fault
    ) -> None:
        vpic_server.fail_always(fault)
        async with opened(make_settings(source=source, timeout=0.2)) as sources:
            await asyncio.gather(sources.records(questions(VINS[:4])), return_exceptions=True)
        assert {len(call.vins) for call in vpic_server.calls} == {4}

    @both_ways
    async def test_when_it_is_answered(self, make_settings: MakeSettings, vpic_server: VpicServer, source: str) -> None:
        async with opened(make_settings(source=source)) as sources:
            await sources.records(questions())
        assert [len(call.vins) for call in vpic_server.calls] == [50]

    @both_ways
    async def test_when_a_further_try_is_answered(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str
    ) -> None:
        vpic_server.fail_next(Fault.html_200)
        async with opened(make_settings(source=source)) as sources:
            await sources.records(questions())
        assert [len(call.vins) for call in vpic_server.calls] == [50, 50]


class TestAModelYear:
    @staticmethod
    async def asked(settings: Settings) -> list[Record | SourceError]:
        async with opened(settings) as sources:
            return await sources.records([Question(HONDA, 2003), Question(AUDI, 2011)])

    async def test_that_destroys_an_answer_is_dropped_for_that_one(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        await self.asked(make_settings())
        assert [call.vins for call in vpic_server.calls] == [(HONDA, AUDI), (AUDI,)]

    async def test_that_cannot_be_dropped_as_vpic_fails_costs_no_other_its_answer(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_next(Fault("none"))
        vpic_server.fail_next(Fault.status(404))
        assert said(await self.asked(make_settings(source="vpic"))) == ["vpic", "error"]

    async def test_that_cannot_be_dropped_by_vpic_is_dropped_by_the_embedded_database(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_next(Fault("none"))
        vpic_server.fail_next(Fault.status(404))
        assert said(await self.asked(make_settings())) == ["vpic", "embedded"]


@pytest.mark.usefixtures("short_pauses")
class TestPatience:
    async def test_waits_for_vpic_to_come_back(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_next(Fault.status(503), times=20)
        async with opened(make_settings(source="vpic"), patience=20) as sources:
            assert said(await sources.records(questions())) == ["vpic"] * 50

    async def test_waits_for_a_vpic_that_nothing_listens_for(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        settings = make_settings(source="vpic")
        vpic_server.stop()
        async with opened(settings, patience=20) as sources:
            asking = asyncio.create_task(sources.records(questions()))
            await until(lambda: sources.breaker.state == "open")
            vpic_server.start()
            assert said(await asking) == ["vpic"] * 50

    async def test_of_many_tries_with_one_at_a_time(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.status(503))
        async with opened(make_settings(source="vpic", concurrency=8), patience=20) as sources:
            first = asyncio.create_task(sources.records(questions(VINS[:2])))
            await until(lambda: sources.breaker.state == "open")
            vpic_server.reset()
            vpic_server.latency = 0.05
            vpic_server.fail_always(Fault.status(503, retry_after=0))
            rest = [asyncio.create_task(sources.records(questions([vin]))) for vin in VINS[2:8]]
            await until(lambda: len(vpic_server.calls) >= 4)
            assert vpic_server.max_in_flight == 1
            vpic_server.fail_always(None)
            for asking in (first, *rest):
                assert {*said(await asking)} == {"vpic"}

    async def test_ends_in_words(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(Fault.status(503))
        async with opened(make_settings(source="vpic"), patience=0.3) as sources:
            began = time.monotonic()
            with pytest.raises(SourceError, match=r"status 503 \(Service Unavailable\)|was away when last asked"):
                await sources.records(questions())
            assert 0.3 <= time.monotonic() - began < 5

    async def test_does_not_wait_for_a_vpic_that_refuses(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_always(Fault.status(404))
        async with opened(make_settings(source="vpic"), patience=60) as sources:
            with pytest.raises(SourceError, match="status 404"):
                await asyncio.wait_for(sources.records(questions()), 5)

    async def test_does_not_wait_where_the_embedded_database_answers(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_always(AWAY)
        async with opened(make_settings(), patience=60) as sources:
            records = await asyncio.wait_for(sources.records(questions()), 5)
        assert said(records) == ["embedded"] * 50

    async def test_is_not_for_what_is_only_asked_anew(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_always(AWAY)
        async with opened(make_settings(source="vpic"), patience=60) as sources:
            with pytest.raises(SourceError, match="status 503"):
                await asyncio.wait_for(sources.records(questions(), stand_in=False), 5)

    async def test_of_a_lookup_is_as_long_as_set(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_next(Fault.status(503), times=20)
        async with Lookup(make_settings(source="vpic", patience="20s")) as lookup:
            lookup.be_patient()
            answer = await lookup.answer(HONDA)
        assert answer.vehicle.source == "vpic"

    async def test_of_a_lookup_is_none_unless_it_is_told(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_always(AWAY)
        async with Lookup(make_settings(source="vpic")) as lookup:
            with pytest.raises(SourceError, match="status 503"):
                await asyncio.wait_for(lookup.answer(HONDA), 5)


class TestWithoutPatience:
    async def test_who_asks_is_told_at_once(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vpic_server.fail_always(AWAY)
        async with opened(make_settings(source="vpic")) as sources:
            with pytest.raises(SourceError, match="status 503"):
                await sources.records(questions())
        assert len(vpic_server.calls) == 1

    async def test_who_asks_next_is_told_without_a_call(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_always(AWAY)
        async with opened(make_settings(source="vpic")) as sources:
            await asyncio.gather(sources.records(questions()), return_exceptions=True)
            with pytest.raises(SourceError, match="will be asked again in 30 seconds") as caught:
                await sources.records(questions())
        assert (caught.value.asked, len(vpic_server.calls)) == (False, 1)


class TestTheSizeOfABatch:
    @pytest.mark.parametrize(("source", "size"), [("embedded", EMBEDDED_BATCH), ("auto", 7), ("vpic", 7)])
    async def test_is_what_the_source_takes(self, make_settings: MakeSettings, source: str, size: int) -> None:
        async with opened(make_settings(source=source, batch_size=7)) as sources:
            assert sources.batch_size == size

    @pytest.mark.parametrize(("source", "size"), [("auto", EMBEDDED_BATCH), ("vpic", 7)])
    async def test_while_vpic_is_away_is_that_of_who_answers(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, size: int
    ) -> None:
        vpic_server.fail_always(AWAY)
        async with opened(make_settings(source=source, batch_size=7)) as sources:
            await asyncio.gather(sources.records(questions()), return_exceptions=True)
            assert sources.batch_size == size

    async def test_is_vpics_again_when_it_may_be_asked(
        self, make_settings: MakeSettings, vpic_server: VpicServer, clock: Clock
    ) -> None:
        vpic_server.fail_always(AWAY)
        async with opened(make_settings(batch_size=7)) as sources:
            await sources.records(questions())
            clock.now += FIRST_PAUSE
            assert sources.batch_size == 7

    @both_ways
    async def test_is_never_more_than_vpic_takes(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str
    ) -> None:
        vins = numbered_vins(120)
        async with opened(make_settings(source=source)) as sources:
            records = await sources.records(questions(vins))
        assert [each.vin for each in records if isinstance(each, Record)] == vins
        assert [len(call.vins) for call in vpic_server.calls] == [50, 50, 20]

    @pytest.mark.parametrize("source", ["auto", "embedded"])
    async def test_of_the_embedded_databases_is_answered_whole(self, make_settings: MakeSettings, source: str) -> None:
        vins = numbered_vins(EMBEDDED_BATCH)
        with closed_port() as url:
            async with opened(make_settings(source=source, vpic_url=url)) as sources:
                records = await sources.records(questions(vins))
        assert [(each.vin, each.source) for each in records if isinstance(each, Record)] == [
            (vin, "embedded") for vin in vins
        ]
