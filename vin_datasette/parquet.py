"""Rows of the cache as Arrow record batches, and those as a stream of Parquet bytes.

Memory does not grow with the number of rows: rows are read a few hundred at a
time inside one read transaction, gathered into row groups that are counted in
bytes, and each row group's bytes are handed on before the next is begun.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from vin_datasette import __version__
from vin_datasette.attributes import CONTRACT_ATTRIBUTES, FURTHER_ATTRIBUTES, Attribute
from vin_datasette.cache import snapshot
from vin_datasette.schema import VEHICLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

MEDIA_TYPE = "application/vnd.apache.parquet"
"""As registered with IANA."""

ROWS_AT_ONCE = 250
"""Rows made into Python objects at a time: more would hold the interpreter lock long
enough to be felt by others in the process, fewer cost speed."""

FIRST_ROW_GROUP = 64 * 1024
LARGEST_ROW_GROUP = 8 * 1024 * 1024
"""Bytes of Arrow data in a row group: a small first one is on its way at once, and
each further one is twice as large up to what readers like."""

_ARROW_TYPES = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64()}
# Text with about as many values as rows gains nothing from a dictionary.
_DISTINCT = frozenset({"vin", "warnings", "notes", "fetched_at", "descriptor"})


def fields() -> list[pa.Field]:
    """The columns of an export: `vin` and the contract's four, which are strings and
    never null, then the typed attributes, then where each answer came from."""
    contract = [_field(attribute, pa.string(), nullable=False) for attribute in CONTRACT_ATTRIBUTES]
    further = [_field(attribute, _ARROW_TYPES[attribute.kind]) for attribute in FURTHER_ATTRIBUTES]
    return [
        pa.field("vin", pa.string(), nullable=False, metadata={"description": "Vehicle identification number"}),
        *contract,
        *further,
        pa.field("error_code", pa.string(), metadata={"vpic_key": "ErrorCode", "vpic_element_id": "143"}),
        pa.field("warnings", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_version", pa.string()),
        pa.field("fetched_at", pa.timestamp("s", "UTC"), nullable=False),
    ]


def _field(attribute: Attribute, kind: pa.DataType, *, nullable: bool = True) -> pa.Field:
    metadata = {
        "label": attribute.label,
        "description": attribute.description,
        "vpic_key": attribute.key,
        "vpic_element_id": str(attribute.element_id),
    }
    if attribute.unit:
        metadata["unit"] = attribute.unit
    return pa.field(attribute.column, kind, nullable=nullable, metadata=metadata)


def _expression(field: pa.Field) -> str:
    """SQL that reads a column as what the export promises of it."""
    if field.name == "fetched_at":
        return "CAST(strftime('%s', fetched_at) AS INTEGER)"
    if field.name in {attribute.column for attribute in CONTRACT_ATTRIBUTES}:
        return f"coalesce(CAST({field.name} AS TEXT), '')"
    return str(field.name)


def record_batches(connection: sqlite3.Connection, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """All vehicles in the order of their VINs, as record batches of `schema`, at most
    `ROWS_AT_ONCE` rows each."""
    columns = ", ".join(map(_expression, schema))
    cursor = connection.execute(f"SELECT {columns} FROM {VEHICLES} ORDER BY vin")  # noqa: S608
    while rows := cursor.fetchmany(ROWS_AT_ONCE):
        values = zip(*rows, strict=True)
        yield pa.record_batch(
            [pa.array(column, field.type) for field, column in zip(schema, values, strict=True)], schema=schema
        )


class _Sink:
    """What the Parquet writer writes into: bytes wait here until they are taken."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        return len(part)

    def flush(self) -> None:
        """Nothing waits elsewhere."""

    def take(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def parquet_bytes(path: str | Path) -> Iterator[bytes]:
    """All vehicles of a cache, at one moment, as the bytes of one Parquet file.

    Yields the bytes of each row group when it is complete; writers of the cache go
    on meanwhile and are not seen. Close the iterator to end its transaction early.
    Raises `CacheError` when the cache cannot be read.
    """
    schema = pa.schema(fields())
    sink = _Sink()
    with snapshot(path) as connection:
        taken_at = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        dictionary = [field.name for field in schema if pa.types.is_string(field.type) and field.name not in _DISTINCT]
        with pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            use_dictionary=dictionary,
            sorting_columns=[pq.SortingColumn(0)],
        ) as writer:
            count = 0
            for group in _row_groups(record_batches(connection, schema), schema):
                writer.write_table(group, row_group_size=group.num_rows)
                count += group.num_rows
                yield sink.take()
            writer.add_key_value_metadata(
                {
                    "vin_datasette.version": __version__,
                    "vin_datasette.snapshot": taken_at,
                    "vin_datasette.rows": str(count),
                }
            )
        yield sink.take()


def _row_groups(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    gathered: list[pa.RecordBatch] = []
    size, target = 0, FIRST_ROW_GROUP
    for batch in batches:
        gathered.append(batch)
        size += batch.nbytes
        if size >= target:
            yield pa.Table.from_batches(gathered, schema)
            gathered, size, target = [], 0, min(2 * target, LARGEST_ROW_GROUP)
    if gathered:
        yield pa.Table.from_batches(gathered, schema)


def write_to(path: str | Path, out: BinaryIO) -> int:
    """Write all vehicles of a cache to an open binary stream; the number of bytes."""
    written = 0
    for part in parquet_bytes(path):
        out.write(part)
        written += len(part)
    out.flush()
    return written


def write_file(path: str | Path, target: str | Path) -> int:
    """Write all vehicles of a cache to the file `target`; the number of bytes.

    Written beside the target and renamed when it is whole, so that no half-written
    file ever bears the name. Raises `OSError` when the folder cannot be written.
    """
    target = Path(target)
    handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    try:
        with open(handle, "wb") as out:
            written = write_to(path, out)
            os.fsync(out.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return written


def _umask() -> int:
    """The process's mask, which cannot be read without setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
