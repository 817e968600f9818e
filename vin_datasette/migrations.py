"""The schema, step by step. A step that was released never changes: append one, and
name it in `schema.MIGRATION_NAMES` too."""

from __future__ import annotations

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
    VEHICLES,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

migrations = Migrations(MIGRATION_SET)


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
