"""The cache: what is kept, how it is found again, and what a file goes through."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sqlite_utils import Migrations

from tests.conftest import fill_cache
from vin_datasette import migrations
from vin_datasette.attributes import ATTRIBUTES
from vin_datasette.cache import READ_TIMEOUT, WRITE_TIMEOUT, Cache, CacheError, snapshot
from vin_datasette.record import Record, SourceName
from vin_datasette.schema import CHANGES, MIGRATION_NAMES, MIGRATION_SET, REJECTIONS, USABLE_SINCE_SET, VEHICLES
from vin_datasette.vehicle import Rejection, Vehicle, interpret
from vin_datasette.vin import ALPHABET, VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlite_utils import Database

TRACTOR = VIN("1XP5DB9X7XD487964")
NOW = datetime(2026, 11, 1, 12, 0, 0, tzinfo=timezone.utc)
ROUNDS = 20
SOURCES: tuple[SourceName, ...] = get_args(SourceName)

SCHEMA = """
CREATE TABLE "_sqlite_migrations" (
    "id" INTEGER PRIMARY KEY, "migration_set" TEXT, "name" TEXT, "applied_at" TEXT
)
CREATE TABLE "changes" (
    "id" INTEGER PRIMARY KEY,
    "vin" TEXT NOT NULL,
    "replaced_at" TEXT NOT NULL,
    "changed" TEXT NOT NULL,
    "fetched_at" TEXT NOT NULL,
    "record" TEXT NOT NULL
)
CREATE TABLE "rejections" (
    "vin" TEXT PRIMARY KEY NOT NULL,
    "reason" TEXT NOT NULL,
    "error_code" TEXT,
    "suggested_vin" TEXT,
    "make" TEXT,
    "source" TEXT NOT NULL,
    "source_version" TEXT,
    "fetched_at" TEXT NOT NULL,
    "notes" TEXT,
    "record" TEXT NOT NULL
)
CREATE TABLE "vehicles" (
    "vin" TEXT PRIMARY KEY NOT NULL,
    "make" TEXT NOT NULL,
    "model" TEXT,
    "model_year" INTEGER,
    "body_class" TEXT,
    "vehicle_type" TEXT,
    "manufacturer" TEXT,
    "series" TEXT,
    "trim" TEXT,
    "doors" INTEGER,
    "seats" INTEGER,
    "seat_rows" INTEGER,
    "wheels" INTEGER,
    "axles" INTEGER,
    "drive_type" TEXT,
    "cab_type" TEXT,
    "bed_type" TEXT,
    "fuel_type" TEXT,
    "fuel_type_secondary" TEXT,
    "electrification" TEXT,
    "engine_model" TEXT,
    "engine_manufacturer" TEXT,
    "engine_configuration" TEXT,
    "cylinders" INTEGER,
    "displacement_l" REAL,
    "engine_hp" REAL,
    "engine_kw" REAL,
    "turbo" TEXT,
    "battery_kwh" REAL,
    "transmission" TEXT,
    "transmission_speeds" INTEGER,
    "gvwr_class" TEXT,
    "gvwr_from_kg" INTEGER,
    "gvwr_to_kg" INTEGER,
    "curb_weight_kg" INTEGER,
    "wheelbase_in" REAL,
    "top_speed_mph" INTEGER,
    "base_price_usd" REAL,
    "brake_system" TEXT,
    "bus_type" TEXT,
    "trailer_body_type" TEXT,
    "plant_city" TEXT,
    "plant_state" TEXT,
    "plant_country" TEXT,
    "plant_company" TEXT,
    "destination_market" TEXT,
    "descriptor" TEXT,
    "error_code" TEXT,
    "warnings" TEXT,
    "source" TEXT NOT NULL,
    "source_version" TEXT,
    "fetched_at" TEXT NOT NULL,
    "notes" TEXT,
    "record" TEXT NOT NULL
)
CREATE VIRTUAL TABLE "vehicles_fts" USING FTS5 (
    "vin", "make", "model", "body_class", "manufacturer", "series", "trim", "engine_model", "plant_city",
    content="vehicles"
)
"""
INDEXES = {
    "_sqlite_migrations": [["migration_set", "name"]],
    "changes": [["replaced_at"], ["vin"]],
    "rejections": [["fetched_at"], ["reason", "vin", "suggested_vin"]],
    "vehicles": [
        ["body_class", "vin"],
        ["make", "model_year", "body_class", "fuel_type", "plant_country"],
        ["descriptor", "error_code", "source"],
        ["fetched_at"],
        ["fuel_type", "vin"],
        ["make", "vin"],
        ["model_year", "vin"],
        ["plant_country", "vin"],
        [None, None, "vin"],
        ["vin", "fetched_at", "source", "error_code"],
    ],
}
"""The columns of each index, in the order of the indexes' names; None is an expression."""

FIRST_INDEXES = {
    "idx__sqlite_migrations_migration_set_name",
    *(f"idx_vehicles_{column}_vin" for column in ("make", "model_year", "body_class")),
    "idx_vehicles_fetched_at",
    "idx_rejections_fetched_at",
}
"""Those of the first step."""


def serial_vin(number: int) -> VIN:
    return VIN(f"1XP5DB9X7XD{number:06}")


def record(
    vin: VIN = TRACTOR, source: SourceName = "vpic", *, code: str = "0", make: str = "PETERBILT", **values: object
) -> Record:
    said: dict[str, object] = {"VIN": str(vin), "Make": make, "Model": "379", "ErrorCode": code, "ErrorText": code}
    return Record(vin, {**said, **values}, source, "2026_10" if source == "embedded" else None, NOW)


def vehicle(vin: VIN = TRACTOR, source: SourceName = "vpic", **values: object) -> Vehicle:
    answer = interpret(record(vin, source, **values))  # type: ignore[arg-type]
    assert isinstance(answer, Vehicle)
    return answer


def rejection(vin: VIN = TRACTOR, source: SourceName = "vpic") -> Rejection:
    answer = interpret(record(vin, source, code="1,400"))
    assert isinstance(answer, Rejection)
    return answer


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def run(path: Path, sql: str, *parameters: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql, parameters).fetchall()


def vins_of(path: Path, table: str) -> list[object]:
    return [vin for (vin,) in run(path, f"SELECT vin FROM {table} ORDER BY vin")]


def is_whole(path: Path) -> bool:
    # With rank 1, FTS5 compares its index with the table that it is of.
    run(path, "INSERT INTO vehicles_fts (vehicles_fts, rank) VALUES ('integrity-check', 1)")
    return run(path, "PRAGMA integrity_check") == [("ok",)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vin.db"


@pytest.fixture
def cache(path: Path) -> Iterator[Cache]:
    with closing(Cache(path)) as cache:
        yield cache


# The schema


def test_the_schema(cache: Cache) -> None:
    cache.open()
    sql = "SELECT sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'vehicles_fts_%' ORDER BY name"
    made = [str(text) for (text,) in run(cache.path, sql)]
    assert "".join("".join(made).split()) == "".join(SCHEMA.split())


def test_the_indexes(cache: Cache) -> None:
    cache.open()
    sql = "SELECT tbl_name, name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL ORDER BY tbl_name, name"
    made: dict[str, list[list[object]]] = {}
    for table, name in run(cache.path, sql):
        columns = [column for _, _, column in run(cache.path, f'PRAGMA index_info("{name}")')]
        made.setdefault(str(table), []).append(columns)
    assert made == INDEXES


def test_the_attributes_stand_after_the_vin_in_their_order_and_type(cache: Cache) -> None:
    cache.open()
    types = {"text": "TEXT", "integer": "INTEGER", "real": "REAL"}
    columns = [(name, kind) for _, name, kind, *_ in run(cache.path, "PRAGMA table_info(vehicles)")]
    assert columns[0] == ("vin", "TEXT")
    assert columns[1 : len(ATTRIBUTES) + 1] == [(each.column, types[each.kind]) for each in ATTRIBUTES]


def test_every_step_of_the_schema_is_named() -> None:
    assert [step.name for step in migrations.migrations._migrations] == list(MIGRATION_NAMES)


def test_readers_and_a_writer_do_not_wait_for_each_other(cache: Cache) -> None:
    cache.open()
    assert run(cache.path, "PRAGMA journal_mode") == [("wal",)]


# What is kept

surrogate_text = st.text(st.characters(codec=None), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | surrogate_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(surrogate_text, inner, max_size=3),
    max_leaves=5,
)
# As JSON has it: two surrogates in a row are one character there.
json_objects = st.dictionaries(
    st.sampled_from(["Make", "ErrorCode", "Model", "GVWR", "Doors", "SuggestedVIN"]) | surrogate_text, json_values
).map(lambda values: json.loads(json.dumps(values)))
moments = st.datetimes(datetime(2018, 1, 1), datetime(2100, 1, 1), timezones=st.just(timezone.utc))
records = st.builds(
    Record,
    st.text(sorted(ALPHABET), min_size=17, max_size=17).map(VIN),
    json_objects.map(lambda values: {"Make": "FORD", "ErrorCode": "0", **values}),
    st.just("vpic"),
    st.none() | st.text("0123456789_", max_size=7),
    moments.map(lambda moment: moment.replace(microsecond=0)),
    st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20), max_size=2).map(
        tuple
    ),
)


