"""The columns of a fleet: their names, and which of them holds the VINs and the model years."""

from __future__ import annotations

import re
from itertools import chain, count, islice
from typing import TYPE_CHECKING, TypeVar

from vin_datasette.fleet.fleet import InputError
from vin_datasette.fleet.text import SAMPLE_LINES
from vin_datasette.fleet.values import is_vin, text_of
from vin_datasette.words import sendable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

T = TypeVar("T")

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
_NAMED_AT_MOST = 40

MOST_COLUMNS = 16_384
"""Columns of a spreadsheet at most; with many more, a file of short rows would be a table of gigabytes."""


def distinct(names: Iterable[object]) -> list[str]:
    """Names of which each is there once and none is empty, as text that every output can hold."""
    stripped = [sendable(str(name)).strip() if name is not None else "" for name in names]
    taken = set(stripped)
    seen: set[str] = set()
    counts: dict[str, int] = {}
    made = []
    for number, name in enumerate(stripped, 1):
        bare = unique = name or f"column_{number}"
        # What was in use before is so still.
        count = counts.get(bare, 1)
        while unique in seen or (unique != name and unique in taken):
            count += 1
            unique = f"{bare}_{count}"
        seen.add(unique)
        counts[bare] = count
        made.append(unique)
    return made


def names_beside(own: Iterable[str], added: Iterable[str]) -> list[str]:
    """Names for columns that are added to those that a table has: `vpic_…` in place of one that is
    taken, in whichever case, and `vpic_…_2` where that is too."""
    taken = {name.casefold() for name in own}
    names: list[str] = []
    for name in added:
        wanted = chain([name, f"vpic_{name}"], (f"vpic_{name}_{number}" for number in count(2)))
        names.append(next(free for free in wanted if free.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def position_beside(names: Sequence[str], added: str) -> int | None:
    """Where the column stands that `names_beside` named for `added`: behind a table's own, so that of
    several that may be it the last is."""
    may_be = re.compile(rf"(?:vpic_)?{re.escape(added)}|vpic_{re.escape(added)}_\d+", re.ASCII | re.IGNORECASE)
    return next((at for at in reversed(range(len(names))) if may_be.fullmatch(names[at])), None)


def refuse_too_many(names: Sequence[str], source: str) -> None:
    """Raises `InputError` for more than `MOST_COLUMNS`."""
    if len(names) > MOST_COLUMNS:
        raise InputError(f"{source} has {len(names):,} columns, and {MOST_COLUMNS:,} can be read; leave some out.")


def listed(names: Sequence[str]) -> str:
    """Names by their numbers from 1, for a message; not all of very many."""
    shown = ", ".join(f"{number} {name!r}" for number, name in enumerate(names[:_NAMED_AT_MOST], 1))
    more = len(names) - _NAMED_AT_MOST
    return f"{shown} and {more:,} more" if more > 0 else shown


def position_named(names: Sequence[str], wanted: str) -> int | None:
    """Where the column of this name is, in whichever case where none is written just so."""
    if wanted in names:
        return names.index(wanted)
    folded = [name.casefold() for name in names]
    return folded.index(wanted.casefold()) if wanted.casefold() in folded else None


def position_of(names: Sequence[str], wanted: str) -> int | None:
    """Where the column is that somebody wrote as `wanted`: its name, else its number from 1."""
    bare = wanted.strip().casefold()
    for text in (wanted, bare):
        position = position_named(names, text)
        if position is not None:
            return position
    if bare.isascii() and bare.isdigit() and 1 <= int(bare[:9]) <= len(names):
        return int(bare[:9]) - 1
    return None


def column_of(names: Sequence[str], wanted: str, source: str) -> int:
    """Where the column is that was asked for as `wanted`. Raises `InputError` where there is none."""
    position = position_of(names, wanted)
    if position is None:
        there = f"its columns are: {listed(names)}" if names else "it has no columns, only VINs"
        raise InputError(f"{source} has no column {wanted!r}; {there}.")
    return position


def named_for_vins(names: Sequence[object]) -> int | None:
    """Where the column is whose name says that it holds VINs, in one of many ways."""
    bare = ["".join(filter(str.isalnum, str(name).casefold())) for name in names]
    return next((bare.index(name) for name in _VIN_NAMES if name in bare), None)


def holding_vins(rows: Sequence[Sequence[object]], width: int) -> int | None:
    """The column most of whose cells are well-formed VINs, of those with the most of them."""
    best: tuple[int, int] | None = None
    for position in range(width):
        cells = [row[position] for row in rows if position < len(row)]
        cells = [cell for cell in cells if text_of(cell).strip()]
        well_formed = sum(map(is_vin, cells))
        if well_formed * 2 >= len(cells) and well_formed > (best[0] if best else 0):
            best = well_formed, position
    return best[1] if best else None


def vin_column(names: Sequence[str], rows: Sequence[Sequence[object]], wanted: str | None, source: str) -> int:
    """Where the VINs are: the column that was asked for, else by its name, else by what `rows` of a
    sample hold. Raises `InputError` when none is known to, or there are too many."""
    refuse_too_many(names, source)
    if wanted is not None:
        return column_of(names, wanted, source)
    position = named_for_vins(names)
    if position is None:
        position = holding_vins(rows, len(names))
    # With one column, or no row, there is nothing to choose.
    if position is None and names and (len(names) == 1 or not rows):
        return 0
    if position is None:
        raise InputError(no_vin_column(names, source))
    return position


def no_vin_column(names: Sequence[str], source: str) -> str:
    """The message when no column is known to hold the VINs."""
    columns = listed(names)
    return f"No column of {source} was found to hold VINs; say which does with --column. Its columns are: {columns}."


def model_year_column(names: Sequence[str], wanted: str | None, source: str) -> int | None:
    """Where the model years are, when they were asked for. Raises `InputError` where they are not."""
    return None if wanted is None else column_of(names, wanted, source)


def peeked(rows: Iterator[T]) -> tuple[list[T], Iterator[T]]:
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
