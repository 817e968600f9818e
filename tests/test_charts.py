"""`/vin/vehicles.charts`: how many vehicles there are of each kind, and where their rows are."""

from __future__ import annotations

import html
import re
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from datasette import hookimpl
from datasette.database import Database, QueryInterrupted
from datasette.plugins import pm

from tests.conftest import DATASETTE_1
from vin_datasette.cache import Cache
from vin_datasette.schema import CHARTED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance

HOSTILE = [
    "",
    " ",
    " FORD",
    "FORD ",
    "FORD, GMC",
    "100%",
    'the "best"',
    "it's",
    "<script>alert(1)</script>",
    "a&b=c;d#e?f+g",
    '["FORD"]',
    "007",
    "7",
    "null",
    "FORD__gt",
    "Škoda 名",
    "x\ty",
    "_search=x",
]
"""Makes that a filter or a page could misread."""


def fill(path: Path, vehicles: Sequence[dict[str, Any]]) -> None:
    """A cache of these vehicles, of which the makes are known."""
    cache = Cache(path)
    cache.open()
    cache.close()
    with closing(sqlite3.connect(path)) as connection:
        for number, vehicle in enumerate(vehicles):
            row = {
                "vin": f"1HGCM82633A{number:06}",
                "make": "HONDA",
                "source": "vpic",
                "fetched_at": "2026-01-01T00:00:00Z",
                "record": "{}",
                **vehicle,
            }
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO vehicles ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        connection.commit()


async def text_at(datasette: Datasette, path: str, status: int = 200, **options: Any) -> str:
    response = await datasette.client.get(path, **options)
    assert response.status_code == status, response.text
    return str(response.text)


async def charts(datasette: Datasette, query: str = "") -> str:
    """The page of charts."""
    return await text_at(datasette, f"/vin/vehicles.charts{query}")


def section(page: str, column: str) -> str:
    """The chart of a column."""
    found = re.search(rf'<section[^>]*aria-labelledby="vin-chart-{column}">(.*?)</section>', page, re.DOTALL)
    assert found
    return found[1]


ITEM = re.compile(
    r'<li[^>]*>(?:<a href="(?P<href>[^"]*)">|<span class="nowhere">)<span class="label">(?P<label>[^<]*)</span>'
    r' <span class="vehicles">(?P<vehicles>[\d,]+)</span> <span class="share">(?P<share>[^<]*)</span>'
)


def bars(page: str, column: str) -> dict[str, tuple[int, str]]:
    """The bars of a column's chart: vehicles and share by label."""
    return {
        html.unescape(item["label"]): (int(item["vehicles"].replace(",", "")), html.unescape(item["share"]))
        for item in ITEM.finditer(_without_years(section(page, column)))
    }


def links(page: str, column: str) -> dict[str, tuple[int, str | None]]:
    """The bars of a column's chart: vehicles and link by label."""
    return {
        html.unescape(item["label"]): (
            int(item["vehicles"].replace(",", "")),
            html.unescape(item["href"]) if item["href"] else None,
        )
        for item in ITEM.finditer(_without_years(section(page, column)))
    }


def _without_years(chart: str) -> str:
    return re.sub(r"<details.*?</details>", "", chart, flags=re.DOTALL)


def years(page: str) -> dict[str, str]:
    """The columns of the years: the name of each link, and where it leads."""
    found = re.findall(r'<a href="([^"]*)" aria-label="([^"]*)">', section(page, "model_year"))
    return {name: html.unescape(href) for href, name in found}


async def vins_at(datasette: Datasette, href: str) -> list[str]:
    """The VINs on a table page, which is asked for as JSON."""
    url = urlsplit(href)
    query = urlencode([*parse_qsl(url.query, keep_blank_values=True), ("_shape", "array"), ("_size", "max")])
    response = await datasette.client.get(f"{url.path}.json?{query}")
    assert response.status_code == 200, response.text
    return [row["vin"] for row in response.json()]


