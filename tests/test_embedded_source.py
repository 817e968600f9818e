"""vPIC's database in this process answers as vPIC's API does."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ultravin

from tests.conftest import numbered_vins
from vin_datasette import VIN
from vin_datasette.sources import Question
from vin_datasette.sources.embedded import EmbeddedSource
from vin_datasette.vin import check_digit

if TYPE_CHECKING:
    from vin_datasette.record import Record

HONDA, PETERBILT, AUDI = VIN("1HGCM82633A004352"), VIN("1XP5DB9X7XD487964"), VIN("WA1A4AFY2J2008189")
DATA = Path(__file__).parent / "data"
TRAILER: dict[str, Any] = json.loads((DATA / "flat_154_keys_2026_trailer.json").read_text("utf-8"))
REJECTED: dict[str, Any] = json.loads((DATA / "flat_154_keys_2026_rejected.json").read_text("utf-8"))


async def decode(*questions: Question) -> list[Record]:
    return await EmbeddedSource().decode(questions)


async def record(vin: VIN, model_year: int | None = None) -> Record:
    [found] = await decode(Question(vin, model_year))
    return found


def four(found: Record) -> tuple[str, ...]:
    return tuple(found.text(key) for key in ("Make", "Model", "ModelYear", "BodyClass"))


@pytest.mark.parametrize(
    ("vin", "known"),
    [
        (PETERBILT, ("PETERBILT", "379", "1999", "Truck-Tractor")),
        (HONDA, ("HONDA", "Accord", "2003", "Coupe")),
    ],
)
async def test_vehicles_that_are_known(vin: VIN, known: tuple[str, ...]) -> None:
    assert four(await record(vin)) == known


@pytest.mark.parametrize("key", ["Make", "Model", "ModelYear", "BodyClass", "VehicleType", "ErrorCode"])
async def test_a_value_is_the_one_that_the_api_gave(key: str) -> None:
    assert (await record(VIN(TRAILER["VIN"]))).values[key] == TRAILER[key]


@pytest.mark.parametrize("key", ["MakeID", "ModelID", "ManufacturerId"])
async def test_an_id_is_the_one_that_the_api_gave(key: str) -> None:
    assert (await record(VIN(TRAILER["VIN"]))).values[key] == TRAILER[key]


@pytest.mark.parametrize("key", ["ErrorCode", "ErrorText", "SuggestedVIN"])
async def test_what_is_wrong_with_a_vin_is_said_as_by_the_api(key: str) -> None:
    assert (await record(VIN(REJECTED["VIN"]))).text(key) == REJECTED[key]


@pytest.mark.parametrize("vin", [HONDA, PETERBILT, AUDI, VIN(TRAILER["VIN"]), VIN(REJECTED["VIN"])])
async def test_every_key_is_one_of_vpics_flat_keys(vin: VIN) -> None:
    assert (await record(vin)).values.keys() <= TRAILER.keys()


@pytest.mark.parametrize("vin", [HONDA, VIN(REJECTED["VIN"])])
async def test_the_vin_is_echoed(vin: VIN) -> None:
    assert (await record(vin)).values["VIN"] == vin


async def test_every_value_is_text() -> None:
    assert {type(value) for value in (await record(PETERBILT)).values.values()} == {str}


async def test_a_value_that_repeats_is_joined() -> None:
    bare = "1FDZK1C80MKA00001"
    vin = VIN(bare[:8] + check_digit(bare) + bare[9:])
    notes = [each["value"] for each in ultravin.decode(vin, full=True)["elements"] if each["code"] == "Note"]
    assert len(notes) > 1
    assert (await record(vin)).values["Note"] == "; ".join(note or "" for note in notes)


async def test_a_model_year_that_contradicts_the_vin_is_remarked_on() -> None:
    assert "12" in (await record(AUDI, 2011)).text("ErrorCode").split(",")


@pytest.mark.parametrize("model_year", [None, 2018])
async def test_no_model_year_and_the_right_one_are_not_remarked_on(model_year: int | None) -> None:
    assert (await record(AUDI, model_year)).text("ErrorCode") == "0"


async def test_a_model_year_is_that_of_its_own_vin_only() -> None:
    remarks = [each.text("ErrorCode") for each in await decode(Question(HONDA), Question(AUDI, 2011), Question(AUDI))]
    assert [("12" in remark.split(",")) for remark in remarks] == [False, True, False]


async def test_fifty_questions_are_answered_in_their_order() -> None:
    fifty = numbered_vins(50)[::-1]
    found = await decode(*map(Question, fifty))
    assert [(each.vin, each.values["VIN"]) for each in found] == [(vin, vin) for vin in fifty]


async def test_the_version_is_the_month_of_the_data() -> None:
    source = EmbeddedSource()
    assert re.fullmatch(r"20\d\d_(0[1-9]|1[0-2])", source.version)
    assert source.version == ultravin.provenance()["data_month"]


async def test_a_record_says_who_gave_it_and_of_which_month() -> None:
    found = await record(HONDA)
    assert (found.source, found.source_version) == ("embedded", EmbeddedSource().version)


async def test_a_record_says_when_it_was_given_to_the_second() -> None:
    age = datetime.now(timezone.utc) - (found := await record(HONDA)).fetched_at
    assert timedelta(0) <= age < timedelta(seconds=3)
    assert found.fetched_at.microsecond == 0


async def test_many_may_ask_at_once() -> None:
    source = EmbeddedSource()
    fifty = numbered_vins(50)
    found = await asyncio.gather(*(source.decode([Question(vin)]) for vin in fifty))
    assert [each.vin for [each] in found] == fifty


async def test_closing_it_ends_nothing() -> None:
    source = EmbeddedSource()
    await source.aclose()
    assert len(await source.decode([Question(HONDA)])) == 1
