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
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from vin_datasette.fleet.row import Row
    from vin_datasette.fleet.run import Account
    from vin_datasette.lookup import Answer

EVERY = 5.0
"""Seconds between lines where standard error is no terminal."""

MOST_TOLD = 20
"""Rejections and failures that are told one by one; the rest are counted."""


class Progress:
    """Shows how far a run has come, on standard error, from entering to leaving the context.

    `name` is the file that is read, None when there is none, and `given` the number of VINs
    besides. With `silent` only rejections and failures are told.
    """

    def __init__(self, account: Account, name: str | None, given: int, *, silent: bool) -> None:
        self._account = account
        self._lines = not silent and not sys.stderr.isatty()
        self._said_at = time.monotonic()
        self._told = 0
        self._open = ExitStack()
        bar_shown = not silent and not self._lines
        lines = _lines_in(name) if bar_shown else None
        total = given if name is None else lines and given + lines
        self._bar = tqdm(total=total, desc="Looking up", unit="VIN", disable=not bar_shown)

    def __enter__(self) -> Progress:
        self._open.enter_context(self._bar)
        self._open.enter_context(logging_redirect_tqdm())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if self._told > MOST_TOLD:
            print(f"… and {self._told - MOST_TOLD:,} more; --rejections FILE lists them all.", file=sys.stderr)  # noqa: T201

    def add(self, count: int) -> None:
        """So many rows more are done."""
        self._bar.update(count)
        if self._lines and time.monotonic() - self._said_at >= EVERY:
            self._said_at = time.monotonic()
            rate = self._account.asked / max(self._account.seconds, 0.001)
            print(f"{self._account}; {rate:,.0f} a second", file=sys.stderr, flush=True)  # noqa: T201

    def tell(self, rows: Sequence[tuple[Row, Answer | Failure]]) -> None:
        """Tell of the rows for which there is no vehicle."""
        for words in _problems(rows):
            self._told += 1
            if self._told <= MOST_TOLD:
                self._bar.write(words, file=sys.stderr)


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
