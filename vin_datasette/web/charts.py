"""Charts of the vehicles of a table page: how many there are of each make, model year, body
class, fuel type and country, drawn on the server, each bar a link to its rows.

All columns are counted in one pass over one index. Where that takes too long, each column is
counted alone, and those that still take too long say so."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode

from datasette import NotFound
from datasette.database import QueryInterrupted
from datasette.utils import sqlite3

from vin_datasette.schema import CHARTED, CHARTS_INDEX, VEHICLES
from vin_datasette.web import analyses, html
from vin_datasette.web.page_query import NOT_THE_ROWS, PageError, PageQuery, page_query
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from datasette import Request, Response
    from datasette.app import Datasette
    from datasette.database import Database

TITLES = {
    "model_year": "Model year",
    "make": "Make",
    "body_class": "Body class",
    "fuel_type": "Fuel type",
    "plant_country": "Country of the plant",
}
"""The headings of the charts, in the order of the page."""

LARGEST = 12
"""Bars of a chart; what is left is one more."""

YEARS = range(1900, 2101)
"""Years that have a place on the axis; VINs in use name 1980 to 2039 (49 CFR 565.15, table VII)."""

NOT_KNOWN = "not known"

# Charts have the rows in no order, and all columns.
_WHOLE = {"_sort": "vin", "_sort_desc": None, "_sort_by_desc": None, "_col": None, "_nocol": None}
_ORDER = "order by vin"
_SORTED = "sorted by vin"

# How a page is shown stays with the reader who follows a link; which part of it does not.
_NOT_LINKED = {*NOT_THE_ROWS, "_nosuggest"} - {"_facet", "_facet_array", "_facet_date", "_size"}


@dataclass(frozen=True)
class Bar:
    """So many vehicles have this value; where their rows are, where that can be said in a link."""

    label: str
    vehicles: int
    share: float
    """Of all vehicles, from 0 to 1."""
    length: float
    """Of the longest bar of the chart, from 0 to 1; 0 for what is no value, and has no bar."""
    href: str | None
    known: bool = True

    @property
    def percent(self) -> str:
        """The share in words."""
        return "<0.1%" if 0 < self.share < 0.0005 else f"{self.share:.1%}"


@dataclass(frozen=True)
class Column:
    """A year on the axis; lengths in percent of the drawing."""

    year: int
    bar: Bar
    left: float
    width: float


@dataclass(frozen=True)
class Chart:
    """One column of the vehicles, counted. `too_slow` when it could not be within the time limit."""

    column: str
    bars: Sequence[Bar] = ()
    years: Sequence[Column] = ()
    ticks: Sequence[tuple[int, float]] = ()
    """Years to write under the axis, and where, in percent of the drawing."""
    total: int = 0
    too_slow: bool = False

    @property
    def title(self) -> str:
        """The heading."""
        return TITLES[self.column]


@dataclass
class _Counted:
    """What SQLite counted of one column: the largest values first."""

    values: list[tuple[Any, int]] = field(default_factory=list)
    different: int = 0
    total: int = 0
    has_unknown: bool = False


def can_render_charts(datasette: Datasette, database: str, table: str | None, view_name: str) -> bool:
    """Whether a page is the table page of the cache's vehicles."""
    return view_name == "table" and table == VEHICLES and database == state_of(datasette).database


