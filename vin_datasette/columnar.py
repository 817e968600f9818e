"""Private: VINs in, what they mean out, as Arrow columns and without an object for each vehicle.

The embedded database answers in columns. Their meaning is that of single records, by the same
code: `Attribute.read`, `interpret` and `words`. What is as it should be is passed on as it came;
the rest is read once for each value that differs.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from vin_datasette.attributes import ATTRIBUTES, CONTRACT_ATTRIBUTES, Attribute
from vin_datasette.distinct import by_distinct, combinations
from vin_datasette.record import Record
from vin_datasette.sources.embedded import EmbeddedSource
from vin_datasette.texts import only, tidy
from vin_datasette.vehicle import Vehicle, doubts_year, interpret, year_note
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Collection

_OF_EVERY_ANSWER = ("ErrorCode", "ErrorText", "AdditionalErrorText", "Make")
"""Keys from which it follows whether there is a vehicle. The make is tidied for all."""

_AS_THEY_COME = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64()}
_WHENCE = {"source": pa.string(), "source_version": pa.string(), "fetched_at": pa.timestamp("s", "UTC")}
# Of a record that stands for many, nobody asks.
_ANY_VIN, _NEVER = VIN("11111111111111111"), datetime.fromtimestamp(0, timezone.utc)


class Answers(NamedTuple):
    """What the embedded database says of some VINs: arrays by vPIC's flat keys, what is noted on
    them, if anything, and when it was asked."""

    said: dict[str, pa.Array]
    notes: pa.Array | None
    when: datetime


class Columns:
    """The embedded database's answers, as those columns of `fields()` that are named."""

    def __init__(self, names: Collection[str]) -> None:
        self._attributes = [attribute for attribute in ATTRIBUTES if attribute.column in names]
        self._names = names
        keys = [key for attribute in self._attributes for key in (attribute.key, *attribute.further_keys)]
        self.keys = list(dict.fromkeys([*_OF_EVERY_ANSWER, *keys]))
        """vPIC's flat keys that they are read from."""
        self._source = EmbeddedSource()

    def ask(self, vins: pa.Array, years: pa.Array | None) -> Answers:
        """What is said of well-formed VINs, or nulls, and their model years. It is this that takes
        the time, and without the interpreter's lock; any thread may call it."""
        when = datetime.now(timezone.utc).replace(microsecond=0)
        said = self._source.decode_columns(vins, years, self.keys)
        if years is None or years.null_count == len(years):
            return Answers(said, None, when)
        doubted = by_distinct([said["ErrorCode"]], lambda code: doubts_year(_record(ErrorCode=code)), pa.bool_())
        doubted = pc.and_(doubted, years.is_valid())
        if not doubted.true_count:
            return Answers(said, None, when)
        firsts = [column.filter(doubted) for column in (said["ErrorCode"], said["ErrorText"], years)]
        notes = pc.replace_with_mask(pa.nulls(len(vins), pa.string()), doubted, by_distinct(firsts, _note, pa.string()))
        again = self._source.decode_columns(vins.filter(doubted), None, self.keys)
        said = {key: pc.replace_with_mask(column, doubted, again[key]) for key, column in said.items()}
        return Answers(said, notes, when)

    def read(self, vins: pa.Array, answers: Answers) -> dict[str, pa.Array]:
        """The answers to these VINs, of which there are some, as columns by their names, and `vin_error`.

        Where there is no vehicle, that tells why and the vehicle's columns are null; where a VIN is
        null, all of them are.
        """
        said = {**answers.said, "Make": tidy(answers.said["Make"])}
        asked = None if vins.null_count == 0 else vins.is_valid()
        made = {name: _where(asked, column) for name, column in _outcomes(said, answers.notes).items()}
        has_vehicle = pc.and_(made["vin_error"].is_null(), vins.is_valid())
        vehicles = None if has_vehicle.true_count == len(vins) else has_vehicle
        made.update((attribute.column, _read(attribute, said, vehicles)) for attribute in self._attributes)
        whence = {"source": self._source.name, "source_version": self._source.version, "fetched_at": answers.when}
        for name, value in whence.items():
            made[name] = _where(asked, pa.repeat(pa.scalar(value, _WHENCE[name]), len(vins)))
        return {name: made[name] for name in (*self._names, "vin_error")}


class _Outcome(NamedTuple):
    """What follows from what vPIC says of a VIN itself, by the names of the columns."""

    error_code: str
    warnings: str | None
    vin_error: str | None


def _outcomes(said: dict[str, pa.Array], notes: pa.Array | None) -> dict[str, pa.Array]:
    told = [said["ErrorCode"], said["ErrorText"], said["AdditionalErrorText"], said["Make"].is_valid()]
    codes, combined = combinations(told if notes is None else [*told, notes])
    columns = zip(*(_outcome(*each) for each in combined), strict=True)
    named = zip(_Outcome._fields, columns, strict=True)
    return {name: pa.array(column, pa.string()).take(codes) for name, column in named}


def _outcome(code: str, text: str, remark: str, is_made: bool, note: str | None = None) -> _Outcome:
    record = _record(ErrorCode=code, ErrorText=text, AdditionalErrorText=remark, Make="any" if is_made else "")
    result = interpret(replace(record, notes=(note,)) if note else record)
    if isinstance(result, Vehicle):
        return _Outcome(record.text("ErrorCode"), "\n".join(result.warnings) or None, None)
    return _Outcome(record.text("ErrorCode"), None, result.reason)


def _note(code: str, text: str, year: int) -> str:
    return year_note(year, _record(ErrorCode=code, ErrorText=text))


def _record(**values: object) -> Record:
    """A record of what many have said alike."""
    return Record(_ANY_VIN, values, "embedded", None, _NEVER)


def _read(attribute: Attribute, said: dict[str, pa.Array], vehicles: pa.Array | None) -> pa.Array:
    """An attribute as `fields()` has it: of the contract's four the text, "" where a vehicle has none."""
    value = said[attribute.key]
    kind = _AS_THEY_COME[attribute.kind]
    if attribute.special or value.type != kind:
        keys = (attribute.key, *attribute.further_keys)
        value = by_distinct(
            [said[key] for key in keys],
            lambda *each: attribute.read(_record(**dict(zip(keys, each, strict=True)))),
            kind,
        )
    if attribute not in CONTRACT_ATTRIBUTES:
        return tidy(value, vehicles) if attribute.kind == "text" else _where(vehicles, value)
    if attribute.kind != "text":
        value = value.cast(pa.string())
    elif attribute.key not in _OF_EVERY_ANSWER:
        value = tidy(value)
    return _where(vehicles, pc.fill_null(value, "") if value.null_count else value)


def _where(mask: pa.Array | None, values: pa.Array) -> pa.Array:
    return values if mask is None else only(values, mask)
