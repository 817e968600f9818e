"""What a VIN is, what is forgiven in its writing, and what is said about text that is none."""

from __future__ import annotations

import copy
import pickle
import string
import unicodedata

import pytest
import ultravin
from hypothesis import assume, example, given, strategies as st

from vin_datasette.vin import ALPHABET, VIN, InvalidVIN, check_digit, normalise

TRACTOR = "1XP5DB9X7XD487964"
REGULATION_EXAMPLE = "1G4AH59H45G118341"
LOW_VOLUME = "1T9AB1234XY131007"

# 49 CFR 565.15(c), tables III and IV, written out apart from the package.
ASSIGNED_VALUES = {
    **{digit: int(digit) for digit in string.digits},
    **dict(zip("ABCDEFGH", range(1, 9), strict=True)),
    **dict(zip("JKLMN", range(1, 6), strict=True)),
    **dict(zip("PR", (7, 9), strict=True)),
    **dict(zip("STUVWXYZ", range(2, 10), strict=True)),
}
WEIGHTS = [8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2]

WHITE_SPACE = [" ", "\t", "\n", "\r\n", "\u00a0", "\u2009", "\u3000"]
HYPHENS = ["-", "\u2010", "\u2011", "\u2013", "\u2014", "\u2212", "\u00ad"]
QUOTES = ["'", '"', "`", "\u2018", "\u2019", "\u201c", "\u201d", "\u00ab", "\u00bb"]

vin_texts = st.text(alphabet=sorted(ALPHABET), min_size=17, max_size=17)
decorations = st.lists(st.sampled_from([*WHITE_SPACE, *HYPHENS]), max_size=2).map("".join)
surrounds = st.lists(st.sampled_from([*WHITE_SPACE, *QUOTES]), max_size=3).map("".join)
any_characters = st.text(st.characters(codec=None) | st.sampled_from(sorted(ALPHABET)), max_size=40)


def reason(text: str) -> str:
    with pytest.raises(InvalidVIN) as caught:
        VIN(text)
    return caught.value.reason


def suggested(text: str) -> str | None:
    with pytest.raises(InvalidVIN) as caught:
        VIN(text)
    return caught.value.suggested


# What is a VIN


@given(vin_texts)
def test_seventeen_characters_of_the_alphabet_are_a_vin_as_they_stand(text: str) -> None:
    assert VIN(text) == text


def test_a_vin_is_a_str() -> None:
    vin = VIN(TRACTOR)
    assert isinstance(vin, str)
    assert f"{vin}" == TRACTOR
    assert {TRACTOR: "known"}[vin] == "known"


def test_the_vin_of_a_vin_is_the_same_object() -> None:
    vin = VIN(TRACTOR)
    assert VIN(vin) is vin


def test_the_alphabet_is_the_regulations() -> None:
    assert set(string.ascii_uppercase + string.digits) - ALPHABET == {"I", "O", "Q"}
    assert len(ALPHABET) == 33


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_vin_comes_back_from_a_pickle(protocol: int) -> None:
    back = pickle.loads(pickle.dumps(VIN(TRACTOR), protocol))
    assert (back, type(back)) == (TRACTOR, VIN)


def test_a_copied_vin_stays_a_vin() -> None:
    back = copy.deepcopy(VIN(TRACTOR))
    assert (back, type(back)) == (TRACTOR, VIN)


def test_an_invalid_vin_comes_back_from_a_pickle_with_what_it_says() -> None:
    with pytest.raises(InvalidVIN) as caught:
        VIN("IXP5DB9X7XD487964")
    back = pickle.loads(pickle.dumps(caught.value))
    assert (back.reason, back.suggested) == (caught.value.reason, TRACTOR)


# What is forgiven


@given(vin_texts, st.lists(decorations, min_size=16, max_size=16), surrounds, surrounds)
def test_white_space_and_hyphens_within_and_quotes_around_are_forgiven(
    text: str, within: list[str], before: str, after: str
) -> None:
    decorated = before + "".join(map("".join, zip(text, [*within, ""], strict=True))) + after
    assert VIN(decorated) == text


