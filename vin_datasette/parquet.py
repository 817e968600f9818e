"""Record batches as a stream of Parquet bytes.

Memory does not grow with the number of rows: they are gathered into row groups that
are counted in bytes, and each row group's bytes are handed on before the next is begun.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from vin_datasette import __version__
from vin_datasette.batches import Selection, record_batches
from vin_datasette.cache import snapshot

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Generator, Iterator, Mapping
    from pathlib import Path

FIRST_ROW_GROUP = 64 * 1024
LARGEST_ROW_GROUP = 4 * 1024 * 1024
"""Bytes of Arrow data in a row group: a small first one is on its way at once, and
each further one is twice as large up to what readers like."""

# Text with about as many values as rows gains nothing from a dictionary.
_DISTINCT = frozenset({"vin", "warnings", "notes", "descriptor", "record"})


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
        # One chunk for each column: a writer takes many small ones several times as slowly.
        group = pa.Table.from_batches(self._gathered, self._schema).combine_chunks()
        self._gathered, self._size = [], 0
        self._writer.write_table(group, row_group_size=max(group.num_rows, 1))
        rows = group.num_rows
        self._rows += rows
        del group
        # The allocator keeps what is freed for later, which is much beside a server.
        pa.default_memory_pool().release_unused()
        return Part(self._sink.take(), rows)


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
