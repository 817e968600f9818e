"""Fleets as they come: a file, a pipe, a table or a list of VINs, read row by row.

What a file is, is told by what is in it; its name only settles what that leaves open. No
input is held in memory, nor need it be seekable.
"""

from __future__ import annotations

import gzip
import re
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from vin_datasette.fleet.delimited import text_fleet
from vin_datasette.fleet.fleet import STANDARD_INPUT, Fleet, InputError, Wanted, in_words
from vin_datasette.fleet.items import array_items, items_fleet, line_items
from vin_datasette.fleet.layout import layout_of, sampled_lines
from vin_datasette.fleet.parquet import parquet_fleet
from vin_datasette.fleet.row import Row
from vin_datasette.fleet.sqlite import SQLITE, SQLITE_ENDINGS, no_table_named, sqlite_fleet, table_in
from vin_datasette.fleet.text import beginning, decoded, encoding_of, line_blocks, sample

if TYPE_CHECKING:
    import io
    from collections.abc import Generator, Iterator, Sequence

    from vin_datasette.fleet.text import Readable

__all__ = ["Fleet", "InputError", "given", "open_fleet"]

_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_OTHERS = {
    b"PK\x03\x04": "an Excel workbook or a ZIP archive; save the sheet as CSV, or unpack the archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"%PDF": "a PDF; save its table as CSV",
    b"BZh": "compressed with bzip2; unpack it, or compress it with gzip",
    b"\xfd7zXZ\0": "compressed with xz; unpack it, or compress it with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it, or compress it with gzip",
}
LARGEST_SPOOLED = 4_000_000_000
"""Bytes of a Parquet file that comes through a pipe or in gzip, and is put into a temporary file."""

_JSON_LINES_ENDINGS = (".jsonl", ".ndjson")
_JSON_ARRAY = re.compile(r'\[\s*(["{\[\]\d-]|true|false|null|$)')
_JSON_OBJECT = re.compile(r'\{\s*(["}]|$)')


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
    wanted = Wanted(column, model_year_column)
    with ExitStack() as opened:
        with in_words(source):
            fleet = _opened(name, source, wanted, opened)
        rows = _told_in_words(fleet.rows, source)
        opened.callback(rows.close)
        fleet.rows = rows
        yield fleet


def _opened(name: str, source: str, wanted: Wanted, opened: ExitStack) -> Fleet:
    table = table_in(name)
    if table:
        return sqlite_fleet(*table, source, wanted, opened)
    file = _standard_input() if name == STANDARD_INPUT else opened.enter_context(open(name, "rb"))  # noqa: SIM115 - by `opened`
    known = sample(cast("Readable", file))
    if known.head.startswith(SQLITE) or name.lower().endswith(SQLITE_ENDINGS):
        raise InputError(no_table_named(name, source, known))
    zipped = known.head.startswith(_GZIP)
    if zipped:
        known = sample(opened.enter_context(gzip.GzipFile(fileobj=known.stream)))
    if known.head.startswith(SQLITE):
        raise InputError(f"{source} is a compressed SQLite file; unpack it first.")
    for magic, what in _OTHERS.items():
        if known.head.startswith(magic):
            raise InputError(f"{source} is {what}.")
    if known.head.startswith(_PARQUET):
        whole = file if not zipped and file.seekable() else _spooled(known.stream, source, opened)
        return parquet_fleet(whole, source, wanted, opened)
    encoding = encoding_of(known.head)
    text = beginning(known.head, encoding)
    pieces = decoded(known.stream, encoding)
    start = text.lstrip()
    if _JSON_ARRAY.match(start):
        return items_fleet(array_items(pieces, source), source, wanted)
    if _JSON_OBJECT.match(start) or (start.startswith('"') and name.lower().endswith(_JSON_LINES_ENDINGS)):
        return items_fleet(line_items(line_blocks(pieces)), source, wanted)
    likely = "\t" if ".tsv" in name.lower() else ""
    layout = layout_of(sampled_lines(text, known.whole), source, wanted, likely)
    return text_fleet(line_blocks(pieces), layout, source)


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise InputError("There is no standard input; name a file.")
    return sys.stdin.buffer


def _spooled(stream: io.BufferedReader, source: str, opened: ExitStack) -> BinaryIO:
    # A Parquet file is read from its end.
    whole = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by `opened`
    size = 0
    while data := stream.read1():
        size += len(data)
        if size > LARGEST_SPOOLED:
            raise InputError(f"{source} has more than {LARGEST_SPOOLED:,} bytes of Parquet; name it as a plain file.")
        whole.write(data)
    whole.seek(0)
    return cast("BinaryIO", whole)


def _told_in_words(rows: Iterator[Row], source: str) -> Generator[Row, None, None]:
    with in_words(source):
        yield from rows
