"""The connections of `vin-datasette serve`: what one client does with its own costs no other.

uvicorn waits for a request for ever, keeps a connection whose answer nobody takes, and where the
process has no file descriptor left it answers nobody. Behind a proxy that sees to this, as in
front of `datasette serve`, none of it is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import time
from typing import TYPE_CHECKING, Any

from uvicorn.config import HTTP_PROTOCOLS, LOGGING_CONFIG

if TYPE_CHECKING:
    from vin_datasette.web.heads import LimitedHttpTools as Protocol
else:
    try:
        from vin_datasette.web.heads import LimitedHttpTools as Protocol
    except ImportError:
        # Where there is no httptools (on Windows), all is read in Python, which takes half as long again.
        from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol

MOST_CONNECTIONS = 4096
"""Connections at once, where the system gives so many descriptors and twice as many."""


def install(patience: float, *, access_log: bool) -> None:
    """Let the server that this process becomes have connections of this kind.

    `patience` are the seconds that a client has to send the head of a request, and `access_log`
    says whether requests are logged, which takes as long as to answer with a cached vehicle. As many
    file descriptors as the system allows are taken.
    """
    Connection.patience = patience
    Connection.most = min(MOST_CONNECTIONS, _descriptors() // 2)
    # Datasette 1.0 begins a loop of Python's own and 0.65 one of uvicorn's choice: this is both.
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    # Datasette passes no options on to uvicorn; this is what it takes where it is given none.
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
    if not access_log:
        LOGGING_CONFIG["loggers"]["uvicorn.access"].update(handlers=[], propagate=False)
    logging.getLogger("asyncio").addFilter(_Seldom())


class Connection(Protocol):
    """A connection that is given up when no request comes for `patience` seconds.

    When there are more than `most`, the one that has been without a request longest makes
    room. An answer that nobody takes ends with the connection after twice the patience.
    """

    patience = 120.0
    most = MOST_CONNECTIONS

    _waiting: dict[Connection, None] = {}  # noqa: RUF012 - of all connections, the longest waiting first

    _giving_up: asyncio.TimerHandle | None = None

    _is_first = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.BaseProtocol`."""
        if Connection._is_first:
            Connection._is_first = False
            _spare_collector()
        super().connection_made(transport)
        _drop_when_stalled(transport.get_extra_info("socket"), 2 * self.patience)
        if len(self.connections) > self.most:
            next(iter(self._waiting), self).leave()
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        """Wait, from now on if not yet, for the rest of a request, unless one is being answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._giving_up is None and self in self.connections and not self.transport.is_closing():
            self._waiting[self] = None
            self._giving_up = self.loop.call_later(self.patience, self.leave)

    def _stop_waiting(self) -> None:
        self._waiting.pop(self, None)
        if self._giving_up:
            self._giving_up.cancel()
            self._giving_up = None

    def leave(self) -> None:
        """End the connection at once."""
        self._stop_waiting()
        # A websocket has taken over a connection that is here no longer.
        if self in self.connections:
            self.connections.discard(self)
            self.transport.abort()


def _spare_collector() -> None:
    """Let the garbage collector look no more at what is there by now, modules and routes, which stays: Datasette
    makes so much garbage that a busy server would stand still for a tenth of a second every second."""
    gc.collect()
    gc.freeze()


def _descriptors() -> int:
    """How many files and connections this process may have open, after it asked for all it can get."""
    try:
        import resource
    except ImportError:
        return 2 * MOST_CONNECTIONS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 4 * MOST_CONNECTIONS
    wanted = enough if hard == resource.RLIM_INFINITY else min(hard, enough)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return enough if soft == resource.RLIM_INFINITY else soft


def _drop_when_stalled(connected: Any, seconds: float) -> None:
    """Let the system end a connection whose other end takes nothing (RFC 5482), where it can, and
    hold little that waits to be sent: of a reader who is slow it is then seen soon what was taken."""
    if connected.family not in (socket.AF_INET, socket.AF_INET6):
        return
    milliseconds = min(int(seconds * 1000), 2**31 - 1)
    for option, value in (("TCP_USER_TIMEOUT", milliseconds), ("TCP_NOTSENT_LOWAT", _WAITING_BYTES)):
        if hasattr(socket, option):
            with contextlib.suppress(OSError):
                connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


_WAITING_BYTES = 128 * 1024


class _Seldom(logging.Filter):
    """Without descriptors asyncio reports thousands of refused connections at once, each with
    a traceback: one line in ten seconds says it too."""

    _said_at = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        if "out of system resource" not in record.getMessage():
            return True
        if time.monotonic() - self._said_at < 10:
            return False
        self._said_at = time.monotonic()
        record.msg, record.args, record.exc_info = "No connection can be taken: no file descriptor is left", (), None
        return True
