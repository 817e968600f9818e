"""Settings: where each is read from, what it takes, and what is said about what it does not take."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from vin_datasette.settings import DEFAULT_VPIC_URL, SettingError, Settings

NAMES = [each.name for each in fields(Settings)]

# A text as the environment has it, and what it means; none is the default.
SAID: dict[str, list[tuple[str, object]]] = {
    "db": [("/var/lib/fleet.db", Path("/var/lib/fleet.db")), ("a b.db", Path("a b.db"))],
    "source": [("vpic", "vpic"), ("embedded", "embedded")],
    "vpic_url": [
        ("http://127.0.0.1:9000/api/vehicles", "http://127.0.0.1:9000/api/vehicles/"),
        (" https://mirror.example/ ", "https://mirror.example/"),
        ("http://[::1]:9000/", "http://[::1]:9000/"),
    ],
    "check_digit": [("lenient", "lenient")],
    "timeout": [("7.5", 7.5), ("600", 600.0), ("0.1", 0.1), (" 3 ", 3.0)],
    "connect_timeout": [("1", 1.0), ("0.5", 0.5)],
    "rate": [("0.01", 0.01), ("10000", 10_000.0), ("1e1", 10.0)],
    "concurrency": [("1", 1), ("64", 64), ("4.0", 4)],
    "batch_size": [("1", 1), ("25", 25)],
    "contact": [("fleet@example.org", "fleet@example.org"), ("https://example.org/x?y=1", "https://example.org/x?y=1")],
    "patience": [("10m", 600.0), ("0", 0.0), ("90", 90.0)],
    "max_age": [("30d", 2_592_000.0), ("12h", 43_200.0), ("0", 0.0)],
    "siblings": [("true", True), ("on", True), ("1", True), ("false", False)],
    "rejection_max_age": [
        ("90", 90.0),
        ("90s", 90.0),
        ("30m", 1_800.0),
        ("12h", 43_200.0),
        ("7d", 604_800.0),
        ("2w", 1_209_600.0),
        ("1.5 H", 5_400.0),
        ("0", 0.0),
    ],
    "export_concurrency": [("1", 1), ("8", 8)],
    "export_timeout": [("30m", 1_800.0), ("90", 90.0)],
    "stall_timeout": [("2m", 120.0), ("0.5", 0.5)],
    "list_concurrency": [("1", 1), ("64", 64)],
    "lookup_concurrency": [("1", 1), ("10000", 10_000)],
    "memory_hits": [("0", 0), ("10000000", 10_000_000)],
    "queue_length": [("1", 1), ("1000000", 1_000_000)],
    "body_timeout": [("5s", 5.0), ("1m", 60.0)],
    "shutdown_timeout": [("30s", 30.0), ("0", 0.0)],
    "log_format": [("json", "json")],
    "mask_vins": [("true", True), ("1", True), ("off", False)],
    "short_routes": [("false", False), ("off", False), ("No", False), ("0", False)],
    "hosts": [("a.example", ("a.example",)), (" A.example, ,b.example:8001 ", ("a.example", "b.example:8001"))],
    "allow_lookup": [
        ("true", True),
        ("false", False),
        ('{"id": "root"}', {"id": "root"}),
        ('{"id": "*"}', {"id": "*"}),
    ],
    "allow_remove": [("true", True), ("false", False), ('{"id": ["a", "b"]}', {"id": ["a", "b"]})],
    "allow_export": [("true", True), ("false", False), ("{}", {})],
}

# A value as the plugin's configuration or a caller of the library has it.
GIVEN: list[tuple[str, object, object]] = [
    ("db", Path("fleet.db"), Path("fleet.db")),
    ("timeout", 7, 7.0),
    ("rate", 0.5, 0.5),
    ("concurrency", 4, 4),
    ("patience", 0, 0.0),
    ("max_age", 90, 90.0),
    ("siblings", True, True),
    ("siblings", 1, True),
    ("rejection_max_age", 90, 90.0),
    ("rejection_max_age", 1.5, 1.5),
    ("short_routes", False, False),
    ("short_routes", True, True),
    ("short_routes", 0, False),
    ("hosts", ["A.example", "b.example"], ("a.example", "b.example")),
    ("hosts", ("a.example",), ("a.example",)),
    ("hosts", [], ()),
    ("allow_lookup", True, True),
    ("allow_lookup", {"id": "root"}, {"id": "root"}),
    ("allow_remove", '{"id": "root"}', {"id": "root"}),
]

BAD: dict[str, list[object]] = {
    "db": [5, ["vin.db"], {"path": "vin.db"}, "~nobody-of-this-name/vin.db", "a\0b"],
    "source": ["AUTO", "nhtsa", "", 1, ["auto"]],
    "vpic_url": [
        "vpic.nhtsa.dot.gov",
        "ftp://vpic.nhtsa.dot.gov/",
        "http://",
        "https:///api/",
        "http://[::1",
        "https://vpic.nhtsa.dot.gov/api/?format=json",
        "https://vpic.nhtsa.dot.gov/api/#top",
        "http://localhost:99999/",
        "http://localhost:port/",
        "http://localhost/a\nb",
        f"http://localhost/{'a' * 70_000}",
        "",
        5,
    ],
    "check_digit": ["Strict", "none", "", True],
    "timeout": ["soon", "0", "0.09", "601", "-1", "nan", "inf", "2,5", True, [2]],
    "connect_timeout": ["soon", "0", "61", "nan", False],
    "rate": ["fast", "0", "-2", "10001", "inf", "nan", True],
    "concurrency": ["many", "0", "65", "1.5", "nan", True],
    "batch_size": ["all", "0", "51", "2.5", "-1", True],
    "contact": ["fleet@example.org\r\nX-Header: 1", "fleet\0", "J\u00fcrgen", "\u8eca\u968a"],
    "patience": ["", "long", "-1", "inf", "nan", False, "9" * 400, f"{'9' * 307}w"],
    "max_age": ["", "never", "-1", "1y", "1e3", "inf", "nan", True, [1]],
    "siblings": ["maybe", "2", "", 2, [True]],
    "rejection_max_age": ["", "day", "-1", "1e3", "1y", "12h30m", "inf", "nan", True, [1]],
    "export_concurrency": ["all", "0", "65", "2.5", True],
    "export_timeout": ["", "long", "-1", True],
    "stall_timeout": ["", "long", "-1", True],
    "list_concurrency": ["all", "0", "65", "2.5", True],
    "lookup_concurrency": ["all", "0", "10001", "2.5", True],
    "memory_hits": ["all", "-1", "10000001", "1.5", True],
    "queue_length": ["none", "0", "1000001", "2.5", True],
    "body_timeout": ["", "long", "-1", True],
    "shutdown_timeout": ["", "soon", "-1", "inf", True],
    "log_format": ["JSON", "xml", "", True],
    "mask_vins": ["maybe", "2", "", 2, [True]],
    "short_routes": ["maybe", "2", "", 2, [True]],
    "hosts": [5, {"a.example": True}, True],
    "allow_lookup": ["root", "yes", "[]", '"root"', "{", "1", 1, ["root"], "[" * 100_000],
    "allow_remove": ["root", "{'id': 'root'}", 0],
    "allow_export": ["root", "[true]", 1.5],
}


def variable(name: str) -> str:
    return f"VIN_DATASETTE_{name.upper()}"


def cases(table: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, case, id=f"{name}-{case!r:.40}") for name, told in table.items() for case in told]


def read(name: str, **origins: Any) -> object:
    return getattr(Settings.load(**{"environ": {}, **origins}), name)


# What a setting takes


@pytest.mark.parametrize(("name", "case"), cases(SAID))
def test_a_setting_is_read_from_the_environment(name: str, case: tuple[str, object]) -> None:
    text, meaning = case
    value = read(name, environ={variable(name): text})
    assert (value, type(value)) == (meaning, type(meaning))


@pytest.mark.parametrize(("name", "given", "meaning"), GIVEN)
def test_a_setting_is_read_from_the_configuration(name: str, given: object, meaning: object) -> None:
    value = read(name, config={name: given})
    assert (value, type(value)) == (meaning, type(meaning))


@pytest.mark.parametrize(("name", "given", "meaning"), GIVEN)
def test_a_setting_is_read_from_an_option(name: str, given: object, meaning: object) -> None:
    value = read(name, options={name: given})
    assert (value, type(value)) == (meaning, type(meaning))


@pytest.mark.parametrize("table", [SAID, BAD], ids=["taken", "refused"])
def test_every_setting_is_tried_here(table: dict[str, list[object]]) -> None:
    assert sorted(table) == sorted(NAMES)


def test_the_defaults() -> None:
    assert Settings.load(environ={}) == Settings(
        db=Path("vin.db"),
        source="auto",
        vpic_url="https://vpic.nhtsa.dot.gov/api/vehicles/",
        check_digit="strict",
        timeout=None,
        connect_timeout=1.5,
        rate=2.0,
        concurrency=2,
        batch_size=50,
        contact="",
        patience=600.0,
        max_age=None,
        siblings=False,
        rejection_max_age=86_400.0,
        export_concurrency=2,
        export_timeout=3_600.0,
        list_concurrency=8,
        lookup_concurrency=256,
        queue_length=5_000,
        body_timeout=30.0,
        short_routes=True,
        hosts=(),
        allow_lookup=None,
        allow_remove=None,
        allow_export=None,
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_has_a_line_of_help(name: str) -> None:
    [help_text] = [each.metadata["help"] for each in fields(Settings) if each.name == name]
    assert len(help_text) > 10
    assert "\n" not in help_text


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("timeout", "max_age", "allow_lookup", "db")])
def test_every_default_is_a_value_that_the_setting_takes(name: str) -> None:
    default = getattr(Settings(), name)
    assert read(name, config={name: default}) == default


def test_settings_do_not_change() -> None:
    settings = Settings()
    with pytest.raises(FrozenInstanceError):
        settings.rate = 5.0  # type: ignore[misc]


# Where it is read from


@pytest.mark.parametrize(
    ("origins", "rate"),
    [
        ({"options": {"rate": 3}, "environ": {"VIN_DATASETTE_RATE": "4"}, "config": {"rate": 5}}, 3.0),
        ({"options": {"rate": 3}, "config": {"rate": 5}}, 3.0),
        ({"environ": {"VIN_DATASETTE_RATE": "4"}, "config": {"rate": 5}}, 4.0),
        ({"config": {"rate": 5}}, 5.0),
        ({}, 2.0),
    ],
    ids=["option", "option, no variable", "variable", "configuration", "default"],
)
def test_an_option_wins_over_the_environment_over_the_configuration_over_the_default(
    origins: dict[str, Any], rate: float
) -> None:
    assert read("rate", **origins) == rate


@pytest.mark.parametrize(
    ("name", "option", "text", "meaning"),
    [("short_routes", False, "true", False), ("contact", "", "fleet@example.org", ""), ("hosts", [], "a.example", ())],
)
def test_an_empty_option_wins_too(name: str, option: object, text: str, meaning: object) -> None:
    assert read(name, options={name: option}, environ={variable(name): text}) == meaning


def test_an_option_that_is_none_was_not_given() -> None:
    assert read("rate", options={"rate": None}, environ={"VIN_DATASETTE_RATE": "4"}) == 4.0


def test_a_configuration_that_is_none_was_not_given() -> None:
    assert read("rate", config={"rate": None}) == 2.0


def test_an_empty_variable_was_not_set() -> None:
    assert read("rate", environ={"VIN_DATASETTE_RATE": ""}, config={"rate": 5}) == 5.0


def test_the_environment_is_the_processs_own_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_RATE", "4")
    assert (Settings.load().rate, Settings.load(environ={}).rate) == (4.0, 2.0)


def test_a_bad_value_that_a_better_origin_overrides_is_not_read() -> None:
    assert read("rate", options={"rate": 3}, environ={"VIN_DATASETTE_RATE": "fast"}) == 3.0


def test_each_setting_comes_from_its_own_origin() -> None:
    settings = Settings.load(
        {"source": "vpic"}, environ={"VIN_DATASETTE_RATE": "4"}, config={"batch_size": 10, "rate": 1}
    )
    assert (settings.source, settings.rate, settings.batch_size, settings.concurrency) == ("vpic", 4.0, 10, 2)


# What it does not take


@pytest.mark.parametrize(("name", "value"), cases(BAD))
def test_a_bad_value_is_refused_by_the_settings_name(name: str, value: object) -> None:
    with pytest.raises(SettingError) as caught:
        read(name, config={name: value})
    assert str(caught.value).startswith(f"The plugin setting {name} ")
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("name", "text"),
    [pytest.param(n, v, id=f"{n}-{v!r:.40}") for n, told in BAD.items() for v in told if v and isinstance(v, str)],
)
def test_a_bad_variable_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(SettingError) as caught:
        read(name, environ={variable(name): text})
    assert str(caught.value).startswith(f"The environment variable {variable(name)} ")


@pytest.mark.parametrize(
    ("origins", "words"),
    [
        ({"options": {"rate": "fast"}}, "The setting rate must be a number from 0.01 to 10000, not 'fast'."),
        (
            {"environ": {"VIN_DATASETTE_TIMEOUT": "0"}},
            "The environment variable VIN_DATASETTE_TIMEOUT must be a number from 0.1 to 600 seconds, not '0'.",
        ),
        ({"config": {"batch_size": 2.5}}, "The plugin setting batch_size must be a whole number, not 2.5."),
        ({"config": {"source": "nhtsa"}}, "The plugin setting source must be auto, vpic or embedded, not 'nhtsa'."),
        (
            {"options": {"rejection_max_age": "1y"}},
            "The setting rejection_max_age must be a duration such as 90, 30m, 12h or 7d, not '1y'.",
        ),
        ({"config": {"short_routes": 2}}, "The plugin setting short_routes must be true or false, not 2."),
        ({"config": {"hosts": 5}}, "The plugin setting hosts must be a list of host names, not 5."),
        (
            {"options": {"vpic_url": "vpic"}},
            f"The setting vpic_url must be an http or https URL such as {DEFAULT_VPIC_URL}, not 'vpic'.",
        ),
    ],
)
def test_a_bad_value_is_refused_in_words(origins: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        read("rate", **origins)
    assert str(caught.value) == words


@pytest.mark.parametrize("origin", ["options", "config"])
@pytest.mark.parametrize("name", ["rat", "Rate", "vpic-url", "", "self"])
def test_an_unknown_name_is_refused_with_the_known_ones(origin: str, name: str) -> None:
    with pytest.raises(SettingError) as caught:
        read("rate", **{origin: {name: 1}})
    assert str(caught.value) == f"{name!r} is no setting of vin-datasette; there are {', '.join(NAMES)}."


@pytest.mark.parametrize("unknown", [{5: 1}, {True: 1}, {None: 1}, {5: 1, "rat": 1}], ids=str)
def test_a_name_that_is_no_text_is_refused(unknown: dict[object, object]) -> None:
    with pytest.raises(SettingError, match="is no setting of vin-datasette"):
        read("rate", config=unknown)


def test_a_setting_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="rate"):
        Settings.load({"rate": 0}, environ={})


# The time that vPIC has


@pytest.mark.parametrize(
    ("origins", "deadline"),
    [
        ({"source": "auto"}, 2.0),
        ({"source": "vpic"}, 20.0),
        ({"source": "auto", "timeout": 7}, 7.0),
        ({"source": "vpic", "timeout": 0.5}, 0.5),
    ],
)
def test_the_deadline_is_short_when_the_embedded_database_can_stand_in(
    origins: dict[str, object], deadline: float
) -> None:
    assert Settings.load(origins, environ={}).deadline == deadline
