"""A fleet, and the words for what keeps it from being read."""

from __future__ import annotations

import gzip
import sqlite3
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from vin_datasette.fleet.row import Row

STANDARD_INPUT = "-"
"""The name that means the standard input."""


class InputError(Exception):
    """An input that cannot be read; the message says which, why and what to do."""


@dataclass
class Fleet:
    """Many VINs, and the columns that stand beside them.

    `columns` are the names of the fleet's own columns, each of them once, the VIN's among
    them; there are none for bare VINs. `schema` has their Arrow types where the input has
    types, else it is None. `rows` are read as they are taken, once; taking one raises
    `InputError` when the input breaks there. `source` names the input in messages.
    """

    columns: list[str]
    schema: pa.Schema | None
    rows: Iterator[Row]
    source: str


class Wanted(NamedTuple):
    """The columns that were asked for, as they were written."""

    vin: str | None
    model_year: str | None


@contextmanager
def in_words(source: str) -> Iterator[None]:
    """Whatever goes wrong within the context is an `InputError` that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"There is no file {source}; check its name and folder.") from error
    except IsADirectoryError as error:
        raise InputError(f"{source} is a folder; name a file in it.") from error
    except PermissionError as error:
        raise InputError(f"{source} may not be read: its permissions forbid it to this user.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{source} is damaged: its gzip data cannot be unpacked; get or compress it anew.") from error
    except EOFError as error:
        raise InputError(
            f"{source} is cut off: its gzip data stops before its end; get or compress it anew."
        ) from error
    except sqlite3.Error as error:
        raise InputError(f"{source} cannot be read as an SQLite file: {error}.") from error
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror or error}.") from error
    except MemoryError as error:
        raise InputError(f"{source} holds a value that is larger than the memory that is left.") from error
    except ValueError as error:
        # A NUL in a path is one, which no operating system looks at.
        raise InputError(f"{source!r} cannot be read: {error}.") from error
