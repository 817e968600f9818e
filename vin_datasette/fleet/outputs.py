"""What came of a fleet's rows, as files: CSV, JSON lines or Parquet, row by row in their order.

The fleet's own columns come first and stay as they are; the vehicle's come after them.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from contextlib import closing, contextmanager, suppress
from datetime import date, datetime, time, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa

from vin_datasette.export import ExportError, in_words, written_beside
from vin_datasette.fleet.beside import Added, Outcome, added_columns, added_values
from vin_datasette.lookup import Failure
from vin_datasette.parquet import Encoder
from vin_datasette.vehicle import Rejection
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from vin_datasette.fleet.row import Row

    _Lines = Callable[[Sequence[tuple[Row, "Outcome"]]], Iterable["_Line"]]
    _Destination = AbstractContextManager[tuple[BinaryIO, str]]

STANDARD_OUTPUT = "-"
"""The target that is no file."""

_Kind = Literal["csv", "tsv", "jsonl", "parquet"]
_KINDS: Mapping[str, _Kind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_Line = tuple[Any, ...]


class Output(Protocol):
    """An open file, pipe or device that takes rows."""

    def write(self, rows: Sequence[tuple[Row, Outcome]]) -> None:
        """Write rows and what came of each, in their order.

        Memory is that of the rows given at once. Raises `ExportError`.
        """


class Rejections(Output, Protocol):
    """An open log of the rows for which there is no vehicle; it passes over all others."""


@contextmanager
def open_output(target: str, columns: Sequence[str], schema: pa.Schema | None = None) -> Iterator[Output]:
    """An output of all rows of a fleet: its own `columns`, then the vehicle's.

    `target` is a path, whose ending tells the format (.csv, .tsv, .jsonl, .ndjson,
    .parquet), or `-`, which is CSV to standard output; a pipe or device without one of these
    endings takes CSV, too. `schema` has the types of `columns` for Parquet, which are strings
    without it.

    The vehicle's columns are those of `fields()`, null where there is no vehicle, and then
    `cached`, `status` (`found`, `rejected` or `failed`), `reason` and `suggested_vin`. Where
    the fleet has a column of the same name, in whichever case, the vehicle's is `vpic_…`.

    A file bears its name when the context ends well; when not, an earlier one stays. Raises
    `ExportError`: at once where the target cannot be made, else when it cannot be written on.
    """
    kind = _kind(target, _KINDS)
    if kind in ("jsonl", "parquet") and len(set(columns)) < len(columns):
        twice = next(name for index, name in enumerate(columns) if name in columns[:index])
        raise ExportError(f"{target} cannot hold two columns named {twice!r}; CSV can.")
    added = added_columns(columns)
    form = _form(kind, [*columns, *added.names], lambda: _whole_schema(columns, schema, added))
    width = len(columns)

    def lines(rows: Sequence[tuple[Row, Outcome]]) -> Iterator[_Line]:
        return ((*_own_values(row, width), *added_values(row, outcome)) for row, outcome in rows)

    with _opened(form, _destination(target), lines) as output:
        yield output


@contextmanager
def open_rejections(target: str) -> Iterator[Rejections]:
    """A log of the rows for which there is no vehicle, and why: `row` (its number), `vin` (as
    given), `reason`, `suggested_vin` and `kind` (`rejected` or `failed`).

    `target` is a path, whose ending tells the format (.csv, .tsv, .jsonl, .ndjson), or `-`,
    which is CSV to standard output. An earlier file is replaced at once and every write is
    handed to the system, so that a killed process leaves what it knew. Raises `ExportError`:
    at once where the target cannot be made, else when it cannot be written on.
    """
    kind = _kind(target, {ending: kind for ending, kind in _KINDS.items() if kind != "parquet"})
    form = _form(kind, ["row", "vin", "reason", "suggested_vin", "kind"])
    with _opened(form, _destination(target, at_once=True), _rejection_lines) as rejections:
        yield rejections


def _kind(target: str, kinds: Mapping[str, _Kind]) -> _Kind:
    if target == STANDARD_OUTPUT:
        return "csv"
    path = Path(target)
    kind = kinds.get(path.suffix.lower())
    if kind:
        return kind
    with in_words(target):
        if path.exists() and not path.is_file() and not path.is_dir():
            return "csv"
    *most, last = kinds
    raise ExportError(f"{target or 'A target without a name'} does not end in {', '.join(most)} or {last}.")


@contextmanager
def _destination(target: str, *, at_once: bool = False) -> Iterator[tuple[BinaryIO, str]]:
    """What is written into, and what errors call it; the file itself `at_once` or when it is whole."""
    if target == STANDARD_OUTPUT:
        name = "Standard output"
        with in_words(name):
            sys.stdout.flush()
        yield sys.stdout.buffer, name
    elif at_once:
        with in_words(target):
            out = open(target, "wb")  # noqa: SIM115 - closed below, in words
        try:
            yield out, target
            with in_words(target):
                out.close()
        finally:
            # What could not be written before cannot be now.
            with suppress(OSError):
                out.close()
    else:
        with written_beside(Path(target)) as beside:
            yield beside, target


@contextmanager
def _opened(form: _Form, destination: _Destination, lines: _Lines) -> Iterator[_Written]:
    with closing(form), destination as (out, name):
        written = _Written(form, out, name, lines)
        written.put(form.begin())
        yield written
        written.put(form.end())


class _Written:
    """Rows, made lines, in a form, into a destination."""

    def __init__(self, form: _Form, out: BinaryIO, name: str, lines: _Lines) -> None:
        self._form, self._out, self._name, self._lines = form, out, name, lines

    def write(self, rows: Sequence[tuple[Row, Outcome]]) -> None:
        """See `Output.write`."""
        lines = [*self._lines(rows)]
        if lines:
            self.put(self._form.encode(lines))

    def put(self, data: bytes) -> None:
        """Hand bytes to the system."""
        if data:
            # Not around more than this: what the caller's own reading raises is not about the output.
            with in_words(self._name):
                self._out.write(data)
                self._out.flush()


# The columns


def _whole_schema(columns: Sequence[str], schema: pa.Schema | None, added: Added) -> pa.Schema:
    if schema is None:
        own = [pa.field(name, pa.string()) for name in columns]
    elif schema.names == list(columns):
        # A row that could not be read may lack what all others have.
        own = [field.with_nullable(True) for field in schema]
    else:
        raise ValueError("The schema is not that of the columns.")
    return pa.schema([*own, *added.fields])


def _own_values(row: Row, width: int) -> _Line:
    if len(row.values) == width:
        return row.values
    if row.problem is None:
        raise ValueError(f"Row {row.number} has {len(row.values)} values for {width} columns.")
    return (*row.values, *(None,) * width)[:width]


def _rejection_lines(rows: Sequence[tuple[Row, Outcome]]) -> Iterator[_Line]:
    for row, outcome in rows:
        if isinstance(outcome, Failure):
            yield row.number, row.vin, row.problem or outcome.reason, None, "failed"
        elif isinstance(outcome.result, Rejection):
            rejection = outcome.result
            yield row.number, row.vin, row.problem or rejection.reason, rejection.suggested_vin, "rejected"


# The forms


class _Form(Protocol):
    """Lines of values in, the bytes of a file out."""

    def begin(self) -> bytes: ...

    def encode(self, lines: Sequence[_Line]) -> bytes: ...

    def end(self) -> bytes: ...

    def close(self) -> None: ...


def _form(kind: _Kind, names: Sequence[str], schema: Callable[[], pa.Schema] = pa.schema) -> _Form:
    if kind == "jsonl":
        return _JsonLines(names)
    if kind == "parquet":
        return _Parquet(schema())
    return _Csv(names, "\t" if kind == "tsv" else ",")


class _Text:
    """A form that needs neither an end nor to be let go of."""

    def end(self) -> bytes:
        return b""

    def close(self) -> None:
        pass


class _Csv(_Text):
    """CSV with a header (RFC 4180: lines end in CR LF); absent values are empty."""

    def __init__(self, names: Sequence[str], delimiter: str) -> None:
        self._names, self._delimiter = names, delimiter

    def begin(self) -> bytes:
        return self.encode([tuple(self._names)])

    def encode(self, lines: Sequence[_Line]) -> bytes:
        text = io.StringIO(newline="")
        # Without an escape Python 3.10 takes a NUL for one that is missing; this one is in no text of UTF-8.
        writer = csv.writer(text, delimiter=self._delimiter, escapechar="\udfff")
        writer.writerows([[cell if type(cell) in _CELLS else _as_text(cell) for cell in line] for line in lines])
        # A lone surrogate, which JSON and file names can hold, has no UTF-8.
        return text.getvalue().encode("utf-8", "replace")


_CELLS = frozenset({str, VIN, int, float, type(None)})
"""What Python's writer of CSV writes as it should be."""


