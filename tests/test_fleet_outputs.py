"""Outputs of a fleet: its own columns untouched, the vehicle's as the export has them, whole files or none."""

from __future__ import annotations

import csv
import json
import os
import sys
import threading
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vin_datasette.batches import fields
from vin_datasette.cache import Cache
from vin_datasette.export import ExportError, write_file
from vin_datasette.fleet.outputs import Output, open_output, open_rejections
from vin_datasette.fleet.row import Row
from vin_datasette.lookup import Answer, Failure
from vin_datasette.record import Record
from vin_datasette.sources import Question
from vin_datasette.sources.embedded import EmbeddedSource
from vin_datasette.vehicle import Rejection, Vehicle, interpret
from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from vin_datasette.fleet.beside import Outcome

    Pair = tuple[Row, Outcome]

PETERBILT = "1XP5DB9X7XD487964"
HONDA = "1HGCM82633A004352"
WRONG_CHECK_DIGIT = "1XP5DB9X7XD487945"
LETTER_I = "IXP5DB9X7XD487964"
NOBODY = "vPIC is away"

VEHICLE_COLUMNS = [*(field.name for field in fields()), "cached", "status", "reason", "suggested_vin"]
ENDINGS = [".csv", ".tsv", ".jsonl", ".ndjson", ".parquet"]
FULL = Path("/dev/full")


# What comes of rows


@cache
def record(vin: str) -> Record:
    [found] = EmbeddedSource().decode_now([Question(VIN(vin))])
    return replace(found, fetched_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc))


def answer(text: str) -> Answer:
    """What the embedded database has to say, without a cache."""
    try:
        return Answer(interpret(record(VIN(text))), "miss")
    except InvalidVIN as error:
        return Answer(Rejection.malformed(text, error), "malformed")


def pair(text: str, *values: object, number: int = 2) -> Pair:
    return Row(number, text, values=values), answer(text)


def failed(text: str, *values: object, number: int = 2) -> Pair:
    return Row(number, text, values=values), Failure(VIN(text), NOBODY)


def unreadable(*values: object, number: int = 2) -> Pair:
    row = Row(number, "", values=values, problem="The line has a quote that is never closed.")
    return row, answer("")


EACH_STATUS = [
    pair(PETERBILT, number=2),
    pair(WRONG_CHECK_DIGIT, number=3),
    pair(LETTER_I, number=4),
    failed(HONDA, number=5),
    unreadable(number=6),
]


def write(
    target: Path | str, rows: Sequence[Pair], columns: Sequence[str] = (), schema: pa.Schema | None = None
) -> None:
    with open_output(str(target), columns, schema) as output:
        output.write(rows)


# Readers


