"""How Datasette shows the cache: descriptions, units, facets and order, unless the
instance's own metadata says otherwise."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vin_datasette.attributes import ATTRIBUTES
from vin_datasette.schema import CHANGES, REJECTIONS, VEHICLES
from vin_datasette.words import sendable

if TYPE_CHECKING:
    from sqlite3 import Connection

    from datasette.database import Database

    from vin_datasette.attributes import Attribute


def _described(attribute: Attribute) -> str:
    unit = f" ({attribute.unit})" if attribute.unit else ""
    return f"{attribute.label}{unit}. {attribute.description} (vPIC element {attribute.element_id}, {attribute.key})"


_PROVENANCE = {
    "source": "Who answered: vpic (the DOT's API), embedded (vPIC's own database, offline), or one of "
    "them about a vehicle alike (…-sibling)",
    "source_version": "Month of the embedded database's data",
    "fetched_at": "When it was answered, UTC",
    "notes": "What the lookup itself has to add",
    "record": "The whole answer under vPIC's own keys, as it came",
}

TABLES: dict[str, dict[str, Any]] = {
    VEHICLES: {
        "title": "Vehicles",
        "description": "Every vehicle looked up so far, as vPIC describes it.",
        "facets": ["make", "model_year", "body_class"],
        "sort_desc": "fetched_at",
        "label_column": "vin",
        "columns": {
            "vin": "Vehicle identification number, 17 characters (ISO 3779)",
            **{attribute.column: _described(attribute) for attribute in ATTRIBUTES},
            "error_code": "vPIC's codes; 0 is clean, others beside it inform",
            "warnings": "What vPIC remarks about an answer that stands",
            **_PROVENANCE,
        },
    },
    REJECTIONS: {
        "title": "Rejections",
        "description": "VINs for which vPIC has no vehicle, and why. Asked again after a day.",
        "facets": ["error_code"],
        "sort_desc": "fetched_at",
        "label_column": "vin",
        "columns": {
            "vin": "The VIN asked for",
            "reason": "Why there is no vehicle, in vPIC's words",
            "error_code": "vPIC's codes",
            "suggested_vin": "What vPIC believes was meant; ! marks a position in doubt",
            "make": "The make, where vPIC could still tell",
            **_PROVENANCE,
        },
    },
    CHANGES: {
        "title": "Changes",
        "description": "What vPIC used to say of a VIN before it said something else.",
        "sort_desc": "replaced_at",
        "label_column": "vin",
        "columns": {
            "id": "Number of the change, in their order",
            "vin": "The VIN asked for",
            "replaced_at": "When vPIC said something else, UTC",
            "changed": "The values that changed: what each was and what it became",
            "fetched_at": "When the earlier answer was given, UTC",
            "record": "The whole earlier answer under vPIC's own keys, as it came",
        },
    },
}
"""Table metadata in Datasette's own form. Columns are in the order of the schema."""

CONFIGURATION_KEYS = {"facets", "sort_desc", "label_column"}
"""What Datasette 1.0 takes for configuration rather than metadata."""


def shown_beside(said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A copy of `TABLES` for an instance whose own metadata says `said` of its tables:
    without our order where it has its own, as Datasette refuses two."""
    tables = deepcopy(TABLES)
    for table, shown in tables.items():
        if {"sort", "sort_desc"} & (said.get(table) or {}).keys():
            del shown["sort_desc"]
    return tables


async def store(internal: Database, database: str) -> None:
    """Put titles and descriptions into the internal database of Datasette 1.0, where it says nothing of
    a table or column yet; all at once, as one by one they take a tenth of a second."""
    about_tables, about_columns = [], []
    for table, shown in TABLES.items():
        about_tables += [(database, table, key, shown[key]) for key in ("title", "description")]
        about_columns += [(database, table, column, "description", text) for column, text in shown["columns"].items()]

    def write(connection: Connection) -> None:
        connection.executemany(
            """
            INSERT INTO metadata_resources (database_name, resource_name, key, value) VALUES (?, ?, ?, ?)
            ON CONFLICT (database_name, resource_name, key) DO UPDATE SET value = excluded.value
            WHERE coalesce(metadata_resources.value, '') = ''
            """,
            about_tables,
        )
        connection.executemany(
            """
            INSERT INTO metadata_columns (database_name, resource_name, column_name, key, value) VALUES (?, ?, ?, ?, ?)
            ON CONFLICT (database_name, resource_name, column_name, key) DO UPDATE SET value = excluded.value
            WHERE coalesce(metadata_columns.value, '') = ''
            """,
            about_columns,
        )

    await internal.execute_write_fn(write)


def fold_record(record: object) -> Markup | None:
    """A stored record as a folded list of what it says; None for what is no JSON object."""
    try:
        values = json.loads(str(record))
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    said = {key: value for key, value in values.items() if value}
    rows = Markup("").join(
        Markup("<dt>{}</dt><dd>{}</dd>").format(sendable(key), sendable(str(value))) for key, value in said.items()
    )
    return Markup("<details><summary>{} of {} keys</summary><dl>{}</dl></details>").format(len(said), len(values), rows)
