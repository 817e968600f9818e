"""Rows of the cache as Arrow record batches, and those as a stream of Parquet bytes.

Memory does not grow with the number of rows: rows are read a few hundred at a
time inside one read transaction, gathered into row groups that are counted in
bytes, and each row group's bytes are handed on before the next is begun.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from vin_datasette import __version__
from vin_datasette.attributes import CONTRACT_ATTRIBUTES, FURTHER_ATTRIBUTES, Attribute
from vin_datasette.cache import snapshot
from vin_datasette.schema import VEHICLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

MEDIA_TYPE = "application/vnd.apache.parquet"
"""As registered with IANA."""

FIRST_ROWS, MOST_ROWS = 25, 250
"""Rows made into Python objects at a time, doubled with each step from the one to the
other: the first ones are on their way at once, and more than the other would hold the
interpreter lock long enough to be felt by others in the process."""

MOST_BYTES = 512 * 1024
"""Bytes of Arrow data that are read at a time, about, where rows are wide."""

FIRST_ROW_GROUP = 64 * 1024
LARGEST_ROW_GROUP = 4 * 1024 * 1024
"""Bytes of Arrow data in a row group: a small first one is on its way at once, and
each further one is twice as large up to what readers like."""

_ARROW_TYPES = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64()}
_CONTRACT_COLUMNS = frozenset(attribute.column for attribute in CONTRACT_ATTRIBUTES)
# Text with about as many values as rows gains nothing from a dictionary.
_DISTINCT = frozenset({"vin", "warnings", "notes", "descriptor", "record"})


@dataclass(frozen=True)
class Selection:
    """Which vehicles, and what of them, an export has: all of both by default.

    `columns` are names of the schema of `fields()`, in any order, None for all;
    `where` are SQL conditions on the table `vehicles` with named parameters.
    """

    columns: Collection[str] | None = None
    where: Sequence[str] = ()
    parameters: Mapping[str, object] = field(default_factory=dict)
    raw: bool = False

    def schema(self) -> pa.Schema:
        """The schema of the export: `vin` first, then the chosen columns in their order."""
        return pa.schema(
            column
            for column in fields(raw=self.raw)
            if self.columns is None or column.name in self.columns or column.name in ("vin", "record")
        )


def fields(*, raw: bool = False) -> list[pa.Field]:
    """The columns of an export: `vin` and the contract's four, which are strings and
    never null, then the typed attributes, then where each answer came from, and with
    `raw` the whole record of vPIC as JSON.

    Each field's metadata has, where they apply, `label`, `description`, `unit`,
    `vpic_key` and `vpic_element_id`.
    """
    contract = [_field(attribute, pa.string(), nullable=False) for attribute in CONTRACT_ATTRIBUTES]
    further = [_field(attribute, _ARROW_TYPES[attribute.kind]) for attribute in FURTHER_ATTRIBUTES]
    record = pa.field("record", pa.string(), nullable=False, metadata={"description": "vPIC's whole answer, JSON"})
    return [
        pa.field("vin", pa.string(), nullable=False, metadata={"description": "Vehicle identification number"}),
        *contract,
        *further,
        pa.field("error_code", pa.string(), metadata={"vpic_key": "ErrorCode", "vpic_element_id": "143"}),
        pa.field("warnings", pa.string(), metadata={"description": "What vPIC remarks, a line each"}),
        pa.field("source", pa.string(), nullable=False, metadata={"description": "vpic or embedded"}),
        pa.field("source_version", pa.string(), metadata={"description": "Month of the embedded database's data"}),
        pa.field("fetched_at", pa.timestamp("s", "UTC"), nullable=False, metadata={"description": "When answered"}),
        *([record] if raw else []),
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


def _expression(column: pa.Field) -> str:
    """SQL that reads a column as what the export promises of it."""
    if column.name == "fetched_at":
        return "CAST(strftime('%s', fetched_at) AS INTEGER)"
    if column.name in _CONTRACT_COLUMNS:
        return f"coalesce(CAST({column.name} AS TEXT), '')"
    return str(column.name)


def record_batches(connection: sqlite3.Connection, selection: Selection) -> Iterator[pa.RecordBatch]:
    """The selected vehicles in the order of their VINs, as record batches of at most
    `MOST_ROWS` rows each. Raises `sqlite3.Error` for conditions that are no SQL."""
    schema = selection.schema()
    cursor = connection.execute(_query(connection, selection, schema), dict(selection.parameters))
    at_once = FIRST_ROWS
    while rows := cursor.fetchmany(at_once):
        values = zip(*rows, strict=True)
        arrays = [pa.array(column, kind.type) for kind, column in zip(schema, values, strict=True)]
        batch = pa.RecordBatch.from_arrays(arrays, schema=schema)
        yield batch
        at_once = max(1, min(2 * at_once, MOST_ROWS, MOST_BYTES * len(rows) // max(batch.nbytes, 1)))


def _query(connection: sqlite3.Connection, selection: Selection, schema: pa.Schema) -> str:
    """SQL that reads in the order of the VINs without gathering the rows to sort them."""
    where = " AND ".join(f"({condition})" for condition in selection.where) or "1"
    columns = ", ".join(map(_expression, schema))
    before, after = f"SELECT {columns} FROM {VEHICLES}", f"WHERE {where} ORDER BY vin"  # noqa: S608
    plan = connection.execute(f"EXPLAIN QUERY PLAN {before} {after}", dict(selection.parameters)).fetchall()
    sorts = any("TEMP B-TREE" in step[3] for step in plan)
    return f"{before} INDEXED BY sqlite_autoindex_{VEHICLES}_1 {after}" if sorts else f"{before} {after}"


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


@dataclass(frozen=True)
class Part:
    """Bytes of a Parquet file, and the number of rows in them."""

    data: bytes
    rows: int


class Encoder:
    """Record batches in, the bytes of one Parquet file out, a part for each row group.

    `metadata` goes into the footer under `vin_datasette.…`, beside the version and the
    number of rows. Whoever ends early calls `close`.
    """

    def __init__(
        self, schema: pa.Schema, *, metadata: Mapping[str, str] | None = None, sorted_by_first: bool = False
    ) -> None:
        encoded = [column.name for column in schema if pa.types.is_string(column.type) and column.name not in _DISTINCT]
        self._schema = schema
        self._metadata = metadata or {}
        self._sink = _Sink()
        self._writer = pq.ParquetWriter(
            self._sink,
            schema,
            compression="zstd",
            use_dictionary=encoded or False,
            sorting_columns=[pq.SortingColumn(0)] if sorted_by_first else None,
        )
        self._gathered: list[pa.RecordBatch] = []
        self._size, self._target = 0, FIRST_ROW_GROUP
        self._rows = 0

    def add(self, batch: pa.RecordBatch) -> Part | None:
        """Take a batch; the bytes of a row group when one is complete with it."""
        self._gathered.append(batch)
        self._size += batch.nbytes
        if self._size < self._target:
            return None
        self._target = min(2 * self._target, LARGEST_ROW_GROUP)
        return self._row_group()

    def finish(self) -> Part:
        """The last row group and the footer."""
        part = self._row_group() if self._gathered else Part(b"", 0)
        told = {"version": __version__, **self._metadata, "rows": str(self._rows)}
        self._writer.add_key_value_metadata({f"vin_datasette.{key}": value for key, value in told.items()})
        self.close()
        return Part(part.data + self._sink.take(), part.rows)

    def close(self) -> None:
        """Let go of the writer; nothing when it is already done."""
        self._writer.close()

    def _row_group(self) -> Part:
        group = pa.Table.from_batches(self._gathered, self._schema)
        self._gathered, self._size = [], 0
        self._writer.write_table(group, row_group_size=max(group.num_rows, 1))
        self._rows += group.num_rows
        return Part(self._sink.take(), group.num_rows)


def parquet_parts(path: str | Path, selection: Selection | None = None) -> Generator[Part, None, None]:
    """The selected vehicles of a cache, at one moment, as the parts of one Parquet file.

    Writers of the cache go on meanwhile and are not seen. Close the iterator to end
    its transaction early. Raises `CacheError` when the cache cannot be read.
    """
    with snapshot(path) as connection:
        yield from snapshot_parts(connection, selection or Selection())


def snapshot_parts(connection: sqlite3.Connection, selection: Selection) -> Iterator[Part]:
    """The same from a connection that is already in its read transaction."""
    taken_at = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    encoder = Encoder(selection.schema(), metadata={"snapshot": taken_at}, sorted_by_first=True)
    try:
        for batch in record_batches(connection, selection):
            part = encoder.add(batch)
            if part:
                yield part
        yield encoder.finish()
    finally:
        encoder.close()
