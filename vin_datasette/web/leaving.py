"""That a server is about to end, known to all that would begin something or has to come to an end."""

from __future__ import annotations

import asyncio

WORDS = "The server is shutting down"
"""What who comes too late is told, and who could not be answered in time."""


class Leaving:
    """The end of a server: `began` is set when it was told to end, and nothing new is begun from
    then on; `over` when what was in flight has had its time."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.over = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether the server was told to end."""
        return self.began.is_set()