@pytest.fixture(scope="module")
def long_lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cache]:
    with closing(Cache(tmp_path_factory.mktemp("cache") / "vin.db")) as cache:
        yield cache


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.lists(records, max_size=4, unique_by=lambda each: each.vin))
def test_every_record_comes_back_whole(long_lived: Cache, kept: list[Record]) -> None:
    long_lived.save([interpret(each) for each in kept])
    assert long_lived.get_many([each.vin for each in kept]) == {each.vin: each for each in kept}


@pytest.mark.parametrize("answer", [vehicle(), rejection()], ids=["vehicle", "rejection"])
def test_an_answer_is_there_in_another_connection(cache: Cache, answer: Vehicle | Rejection) -> None:
    cache.save([answer])
    with closing(Cache(cache.path)) as other:
        assert other.get(TRACTOR) == answer.record


def test_what_was_not_saved_is_not_there(cache: Cache) -> None:
    cache.save([vehicle()])
    assert cache.get(serial_vin(1)) is None


def test_those_that_are_not_there_are_left_out(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(1)), rejection(serial_vin(3))])
    assert list(cache.get_many([serial_vin(number) for number in range(5)])) == [serial_vin(1), serial_vin(3)]


def test_nothing_is_asked_and_nothing_is_found(cache: Cache) -> None:
    assert cache.get_many([]) == {}


def test_more_vins_than_a_statement_takes(cache: Cache) -> None:
    kept = [vehicle(serial_vin(number)) for number in range(1_200)]
    cache.save(kept)
    assert cache.get_many([each.record.vin for each in kept]) == {each.record.vin: each.record for each in kept}


def test_a_vehicles_row(cache: Cache) -> None:
    answer = vehicle(ModelYear="1999", DisplacementL="14.6", Doors="2", BusType="Not Applicable")
    answer = Vehicle(replace(answer.record, notes=("Asked with model year 2001",)))
    cache.save([answer])
    with closing(sqlite3.connect(cache.path)) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM vehicles").fetchone())
    assert json.loads(row.pop("record")) == answer.record.values
    assert {name: value for name, value in row.items() if value is not None} == {
        "vin": "1XP5DB9X7XD487964",
        "make": "PETERBILT",
        "model": "379",
        "model_year": 1999,
        "doors": 2,
        "displacement_l": 14.6,
        "error_code": "0",
        "warnings": "Asked with model year 2001",
        "source": "vpic",
        "fetched_at": "2026-11-01T12:00:00Z",
        "notes": '["Asked with model year 2001"]',
    }


def test_a_rejections_row(cache: Cache) -> None:
    answer = interpret(
        record(source="embedded", code="5", SuggestedVIN="1XP5DB!X7XD487964", AdditionalErrorText="More.")
    )
    cache.save([answer])
    with closing(sqlite3.connect(cache.path)) as connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM rejections").fetchone())
    assert answer.record is not None
    assert json.loads(row.pop("record")) == answer.record.values
    assert row == {
        "vin": "1XP5DB9X7XD487964",
        "reason": "5. More.",
        "error_code": "5",
        "suggested_vin": "1XP5DB!X7XD487964",
        "make": "PETERBILT",
        "source": "embedded",
        "source_version": "2026_10",
        "fetched_at": "2026-11-01T12:00:00Z",
        "notes": None,
    }


def test_a_rejection_of_malformed_text_is_not_kept(cache: Cache) -> None:
    with pytest.raises(InvalidVIN) as caught:
        VIN("IXP5DB9X7XD487964")
    cache.save([Rejection.malformed("IXP5DB9X7XD487964", caught.value)])
    assert cache.counts() == {"vehicles": 0, "rejections": 0}


def test_saving_nothing_saves_nothing(cache: Cache) -> None:
    cache.save([])
    assert cache.counts() == {"vehicles": 0, "rejections": 0}


def test_the_counts(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(1)), vehicle(serial_vin(2)), rejection(serial_vin(3))])
    assert cache.counts() == {"vehicles": 2, "rejections": 1}


# One answer in the place of another


def test_a_later_answer_takes_the_place_of_an_earlier(cache: Cache) -> None:
    cache.save([vehicle(Series="old", Trim="old")])
    later = vehicle(Series="new")
    cache.save([later])
    assert cache.get(TRACTOR) == later.record
    assert run(cache.path, "SELECT vin, series, trim FROM vehicles") == [(TRACTOR, "new", None)]


def test_of_two_answers_at_once_the_last_stays(cache: Cache) -> None:
    cache.save([vehicle(Series="first"), rejection(), vehicle(Series="last")])
    assert run(cache.path, "SELECT series FROM vehicles") == [("last",)]
    assert cache.counts() == {"vehicles": 1, "rejections": 0}


def test_a_vehicle_that_is_rejected_moves(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.save([rejection()])
    assert (vins_of(cache.path, VEHICLES), vins_of(cache.path, REJECTIONS)) == ([], [TRACTOR])


def test_a_rejection_that_becomes_a_vehicle_moves(cache: Cache) -> None:
    cache.save([rejection()])
    cache.save([vehicle()])
    assert (vins_of(cache.path, VEHICLES), vins_of(cache.path, REJECTIONS)) == ([TRACTOR], [])


@pytest.mark.parametrize("earlier", [vehicle(), rejection()], ids=["vehicle", "rejection"])
@pytest.mark.parametrize(
    "later", [vehicle(source="embedded"), rejection(source="embedded")], ids=["vehicle", "rejection"]
)
def test_the_embedded_database_never_takes_the_place_of_vpic(
    cache: Cache, earlier: Vehicle | Rejection, later: Vehicle | Rejection
) -> None:
    cache.save([earlier])
    cache.save([later])
    assert cache.get(TRACTOR) == earlier.record
    assert sum(cache.counts().values()) == 1


@pytest.mark.parametrize(
    "earlier", [vehicle(source="embedded"), rejection(source="embedded")], ids=["vehicle", "rejection"]
)
@pytest.mark.parametrize("later", [vehicle(), rejection()], ids=["vehicle", "rejection"])
def test_vpic_takes_the_place_of_the_embedded_database(
    cache: Cache, earlier: Vehicle | Rejection, later: Vehicle | Rejection
) -> None:
    cache.save([earlier])
    cache.save([later])
    assert cache.get(TRACTOR) == later.record
    assert sum(cache.counts().values()) == 1


def test_a_vin_that_vpic_answered_does_not_cost_the_others_of_its_batch(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(1))])
    cache.save([vehicle(serial_vin(1), "embedded"), vehicle(serial_vin(2), "embedded")])
    assert run(cache.path, "SELECT vin, source FROM vehicles ORDER BY vin") == [
        (serial_vin(1), "vpic"),
        (serial_vin(2), "embedded"),
    ]


