"""Clients that behave badly: they stall, send half of what they announce, close half, or read slowly."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from benchmarks.soaking.weather import is_over

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from benchmarks.soaking.asking import World

PAUSE = (0.5, 4.0)
STALL = (2.0, 20.0)
"""Seconds between two of them, and for which one is in the way, from and to."""

SMALL = 4096
"""Bytes that a slow reader takes at once, and that its connection holds."""


class Rough:
    """One after another of them. What they are answered is no matter; that the others are, is."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world = world
        self._chance = chance

    async def go_on(self, over: asyncio.Event) -> None:
        """Be in the way until it is over."""
        kinds: list[tuple[str, Callable[[asyncio.Event], Awaitable[None]]]] = [
            ("client: half a head", self.half_a_head),
            ("client: half a body", self.half_a_body),
            ("client: half closed", self.half_closed),
            ("client: slow export", self.slow_export),
            ("client: slow list", self.slow_list),
        ]
        while not await is_over(over, self._chance.uniform(*PAUSE)):
            await self._world.server.up.wait()
            name, deed = self._chance.choice(kinds)
            began = time.monotonic()
            with suppress(OSError, asyncio.TimeoutError):
                await deed(over)
            self._world.weather.happened(name, began)

    async def half_a_head(self, over: asyncio.Event) -> None:
        """A request that does not come to the end of its headers."""
        await self._send(over, b"GET /lookup/1XP5DB9X7XD487964 HTTP/1.1\r\nHost: ", read=False)

    async def half_a_body(self, over: asyncio.Event) -> None:
        """A list that is shorter than it says."""
        await self._send(over, self._post(b"1XP5DB9X7XD487964\n", 1000), read=False)

    async def half_closed(self, over: asyncio.Event) -> None:
        """A client that has said all that it is going to say, and listens."""
        vin = self._chance.choice(self._world.shared)
        await self._send(over, self._get(f"/lookup/{vin}"), read=True, closes=True)

    async def slow_export(self, over: asyncio.Event) -> None:
        """A download that is taken in drops, and given up."""
        await self._send(over, self._get("/export?_raw=1"), read=True)

    async def slow_list(self, over: asyncio.Event) -> None:
        """A list whose answers are taken in drops, and given up."""
        vins = "\n".join(self._world.shared)
        await self._send(over, self._post(vins.encode(), len(vins)), read=True)

    def _get(self, path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._world.server.port}\r\n\r\n".encode()

    def _post(self, body: bytes, length: int) -> bytes:
        head = f"POST /lookup HTTP/1.1\r\nHost: 127.0.0.1:{self._world.server.port}\r\nContent-Length: {length}\r\n\r\n"
        return head.encode() + body

    async def _send(self, over: asyncio.Event, request: bytes, *, read: bool, closes: bool = False) -> None:
        loop, ends = asyncio.get_running_loop(), time.monotonic() + self._chance.uniform(*STALL)
        with socket.socket() as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            peer.setblocking(False)
            await asyncio.wait_for(loop.sock_connect(peer, ("127.0.0.1", self._world.server.port)), 5)
            await asyncio.wait_for(loop.sock_sendall(peer, request), 5)
            if closes:
                peer.shutdown(socket.SHUT_WR)
            while (left := ends - time.monotonic()) > 0 and not await is_over(over, 0.1):
                if read and not await asyncio.wait_for(loop.sock_recv(peer, SMALL), left):
                    return
