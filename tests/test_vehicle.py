"""What a vPIC record means: which vehicle, in which typed columns, or why there is none."""

from __future__ import annotations

import itertools
import json
import math
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ultravin
from hypothesis import HealthCheck, example, given, settings, strategies as st

from vin_datasette.attributes import ATTRIBUTES, CONTRACT_ATTRIBUTES, Attribute, Value
from vin_datasette.record import Record, read_error_codes
from vin_datasette.vehicle import REJECTING_CODES, Rejection, Vehicle, interpret
from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import Mapping

DATA = Path(__file__).parent / "data"
TRACTOR = VIN("1XP5DB9X7XD487964")
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=timezone.utc)

# vPIC's table of errors.
TEXTS = {
    0: "0 - VIN decoded clean. Check Digit (9th position) is correct",
    1: "1 - Check Digit (9th position) does not calculate properly",
    2: "2 - VIN corrected, error in one position ",
    3: "3 - VIN corrected, error in one position (assuming Check Digit is correct)",
    4: "4 - VIN corrected, error in one position only (indicated by ! in Suggested VIN), multiple matches found",
    5: "5 - VIN has errors in few positions",
    6: "6 - Incomplete VIN",
    7: "7 - Manufacturer is not registered with NHTSA for sale or importation in the U.S. for use on U.S roads; "
    "Please contact the manufacturer directly for more information",
    8: "8 - No detailed data available currently",
    9: '9 - Glider Warning - A "Glider" is not a "motor vehicle", as defined in 49 U.S.C. 30102(a)(6), and cannot '
    "be assigned a VIN that meets 49 CFR Part 565 requirements",
    10: "10 - Off-Road Vehicle Warning – This is not a Vehicle Identification Number (VIN) for a motor vehicle. This "
    "indicates that the manufacturer did not certify this product as complying with the Federal Motor Vehicle "
    "Safety Standards that are applicable to motor vehicles as defined in 49 U.S.C. 30102. ",
    11: "11 - Incorrect Model Year - Position 10 does not match valid model year codes (I, O, Q, U, Z, 0). "
    "Decoded data may not be accurate.",
    12: "12 - Model Year Warning - Model Year entered for decoding with VIN does not match the model year based on "
    "the 10th position in VIN.",
    14: "14 - Unable to provide information for some of the characters in the VIN, based on the manufacturer "
    "submission.",
    400: "400 - Invalid Characters Present",
}
INFORMING = (0, 8, 9, 10, 12, 14)
REJECTING = (1, 2, 3, 4, 5, 6, 7, 11, 400)

# Every wording of a class in vPIC's data, and its kilograms.
GVWR_CLASSES: list[tuple[str, int | None, int | None]] = [
    ("Class 1: 6,000 lb or less (2,722 kg or less)", None, 2722),
    ("Class 1A: 3,000 lb or less (1,360 kg or less)", None, 1360),
    ("Class 1B: 3,001 - 4,000 lb (1,360 - 1,814 kg)", 1360, 1814),
    ("Class 1C: 4,001 - 5,000 lb (1,814 - 2,268 kg)", 1814, 2268),
    ("Class 1D: 5,001 - 6,000 lb (2,268 - 2,722 kg)", 2268, 2722),
    ("Class 2: 6,001 - 10,000 lb (2,722 - 4,536 kg)", 2722, 4536),
    ("Class 2E: 6,001 - 7,000 lb (2,722 - 3,175 kg)", 2722, 3175),
    ("Class 2F: 7,001 - 8,000 lb (3,175 - 3,629 kg)", 3175, 3629),
    ("Class 2G: 8,001 - 9,000 lb (3,629 - 4,082 kg)", 3629, 4082),
    ("Class 2H: 9,001 - 10,000 lb (4,082 - 4,536 kg)", 4082, 4536),
    ("Class 3: 10,001 - 14,000 lb (4,536 - 6,350 kg)", 4536, 6350),
    ("Class 4: 14,001 - 16,000 lb (6,350 - 7,258 kg)", 6350, 7258),
    ("Class 5: 16,001 - 19,500 lb (7,258 - 8,845 kg)", 7258, 8845),
    ("Class 6: 19,501 - 26,000 lb (8,845 - 11,794 kg)", 8845, 11794),
    ("Class 7: 26,001 - 33,000 lb (11,794 - 14,969 kg)", 11794, 14969),
    ("Class 8: 33,001 lb and above (14,969 kg and above)", 14969, None),
]
WORDED = {text.partition(":")[0]: text for text, _, _ in GVWR_CLASSES}

