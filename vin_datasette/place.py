"""Whether the files that SQLite has open still lie where they were opened."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

Identity = tuple[int, int]

Left = Literal["nothing", "file", "journal"]
"""What has been removed or replaced: the database itself, or what SQLite keeps beside it in WAL mode."""


class Place:
    """Where an open database lies, with its `-wal` and `-shm` where it has these.

    Whoever removes, moves or replaces a file does so by its name; who has it open goes on with
    what no name leads to any more, and SQLite does not notice (https://sqlite.org/howtocorrupt.html,
    section 4.2). Make one when the database has just been opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._main = _identity(path)
        self._beside = {name: _identity(name) for name in (_beside(path, "-wal"), _beside(path, "-shm"))}

    def left(self) -> Left:
        """What is no longer where it was opened. It costs some microseconds."""
        try:
            if _identity(self._path) != self._main:
                return "file"
            # One that was not there at first may come at any time.
            if any(was and _identity(name) != was for name, was in self._beside.items()):
                return "journal"
        except OSError:
            # A disk that does not answer says nothing about what lies there.
            pass
        return "nothing"

    def clear(self, *, is_saved: bool) -> None:
        """Take what belongs to the database that is gone out of the way of the one that comes:
        SQLite would play the old `-wal` back into it. Where that is not saved in the old
        database it is kept, under the name `-wal.left`."""
        for name, was in self._beside.items():
            if was and _identity(name) == was:
                with contextlib.suppress(OSError):
                    if is_saved or name.name.endswith("-shm"):
                        name.unlink()
                    else:
                        name.replace(name.with_name(f"{name.name}.left"))


def _beside(path: Path, ending: str) -> Path:
    # Beside the file itself, as SQLite has it, where the path leads over a symbolic link.
    real = Path(os.path.realpath(path))
    return real.with_name(real.name + ending)


def _identity(path: Path) -> Identity | None:
    """What tells a file from all others that are open at the time; None where there is none."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
