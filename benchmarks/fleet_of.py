"""Caches of any size with real-looking skew, made once and kept for later runs."""

from __future__ import annotations

import random
import sqlite3
from typing import TYPE_CHECKING

import ultravin

from vin_datasette.cache import Cache
from vin_datasette.schema import VEHICLES
from vin_datasette.sources import Question
from vin_datasette.sources.embedded import EmbeddedSource
from vin_datasette.vehicle import Vehicle, interpret
from vin_datasette.vin import VIN, check_digit

if TYPE_CHECKING:
    from pathlib import Path

PATTERNS = 4_000
"""Different vehicles; each further one is another serial number of one of these."""


def cache_of(rows: int, folder: Path) -> Path:
    """The path of a cache of `rows` vehicles, of which few models are many and many are few.

    Inserted in random order of VIN, as caches are.
    """
    path = folder / f"vehicles-{rows}.db"
    if path.exists():
        return path
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    cache = Cache(unfinished)
    cache.open()
    cache.save(_vehicles())
    cache.close()
    connection = sqlite3.connect(unfinished, isolation_level=None)
    _multiply(connection, rows)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    unfinished.rename(path)
    return path


def _vehicles() -> list[Vehicle]:
    asked = [Question(VIN(vin)) for vin in ultravin.generate(PATTERNS, seed=7, invalid_rate=0)]
    return [answer for answer in map(interpret, EmbeddedSource().decode_now(asked)) if isinstance(answer, Vehicle)]


def _multiply(connection: sqlite3.Connection, rows: int) -> None:
    """Fill the table by SQL alone, with its search index left for last."""
    triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    cursor = connection.execute(f"SELECT * FROM {VEHICLES}")
    columns = [column for column, *_ in cursor.description]
    models = cursor.fetchall()
    chance = random.Random(rows)
    insert = f"INSERT OR IGNORE INTO {VEHICLES} VALUES ({', '.join('?' * len(columns))})"
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.execute(f"DELETE FROM {VEHICLES}")
    for serial in chance.sample(range(max(rows, 10_000_000)), rows):
        model = models[min(int(chance.expovariate(10 / len(models))), len(models) - 1)]
        bare = f"{model[0][:10]}{serial:07d}"
        connection.execute(insert, (f"{bare[:8]}{check_digit(bare)}{bare[9:]}", *model[1:]))
    connection.execute("INSERT INTO vehicles_fts (vehicles_fts) VALUES ('rebuild')")
    for _, sql in triggers:
        connection.execute(sql)
    connection.execute("COMMIT")
