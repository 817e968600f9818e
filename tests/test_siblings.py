"""Which VINs one answer serves, what becomes of the answer, and that the measurement of it runs."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import ultravin
from hypothesis import assume, given, settings, strategies as st

from benchmarks import siblings as measurement
from vin_datasette.record import Record, SourceName
from vin_datasette.siblings import REFUSED_WMIS, as_sibling, family
from vin_datasette.sources import Question
from vin_datasette.sources.embedded import EmbeddedSource
from vin_datasette.vin import ALPHABET, VIN, check_digit

TRACTOR = VIN("1XP5DB9X7XD487964")
LOW_VOLUME = "1T9AB1234XY131007"
WHEN = datetime(2026, 3, 1, 12, 30, tzinfo=timezone.utc)
NOTE = "Answered from the record of its sibling 1XP5DB9X7XD487964, 2026-03-01T12:30:00Z"
TRAILER: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "flat_154_keys_2026_trailer.json").read_text("utf-8")
)
CLEAN_TEXT = "0 - VIN decoded clean. Check Digit (9th position) is correct"
EXCUSE = (
    " NOTE: Check Digit Exception - The check digit was given an exception based on data from the OEM "
    "indicating an error on production."
)

characters = st.sampled_from(sorted(ALPHABET))
serials = st.integers(0, 999_999).map("{:06}".format)
patient = settings(deadline=None, max_examples=50)


def right(text: str) -> VIN:
    """The VIN with its check digit put right."""
    return VIN(f"{text[:8]}{check_digit(text)}{text[9:]}")


def numbered(serial: str, vin: str = TRACTOR) -> VIN:
    return right(vin[: 17 - len(serial)] + serial)


def record(vin: VIN = TRACTOR, source: SourceName = "vpic", notes: tuple[str, ...] = (), **values: object) -> Record:
    said = {"VIN": str(vin), "Make": "PETERBILT", "ErrorCode": "0", "ErrorText": CLEAN_TEXT, **values}
    return Record(vin, said, source, "2026_10", WHEN, notes)


def decoded(vin: VIN) -> Record:
    [found] = EmbeddedSource().decode_now([Question(vin)])
    return found


# Families


def test_a_familys_name_is_the_descriptor() -> None:
    assert family(TRACTOR) == "1XP5DB9X*XD"


def test_a_familys_name_is_vpics_vehicle_descriptor() -> None:
    assert family(VIN(TRAILER["VIN"])) == TRAILER["VehicleDescriptor"]


def test_a_low_volume_familys_name_has_its_manufacturers_six_characters() -> None:
    assert family(right(LOW_VOLUME)) == "1T9AB123*XY131"


@given(serials)
def test_the_serial_number_does_not_part_siblings(serial: str) -> None:
    assert family(numbered(serial)) == family(TRACTOR)


@given(st.integers(0, 999).map("{:03}".format))
def test_nor_does_it_for_a_low_volume_manufacturer(serial: str) -> None:
    assert family(numbered(serial, LOW_VOLUME)) == family(right(LOW_VOLUME))


@given(st.sampled_from([*range(8), 9, 10]), characters)
def test_every_other_position_does(index: int, char: str) -> None:
    assume(char != TRACTOR[index])
    assert family(right(TRACTOR[:index] + char + TRACTOR[index + 1 :])) != family(TRACTOR)


@given(st.sampled_from([11, 12, 13]), st.sampled_from("0123456789"))
def test_positions_12_to_14_do_for_a_low_volume_manufacturer(index: int, char: str) -> None:
    assume(char != LOW_VOLUME[index])
    assert family(right(LOW_VOLUME[:index] + char + LOW_VOLUME[index + 1 :])) != family(right(LOW_VOLUME))


@given(st.sampled_from("0123456789X"))
def test_no_sibling_answers_for_a_wrong_check_digit(digit: str) -> None:
    assume(digit != TRACTOR.check_digit)
    assert family(VIN(f"{TRACTOR[:8]}{digit}{TRACTOR[9:]}")) is None


@pytest.mark.parametrize("wmi", sorted(REFUSED_WMIS))
def test_no_sibling_answers_for_a_refused_manufacturer(wmi: str) -> None:
    vin = right(wmi + TRACTOR[3:] if len(wmi) == 3 else wmi[:3] + TRACTOR[3:11] + wmi[3:] + TRACTOR[14:])
    assert vin.wmi == wmi
    assert family(vin) is None


def test_refused_manufacturers_are_wmis() -> None:
    assert all(re.fullmatch("[A-HJ-NPR-Z0-9]{2}([A-HJ-NPR-Z0-8]|9[A-HJ-NPR-Z0-9]{3})", wmi) for wmi in REFUSED_WMIS)


@pytest.mark.parametrize("serial", ["4A7964", "48A964", "487A64", "4879A4", "48796A"])
def test_no_sibling_answers_where_a_letter_stands_for_a_number(serial: str) -> None:
    assert family(numbered(serial)) is None


@pytest.mark.parametrize("serial", ["A07", "0A7", "00A"])
def test_no_sibling_answers_where_a_letter_stands_for_a_low_volume_number(serial: str) -> None:
    assert family(numbered(serial, LOW_VOLUME)) is None


@pytest.mark.parametrize("text", [numbered("A87964"), right("1T9AB1234XYABC007")])
def test_a_letter_may_stand_before_the_number(text: VIN) -> None:
    assert family(text) == text.descriptor


def test_vpic_does_find_fault_with_a_letter_that_a_sibling_would_hide() -> None:
    assert decoded(TRACTOR).error_codes == (0,)
    assert decoded(numbered("487A64")).error_codes != (0,)


# Answers


def test_the_answer_names_the_vin_that_was_asked() -> None:
    sibling = numbered("000001")
    answer = as_sibling(record(), sibling)
    assert (answer.vin, answer.values["VIN"]) == (sibling, sibling)
    assert type(answer.values["VIN"]) is str


def test_the_answer_says_whose_it_was() -> None:
    assert as_sibling(record(), numbered("000001")).notes == (NOTE,)


def test_the_siblings_notes_stay() -> None:
    assert as_sibling(record(notes=("A note",)), numbered("000001")).notes == ("A note", NOTE)


@pytest.mark.parametrize(
    ("source", "then"),
    [
        ("vpic", "vpic-sibling"),
        ("embedded", "embedded-sibling"),
        ("vpic-sibling", "vpic-sibling"),
        ("embedded-sibling", "embedded-sibling"),
    ],
)
def test_the_source_says_that_it_was_a_sibling(source: SourceName, then: SourceName) -> None:
    assert as_sibling(record(source=source), numbered("000001")).source == then


def test_version_and_time_are_the_siblings() -> None:
    answer = as_sibling(record(), numbered("000001"))
    assert (answer.source_version, answer.fetched_at) == ("2026_10", WHEN)


def test_all_else_is_kept_in_its_order() -> None:
    found = Record(VIN(TRAILER["VIN"]), TRAILER, "vpic", None, WHEN)
    answer = as_sibling(found, numbered("000001", TRAILER["VIN"]))
    assert list(answer.values) == list(TRAILER)
    assert {key for key in TRAILER if answer.values[key] != TRAILER[key]} == {"VIN"}


def test_the_siblings_own_record_stays_as_it_is() -> None:
    found = record()
    before = dict(found.values)
    as_sibling(found, numbered("000001"))
    assert found.values == before


@pytest.mark.parametrize("key", ["SuggestedVIN", "PossibleValues"])
def test_a_suggestion_for_the_sibling_is_dropped(key: str) -> None:
    found = Record(TRACTOR, {"VIN": str(TRACTOR), "ErrorCode": "0", key: "1XP5DB9X7XD!87964"}, "vpic", None, WHEN)
    assert as_sibling(found, numbered("000001")).values[key] == ""


@pytest.mark.parametrize("key", ["SuggestedVIN", "PossibleValues", "ErrorText"])
def test_a_key_that_the_sibling_has_not_is_not_added(key: str) -> None:
    values = {"VIN": str(TRACTOR), "ErrorCode": "0"}
    assert key not in as_sibling(Record(TRACTOR, values, "vpic", None, WHEN), numbered("000001")).values


def test_the_excuse_for_the_siblings_check_digit_is_dropped() -> None:
    answer = as_sibling(record(ErrorText=CLEAN_TEXT + EXCUSE), numbered("000001"))
    assert answer.values["ErrorText"] == CLEAN_TEXT


def test_the_excuse_is_dropped_in_the_form_of_2018() -> None:
    values = {"VIN": str(TRACTOR), "ErrorCode": CLEAN_TEXT + EXCUSE}
    answer = as_sibling(Record(TRACTOR, values, "vpic", None, WHEN), numbered("000001"))
    assert (answer.values["ErrorCode"], answer.error_codes) == (CLEAN_TEXT, (0,))


def test_an_excuse_of_vpics_is_known() -> None:
    """Of a VIN from its list of vehicles that were built with a wrong check digit."""
    excused = next(vin for vin in map(VIN, ultravin.sweep(["exception"])) if not vin.check_digit_valid)
    found = decoded(excused)
    assert found.text("ErrorText") == CLEAN_TEXT + EXCUSE
    assert family(excused) is None
    assert as_sibling(found, right(excused)).values["ErrorText"] == CLEAN_TEXT


@pytest.mark.parametrize("codes", ["0,14", "0,10", "1", "14", "", "1,11,400", "0,0"])
def test_a_record_that_is_not_clean_answers_for_nobody(codes: str) -> None:
    with pytest.raises(ValueError, match=f"{TRACTOR} is not clean"):
        as_sibling(record(ErrorCode=codes), numbered("000001"))


@pytest.mark.parametrize(
    "other",
    [
        right("1XP5DB9X7XP487964"),
        VIN("1HGCM82633A004352"),
        VIN("1XP5DB9X0XD487964"),
        numbered("48A964"),
    ],
)
def test_a_record_answers_for_no_vin_but_siblings(other: VIN) -> None:
    with pytest.raises(ValueError, match=f"no sibling that may answer for {other}"):
        as_sibling(record(), other)


@patient
@given(serials)
def test_the_answer_is_the_one_that_vpics_database_gives(serial: str) -> None:
    vin = numbered(serial)
    assert as_sibling(decoded(TRACTOR), vin).values == decoded(vin).values


@patient
@given(st.integers(0, 10_000), serials)
def test_it_is_for_every_manufacturer(seed: int, serial: str) -> None:
    [text] = ultravin.generate(1, seed=seed, invalid_rate=0)
    first = decoded(VIN(text))
    vin = numbered(serial[3:] if first.vin.low_volume else serial, text)
    assume(first.error_codes == (0,) and family(vin))
    assert as_sibling(first, vin).values == decoded(vin).values


# The measurement


@pytest.fixture(scope="module")
def printed() -> str:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("builtins.print", lambda text="": lines.append(text))
        measurement.main(["--vins", "400", "--seed", "3"])
    return "\n".join(lines)


@pytest.mark.parametrize(
    "table",
    [
        r"^4\d\d VINs in \d\d families",
        r"^drawn, digits only +\d",
        r"^aimed, digits only +\d",
        r"^that siblings.family\(\) lets through",
        r"^By manufacturer",
        r"^By field",
        r"^\d+ WMIs to refuse",
    ],
)
def test_the_measurement_prints_its_tables(printed: str, table: str) -> None:
    assert re.search(table, printed, re.MULTILINE)


def test_the_measurement_finds_no_manufacturer_that_is_let_through(printed: str) -> None:
    assert "missing from siblings.REFUSED_WMIS: none" in printed


@patient
@given(st.integers(0, 10_000))
def test_the_measurements_families_are_families(seed: int) -> None:
    [one] = measurement.families(1, seed, {})
    assert len(set(one.vins)) == len(one.vins) > 10
    assert len({vin.descriptor for vin in one.vins}) == 1
    assert all(vin.check_digit_valid for vin in one.vins)
    ends = {"001", "999"} if one.vins[0].low_volume else {"000001", "999999"}
    assert ends <= {vin.serial for vin in one.vins}


@pytest.mark.parametrize(
    ("keys", "first", "reaches"),
    [
        ("*4***|**[0-9]", 12, True),
        ("*****|***4", 12, True),
        ("*****|[A-HJ][1-9]4", 12, True),
        ("*****|*[A-D]", 12, False),
        ("*****|*[A-D]**", 12, False),
        ("**[A-DX]*", 12, False),
        ("1XP", 12, False),
        ("", 12, False),
        ("*****|**131", 15, False),
        ("*****|**1310", 15, True),
    ],
)
def test_a_rule_on_the_serial_number_is_known(keys: str, first: int, reaches: bool) -> None:
    assert measurement.reaches_serial(keys, first) is reaches