NUMBERS = [attribute for attribute in ATTRIBUTES if attribute.kind != "text"]
WHOLE_NUMBERS = [attribute for attribute in NUMBERS if attribute.kind == "integer" and not attribute.special]
JUNK_NUMBERS = {
    "words": "four",
    "unit": "4 doors",
    "range": "4-6",
    "comma": "4,5",
    "nan": "nan",
    "infinity": "inf",
    "minus infinity": "-Infinity",
    "beyond a float": "1e999",
    "many digits": "9" * 400,
    "very many digits": "9" * 5_000,
    "hexadecimal": "0x10",
    "sign": "-",
    "point": ".",
    "NUL": "\0",
    "surrogate": "\ud83d",
}


def record(values: Mapping[str, object] | None = None, /, **more: object) -> Record:
    said = {"VIN": str(TRACTOR), "Make": "PETERBILT", "Model": "379", "ErrorCode": "0", "ErrorText": TEXTS[0]}
    return Record(TRACTOR, {**said, **(values or {}), **more}, "vpic", None, NOW)


def answer_with(*codes: int, **more: object) -> Record:
    said = "; ".join(TEXTS[code] for code in codes)
    return record(ErrorCode=",".join(map(str, codes)), ErrorText=said, **more)


def flat(name: str) -> Record:
    values = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    return Record(VIN(values["VIN"]), values, "vpic", None, NOW)


def vehicle(answer: Record) -> Vehicle:
    result = interpret(answer)
    assert isinstance(result, Vehicle)
    return result


def rejection(answer: Record) -> Rejection:
    result = interpret(answer)
    assert isinstance(result, Rejection)
    return result


def columns(**values: object) -> dict[str, Value]:
    return Vehicle(record(**values)).columns()


# Vehicle or rejection


@pytest.mark.parametrize("code", INFORMING)
def test_a_code_that_informs_leaves_the_vehicle(code: int) -> None:
    assert isinstance(interpret(answer_with(code)), Vehicle)


@pytest.mark.parametrize("code", REJECTING)
def test_a_code_that_rejects_rejects_alone(code: int) -> None:
    assert isinstance(interpret(answer_with(code)), Rejection)


@pytest.mark.parametrize("codes", [(0, 9), (0, 10), (0, 12), (0, 14), (0, 9, 14), (0, 12, 14), (8, 14)])
def test_codes_that_inform_leave_the_vehicle_together(codes: tuple[int, ...]) -> None:
    assert isinstance(interpret(answer_with(*codes)), Vehicle)


@pytest.mark.parametrize(
    "codes", [(1, 14), (1, 8, 400), (1, 400), (4, 6, 14), (5, 12, 14), (1, 11, 14, 400), (1, 7, 400), (6, 8)]
)
def test_one_rejecting_code_among_others_rejects(codes: tuple[int, ...]) -> None:
    assert isinstance(interpret(answer_with(*codes)), Rejection)


@patient
@given(st.sets(st.sampled_from(sorted(TEXTS)), min_size=1), st.sampled_from(["FORD", "", "Not Applicable", " "]))
def test_a_vehicle_has_a_make_and_no_rejecting_code(codes: set[int], make: str) -> None:
    result = interpret(answer_with(*sorted(codes), Make=make))
    assert isinstance(result, Vehicle) == (make == "FORD" and codes.isdisjoint(REJECTING))


@patient
@given(st.sets(st.sampled_from(sorted(TEXTS)), min_size=1))
def test_lenient_forgives_the_check_digit_and_nothing_else(codes: set[int]) -> None:
    lenient = interpret(answer_with(*sorted(codes)), "lenient")
    assert isinstance(lenient, Vehicle) == codes.isdisjoint(set(REJECTING) - {1})


def test_the_rejecting_codes_are_the_contracts() -> None:
    assert frozenset(REJECTING) == REJECTING_CODES


@pytest.mark.parametrize("code", [13, 15, 401, 9999])
def test_a_code_that_is_not_known_informs(code: int) -> None:
    assert isinstance(interpret(record(ErrorCode=f"0,{code}")), Vehicle)


