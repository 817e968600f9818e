"""The elements of vPIC's answers: what each flat key means, and how its value is shown.

Ids, groups and names are vPIC's own (`GetVehicleVariableList`, as of the data of 2026_10);
units that vPIC puts into a name stand apart from it here. Names change over the years, ids
and keys hardly ever do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from vin_datasette.words import sendable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vin_datasette.record import Record


@dataclass(frozen=True)
class Element:
    """One element: `key` is its flat key, `group` vPIC's name of its group, "" for what an
    answer says of itself. `element_id` is None for the keys that a flat answer has besides,
    `unit` for what has none."""

    key: str
    element_id: int | None
    label: str
    group: str
    unit: str | None = None


_Row = tuple[str, int | None, str] | tuple[str, int | None, str, str]

# Groups in the order in which vPIC prints them. Within one, what people look for comes first.
_GROUPS: dict[str, tuple[_Row, ...]] = {
    "General": (
        ("Make", 26, "Make"),
        ("Model", 28, "Model"),
        ("ModelYear", 29, "Model Year"),
        ("Series", 34, "Series"),
        ("Series2", 110, "Series2"),
        ("Trim", 38, "Trim"),
        ("Trim2", 109, "Trim2"),
        ("VehicleType", 39, "Vehicle Type"),
        ("Manufacturer", 27, "Manufacturer Name"),
        ("PlantCompanyName", 76, "Plant Company Name"),
        ("PlantAddress", 204, "Plant Address"),
        ("PlantCity", 31, "Plant City"),
        ("PlantState", 77, "Plant State"),
        ("PlantCountry", 75, "Plant Country"),
        ("DestinationMarket", 10, "Destination Market"),
        ("BasePrice", 136, "Base Price", "USD"),
        ("NonLandUse", 195, "Non-Land Use"),
        ("Note", 114, "Note"),
        ("MakeID", None, "Make ID"),
        ("ModelID", None, "Model ID"),
        ("ManufacturerId", None, "Manufacturer ID"),
    ),
    "Exterior/Body": (
        ("BodyClass", 5, "Body Class"),
        ("Doors", 14, "Doors"),
        ("Windows", 40, "Windows"),
        ("WheelBaseType", 60, "Wheelbase Type"),
        ("TrackWidth", 159, "Track Width", "in"),
    ),
    "Exterior/Dimension": (
        ("GVWR", 25, "Gross Vehicle Weight Rating From"),
        ("GVWR_to", 190, "Gross Vehicle Weight Rating To"),
        ("GCWR", 184, "Gross Combination Weight Rating From"),
        ("GCWR_to", 185, "Gross Combination Weight Rating To"),
        ("CurbWeightLB", 54, "Curb Weight", "lb"),
        ("WheelBaseShort", 111, "Wheelbase From", "in"),
        ("WheelBaseLong", 112, "Wheelbase To", "in"),
        ("BedLengthIN", 49, "Bed Length", "in"),
    ),
    "Exterior/Truck": (
        ("BodyCabType", 4, "Cab Type"),
        ("BedType", 3, "Bed Type"),
    ),
    "Exterior/Trailer": (
        ("TrailerType", 116, "Trailer Type Connection"),
        ("TrailerBodyType", 117, "Trailer Body Type"),
        ("TrailerLength", 118, "Trailer Length", "ft"),
        ("OtherTrailerInfo", 155, "Other Trailer Info"),
    ),
    "Exterior/Wheel Tire": (
        ("Wheels", 115, "Number of Wheels"),
        ("WheelSizeFront", 119, "Wheel Size Front", "in"),
        ("WheelSizeRear", 120, "Wheel Size Rear", "in"),
    ),
    "Exterior/Motorcycle": (
        ("CustomMotorcycleType", 151, "Custom Motorcycle Type"),
        ("MotorcycleSuspensionType", 152, "Motorcycle Suspension Type"),
        ("MotorcycleChassisType", 153, "Motorcycle Chassis Type"),
        ("FuelTankType", 200, "Fuel-Tank Type"),
        ("FuelTankMaterial", 201, "Fuel-Tank Material"),
        ("CombinedBrakingSystem", 202, "Combined Braking System (CBS)"),
        ("WheelieMitigation", 203, "Wheelie Mitigation"),
        ("OtherMotorcycleInfo", 154, "Other Motorcycle Info"),
    ),
    "Exterior/Bus": (
        ("BusType", 149, "Bus Type"),
        ("BusFloorConfigType", 148, "Bus Floor Configuration Type"),
        ("BusLength", 147, "Bus Length", "ft"),
        ("OtherBusInfo", 150, "Other Bus Info"),
    ),
    "Interior": (
        ("SteeringLocation", 36, "Steering Location"),
        ("EntertainmentSystem", 23, "Entertainment System"),
    ),
    "Interior/Seat": (
        ("Seats", 33, "Number of Seats"),
        ("SeatRows", 61, "Number of Seat Rows"),
    ),
    "Mechanical/Transmission": (
        ("TransmissionStyle", 37, "Transmission Style"),
        ("TransmissionSpeeds", 63, "Transmission Speeds"),
    ),
    "Mechanical/Drivetrain": (
        ("DriveType", 15, "Drive Type"),
        ("Axles", 41, "Axles"),
        ("AxleConfiguration", 145, "Axle Configuration"),
    ),
    "Mechanical/Brake": (
        ("BrakeSystemType", 42, "Brake System Type"),
        ("BrakeSystemDesc", 52, "Brake System Description"),
    ),
    "Mechanical/Battery": (
        ("BatteryType", 2, "Battery Type"),
        ("BatteryKWh", 59, "Battery Energy From", "kWh"),
        ("BatteryKWh_to", 134, "Battery Energy To", "kWh"),
        ("BatteryV", 58, "Battery Voltage From", "V"),
        ("BatteryV_to", 133, "Battery Voltage To", "V"),
        ("BatteryA", 57, "Battery Current From", "A"),
        ("BatteryA_to", 132, "Battery Current To", "A"),
        ("BatteryPacks", 138, "Number of Battery Packs per Vehicle"),
        ("BatteryModules", 137, "Number of Battery Modules per Pack"),
        ("BatteryCells", 48, "Number of Battery Cells per Module"),
        ("EVDriveUnit", 72, "EV Drive Unit"),
        ("BatteryInfo", 1, "Other Battery Info"),
    ),
    "Mechanical/Battery/Charger": (
        ("ChargerLevel", 127, "Charger Level"),
        ("ChargerPowerKW", 128, "Charger Power", "kW"),
    ),
    "Engine": (
        ("EngineModel", 18, "Engine Model"),
        ("EngineManufacturer", 146, "Engine Manufacturer"),
        ("EngineCylinders", 9, "Engine Number of Cylinders"),
        ("EngineConfiguration", 64, "Engine Configuration"),
        ("DisplacementL", 13, "Displacement", "L"),
        ("DisplacementCC", 11, "Displacement", "cc"),
        ("DisplacementCI", 12, "Displacement", "cu in"),
        ("EngineHP", 71, "Engine Brake Power From", "hp"),
        ("EngineHP_to", 125, "Engine Brake Power To", "hp"),
        ("EngineKW", 21, "Engine Power", "kW"),
        ("FuelTypePrimary", 24, "Fuel Type - Primary"),
        ("FuelTypeSecondary", 66, "Fuel Type - Secondary"),
        ("FuelInjectionType", 67, "Fuel Delivery/Fuel Injection Type"),
        ("ElectrificationLevel", 126, "Electrification Level"),
        ("Turbo", 135, "Turbo"),
        ("EngineCycles", 17, "Engine Stroke Cycles"),
        ("ValveTrainDesign", 62, "Valve Train Design"),
        ("CoolingType", 122, "Cooling Type"),
        ("TopSpeedMPH", 139, "Top Speed", "mph"),
        ("OtherEngineInfo", 129, "Other Engine Info"),
    ),
    "Passive Safety System": (
        ("SeatBeltsAll", 79, "Seat Belt Type"),
        ("Pretensioner", 78, "Pretensioner"),
        ("OtherRestraintSystemInfo", 121, "Other Restraint System Info"),
    ),
    "Passive Safety System/Air Bag Location": (
        ("AirBagLocFront", 65, "Front Air Bag Locations"),
        ("AirBagLocSide", 107, "Side Air Bag Locations"),
        ("AirBagLocCurtain", 55, "Curtain Air Bag Locations"),
        ("AirBagLocKnee", 69, "Knee Air Bag Locations"),
        ("AirBagLocSeatCushion", 56, "Seat Cushion Air Bag Locations"),
    ),
    "Active Safety System": (
        ("ABS", 86, "Antilock Braking System (ABS)"),
        ("ESC", 99, "Electronic Stability Control (ESC)"),
        ("TractionControl", 100, "Traction Control"),
        ("TPMS", 168, "Tire Pressure Monitoring System (TPMS) Type"),
        ("AutoReverseSystem", 172, "Auto-Reverse System for Windows and Sunroofs"),
        ("AutomaticPedestrianAlertingSound", 173, "Automatic Pedestrian Alerting Sound (for Hybrid and EV only)"),
        ("EDR", 175, "Event Data Recorder (EDR)"),
        ("KeylessIgnition", 176, "Keyless Ignition"),
        ("SAEAutomationLevel", 181, "SAE Automation Level From"),
        ("SAEAutomationLevel_to", 182, "SAE Automation Level To"),
        ("DriverAssist", 16, "Driver Assist"),
        ("ActiveSafetySysNote", 169, "Active Safety System Note"),
    ),
    "Active Safety System/Maintaining Safe Distance": (("AdaptiveCruiseControl", 81, "Adaptive Cruise Control (ACC)"),),
    "Active Safety System/Forward Collision Prevention": (
        ("CIB", 87, "Crash Imminent Braking (CIB)"),
        ("ForwardCollisionWarning", 101, "Forward Collision Warning (FCW)"),
        ("DynamicBrakeSupport", 170, "Dynamic Brake Support (DBS)"),
        ("PedestrianAutomaticEmergencyBraking", 171, "Pedestrian Automatic Emergency Braking (PAEB)"),
    ),
    "Active Safety System/Lane and Side Assist": (
        ("BlindSpotMon", 88, "Blind Spot Warning (BSW)"),
        ("BlindSpotIntervention", 193, "Blind Spot Intervention (BSI)"),
        ("LaneDepartureWarning", 102, "Lane Departure Warning (LDW)"),
        ("LaneKeepSystem", 103, "Lane Keeping Assistance (LKA)"),
        ("LaneCenteringAssistance", 194, "Lane Centering Assistance"),
    ),
    "Active Safety System/Backing Up and Parking": (
        ("RearVisibilitySystem", 104, "Backup Camera"),
        ("ParkAssist", 105, "Parking Assist"),
        ("RearCrossTrafficAlert", 183, "Rear Cross Traffic Alert"),
        ("RearAutomaticEmergencyBraking", 192, "Rear Automatic Emergency Braking"),
    ),
    "Active Safety System/911 Notification": (
        ("CAN_AACN", 174, "Automatic Crash Notification (ACN)/Advanced Automatic Crash Notification (AACN)"),
    ),
    "Active Safety System/Lighting Technologies": (
        ("DaytimeRunningLight", 177, "Daytime Running Light (DRL)"),
        ("LowerBeamHeadlampLightSource", 178, "Headlamp Light Source"),
        ("SemiautomaticHeadlampBeamSwitching", 179, "Semiautomatic Headlamp Beam Switching"),
        ("AdaptiveDrivingBeam", 180, "Adaptive Driving Beam (ADB)"),
        ("AdaptiveHeadlights", 82, "Adaptive Headlights"),
    ),
    # Private elements, which the published database leaves out.
    "Internal": (
        ("NCSABodyType", 96, "NCSA Body Type"),
        ("NCSAMake", 97, "NCSA Make"),
        ("NCSAModel", 98, "NCSA Model"),
        ("NCSANote", 186, "NCSA Note"),
        ("NCSAMappingException", 187, "NCSA Mapping Exception"),
        ("NCSAMapExcApprovedOn", 188, "NCSA Mapping Exception Approved On"),
        ("NCSAMapExcApprovedBy", 189, "NCSA Mapping Exception Approved By"),
        ("CashForClunkers", 158, "Cash For Clunkers"),
    ),
    "": (
        ("VIN", None, "VIN"),
        ("VehicleDescriptor", 196, "Vehicle Descriptor"),
        ("ErrorCode", 143, "Error Code"),
        ("ErrorText", 191, "Error Text"),
        ("AdditionalErrorText", 156, "Additional Error Text"),
        ("SuggestedVIN", 142, "Suggested VIN"),
        ("PossibleValues", 144, "Possible Values"),
    ),
}

ELEMENTS: dict[str, Element] = {
    row[0]: Element(row[0], row[1], row[2], group, *row[3:]) for group, rows in _GROUPS.items() for row in rows
}
"""Every element that a flat answer can have, by flat key, in the order of vPIC's groups."""

