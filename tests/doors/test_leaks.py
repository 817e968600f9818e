"""What nobody learns who may not see it: not by an answer, nor by how two answers differ."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from tests.conftest import DATASETTE_1
from tests.doors.callers import CALLERS, HERE, ORIGINS, credentials
from tests.doors.house import HIT, MISS, REJECTED, STALE, WORDS, Answered, House, house, quoted
from tests.doors.table import TABLE, Row
from vin_datasette.web.doors import OWN
from vin_datasette.web.lists import Lists
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance
    from tests.doors.callers import Origin

BY_NAME = {caller.name: caller for caller in CALLERS}
FROM = {origin.name: origin for origin in ORIGINS}
A_PAGE = FROM["a page of the server"]
ANOTHER_SITE = FROM["another site, with cookies"]
STAFF = {"id": "staff"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def closed(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(tmp_path_factory.mktemp("closed"), closed=True) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def with_cors(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(tmp_path_factory.mktemp("cors"), closed=False, cors=True) as made:
        yield made


async def knock(
    site: House,
    method: str,
    path: str,
    caller: str,
    origin: Origin = A_PAGE,
    further: Mapping[str, str] | None = None,
) -> Answered:
    """What a caller is answered, from a page of the server unless said; `further` are headers."""
    headers = {**origin.headers(method), **credentials(BY_NAME[caller], origin, site.secrets), **(further or {})}
    return await site.ask(method, path, headers)


# Who may not see the vehicles


BLIND = ["anonymous", "stranger"]
ABOUT_A_VIN = [
    ("GET", "/lookup/{}"),
    ("HEAD", "/lookup/{}"),
    ("GET", "/lookup?vin={}"),
    ("POST", "/remove/{}"),
    ("DELETE", "/remove/{}"),
    ("POST", "/-/vin/refresh/{}"),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("caller", BLIND)
@pytest.mark.parametrize("further", [{}, {"if-none-match": "*"}], ids=["at all", "by a validator"])
@pytest.mark.parametrize(("method", "path"), ABOUT_A_VIN, ids=lambda word: word)
async def test_who_may_not_see_the_vehicles_cannot_tell_whether_a_vin_is_cached(
    closed: House, method: str, path: str, further: Mapping[str, str], caller: str
) -> None:
    answers = [await knock(closed, method, path.format(vin), caller, further=further) for vin in WORDS.values()]
    assert {answer.status for answer in answers} == {403}
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.asyncio(loop_scope="module")
async def test_who_may_not_see_the_vehicles_has_no_list_of_vins_read(closed: House) -> None:
    answers = [
        await closed.ask("POST", "/lookup", {"host": HERE, "content-type": "text/plain"}, vin.encode())
        for vin in (HIT, MISS)
    ]
    assert answers[0] == answers[1]
    assert answers[0].status == 403


@pytest.mark.asyncio(loop_scope="module")
async def test_cache_is_not_even_read_for_who_may_not_see_it(closed: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(vins: object) -> None:
        raise AssertionError("the cache was read")

    monkeypatch.setattr(closed.own.lookup.cache, "get_many", read)
    assert (await knock(closed, "GET", f"/lookup/{HIT}", "stranger")).status == 403


@pytest.mark.asyncio(loop_scope="module")
async def test_hits_are_served_and_misses_refused_to_who_may_not_look_up(closed: House) -> None:
    hit, miss = [await knock(closed, "GET", f"/lookup/{vin}", "somebody") for vin in (HIT, MISS)]
    assert (hit.status, json.loads(hit.body)["Cached Result?"]) == (200, True)
    assert (miss.status, "vin-lookup is needed" in miss.body.decode()) == (403, True)


@pytest.mark.asyncio(loop_scope="module")
async def test_page_of_another_site_is_told_why_nobody_is_asked(closed: House) -> None:
    answer = await knock(closed, "GET", f"/lookup/{MISS}", "looker", ANOTHER_SITE)
    assert json.loads(answer.body)["error"] == "This page of another site may not have a source asked about a VIN."


# Tables with permissions of their own


def only_staff_sees(*tables: str, **database: object) -> dict[str, Any]:
    return {"databases": {"vin": {**database, "tables": {table: {"allow": STAFF} for table in tables}}}}


async def kept(make_instance: MakeInstance, config: Mapping[str, object], **plugin: object) -> Datasette:
    """An instance, answered by the embedded database, that keeps a vehicle and a rejection."""
    datasette = await make_instance(plugin, config)
    for vin in (HIT, REJECTED):
        await state_of(datasette).lookup.answer(vin)
    return datasette


async def told_of_rejected_and_unknown(datasette: Datasette) -> list[list[tuple[int, str]]]:
    """What each door says of a VIN that is kept as a rejection, and of one that is not cached; but for the VIN itself
    and the token of the page's form."""
    answers = []
    for vin in (REJECTED, MISS):
        got = [await datasette.client.get(path) for path in (f"/lookup/{vin}", f"/lookup?vin={vin}")]
        got.append(await datasette.client.post("/lookup?_extra=suggested_vin", content=vin))
        texts = [re.sub('data-token="[^"]*"', "", answer.text.replace(vin, "VIN")) for answer in got]
        answers.append([(answer.status_code, text) for answer, text in zip(got, texts, strict=True)])
    return answers