@pytest.fixture
async def fleet(make_instance: MakeInstance, tmp_path: Path) -> Datasette:
    """A fleet of ten."""
    fill(
        tmp_path / "vin.db",
        [
            *({"make": "HONDA", "model_year": 2003, "body_class": "Coupe", "fuel_type": "Gasoline"} for _ in range(4)),
            *({"make": "FORD", "model_year": 2003, "body_class": "Pickup", "fuel_type": "Diesel"} for _ in range(3)),
            *(
                {"make": "FORD", "model_year": 2007, "body_class": "Pickup", "plant_country": "CANADA"}
                for _ in range(2)
            ),
            {"make": "GMC", "model_year": None},
        ],
    )
    return await make_instance()


# What is counted


async def test_all_vehicles_are_counted(fleet: Datasette) -> None:
    page = await charts(fleet)
    assert "<h1>10 vehicles</h1>" in page
    assert bars(page, "make") == {"FORD": (5, "50.0%"), "HONDA": (4, "40.0%"), "GMC": (1, "10.0%")}
    assert bars(page, "body_class") == {"Pickup": (5, "50.0%"), "Coupe": (4, "40.0%"), "not known": (1, "10.0%")}
    assert bars(page, "fuel_type") == {"Gasoline": (4, "40.0%"), "Diesel": (3, "30.0%"), "not known": (3, "30.0%")}
    assert bars(page, "plant_country") == {"not known": (8, "80.0%"), "CANADA": (2, "20.0%")}


async def test_the_largest_bar_is_as_long_as_the_chart(fleet: Datasette) -> None:
    lengths = re.findall(
        r'<rect width="([\d.]+)%" height="8" rx="2" class="bar">', section(await charts(fleet), "make")
    )
    assert lengths == ["100.0", "80.0", "20.0"]


FILTERS = {
    "make": ("make=FORD", 5),
    "two columns": ("make=FORD&model_year=2003", 3),
    "range": ("model_year__gte=2005", 2),
    "several": ("make__in=FORD,GMC", 6),
    "unknown": ("fuel_type__isnull=1", 3),
    "another column": ("vin__endswith=1", 1),
    "search": ("_search=ford", 5),
    "where": ("_where=model_year+%3C+2005", 7),
    "where with a comment": ("_where=model_year+%3C+2005+--&_nofacet=1", 7),
    "columns of the table": ("make=FORD&_col=vin", 5),
    "columns left out": ("make=FORD&_nocol=make&_nocol=model_year", 5),
    "a later page": ("_size=2&_next=2026-01-01T00~3A00~3A00Z%2C1HGCM82633A000003", 10),
    "order": ("make=FORD&_sort=model_year", 5),
    "descending order": ("make=FORD&_sort_desc=model_year", 5),
    "facets": ("_facet=make&_facet_size=2", 10),
    "no count": ("_nocount=1&_nofacet=1", 10),
}


@pytest.mark.parametrize(("query", "vehicles"), FILTERS.values(), ids=FILTERS)
async def test_the_filter_of_the_table_page_holds(fleet: Datasette, query: str, vehicles: int) -> None:
    page = await charts(fleet, f"?{query}")
    assert f"<h1>{vehicles} vehicle{'s' if vehicles != 1 else ''}</h1>" in page
    for column in ("make", "body_class", "fuel_type", "plant_country"):
        assert sum(number for number, _ in bars(page, column).values()) == vehicles


async def test_the_filter_is_told_in_datasettes_words(fleet: Datasette) -> None:
    page = await charts(fleet, "?make=FORD&_search=pickup&_sort_desc=model_year")
    assert "where search matches &#34;pickup&#34; and make = &#34;FORD&#34;</p>" in page


async def test_without_a_filter_none_is_told(fleet: Datasette) -> None:
    assert 'class="vin-filter"' not in await charts(fleet)