@given(vin_texts, st.lists(st.booleans(), min_size=17, max_size=17))
def test_lower_case_is_forgiven(text: str, lowered: list[bool]) -> None:
    mixed = "".join(char.lower() if low else char for char, low in zip(text, lowered, strict=True))
    assert VIN(mixed) == text


def test_a_spreadsheets_text_prefix_is_forgiven() -> None:
    assert VIN("'1XP5DB9X7XD487964") == TRACTOR


def test_the_docstrings_example_holds() -> None:
    assert VIN(" '1xp5-db9x-7xd4-87964' ").wmi == "1XP"


@given(any_characters)
@example("-'1XP5DB9X7XD487964'-")
def test_what_is_normal_is_not_changed_by_normalising_again(text: str) -> None:
    normal = normalise(text)
    assert normalise(normal) == normal


# What is no VIN


@given(any_characters)
def test_any_text_is_a_vin_or_gets_a_reason_in_one_sentence(text: str) -> None:
    try:
        vin = VIN(text)
    except InvalidVIN as error:
        assert_one_sentence(error.reason)
    else:
        assert len(vin) == 17
        assert ALPHABET.issuperset(vin)


LONGEST_NAMES = sorted(map(chr, range(0x20, 0x20000)), key=lambda char: -len(unicodedata.name(char, "")))[:17]


@pytest.mark.parametrize(
    "text",
    [
        "A" * 10_000,
        "1XP5DB9X7XD487964" * 600,
        "\u0416" * 10_000,
        "\0" * 10_000,
        "IOQ" * 3_333,
        "'" * 5_000 + "x" + "'" * 5_000,
        "\ud800" * 10_000,
        "".join(LONGEST_NAMES),
        "".join(LONGEST_NAMES) * 600,
    ],
    ids=["letters", "vins", "Cyrillic", "NUL", "I, O, Q", "quotes", "surrogates", "long names", "many long names"],
)
def test_the_reason_stays_short_however_long_the_text(text: str) -> None:
    assert_one_sentence(reason(text))


def assert_one_sentence(text: str) -> None:
    assert 20 < len(text) < 600
    assert text[0].isupper()
    assert text.endswith(".")
    assert ". " not in text
    # Fit for a terminal, a log and a header: no control character and nothing of the script that was given.
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize("text", ["", " ", "\t\r\n", "''", '" - "', "-", "\u201c\u201d", "\u00a0"])
def test_nothing_but_decoration_is_no_vin(text: str) -> None:
    assert reason(text) == "No VIN was given: a VIN has 17 characters."


@pytest.mark.parametrize(
    ("text", "count"),
    [("1", "1"), (TRACTOR[:16], "16"), (f"{TRACTOR}1", "18"), ("A" * 10_000, "10,000")],
)
def test_a_wrong_number_of_characters_is_counted(text: str, count: str) -> None:
    assert reason(text) == f"A VIN has 17 characters, and this has {count}."


def test_decoration_does_not_count_as_characters() -> None:
    assert reason("' 1XP5-DB9X-7XD4-8796 '") == "A VIN has 17 characters, and this has 16."


def test_the_message_of_the_error_is_its_reason() -> None:
    with pytest.raises(ValueError, match=r"^A VIN has 17 characters, and this has 1\.$") as caught:
        VIN("1")
    assert isinstance(caught.value, InvalidVIN)


@pytest.mark.parametrize(("letter", "digit"), [("I", "1"), ("O", "0"), ("Q", "0"), ("i", "1"), ("o", "0"), ("q", "0")])
def test_a_barred_letter_is_named_with_its_likely_digit(letter: str, digit: str) -> None:
    text = f"{TRACTOR[:4]}{letter}{TRACTOR[5:]}"
    assert reason(text) == (
        f"Position 5 holds the letter {letter.upper()}, which no VIN uses: likely the digit {digit}."
    )


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("IXP5DB9X7XD487964", TRACTOR),
        ("ixp5db9x7xd487964", TRACTOR),
        ("IIIIIIIIIIIIIIIII", "11111111111111111"),
        ("1M8GDM9AXKPO42788", "1M8GDM9AXKP042788"),
        ("1M8GDM9AXKPQ42788", "1M8GDM9AXKP042788"),
    ],
)
def test_a_vin_is_suggested_when_its_check_digit_confirms_the_reading(text: str, meant: str) -> None:
    assert suggested(text) == meant


