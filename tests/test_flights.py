"""Flights: which questions leave when, which travel together, and who is told what came of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from tests.conftest import numbered_vins
from vin_datasette import VIN, Lookup, SourceError
from vin_datasette.flights import GATHERING, LONGEST_GATHERING, Flights
from vin_datasette.lookup import Answer
from vin_datasette.sources import Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from tests.conftest import MakeSettings
    from tests.vpic_server import VpicServer

VINS = numbered_vins(200)
QUESTIONS = [Question(vin) for vin in VINS]
A, B, C, D, E = QUESTIONS[:5]

Outcome = str | SourceError | Exception


class Far:
    """Where flights go: each batch is answered when the test lets it land."""

    def __init__(self, *, at_once: int = 2, batch_size: int = 3) -> None:
        self.batch_size = batch_size
        self.left: list[tuple[VIN, ...]] = []
        self.most_at_once = 0
        self._landing: list[asyncio.Future[list[str | SourceError]]] = []
        self.flights: Flights[str] = Flights(self._settle, lambda: self.batch_size, at_once)

    async def _settle(self, batch: Sequence[Question]) -> list[str | SourceError]:
        self.left.append(tuple(question.vin for question in batch))
        landing: asyncio.Future[list[str | SourceError]] = asyncio.get_running_loop().create_future()
        self._landing.append(landing)
        self.most_at_once = max(self.most_at_once, self.under_way)
        return await landing

    @property
    def under_way(self) -> int:
        return sum(not landing.done() for landing in self._landing)

    def ask(self, *questions: Question, hold: bool = False) -> list[asyncio.Future[str]]:
        return self.flights.board(questions, hold=hold)

    def land(self, number: int, **said: Outcome) -> None:
        """Let the batch that left as the `number`th come to its end: every VIN is answered by
        itself, but for what is `said` of it."""
        self._landing[number].set_result([said.get(vin, vin) for vin in self.left[number]])  # type: ignore[misc]

    def crash(self, number: int, error: Exception) -> None:
        self._landing[number].set_exception(error)

    def land_all(self) -> None:
        for number, landing in enumerate(self._landing):
            if not landing.done():
                self.land(number)

    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.left]


@asynccontextmanager
async def far(*, at_once: int = 2, batch_size: int = 3) -> AsyncIterator[Far]:
    there = Far(at_once=at_once, batch_size=batch_size)
    try:
        yield there
    finally:
        await there.flights.aclose()


async def turns(count: int = 1) -> None:
    """So many turns of the event loop, in which no time has to pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(true: Callable[[], object]) -> None:
    async def watch() -> None:
        while not true():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(watch(), 5)