async def test_a_link_leads_back_to_the_same_rows(fleet: Datasette) -> None:
    page = await charts(fleet, "?make=FORD&_sort=model_year&_nofacet=1")
    assert '<a href="/vin/vehicles?make=FORD&amp;_sort=model_year">These vehicles as a table</a>' in page


# Where the bars lead


@pytest.mark.parametrize("column", CHARTED)
async def test_bars_lead_to_as_many_rows(fleet: Datasette, column: str) -> None:
    page = await charts(fleet)
    for vehicles, href in links(page, column).values():
        assert href
        assert len(await vins_at(fleet, href)) == vehicles


async def test_bars_keep_the_filter(fleet: Datasette) -> None:
    page = await charts(fleet, "?make=FORD&_search=pickup")
    vehicles, href = links(page, "fuel_type")["Diesel"]
    assert parse_qsl(urlsplit(href or "").query) == [
        ("make", "FORD"),
        ("_search", "pickup"),
        ("fuel_type", "Diesel"),
        ("_sort", "vin"),
    ]
    assert len(await vins_at(fleet, href or "")) == vehicles == 3


@pytest.mark.parametrize("query", ["make=FORD", "make__exact=FORD"])
async def test_a_bar_takes_the_place_of_an_equal_filter(fleet: Datasette, query: str) -> None:
    _, href = links(await charts(fleet, f"?{query}"), "make")["FORD"]
    assert parse_qsl(urlsplit(href or "").query) == [("make", "FORD"), ("_sort", "vin")]


async def test_a_bar_keeps_the_readers_order(fleet: Datasette) -> None:
    _, href = links(await charts(fleet, "?_sort_desc=model"), "make")["FORD"]
    assert parse_qsl(urlsplit(href or "").query) == [("_sort_desc", "model"), ("make", "FORD")]


@pytest.mark.parametrize("column", ["make", "body_class", "fuel_type", "plant_country"])
@pytest.mark.parametrize("half", [0, 1])
async def test_hostile_values_lead_to_their_rows(
    make_instance: MakeInstance, tmp_path: Path, column: str, half: int
) -> None:
    values = HOSTILE[half::2]
    vehicles = [{column: value} for times, value in enumerate(values, 1) for _ in range(times)]
    fill(tmp_path / "vin.db", vehicles)
    datasette = await make_instance()
    page = await charts(datasette)
    found = links(page, column)
    assert "<script>alert(1)</script>" not in page
    assert [number for number, _ in found.values()] == [*range(len(values), 0, -1)]
    for vehicles_of_it, href in found.values():
        assert href
        assert len(await vins_at(datasette, href)) == vehicles_of_it


async def test_blank_values_have_a_name(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [{"make": ""}])
    assert list(bars(await charts(await make_instance()), "make")) == ["blank"]


async def test_bytes_lead_nowhere(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [{"fuel_type": b"\x00\xff"}])
    assert links(await charts(await make_instance()), "fuel_type") == {"2 bytes": (1, None)}


async def test_small_shares_are_not_none(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [*({"make": "FORD"} for _ in range(2_500)), {"make": "GMC"}])
    page = await charts(await make_instance())
    assert "<h1>2,501 vehicles</h1>" in page
    assert bars(page, "make") == {"FORD": (2_500, "100.0%"), "GMC": (1, "<0.1%")}


# The others


def makes(count: int) -> list[dict[str, Any]]:
    """As many makes, of which the first has one vehicle, the second two …"""
    return [
        {"make": f"MAKE, {n:02}", "body_class": f"B{n}" if n > 1 else None} for n in range(count) for _ in range(n + 1)
    ]


