"""Makes the cache of each step of the schema that is not here yet: `python -m tests.data.schemas.make`.

`<step>.sql` are the statements by which that step's version uses its cache: written once, when it is
released, and never changed. `<step>.sqlite` is a cache of that step, filled by them.
"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlite_utils import Database

from vin_datasette.migrations import migrations
from vin_datasette.record import Record
from vin_datasette.schema import MIGRATION_NAMES
from vin_datasette.vehicle import Rejection, Vehicle, interpret
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from vin_datasette.record import SourceName

FOLDER = Path(__file__).parent


def statements(step: str) -> dict[str, str]:
    """The SQL of a step's version by what it is for, with named parameters."""
    parts = re.split(r"^-- (.+)\n", (FOLDER / f"{step}.sql").read_text("utf-8"), flags=re.MULTILINE)[1:]
    return {name: sql.strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


def record(vin: str, make: str, source: SourceName = "vpic", *notes: str, **values: str) -> Record:
    """What a source said on a day in 2026."""
    when = datetime(2026, 2, 28, 23, 59, len(make), tzinfo=timezone.utc)
    said = {"VIN": vin, "Make": make, "ErrorCode": "0", "ErrorText": "0 - VIN decoded clean.", **values}
    return Record(VIN(vin), said, source, "2026_02" if source.startswith("embedded") else None, when, notes)


RECORDS = (
    record(
        "1XP5DB9X7XD487964",
        "PETERBILT",
        Model="379",
        ModelYear="1999",
        BodyClass="Truck-Tractor",
        Manufacturer="PETERBILT MOTORS COMPANY",
        EngineModel="3406/C15/C16",
        GVWR="Class 8: 33,001 lb and above (14,969 kg and above)",
        PlantCity="DENTON",
        PlantCountry="UNITED STATES (USA)",
        FuelTypePrimary="Diesel",
        VehicleDescriptor="1XP5DB9X*XD",
    ),
    record(
        "WA1A4AFY2J2008189",
        "AUDI",
        "embedded",
        "The model year 2048 was asked for, and dropped: it contradicts the VIN.",
        Model="SQ5",
        ModelYear="2018",
        BodyClass="Sport Utility Vehicle (SUV)/Multi-Purpose Vehicle (MPV)",
        Doors="4",
        DisplacementL="3.0",
        PlantCity="SAN JOSÉ CHIAPA",
        PlantCountry="MEXICO",
    ),
    record("1HGCM82633A004352", "HONDA", Model="Accord", ModelYear="2003", VehicleDescriptor="1HGCM826*3A"),
    record(
        "1HGCM82653A004353", "HONDA", "vpic-sibling", Model="Accord", ModelYear="2003", VehicleDescriptor="1HGCM826*3A"
    ),
    record("1HGCM82673A004354", "HONDA", "embedded-sibling", Model="Accord", ModelYear="2003"),
    record(
        "VF7RDRHFH9L547789",
        "CITROËN",
        ErrorCode="14",
        ErrorText="14 - Unable to provide information for all characters in the VIN.",
        AdditionalErrorText="Größe, 車名, \U0001f69a and half a pair \ud83d are kept as they came.",
        Model="C5 “Tourer”",
        Note="line\none\ttwo",
    ),
    record(
        "1XP5DB9X7XD487945",
        "PETERBILT",
        ErrorCode="1",
        ErrorText="1 - Check Digit (9th position) does not calculate properly",
        SuggestedVIN="1XP5DB9X!XD487945",
    ),
    record(
        "11111111111111111",
        "",
        "embedded",
        "No model year was asked for.",
        ErrorCode="7",
        ErrorText="7 - Manufacturer is not registered with NHTSA",
    ),
)
"""Of each source, vehicles and rejections, with remarks and texts that are not ASCII."""

CHANGE = {
    "vin": "1HGCM82633A004352",
    "fetched_at": "2025-12-31T00:00:00Z",
    "record": '{"VIN":"1HGCM82633A004352","Make":"HONDA","Model":"Acc\\u00f6rd \\ud83d"}',
    "replaced_at": "2026-02-28T23:59:05Z",
    "changed": '{"Model": ["Acc\\u00f6rd \\ud83d", "Accord"]}',
}
"""What vPIC used to say of one."""


def row(answer: Vehicle | Rejection) -> dict[str, Any]:
    """What of an answer the columns of its table hold."""
    said = answer.record
    assert said is not None
    own: dict[str, Any]
    if isinstance(answer, Vehicle):
        own = {**answer.columns(), "warnings": "\n".join(answer.warnings) or None}
    else:
        own = {"reason": answer.reason, "suggested_vin": answer.suggested_vin, "make": said.text("Make") or None}
    return {
        **own,
        "vin": str(said.vin),
        "error_code": said.text("ErrorCode"),
        "source": said.source,
        "source_version": said.source_version,
        "fetched_at": f"{said.fetched_at:%Y-%m-%dT%H:%M:%SZ}",
        "notes": json.dumps(said.notes) if said.notes else None,
        "record": json.dumps(dict(said.values), separators=(",", ":")),
    }


def keep(connection: sqlite3.Connection, sql: dict[str, str], said: Record) -> None:
    """Keep a record, whatever it is, by a version's own statements."""
    answer = interpret(said)
    connection.execute(sql["begin to write"])
    for table in ("vehicle", "rejection"):
        connection.execute(sql[f"forget a {table}"], {"vin": str(said.vin)})
    connection.execute(sql["keep a vehicle" if isinstance(answer, Vehicle) else "keep a rejection"], row(answer))
    connection.execute(sql["end writing"])


def make(path: Path, number: int) -> None:
    """A cache of the step of this number, counted from 0."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # Small pages: it has many indexes and few rows.
        connection.execute("PRAGMA page_size = 1024")
        connection.execute("PRAGMA journal_mode = WAL")
        migrations.apply(Database(connection), stop_before=MIGRATION_NAMES[number + 1 :])
        sql = statements(MIGRATION_NAMES[number])
        for said in RECORDS:
            keep(connection, sql, said)
        if "keep a change" in sql:
            connection.execute(sql["keep a change"], CHANGE)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    for number, step in enumerate(MIGRATION_NAMES):
        made = FOLDER / f"{step}.sqlite"
        if not made.exists():
            make(made, number)
