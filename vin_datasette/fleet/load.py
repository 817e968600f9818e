"""Decoded files into the cache: what an engine answered far away, for browsing here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vin_datasette.fleet.decoded import LeftOut, decoded_rows
from vin_datasette.fleet.fleet import InputError
from vin_datasette.fleet.timed import Timed
from vin_datasette.lake.files import no_parquet_in, parquet_files
from vin_datasette.vehicle import Vehicle
from vin_datasette.words import counted, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vin_datasette.cache import Cache
    from vin_datasette.fleet.progress import Shown
    from vin_datasette.vehicle import CheckDigitRule, Rejection

_ROWS_AT_ONCE = 2_000
_SIZE_AT_ONCE = 16_000_000
"""Rows, and characters of records, of a transaction: other writers of the cache wait for it, and a process
that is killed loses it."""


@dataclass
class Loading(Timed):
    """How many rows were read, and what came of them; `seconds` since it was begun.

    `loaded` are vehicles that are in the cache now and were not, or not as good; `there` those for which it
    had as much; `rejected` VINs for which there is no vehicle, and `left_out` rows that are none of
    these. `files` were begun; `unread` are those that could not be read to their end, and folders without any.
    """

    loaded: int = 0
    there: int = 0
    rejected: int = 0
    left_out: int = 0
    files: int = 0
    unread: int = 0

    @property
    def rows(self) -> int:
        """All of them."""
        return self.loaded + self.there + self.rejected + self.left_out

    def __str__(self) -> str:
        parts = [f"{self.loaded:,} loaded", f"{self.there:,} already there", f"{self.rejected:,} rejected"]
        parts += [f"{self.left_out:,} left out"]
        parts += [f"{counted(self.unread, 'file')} not read"] if self.unread else []
        of = f"{counted(self.rows, 'row')} of {counted(self.files, 'file')}"
        return f"{of}: {', '.join(parts)}; {self.seconds:.1f} seconds"

    def so_far(self) -> str:
        """How far it has come, in a line."""
        return f"{self}; {self.rows / max(self.seconds, 0.001):,.0f} a second"


def load_files(
    cache: Cache,
    paths: Iterable[str],
    account: Loading,
    shown: Shown,
    *,
    column: str | None,
    check_digit: CheckDigitRule,
) -> None:
    """Put the answers in Parquet files, and in those of folders, into a cache, and add what came of them to `account`.

    The rows are those of `decoded_rows`, read as a stream and kept some thousands at a time, each where it is
    better than what the cache has (see `Cache.save`): what was loaded before is not written again.
    `shown` tells of files that cannot be read, and of rows of which nothing can be kept, which cost
    the others nothing. Raises `sqlite3.Error` and `CacheError` when the cache cannot be written; what
    was kept before stays.
    """
    batch = _Batch(cache, account, shown)
    for path in _files(paths, account, shown):
        account.files += 1
        try:
            for row in decoded_rows(path, column):
                try:
                    batch.add(row.answer(check_digit), len(row.said.get("record") or ""))
                except LeftOut as reason:
                    account.left_out += 1
                    shown.tell_of(printable(f"{path}, row {row.number:,}: {reason}"))
        except InputError as error:
            account.unread += 1
            shown.tell_of(printable(str(error)))
    batch.save()


class _Batch:
    """Answers that are kept in one transaction."""

    def __init__(self, cache: Cache, account: Loading, shown: Shown) -> None:
        self._cache = cache
        self._account = account
        self._shown = shown
        self._answers: list[Vehicle | Rejection] = []
        self._size = 0

    def add(self, answer: Vehicle | Rejection, size: int) -> None:
        """Take an answer of so many characters, and keep what there is when it is much."""
        self._answers.append(answer)
        self._size += size
        if len(self._answers) >= _ROWS_AT_ONCE or self._size >= _SIZE_AT_ONCE:
            self.save()

    def save(self) -> None:
        """Keep what there is."""
        kept = self._cache.save(self._answers, improvements=True)
        vehicles = [answer.vin for answer in self._answers if isinstance(answer, Vehicle)]
        loaded = len(kept.intersection(vehicles))
        self._account.loaded += loaded
        self._account.there += len(vehicles) - loaded
        self._account.rejected += len(self._answers) - len(vehicles)
        self._shown.add(len(self._answers), f"{self._account.files:,} files")
        self._answers, self._size = [], 0


def _files(paths: Iterable[str], account: Loading, shown: Shown) -> Iterator[str]:
    for path in paths:
        found = 0
        try:
            for file, _ in parquet_files(path) if os.path.isdir(path) else [(path, 0)]:
                found += 1
                yield file
            if not found:
                raise InputError(no_parquet_in(path))
        except InputError as error:
            account.unread += 1
            shown.tell_of(printable(str(error)))
