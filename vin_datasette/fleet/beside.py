"""What came of a fleet's rows, as columns beside its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from vin_datasette.attributes import CONTRACT_ATTRIBUTES
from vin_datasette.batches import fields
from vin_datasette.fleet.columns import names_beside
from vin_datasette.lookup import Answer, Failure
from vin_datasette.vehicle import Vehicle
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vin_datasette.fleet.row import Row
    from vin_datasette.record import Record

Outcome = Answer | Failure
"""What came of one row: an answer, or that no source could be asked."""


class Added(NamedTuple):
    """The vehicle's columns beside a fleet's own: under which names, and as which fields."""

    names: list[str]
    fields: list[pa.Field]


_OUTCOME_FIELDS = (
    pa.field("cached", pa.bool_(), nullable=False, metadata={"description": "Whether the cache had it"}),
    pa.field("status", pa.string(), nullable=False, metadata={"description": "found, rejected or failed"}),
    pa.field("reason", pa.string(), metadata={"description": "Why there is no vehicle"}),
    pa.field("suggested_vin", pa.string(), metadata={"description": "The VIN that was likely meant; ! is in doubt"}),
)
_FIELDS = (*(field.with_nullable(field.name != "vin") for field in fields()), *_OUTCOME_FIELDS)
_CONTRACT = tuple(attribute.column for attribute in CONTRACT_ATTRIBUTES)
_NAMES = tuple(field.name for field in _FIELDS)

WAITING: tuple[object, ...] = tuple("waiting" if name == "status" else None for name in _NAMES)
"""The values of a row that has not been asked about yet."""


def added_columns(own: Sequence[str]) -> Added:
    """The columns beside those that a fleet has: the vehicle's are those of `fields()`, null where
    there is no vehicle, and then `cached`, `status`, `reason` and `suggested_vin`; `vpic_…`
    where the fleet has one of the name, in whichever case."""
    names = names_beside(own, _NAMES)
    return Added(names, [field.with_name(name) for field, name in zip(_FIELDS, names, strict=True)])


def added_values(row: Row, outcome: Outcome) -> Iterable[object]:
    """The values of a row in the columns that are added to its own."""
    said: dict[str, object]
    if isinstance(outcome, Failure):
        said = {"vin": _vin(row, outcome.vin), "cached": False, "status": "failed"}
        said["reason"] = row.problem or outcome.reason
    elif isinstance(outcome.result, Vehicle):
        said = vehicle_values(outcome.result)
        said["cached"], said["status"] = outcome.cached, "found"
    else:
        rejection = outcome.result
        said = {"vin": _vin(row, rejection.vin), "cached": outcome.cached, "status": "rejected"}
        said["reason"] = row.problem or rejection.reason
        said["suggested_vin"] = rejection.suggested_vin
        if rejection.record:
            said.update(provenance_values(rejection.record))
    return map(said.get, _NAMES)


def _vin(row: Row, said: str) -> str:
    # What is no VIN may have been cut in an outcome.
    return said if isinstance(said, VIN) else row.vin


def vehicle_values(vehicle: Vehicle) -> dict[str, object]:
    """A vehicle's values by the names of `fields()`."""
    said: dict[str, object] = {**vehicle.columns()}
    for name in _CONTRACT:
        value = said[name]
        said[name] = "" if value is None else str(value)
    said["vin"] = vehicle.vin
    said["warnings"] = "\n".join(vehicle.warnings) or None
    said.update(provenance_values(vehicle.record))
    return said


def provenance_values(record: Record) -> dict[str, object]:
    """Where a record came from, by the names of `fields()`."""
    return {
        "error_code": record.text("ErrorCode"),
        "source": record.source,
        "source_version": record.source_version,
        "fetched_at": record.fetched_at,
    }
