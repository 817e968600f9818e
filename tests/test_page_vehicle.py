"""The page of a vehicle: what it shows to whom, and what its buttons do."""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.browser import violations
from tests.conftest import DATASETTE_1, Served, rows, serving
from tests.vpic_server import Fault, VpicServer, flat_record
from vin_datasette.cache import Cache
from vin_datasette.record import Record
from vin_datasette.vehicle import Vehicle
from vin_datasette.vin import VIN, check_digit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from datasette.app import Datasette

    from tests.browser import Browse
    from tests.conftest import MakeInstance
    from vin_datasette.record import SourceName

PETERBILT, HONDA, WRONG_CHECK_DIGIT = "1XP5DB9X7XD487964", "1HGCM82633A004352", "1XP5DB9X7XD487945"
LOW_VOLUME = "1A9" + "BC5LK" + "X" + "LM131007"
MARCH = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
FORM = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def vehicle(
    vin: str = PETERBILT,
    values: Mapping[str, object] | None = None,
    *,
    source: SourceName = "vpic",
    version: str | None = None,
    days: int = 0,
    notes: tuple[str, ...] = (),
    **changed: object,
) -> Vehicle:
    """A vehicle with the record that vPIC gives, or with these values, and what is changed in it."""
    said = {**(flat_record(vin) if values is None else values), **changed}
    return Vehicle(Record(VIN(vin), said, source, version, MARCH + timedelta(days=days), notes))


def keep(folder: Path, *vehicles: Vehicle) -> None:
    """Put vehicles into the cache of the test's instances, one after the other."""
    cache = Cache(folder / "vin.db")
    for each in vehicles:
        cache.save([each])
    cache.close()


async def page_of(datasette: Datasette, vin: str = PETERBILT, actor: dict[str, str] | None = None) -> str:
    cookies = {"ds_actor": datasette.sign({"a": actor}, "actor")} if actor else {}
    response = await datasette.client.get(f"/vin/vehicles/{vin}", cookies=cookies)
    assert response.status_code == 200
    return str(response.text)


