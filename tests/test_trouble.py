"""What keeps failing is said once."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from vin_datasette.trouble import CALM, Trouble

log = logging.getLogger("vin_datasette.tests")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr("vin_datasette.trouble.time.monotonic", lambda: now[0])
    return now


@pytest.fixture
def trouble() -> Trouble:
    return Trouble(log, logging.ERROR, lambda cost: f"It is over; {cost:,} answers were not kept.")


def test_a_thousand_failures_and_their_end_are_two_lines(
    trouble: Trouble, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        trouble.met("full", "The disk is full.", cost=2)
    now[0] += CALM
    for _ in range(1000):
        trouble.passed()
    assert caplog.messages == ["The disk is full.", "It is over; 2,000 answers were not kept."]


def test_threads_that_fail_at_once_are_one_line(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(8) as threads:
        for _ in range(200):
            threads.submit(trouble.met, "full", "The disk is full.")
    assert caplog.messages == ["The disk is full."]


def test_another_reason_is_said(trouble: Trouble, caplog: pytest.LogCaptureFixture) -> None:
    for reason in ("locked", "locked", "full"):
        trouble.met(reason, f"It is {reason}.")
    assert (caplog.messages, trouble.reason) == (["It is locked.", "It is full."], "full")


def test_what_fails_now_and_then_is_one_line(
    trouble: Trouble, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        trouble.met("full", "The disk is full.")
        now[0] += CALM / 2
        trouble.passed()
    assert caplog.messages == ["The disk is full."]


def test_what_lasts_is_not_over_because_something_else_succeeds(
    trouble: Trouble, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    trouble.met("damaged", "It is damaged.", lasts=True)
    now[0] += 10 * CALM
    trouble.passed()
    assert (caplog.messages, trouble.reason) == (["It is damaged."], "damaged")


def test_what_came_after_its_end_is_said_again(
    trouble: Trouble, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        trouble.met("full", "The disk is full.", cost=1)
        now[0] += CALM
        trouble.passed()
    assert caplog.messages == ["The disk is full.", "It is over; 1 answers were not kept."] * 2


def test_of_what_is_forgotten_no_end_is_said(
    trouble: Trouble, now: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    trouble.met("full", "The disk is full.")
    trouble.forget()
    now[0] += CALM
    trouble.passed()
    assert (caplog.messages, trouble.reason) == (["The disk is full."], None)
