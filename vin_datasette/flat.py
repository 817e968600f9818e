"""vPIC's flat records as JSON: how they are read, and what is none, whoever brings it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NoReturn

from vin_datasette.record import read_error_codes

if TYPE_CHECKING:
    from vin_datasette.vin import VIN

# vPIC's values are texts. Deeper ones are more than some readers of the cache would bear.
_DEEPEST = 20


def parsed(text: str | bytes) -> Any:
    """What JSON says. Raises `ValueError` for what is no JSON (RFC 8259), and `RecursionError` for
    what is nested too deeply to be read."""
    return json.loads(text, parse_constant=_no_number, parse_float=_number)


def stored(record: str) -> dict[str, object]:
    """The values of a record as the cache keeps it; none of one that somebody damaged."""
    try:
        values = json.loads(record)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def fault(said: Any, vin: VIN) -> str | None:
    """Why this is no record of vPIC's for `vin`, as words behind "vPIC answered"; None when it is one."""
    if not isinstance(said, dict):
        return f"no record for {vin}"
    echo = said.get("VIN")
    if not isinstance(echo, str) or echo.strip().upper() != vin:
        return f"about another VIN than {vin}"
    if not read_error_codes(said):
        return f"a record without an error code for {vin}"
    if not all(_is_shallow(value, _DEEPEST) for value in said.values()):
        return f"a record that is nested too deeply for {vin}"
    return None


def _no_number(text: str) -> NoReturn:
    """NaN and the infinities, which Python reads but no JSON has (RFC 8259, section 6), nor does SQLite."""
    raise ValueError(f"{text} is no number")


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_number(text)


def _is_shallow(value: Any, levels: int) -> bool:
    """Whether a value has no more levels of lists and objects than these."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not inner or (levels > 0 and all(_is_shallow(each, levels - 1) for each in inner))
