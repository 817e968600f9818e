"""Files that are sent as they are made: with backpressure, an end when the reader leaves, and limits."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from datasette import Response
from datasette.utils import add_cors_headers

from vin_datasette.portal import to_its_end

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from datasette.app import Datasette

    from vin_datasette.parquet import Part

log = logging.getLogger(__name__)

T = TypeVar("T")


class Slots:
    """How many streams of a kind may run at once in one instance."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.free = number

    @property
    def taken(self) -> int:
        """How many are in use."""
        return self._number - self.free

    def take(self) -> bool:
        """Whether there was one to take; whoever took it gives it back."""
        if self.free <= 0:
            return False
        self.free -= 1
        return True

    def give_back(self) -> None:
        """After `take`, once."""
        self.free += 1


PRIVATE = {
    "Cache-Control": "private, no-store",
    "Vary": "Cookie, Authorization",
    "X-Content-Type-Options": "nosniff",
}
"""Headers of what one caller is answered, refusals too: it is not for the next one, and no script,
whatever asks for it as one (RFC 9111, section 5.2.2; Fetch, section 3.6)."""


PARQUET = "application/vnd.apache.parquet"
"""Parquet's media type, as registered with IANA."""


def download_headers(datasette: Datasette, name: str) -> dict[str, str]:
    """The headers of a Parquet file that is to be saved under `name`, but for its type."""
    headers = {**PRIVATE, "Content-Disposition": f'attachment; filename="{name}"'}
    if datasette.cors:
        add_cors_headers(headers)
    return headers


class Streamed(Response):  # type: ignore[misc]
    """A response whose body is made while it is sent.

    The next part is made only when the reader has taken the last one, so a slow
    reader slows the making, and when the reader leaves or takes nothing for `stall`
    seconds, `limit` seconds are over or the server's own time is (`over`), the making
    is ended. A download that cannot be finished is cut off, never ended as if it were
    whole.
    """

    def __init__(
        self,
        parts: AsyncGenerator[bytes, None],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        *,
        headers: dict[str, str],
        content_type: str,
        limit: float,
        stall: float,
        slots: Slots,
        over: asyncio.Event,
        failed: Callable[[Exception], Response],
    ) -> None:
        super().__init__(body=b"", status=200, headers=headers, content_type=content_type)
        self._parts = parts
        self._receive = receive
        self._limit = limit
        self._stall = stall
        # Since when the reader has had something to take.
        self._given_at: float | None = None
        self._slots = slots
        self._holds_slot = True
        self._over = over
        self._failed = failed

    async def asgi_send(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Send the head, then the parts as they come."""
        sending = asyncio.ensure_future(self._send(send))
        leaving = asyncio.ensure_future(self._left())
        over = asyncio.ensure_future(self._over.wait())
        try:
            excess = await self._excess({sending, leaving, over})
            if not sending.done() and not leaving.done():
                why = "as the server is shutting down" if over.done() else excess
                log.warning("A stream was cut off %s", why)
        finally:
            for task in (sending, leaving, over):
                task.cancel()
            # The making has to end before its slot is free again.
            [outcome, *_] = await asyncio.gather(sending, leaving, over, return_exceptions=True)
            await self._parts.aclose()
            self._give_back()
        if isinstance(outcome, Exception):
            log.error("A stream was cut off: %s", outcome)

    async def _excess(self, tasks: set[asyncio.Future[Any]]) -> str:
        """What has taken too long, in words; "" when one of `tasks` has ended before."""
        now = asyncio.get_running_loop().time
        ends = now() + self._limit
        while True:
            stalls = (now() if self._given_at is None else self._given_at) + self._stall
            soonest = max(0, min(ends, stalls) - now())
            done, _ = await asyncio.wait(tasks, timeout=soonest, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return ""
            if now() >= ends:
                return f"after {self._limit:g} seconds, its limit"
            if self._given_at is not None and now() >= self._given_at + self._stall:
                return f"as its reader took nothing for {self._stall:g} seconds"

    def _give_back(self) -> None:
        """Let go of the slot, once."""
        if self._holds_slot:
            self._holds_slot = False
            self._slots.give_back()

    async def _send(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        try:
            part = await anext(self._parts, None)
        except Exception as error:
            # Nothing has been sent yet, so there is still a status to tell it by.
            await self._failed(error).asgi_send(send)
            return
        headers = {**self.headers, "content-type": self.content_type}
        raw = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": raw})
        now = asyncio.get_running_loop().time
        while part is not None:
            # In pieces: a row group can take a slow reader, who is none that stalls, some minutes.
            for start in range(0, len(part), _PIECE):
                self._given_at = now()
                await send({"type": "http.response.body", "body": part[start : start + _PIECE], "more_body": True})
            self._given_at = None
            part = await anext(self._parts, None)
        self._given_at = now()
        # Who has the last byte may come again at once.
        self._give_back()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


_PIECE = 64 * 1024
"""Bytes that a reader has `stall` seconds to take."""


def own_thread() -> ThreadPoolExecutor:
    """A thread for one download. One and the same throughout: memory that is freed on
    another thread than took it is not used again, and each keeps some for itself."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="vin-download")


async def finished(thread: ThreadPoolExecutor, work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, done on `thread`."""
    return await to_its_end(asyncio.wrap_future(thread.submit(work, *arguments)))


async def in_thread(parts: Generator[Part, None, None]) -> AsyncGenerator[bytes, None]:
    """The bytes of parts that are made on a thread, one at a time, as they are asked for."""
    thread = own_thread()
    try:
        while True:
            part: Part | None = await finished(thread, next, parts, None)
            if part is None:
                return
            yield part.data
    finally:
        await finished(thread, parts.close)
        thread.shutdown(wait=False)
