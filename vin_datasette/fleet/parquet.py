"""Parquet: a table that has types, which its columns keep."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from vin_datasette.fleet.columns import distinct, model_year_column, peeked, vin_column
from vin_datasette.fleet.fleet import Fleet, InputError
from vin_datasette.fleet.text import ANY_BYTE
from vin_datasette.fleet.values import LARGEST_ROW, typed_rows, within_size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    import pyarrow as pa

    from vin_datasette.fleet.fleet import Wanted

_ROWS_AT_ONCE = 1024


def parquet_fleet(file: BinaryIO, source: str, wanted: Wanted, opened: ExitStack) -> Fleet:
    """The fleet of a Parquet file, read a few columns' pages at a time until `opened` is closed."""
    parquet = open_parquet(file, source, opened)
    schema = parquet.schema_arrow
    names = distinct(schema.names)
    if not names:
        raise InputError(f"{source} has no columns.")
    head, records = peeked(parquet_records(parquet, source))
    vin_at = vin_column(names, [values for values in head if values], wanted.vin, source)
    year_at = model_year_column(names, wanted.model_year, source)
    return Fleet(names, _renamed(schema, names), typed_rows(records, len(names), vin_at, year_at), source)


def open_parquet(file: BinaryIO, source: str, opened: ExitStack) -> Any:
    """A `pyarrow.parquet.ParquetFile` whose pages are read as they are needed, until `opened` is closed, and
    whose `schema_arrow` is known. Raises `InputError`."""
    import pyarrow.parquet as pq

    with parquet_in_words(source):
        file.seek(0)
        # A buffer of its own for each column, instead of a row group's whole columns in memory.
        parquet = opened.enter_context(pq.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False))
        # Made on demand, of what may be damaged.
        _ = parquet.schema_arrow
    return parquet


def _renamed(schema: pa.Schema, names: list[str]) -> pa.Schema:
    for position, name in enumerate(names):
        if schema.field(position).name != name:
            schema = schema.set(position, schema.field(position).with_name(name))
    return schema


def parquet_records(parquet: Any, source: str, columns: list[str] | None = None) -> Iterator[tuple[object, ...] | None]:
    """The values of each row, in the order of the file's columns; None for a row too large. With
    `columns`, of which the file has each once, theirs in their order. Raises `InputError` where the file breaks."""
    with parquet_in_words(source):
        for read in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns, use_threads=False):
            # Of `a`, `a.b` is read too.
            batch = read if columns is None else read.select(columns)
            if any(map(_has_large_text, batch.columns)):
                # One after another: together they may be a thousand times what the file is.
                for row in range(batch.num_rows):
                    yield _row_alone(batch.slice(row, 1))
            else:
                yield from zip(*map(python_values, batch.columns), strict=True)


def _row_alone(row: Any) -> tuple[object, ...] | None:
    columns = [_without_dictionary(column) for column in row.columns]
    if any(map(_has_large_text, columns)):
        return None
    return within_size(tuple(python_values(column)[0] for column in columns))


def _without_dictionary(column: Any) -> Any:
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _has_large_text(column: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        return _has_large_text(column.dictionary)
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        # Arrow has no function for their lengths.
        return any(value.is_valid and value.as_buffer().size > LARGEST_ROW for value in column)
    kinds = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary
    if not any(is_kind(column.type) for is_kind in kinds):
        return False
    longest = pc.max(pc.binary_length(column)).as_py()
    return longest is not None and longest > LARGEST_ROW


def python_values(column: Any) -> list[object]:
    """The values of an Arrow array, as near as Python's own types come to them."""
    try:
        return cast("list[object]", column.to_pylist())
    except (ValueError, OverflowError, LookupError):
        # A time to the nanosecond or after the year 9999, which Python's own cannot hold, or in a zone
        # that it does not know; or text that is not UTF-8.
        return [_python_value(scalar) for scalar in column]


def _python_value(scalar: Any) -> object:
    try:
        return cast("object", scalar.as_py())
    except UnicodeDecodeError as error:
        return error.object.decode("utf-8", ANY_BYTE)
    except (ValueError, OverflowError, LookupError):
        return getattr(scalar, "value", None)


@contextmanager
def parquet_in_words(source: str) -> Iterator[None]:
    """What keeps a file from being read as Parquet within the context as an `InputError`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{source} cannot be read as Parquet: {str(error).rstrip('.')}. Get or write it anew."
        ) from error