def read_csv(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [*csv.DictReader(file, delimiter=delimiter, strict=True)]


def read_json(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return found


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of any form, absent values as None."""
    if path.suffix == ".parquet":
        return read_parquet(path)
    if path.suffix in {".jsonl", ".ndjson"}:
        return read_json(path)
    rows = read_csv(path, "\t" if path.suffix == ".tsv" else ",")
    return [{name: value or None for name, value in row.items()} for row in rows]


@pytest.fixture(params=ENDINGS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that is not there yet, of each form."""
    return tmp_path / f"out{request.param}"


# The vehicle's columns


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The export of a cache that holds the Honda and the Peterbilt."""
    folder = tmp_path_factory.mktemp("export")
    kept = Cache(folder / "vin.db")
    kept.save([interpret(record(HONDA)), interpret(record(PETERBILT))])
    kept.close()
    write_file(folder / "vin.db", folder / "all.parquet", "parquet", lambda part: None)
    return pq.read_table(folder / "all.parquet")


def test_parquet_has_the_values_of_the_export(tmp_path: Path, exported: pa.Table) -> None:
    write(tmp_path / "out.parquet", [pair(HONDA), pair(PETERBILT)])
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.select(exported.column_names).to_pylist() == exported.to_pylist()


def test_parquet_has_the_types_of_the_export(tmp_path: Path, exported: pa.Table) -> None:
    write(tmp_path / "out.parquet", [pair(HONDA)])
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.types[: len(exported.schema)] == exported.schema.types


def test_parquet_has_the_units_and_elements_of_the_export(tmp_path: Path, exported: pa.Table) -> None:
    write(tmp_path / "out.parquet", [pair(HONDA)])
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.field("gvwr_to_kg").metadata == exported.schema.field("gvwr_to_kg").metadata


def test_json_lines_have_the_values_of_the_export(tmp_path: Path, exported: pa.Table) -> None:
    write(tmp_path / "out.jsonl", [pair(HONDA), pair(PETERBILT)])
    found = [{name: row[name] for name in exported.column_names} for row in read_json(tmp_path / "out.jsonl")]
    expected = exported.to_pylist()
    for row in expected:
        row["fetched_at"] = f"{row['fetched_at']:%Y-%m-%dT%H:%M:%SZ}"
    assert found == expected


def test_csv_has_the_values_of_the_export(tmp_path: Path, exported: pa.Table) -> None:
    write(tmp_path / "out.csv", [pair(HONDA), pair(PETERBILT)])
    found = [{name: row[name] for name in exported.column_names} for row in read_csv(tmp_path / "out.csv")]
    expected = exported.to_pylist()
    for row in expected:
        row["fetched_at"] = f"{row['fetched_at']:%Y-%m-%dT%H:%M:%SZ}"
    assert found == [{name: "" if value is None else str(value) for name, value in row.items()} for row in expected]


def test_contract_columns_of_a_vehicle_are_never_null(tmp_path: Path) -> None:
    bare = Vehicle(Record(VIN(PETERBILT), {"Make": "PETERBILT"}, "vpic", None, datetime.now(timezone.utc)))
    write(tmp_path / "out.jsonl", [(Row(1, PETERBILT), Answer(bare, "hit"))])
    [row] = read_json(tmp_path / "out.jsonl")
    assert [row["make"], row["model"], row["model_year"], row["body_class"]] == ["PETERBILT", "", "", ""]


def test_columns_are_the_fleets_and_then_the_vehicles(target: Path) -> None:
    write(target, [pair(PETERBILT, 1, 2)], ["unit", "city"])
    assert [*read(target)[0]] == ["unit", "city", *VEHICLE_COLUMNS]


def test_rows_stay_in_their_order(target: Path) -> None:
    with open_output(str(target), ["unit"]) as output:
        output.write([pair(PETERBILT, "a"), failed(HONDA, "b")])
        output.write([])
        output.write([pair(LETTER_I, "c")])
    assert [row["unit"] for row in read(target)] == ["a", "b", "c"]


def test_each_row_tells_its_status(target: Path) -> None:
    write(target, EACH_STATUS)
    assert [row["status"] for row in read(target)] == ["found", "rejected", "rejected", "failed", "rejected"]


def test_each_row_tells_why_there_is_no_vehicle(target: Path) -> None:
    write(target, EACH_STATUS)
    assert [row["reason"] for row in read(target)] == [
        None,
        "1 - Check Digit (9th position) does not calculate properly",
        "Position 1 holds the letter I, which no VIN uses: likely the digit 1.",
        NOBODY,
        "The line has a quote that is never closed.",
    ]


def test_likely_vin_is_suggested(target: Path) -> None:
    write(target, [pair(LETTER_I)])
    assert read(target)[0]["suggested_vin"] == PETERBILT


def test_vehicle_columns_are_null_where_there_is_no_vehicle(target: Path) -> None:
    write(target, EACH_STATUS[1:])
    attributes = VEHICLE_COLUMNS[1 : VEHICLE_COLUMNS.index("error_code")]
    assert {row[name] for row in read(target) for name in attributes} == {None}


def test_rejection_by_a_source_tells_who_said_so(target: Path) -> None:
    write(target, [pair(WRONG_CHECK_DIGIT)])
    [row] = read(target)
    assert (row["error_code"], row["source"]) == ("1", "embedded")


def test_vin_is_normalised(target: Path) -> None:
    write(target, [pair("1xp5-db9x7xd487964 "), failed(f" {HONDA.lower()}")])
    assert [row["vin"] for row in read(target)] == [PETERBILT, HONDA]


def test_malformed_vin_is_whole(target: Path) -> None:
    write(target, [pair("x" * 500)])
    assert read(target)[0]["vin"] == "x" * 500


@pytest.mark.parametrize(("how", "cached"), [("hit", True), ("miss", False)])
def test_json_lines_tell_whether_the_cache_had_it(tmp_path: Path, how: Any, cached: bool) -> None:
    write(tmp_path / "out.jsonl", [(Row(1, PETERBILT), Answer(interpret(record(PETERBILT)), how))])
    assert read_json(tmp_path / "out.jsonl")[0]["cached"] is cached


def test_csv_tells_whether_the_cache_had_it_in_lower_case(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", [pair(PETERBILT)])
    assert read_csv(tmp_path / "out.csv")[0]["cached"] == "false"


# Columns of the same name


@pytest.mark.parametrize(
    ("own", "renamed"),
    [
        (["VIN"], {"vin": "vpic_vin"}),
        (["Make", "STATUS"], {"make": "vpic_make", "status": "vpic_status"}),
        (["make", "vpic_make"], {"make": "vpic_make_2"}),
        (["make", "VPIC_Make", "vpic_make_2"], {"make": "vpic_make_3"}),
        (["vpic_make"], {}),
        (["Model Year"], {}),
    ],
)
def test_vehicle_column_gives_way_to_the_fleets(target: Path, own: list[str], renamed: dict[str, str]) -> None:
    write(target, [pair(PETERBILT, *own)], own)
    assert [*read(target)[0]] == [*own, *(renamed.get(name, name) for name in VEHICLE_COLUMNS)]


def test_columns_of_one_name_keep_their_values(target: Path) -> None:
    write(target, [pair(PETERBILT, "pete")], ["make"])
    [row] = read(target)
    assert (row["make"], row["vpic_make"]) == ("pete", "PETERBILT")


def test_csv_keeps_two_columns_of_the_fleet_with_one_name(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", [pair(PETERBILT, "a", "b")], ["note", "note"])
    with open(tmp_path / "out.csv", encoding="utf-8", newline="") as file:
        assert [line[:2] for line in csv.reader(file)] == [["note", "note"], ["a", "b"]]


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_what_cannot_hold_two_columns_of_one_name_is_refused(tmp_path: Path, ending: str) -> None:
    with pytest.raises(ExportError, match="cannot hold two columns named 'note'"):
        write(tmp_path / f"out{ending}", [], ["note", "unit", "note"])


def test_row_of_other_width_than_the_columns_is_a_defect(target: Path) -> None:
    with pytest.raises(ValueError, match="Row 2 has 3 values for 1 columns"):
        write(target, [pair(PETERBILT, 1, 2, 3)], ["unit"])


@pytest.mark.parametrize("values", [(), ("a",), ("a", "b", "c")])
def test_row_that_could_not_be_read_keeps_the_values_that_have_a_column(target: Path, values: tuple[str, ...]) -> None:
    write(target, [unreadable(*values)], ["unit", "city"])
    [row] = read(target)
    assert [row["unit"], row["city"]] == [*values, None, None][:2]


# The fleet's own values


TEXTS = [
    "=1+1",
    "+1",
    "-1",
    "@x",
    "\tx",
    "\rx",
    'says "so"',
    "a,b;c\td",
    "two\nlines",
    "a\r\nb",
    " padded ",
    "Škoda 🚚",
    "007",
    "NULL",
    "\0",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_is_written_as_it_is(target: Path, text: str) -> None:
    write(target, [pair(PETERBILT, text, "next")], ["note", "unit"])
    if text == "\0" and target.suffix in {".csv", ".tsv"} and sys.version_info < (3, 11):
        pytest.skip("the reader of Python 3.10 takes no NUL")
    [row] = read(target)
    assert (row["note"], row["unit"]) == (text, "next")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "true"),
        (12, "12"),
        (0.1 + 0.2, "0.30000000000000004"),
        (Decimal("12.50"), "12.50"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2))), "2026-01-02T01:04:05Z"),
        (["a", None], '["a", null]'),
        ({"when": date(2026, 1, 2)}, '{"when": "2026-01-02"}'),
        (b"bytes", "bytes"),
        ("\ud800", "?"),
    ],
)
class TestValueOfAnyType:
    def test_is_text_in_csv(self, tmp_path: Path, value: object, text: str) -> None:
        write(tmp_path / "out.csv", [pair(PETERBILT, value)], ["own"])
        assert read_csv(tmp_path / "out.csv")[0]["own"] == text

    def test_is_text_in_parquet_without_a_schema(self, tmp_path: Path, value: object, text: str) -> None:
        write(tmp_path / "out.parquet", [pair(PETERBILT, value)], ["own"])
        assert read_parquet(tmp_path / "out.parquet")[0]["own"] == (None if value is None else text)


@pytest.mark.parametrize(
    "value", [None, True, 12, 2**60, 0.1, "", "text", [1, [None]], {"b": {"a": 1}}, "\u2028", "\ud800"]
)
def test_json_values_stay_what_they_are(tmp_path: Path, value: object) -> None:
    write(tmp_path / "out.jsonl", [pair(PETERBILT, value)], ["own"])
    [row] = read_json(tmp_path / "out.jsonl")
    assert (type(row["own"]), row["own"]) == (type(value), value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_in_json_is_null(tmp_path: Path, value: float) -> None:
    write(tmp_path / "out.jsonl", [pair(PETERBILT, [value, 1.5])], ["own"])
    assert read_json(tmp_path / "out.jsonl")[0]["own"] == [None, 1.5]


OWN_TYPES: dict[str, tuple[pa.DataType, object]] = {
    "integer": (pa.int32(), 7),
    "real": (pa.float32(), 0.5),
    "truth": (pa.bool_(), True),
    "day": (pa.date32(), date(2026, 1, 2)),
    "time": (pa.timestamp("us", "UTC"), datetime(2026, 1, 2, tzinfo=timezone.utc)),
    "price": (pa.decimal128(10, 2), Decimal("12.50")),
    "bytes": (pa.binary(), b"\xff"),
    "list": (pa.list_(pa.field("element", pa.int64())), [1, None]),
    "category": (pa.dictionary(pa.int32(), pa.string()), "red"),
}


def test_parquet_keeps_the_fleets_own_types_and_values(tmp_path: Path) -> None:
    schema = pa.schema([(name, kind) for name, (kind, _) in OWN_TYPES.items()])
    values = [value for _, value in OWN_TYPES.values()]
    write(
        tmp_path / "out.parquet", [pair(PETERBILT, *values), pair(HONDA, *[None] * len(values))], schema.names, schema
    )
    table = pq.read_table(tmp_path / "out.parquet").select(schema.names)
    assert (table.schema, table.to_pylist()) == (
        schema,
        [dict(zip(schema.names, values, strict=True)), dict.fromkeys(schema.names)],
    )


def test_row_that_could_not_be_read_goes_into_a_column_without_nulls(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("unit", pa.int64(), nullable=False)])
    write(tmp_path / "out.parquet", [unreadable()], ["unit"], schema)
    assert read_parquet(tmp_path / "out.parquet")[0]["unit"] is None


@pytest.mark.parametrize("value", ["seven", 2**40])
def test_value_that_does_not_fit_its_type_is_told_in_words(tmp_path: Path, value: object) -> None:
    with pytest.raises(ExportError, match="The column 'unit' cannot be written as int32"):
        write(tmp_path / "out.parquet", [pair(PETERBILT, value)], ["unit"], pa.schema([("unit", pa.int32())]))


def test_type_that_parquet_does_not_have_is_told_in_words(tmp_path: Path) -> None:
    schema = pa.schema([("age", pa.month_day_nano_interval())])
    with pytest.raises(ExportError, match="Parquet cannot hold"):
        write(tmp_path / "out.parquet", [], ["age"], schema)


def test_schema_of_other_columns_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not that of the columns"):
        write(tmp_path / "out.parquet", [], ["unit"], pa.schema([("city", pa.string())]))


# Forms


def by_pandas(path: Path) -> list[str]:
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str)
    return [str(make) for make in frame["make"]]


def by_polars(path: Path) -> list[str]:
    frame = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    return frame["make"].to_list()


def by_duckdb(path: Path) -> list[str]:
    with duckdb.connect() as connection:
        return [make for (make,) in connection.execute(f"SELECT make FROM '{path}'").fetchall()]


@pytest.mark.parametrize("read_makes", [by_pandas, by_polars, by_duckdb])
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_other_readers_read_it(tmp_path: Path, ending: str, read_makes: Callable[[Path], list[str]]) -> None:
    path = tmp_path / f"out{ending}"
    write(path, [pair(PETERBILT, "a\nb"), pair(HONDA, 'c"')], ["note"])
    assert read_makes(path) == ["PETERBILT", "HONDA"]


@pytest.mark.parametrize("ending", [".CSV", ".Parquet", ".NDJSON"])
def test_ending_may_be_in_upper_case(tmp_path: Path, ending: str) -> None:
    write(tmp_path / f"upper{ending}", [pair(PETERBILT)])
    (tmp_path / f"upper{ending}").rename(tmp_path / f"lower{ending.lower()}")
    assert len(read(tmp_path / f"lower{ending.lower()}")) == 1


@pytest.mark.parametrize("name", ["out", "out.xlsx", "out.csv.gz", ""])
def test_unknown_ending_is_refused_with_those_that_are_known(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=r"\.csv, \.tsv, \.jsonl, \.ndjson or \.parquet"):
        write(name, [])


def test_no_rows_are_a_header_in_csv(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", [], ["unit"])
    assert (tmp_path / "out.csv").read_text().splitlines() == [",".join(["unit", *VEHICLE_COLUMNS])]


def test_no_rows_are_an_empty_file_of_json_lines(tmp_path: Path) -> None:
    write(tmp_path / "out.jsonl", [])
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_no_rows_are_a_parquet_file_with_its_columns(tmp_path: Path) -> None:
    write(tmp_path / "out.parquet", [], ["unit"])
    table = pq.read_table(tmp_path / "out.parquet")
    assert (table.num_rows, table.column_names) == (0, ["unit", *VEHICLE_COLUMNS])


def test_lines_of_csv_end_as_rfc_4180_says(tmp_path: Path) -> None:
    write(tmp_path / "out.csv", [pair(PETERBILT)])
    assert [line[-2:] for line in (tmp_path / "out.csv").read_bytes().splitlines(keepends=True)] == [b"\r\n"] * 2


def test_parquet_is_written_in_row_groups(tmp_path: Path) -> None:
    write_wide(tmp_path / "out.parquet", 4)
    assert pq.read_metadata(tmp_path / "out.parquet").num_row_groups > 1


def test_memory_does_not_grow_with_the_rows_of_parquet(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in write_wide_stepwise(tmp_path / "out.parquet", 40)]
    assert max(held) < 10_000_000


WIDE = "x" * 5_000


def write_wide(target: Path, chunks: int) -> None:
    for _ in write_wide_stepwise(target, chunks):
        pass


def write_wide_stepwise(target: Path, chunks: int) -> Iterator[None]:
    """Write a megabyte with each step."""
    with open_output(str(target), ["note"]) as output:
        for _ in range(chunks):
            output.write([pair(PETERBILT, WIDE)] * 200)
            yield


# Files


class Interrupted(Exception):
    """What ends a context before its time."""


def end_after(opened: AbstractContextManager[Output], reason: type[BaseException]) -> None:
    """Write rows and end the context by an exception."""
    with opened as output:
        output.write(EACH_STATUS)
        raise reason


@pytest.mark.parametrize("reason", [Interrupted, KeyboardInterrupt, GeneratorExit])
def test_earlier_file_stays_when_the_writing_is_ended(target: Path, reason: type[BaseException]) -> None:
    target.write_text("earlier")
    with pytest.raises(reason):
        end_after(open_output(str(target), []), reason)
    assert {path: path.read_text() for path in target.parent.iterdir()} == {target: "earlier"}


def test_nothing_stays_when_the_writing_is_ended(target: Path) -> None:
    with pytest.raises(Interrupted):
        end_after(open_output(str(target), []), Interrupted)
    assert [*target.parent.iterdir()] == []


def test_file_bears_its_name_only_when_it_is_whole(target: Path) -> None:
    with open_output(str(target), []) as output:
        output.write(EACH_STATUS)
        assert not target.exists()
    assert target.exists()


def test_nothing_else_is_left_beside_the_file(target: Path) -> None:
    write(target, EACH_STATUS)
    assert [*target.parent.iterdir()] == [target]


def test_error_of_the_callers_own_passes_as_it_is(target: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"fleet\.csv"), open_output(str(target), []):
        raise FileNotFoundError("fleet.csv")


def test_missing_folder_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"missing/out\.csv could not be written: No such file or directory\."),
        open_output(str(tmp_path / "missing/out.csv"), []),
    ):
        raise Interrupted


def test_folder_as_a_target_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "out.csv").mkdir()
    with pytest.raises(ExportError, match=r"out\.csv could not be written: Is a directory\."):
        write(tmp_path / "out.csv", [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_folder_that_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match=r"out\.csv could not be written: Permission denied\."):
        write(tmp_path / "out.csv", [])


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_full_disk_is_told_in_words(target: Path) -> None:
    target.symlink_to(FULL)
    with pytest.raises(ExportError, match="could not be written: No space left on device"):
        write(target, EACH_STATUS)


@pytest.mark.parametrize("name", ["pipe", "pipe.parquet", "pipe.jsonl"])
def test_named_pipe_is_written_into(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    copy = tmp_path / f"copy{Path(name).suffix or '.csv'}"
    reader = threading.Thread(target=lambda: copy.write_bytes((tmp_path / name).read_bytes()))
    reader.start()
    write(tmp_path / name, EACH_STATUS)
    reader.join()
    assert len(read(copy)) == len(EACH_STATUS)


def test_pipe_whose_reader_has_gone_is_told_in_words(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(ExportError, match=r"pipe\.csv could not be written: Broken pipe"):
        write_without_reader(pipe, reader)


def write_without_reader(pipe: Path, reader: int) -> None:
    with open_output(str(pipe), []) as output:
        os.close(reader)
        output.write(EACH_STATUS)


# Standard output


def test_standard_output_takes_csv(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    write("-", EACH_STATUS)
    write(tmp_path / "out.csv", EACH_STATUS)
    assert capsysbinary.readouterr().out == (tmp_path / "out.csv").read_bytes()


def test_standard_output_has_the_rows_as_they_come(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with open_output("-", []) as output:
        capsysbinary.readouterr()
        output.write([pair(PETERBILT)])
        assert capsysbinary.readouterr().out.count(b"\n") == 1


def test_standard_output_stays_open(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    write("-", [])
    assert not sys.stdout.buffer.closed


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("opened", [lambda: open_output("-", []), lambda: open_rejections("-")])
def test_full_standard_output_is_told_in_words(monkeypatch: pytest.MonkeyPatch, opened: Callable[[], Any]) -> None:
    class Full:
        buffer = open(FULL, "wb", buffering=0)  # noqa: SIM115

        def flush(self) -> None: ...

    monkeypatch.setattr(sys, "stdout", Full())
    with Full.buffer, pytest.raises(ExportError, match="Standard output could not be written: No space left"), opened():
        pass


# Rejections


def log(target: Path | str, rows: Sequence[Pair]) -> None:
    with open_rejections(str(target)) as rejections:
        rejections.write(rows)


@pytest.fixture(params=[".csv", ".tsv", ".jsonl", ".ndjson"])
def log_target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file that is not there yet, of each form that a log may have."""
    return tmp_path / f"rejections{request.param}"


def test_rejections_name_the_row_and_the_reason(log_target: Path) -> None:
    log(log_target, EACH_STATUS)
    assert [(str(row["row"]), row["vin"] or "", row["reason"]) for row in read(log_target)] == [
        ("3", WRONG_CHECK_DIGIT, "1 - Check Digit (9th position) does not calculate properly"),
        ("4", LETTER_I, "Position 1 holds the letter I, which no VIN uses: likely the digit 1."),
        ("5", HONDA, NOBODY),
        ("6", "", "The line has a quote that is never closed."),
    ]


def test_rejections_tell_those_that_failed_from_those_that_are_none(log_target: Path) -> None:
    log(log_target, EACH_STATUS)
    assert [row["kind"] for row in read(log_target)] == ["rejected", "rejected", "failed", "rejected"]


def test_rejections_suggest_the_likely_vin(log_target: Path) -> None:
    log(log_target, [pair(LETTER_I), failed(HONDA)])
    assert [row["suggested_vin"] for row in read(log_target)] == [PETERBILT, None]


def test_rejections_have_the_vin_as_it_was_given(log_target: Path) -> None:
    given = f" {WRONG_CHECK_DIGIT.lower()}\n"
    log(log_target, [pair(given), pair("x" * 500)])
    assert [row["vin"] for row in read(log_target)] == [given, "x" * 500]


def test_rejections_of_a_sound_fleet_are_a_header(tmp_path: Path) -> None:
    log(tmp_path / "rejections.csv", [pair(PETERBILT)])
    assert (tmp_path / "rejections.csv").read_bytes() == b"row,vin,reason,suggested_vin,kind\r\n"


def test_rejections_of_a_sound_fleet_are_an_empty_file_of_json_lines(tmp_path: Path) -> None:
    log(tmp_path / "rejections.jsonl", [pair(PETERBILT)])
    assert (tmp_path / "rejections.jsonl").read_bytes() == b""


def test_rejections_are_in_their_file_as_soon_as_they_are_written(log_target: Path) -> None:
    with open_rejections(str(log_target)) as rejections:
        rejections.write([pair(LETTER_I)])
        assert len(read(log_target)) == 1


def test_rejections_replace_an_earlier_file_at_once(log_target: Path) -> None:
    log(log_target, EACH_STATUS)
    with open_rejections(str(log_target)):
        assert read(log_target) == []


def test_rejections_stay_when_the_writing_is_ended(log_target: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        end_after(open_rejections(str(log_target)), KeyboardInterrupt)
    assert len(read(log_target)) == 4


def test_rejections_go_to_standard_output_as_csv(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    log("-", EACH_STATUS)
    log(tmp_path / "rejections.csv", EACH_STATUS)
    assert capsysbinary.readouterr().out == (tmp_path / "rejections.csv").read_bytes()


@pytest.mark.parametrize("name", ["rejections.parquet", "rejections.txt"])
def test_rejections_of_another_form_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=r"does not end in \.csv, \.tsv, \.jsonl or \.ndjson\."):
        log(tmp_path / name, [])


def test_rejections_in_a_missing_folder_are_told_before_anything_is_written(tmp_path: Path) -> None:
    with (
        pytest.raises(ExportError, match=r"rejections\.csv could not be written: No such file or directory\."),
        open_rejections(str(tmp_path / "missing/rejections.csv")),
    ):
        raise Interrupted


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_rejections_on_a_full_disk_are_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "rejections.csv").symlink_to(FULL)
    with pytest.raises(ExportError, match="could not be written: No space left on device"):
        log(tmp_path / "rejections.csv", EACH_STATUS)
