"""SIGTERM, as systemd and containers send it, heard where Ctrl-C is."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
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


def end_by_sigterm() -> NoReturn:
    """End this process by the signal that it was sent: systemd takes that for a good end, where it takes
    a code of 143 for a failure, and a shell shows 143."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)
    # The first process of a container is not ended by a signal that it does not handle.
    os._exit(128 + signal.SIGTERM)