async def test_the_twelve_largest_have_bars_and_the_others_one(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", makes(15))
    page = await charts(await make_instance())
    assert [number for number, _ in bars(page, "make").values()] == [*range(15, 3, -1), 6]
    assert list(bars(page, "make"))[-1] == "3 others"


async def test_the_others_lead_to_their_rows(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", makes(14))
    datasette = await make_instance()
    vehicles, href = links(await charts(datasette), "make")["2 others"]
    assert len(await vins_at(datasette, href or "")) == vehicles == 3


async def test_others_among_which_something_is_not_known_lead_nowhere(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    fill(tmp_path / "vin.db", makes(15))
    found = links(await charts(await make_instance()), "body_class")
    assert found["2 others"] == (6, None)


# Years


async def test_years_have_links_with_names(fleet: Datasette) -> None:
    found = years(await charts(fleet))
    assert list(found) == ["2003: 7 vehicles", "2007: 2 vehicles"]
    assert len(await vins_at(fleet, found["2003: 7 vehicles"])) == 7


async def test_years_without_vehicles_are_gaps(fleet: Datasette) -> None:
    chart = section(await charts(fleet), "model_year")
    places = [float(x) for x in re.findall(r'<rect class="hit" x="([\d.]+)%"', chart)]
    width = float(re.findall(r'<rect class="hit" [^>]*width="([\d.]+)%"', chart)[0])
    assert places == [0.0, pytest.approx(4 * width, abs=0.01)]


async def test_years_stand_under_the_axis(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [{"model_year": year} for year in range(1984, 2026)])
    chart = section(await charts(await make_instance()), "model_year")
    assert re.findall(r"<text[^>]*>(\d+)</text>", chart) == ["1990", "2000", "2010", "2020"]


async def test_one_year_is_a_chart(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [{"model_year": 2003}])
    assert list(years(await charts(await make_instance()))) == ["2003: 1 vehicle"]


async def test_what_is_no_year_stands_beneath(make_instance: MakeInstance, tmp_path: Path) -> None:
    odd = [None, 99_999, -1, "unknown", 2003.5]
    fill(tmp_path / "vin.db", [{"model_year": year} for year in [2003, *odd]])
    datasette = await make_instance()
    page = await charts(datasette)
    assert list(years(page)) == ["2003: 1 vehicle"]
    found = links(page, "model_year")
    assert set(found) == {"not known", "99999", "-1", "unknown", "2003.5"}
    for vehicles, href in found.values():
        assert len(await vins_at(datasette, href or "")) == vehicles == 1


async def test_the_years_stand_in_a_list_as_well(fleet: Datasette) -> None:
    listed = re.search(r"<details.*?</details>", section(await charts(fleet), "model_year"), re.DOTALL)
    assert listed
    assert [item["label"] for item in ITEM.finditer(listed[0])] == ["2007", "2003"]


# What can go wrong


async def test_when_no_vehicle_matches_the_page_says_so(fleet: Datasette) -> None:
    page = await charts(fleet, "?make=TATRA")
    assert "<h1>No vehicles</h1>" in page
    assert '<a href="/vin/vehicles">See all vehicles</a>' in page
    assert '<a href="/-/vin/lookup">look up a VIN</a>' in page


async def test_an_empty_cache_says_so(make_instance: MakeInstance) -> None:
    page = await charts(await make_instance())
    assert "No vehicle was looked up yet." in page


@pytest.mark.parametrize("query", ["_where=no+such+sql", "_search_no_such=1"])
async def test_what_datasette_cannot_answer_is_told_in_its_words(fleet: Datasette, query: str) -> None:
    page = await text_at(fleet, f"/vin/vehicles.charts?{query}", 400)
    assert "Traceback" not in page
    assert re.search("syntax error|Cannot search by that column", page)


async def test_a_page_that_datasette_does_not_give_to_us_is_told(
    fleet: Datasette, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Database.execute

    async def failing(self: Database, sql: str, *args: Any, **options: Any) -> Any:
        if sql.startswith("with kinds"):
            raise sqlite3.OperationalError("disk I/O error")
        return await execute(self, sql, *args, **options)

    monkeypatch.setattr(Database, "execute", failing)
    page = await text_at(fleet, "/vin/vehicles.charts?make=FORD", 400)
    assert "The charts cannot be drawn: disk I/O error." in page
    assert '<a href="/vin/vehicles?make=FORD">These vehicles as a table</a>' in page


async def test_who_may_not_see_the_vehicles_sees_no_charts(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"tables": {"vehicles": {"allow": {"id": "ann"}}}}}})
    await text_at(datasette, "/vin/vehicles.charts", 403)
    cookies = {"ds_actor": datasette.sign({"a": {"id": "ann"}}, "actor")}
    assert "No vehicle was looked up yet." in await text_at(datasette, "/vin/vehicles.charts", cookies=cookies)


async def test_a_where_of_who_may_not_execute_sql_is_refused(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"allow_sql": False}}})
    await text_at(datasette, "/vin/vehicles.charts?_where=1", 403)
    await text_at(datasette, "/vin/vehicles.charts")


