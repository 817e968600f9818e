"""All files of a lake, down the hands of a crew, and the account of what came of them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vin_datasette.export import ExportError, clear_leftovers, in_words
from vin_datasette.fleet.timed import Timed
from vin_datasette.words import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vin_datasette.fleet.progress import Shown
    from vin_datasette.lake.crew import Crew
    from vin_datasette.lake.decoding import Outcome, Wanted
    from vin_datasette.lake.files import Pair

TICK = 0.2
"""Seconds between looks at how far a crew is, at most."""


@dataclass
class Account(Timed):
    """How many of all `files` were `decoded`, were `done` by a run before or `failed`, and how many `rows`
    the decoded ones have, of which so many `rejected`; `seconds` since it was begun.

    `rows_by_now` are those rows with what is known of files in hand.
    """

    files: int
    decoded: int = 0
    done: int = 0
    failed: int = 0
    rows: int = 0
    rejected: int = 0
    rows_by_now: int = 0

    def __str__(self) -> str:
        of = counted(self.files, "file")
        files = f"{of}: {self.decoded:,} decoded, {self.done:,} done before, {self.failed:,} failed"
        rows = f"{counted(self.rows, 'row')}: {self.rows - self.rejected:,} vehicles, {self.rejected:,} rejected"
        return f"{files}; {rows}; {self.seconds:.1f} seconds"

    def so_far(self) -> str:
        """How far it has come, in a line."""
        ended = self.decoded + self.done + self.failed
        rate = self.rows_by_now / max(self.seconds, 0.001)
        return f"{ended:,} of {self.files:,} files, {self.rows_by_now:,} rows; {rate:,.0f} a second"

    def add(self, outcome: Outcome) -> None:
        """Count what came of a file."""
        self.decoded += not (outcome.was_done or outcome.problem)
        self.done += outcome.was_done
        self.failed += bool(outcome.problem)
        self.rows += outcome.rows
        self.rejected += outcome.rejected


def make_ready(out: str, files: Sequence[Pair]) -> None:
    """Make the folder `out` where it is not there, see that it can be written to, and remove what runs that were
    killed have left in it. Raises `ExportError`."""
    with in_words(out):
        os.makedirs(out, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    clear_leftovers(Path(pair.target) for pair in files)


def run(  # noqa: PLR0917 - each is one of a kind
    files: Sequence[Pair],
    wanted: Wanted,
    crew: Crew,
    account: Account,
    shown: Shown,
    heed: Callable[[], object] = lambda: None,
) -> None:
    """Let a crew decode all `files`, some at a time, and add what came of each to `account`; `shown` tells of
    those that failed, which cost the others nothing. `heed` is called every `TICK` and may raise to end it.

    Raises `CrewError` when nobody is there to decode any more, and `ExportError` when no file can be written.
    """
    waiting = iter(files)
    while True:
        try:
            for pair in islice(waiting, crew.room()):
                crew.begin(pair, wanted)
            if not crew.in_hand:
                return
            outcomes = crew.ended(TICK)
        finally:
            # What has ended the crew may have been sent to all.
            heed()
        for outcome in outcomes:
            account.add(outcome)
            if outcome.problem:
                shown.tell_of(printable(outcome.problem))
        account.rows_by_now = max(account.rows, crew.rows())
        shown.add(len(outcomes), f"{account.rows_by_now:,} rows")
        if any(outcome.is_hopeless for outcome in outcomes):
            raise ExportError("No other file is begun, for the same would happen to it.")
