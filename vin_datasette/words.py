"""Words for people; for a terminal one line each, and nothing that a terminal would obey."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vin_datasette.vehicle import Rejection


def told(rejection: Rejection) -> str:
    """A rejection in one line, with the VIN that was likely meant."""
    meant = f" Suggested: {rejection.suggested_vin}" if rejection.suggested_vin else ""
    return printable(f"{rejection.vin.strip() or '(empty)'}: {rejection.reason}{meant}")


def counted(number: int, what: str) -> str:
    """So many of something: `1 file`, `2,500 files`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time to wait, as people say it: `30 seconds`, `5 minutes`."""
    return f"{ceil(seconds)} seconds" if seconds < _LONG else f"{ceil(seconds / 60)} minutes"


_LONG = 120


def printable(text: str) -> str:
    """`text` on one line, without what a terminal would take for a command to itself."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def sendable(text: str) -> str:
    """`text` with a question mark for each half of a surrogate pair, which JSON can give and UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode()
