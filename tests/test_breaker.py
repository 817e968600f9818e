"""A source that is away is left alone for a while, and then asked by one caller."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from vin_datasette.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("vin_datasette.breaker.time", SimpleNamespace(monotonic=clock))
    return clock


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker()


def fail_again(breaker: Breaker, clock: Clock) -> float:
    """The pause after one more failure, of the one who may ask next."""
    clock.go(breaker.pause)
    assert breaker.admits()
    breaker.failed()
    return breaker.pause


def test_a_new_breaker_is_closed(breaker: Breaker) -> None:
    assert (breaker.state, breaker.pause) == ("closed", 0.0)


def test_a_closed_breaker_admits_everybody(breaker: Breaker) -> None:
    assert all(breaker.admits() for _ in range(100))


def test_a_failure_opens(breaker: Breaker) -> None:
    breaker.admits()
    breaker.failed()
    assert (breaker.state, breaker.pause) == ("open", FIRST_PAUSE)


def test_an_open_breaker_admits_nobody_to_the_end_of_its_pause(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(FIRST_PAUSE - 0.01)
    assert not breaker.admits()


def test_the_pause_runs_down(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(10)
    assert breaker.pause == FIRST_PAUSE - 10


def test_the_pause_ends_at_nought(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(FIRST_PAUSE + 10)
    assert breaker.pause == 0.0


def test_after_the_pause_one_caller_is_let_through(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(FIRST_PAUSE)
    assert [breaker.admits() for _ in range(5)] == [True, False, False, False, False]


def test_while_that_caller_asks_the_breaker_is_half_open(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(FIRST_PAUSE)
    breaker.admits()
    assert breaker.state == "half-open"


def test_the_others_wait_for_that_caller_however_long_it_takes(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(FIRST_PAUSE)
    breaker.admits()
    clock.go(10 * LONGEST_PAUSE)
    assert not breaker.admits()


def test_an_answer_closes(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(FIRST_PAUSE)
    breaker.admits()
    breaker.succeeded()
    assert (breaker.state, breaker.pause, breaker.admits(), breaker.admits()) == ("closed", 0.0, True, True)


def test_a_caller_who_goes_away_leaves_the_try_to_the_next(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    clock.go(FIRST_PAUSE)
    breaker.admits()
    breaker.abandoned()
    assert (breaker.state, breaker.admits(), breaker.admits()) == ("open", True, False)


def test_a_caller_who_goes_away_does_not_open_a_closed_breaker(breaker: Breaker) -> None:
    breaker.admits()
    breaker.abandoned()
    assert (breaker.state, breaker.admits()) == ("closed", True)


def test_each_further_failure_doubles_the_pause_up_to_the_longest(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    pauses = [breaker.pause, *(fail_again(breaker, clock) for _ in range(6))]
    assert pauses == [30, 60, 120, 240, 300, 300, 300]


def test_two_callers_who_fail_together_count_once(breaker: Breaker) -> None:
    news = [breaker.failed(), breaker.failed()]
    assert (news, breaker.pause) == ([True, False], 30)


def test_a_source_that_names_a_pause_of_years_is_believed_for_an_hour(breaker: Breaker) -> None:
    breaker.failed(retry_after=1e9)
    assert breaker.pause == 3600


def test_the_pause_stays_the_longest_after_thousands_of_failures(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    for _ in range(5_000):
        fail_again(breaker, clock)
    assert breaker.pause == LONGEST_PAUSE


def test_an_answer_makes_the_next_pause_the_first_again(breaker: Breaker, clock: Clock) -> None:
    breaker.failed()
    fail_again(breaker, clock)
    breaker.succeeded()
    breaker.failed()
    assert breaker.pause == FIRST_PAUSE


@pytest.mark.parametrize(
    ("retry_after", "pause"), [(None, 30), (0.0, 30), (-5.0, 30), (29.0, 30), (31.0, 31), (3600.0, 3600)]
)
def test_the_source_may_ask_for_a_longer_pause_and_not_for_a_shorter(
    breaker: Breaker, retry_after: float | None, pause: float
) -> None:
    breaker.failed(retry_after)
    assert breaker.pause == pause


def test_only_the_first_failure_is_news(breaker: Breaker, clock: Clock) -> None:
    first = breaker.failed()
    clock.go(FIRST_PAUSE)
    breaker.admits()
    assert (first, breaker.failed()) == (True, False)


def test_only_the_answer_after_a_failure_is_news(breaker: Breaker) -> None:
    before = breaker.succeeded()
    breaker.failed()
    assert (before, breaker.succeeded(), breaker.succeeded()) == (False, True, False)


def test_a_failure_after_an_answer_is_news_again(breaker: Breaker) -> None:
    breaker.failed()
    breaker.succeeded()
    assert breaker.failed()


def test_callers_who_fail_together_do_not_let_a_second_one_through(breaker: Breaker, clock: Clock) -> None:
    assert [breaker.admits(), breaker.admits()] == [True, True]
    breaker.failed()
    breaker.failed()
    clock.go(breaker.pause)
    assert [breaker.admits(), breaker.admits()] == [True, False]
