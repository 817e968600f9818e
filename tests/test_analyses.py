"""The questions that the owner of a fleet asks: what they answer, and to whom."""

from __future__ import annotations

import html
import json
import re
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import DATASETTE_1
from tests.test_charts import fill, text_at
from vin_datasette.cache import Cache
from vin_datasette.vin import check_digit
from vin_datasette.web.analyses import ANALYSES
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance

TRACTOR = "1XP5DB9X7XD487964"

OF_VEHICLES = {"vehicles_by_year_and_make", "oldest_and_newest", "duplicated_serials"}
OF_REJECTIONS = {"rejections_and_why"}
OF_CHANGES = {"changed_since_last_month"}
ALL = {*OF_VEHICLES, *OF_REJECTIONS, *OF_CHANGES}


async def answer(datasette: Datasette, name: str, query: str = "", **options: Any) -> list[dict[str, Any]]:
    """The rows of an analysis."""
    response = await datasette.client.get(f"/vin/{name}.json?_shape=array&{query}", **options)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()
    return found


async def listed(datasette: Datasette, **options: Any) -> set[str]:
    """The analyses to which the database page leads."""
    page = await text_at(datasette, "/vin", **options)
    return {name for name in ALL if f'href="/vin/{name}"' in page}


def as_actor(datasette: Datasette, name: str) -> dict[str, Any]:
    return {"cookies": {"ds_actor": datasette.sign({"a": {"id": name}}, "actor")}}


