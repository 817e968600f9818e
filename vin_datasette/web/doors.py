"""The doors: every route once, with all that it takes and answers.

What Datasette registers, the refusal of other methods and the OpenAPI description come from `DOORS`.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from vin_datasette.web import health, lookup_page, metrics, openapi, refresh, routes, shapes
from vin_datasette.web.lookup_page import MOST_LISTED
from vin_datasette.web.posted import EXTRAS, JSON_LINES, MOST_VINS
from vin_datasette.web.routes import method_refusal
from vin_datasette.web.shapes import Schema, ref
from vin_datasette.web.streams import PARQUET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from datasette import Request, Response
    from datasette.app import Datasette

    from vin_datasette.web.routes import View

Permission = Literal["view-instance", "view-table", "vin-lookup", "vin-remove", "vin-export"]

OWN = "/-/vin"
"""Where every door is; the short alias of one is without it."""

JSON, HTML, FORM = "application/json", "text/html", "application/x-www-form-urlencoded"
PROMETHEUS, OPENMETRICS = "text/plain", "application/openmetrics-text"


@dataclass(frozen=True)
class Parameter:
    """One that stands in the path, the query or a header; arrays and objects of a query as
    OpenAPI's style `form` has them."""

    name: str
    place: Literal["path", "query", "header"]
    schema: Schema
    words: str
    explode: bool = True
    """Whether the values of an array are parameters of their own, and not separated by commas."""


@dataclass(frozen=True)
class Answer:
    """A status, when it comes, its bodies by media type, and its headers, of `shapes.HEADERS`."""

    status: int
    words: str
    content: Mapping[str, Schema] = field(default_factory=dict)
    headers: Sequence[str] = ()


@dataclass(frozen=True)
class Door:
    """A view, and the requests that reach it. Doors of the same path share its answer to other methods."""

    path: str
    """The path, with `{vin}` for all that comes after."""
    view: View
    """Its docstring's first paragraph is the description."""
    methods: Sequence[str]
    answers: Sequence[Answer]
    permission: Permission | None
    """The permission without which it answers 403; None where it is open to all."""
    short: bool = False
    """Whether it answers without `/-/vin` as well, unless the setting `short_routes` says no."""
    writes: bool = False
    """Whether it changes something, and so refuses pages of other sites (`guard.write_refusal`)."""
    asks: bool = False
    """Whether it asks a source, for which `vin-lookup` is needed."""
    parameters: Sequence[Parameter] = ()
    bodies: Mapping[str, Schema] = field(default_factory=dict)
    """The bodies that it takes, by media type."""

    def paths(self, *, short: bool) -> list[str]:
        """The paths at which it is, where short aliases answer or do not."""
        return [self.path, self.path.removeprefix(OWN)] if self.short and short else [self.path]


READ, POST = ("GET", "HEAD"), ("POST",)

_VIN = Parameter("vin", "path", {"type": "string", "minLength": 1}, "The VIN; blanks, hyphens and case are forgiven.")
_KNOWN = Parameter("If-None-Match", "header", {"type": "string"}, "The ETag of an answer that is at hand (RFC 9110).")
_PROVENANCE = ("Cache-Status", "Age", "Vin-Source")


def _error(status: int, words: str, *headers: str, page: bool = False) -> Answer:
    """An error in JSON; `page` where a browser can get Datasette's page instead."""
    return Answer(status, words, {JSON: ref("Error"), **({HTML: shapes.TEXT} if page else {})}, headers)


_UNUSABLE = _error(503, "The cache cannot be used, or the server is shutting down.", "Retry-After")
_NOBODY = _error(
    503,
    "No source could be asked, the cache cannot be used, or the server is shutting down.",
    "Retry-After",
    "Cache-Status",
)
_NO_VEHICLE = _error(404, "There is no such vehicle; the error says why.", *_PROVENANCE)
_BLIND = _error(403, "Who asks may not see the vehicles.")
_SAME = Answer(304, "The answer is the one that is at hand.", headers=("ETag",))
_BUSY = _error(429, "As many lookups as are allowed wait for a source, or VINs for their turn.", "Retry-After")
_FOREIGN = "or another site's page asks it."