def test_a_make_without_a_model_is_a_vehicle() -> None:
    result = vehicle(answer_with(8, Model="", VehicleType="TRUCK"))
    assert (result.make, result.model, result.columns()["vehicle_type"]) == ("PETERBILT", "", "TRUCK")


@pytest.mark.parametrize("make", ["", " ", "Not Applicable", None])
def test_without_a_make_there_is_no_vehicle(make: str | None) -> None:
    assert rejection(answer_with(0, Make=make)).reason == f"vPIC names no make for this VIN. {TEXTS[0]}"


def test_a_record_without_any_make_is_rejected_in_words() -> None:
    answer = Record(TRACTOR, {}, "embedded", "2026_10", NOW)
    assert rejection(answer).reason == "vPIC names no make for this VIN."


def test_a_rejection_gives_vpics_words() -> None:
    result = rejection(answer_with(1, 400, AdditionalErrorText="Invalid character(s): 10:0."))
    assert result.reason == f"{TEXTS[1]}; {TEXTS[400]}. Invalid character(s): 10:0."


def test_a_full_stop_of_vpics_is_not_doubled() -> None:
    result = rejection(answer_with(11, AdditionalErrorText="Unused position(s): 4."))
    assert result.reason == f"{TEXTS[11]} Unused position(s): 4."


def test_a_rejection_gives_the_codes_and_the_record() -> None:
    answer = answer_with(1, 14)
    result = rejection(answer)
    assert (result.vin, result.codes, result.record) == (TRACTOR, (1, 14), answer)


def test_a_forgiven_check_digit_is_not_the_reason_of_a_rejection() -> None:
    result = interpret(answer_with(1, Make=""), "lenient")
    assert isinstance(result, Rejection)
    assert result.reason == f"vPIC names no make for this VIN. {TEXTS[1]}"


@pytest.mark.parametrize(
    ("said", "suggestion"),
    [
        ("", None),
        ("1FBNE3BL1CDB23596", "1FBNE3BL1CDB23596"),
        ("WUAAU!4!48N006164", "WUAAU!4!48N006164"),
        ("1D7RD4GG*BC   ", "1D7RD4GG*BC"),
        ("Not Applicable", None),
        (None, None),
    ],
)
def test_a_rejection_carries_vpics_suggestion(said: str | None, suggestion: str | None) -> None:
    assert rejection(answer_with(5, SuggestedVIN=said)).suggested_vin == suggestion


@pytest.mark.parametrize(("length", "shown"), [(0, 0), (18, 18), (40, 40), (41, 41), (10_000, 41)])
def test_malformed_text_is_shown_at_a_readable_length(length: int, shown: int) -> None:
    text = "*" * length
    with pytest.raises(InvalidVIN) as caught:
        VIN(text)
    result = Rejection.malformed(text, caught.value)
    assert (len(result.vin), result.reason, result.codes) == (shown, caught.value.reason, ())


def test_malformed_text_keeps_the_vin_that_was_likely_meant() -> None:
    with pytest.raises(InvalidVIN) as caught:
        VIN("IXP5DB9X7XD487964")
    result = Rejection.malformed("IXP5DB9X7XD487964", caught.value)
    assert (result.suggested_vin, result.record) == (TRACTOR, None)


# Warnings


def test_a_clean_answer_warns_of_nothing() -> None:
    assert vehicle(answer_with(0)).warnings == ()


@pytest.mark.parametrize("codes", [(0, 14), (0, 9), (0, 10), (8,)])
def test_codes_that_inform_are_warnings_in_vpics_words(codes: tuple[int, ...]) -> None:
    expected = "; ".join(TEXTS[code] for code in codes).strip()
    assert vehicle(answer_with(*codes)).warnings == (expected,)


def test_what_vpic_adds_to_a_clean_answer_is_a_warning() -> None:
    remark = "The Model Year decoded for this VIN may be incorrect."
    assert vehicle(answer_with(0, AdditionalErrorText=remark)).warnings == (remark,)


def test_notes_of_the_lookup_are_the_last_warnings() -> None:
    answer = replace(answer_with(0, 14, AdditionalErrorText="Unused position(s): 4."), notes=("a note", "another"))
    assert vehicle(answer).warnings == (f"{TEXTS[0]}; {TEXTS[14]}", "Unused position(s): 4.", "a note", "another")


