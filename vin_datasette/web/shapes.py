"""What goes over the doors, as JSON Schema (2020-12, which OpenAPI 3.1 uses), and the headers beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vin_datasette.schema import VEHICLES
from vin_datasette.vin import LENGTH
from vin_datasette.web.posted import EXTRAS, MOST_VINS
from vin_datasette.web.presentation import TABLES

Schema = Mapping[str, Any]
"""A JSON Schema, or a reference to one."""

_STRING: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}

TEXT: Schema = _STRING
"""A page, or lines of text."""

BINARY: Schema = {"type": "string", "format": "binary"}
"""Bytes that are no text."""


def ref(name: str) -> Schema:
    """A reference to one of `SCHEMAS`."""
    return {"$ref": f"#/components/schemas/{name}"}


def vins(most: int = MOST_VINS) -> Schema:
    """A list of VINs in JSON, as it is or under a name."""
    listed = {"type": "array", "items": _STRING, "minItems": 1, "maxItems": most}
    return {"anyOf": [listed, {"type": "object", "properties": {"vins": listed}, "required": ["vins"]}]}


VINS_FORM: Schema = {
    "type": "object",
    "properties": {
        "vins": {"type": "string", "description": "One VIN a line."},
        "vin": {"type": "array", "items": _STRING, "description": "One VIN each, as often as need be."},
    },
}
"""A list of VINs as a form sends it."""

_SIX_FIELDS: Mapping[str, Schema] = {
    "Input VIN Requested": {"type": "string", "minLength": LENGTH, "maxLength": LENGTH},
    "Make": {"type": "string", "minLength": 1},
    "Model": _STRING,
    "Model Year": _STRING,
    "Body Class": _STRING,
    "Cached Result?": {"type": "boolean"},
}

_ERROR: Mapping[str, Schema] = {
    "ok": {"const": False},
    "error": {"type": "string", "description": "What was wrong, for people."},
    "status": {"type": "integer", "minimum": 400, "maximum": 599},
    "title": {"type": "null"},
}


def _exactly(properties: Mapping[str, Schema], *optional: str) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_SAID_BESIDE: Mapping[str, Schema] = {name: {"type": ["string", "null"]} for name in EXTRAS}

SCHEMAS: Mapping[str, Schema] = {
    "Vehicle": {
        **_exactly(_SIX_FIELDS),
        "description": "The six fields of a vehicle, in this order; empty for what vPIC leaves out.",
    },
    "Error": {
        **_exactly(_ERROR),
        "description": "Datasette's error JSON.",
    },
    "Line": {
        "description": "A line of the answer to a list of VINs: the six fields, or the VIN with the error.",
        "oneOf": [
            _exactly({**_SIX_FIELDS, **_SAID_BESIDE}, *EXTRAS),
            _exactly({"Input VIN Requested": _STRING, **_ERROR, **_SAID_BESIDE}, *EXTRAS),
        ],
    },
    "List": _exactly({"ok": {"const": True}, "list": {"type": "string", "minLength": 1}, "vins": _COUNT}),
    "Health": _exactly({"ok": {"const": True}}),
    "State": {
        "type": "object",
        "properties": {
            "ok": {"const": True},
            "version": _STRING,
            "database": {"type": "string", "description": "The cache among the databases of the instance."},
            "table": _STRING,
            "rows": {
                "description": "Rows of each table, or why they cannot be counted.",
                "anyOf": [{"type": "object", "additionalProperties": _COUNT}, _STRING],
            },
            "source": {"enum": ["auto", "vpic", "embedded"]},
            "vpic": {
                "type": "object",
                "properties": {
                    "url": _STRING,
                    "breaker": _STRING,
                    "retry_in": {"type": "number", "minimum": 0, "description": "Seconds."},
                },
                "required": ["url", "breaker", "retry_in"],
            },
            "in_flight": _COUNT,
            "waiting": _COUNT,
            "trouble": {
                "description": "What else failed when it was last tried, and why; left out when nothing did.",
                "type": "array",
                "items": _STRING,
            },
        },
        "required": ["ok", "version", "database", "table", "rows", "source", "vpic", "in_flight", "waiting"],
    },
}
"""The schemas that have a name."""

COLUMN: Schema = {"enum": [column for column in TABLES[VEHICLES]["columns"] if column != "notes"]}
"""A column of an export: `batches.fields` has them with their types, and pyarrow with them."""

HEADERS: Mapping[str, tuple[str, Schema]] = {
    "Age": ("Seconds since the source was asked (RFC 9111).", _COUNT),
    "Cache-Status": (
        "How the answer came about (RFC 9211).",
        {"type": "string", "pattern": "^vin-datasette; (hit|fwd=)"},
    ),
    "Content-Disposition": ("The name to save it under (RFC 6266).", _STRING),
    "ETag": ("The validator of the answer (RFC 9110).", {"type": "string", "pattern": '^"[0-9a-f]+"$'}),
    "Location": ("Where to go on (RFC 9110).", _STRING),
    "Retry-After": ("Seconds after which to ask again (RFC 9110).", _COUNT),
    "Vin-Source": (
        "Who answered.",
        {"enum": ["vpic", "embedded", "vpic-sibling", "embedded-sibling"]},
    ),
}
"""What a header tells, and its schema, by its name."""
