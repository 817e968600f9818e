"""The table of vPIC's elements, against vPIC's own database, and how records are read by it."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import groupby
from typing import TYPE_CHECKING

import pytest
import ultravin

from tests.vpic_server import FLAT_KEYS, flat_record
from vin_datasette.attributes import ATTRIBUTES
from vin_datasette.elements import ELEMENTS, OTHER, RANGES, grouped, label, shown, value_of
from vin_datasette.record import Record
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Mapping

PETERBILT = VIN("1XP5DB9X7XD487964")


def record_of(values: Mapping[str, object]) -> Record:
    return Record(PETERBILT, values, "vpic", None, datetime(2026, 3, 1, tzinfo=timezone.utc))


@pytest.fixture(scope="module")
def decoded() -> list[dict[str, object]]:
    """All elements of some thousand VINs that between them touch whatever the database knows."""
    vins = [*ultravin.cover_vins(), *ultravin.generate(2000, seed=1, invalid_rate=0)]
    return [element for answer in ultravin.decode_batch(vins, full=True) for element in answer["elements"]]


def test_every_key_of_a_flat_answer_is_known() -> None:
    assert [key for key in FLAT_KEYS if key not in ELEMENTS] == []


def test_elements_of_decoded_vins_have_their_id_and_group(decoded: list[dict[str, object]]) -> None:
    given = {(each["code"], each["element_id"], each["group_name"]) for each in decoded}
    known = {(each.key, each.element_id, each.group) for each in ELEMENTS.values()}
    assert len(given) > 100
    assert given - known == set()


def test_elements_that_the_database_lists_have_their_id_and_group() -> None:
    listed = {(each["code"], each["element_id"], each["group_name"]) for each in ultravin.ELEMENTS.values()}
    assert listed - {(each.key, each.element_id, each.group) for each in ELEMENTS.values()} == set()


def test_no_element_has_the_id_of_another() -> None:
    ids = [each.element_id for each in ELEMENTS.values() if each.element_id]
    assert len(ids) == len(set(ids))


def test_groups_stand_together() -> None:
    groups = [group for group, _ in groupby(each.group for each in ELEMENTS.values())]
    assert len(groups) == len(set(groups))


def test_typed_columns_name_the_same_elements_with_the_same_units() -> None:
    columns = [each for each in ATTRIBUTES if each.special is None]
    told = {(each.key, each.element_id, each.unit) for each in columns}
    assert told == {(key, ELEMENTS[key].element_id, ELEMENTS[key].unit) for key, _, _ in told}


def test_ends_of_a_range_have_one_group_and_one_unit() -> None:
    for first, last in RANGES.items():
        assert (ELEMENTS[first].group, ELEMENTS[first].unit) == (ELEMENTS[last].group, ELEMENTS[last].unit)


def test_label_of_an_unknown_key_is_the_key() -> None:
    assert (label("DisplacementL"), label("Telepathy")) == ("Displacement", "Telepathy")


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("DisplacementCI", "183.0712322841968519", "183.071 cu in"),
        ("DisplacementL", "0.40100000000000000000", "0.401 L"),
        ("DisplacementL", "3", "3 L"),
        ("BasePrice", "47830.00", "47,830 USD"),
        ("EngineHP", "300", "300 hp"),
        ("EngineHP", "about 300", "about 300"),
        ("EngineHP", "٣٠٠", "٣٠٠"),
        ("EngineHP", "", ""),
        ("Doors", "4", "4"),
        ("MakeID", "12345", "12345"),
        ("Telepathy", "0.100", "0.100"),
    ],
)
def test_numbers_are_shown_with_their_units(key: str, text: str, expected: str) -> None:
    assert shown(key, text) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"EngineHP": "300"}, "300 hp"),
        ({"EngineHP": "300", "EngineHP_to": ""}, "300 hp"),
        ({"EngineHP": "300", "EngineHP_to": "300"}, "300 hp"),
        ({"EngineHP": "300", "EngineHP_to": "1350.50"}, "300 to 1,350.5 hp"),
        ({"EngineHP_to": "350"}, "up to 350 hp"),
        ({"EngineHP": "some", "EngineHP_to": "350"}, "some to 350"),
        ({"EngineHP": "Not Applicable"}, ""),
        ({}, ""),
    ],
)
def test_range_is_shown_as_one(values: dict[str, object], expected: str) -> None:
    assert value_of(record_of(values), "EngineHP") == expected


def test_range_without_a_unit_is_shown_as_one() -> None:
    values = {"GVWR": "Class 1: 6,000 lb or less", "GVWR_to": "Class 2E: 6,001 - 7,000 lb"}
    assert value_of(record_of(values), "GVWR") == "Class 1: 6,000 lb or less to Class 2E: 6,001 - 7,000 lb"


def test_record_is_read_in_the_groups_and_the_order_of_vpic() -> None:
    values = {"Doors": "4", "ErrorCode": "0", "EngineHP": "100", "Make": "FORD", "ABS": "Standard", "Model": "F-150"}
    assert grouped(record_of(values)) == [
        ("General", [("Make", "Make", "FORD"), ("Model", "Model", "F-150")]),
        ("Exterior / Body", [("Doors", "Doors", "4")]),
        ("Engine", [("EngineHP", "Engine Brake Power", "100 hp")]),
        ("Active Safety System", [("ABS", "Antilock Braking System (ABS)", "Standard")]),
        ("About this answer", [("ErrorCode", "Error Code", "0")]),
    ]


def test_what_says_nothing_is_left_out() -> None:
    values = {"Make": "", "Model": None, "Series": "Not Applicable", "Trim": "  ", "Telepathy": "", "Doors": "2"}
    assert grouped(record_of(values)) == [("Exterior / Body", [("Doors", "Doors", "2")])]


def test_keys_that_are_not_known_come_last() -> None:
    values = {"Telepathy": "Optional", "Make": "FORD", "Levitation": 7}
    assert grouped(record_of(values))[-1] == (
        OTHER,
        [("Telepathy", "Telepathy", "Optional"), ("Levitation", "Levitation", "7")],
    )


@pytest.mark.parametrize("vin", [PETERBILT, "1HGCM82633A004352", "5YJ3E1EA2KF317000", "1M8GDM9AXKP042788"])
def test_nothing_that_a_record_says_is_hidden(vin: str) -> None:
    record = record_of(flat_record(vin))
    told = " ".join(f"{item.key}={item.value}" for _, items in grouped(record) for item in items)
    silent = [key for key in record.values if record.text(key) and f"{key}=" not in told]
    assert [key for key in silent if key not in RANGES.values()] == []