async def test_kept_rejection_is_as_unknown_to_who_may_not_see_it_nor_ask(make_instance: MakeInstance) -> None:
    datasette = await kept(make_instance, only_staff_sees("rejections"), allow_lookup=False)
    rejected, unknown = await told_of_rejected_and_unknown(datasette)
    assert rejected == unknown


async def test_kept_rejection_is_told_to_who_may_see_it(make_instance: MakeInstance) -> None:
    datasette = await kept(make_instance, {}, allow_lookup=False)
    assert (await datasette.client.get(f"/lookup/{REJECTED}")).status_code == 404


async def test_kept_rejection_is_told_to_who_may_ask(make_instance: MakeInstance) -> None:
    datasette = await kept(make_instance, only_staff_sees("rejections"))
    assert (await datasette.client.get(f"/lookup/{REJECTED}")).status_code == 404


async def test_rows_are_counted_for_those_who_may_see_them(make_instance: MakeInstance) -> None:
    datasette = await kept(make_instance, only_staff_sees("rejections"))
    cookies = {"ds_actor": datasette.sign({"a": STAFF}, "actor")}
    rows = [(await datasette.client.get("/-/vin.json", cookies=each)).json()["rows"] for each in ({}, cookies)]
    assert rows == [{"vehicles": 1}, {"vehicles": 1, "rejections": 1}]


INDEX = ["vehicles_fts", "VEHICLES_FTS", "vehicles_fts_data", "vehicles_fts_idx", "vehicles_fts_docsize"]


@pytest.mark.parametrize("table", INDEX)
async def test_search_index_is_not_for_those_who_may_not_see_the_vehicles(
    make_instance: MakeInstance, table: str
) -> None:
    datasette = await kept(make_instance, only_staff_sees("vehicles"))
    answer = await datasette.client.get(f"/vin/{table}.json?_shape=array")
    # Datasette knows no table by a name in other letters.
    assert answer.status_code == (404 if table.isupper() else 403)


async def test_search_index_is_for_those_who_may_see_the_vehicles(make_instance: MakeInstance) -> None:
    datasette = await kept(make_instance, only_staff_sees("vehicles"))
    cookies = {"ds_actor": datasette.sign({"a": STAFF}, "actor")}
    answer = await datasette.client.get("/vin/vehicles_fts.json?_shape=array", cookies=cookies)
    assert [row["vin"] for row in answer.json()] == [HIT]


