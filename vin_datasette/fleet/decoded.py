"""Parquet files of rows that were decoded, by an engine or by an export, as the answers that they hold."""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.types as pat
from pyarrow.dataset import HivePartitioning, get_partition_keys

from vin_datasette.attributes import CONTRACT_ATTRIBUTES
from vin_datasette.batches import fields
from vin_datasette.flat import fault, parsed
from vin_datasette.fleet.beside import vehicle_values
from vin_datasette.fleet.columns import (
    column_of,
    listed,
    named_for_vins,
    no_vin_column,
    position_beside,
    refuse_too_many,
)
from vin_datasette.fleet.fleet import InputError, in_words
from vin_datasette.fleet.parquet import open_parquet, parquet_records
from vin_datasette.fleet.values import LARGEST_ROW
from vin_datasette.rebuilt import of_rejection, of_vehicle
from vin_datasette.record import SOURCE_NAMES, Record
from vin_datasette.vehicle import Rejection, Vehicle, interpret
from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vin_datasette.vehicle import CheckDigitRule

_SIBLING = "-sibling"
_VERSION = re.compile(r"[\w.+-]{1,40}", re.ASCII)
# Clocks differ; an answer of tomorrow's would stay fresh for longer than any other.
_CLOCKS_DIFFER = timedelta(days=1)
_EPOCH = datetime.fromtimestamp(0, timezone.utc)


class LeftOut(Exception):
    """A row of which nothing can be kept; the message says why."""


class Decoded(NamedTuple):
    """One row of a file: its number from 1, the VIN as it stands there, and what was decoded of it, by the
    names of `fields()` and `vin_error`, as far as the file has these columns. `problem` says why
    the row could not be read."""

    number: int
    vin: str
    said: Mapping[str, Any]
    problem: str | None = None

    def answer(self, check_digit: CheckDigitRule) -> Vehicle | Rejection:
        """What the source answered, as a lookup would have had it: of the row's `record`, else of its
        columns. Without a record it is the rejection of a VIN of which no more than that is known.
        Raises `LeftOut`."""
        if self.problem:
            raise LeftOut(self.problem)
        reason = self.said.get("vin_error")
        try:
            vin = VIN(self.vin)
        except InvalidVIN as error:
            if reason:
                return Rejection.malformed(self.vin, error)
            raise LeftOut(f"its VIN is none: {error.reason}") from None
        if self.said.get("record"):
            return interpret(self._whole(vin), check_digit)
        if reason:
            return self._rejection(vin, reason, check_digit)
        return interpret(self._of_columns(vin), check_digit)

    def _whole(self, vin: VIN) -> Record:
        try:
            values = parsed(self.said["record"])
        except (ValueError, RecursionError):
            raise LeftOut("its record is no JSON") from None
        wrong = fault(values, vin)
        if wrong:
            raise LeftOut(f"by its record, vPIC answered {wrong}")
        record = self._record(vin, values)
        remarks = Vehicle(record).warnings
        lines = tuple((self.said.get("warnings") or "").split("\n"))
        # What follows vPIC's own remarks are those of the lookup, which its record has not.
        notes = lines[len(remarks) :] if lines[: len(remarks)] == remarks else ()
        return replace(record, notes=tuple(filter(None, notes)))

    def _of_columns(self, vin: VIN) -> Record:
        if not {*_CONTRACT} <= self.said.keys():
            raise LeftOut("its record is empty")
        if not self.said["make"]:
            raise LeftOut("it names no make, and no vin_error either")
        sibling = str(self.said.get("source")).endswith(_SIBLING)
        values, notes = of_vehicle(vin, self.said, sibling=sibling)
        record = self._record(vin, values, notes)
        shown = vehicle_values(Vehicle(record))
        for name, value in self.said.items():
            if name in shown and (shown[name] or None) != (value or None):
                raise LeftOut(f"its {name} is {str(value)[:40]!r}, which no record of vPIC's gives")
        return record

    def _rejection(self, vin: VIN, reason: str, check_digit: CheckDigitRule) -> Rejection:
        bare = Rejection(vin, reason)
        if not (self.said.get("source") and self.said.get("error_code")):
            return bare
        answer = interpret(self._record(vin, of_rejection(vin, self.said["error_code"], reason)), check_digit)
        # Where another rule for check digits made the file, this one's reason is not known.
        return answer if isinstance(answer, Rejection) and answer.reason == reason else bare

    def _record(self, vin: VIN, values: Mapping[str, object], notes: tuple[str, ...] = ()) -> Record:
        source, version, fetched_at = (self.said.get(name) or None for name in _PROVENANCE)
        if source is None or fetched_at is None:
            raise LeftOut("it does not say who answered, and when: its source or fetched_at is empty")
        if source not in SOURCE_NAMES:
            raise LeftOut(f"its source is {source[:40]!r}, which is none of {', '.join(SOURCE_NAMES)}")
        if version is not None and not _VERSION.fullmatch(version):
            raise LeftOut(f"its source_version is {version[:40]!r}, which is none")
        return Record(vin, values, SOURCE_NAMES[source], version, fetched_at, notes)


def decoded_rows(path: str, column: str | None) -> Iterator[Decoded]:
    """The rows of a Parquet file with the VINs in `column`, by its name or its number from 1, else in
    the one whose name says so.

    The decoded columns are those that `decode_batches` and exports write: known by the metadata
    of their fields, or by name where an engine dropped that, and then the last of those that may
    be one. What the file does not have is taken from folders such as `make=HONDA` on its path.

    Raises `InputError` for what is no Parquet file, has no such columns or columns of other
    types, and where it breaks.
    """
    with in_words(path), ExitStack() as opened:
        parquet = open_parquet(opened.enter_context(open(path, "rb")), path, opened)
        layout = _layout(parquet.schema_arrow, _of_folders(path), column, path)
        for number, values in enumerate(parquet_records(parquet, path, layout.names), 1):
            if values is None:
                yield Decoded(number, "", {}, f"its values are larger than {LARGEST_ROW:,} characters")
            else:
                yield layout.row(number, values)