def test_a_forgiven_check_digit_is_a_warning() -> None:
    result = interpret(answer_with(1), "lenient")
    assert isinstance(result, Vehicle)
    assert result.warnings == (TEXTS[1],)


# Codes, in today's form and in that of 2018


@pytest.mark.parametrize(
    ("said", "codes"),
    [
        ("0", (0,)),
        ("0,14", (0, 14)),
        ("1,11,14,400", (1, 11, 14, 400)),
        (" 1,400 ", (1, 400)),
        (400, (400,)),
        ("", ()),
        (None, ()),
        ("nonsense", ()),
        ("-1", ()),
        ("0,99999", (0,)),
        ("9" * 10_000, ()),
    ],
    ids=str,
)
def test_codes_are_read_from_their_numbers(said: object, codes: tuple[int, ...]) -> None:
    assert read_error_codes({"ErrorCode": said}) == codes


def test_a_record_without_error_code_has_no_codes() -> None:
    assert read_error_codes({}) == ()


@pytest.mark.parametrize("code", TEXTS)
def test_the_text_of_2018_has_its_code(code: int) -> None:
    assert read_error_codes({"ErrorCode": TEXTS[code]}) == (code,)


@pytest.mark.parametrize("codes", list(itertools.combinations(TEXTS, 2)))
def test_texts_of_2018_have_their_codes_in_order(codes: tuple[int, int]) -> None:
    assert read_error_codes({"ErrorCode": "; ".join(TEXTS[code] for code in codes)}) == codes


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("11- Incorrect Model Year", 11),
        ("5 - VIN has errors in few positions.", 5),
        ("4 - VIN corrected, error in one position only (indicated by ! in Suggested VIN), multiple matches found.", 4),
    ],
)
def test_wordings_that_vpic_has_changed_since_have_their_code(text: str, code: int) -> None:
    assert read_error_codes({"ErrorCode": text}) == (code,)


@pytest.mark.parametrize("code", INFORMING)
def test_a_text_of_2018_that_informs_leaves_the_vehicle(code: int) -> None:
    assert isinstance(interpret(record(ErrorCode=TEXTS[code], ErrorText=None)), Vehicle)


@pytest.mark.parametrize("code", REJECTING)
def test_a_text_of_2018_that_rejects_is_the_reason(code: int) -> None:
    result = rejection(record(ErrorCode=TEXTS[code], ErrorText=None))
    assert (result.codes, result.reason) == ((code,), TEXTS[code].strip())


# Real answers, as vPIC gave them over the years


def test_the_clean_text_of_2018_is_a_vehicle_without_a_warning() -> None:
    result = vehicle(flat("flat_143_keys_2018"))
    assert (result.make, result.model, result.model_year, result.body_class) == (
        "CHEVROLET",
        "Silverado",
        2016,
        "Pickup",
    )
    assert result.warnings == ()


def test_errors_in_few_positions_in_2018_are_a_rejection() -> None:
    result = rejection(flat("flat_131_keys_2018"))
    assert (result.vin, result.codes, result.suggested_vin) == ("WUAAU34248N006164", (5,), "WUAAU!4!48N006164")
    assert result.reason.startswith("5 - VIN has errors in few positions. The error positions are indicated by !")


def test_a_pickup_of_2021() -> None:
    found = {name: value for name, value in vehicle(flat("flat_145_keys_2021")).columns().items() if value is not None}
    assert found == {
        "make": "FORD",
        "model": "F-150",
        "model_year": 2021,
        "body_class": "Pickup",
        "vehicle_type": "TRUCK",
        "manufacturer": "FORD MOTOR COMPANY, USA",
        "series": "F-Series",
        "trim": "SuperCrew-SSV",
        "drive_type": "4WD/4-Wheel Drive/4x4",
        "cab_type": "Crew/ Super Crew/ Crew Max",
        "fuel_type": "Gasoline",
        "engine_model": "GTDI",
        "engine_manufacturer": "Ford",
        "engine_configuration": "V-Shaped",
        "cylinders": 6,
        "displacement_l": 3.5,
        "engine_hp": 375.0,
        "engine_kw": 279.6375,
        "gvwr_class": "Class 2E: 6,001 - 7,000 lb (2,722 - 3,175 kg)",
        "gvwr_from_kg": 2722,
        "gvwr_to_kg": 3175,
        "brake_system": "Hydraulic",
        "plant_city": "DEARBORN",
        "plant_state": "MICHIGAN",
        "plant_country": "UNITED STATES (USA)",
    }