@pytest.mark.parametrize(
    "text",
    ["IXP5DB9X7XD487945", "IXP5DB9X7XD48796", "IXP5DB9X7XD4879*4", "\u0406XP5DB9X7XD487964", ""],
    ids=["failing check digit", "too short", "another bad character", "look-alike", "nothing"],
)
def test_no_vin_is_suggested_without_proof(text: str) -> None:
    assert suggested(text) is None


@given(vin_texts.filter(lambda text: bool({"0", "1"}.intersection(text))), st.data())
def test_a_suggestion_is_a_vin_with_a_valid_check_digit(text: str, data: st.DataObject) -> None:
    at = data.draw(st.sampled_from([index for index, char in enumerate(text) if char in "01"]))
    meant = suggested(f"{text[:at]}{'IO'[text[at] == '0']}{text[at + 1 :]}")
    assert meant == (text if check_digit(text) == text[8] else None)


@pytest.mark.parametrize(
    ("char", "words"),
    [
        ("\u0410", "CYRILLIC CAPITAL LETTER A (U+0410)"),
        ("\u0412", "CYRILLIC CAPITAL LETTER VE (U+0412)"),
        ("\u0391", "GREEK CAPITAL LETTER ALPHA (U+0391)"),
        ("\uff11", "FULLWIDTH DIGIT ONE (U+FF11)"),
        ("\uff21", "FULLWIDTH LATIN CAPITAL LETTER A (U+FF21)"),
        ("\u0661", "ARABIC-INDIC DIGIT ONE (U+0661)"),
        ("\u00df", "LATIN SMALL LETTER SHARP S (U+00DF)"),
        ("\u0131", "LATIN SMALL LETTER DOTLESS I (U+0131)"),
        ("\u0130", "LATIN CAPITAL LETTER I WITH DOT ABOVE (U+0130)"),
        ("\u212a", "KELVIN SIGN (U+212A)"),
        ("\u017f", "LATIN SMALL LETTER LONG S (U+017F)"),
        ("\ufb01", "LATIN SMALL LIGATURE FI (U+FB01)"),
        ("\u200b", "ZERO WIDTH SPACE (U+200B)"),
        ("\ufeff", "ZERO WIDTH NO-BREAK SPACE (U+FEFF)"),
        ("\u0301", "COMBINING ACUTE ACCENT (U+0301)"),
        ("\U0001f697", "AUTOMOBILE (U+1F697)"),
        ("\0", "a character without a name (U+0000)"),
        ("\x7f", "a character without a name (U+007F)"),
        ("\ud83d", "a character without a name (U+D83D)"),
    ],
)
def test_a_foreign_or_hidden_character_is_named_and_not_folded(char: str, words: str) -> None:
    assert reason(f"{TRACTOR[:5]}{char}{TRACTOR[6:]}") == f"Position 6 holds {words}, which no VIN uses."


@pytest.mark.parametrize("char", list("*!?%;,._/\\<>&#+=()[]{}|~^$@:"))
def test_a_sign_is_shown(char: str) -> None:
    assert reason(f"{TRACTOR[:16]}{char}") == f"Position 17 holds {char!r}, which no VIN uses."


def test_statements_of_sql_are_only_characters_that_no_vin_uses() -> None:
    assert reason("1'; DROP TABLE vehicles; --") == (
        'A VIN has 17 characters, and this has 21; position 2 holds "\'", which no VIN uses; '
        "position 3 holds ';', which no VIN uses; "
        "position 6 holds the letter O, which no VIN uses: likely the digit 0; 2 more are wrong."
    )


