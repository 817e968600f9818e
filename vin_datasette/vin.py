"""VINs: seventeen characters and the rules they follow.

The rules are those of ISO 3779 (content and structure), ISO 3780 (WMI) and
49 CFR Part 565 (the US form: check digit, model-year code, low-volume makers).
Nothing here asks anybody: a VIN that passes may still name no vehicle.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import islice

LENGTH = 17
"""Characters in a VIN (ISO 3779, 49 CFR 565.13(b))."""

ALPHABET = frozenset("ABCDEFGHJKLMNPRSTUVWXYZ0123456789")
"""Characters a VIN may hold: no I, O or Q (ISO 3779, 49 CFR 565.13(g))."""

WELL_FORMED = "[A-HJ-NPR-Z0-9]{17}"
"""The whole of a VIN that needs no normalising, as a regular expression."""

_WELL_FORMED = re.compile(WELL_FORMED)

LIKELY_DIGIT = {"I": "1", "O": "0", "Q": "0"}
"""The digit that a letter barred from VINs was most likely read for."""

MODEL_YEAR_CODES = "ABCDEFGHJKLMNPRSTVWXY123456789"
"""Position 10 in order from 1980, again from 2010 (49 CFR 565.15(d)(1), table VII)."""

_CHECK_VALUES = dict(zip("0123456789", range(10), strict=True)) | dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ", (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, *range(2, 10)), strict=True)
)
_CHECK_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_CHECK_DIGITS = "0123456789X"

# str.upper() would turn one foreign letter into two and shift every position after it.
_ASCII_UPPER: dict[int, int | None] = {lower: lower - 32 for lower in range(ord("a"), ord("z") + 1)}
_QUOTES = "\"'`´‘’‚“”„«»‹›"
_PLAIN = _ASCII_UPPER | dict.fromkeys(map(ord, "-‐‑‒–—−\u00ad"))
"""What `str.translate` makes of lower case and of hyphens."""
_NAMED_AT_MOST = 3


class InvalidVIN(ValueError):
    """Text that cannot be a VIN.

    `reason` says in one sentence what is wrong and where; `suggested` is a VIN
    that was likely meant, or None. The text itself is not repeated in full.
    """

    def __init__(self, reason: str, suggested: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.suggested = suggested

    def __reduce__(self) -> tuple[type[InvalidVIN], tuple[str, str | None]]:
        """For workers that send it to another process."""
        return type(self), (self.reason, self.suggested)


class VIN(str):
    """A well-formed VIN: a `str` of exactly 17 upper-case characters.

    `VIN(text)` forgives what people and spreadsheets add: white space anywhere,
    quotes around, hyphens within, lower case. The check digit is not required to
    be right, as outside North America position 9 often is no check digit.

    Raises `InvalidVIN` (a `ValueError`) with a reason in words.

    >>> VIN(" '1xp5-db9x-7xd4-87964' ").wmi
    '1XP'
    """

    __slots__ = ()

    def __new__(cls, text: str) -> VIN:  # noqa: D102 - see the class
        if isinstance(text, VIN):
            return text
        if _WELL_FORMED.fullmatch(text):
            return super().__new__(cls, text)
        normal = normalise(text)
        if not _WELL_FORMED.fullmatch(normal):
            raise InvalidVIN(_problem(normal), _suggestion(normal))
        return super().__new__(cls, normal)

    @property
    def wmi(self) -> str:
        """World manufacturer identifier: positions 1 to 3, and for a maker of
        fewer than 1,000 vehicles a year (position 3 is `9`) also 12 to 14: 6
        characters (ISO 3780, 49 CFR 565.12 and 565.15(a))."""
        return self[:3] + self[11:14] if self.low_volume else self[:3]

    @property
    def low_volume(self) -> bool:
        """Whether position 3 marks a low-volume manufacturer (49 CFR 565.15(a))."""
        return self[2] == "9"

    @property
    def vds(self) -> str:
        """Vehicle descriptor section: positions 4 to 9, 6 characters (ISO 3779)."""
        return self[3:9]

    @property
    def vis(self) -> str:
        """Vehicle identifier section: positions 10 to 17, 8 characters (ISO 3779)."""
        return self[9:]

    @property
    def check_digit(self) -> str:
        """Position 9 as written."""
        return self[8]

    @property
    def expected_check_digit(self) -> str:
        """What position 9 has to be: the weighted sum of all others modulo 11,
        with X for 10 (49 CFR 565.15(c))."""
        return check_digit(self)

    @property
    def check_digit_valid(self) -> bool:
        """Whether position 9 is the check digit of the other sixteen."""
        return self.check_digit == self.expected_check_digit

    @property
    def model_year_code(self) -> str:
        """Position 10 (49 CFR 565.15(d)(1))."""
        return self[9]

    @property
    def model_years(self) -> tuple[int, ...]:
        """The years that position 10 can stand for, oldest first.

        A code comes back every 30 years, so there are two; none for `U`, `Z` and
        `0`, which encode no year (49 CFR 565.15(d)(1), table VII).
        """
        index = MODEL_YEAR_CODES.find(self.model_year_code)
        return () if index < 0 else (1980 + index, 2010 + index)

    @property
    def light_vehicle_model_year(self) -> int | None:
        """The one year that position 10 stands for in a passenger car, or in a
        multipurpose vehicle or truck of at most 10,000 lb (4,536 kg) GVWR, where a
        digit at position 7 means 1980 to 2009 and a letter 2010 to 2039 (49 CFR
        565.15(d)(1), note to table VII); None when position 10 encodes no year. The rule does not hold
        for motorcycles, trailers and heavy vehicles, which the VIN cannot tell."""
        years = self.model_years
        return None if not years else years[0] if self[6].isdigit() else years[1]

    @property
    def plant_code(self) -> str:
        """Position 11, the plant of manufacture (49 CFR 565.15(d)(2))."""
        return self[10]

    @property
    def serial(self) -> str:
        """The sequential number: positions 12 to 17, or 15 to 17 for a low-volume
        manufacturer (49 CFR 565.15(d)(3))."""
        return self[14:] if self.low_volume else self[11:]

    @property
    def descriptor(self) -> str:
        """What vPIC calls the vehicle descriptor: positions 1 to 8, `*`, 10 and 11,
        and for a low-volume manufacturer up to 14."""
        return f"{self[:8]}*{self[9:14] if self.low_volume else self[9:11]}"


def normalise(text: str) -> str:
    """`text` in upper case (ASCII only), without white space, hyphens and the quotes
    around it. What remains need not be a VIN."""
    return "".join(text.split()).translate(_PLAIN).strip(_QUOTES)


def check_digit(vin: str) -> str:
    """The check digit of 17 VIN characters; the one at position 9 does not count
    (49 CFR 565.15(c), tables III to V). Raises `KeyError` for a character that no
    VIN holds."""
    total = sum(_CHECK_VALUES[char] * weight for char, weight in zip(vin, _CHECK_WEIGHTS, strict=True) if weight)
    return _CHECK_DIGITS[total % 11]


_WITHOUT_GOOD: dict[int, int | None] = dict.fromkeys(map(ord, ALPHABET))
"""What `str.translate` leaves out of a text so that only what no VIN holds is left."""


def _problem(normal: str) -> str:
    if not normal:
        return f"No VIN was given: a VIN has {LENGTH} characters."
    # A text may have millions, which are not to be listed.
    wrong = len(normal.translate(_WITHOUT_GOOD))
    if len(normal) != LENGTH:
        count = f"A VIN has {LENGTH} characters, and this has {len(normal):,}"
        return f"{count}; {_name_all(normal, wrong)}." if wrong else f"{count}."
    # Not str.capitalize(), which would put the letters that are named in lower case.
    return f"P{_name_all(normal, wrong)[1:]}."


def _name_all(normal: str, wrong: int) -> str:
    found = (_name(position, char) for position, char in enumerate(normal, 1) if char not in ALPHABET)
    named = list(islice(found, _NAMED_AT_MOST))
    more = wrong - len(named)
    if more:
        named.append(f"{more:,} more {'is' if more == 1 else 'are'} wrong")
    return "; ".join(named)


def _name(position: int, char: str) -> str:
    if char in LIKELY_DIGIT:
        return f"position {position} holds the letter {char}, which no VIN uses: likely the digit {LIKELY_DIGIT[char]}"
    code = f"U+{ord(char):04X}"
    name = unicodedata.name(char, "")
    if char.isascii() and char.isprintable():
        return f"position {position} holds {char!r}, which no VIN uses"
    return f"position {position} holds {name or 'a character without a name'} ({code}), which no VIN uses"


def _suggestion(normal: str) -> str | None:
    """The VIN with I, O and Q read as digits, when the check digit confirms it."""
    if len(normal) != LENGTH:
        return None
    read = "".join(LIKELY_DIGIT.get(char, char) for char in normal)
    if not ALPHABET.issuperset(read) or check_digit(read) != read[8]:
        return None
    return read
