"""What keeps failing, said once in the log and not each time."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

CALM = 10.0
"""Seconds without a failure after which a success ends a trouble: what fails now and then would fill the log."""


class Trouble:
    """One thing that may fail many times a second, and is said in `log`, at `level`, when it
    begins, when its reason changes and when it is over, in the words of `over`, which is
    given how much it has cost. Safe to use from several threads.
    """

    def __init__(self, log: logging.Logger, level: int, over: Callable[[int], str]) -> None:
        self._log = log
        self._level = level
        self._over = over
        self._lock = threading.Lock()
        self.reason: str | None = None
        """Why it failed when it was last tried; None while there is no trouble."""
        self._lasts = False
        self._cost = 0
        self._met_at = 0.0

    def met(self, reason: str, words: str, *, cost: int = 0, lasts: bool = False) -> None:
        """It has failed for `reason`, at the cost of so many answers: say `words`, unless that is
        known. One that `lasts` is not over because something else succeeds."""
        with self._lock:
            is_news = reason != self.reason
            self.reason, self._lasts, self._met_at = reason, lasts, time.monotonic()
            self._cost += cost
        if is_news:
            self._log.log(self._level, "%s", words)

    def passed(self) -> None:
        """It has succeeded: say that it is over, if there was trouble and is none any more."""
        # Most that succeeds never failed, and need not wait for each other to say so.
        if self.reason is None or self._lasts:
            return
        with self._lock:
            if self.reason is None or self._lasts or time.monotonic() - self._met_at < CALM:
                return
            words = self._over(self._cost)
            self.reason, self._cost = None, 0
        self._log.warning("%s", words)

    def forget(self) -> None:
        """It was of something that is no more: say nothing."""
        with self._lock:
            self.reason, self._lasts, self._cost = None, False, 0
