"""Many VINs, some hundreds at a time: reading ahead, and no further."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Any

from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence

    from vin_datasette.lookup import Asked, Lookup, Outcome, Plan

CHUNK, LARGEST_CHUNK = 500, 4000
"""VINs that are looked up in the cache at once: the one where a source is asked about some of
them, doubled up to the other while none is."""

_A_MOMENT = 0.05
_LONGEST_HOLD = 1.0
_SLOW_INPUT = 0.2
"""Seconds: to look whether anything has moved, that questions wait for a full call when nothing
has, and after which an input that comes in drops is taken as far as it came."""

_ENDING = 0.25
"""Seconds that a thread has to come out of its input when nobody wants more of it."""

_AT_ONCE = 0.1
"""Seconds within which a chunk is answered that nobody had to be asked about."""


async def stream(
    path: Lookup, asked: Iterable[Asked], plan: Plan, is_full: Callable[[], bool] = lambda: False
) -> AsyncGenerator[list[Outcome], None]:
    """What many VINs are, in their order, some hundreds at a time.

    `asked` is read on a thread, as far ahead of what is taken as keeps the sources busy, or until
    `is_full` says that whoever keeps what belongs to it holds enough.
    """
    reader = _Reader(iter(asked), is_full)
    reading: asyncio.Future[bool] | None = None
    under_way: deque[asyncio.Task[list[Outcome]]] = deque()
    ended, moved, size, in_hand = False, time.monotonic(), CHUNK, 0
    try:
        while not ended or under_way:
            if reading is None and not ended and in_hand < max(path.window, 2 * size) and not (in_hand and is_full()):
                reading = asyncio.ensure_future(asyncio.to_thread(reader.read, size))
            waited_for: list[asyncio.Future[Any]] = [future for future in (reading, *islice(under_way, 1)) if future]
            done, _ = await asyncio.wait(waited_for, timeout=_A_MOMENT, return_when=asyncio.FIRST_COMPLETED)
            if reading in done and reading is not None:
                ended, reading = reading.result(), None
            chunk = reader.taken(all_of_it=reading is None)
            if chunk:
                in_hand += len(chunk)
                under_way.append(asyncio.ensure_future(path.resolve(chunk, plan)))
            while under_way and under_way[0].done():
                outcomes = under_way.popleft().result()
                in_hand -= len(outcomes)
                now = time.monotonic()
                size = min(2 * size, LARGEST_CHUNK) if now - moved < _AT_ONCE else CHUNK
                moved = now
                yield outcomes
            if ended or (not done and (path.idle or time.monotonic() - moved > _LONGEST_HOLD)):
                path.flush()
    finally:
        # A thread that reads cannot be ended, only waited for; what it still reads is nobody's.
        if reading:
            await asyncio.wait([reading], timeout=_ENDING)
        ending: list[asyncio.Future[Any]] = [*under_way, *([reading] if reading else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)


async def as_answered(
    path: Lookup, texts: Sequence[str], *, ask: bool = True
) -> AsyncGenerator[tuple[str, Outcome | None], None]:
    """What many VINs are, each as soon as it is answered: first those that the cache knows.

    One for each of `texts`, with None for those that only a source could answer when it is
    not to be asked. What is not taken is not asked.
    """
    # By what they are and not as they were written: two ways to write a VIN are one question.
    missing: dict[VIN, list[str]] = {}
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        known = await path.known(part)
        for text in part:
            if text in known:
                if ask:
                    path.renew(known[text])
                yield text, known[text]
            elif ask:
                missing.setdefault(VIN(text), []).append(text)
            else:
                yield text, None
    async with aclosing(_as_landed(path, deque(missing))) as landed:
        async for vin, outcome in landed:
            for text in missing[vin]:
                yield text, outcome


async def _as_landed(path: Lookup, waiting: deque[VIN]) -> AsyncGenerator[tuple[VIN, Outcome], None]:
    """What VINs are, asked in full batches of which a window is under way."""
    under_way: dict[asyncio.Task[list[Outcome]], list[VIN]] = {}
    try:
        while waiting or under_way:
            # How many a source takes at once may change at any time.
            while waiting and sum(map(len, under_way.values())) < path.window:
                batch = [waiting.popleft() for _ in range(min(path.batch_size, len(waiting)))]
                under_way[asyncio.ensure_future(path.resolve([(vin, None) for vin in batch]))] = batch
            done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                for answered in zip(under_way.pop(task), task.result(), strict=True):
                    yield answered
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


class _Reader:
    """Reads on a thread, and gives what it has read so far to the loop."""

    def __init__(self, items: Iterator[Asked], is_full: Callable[[], bool]) -> None:
        self._items = items
        self._is_full = is_full
        self._read: list[Asked] = []
        self._taken_at = time.monotonic()
        self._lock = threading.Lock()

    def read(self, size: int) -> bool:
        """Read so many further items, or until it is full; whether that was the end."""
        left = size
        for item in islice(self._items, size):
            left -= 1
            with self._lock:
                self._read.append(item)
            if self._is_full():
                return False
        return left > 0

    def taken(self, *, all_of_it: bool) -> list[Asked]:
        """What was read and not taken yet; unless it is to be all of it, nothing while the
        input may soon have given more."""
        now = time.monotonic()
        with self._lock:
            if not self._read or not (all_of_it or now - self._taken_at > _SLOW_INPUT):
                return []
            taken, self._read, self._taken_at = self._read, [], now
        return taken