@pytest.mark.parametrize(
    "path", ["/vin/rejections.charts", "/vin/vehicles/1HGCM82633A000000.charts", "/data/vehicles.charts"]
)
async def test_other_pages_have_no_charts(make_instance: MakeInstance, tmp_path: Path, path: str) -> None:
    fill(tmp_path / "vin.db", [{}])
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection:
        connection.execute("CREATE TABLE vehicles (make)")
    datasette = await make_instance(files=[str(tmp_path / "data.db")])
    page = await text_at(datasette, path, 404)
    assert "There are charts of the cache&#39;s vehicles only." in page
    table_page = await text_at(datasette, path.removesuffix(".charts"))
    assert ">charts</a>" not in table_page


async def test_a_query_has_no_charts(make_instance: MakeInstance) -> None:
    path = "/vin/-/query" if DATASETTE_1 else "/vin"
    datasette = await make_instance()
    await text_at(datasette, f"{path}.charts?sql=select+1", 404)
    assert ">charts</a>" not in await text_at(datasette, f"{path}?sql=select+1")


# Time


@pytest.fixture
def sleepy() -> Iterator[None]:
    """An SQL function that takes a millisecond."""

    class Plugin:
        __name__ = "sleepy"

        @hookimpl  # type: ignore[untyped-decorator]
        def prepare_connection(self, conn: sqlite3.Connection) -> None:
            def sleepy() -> int:
                time.sleep(0.001)
                return 1

            conn.create_function("sleepy", 0, sleepy)

    pm.register(Plugin(), "sleepy")
    yield
    pm.unregister(name="sleepy")


@pytest.mark.usefixtures("sleepy")
async def test_counts_that_take_too_long_are_told(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [{} for _ in range(2_000)])
    datasette = await make_instance(settings={"sql_time_limit_ms": 600})
    began = time.monotonic()
    page = await charts(datasette, "?_where=sleepy()&_sort=vin&_nofacet=1&_nocount=1")
    assert time.monotonic() - began < 5 * 0.6
    assert page.count("Counting this took longer than 0.6 s: narrow the filter.") == len(CHARTED)
    assert "<h1>Charts of vehicles</h1>" in page


