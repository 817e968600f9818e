"""What of the vehicles an export has, said in the parameters of Datasette's table pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasette.filters import Filters

from vin_datasette.batches import Selection, fields
from vin_datasette.schema import VEHICLES

if TYPE_CHECKING:
    from collections.abc import Iterable

_FLAGS = {"": False, "0": False, "off": False, "1": True, "on": True}

# No column of the vehicles is an array.
_ARRAY_FILTERS = {"arraycontains", "arraynotcontains"}


class BadSelection(ValueError):
    """A parameter that names no column, filter or option; the message says which."""


def selected(parameters: Iterable[tuple[str, str]]) -> Selection:
    """The selection that query parameters ask for.

    `_col=` (repeated) keeps only these columns, `_nocol=` leaves columns out, `vin`
    always stays; `column=value` and `column__filter=value` are Datasette's own
    column filters; `_raw=1` adds `record`. Raises `BadSelection`.
    """
    columns = [column.name for column in fields(raw=True)]
    kept: list[str] = []
    dropped: list[str] = []
    filters: list[tuple[str, str]] = []
    raw = False
    for key, value in parameters:
        if key in ("_col", "_nocol"):
            _check_column(value, columns)
            (kept if key == "_col" else dropped).append(value)
        elif key == "_raw":
            if value not in _FLAGS:
                raise BadSelection(f"_raw is 1 or 0, not {value!r}.")
            raw = _FLAGS[value]
        elif key.startswith("_"):
            raise BadSelection(f"{key} is no parameter of an export; there are _col, _nocol, _raw and column filters.")
        else:
            filters.append((key, value))
    conditions, arguments = _filtered(filters, columns)
    wanted = [column for column in kept or columns if column not in dropped]
    return Selection(wanted, conditions, arguments, raw or "record" in kept)


def _filtered(pairs: list[tuple[str, str]], columns: list[str]) -> tuple[list[str], dict[str, object]]:
    filters = Filters(pairs)
    known = {key for key, _, _ in filters.lookups()} - _ARRAY_FILTERS
    for column, lookup, _ in filters.selections():
        _check_column(column, columns)
        if lookup not in known:
            raise BadSelection(f"{lookup!r} is no filter; there are {', '.join(sorted(known))}.")
    try:
        conditions, arguments = filters.build_where_clauses(VEHICLES)
    except ValueError:
        raise BadSelection("The values of an in filter are separated by commas, or a list in JSON.") from None
    if not all(isinstance(value, (str, float)) or _fits(value) for value in arguments.values()):
        raise BadSelection("The values of an in filter are texts and numbers, and integers have at most 64 bits.")
    return conditions, arguments


def _fits(value: object) -> bool:
    """Whether SQLite can hold an integer."""
    return isinstance(value, int) and -(2**63) <= value < 2**63


def _check_column(column: str, columns: list[str]) -> None:
    if column not in columns:
        raise BadSelection(f"{column[:64]!r} is no column of the vehicles; there are {', '.join(columns)}.")
