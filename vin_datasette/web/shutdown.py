"""The end of a server: what is in flight is finished or told, and nothing is left half-written.

A server that is told to end takes no further connections, and waits for those that it has. It
tells the application only when they are gone, so this listens to the signals beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable
from math import ceil
from typing import TYPE_CHECKING, Any

from vin_datasette.web.leaving import WORDS
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, MutableMapping
    from types import FrameType

    from datasette.app import Datasette
    from uvicorn import Server

    from vin_datasette.web.state import State

Receive = Callable[[], Awaitable["MutableMapping[str, Any]"]]
Send = Callable[["MutableMapping[str, Any]"], Awaitable[None]]
App = Callable[["MutableMapping[str, Any]", Receive, Send], Awaitable[None]]
"""An ASGI application."""

TELLING = 0.5
"""Seconds to send what who waited in vain is told, before streams are cut off; and again,
before connections are that take nothing."""

STRAGGLING = 3
"""Seconds after which other requests are ended that neither an answer nor the loss of their connection has ended."""


_AGAIN = 2


def wrapped(datasette: Datasette, app: App) -> App:
    """`app`, which ends well: see the module."""

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        ending = Ending(datasette)

        async def sent(message: MutableMapping[str, Any]) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await ending.finish()
            await send(message)

        with heard(ending):
            await app(scope, receive, sent)

    return application


class Ending:
    """The end of one instance, on the event loop that serves it."""

    def __init__(self, datasette: Datasette) -> None:
        self._datasette = datasette
        self._loop = asyncio.get_running_loop()
        self._at_once = asyncio.Event()
        self._winding_down: asyncio.Task[None] | None = None
        self._told = 0

    def told(self, server: Server | None) -> bool:
        """Begin the end, within a signal handler. Told again, what is in flight has no time left.

        Whether the server is to be told too. A uvicorn that is told twice by Ctrl-C ends without an end
        of the application, which takes as little time; told three times, it may.
        """
        self._told += 1
        # The loop may be closed by now.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._begin, server)
        return server is None or self._told != _AGAIN

    def _begin(self, server: Server | None) -> None:
        if self._winding_down:
            self._at_once.set()
            return
        try:
            own = state_of(self._datasette)
        except KeyError:
            # Told to end before it was started.
            return
        own.leaving.began.set()
        own.lookup.take_no_more(WORDS[:1].lower() + WORDS[1:])
        if server and server.config.timeout_graceful_shutdown is None:
            # Datasette gives none, and without one a single request can keep the server for ever.
            server.config.timeout_graceful_shutdown = ceil(own.settings.shutdown_timeout) + STRAGGLING
        self._winding_down = asyncio.ensure_future(self._wind_down(own, server))

    async def _wind_down(self, own: State, server: Server | None) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._at_once.wait(), own.settings.shutdown_timeout)
        await own.lookup.end_questions()
        await asyncio.sleep(TELLING)
        own.leaving.over.set()
        await asyncio.sleep(TELLING)
        # A connection whose reader takes nothing cannot be closed: what was written to it waits to be sent.
        for connection in [*server.server_state.connections] if server else ():
            connection.transport.abort()

    async def finish(self) -> None:
        """Let go of the cache and of connections, when nothing is in flight and Datasette has let go of its own."""
        if self._winding_down:
            self._winding_down.cancel()
            await asyncio.gather(self._winding_down, return_exceptions=True)
        try:
            own = state_of(self._datasette)
        except KeyError:
            return
        if not hasattr(self._datasette, "invoke_shutdown"):
            # Datasette 0.65 lets go of nothing, and may still read for who has been cut off.
            await asyncio.to_thread(self._datasette.executor.shutdown)
            self._datasette.databases[own.database].close()
        # The last connection that is closed takes the WAL with it, which those of Datasette's that only read cannot.
        own.vin_lists.close()
        await own.lookup.aclose()


@contextlib.contextmanager
def heard(ending: Ending) -> Iterator[None]:
    """Tell `ending` of the signals that end the server, before the server's own handlers."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are the main thread's.
        yield
        return
    listening: Ending | None = ending
    server = _server()

    def hear(number: int, frame: FrameType | None) -> None:
        if listening is None or listening.told(server):
            former[number](number, frame)

    former: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in former.items():
        # What nobody handles ends the process at once, and is to.
        if callable(handler):
            signal.signal(number, hear)
    try:
        yield
    finally:
        # Somebody may have taken this one for the former of their own, and keep it.
        listening = None
        for number, handler in former.items():
            if signal.getsignal(number) is hear:
                signal.signal(number, handler)


def _server() -> Server | None:
    """The uvicorn that runs this application, by its handler of signals; None for other servers."""
    from uvicorn import Server

    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if isinstance(owner, Server) else None
