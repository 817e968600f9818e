"""Private: VINs and model years as Arrow's columns hold them, of which nearly all are well-formed."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from vin_datasette.distinct import by_distinct
from vin_datasette.fleet.parquet import python_values
from vin_datasette.fleet.values import model_year_of, text_of
from vin_datasette.vin import VIN, WELL_FORMED, InvalidVIN

_WELL_FORMED = rf"\A(?:{WELL_FORMED})\z"


def holds_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, or nothing at all, plain or by a dictionary."""
    kind = _bare(kind)
    return any(
        is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )


def may_hold_years(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold model years: numbers or text."""
    bare = _bare(kind)
    return holds_text(kind) or any(is_kind(bare) for is_kind in (types.is_integer, types.is_floating, types.is_decimal))


def read_vins(column: pa.Array) -> tuple[pa.Array, pa.Array | None]:
    """VINs as they are asked, null for those that are none; and for these why, None where there are no such."""
    texts = _plain(column)
    bad = pc.invert(pc.fill_null(pc.match_substring_regex(texts, _WELL_FORMED), False))
    if not pc.any(bad).as_py():
        return texts, None
    read = [_read(text_of(value)) for value in python_values(texts.filter(bad))]
    vins, problems = (pa.array(values, pa.string()) for values in zip(*read, strict=True))
    return (
        pc.replace_with_mask(texts, bad, vins),
        pc.replace_with_mask(pa.nulls(len(texts), pa.string()), bad, problems),
    )


def read_years(column: pa.Array) -> pa.Array:
    """Model years, null where a value says none."""
    kind = _bare(column.type)
    known = _plain(column) if holds_text(kind) else column.cast(kind)
    return by_distinct([known], model_year_of, pa.int32())


def _read(text: str) -> tuple[str | None, str | None]:
    try:
        return VIN(text), None
    except InvalidVIN as error:
        return None, error.reason


def _bare(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if types.is_dictionary(kind) else kind


def _plain(column: pa.Array) -> pa.Array:
    if types.is_string(column.type):
        return column
    if types.is_large_string(column.type):
        # A few rows far behind in gigabytes of text are too far behind for smaller offsets; a copy begins anew.
        column = pa.concat_arrays([column.slice(0, 0), column])
    return column.cast(pa.string())