@pytest.mark.parametrize("answer", [vehicle(), rejection()], ids=["vehicle", "rejection"])
def test_what_is_removed_is_gone(cache: Cache, answer: Vehicle | Rejection) -> None:
    cache.save([answer, vehicle(serial_vin(1))])
    assert cache.remove(TRACTOR)
    assert (cache.get(TRACTOR), sum(cache.counts().values())) == (None, 1)


def test_what_is_not_there_cannot_be_removed(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(1))])
    assert not cache.remove(TRACTOR)
    assert cache.counts() == {"vehicles": 1, "rejections": 0}


# Search


def found(path: Path, words: str) -> list[object]:
    hits = "SELECT rowid FROM vehicles_fts WHERE vehicles_fts MATCH ?"
    return [vin for (vin,) in run(path, f"SELECT vin FROM vehicles WHERE rowid IN ({hits}) ORDER BY vin", words)]


@pytest.mark.parametrize(
    "words", ["1XP5DB9X7XD487964", "peterbilt", "379", "Truck-Tractor", "paccar", "conventional", "N14", "denton"]
)
def test_search_finds_a_vehicle_by_its_words(cache: Cache, words: str) -> None:
    cache.save(
        [
            vehicle(
                BodyClass="Truck-Tractor",
                Manufacturer="PACCAR INC.",
                Series="Conventional",
                EngineModel="N14",
                PlantCity="DENTON",
            ),
            vehicle(serial_vin(1), make="FORD", Model="F-150"),
        ]
    )
    assert found(cache.path, f'"{words}"') == [TRACTOR]


def test_search_finds_what_a_later_answer_says_and_not_what_an_earlier_said(cache: Cache) -> None:
    cache.save([vehicle(Series="conventional")])
    cache.save([vehicle(Series="aerodynamic")])
    assert (found(cache.path, "aerodynamic"), found(cache.path, "conventional")) == ([TRACTOR], [])


def test_search_does_not_find_what_was_removed(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.remove(TRACTOR)
    assert found(cache.path, "peterbilt") == []


def test_search_does_not_find_what_was_rejected_since(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.save([rejection()])
    assert found(cache.path, "peterbilt") == []


def test_search_finds_the_same_after_a_vacuum(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(number), Series=f"series{number}") for number in range(20)])
    for number in range(0, 20, 3):
        cache.remove(serial_vin(number))
    cache.close()
    run(cache.path, "VACUUM")
    cache.save([vehicle(serial_vin(0), Series="again")])
    expected = {number: [serial_vin(number)] if number % 3 else [] for number in range(20)}
    assert {number: found(cache.path, f"series{number}") for number in range(20)} == expected
    assert found(cache.path, "again") == [serial_vin(0)]


def test_the_search_index_stays_that_of_its_table(cache: Cache) -> None:
    numbers = random.Random(7)
    for _ in range(40):
        batch = {serial_vin(numbers.randrange(12)) for _ in range(4)}
        cache.save(
            [
                vehicle(vin, Series=f"s{numbers.randrange(5)}") if numbers.random() < 0.7 else rejection(vin)
                for vin in batch
            ]
        )
        cache.remove(serial_vin(numbers.randrange(12)))
    run(cache.path, "VACUUM")
    assert is_whole(cache.path)


# What need not be asked about again

LATER = NOW + timedelta(days=30)


def as_of(when: datetime, answer: Vehicle) -> Vehicle:
    return Vehicle(replace(answer.record, fetched_at=when))


def fresh(cache: Cache, texts: list[str], since: datetime | None = None, **rules: bool) -> set[str]:
    return cache.fresh(texts, since, **{"by_vpic": False, "clean": False, **rules})


def test_fresh_are_the_vehicles_that_are_there(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(1)), rejection(serial_vin(2))])
    assert fresh(cache, [serial_vin(1), serial_vin(2), serial_vin(3)]) == {serial_vin(1)}


def test_of_no_texts_none_is_fresh(cache: Cache) -> None:
    cache.save([vehicle()])
    assert fresh(cache, []) == set()


@pytest.mark.parametrize(
    ("since", "is_fresh"),
    [
        (None, True),
        (NOW - timedelta(seconds=1), True),
        (NOW - timedelta(seconds=0.5), True),
        (NOW, False),
        (NOW + timedelta(seconds=0.5), False),
        (NOW + timedelta(seconds=1), False),
    ],
    ids=["ever", "a second before", "half a second before", "that moment", "half a second after", "a second after"],
)
def test_fresh_is_what_was_known_after_a_moment(cache: Cache, since: datetime | None, is_fresh: bool) -> None:
    cache.save([vehicle()])
    assert bool(fresh(cache, [TRACTOR], since)) == is_fresh


@pytest.mark.parametrize(
    ("source", "is_fresh"),
    [("vpic", True), ("vpic-sibling", True), ("embedded", False), ("embedded-sibling", False)],
)
def test_fresh_by_vpic_is_what_vpic_said_of_it_or_of_a_sibling(
    cache: Cache, source: SourceName, is_fresh: bool
) -> None:
    cache.save([vehicle(source=source)])
    assert bool(fresh(cache, [TRACTOR], by_vpic=True)) == is_fresh


@pytest.mark.parametrize("source", SOURCES)
def test_fresh_by_whomever_is_what_anybody_said(cache: Cache, source: SourceName) -> None:
    cache.save([vehicle(source=source)])
    assert fresh(cache, [TRACTOR]) == {TRACTOR}


@pytest.mark.parametrize(("code", "is_fresh"), [("0", True), ("8", False), ("14", False), ("0,14", False)])
def test_fresh_and_clean_is_what_vpic_finds_no_fault_with(cache: Cache, code: str, is_fresh: bool) -> None:
    cache.save([vehicle(code=code)])
    assert bool(fresh(cache, [TRACTOR], clean=True)) == is_fresh


def test_fresh_and_not_clean_is_every_vehicle(cache: Cache) -> None:
    cache.save([vehicle(code="14")])
    assert fresh(cache, [TRACTOR]) == {TRACTOR}


def test_many_thousands_at_once_are_told_apart(cache: Cache) -> None:
    fill_cache(cache.path, 6_000)
    there = vins_of(cache.path, VEHICLES)
    absent = [serial_vin(number) for number in range(9_000)]
    assert fresh(cache, [*map(str, there), *absent]) == set(there)


NO_VINS = [
    "",
    " ",
    "no VIN",
    "\0",
    "1XP5DB9X7XD48796",
    "[",
    '"',
    "\\",
    "%",
    "'; DROP TABLE vehicles; --",
    "\udc80",
    "車",
]


@pytest.mark.parametrize("text", NO_VINS, ids=ascii)
def test_a_text_that_is_no_vin_is_not_fresh(cache: Cache, text: str) -> None:
    cache.save([vehicle()])
    assert fresh(cache, [text, TRACTOR]) == {TRACTOR}


@pytest.mark.parametrize("end", ["\0", "\0" * 3, "\0VIN", " ", "\n", "\udc80"], ids=ascii)
def test_a_vin_that_something_follows_is_not_fresh(cache: Cache, end: str) -> None:
    cache.save([vehicle()])
    assert fresh(cache, [TRACTOR + end]) == set()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(codec=None), max_size=20) | st.just(str(TRACTOR)), max_size=6))
def test_fresh_names_nothing_that_was_not_asked(long_lived: Cache, texts: list[str]) -> None:
    long_lived.save([vehicle()])
    assert fresh(long_lived, texts) == {TRACTOR} & set(texts)