def test_percent_encoding_is_not_decoded() -> None:
    assert reason("1XP5DB9X7XD4879%34") == (
        "A VIN has 17 characters, and this has 18; position 16 holds '%', which no VIN uses."
    )


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("1XP5DB9X7XD487***", "position 17 holds '*', which no VIN uses."),
        ("1XP5DB9X7XD48****", "position 16 holds '*', which no VIN uses; 1 more is wrong."),
        ("1XP5DB9X7XD4*****", "position 15 holds '*', which no VIN uses; 2 more are wrong."),
    ],
)
def test_of_many_wrong_characters_three_are_named_and_the_others_counted(text: str, ending: str) -> None:
    assert reason(text).endswith(ending)


def test_positions_are_those_of_the_normalised_text() -> None:
    assert reason(" 'wp0zzz-99zts 392*24' ") == "Position 15 holds '*', which no VIN uses."


@given(vin_texts, st.integers(0, 16), st.sampled_from("\u00df\u0149\u1e9e\ufb03"))
def test_a_letter_that_upper_case_would_lengthen_shifts_no_position(text: str, at: int, char: str) -> None:
    assert f"Position {at + 1} holds {unicodedata.name(char)}" in reason(f"{text[:at]}{char}{text[at + 1 :]}")


# The check digit


def check_digit_by_the_regulation(text: str) -> str:
    total = sum(ASSIGNED_VALUES[char] * weight for char, weight in zip(text, WEIGHTS, strict=True))
    return "0123456789X"[total % 11]


@given(vin_texts)
def test_the_check_digit_is_the_regulations(text: str) -> None:
    assert VIN(text).expected_check_digit == check_digit_by_the_regulation(text)


@pytest.mark.parametrize(
    "text", [REGULATION_EXAMPLE, TRACTOR, "1M8GDM9AXKP042788", "11111111111111111", "1HGCM82633A004352"]
)
def test_a_right_check_digit_is_valid(text: str) -> None:
    vin = VIN(text)
    assert vin.check_digit_valid
    assert vin.expected_check_digit == vin.check_digit == text[8]


def test_a_wrong_check_digit_is_not_valid_and_yet_a_vin() -> None:
    vin = VIN("1XP5DB9X7XD487945")
    assert not vin.check_digit_valid
    assert (vin.check_digit, vin.expected_check_digit) == ("7", check_digit_by_the_regulation(vin))


@given(vin_texts)
def test_exactly_one_of_the_eleven_check_digits_is_valid(text: str) -> None:
    valid = [digit for digit in "0123456789X" if VIN(text[:8] + digit + text[9:]).check_digit_valid]
    assert valid == [check_digit_by_the_regulation(text)]


@given(vin_texts, st.sampled_from(sorted(ALPHABET - set("0123456789X"))))
def test_another_letter_is_never_a_valid_check_digit(text: str, letter: str) -> None:
    assert not VIN(text[:8] + letter + text[9:]).check_digit_valid


@given(vin_texts, st.integers(0, 16).filter(lambda at: at != 8), st.sampled_from(sorted(ALPHABET)))
def test_one_wrong_character_of_another_value_always_changes_the_check_digit(text: str, at: int, char: str) -> None:
    # Every weight is coprime to 11, and two values differ by 1 to 9.
    assume(ASSIGNED_VALUES[char] != ASSIGNED_VALUES[text[at]])
    assert check_digit(text[:at] + char + text[at + 1 :]) != check_digit(text)


@given(vin_texts, st.sampled_from("0123456789X"))
def test_position_nine_does_not_count_for_the_check_digit(text: str, char: str) -> None:
    assert check_digit(text[:8] + char + text[9:]) == check_digit(text)


@pytest.mark.parametrize("text", ["I" * 17, "1XP5DB9X7XD48796\u0661", TRACTOR.lower()])
def test_the_check_digit_of_characters_that_no_vin_holds_is_a_key_error(text: str) -> None:
    with pytest.raises(KeyError):
        check_digit(text)


# The parts