def insert(path: Path, table: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Put rows into a table of the cache, which is made where there is none."""
    with closing(Cache(path)) as cache:
        cache.open()
    with closing(sqlite3.connect(path)) as connection:
        for row in rows:
            marks = ", ".join("?" * len(row))
            connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        connection.commit()


def with_check_digit(vin: str) -> str:
    return vin[:8] + check_digit(vin) + vin[9:]


# What they answer


async def test_vehicles_by_year_and_make(make_instance: MakeInstance, tmp_path: Path) -> None:
    of = [(2003, "HONDA"), (2003, "FORD"), (2003, "FORD"), (2007, "GMC"), (None, "GMC")]
    fill(tmp_path / "vin.db", [{"model_year": year, "make": make} for year, make in of])
    rows = await answer(await make_instance(), "vehicles_by_year_and_make")
    assert [(row["model_year"], row["make"], row["vehicles"]) for row in rows] == [
        (2007, "GMC", 1),
        (2003, "FORD", 2),
        (2003, "HONDA", 1),
        (None, "GMC", 1),
    ]


async def test_oldest_and_newest(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill(tmp_path / "vin.db", [{"model_year": year} for year in [None, *range(1950, 2020)]])
    rows = await answer(await make_instance(), "oldest_and_newest")
    assert [row["model_year"] for row in rows if row["which"] == "oldest"] == [*range(1950, 1975)]
    assert [row["model_year"] for row in rows if row["which"] == "newest"] == [*range(2019, 1994, -1)]


PAIRS = {
    "description": ("1HGCM82603A000001", "1HGCN82603A000001", "description"),
    "plant": ("1HGCM82603A000001", "1HGCM82603B000001", "plant"),
    "model year": ("1HGCM82603A000001", "1HGCM82604A000001", "model year"),
    "two things": ("1HGCM82603A000001", "1HGCM82604B000001", None),
    "another serial": ("1HGCM82603A000001", "1HGCM82603A000002", None),
    "another maker": ("1HGCM82603A000001", "2HGCM82603A000001", None),
}


@pytest.mark.parametrize(("one", "other", "differs_in"), PAIRS.values(), ids=PAIRS)
async def test_duplicated_serials(
    make_instance: MakeInstance, tmp_path: Path, one: str, other: str, differs_in: str | None
) -> None:
    one, other = sorted([with_check_digit(one), with_check_digit(other)])
    fill(tmp_path / "vin.db", [{"vin": vin, "model_year": 2003, "model": "Accord"} for vin in (one, other)])
    rows = await answer(await make_instance(), "duplicated_serials")
    vehicle = "2003 HONDA Accord"
    expected = {"serial": "000001", "vin": one, "vehicle": vehicle, "other_vin": other, "other_vehicle": vehicle}
    assert rows == ([{"differs_in": differs_in, **expected}] if differs_in else [])


async def test_likelier_mistakes_come_first(make_instance: MakeInstance, tmp_path: Path) -> None:
    vins = {with_check_digit(vin) for one, other, _ in PAIRS.values() for vin in (one, other)}
    fill(tmp_path / "vin.db", [{"vin": vin} for vin in sorted(vins)])
    order = [row["differs_in"] for row in await answer(await make_instance(), "duplicated_serials")]
    assert order == sorted(order, key=["description", "plant", "model year"].index)
    assert set(order) == {"description", "plant", "model year"}


async def test_rejections_and_why(make_instance: MakeInstance, tmp_path: Path) -> None:
    of = [("1" * 17, "rare", "1!1"), ("2" * 17, "often", None), ("3" * 17, "often", "4" * 17)]
    kept = {"source": "vpic", "fetched_at": "2026-01-01T00:00:00Z", "record": "{}"}
    insert(
        tmp_path / "vin.db",
        "rejections",
        [{"vin": vin, "reason": reason, "suggested_vin": suggested, **kept} for vin, reason, suggested in of],
    )
    assert await answer(await make_instance(), "rejections_and_why") == [
        {"reason": "often", "vins_with_this_reason": 2, "vin": "2" * 17, "suggested_vin": None},
        {"reason": "often", "vins_with_this_reason": 2, "vin": "3" * 17, "suggested_vin": "4" * 17},
        {"reason": "rare", "vins_with_this_reason": 1, "vin": "1" * 17, "suggested_vin": "1!1"},
    ]


def days_ago(days: int) -> str:
    return f"{datetime.now(timezone.utc) - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def changes(tmp_path: Path) -> None:
    """What vPIC changed yesterday, and 40 days ago."""
    said = [(days_ago(40), {"Make": ["FROD", "FORD"]}), (days_ago(1), {"Trim": [None, "XL"], "Doors": ["2", "4"]})]
    insert(
        tmp_path / "vin.db",
        "changes",
        [
            {"vin": "1" * 17, "replaced_at": at, "changed": json.dumps(changed), "fetched_at": at, "record": "{}"}
            for at, changed in said
        ],
    )


@pytest.mark.usefixtures("changes")
@pytest.mark.parametrize("since", ["", "since=", "since=+"])
async def test_changed_since_last_month(make_instance: MakeInstance, since: str) -> None:
    rows = await answer(await make_instance(), "changed_since_last_month", since)
    assert [(row["vin"], row["key"], row["was"], row["became"]) for row in rows] == [
        ("1" * 17, "Doors", "2", "4"),
        ("1" * 17, "Trim", None, "XL"),
    ]


@pytest.mark.usefixtures("changes")
async def test_changed_since_a_day(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    rows = await answer(datasette, "changed_since_last_month", f"since={days_ago(50)[:10]}")
    assert [row["key"] for row in rows] == ["Doors", "Trim", "Make"]
    assert await answer(datasette, "changed_since_last_month", f"since={days_ago(0)[:10]}") == []


@pytest.mark.usefixtures("changes")
async def test_the_page_asks_for_the_day(make_instance: MakeInstance) -> None:
    page = await text_at(await make_instance(), "/vin/changed_since_last_month")
    assert re.search(r'<(?:input|textarea)[^>]*name="since"', page)


@pytest.mark.parametrize("analysis", ANALYSES, ids=lambda analysis: analysis.name)
def test_no_analysis_reads_whole_tables(tmp_path: Path, analysis: Any) -> None:
    """Rows hold whole records: a fleet of a million is gigabytes."""
    with closing(Cache(tmp_path / "vin.db")) as cache:
        cache.open()
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {analysis.sql}", dict.fromkeys(analysis.parameters, ""))
        steps = [step for *_, step in plan]
    tables = [step for step in steps if re.match(r"(SCAN|SEARCH) (vehicles|rejections|changes|one|other)\b", step)]
    assert tables
    assert all("INDEX" in step for step in tables), tables


async def test_they_have_words(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    for analysis in ANALYSES:
        page = html.unescape(await text_at(datasette, f"/vin/{analysis.name}"))
        assert analysis.title in page
        assert analysis.description in page


# To whom


async def test_the_database_page_lists_them(make_instance: MakeInstance) -> None:
    assert await listed(await make_instance()) == ALL


async def test_no_other_database_has_them(make_instance: MakeInstance, tmp_path: Path) -> None:
    (tmp_path / "data.db").touch()
    datasette = await make_instance(files=[str(tmp_path / "data.db")])
    page = await text_at(datasette, "/data")
    assert not [name for name in ALL if name in page]
    await text_at(datasette, "/data/oldest_and_newest", 404)


async def test_they_need_no_right_to_execute_sql(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"allow_sql": False}}})
    assert await listed(datasette) == ALL
    for name in ALL:
        assert await answer(datasette, name) == []


TABLES = {"vehicles": OF_VEHICLES, "rejections": OF_REJECTIONS, "changes": OF_CHANGES}


@pytest.mark.parametrize(("table", "hidden"), TABLES.items(), ids=TABLES)
async def test_who_may_not_see_a_table_does_not_see_what_reads_it(
    make_instance: MakeInstance, table: str, hidden: set[str]
) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"tables": {table: {"allow": {"id": "ann"}}}}}})
    assert await listed(datasette) == ALL - hidden
    assert await listed(datasette, **as_actor(datasette, "ann")) == ALL
    for name in ALL:
        for format_ in ("", ".json", ".csv", ".parquet"):
            response = await datasette.client.get(f"/vin/{name}{format_}")
            assert (response.status_code == 403) == (name in hidden), (name, format_, response.text)
        assert await answer(datasette, name, **as_actor(datasette, "ann")) == []


async def test_even_who_may_see_queries_does_not_see_what_reads_a_hidden_table(make_instance: MakeInstance) -> None:
    vin = {"tables": {"vehicles": {"allow": False}}, "permissions": {"view-query": True}}
    assert await listed(await make_instance(config={"databases": {"vin": vin}})) == ALL - OF_VEHICLES


async def test_the_page_of_charts_offers_what_may_be_seen(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"tables": {"rejections": {"allow": False}}}}})
    page = await text_at(datasette, "/vin/vehicles.charts")
    assert {name for name in ALL if f'href="/vin/{name}"' in page} == ALL - OF_REJECTIONS


# Beside the instance's own


OWN = {"sql": "select 'mine' as whose", "title": "My own"}


@pytest.mark.parametrize("query", [OWN, OWN["sql"]], ids=["mapping", "text"])
async def test_a_query_of_the_instance_wins(make_instance: MakeInstance, query: object) -> None:
    config = {"databases": {"vin": {"queries": {"oldest_and_newest": query}}}}
    datasette = await make_instance(config=config)
    for _ in range(2):
        assert await listed(datasette) == ALL
        assert await answer(datasette, "oldest_and_newest") == [{"whose": "mine"}]
    page = await text_at(datasette, "/vin/vehicles.charts")
    assert {name for name in ALL if f'href="/vin/{name}"' in page} == ALL - {"oldest_and_newest"}


async def test_a_query_of_the_instance_is_seen_by_whom_it_allows(make_instance: MakeInstance) -> None:
    vin = {"queries": {"oldest_and_newest": OWN}, "tables": {"vehicles": {"allow": False}}}
    datasette = await make_instance(config={"databases": {"vin": vin}})
    for _ in range(2):
        assert await listed(datasette) == ALL - OF_VEHICLES | {"oldest_and_newest"}
        assert await answer(datasette, "oldest_and_newest") == [{"whose": "mine"}]


@pytest.mark.skipif(not DATASETTE_1, reason="Datasette 0.65 keeps nothing")
async def test_an_internal_database_that_is_kept_has_them_once(make_instance: MakeInstance, tmp_path: Path) -> None:
    internal = str(tmp_path / "internal.db")
    first = await make_instance(internal=internal)
    await first.get_internal_database().execute_write("UPDATE queries SET sql = 'select 1', name = name || '_old'")
    second = await make_instance(internal=internal)
    rows = await second.get_internal_database().execute("SELECT name FROM queries")
    assert {row["name"] for row in rows} == ALL
    assert await answer(second, "oldest_and_newest") == []


# VINs in results


async def test_vins_in_results_lead_to_their_vehicles(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    await state_of(datasette).lookup.answer(TRACTOR)
    page = await text_at(datasette, "/vin/oldest_and_newest")
    found = re.search(rf'<a href="([^"]*)">{TRACTOR}</a>', page)
    assert found
    response = await datasette.client.get(html.unescape(found[1]), follow_redirects=False)
    assert response.headers["location"] == f"/vin/vehicles/{TRACTOR}"


@pytest.mark.parametrize(
    ("sql", "linked"),
    [
        ("select '1HGCM82633A004352' as vin", True),
        ("select '1HGCM82633A004352' as suggested_vin", True),
        ("select '1HGCM82633A004352' as calvin", False),
        ("select '1HGCM8263!A004352' as suggested_vin", False),
        ("select '<b>' as vin", False),
        ("select 12345678901234567 as vin", False),
        ("select null as vin", False),
    ],
)
async def test_only_vins_are_links(make_instance: MakeInstance, sql: str, linked: bool) -> None:
    path = "/vin/-/query" if DATASETTE_1 else "/vin"
    page = await text_at(await make_instance(), f"{path}?sql={sql.replace(' ', '+')}")
    assert ("/-/vin/lookup?vin=" in page) == linked
    assert "<b>" not in page


async def test_other_databases_results_are_left_alone(make_instance: MakeInstance, tmp_path: Path) -> None:
    (tmp_path / "data.db").touch()
    datasette = await make_instance(files=[str(tmp_path / "data.db")])
    path = "/data/-/query" if DATASETTE_1 else "/data"
    assert "/-/vin/lookup?vin=" not in await text_at(datasette, f"{path}?sql=select+'1HGCM82633A004352'+as+vin")