class _JsonLines(_Text):
    """One JSON object a line; absent values are null, and so is what is no number."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_as_text).encode

    def begin(self) -> bytes:
        return b""

    def encode(self, lines: Sequence[_Line]) -> bytes:
        text = "".join(f"{self._object(line)}\n" for line in lines)
        # For a lone surrogate, Python's way of escaping is JSON's.
        return text.encode("utf-8", "backslashreplace")

    def _object(self, line: _Line) -> str:
        named = dict(zip(self._names, line, strict=True))
        try:
            return self._encode(named)
        except ValueError:
            # JSON has no word for infinite numbers and NaN.
            lenient = json.dumps(named, default=_as_text)
            return self._encode(json.loads(lenient, parse_constant=lambda _: None))


class _Parquet:
    """Parquet, in row groups counted in bytes."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        try:
            self._encoder = Encoder(schema)
        except pa.ArrowException as error:
            raise ExportError(f"Parquet cannot hold the fleet's own columns: {error}") from error

    def begin(self) -> bytes:
        return b""

    def encode(self, lines: Sequence[_Line]) -> bytes:
        arrays = [_array(values, field) for values, field in zip(zip(*lines, strict=True), self._schema, strict=True)]
        part = self._encoder.add(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        return part.data if part else b""

    def end(self) -> bytes:
        return self._encoder.finish().data

    def close(self) -> None:
        self._encoder.close()


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    try:
        if not pa.types.is_string(field.type):
            return pa.array(values, field.type)
        texts = [value if value is None or isinstance(value, str) else _as_text(value) for value in values]
        try:
            return pa.array(texts, field.type)
        except UnicodeEncodeError:
            whole = [text and text.encode("utf-8", "replace").decode() for text in texts]
            return pa.array(whole, field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise ExportError(f"The column {field.name!r} cannot be written as {field.type}: {error}") from error


def _as_text(value: object) -> str:
    """A value that is not text as text: times as ISO 8601 and in UTC where their zone is known,
    what has parts as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime) and value.tzinfo:
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(value, ensure_ascii=False, default=_as_text)
    return str(value)