def _bad_list(most: int) -> list[Answer]:
    return [
        _error(400, "This is no list of VINs; the error says why."),
        _error(408, "The body took too long to come."),
        _error(413, f"There are more than {most:,} VINs, or too many bytes."),
        _error(415, "VINs are not taken in this media type."),
    ]


def _list_bodies(most: int) -> dict[str, Schema]:
    return {JSON: shapes.vins(most), FORM: shapes.VINS_FORM, "text/plain": shapes.TEXT, "text/csv": shapes.TEXT}


DOORS: tuple[Door, ...] = (
    Door(
        f"{OWN}/lookup/{{vin}}",
        routes.lookup,
        READ,
        short=True,
        permission="view-table",
        asks=True,
        parameters=[_VIN, _KNOWN],
        answers=[
            Answer(200, "A vehicle.", {JSON: ref("Vehicle")}, [*_PROVENANCE, "ETag"]),
            _SAME,
            _error(403, "Who asks may not see the vehicles, or not ask about one that is not cached."),
            _NO_VEHICLE,
            _BUSY,
            _NOBODY,
        ],
    ),
    Door(
        f"{OWN}/lookup",
        lookup_page.page,
        READ,
        short=True,
        permission="view-table",
        asks=True,
        parameters=[Parameter("vin", "query", {"type": "string"}, "A VIN to be led to.")],
        answers=[
            Answer(200, "The page.", {HTML: shapes.TEXT}),
            Answer(302, "The way to the vehicle.", headers=["Location"]),
            _error(403, "Who asks may not see the vehicles, or not ask about one that is not cached.", page=True),
            Answer(404, "There is no such vehicle; the page says why.", {HTML: shapes.TEXT}),
            Answer(429, "As many lookups as are allowed wait for a source.", {HTML: shapes.TEXT}),
            _error(503, "No source could be asked, or the cache cannot be used.", page=True),
        ],
    ),
    Door(
        f"{OWN}/lookup",
        routes.many,
        POST,
        short=True,
        permission="view-table",
        writes=True,
        asks=True,
        parameters=[
            Parameter(
                "_extra",
                "query",
                {"type": "array", "items": {"enum": EXTRAS}},
                "What each line says besides.",
                explode=False,
            )
        ],
        bodies=_list_bodies(MOST_VINS),
        answers=[
            Answer(200, "JSON lines, each of the schema Line, as they are answered.", {JSON_LINES: shapes.TEXT}),
            *_bad_list(MOST_VINS),
            _error(403, f"Who asks may not see the vehicles, {_FOREIGN}", page=True),
            _error(429, "As many lists as are allowed are under way, or VINs wait.", "Retry-After"),
            _UNUSABLE,
        ],
    ),
    Door(
        f"{OWN}/remove/{{vin}}",
        routes.remove,
        ("POST", "DELETE"),
        short=True,
        permission="vin-remove",
        writes=True,
        parameters=[_VIN],
        answers=[
            Answer(200, "Whether the cache held an answer.", {JSON: {"type": "boolean"}}),
            Answer(303, "The way to the vehicles, for a browser's form.", headers=["Location"]),
            _error(403, f"Who asks may not remove vehicles, {_FOREIGN}", page=True),
            _error(503, "The cache cannot be written.", "Retry-After"),
        ],
    ),
    Door(
        f"{OWN}/export",
        routes.export,
        READ,
        short=True,
        permission="vin-export",
        parameters=[
            Parameter("_col", "query", {"type": "array", "items": shapes.COLUMN}, "The columns to have; vin always."),
            Parameter("_nocol", "query", {"type": "array", "items": shapes.COLUMN}, "The columns not to have."),
            Parameter("_raw", "query", {"enum": ["1", "0", "on", "off", ""]}, "Whether to add vPIC's whole records."),
            Parameter(
                "filters",
                "query",
                {"type": "object", "additionalProperties": {"type": "string"}},
                "Datasette's column filters, such as make=HONDA and model_year__gte=2015.",
            ),
        ],
        answers=[
            Answer(200, "One Parquet file.", {PARQUET: shapes.BINARY}, ["Content-Disposition"]),
            _error(400, "A column, filter or option does not exist."),
            _error(403, "Who asks may not export the cache."),
            _error(429, "As many exports as are allowed are under way.", "Retry-After"),
            _UNUSABLE,
        ],
    ),
    Door(
        f"{OWN}/refresh/{{vin}}",
        refresh.refresh,
        POST,
        permission="vin-lookup",
        writes=True,
        asks=True,
        parameters=[_VIN],
        answers=[
            Answer(200, "A vehicle.", {JSON: ref("Vehicle")}, [*_PROVENANCE, "ETag"]),
            Answer(303, "The way to the vehicle, for a browser's form.", headers=["Location"]),
            _error(403, f"Who asks may not ask a source, {_FOREIGN}", page=True),
            _NO_VEHICLE,
            _BUSY,
            _NOBODY,
        ],
    ),
    Door(
        f"{OWN}.json",
        routes.state,
        READ,
        permission="view-table",
        answers=[Answer(200, "The state.", {JSON: ref("State")}), _BLIND, _UNUSABLE],
    ),
    Door(
        f"{OWN}/lists",
        lookup_page.keep_list,
        POST,
        permission="view-table",
        writes=True,
        bodies=_list_bodies(MOST_LISTED),
        answers=[
            Answer(200, "The name of the list.", {JSON: ref("List")}),
            *_bad_list(MOST_LISTED),
            _error(403, f"Who asks may not see the vehicles, {_FOREIGN}", page=True),
            _UNUSABLE,
        ],
    ),
    Door(
        f"{OWN}/metrics",
        metrics.metrics,
        READ,
        permission="view-table",
        answers=[Answer(200, "Metrics.", {PROMETHEUS: shapes.TEXT, OPENMETRICS: shapes.TEXT}), _BLIND, _UNUSABLE],
    ),
    Door(
        f"{OWN}/live",
        health.live,
        READ,
        permission=None,
        answers=[Answer(200, "It lives.", {JSON: ref("Health")})],
    ),
    Door(
        f"{OWN}/ready",
        health.ready,
        READ,
        permission=None,
        answers=[Answer(200, "It can answer.", {JSON: ref("Health")}), _error(503, "It cannot; the error says why.")],
    ),
    Door(
        f"{OWN}/openapi.json",
        openapi.openapi,
        READ,
        permission="view-instance",
        parameters=[_KNOWN],
        answers=[
            Answer(200, "An OpenAPI document.", {JSON: {"type": "object"}}, ["ETag"]),
            _SAME,
            _error(403, "Who asks may not see the instance."),
        ],
    ),
)


def registered(*, short: bool) -> list[tuple[str, View]]:
    """The patterns of the paths, and what answers there, as Datasette registers them; `short` is the setting
    `short_routes`."""
    by_path: dict[str, dict[str, View]] = {}
    for door in DOORS:
        for path in door.paths(short=short):
            by_path.setdefault(path, {}).update(dict.fromkeys(door.methods, door.view))
    return [(_pattern(path), _by_method(views)) for path, views in by_path.items()]


def _pattern(path: str) -> str:
    return f"^{re.escape(path).replace(re.escape('{vin}'), '(?P<vin>.*)')}$"


def _by_method(views: Mapping[str, View]) -> View:
    async def answered(request: Request, datasette: Datasette) -> Response:
        refusal = method_refusal(datasette, request, *views)
        return refusal or await views[request.method](request, datasette)

    # Datasette asks for it at each request, and to make it takes longer than to read a vehicle.
    answered.__signature__ = _SIGNATURE  # type: ignore[attr-defined]
    return answered


_SIGNATURE = inspect.signature(routes.lookup)
