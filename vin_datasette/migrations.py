"""The schema, step by step, and what each step owes to the versions before it.

A step that was released never changes: append one, name it in `schema.MIGRATION_NAMES`, and
add the file of its schema to `tests/data/schemas`.

Somebody upgrades, is unhappy, and installs the older version again. So a file says which is
the oldest step whose version can still use it, and an older version goes on with a file of
steps that it does not know when it knows that one. A step leaves `schema.USABLE_SINCE` as it
is when all that older versions do still works, and nothing that they leave out is missed:

- it adds tables, indexes, views, and columns that may be NULL and have no default that means
  something;
- it renames, drops and retypes nothing, and adds no constraint and no trigger that can refuse
  what an older version writes; named indexes stay, as queries name them;
- what older versions write later is never migrated again, so the code takes NULL in a new
  column, and rows that are missing from a new table, for "not known" for ever.

A step that cannot keep this makes itself `schema.USABLE_SINCE`: older versions then refuse the
file in words.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING

from sqlite_utils import Migrations

from vin_datasette.schema import (
    CHANGES,
    CHARTED,
    CHARTS_INDEX,
    FRESHNESS_INDEX,
    MIGRATION_SET,
    REJECTIONS,
    SERIALS_INDEX,
    USABLE_SINCE,
    USABLE_SINCE_SET,
    VEHICLES,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

migrations = Migrations(MIGRATION_SET)


def upgrade(db: Database) -> None:
    """Apply the steps that a file has not had, and say in it which versions can use it now.

    Whole or not at all, where the caller's transaction is around it. Raises what SQLite
    raises for a file that these tables cannot be made in.
    """
    migrations.apply(db)
    steps = migrations.migrations_table
    db.execute(f"DELETE FROM {steps} WHERE migration_set = ?", [USABLE_SINCE_SET])  # noqa: S608 - names are our own, values are bound  # nosec B608
    db.execute(
        f"INSERT INTO {steps} (migration_set, name, applied_at) VALUES (?, ?, ?)",  # noqa: S608 - names are our own, values are bound  # nosec B608
        [USABLE_SINCE_SET, USABLE_SINCE, str(datetime.now(timezone.utc))],
    )


@migrations()
def m001_vehicles_and_rejections(db: Database) -> None:
    """The two tables, indexes for what people facet and sort by, and full-text search."""
    vehicles = db.table(VEHICLES).create(
        {
            "vin": str,
            "make": str,
            "model": str,
            "model_year": int,
            "body_class": str,
            "vehicle_type": str,
            "manufacturer": str,
            "series": str,
            "trim": str,
            "doors": int,
            "seats": int,
            "seat_rows": int,
            "wheels": int,
            "axles": int,
            "drive_type": str,
            "cab_type": str,
            "bed_type": str,
            "fuel_type": str,
            "fuel_type_secondary": str,
            "electrification": str,
            "engine_model": str,
            "engine_manufacturer": str,
            "engine_configuration": str,
            "cylinders": int,
            "displacement_l": float,
            "engine_hp": float,
            "engine_kw": float,
            "turbo": str,
            "battery_kwh": float,
            "transmission": str,
            "transmission_speeds": int,
            "gvwr_class": str,
            "gvwr_from_kg": int,
            "gvwr_to_kg": int,
            "curb_weight_kg": int,
            "wheelbase_in": float,
            "top_speed_mph": int,
            "base_price_usd": float,
            "brake_system": str,
            "bus_type": str,
            "trailer_body_type": str,
            "plant_city": str,
            "plant_state": str,
            "plant_country": str,
            "plant_company": str,
            "destination_market": str,
            "descriptor": str,
            "error_code": str,
            "warnings": str,
            "source": str,
            "source_version": str,
            "fetched_at": str,
            "notes": str,
            "record": str,
        },
        pk="vin",
        not_null={"vin", "make", "source", "fetched_at", "record"},
    )
    # With the VIN behind it, an index gives what is chosen by it in the order of an export.
    for column in ("make", "model_year", "body_class"):
        vehicles.create_index([column, "vin"])
    vehicles.create_index(["fetched_at"])
    vehicles.enable_fts(
        ["vin", "make", "model", "body_class", "manufacturer", "series", "trim", "engine_model", "plant_city"],
        create_triggers=True,
    )
    rejections = db.table(REJECTIONS).create(
        {
            "vin": str,
            "reason": str,
            "error_code": str,
            "suggested_vin": str,
            "make": str,
            "source": str,
            "source_version": str,
            "fetched_at": str,
            "notes": str,
            "record": str,
        },
        pk="vin",
        not_null={"vin", "reason", "source", "fetched_at", "record"},
    )
    rejections.create_index(["fetched_at"])


@migrations()
def m002_changes_and_siblings(db: Database) -> None:
    """What vPIC used to say of a vehicle, and indexes for freshness and for siblings."""
    changes = db.table(CHANGES).create(
        {
            "id": int,
            "vin": str,
            "replaced_at": str,
            "changed": str,
            "fetched_at": str,
            "record": str,
        },
        pk="id",
        not_null={"vin", "replaced_at", "changed", "fetched_at", "record"},
    )
    changes.create_index(["vin"])
    vehicles = db.table(VEHICLES)
    vehicles.create_index(["vin", "fetched_at", "source", "error_code"], index_name=FRESHNESS_INDEX)
    vehicles.create_index(["descriptor", "error_code", "source"])


@migrations()
def m003_charts_and_analyses(db: Database) -> None:
    """Indexes for charts of a fleet and for the questions that its owner asks."""
    vehicles = db.table(VEHICLES)
    for column in ("fuel_type", "plant_country"):
        vehicles.create_index([column, "vin"])
    # All charted columns, so that a chart never reads the rows, which hold whole records.
    vehicles.create_index(CHARTED, index_name=CHARTS_INDEX)
    # The serial number and who made the vehicle (49 CFR 565.15): equal serials lie together.
    db.execute(f"CREATE INDEX {SERIALS_INDEX} ON {VEHICLES} (substr(vin, 12), substr(vin, 1, 3), vin)")
    db.table(REJECTIONS).create_index(["reason", "vin", "suggested_vin"])
    db.table(CHANGES).create_index(["replaced_at"])
