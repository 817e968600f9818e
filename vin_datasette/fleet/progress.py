"""What a person sees of a run: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from vin_datasette.lookup import Failure
from vin_datasette.vehicle import Rejection
from vin_datasette.words import printable, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from vin_datasette.fleet.row import Row
    from vin_datasette.fleet.run import Account
    from vin_datasette.lookup import Answer

EVERY = 5.0
"""Seconds between lines where standard error is no terminal."""

MOST_TOLD = 20
"""Rejections and failures that are told one by one; the rest are counted."""


class Shown:
    """Shows how far a run has come, on standard error, from entering to leaving the context.

    On a terminal that is a bar, titled `title`, of the `unit`s that are done of `total`, or of
    nobody knows how many; elsewhere it is what `line` returns. With `silent` it is neither.
    What goes wrong is told always, the first `MOST_TOLD` times; `rest` says where to find the others.
    """

    def __init__(
        self, title: str, unit: str, line: Callable[[], str], *, total: int | None, rest: str, silent: bool
    ) -> None:
        self._line = line
        self._rest = rest
        self._lines = not silent and not sys.stderr.isatty()
        self._said_at = time.monotonic()
        self._told = 0
        self._open = ExitStack()
        self._bar = tqdm(total=total, desc=title, unit=unit, disable=silent or self._lines)

    def __enter__(self) -> Self:
        self._open.enter_context(self._bar)
        self._open.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if self._told > MOST_TOLD:
            print(f"… and {self._told - MOST_TOLD:,} more{self._rest}.", file=sys.stderr)  # noqa: T201

    def add(self, count: int, beside: str = "") -> None:
        """So many more are done; `beside` stands behind the bar."""
        if beside:
            self._bar.set_postfix_str(beside, refresh=not count)
        self._bar.update(count)
        if self._lines and time.monotonic() - self._said_at >= EVERY:
            self._said_at = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)  # noqa: T201

    def tell_of(self, words: str) -> None:
        """Tell of something that went wrong."""
        self._told += 1
        if self._told <= MOST_TOLD:
            self._bar.write(words, file=sys.stderr)


class Progress(Shown):
    """Shows how far the lookups of a fleet have come.

    `name` is the file that is read, None when there is none, and `given` the number of VINs
    besides. With `silent` only rejections and failures are told.
    """

    def __init__(self, account: Account, name: str | None, given: int, *, silent: bool) -> None:
        lines = _lines_in(name) if not silent and sys.stderr.isatty() else None

        def line() -> str:
            return f"{account}; {account.asked / max(account.seconds, 0.001):,.0f} a second"

        total = given if name is None else lines and given + lines
        super().__init__(
            "Looking up", "VIN", line, total=total, rest="; --rejections FILE lists them all", silent=silent
        )

    def tell(self, rows: Sequence[tuple[Row, Answer | Failure]]) -> None:
        """Tell of the rows for which there is no vehicle."""
        for words in _problems(rows):
            self.tell_of(words)


def _problems(rows: Sequence[tuple[Row, Answer | Failure]]) -> Iterator[str]:
    for row, outcome in rows:
        if isinstance(outcome, Failure):
            yield printable(f"{outcome.vin}: no source could be asked: {outcome.reason}")
        elif isinstance(outcome.result, Rejection):
            yield f"Row {row.number}: {row.problem}" if row.problem else told(outcome.result)


def _lines_in(name: str | None) -> int | None:
    """The lines of a text file, for the time that is left; None for what is no such file."""
    path = Path(name or "")
    if not path.is_file():
        return None
    count = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            if b"\0" in block:
                return None
            count += block.count(b"\n")
    return count
