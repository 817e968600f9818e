"""The attributes of a vehicle that people filter, facet and sort by, as columns.

Each is read from vPIC's flat keys and typed as what it is. The list is a choice
out of vPIC's 154 keys; the whole record is kept beside it. Keys and element ids
are vPIC's own (`GetVehicleVariableList`); texts and units follow its manual.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from vin_datasette.record import Record

Value = str | int | float | None
"""What a typed column holds; None where vPIC has nothing to say."""

KG_PER_POUND = 0.45359237
"""By definition (NIST SP 811, appendix B.8)."""

_LONGEST = 200
"""Characters of a text that a number is read from."""

_LARGEST = 2**53
"""What is larger is no exact number as a float, and no count or weight of a vehicle."""


@dataclass(frozen=True)
class Attribute:
    """One typed column of `vehicles`.

    `key` and `element_id` name the vPIC element it is read from, `unit` is the
    unit of its numbers or None, `label` and `description` are for people. `special` reads
    what is more than a value of its kind, by `key` and `further_keys` alone.
    """

    column: str
    key: str
    element_id: int
    kind: Literal["text", "integer", "real"]
    label: str
    description: str
    unit: str | None = None
    special: Callable[[Record], Value] | None = None
    further_keys: tuple[str, ...] = ()

    def read(self, record: Record) -> Value:
        """This attribute of `record`, or None when it is absent or is no such number."""
        if self.special:
            return self.special(record)
        text = record.text(self.key)
        if self.kind == "text":
            return text or None
        number = _number(text)
        return number if self.kind == "real" or number is None else _whole(number)


# Narrower than float(): no underscores, no foreign digits, and not longer than any number of vPIC's.
_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{1,40})?(?:[eE][+-]?\d{1,3})?", re.ASCII)


def _number(text: str) -> float | None:
    # What is remembered below is not to be of any length.
    return _short_number(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _short_number(text: str) -> float | None:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else None


def _whole(number: float) -> int | None:
    return int(number) if number.is_integer() and abs(number) <= _LARGEST else None


# "Class 1C: 4,001 - 5,000 lb (1,814 - 2,268 kg)", "… (2,722 kg or less)", "… (14,969 kg and above)"
_KILOGRAMS = re.compile(
    r"\((?:(\d[\d,]{0,12})\s*-\s*)?(\d[\d,]{0,12})\s*kg(?:\s*(or less|and above))?[^)]*\)", re.ASCII
)


def _kilograms(text: str) -> tuple[int | None, int | None]:
    # A text far longer than any of vPIC's classes could take hours to be searched.
    return _kilograms_of_class(text) if len(text) <= _LONGEST else (None, None)


@lru_cache(maxsize=1024)
def _kilograms_of_class(text: str) -> tuple[int | None, int | None]:
    match = _KILOGRAMS.search(text)
    if not match:
        return None, None
    first, last, open_end = match.groups()
    low, high = (int(part.replace(",", "")) if part else None for part in (first, last))
    return (high, None) if open_end == "and above" else (low, high)


def _gvwr_from(record: Record) -> int | None:
    return _kilograms(record.text("GVWR"))[0]


def _gvwr_to(record: Record) -> int | None:
    """The upper end of the higher class when vPIC gives a range of classes."""
    own, other = (_kilograms(record.text(key)) for key in ("GVWR", "GVWR_to"))
    if (None in own and own[0] is not None) or (None in other and other[0] is not None):
        return None
    return max((high for high in (own[1], other[1]) if high is not None), default=None)


def _curb_weight(record: Record) -> int | None:
    pounds = _number(record.text("CurbWeightLB"))
    return _whole(float(round(pounds * KG_PER_POUND))) if pounds is not None else None


# The one class without an upper end (49 CFR 565.15, table II).
_HEAVIEST = "Class 8: 33,001 lb and above (14,969 kg and above)"


def gvwr_to_of(gvwr: str, kilograms: int | None) -> str:
    """A value of `GVWR_to` beside which a vehicle of the class `gvwr` has this upper end, in kilograms or
    None; "" where the class has it by itself."""
    if kilograms == _kilograms(gvwr)[1]:
        return ""
    return _HEAVIEST if kilograms is None else f"({kilograms:,} kg or less)"


def pounds_of(kilograms: int) -> int:
    """Pounds, whole ones, that are so many kilograms."""
    return round(kilograms / KG_PER_POUND)


# fmt: off
MODEL_YEAR = Attribute("model_year", "ModelYear", 29, "integer", "Model year", "Designated by the maker; not the year of manufacture")

CONTRACT_ATTRIBUTES = (
    Attribute("make", "Make", 26, "text", "Make", "The name under which the vehicle was sold"),
    Attribute("model", "Model", 28, "text", "Model", "The maker's name for the model"),
    MODEL_YEAR,
    Attribute("body_class", "BodyClass", 5, "text", "Body class", "Shape and doors of the body"),
)
"""The four attributes that every door answers with, in their order."""

FURTHER_ATTRIBUTES = (
    Attribute("vehicle_type", "VehicleType", 39, "text", "Vehicle type", "Passenger car, truck, trailer, motorcycle … (49 CFR 571.3)"),
    Attribute("manufacturer", "Manufacturer", 27, "text", "Manufacturer", "The company registered with NHTSA"),
    Attribute("series", "Series", 34, "text", "Series", "A division of the model by price, size or weight"),
    Attribute("trim", "Trim", 38, "text", "Trim", "Version of the model by its equipment"),
    Attribute("doors", "Doors", 14, "integer", "Doors", "Number of doors"),
    Attribute("seats", "Seats", 33, "integer", "Seats", "Number of seats"),
    Attribute("seat_rows", "SeatRows", 61, "integer", "Seat rows", "Number of rows of seats"),
    Attribute("wheels", "Wheels", 115, "integer", "Wheels", "Number of wheels"),
    Attribute("axles", "Axles", 41, "integer", "Axles", "Number of axles"),
    Attribute("drive_type", "DriveType", 15, "text", "Drive type", "Which wheels are driven"),
    Attribute("cab_type", "BodyCabType", 4, "text", "Cab type", "Cab of a truck"),
    Attribute("bed_type", "BedType", 3, "text", "Bed type", "Bed of a pickup"),
    Attribute("fuel_type", "FuelTypePrimary", 24, "text", "Fuel type", "Primary fuel"),
    Attribute("fuel_type_secondary", "FuelTypeSecondary", 66, "text", "Secondary fuel type", "Fuel besides the primary one"),
    Attribute("electrification", "ElectrificationLevel", 126, "text", "Electrification level", "Mild hybrid to battery electric"),
    Attribute("engine_model", "EngineModel", 18, "text", "Engine model", "The maker's name for the engine"),
    Attribute("engine_manufacturer", "EngineManufacturer", 146, "text", "Engine manufacturer", "Who made the engine"),
    Attribute("engine_configuration", "EngineConfiguration", 64, "text", "Engine configuration", "In-line, V-shaped …"),
    Attribute("cylinders", "EngineCylinders", 9, "integer", "Cylinders", "Number of cylinders"),
    Attribute("displacement_l", "DisplacementL", 13, "real", "Displacement", "Engine displacement", "L"),
    Attribute("engine_hp", "EngineHP", 71, "real", "Engine power", "Brake power; the lower end where vPIC gives a range", "hp"),
    Attribute("engine_kw", "EngineKW", 21, "real", "Engine power", "Engine power in kilowatts", "kW"),
    Attribute("turbo", "Turbo", 135, "text", "Turbo", "Whether the engine has a turbocharger"),
    Attribute("battery_kwh", "BatteryKWh", 59, "real", "Battery energy", "Energy of the traction battery; the lower end of a range", "kWh"),
    Attribute("transmission", "TransmissionStyle", 37, "text", "Transmission", "Manual, automatic, CVT …"),
    Attribute("transmission_speeds", "TransmissionSpeeds", 63, "integer", "Transmission speeds", "Number of forward gears"),
    Attribute("gvwr_class", "GVWR", 25, "text", "GVWR class", "Gross vehicle weight rating, as vPIC words it (49 CFR 565.15, table II)"),
    Attribute("gvwr_from_kg", "GVWR", 25, "integer", "GVWR from", "Lower end of the gross vehicle weight rating", "kg", _gvwr_from),
    Attribute("gvwr_to_kg", "GVWR_to", 190, "integer", "GVWR to", "Upper end of the gross vehicle weight rating", "kg", _gvwr_to, ("GVWR",)),
    Attribute("curb_weight_kg", "CurbWeightLB", 54, "integer", "Curb weight", "Weight with all fluids and no load, from vPIC's pounds", "kg", _curb_weight),
    Attribute("wheelbase_in", "WheelBaseShort", 111, "real", "Wheelbase", "Distance of the axles; the lower end of a range", "in"),
    Attribute("top_speed_mph", "TopSpeedMPH", 139, "integer", "Top speed", "Top speed", "mph"),
    Attribute("base_price_usd", "BasePrice", 136, "real", "Base price", "Price without options when new", "USD"),
    Attribute("brake_system", "BrakeSystemType", 42, "text", "Brake system", "Air, hydraulic …"),
    Attribute("bus_type", "BusType", 149, "text", "Bus type", "Of a bus"),
    Attribute("trailer_body_type", "TrailerBodyType", 117, "text", "Trailer body type", "Of a trailer"),
    Attribute("plant_city", "PlantCity", 31, "text", "Plant city", "Where it was made"),
    Attribute("plant_state", "PlantState", 77, "text", "Plant state", "State or province where it was made"),
    Attribute("plant_country", "PlantCountry", 75, "text", "Plant country", "Country where it was made"),
    Attribute("plant_company", "PlantCompanyName", 76, "text", "Plant company", "Who runs the plant"),
    Attribute("destination_market", "DestinationMarket", 10, "text", "Destination market", "Where it was meant to be sold"),
    Attribute("descriptor", "VehicleDescriptor", 196, "text", "Vehicle descriptor", "Positions 1 to 8, 10 and 11: equal VINs here are siblings"),
)
# fmt: on

ATTRIBUTES = CONTRACT_ATTRIBUTES + FURTHER_ATTRIBUTES
"""Every typed column of a vehicle, in the order of the table."""
