"""How long an answer is good: what is asked about anew, behind or on demand, and what a vehicle alike answers."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import numbered_vins, rows
from tests.vpic_server import Fault, closed_port, flat_record
from vin_datasette import VIN, Lookup, Rejection, Vehicle
from vin_datasette.lookup import KNOWN, Answer, Failure, Outcome, Plan
from vin_datasette.siblings import REFUSED_WMIS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance, MakeSettings
    from tests.vpic_server import VpicServer
    from vin_datasette.settings import Settings

HONDA, PETERBILT = VIN("1HGCM82633A004352"), VIN("1XP5DB9X7XD487964")
MISTYPED = VIN("1HGCM82643A004352")
"""HONDA with another check digit: vPIC's code 1, and no other."""
NONSENSE = VIN("12345678901234567")
"""vPIC's codes 1, 11, 14 and 400."""
AWAY = Fault.status(503, retry_after=30)
"""A vPIC that is away and says so: there is nothing to try again within the deadline."""
HOUR, DAY = 3600.0, 86_400.0


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Lookup]:
    async with Lookup(settings) as lookup:
        yield lookup


@pytest.fixture
def db(make_settings: MakeSettings) -> Path:
    return make_settings().db


@pytest.fixture
async def of_an_hour_ago(make_settings: MakeSettings, vpic_server: VpicServer, db: Path) -> VpicServer:
    """HONDA is in the cache, by vPIC an hour ago; since then vPIC says more of it."""
    await told(make_settings(), HONDA)
    age(db, HOUR)
    vpic_server.reset()
    vpic_server.records[HONDA] = {**flat_record(HONDA), "Trim": "LATER"}
    return vpic_server


async def told(settings: Settings, *vins: VIN) -> None:
    """Let the cache have these VINs."""
    async with opened(settings) as lookup:
        await all_of(lookup, vins)


def age(db: Path, seconds: float, table: str = "vehicles") -> None:
    """Let a cache's rows be so old."""
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))
    with closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(f"UPDATE {table} SET fetched_at = ?", [when])


async def until(true: Callable[[], object]) -> None:
    """Wait for what is to come about; a test in which it does not fails by its time limit."""

    async def watch() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(watch(), 5)


async def all_of(lookup: Lookup, texts: Iterable[str], **options: Any) -> list[Answer | Failure]:
    return [each async for each in lookup.answers(texts, **options)]


def answer_of(outcome: Outcome | None) -> Answer:
    assert isinstance(outcome, Answer)
    return outcome


def vehicle_of(outcome: Outcome | None) -> Vehicle:
    return answer_of(outcome).vehicle


def how(outcomes: Iterable[Outcome]) -> list[str]:
    return [each.how if isinstance(each, Answer) else type(each).__name__ for each in outcomes]


def asked(server: VpicServer) -> list[str]:
    return [vin for call in server.calls for vin in call.vins]


def trims(db: Path) -> list[object]:
    return [row["trim"] for row in rows(db)]


def sources(db: Path) -> list[object]:
    return [row["source"] for row in rows(db)]


