"""What was seen, and what should not have been."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from typing import Literal

Kind = Literal["wrong", "lost", "broken"]
"""A wrong answer; a vehicle that is not there any more, or is there again; all else that must not be."""

SHOWN = 40
"""Violations that are told in words; further ones are counted."""


class Account:
    """Requests by kind and by what came of them, the latencies of hits, and violations."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.requests: Counter[tuple[str, str]] = Counter()
        self.hits: defaultdict[str, list[float]] = defaultdict(list)
        self.checked: Counter[str] = Counter()
        self.violations: Counter[Kind] = Counter()

    def begin(self) -> None:
        """Count seconds from now on."""
        self._began = time.monotonic()

    @property
    def clock(self) -> str:
        """The time, for people."""
        return f"{time.monotonic() - self._began:.1f}s"

    def count(self, kind: str, outcome: str) -> None:
        """One request more."""
        self.requests[kind, outcome] += 1

    def violation(self, kind: Kind, words: str) -> None:
        """Something that must not be; told at once."""
        self.violations[kind] += 1
        total = self.violations.total()
        if total <= SHOWN:
            print(f"{self.clock} {kind.upper()}: {words}", file=sys.stderr, flush=True)
        elif total == SHOWN + 1:
            print("Further ones are counted only.", file=sys.stderr, flush=True)