def test_fresh_is_read_from_an_index_alone(cache: Cache) -> None:
    cache.save([vehicle()])
    asked: list[str] = []
    reader = cache._open()[0]
    reader.set_trace_callback(asked.append)
    fresh(cache, [TRACTOR], NOW, by_vpic=True, clean=True)
    reader.set_trace_callback(None)
    [sql] = asked
    assert any("COVERING INDEX" in str(row[-1]) for row in run(cache.path, f"EXPLAIN QUERY PLAN {sql}"))


def test_version_tells_of_each_commit_and_of_each_opening(cache: Cache) -> None:
    before = cache.version()
    assert cache.version() == before
    cache.save([vehicle()])
    written = cache.version()
    assert written != before
    with closing(sqlite3.connect(cache.path)) as other:
        other.execute("DELETE FROM vehicles")
        other.commit()
    assert cache.version() not in (before, written)


def test_version_tells_of_each_opening_as_it_may_be_of_another_file(cache: Cache) -> None:
    told = set()
    for _ in range(3):
        told.add(cache.version())
        cache.close()
    assert len(told) == 3


# A vehicle alike


def alike(number: int, source: SourceName = "vpic", **values: object) -> Vehicle:
    return vehicle(serial_vin(number), source, VehicleDescriptor=TRACTOR.descriptor, **values)


@pytest.mark.parametrize("source", ["vpic", "embedded"])
def test_a_sibling_is_a_record_with_the_same_descriptor(cache: Cache, source: SourceName) -> None:
    one = alike(1, source)
    cache.save([one, vehicle(serial_vin(2), VehicleDescriptor="1XP5DB9X*YD")])
    assert cache.sibling(TRACTOR.descriptor) == one.record


def test_there_is_no_sibling_where_none_is_alike(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(2), VehicleDescriptor="1XP5DB9X*YD")])
    assert cache.sibling(TRACTOR.descriptor) is None


def test_a_rejection_is_no_sibling(cache: Cache) -> None:
    cache.save([interpret(record(code="7", VehicleDescriptor=TRACTOR.descriptor))])
    assert cache.sibling(TRACTOR.descriptor) is None


@pytest.mark.parametrize("code", ["8", "14", "0,14"])
def test_a_record_with_which_vpic_finds_fault_is_no_sibling(cache: Cache, code: str) -> None:
    cache.save([alike(1, code=code)])
    assert cache.sibling(TRACTOR.descriptor) is None


@pytest.mark.parametrize("source", ["vpic-sibling", "embedded-sibling"])
def test_what_a_sibling_answered_is_no_sibling(cache: Cache, source: SourceName) -> None:
    cache.save([alike(1, source)])
    assert cache.sibling(TRACTOR.descriptor) is None


@pytest.mark.parametrize("first", ["vpic", "embedded"])
def test_vpics_sibling_comes_before_the_embedded_databases(cache: Cache, first: SourceName) -> None:
    second: SourceName = "embedded" if first == "vpic" else "vpic"
    cache.save([alike(1, first)])
    cache.save([alike(2, second)])
    found = cache.sibling(TRACTOR.descriptor)
    assert found is not None
    assert found.source == "vpic"


def test_a_damaged_row_does_not_hide_another_sibling(cache: Cache) -> None:
    cache.save([alike(1), alike(2)])
    run(cache.path, "UPDATE vehicles SET record = 'no JSON' WHERE vin = ?", serial_vin(1))
    assert cache.sibling(TRACTOR.descriptor) == alike(2).record


# What vPIC used to say


def changes(path: Path) -> list[tuple[object, ...]]:
    return run(path, f"SELECT vin, fetched_at, replaced_at, changed, record FROM {CHANGES} ORDER BY id")


def what_changed(cache: Cache) -> list[object]:
    return [json.loads(str(changed)) for _, _, _, changed, _ in changes(cache.path)]


def test_the_first_answer_changes_nothing(cache: Cache) -> None:
    cache.save([vehicle(), rejection(serial_vin(1))])
    assert changes(cache.path) == []


def test_an_answer_that_differs_is_kept_with_what_it_replaced(cache: Cache) -> None:
    earlier = vehicle(Series="old")
    cache.save([earlier])
    cache.save([as_of(LATER, vehicle(Series="new"))])
    [(vin, fetched_at, replaced_at, changed, kept)] = changes(cache.path)
    assert (vin, fetched_at, replaced_at) == (TRACTOR, "2026-11-01T12:00:00Z", "2026-12-01T12:00:00Z")
    assert json.loads(str(changed)) == {"Series": ["old", "new"]}
    assert json.loads(str(kept)) == earlier.record.values


def test_the_same_answer_again_changes_nothing(cache: Cache) -> None:
    cache.save([vehicle(Series="old")])
    cache.save([as_of(LATER, vehicle(Series="old"))])
    assert changes(cache.path) == []


def test_the_same_answer_again_is_as_new_as_it_is(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.save([as_of(LATER, vehicle())])
    assert run(cache.path, "SELECT fetched_at FROM vehicles") == [("2026-12-01T12:00:00Z",)]


def test_a_key_that_vanishes_with_its_value_is_a_change(cache: Cache) -> None:
    cache.save([vehicle(Series="old")])
    cache.save([vehicle()])
    assert what_changed(cache) == [{"Series": ["old", None]}]


def test_a_key_that_comes_with_a_value_is_a_change(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.save([vehicle(Series="new")])
    assert what_changed(cache) == [{"Series": [None, "new"]}]


def test_a_value_that_becomes_empty_is_a_change(cache: Cache) -> None:
    cache.save([vehicle(Series="old")])
    cache.save([vehicle(Series="")])
    assert what_changed(cache) == [{"Series": ["old", ""]}]


@pytest.mark.parametrize(("was", "now"), [({"Series": ""}, {}), ({}, {"Series": ""}), ({"Series": None}, {})])
def test_an_empty_key_that_comes_or_goes_is_no_change(cache: Cache, was: dict[str, Any], now: dict[str, Any]) -> None:
    cache.save([vehicle(**was)])
    cache.save([vehicle(**now)])
    assert changes(cache.path) == []


def test_keys_in_another_order_are_no_change(cache: Cache) -> None:
    one = vehicle(Series="a", Trim="b")
    cache.save([one])
    cache.save([Vehicle(replace(one.record, values=dict(reversed([*one.record.values.items()]))))])
    assert changes(cache.path) == []


@pytest.mark.parametrize(
    ("earlier", "later", "codes"),
    [(vehicle(), rejection(), ["0", "1,400"]), (rejection(), vehicle(), ["1,400", "0"])],
    ids=["vehicle, rejection", "rejection, vehicle"],
)
def test_what_moves_between_the_tables_is_a_change(
    cache: Cache, earlier: Vehicle | Rejection, later: Vehicle | Rejection, codes: list[str]
) -> None:
    cache.save([earlier])
    cache.save([later])
    assert what_changed(cache) == [{"ErrorCode": codes, "ErrorText": codes}]


@pytest.mark.parametrize("earlier", [each for each in SOURCES if each != "vpic"])
def test_vpic_in_the_place_of_another_is_no_change(cache: Cache, earlier: SourceName) -> None:
    cache.save([vehicle(source=earlier, Series="old")])
    cache.save([vehicle(Series="new")])
    assert (changes(cache.path), run(cache.path, "SELECT source FROM vehicles")) == ([], [("vpic",)])


@pytest.mark.parametrize("later", [each for each in SOURCES if each != "vpic"])
def test_another_after_vpic_is_no_change(cache: Cache, later: SourceName) -> None:
    cache.save([vehicle(Series="old")])
    cache.save([vehicle(source=later, Series="new")])
    assert (changes(cache.path), run(cache.path, "SELECT series FROM vehicles")) == ([], [("old",)])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([vehicle(Series="a"), vehicle(Series="b"), rejection()]), min_size=1, max_size=6))