def test_a_trailer_has_no_column_for_what_trailers_cannot_have() -> None:
    result = vehicle(flat("flat_154_keys_2026_trailer"))
    found = {name: value for name, value in result.columns().items() if value is not None}
    assert found == {
        "make": "WABASH VANS",
        "model": "Dry Van Duraplate",
        "model_year": 2018,
        "body_class": "Trailer",
        "vehicle_type": "TRAILER",
        "manufacturer": "WABASH NATIONAL CORPORATION",
        "axles": 2,
        "trailer_body_type": "Box or Van Enclosed Trailer",
        "plant_city": "LAFAYETTE",
        "plant_state": "INDIANA",
        "plant_country": "UNITED STATES (USA)",
        "descriptor": "1JJV532D*JL",
    }


def test_a_trailers_record_keeps_what_does_not_apply() -> None:
    result = vehicle(flat("flat_154_keys_2026_trailer"))
    assert result.record.values["FuelTypePrimary"] == "Not Applicable"
    assert result["FuelTypePrimary"] == ""


def test_garbage_that_names_a_make_is_rejected() -> None:
    result = rejection(flat("flat_154_keys_2026_rejected"))
    assert (result.codes, result.suggested_vin) == ((1, 11, 14, 400), "123456789!1234567")
    assert result.reason.endswith(
        "400 - Invalid Characters Present. Unused position(s): 4,5. Invalid character(s): 10:0."
    )


# Keys come and go


def test_a_key_that_is_new_is_kept() -> None:
    result = vehicle(record({**flat("flat_154_keys_2026_trailer").values, "PlantAddress": "1 Main Street"}))
    assert len(result.record.values) == 155
    assert result["PlantAddress"] == "1 Main Street"


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.column)
def test_a_missing_key_is_an_empty_column(attribute: Attribute) -> None:
    said = flat("flat_145_keys_2021").values
    left = {key: value for key, value in said.items() if key not in (attribute.key, "GVWR", "GVWR_to")}
    assert attribute.read(Record(TRACTOR, left, "vpic", None, NOW)) is None


@pytest.mark.parametrize("said", ["", " ", "\r\n\t", "Not Applicable", " Not  Applicable\n", None])
@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.column)
def test_what_is_empty_or_does_not_apply_is_absent(attribute: Attribute, said: str | None) -> None:
    assert columns(**{attribute.key: said})[attribute.column] is None


def test_a_vehicle_without_particulars_has_empty_ones() -> None:
    bare = Vehicle(Record(TRACTOR, {"Make": "FORD", "ErrorCode": "0"}, "vpic", None, NOW))
    assert (bare.make, bare.model, bare.model_year, bare.body_class) == ("FORD", "", None, "")


# Texts


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("TRUCK ", "TRUCK"),
        ("  Dry \t Van\r\nDuraplate ", "Dry Van Duraplate"),
        ("a\u00a0b", "a b"),
        ("a\0b", "a b"),
        ("\u017dluk, \u65e5\u672c", "\u017dluk, \u65e5\u672c"),
        (3, "3"),
        (3.5, "3.5"),
    ],
)
def test_white_space_is_collapsed(said: object, read: str) -> None:
    assert columns(Model=said)["model"] == read


def test_white_space_stays_in_the_record() -> None:
    assert vehicle(record(VehicleType="TRUCK ")).record.values["VehicleType"] == "TRUCK "


@pytest.mark.parametrize("said", ["\ud83d", "F-\udc00150", "\udfff\ud800"])
def test_a_lone_surrogate_leaves_a_text_that_can_be_stored(said: str) -> None:
    read = columns(Model=said)["model"]
    assert isinstance(read, str)
    assert len(read.encode()) == len(said)


def test_a_lone_surrogate_stays_in_the_record() -> None:
    assert vehicle(record(Model="F-\ud83d150")).record.values["Model"] == "F-\ud83d150"


# Numbers


@pytest.mark.parametrize("junk", JUNK_NUMBERS.values(), ids=JUNK_NUMBERS)
@pytest.mark.parametrize("attribute", NUMBERS, ids=lambda attribute: attribute.column)
def test_what_is_no_number_is_absent(attribute: Attribute, junk: str) -> None:
    assert columns(**{attribute.key: junk})[attribute.column] is None


