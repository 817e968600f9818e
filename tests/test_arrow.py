"""A column of VINs in Arrow record batches comes back with the vehicles beside it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import sqlite3
import threading
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timedelta, timezone
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import ultravin
from hypothesis import given, settings, strategies as st

from tests.conftest import numbered_vins
from vin_datasette import VIN, Lookup, Rejection, Settings, Vehicle, decode_batches, decode_schema
from vin_datasette.arrow import ROWS
from vin_datasette.batches import fields
from vin_datasette.cache import Cache, CacheError
from vin_datasette.fleet.values import model_year_of
from vin_datasette.record import Record
from vin_datasette.vehicle import interpret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    Row = dict[str, Any]

HONDA, PETERBILT = "1HGCM82633A004352", "1XP5DB9X7XD487964"
WRONG_DIGIT, LETTER_I = "1XP5DB9X7XD487945", "IXP5DB9X7XD487964"
NOW = datetime.now(timezone.utc).replace(microsecond=0)

KNOWN = [*ultravin.cover_vins(), *ultravin.generate(400, seed=9, invalid_rate=0.2)]


def vins(*texts: str | None, kind: pa.DataType | None = None) -> pa.RecordBatch:
    return pa.record_batch({"vin": pa.array(texts, pa.string()).cast(kind or pa.string())})


def rows(*batches: pa.RecordBatch, **options: Any) -> list[Row]:
    """The rows that come back, of which each batch has the schema that was foretold."""
    made = list(decode_batches(batches, **options))
    foretold = {name: value for name, value in options.items() if name != "cache"}
    assert all(batch.schema.equals(decode_schema(batches[0].schema, **foretold), check_metadata=True) for batch in made)
    for batch in made:
        batch.validate(full=True)
    return [row for batch in made for row in batch.to_pylist()]


def without_time(found: Sequence[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if name != "fetched_at"} for row in found]


def looked_up(asked: Sequence[tuple[str, int | None]], folder: Path) -> list[Vehicle | Rejection]:
    """What `Lookup` says with the embedded source and an empty cache."""

    async def all_of_them() -> list[Vehicle | Rejection]:
        async with Lookup(Settings(db=folder / "reference.db", source="embedded")) as path:
            results = []
            for text, year in asked:
                results.append((await path.answer(text, model_year=year)).result)
                await path.remove(text)
            return results

    return asyncio.run(all_of_them())


def expected(result: Vehicle | Rejection) -> Row:
    """What the decoded columns have to hold for a result of `Lookup`."""
    said = dict.fromkeys(field.name for field in fields() if field.name not in ("vin", "fetched_at"))
    row: Row = {**said, "vin_error": result.reason if isinstance(result, Rejection) else None}
    if isinstance(result, Vehicle):
        contract = {name: "" if value is None else str(value) for name, value in result.columns().items()}
        row.update(result.columns())
        row.update((name, contract[name]) for name in ("make", "model", "model_year", "body_class"))
        row["warnings"] = "\n".join(result.warnings) or None
    if result.record:
        row["error_code"] = result.record.text("ErrorCode")
        row["source"], row["source_version"] = result.record.source, result.record.source_version
    return row


def spoilt(vin: str, how: str, place: int, sign: str) -> str:
    ways = {
        "": vin,
        "lower": vin.lower(),
        "spaced": f" {vin[:place]} {vin[place:]}\n",
        "hyphens": f"'{vin[:place]}-{vin[place:]}'",
        "short": vin[:place] + vin[place + 1 :],
        "long": vin[:place] + sign + vin[place:],
        "wrong": vin[:place] + sign + vin[place + 1 :],
    }
    return ways[how]


SPOILT = st.builds(
    spoilt,
    st.sampled_from(KNOWN),
    st.sampled_from(["", "", "lower", "spaced", "hyphens", "short", "long", "wrong", "wrong"]),
    st.integers(0, 16),
    st.sampled_from([*"IOQ0123456789ABCXZ*é ", "\N{IDEOGRAPHIC SPACE}", "\0"]),
)
ASKED = st.one_of(SPOILT, SPOILT, st.none(), st.sampled_from(["", "  ", "x"]), st.text(max_size=20))
YEARS = st.one_of(st.none(), st.integers(1975, 2045), st.sampled_from([-5, 0, 1850, 2100, 2101, 99_999]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reference")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(ASKED, YEARS), min_size=1, max_size=25))
def test_each_row_says_what_a_lookup_says(folder: Path, asked: list[tuple[str | None, int | None]]) -> None:
    texts, years = zip(*asked, strict=True)
    batch = pa.record_batch({"vin": pa.array(texts, pa.string()), "year": pa.array(years, pa.int64())})
    found = without_time(rows(batch, year_column="year"))
    wanted = looked_up([(text or "", model_year_of(year)) for text, year in asked], folder)
    given_rows = [{"vin": text, "year": year} for text, year in asked]
    assert found == [{**own, **expected(result)} for own, result in zip(given_rows, wanted, strict=True)]


def test_vins_of_all_makers_say_what_a_lookup_says(folder: Path) -> None:
    found = without_time(rows(vins(*KNOWN)))
    wanted = looked_up([(vin, None) for vin in KNOWN], folder)
    assert found == [{"vin": vin, **expected(result)} for vin, result in zip(KNOWN, wanted, strict=True)]
    assert any(isinstance(result, Rejection) for result in wanted)
    assert any(isinstance(result, Vehicle) and result.warnings for result in wanted)


@pytest.mark.parametrize("before", ["1B9UT9627LT653165", PETERBILT], ids=["odd", "even"])
@pytest.mark.parametrize(
    ("vin", "manufacturer"),
    [
        ("2FVUU2WB4XH538835", "FREIGHTLINER CORPORATION"),
        ("3A9RK24TXRK209273", "ALBERTO DIAZ MUÑOZ"),
    ],
)
def test_white_space_is_collapsed_wherever_it_lies(before: str, vin: str, manufacturer: str) -> None:
    [_, row] = rows(vins(before, vin))
    assert row["manufacturer"] == manufacturer


def test_when_it_was_answered_is_now_in_seconds() -> None:
    [row] = rows(vins(HONDA))
    assert NOW <= row["fetched_at"] <= datetime.now(timezone.utc)
    assert row["fetched_at"].microsecond == 0


KINDS = [
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_vins_are_text_of_any_kind(kind: pa.DataType) -> None:
    texts = [HONDA, None, "x", WRONG_DIGIT, HONDA.lower(), HONDA]
    plain = without_time(rows(vins(*texts)))
    assert without_time(rows(vins(*texts, kind=kind))) == plain
    assert without_time(rows(vins(*texts, kind=kind).slice(2, 3))) == plain[2:5]


@pytest.mark.parametrize(
    "years",
    [
        pa.array([2003, None, 1999], pa.int16()),
        pa.array([2003, None, 1999], pa.float64()),
        pa.array(["2003", "?", "1999.0"]),
        pa.array(["2003", "?", "1999.0"], pa.large_string()),
        pa.array(["2003", None, "1999"]).dictionary_encode(),
        pa.array([2003, None, 1999], pa.decimal128(6, 1)),
    ],
    ids=lambda array: str(array.type),
)
def test_model_years_are_numbers_or_text(years: pa.Array) -> None:
    batch = pa.record_batch({"vin": [HONDA, HONDA, HONDA], "year": years})
    errors = [row["warnings"] for row in rows(batch, year_column="year")]
    assert errors[:2] == [None, None]
    assert errors[2].startswith("Asked with model year 1999, vPIC said: ")


def test_a_column_of_nothing_holds_no_vins() -> None:
    [row] = rows(pa.record_batch({"vin": pa.nulls(1), "year": pa.nulls(1)}), year_column="year")
    assert row["vin_error"] == "No VIN was given: a VIN has 17 characters."


def test_text_that_is_not_utf_8_costs_its_row_alone() -> None:
    data = b"\xff\xfe" + HONDA.encode()
    offsets = pa.py_buffer(pa.array([0, 2, 19], pa.int32()).buffers()[1])
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(data)])
    [batch] = decode_batches([pa.record_batch({"vin": broken})], columns=["make"])
    assert batch["make"].to_pylist() == [None, "HONDA"]
    assert batch["vin_error"][0].as_py().startswith("A VIN has 17 characters, and this has 2")


def test_the_columns_that_are_given_stay_as_they_are() -> None:
    own = pa.record_batch({"Make": [1, 2], "id": ["a", None], "VIN": [HONDA, "x"], "vin_error": [[1], []]})
    own = own.replace_schema_metadata({"mine": "kept"})
    [batch] = decode_batches([own], columns=["make", "source"])
    assert batch.select(own.schema.names).equals(own)
    assert batch.schema.names == [*own.schema.names, "vpic_make", "source", "vpic_vin_error"]
    assert batch.schema.metadata == {b"mine": b"kept"}
    assert batch["vpic_make"].to_pylist() == ["HONDA", None]


def test_columns_have_the_types_and_the_metadata_of_an_export() -> None:
    schema = decode_schema(pa.schema({"vin": pa.string()}))
    exported = [field.with_nullable(True) for field in fields() if field.name != "vin"]
    assert pa.schema([*schema][1:-1]).equals(pa.schema(exported), check_metadata=True)
    assert schema.field(-1).name == "vin_error"


def test_the_whole_record_comes_when_it_is_named(folder: Path) -> None:
    batch = pa.record_batch({"vin": [HONDA, WRONG_DIGIT, "x", HONDA], "year": [None, None, None, 1999]})
    found = rows(batch, columns=["make", "record"], year_column="year")
    wanted = looked_up([(HONDA, None), (WRONG_DIGIT, None), ("x", None), (HONDA, 1999)], folder)
    records = [row["record"] and json.loads(row["record"]) for row in found]
    assert records == [result.record and dict(result.record.values) for result in wanted]
    assert [row["make"] for row in found] == ["HONDA", None, None, "HONDA"]


def test_no_column_but_the_errors() -> None:
    assert rows(vins(HONDA, "x"), columns=()) == [
        {"vin": HONDA, "vin_error": None},
        {"vin": "x", "vin_error": "A VIN has 17 characters, and this has 1."},
    ]


def test_batches_without_rows_and_no_batches() -> None:
    assert list(decode_batches([])) == []
    made = list(decode_batches([vins(), vins(HONDA), vins()]))
    assert [batch.num_rows for batch in made] == [0, 1, 0]
    assert all(batch.schema == made[0].schema for batch in made)


def test_a_large_batch_comes_back_in_parts_and_in_order() -> None:
    count = 2 * ROWS + 5
    some = numbered_vins(50)
    batch = pa.record_batch({"n": range(count), "vin": [None if n % 1000 else some[n // 1000] for n in range(count)]})
    made = list(decode_batches([batch], columns=["make"]))
    assert [part.num_rows for part in made] == [ROWS, ROWS, 5]
    assert [n for part in made for n in part["n"].to_pylist()] == list(range(count))
    found = [
        n for part in made for n, make in zip(part["n"].to_pylist(), part["make"].to_pylist(), strict=True) if make
    ]
    assert found == list(range(0, count, 1000))


def test_what_many_rejections_leave_out_is_not_carried_along() -> None:
    [batch] = decode_batches([vins(WRONG_DIGIT, HONDA)], columns=["make"])
    assert b"PETERBILT" not in batch["make"].buffers()[2].to_pybytes()


# What cannot be


@pytest.mark.parametrize(
    ("schema", "options", "words"),
    [
        ({"id": pa.string()}, {}, r"There is no column 'vin'; the columns are: 1 'id'\."),
        ({"vin": pa.int64()}, {}, "The column 'vin' is of type int64, and a VIN is text"),
        ({"vin": pa.binary()}, {}, "The column 'vin' is of type binary, and a VIN is text"),
        ({"vin": pa.list_(pa.string())}, {}, "and a VIN is text"),
        ({"vin": pa.string()}, {"column": "chassis"}, "There is no column 'chassis'"),
        ({"vin": pa.string()}, {"year_column": "year"}, "There is no column 'year'"),
        ({"vin": pa.string(), "year": pa.date32()}, {"year_column": "year"}, "and a model year is a number or text"),
        (
            {"vin": pa.string()},
            {"columns": ["make", "colour"]},
            "There is no column 'colour' to decode; there are: make, model, ",
        ),
        ({"vin": pa.string()}, {"columns": ["vin"]}, "There is no column 'vin' to decode"),
        ({"vin": pa.string()}, {"columns": "make"}, r"as in \['make'\], and not one text"),
    ],
)
def test_what_cannot_be_decoded_is_told_before(schema: Row, options: Row, words: str) -> None:
    empty = pa.schema(schema).empty_table().to_batches() or [pa.RecordBatch.from_pylist([], pa.schema(schema))]
    with pytest.raises(ValueError, match=words):
        decode_schema(pa.schema(schema), **options)
    with pytest.raises(ValueError, match=words):
        list(decode_batches(empty, **options))


def test_wrong_columns_are_told_before_a_batch_is_taken() -> None:
    with pytest.raises(ValueError, match="There is no column 'colour' to decode; there are: make, model, "):
        decode_batches(iter([]), columns=["colour"])


def test_two_columns_of_the_name_are_told() -> None:
    twice = pa.schema([("vin", pa.string()), ("vin", pa.string())])
    with pytest.raises(ValueError, match="There are several columns 'vin'"):
        decode_schema(twice)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (
            {"vin": [HONDA], "n": ["1"]},
            "Column 2 of batch 2 is 'n' of type string, and of the first batch 'n' of type int64",
        ),
        ({"vin": [HONDA]}, "Batch 2 has no column 'n'"),
        ({"vin": [HONDA], "n": [1], "more": [1]}, "Column 3 of batch 2 is 'more' of type int64"),
    ],
)
def test_a_batch_with_other_columns_is_told_after_those_before_it(other: Row, words: str) -> None:
    batches = decode_batches([pa.record_batch({"vin": [HONDA], "n": [1]}), pa.record_batch(other)])
    assert next(batches).num_rows == 1
    with pytest.raises(ValueError, match=words):
        next(batches)


def test_what_is_no_record_batch_is_told() -> None:
    with pytest.raises(TypeError, match="Batch 1 is a Table, and no record batch"):
        list(decode_batches([pa.table({"vin": [HONDA]})]))


def test_an_input_that_breaks_gives_what_came_before_and_its_own_error() -> None:
    def breaking() -> Iterator[pa.RecordBatch]:
        yield vins(HONDA)
        yield vins(PETERBILT)
        raise OSError("the disk is gone")

    batches = decode_batches(breaking())
    assert [next(batches)["make"].to_pylist(), next(batches)["make"].to_pylist()] == [["HONDA"], ["PETERBILT"]]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)


def test_who_leaves_early_leaves_nothing_behind(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "vin.db")
    taken: list[int] = []
    ended = []

    def endless() -> Iterator[pa.RecordBatch]:
        try:
            while True:
                taken.append(1)
                yield vins(HONDA)
        finally:
            ended.append(True)

    batches = decode_batches(endless(), cache=cache)
    next(batches)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert ended
    assert len(taken) <= 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vin-datasette-decode")]


# A cache


def record(vin: str, make: str, age: timedelta = timedelta(), **values: str) -> Record:
    said = {"VIN": vin, "Make": make, "Model": "From the cache", "ErrorCode": "0", **values}
    return Record(VIN(vin), said, "vpic", None, NOW - age)


def cache_of(path: Path, *records: Record) -> Path:
    cache = Cache(path)
    cache.save([interpret(each) for each in records])
    cache.close()
    return path


def test_what_the_cache_holds_wins_whatever_its_age(tmp_path: Path) -> None:
    years = timedelta(days=2000)
    cache = cache_of(
        tmp_path / "vin.db", record(HONDA, "KEPT", years, GVWR="Class 1: 6,000 lb or less (2,722 kg or less)")
    )
    found = rows(vins(PETERBILT, HONDA, "x", HONDA.lower()), cache=cache)
    assert [row["make"] for row in found] == ["PETERBILT", "KEPT", None, "KEPT"]
    assert [row["source"] for row in found] == ["embedded", "vpic", None, "vpic"]
    assert found[1]["fetched_at"] == NOW - years
    assert found[1]["gvwr_to_kg"] == 2722
    assert found[1]["source_version"] is None
    assert found[2]["vin_error"]


def test_a_rejection_is_repeated_for_a_day(tmp_path: Path) -> None:
    no = {"ErrorCode": "7", "ErrorText": "7 - No such maker, said the cache"}
    young, old = numbered_vins(2)
    day = timedelta(days=1)
    cache = cache_of(tmp_path / "vin.db", record(young, "", timedelta(), **no), record(old, "", day, **no))
    found = rows(vins(young, old), cache=cache)
    assert [row["vin_error"] for row in found] == [no["ErrorText"], None]
    assert [row["source"] for row in found] == ["vpic", "embedded"]


def test_the_cache_is_not_changed(tmp_path: Path) -> None:
    cache = cache_of(tmp_path / "vin.db", record(HONDA, "KEPT"))
    before = hashlib.sha256(cache.read_bytes()).digest()
    rows(vins(HONDA, PETERBILT, WRONG_DIGIT), cache=str(cache))
    assert hashlib.sha256(cache.read_bytes()).digest() == before
    with sqlite3.connect(cache) as connection:
        assert connection.execute("SELECT vin FROM vehicles").fetchall() == [(HONDA,)]
    connection.close()


def test_the_cache_is_read_while_others_write(tmp_path: Path) -> None:
    cache = Cache(cache_of(tmp_path / "vin.db", record(HONDA, "FIRST")))
    cache.save([interpret(record(PETERBILT, "LATER"))])
    batches = decode_batches((vins(vin) for vin in (HONDA, PETERBILT, HONDA)), cache=cache.path, columns=["make"])
    assert next(batches)["make"].to_pylist() == ["FIRST"]
    cache.save([interpret(record(numbered_vins(1)[0], "MORE"))])
    assert [batch["make"].to_pylist() for batch in batches] == [["LATER"], ["FIRST"]]
    cache.close()


def test_a_cache_that_is_none_is_told(tmp_path: Path) -> None:
    text, other = tmp_path / "text.db", tmp_path / "other.db"
    text.write_text("no database at all, but long enough to be looked at for what it is" * 20)
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE vehicles (vin)")
    connection.close()
    for path, words in (
        (tmp_path / "missing.db", "There is no cache"),
        (text, "cannot be used as a cache"),
        (other, "is no cache of vin-datasette"),
        (tmp_path, "is a folder"),
    ):
        with pytest.raises(CacheError, match=words):
            list(decode_batches([vins(HONDA)], cache=path))
    assert not (tmp_path / "missing.db").exists()


# Elsewhere


def decoded_elsewhere(batch: pa.RecordBatch, **options: Any) -> list[Row]:
    return rows(batch, **options)


def test_another_process_says_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_of(tmp_path / "vin.db", record(HONDA, "KEPT"))
    work = partial(decoded_elsewhere, columns=["make", "source", "error_code"], cache=cache)
    batch = vins(HONDA, PETERBILT, WRONG_DIGIT, "x")
    here = work(batch)
    # Settings of the machine that runs it do not count.
    monkeypatch.setenv("VIN_DATASETTE_CHECK_DIGIT", "lenient")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(pickle.loads(pickle.dumps(work)), batch).result(timeout=60) == here