def test_no_answer_of_vpics_is_ever_lost(said: list[Vehicle | Rejection]) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Cache(Path(folder) / "vin.db")) as cache:
        for answer in said:
            cache.save([answer])
        kept = [json.loads(str(record)) for *_, record in changes(cache.path)]
        last = cache.get(TRACTOR)
    assert last is not None
    values = [answer.record.values for answer in said if answer.record]
    assert [*kept, last.values] == [each for each, _ in itertools.groupby(values)]


def test_each_vin_of_a_save_has_its_own_history(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(number), Series=f"old{number}") for number in range(3)])
    cache.save([vehicle(serial_vin(number), Series=f"old{number % 2}") for number in range(3)])
    assert what_changed(cache) == [{"Series": ["old2", "old0"]}]
    assert [vin for vin, *_ in changes(cache.path)] == [serial_vin(2)]


def test_the_history_of_more_vins_than_a_statement_takes(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(number)) for number in range(1_200)])
    cache.save([vehicle(serial_vin(number), Series="new") for number in range(1_200)])
    assert sorted(str(vin) for vin, *_ in changes(cache.path)) == [serial_vin(number) for number in range(1_200)]


def test_a_damaged_row_of_vpics_is_kept_as_it_stood(cache: Cache) -> None:
    cache.save([vehicle()])
    run(cache.path, "UPDATE vehicles SET record = 'no JSON'")
    cache.save([vehicle()])
    assert [record for *_, record in changes(cache.path)] == ["no JSON"]


def test_history_outlives_what_is_removed(cache: Cache) -> None:
    cache.save([vehicle(Series="old")])
    cache.save([vehicle(Series="new")])
    cache.remove(TRACTOR)
    assert what_changed(cache) == [{"Series": ["old", "new"]}]