RANGES: dict[str, str] = {
    "GVWR": "GVWR_to",
    "GCWR": "GCWR_to",
    "WheelBaseShort": "WheelBaseLong",
    "BatteryKWh": "BatteryKWh_to",
    "BatteryV": "BatteryV_to",
    "BatteryA": "BatteryA_to",
    "EngineHP": "EngineHP_to",
    "SAEAutomationLevel": "SAEAutomationLevel_to",
}
"""Elements that vPIC gives as a range: the key of the lower end, and of the upper one.
Where there is no range, vPIC puts the one value under the lower end."""

OTHER = "Other"
"""The group of keys that are no element known here."""

ABOUT_THE_ANSWER = "About this answer"
"""What the elements that vPIC puts into no group have in common."""


def label(key: str) -> str:
    """vPIC's name for the element under a flat key, without its unit; the key itself when it is unknown."""
    return ELEMENTS[key].label if key in ELEMENTS else key


def shown(key: str, text: str) -> str:
    """A value for people: a number of a unit to three decimals, with the unit; all else as it is.

    >>> shown("DisplacementCI", "183.0712322841968519")
    '183.071 cu in'
    """
    unit = ELEMENTS[key].unit if key in ELEMENTS else None
    return f"{_amount(text)} {unit}" if unit and _NUMBER.fullmatch(text) else text


