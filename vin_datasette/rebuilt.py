"""Records made of a vehicle's columns again, where nobody has vPIC's own answer any more.

Of such a record only what columns show is what vPIC said. It says so itself, under `MARK`, as whoever
has it next should know too.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from vin_datasette.attributes import ATTRIBUTES, gvwr_to_of, pounds_of
from vin_datasette.record import Record, read_error_codes
from vin_datasette.vehicle import CLEAN_CODE, NO_MAKE, REJECTING_CODES, Vehicle

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vin_datasette.attributes import Value
    from vin_datasette.vin import VIN

MARK = "RebuiltFrom"
"""The key that a rebuilt record has, and none of vPIC's."""

_PLAIN = {attribute.column: attribute.key for attribute in ATTRIBUTES if attribute.special is None}


def is_rebuilt(values: Mapping[str, object]) -> bool:
    """Whether the values of a record are those of columns."""
    return MARK in values


def of_vehicle(vin: VIN, columns: Mapping[str, object], *, sibling: bool) -> tuple[dict[str, object], tuple[str, ...]]:
    """Values under vPIC's keys, of which a vehicle has these columns, and the notes of the lookup.

    `columns` are `error_code`, `warnings` and those of `ATTRIBUTES`, or some of them, by name. None
    is written as "", as vPIC does, and numbers as its database does, `2` and `2.5`; what a column
    has in kilograms is in the nearest pounds, and the upper end of the gross weight without its
    class. Of `warnings`, a line each, vPIC's remarks come first and then the notes, which nothing tells from a
    second remark but that, of a `sibling`, the last is one.
    """
    values = _beginning(vin, _text(columns.get("error_code")))
    lines = _text(columns.get("warnings")).split("\n")
    if "warnings" in columns:
        values["ErrorText"] = lines.pop(0) if read_error_codes(values) != (CLEAN_CODE,) else ""
        values["AdditionalErrorText"] = lines.pop(0) if len(lines) > sibling else ""
    values.update((key, _text(columns[column])) for column, key in _PLAIN.items() if column in columns)
    gross, curb = columns.get("gvwr_to_kg"), columns.get("curb_weight_kg")
    if "gvwr_class" in columns and "gvwr_to_kg" in columns:
        values["GVWR_to"] = gvwr_to_of(str(values["GVWR"]), gross if isinstance(gross, int) else None)
    if "curb_weight_kg" in columns:
        values["CurbWeightLB"] = str(pounds_of(curb)) if isinstance(curb, int) else ""
    return values, tuple(line for line in lines if line)


def of_rejection(vin: VIN, error_code: str, reason: str) -> dict[str, object]:
    """Values under vPIC's keys, of which a rejection has this reason and this code."""
    values = _beginning(vin, error_code)
    if not REJECTING_CODES.intersection(read_error_codes(values)):
        reason = reason.removeprefix(NO_MAKE).lstrip()
    return {**values, "ErrorText": reason}


def _beginning(vin: VIN, error_code: str) -> dict[str, object]:
    return {"VIN": str(vin), "ErrorCode": error_code, MARK: "the columns of a file"}


def _text(value: object) -> str:
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "" if value is None else str(value)


def differences(vin: VIN, was: Mapping[str, object], now: Mapping[str, object]) -> dict[str, list[object]]:
    """What vPIC used to say of a VIN and says now, by the keys under which that is not the same.

    A rebuilt record says nothing under a key that it has not, and under one that it has no more
    than columns show.
    """
    keys = {**was, **now}
    changed = {key: [was.get(key), now.get(key)] for key in keys if (was.get(key) or "") != (now.get(key) or "")}
    if is_rebuilt(was) or is_rebuilt(now):
        before, after = _columns(vin, was), _columns(vin, now)
        shown = {"ErrorCode", *(each.key for each in ATTRIBUTES if before[each.column] != after[each.column])}
        changed = {key: values for key, values in changed.items() if key in shown and key in was and key in now}
    return changed


def _columns(vin: VIN, values: Mapping[str, object]) -> dict[str, Value]:
    return Vehicle(Record(vin, values, "vpic", None, _NEVER)).columns()


_NEVER = datetime.fromtimestamp(0, timezone.utc)
