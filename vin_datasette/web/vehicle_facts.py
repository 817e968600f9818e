"""What the page of a vehicle says of it, as plain text: nothing here knows Datasette."""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vin_datasette.elements import value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vin_datasette.record import Record
    from vin_datasette.vehicle import Vehicle
    from vin_datasette.vin import VIN


def facts(vehicle: Vehicle) -> list[tuple[str, str]]:
    """What to know at a glance: terms with what vPIC says, those left out that it says nothing of."""
    known = (
        ("Body class", vehicle.body_class),
        ("Vehicle type", vehicle["VehicleType"]),
        ("Series and trim", _joined(vehicle, "Series", "Series2", "Trim", "Trim2")),
        ("Engine", ", ".join(_engine(vehicle)) or _joined(vehicle, "EngineManufacturer", "EngineModel")),
        ("GVWR class", value_of(vehicle.record, "GVWR")),
        ("Made in", _joined(vehicle, "PlantCity", "PlantState", "PlantCountry")),
    )
    return [(term, text) for term, text in known if text]


def _joined(vehicle: Vehicle, *keys: str) -> str:
    return ", ".join(vehicle[key] for key in keys if vehicle[key])


def _engine(vehicle: Vehicle) -> Iterator[str]:
    cylinders = vehicle["EngineCylinders"]
    if cylinders:
        yield f"{cylinders} {'cylinder' if cylinders == '1' else 'cylinders'}"
    power = value_of(vehicle.record, "EngineHP") or value_of(vehicle.record, "EngineKW")
    fuel = " and ".join(vehicle[key] for key in ("FuelTypePrimary", "FuelTypeSecondary") if vehicle[key])
    yield from (text for text in (value_of(vehicle.record, "DisplacementL"), power, fuel) if text)


def remarks(vehicle: Vehicle) -> tuple[str, ...]:
    """What vPIC remarks about its answer, in its words; the notes of the lookup, which follow them, are not vPIC's."""
    return vehicle.warnings[: len(vehicle.warnings) - len(vehicle.record.notes)]


@dataclass(frozen=True)
class Origin:
    """Where an answer came from, in words. `doubt` is None when vPIC itself said it of this
    very VIN, and otherwise says what that means for the reader."""

    said: str
    doubt: str | None


def origin(record: Record) -> Origin:
    """Where a record came from."""
    month = _month(record.source_version)
    database = f"the embedded copy of vPIC's database{f' of {month}' if month else ''}"
    asked = "vPIC" if record.source.startswith("vpic") else database
    if record.source.endswith("-sibling"):
        doubt = (
            f"Nobody was asked about this very VIN: {asked} had answered for a vehicle alike, one with the same "
            "vehicle descriptor, and its record stands for this one."
        )
        return Origin(f"{asked}, for its sibling", doubt)
    if record.source == "embedded":
        return Origin(database, f"This came from {database}, not from the API.")
    return Origin("vPIC, the API of the US DOT", None)


def _month(version: str | None) -> str:
    """The month of a database in words: `2026_10` is `October 2026`."""
    match = re.fullmatch(r"(\d{4})_(0[1-9]|1[0-2])", version or "", re.ASCII)
    return f"{calendar.month_name[int(match[2])]} {match[1]}" if match else version or ""


@dataclass(frozen=True)
class Part:
    """Some positions of a VIN: which, the characters there, and what they say.

    `marked` is the whole VIN in pieces, of which those that are true belong to the part.
    """

    positions: str
    characters: str
    name: str
    says: str
    marked: tuple[tuple[str, bool], ...]
    wrong: bool = False


def parts(vin: VIN, vehicle: Vehicle) -> list[Part]:
    """A VIN taken apart (ISO 3779; 49 CFR 565.15), with what vPIC says of its parts."""
    maker = "1 to 3, 12 to 14" if vin.low_volume else "1 to 3"
    small = " A 9 at position 3 marks a maker of fewer than 1,000 vehicles a year." if vin.low_volume else ""
    made_by = vehicle["Manufacturer"].rstrip(".") or "vPIC names no manufacturer"
    plant = _joined(vehicle, "PlantCompanyName", "PlantCity", "PlantState", "PlantCountry")
    serial = "15 to 17" if vin.low_volume else "12 to 17"
    return [
        _part(vin, maker, vin.wmi, "World manufacturer identifier", f"{made_by}.{small}"),
        _part(vin, "4 to 8", vin[3:8], "Attributes", "The maker's own code for body, engine, restraints and the like."),
        _part(vin, "9", vin.check_digit, "Check digit", _checked(vin), wrong=not vin.check_digit_valid),
        _part(vin, "10", vin.model_year_code, "Model year", _years(vin, vehicle)),
        _part(vin, "11", vin.plant_code, "Plant", f"{plant or 'vPIC names no plant'}."),
        _part(vin, serial, vin.serial, "Serial number", "The number of this one vehicle."),
    ]


def _checked(vin: VIN) -> str:
    if vin.check_digit_valid:
        return "Right: it follows from the other sixteen characters."
    return (
        f"Wrong: by the other sixteen characters {vin.expected_check_digit} is due. "
        "Outside North America, position 9 need not be a check digit."
    )


def _years(vin: VIN, vehicle: Vehicle) -> str:
    code, years = vin.model_year_code, " or ".join(str(year) for year in vin.model_years)
    can = f"{code} stands for {years}." if years else f"{code} stands for no model year."
    return f"{can} vPIC says {vehicle['ModelYear']}." if vehicle["ModelYear"] else can


def _part(vin: VIN, positions: str, characters: str, name: str, says: str, *, wrong: bool = False) -> Part:
    ends = [[int(end) for end in span.split(" to ")] for span in positions.split(", ")]
    inside = [any(span[0] <= position <= span[-1] for span in ends) for position in range(1, len(vin) + 1)]
    pieces: list[tuple[str, bool]] = []
    for char, belongs in zip(vin, inside, strict=True):
        if pieces and pieces[-1][1] is belongs:
            pieces[-1] = (pieces[-1][0] + char, belongs)
        else:
            pieces.append((char, belongs))
    return Part(positions, characters, name, says, tuple(pieces), wrong)