@pytest.mark.parametrize("attribute", WHOLE_NUMBERS, ids=lambda attribute: attribute.column)
@pytest.mark.parametrize(
    ("said", "read"), [("4", 4), ("01", 1), ("0", 0), ("4.0", 4), ("2.5", None), (4, 4), ("1e30", None)], ids=str
)
def test_a_whole_number_is_an_int(attribute: Attribute, said: object, read: int | None) -> None:
    value = columns(**{attribute.key: said})[attribute.column]
    assert (value, type(value)) == (read, type(read))


@pytest.mark.parametrize(
    ("said", "read"), [("3.5", 3.5), ("6", 6.0), ("0.40100000000000000000", 0.401), ("279.6375", 279.6375)]
)
def test_a_real_number_is_a_float(said: str, read: float) -> None:
    value = columns(DisplacementL=said)["displacement_l"]
    assert (value, type(value)) == (read, float)


@pytest.mark.parametrize(("pounds", "kilograms"), [("6072", 2754), ("364", 165), ("3913.5", 1775), ("0", 0)])
def test_the_curb_weight_is_in_kilograms(pounds: str, kilograms: int) -> None:
    assert columns(CurbWeightLB=pounds)["curb_weight_kg"] == kilograms


@pytest.mark.parametrize("pounds", ["1e20", "1e300", "-1e300"])
def test_a_curb_weight_beyond_sqlites_integers_is_absent(pounds: str) -> None:
    assert columns(CurbWeightLB=pounds)["curb_weight_kg"] is None


@pytest.mark.parametrize(
    ("said", "year"),
    [("1999", 1999), (1999, 1999), (" 2027 ", 2027), ("", None), ("Not Applicable", None), ("MCMXCIX", None)],
)
def test_the_model_year(said: object, year: int | None) -> None:
    assert vehicle(record(ModelYear=said)).model_year == year


@pytest.mark.parametrize(
    "said",
    ["1999", "1999.0", "+1999", "1_999", "\u0661\u0669\u0669\u0669", "19\u00b2", "-1", "9" * 30, "9" * 400, "inf", ""],
)
def test_the_model_year_is_the_same_as_its_column(said: str) -> None:
    result = vehicle(record(ModelYear=said))
    assert result.model_year == result.columns()["model_year"]


def test_a_model_year_of_very_many_digits_is_none() -> None:
    assert vehicle(record(ModelYear="9" * 5_000)).model_year is None


# The gross vehicle weight rating


@pytest.mark.parametrize(("said", "low", "high"), GVWR_CLASSES, ids=WORDED)
def test_a_weight_class_is_read_in_kilograms(said: str, low: int | None, high: int | None) -> None:
    read = columns(GVWR=said)
    assert (read["gvwr_class"], read["gvwr_from_kg"], read["gvwr_to_kg"]) == (said, low, high)


@pytest.mark.parametrize(
    ("own", "other", "low", "high"),
    [
        ("Class 1A", "Class 1A", None, 1360),
        ("Class 1A", "Class 4", None, 7258),
        ("Class 1B", "Class 1", 1360, 2722),
        ("Class 1C", "Class 1C", 1814, 2268),
        ("Class 2G", "Class 6", 3629, 11794),
        ("Class 3", "Class 8", 4536, None),
        ("Class 7", "Class 8", 11794, None),
        ("Class 8", "Class 8", 14969, None),
        ("Class 6", "Class 4", 8845, 11794),
        ("Class 8", "Class 6", 14969, None),
    ],
)
def test_a_range_of_weight_classes_reaches_to_the_end_of_the_higher(
    own: str, other: str, low: int | None, high: int | None
) -> None:
    read = columns(GVWR=WORDED[own], GVWR_to=WORDED[other])
    assert (read["gvwr_from_kg"], read["gvwr_to_kg"]) == (low, high)


def test_a_weight_class_of_any_length_takes_no_time() -> None:
    began = time.monotonic()
    read = columns(GVWR="(1 kg" * 200_000, Doors="1" * 1_000_000)
    assert (read["gvwr_from_kg"], read["doors"], time.monotonic() - began < 5) == (None, None, True)


