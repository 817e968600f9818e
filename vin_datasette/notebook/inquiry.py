"""Many VINs looked up behind, while the notebook goes on: no view, no widget, no kernel."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from vin_datasette import portal
from vin_datasette.cache import CacheError
from vin_datasette.fetched import Fetched
from vin_datasette.lookup import Answer, shared
from vin_datasette.many import as_answered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vin_datasette.given import Given
    from vin_datasette.lookup import Failure
    from vin_datasette.settings import Settings

log = logging.getLogger(__name__)

PACE = 0.1
"""Seconds between two reports: a notebook's server drops what comes quicker than it can pass on."""


class Inquiry:
    """Asks about every VIN of `given` that has no answer yet, on the process's own loop.

    `changed` is called with the positions that were answered since it was last called, ten times
    a second at most, from a thread that is neither the caller's nor the loop's; the last time
    when nothing more will come and `busy` is false.
    """

    def __init__(self, given: Given, settings: Settings, changed: Callable[[Sequence[int]], None]) -> None:
        self.given = given
        self.trouble = ""
        """Why it ended before all was asked, in words; "" when it was stopped or has come to its end."""
        self._settings = settings
        self._changed = changed
        self._outcomes: list[Answer | Failure | None] = [None] * len(given.texts)
        self._fresh: list[int] = []
        self._lock = threading.Lock()
        self._asking: asyncio.Task[None] | None = None
        self._stopped = False
        self._busy = False
        self._ended: Future[None] = Future()
        self._ended.set_result(None)

    @property
    def busy(self) -> bool:
        """Whether it is at work."""
        return self._busy

    @property
    def fetched(self) -> Fetched:
        """What is known by now."""
        return Fetched(self.given, tuple(self._outcomes))

    @property
    def ended(self) -> Future[None]:
        """Done when nothing is under way and all is told; never fails."""
        return self._ended

    def start(self) -> None:
        """Ask about all that has no answer, failures again; nothing while it is at work."""
        with self._lock:
            if self._busy:
                return
            self.trouble = ""
            self._outcomes = [known if isinstance(known, Answer) else None for known in self._outcomes]
            self._busy, self._stopped = True, False
            self._ended = Future()
            portal.submit(self._run(self._ended))

    def stop(self) -> None:
        """Ask no more. What is answered stays, and `start` goes on with the rest."""
        with self._lock:
            # Before it has begun there is nothing to cancel: it then sees for itself.
            self._stopped = True
            if self._asking:
                self._asking.get_loop().call_soon_threadsafe(self._asking.cancel)

    def replace(self, position: int, text: str) -> None:
        """Put another VIN in a position, and ask about it. Raises `RuntimeError` while it is at work."""
        with self._lock:
            if self._busy:
                raise RuntimeError("A VIN can be replaced when nothing is under way: stop it first, or wait.")
            texts = [*self.given.texts]
            texts[position] = text
            self.given = replace(self.given, texts=texts)
            self._outcomes[position] = None
        self.start()

    async def _run(self, ended: Future[None]) -> None:
        with self._lock:
            asking = self._asking = asyncio.ensure_future(self._ask())
            if self._stopped:
                asking.cancel()
        while not asking.done():
            await asyncio.wait([asking], timeout=PACE)
            if self._fresh and not asking.done():
                await self._tell()
        if not asking.cancelled():
            self._complain(asking.exception())
        self._busy = False
        await self._tell()
        ended.set_result(None)

    def _complain(self, error: BaseException | None) -> None:
        if isinstance(error, CacheError):
            self.trouble = str(error)
        elif error:
            # Nobody else would hear of it.
            log.error("VINs could not be looked up", exc_info=error)
            self.trouble = f"The lookup has failed: {error!r}"

    async def _ask(self) -> None:
        waiting: dict[str, deque[int]] = {}
        for position, (text, known) in enumerate(zip(self.given.texts, self._outcomes, strict=True)):
            if not isinstance(known, Answer):
                waiting.setdefault(text, deque()).append(position)
        texts = [text for text, positions in waiting.items() for _ in positions]
        async with aclosing(as_answered(shared(self._settings), texts)) as answered:
            async for text, outcome in answered:
                position = waiting[text].popleft()
                # Nothing else comes of a VIN that may be asked about and is wanted whole.
                self._outcomes[position] = cast("Answer | Failure", outcome)
                self._fresh.append(position)

    async def _tell(self) -> None:
        fresh, self._fresh = self._fresh, []
        try:
            await asyncio.to_thread(self._changed, fresh)
        except Exception as error:
            log.exception("What is told of the lookup of VINs has failed")
            self.trouble = f"What is told of the lookup has failed: {error!r}"
