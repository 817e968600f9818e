"""How a text is laid out: its delimiter, its header, and the column of its VINs."""

from __future__ import annotations

import contextlib
import csv
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from vin_datasette.fleet.columns import (
    column_of,
    distinct,
    holding_vins,
    model_year_column,
    named_for_vins,
    no_vin_column,
    position_of,
    refuse_too_many,
)
from vin_datasette.fleet.fleet import InputError
from vin_datasette.fleet.text import SAMPLE_LINES, lines_of
from vin_datasette.fleet.values import is_vin

if TYPE_CHECKING:
    from vin_datasette.fleet.fleet import Wanted

DELIMITERS = ",;\t|"
"""What may stand between the cells of a text."""

_TITLES_AT_MOST = 10


class Layout(NamedTuple):
    """How the lines of a text are to be read, after `lead` rows up to its header; bare VINs have no columns."""

    columns: list[str]
    lead: int
    delimiter: str
    vin: int
    model_year: int | None


def sampled_lines(text: str, whole: bool) -> list[str]:
    """The whole lines of a text that begins so, as many as are looked at; `whole` says that it is all."""
    lines = lines_of(text)
    if len(lines) > 1 and not whole and not lines[-1].endswith("\n"):
        lines.pop()
    return lines[: SAMPLE_LINES + 1]


def layout_of(lines: list[str], source: str, wanted: Wanted, likely: str) -> Layout:
    """How a text is laid out that begins with these lines; `likely` is the delimiter that its name
    tells. Raises `InputError` when no column is known to hold the VINs."""
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

    def layout(self, source: str, wanted: Wanted) -> Layout:
        if self.crowded:
            raise InputError(f"{source} has several VINs on each line; put each on a line of its own, or say --column.")
        if not self.columns:
            return Layout([], 0, self.delimiter, 0, None)
        refuse_too_many(self.columns, source)
        vin = self.vin
        if vin is None and wanted.vin is not None:
            vin = column_of(self.columns, wanted.vin, source)
        # One column, of which nothing is well-formed, still holds what is to be complained of.
        if vin is None and len(self.columns) > 1:
            raise InputError(no_vin_column(self.columns, source))
        year = model_year_column(self.columns, wanted.model_year, source)
        bare = len(self.columns) == 1 and not self.lead
        return Layout([] if bare else self.columns, self.lead, self.delimiter, vin or 0, year)


def _arranged(rows: list[list[str]], delimiter: str, wanted: Wanted) -> _Arranged:
    if not rows:
        return _Arranged([], 0, delimiter, None, crowded=False)
    titles = _titles(rows, wanted)
    rows = rows[titles or 0 :]
    first, others = rows[0], rows[1:]
    names, numbered = distinct(first), distinct([""] * max(map(len, rows)))
    if wanted.vin is not None:
        position = position_of(numbered if titles is None else names, wanted.vin)
    else:
        position = named_for_vins(first)
        if position is None:
            position = holding_vins(others, len(numbered))
        if position is None and titles is None:
            position = holding_vins(rows, len(numbered))
    header = titles is not None or _is_header(first, others, position)
    columns = names if header else numbered
    if position is not None and position >= len(columns):
        position = None
    crowded = not header and wanted.vin is None and all(map(_is_crowded, rows))
    return _Arranged(columns, (titles or 0) + 1 if header else 0, delimiter, position, crowded)


def _titles(rows: list[list[str]], wanted: Wanted) -> int | None:
    """How many rows stand before the one that names the columns, by names that are known."""
    said = [one for one in wanted if one is not None and not one.strip().isdigit()]
    for number, row in enumerate(rows[:_TITLES_AT_MOST]):
        if any(map(is_vin, row)):
            break
        names = distinct(row)
        if named_for_vins(row) is not None or any(position_of(names, one) is not None for one in said):
            return number
    return None


def _is_header(first: list[str], others: list[list[str]], position: int | None) -> bool:
    """Whether a first row without a known name names columns, where `position` is that of the VINs."""
    below = [[row[at] for row in others if at < len(row)] for at in range(len(first))]
    if position is not None and position < len(first) and any(map(is_vin, below[position])):
        # A VIN that was mistyped is no name.
        return _digits(first[position]) < 3 and not is_vin(first[position])
    # A line of a list is lost as a header, and a name of a column is told in the message that asks for one.
    if len(first) == 1:
        return False
    return not any(map(_digits, first)) and (not others or any(map(_digits, chain(*below))))


def _is_crowded(row: list[str]) -> bool:
    cells = [cell for cell in row if cell.strip()]
    return len(cells) > 1 and all(map(is_vin, cells))


def _digits(cell: str) -> int:
    return sum(char.isdigit() for char in cell)


def _cells(lines: list[str], delimiter: str) -> list[list[str]]:
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):
        rows.extend(cells for cells in csv.reader(lines, delimiter=delimiter) if any(map(str.strip, cells)))
    return rows