@pytest.mark.parametrize(
    "said",
    ["Class 8", "33,001 lb and above", "(kg)", "(14,969 lb)", "(, kg)", "(,,, - ,,, kg)", "()", "heavy"],
)
def test_a_weight_class_without_kilograms_has_none(said: str) -> None:
    read = columns(GVWR=said)
    assert (read["gvwr_class"], read["gvwr_from_kg"], read["gvwr_to_kg"]) == (said, None, None)


@pytest.mark.parametrize("digits", ["9" * 20, "9" * 400, "9" * 5_000], ids=len)
def test_a_weight_beyond_sqlites_integers_is_absent(digits: str) -> None:
    read = columns(GVWR=f"Class 9: ({digits} - {digits} kg)")
    assert (read["gvwr_from_kg"], read["gvwr_to_kg"]) == (None, None)


def test_every_weight_class_of_the_embedded_database_is_known() -> None:
    vins = list(ultravin.generate(5000, seed=1, invalid_rate=0))
    answers = ultravin.decode_batch(vins, full=True)
    worded = {
        element["value"]
        for answer in answers
        for element in answer["elements"]
        if element["code"] in ("GVWR", "GVWR_to")
    }
    assert worded <= {None, "", *WORDED.values()}
    assert len(worded) > len(GVWR_CLASSES) / 2


# The attributes themselves


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.column)
def test_every_attribute_is_documented(attribute: Attribute) -> None:
    assert attribute.label
    assert attribute.label[0].isupper()
    assert len(attribute.description) > len("Of a bus") - 1
    assert attribute.kind in ("text", "integer", "real")


@pytest.mark.parametrize("attribute", ATTRIBUTES, ids=lambda attribute: attribute.column)
def test_every_column_is_a_plain_identifier(attribute: Attribute) -> None:
    assert attribute.column.isidentifier()
    assert attribute.column == attribute.column.lower()
    assert attribute.column not in {"vin", "source", "record", "notes", "warnings", "rowid"}


def test_no_two_attributes_share_a_column() -> None:
    assert len({attribute.column for attribute in ATTRIBUTES}) == len(ATTRIBUTES)


def test_no_two_attributes_share_a_label_and_a_unit() -> None:
    assert len({(attribute.label, attribute.unit) for attribute in ATTRIBUTES}) == len(ATTRIBUTES)


def test_the_contracts_attributes_come_first() -> None:
    assert [attribute.column for attribute in ATTRIBUTES[:4]] == ["make", "model", "model_year", "body_class"]
    assert ATTRIBUTES[:4] == CONTRACT_ATTRIBUTES


def test_units_are_of_numbers() -> None:
    assert [attribute.column for attribute in ATTRIBUTES if attribute.unit and attribute.kind == "text"] == []


def test_every_attributes_key_is_one_of_vpics() -> None:
    assert {attribute.key for attribute in ATTRIBUTES} <= set(flat("flat_154_keys_2026_trailer").values)


def test_every_attributes_element_is_the_one_of_its_key() -> None:
    answers = ultravin.decode_batch(list(ultravin.generate(5000, seed=1, invalid_rate=0)), full=True)
    elements = {element["code"]: element["element_id"] for answer in answers for element in answer["elements"]}
    found = {attribute.key: attribute.element_id for attribute in ATTRIBUTES if attribute.key in elements}
    assert found == {key: elements[key] for key in found}
    assert len(found) > 40


# A vehicle


def test_a_vehicle_answers_for_itself() -> None:
    result = vehicle(record(ModelYear="1999", BodyClass="Truck-Tractor", EngineHP="550"))
    assert (result.vin, result.make, result.model, result.model_year, result.body_class, result.source) == (
        TRACTOR,
        "PETERBILT",
        "379",
        1999,
        "Truck-Tractor",
        "vpic",
    )


def test_a_vehicle_gives_vpics_values_by_their_keys() -> None:
    result = vehicle(record(EngineHP=" 550 "))
    assert (result["EngineHP"], result["NoSuchKey"]) == ("550", "")


def test_the_six_fields_stand_in_their_order() -> None:
    result = vehicle(record(ModelYear="1999", BodyClass="Truck-Tractor"))
    assert list(result.six_fields(cached=False).items()) == [
        ("Input VIN Requested", "1XP5DB9X7XD487964"),
        ("Make", "PETERBILT"),
        ("Model", "379"),
        ("Model Year", "1999"),
        ("Body Class", "Truck-Tractor"),
        ("Cached Result?", False),
    ]