async def render_charts(
    datasette: Datasette, request: Request, database: str, table: str | None, view_name: str
) -> Response:
    """`GET /vin/vehicles.charts`: charts of the vehicles that the table page with the same
    parameters has, under Datasette's own permissions and time limit.

    400 in words for a page that Datasette does not give. Raises `NotFound` for other pages.
    """
    if not can_render_charts(datasette, database, table, view_name) or "pks" in request.url_vars:
        raise NotFound("There are charts of the cache's vehicles only.")
    links = Links(datasette, request)
    questions = [
        {"href": datasette.urls.query(database, each.name), "title": each.title, "description": each.description}
        for each in await analyses.offered(datasette, request.actor)
    ]
    context: dict[str, Any] = {
        "database": database,
        "table": VEHICLES,
        "page_path": links.page,
        "all_path": datasette.urls.table(database, VEHICLES),
        "lookup_path": datasette.urls.path("/-/vin/lookup"),
        "questions": questions,
        "seconds": f"{datasette.setting('sql_time_limit_ms') / 1000:g} s",
        "not_known": NOT_KNOWN,
    }
    try:
        page = await page_query(datasette, request, _WHOLE)
        counted = await _counted(datasette.get_database(database), page)
    except (PageError, sqlite3.Error) as problem:
        return await html.page(datasette, request, "vin_charts.html", {**context, "problem": str(problem)}, status=400)
    charts = [_chart(column, counted.get(column), links) for column in TITLES]
    context["charts"] = charts
    context["total"] = next((chart.total for chart in charts if not chart.too_slow), None)
    context["filter"] = page.description.removesuffix(_SORTED).strip()
    return await html.page(datasette, request, "vin_charts.html", context)


class Links:
    """Links to the rows of a table page, of which the reader's own filter stays."""

    def __init__(self, datasette: Datasette, request: Request) -> None:
        self._table = datasette.urls.table(state_of(datasette).database, VEHICLES)
        asked = parse_qsl(request.query_string, keep_blank_values=True)
        self._asked = [pair for pair in asked if pair[0] not in _NOT_LINKED]

    @property
    def page(self) -> str:
        """The page itself."""
        return f"{self._table}?{urlencode(self._asked)}" if self._asked else str(self._table)

    def rows(self, column: str, value: object) -> str | None:
        """The rows that have this value in this column; None where no filter can say it."""
        if isinstance(value, bytes):
            return None
        equal = {column, f"{column}__exact", f"{column}__isnull"}
        asked = [pair for pair in self._asked if pair[0] not in equal]
        return self._to([*asked, (f"{column}__isnull", "1") if value is None else (column, str(value))])

    def others(self, column: str, values: Iterable[object]) -> str | None:
        """The rows that have none of these values and are known; None where no filter can say it."""
        excluded = [value for value in values if value is not None]
        if any(isinstance(value, bytes) for value in excluded):
            return None
        return self._to([*self._asked, (f"{column}__notin", json.dumps(excluded, ensure_ascii=False))])

    def _to(self, parameters: list[tuple[str, str]]) -> str:
        # Many rows of one value lie in the order of their VINs; for another order all of them are read.
        sorted_already = {"_sort", "_sort_desc"} & {name for name, _ in parameters}
        return f"{self._table}?{urlencode(parameters if sorted_already else [*parameters, ('_sort', 'vin')])}"


async def _counted(db: Database, page: PageQuery) -> dict[str, _Counted]:
    """The counts by column; without those that took longer than the time limit. Raises `sqlite3.Error`."""
    sql = page.sql.removesuffix(_ORDER)
    try:
        return await _count(db, await _by_index(db, sql, page.parameters), page.parameters, CHARTED)
    except QueryInterrupted:
        parts = await asyncio.gather(*(_alone(db, sql, page.parameters, column) for column in CHARTED))
        return {column: counted for part in parts for column, counted in part.items()}


async def _alone(db: Database, sql: str, parameters: dict[str, Any], column: str) -> dict[str, _Counted]:
    try:
        return await _count(db, sql, parameters, [column])
    except QueryInterrupted:
        return {}


async def _by_index(db: Database, sql: str, parameters: dict[str, Any]) -> str:
    """The page's SQL, made to use the index of all charted columns where it needs no other: SQLite
    would rather look up many rows by a narrower index, and read each of them."""
    forced = sql.replace(f" from {VEHICLES} ", f" from {VEHICLES} indexed by {CHARTS_INDEX} ", 1)
    try:
        plan = await db.execute(f"explain query plan {_counting(forced, CHARTED)}", parameters, log_sql_errors=False)
    except sqlite3.OperationalError:
        return sql
    covered = any(f"COVERING INDEX {CHARTS_INDEX}" in row["detail"] for row in plan.rows)
    return forced if covered else sql