def words(markup: str) -> str:
    """The text of some HTML."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def section(page: str, title: str) -> str:
    """The markup under a heading of the second order; "" when there is none."""
    [*found] = re.findall(rf"<h2[^>]*>{title}</h2>(.*?)(?=<h2|</main>)", page, re.DOTALL)
    return found[0] if found else ""


def pairs(markup: str) -> dict[str, str]:
    found = re.findall(r"<dt[^>]*>(.*?)</dt>\s*<dd>(.*?)</dd>", markup, re.DOTALL)
    return {words(term): words(text) for term, text in found}


def facts(page: str) -> dict[str, str]:
    return pairs(page[: page.index("<h2>Attributes")])


def groups(page: str) -> dict[str, dict[str, str]]:
    """What stands under Attributes, by the titles of the groups."""
    found = re.findall(r"<h3>(.*?)</h3>(.*?)</section>", section(page, "Attributes"), re.DOTALL)
    return {words(title): pairs(items) for title, items in found}


def parts(page: str) -> dict[str, str]:
    """What the VIN says: names of parts, with characters and positions, and what stands under them."""
    found = re.findall(r"<h3>(.*?)</h3>(.*?)</li>", section(page, "What the VIN says"), re.DOTALL)
    return {words(name): words(says) for name, says in found}


# The head


async def test_head_names_the_vehicle(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    page = await page_of(await make_instance())
    [heading] = re.findall(r"<h1[^>]*>(.*?)</h1>", page)
    assert words(heading) == "1999 PETERBILT 379"
    assert f"<title>1999 PETERBILT 379, {PETERBILT}</title>" in page


async def test_head_tells_what_to_know_at_a_glance(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(HONDA))
    assert facts(await page_of(await make_instance(), HONDA)) == {
        "Body class": "Coupe",
        "Vehicle type": "PASSENGER CAR",
        "Series and trim": "EX-V6",
        "Engine": "6 cylinders, 2.999 L, 240 hp, Gasoline",
        "GVWR class": "Class 1C: 4,001 - 5,000 lb (1,814 - 2,268 kg) to Class 1: 6,000 lb or less (2,722 kg or less)",
        "Made in": "MARYSVILLE, OHIO, UNITED STATES (USA)",
    }


async def test_engine_of_two_fuels_and_one_cylinder(make_instance: MakeInstance, tmp_path: Path) -> None:
    engine = {"EngineCylinders": "1", "EngineKW": "5", "FuelTypePrimary": "Gasoline", "FuelTypeSecondary": "Electric"}
    keep(tmp_path, vehicle(values={"Make": "HONDA", **engine}))
    assert facts(await page_of(await make_instance()))["Engine"] == "1 cylinder, 5 kW, Gasoline and Electric"


async def test_vehicle_of_which_little_is_known_has_a_page(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(values={"Make": "PETERBILT"}))
    page = await page_of(await make_instance())
    assert words(re.findall(r"<h1[^>]*>(.*?)</h1>", page)[0]) == "PETERBILT"
    assert facts(page) == {}
    assert groups(page) == {"General": {"Make": "PETERBILT"}}
    assert parts(page)["Plant D position 11"] == "vPIC names no plant."
    assert parts(page)["Model year X position 10"] == "X stands for 1999 or 2029."


SIBLING_NOTE = "Answered from the record of its sibling 1XP5DB9X0XD487966, 2026-03-01T12:00:00Z"


@pytest.mark.parametrize(
    ("source", "version", "notes", "said"),
    [
        ("vpic", None, (), "Answered on 2026-03-01 12:00 UTC by vPIC, the API of the US DOT."),
        (
            "embedded",
            "2026_10",
            (),
            "This came from the embedded copy of vPIC's database of October 2026, not from the API. "
            "Refresh to ask again.",
        ),
        ("embedded", None, (), "This came from the embedded copy of vPIC's database, not from the API."),
        (
            "vpic-sibling",
            None,
            (SIBLING_NOTE,),
            "Nobody was asked about this very VIN: vPIC had answered for a vehicle alike, one with the same vehicle "
            "descriptor, and its record stands for this one. Refresh to ask again.",
        ),
        ("vpic-sibling", None, (SIBLING_NOTE,), SIBLING_NOTE),
        (
            "embedded-sibling",
            "2026_10",
            (SIBLING_NOTE,),
            "the embedded copy of vPIC's database of October 2026 had answered for a vehicle alike",
        ),
    ],
)
async def test_head_says_where_the_answer_came_from(
    make_instance: MakeInstance,
    tmp_path: Path,
    source: SourceName,
    version: str | None,
    notes: tuple[str, ...],
    said: str,
) -> None:
    keep(tmp_path, vehicle(source=source, version=version, notes=notes))
    page = words(await page_of(await make_instance()))
    assert said in page
    assert "vPIC remarks" not in page


async def test_head_repeats_what_vpic_remarks(make_instance: MakeInstance, tmp_path: Path) -> None:
    remark = "8 - No detailed data available currently"
    keep(tmp_path, vehicle(ErrorCode="8", ErrorText=remark, AdditionalErrorText="Unused position(s): 4."))
    page = words(await page_of(await make_instance()))
    assert f"vPIC remarks: {remark} Unused position(s): 4." in page


# All attributes


async def test_attributes_stand_in_the_groups_of_vpic(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(HONDA))
    page = groups(await page_of(await make_instance(), HONDA))
    assert list(page) == [
        "General",
        "Exterior / Body",
        "Exterior / Dimension",
        "Mechanical / Transmission",
        "Engine",
        "Passive Safety System",
        "Passive Safety System / Air Bag Location",
        "About this answer",
    ]
    assert page["Engine"]["Engine Brake Power"] == "240 hp"


async def test_unusual_values_are_shown_as_they_are(make_instance: MakeInstance, tmp_path: Path) -> None:
    values = {"Make": "FORD", "Doors": 4, "Model": None, "Windows": "Not Applicable", "Seats": 2.5, "Telepathy": True}
    keep(tmp_path, vehicle(values=values))
    assert groups(await page_of(await make_instance())) == {
        "General": {"Make": "FORD"},
        "Exterior / Body": {"Doors": "4"},
        "Interior / Seat": {"Number of Seats": "2.5"},
        "Other": {"Telepathy": "True"},
    }


HOSTILE = "<script>alert(1)</script>"


async def test_hostile_values_are_text(make_instance: MakeInstance, tmp_path: Path) -> None:
    keys = ("Model", "BodyClass", "PlantCity", "ErrorText", "EngineModel", "Note", HOSTILE)
    was, becomes = ({**flat_record(PETERBILT), **dict.fromkeys(keys, text)} for text in (f"was {HOSTILE}", HOSTILE))
    now = vehicle(values=becomes, days=1, notes=(HOSTILE,), ErrorCode="8")
    keep(tmp_path, vehicle(HONDA, Make="PETERBILT", Model=HOSTILE), vehicle(values=was), now)
    page = await page_of(await make_instance())
    assert "<script>alert" not in page
    assert f"<title>1999 PETERBILT {HOSTILE}, {PETERBILT}</title>" == unescape(re.findall("<title>.*</title>", page)[0])
    assert groups(page)["Other"] == {HOSTILE: HOSTILE}
    assert f"vPIC remarks: {HOSTILE}" in words(page)
    assert [HOSTILE, f"was {HOSTILE}", HOSTILE] in changes(page)
    assert f"1 other: PETERBILT {HOSTILE}" in words(page)


# The VIN taken apart


async def test_vin_is_taken_apart(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    assert parts(await page_of(await make_instance())) == {
        "World manufacturer identifier 1XP positions 1 to 3": "PETERBILT MOTORS COMPANY.",
        "Attributes 5DB9X positions 4 to 8": "The maker's own code for body, engine, restraints and the like.",
        "Check digit 7 position 9": "Right: it follows from the other sixteen characters.",
        "Model year X position 10": "X stands for 1999 or 2029. vPIC says 1999.",
        "Plant D position 11": "Peterbilt, DENTON, TEXAS, UNITED STATES (USA).",
        "Serial number 487964 positions 12 to 17": "The number of this one vehicle.",
    }


async def test_vin_of_a_low_volume_maker_is_taken_apart(make_instance: MakeInstance, tmp_path: Path) -> None:
    vin = LOW_VOLUME[:8] + check_digit(LOW_VOLUME) + LOW_VOLUME[9:]
    keep(tmp_path, vehicle(vin, {"Make": "SMALL", "Manufacturer": "SMALL TRAILERS INC."}))
    page = await page_of(await make_instance(), vin)
    assert parts(page)["World manufacturer identifier 1A9131 positions 1 to 3, 12 to 14"] == (
        "SMALL TRAILERS INC. A 9 at position 3 marks a maker of fewer than 1,000 vehicles a year."
    )
    assert "Serial number 007 positions 15 to 17" in parts(page)
    assert f"<b>1A9</b>{vin[3:11]}<b>131</b>007" in page


async def test_wrong_check_digit_is_told_with_the_one_that_is_due(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"check_digit": "lenient"})
    await datasette.client.get(f"/lookup/{WRONG_CHECK_DIGIT}")
    page = await page_of(datasette, WRONG_CHECK_DIGIT)
    assert parts(page)["Check digit 7 position 9"].startswith(
        f"Wrong: by the other sixteen characters {check_digit(WRONG_CHECK_DIGIT)} is due."
    )
    assert "vPIC remarks: 1 - Check Digit (9th position) does not calculate properly" in words(page)


async def test_half_a_surrogate_pair_as_a_key_is_no_obstacle(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(values={"Make": "FORD", "a\udfff": "b\ud800"}))
    assert groups(await page_of(await make_instance()))["Other"] == {"a?": "b?"}


async def test_vehicle_keeps_its_page_when_the_rule_for_check_digits_becomes_strict(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle(WRONG_CHECK_DIGIT))
    assert "Wrong: " in parts(await page_of(await make_instance(), WRONG_CHECK_DIGIT))["Check digit 7 position 9"]


async def test_code_that_stands_for_no_year_is_said_to_do_so(make_instance: MakeInstance, tmp_path: Path) -> None:
    vin = "1XP5DB9X70D487964"
    keep(tmp_path, vehicle(vin, {"Make": "PETERBILT", "ModelYear": "1999"}))
    page = await page_of(await make_instance(), vin)
    assert parts(page)["Model year 0 position 10"] == "0 stands for no model year. vPIC says 1999."


# What it used to be


def changes(page: str) -> list[list[str]]:
    found = re.findall(r"<tr><th scope=\"row\">.*?</tr>", section(page, "What it used to be"), re.DOTALL)
    return [[words(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in found]


async def test_what_vpic_used_to_say_is_told_with_labels_and_units(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(EngineHP="400", Note=""), vehicle(days=9, EngineHP="450", Note="New", Telepathy="None"))
    page = await page_of(await make_instance())
    assert sorted(changes(page)) == [
        ["Engine Brake Power From", "400 hp", "450 hp"],
        ["Note", "nothing", "New"],
        ["Telepathy", "nothing", "None"],
    ]
    assert "Until 2026-03-10, by the answer of 2026-03-01" in words(page)


async def test_latest_changes_come_first_and_are_not_too_many(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, *(vehicle(values={"Make": "FORD", "Note": f"No. {day}"}, days=day) for day in range(23)))
    datasette = await make_instance()
    page = await page_of(datasette)
    assert [row[1] for row in changes(page)] == [f"No. {day}" for day in range(21, 1, -1)]
    [path] = re.findall(r'<a href="([^"]*)">All changes of this VIN', page)
    answer = await datasette.client.get(unescape(path).replace("?", ".json?") + "&_shape=array")
    assert len(answer.json()) == 22


async def test_whole_earlier_answer_is_one_step_away(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(Note="Old"), vehicle(days=9))
    datasette = await make_instance()
    [path] = re.findall(r'<a href="([^"]*)">the answer of', await page_of(datasette))
    assert "Old" in (await datasette.client.get(path)).text


async def test_vehicle_that_never_changed_says_nothing_of_changes(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    assert "What it used to be" not in await page_of(await make_instance())


async def test_changes_are_for_those_who_may_see_their_table(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(Note="Secret"), vehicle(days=9))
    staff = {"id": "staff"}
    datasette = await make_instance({}, {"databases": {"vin": {"tables": {"changes": {"allow": staff}}}}})
    assert "Secret" not in await page_of(datasette)
    assert "Secret" in await page_of(datasette, actor=staff)


async def test_change_that_somebody_damaged_does_not_cost_the_page(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(Note="Old"), vehicle(days=9))
    with closing(sqlite3.connect(tmp_path / "vin.db", isolation_level=None)) as connection:
        connection.execute("UPDATE changes SET changed = '[1, 2'")
    assert "Until 2026-03-10" in words(await page_of(await make_instance()))


# Vehicles alike


async def test_vehicles_alike_are_counted_and_linked(make_instance: MakeInstance, tmp_path: Path) -> None:
    said = flat_record(HONDA)
    others = ("1HGCM82633A004353", "1HGCM82633A004354", "1HGCM82634A004353", "1HGCM82633B004353")
    keep(
        tmp_path, vehicle(HONDA), *(vehicle(vin, {**said, "VehicleDescriptor": VIN(vin).descriptor}) for vin in others)
    )
    with closing(sqlite3.connect(tmp_path / "vin.db", isolation_level=None)) as connection:
        connection.execute("UPDATE vehicles SET model_year = 2004 WHERE vin = '1HGCM82634A004353'")
    datasette = await make_instance()
    markup = section(await page_of(datasette, HONDA), "Vehicles alike in this cache")
    links = {words(text): unescape(path) for path, text in re.findall(r'<a href="([^"]*)">(.*?)</a>', markup)}
    assert list(links) == [
        "4 others: HONDA Accord",
        "3 others: 2003 HONDA Accord",
        "2 others: descriptor 1HGCM826*3A",
    ]
    shown = [await datasette.client.get(path.replace("?", ".json?") + "&_shape=array") for path in links.values()]
    assert [len(answer.json()) for answer in shown] == [5, 4, 3]


async def test_make_alone_is_linked_where_there_is_no_model(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(values={"Make": "A & B"}), vehicle(HONDA, {"Make": "A & B"}))
    markup = section(await page_of(await make_instance()), "Vehicles alike in this cache")
    assert re.findall(r'<a href="([^"]*)">(.*?)</a>', markup) == [
        ("/vin/vehicles?make=A+%26+B", "1 other: A &amp; B"),
    ]


async def test_vehicle_without_its_like_has_no_links_to_it(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(), vehicle(HONDA))
    assert words(section(await page_of(await make_instance()), "Vehicles alike in this cache")) == "None so far."


async def test_vehicles_alike_are_linked_uncounted_where_counting_takes_too_long(
    make_instance: MakeInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vin_datasette.web.vehicle_page._COUNTING", 1e-9)
    keep(tmp_path, vehicle())
    markup = section(await page_of(await make_instance()), "Vehicles alike in this cache")
    assert words(markup) == "All: PETERBILT 379 All: 1999 PETERBILT 379 All: descriptor 1XP5DB9X*XD"


# What Datasette's own page has


async def test_row_is_there_as_stored_and_as_files(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance()
    stored = section(await page_of(datasette), "All columns as stored")
    assert re.findall(r'data-column="([^"]*)"', stored) == list(rows(tmp_path / "vin.db")[0])
    links = re.findall(r'<a href="([^"]*)">(?:json|csv|parquet)</a>', stored)
    assert [(await datasette.client.get(path)).status_code for path in links] == [200, 200, 200]


async def test_links_from_other_tables_are_there(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.executescript(
            f"CREATE TABLE trips (id INTEGER PRIMARY KEY, truck TEXT REFERENCES vehicles(vin));"
            f"INSERT INTO trips (truck) VALUES ('{PETERBILT}'), ('{PETERBILT}');"
        )
    page = await page_of(await make_instance())
    assert words(section(page, "Links from other tables")) == "2 rows from truck in trips"


@pytest.mark.skipif(not DATASETTE_1, reason="Datasette 0.65 has neither")
async def test_row_actions_and_the_top_of_the_row_are_there(make_instance: MakeInstance, tmp_path: Path) -> None:
    from datasette import hookimpl
    from datasette.plugins import pm

    class Plugin:
        @hookimpl  # type: ignore[untyped-decorator]
        def row_actions(self) -> list[dict[str, str]]:
            return [{"href": "/somewhere", "label": "Do something"}]

        @hookimpl  # type: ignore[untyped-decorator]
        def top_row(self) -> str:
            return "<p>On top</p>"

    keep(tmp_path, vehicle())
    plugin = Plugin()
    pm.register(plugin)
    try:
        page = await page_of(await make_instance())
    finally:
        pm.unregister(plugin)
    assert "<p>On top</p>" in page
    assert 'href="/somewhere"' in page


async def test_json_of_the_row_is_datasettes(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance()
    answer = (await datasette.client.get(f"/vin/vehicles/{PETERBILT}.json?_shape=objects")).json()
    assert answer["rows"] == rows(tmp_path / "vin.db")


async def test_row_that_is_no_readable_record_keeps_datasettes_page(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle())
    with closing(sqlite3.connect(tmp_path / "vin.db", isolation_level=None)) as connection:
        connection.execute("UPDATE vehicles SET record = 'nonsense'")
    page = await page_of(await make_instance())
    assert "nonsense" in page
    assert "What the VIN says" not in page
    assert "Content-Security-Policy" not in page
    assert f"vehicles: {PETERBILT}" in page


async def test_row_whose_key_is_no_vin_keeps_datasettes_page(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    with closing(sqlite3.connect(tmp_path / "vin.db", isolation_level=None)) as connection:
        connection.execute(
            "INSERT INTO vehicles (vin, make, source, fetched_at, record) "
            "SELECT lower(vin), make, source, fetched_at, record FROM vehicles"
        )
    assert "What the VIN says" not in await page_of(await make_instance(), PETERBILT.lower())


async def test_row_that_is_not_there_is_404(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    assert (await datasette.client.get(f"/vin/vehicles/{PETERBILT}")).status_code == 404


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A database `a` with tables whose names come close to that of the vehicles of a cache `a-b`."""
    path = tmp_path / "a.db"
    with closing(sqlite3.connect(path)) as connection:
        for table in ("vehicles", "b-vehicles"):
            connection.execute(f'CREATE TABLE "{table}" (vin TEXT PRIMARY KEY, make TEXT)')
            connection.execute(f"INSERT INTO \"{table}\" VALUES ('{PETERBILT}', 'PETERBILT')")
        connection.commit()
    return path


