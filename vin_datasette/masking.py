"""Texts in which no VIN can be read: of each its first three characters are left, which tell who
made the vehicle (ISO 3780), as in `1XP**************`."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import unquote

from vin_datasette.vin import LENGTH, normalise

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 3
STARS = "*" * (LENGTH - KEPT)


def mask(text: str) -> str:
    """`text` with every VIN masked, and whatever stands in a VIN's place in the URL of a route.

    A VIN is 17 letters and digits, one of them a digit at least or all letters capitals, with
    nothing of their kind before and behind. As VINs are forgiven white space and hyphens, these
    may stand between them where the last four are digits (ISO 3779, section 4.5) and it
    is no sentence with a number in it; each may be encoded as URLs have it, or Datasette has it in its own.
    """
    for start, end, vin in reversed([*_vins(text)]):
        text = f"{text[:start]}{_shown(vin)}{text[end:]}"
    return _pattern(_PLACE).sub(_place_masked, text)


def mask_place(text: str) -> str:
    """What stands in a VIN's place, whatever it is; one that was mistyped is not to be read either."""
    bare = normalise(_decoded(text))
    return text if len(bare) <= KEPT else _shown(bare)


def _shown(vin: str) -> str:
    first = "".join(char if char.isascii() and char.isalnum() else "*" for char in vin[:KEPT])
    return f"{first.upper()}{STARS}"


# In URLs, `~` is Datasette's own percent sign; either may have been encoded again.
_SIGN = r"(?:%(?:25)*|~|%(?:25)*7[Ee])"
_HEX = "[0-9A-Fa-f]"

_PLACE = r"""
    (?P<before>
        /(?:lookup|remove|refresh|vehicles|rejections|changes)/
        | [?&]vin(?:__\w+)?=
        | \bVIN\ '
    )
    (?P<places>[^\s?&\#"'<>]+)
"""
_COMMA = re.compile(rf"(,|{_SIGN}2[Cc])")
_ENDING = re.compile(r"(.*?)(\.(?:json|csv|parquet|charts))?", re.DOTALL)


def _place_masked(found: re.Match[str]) -> str:
    return found["before"] + "".join(
        part if index % 2 else _one_masked(part) for index, part in enumerate(_COMMA.split(found["places"]))
    )


def _one_masked(place: str) -> str:
    bare, ending = _ENDING.fullmatch(place).groups("")  # type: ignore[union-attr]
    return mask_place(bare) + ending


def _decoded(text: str) -> str:
    """`text` as it was before it became a part of a URL, however often that was done."""
    if "%" not in text and "~" not in text and "+" not in text:
        return text
    for _ in range(_MOST_OFTEN):
        text = unquote(re.sub(rf"~(?={_HEX}{{2}})", "%", text))
    return text.replace("+", " ")


_MOST_OFTEN = 4

_ENCODED = rf"{_SIGN}(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])"
_BETWEEN = rf"""
    [\s+\-‐‑‒–—−\u00ad]
    | {_SIGN}(?:0[9A-Da-d]|1[C-Fc-f]|2[0Dd])
    | {_SIGN}[Cc]2{_SIGN}(?:85|[Aa]0|[Aa][Dd])
    | {_SIGN}[Ee]1{_SIGN}9[Aa]{_SIGN}80
    | {_SIGN}[Ee]2{_SIGN}80{_SIGN}(?:[89][0-9Aa]|[Aa][89Ff])
    | {_SIGN}[Ee]2{_SIGN}81{_SIGN}9[Ff]
    | {_SIGN}[Ee]2{_SIGN}88{_SIGN}92
    | {_SIGN}[Ee]3{_SIGN}80{_SIGN}80
    | \\(?:[abfnrtv]|x{_HEX}{{2}}|u{_HEX}{{4}})
"""
_UNIT = rf"""
    (?P<encoded>{_ENCODED}) | (?P<between>{_BETWEEN}) | (?P<other>{_SIGN}{_HEX}{{2}}) | (?P<plain>[A-Za-z0-9]+)
"""


@cache
def _pattern(verbose: str) -> re.Pattern[str]:
    # When there is something to mask: every start of a process would pay for it, and most have no such log.
    return re.compile(verbose, re.VERBOSE)


_Word = tuple[int, int, str]
"""Letters and digits that stand together: where they begin and end, and what they are."""


def _vins(text: str) -> Iterator[_Word]:
    """The VINs in a text, from the first to the last; what may be read as one or another is one."""
    last: _Word | None = None
    for words in _runs(text):
        for found in _within(words):
            if last and found[0] < last[1]:
                last = last[0], found[1], found[2]
                continue
            if last:
                yield last
            last = found
    if last:
        yield last


def _runs(text: str) -> Iterator[list[_Word]]:
    """The words of a text that nothing but white space and hyphens stands between."""
    words: list[_Word] = []
    before, joined = 0, False
    for unit in _pattern(_UNIT).finditer(text):
        if unit.start() != before or unit.lastgroup == "other":
            yield words
            words, joined = [], False
        before = unit.end()
        if unit.lastgroup in ("encoded", "plain"):
            said = unit[0] if unit.lastgroup == "plain" else _decoded(unit[0])
            if joined:
                start, _, earlier = words.pop()
                words.append((start, before, earlier + said))
            else:
                words.append((unit.start(), before, said))
        joined = unit.lastgroup in ("encoded", "plain")
    yield words


def _within(words: list[_Word]) -> Iterator[_Word]:
    """The VINs that words are, each alone or several together."""
    for index, (start, _, _) in enumerate(words):
        vin = ""
        for _, end, word in words[index:]:
            vin += word
            if len(vin) >= LENGTH:
                if len(vin) == LENGTH and _looks_like_one(vin, spelled=vin != word):
                    yield start, end, vin
                break


def _looks_like_one(vin: str, *, spelled: bool) -> bool:
    if not spelled:
        return vin.isupper() or any(map(str.isdigit, vin))
    digits = sum(map(str.isdigit, vin))
    if not vin[-_DIGITS_AT_THE_END:].isdigit() or digits == LENGTH:
        return False
    return digits >= _MANY_DIGITS or (vin.isupper() and not set("IOQ").intersection(vin))


_DIGITS_AT_THE_END = 4
_MANY_DIGITS = 6
