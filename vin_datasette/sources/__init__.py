"""Sources: who can say what a VIN is. Many VINs in, one vPIC record each out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vin_datasette.record import Record, SourceName
    from vin_datasette.vin import VIN


class Question(NamedTuple):
    """A VIN to be asked, and its model year where the caller knows it (a hint to
    vPIC that destroys the answer when it is wrong, so never a guess)."""

    vin: VIN
    model_year: int | None = None


FailureKind = Literal["timeout", "connection", "rate_limited", "server_error", "refused", "nonsense", "other"]
"""How a call to a source failed: in time, on the way, by its status (429, 5xx, any other), or by what it said."""


@dataclass
class SourceError(Exception):
    """A source that gave no usable answer; it says nothing about the VINs.

    `reason` is in words. `unreachable` tells a source that is away or overloaded
    from one that answers nonsense; `answered` is true when it did answer something, so that
    what was asked may be what it cannot take; `asked` is false when its own turn never
    came; `retry_after` is in seconds, where known; `kind` sorts failures for whoever counts them.
    """

    reason: str
    unreachable: bool = False
    transient: bool = True
    retry_after: float | None = None
    asked: bool = True
    answered: bool = False
    kind: FailureKind = "other"

    def __str__(self) -> str:
        return self.reason


class Source(Protocol):
    """Who can be asked for vPIC records."""

    name: SourceName

    async def decode(self, questions: Sequence[Question]) -> list[Record]:
        """One record for each question, in their order; at most 50, no VIN twice.

        Raises `SourceError` when not all of them can be answered. That vPIC knows
        nothing about a VIN is an answer, not an error.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...
