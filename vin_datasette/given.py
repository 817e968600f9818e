"""VINs as a notebook has them: a list, or a column of a data frame or an Arrow table."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from vin_datasette.fleet.columns import holding_vins, named_for_vins, position_named
from vin_datasette.fleet.values import text_of

Kind = Literal["pandas", "polars", "arrow"]

_LOOKED_AT = 1000
_NAMED_AT_MOST = 40


@dataclass(frozen=True, eq=False)
class Given:
    """VINs as they are written, and the frame they are a column of, if any.

    `names` are the names of the frame's columns, as texts.
    """

    texts: Sequence[str]
    frame: Any = None
    kind: Kind | None = None
    names: Sequence[str] = ()


def given(data: object, column: str | None = None) -> Given:
    """What was handed in: an iterable of texts, a pandas or polars frame, an Arrow table or
    anything that gives one by `__arrow_c_stream__` (Arrow's PyCapsule interface).

    `column` names the frame's column of VINs, which is found where it is not said. Raises
    `ValueError` where there is none, and `TypeError` for what holds no VINs.
    """
    frame, kind = _frame(data)
    if kind is None:
        if column is not None:
            raise ValueError("A column is of a data frame or an Arrow table; a list of VINs has none.")
        return Given(_texts(data))
    names = [str(name) for name in (frame.column_names if kind == "arrow" else frame.columns)]
    position = _position(frame, kind, names, column)
    return Given([_text(value) for value in _values(frame, kind, position)], frame, kind, names)


def _frame(data: object) -> tuple[Any, Kind | None]:
    # Whoever hands one in has imported what made it, and may add columns to it while VINs are looked up.
    if _is_a(data, "pandas", "DataFrame"):
        return cast("Any", data).copy(deep=False), "pandas"
    if _is_a(data, "polars", "DataFrame"):
        return cast("Any", data).clone(), "polars"
    if _is_a(data, "pyarrow", "Table"):
        return data, "arrow"
    if _is_a(data, "pyarrow", "RecordBatch") or (
        hasattr(data, "__arrow_c_stream__") and not isinstance(data, Sequence) and not _is_a_series(data)
    ):
        import pyarrow as pa

        return pa.table(data), "arrow"
    return None, None


def _is_a(data: object, module: str, name: str) -> bool:
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(data, kind)


_SERIES = (("pandas", "Series"), ("polars", "Series"), ("pyarrow", "ChunkedArray"), ("pyarrow", "Array"))


def _is_a_series(data: object) -> bool:
    return any(_is_a(data, *kind) for kind in _SERIES)


def _texts(data: object) -> list[str]:
    no_list = isinstance(data, (str, bytes, bytearray, Mapping)) or not isinstance(data, Iterable)
    # An array without dimensions has a method to go through it, which fails.
    if no_list or getattr(data, "ndim", 1) == 0:
        raise TypeError(f"VINs come as a list, a data frame or an Arrow table, not as {type(data).__name__}.")
    values: Iterable[object] = data.to_pylist() if hasattr(data, "to_pylist") else cast("Iterable[object]", data)
    return [_item(number, value) for number, value in enumerate(values, 1)]


def _item(number: int, value: object) -> str:
    if hasattr(value, "__len__") and not isinstance(value, (str, bytes)):
        raise TypeError(f"Each VIN of a list is a text, and number {number} is a {type(value).__name__}.")
    return _text(value.as_py() if hasattr(value, "as_py") else value)


def _text(value: object) -> str:
    # A frame's NaN is no equal of itself; pandas' own do not even say so.
    missing = type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value)  # noqa: PLR0124
    # numpy's texts are Python's, but show themselves as another kind.
    return "" if missing else str(text_of(value))


def _values(frame: Any, kind: Kind, position: int) -> list[object]:
    if kind == "pandas":
        values = frame.iloc[:, position].tolist()
    elif kind == "polars":
        values = frame.to_series(position).to_list()
    else:
        values = frame.column(position).to_pylist()
    return list(values)


def _position(frame: Any, kind: Kind, names: list[str], column: str | None) -> int:
    if not names:
        raise ValueError("The frame has no columns.")
    if column is not None:
        return _named(names, column)
    position = named_for_vins(names)
    if position is None:
        head = frame.slice(0, _LOOKED_AT) if kind != "pandas" else frame.iloc[:_LOOKED_AT]
        columns = [_values(head, kind, index) for index in range(len(names))]
        position = holding_vins(list(zip(*columns, strict=True)), len(names))
    if position is None:
        raise ValueError(
            f"No column of the frame was found to hold VINs; say which with column=. Its columns are: {_listed(names)}."
        )
    return position


def _named(names: list[str], column: str) -> int:
    # Not by number as on the command line: who writes Python counts from 0, and a frame may have numbers for names.
    position = position_named(names, str(column))
    if position is None:
        raise ValueError(f"The frame has no column {column!r}; its columns are: {_listed(names)}.")
    return position


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(map(repr, names[:_NAMED_AT_MOST])) + (f" and {more:,} more" if more > 0 else "")
