"""A fleet down the one path, and the account of what came of it."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vin_datasette.fleet.timed import Timed
from vin_datasette.lookup import KNOWN, Answer, Failure, Lookup, Plan
from vin_datasette.many import stream
from vin_datasette.vehicle import Rejection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vin_datasette.fleet.row import Row
    from vin_datasette.lookup import Asked, Outcome
    from vin_datasette.settings import Settings

    Sink = Callable[[Sequence[tuple[Row, Answer | Failure]]], object]


@dataclass
class Account(Timed):
    """How many VINs were asked for, and what came of them; `seconds` since it was begun.

    `unkept` are those of them whose answers could not be written to the cache.
    """

    cached: int = 0
    fetched: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    failed: int = 0
    unkept: int = 0

    @property
    def asked(self) -> int:
        """All of them."""
        return self.cached + self.fetched.total() + self.rejected + self.failed

    def __str__(self) -> str:
        fetched = f"{self.fetched.total():,} fetched"
        sources = [f"{count:,} by {source}" for source, count in sorted(self.fetched.items(), reverse=True)]
        fetched += f" ({', '.join(sources)})" if sources else ""
        parts = [f"{self.cached:,} cached", fetched, f"{self.rejected:,} rejected", f"{self.failed:,} failed"]
        parts += [f"{self.unkept:,} not kept in the cache"] if self.unkept else []
        return f"{self.asked:,} asked: {', '.join(parts)}; {self.seconds:.1f} seconds"

    def add(self, outcomes: Iterable[Answer | Failure]) -> None:
        """Count what came of some VINs."""
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                self.failed += 1
                continue
            self.unkept += not outcome.stored
            if isinstance(outcome.result, Rejection):
                self.rejected += 1
            elif outcome.cached:
                self.cached += 1
            else:
                self.fetched[outcome.result.source] += 1


async def run(
    settings: Settings,
    rows: Iterable[Row],
    account: Account,
    *,
    plan: Plan,
    sinks: Sequence[Sink] = (),
    progress: Callable[[int], object] = lambda count: None,
) -> None:
    """Look up the VINs of all `rows`, add what came of them to `account`, and give them to
    the `sinks`, some hundreds at a time and in their order; `progress` is told how many rows more are done.

    Answers are in the cache before they are told of. VINs that nobody could be asked about
    are counted, and do not end the run. With a `plan` that is `brief`, vehicles that are
    cached are not shown to sinks. Raises `InputError` where the input breaks, `CacheError`
    when the cache cannot be opened, and what the sinks raise.
    """
    read = _Read()

    def asked() -> Iterator[Asked]:
        for row in rows:
            read.keep(row)
            yield row.vin, row.model_year

    async with Lookup(settings) as path:
        path.be_patient()
        async with aclosing(stream(path, asked(), plan, read.is_full)) as answered:
            async for outcomes in answered:
                asked_for = read.first(len(outcomes))
                known = outcomes.count(KNOWN)
                account.cached += known
                if known < len(outcomes):
                    shown = _shown(asked_for, outcomes)
                    account.add(outcome for _, outcome in shown)
                    await _told(sinks, shown)
                progress(len(outcomes))


async def _told(sinks: Sequence[Sink], shown: Sequence[tuple[Row, Answer | Failure]]) -> None:
    """Give rows to all sinks, on a thread. Who is cancelled meanwhile waits a moment for it: what is
    counted should also be told, but a pipe that nobody reads may take for ever."""

    def tell() -> None:
        for sink in sinks:
            sink(shown)

    telling = asyncio.ensure_future(asyncio.to_thread(tell))
    try:
        await asyncio.shield(telling)
    except asyncio.CancelledError:
        await asyncio.wait([telling], timeout=_A_MOMENT)
        raise


_A_MOMENT = 0.2
"""Seconds that rows which are being told have to come to their end."""


class _Read:
    """Rows that were read and of which nothing has come yet. One thread keeps them, another takes them."""

    def __init__(self) -> None:
        self._rows: deque[tuple[Row, int]] = deque()
        # Of each only one thread writes to.
        self._came = self._went = 0

    def is_full(self) -> bool:
        """Whether they are so large that no more are to be read."""
        return self._came - self._went > _MOST_HELD

    def keep(self, row: Row) -> None:
        """Have one more."""
        size = _size(row)
        self._came += size
        self._rows.append((row, size))

    def first(self, count: int) -> list[Row]:
        """Take so many, in their order."""
        taken = [self._rows.popleft() for _ in range(count)]
        self._went += sum(size for _, size in taken)
        return [row for row, _ in taken]


_MOST_HELD = 64_000_000
"""Bytes, about, of rows that are held until something has come of their VINs."""


def _size(row: Row) -> int:
    """About how many bytes a row takes: eight for each value, and what is in it."""
    # The values of a text are all of them texts, which are quickly counted.
    count: Callable[[Any], int] = len if {*map(type, row.values)} <= {str} else _size_of
    return len(row.vin) + 8 * len(row.values) + sum(map(count, row.values))


def _size_of(value: object) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return 100 + sum(map(_size_of, value)) + sum(map(_size_of, value.values()))
    return 100 + sum(map(_size_of, value)) if isinstance(value, list) else 8


def _shown(rows: Sequence[Row], outcomes: Sequence[Outcome]) -> list[tuple[Row, Answer | Failure]]:
    """Rows beside what came of them, without those that are known; a row may not even have been read."""
    return [
        (row, Answer(Rejection(row.vin, row.problem), "malformed") if row.problem else outcome)
        for row, outcome in zip(rows, outcomes, strict=True)
        if isinstance(outcome, (Answer, Failure))
    ]
