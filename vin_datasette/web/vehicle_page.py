"""The page of a vehicle: Datasette's own row page for the vehicles of the cache, made for people.

Datasette looks for a template of the database's and the table's names before its own. An
instance's own template of that name wins; else `vin_vehicle.html` stands in for it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from datasette.database import QueryInterrupted
from datasette.utils import tilde_decode, to_css_class
from jinja2 import BaseLoader, ChoiceLoader, TemplateNotFound

from vin_datasette.cache import CacheError
from vin_datasette.elements import grouped, label, shown
from vin_datasette.schema import CHANGES, VEHICLES
from vin_datasette.vehicle import Vehicle
from vin_datasette.vin import VIN, InvalidVIN
from vin_datasette.web import guard, html
from vin_datasette.web.state import state_of
from vin_datasette.web.vehicle_facts import facts, origin, parts, remarks
from vin_datasette.words import sendable

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasette import Request
    from datasette.app import Datasette
    from jinja2 import Environment

TEMPLATE = "vin_vehicle.html"

MOST_CHANGES = 20
"""Changes that the page tells; the table has the others."""

_COUNTING = 250
"""Milliseconds that counting siblings may take: of a make there may be a million."""


class _RowTemplate(BaseLoader):
    """Our template under the name by which Datasette asks for that of the vehicles' rows."""

    def __init__(self, datasette: Datasette) -> None:
        self._datasette = datasette

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        """The source of our template; raises `TemplateNotFound` for any other name."""
        if template != self._name() or environment.loader is None:
            raise TemplateNotFound(template)
        return environment.loader.get_source(environment, TEMPLATE)

    def list_templates(self) -> list[str]:
        """None that are not listed already; Datasette asks for all there are."""
        return []

    def _name(self) -> str | None:
        """Known only when the instance is started."""
        try:
            database = state_of(self._datasette).database
        except KeyError:
            return None
        return f"row-{to_css_class(database)}-{to_css_class(VEHICLES)}.html"


def offer_template(env: Environment, datasette: Datasette) -> None:
    """Let Datasette find the page of a vehicle, after all templates of the instance."""
    env.loader = ChoiceLoader([*([env.loader] if env.loader else []), _RowTemplate(datasette)])


async def variables(datasette: Datasette, request: Request) -> dict[str, Any]:
    """What `vin_vehicle.html` shows, under `vin_vehicle`. Nothing for a row that is no
    readable record of a vehicle: that one keeps Datasette's own page."""
    vehicle = _vehicle(datasette, tilde_decode(request.url_vars["pks"]))
    if vehicle is None:
        return {}
    vin = vehicle.record.vin
    may_lookup, may_remove, related, changes = await asyncio.gather(
        guard.may(datasette, request.actor, "vin-lookup"),
        guard.may(datasette, request.actor, "vin-remove"),
        _related(datasette, vehicle),
        _changes(datasette, request.actor, vin),
    )
    shown_vehicle = {
        "vin": str(vin),
        "name": vehicle.name,
        "facts": facts(vehicle),
        "remarks": remarks(vehicle),
        "record": vehicle.record,
        "origin": origin(vehicle.record),
        "parts": parts(vin, vehicle),
        "groups": grouped(vehicle.record),
        "related": related,
        "changes": changes,
        "refresh_path": datasette.urls.path(f"/-/vin/refresh/{vin}") if may_lookup else None,
        "remove_path": datasette.urls.path(f"/-/vin/remove/{vin}") if may_remove else None,
    }
    return {
        "vin_vehicle": shown_vehicle,
        "vin_static": partial(html.static, datasette),
        "vin_policy": partial(html.policy, datasette),
    }


def _vehicle(datasette: Datasette, key: str) -> Vehicle | None:
    try:
        vin = VIN(key)
        record = state_of(datasette).lookup.cache.get(vin)
    except (InvalidVIN, sqlite3.Error, CacheError):
        return None
    # A row that somebody put there by hand may have a VIN in lower case, and is not the one of the VIN.
    return Vehicle(record) if record and vin == key else None


async def _related(datasette: Datasette, vehicle: Vehicle) -> list[dict[str, Any]]:
    """Ways to vehicles alike, where there are any: what they share, how many others there
    are (None where counting takes too long), and the page that shows them."""
    columns = vehicle.columns()
    named = {"make": columns["make"], "model": columns["model"]}
    alike = [
        (f"{vehicle.make} {vehicle.model}".strip(), named),
        (vehicle.name, {**named, "model_year": columns["model_year"]}),
        (f"descriptor {columns['descriptor']}", {"descriptor": columns["descriptor"]}),
    ]
    wanted = [(text, shared) for text, shared in alike if all(value is not None for value in shared.values())]
    if columns["model"] is None:
        wanted.insert(0, (vehicle.make, {"make": columns["make"]}))
    counts = await asyncio.gather(*(_others(datasette, shared) for _, shared in wanted))
    table = datasette.urls.table(state_of(datasette).database, VEHICLES)
    return [
        {"text": text, "others": others, "path": f"{table}?{urlencode(shared)}"}
        for (text, shared), others in zip(wanted, counts, strict=True)
        if others != 0
    ]


async def _others(datasette: Datasette, shared: dict[str, Any]) -> int | None:
    database = datasette.get_database(state_of(datasette).database)
    condition = " AND ".join(f"{column} = :{column}" for column in shared)
    sql = f"SELECT count(*) FROM {VEHICLES} WHERE {condition}"  # noqa: S608 - names are our own, values are bound  # nosec B608
    try:
        rows = await database.execute(sql, shared, custom_time_limit=_COUNTING)
    except QueryInterrupted:
        return None
    return max(0, int(rows.first()[0]) - 1)


async def _changes(datasette: Datasette, actor: dict[str, Any] | None, vin: VIN) -> dict[str, Any] | None:
    """What vPIC used to say of a VIN, the latest change first; None where there is
    nothing or it is not for this actor."""
    if not await guard.may_see(datasette, actor, CHANGES):
        return None
    name = state_of(datasette).database
    sql = f"SELECT id, replaced_at, fetched_at, changed FROM {CHANGES} WHERE vin = :vin ORDER BY id DESC LIMIT :most"  # noqa: S608 - names are our own, values are bound  # nosec B608
    rows = (await datasette.get_database(name).execute(sql, {"vin": vin, "most": MOST_CHANGES + 1})).rows
    told = [
        {
            "said_at": row["fetched_at"][:10],
            "until": row["replaced_at"][:10],
            "values": _differences(row["changed"]),
            "path": datasette.urls.row(name, CHANGES, str(row["id"])),
        }
        for row in rows[:MOST_CHANGES]
    ]
    table = f"{datasette.urls.table(name, CHANGES)}?{urlencode({'vin': vin})}"
    return {"told": told, "all_path": table if len(rows) > MOST_CHANGES else None} if told else None


def _differences(changed: str) -> list[tuple[str, str, str]]:
    """The label of each element that changed, with what it was and what it became."""
    try:
        pairs = json.loads(changed)
        return [
            (sendable(label(key)), shown(key, sendable(str(was or ""))), shown(key, sendable(str(became or ""))))
            for key, (was, became) in pairs.items()
        ]
    except (ValueError, TypeError, AttributeError, RecursionError):
        # A row that somebody wrote by hand: the table shows it as it is.
        return []
