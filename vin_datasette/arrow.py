"""A column of VINs as Arrow record batches, and the vehicles that they name as columns beside it.

`decode_batches` is made to run inside an engine that has its data as Arrow already (Spark, Dask,
Ray, polars, DuckDB), in each of its processes: it holds nothing between two calls, and is told all
by its arguments, not by settings of the machine. It asks the database that is embedded here and
never vPIC itself: that is rate-limited by address, so that more machines would not be answered more.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from vin_datasette.batches import fields
from vin_datasette.columnar import Columns
from vin_datasette.fleet.columns import listed, names_beside, position_named
from vin_datasette.vin_columns import holds_text, may_hold_years, read_vins, read_years

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from vin_datasette.columnar import Answers
    from vin_datasette.one_by_one import Kept, Result

T = TypeVar("T")

ROWS = 16_384
"""Rows that are decoded at once, and of a batch at most."""

FEWER_ROWS = 1024
"""The same where whole records are read, of which each is many kB."""

ERROR = pa.field("vin_error", pa.string(), metadata={"description": "Why there is no vehicle"})
"""The column that is always there: null beside a vehicle, else the reason in words."""


def decode_schema(
    schema: pa.Schema, *, column: str = "vin", year_column: str | None = None, columns: Collection[str] | None = None
) -> pa.Schema:
    """The schema of what `decode_batches` makes of batches of `schema`, for the same arguments.

    The columns and the metadata that are given stay, and the decoded columns follow: those of
    `batches.fields()` with their types and metadata, all nullable, and then `vin_error`. One whose
    name is taken already, in whichever case, is called `vpic_…`, as in the files of `fetch --output`.

    Raises `ValueError` where there is no such column of VINs or of model years, where there are
    two, where its type can hold none, and for `columns` that there are not.
    """
    return _Plan(schema, column, year_column, columns).schema


def decode_batches(
    batches: Iterable[pa.RecordBatch],
    *,
    column: str = "vin",
    year_column: str | None = None,
    columns: Collection[str] | None = None,
    cache: str | Path | None = None,
) -> Iterator[pa.RecordBatch]:
    """Record batches with the vehicles' columns beside their own, in the order of their rows.

    `column` holds the VINs, as text of any kind of Arrow's, and `year_column` model years that
    are known for sure, as numbers or text; a name counts in whichever case where none is written just so.
    `columns` chooses among the names of `batches.fields()`; None takes all of them, and `record`,
    vPIC's whole answer as JSON, comes only where it is named, at several times the time. The
    schema is that of `decode_schema`.

    There is one row for each. Where the VIN names a vehicle `vin_error` is null; where not, it has
    the reason, and `error_code` and the source's columns tell who gave it, if anybody had to.

    Memory does not grow with the number of batches, nor with their rows: one of more than `ROWS`
    comes back as several. One is read ahead of the one that is given, and decoded on all cores, or on
    as many as the environment's `RAYON_NUM_THREADS` says.

    With `cache`, the path of a file that is only read, what that holds is answered from it: a
    vehicle whatever its age, a rejection for a day, as offline lookups do. The source's columns
    tell. No settings of the machine are read: the check digit's rule is the strict one.

    Raises `ValueError` as `decode_schema` does, and for a batch whose columns are not those of the first;
    `TypeError` for what is no record batch, `CacheError` for a cache that is not there, or is none,
    and what `batches` raises.

    >>> import pyarrow as pa
    >>> [batch] = decode_batches([pa.record_batch({"vin": ["1XP5DB9X7XD487964"]})], columns=["make"])
    >>> batch.to_pylist()
    [{'vin': '1XP5DB9X7XD487964', 'make': 'PETERBILT', 'vin_error': None}]
    """
    _chosen(columns)
    return _decoded(batches, column, year_column, columns, cache)


def _decoded(
    batches: Iterable[pa.RecordBatch],
    column: str,
    year_column: str | None,
    columns: Collection[str] | None,
    cache: str | Path | None,
) -> Iterator[pa.RecordBatch]:
    with ExitStack() as opened:
        kept = None
        if cache is not None:
            from vin_datasette.one_by_one import Kept

            kept = opened.enter_context(closing(Kept(cache)))
        thread = opened.enter_context(ThreadPoolExecutor(1, "vin-datasette-decode"))
        parts = _parts(batches, partial(_Plan, column=column, year_column=year_column, columns=columns, kept=kept))
        # While the database decodes one part, what it said of the part before is read.
        for begun in _one_ahead(plan.begin(part, thread) for plan, part in parts):
            yield begun.finish()


def _parts(
    batches: Iterable[pa.RecordBatch], make_plan: Callable[[pa.Schema], _Plan]
) -> Iterator[tuple[_Plan, pa.RecordBatch]]:
    """The batches, in parts where they are large, with what is done with them."""
    plan: _Plan | None = None
    for number, batch in enumerate(batches, 1):
        if not isinstance(batch, pa.RecordBatch):
            raise TypeError(f"Batch {number:,} is a {type(batch).__name__}, and no record batch of Arrow's.")
        plan = plan or make_plan(batch.schema)
        plan.refuse_other(batch.schema, number)
        for start in range(0, max(batch.num_rows, 1), plan.rows):
            yield plan, batch.slice(start, plan.rows)


def _one_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items, each when the next one has been taken; all that come before an error, and then that."""
    waiting: list[T] = []
    try:
        for item in items:
            yield from waiting
            waiting = [item]
    except Exception:
        yield from waiting
        raise
    yield from waiting


