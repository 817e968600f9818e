"""Lists of VINs that a page is to show: `/vin/vehicles?_list=…`, where the VINs are too many for an address."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import sqlite3
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from datasette.filters import FilterArguments
from datasette.utils.asgi import NotFound

from vin_datasette.vin import VIN, InvalidVIN
from vin_datasette.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

log = logging.getLogger(__name__)

PARAMETER = "_list"
"""The parameter of a table page."""

FUNCTION = "vin_list"
"""The SQL function that gives the VINs of a list as a JSON array."""

MOST_BYTES = 32 * 1024 * 1024
"""Bytes of all lists that are kept; the one least lately used gives way."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lists (
    name TEXT PRIMARY KEY,
    digest TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL,
    used_at REAL NOT NULL,
    vins TEXT NOT NULL
)
"""


class Lists:
    """Lists of VINs, kept in a file of their own, by what they hold.

    Every server over one cache has the same file, so what one keeps all can show, and a
    server that is started anew as well. Where there can be none (`path` is None, or cannot be written),
    they are kept in memory, while the server runs.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def keep(self, texts: Iterable[str]) -> tuple[str, int]:
        """A name for the VINs among `texts`, and how many they are. The same VINs have the same name."""
        vins = sorted(set(_vins(texts)))
        text = json.dumps(vins, separators=(",", ":"))
        with self._lock:
            try:
                name = _kept(self._opened(), text)
            except sqlite3.Error as error:
                self._stay_in_memory(error)
                name = _kept(self._opened(), text)
        return name, len(vins)

    def array(self, name: str) -> str:
        """The VINs of a list as a JSON array; an empty one for what is not known (any more)."""
        with self._lock:
            try:
                row = self._opened().execute("SELECT vins FROM lists WHERE name = ?", [name]).fetchone()
            except sqlite3.Error as error:
                self._stay_in_memory(error)
                row = None
        return row[0] if row else "[]"

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._connection:
                self._connection.close()
                self._connection = None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            where = ":memory:" if self._path is None else self._path
            self._connection = sqlite3.connect(where, timeout=WAIT, isolation_level=None, check_same_thread=False)
            self._connection.execute(_SCHEMA)
        return self._connection

    def _stay_in_memory(self, error: sqlite3.Error) -> None:
        if self._path is None:
            raise error
        log.warning("Lists of VINs are kept in memory, as %s cannot be used: %s", self._path, error)
        if self._connection:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._path = self._connection = None

    def filter(self, name: str) -> FilterArguments:
        """The condition of a table page. Raises `NotFound`, of Datasette, for a list that is not kept."""
        vins = json.loads(self.array(name))
        if not vins:
            raise NotFound("This list of VINs is not kept any longer: look the VINs up once more, they are cached.")
        return FilterArguments(
            [f"vin in (select value from json_each({FUNCTION}(:{FUNCTION})))"],  # noqa: S608 - names are our own, values are bound  # nosec B608
            params={FUNCTION: name},
            human_descriptions=[f"in a list of {counted(len(vins), 'VIN')}"],
        )


WAIT = 5.0
"""Seconds to wait for another server that writes."""


def _kept(connection: sqlite3.Connection, text: str) -> str:
    """The name under which a list is kept from now on. Raises `sqlite3.Error`."""
    # What a list holds must not tell its name: who guesses it could find out that it is kept.
    new, digest = secrets.token_hex(12), hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    again = "ON CONFLICT (digest) DO UPDATE SET used_at = excluded.used_at"
    row = [new, digest, len(text), time.time(), text]
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"INSERT INTO lists VALUES (?, ?, ?, ?, ?) {again}", row)  # noqa: S608 - a clause of our own  # nosec B608
        connection.execute(
            "DELETE FROM lists WHERE name IN (SELECT name FROM (SELECT name, "
            "sum(bytes) OVER (ORDER BY used_at DESC, rowid DESC) AS so_far FROM lists) WHERE so_far > ?)",
            [MOST_BYTES],
        )
        name: str = connection.execute("SELECT name FROM lists WHERE digest = ?", [digest]).fetchone()[0]
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return name


def _vins(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        try:
            yield VIN(text)
        except InvalidVIN:
            continue
