"""Vehicles of the cache as Arrow record batches, in the order of their VINs.

Memory does not grow with the number of rows: they are read some hundreds at a time
inside the read transaction of the connection that is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from vin_datasette.attributes import CONTRACT_ATTRIBUTES, FURTHER_ATTRIBUTES, Attribute
from vin_datasette.schema import VEHICLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

FIRST_ROWS, MOST_ROWS = 25, 4000
"""Rows read at a time, doubled with each step from the one to the other: the first
ones are on their way at once, and many at a time are read quicker."""

MOST_BYTES = 2 * 1024 * 1024
"""Bytes of Arrow data that are read at a time, about, where rows are wide."""

_ARROW_TYPES = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64()}
_CONTRACT_COLUMNS = frozenset(attribute.column for attribute in CONTRACT_ATTRIBUTES)


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


def record_batches(connection: sqlite3.Connection, selection: Selection) -> Iterator[pa.RecordBatch]:
    """The selected vehicles in the order of their VINs, as record batches of at most
    `MOST_ROWS` rows each. Raises `sqlite3.Error` for conditions that are no SQL."""
    schema = selection.schema()
    lines = _Lines(schema)
    cursor = connection.execute(_query(connection, selection, lines.expressions), dict(selection.parameters))
    at_once = FIRST_ROWS
    while rows := cursor.fetchmany(at_once):
        try:
            batch = lines.batch(rows)
        except pa.ArrowInvalid:
            batch = _as_objects(connection, selection, lines.first_and_last(rows))
        yield batch
        at_once = max(1, min(2 * at_once, MOST_ROWS, MOST_BYTES * len(rows) // max(batch.nbytes, 1)))


def _query(connection: sqlite3.Connection, selection: Selection, expressions: Iterable[str]) -> str:
    """SQL that reads in the order of the VINs without gathering the rows to sort them."""
    where = " AND ".join(f"({condition})" for condition in selection.where) or "1"
    before, after = f"SELECT {', '.join(expressions)} FROM {VEHICLES}", f"WHERE {where} ORDER BY vin"  # noqa: S608 - expressions and conditions are made here, values are bound  # nosec B608
    plan = connection.execute(f"EXPLAIN QUERY PLAN {before} {after}", dict(selection.parameters)).fetchall()
    sorts = any("TEMP B-TREE" in step[3] for step in plan)
    return f"{before} INDEXED BY sqlite_autoindex_{VEHICLES}_1 {after}" if sorts else f"{before} {after}"


class _Lines:
    """Vehicles as lines that SQLite writes and Arrow parses.

    Two thirds of the time of an export would go into a Python object for every value,
    made and dropped while all other threads of the process wait. A line is one object
    for a whole vehicle. Real numbers stay objects, as SQLite writes 15 of their 17 digits,
    and so does the whole record, which is long and gains nothing.

    The values need no quoting, as none has control characters: those of typed columns
    are without by `Record.text`, those of JSON by JSON. Where someone has put some into
    the table by other means, the line has too many values or too few, and does not parse.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._objects = [column for column in schema if pa.types.is_floating(column.type) or column.name == "record"]
        self._written = [column for column in schema if column not in self._objects]
        names = [column.name for column in self._written]
        # Values of their own before and behind keep a byte order mark and a line's end from being cut off.
        self._read = pa_csv.ReadOptions(column_names=[*names, _END], use_threads=False, block_size=2 * MOST_BYTES)
        self._parse = pa_csv.ParseOptions(delimiter=_BETWEEN, quote_char=False, ignore_empty_lines=False)
        self._convert = pa_csv.ConvertOptions(
            column_types={column.name: _stored(column.type) for column in self._written},
            include_columns=names,
            null_values=[_NULL],
            strings_can_be_null=True,
        )

    @property
    def expressions(self) -> list[str]:
        """SQL: the line, as bytes, and then each of the columns that stay objects."""
        pattern = _BETWEEN.join([*["%s"] * len(self._written), ""])
        values = ", ".join(map(self._value, self._written))
        return [f"CAST(printf('{pattern}', {values}) AS BLOB)", *map(_expression, self._objects)]

    @staticmethod
    def _value(column: pa.Field) -> str:
        expression = _expression(column)
        if column.name == "warnings":
            # Its lines are put together again later; what stands for their ends must not be in them yet.
            expression = f"replace(replace({expression}, '{_NEW_LINE}', '{_BETWEEN}'), char(10), '{_NEW_LINE}')"
        return f"ifnull({expression}, '{_NULL}')" if column.nullable else expression

    def batch(self, rows: Sequence[tuple[Any, ...]]) -> pa.RecordBatch:
        """The rows of the expressions as a record batch. Raises `pyarrow.ArrowInvalid`."""
        lines, *objects = zip(*rows, strict=True)
        parsed = pa_csv.read_csv(pa.BufferReader(b"\n".join(lines)), self._read, self._parse, self._convert)
        if parsed.num_rows != len(rows):
            raise pa.ArrowInvalid("A value has the end of a line in it.")
        made = zip(self._objects, objects, strict=True)
        arrays = {column.name: pa.array(values, column.type) for column, values in made}
        for column in self._written:
            array = parsed[column.name].combine_chunks()
            if column.name == "warnings":
                array = pc.replace_substring(array, _NEW_LINE, "\n")
            arrays[column.name] = array.cast(column.type)
        return pa.RecordBatch.from_arrays([arrays[column.name] for column in self._schema], schema=self._schema)

    @staticmethod
    def first_and_last(rows: Sequence[tuple[Any, ...]]) -> tuple[str, str]:
        """The VINs of the first and the last of these rows."""
        first, last = (rows[index][0].split(_BETWEEN.encode(), 1)[0].decode() for index in (0, -1))
        return first, last


_NEW_LINE, _NULL, _BETWEEN, _END = "\x1d", "\x1e", "\x1f", ""


def _stored(kind: pa.DataType) -> pa.DataType:
    return pa.int64() if pa.types.is_timestamp(kind) else kind


def _as_objects(
    connection: sqlite3.Connection, selection: Selection, first_and_last: tuple[str, str]
) -> pa.RecordBatch:
    """The selected vehicles from one VIN to another by Python's objects, which hold any text."""
    schema = selection.schema()
    first, last = first_and_last
    narrowed = replace(
        selection,
        where=[*selection.where, "vin BETWEEN :first_vin AND :last_vin"],
        parameters={**selection.parameters, "first_vin": first, "last_vin": last},
    )
    query = _query(connection, narrowed, map(_expression, schema))
    values = zip(*connection.execute(query, dict(narrowed.parameters)), strict=True)
    arrays = [pa.array(column, kind.type) for kind, column in zip(schema, values, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _expression(column: pa.Field) -> str:
    """SQL that reads a column as what the export promises of it."""
    if column.name == "fetched_at":
        return "CAST(strftime('%s', fetched_at) AS INTEGER)"
    if column.name in _CONTRACT_COLUMNS:
        return f"coalesce(CAST({column.name} AS TEXT), '')"
    return str(column.name)