def test_the_parts_of_a_vin() -> None:
    vin = VIN(TRACTOR)
    assert (vin.wmi, vin.vds, vin.vis) == ("1XP", "5DB9X7", "XD487964")
    assert (vin.model_year_code, vin.plant_code, vin.serial) == ("X", "D", "487964")
    assert vin.descriptor == "1XP5DB9X*XD"
    assert not vin.low_volume


def test_the_parts_of_a_low_volume_makers_vin() -> None:
    vin = VIN(LOW_VOLUME)
    assert vin.low_volume
    assert (vin.wmi, vin.vds, vin.vis) == ("1T9131", "AB1234", "XY131007")
    assert (vin.model_year_code, vin.plant_code, vin.serial) == ("X", "Y", "007")
    assert vin.descriptor == "1T9AB123*XY131"


@given(vin_texts)
def test_the_sections_make_up_the_vin(text: str) -> None:
    vin = VIN(text)
    assert vin[:3] + vin.vds + vin.vis == text


@given(vin_texts, st.booleans())
def test_a_nine_at_position_three_lengthens_the_makers_identifier(text: str, low_volume: bool) -> None:
    vin = VIN(text[:2] + ("9" if low_volume else "A") + text[3:])
    lengths = (len(vin.wmi), len(vin.serial), len(vin.descriptor))
    assert lengths == ((6, 3, 14) if low_volume else (3, 6, 11))


def test_the_embedded_database_reads_the_parts_alike() -> None:
    vins = [VIN(text) for text in ultravin.generate(1000, seed=1, invalid_rate=0)]
    answers = ultravin.decode_batch([str(vin) for vin in vins])
    assert [(vin.wmi, vin.descriptor, vin.check_digit_valid) for vin in vins] == [
        (answer["wmi"], answer["descriptor"], answer["check_digit_valid"]) for answer in answers
    ]


# The model year

# Table VII, and table XIII of 49 CFR 565.25 for the years before.
YEARS = dict(zip("ABCDEFGHJKLMNPRSTVWXY123456789", range(1980, 2010), strict=True))


def with_year_code(code: str, seventh: str = "9") -> VIN:
    return VIN(f"{TRACTOR[:6]}{seventh}{TRACTOR[7:9]}{code}{TRACTOR[10:]}")


@pytest.mark.parametrize(("code", "first"), YEARS.items())
def test_a_model_year_code_stands_for_two_years(code: str, first: int) -> None:
    assert with_year_code(code).model_years == (first, first + 30)


@pytest.mark.parametrize(
    ("code", "years"), [("A", (1980, 2010)), ("Y", (2000, 2030)), ("1", (2001, 2031)), ("9", (2009, 2039))]
)
def test_the_ends_of_the_two_cycles(code: str, years: tuple[int, int]) -> None:
    assert with_year_code(code).model_years == years


@pytest.mark.parametrize("code", ["U", "Z", "0"])
def test_a_character_that_is_no_year_code_stands_for_no_year(code: str) -> None:
    vin = with_year_code(code)
    assert vin.model_years == ()
    assert vin.light_vehicle_model_year is None


def test_every_other_character_is_a_year_code() -> None:
    assert {char for char in ALPHABET if not with_year_code(char).model_years} == {"U", "Z", "0"}


@pytest.mark.parametrize("seventh", string.digits)
def test_a_digit_at_position_seven_means_the_first_cycle(seventh: str) -> None:
    assert with_year_code("X", seventh).light_vehicle_model_year == 1999


@pytest.mark.parametrize("seventh", sorted(ALPHABET - set(string.digits)))
def test_a_letter_at_position_seven_means_the_second_cycle(seventh: str) -> None:
    assert with_year_code("X", seventh).light_vehicle_model_year == 2029


@pytest.mark.parametrize(("text", "year"), [("1HGCM82633A004352", 2003), ("1FTEW1EG1JFE44843", 2018)])
def test_the_model_year_of_a_light_vehicle(text: str, year: int) -> None:
    assert VIN(text).light_vehicle_model_year == year
