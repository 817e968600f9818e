"""SIGTERM, as systemd and containers send it, heard where Ctrl-C is."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


class Terminated(KeyboardInterrupt):
    """This process is to end: whatever keeps what it has at Ctrl-C does so at this too."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within the context SIGTERM raises `Terminated`, once; the next one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        # Signals are the main thread's.
        yield
        return

    def hear(_: int, __: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    former = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], None]]:
    """Within the context Ctrl-C and SIGTERM are only noted, and raise when the function that it
    gives is called; a second of them raises at once, as without.

    Raised at any moment, they may leave a lock behind that nobody opens any more
    (https://docs.python.org/3/library/signal.html#note-on-signal-handlers-and-exceptions): this
    is for work with executors, which are full of them.
    """
    heard: list[int] = []
    former: dict[int, Any] = {}

    def note(number: int, _: FrameType | None) -> None:
        heard.append(number)
        for each, before in former.items():
            signal.signal(each, before)

    def heed() -> None:
        if heard:
            raise KeyboardInterrupt if heard[0] == signal.SIGINT else Terminated

    if threading.current_thread() is threading.main_thread():
        former.update((each, signal.signal(each, note)) for each in (signal.SIGINT, signal.SIGTERM))
    try:
        yield heed
    finally:
        for each, before in former.items():
            signal.signal(each, before)


def end_by_sigterm() -> NoReturn:
    """End this process by the signal that it was sent: systemd takes that for a good end, where it takes
    a code of 143 for a failure, and a shell shows 143."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
    # The first process of a container is not ended by a signal that it does not handle.
    os._exit(128 + signal.SIGTERM)