@dataclass
class _Layout:
    """Where a file has what: `names` are those of its columns that are read, in its order; `columns` what
    each of them is, None for the VINs', and how a value of it is read; `constant` the same for all rows."""

    names: list[str]
    columns: list[tuple[str | None, Callable[[Any], object]]]
    constant: dict[str, object]

    def row(self, number: int, values: tuple[object, ...]) -> Decoded:
        vin, said, problem = "", {**self.constant}, None
        for (name, read), value in zip(self.columns, values, strict=True):
            try:
                known = None if value is None else read(value)
            except (ValueError, OverflowError, TypeError):
                problem = f"its {name} is no value of that column's: {str(value)[:40]!r}"
                continue
            if name is None:
                vin = str(known or "")
            else:
                said[name] = known
        return Decoded(number, vin, said, problem)


_ERROR = pa.field("vin_error", pa.string())
_FIELDS = {field.name: field for field in (*fields(raw=True), _ERROR) if field.name != "vin"}
_PROVENANCE = ("source", "source_version", "fetched_at")
_CONTRACT = (*(attribute.column for attribute in CONTRACT_ATTRIBUTES), "error_code")
_HIVE = HivePartitioning(pa.schema([field for field in _FIELDS.values() if not pat.is_timestamp(field.type)]))


def _of_folders(path: str) -> dict[str, object]:
    return dict(get_partition_keys(_HIVE.parse(Path(path).as_posix())))


def _layout(schema: pa.Schema, constant: dict[str, object], column: str | None, source: str) -> _Layout:
    """Raises `InputError`."""
    refuse_too_many(schema.names, source)
    positions: dict[int, str | None] = {}
    for name, field in _FIELDS.items():
        position = _position(schema, field)
        if position is not None:
            positions[position] = name
            constant.pop(name, None)
    vin_at = named_for_vins(schema.names) if column is None else column_of(schema.names, column, source)
    if vin_at is None:
        raise InputError(no_vin_column(schema.names, source))
    positions[vin_at] = None
    there = {*positions.values(), *constant}
    missing = [name for name in _PROVENANCE if name not in there]
    missing += [name for name in _CONTRACT if name not in there] if "record" not in there else []
    if missing:
        needed = ", ".join(_CONTRACT)
        raise InputError(
            f"{source} has no column {', '.join(missing)}. Rows can be loaded that have {' and '.join(_PROVENANCE)}, "
            f"and record or else {needed}; its columns are: {listed(schema.names)}."
        )
    chosen = sorted(positions)
    names = [schema.names[position] for position in chosen]
    for name in names:
        if schema.names.count(name) > 1:
            raise InputError(f"{source} has several columns {name!r}; rename or drop all but one.")
    columns = [(positions[at], _reader(schema.field(at), positions[at], source)) for at in chosen]
    return _Layout(names, columns, constant)


def _position(schema: pa.Schema, wanted: pa.Field) -> int | None:
    """Where a decoded column is."""
    tag = _tag(wanted)
    if tag:
        tagged = [at for at in range(len(schema)) if _tag(schema.field(at)) == tag]
        if tagged:
            return tagged[-1]
    return position_beside(schema.names, wanted.name)


def _tag(field: pa.Field) -> tuple[bytes, bytes | None] | None:
    # Of one key of vPIC's several columns may be read, which have labels of their own.
    told = field.metadata or {}
    return (told[b"vpic_key"], told.get(b"label")) if b"vpic_key" in told else None


def _reader(field: pa.Field, name: str | None, source: str) -> Callable[[Any], object]:
    """How the values of a file's column are read as those of the decoded one. Raises `InputError`."""
    kind = _FIELDS[name].type if name else pa.string()
    stored = field.type.value_type if pat.is_dictionary(field.type) else field.type
    read, is_kind = _READERS[kind]
    if not pat.is_null(stored) and not any(check(stored) for check in is_kind):
        raise InputError(f"{source} has a column {field.name!r} of the type {field.type}, where {kind} is due.")
    return read


def _whole(value: float) -> float | None:
    # Engines that know no null for whole numbers keep them as real ones.
    return int(value) if isinstance(value, int) or value.is_integer() else _real(value)


def _real(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _when(value: datetime) -> datetime:
    """A time in UTC, to the second. Raises `ValueError` for one that is not of the past."""
    # Engines write times without a zone in UTC.
    when = value if value.tzinfo else value.replace(tzinfo=timezone.utc)
    when = datetime.fromtimestamp(int(when.timestamp()), timezone.utc)
    if not _EPOCH <= when <= datetime.now(timezone.utc) + _CLOCKS_DIFFER:
        raise ValueError(f"{when} is no time of an answer")
    return when


_TEXTS = (pat.is_string, pat.is_large_string, pat.is_string_view, pat.is_integer)
_NUMBERS = (pat.is_integer, pat.is_floating)
_READERS: dict[pa.DataType, tuple[Callable[[Any], object], tuple[Callable[[pa.DataType], bool], ...]]] = {
    pa.string(): (str, _TEXTS),
    pa.int64(): (_whole, _NUMBERS),
    pa.float64(): (_real, _NUMBERS),
    pa.timestamp("s", "UTC"): (_when, (pat.is_timestamp,)),
}
