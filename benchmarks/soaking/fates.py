"""What the one client that asks for a VIN knows of it: whether the cache has to hold it."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from benchmarks.soaking.account import Account

State = Literal["stored", "absent", "unsure"]
"""`unsure` while something is under way that may change it, and after that was cut off."""

AFTERMATH = 60.0
"""Seconds for which a VIN is left alone whose question was abandoned: the server goes on with it."""


@dataclass
class Fate:
    """One VIN: whether an answer of it is in the cache, since when that is so, and what led to it."""

    state: State
    since: float = 0.0
    source: str | None = None
    source_since: float = 0.0
    """Who is known to have answered, of one that is stored, and since when that is known."""
    left_alone_until: float = 0.0
    story: deque[str] = field(default_factory=lambda: deque(maxlen=8))


class Fates:
    """Those of all VINs that one client has for its own, so that the history of each is a line.

    `stored` are those that the cache holds at the beginning, with who answered them, `absent` the others.
    """

    def __init__(
        self, stored: Mapping[str, str], absent: Iterable[str], chance: random.Random, account: Account
    ) -> None:
        self._chance = chance
        self._account = account
        self._fates = {vin: Fate("stored", source=source) for vin, source in stored.items()}
        self._fates.update((vin, Fate("absent")) for vin in absent)

    def __getitem__(self, vin: str) -> Fate:
        return self._fates[vin]

    def some(self, count: int, *states: State, which: Callable[[str], bool] = lambda _: True) -> list[str]:
        """So many VINs in one of these states, or as many as there are."""
        now = time.monotonic()
        found = [
            vin
            for vin, fate in self._fates.items()
            if fate.state in states and fate.left_alone_until < now and which(vin)
        ]
        return self._chance.sample(found, min(count, len(found)))

    def begin(self, vin: str, what: str) -> Fate:
        """Something begins that may change whether the cache holds a VIN. What was known before."""
        fate = self._fates[vin]
        before = replace(fate)
        self._now(fate, "unsure", f"{what} …")
        return before

    def settle(self, vin: str, state: State, what: str, source: str | None = None) -> None:
        """It is known now."""
        fate = self._fates[vin]
        self._now(fate, state, what)
        self._answered(fate, source)

    def abandon(self, vin: str) -> None:
        """Nobody waited for the answer."""
        fate = self._fates[vin]
        self._now(fate, "unsure", "left")
        fate.left_alone_until = fate.since + AFTERMATH

    def stored(self, vin: str, what: str, source: str) -> None:
        """A source's answer is in the cache, which may be nothing new."""
        fate = self._fates[vin]
        if fate.state == "stored":
            fate.story.append(f"{self._account.clock} {what}")
            self._answered(fate, source)
        else:
            self.settle(vin, "stored", what, source)

    def certain(self, since: float) -> tuple[dict[str, Fate], set[str]]:
        """The VINs that must have been in the cache from `since` until now, and those that must not."""
        settled = {vin: fate for vin, fate in self._fates.items() if fate.since < since}
        stored = {vin: fate for vin, fate in settled.items() if fate.state == "stored"}
        return stored, {vin for vin, fate in settled.items() if fate.state == "absent"}

    def story(self, vin: str) -> str:
        """What has happened to a VIN lately, for people."""
        return "; ".join(self._fates[vin].story) or "nothing before"

    def _answered(self, fate: Fate, source: str | None) -> None:
        if fate.source != source:
            fate.source, fate.source_since = source, time.monotonic()

    def _now(self, fate: Fate, state: State, what: str) -> None:
        fate.state, fate.since = state, time.monotonic()
        fate.story.append(f"{self._account.clock} {what}")