_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,40})?", re.ASCII)


def _amount(text: str) -> str:
    return f"{Decimal(text):,.3f}".rstrip("0").rstrip(".")


def value_of(record: Record, key: str) -> str:
    """What a record says under a flat key, for people, and "" when it says nothing; for the
    lower end of a range the whole range.

    >>> value_of(record, "EngineHP")
    '300 to 350 hp'
    """
    first = record.text(key)
    last = record.text(RANGES[key]) if key in RANGES else ""
    if not last or first == last:
        return shown(key, first)
    if not first:
        return f"up to {shown(key, last)}"
    unit = ELEMENTS[key].unit
    if unit and _NUMBER.fullmatch(first) and _NUMBER.fullmatch(last):
        return f"{_amount(first)} to {_amount(last)} {unit}"
    return f"{first} to {last}"


class Said(NamedTuple):
    """One thing that a record says: the flat key, its label, and the value for people."""

    key: str
    label: str
    value: str


def grouped(record: Record) -> list[tuple[str, list[Said]]]:
    """All that a record says, in vPIC's groups and order: each group's title with its elements.

    Groups and elements with nothing to say are left out. Keys that are not known here come
    last, so that nothing is hidden.
    """
    titled = [(group.replace("/", " / ") or ABOUT_THE_ANSWER, rows) for group, rows in _GROUPS.items()]
    groups = [(title, list(_said(record, [row[0] for row in rows]))) for title, rows in titled]
    others = [(key, sendable(key)) for key in record.values if key not in ELEMENTS]
    groups.append((OTHER, [Said(name, name, record.text(key)) for key, name in others]))
    said = [(title, [each for each in items if each.value]) for title, items in groups]
    return [(title, items) for title, items in said if items]


_UPPER_ENDS = frozenset(RANGES.values())


def _said(record: Record, keys: list[str]) -> Iterator[Said]:
    for key in keys:
        if key not in _UPPER_ENDS:
            name = label(key)
            yield Said(key, name.removesuffix(" From") if key in RANGES else name, value_of(record, key))
