"""Siblings: VINs that one answer of vPIC's serves.

Vehicles that share a descriptor share their attributes: positions 4 to 8 have to
tell them (49 CFR 565.15(b)), 10 and 11 tell model year and plant, and what follows
is the number of the one vehicle (49 CFR 565.15(d)). vPIC calls this the vehicle
descriptor. Some manufacturers do put attributes into the serial number, and vPIC
has rules on it; their VINs are siblings of none.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from vin_datasette.vehicle import CLEAN_CODE

if TYPE_CHECKING:
    from vin_datasette.record import Record, SourceName
    from vin_datasette.vin import VIN

_REFUSED = """
11N 123 13N 13T 15C 15R 16F 16S 19F 19T 1EB 1HL 1LP 1NF 1R0 1SA 1UJ 1WT 4BE 4BF 4FG 4MZ 4P1 4XT 50E 50G 52G
538 54C 54D 58T 59P 59R 5BC 5HL 5HT 5JL 5MZ 6PM 722 7KY 7RZ 7UU 95Z JAL LB4 LRY MD2 ME3 SCC VBK ZAM
"""
REFUSED_WMIS: frozenset[str] = frozenset(_REFUSED.split())
"""Manufacturers whose VINs one sibling must not answer for: vPIC has rules on their
serial numbers.

`python -m benchmarks.siblings` finds them, and names those that are missing here when
vPIC's rules have changed. Measured with `ultravin` 3.0.2, whose `provenance()` gives
the data of 2026_10, on 1,000,005 VINs of 62,129 families. Of VINs of all manufacturers
alike, with serial numbers of digits, 0.17 % (1,039 of 610,717) have an answer other than
their sibling's, all of manufacturers named here; of the 629,391 that `family` lets
through, none."""

_SIBLING = "-sibling"
# Said under `ErrorText`, or in records of 2018 under `ErrorCode`, of a VIN that vPIC excuses from its check digit.
_EXCUSE = re.compile(r"\s*NOTE: Check Digit Exception\b[^;]*", re.ASCII)


def family(vin: VIN) -> str | None:
    """The name under which a VIN's siblings find each other, its descriptor; None
    when none may answer for it.

    None may when its manufacturer is refused, and none when vPIC would find a fault
    that a sibling's clean answer hides: a wrong check digit (49 CFR 565.15(c)), or a
    letter where the serial number has to be numeric, in the last five positions, or
    the last three for a low-volume manufacturer. (49 CFR 565.15(d) lets vehicles
    that are not light have a letter at 13; the VIN alone does not tell them.)
    """
    numeric = vin[14:] if vin.low_volume else vin[12:]
    if vin.wmi in REFUSED_WMIS or not numeric.isdigit() or not vin.check_digit_valid:
        return None
    return vin.descriptor


def as_sibling(record: Record, vin: VIN) -> Record:
    """The record of a sibling of `vin` as the one of `vin` itself.

    What the sibling's answer says of the sibling alone does not go along: the VIN, a
    suggestion for it, and vPIC's excuse for its check digit. All else stays, the
    source's version and the time included; `source` and a note say whose it was.

    Raises `ValueError` when vPIC has any fault to find with the sibling (its codes
    are other than 0 alone), and when the two are no siblings by `family`.
    """
    sibling = record.vin
    if record.error_codes != (CLEAN_CODE,):
        raise ValueError(f"The record of {sibling} is not clean and answers for no sibling")
    if family(vin) != sibling.descriptor:
        raise ValueError(f"{sibling} is no sibling that may answer for {vin}")
    values = {**record.values, "VIN": str(vin)}
    # Empty in every clean record of vPIC's so far.
    values.update((key, "") for key in ("SuggestedVIN", "PossibleValues") if key in values)
    for key in ("ErrorCode", "ErrorText"):
        said = values.get(key)
        if isinstance(said, str):
            values[key] = _EXCUSE.sub("", said)
    when = record.fetched_at.isoformat().replace("+00:00", "Z")
    return replace(
        record,
        vin=vin,
        values=values,
        source=cast("SourceName", record.source.removesuffix(_SIBLING) + _SIBLING),
        notes=(*record.notes, f"Answered from the record of its sibling {sibling}, {when}"),
    )
