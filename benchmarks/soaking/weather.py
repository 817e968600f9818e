"""What goes wrong, when: drawn from a seeded generator, each kind in its turn."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from benchmarks.soaking.processes import FAULTS, MIXED, REFUSED, hold_lock

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from benchmarks.soaking.processes import Server, Vpic

VPIC, DISK = "vPIC", "disk"

VPIC_CALM, VPIC_FAULT = (3, 8), (2, 7)
DISK_CALM, DISK_LOCKED = (6, 14), (1, 3)
"""Seconds, from and to."""


async def is_over(over: asyncio.Event, within: float) -> bool:
    """Whether it is over within so many seconds."""
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(over.wait(), within)
    return over.is_set()


class Weather:
    """The faults of a soak: those of vPIC, of the disk and of the process; it knows which there were when."""

    def __init__(self, chance: random.Random, vpic: Vpic, server: Server, db: Path) -> None:
        self._chance = chance
        self._vpic = vpic
        self._server = server
        self._db = db
        self._since: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self.times: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def at_fault(self, place: str, since: float) -> bool:
        """Whether something was wrong there at some time since then."""
        return place in self._since or self._last.get(place, 0.0) >= since

    def label(self, since: float) -> str:
        """What the time since then is to be called."""
        return next((place for place in (DISK, VPIC) if self.at_fault(place, since)), "calm")

    async def of_vpic(self) -> None:
        """Let each fault of vPIC come in its turn, in another order each time, for ever."""
        while True:
            kinds = [*FAULTS, REFUSED, MIXED]
            self._chance.shuffle(kinds)
            for kind in kinds:
                await asyncio.sleep(self._chance.uniform(*VPIC_CALM))
                with self._during(VPIC, kind):
                    try:
                        await asyncio.to_thread(self._vpic.let, kind)
                        await asyncio.sleep(self._chance.uniform(*VPIC_FAULT))
                    finally:
                        self._vpic.let("")

    async def of_disk(self) -> None:
        """Let another process hold the write lock now and then, for ever."""
        while True:
            await asyncio.sleep(self._chance.uniform(*DISK_CALM))
            with self._during(DISK, "write lock held by another process"):
                await hold_lock(self._db, self._chance.uniform(*DISK_LOCKED))

    async def of_process(self, pauses: list[float], check: Callable[[str], Awaitable[None]]) -> None:
        """End the server after each of these pauses, by SIGKILL and SIGTERM in turns, look at what
        it has left with `check`, and start it anew."""
        ends = [signal.SIGKILL, signal.SIGTERM]
        self._chance.shuffle(ends)
        for number, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            end = ends[number % 2]
            self.times[end.name] += 1
            self.seconds[end.name] += await self._server.stop(end)
            await check(end.name)
            await self._server.start()

    def happened(self, kind: str, began: float) -> None:
        """Something else went wrong, from then until now."""
        self.times[kind] += 1
        self.seconds[kind] += time.monotonic() - began

    @contextmanager
    def _during(self, place: str, kind: str) -> Iterator[None]:
        began = self._since[place] = time.monotonic()
        self.times[f"{place}: {kind}"] += 1
        try:
            yield
        finally:
            del self._since[place]
            self._last[place] = time.monotonic()
            self.seconds[f"{place}: {kind}"] += time.monotonic() - began