class TestAVehicleOlderThanMaxAge:
    async def test_is_answered_from_the_cache(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            answer = await lookup.answer(HONDA)
        assert (answer.how, answer.cached, answer.vehicle["Trim"]) == ("stale", True, flat_record(HONDA)["Trim"])

    async def test_is_answered_without_waiting_for_vpic(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer
    ) -> None:
        of_an_hour_ago.fail_always(Fault.silence)
        async with opened(make_settings(max_age="30m", timeout=60)) as lookup:
            assert (await asyncio.wait_for(lookup.answer(HONDA), 5)).how == "stale"
            await until(lambda: of_an_hour_ago.calls)

    async def test_is_asked_about_anew_behind(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            await lookup.answer(HONDA)
            await until(lambda: trims(db) == ["LATER"])
            answer = await lookup.answer(HONDA)
        assert (answer.how, answer.vehicle["Trim"], asked(of_an_hour_ago)) == ("hit", "LATER", [HONDA])

    async def test_stays_away_when_it_is_removed_meanwhile(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        of_an_hour_ago.latency = 0.2
        async with opened(make_settings(max_age="30m")) as lookup:
            await lookup.answer(HONDA)
            await until(lambda: of_an_hour_ago.calls)
            assert await lookup.remove(HONDA)
            await until(lambda: lookup.idle)
        assert (rows(db), rows(db, "changes")) == ([], [])

    async def test_leaves_what_it_was_among_the_changes(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            await lookup.answer(HONDA)
            await until(lambda: rows(db, "changes"))
        [row] = rows(db, "changes")
        assert (row["vin"], json.loads(row["changed"])) == (HONDA, {"Trim": [flat_record(HONDA)["Trim"], "LATER"]})

    async def test_is_asked_about_once_however_many_ask(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            answers = await asyncio.gather(*(lookup.answer(HONDA) for _ in range(100)))
            await until(lambda: trims(db) == ["LATER"])
        assert ({*how(answers)}, asked(of_an_hour_ago)) == ({"stale"}, [HONDA])

    async def test_is_asked_about_for_who_looks_into_the_cache_and_has_it_renewed(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            lookup.renew(answer_of(lookup.cached(HONDA)))
            await until(lambda: trims(db) == ["LATER"])

    async def test_stays_when_vpic_is_away(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        of_an_hour_ago.fail_always(AWAY)
        async with opened(make_settings(max_age="30m")) as lookup:
            await lookup.answer(HONDA)
            await until(lambda: of_an_hour_ago.calls and lookup.idle)
            assert (await lookup.answer(HONDA)).how == "stale"
        assert sources(db) == ["vpic"]

    async def test_is_not_asked_about_while_vpic_is_left_alone(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer
    ) -> None:
        of_an_hour_ago.fail_always(AWAY)
        async with opened(make_settings(max_age="30m")) as lookup:
            await lookup.answer(PETERBILT)
            calls = len(of_an_hour_ago.calls)
            assert (await lookup.answer(HONDA)).how == "stale"
            assert (lookup.health()["waiting"], lookup.idle) == (0, True)
        assert len(of_an_hour_ago.calls) == calls

    async def test_is_not_one_that_is_younger(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        async with opened(make_settings(max_age="2h")) as lookup:
            assert (await lookup.answer(HONDA)).how == "hit"
            assert lookup.idle
        assert of_an_hour_ago.calls == []

    async def test_is_none_where_nothing_is_set(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        async with opened(make_settings()) as lookup:
            assert (await lookup.answer(HONDA)).how == "hit"
            assert lookup.idle
        assert of_an_hour_ago.calls == []

    async def test_may_be_of_any_age(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        async with opened(make_settings(max_age="999999999w")) as lookup:
            assert (await lookup.answer(HONDA)).how == "hit"

    async def test_is_asked_about_at_once_among_many(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer
    ) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            [answer] = await all_of(lookup, [HONDA])
        assert (how([answer]), vehicle_of(answer)["Trim"]) == (["refresh"], "LATER")


class TestWhatTheEmbeddedDatabaseAnswered:
    @pytest.mark.parametrize("source", ["auto", "vpic"])
    async def test_is_replaced_by_vpics_answer(
        self, make_settings: MakeSettings, vpic_server: VpicServer, db: Path, source: str
    ) -> None:
        await told(make_settings(source="embedded"), HONDA)
        async with opened(make_settings(source=source)) as lookup:
            first = await lookup.answer(HONDA)
            await until(lambda: sources(db) == ["vpic"])
            second = await lookup.answer(HONDA)
        assert [(each.how, each.vehicle.source) for each in (first, second)] == [("stale", "embedded"), ("hit", "vpic")]

    async def test_leaves_no_change_behind(self, make_settings: MakeSettings, db: Path) -> None:
        await told(make_settings(source="embedded"), HONDA)
        async with opened(make_settings()) as lookup:
            await all_of(lookup, [HONDA])
        assert (sources(db), rows(db, "changes")) == (["vpic"], [])

    async def test_is_not_asked_while_vpic_is_left_alone(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_always(AWAY)
        async with opened(make_settings()) as lookup:
            await lookup.answer(HONDA)
            calls = len(vpic_server.calls)
            answers = [await lookup.answer(HONDA), *await all_of(lookup, [HONDA])]
            assert (how(answers), lookup.idle) == (["stale", "stale"], True)
        assert len(vpic_server.calls) == calls

    async def test_stays_when_vpic_cannot_be_reached(self, make_settings: MakeSettings, db: Path) -> None:
        await told(make_settings(source="embedded"), HONDA)
        with closed_port() as url:
            async with opened(make_settings(vpic_url=url)) as lookup:
                assert how(await all_of(lookup, [HONDA])) == ["stale"]
        assert sources(db) == ["embedded"]

    async def test_is_good_where_nobody_else_is_asked(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        await told(make_settings(source="embedded"), HONDA)
        async with opened(make_settings(source="embedded")) as lookup:
            assert (await lookup.answer(HONDA)).how == "hit"
        assert vpic_server.calls == []

    async def test_is_asked_again_by_its_age_where_nobody_else_is_asked(
        self, make_settings: MakeSettings, db: Path
    ) -> None:
        settings = make_settings(source="embedded", max_age="30m")
        await told(settings, HONDA)
        age(db, HOUR)
        [before] = rows(db)
        async with opened(settings) as lookup:
            assert (await lookup.answer(HONDA)).how == "stale"
            await until(lambda: rows(db)[0]["fetched_at"] > before["fetched_at"])
            assert (await lookup.answer(HONDA)).how == "hit"

    @pytest.mark.parametrize("options", [{}, {"refresh": True}, {"max_age": 0}], ids=str)
    async def test_never_takes_the_place_of_what_vpic_said(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path, options: dict[str, Any]
    ) -> None:
        [before] = rows(db)
        async with opened(make_settings(source="embedded", max_age="30m")) as lookup:
            await all_of(lookup, [HONDA], **options)
        assert rows(db) == [before]

    async def test_is_not_asked_about_what_vpic_said(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer
    ) -> None:
        async with opened(make_settings(source="embedded", max_age="30m")) as lookup:
            answer = await lookup.answer(HONDA)
            assert (answer.how, answer.vehicle.source, lookup.idle) == ("hit", "vpic", True)


class TestARejection:
    @pytest.fixture
    async def of_an_hour_ago(self, make_settings: MakeSettings, vpic_server: VpicServer, db: Path) -> None:
        await told(make_settings(), NONSENSE)
        age(db, HOUR, "rejections")
        vpic_server.reset()

    @pytest.mark.usefixtures("of_an_hour_ago")
    async def test_is_repeated_for_as_long_as_set(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        async with opened(make_settings(rejection_max_age="2h")) as lookup:
            assert how([await lookup.answer(NONSENSE), *await all_of(lookup, [NONSENSE])]) == ["hit"] * 2
        assert vpic_server.calls == []

    @pytest.mark.usefixtures("of_an_hour_ago")
    @pytest.mark.parametrize("max_age", ["10m", "52w"])
    async def test_that_is_too_old_is_not_repeated_whatever_is_set_for_vehicles(
        self, make_settings: MakeSettings, max_age: str
    ) -> None:
        async with opened(make_settings(rejection_max_age="30m", max_age=max_age)) as lookup:
            assert (await lookup.answer(NONSENSE)).how == "miss"

    @pytest.mark.usefixtures("of_an_hour_ago")
    async def test_that_is_too_old_is_not_repeated_among_many(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(rejection_max_age="30m")) as lookup:
            assert how(await all_of(lookup, [NONSENSE])) == ["miss"]

    @pytest.mark.usefixtures("of_an_hour_ago")
    async def test_that_is_too_old_is_not_what_the_cache_knows(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(rejection_max_age="30m")) as lookup:
            lookup.cache.open()
            assert lookup.cached(NONSENSE) is None


class TestAskingAnew:
    async def test_asks_about_what_is_cached(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        async with opened(make_settings()) as lookup:
            [answer] = await all_of(lookup, [HONDA], refresh=True)
        assert (how([answer]), vehicle_of(answer)["Trim"], trims(db)) == (["refresh"], "LATER", ["LATER"])

    async def test_leaves_what_changed_among_the_changes(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        async with opened(make_settings()) as lookup:
            await all_of(lookup, [HONDA], refresh=True)
        [row] = rows(db, "changes")
        assert json.loads(row["record"]) == flat_record(HONDA)

    async def test_leaves_no_change_where_nothing_changed(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        of_an_hour_ago.records.clear()
        async with opened(make_settings()) as lookup:
            assert how(await all_of(lookup, [HONDA], refresh=True)) == ["refresh"]
        assert rows(db, "changes") == []

    async def test_of_one_that_is_removed_meanwhile_is_answered_and_not_kept(
        self, make_settings: MakeSettings, vpic_server: VpicServer, db: Path
    ) -> None:
        await told(make_settings(), HONDA, PETERBILT)
        vpic_server.reset()
        vpic_server.latency = 0.2
        async with opened(make_settings()) as lookup:
            asking = asyncio.ensure_future(all_of(lookup, [HONDA, PETERBILT], refresh=True))
            await until(lambda: vpic_server.calls)
            assert await lookup.remove(HONDA)
            answers = [answer_of(each) for each in await asking]
        assert [(each.how, each.stored) for each in answers] == [("refresh", False), ("refresh", True)]
        assert [row["vin"] for row in rows(db)] == [PETERBILT]

    async def test_asks_in_full_batches(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vins = numbered_vins(130)
        await told(make_settings(), *vins)
        vpic_server.reset()
        async with opened(make_settings()) as lookup:
            assert {*how(await all_of(lookup, vins, refresh=True))} == {"refresh"}
        assert sorted(len(call.vins) for call in vpic_server.calls) == [30, 50, 50]

    async def test_tells_what_was_not_cached_apart(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer
    ) -> None:
        async with opened(make_settings()) as lookup:
            answers = await all_of(lookup, [HONDA, PETERBILT, "no VIN"], refresh=True)
        assert how(answers) == ["refresh", "miss", "malformed"]

    @pytest.mark.parametrize("source", ["auto", "vpic"])
    async def test_falls_back_on_what_is_cached(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path, source: str
    ) -> None:
        of_an_hour_ago.fail_always(AWAY)
        async with opened(make_settings(source=source)) as lookup:
            [answer] = await all_of(lookup, [HONDA], refresh=True)
        assert (how([answer]), vehicle_of(answer).source, sources(db)) == (["stale"], "vpic", ["vpic"])

    async def test_of_one_that_vpic_chokes_on_falls_back_for_that_one(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vins = numbered_vins(8)
        await told(make_settings(), *vins)
        vpic_server.fault_for[vins[3]] = Fault.html_200
        async with opened(make_settings()) as lookup:
            answers = await all_of(lookup, vins, refresh=True)
        assert how(answers) == [*["refresh"] * 3, "stale", *["refresh"] * 4]

    @pytest.mark.parametrize(
        ("max_age", "expected"), [(DAY, "hit"), (HOUR / 2, "refresh"), (0, "refresh"), (None, "hit")]
    )
    async def test_is_for_those_that_are_older_than_said(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, max_age: float | None, expected: str
    ) -> None:
        async with opened(make_settings()) as lookup:
            assert how(await all_of(lookup, [HONDA], max_age=max_age)) == [expected]

    @pytest.mark.parametrize(("max_age", "expected"), [(DAY, "hit"), (None, "refresh")])
    async def test_by_an_age_that_is_said_is_not_by_the_one_that_is_set(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, max_age: float | None, expected: str
    ) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            assert how(await all_of(lookup, [HONDA], max_age=max_age)) == [expected]


class TestWhatIsKnownOfMany:
    async def test_is_what_needs_nobody(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        async with opened(make_settings()) as lookup:
            known = await lookup.known([HONDA, "no VIN", PETERBILT, HONDA.lower()])
        assert {text: answer.how for text, answer in known.items()} == {
            HONDA: "hit",
            "no VIN": "malformed",
            HONDA.lower(): "hit",
        }
        assert of_an_hour_ago.calls == []

    async def test_is_stale_where_it_is_old(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        async with opened(make_settings(max_age="30m")) as lookup:
            assert how((await lookup.known([HONDA])).values()) == ["stale"]

    async def test_is_no_rejection_that_is_too_old(
        self, make_settings: MakeSettings, vpic_server: VpicServer, db: Path
    ) -> None:
        await told(make_settings(), NONSENSE)
        age(db, HOUR, "rejections")
        async with opened(make_settings(rejection_max_age="30m")) as lookup:
            assert await lookup.known([NONSENSE]) == {}


class TestTheEnd:
    async def test_ends_what_is_asked_behind(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        of_an_hour_ago.fail_always(Fault.silence)
        async with opened(make_settings(max_age="30m", timeout=60)) as lookup:
            await lookup.answer(HONDA)
            await until(lambda: of_an_hour_ago.calls)
        assert (lookup.idle, sources(db)) == (True, ["vpic"])
        await until(lambda: not of_an_hour_ago._in_flight)


BRIEF = Plan(brief=True)


class TestInBrief:
    async def brief(self, settings: Settings, *texts: str, plan: Plan = BRIEF) -> list[Outcome]:
        async with opened(settings) as lookup:
            return await lookup.resolve([(text, None) for text in texts], plan)

    async def test_a_fresh_vehicle_is_known(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        assert await self.brief(make_settings(), HONDA) == [KNOWN]
        assert of_an_hour_ago.calls == []

    async def test_a_known_vehicle_is_not_even_read(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, db: Path
    ) -> None:
        with closing(sqlite3.connect(db)) as connection, connection:
            connection.execute("UPDATE vehicles SET record = 'no JSON'")
        assert await self.brief(make_settings(), HONDA) == [KNOWN]

    async def test_each_is_what_it_is_in_order(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        await told(make_settings(), NONSENSE)
        texts = ["no VIN", HONDA, NONSENSE, HONDA, PETERBILT, f" {HONDA.lower()} ", HONDA, "no VIN"]
        outcomes = await self.brief(make_settings(), *texts)
        assert how(outcomes) == ["malformed", "Known", "hit", "Known", "miss", "hit", "Known", "malformed"]

    @pytest.mark.parametrize("end", ["\0", "\0more"], ids=ascii)
    async def test_a_text_that_begins_with_a_vin_is_not_known(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, end: str
    ) -> None:
        assert how(await self.brief(make_settings(), HONDA + end)) == ["malformed"]

    async def test_a_vehicle_that_is_too_old_is_asked(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer
    ) -> None:
        assert how(await self.brief(make_settings(max_age="30m"), HONDA)) == ["refresh"]

    @pytest.mark.parametrize(("max_age", "expected"), [(DAY, "Known"), (HOUR / 2, "refresh"), (0, "refresh")])
    async def test_an_age_that_is_said_counts(
        self, make_settings: MakeSettings, of_an_hour_ago: VpicServer, max_age: float, expected: str
    ) -> None:
        plan = Plan(brief=True, max_age=max_age)
        assert how(await self.brief(make_settings(max_age="45m"), HONDA, plan=plan)) == [expected]

    async def test_a_vehicle_of_this_second_is_too_old_where_none_may_be_older_than_nothing(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        await told(make_settings(), HONDA)
        assert how(await self.brief(make_settings(), HONDA, plan=Plan(brief=True, max_age=0))) == ["refresh"]

    async def test_a_vehicle_may_be_of_any_age(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        assert await self.brief(make_settings(max_age="999999999w"), HONDA) == [KNOWN]

    async def test_to_ask_anew_is_to_ask(self, make_settings: MakeSettings, of_an_hour_ago: VpicServer) -> None:
        assert how(await self.brief(make_settings(), HONDA, plan=Plan(brief=True, refresh=True))) == ["refresh"]

    @pytest.mark.parametrize(("source", "expected"), [("auto", "refresh"), ("vpic", "refresh"), ("embedded", "Known")])
    async def test_what_the_embedded_database_answered_is_known_where_that_is_asked(
        self, make_settings: MakeSettings, vpic_server: VpicServer, source: str, expected: str
    ) -> None:
        await told(make_settings(source="embedded"), HONDA)
        assert how(await self.brief(make_settings(source=source), HONDA)) == [expected]

    @pytest.mark.parametrize(("check_digit", "expected"), [("strict", "hit"), ("lenient", "Known")])
    async def test_a_vehicle_with_a_failing_check_digit_is_read_where_that_may_reject_it(
        self, make_settings: MakeSettings, vpic_server: VpicServer, check_digit: str, expected: str
    ) -> None:
        await told(make_settings(check_digit="lenient"), MISTYPED)
        assert how(await self.brief(make_settings(check_digit=check_digit), MISTYPED)) == [expected]

    async def test_a_vehicle_that_is_strictly_none_is_a_rejection(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        await told(make_settings(check_digit="lenient"), MISTYPED)
        [outcome] = await self.brief(make_settings(), MISTYPED)
        assert isinstance(answer_of(outcome).result, Rejection)

    async def test_thousands_are_known_at_once(self, make_settings: MakeSettings, vpic_server: VpicServer) -> None:
        vins = numbered_vins(3_000)
        await told(make_settings(source="embedded"), *vins)
        assert await self.brief(make_settings(source="embedded"), *vins) == [KNOWN] * 3_000


HERD = numbered_vins(20)
NOTE = f"Answered from the record of its sibling {HERD[0]}, "


class TestSiblings:
    @pytest.fixture
    async def lookup(self, make_settings: MakeSettings) -> AsyncIterator[Lookup]:
        """A lookup in which vehicles alike answer for each other."""
        async with opened(make_settings(siblings=True)) as lookup:
            yield lookup

    async def test_are_all_asked_where_nothing_is_set(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with opened(make_settings()) as lookup:
            await all_of(lookup, HERD)
        assert asked(vpic_server) == HERD

    async def test_are_answered_by_the_one_that_is_asked(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        answers = await all_of(lookup, HERD)
        assert (how(answers), asked(vpic_server)) == (["miss"] + ["sibling"] * 19, [HERD[0]])

    async def test_are_vehicles_of_their_own(self, lookup: Lookup) -> None:
        vehicles = [vehicle_of(answer) for answer in await all_of(lookup, HERD)]
        assert [(each.vin, each["VIN"], each.model) for each in vehicles] == [(vin, vin, "Accord") for vin in HERD]

    async def test_say_who_answered(self, lookup: Lookup) -> None:
        first, *others = [vehicle_of(answer) for answer in await all_of(lookup, HERD)]
        assert (first.source, first.record.notes) == ("vpic", ())
        assert {(each.source, each.record.notes[0][: len(NOTE)]) for each in others} == {("vpic-sibling", NOTE)}

    async def test_are_kept(self, lookup: Lookup, vpic_server: VpicServer, db: Path) -> None:
        answers = await all_of(lookup, HERD)
        assert {answer_of(answer).stored for answer in answers} == {True}
        assert sources(db) == ["vpic" if row["vin"] == HERD[0] else "vpic-sibling" for row in rows(db)]

    async def test_are_hits_the_next_time(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        await all_of(lookup, HERD)
        assert ({*how(await all_of(lookup, HERD))}, asked(vpic_server)) == ({"hit"}, [HERD[0]])

    async def test_of_many_chunks_are_answered_by_one(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        herd = numbered_vins(1_700)
        answers = await all_of(lookup, herd)
        assert (sorted(how(answers)), len(asked(vpic_server))) == (["miss"] + ["sibling"] * 1_699, 1)

    async def test_have_one_that_is_asked_of_each_kind(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        answers = await all_of(lookup, [HERD[0], PETERBILT, *HERD[1:]])
        assert how(answers) == ["miss", "miss", *["sibling"] * 19]
        assert asked(vpic_server) == [HERD[0], PETERBILT]

    async def test_answer_for_one_that_is_asked_alone(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        answers = [await lookup.answer(vin) for vin in HERD[:3]]
        assert (how(answers), asked(vpic_server)) == (["miss", "sibling", "sibling"], [HERD[0]])

    async def test_answer_while_vpic_is_away(
        self, make_settings: MakeSettings, lookup: Lookup, vpic_server: VpicServer
    ) -> None:
        await lookup.answer(HERD[0])
        vpic_server.fail_always(AWAY)
        assert vehicle_of(await lookup.answer(HERD[1])).source == "vpic-sibling"

    async def test_answer_for_none_whose_check_digit_fails(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        await lookup.answer(HONDA)
        answers = [await lookup.answer(MISTYPED), *await all_of(lookup, [VIN(f"{HERD[5][:8]}X{HERD[5][9:]}")])]
        assert [type(answer_of(each).result) for each in answers] == [Rejection, Rejection]
        assert len(asked(vpic_server)) == 3

    async def test_answer_for_none_whose_model_year_is_said(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        await lookup.answer(HERD[0])
        answers = [await lookup.answer(HERD[1], model_year=2003), *await all_of(lookup, HERD[2:5], model_year=2003)]
        assert (how(answers), asked(vpic_server)) == (["miss"] * 4, HERD[:5])

    async def test_answer_for_none_of_a_manufacturer_that_tells_by_the_number(
        self, lookup: Lookup, vpic_server: VpicServer
    ) -> None:
        wmi = next(wmi for wmi in sorted(REFUSED_WMIS) if wmi[2] != "9")
        vins = [VIN(f"{wmi}CM8263{number}A00435{number}") for number in (1, 2)]
        await all_of(lookup, vins)
        assert asked(vpic_server) == vins

    async def test_are_asked_themselves_when_the_one_is_rejected(self, lookup: Lookup, vpic_server: VpicServer) -> None:
        vpic_server.records[HERD[0]] = {**flat_record(HERD[0]), "Make": "", "ErrorCode": "7"}
        answers = await all_of(lookup, HERD)
        assert isinstance(answer_of(answers[0]).result, Rejection)
        assert {vehicle_of(answer).source for answer in answers[1:]} == {"vpic"}

    async def test_are_asked_themselves_when_vpic_finds_fault_with_the_one(
        self, lookup: Lookup, vpic_server: VpicServer
    ) -> None:
        vpic_server.records[HERD[0]] = {**flat_record(HERD[0]), "ErrorCode": "14"}
        assert {vehicle_of(answer).source for answer in await all_of(lookup, HERD)} == {"vpic"}

    async def test_are_asked_themselves_when_the_one_fails(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_next(Fault.status(404))
        async with opened(make_settings(siblings=True, source="vpic")) as lookup:
            first, *others = await all_of(lookup, HERD)
        assert isinstance(first, Failure)
        assert {vehicle_of(answer).source for answer in others} == {"vpic"}

    async def test_are_asked_themselves_when_they_are_asked_anew(
        self, lookup: Lookup, vpic_server: VpicServer, db: Path
    ) -> None:
        await all_of(lookup, HERD)
        vpic_server.reset()
        assert {*how(await all_of(lookup, HERD, refresh=True))} == {"refresh"}
        assert (sorted(asked(vpic_server)), {*sources(db)}) == (sorted(HERD), {"vpic"})

    async def test_leave_no_change_when_vpic_answers_itself(self, lookup: Lookup, db: Path) -> None:
        await all_of(lookup, HERD)
        await all_of(lookup, HERD, refresh=True)
        assert rows(db, "changes") == []

    async def test_are_as_old_as_the_answer_of_the_one(
        self, make_settings: MakeSettings, lookup: Lookup, db: Path
    ) -> None:
        await lookup.answer(HERD[0])
        age(db, HOUR)
        await lookup.answer(HERD[1])
        assert len({row["fetched_at"] for row in rows(db)}) == 1

    async def test_may_be_the_embedded_databases(self, make_settings: MakeSettings, db: Path) -> None:
        async with opened(make_settings(siblings=True, source="embedded")) as lookup:
            answers = await all_of(lookup, HERD)
        assert [vehicle_of(answer).source for answer in answers] == ["embedded"] + ["embedded-sibling"] * 19

    async def test_of_the_embedded_databases_are_asked_of_vpic_when_that_is_there(
        self, make_settings: MakeSettings, db: Path
    ) -> None:
        await told(make_settings(siblings=True, source="embedded"), *HERD)
        async with opened(make_settings(siblings=True)) as lookup:
            assert {*how(await all_of(lookup, HERD))} == {"refresh"}
        assert {*sources(db)} == {"vpic"}

    async def test_that_are_known_are_known_in_brief(self, lookup: Lookup) -> None:
        await all_of(lookup, HERD)
        assert await lookup.resolve([(vin, None) for vin in HERD], BRIEF) == [KNOWN] * 20

    async def test_are_not_kept_from_each_other_by_a_damaged_row(
        self, lookup: Lookup, vpic_server: VpicServer, db: Path
    ) -> None:
        await lookup.answer(HERD[0])
        with closing(sqlite3.connect(db)) as connection, connection:
            connection.execute("UPDATE vehicles SET record = 'no JSON'")
        assert how(await all_of(lookup, HERD[1:3])) == ["miss", "sibling"]


class TestTheDatasetteDoor:
    @pytest.fixture
    async def datasette(
        self, make_instance: MakeInstance, make_settings: MakeSettings, of_an_hour_ago: VpicServer
    ) -> Datasette:
        return await make_instance(self.asking(of_an_hour_ago, max_age="30m"))

    @staticmethod
    def asking(server: VpicServer, **settings: object) -> dict[str, object]:
        return {"source": "auto", "vpic_url": server.url, "rate": 1000, **settings}

    async def test_answers_a_stale_vehicle_as_cached(self, datasette: Datasette) -> None:
        response = await datasette.client.get(f"/lookup/{HONDA}")
        assert (response.status_code, response.json()["Cached Result?"]) == (200, True)
        assert response.headers["cache-status"].startswith("vin-datasette; hit")
        assert HOUR <= int(response.headers["age"]) < HOUR + 60

    async def test_asks_about_a_stale_vehicle_behind(
        self, datasette: Datasette, db: Path, of_an_hour_ago: VpicServer
    ) -> None:
        await datasette.client.get(f"/lookup/{HONDA}")
        await until(lambda: trims(db) == ["LATER"])
        response = await datasette.client.get(f"/lookup/{HONDA}")
        assert int(response.headers["age"]) < 60
        assert asked(of_an_hour_ago) == [HONDA]

    async def test_answers_a_stale_vehicle_though_vpic_is_silent(
        self, datasette: Datasette, of_an_hour_ago: VpicServer
    ) -> None:
        of_an_hour_ago.fail_always(Fault.silence)
        response = await asyncio.wait_for(datasette.client.get(f"/lookup/{HONDA}"), 5)
        assert response.status_code == 200

    async def test_answers_a_stale_vehicle_again_while_vpic_is_away(
        self, datasette: Datasette, of_an_hour_ago: VpicServer
    ) -> None:
        of_an_hour_ago.fail_always(AWAY)
        responses = [await datasette.client.get(f"/lookup/{HONDA}") for _ in range(3)]
        assert [(each.status_code, each.headers["vin-source"]) for each in responses] == [(200, "vpic")] * 3

    async def test_replaces_what_the_embedded_database_answered(
        self, make_instance: MakeInstance, make_settings: MakeSettings, vpic_server: VpicServer, db: Path
    ) -> None:
        await told(make_settings(source="embedded"), HONDA)
        datasette = await make_instance(self.asking(vpic_server))
        first = await datasette.client.get(f"/lookup/{HONDA}")
        await until(lambda: sources(db) == ["vpic"])
        second = await datasette.client.get(f"/lookup/{HONDA}")
        assert [each.headers["vin-source"] for each in (first, second)] == ["embedded", "vpic"]

    async def test_tells_that_a_sibling_answered(self, make_instance: MakeInstance, vpic_server: VpicServer) -> None:
        datasette = await make_instance(self.asking(vpic_server, siblings=True))
        responses = [await datasette.client.get(f"/lookup/{vin}") for vin in HERD[:2]]
        assert [each.headers["vin-source"] for each in responses] == ["vpic", "vpic-sibling"]
        assert asked(vpic_server) == [HERD[0]]