@pytest.mark.parametrize("table", ["vehicles", "b-vehicles"])
async def test_tables_of_other_databases_keep_datasettes_page(
    make_instance: MakeInstance, tmp_path: Path, other: Path, table: str
) -> None:
    datasette = await make_instance({"db": str(tmp_path / "a-b.db")}, files=[str(other)])
    await datasette.client.get(f"/lookup/{PETERBILT}")
    assert "What the VIN says" in (await datasette.client.get(f"/a-b/vehicles/{PETERBILT}")).text
    page = (await datasette.client.get(f"/a/{table}/{PETERBILT}")).text
    assert f"{table}: {PETERBILT}" in page
    assert "What the VIN says" not in page
    assert "vin-page" not in page


async def test_template_of_the_instance_wins(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "row-vin-vehicles.html").write_text("Ours: {{ vin_vehicle.name }}", "utf-8")
    assert await page_of(await make_instance(template_dir=str(templates))) == "Ours: 1999 PETERBILT 379"


# Scripts


async def test_policy_lets_the_pages_own_scripts_run_and_no_others(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    # Datasette 1.0 has a script of its own on the pages of those who may change rows.
    datasette = await make_instance({}, {"permissions": {"update-row": True}})
    page = await page_of(datasette)
    [policy] = (unescape(text) for text in re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page))
    directives = dict(each.split(" ", 1) for each in policy.split("; "))
    inline = re.findall(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", page, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in inline]
    assert set(directives["script-src"].split()) == {"'self'", *(f"'sha256-{digest}'" for digest in digests)}
    assert directives["default-src"] == "'none'"
    assert ("_datasetteTableData" in page) is DATASETTE_1


# Who may do what


async def test_buttons_are_for_those_who_may(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    settings: dict[str, object] = {"allow_lookup": {"id": ["asker", "both"]}, "allow_remove": {"id": ["both"]}}
    datasette = await make_instance(settings)
    actors: list[dict[str, str] | None] = [None, {"id": "asker"}, {"id": "both"}]
    pages = [await page_of(datasette, actor=actor) for actor in actors]
    refresh, remove = f"/-/vin/refresh/{PETERBILT}", f"/-/vin/remove/{PETERBILT}"
    assert [re.findall(r'action="([^"]*)"', page[page.index("<main>") :]) for page in pages] == [
        [],
        [refresh],
        [refresh, remove],
    ]


async def test_note_does_not_tell_to_refresh_who_may_not(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(source="embedded", version="2026_10"))
    page = words(await page_of(await make_instance({"allow_lookup": False})))
    assert "not from the API." in page
    assert "Refresh" not in page


async def test_links_and_forms_keep_the_base_url(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(Note="Old"), vehicle(days=1), vehicle("1XP5DB9X9XD487965", flat_record(PETERBILT)))
    datasette = await make_instance({"allow_remove": True}, settings={"base_url": "/prefix/"})
    page = await page_of(datasette)
    links = re.findall(r'(?:href|action|src)="(/[^"]*)"', page)
    for path in (f"/-/vin/refresh/{PETERBILT}", f"/-/vin/remove/{PETERBILT}", "/vin/changes/1"):
        assert f"/prefix{path}" in links
    assert any(link.startswith("/prefix/vin/vehicles?make=") for link in links)
    assert [link for link in links if not link.startswith("/prefix/")] == []


# Refresh


def asking(server: VpicServer, **settings: object) -> dict[str, object]:
    return {"source": "vpic", "vpic_url": server.url, "rate": 1000, "allow_remove": True, **settings}


def message_of(datasette: Datasette, response: Any) -> tuple[str, int]:
    """The one message that the next page shows, and its kind."""
    [(text, kind)] = datasette.unsign(response.cookies["ds_messages"], "messages")
    return text, kind


async def test_refresh_asks_anew_and_answers_the_six_fields(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle(Model="378"))
    datasette = await make_instance(asking(vpic_server))
    response = await datasette.client.post(f"/-/vin/refresh/{PETERBILT}")
    assert (response.status_code, response.json()["Model"], response.json()["Cached Result?"]) == (200, "379", False)
    assert response.headers["vin-source"] == "vpic"
    assert response.headers["cache-status"] == "vin-datasette; fwd=request; stored"
    assert "etag" in response.headers
    assert len(vpic_server.calls) == 1
    assert [row["model"] for row in rows(tmp_path / "vin.db")] == ["379"]


async def test_refresh_of_a_vin_that_is_not_cached_looks_it_up(make_instance: MakeInstance) -> None:
    response = await (await make_instance()).client.post(f"/-/vin/refresh/{PETERBILT}")
    assert (response.status_code, response.json()["Cached Result?"]) == (200, False)
    assert response.headers["cache-status"] == "vin-datasette; fwd=uri-miss; stored"


async def test_refresh_keeps_the_old_answer_while_vpic_is_away(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle(Model="378"))
    vpic_server.fail_always(Fault.status(503))
    response = await (await make_instance(asking(vpic_server))).client.post(f"/-/vin/refresh/{PETERBILT}")
    assert (response.status_code, response.json()["Model"], response.json()["Cached Result?"]) == (200, "378", True)
    assert response.headers["cache-status"] == "vin-datasette; hit; ttl=0"


async def test_refresh_is_503_where_nothing_is_cached_and_nobody_can_be_asked(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fail_always(Fault.status(503))
    response = await (await make_instance(asking(vpic_server))).client.post(f"/-/vin/refresh/{PETERBILT}")
    assert (response.status_code, list(response.json())) == (503, ["ok", "error", "status", "title"])
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("vin", ["nonsense", WRONG_CHECK_DIGIT, ""])
async def test_refresh_of_what_is_no_vehicle_is_404(make_instance: MakeInstance, vin: str) -> None:
    response = await (await make_instance()).client.post(f"/-/vin/refresh/{vin}")
    assert (response.status_code, list(response.json())) == (404, ["ok", "error", "status", "title"])


@pytest.mark.parametrize("headers", [{}, FORM])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT"])
async def test_refresh_takes_no_other_method(make_instance: MakeInstance, method: str, headers: dict[str, str]) -> None:
    datasette = await make_instance()
    response = await datasette.client.request(method, f"/-/vin/refresh/{PETERBILT}", headers=headers)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


async def test_refresh_has_no_short_route(make_instance: MakeInstance) -> None:
    assert (await (await make_instance()).client.post(f"/refresh/{PETERBILT}")).status_code == 404


@pytest.mark.parametrize("route", ["refresh", "remove"])
@pytest.mark.parametrize("accept", [{}, FORM])
async def test_who_may_not_is_told_so_and_nothing_happens(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path, route: str, accept: dict[str, str]
) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance(asking(vpic_server, allow_lookup=False, allow_remove=False))
    response = await datasette.client.post(f"/-/vin/{route}/{PETERBILT}", headers=accept)
    assert response.status_code == 403
    assert ("vin-lookup is needed" if route == "refresh" else "vin-remove is needed") in response.text
    assert response.headers["content-type"].startswith("text/html" if accept else "application/json")
    assert (vpic_server.calls, len(rows(tmp_path / "vin.db"))) == ([], 1)


@pytest.mark.parametrize("route", ["refresh", "remove"])
@pytest.mark.parametrize("accept", [{}, FORM])
@pytest.mark.parametrize(
    "elsewhere",
    [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://elsewhere.example"}, {"Host": "elsewhere.example"}],
)
async def test_pages_of_other_sites_are_refused(
    make_instance: MakeInstance,
    vpic_server: VpicServer,
    tmp_path: Path,
    route: str,
    accept: dict[str, str],
    elsewhere: dict[str, str],
) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance(asking(vpic_server))
    response = await datasette.client.post(f"/-/vin/{route}/{PETERBILT}", headers={**accept, **elsewhere})
    assert response.status_code == 403
    assert (vpic_server.calls, len(rows(tmp_path / "vin.db"))) == ([], 1)


VEHICLE_PATH = f"/vin/vehicles/{PETERBILT}"


async def refreshed(datasette: Datasette, vin: str = PETERBILT) -> tuple[str, str, int]:
    """Where a browser's form is led, with what message of which kind."""
    response = await datasette.client.post(f"/-/vin/refresh/{vin}", headers=FORM)
    assert response.status_code == 303
    return (response.headers["location"], *message_of(datasette, response))


async def test_form_is_told_what_has_changed(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle(Model="378", Note="Old"))
    datasette = await make_instance(asking(vpic_server))
    assert await refreshed(datasette) == (VEHICLE_PATH, "vPIC was asked anew: 2 values have changed.", 1)
    assert await refreshed(datasette) == (VEHICLE_PATH, "vPIC was asked anew and says the same as before.", 1)


async def test_form_is_told_who_answered(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle(source="embedded"))
    _, told, _ = await refreshed(await make_instance())
    assert told.startswith("The embedded copy of vPIC's database was asked anew")


async def test_form_is_told_that_vpic_could_not_be_asked(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle())
    vpic_server.fail_always(Fault.status(503))
    datasette = await make_instance(asking(vpic_server))
    path, told, kind = await refreshed(datasette)
    assert (path, kind) == (VEHICLE_PATH, datasette.WARNING)
    assert told.startswith("vPIC could not be asked just now, so the answer of 2026-03-01 stays. Try again in ")


async def test_form_is_told_that_the_embedded_database_does_not_replace_vpics_word(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle())
    path, told, _ = await refreshed(await make_instance({"source": "embedded"}))
    assert (path, "does not replace what vPIC itself said" in told) == (VEHICLE_PATH, True)


async def test_form_is_told_of_a_vin_that_is_rejected_now(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle())
    vpic_server.records[PETERBILT] = {**flat_record(PETERBILT), "ErrorCode": "7", "ErrorText": "7 - Not registered"}
    datasette = await make_instance(asking(vpic_server))
    path, told, kind = await refreshed(datasette)
    assert (path, kind) == (f"/-/vin/lookup?vin={PETERBILT}", datasette.ERROR)
    assert told == f"{PETERBILT} was asked about anew, and is no vehicle any more by what was answered."
    assert "7 - Not registered" in (await datasette.client.get(path)).text


async def test_form_for_what_is_no_vin_leads_to_the_reason(make_instance: MakeInstance) -> None:
    path, _, _ = await refreshed(await make_instance(), "nonsense%3Cb%3E&x=1")
    assert path.startswith("/-/vin/lookup?vin=nonsense%3Cb%3E")
    assert urlsplit(path).query.count("=") == 1


async def test_form_is_told_that_no_source_could_be_asked(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    vpic_server.fail_always(Fault.status(503))
    path, told, _ = await refreshed(await make_instance(asking(vpic_server)))
    assert (path, told.startswith(f"No source could be asked about {PETERBILT}: ")) == (
        f"/-/vin/lookup?vin={PETERBILT}",
        True,
    )


async def test_form_is_told_that_the_answer_could_not_be_kept(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    keep(tmp_path, vehicle(Model="378"))
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("CREATE TRIGGER full BEFORE DELETE ON vehicles BEGIN SELECT raise(ABORT, 'it is full'); END")
    datasette = await make_instance(asking(vpic_server))
    path, told, kind = await refreshed(datasette)
    assert (path, kind) == (VEHICLE_PATH, datasette.WARNING)
    assert told == "The cache could not be written, so this page still shows what was known before."


async def test_message_is_shown_on_the_page_and_once(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance()
    response = await datasette.client.post(f"/-/vin/refresh/{PETERBILT}", headers=FORM)
    shown = await datasette.client.get(
        response.headers["location"], cookies={"ds_messages": response.cookies["ds_messages"]}
    )
    assert "Only the embedded database is asked here" in shown.text
    assert 'ds_messages=""' in shown.headers["set-cookie"]


async def test_refresh_leads_back_under_the_base_url(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance({}, settings={"base_url": "/prefix/"})
    assert (await refreshed(datasette))[0] == f"/prefix{VEHICLE_PATH}"


# Remove


async def test_form_that_removes_leads_to_the_vehicles(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance({"allow_remove": True})
    told = []
    for _ in range(2):
        response = await datasette.client.post(f"/remove/{PETERBILT}", headers=FORM)
        assert (response.status_code, response.headers["location"]) == (303, "/vin/vehicles")
        told.append(message_of(datasette, response)[0])
    assert told == [f"{PETERBILT} is removed from the cache.", f"The cache held nothing for {PETERBILT}."]
    assert rows(tmp_path / "vin.db") == []


async def test_programs_that_remove_are_answered_as_ever(make_instance: MakeInstance, tmp_path: Path) -> None:
    keep(tmp_path, vehicle())
    datasette = await make_instance({"allow_remove": True})
    answers = [
        await datasette.client.post(f"/-/vin/remove/{PETERBILT}", headers={"accept": accept})
        for accept in ("application/json", "*/*")
    ]
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "true"), (200, "false")]
    assert (await datasette.client.delete(f"/remove/{PETERBILT}", headers=FORM)).text == "false"


async def test_form_is_told_that_the_cache_could_not_be_written(
    make_instance: MakeInstance, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep(tmp_path, vehicle())
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("CREATE TRIGGER full BEFORE DELETE ON vehicles BEGIN SELECT raise(ABORT, 'it is full'); END")
    datasette = await make_instance({"allow_remove": True})
    response = await datasette.client.post(f"/remove/{PETERBILT}", headers=FORM)
    assert response.status_code == 303
    assert message_of(datasette, response) == (
        f"{PETERBILT} is not removed. The cache could not be written: it is full",
        datasette.ERROR,
    )
    assert "it is full" in caplog.text


# In a browser


class Site:
    """A served instance on whose cache everybody may do everything."""

    def __init__(self, served: Served, vpic: VpicServer, folder: Path) -> None:
        self.url = served.url
        self.vpic = vpic
        self._folder = folder

    def page(self, vin: str) -> str:
        """The address of a vehicle's page."""
        return f"{self.url}/vin/vehicles/{vin}"

    def keep(self, *vehicles: Vehicle) -> None:
        """Put vehicles into its cache."""
        keep(self._folder, *vehicles)

    def known(self, vin: str) -> bool:
        """Whether its cache has this vehicle."""
        return vin in [row["vin"] for row in rows(self._folder / "vin.db")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with VpicServer() as vpic, serving(folder, VIN_DATASETTE_VPIC_URL=vpic.url, VIN_DATASETTE_RATE="1000") as served:
        yield Site(served, vpic, folder)


browsing = pytest.mark.asyncio(loop_scope="session")


@browsing
async def test_vehicle_is_refreshed_and_removed_by_keyboard_alone(site: Site, browse: Browse) -> None:
    site.keep(vehicle(Note="Old"))
    page = await browse()
    await page.goto(site.page(PETERBILT))
    assert await page.evaluate("document.documentElement.lang") == "en"
    await page.get_by_role("button", name="Refresh").focus()
    await page.keyboard.press("Enter")
    await page.get_by_text("vPIC was asked anew: 1 value has changed.").wait_for()
    await page.wait_for_load_state()
    assert page.url == site.page(PETERBILT)
    await page.get_by_role("row", name="Note Old nothing").wait_for()

    await page.get_by_role("button", name="Refresh").focus()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name=f"Remove {PETERBILT}?")
    await dialog.wait_for()
    await page.keyboard.press("Escape")
    await dialog.wait_for(state="hidden")
    assert site.known(PETERBILT)

    await page.keyboard.press("Enter")
    await dialog.wait_for()
    assert await page.evaluate("document.activeElement.textContent") == "Keep"
    await page.keyboard.press("Enter")
    await dialog.wait_for(state="hidden")
    assert site.known(PETERBILT)

    await page.keyboard.press("Enter")
    await dialog.wait_for()
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await page.get_by_text(f"{PETERBILT} is removed from the cache.").wait_for()
    assert not site.known(PETERBILT)


@browsing
async def test_buttons_work_without_javascript(site: Site, browse: Browse) -> None:
    site.keep(vehicle(HONDA))
    page = await browse(java_script_enabled=False)
    await page.goto(site.page(HONDA))
    await page.get_by_role("button", name="Refresh").click()
    await page.get_by_text("vPIC was asked anew and says the same as before.").wait_for()
    await page.get_by_role("button", name="Remove").click()
    await page.get_by_text(f"{HONDA} is removed from the cache.").wait_for()
    assert not site.known(HONDA)


@browsing
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_is_accessible(site: Site, browse: Browse, scheme: str) -> None:
    site.keep(vehicle(WRONG_CHECK_DIGIT, Note="Old"), vehicle(WRONG_CHECK_DIGIT, days=1))
    site.keep(vehicle("5YJ3E1EA2KF317000", source="embedded", version="2026_10"))
    page = await browse(color_scheme=scheme)
    for vin in (WRONG_CHECK_DIGIT, "5YJ3E1EA2KF317000"):
        await page.goto(site.page(vin))
        assert await violations(page) == []
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await violations(page) == []
    await page.get_by_role("button", name="Remove").click()
    await page.get_by_role("dialog").wait_for()
    assert await violations(page) == []
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name="Refresh").click()
    await page.get_by_text("vPIC was asked anew").wait_for()
    await page.wait_for_load_state()
    assert await violations(page) == []


@browsing
async def test_page_does_not_scroll_sideways_on_a_phone(site: Site, browse: Browse) -> None:
    long = "W" * 300
    site.keep(vehicle("1M8GDM9AXKP042788", Note="Old"), vehicle("1M8GDM9AXKP042788", days=1, Note=long, Model=long))
    page = await browse(viewport={"width": 360, "height": 740}, device_scale_factor=1)
    await page.goto(site.page("1M8GDM9AXKP042788"))
    assert await page.evaluate("document.documentElement.scrollWidth") == 360


@browsing
async def test_hostile_values_run_nowhere(site: Site, browse: Browse) -> None:
    image = "<img src=x onerror=\"document.title='run'\">"
    said = {**flat_record("2T2HGCEZ8NC004352"), "Model": HOSTILE, "Note": image, image: image}
    site.keep(vehicle("2T2HGCEZ8NC004352", said))
    page = await browse()
    await page.goto(site.page("2T2HGCEZ8NC004352"))
    assert await page.get_by_role("heading", level=1).text_content() == f"2022 LEXUS {HOSTILE}"
    assert "run" not in await page.title()
    assert await page.locator("main img").count() == 0