async def test_search_index_of_others_is_not_touched(make_instance: MakeInstance, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE VIRTUAL TABLE vehicles_fts USING fts5 (vin)")
    files = [str(tmp_path / "other.db")]
    datasette = await make_instance({}, only_staff_sees("vehicles"), files=files)
    assert (await datasette.client.get("/other/vehicles_fts.json")).status_code == 200


# Lists of VINs


def query(database: str, sql: str) -> str:
    return f"/{database}{'/-/query' if DATASETTE_1 else ''}.json?_shape=arrays&sql={sql}"


async def test_list_is_not_told_by_the_sql_of_another_database(make_instance: MakeInstance, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE trucks (name)")
    datasette = await make_instance({}, only_staff_sees("vehicles"), files=[str(tmp_path / "other.db")])
    name, _ = state_of(datasette).vin_lists.keep([HIT])
    sql = f"select+vin_list('{name}')"
    told = [(await datasette.client.get(query(each, sql))).json()["rows"] for each in ("other", "vin")]
    # Who may run SQL on the cache may read the vehicles by it as well.
    assert told == [[["[]"]], [[f'["{HIT}"]']]]


async def test_list_is_shown_to_those_who_may_see_the_vehicles(make_instance: MakeInstance) -> None:
    datasette = await kept(make_instance, only_staff_sees("vehicles"))
    name, _ = state_of(datasette).vin_lists.keep([HIT])
    for path in ("/vin/vehicles.json", "/vin/vehicles", "/vin/vehicles.parquet", "/vin/vehicles.charts"):
        assert (await datasette.client.get(f"{path}?_list={name}")).status_code == 403


def test_name_of_a_list_cannot_be_guessed_from_its_vins() -> None:
    with closing(Lists()) as one, closing(Lists()) as other:
        assert one.keep([HIT])[0] != other.keep([HIT])[0]


# Headers


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("row", [row for row in TABLE if row.path.startswith(OWN)], ids=lambda row: row.name)
async def test_answers_are_for_who_asked_alone_and_no_scripts(closed: House, row: Row) -> None:
    path = quoted(row.path, closed.list_name)
    for caller in ("anonymous", "somebody", "root"):
        answered = await knock(closed, row.door[1], path, caller)
        await closed.outcome()
        control = answered.headers.get("cache-control", "")
        # Nobody keeps a redirect that is not told to be kept (RFC 9111, section 4.2.2).
        assert answered.status == 302 or {"no-store", "private"} & set(control.split(", ")), control
        assert answered.status == 302 or answered.headers["x-content-type-options"] == "nosniff"
        assert "public" not in control


# With --cors, by which an operator lets every site read


WITH_CORS = [
    ("GET", f"/lookup/{HIT}", 200),
    ("GET", f"/lookup/{STALE}", 200),
    ("GET", f"/lookup/{MISS}", 403),
    ("GET", f"/lookup?vin={MISS}", 403),
    ("GET", "/export", 200),
    ("GET", "/-/vin.json", 200),
    ("POST", "/lookup", 403),
    ("POST", f"/remove/{HIT}", 403),
    ("POST", f"/-/vin/refresh/{HIT}", 403),
    ("POST", "/-/vin/lists", 403),
    # No preflight is answered as one (Fetch, section 4.8), so that what needs one is not sent.
    ("OPTIONS", f"/remove/{HIT}", 405),
    ("OPTIONS", "/lookup", 405),
]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("origin", ["another site, with cookies", "another site, without cookies", "another port"])
@pytest.mark.parametrize(("method", "path", "status"), WITH_CORS)
async def test_cors_lets_other_sites_read_and_neither_write_nor_ask(
    with_cors: House, method: str, path: str, status: int, origin: str
) -> None:
    for caller in ("anonymous", "root", "token"):
        answered = await knock(with_cors, method, path, caller, FROM[origin])
        assert await with_cors.outcome() == (frozenset(), set())
        assert answered.status == status
        if status == 200:
            assert answered.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answered.headers
