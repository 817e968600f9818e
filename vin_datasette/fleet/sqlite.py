"""SQLite: a table or a view of a file, named beside it as `file.db:table` or `file.db:table.column`."""

from __future__ import annotations

import functools
import os
import sqlite3
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vin_datasette.fleet.columns import distinct, listed, model_year_column, peeked, vin_column
from vin_datasette.fleet.fleet import STANDARD_INPUT, Fleet, InputError, in_words
from vin_datasette.fleet.text import ANY_BYTE
from vin_datasette.fleet.values import LARGEST_ROW, typed_rows, within_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack

    from vin_datasette.fleet.fleet import Wanted
    from vin_datasette.fleet.text import Sample

SQLITE = b"SQLite format 3\0"
"""How an SQLite file begins."""

SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
"""How the name of one mostly ends."""


LONGEST_WAIT = 300.0
"""Seconds that a view has to find its next row: it may be one that never ends."""

_LARGEST_VALUE = 100 * LARGEST_ROW
"""Bytes of a value or a row that SQLite gives at all; a photo may stand beside a VIN."""

_STEPS_BETWEEN_LOOKS = 100_000


def table_in(name: str) -> tuple[str, str] | None:
    """The path of an SQLite file and what follows its colon, where `name` is both."""
    if name == STANDARD_INPUT or os.path.lexists(name):
        return None
    for position, char in enumerate(name):
        if char == ":" and (os.path.isfile(name[:position]) or name[:position].lower().endswith(SQLITE_ENDINGS)):
            return name[:position], name[position + 1 :]
    return None


def sqlite_fleet(path: str, said: str, source: str, wanted: Wanted, opened: ExitStack) -> Fleet:
    """The fleet of a table of the SQLite file at `path`, `said` being what followed its colon."""
    with in_words(path):
        connection = opened.enter_context(closing(_connected(path)))
        tables = _tables(connection)
    table, column = _table_and_column(tables, said, path)
    if wanted.vin is None:
        wanted = wanted._replace(vin=column)
    quoted = '"' + table.replace('"', '""') + '"'
    waiting = _Waiting(connection, source)
    with waiting.in_words():
        cursor = connection.execute(f"SELECT * FROM {quoted}")  # noqa: S608 - quoted above  # nosec B608
    names = distinct(description[0] for description in cursor.description)
    head, records = peeked(waiting.rows(cursor))
    vin_at = vin_column(names, [values for values in head if values], wanted.vin, source)
    year_at = model_year_column(names, wanted.model_year, source)
    return Fleet(names, None, typed_rows(records, len(names), vin_at, year_at), source)


class _Waiting:
    """Gives up on a query that finds no row for too long."""

    def __init__(self, connection: sqlite3.Connection, source: str) -> None:
        self._source = source
        self._until = time.monotonic() + LONGEST_WAIT
        connection.set_progress_handler(self._is_over, _STEPS_BETWEEN_LOOKS)

    def _is_over(self) -> bool:
        return time.monotonic() > self._until

    @contextmanager
    def in_words(self) -> Iterator[None]:
        """Raises `InputError` when it was given up."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if self._is_over():
                raise InputError(f"{self._source} gave no row within {LONGEST_WAIT:g} seconds.") from error
            raise

    def rows(self, cursor: sqlite3.Cursor) -> Iterator[tuple[object, ...] | None]:
        """The values of each row; None for a row too large."""
        with self.in_words():
            while True:
                self._until = time.monotonic() + LONGEST_WAIT
                values = cursor.fetchone()
                if values is None:
                    return
                yield within_size(values)


def _connected(path: str) -> sqlite3.Connection:
    with open(path, "rb") as file:
        if file.read(len(SQLITE)) not in {SQLITE, b""}:
            raise InputError(f"{path} is not an SQLite file; only of such a file a table can be named.")
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    # What stands in somebody's file is data, and its views may not do what no query of ours would.
    connection.execute("PRAGMA trusted_schema = 0")
    if sys.version_info >= (3, 11):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
    # Text that is not UTF-8 is some other program's, and no reason to stop.
    connection.text_factory = functools.partial(str, encoding="utf-8", errors=ANY_BYTE)
    return connection


def _tables(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute(
        "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " ORDER BY name"
    )
    return [name for (name,) in found]


def _table_and_column(tables: list[str], said: str, path: str) -> tuple[str, str | None]:
    folded = {table.casefold(): table for table in tables}
    if said.casefold() in folded:
        return folded[said.casefold()], None
    dots = [position for position, char in enumerate(said) if char == "."]
    for dot in reversed(dots):
        table = folded.get(said[:dot].casefold())
        if table is not None:
            return table, said[dot + 1 :]
    missing = f"{path} has no table {said!r}" if said else f"{path} is an SQLite file, and no table was named"
    raise InputError(f"{missing}; {_how_to_name(path, tables)}")


def _how_to_name(path: str, tables: Sequence[str]) -> str:
    if not tables:
        return "it has no tables at all."
    return f"say {path}:TABLE or {path}:TABLE.COLUMN. Its tables are: {listed(tables)}."


def no_table_named(name: str, source: str, known: Sample) -> str:
    """The message for an SQLite file, or what is named as one, without a table."""
    if name == STANDARD_INPUT:
        return "SQLite cannot be read from the standard input; say file.db:TABLE instead."
    if known.head and not known.head.startswith(SQLITE):
        return f"{source} is named as an SQLite file and is none; rename it if it is something else."
    with in_words(source), closing(_connected(name)) as connection:
        return f"{source} is an SQLite file, and no table was named; {_how_to_name(name, _tables(connection))}"
