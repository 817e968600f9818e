"""Which of two answers about a VIN is to be kept, when neither is asked for now."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from vin_datasette.flat import stored
from vin_datasette.rebuilt import is_rebuilt

_RISING = ("embedded-sibling", "embedded", "vpic-sibling", "vpic")
_MONTH = re.compile(r"\d{4}_\d{2}", re.ASCII)


class Said(NamedTuple):
    """An answer as the cache keeps it: `fetched_at` and the JSON under `record` are texts."""

    source: str
    source_version: str | None
    fetched_at: str
    record: str


def is_better(new: Said, old: Said) -> bool:
    """Whether an answer is to take the place of an old one.

    What vPIC said goes before what its database said, and either before what was said of a
    sibling. Of one source, later data goes before older data, then a whole record before one that was
    rebuilt of columns, and of those the one of more columns, and then what vPIC said later. An
    answer that is as good is not better.
    """
    if new.source != old.source:
        return _rank(new.source) > _rank(old.source)
    if _month(new.source_version) != _month(old.source_version):
        return _month(new.source_version) > _month(old.source_version)
    extent, old_extent = (0, 0) if new.record == old.record else (_extent(new.record), _extent(old.record))
    if extent != old_extent:
        return extent > old_extent
    return new.source in ("vpic", "vpic-sibling") and new.fetched_at > old.fetched_at


def _rank(source: str) -> int:
    return _RISING.index(source) if source in _RISING else -1


def _month(version: str | None) -> str:
    """The month of the data (`2026_10`), which sorts; what is none comes before all."""
    return version if version and _MONTH.fullmatch(version) else ""


def _extent(record: str) -> float:
    """How much a record tells: nothing when somebody damaged it, else no less than all there was or,
    rebuilt, as many columns as it has."""
    values = stored(record)
    return len(values) if not values or is_rebuilt(values) else math.inf
