"""Fleets as they come: a file, a pipe, a table or a list of VINs, read row by row.

What a file is, is told by what is in it; its name only settles what that leaves open. No
input is held in memory, nor need it be seekable.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import gzip
import json
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import zlib
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, cast

from vin_datasette.fleet.row import Row
from vin_datasette.fleet.text import (
    ANY_BYTE,
    LONGEST_LINE,
    SAMPLE_LINES,
    beginning,
    decoded,
    encoding_of,
    line_blocks,
    lines_of,
    sample,
    utf8,
)
from vin_datasette.vin import LENGTH, VIN, InvalidVIN

if TYPE_CHECKING:
    import io
    from collections.abc import Generator, Iterable, Iterator, Sequence

    import pyarrow as pa

    from vin_datasette.fleet.text import Readable, Sample

    Blocks = Iterator["list[str] | None"]

T = TypeVar("T")

DELIMITERS = ",;\t|"
"""What may stand between the cells of a text."""

STANDARD_INPUT = "-"
"""The name that means the standard input."""

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_SQLITE = b"SQLite format 3\0"
_OTHERS = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive; save the sheet as CSV, or unpack the archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"%PDF": "a PDF; save its table as CSV",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ\0": "compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or compress it with gzip",
}
_SQLITE_ENDINGS = (".db", ".sqlite", ".sqlite3")
_JSON_LINES_ENDINGS = (".jsonl", ".ndjson")
_JSON_ARRAY = re.compile(r'\[\s*(["{\[\]\d-]|true|false|null|$)')
_JSON_OBJECT = re.compile(r'\{\s*(["}]|$)')

_VIN_NAMES = (
    "vin",
    "vinnumber",
    "vinno",
    "vinnr",
    "vinnum",
    "vincode",
    "vehiclevin",
    "fullvin",
    "vin17",
    "vehicleidentificationnumber",
    "vehicleidentificationnumbervin",
    "vehicleidentificationno",
    "vehicleidentnumber",
    "chassisnumber",
    "chassisno",
    "chassisnr",
    "chassisnum",
    "framenumber",
    "fahrgestellnummer",
    "fahrzeugidentnummer",
    "fahrzeugidentifikationsnummer",
)
_FIRST_YEAR, _LAST_YEAR = 1980, 2100
_YEARS = {f"{year}{end}": year for year in range(_FIRST_YEAR, _LAST_YEAR + 1) for end in ("", ".0")}
# Longer text is no VIN that somebody wrote with spaces, and need not be looked at.
_LONGEST_WRITTEN_VIN = 3 * LENGTH
_NAMED_AT_MOST = 40
_TITLES_AT_MOST = 10
_ROWS_AT_ONCE = 1024

# Row(...) would cost several times what reading its line does.
_new = tuple.__new__


class InputError(Exception):
    """An input that cannot be read; the message says which, why and what to do."""


@dataclass
class Fleet:
    """Many VINs, and the columns that stand beside them.

    `columns` are the names of the fleet's own columns, each of them once, the VIN's among
    them; there are none for bare VINs. `schema` has their Arrow types where the input has
    types, else it is None. `rows` are read as they are taken, once; taking one raises
    `InputError` when the input breaks there. `source` names the input in messages.
    """

    columns: list[str]
    schema: pa.Schema | None
    rows: Iterator[Row]
    source: str


def given(vins: Sequence[str]) -> Fleet:
    """The fleet of VINs that were given one by one, as on a command line."""
    return Fleet([], None, (Row(number, vin) for number, vin in enumerate(vins, 1)), "the command line")


@contextmanager
def open_fleet(name: str, *, column: str | None = None, model_year_column: str | None = None) -> Iterator[Fleet]:
    """Open a fleet to be read once, row by row, within the context.

    `name` is a path, `-` for the standard input, or `file.db:table` or
    `file.db:table.column` for a table of an SQLite file. The content tells its format:
    text with a VIN a line, CSV, JSON, JSON lines, Parquet or SQLite; all but SQLite also
    compressed with gzip. `column` and `model_year_column` each say a column by its
    name or its number from 1; without the first, the column of VINs is found, and without
    the second no model years are read.

    Raises `InputError`, also from `rows`.
    """
    source = "standard input" if name == STANDARD_INPUT else name
    wanted = _Wanted(column, model_year_column)
    with ExitStack() as opened:
        with _in_words(source):
            fleet = _opened(name, source, wanted, opened)
        rows = _told_in_words(fleet.rows, source)
        opened.callback(rows.close)
        fleet.rows = rows
        yield fleet


class _Wanted(NamedTuple):
    """The columns that were asked for, as they were written."""

    vin: str | None
    model_year: str | None


def _opened(name: str, source: str, wanted: _Wanted, opened: ExitStack) -> Fleet:
    table = _table_in(name)
    if table:
        return _sqlite_fleet(*table, source, wanted, opened)
    file = _standard_input() if name == STANDARD_INPUT else opened.enter_context(open(name, "rb"))  # noqa: SIM115 - by `opened`
    known = sample(cast("Readable", file))
    if known.head.startswith(_SQLITE) or name.lower().endswith(_SQLITE_ENDINGS):
        raise InputError(_no_table_named(name, source, known))
    zipped = known.head.startswith(_GZIP)
    if zipped:
        known = sample(opened.enter_context(gzip.GzipFile(fileobj=known.stream)))
    if known.head.startswith(_SQLITE):
        raise InputError(f"{source} is a compressed SQLite file; unpack it first.")
    for magic, what in _OTHERS.items():
        if known.head.startswith(magic):
            raise InputError(f"{source} is {what}.")
    if known.head.startswith(_PARQUET):
        whole = file if not zipped and file.seekable() else _spooled(known.stream, opened)
        return _parquet_fleet(whole, source, wanted, opened)
    encoding = encoding_of(known.head)
    text = beginning(known.head, encoding)
    pieces = decoded(known.stream, encoding)
    start = text.lstrip()
    if _JSON_ARRAY.match(start):
        return _items_fleet(_array_items(pieces, source), source, wanted)
    if _JSON_OBJECT.match(start) or (start.startswith('"') and name.lower().endswith(_JSON_LINES_ENDINGS)):
        return _items_fleet(_line_items(line_blocks(pieces)), source, wanted)
    likely = "\t" if ".tsv" in name.lower() else ""
    layout = _layout(_sampled_lines(text, known.whole), source, wanted, likely)
    return _text_fleet(line_blocks(pieces), layout, source)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("There is no standard input; name a file.")
    return sys.stdin.buffer


def _spooled(stream: io.BufferedReader, opened: ExitStack) -> BinaryIO:
    # A Parquet file is read from its end.
    whole = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by `opened`
    shutil.copyfileobj(stream, whole)
    whole.seek(0)
    return cast("BinaryIO", whole)


@contextmanager
def _in_words(source: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"There is no file {source}; check its name and folder.") from error
    except IsADirectoryError as error:
        raise InputError(f"{source} is a folder; name a file in it.") from error
    except PermissionError as error:
        raise InputError(f"{source} may not be read: its permissions forbid it to this user.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{source} is damaged: its gzip data cannot be unpacked; get or compress it anew.") from error
    except EOFError as error:
        raise InputError(
            f"{source} is cut off: its gzip data stops before its end; get or compress it anew."
        ) from error
    except sqlite3.Error as error:
        raise InputError(f"{source} cannot be read as an SQLite file: {error}.") from error
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        # A NUL in a path is one, which no operating system looks at.
        raise InputError(f"{source!r} cannot be read: {error}.") from error


def _told_in_words(rows: Iterator[Row], source: str) -> Generator[Row, None, None]:
    with _in_words(source):
        yield from rows


# Columns


def _distinct(names: Iterable[object]) -> list[str]:
    """Names of which each is there once and none is empty."""
    stripped = [str(name).strip() if name is not None else "" for name in names]
    taken = set(stripped)
    seen: set[str] = set()
    made = []
    for number, name in enumerate(stripped, 1):
        bare = unique = name or f"column_{number}"
        count = 1
        while unique in seen or (unique != name and unique in taken):
            count += 1
            unique = f"{bare}_{count}"
        seen.add(unique)
        made.append(unique)
    return made


def _listed(names: Sequence[str]) -> str:
    listed = ", ".join(f"{number} {name!r}" for number, name in enumerate(names[:_NAMED_AT_MOST], 1))
    more = len(names) - _NAMED_AT_MOST
    return f"{listed} and {more:,} more" if more > 0 else listed


def _position(names: Sequence[str], wanted: str) -> int | None:
    """Where the column is that somebody wrote as `wanted`: its name, else its number from 1."""
    if wanted in names:
        return names.index(wanted)
    folded = [name.casefold() for name in names]
    bare = wanted.strip().casefold()
    if bare in folded:
        return folded.index(bare)
    if bare.isascii() and bare.isdigit() and 1 <= int(bare[:9]) <= len(names):
        return int(bare[:9]) - 1
    return None


def _column(names: Sequence[str], wanted: str, source: str) -> int:
    position = _position(names, wanted)
    if position is None:
        there = f"its columns are: {_listed(names)}" if names else "it has no columns, only VINs"
        raise InputError(f"{source} has no column {wanted!r}; {there}.")
    return position


def _named_for_vins(names: Sequence[object]) -> int | None:
    bare = ["".join(filter(str.isalnum, str(name).casefold())) for name in names]
    return next((bare.index(name) for name in _VIN_NAMES if name in bare), None)


def _holds_vins(rows: Sequence[Sequence[object]], width: int) -> int | None:
    """The column most of whose cells are well-formed VINs, of those with the most of them."""
    best: tuple[int, int] | None = None
    for position in range(width):
        cells = [row[position] for row in rows if position < len(row)]
        cells = [cell for cell in cells if _text(cell).strip()]
        well_formed = sum(map(_is_vin, cells))
        if well_formed * 2 >= len(cells) and well_formed > (best[0] if best else 0):
            best = well_formed, position
    return best[1] if best else None


def _vin_column(names: Sequence[str], rows: Sequence[Sequence[object]], wanted: str | None, source: str) -> int:
    if wanted is not None:
        return _column(names, wanted, source)
    position = _named_for_vins(names)
    if position is None:
        position = _holds_vins(rows, len(names))
    # With one column, or no row, there is nothing to choose.
    if position is None and names and (len(names) == 1 or not rows):
        return 0
    if position is None:
        raise InputError(_no_vin_column(names, source))
    return position


def _no_vin_column(names: Sequence[str], source: str) -> str:
    columns = _listed(names)
    return f"No column of {source} was found to hold VINs; say which does with --column. Its columns are: {columns}."


def _model_year_column(names: Sequence[str], wanted: str | None, source: str) -> int | None:
    return None if wanted is None else _column(names, wanted, source)


# Values


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", ANY_BYTE)
    return "" if value is None else str(value)


def _is_vin(value: object) -> bool:
    text = _text(value)
    if not LENGTH <= len(text) <= _LONGEST_WRITTEN_VIN:
        return False
    with contextlib.suppress(InvalidVIN):
        VIN(text)
        return True
    return False


def _model_year(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float, Decimal)):
        # No NaN and no infinity compares as within.
        within = _FIRST_YEAR <= value <= _LAST_YEAR
        return int(value) if within and value == int(value) else None
    return _YEARS.get(_text(value).strip())


def _peeked(rows: Iterator[T]) -> tuple[list[T], Iterator[T]]:
    """The first of `rows`, and all of them again. Those that fail within the first fail
    when they are taken again."""
    head: list[T] = []
    failure: Exception | None = None
    try:
        for row in islice(rows, SAMPLE_LINES):
            head.append(row)  # noqa: PERF402 - what came before a failure is kept
    except Exception as error:
        failure = error

    def again() -> Iterator[T]:
        yield from head
        if failure:
            raise failure
        yield from rows

    return head, again()


# Text


class _Layout(NamedTuple):
    """How the lines of a text are to be read, after `lead` rows up to its header; bare VINs have no columns."""

    columns: list[str]
    lead: int
    delimiter: str
    vin: int
    model_year: int | None


def _sampled_lines(text: str, whole: bool) -> list[str]:
    lines = lines_of(text)
    if len(lines) > 1 and not whole and not lines[-1].endswith("\n"):
        lines.pop()
    return lines[: SAMPLE_LINES + 1]


def _text_fleet(blocks: Blocks, layout: _Layout, source: str) -> Fleet:
    if not layout.columns:
        return Fleet([], None, _bare_rows(blocks), source)
    rows = _delimited_rows(blocks, layout)
    for _ in islice(rows, layout.lead):
        pass
    return Fleet(layout.columns, None, rows, source)


def _layout(lines: list[str], source: str, wanted: _Wanted, likely: str) -> _Layout:
    # A delimiter that no text holds makes the whole line one cell.
    found = [_arranged(_cells(lines, "\x1f"), "\x1f", wanted)]
    for delimiter in DELIMITERS:
        rows = _cells(lines, delimiter)
        if rows:
            one = _arranged(rows, delimiter, wanted)
            width, count = Counter(map(len, rows)).most_common(1)[0]
            # Under a header of several names, short rows are short; without one, a stray comma is one.
            if (width > 1 and count * 2 > len(rows)) or (one.lead and len(one.columns) > 1):
                found.append(one)
    # Where no candidate knows which column holds the VINs, the message is to name the most columns.
    best = max(found, key=lambda one: (one.vin is not None, one.delimiter == likely, len(one.columns)))
    return best.layout(source, wanted)


class _Arranged(NamedTuple):
    """What a text would be with this delimiter: `lead` rows up to its header, then VINs in
    the column `vin`, which is None where no column is known to hold them."""

    columns: list[str]
    lead: int
    delimiter: str
    vin: int | None
    crowded: bool

    def layout(self, source: str, wanted: _Wanted) -> _Layout:
        if self.crowded:
            raise InputError(f"{source} has several VINs on each line; put each on a line of its own, or say --column.")
        if not self.columns:
            return _Layout([], 0, self.delimiter, 0, None)
        vin = self.vin
        if vin is None and wanted.vin is not None:
            vin = _column(self.columns, wanted.vin, source)
        # One column, of which nothing is well-formed, still holds what is to be complained of.
        if vin is None and len(self.columns) > 1:
            raise InputError(_no_vin_column(self.columns, source))
        year = _model_year_column(self.columns, wanted.model_year, source)
        bare = len(self.columns) == 1 and not self.lead
        return _Layout([] if bare else self.columns, self.lead, self.delimiter, vin or 0, year)


def _arranged(rows: list[list[str]], delimiter: str, wanted: _Wanted) -> _Arranged:
    if not rows:
        return _Arranged([], 0, delimiter, None, crowded=False)
    titles = _titles(rows, wanted)
    rows = rows[titles or 0 :]
    first, others = rows[0], rows[1:]
    names, numbered = _distinct(first), _distinct([""] * max(map(len, rows)))
    if wanted.vin is not None:
        position = _position(numbered if titles is None else names, wanted.vin)
    else:
        position = _named_for_vins(first)
        if position is None:
            position = _holds_vins(others, len(numbered))
        if position is None and titles is None:
            position = _holds_vins(rows, len(numbered))
    header = titles is not None or _is_header(first, others, position)
    columns = names if header else numbered
    if position is not None and position >= len(columns):
        position = None
    crowded = not header and wanted.vin is None and all(map(_is_crowded, rows))
    return _Arranged(columns, (titles or 0) + 1 if header else 0, delimiter, position, crowded)


def _titles(rows: list[list[str]], wanted: _Wanted) -> int | None:
    """How many rows stand before the one that names the columns, by names that are known."""
    said = [one for one in wanted if one is not None and not one.strip().isdigit()]
    for number, row in enumerate(rows[:_TITLES_AT_MOST]):
        if any(map(_is_vin, row)):
            break
        names = _distinct(row)
        if _named_for_vins(row) is not None or any(_position(names, one) is not None for one in said):
            return number
    return None


def _is_header(first: list[str], others: list[list[str]], position: int | None) -> bool:
    """Whether a first row without a known name names columns, where `position` is that of the VINs."""
    below = [[row[at] for row in others if at < len(row)] for at in range(len(first))]
    if position is not None and position < len(first) and any(map(_is_vin, below[position])):
        # A VIN that was mistyped is no name.
        return _digits(first[position]) < 3 and not _is_vin(first[position])
    # A line of a list is lost as a header, and a name of a column is told in the message that asks for one.
    if len(first) == 1:
        return False
    return not any(map(_digits, first)) and (not others or any(map(_digits, chain(*below))))


def _is_crowded(row: list[str]) -> bool:
    cells = [cell for cell in row if cell.strip()]
    return len(cells) > 1 and all(map(_is_vin, cells))


def _digits(cell: str) -> int:
    return sum(char.isdigit() for char in cell)


def _cells(lines: list[str], delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(cells for cells in csv.reader(lines, delimiter=delimiter) if any(map(str.strip, cells)))
    return rows


def _bare_rows(blocks: Blocks) -> Iterator[Row]:
    number = 0
    for block in blocks:
        if block is None:
            number += 1
            yield _too_long(number)
            continue
        for line in block:
            number += 1
            vin = line.strip()
            if vin:
                yield _new(Row, (number, vin, None, (), None))


def _too_long(number: int) -> Row:
    return Row(number, "", problem=f"The line is longer than {LONGEST_LINE:,} characters.")


def _delimited_rows(blocks: Blocks, layout: _Layout) -> Iterator[Row]:
    before = 0
    left: list[str] = []
    for block in chain(blocks, [[]]):
        # Nothing that is left open at a line which was skipped is closed after it.
        more = bool(block)
        lines = left + block if block else left
        read = yield from _block_rows(lines, before, layout, more)
        before += read
        left = lines[read:]
        if block is None:
            before += 1
            yield _too_long(before)._replace(values=("",) * len(layout.columns))


def _block_rows(lines: list[str], before: int, layout: _Layout, more: bool) -> Generator[Row, None, int]:
    """The rows of whole lines, of which the first is the one after line `before`; then how
    many of the lines they are. The last record may go on in lines to come when there are `more`."""
    width, vin_at, year_at = len(layout.columns), layout.vin, layout.model_year
    usual_year = _YEARS.get
    start = 0
    while start < len(lines):
        # Only a strict reader tells that a quote was never closed, and which rows it took in.
        reader = csv.reader(islice(lines, start, None), delimiter=layout.delimiter, strict=True)
        done = 0
        problem = "Its quotes do not pair."
        try:
            for cells in reader:
                taken = reader.line_num
                if taken - done > 1 and _took_in_rows(lines[start + done + 1 : start + taken], len(cells), layout):
                    break
                number = before + start + done + 1
                done = taken
                if len(cells) != width:
                    cells = (cells + [""] * (width - len(cells)))[:width]  # noqa: PLW2901 - as it is to be read
                vin = cells[vin_at]
                if not vin.strip() and not any(map(str.strip, cells)):
                    continue
                year = None if year_at is None else usual_year(cells[year_at]) or _model_year(cells[year_at])
                yield _new(Row, (number, vin, year, tuple(cells), None))
            else:
                return len(lines)
        except csv.Error as error:
            problem = f"It cannot be read as CSV: {error}."
            at_end = start + reader.line_num == len(lines)
            if at_end and more and sum(map(len, lines[start + done :])) < LONGEST_LINE:
                return start + done
        start += done
        yield _row_alone(lines[start], before + start + 1, layout, problem)
        start += 1
    return len(lines)


def _took_in_rows(lines: list[str], count: int, layout: _Layout) -> bool:
    """Whether a record of `count` cells took in a row of its own with any of these lines, all but its first."""
    # The last looks like a row whenever the VIN stands behind a cell of several lines.
    inner = lines[:-1] if count == len(layout.columns) else lines
    rows = _cells_alone(inner, layout, csv.QUOTE_MINIMAL)
    return any(len(cells) == len(layout.columns) and _is_vin(cells[layout.vin]) for cells in rows)


def _row_alone(line: str, number: int, layout: _Layout, problem: str) -> Row:
    """A line whose quotes do not pair, as a row when they matter not to its cells."""
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        for cells in _cells_alone([line], layout, quoting):
            if len(cells) == len(layout.columns):
                year = None if layout.model_year is None else _model_year(cells[layout.model_year])
                return Row(number, cells[layout.vin], year, tuple(cells))
    return Row(number, "", None, ("",) * len(layout.columns), problem)


def _cells_alone(lines: list[str], layout: _Layout, quoting: int) -> Iterator[list[str]]:
    for line in lines:
        with contextlib.suppress(csv.Error):
            yield from csv.reader([line.rstrip("\r\n")], delimiter=layout.delimiter, quoting=quoting)  # type: ignore[arg-type]


# JSON


class _Item(NamedTuple):
    """An item of a JSON document by its number, or why it could not be read."""

    number: int
    value: object
    problem: str | None = None


def _array_items(pieces: Iterator[str], source: str) -> Iterator[_Item]:
    import ijson

    number = 0
    try:
        for value in ijson.items(utf8(pieces), "item"):
            number += 1
            yield _item(number, value)
    except ijson.JSONError as error:
        where = f"after item {number:,}" if number else "before its first item"
        raise InputError(f"{source} is broken JSON {where}: {' '.join(str(error).split())}.") from error


def _item(number: int, value: object) -> _Item:
    try:
        return _Item(number, _without_decimals(value))
    except RecursionError:
        return _Item(number, None, "It is nested too deeply.")


def _without_decimals(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _without_decimals(inner) for key, inner in value.items()}
    return [_without_decimals(inner) for inner in value] if isinstance(value, list) else value


def _line_items(blocks: Blocks) -> Iterator[_Item]:
    number = 0
    for block in blocks:
        if block is None:
            number += 1
            yield _Item(number, None, _too_long(number).problem)
            continue
        for line in block:
            number += 1
            if line.isspace():
                continue
            try:
                yield _Item(number, json.loads(line))
            except RecursionError:
                yield _Item(number, None, "It is nested too deeply.")
            except json.JSONDecodeError as error:
                yield _Item(number, None, f"It is not JSON: {error.msg}, at character {error.pos + 1:,}.")
            except ValueError as error:
                yield _Item(number, None, f"It is not JSON that can be read: {error}.")


def _items_fleet(items: Iterator[_Item], source: str, wanted: _Wanted) -> Fleet:
    head, items = _peeked(items)
    objects = [item.value for item in head if isinstance(item.value, dict)]
    keys = list(objects[0]) if objects else []
    names = _distinct(keys)
    cells = [tuple(map(item.get, keys)) for item in objects]
    if not head:
        return Fleet([], None, _item_rows(items, [], 0, None), source)
    if not keys and not any(isinstance(item.value, str) for item in head):
        # Nothing was read of which it could be said that a column is missing.
        wanted = _Wanted(None, None)
    vin_at = _vin_column(names, cells, wanted.vin, source) if keys or wanted.vin is not None else 0
    year_at = _model_year_column(names, wanted.model_year, source)
    return Fleet(names, None, _item_rows(items, keys, vin_at, year_at), source)


def _item_rows(items: Iterator[_Item], keys: list[str], vin_at: int, year_at: int | None) -> Iterator[Row]:
    nothing: tuple[object, ...] = (None,) * len(keys)
    for number, value, problem in items:
        if problem is not None:
            yield Row(number, "", None, nothing, problem)
        elif isinstance(value, str):
            # Among objects, one that has nothing else to tell.
            yield Row(number, value, None, (*nothing[:vin_at], value, *nothing[vin_at + 1 :]) if keys else ())
        elif not isinstance(value, dict):
            unknown = f"It is {_kind(value)}, and neither a VIN nor an object with one."
            yield Row(number, "", None, nothing, unknown)
        elif not keys:
            yield _late_object(number, value)
        else:
            cells = tuple(map(value.get, keys))
            vin = cells[vin_at]
            if isinstance(vin, (list, dict)):
                yield Row(number, "", None, cells, f"Its {keys[vin_at]!r} is {_kind(vin)}, and no VIN.")
                continue
            year = None if year_at is None else _model_year(cells[year_at])
            yield _new(Row, (number, _text(vin), year, cells, None))


def _late_object(number: int, item: dict[str, object]) -> Row:
    """An object that comes so late among bare VINs that its keys became no columns."""
    named = _named_for_vins(list(item))
    if named is None:
        return Row(number, "", problem="It is an object without a key that is named for a VIN.")
    return Row(number, _text(list(item.values())[named]))


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "an object", bool: "true or false"}
    return kinds.get(type(value), "a number")


# Tables that have types


def _typed_rows(records: Iterable[tuple[object, ...]], vin_at: int, year_at: int | None) -> Iterator[Row]:
    for number, values in enumerate(records, 1):
        year = None if year_at is None else _model_year(values[year_at])
        yield _new(Row, (number, _text(values[vin_at]), year, values, None))


def _parquet_fleet(file: BinaryIO, source: str, wanted: _Wanted, opened: ExitStack) -> Fleet:
    import pyarrow.parquet as pq

    with _parquet_in_words(source):
        file.seek(0)
        # A buffer of its own for each column, instead of a row group's whole columns in memory.
        parquet = opened.enter_context(pq.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False))
        schema = parquet.schema_arrow
    names = _distinct(schema.names)
    if not names:
        raise InputError(f"{source} has no columns.")
    head, records = _peeked(_parquet_records(parquet, source))
    vin_at = _vin_column(names, head, wanted.vin, source)
    year_at = _model_year_column(names, wanted.model_year, source)
    return Fleet(names, _renamed(schema, names), _typed_rows(records, vin_at, year_at), source)


def _renamed(schema: pa.Schema, names: list[str]) -> pa.Schema:
    for position, name in enumerate(names):
        if schema.field(position).name != name:
            schema = schema.set(position, schema.field(position).with_name(name))
    return schema


def _parquet_records(parquet: Any, source: str) -> Iterator[tuple[object, ...]]:
    with _parquet_in_words(source):
        for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False):
            yield from zip(*map(_python_values, batch.columns), strict=True)


def _python_values(column: Any) -> list[object]:
    try:
        return cast("list[object]", column.to_pylist())
    except (ValueError, OverflowError):
        # A time to the nanosecond or after the year 9999, which Python's own cannot hold.
        return [_python_value(scalar) for scalar in column]


def _python_value(scalar: Any) -> object:
    try:
        return cast("object", scalar.as_py())
    except (ValueError, OverflowError):
        return getattr(scalar, "value", None)


@contextmanager
def _parquet_in_words(source: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{source} cannot be read as Parquet: {error}. Get or write it anew.") from error


def _table_in(name: str) -> tuple[str, str] | None:
    """The path of an SQLite file and what follows its colon, where `name` is both."""
    if name == STANDARD_INPUT or os.path.lexists(name):
        return None
    for position, char in enumerate(name):
        if char == ":" and (os.path.isfile(name[:position]) or name[:position].lower().endswith(_SQLITE_ENDINGS)):
            return name[:position], name[position + 1 :]
    return None


def _sqlite_fleet(path: str, said: str, source: str, wanted: _Wanted, opened: ExitStack) -> Fleet:
    with _in_words(path):
        connection = opened.enter_context(closing(_connected(path)))
        tables = _tables(connection)
    table, column = _table_and_column(tables, said, path)
    if wanted.vin is None:
        wanted = wanted._replace(vin=column)
    quoted = '"' + table.replace('"', '""') + '"'
    cursor = connection.execute(f"SELECT * FROM {quoted}")  # noqa: S608 - quoted above
    names = _distinct(description[0] for description in cursor.description)
    head, records = _peeked(cursor)
    vin_at = _vin_column(names, head, wanted.vin, source)
    year_at = _model_year_column(names, wanted.model_year, source)
    return Fleet(names, None, _typed_rows(records, vin_at, year_at), source)


def _connected(path: str) -> sqlite3.Connection:
    with open(path, "rb") as file:
        if file.read(len(_SQLITE)) not in {_SQLITE, b""}:
            raise InputError(f"{path} is not an SQLite file; only of such a file a table can be named.")
    connection = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
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
    return f"say {path}:TABLE or {path}:TABLE.COLUMN. Its tables are: {_listed(tables)}."


def _no_table_named(name: str, source: str, known: Sample) -> str:
    if name == STANDARD_INPUT:
        return "SQLite cannot be read from the standard input; say file.db:TABLE instead."
    if known.head and not known.head.startswith(_SQLITE):
        return f"{source} is named as an SQLite file and is none; rename it if it is something else."
    with _in_words(source), closing(_connected(name)) as connection:
        return f"{source} is an SQLite file, and no table was named; {_how_to_name(name, _tables(connection))}"