def _chosen(columns: Collection[str] | None) -> list[pa.Field]:
    """The decoded columns under their own names. Raises `ValueError`."""
    there = [field.with_nullable(True) for field in fields(raw=True) if field.name != "vin"]
    if columns is None:
        return [*(field for field in there if field.name != "record"), ERROR]
    if isinstance(columns, str):
        raise ValueError(f"`columns` are several names, as in [{columns!r}], and not one text.")
    names = [*(field.name for field in there), ERROR.name]
    unknown = [name for name in columns if name not in names]
    if unknown:
        raise ValueError(f"There is no column {unknown[0]!r} to decode; there are: {', '.join(names)}.")
    return [*(field for field in there if field.name in columns), ERROR]


class _Plan:
    """What is done with batches of one schema. Raises `ValueError`; see `decode_schema`."""

    def __init__(
        self,
        given: pa.Schema,
        column: str,
        year_column: str | None,
        columns: Collection[str] | None,
        kept: Kept | None = None,
    ) -> None:
        self.added = _chosen(columns)
        self._given = given
        self._vin_at = _position(given, column)
        self._year_at = None if year_column is None else _position(given, year_column)
        _refuse_type(given.field(self._vin_at), "a VIN is text", holds_text)
        if self._year_at is not None:
            _refuse_type(given.field(self._year_at), "a model year is a number or text", may_hold_years)
        names = names_beside(given.names, [field.name for field in self.added])
        added = [field.with_name(name) for field, name in zip(self.added, names, strict=True)]
        self.schema = pa.schema([*given, *added], given.metadata)
        self._kept = kept
        self._with_records = any(field.name == "record" for field in self.added)
        self.rows = FEWER_ROWS if kept or self._with_records else ROWS
        self.columns = Columns([field.name for field in self.added if field.name != "record"])

    def refuse_other(self, schema: pa.Schema, number: int) -> None:
        """Raises `ValueError` for a schema that has other columns."""
        for position, field in enumerate(schema):
            first = self._given.field(position) if position < len(self._given) else None
            if first is None or (field.name, field.type) != (first.name, first.type):
                other = f"{first.name!r} of type {first.type}" if first else "no further one"
                raise ValueError(
                    f"Column {position + 1} of batch {number:,} is {field.name!r} of type {field.type}, "
                    f"and of the first batch {other}: give all of them the same columns."
                )
        if len(schema) < len(self._given):
            missing = self._given.field(len(schema)).name
            raise ValueError(f"Batch {number:,} has no column {missing!r}, which the first batch has.")

    def begin(self, part: pa.RecordBatch, thread: Executor) -> _Begun:
        """Have the embedded database asked, on the thread, about what nobody else answers."""
        vins, problems = read_vins(part.column(self._vin_at))
        years = None if self._year_at is None else read_years(part.column(self._year_at))
        singles: dict[int, Result] = {}
        if self._kept or self._with_records:
            from vin_datasette.one_by_one import singled_out

            given_years = [None] * len(vins) if years is None else years.to_pylist()
            singles = singled_out(vins.to_pylist(), given_years, self._kept, whole=self._with_records)
            vins = pc.if_else(pa.array((row in singles for row in range(len(vins))), pa.bool_()), None, vins)
        return _Begun(self, part, vins, problems, singles, thread.submit(self.columns.ask, vins, years))


class _Begun(NamedTuple):
    """A part of a batch that the embedded database is asked about: its VINs, null where they are
    none or answered already, the problems with those that are none, and the answers by their rows."""

    plan: _Plan
    part: pa.RecordBatch
    vins: pa.Array
    problems: pa.Array | None
    singles: dict[int, Result]
    answers: Future[Answers]

    def finish(self) -> pa.RecordBatch:
        """The part with its vehicles, when they are there."""
        rows = self.part.num_rows
        made = self.plan.columns.read(self.vins, self.answers.result()) if rows else {}
        if self.problems is not None:
            made[ERROR.name] = pc.coalesce(made[ERROR.name], self.problems)
        if self.singles:
            from vin_datasette.one_by_one import columns

            is_single = pa.array((row in self.singles for row in range(rows)), pa.bool_())
            values = columns([*self.singles.values()], self.plan.added)
            made.setdefault("record", pa.nulls(rows, pa.string()))
            made.update((name, pc.replace_with_mask(made[name], is_single, array)) for name, array in values.items())
        arrays = [made[field.name] if field.name in made else pa.nulls(rows, field.type) for field in self.plan.added]
        return pa.RecordBatch.from_arrays([*self.part.columns, *arrays], schema=self.plan.schema)


def _position(schema: pa.Schema, column: str) -> int:
    position = position_named(schema.names, column)
    if position is None:
        raise ValueError(f"There is no column {column!r}; the columns are: {listed(schema.names)}.")
    if schema.names.count(schema.names[position]) > 1:
        raise ValueError(f"There are several columns {column!r}; give all columns names of their own.")
    return position


def _refuse_type(field: pa.Field, rule: str, is_right: Callable[[pa.DataType], bool]) -> None:
    if not is_right(field.type):
        raise ValueError(f"The column {field.name!r} is of type {field.type}, and {rule}: cast it, or name another.")