async def never(true: Callable[[], object]) -> None:
    """Longer than anything gathers; what has not come about by then was not going to."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + 2 * LONGEST_GATHERING
    while loop.time() < ends:
        assert not true()
        await asyncio.sleep(GATHERING)


def vins(*questions: Question) -> tuple[VIN, ...]:
    return tuple(question.vin for question in questions)


async def outcomes(flights: Iterable[asyncio.Future[str]]) -> list[str | BaseException]:
    return list(await asyncio.wait_for(asyncio.gather(*flights, return_exceptions=True), 5))


class TestWhatFindsNothingUnderWay:
    async def test_leaves_within_two_turns_of_the_loop(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            assert there.left == [vins(A)]

    async def test_leaves_at_once_each_time(self) -> None:
        async with far() as there:
            for number, question in enumerate(QUESTIONS[:5]):
                [flight] = there.ask(question)
                await turns(2)
                there.land(number)
                await flight
                await turns(2)
        assert there.left == [vins(question) for question in QUESTIONS[:5]]

    async def test_takes_along_what_is_asked_in_the_same_turn(self) -> None:
        async with far() as there:
            there.ask(A)
            there.ask(B)
            await turns(2)
            assert there.left == [vins(A, B)]

    async def test_takes_along_what_tasks_ask_that_start_in_the_same_turn(self) -> None:
        async with far() as there:

            async def ask(question: Question) -> str:
                return await there.ask(question)[0]

            tasks = [asyncio.create_task(ask(question)) for question in (A, B, C)]
            await until(lambda: there.left)
            assert there.left == [vins(A, B, C)]
            there.land_all()
            await asyncio.gather(*tasks)

    async def test_does_not_leave_in_the_turn_in_which_it_is_asked(self) -> None:
        async with far() as there:
            there.ask(A)
            assert (there.left, there.flights.waiting, there.flights.in_flight) == ([], 1, 0)


class TestWhatComesWhileABatchIsUnderWay:
    async def test_travels_as_one(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            await turns(3)
            there.ask(C)
            await until(lambda: len(there.left) == 2)
            assert there.left == [vins(A), vins(B, C)]

    async def test_does_not_leave_at_once(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            await turns(3)
            assert (there.left, there.flights.waiting) == ([vins(A)], 1)

    async def test_leaves_though_the_first_has_not_landed(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            await until(lambda: len(there.left) == 2)
            assert there.under_way == 2

    async def test_leaves_when_the_first_lands(self) -> None:
        async with far() as there:
            [first] = there.ask(A)
            await turns(2)
            there.ask(B)
            there.land(0)
            await first
            await turns(3)
            assert there.left == [vins(A), vins(B)]

    async def test_leaves_though_further_questions_never_end(self) -> None:
        async with far(batch_size=200) as there:
            there.ask(A)
            await turns(2)
            asked = iter(QUESTIONS[1:])
            loop = asyncio.get_running_loop()
            ends = loop.time() + 40 * LONGEST_GATHERING
            while len(there.left) == 1 and loop.time() < ends:
                there.ask(next(asked))
                await asyncio.sleep(GATHERING / 4)
            assert len(there.left) == 2

    async def test_leaves_at_once_when_it_fills_a_batch(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            there.ask(B, C, D)
            await turns(1)
            assert there.left == [vins(A), vins(B, C, D)]

    async def test_waits_for_a_place_where_all_are_taken(self) -> None:
        async with far(at_once=1) as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            await never(lambda: len(there.left) > 1)

    async def test_goes_as_one_when_a_place_is_free(self) -> None:
        async with far(at_once=1) as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            await turns(2)
            there.ask(C)
            there.land(0)
            await until(lambda: len(there.left) == 2)
            assert there.left[1] == vins(B, C)


class TestFullBatches:
    async def test_leave_within_a_turn_while_there_are_places(self) -> None:
        async with far(at_once=2, batch_size=3) as there:
            there.ask(*QUESTIONS[:6])
            await turns(1)
            assert there.sizes() == [3, 3]

    async def test_hold_as_many_as_a_source_takes_just_then(self) -> None:
        async with far(at_once=4, batch_size=3) as there:
            there.ask(*QUESTIONS[:3])
            there.batch_size = 5
            there.ask(*QUESTIONS[3:8])
            await turns(1)
            assert there.sizes() == [3, 5]

    @pytest.mark.parametrize("at_once", [1, 2, 5])
    async def test_are_never_more_at_once_than_there_are_places(self, at_once: int) -> None:
        async with far(at_once=at_once) as there:
            flights = there.ask(*QUESTIONS[:40])
            while not all(flight.done() for flight in flights):
                await turns(2)
                there.land_all()
            assert there.most_at_once == at_once

    async def test_are_made_of_what_waited_for_a_place(self) -> None:
        async with far(at_once=1, batch_size=3) as there:
            for question in QUESTIONS[:10]:
                there.ask(question)
                await turns(2)
            flights = there.ask(*QUESTIONS[:10])
            while not all(flight.done() for flight in flights):
                there.land_all()
                await turns(3)
            assert there.sizes() == [1, 3, 3, 3]

    @settings(deadline=None, max_examples=40)
    @given(
        st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.booleans(), st.booleans()), max_size=12),
        st.integers(1, 3),
        st.integers(1, 4),
    )
    def test_answer_each_vin_that_is_asked_in_whichever_way_once_at_a_time(
        self, steps: list[tuple[int, int, bool, bool]], at_once: int, batch_size: int
    ) -> None:
        async def ask_them() -> None:
            async with far(at_once=at_once, batch_size=batch_size) as there:
                asked: list[tuple[VIN, asyncio.Future[str]]] = []
                for start, count, hold, lands in steps:
                    part = QUESTIONS[start : start + count]
                    asked += zip(vins(*part), there.ask(*part, hold=hold), strict=True)
                    await turns(2)
                    under_way = Counter(
                        vin for batch in there.left[-there.under_way or len(there.left) :] for vin in batch
                    )
                    assert not under_way or max(under_way.values()) == 1
                    if lands:
                        there.land_all()
                while not all(flight.done() for _, flight in asked):
                    there.flights.flush()
                    await turns(3)
                    there.land_all()
                assert [flight.result() for _, flight in asked] == [vin for vin, _ in asked]
                assert there.most_at_once <= at_once
                assert max(there.sizes(), default=0) <= batch_size

        asyncio.run(ask_them())


class TestOneVin:
    async def test_has_one_flight_however_many_ask(self) -> None:
        async with far() as there:
            flights = [there.ask(A)[0] for _ in range(1_000)]
            await turns(2)
            assert (len({id(flight) for flight in flights}), there.left) == (1, [vins(A)])

    async def test_that_is_asked_twice_at_once_travels_once(self) -> None:
        async with far() as there:
            flights = there.ask(A, B, A)
            await turns(2)
            assert (there.left, flights[0]) == ([vins(A, B)], flights[2])

    async def test_has_the_same_flight_after_it_has_left(self) -> None:
        async with far() as there:
            [first] = there.ask(A)
            await turns(2)
            assert there.ask(A) == [first]

    async def test_is_asked_anew_after_its_flight_has_landed(self) -> None:
        async with far() as there:
            [first] = there.ask(A)
            await turns(2)
            there.land(0)
            await first
            there.ask(A)
            await until(lambda: len(there.left) == 2)
            assert there.left == [vins(A), vins(A)]

    async def test_is_asked_anew_after_its_flight_has_failed(self) -> None:
        async with far() as there:
            flights = there.ask(A)
            await turns(2)
            there.crash(0, SourceError("away"))
            await outcomes(flights)
            there.ask(A)
            await until(lambda: len(there.left) == 2)
            assert there.left == [vins(A), vins(A)]


class TestHeldQuestions:
    async def test_wait(self) -> None:
        async with far() as there:
            there.ask(A, B, hold=True)
            await never(lambda: there.left)

    async def test_leave_when_they_fill_a_batch(self) -> None:
        async with far() as there:
            there.ask(A, B, hold=True)
            there.ask(C, D, hold=True)
            await turns(1)
            assert (there.left, there.flights.waiting) == ([vins(A, B, C)], 1)

    async def test_leave_the_rest_of_a_full_batch_behind(self) -> None:
        async with far() as there:
            there.ask(A, B, C, D, hold=True)
            await turns(2)
            there.land(0)
            await never(lambda: len(there.left) > 1)

    async def test_leave_when_they_are_flushed(self) -> None:
        async with far() as there:
            there.ask(A, B, hold=True)
            there.flights.flush()
            await turns(2)
            assert there.left == [vins(A, B)]

    async def test_leave_with_a_later_question_that_is_not_held(self) -> None:
        async with far() as there:
            there.ask(A, hold=True)
            there.ask(B)
            await turns(2)
            assert there.left == [vins(A, B)]

    async def test_do_not_hold_what_came_before_them(self) -> None:
        async with far() as there:
            there.ask(A)
            there.ask(B, hold=True)
            await until(lambda: there.left)
            assert there.left[0][0] == A.vin

    async def test_do_not_hold_what_gathers_while_a_batch_is_under_way(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            there.ask(C, hold=True)
            await until(lambda: len(there.left) == 2)
            assert there.left[1][0] == B.vin

    async def test_that_are_flushed_wait_for_a_place(self) -> None:
        async with far(at_once=1) as there:
            there.ask(A)
            await turns(2)
            there.ask(B, hold=True)
            there.flights.flush()
            await never(lambda: len(there.left) > 1)

    async def test_that_were_flushed_leave_when_there_is_a_place(self) -> None:
        async with far(at_once=1) as there:
            there.ask(A)
            await turns(2)
            there.ask(B, hold=True)
            there.flights.flush()
            there.land(0)
            await until(lambda: len(there.left) == 2)
            assert there.left[1] == vins(B)

    async def test_are_none_to_be_flushed(self) -> None:
        async with far() as there:
            there.flights.flush()
            await turns(3)
            assert there.left == []


class TestErrors:
    async def test_of_one_question_reaches_only_that_one(self) -> None:
        error = SourceError("it chokes")
        async with far() as there:
            flights = there.ask(A, B, C)
            await turns(2)
            there.land(0, **{B.vin: error})
            assert await outcomes(flights) == [A.vin, error, C.vin]

    async def test_of_a_source_reaches_all_of_the_batch(self) -> None:
        error = SourceError("away")
        async with far() as there:
            flights = there.ask(A, B, C)
            await turns(2)
            there.crash(0, error)
            assert await outcomes(flights) == [error] * 3

    async def test_of_a_source_reaches_nobody_else(self) -> None:
        async with far() as there:
            first, second = there.ask(*QUESTIONS[:3]), there.ask(*QUESTIONS[3:6])
            await turns(2)
            there.crash(0, SourceError("away"))
            await outcomes(first)
            there.land(1)
            assert await outcomes(second) == list(VINS[3:6])

    async def test_that_nobody_expected_reach_all_of_the_batch_in_words(self, caplog: pytest.LogCaptureFixture) -> None:
        async with far() as there:
            flights = there.ask(A, B)
            await turns(2)
            there.crash(0, ZeroDivisionError("a defect"))
            assert (
                list(map(repr, await outcomes(flights)))
                == [repr(SourceError("an unexpected error: a defect", transient=False))] * 2
            )
        assert "ZeroDivisionError: a defect" in caplog.text

    async def test_that_nobody_expected_reach_nobody_else(self) -> None:
        async with far() as there:
            first, second = there.ask(*QUESTIONS[:3]), there.ask(*QUESTIONS[3:6])
            await turns(2)
            there.crash(0, ZeroDivisionError("a defect"))
            await outcomes(first)
            there.land(1)
            assert await outcomes(second) == list(VINS[3:6])

    @pytest.mark.parametrize("results", [[], ["one"], ["one", "two", "three"]], ids=len)
    async def test_in_the_number_of_results_leave_nobody_waiting(self, results: list[str | SourceError]) -> None:
        async def settle(_: Sequence[Question]) -> list[str | SourceError]:
            return results

        flights: Flights[str] = Flights(settle, lambda: 3, 2)
        said = await outcomes(flights.board([A, B]))
        assert [type(each) for each in said] == [SourceError] * 2
        await flights.aclose()

    async def test_free_the_place(self) -> None:
        async with far(at_once=1) as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            there.crash(0, ZeroDivisionError("a defect"))
            await until(lambda: len(there.left) == 2)
            assert there.left[1] == vins(B)


class TestWhoLeaves:
    async def test_does_not_end_the_flight(self) -> None:
        async with far() as there:

            async def wait() -> str:
                return await asyncio.shield(there.ask(A)[0])

            leaving, staying = asyncio.create_task(wait()), asyncio.create_task(wait())
            await until(lambda: there.left)
            leaving.cancel()
            await turns(2)
            there.land(0)
            assert (await staying, leaving.cancelled(), there.left) == (A.vin, True, [vins(A)])

    async def test_leaves_an_error_behind_that_is_nobodys(self) -> None:
        async with far() as there:
            waiting = asyncio.create_task(asyncio.wait_for(asyncio.shield(there.ask(A)[0]), 60))
            await until(lambda: there.left)
            waiting.cancel()
            await turns(2)
            there.crash(0, SourceError("away"))
            await until(lambda: not there.flights.in_flight)


class TestTheEnd:
    async def test_reaches_all_who_wait(self) -> None:
        async with far(at_once=1) as there:
            flights = there.ask(*QUESTIONS[:7])
            held = there.ask(QUESTIONS[7], hold=True)
            await turns(2)
            await there.flights.aclose()
            said = await outcomes([*flights, *held])
        assert [(str(each), getattr(each, "asked", None)) for each in said] == [
            ("the lookup was ended before a source answered", False)
        ] * 8

    async def test_leaves_nothing_behind(self) -> None:
        async with far(at_once=1) as there:
            there.ask(*QUESTIONS[:7])
            await turns(2)
            await there.flights.aclose()
            assert (there.flights.waiting, there.flights.in_flight) == (0, 0)

    async def test_before_a_batch_has_begun_reaches_who_waits(self) -> None:
        async with far() as there:
            flights = there.ask(A, B, C)
            await there.flights.aclose()
            assert (there.left, [type(each) for each in await outcomes(flights)]) == ([], [SourceError] * 3)

    async def test_sends_nothing_more_when_a_batch_has_just_landed(self) -> None:
        async with far(at_once=1) as there:
            [first] = there.ask(A)
            await turns(2)
            waiting = there.ask(B)
            there.land(0)
            await first
            await there.flights.aclose()
            await turns(3)
            assert (there.left, [type(each) for each in await outcomes(waiting)]) == ([vins(A)], [SourceError])

    async def test_reaches_what_is_asked_meanwhile(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            ending = asyncio.create_task(there.flights.aclose())
            await turns(1)
            late = there.ask(B, C, D)
            await ending
            assert [type(each) for each in await outcomes(late)] == [SourceError] * 3

    async def test_is_a_beginning_for_what_is_asked_later(self) -> None:
        async with far() as there:
            there.ask(A)
            await turns(2)
            there.ask(B)
            await there.flights.aclose()
            [late] = there.ask(C)
            await until(lambda: len(there.left) == 2)
            there.land(1)
            assert await late == C.vin

    async def test_of_what_was_never_used_is_none(self) -> None:
        await Far().flights.aclose()


class TestThroughALookup:
    async def test_two_hundred_at_once_make_few_calls(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with Lookup(make_settings(concurrency=8, rate=10_000)) as lookup:
            answers = await asyncio.gather(*(lookup.answer(vin) for vin in VINS))
        assert [answer.vehicle.vin for answer in answers] == VINS
        assert len(vpic_server.calls) <= 8

    async def test_a_thousand_at_once_for_one_vin_make_one_call(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with Lookup(make_settings(concurrency=8, rate=10_000)) as lookup:
            answers = await asyncio.gather(*(lookup.answer(VINS[0]) for _ in range(1_000)))
        assert {answer.vehicle.vin for answer in answers} == {VINS[0]}
        assert [call.vins for call in vpic_server.calls] == [(VINS[0],)]

    async def test_one_after_another_each_leave_at_once(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        async with Lookup(make_settings()) as lookup:
            for vin in VINS[:5]:
                assert isinstance(await lookup.answer(vin), Answer)
        assert [call.vins for call in vpic_server.calls] == [(vin,) for vin in VINS[:5]]


# Who leaves


async def test_questions_whose_caller_has_left_are_not_sent() -> None:
    async with far(at_once=1, batch_size=2) as there:
        there.ask(A, B)
        await until(lambda: there.left)
        rest = there.ask(C, D)
        there.flights.leave([C, D])
        assert there.flights.waiting == 0
        assert all(isinstance(outcome, SourceError) for outcome in await outcomes(rest))
        there.land(0)
        await never(lambda: len(there.left) > 1)


async def test_question_that_another_waits_for_is_sent_though_one_has_left() -> None:
    async with far(at_once=1, batch_size=2) as there:
        there.ask(A, B)
        await until(lambda: there.left)
        there.ask(C, D)
        [other] = there.ask(C)
        there.flights.leave([C, D])
        there.land(0)
        await until(lambda: len(there.left) == 2)
        assert there.left[1] == vins(C)
        there.land(1)
        assert await other == C.vin


async def test_question_that_is_on_its_way_lands_though_its_caller_has_left() -> None:
    async with far(at_once=1, batch_size=2) as there:
        [first, _] = there.ask(A, B)
        await until(lambda: there.left)
        there.flights.leave([A, B])
        [again] = there.ask(A)
        assert again is first
        there.land(0)
        assert await again == A.vin


async def test_question_can_be_asked_again_after_it_was_left() -> None:
    async with far(at_once=1, batch_size=2) as there:
        there.ask(A, B)
        await until(lambda: there.left)
        there.ask(C)
        there.flights.leave([C])
        [again] = there.ask(C)
        there.land(0)
        await until(lambda: len(there.left) == 2)
        there.land(1)
        assert await again == C.vin


async def test_held_questions_that_are_left_hold_nobody_up() -> None:
    async with far(at_once=1, batch_size=3) as there:
        there.ask(A, B, hold=True)
        there.flights.leave([A, B])
        there.ask(C)
        await until(lambda: there.left == [vins(C)])
        assert there.flights.waiting == 0


async def test_many_vins_that_nobody_wants_any_more_are_not_asked(
    make_settings: MakeSettings, vpic_server: VpicServer
) -> None:
    vpic_server.latency = 0.05
    async with Lookup(make_settings(source="vpic", batch_size=5, concurrency=1)) as path:
        work = asyncio.create_task(path.resolve([(vin, None) for vin in VINS[:100]]))
        await until(lambda: vpic_server.calls)
        work.cancel()
        await asyncio.wait([work])
        await path.answer(VINS[150])
    asked = [vin for call in vpic_server.calls for vin in call.vins]
    assert asked[-1] == VINS[150]
    # No more than what was on its way: the places are two for each call in flight.
    assert len(asked) <= 2 * 5 + 1
