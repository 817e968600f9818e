"""Any value of any setting is taken or refused in words.

VIN_DATASETTE_FUZZ_EXAMPLES=100000 python -m pytest tests/fuzz/test_settings.py
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import httpx
from hypothesis import example, given, settings, strategies as st

from tests.fuzz import DERANDOMIZE, EXAMPLES
from vin_datasette.settings import ENVIRONMENT_PREFIX, SettingError, Settings

each = settings(max_examples=EXAMPLES, derandomize=DERANDOMIZE, deadline=None)

NAMES = st.sampled_from([field.name for field in fields(Settings)])

# What is near to something that is taken.
WORDS = st.sampled_from([
    *["1", "0", "-1", "1e3", "9" * 400, "0.5", "7d", "w", " ", "~", "~x/", "/", "\0", "true", "{}", "[" * 9_000],
    *["http://", "https://", "a.example", "[::1]", "@", ":", "\u0661", ":99999", "?", "#", "%", "\\", "\n"],
])  # fmt: skip
TEXTS = st.lists(WORDS, max_size=6).map("".join) | st.text(max_size=30)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.builds(pow, st.just(10), st.just(5_000))
    | st.dates()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@each
@given(NAMES, VALUES, st.sampled_from(["options", "config"]))
@example("allow_lookup", "[" * 100_000, "config")
def test_any_value_is_a_setting_or_refused_by_its_name(name: str, value: object, origin: str) -> None:
    check(name, {origin: {name: value}})


@each
@given(NAMES, TEXTS)
def test_any_text_of_the_environment_is_a_setting_or_refused_by_its_name(name: str, text: str) -> None:
    check(name, {"environ": {f"{ENVIRONMENT_PREFIX}{name.upper()}": text}})


@each
@given(st.dictionaries(st.text() | st.integers() | st.none() | NAMES, VALUES, max_size=4))
def test_any_configuration_is_taken_or_refused(config: dict[Any, object]) -> None:
    refusal = loaded_or_refused(config=config)
    assert isinstance(refusal, Settings) or str(refusal).endswith(".")


def loaded_or_refused(**origins: Any) -> Settings | SettingError:
    try:
        return Settings.load(**{"environ": {}, **origins})
    except SettingError as error:
        return error


def check(name: str, origins: dict[str, Any]) -> None:
    loaded = loaded_or_refused(**origins)
    if isinstance(loaded, SettingError):
        assert name.casefold() in str(loaded).casefold()
        assert str(loaded).endswith(".")
        return
    for value in vars(loaded).values():
        assert not isinstance(value, float) or math.isfinite(value)
    # What is taken can be used.
    httpx.Request("GET", loaded.vpic_url, headers={"User-Agent": loaded.contact})
    assert "\0" not in str(loaded.db)
