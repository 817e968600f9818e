"""Parquet: a table that has types, which its columns keep."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from vin_datasette.fleet.columns import distinct, model_year_column, peeked, vin_column
from vin_datasette.fleet.fleet import Fleet, InputError
from vin_datasette.fleet.values import typed_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    import pyarrow as pa

    from vin_datasette.fleet.fleet import Wanted

_ROWS_AT_ONCE = 1024


def parquet_fleet(file: BinaryIO, source: str, wanted: Wanted, opened: ExitStack) -> Fleet:
    """The fleet of a Parquet file, read a few columns' pages at a time until `opened` is closed."""
    import pyarrow.parquet as pq

    with _parquet_in_words(source):
        file.seek(0)
        # A buffer of its own for each column, instead of a row group's whole columns in memory.
        parquet = opened.enter_context(pq.ParquetFile(file, buffer_size=1 << 16, pre_buffer=False))
        schema = parquet.schema_arrow
    names = distinct(schema.names)
    if not names:
        raise InputError(f"{source} has no columns.")
    head, records = peeked(_parquet_records(parquet, source))
    vin_at = vin_column(names, head, wanted.vin, source)
    year_at = model_year_column(names, wanted.model_year, source)
    return Fleet(names, _renamed(schema, names), typed_rows(records, vin_at, year_at), source)


def _renamed(schema: pa.Schema, names: list[str]) -> pa.Schema:
    for position, name in enumerate(names):
        if schema.field(position).name != name:
            schema = schema.set(position, schema.field(position).with_name(name))
    return schema


def _parquet_records(parquet: Any, source: str) -> Iterator[tuple[object, ...]]:
    with _parquet_in_words(source):
        for batch in parquet.iter_batches(batch_size=_ROWS_AT_ONCE, use_threads=False):
            yield from zip(*map(_python_values, batch.columns), strict=True)


def _python_values(column: Any) -> list[object]:
    try:
        return cast("list[object]", column.to_pylist())
    except (ValueError, OverflowError):
        # A time to the nanosecond or after the year 9999, which Python's own cannot hold.
        return [_python_value(scalar) for scalar in column]


def _python_value(scalar: Any) -> object:
    try:
        return cast("object", scalar.as_py())
    except (ValueError, OverflowError):
        return getattr(scalar, "value", None)


@contextmanager
def _parquet_in_words(source: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{source} cannot be read as Parquet: {str(error).rstrip('.')}. Get or write it anew."
        ) from error
