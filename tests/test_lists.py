"""Lists of VINs that are kept for the pages of their rows, and what a line of a list has beside its fields."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import numbered_vins
from tests.vpic_server import flat_record
from vin_datasette.web.lists import Lists
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance
    from tests.vpic_server import VpicServer

VINS = [str(vin) for vin in numbered_vins(400)]
LISTS = "/-/vin/lists"


async def keep(datasette: Datasette, vins: object, **headers: str) -> Any:
    body = vins if isinstance(vins, str) else json.dumps(vins)
    return await datasette.client.post(LISTS, content=body, headers={"content-type": "application/json", **headers})


async def filled(make_instance: MakeInstance, **plugin: object) -> Datasette:
    datasette = await make_instance(plugin)
    async for _ in state_of(datasette).lookup.answers(VINS):
        pass
    return datasette


async def test_a_list_chooses_its_rows_on_every_page_of_the_table(make_instance: MakeInstance) -> None:
    datasette = await filled(make_instance)
    kept = (await keep(datasette, [*VINS[:350], "nonsense", VINS[0].lower()])).json()
    assert kept == {"ok": True, "list": kept["list"], "vins": 350}
    asked = f"_list={kept['list']}&_shape=array&_size=max&_col=vin"
    answer = await datasette.client.get(f"/vin/vehicles.json?{asked}")
    assert {row["vin"] for row in answer.json()} == set(VINS[:350])
    page = await datasette.client.get(f"/vin/vehicles?_list={kept['list']}&vin__in={VINS[0]},{VINS[399]}")
    assert "1 row" in page.text
    assert "in a list of 350 VINs" in page.text


async def test_the_same_vins_are_the_same_list(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    first, second = [(await keep(datasette, vins)).json() for vins in (VINS[:3], [*VINS[2::-1], VINS[1]])]
    assert first == second


async def test_a_list_that_is_not_kept_says_what_to_do(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    answer = await datasette.client.get("/vin/vehicles.json?_list=unknown")
    assert answer.status_code == 404
    assert "look the VINs up once more" in answer.json()["error"]


async def test_lists_are_for_the_vehicles_alone(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    assert (await datasette.client.get("/vin/rejections.json?_list=unknown")).status_code == 200


def test_what_is_kept_is_bounded_and_the_oldest_list_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vin_datasette.web.lists.MOST_BYTES", 100)
    lists = Lists()
    names = [lists.keep(VINS[start : start + 2])[0] for start in (0, 2)]
    assert json.loads(lists.array(names[0])) == VINS[0:2]
    lists.keep(VINS[4:6])
    assert [json.loads(lists.array(name)) for name in names] == [[], VINS[2:4]]
    lists.close()


def test_servers_of_one_cache_have_the_same_lists_and_so_has_a_later_one(tmp_path: Path) -> None:
    one, other = Lists(tmp_path / "lists"), Lists(tmp_path / "lists")
    name, _ = one.keep(VINS[:3])
    assert json.loads(other.array(name)) == sorted(VINS[:3])
    assert other.keep(VINS[:3]) == (name, 3)
    one.close()
    other.close()
    later = Lists(tmp_path / "lists")
    assert json.loads(later.array(name)) == sorted(VINS[:3])
    later.close()


@pytest.mark.parametrize("damage", ["a folder", "no database"])
def test_where_no_file_can_be_used_lists_are_kept_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = tmp_path / "lists"
    if damage == "a folder":
        path.mkdir()
    else:
        path.write_bytes(b"not a database" * 100)
    lists = Lists(path)
    name, _ = lists.keep(VINS[:3])
    assert json.loads(lists.array(name)) == sorted(VINS[:3])
    assert "kept in memory" in caplog.text
    lists.close()


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ([], 400, "No VIN was given"),
        ("{", 400, "no JSON"),
        (["x"] * 50_001, 413, "50,001 VINs are too many"),
    ],
)
async def test_what_is_no_list_is_refused_in_words(
    make_instance: MakeInstance, body: object, status: int, said: str
) -> None:
    answer = await keep(await make_instance(), body)
    assert answer.status_code == status
    assert said in answer.json()["error"]


async def test_another_site_s_page_keeps_no_list(make_instance: MakeInstance) -> None:
    answer = await keep(await make_instance(), VINS[:1], **{"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403


async def test_a_list_is_given_and_not_got(make_instance: MakeInstance) -> None:
    answer = await (await make_instance()).client.get(LISTS)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_who_may_not_see_the_vehicles_keeps_no_list(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"allow": {"id": "staff"}}}})
    assert (await keep(datasette, VINS[:1])).status_code == 403


# What a line has beside its fields


async def test_extras_say_who_answered_and_what_was_meant(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    rejected = "1XP5DB9X8XD487964"
    vpic_server.records[rejected] = {**flat_record(rejected), "SuggestedVIN": "1XP5DB9X!XD487964"}
    datasette = await make_instance({"source": "vpic", "vpic_url": vpic_server.url})
    answer = await datasette.client.post(
        "/lookup?_extra=source,suggested_vin", content=f"{VINS[0]}\n{rejected}\nO" + VINS[1][1:]
    )
    said = {line["Input VIN Requested"]: line for line in map(json.loads, answer.text.splitlines())}
    assert list(said[VINS[0]])[6:] == ["source", "suggested_vin"]
    assert (said[VINS[0]]["source"], said[VINS[0]]["suggested_vin"]) == ("vpic", None)
    assert (said[rejected]["source"], said[rejected]["suggested_vin"]) == ("vpic", "1XP5DB9X!XD487964")
    assert said["O" + VINS[1][1:]]["source"] is None


async def test_an_extra_that_does_not_exist_is_refused_in_words(make_instance: MakeInstance) -> None:
    answer = await (await make_instance()).client.post("/lookup?_extra=colour", content=VINS[0])
    assert answer.status_code == 400
    assert answer.json()["error"] == "'colour' is no extra; there are source and suggested_vin."
