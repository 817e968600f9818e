"""The rows of a page, whichever table, view or query it is of, as Parquet: the type of each column, and the bytes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasette.database import QueryInterrupted
from datasette.utils import escape_sqlite

from vin_datasette.parquet import Encoder, Part
from vin_datasette.web.streams import finished, own_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from datasette.database import Database

Row = tuple[Any, ...]


async def schema_of(
    db: Database, table: str | None, parameters: dict[str, str], columns: Sequence[str], sql: str
) -> pa.Schema:
    """The columns of a table, or of a query with its parameters, each with its Arrow type: that of all its
    values where they can be read within `sql_time_limit_ms`, else the declared one, else text.

    Raises `sqlite3.Error`.
    """
    kinds = await _kinds(db, table, parameters, columns, sql)
    return pa.schema(zip(columns, kinds, strict=True))


async def _kinds(
    db: Database, table: str | None, parameters: dict[str, str], columns: Sequence[str], sql: str
) -> list[pa.DataType]:
    declared = await _declared(db, table) if table else {}
    chosen = f"SELECT {', '.join(map(escape_sqlite, columns))} FROM {escape_sqlite(table)}" if table else sql  # noqa: S608 - escaped, or Datasette's own SQL  # nosec B608
    # By position, as names may differ in case alone. On a line of its own the parenthesis is not
    # swallowed by a comment at the end.
    names = [f"c{index}" for index in range(len(columns))]
    flags = [flag.format(name) for name in names for flag in _FLAGS]
    scan = f"WITH q ({', '.join(names)}) AS (\n{chosen.strip().rstrip(';')}\n) SELECT {', '.join(flags)} FROM q"  # noqa: S608 - escaped, or Datasette's own SQL  # nosec B608
    try:
        [seen] = (await db.execute(scan, parameters)).rows
    except QueryInterrupted:
        return [declared.get(column, pa.string()) for column in columns]
    width = len(_FLAGS)
    return [
        _kind([bool(flag) for flag in seen[width * index : width * (index + 1)]], declared.get(column, pa.string()))
        for index, column in enumerate(columns)
    ]


_FLAGS = (
    *(f"max(typeof({{0}}) = '{kind}')" for kind in ("integer", "real", "text", "blob")),
    f"max(typeof({{0}}) = 'integer' AND {{0}} NOT BETWEEN -{2**53} AND {2**53})",
)
"""Whether a column has values of each kind, and integers that are no exact real numbers."""


def _kind(seen: Sequence[bool], declared: pa.DataType) -> pa.DataType:
    integer, real, text, blob, large = seen
    if blob:
        return pa.binary()
    if text or (real and large):
        return pa.string()
    if real:
        return pa.float64()
    return pa.int64() if integer else declared


async def _declared(db: Database, table: str) -> dict[str, pa.DataType]:
    """Declared column types by the rules of SQLite's type affinity (its documentation, 3.1)."""
    info = await db.execute_fn(
        lambda connection: connection.execute(f"PRAGMA table_info({escape_sqlite(table)})").fetchall()
    )
    kinds: dict[str, pa.DataType] = {"rowid": pa.int64()}
    for row in info:
        words = str(row[2]).upper()
        if "INT" in words:
            kinds[row[1]] = pa.int64()
        elif any(word in words for word in ("REAL", "FLOA", "DOUB")):
            kinds[row[1]] = pa.float64()
        else:
            kinds[row[1]] = pa.binary() if "BLOB" in words else pa.string()
    return kinds


async def encoded(
    pages: AsyncIterator[Sequence[Row]], kept: Sequence[int], schema: pa.Schema
) -> AsyncGenerator[bytes, None]:
    """Pages as the bytes of a Parquet file, encoded on a thread."""
    encoder, thread = Encoder(schema), own_thread()
    try:
        async for rows in pages:
            part = await finished(thread, _added, encoder, rows, kept, schema)
            if part:
                yield part.data
        yield (await finished(thread, encoder.finish)).data
    finally:
        encoder.close()
        thread.shutdown(wait=False)
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()


def _added(encoder: Encoder, rows: Sequence[Row], kept: Sequence[int], schema: pa.Schema) -> Part | None:
    return encoder.add(_batch([tuple(row[index] for index in kept) for row in rows], schema))


def _batch(rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    values = zip(*rows, strict=True) if rows else ((),) * len(schema)
    arrays = [
        pa.array([_fitted(value, kind.type) for value in column], kind.type)
        for kind, column in zip(schema, values, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _fitted(value: Any, kind: pa.DataType) -> Any:
    """A value of a page as one of its column's type; numbers in a column of text as text."""
    if pa.types.is_binary(kind) and isinstance(value, (str, int, float)):
        return str(value).encode()
    return str(value) if pa.types.is_string(kind) and isinstance(value, (int, float)) else value
