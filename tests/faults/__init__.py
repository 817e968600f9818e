"""What is upstream, the disk and the process itself fail, and what is left to do then."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from tests.vpic_server import flat_record
from vin_datasette.cache import Cache
from vin_datasette.record import Record
from vin_datasette.vehicle import interpret

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vin_datasette.vin import VIN


def known(path: Path, vins: Sequence[VIN]) -> None:
    """Have vPIC's answers for these VINs in a cache, made where there is none."""
    now = datetime.now(timezone.utc).replace(microsecond=0)
    with closing(Cache(path)) as cache:
        cache.save([interpret(Record(vin, flat_record(vin), "vpic", None, now)) for vin in vins])


def in_order(path: Path) -> bool:
    """Whether SQLite finds nothing wrong with a file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