def test_a_save_that_fails_leaves_no_history(cache: Cache) -> None:
    cache.save([vehicle(Series="old")])
    cache._open()[1].execute(
        "CREATE TEMP TRIGGER refused BEFORE INSERT ON vehicles BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with pytest.raises(sqlite3.Error, match="no"):
        cache.save([vehicle(Series="new")])
    assert (changes(cache.path), run(cache.path, "SELECT series FROM vehicles")) == ([], [("old",)])


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("make", [vehicle, rejection])
def test_every_source_reads_back(cache: Cache, source: SourceName, make: Callable[..., Vehicle | Rejection]) -> None:
    answer = make(source=source)
    cache.save([answer])
    assert cache.get(TRACTOR) == answer.record


# Many at once

MANY = 250


def triggers(path: Path) -> list[tuple[object, ...]]:
    return run(path, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")


def many(series: str = "flock", first: int = 0) -> list[Vehicle | Rejection]:
    return [vehicle(serial_vin(number), Series=series) for number in range(first, first + MANY)]


def test_the_search_index_is_whole_after_many_at_once(cache: Cache) -> None:
    cache.save([vehicle(Series="single")])
    cache.save(many())
    assert is_whole(cache.path)


def test_search_finds_many_at_once(cache: Cache) -> None:
    cache.save([vehicle(Series="single")])
    cache.save(many())
    assert len(found(cache.path, "flock")) == MANY


def test_search_still_finds_what_was_there_before_many_at_once(cache: Cache) -> None:
    cache.save([vehicle(Series="single")])
    cache.save(many())
    assert found(cache.path, "single") == [TRACTOR]


def test_search_finds_what_comes_after_many_at_once(cache: Cache) -> None:
    cache.save(many())
    cache.save([vehicle(Series="single")])
    assert found(cache.path, "single") == [TRACTOR]


def test_the_triggers_are_the_same_after_many_at_once(cache: Cache) -> None:
    cache.open()
    before = triggers(cache.path)
    cache.save(many())
    assert (len(before), triggers(cache.path)) == (3, before)


def test_search_finds_nothing_of_what_many_at_once_replaced(cache: Cache) -> None:
    cache.save(many("flock"))
    cache.save(many("herd"))
    assert (len(found(cache.path, "herd")), found(cache.path, "flock")) == (MANY, [])


def test_the_search_index_is_whole_when_many_at_once_replace_some(cache: Cache) -> None:
    cache.save(many("flock"))
    cache.save([*many("herd", first=MANY // 2), rejection(serial_vin(0))])
    assert is_whole(cache.path)


def test_many_rejections_at_once_leave_the_search_index_whole(cache: Cache) -> None:
    cache.save(many())
    cache.save([rejection(serial_vin(number)) for number in range(MANY)])
    assert (is_whole(cache.path), found(cache.path, "flock")) == (True, [])


def test_a_file_whose_search_trigger_is_gone_takes_many_at_once(cache: Cache) -> None:
    cache.open()
    run(cache.path, "DROP TRIGGER vehicles_ai")
    cache.save(many())
    assert cache.counts()["vehicles"] == MANY


@pytest.fixture
def failing(cache: Cache) -> Cache:
    """A cache with one vehicle, in which a save of many fails at its last row."""
    cache.save([vehicle(Series="single")])
    last = serial_vin(MANY - 1)
    cache._open()[1].execute(
        f"CREATE TEMP TRIGGER refused BEFORE INSERT ON main.vehicles WHEN new.vin = '{last}' "
        "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    )
    return cache


def test_many_at_once_that_fail_leave_the_file_as_it_was(failing: Cache) -> None:
    before = dump(failing.path)
    with pytest.raises(sqlite3.Error, match="refused"):
        failing.save(many())
    assert dump(failing.path) == before


def test_many_at_once_that_fail_leave_the_search_index_whole(failing: Cache) -> None:
    with pytest.raises(sqlite3.Error, match="refused"):
        failing.save(many())
    assert (is_whole(failing.path), found(failing.path, "flock")) == (True, [])


def test_search_finds_what_is_saved_after_many_failed(failing: Cache) -> None:
    with pytest.raises(sqlite3.Error, match="refused"):
        failing.save(many())
    failing.save([vehicle(serial_vin(0), Series="after")])
    assert found(failing.path, "after") == [serial_vin(0)]


@pytest.mark.parametrize("count", [199, 200, 201])
def test_around_the_number_from_which_on_they_are_many_the_index_is_whole(cache: Cache, count: int) -> None:
    cache.save(many()[:count])
    assert (is_whole(cache.path), len(found(cache.path, "flock"))) == (True, count)


# Damaged rows


@pytest.mark.parametrize("answer", [vehicle(), rejection()], ids=["vehicle", "rejection"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("record", "'no JSON'"),
        ("record", "''"),
        ("record", "'[]'"),
        ("record", "'null'"),
        ("record", "'{\"VIN\":'"),
        ("record", "x'ff00'"),
        ("record", "CAST(x'7b22ff22' AS TEXT)"),
        ("record", "replace(hex(zeroblob(100000)), '00', '[')"),
        ("record", "5"),
        ("fetched_at", "'yesterday'"),
        ("fetched_at", "1793534400"),
        ("fetched_at", "x'00'"),
        ("notes", "'['"),
        ("notes", "5"),
    ],
    ids=lambda text: text[:40],
)
def test_a_damaged_row_is_passed_over_with_a_line_in_the_log(
    cache: Cache, caplog: pytest.LogCaptureFixture, answer: Vehicle | Rejection, column: str, value: str
) -> None:
    good = vehicle(serial_vin(1))
    cache.save([answer, good])
    for table in (VEHICLES, REJECTIONS):
        run(cache.path, f"UPDATE {table} SET {column} = {value} WHERE vin = ?", TRACTOR)
    with caplog.at_level(logging.WARNING):
        assert cache.get_many([TRACTOR, good.record.vin]) == {good.record.vin: good.record}
    [line] = caplog.messages
    assert line.startswith("The cached row of VIN '1XP5DB9X7XD487964' cannot be read and is passed over: ")


def test_a_new_answer_mends_a_damaged_row(cache: Cache) -> None:
    cache.save([vehicle()])
    run(cache.path, "UPDATE vehicles SET record = 'no JSON', fetched_at = 'yesterday', notes = '['")
    cache.save([vehicle()])
    assert cache.get(TRACTOR) == vehicle().record


# Opening and closing


def test_asking_whether_there_is_a_file_makes_none(cache: Cache) -> None:
    assert (cache.exists(), cache.path.exists()) == (False, False)


def test_removing_makes_no_file(cache: Cache) -> None:
    assert (cache.remove(TRACTOR), cache.path.exists()) == (False, False)


def test_opening_makes_the_file(cache: Cache) -> None:
    cache.open()
    assert cache.exists()
    assert cache.counts() == {"vehicles": 0, "rejections": 0}


def test_reading_first_makes_the_file(cache: Cache) -> None:
    assert cache.get(TRACTOR) is None
    assert cache.exists()


def test_a_file_without_content_becomes_a_cache(cache: Cache) -> None:
    cache.path.touch()
    cache.save([vehicle()])
    assert cache.get(TRACTOR) == vehicle().record


def test_a_closed_cache_opens_anew(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.close()
    assert cache.get(TRACTOR) == vehicle().record


def test_closing_twice_does_no_harm(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.close()
    cache.close()
    assert cache.exists()


def test_closing_leaves_one_file(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.get(TRACTOR)
    cache.close()
    assert [each.name for each in cache.path.parent.iterdir()] == ["vin.db"]


def test_opening_an_up_to_date_cache_changes_nothing(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.close()
    before = cache.path.read_bytes()
    with closing(Cache(cache.path)) as again:
        again.open()
    assert cache.path.read_bytes() == before


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "file:x?mode=ro", "\u8eca\u968a.db", "#1.db", "no-suffix"])
def test_a_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    with closing(Cache(str(tmp_path / name))) as cache:
        cache.save([vehicle()])
    assert (tmp_path / name).is_file()


def test_other_tables_of_the_file_are_left_alone(cache: Cache) -> None:
    run(cache.path, "CREATE TABLE mine (a)")
    run(cache.path, "INSERT INTO mine VALUES (1)")
    cache.save([vehicle()])
    assert run(cache.path, "SELECT a FROM mine") == [(1,)]


# Files that are no cache


def not_a_database(path: Path) -> None:
    path.write_bytes(b"VIN,Make\n1XP5DB9X7XD487964,PETERBILT\n" * 500)


def short_text(path: Path) -> None:
    path.write_text("hello")


def damaged_database(path: Path) -> None:
    with closing(Cache(path)) as cache:
        cache.save([vehicle()])
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))


def cut_database(path: Path) -> None:
    with closing(Cache(path)) as cache:
        cache.save([vehicle()])
    path.write_bytes(path.read_bytes()[:5_000])


def a_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [not_a_database, short_text, damaged_database, cut_database, a_folder])
def test_what_is_no_cache_is_refused_in_words(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(
        CacheError, match=rf"^{re.escape(str(path))} (cannot be used as a cache: .+|is a folder, .+)\.$"
    ):
        Cache(path).open()


@pytest.mark.parametrize("make", [not_a_database, short_text, damaged_database, cut_database])
def test_what_is_no_cache_stays_as_it_was(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    before = path.read_bytes()
    with pytest.raises(CacheError):
        Cache(path).open()
    assert path.read_bytes() == before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(CacheError, match=rf"there is no folder {re.escape(str(folder))}\.$"):
        Cache(folder / "vin.db").open()
    assert not folder.exists()


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=rf"there is no folder {re.escape(str(tmp_path / 'file'))}\.$"):
        Cache(tmp_path / "file" / "vin.db").open()


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError):
        Cache(tmp_path / "vin\0.db").open()


@pytest.mark.parametrize("method", ["get", "remove", "counts", "save"])
def test_every_use_of_what_is_no_cache_is_refused(path: Path, method: str) -> None:
    not_a_database(path)
    cache = Cache(path)
    arguments: dict[str, list[object]] = {"get": [TRACTOR], "remove": [TRACTOR], "counts": [], "save": [[vehicle()]]}
    with pytest.raises(CacheError):
        getattr(cache, method)(*arguments[method])


def test_a_file_that_was_no_cache_may_be_replaced_by_one(path: Path) -> None:
    not_a_database(path)
    cache = Cache(path)
    with pytest.raises(CacheError):
        cache.open()
    path.unlink()
    cache.save([vehicle()])
    assert cache.get(TRACTOR) == vehicle().record
    cache.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed under /proc")
def test_a_refused_file_is_let_go(path: Path) -> None:
    not_a_database(path)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(CacheError):
            Cache(path).open()
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


# Versions


def test_a_cache_of_a_newer_version_is_refused_in_words(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.close()
    run(cache.path, "INSERT INTO _sqlite_migrations (migration_set, name) VALUES (?, 'm999_later')", MIGRATION_SET)
    run(cache.path, "UPDATE _sqlite_migrations SET name = 'm999_later' WHERE migration_set = ?", USABLE_SINCE_SET)
    before = dump(cache.path)
    with pytest.raises(CacheError, match="was made by a newer vin-datasette; upgrade the package to use it, or put a"):
        cache.open()
    assert dump(cache.path) == before


def test_another_packages_migrations_are_not_a_newer_version(cache: Cache) -> None:
    cache.save([vehicle()])
    cache.close()
    run(cache.path, "INSERT INTO _sqlite_migrations (migration_set, name) VALUES ('another', 'm999_later')")
    assert cache.get(TRACTOR) == vehicle().record


def foreign_file(path: Path) -> None:
    """A database with a table of the cache's second name, so that making the cache fails half-way."""
    run(path, "CREATE TABLE rejections (mine)")
    run(path, "INSERT INTO rejections VALUES ('kept')")


def test_a_file_in_which_no_cache_can_be_made_keeps_its_tables_and_rows(cache: Cache) -> None:
    foreign_file(cache.path)
    before = dump(cache.path)
    with pytest.raises(CacheError, match=r"rejections.* already exists"):
        cache.open()
    assert dump(cache.path) == before


def test_a_file_in_which_no_cache_can_be_made_keeps_its_journal_mode(cache: Cache) -> None:
    foreign_file(cache.path)
    before = run(cache.path, "PRAGMA journal_mode")
    with pytest.raises(CacheError):
        cache.open()
    assert run(cache.path, "PRAGMA journal_mode") == before


@pytest.fixture
def next_steps(monkeypatch: pytest.MonkeyPatch) -> Migrations:
    """The steps of a later version of the package: those of today, and what a test adds."""
    later = Migrations(MIGRATION_SET)
    for step in migrations.migrations._migrations:
        later(name=step.name)(step.fn)
    monkeypatch.setattr(migrations, "migrations", later)
    monkeypatch.setattr("vin_datasette.cache.MIGRATION_NAMES", (*MIGRATION_NAMES, "m998_colour", "m999_last"))
    return later


def colour(db: Database) -> None:
    db.execute("ALTER TABLE vehicles ADD COLUMN colour TEXT")


def test_a_cache_of_an_older_schema_is_brought_up_to_date(path: Path, next_steps: Migrations) -> None:
    an_older_cache(path)
    next_steps(name="m998_colour")(colour)
    next_steps(name="m999_last")(lambda db: db.execute("UPDATE vehicles SET colour = 'red'"))
    with closing(Cache(path)) as cache:
        assert cache.get(TRACTOR) == vehicle().record
    assert run(path, "SELECT colour FROM vehicles") == [("red",)]


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, next_steps: Migrations) -> None:
    an_older_cache(path)
    before = dump(path)
    next_steps(name="m998_colour")(colour)
    next_steps(name="m999_last")(lambda db: db.execute("UPDATE vehicles SET make = NULL"))
    with pytest.raises(CacheError, match="NOT NULL constraint failed"):
        Cache(path).open()
    assert dump(path) == before


def an_older_cache(path: Path) -> None:
    """A cache by today's package, made in a process of its own."""
    script = f"{PRELUDE}\nwith closing(Cache(sys.argv[1])) as cache: cache.save([vehicle()])"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, cwd=ROOT)


@pytest.fixture
def of_the_first_step(path: Path) -> Path:
    """A cache as the first version of the schema has it, with a vehicle and a rejection."""
    with closing(Cache(path)) as cache:
        cache.save([vehicle(VehicleDescriptor=TRACTOR.descriptor), rejection(serial_vin(1))])
    made = run(path, "SELECT name FROM sqlite_master WHERE type = 'index' AND sql NOT NULL")
    for name in {str(name) for (name,) in made} - FIRST_INDEXES:
        run(path, f'DROP INDEX "{name}"')
    run(path, f"DROP TABLE {CHANGES}")
    run(path, "DELETE FROM _sqlite_migrations WHERE name <> ?", MIGRATION_NAMES[0])
    return path


def test_a_file_of_the_first_step_gets_the_schema_of_today(of_the_first_step: Path, tmp_path: Path) -> None:
    names = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY type, name"
    with closing(Cache(of_the_first_step)) as cache, closing(Cache(tmp_path / "new.db")) as new:
        cache.open()
        new.open()
        assert run(cache.path, names) == run(new.path, names)


def test_a_file_of_the_first_step_keeps_its_rows(of_the_first_step: Path) -> None:
    with closing(Cache(of_the_first_step)) as cache:
        assert cache.get_many([TRACTOR, serial_vin(1)]) == {
            TRACTOR: vehicle(VehicleDescriptor=TRACTOR.descriptor).record,
            serial_vin(1): rejection(serial_vin(1)).record,
        }


def test_a_vehicle_of_a_file_of_the_first_step_is_fresh(of_the_first_step: Path) -> None:
    with closing(Cache(of_the_first_step)) as cache:
        assert cache.fresh([TRACTOR, serial_vin(1)], None, by_vpic=True, clean=True) == {TRACTOR}


def test_a_vehicle_of_a_file_of_the_first_step_is_a_sibling(of_the_first_step: Path) -> None:
    with closing(Cache(of_the_first_step)) as cache:
        assert cache.sibling(TRACTOR.descriptor) == vehicle(VehicleDescriptor=TRACTOR.descriptor).record


def test_the_history_of_a_file_of_the_first_step_begins(of_the_first_step: Path) -> None:
    with closing(Cache(of_the_first_step)) as cache:
        cache.save([vehicle(Model="389")])
    assert [vin for vin, *_ in changes(of_the_first_step)] == [TRACTOR]


def test_a_file_of_the_first_step_that_cannot_be_written_is_refused_in_words(of_the_first_step: Path) -> None:
    content = of_the_first_step.read_bytes()
    with without_privileges() as folder:
        (folder / "vin.db").write_bytes(content)
        (folder / "vin.db").chmod(0o444)
        with pytest.raises(
            CacheError, match="was made by an older vin-datasette and has to be brought up to date, but"
        ):
            Cache(folder / "vin.db").open()


# Files that cannot be written


@contextmanager
def without_privileges() -> Iterator[Path]:
    """A folder, and no right to write to what is read-only: even where the tests run as root."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            folder.chmod(0o755)


def test_a_read_only_file_is_read(path: Path) -> None:
    with closing(Cache(path)) as maker:
        maker.save([vehicle()])
    content = path.read_bytes()
    with without_privileges() as folder:
        (folder / "vin.db").write_bytes(content)
        (folder / "vin.db").chmod(0o444)
        with closing(Cache(folder / "vin.db")) as cache:
            assert cache.get(TRACTOR) == vehicle().record


def test_a_read_only_file_refuses_to_be_written_in_words(path: Path) -> None:
    with closing(Cache(path)) as maker:
        maker.save([vehicle()])
    content = path.read_bytes()
    with without_privileges() as folder:
        (folder / "vin.db").write_bytes(content)
        (folder / "vin.db").chmod(0o444)
        with closing(Cache(folder / "vin.db")) as cache:
            with pytest.raises(sqlite3.Error, match="readonly"):
                cache.save([vehicle(serial_vin(1))])
            with pytest.raises(sqlite3.Error, match="readonly"):
                cache.remove(TRACTOR)
            assert cache.get(TRACTOR) == vehicle().record


def test_a_read_only_folder_is_refused_in_words() -> None:
    with without_privileges() as folder:
        folder.chmod(0o555)
        with pytest.raises(CacheError, match=r"cannot be used as a cache: unable to open database file\.$"):
            Cache(folder / "vin.db").open()


def test_a_read_only_file_in_which_a_cache_would_be_made_is_refused_at_once() -> None:
    with without_privileges() as folder:
        (folder / "vin.db").touch(0o444)
        started = time.monotonic()
        with pytest.raises(CacheError, match=r"cannot be used as a cache: attempt to write a readonly database\.$"):
            Cache(folder / "vin.db").open()
        assert time.monotonic() - started < WRITE_TIMEOUT / 2


def test_a_full_file_loses_only_the_save_that_did_not_fit(cache: Cache) -> None:
    kept = [vehicle(serial_vin(0))]
    cache.save(kept)
    writer = cache._open()[1]
    [[pages]] = writer.execute("PRAGMA page_count")
    writer.execute(f"PRAGMA max_page_count = {pages + 4}")

    def fill() -> None:
        for number in range(1, 100):
            answer = vehicle(serial_vin(number), Note="x" * 3_000)
            cache.save([answer])
            kept.append(answer)

    with pytest.raises(sqlite3.Error, match="full"):
        fill()
    assert 1 < len(kept) < 10
    assert vins_of(cache.path, VEHICLES) == [each.vin for each in kept]
    assert is_whole(cache.path)


def test_a_file_that_was_full_is_written_again_once_there_is_room(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(0))])
    writer = cache._open()[1]
    [[pages]] = writer.execute("PRAGMA page_count")
    writer.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.Error, match="full"):
        cache.save([vehicle(serial_vin(1), Note="x" * 50_000)])
    writer.execute(f"PRAGMA max_page_count = {pages + 100}")
    cache.save([vehicle(serial_vin(1), Note="x" * 50_000)])
    assert vins_of(cache.path, VEHICLES) == [serial_vin(0), serial_vin(1)]


# Locks


@contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("ROLLBACK")


def test_a_read_does_not_wait_for_another_processs_write(cache: Cache) -> None:
    cache.save([vehicle()])
    with locked(cache.path) as other:
        other.execute("DELETE FROM vehicles")
        started = time.monotonic()
        assert cache.get(TRACTOR) == vehicle().record
        assert time.monotonic() - started < READ_TIMEOUT


def test_a_write_waits_for_another_processs_write(cache: Cache) -> None:
    cache.save([vehicle()])
    with closing(sqlite3.connect(cache.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.2, other.execute, ["COMMIT"])
        timer.start()
        cache.save([vehicle(serial_vin(1))])
        timer.join()
    assert cache.counts() == {"vehicles": 2, "rejections": 0}


@pytest.mark.parametrize("use", ["BEGIN", "BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_making_the_cache_waits_for_who_uses_the_file(cache: Cache, use: str) -> None:
    run(cache.path, "CREATE TABLE mine (a)")
    with closing(sqlite3.connect(cache.path, isolation_level=None, check_same_thread=False)) as other:
        other.execute(use)
        other.execute("SELECT a FROM mine").fetchall()
        timer = threading.Timer(0.1, other.execute, ["COMMIT"])
        timer.start()
        cache.open()
        timer.join()
    assert cache.counts() == {"vehicles": 0, "rejections": 0}


def test_a_write_that_waited_too_long_is_refused_in_words(cache: Cache) -> None:
    cache.save([vehicle()])
    cache._open()[1].execute("PRAGMA busy_timeout = 20")
    with locked(cache.path), pytest.raises(sqlite3.Error, match="locked"):
        cache.save([vehicle(serial_vin(1))])
    cache.save([vehicle(serial_vin(2))])
    assert vins_of(cache.path, VEHICLES) == sorted([TRACTOR, serial_vin(2)])


def test_threads_that_write_and_read_at_once_lose_nothing(cache: Cache) -> None:
    missed: list[VIN] = []

    def work(first: int) -> None:
        for number in range(first, first + 15):
            cache.save([vehicle(serial_vin(number))])
            if cache.get(serial_vin(number)) is None:
                missed.append(serial_vin(number))

    threads = [threading.Thread(target=work, args=[first]) for first in (0, 15, 30, 45)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert missed == []
    assert vins_of(cache.path, VEHICLES) == [serial_vin(number) for number in range(60)]


# Snapshots


def test_a_snapshot_does_not_see_what_is_written_meanwhile(cache: Cache) -> None:
    cache.save([vehicle(serial_vin(1))])
    with snapshot(cache.path) as connection:
        cache.save([vehicle(serial_vin(2))])
        cache.remove(serial_vin(1))
        assert connection.execute("SELECT vin FROM vehicles").fetchall() == [(serial_vin(1),)]


def test_a_snapshot_cannot_write(cache: Cache) -> None:
    cache.save([vehicle()])
    with pytest.raises(CacheError, match="readonly"), snapshot(cache.path) as connection:
        connection.execute("DELETE FROM vehicles")
    assert cache.counts() == {"vehicles": 1, "rejections": 0}


def test_a_snapshot_of_no_file_is_refused_and_makes_none(path: Path) -> None:
    with pytest.raises(CacheError, match=rf"^There is no cache {re.escape(str(path))}\.$"), snapshot(path):
        pytest.fail("there is nothing to see")
    assert not path.exists()


@pytest.mark.parametrize("make", [not_a_database, foreign_file])
def test_a_snapshot_of_what_is_no_cache_is_refused_in_words(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(CacheError, match="cannot be read as a cache: "), snapshot(path):
        pytest.fail("there is nothing to see")


# Processes

ROOT = Path(__file__).parent.parent

PRELUDE = """
import os, resource, sqlite3, sys, time
from contextlib import closing
from datetime import datetime, timezone
from vin_datasette.cache import Cache
from vin_datasette.record import Record
from vin_datasette.vehicle import Vehicle
from vin_datasette.vin import VIN

def vehicle(vin="1XP5DB9X7XD487964", **values):
    said = {"VIN": vin, "Make": "PETERBILT", "Model": "379", "ErrorCode": "0", "ErrorText": "0", **values}
    return Vehicle(Record(VIN(vin), said, "vpic", None, datetime(2026, 11, 1, 12, tzinfo=timezone.utc)))

def save(cache, number, **values):
    cache.save([vehicle(f"1XP5DB9X7XD{number:06}", **values)])

def say(word):
    # In one piece: a process that is killed must not leave half a line.
    os.write(1, f"{word}\\n".encode())

say("ready")
"""

MAKER = """
from sqlite_utils import Database
from vin_datasette import migrations

for line in sys.stdin:
    path, number, start = line.rstrip("\\n").split("\\t")
    cache = Cache(path)
    while time.time() < float(start):
        pass
    try:
        cache.open()
        save(cache, int(number))
        say("made")
    except Exception as error:
        say(repr(error))
    cache.close()
"""

WRITER = """
path, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with closing(Cache(path)) as cache:
    for number in range(first, first + count):
        save(cache, number)
        say(number)
"""

# Children to be killed, from a parent that has spent the time that imports take.
CHILDREN = """
from sqlite_utils import Database
from vin_datasette import migrations

for line in sys.stdin:
    path, first = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        say("gone")
        continue
    say(os.getpid())
    cache = Cache(path)
    for number in range(int(first), int(first) + 10_000):
        save(cache, number)
        say(number)
    os._exit(0)
"""

FULL_DISK = """
with closing(Cache(sys.argv[1])) as cache:
    save(cache, 0)
    limit = int(sys.argv[2])
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    number, refused = 0, None
    while refused is None and number < 1000:
        number += 1
        try:
            save(cache, number, Note="x" * 3000)
        except sqlite3.Error as error:
            refused = error
    say(number)
    say(refused)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    save(cache, number + 1)
"""


class Script:
    """A Python process of its own that uses the cache; its lines are read as they come."""

    def __init__(self, body: str, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + body, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def __enter__(self) -> Script:
        assert self.line() == "ready"
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        line = self._pipe(self.process.stdout).readline()
        assert line.endswith("\n"), "the process has ended"
        return line[:-1]

    def tell(self, text: str) -> None:
        stdin = self._pipe(self.process.stdin)
        stdin.write(f"{text}\n")
        stdin.flush()

    def rest(self) -> list[str]:
        return self._pipe(self.process.stdout).read().splitlines()

    def kill(self, child: int) -> list[str]:
        """What the child has said by the time it is gone."""
        os.kill(child, signal.SIGKILL)
        return list(iter(self.line, "gone"))

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def test_processes_make_one_file_at_the_same_moment(tmp_path: Path) -> None:
    with Script(MAKER) as one, Script(MAKER) as two, Script(MAKER) as three:
        makers = {1: one, 2: two, 3: three}
        for each in range(2 * ROUNDS):
            path = tmp_path / f"{each}.db"
            start = time.time() + 0.003
            for number, maker in makers.items():
                maker.tell(f"{path}\t{number}\t{start}")
            assert [maker.line() for maker in makers.values()] == ["made"] * len(makers)
            assert vins_of(path, VEHICLES) == [serial_vin(number) for number in makers]


def test_two_processes_that_write_at_once_lose_nothing(path: Path) -> None:
    with Script(WRITER, path, 0, 100) as one, Script(WRITER, path, 100, 100) as other:
        assert (one.rest(), other.rest()) == (list(map(str, range(100))), list(map(str, range(100, 200))))
    assert vins_of(path, VEHICLES) == [serial_vin(number) for number in range(200)]
    assert is_whole(path)


def test_a_killed_writer_leaves_every_completed_save(path: Path) -> None:
    moments = random.Random(3)
    saved: list[str] = []
    with Script(CHILDREN) as parent:
        for _ in range(ROUNDS):
            parent.tell(f"{path}\t{len(saved)}")
            child = int(parent.line())
            saved += [parent.line() for _ in range(moments.randrange(8))]
            time.sleep(moments.uniform(0, 0.005))
            saved += parent.kill(child)
            assert saved == [str(number) for number in range(len(saved))]
            kept = vins_of(path, VEHICLES) if path.exists() and run(path, "SELECT 1 FROM sqlite_master") else []
            # The last may be kept and not have been told any more.
            assert kept[: len(saved)] == [serial_vin(number) for number in range(len(saved))]
            assert len(kept) <= len(saved) + 1
    assert len(saved) > ROUNDS
    assert is_whole(path)


def test_a_process_killed_while_it_makes_the_file_leaves_none_or_a_usable_one(tmp_path: Path) -> None:
    moments = random.Random(5)
    with Script(CHILDREN) as parent:
        for number in range(ROUNDS):
            path = tmp_path / f"{number}.db"
            parent.tell(f"{path}\t1")
            child = int(parent.line())
            time.sleep(moments.uniform(0, 0.03))
            saved = [serial_vin(int(each)) for each in parent.kill(child)]
            with closing(Cache(path)) as cache:
                cache.open()
                assert vins_of(path, VEHICLES)[: len(saved)] == saved
                assert run(path, "PRAGMA journal_mode") == [("wal",)]
            assert is_whole(path)


def test_a_full_disk_loses_only_the_save_that_did_not_fit(path: Path) -> None:
    with Script(FULL_DISK, path, 400_000) as writer:
        failed = int(writer.line())
        refused = writer.line()
        writer.rest()
        assert writer.process.wait() == 0
    assert failed > 3
    assert re.search("disk|full", refused)
    assert vins_of(path, VEHICLES) == [serial_vin(number) for number in range(failed + 2) if number != failed]
    assert is_whole(path)