def test_the_six_fields_are_empty_where_vpic_has_nothing() -> None:
    bare = vehicle(record(Model=None, ModelYear="", BodyClass="Not Applicable"))
    assert list(bare.six_fields(cached=True).values()) == ["1XP5DB9X7XD487964", "PETERBILT", "", "", "", True]


def test_the_columns_stand_in_the_order_of_the_attributes() -> None:
    assert list(columns()) == [attribute.column for attribute in ATTRIBUTES]


def test_going_through_a_vehicle_comes_to_an_end() -> None:
    try:
        found = list(itertools.islice(iter(vehicle(record())), 1_000))  # type: ignore[call-overload]
    except TypeError:
        found = []
    assert len(found) < 1_000


# Whatever vPIC may say

KEYS = sorted({attribute.key for attribute in ATTRIBUTES} | {"ErrorCode", "ErrorText", "AdditionalErrorText"})
any_text = st.text(st.characters(codec=None), max_size=20)
numbers = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.floats().map(str),
    st.from_regex(r"[-+]?[0-9_.,]{1,12}(e[0-9]{1,3})?", fullmatch=True),
)
kilograms = st.from_regex(r"\((([0-9,]{1,25}) ?- ?)?[0-9,]{1,25} kg( or less| and above)?\)", fullmatch=True)
any_value = st.one_of(
    any_text,
    numbers,
    kilograms,
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.lists(any_text, max_size=2),
    st.dictionaries(any_text, any_text, max_size=2),
    st.sampled_from([*JUNK_NUMBERS.values(), *TEXTS.values(), *WORDED.values(), "Not Applicable", "0", "1,400"]),
)
any_record = st.dictionaries(st.sampled_from(KEYS) | any_text, any_value, max_size=12).map(
    lambda values: Record(TRACTOR, values, "vpic", None, NOW)
)


@patient
@given(any_record, st.sampled_from(["strict", "lenient"]))
@example(Record(TRACTOR, {"Make": "A", "ModelYear": "9" * 5_000, "ErrorCode": "0"}, "vpic", None, NOW), "strict")
def test_any_record_has_a_meaning(answer: Record, rule: Any) -> None:
    result = interpret(answer, rule)
    if isinstance(result, Vehicle):
        assert result.make
        assert not REJECTING_CODES.intersection(answer.error_codes) - {1}
        assert result.model_year is None or isinstance(result.model_year, int)
    else:
        assert result.reason.strip()


@patient
@given(any_record)
def test_the_columns_of_any_record_can_be_stored(answer: Record) -> None:
    for attribute in ATTRIBUTES:
        assert_storable(attribute, attribute.read(answer))


@settings(patient, max_examples=300)
@given(st.sampled_from([attribute for attribute in NUMBERS if attribute.key not in ("GVWR", "GVWR_to")]), numbers)
def test_any_number_is_absent_or_can_be_stored(attribute: Attribute, said: str) -> None:
    assert_storable(attribute, columns(**{attribute.key: said})[attribute.column])


@settings(patient, max_examples=150)
@given(kilograms, kilograms)
def test_any_weight_class_is_absent_or_can_be_stored(own: str, other: str) -> None:
    read = columns(GVWR=own, GVWR_to=other)
    for attribute in ATTRIBUTES:
        assert_storable(attribute, read[attribute.column])


@patient
@given(any_record)
def test_the_words_about_any_record_can_be_stored(answer: Record) -> None:
    result = interpret(answer)
    words = list(result.warnings) if isinstance(result, Vehicle) else [result.reason, result.suggested_vin or ""]
    for text in words:
        assert "\0" not in text
        assert text.encode().decode() == text


def assert_storable(attribute: Attribute, value: Value) -> None:
    if value is None:
        return
    if attribute.kind == "text":
        assert isinstance(value, str)
        assert value == " ".join(value.split()) != ""
        assert "\0" not in value
        assert value.encode().decode() == value
    elif attribute.kind == "real":
        assert isinstance(value, float)
        assert math.isfinite(value)
    else:
        assert type(value) is int
        assert -(2**63) <= value < 2**63


def test_vehicle_is_shown_in_one_line() -> None:
    assert repr(interpret(record(ModelYear="1999"))) == f"<Vehicle {TRACTOR}: 1999 PETERBILT 379 (vpic)>"
