"""What stands in a fleet: texts, VINs, model years, and the rows that they make."""

from __future__ import annotations

import contextlib
from decimal import Decimal
from typing import TYPE_CHECKING

from vin_datasette.fleet.row import Row
from vin_datasette.fleet.text import ANY_BYTE, LONGEST_LINE
from vin_datasette.vin import LENGTH, VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LARGEST_ROW = 1_000_000
"""Characters and bytes of all values of a row."""

_FIRST_YEAR, _LAST_YEAR = 1980, 2100
YEARS = {f"{year}{end}": year for year in range(_FIRST_YEAR, _LAST_YEAR + 1) for end in ("", ".0")}
"""The model year that a text says, of those as most say it."""

# Longer text is no VIN that somebody wrote with spaces, and need not be looked at.
_LONGEST_WRITTEN_VIN = 3 * LENGTH

new_row = tuple.__new__
"""Makes a row of all its five values; `Row(…)` would cost several times what reading its line does."""


def text_of(value: object) -> str:
    """A value of any type as text; nothing is ""."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", ANY_BYTE)
    return "" if value is None else str(value)


def is_vin(value: object) -> bool:
    """Whether a value is a well-formed VIN, as people write one."""
    text = text_of(value)
    if not LENGTH <= len(text) <= _LONGEST_WRITTEN_VIN:
        return False
    with contextlib.suppress(InvalidVIN):
        VIN(text)
        return True
    return False


def model_year_of(value: object) -> int | None:
    """The model year that a value of any type says, if it says one."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float, Decimal)):
        # No NaN and no infinity compares as within.
        within = _FIRST_YEAR <= value <= _LAST_YEAR
        return int(value) if within and value == int(value) else None
    return YEARS.get(text_of(value).strip())


def too_long(number: int) -> Row:
    """The row of a line that was skipped for its length."""
    return Row(number, "", problem=f"The line is longer than {LONGEST_LINE:,} characters.")


def within_size(values: tuple[object, ...]) -> tuple[object, ...] | None:
    """The values of a row of a table; None instead of so many that they are no row of a fleet's."""
    large = sum(len(value) for value in values if isinstance(value, (str, bytes))) > LARGEST_ROW
    return None if large else values


def typed_rows(
    records: Iterable[tuple[object, ...] | None], width: int, vin_at: int, year_at: int | None
) -> Iterator[Row]:
    """The rows of a table whose values have types, by the positions of its VINs and model years. Those
    of a row that was too large to be kept are None."""
    for number, values in enumerate(records, 1):
        if values is None:
            yield Row(number, "", None, (None,) * width, f"Its values are larger than {LARGEST_ROW:,} characters.")
            continue
        year = None if year_at is None else model_year_of(values[year_at])
        yield new_row(Row, (number, text_of(values[vin_at]), year, values, None))
