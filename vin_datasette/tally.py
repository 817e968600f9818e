"""What a lookup path has done so far, counted for whoever watches it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: the upper bounds of the buckets in which times are counted, the last of all but without one."""


class Times:
    """How long something took, as a histogram: how often in each bucket of `BOUNDS`, and in all."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count once more."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def buckets(self) -> Iterator[tuple[str, int]]:
        """The upper bound of each bucket, and how many took no longer, in the manner of
        Prometheus: cumulative, and `+Inf` for the last."""
        total = 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), self._counts, strict=True):
            total += count
            yield bound, total


class Tally:
    """Counts of one lookup path since it was made.

    `lookups` by how an answer came about (`hit`, `miss` …) and what it is (`vehicle`,
    `rejection` or `failure`); `lookup_times` of those that came one at a time, by how; `records`
    that a source gave, by source; `calls` to vPIC by what came of them (`answered`, or the
    kind of a `SourceError`), and `call_times`; `refused` what was turned away, by what there was
    too much of.
    """

    def __init__(self) -> None:
        self.lookups: Counter[tuple[str, str]] = Counter()
        self.lookup_times: dict[str, Times] = {}
        self.records: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.call_times = Times()
        self.refused: Counter[str] = Counter()

    def looked_up(self, how: str, result: str, seconds: float | None = None) -> None:
        """Count a lookup; with the time that it took where it came alone."""
        self.lookups[how, result] += 1
        if seconds is not None:
            times = self.lookup_times.get(how) or self.lookup_times.setdefault(how, Times())
            times.add(seconds)

    def called(self, outcome: str, seconds: float) -> None:
        """Count a call to vPIC."""
        self.calls[outcome] += 1
        self.call_times.add(seconds)
