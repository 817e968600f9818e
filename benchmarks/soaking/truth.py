"""What vPIC and the embedded database say of each VIN: what every answer is held against."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

import ultravin

from tests.vpic_server import flat_record
from vin_datasette.record import Record
from vin_datasette.vehicle import Vehicle, interpret
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FIELDS = {"Make": "Make", "Model": "Model", "ModelYear": "Model Year", "BodyClass": "Body Class"}
"""vPIC's keys of the contract's attributes, and their names in an answer."""

COLUMNS = ("make", "model", "model_year", "body_class")
"""Their columns in the cache, in the same order."""

AT_ONCE = 1000
"""VINs that are decoded at once."""


def marked(vin: str, model: str) -> str:
    """The model as the local vPIC gives it: with the VIN's own serial number. An answer that is
    another VIN's, or of another source than it says, is then seen to be."""
    return f"{model} {vin[11:]}".strip()


class MarkedRecords(dict[str, "Mapping[str, object]"]):
    """The records of the local vPIC, for `VpicServer.records`."""

    def get(self, vin: str, default: object = None) -> dict[str, str]:
        """The record of any VIN."""
        record = flat_record(vin)
        return {**record, "Model": marked(vin, record["Model"])}


class Truth:
    """What is to be answered, decoded beforehand."""

    def __init__(self, vins: Sequence[str]) -> None:
        self._vehicles: dict[str, tuple[str, ...]] = {}
        self._reasons: dict[str, str] = {}
        now = datetime.now(timezone.utc)
        for start in range(0, len(vins), AT_ONCE):
            part = vins[start : start + AT_ONCE]
            for vin, answer in zip(part, ultravin.decode_batch(list(part), full=True), strict=True):
                values = {element["code"]: " ".join((element["value"] or "").split()) for element in answer["elements"]}
                if isinstance(interpret(Record(VIN(vin), values, "vpic", None, now)), Vehicle):
                    self._vehicles[vin] = tuple(values.get(key, "") for key in FIELDS)
                else:
                    self._reasons[vin] = values["ErrorText"].rstrip(". ")

    def is_vehicle(self, vin: str) -> bool:
        """Whether there is a vehicle for a VIN."""
        return vin in self._vehicles

    def knows(self, vin: str) -> bool:
        """Whether a VIN is one of those that are asked for."""
        return vin in self._vehicles or vin in self._reasons

    def values(self, vin: str, source: str) -> tuple[str, ...]:
        """Make, model, model year and body class of a vehicle, as this source gives them."""
        make, model, year, body = self._vehicles[vin]
        return (make, marked(vin, model) if source == "vpic" else model, year, body)

    def six_fields(self, vin: str, source: str, cached: object) -> dict[str, object]:
        """The contract's answer."""
        named = dict(zip(FIELDS.values(), self.values(vin, source), strict=True))
        return {"Input VIN Requested": vin, **named, "Cached Result?": cached}

    def reason(self, vin: str) -> str:
        """What the error of a VIN without a vehicle has to contain."""
        return self._reasons[vin]
