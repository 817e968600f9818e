"""Any text is a VIN or is refused in words, in a time that grows with its length alone.

VIN_DATASETTE_FUZZ_EXAMPLES=100000 python -m pytest tests/fuzz/test_vin.py
"""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest
from hypothesis import given, settings, strategies as st

from tests.fuzz import DERANDOMIZE, EXAMPLES
from vin_datasette.vin import ALPHABET, VIN, InvalidVIN

each = settings(max_examples=EXAMPLES, derandomize=DERANDOMIZE, deadline=None)

PROPERTIES = [name for name, value in vars(VIN).items() if isinstance(value, property)]

VIN_TEXTS = st.text(sorted(ALPHABET), min_size=17, max_size=17)
CHARACTERS = st.characters(codec=None) | st.sampled_from("IOQioq-'\" \t\0\u00ad\u0130\ufb01")


@st.composite
def nearly_vins(draw: st.DrawFn) -> str:
    """VINs in which some characters were put, changed or lost."""
    text = list(draw(VIN_TEXTS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 2))] = draw(st.text(CHARACTERS, max_size=2))
    return "".join(text)


TEXTS = nearly_vins() | VIN_TEXTS.map(str.lower) | st.text(CHARACTERS, max_size=60)


def by_the_regulation(vin: str) -> str:
    """The check digit as a person works it out on paper: 49 CFR 565.15(c)(1) to (4)."""
    values = {"AJ": 1, "BKS": 2, "CLT": 3, "DMU": 4, "ENV": 5, "FW": 6, "GPX": 7, "HY": 8, "RZ": 9}
    assigned = {letter: value for letters, value in values.items() for letter in letters}
    remainder = 0
    for position, char in enumerate(vin, 1):
        weight = 0 if position == 9 else 10 if position == 8 else 9 - position if position < 8 else 19 - position
        remainder = (remainder + weight * (int(char) if char.isdigit() else assigned[char])) % 11
    return "X" if remainder == 10 else str(remainder)


def read(text: str) -> VIN | InvalidVIN:
    try:
        return VIN(text)
    except InvalidVIN as error:
        return error


@each
@given(TEXTS)
def test_any_text_is_a_vin_of_which_all_is_known_or_refused_at_a_position(text: str) -> None:
    said = read(text)
    if isinstance(said, InvalidVIN):
        told = [int(number) for number in re.findall(r"position (\d+) holds", said.reason, re.IGNORECASE)]
        assert told == sorted(told)
        assert told or "17 characters" in said.reason
        assert said.suggested is None or VIN(said.suggested).check_digit_valid
    else:
        assert VIN(str(said)) == VIN(said) == said
        assert {type(getattr(said, name)) for name in PROPERTIES} <= {str, bool, tuple, int, type(None)}
        assert said.check_digit_valid == (said[8] == by_the_regulation(said))


@each
@given(TEXTS)
def test_what_is_refused_names_the_first_wrong_character(text: str) -> None:
    bare = "".join(text.split())
    wrong = [at for at, char in enumerate(bare, 1) if char.upper() in {"I", "O", "Q"}]
    if wrong and bare.isascii() and bare.isalnum():
        with pytest.raises(InvalidVIN) as caught:
            VIN(text)
        assert f"position {wrong[0]} holds" in f"{caught.value.reason[0].lower()}{caught.value.reason[1:]}"


@each
@given(VIN_TEXTS)
def test_the_check_digit_is_that_of_the_regulation(text: str) -> None:
    assert VIN(text.lower()).expected_check_digit == by_the_regulation(text)


@pytest.mark.parametrize("char", ["A", "I", "a", "-", "'", " ", "\0", "\u0416", "\u0130", "\ud800", "\U0001f697"])
def test_a_text_of_megabytes_is_refused_soon(char: str) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidVIN):
        VIN(f"{char * 1_000_000}x")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("char", ["A", "I", "-", "\0", "\u0416"])
def test_a_text_of_megabytes_takes_only_a_few_times_its_size(char: str) -> None:
    text = char * 200_000
    tracemalloc.start()
    try:
        with pytest.raises(InvalidVIN):
            VIN(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000