async def test_a_column_that_takes_too_long_does_not_cost_the_others(
    fleet: Datasette, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = Database.execute

    async def slow(self: Database, sql: str, *args: Any, **options: Any) -> Any:
        if sql.startswith("with kinds") and "'fuel_type' as charted" in sql:
            raise QueryInterrupted(sqlite3.OperationalError("interrupted"), sql, {})
        return await execute(self, sql, *args, **options)

    monkeypatch.setattr(Database, "execute", slow)
    page = await charts(fleet)
    assert "took longer than 1 s" in section(page, "fuel_type")
    assert page.count("took longer") == 1
    assert "<h1>10 vehicles</h1>" in page
    assert bars(page, "make") == {"FORD": (5, "50.0%"), "HONDA": (4, "40.0%"), "GMC": (1, "10.0%")}
    assert list(years(page)) == ["2003: 7 vehicles", "2007: 2 vehicles"]


@pytest.mark.parametrize(
    "query", ["", "?body_class=Coupe", "?model_year__gte=2000", "?fuel_type__isnull=1", "?_search=f"]
)
async def test_counting_reads_no_rows(fleet: Datasette, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    """One index has all that is charted: a fleet of a million is some seconds of reading otherwise."""
    execute, plans = Database.execute, []

    async def explained(self: Database, sql: str, params: Any = None, **options: Any) -> Any:
        if sql.startswith("with kinds"):
            plan = await execute(self, f"explain query plan {sql}", params)
            plans.append(" ".join(row["detail"] for row in plan.rows))
        return await execute(self, sql, params, **options)

    monkeypatch.setattr(Database, "execute", explained)
    await charts(fleet, query)
    assert [plan.count("vehicles USING COVERING INDEX idx_vehicles_charts") for plan in plans] == [1]


# The ways to the charts


async def test_the_line_of_formats_leads_to_the_charts(fleet: Datasette) -> None:
    page = await text_at(fleet, "/vin/vehicles?make=FORD")
    assert re.search(r'<a href="/vin/vehicles\.charts\?make=FORD[^"]*">charts</a>', page)


async def test_the_menu_of_the_table_leads_to_the_charts(fleet: Datasette) -> None:
    page = await text_at(fleet, "/vin/vehicles?make=FORD&_next=x%2C1")
    found = re.search(r'<a href="(/vin/vehicles\.charts\?make=FORD&amp;[^"]*)"[^>]*>\s*Charts\b', page)
    assert found
    assert "<h1>5 vehicles</h1>" in await text_at(fleet, html.unescape(found[1]))


async def test_the_menus_of_the_cache_lead_to_the_lookup(fleet: Datasette) -> None:
    for path in ("/vin", "/vin/vehicles", "/vin/rejections", "/vin/changes", *(["/"] if DATASETTE_1 else [])):
        menu = re.search(r'class="actions-menu-links.*?</details>', await text_at(fleet, path), re.DOTALL)
        assert menu, path
        assert 'href="/-/vin/lookup"' in menu[0], path


async def test_scripts_set_links_on_the_pages_of_the_cache_and_at_home(fleet: Datasette) -> None:
    for path in ("/", "/vin", "/vin/vehicles", "/vin/rejections"):
        page = await text_at(fleet, path)
        assert "/ways_in.js" in page, path
        assert ("/charts.js" in page) == ("/charts.css" in page) == (path == "/vin/vehicles"), path


async def test_who_may_not_see_the_vehicles_is_not_led_to_them(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"tables": {"vehicles": {"allow": False}}}}})
    for path in ("/", "/vin", "/vin/rejections"):
        page = await text_at(datasette, path)
        assert "/-/vin/lookup" not in page, path
        assert "ways_in.js" not in page, path


async def test_another_database_is_left_alone(make_instance: MakeInstance, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "data.db")) as connection:
        connection.execute("CREATE TABLE vehicles (make)")
    datasette = await make_instance(files=[str(tmp_path / "data.db")])
    for path in ("/data", "/data/vehicles"):
        page = await text_at(datasette, path)
        assert "ways_in.js" not in page, path
        assert not re.search(r'class="actions-menu-links.*?-/vin/lookup.*?</details>', page, re.DOTALL), path


async def test_a_base_url_is_kept(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [{"model_year": 2003}])
    datasette = await make_instance(settings={"base_url": "/fleet/"})
    page = await text_at(datasette, "/vin/vehicles.charts")
    content = page[page.index("<main>") : page.index("</main>")]
    hrefs = re.findall(r'href="([^"]*)"', content)
    assert hrefs
    assert all(href.startswith("/fleet/") for href in hrefs)


async def test_the_page_runs_no_foreign_script(fleet: Datasette) -> None:
    response = await fleet.client.get("/vin/vehicles.charts")
    assert "default-src 'none'" in response.headers["content-security-policy"]
