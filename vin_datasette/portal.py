"""Async work from sync code and from other loops, on one loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")


class _DaemonExecutor(ThreadPoolExecutor):
    """Runs each call on a daemon thread.

    A name server that does not answer holds `getaddrinfo` for half a minute; the
    stock executor's threads are joined when the process ends, and the process
    would wait for it long after the answer was given.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=call, daemon=True).start()
        return future


def submit(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start `work` on the process's own loop; cancelling the future cancels it."""
    return asyncio.run_coroutine_threadsafe(work, _loop(os.getpid()))


def run(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, run on the process's own loop, so that it works where a
    loop is already running, as in a notebook. Ctrl-C cancels it, and waits a moment for it to end well."""
    ended = threading.Event()

    async def told() -> T:
        try:
            return await work
        finally:
            ended.set()

    future = submit(told())
    try:
        return result(future)
    except KeyboardInterrupt:
        future.cancel()
        ended.wait(_ENDING)
        raise


def result(future: Future[T]) -> T:
    """What `future` comes to, waited for so that Ctrl-C is heard: a signal that the system
    gives to another thread wakes none that waits for a lock."""
    while not future.done():
        wait([future], _HEARING)
    return future.result()


_HEARING = 0.1
"""Seconds after which Ctrl-C is heard at the latest."""

_ENDING = 0.8
"""Seconds that what was interrupted has to keep what it has."""


async def to_its_end(made: asyncio.Future[T]) -> T:
    """What work on a thread comes to. Who is cancelled meanwhile goes only when it has ended:
    what it works with must be neither closed under its hands nor opened again behind."""
    try:
        return await asyncio.shield(made)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await made
        raise


_loops: dict[int, asyncio.AbstractEventLoop] = {}
_starting = threading.Lock()


def _loop(process: int) -> asyncio.AbstractEventLoop:
    """The running loop of this process: a forked child has its parent's memory but none of its threads."""
    with _starting:
        if process not in _loops:
            loop = _loops[process] = asyncio.new_event_loop()
            loop.set_default_executor(_DaemonExecutor())
            threading.Thread(target=loop.run_forever, name="vin-datasette", daemon=True).start()
        return _loops[process]


def _unlock() -> None:
    """A lock that another thread held when the process forked is never given back in the child."""
    global _starting  # noqa: PLW0603
    _starting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
