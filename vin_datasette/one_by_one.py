"""Private: answers for `decode_batches` that are read vehicle by vehicle: those that a cache holds,
and those of which the whole record is wanted."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pyarrow as pa

from vin_datasette import portal
from vin_datasette.cache import Cache, CacheError, as_json
from vin_datasette.fleet.beside import provenance_values, vehicle_values
from vin_datasette.lookup import outlived
from vin_datasette.record import Record
from vin_datasette.settings import Settings
from vin_datasette.sources import Question
from vin_datasette.sources.standin import WithStandIn
from vin_datasette.vehicle import Rejection, Vehicle, interpret
from vin_datasette.vin import VIN

Result = Vehicle | Rejection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


_RULES = Settings(source="embedded")
"""Those that hold where nobody has set others: a process far away has not the settings of this one."""


class Kept:
    """What a cache file holds, which is only read. Raises `CacheError` for one that is none; close it after use."""

    def __init__(self, path: str | Path) -> None:
        self._cache = Cache(path, to_read=True)
        self._cache.open()

    def close(self) -> None:
        """Let go of the file."""
        self._cache.close()

    def results(self, vins: Iterable[VIN]) -> dict[VIN, Result]:
        """What it still says of these VINs: of vehicles whatever their age, of rejections what is not
        outlived. Raises `CacheError` where it cannot be read."""
        try:
            records = self._cache.get_many([*dict.fromkeys(vins)])
        except sqlite3.Error as error:
            raise CacheError(f"{self._cache.path} cannot be read as a cache: {error}.") from error
        results = {vin: interpret(record, _RULES.check_digit) for vin, record in records.items()}
        return {vin: result for vin, result in results.items() if not outlived(result, _RULES.rejection_max_age)}


def singled_out(
    vins: Sequence[str | None], years: Sequence[int | None], kept: Kept | None, *, whole: bool
) -> dict[int, Result]:
    """The answers to VINs, by their indices and in their order: those that are `kept`, and with
    `whole` all others, by the embedded database and with its whole record."""
    asked = {index: Question(VIN(vin), years[index]) for index, vin in enumerate(vins) if vin is not None}
    known = kept.results(question.vin for question in asked.values()) if kept else {}
    rest = [question for question in asked.values() if question.vin not in known] if whole else []
    records = portal.run(WithStandIn(_RULES).records(rest)) if rest else []
    decoded = {
        question: interpret(record, _RULES.check_digit)
        for question, record in zip(rest, records, strict=True)
        if isinstance(record, Record)
    }
    answers = {index: known.get(question.vin) or decoded.get(question) for index, question in asked.items()}
    return {index: answer for index, answer in answers.items() if answer}


def columns(results: Sequence[Result], fields: Iterable[pa.Field]) -> dict[str, pa.Array]:
    """Results as arrays by the names of `fields`, which are of those of `decode_schema`."""
    rows = [_row(result) for result in results]
    return {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in fields}


def _row(result: Result) -> Mapping[str, object]:
    row: dict[str, object] = {"vin_error": result.reason} if isinstance(result, Rejection) else vehicle_values(result)
    if result.record:
        row.update(provenance_values(result.record))
        row["record"] = as_json(dict(result.record.values))
    return row
