"""Text: a VIN a line, or CSV and the like, read row by row as a sample of it was laid out."""

from __future__ import annotations

import contextlib
import csv
from itertools import chain, islice
from typing import TYPE_CHECKING

from vin_datasette.fleet.fleet import Fleet, InputError
from vin_datasette.fleet.row import Row
from vin_datasette.fleet.text import LONGEST_LINE
from vin_datasette.fleet.values import YEARS, is_vin, model_year_of, new_row, too_long

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from vin_datasette.fleet.layout import Layout

    Blocks = Iterator[list[str] | None]


_LONGEST_RECORD = 100
"""Lines that a record may have behind one whose quotes do not pair. Were there no end to them, each of
many quotes that are never closed would be looked for to the end."""


def text_fleet(blocks: Blocks, layout: Layout, source: str) -> Fleet:
    """The fleet of a text that comes in blocks of lines. Raises `InputError` when the header cannot be read."""
    if not layout.columns:
        return Fleet([], None, _bare_rows(blocks), source)
    rows = _delimited_rows(blocks, layout)
    for row in islice(rows, layout.lead):
        if row.problem and row.number == layout.lead:
            raise InputError(f"{source} has a header that cannot be read: {row.problem}")
    return Fleet(layout.columns, None, rows, source)


def _bare_rows(blocks: Blocks) -> Iterator[Row]:
    number = 0
    for block in blocks:
        if block is None:
            number += 1
            yield too_long(number)
            continue
        for line in block:
            number += 1
            vin = line.strip()
            if vin:
                yield new_row(Row, (number, vin, None, (), None))


def _delimited_rows(blocks: Blocks, layout: Layout) -> Iterator[Row]:
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
            yield too_long(before)._replace(values=("",) * len(layout.columns))


def _block_rows(lines: list[str], before: int, layout: Layout, more: bool) -> Generator[Row, None, int]:
    """The rows of whole lines, of which the first is the one after line `before`; then how
    many of the lines they are. The last record may go on in lines to come when there are `more`."""
    width, vin_at, year_at = len(layout.columns), layout.vin, layout.model_year
    usual_year = YEARS.get
    start = 0
    reach = len(lines)
    while start < len(lines):
        end = min(start + reach, len(lines))
        # Only a strict reader tells that a quote was never closed, and which rows it took in.
        reader = csv.reader(lines[start:end], delimiter=layout.delimiter, strict=True)
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
                year = None if year_at is None else usual_year(cells[year_at]) or model_year_of(cells[year_at])
                yield new_row(Row, (number, vin, year, tuple(cells), None))
            else:
                start = end
                continue
        except csv.Error as error:
            problem = f"It cannot be read as CSV: {error}."
            at_end = start + reader.line_num == end
            if at_end and end == len(lines) and more and sum(map(len, lines[start + done :])) < LONGEST_LINE:
                return start + done
            if at_end and end < len(lines) and done:
                start += done
                continue
        reach = _LONGEST_RECORD
        start += done
        yield _row_alone(lines[start], before + start + 1, layout, problem)
        start += 1
    return len(lines)


def _took_in_rows(lines: list[str], count: int, layout: Layout) -> bool:
    """Whether a record of `count` cells took in a row of its own with any of these lines, all but its first."""
    # The last looks like a row whenever the VIN stands behind a cell of several lines.
    inner = lines[:-1] if count == len(layout.columns) else lines
    rows = _cells_alone(inner, layout, csv.QUOTE_MINIMAL)
    return any(len(cells) == len(layout.columns) and is_vin(cells[layout.vin]) for cells in rows)


def _row_alone(line: str, number: int, layout: Layout, problem: str) -> Row:
    """A line whose quotes do not pair, as a row when they matter not to its cells."""
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE):
        for cells in _cells_alone([line], layout, quoting):
            if len(cells) == len(layout.columns):
                year = None if layout.model_year is None else model_year_of(cells[layout.model_year])
                return Row(number, cells[layout.vin], year, tuple(cells))
    return Row(number, "", None, ("",) * len(layout.columns), problem)


def _cells_alone(lines: list[str], layout: Layout, quoting: int) -> Iterator[list[str]]:
    for line in lines:
        with contextlib.suppress(csv.Error):
            yield from csv.reader([line.rstrip("\r\n")], delimiter=layout.delimiter, quoting=quoting)  # type: ignore[arg-type]
