"""A circuit breaker: a source that is away is asked by one caller now and then, not by all."""

from __future__ import annotations

import time

FIRST_PAUSE = 30.0
LONGEST_PAUSE = 300.0
"""Seconds that a source is left alone after a failure; doubled with each further one."""

LONGEST_RETRY_AFTER = 3600.0
"""Seconds that a source is believed when it says how long it will be away."""


class Breaker:
    """Closed while the source answers. A failure opens it for a pause, after which
    one caller is let through; the others are refused until that one has come back.

    (Libraries let every caller through once the pause is over, and each of them
    would wait out the time limit of a source that is still away.)
    """

    def __init__(self) -> None:
        self._failures = 0
        self._opens_at = 0.0
        self._trying = False

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        if not self._failures:
            return "closed"
        return "half-open" if self._trying else "open"

    @property
    def pause(self) -> float:
        """Seconds until the next caller is let through; 0 when it may be now."""
        return max(0.0, self._opens_at - time.monotonic()) if self._failures else 0.0

    def admits(self) -> bool:
        """Whether the caller may ask. Whoever is admitted tells the outcome by
        `succeeded`, `failed` or `abandoned`."""
        if not self._failures:
            return True
        if self._trying or self.pause:
            return False
        self._trying = True
        return True

    def succeeded(self) -> bool:
        """The source answered; whether it had been away."""
        was_away = bool(self._failures)
        self._failures, self._trying = 0, False
        return was_away

    def failed(self, retry_after: float | None = None) -> bool:
        """The source is away, and said to come back in `retry_after` seconds or said
        nothing; whether this is news."""
        if self._failures and not self._trying:
            # Asked before the first failure was known, so it tells nothing new.
            return False
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures, 10))
        self._opens_at = time.monotonic() + min(max(pause, retry_after or 0.0), LONGEST_RETRY_AFTER)
        self._failures += 1
        self._trying = False
        return self._failures == 1

    def abandoned(self) -> None:
        """The caller went away before there was an outcome."""
        self._trying = False
