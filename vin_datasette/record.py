"""Records: one answer of vPIC for one VIN, whole, and where it came from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vin_datasette.vin import VIN

SourceName = Literal["vpic", "embedded", "vpic-sibling", "embedded-sibling"]
"""`vpic` is the DOT's API, `embedded` vPIC's own database in the package `ultravin`;
`…-sibling` says that neither was asked, as the one had answered for a vehicle alike."""

NOT_APPLICABLE = "Not Applicable"
"""vPIC's default for what a type of vehicle cannot have."""

SOURCE_NAMES: dict[str, SourceName] = {name: name for name in get_args(SourceName)}
"""All of them, to tell whether a text is one."""

_CODES = re.compile(r"\d+(?:,\d+)*", re.ASCII)
# Until 2018 vPIC put the texts under `ErrorCode`: "0 - VIN decoded clean…; 14 - …".
_CODE_OF_TEXT = re.compile(r"(?:^|;\s*)(\d{1,4})\s?-", re.ASCII)


@dataclass(frozen=True)
class Record:
    """What a source answered for `vin`, kept as it was said.

    `values` maps vPIC's flat keys (`Make`, `GVWR_to` …) to strings, "" where vPIC
    has nothing to say; keys come and go over the years, so none is certain.
    `source_version` is the source's data version where it has one (`2026_10`).
    `fetched_at` is an aware UTC time, to the second. `notes` are what the lookup
    itself has to add, such as a model year that was asked for and then dropped.
    """

    vin: VIN
    values: Mapping[str, object]
    source: SourceName
    source_version: str | None
    fetched_at: datetime
    notes: tuple[str, ...] = ()

    def text(self, key: str) -> str:
        """The value under a flat key, stripped and with inner white space collapsed;
        "" when vPIC left it out or says `NOT_APPLICABLE`."""
        value = self.values.get(key)
        if value is None or value == "":
            return ""
        text = str(value)
        return _remembered_words(text) if len(text) <= _SHORT else words(text)

    @property
    def error_codes(self) -> tuple[int, ...]:
        """vPIC's error codes, as `read_error_codes` finds them."""
        return read_error_codes(self.values)


def seconds_since(when: datetime) -> float:
    """Seconds since an aware time, such as that of a record; below 0 where the clock was put back since."""
    return (datetime.now(timezone.utc) - when).total_seconds()


class Unread(Mapping[str, object]):
    """The values of a stored record, of which some are `known` and the others are read from
    its JSON when they are wanted. Raises `ValueError` then, where that is damaged."""

    __slots__ = ("_json", "_known", "_values")

    def __init__(self, known: Mapping[str, object], json_text: bytes) -> None:
        self._known = known
        self._json = json_text
        self._values: dict[str, object] | None = None

    def get(self, key: str, default: object = None) -> object:
        """The value of a key, or `default`."""
        return self._known[key] if key in self._known else self._all().get(key, default)

    def __getitem__(self, key: str) -> object:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict[str, object]:
        if self._values is None:
            self._values = json.loads(self._json)
        return self._values


def words(text: str) -> str:
    """What `Record.text` makes of a value's text."""
    # A lone surrogate can be stored in JSON but not in an SQLite text.
    tidy = " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return "" if tidy == NOT_APPLICABLE else tidy


# The vehicles of a fleet say few different things, each many times.
_SHORT = 100
_remembered_words = lru_cache(maxsize=16_384)(words)


def read_error_codes(values: Mapping[str, object]) -> tuple[int, ...]:
    """The codes under `ErrorCode`, ascending as vPIC gives them: in today's form
    (`1,11,400`) and in that of 2018 (texts). Empty when there are none to be read."""
    said = values.get("ErrorCode")
    text = said.strip() if isinstance(said, str) else str(said) if type(said) is int else ""
    return _remembered_codes(text) if len(text) <= _SHORT else _codes(text)


def _codes(text: str) -> tuple[int, ...]:
    found = text.split(",") if _CODES.fullmatch(text) else _CODE_OF_TEXT.findall(text)
    # No code of vPIC's has more than three digits.
    return tuple(int(code) for code in found if len(code) <= 4)


_remembered_codes = lru_cache(maxsize=1024)(_codes)