async def _count(db: Database, sql: str, parameters: dict[str, Any], columns: Sequence[str]) -> dict[str, _Counted]:
    counted = {column: _Counted() for column in columns}
    for row in (await db.execute(_counting(sql, columns), parameters, log_sql_errors=False)).rows:
        into = counted[row["charted"]]
        into.values.append((row["value"], row["vehicles"]))
        into.different, into.total, into.has_unknown = row["different"], row["total"], bool(row["has_unknown"])
    return counted


def _counting(sql: str, columns: Sequence[str]) -> str:
    """SQL that counts the rows of `sql` by each of `columns`, and reads them once."""
    listed = ", ".join(columns)
    each = " union all ".join(
        f"""select * from (
            select '{column}' as charted, {column} as value, sum(vehicles) as vehicles,
                count(*) over () as different, sum(sum(vehicles)) over () as total,
                max({column} is null) over () as has_unknown
            from kinds group by {column} order by 3 desc, 2 limit {len(YEARS) if column == "model_year" else LARGEST}
        )"""  # noqa: S608 - names of columns are our own  # nosec B608
        for column in columns
    )
    # On a line of its own the parenthesis is not swallowed by a comment at the end.
    return f"""with kinds as (select {listed}, count(*) as vehicles from (
        {sql}
        ) group by {listed})
        {each}"""  # noqa: S608 - Datasette's own SQL, run as Datasette runs it  # nosec B608


def _chart(column: str, counted: _Counted | None, links: Links) -> Chart:
    if counted is None:
        return Chart(column, too_slow=True)
    years = {}
    if column == "model_year":
        years = {value: number for value, number in counted.values if isinstance(value, int) and value in YEARS}
    columns, ticks = _axis(column, years, counted.total, links) if years else ([], [])
    return Chart(column, _bars(column, counted, years, links), columns, ticks, counted.total)


def _bars(column: str, counted: _Counted, elsewhere: Mapping[Any, int], links: Links) -> list[Bar]:
    """Bars of the largest values that are not drawn elsewhere, and one of all others if there are more."""
    longest = max((number for _, number in counted.values), default=1)
    shown = [(value, number) for value, number in counted.values if value not in elsewhere][:LARGEST]
    bars = [
        _bar(_label(value), number, counted.total, longest, links.rows(column, value), known=value is not None)
        for value, number in shown
    ]
    drawn = {**elsewhere, **dict(shown)}
    others = counted.different - len(drawn)
    if others:
        label = "1 other" if others == 1 else f"{others:,} others"
        # Excluding values excludes what is not known as well.
        href = links.others(column, drawn) if None in drawn or not counted.has_unknown else None
        number = counted.total - sum(drawn.values())
        bars.append(Bar(label, number, number / counted.total, 0.0, href, known=False))
    return bars


def _axis(
    column: str, years: Mapping[int, int], total: int, links: Links
) -> tuple[list[Column], list[tuple[int, float]]]:
    """Years in their order, with a gap for each that has no vehicle, and those to write under them."""
    first, last, longest = min(years), max(years), max(years.values())
    # A few years alone would be as wide as walls.
    width = 100 / max(last - first + 1, 12)
    columns = [
        Column(
            year,
            _bar(str(year), number, total, longest, links.rows(column, year)),
            (year - first) * width,
            width,
        )
        for year, number in sorted(years.items())
    ]
    step = next(step for step in (1, 2, 5, 10, 20, 50) if (last - first) / step <= 6)
    ticks = [(year, (year - first + 0.5) * width) for year in range(first, last + 1) if year % step == 0]
    return columns, ticks


def _bar(label: str, vehicles: int, total: int, longest: int, href: str | None, *, known: bool = True) -> Bar:
    return Bar(label, vehicles, vehicles / total, vehicles / longest, href, known)


def _label(value: object) -> str:
    if value is None:
        return NOT_KNOWN
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    return str(value) if str(value).strip() else "blank"
