"""Exports: the same rows at both doors and for every reader, of one moment, in little memory."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import pty
import random
import re
import resource
import shutil
import signal
import sqlite3
import stat
import struct
import subprocess
import sys
import termios
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from tests.conftest import SCRIPT, clean_environment, fill_cache, rows, until
from vin_datasette import __version__
from vin_datasette.attributes import ATTRIBUTES
from vin_datasette.batches import Selection
from vin_datasette.cache import Cache
from vin_datasette.cli import cli
from vin_datasette.export import write_file, write_partitions
from vin_datasette.parquet import LARGEST_ROW_GROUP, Part, parquet_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.conftest import MakeInstance
    from vin_datasette.export import Format

    Rows = list[dict[str, Any]]
    Door = Callable[[Path], Any]

CONTRACT = ["make", "model", "model_year", "body_class"]
NOT_EXPORTED = {"notes", "record"}

TEXTS = [
    None,
    "",
    "Truck-Tractor",
    "Škoda 🚚 日本",
    "a, b; c\td",
    "says \"so\" and 'so'",
    "two\nlines",
    " padded ",
    "NULL",
    "007",
    "1e5",
    "\\N",
]
INTEGERS = [None, 0, -1, 7, 2**53 + 1, 2**63 - 1, -(2**63)]
REALS = [None, 0.0, -1.5, 0.1, 1e300, 5e-324]
MAKES = [text for text in TEXTS if text]


# What is exported


@dataclass(frozen=True)
class Column:
    """A column of the vehicles as SQLite declares it."""

    name: str
    declared: str


def columns_of(cache: Path) -> list[Column]:
    with closing(sqlite3.connect(cache)) as connection:
        return [Column(row[1], row[2]) for row in connection.execute("PRAGMA table_info(vehicles)")]


def insert(cache: Path, vehicles: Sequence[dict[str, Any]]) -> None:
    """Put rows into a cache, made where there is none, in their order."""
    made = Cache(cache)
    made.open()
    made.close()
    needed = {"make": "HONDA", "source": "vpic", "fetched_at": "2026-01-02T03:04:05Z", "record": "{}"}
    with closing(sqlite3.connect(cache)) as connection, connection:
        for vehicle in vehicles:
            row = {**needed, **vehicle}
            marks = ", ".join(f":{name}" for name in row)
            connection.execute(f"INSERT INTO vehicles ({', '.join(row)}) VALUES ({marks})", row)


def vin(number: int) -> str:
    return f"1HGCM82633A{number:06}"


def any_vehicles(cache: Path, count: int) -> None:
    """Put vehicles into a cache of which every column holds something of all that it may hold."""
    insert(cache, [])
    chance = random.Random(count)
    values: dict[str, Sequence[object]] = {"TEXT": TEXTS, "INTEGER": INTEGERS, "REAL": REALS}
    numbers = chance.sample(range(1_000_000), count)
    vehicles = [
        {
            **{column.name: chance.choice(values[column.declared]) for column in columns_of(cache)},
            "vin": vin(number),
            "make": chance.choice(MAKES),
            "source": chance.choice(["vpic", "embedded"]),
            "fetched_at": f"2026-{chance.randrange(1, 13):02}-28T{chance.randrange(24):02}:59:01Z",
            "record": '{"Make":"HONDA"}',
        }
        for number in numbers
    ]
    insert(cache, vehicles)


def promised(cache: Path, raw: bool = False) -> Rows:
    """What an export of a cache has to hold, from SQLite's own rows."""
    left_out = NOT_EXPORTED - {"record"} if raw else NOT_EXPORTED
    found = [{name: value for name, value in row.items() if name not in left_out} for row in rows(cache)]
    for row in found:
        row.update({name: "" if row[name] is None else str(row[name]) for name in CONTRACT})
        row["fetched_at"] = moment(row["fetched_at"])
    return found


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def differences(found: Rows, expected: Rows) -> list[str]:
    """The first values that are not those expected, or not of their type."""
    if len(found) != len(expected):
        return [f"{len(found)} rows for {len(expected)}"]
    different = [
        f"row {number}: {name} is {a.get(name)!r}, not {b.get(name)!r}"
        for number, (a, b) in enumerate(zip(found, expected, strict=True))
        for name in [*b, *(set(a) - set(b))]
        if name not in a or name not in b or not same(a[name], b[name])
    ]
    return different[:5]


def same(found: object, expected: object) -> bool:
    if isinstance(found, datetime) and isinstance(expected, datetime):
        return found == expected and found.utcoffset() == expected.utcoffset()
    return type(found) is type(expected) and found == expected


# Readers


def read_by_pyarrow(path: Path) -> Rows:
    found: Rows = pq.read_table(path).to_pylist()
    return found


def read_by_duckdb(path: Path) -> Rows:
    with duckdb.connect() as connection:
        # Times as seconds: DuckDB makes Python's aware ones with a package that it does not require.
        cursor = connection.execute(
            "SELECT * REPLACE (epoch(fetched_at) AS fetched_at) FROM read_parquet(?)", [str(path)]
        )
        names = [description[0] for description in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return [{**row, "fetched_at": datetime.fromtimestamp(row["fetched_at"], timezone.utc)} for row in found]


def read_by_polars(path: Path) -> Rows:
    found: Rows = pl.read_parquet(path).to_dicts()
    return found


def read_by_pandas(path: Path) -> Rows:
    frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
    found: Rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return found


READERS: dict[str, Callable[[Path], Rows]] = {
    "pyarrow": read_by_pyarrow,
    "DuckDB": read_by_duckdb,
    "polars": read_by_polars,
    "pandas": read_by_pandas,
}


# Doors


def run(*arguments: str | Path) -> Result:
    """The command `vin-datasette export` with these arguments."""
    return CliRunner().invoke(cli, ["export", *map(str, arguments)])


def exported(cache: Path, selection: Selection | None = None) -> pa.Table:
    return pq.read_table(io.BytesIO(as_bytes(cache, selection)))


def as_bytes(cache: Path, selection: Selection | None = None) -> bytes:
    return b"".join(part.data for part in parquet_parts(cache, selection))


def file_of(cache: Path, selection: Selection | None = None) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(as_bytes(cache, selection)))


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that has something of everything, and enough for several row groups."""
    path = tmp_path_factory.mktemp("cache") / "vin.db"
    any_vehicles(path, 1_500)
    return path


@pytest.fixture
def cache(made_once: Path, tmp_path: Path) -> Path:
    """A copy of `made_once` of the test's own."""
    return Path(shutil.copy(made_once, tmp_path / "vin.db"))


SINGLE_LINES = [text for text in TEXTS if text is None or "\n" not in text]


@pytest.mark.parametrize("text", [*SINGLE_LINES, "\ufeffmark", "a\u0085b", "\u2028", "\x1cgroup", '"', "x" * 5000])
def test_text_on_one_line_is_exported_as_it_is(tmp_path: Path, text: str | None) -> None:
    filled = [{"vin": vin(number), "make": "A", "trim": text, "plant_company": text} for number in range(40)]
    insert(tmp_path / "vin.db", filled)
    table = exported(tmp_path / "vin.db")
    assert table["trim"].to_pylist() == table["plant_company"].to_pylist() == [text] * 40


@pytest.mark.parametrize("text", ["two\nlines", "\r", "a\r\nb", "end\n", "a\x1fb", "a\x1eb", "a\x1db", "\n\n"])
@pytest.mark.parametrize("column", ["make", "series", "source_version", "warnings"])
def test_control_characters_that_others_put_into_the_cache_are_exported(tmp_path: Path, column: str, text: str) -> None:
    vehicles: list[dict[str, Any]] = [{"vin": vin(number)} for number in range(60)]
    vehicles[41][column] = vehicles[59][column] = text
    insert(tmp_path / "vin.db", vehicles)
    table = exported(tmp_path / "vin.db", Selection(columns=[column]))
    assert table["vin"].to_pylist() == [vin(number) for number in range(60)]
    assert table[column].to_pylist() == [
        vehicle.get(column, "HONDA" if column == "make" else None) for vehicle in vehicles
    ]


def test_remarks_of_several_lines_are_exported_with_them(tmp_path: Path) -> None:
    insert(tmp_path / "vin.db", [{"vin": vin(number), "warnings": "one\ntwo\nthree"} for number in range(60)])
    table = exported(tmp_path / "vin.db")
    assert set(table["warnings"].to_pylist()) == {"one\ntwo\nthree"}


@pytest.mark.parametrize("number", [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, 1 / 3, 2.5])
def test_real_numbers_keep_all_their_digits(tmp_path: Path, number: float) -> None:
    insert(tmp_path / "vin.db", [{"vin": vin(1), "wheelbase_in": number}])
    table = exported(tmp_path / "vin.db")
    assert table["wheelbase_in"].to_pylist() == [number]


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
async def test_route_exports_what_the_cache_holds(
    make_instance: MakeInstance, cache: Path, tmp_path: Path, read: Callable[[Path], Rows]
) -> None:
    datasette = await make_instance()
    response = await datasette.client.get("/export")
    (tmp_path / "out.parquet").write_bytes(response.content)
    assert differences(read(tmp_path / "out.parquet"), promised(cache)) == []


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_command_exports_what_the_cache_holds(cache: Path, tmp_path: Path, read: Callable[[Path], Rows]) -> None:
    run(tmp_path / "out.parquet", "--db", cache)
    assert differences(read(tmp_path / "out.parquet"), promised(cache)) == []


async def test_both_doors_give_the_same_bytes_but_for_the_time(make_instance: MakeInstance, cache: Path) -> None:
    datasette = await make_instance()
    by_route = (await datasette.client.get("/export")).content
    by_command = run("-", "--db", cache).stdout_bytes
    assert timeless(by_route) == timeless(by_command)


def timeless(data: bytes) -> bytes:
    """A file without the time of its snapshot."""
    return re.sub(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", b"", data)


def test_whole_records_are_exported_as_they_are_kept(cache: Path) -> None:
    assert differences(exported(cache, Selection(raw=True)).to_pylist(), promised(cache, raw=True)) == []


# The schema


def test_types_are_those_that_sqlite_declares(tmp_path: Path) -> None:
    fill_cache(tmp_path / "vin.db", 1)
    types = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    expected = {column.name: types[column.declared] for column in columns_of(tmp_path / "vin.db")}
    expected = {name: kind for name, kind in expected.items() if name not in NOT_EXPORTED}
    expected.update({name: pa.string() for name in CONTRACT}, fetched_at=pa.timestamp("ms", "UTC"))
    schema = exported(tmp_path / "vin.db").schema
    assert list(zip(schema.names, schema.types, strict=True)) == list(expected.items())


ONE_OF_EACH = {"vehicle_type": "TRUCK", "doors": 4, "displacement_l": 2.5, "source_version": "2026_10"}
TYPES_OF_EACH = {
    "vehicle_type": pa.string(),
    "doors": pa.int64(),
    "displacement_l": pa.float64(),
    "source_version": pa.string(),
}


@pytest.mark.parametrize("values_at_the_end", [[], [ONE_OF_EACH]], ids=["all null", "null until the last"])
def test_columns_that_begin_with_nulls_keep_their_types(
    tmp_path: Path, values_at_the_end: list[dict[str, Any]]
) -> None:
    vehicles: list[dict[str, Any]] = [{}] * 3_000 + values_at_the_end
    insert(tmp_path / "vin.db", [{"vin": vin(number), **vehicle} for number, vehicle in enumerate(vehicles)])
    table = exported(tmp_path / "vin.db").select(list(ONE_OF_EACH))
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == TYPES_OF_EACH
    assert table.slice(3_000).to_pylist() == values_at_the_end


def test_vehicles_stand_in_the_order_of_their_vins(cache: Path) -> None:
    vins = exported(cache)["vin"].to_pylist()
    assert vins == sorted(vins)


def test_file_says_that_it_is_sorted(cache: Path) -> None:
    file = file_of(cache)
    groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
    assert {group.sorting_columns for group in groups} == {(pq.SortingColumn(0),)}


def test_vin_and_the_contracts_columns_come_first_and_are_never_null(cache: Path) -> None:
    schema = exported(cache).schema
    assert [(field.name, field.type, field.nullable) for field in schema][:5] == [
        (name, pa.string(), False) for name in ("vin", *CONTRACT)
    ]


def test_contract_is_told_in_strings_as_it_is_elsewhere(tmp_path: Path) -> None:
    insert(tmp_path / "vin.db", [{"vin": vin(1), "make": "PETERBILT", "model_year": 1999}])
    [row] = exported(tmp_path / "vin.db").select(CONTRACT).to_pylist()
    assert row == {"make": "PETERBILT", "model": "", "model_year": "1999", "body_class": ""}


def encodings(cache: Path, column: str) -> set[str]:
    metadata = file_of(cache, Selection(raw=True)).metadata
    names = [metadata.schema.column(number).name for number in range(metadata.num_columns)]
    return set(metadata.row_group(0).column(names.index(column)).encodings)


@pytest.mark.parametrize("column", ["make", "model_year", "body_class", "plant_country", "source", "engine_model"])
def test_text_of_few_values_is_dictionary_encoded(cache: Path, column: str) -> None:
    assert "RLE_DICTIONARY" in encodings(cache, column)


@pytest.mark.parametrize("column", ["vin", "descriptor", "warnings", "record", "doors", "displacement_l"])
def test_text_of_many_values_and_numbers_are_not_dictionary_encoded(cache: Path, column: str) -> None:
    assert not any("DICTIONARY" in encoding for encoding in encodings(cache, column))


def test_every_column_is_compressed_with_zstd(cache: Path) -> None:
    group = file_of(cache).metadata.row_group(0)
    assert {group.column(number).compression for number in range(group.num_columns)} == {"ZSTD"}


def told(schema: pa.Schema, column: str) -> dict[str, str]:
    """The metadata of a field; beside ours readers find the field's number."""
    metadata = schema.field(column).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"PARQUET:")}


@pytest.mark.parametrize(
    ("column", "label", "key", "element_id", "unit"),
    [
        ("make", "Make", "Make", "26", None),
        ("doors", "Doors", "Doors", "14", None),
        ("displacement_l", "Displacement", "DisplacementL", "13", "L"),
        ("gvwr_from_kg", "GVWR from", "GVWR", "25", "kg"),
        ("base_price_usd", "Base price", "BasePrice", "136", "USD"),
    ],
)
def test_fields_say_what_they_are(
    cache: Path, column: str, label: str, key: str, element_id: str, unit: str | None
) -> None:
    metadata = told(exported(cache).schema, column)
    told_of_it = (metadata["label"], metadata["vpic_key"], metadata["vpic_element_id"], metadata.get("unit"))
    assert told_of_it == (label, key, element_id, unit)


def test_every_attribute_names_its_element(cache: Path) -> None:
    schema = exported(cache).schema
    named = {attribute.column: told(schema, attribute.column)["vpic_element_id"] for attribute in ATTRIBUTES}
    assert named == {attribute.column: str(attribute.element_id) for attribute in ATTRIBUTES}


def about(file: pq.ParquetFile) -> dict[str, str]:
    prefix = b"vin_datasette."
    metadata = file.metadata.metadata
    return {key.removeprefix(prefix).decode(): value.decode() for key, value in metadata.items() if prefix in key}


def test_file_says_what_made_it_when_and_of_how_many_rows(cache: Path) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    said = about(file_of(cache))
    after = datetime.now(timezone.utc)
    assert before <= moment(said.pop("snapshot")) <= after
    assert said == {"version": __version__, "rows": "1500"}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A cache that nothing was ever looked up in."""
    insert(tmp_path / "empty.db", [])
    return tmp_path / "empty.db"


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_empty_cache_is_a_file_without_rows(empty: Path, tmp_path: Path, read: Callable[[Path], Rows]) -> None:
    run(tmp_path / "out.parquet", "--db", empty)
    assert read(tmp_path / "out.parquet") == []


def test_empty_cache_has_the_whole_schema(empty: Path, cache: Path) -> None:
    assert exported(empty).schema.equals(exported(cache).schema, check_metadata=True)


def test_empty_cache_says_that_it_has_no_rows(empty: Path) -> None:
    assert about(file_of(empty))["rows"] == "0"


# The moment

WRITER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
with connection:
    connection.execute("UPDATE vehicles SET make = 'CHANGED'")
    connection.execute("DELETE FROM vehicles WHERE vin LIKE '%9'")
    connection.execute(
        "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 999) "
        "INSERT INTO vehicles (vin, make, source, fetched_at, record) "
        "SELECT printf('1HGCM82633B%06d', i), 'NEW', 'vpic', '2026-01-01T00:00:00Z', '{}' FROM n"
    )
connection.close()
"""
"""Writes 1,000 vehicles, changes and removes others, and waits for nobody."""


def write_from_another_process(cache: Path) -> None:
    subprocess.run([sys.executable, "-c", WRITER, cache], check=True, timeout=60)


def export_in_two(cache: Path, between: Callable[[], None]) -> bytes:
    """An export during which something else happens after the first part."""
    parts = parquet_parts(cache)
    first = next(parts)
    between()
    return first.data + b"".join(part.data for part in parts)


@pytest.fixture
def growing(tmp_path: Path) -> Path:
    """A cache of several parts."""
    fill_cache(tmp_path / "vin.db", 3_000)
    return tmp_path / "vin.db"


def test_export_does_not_hold_up_writers(growing: Path) -> None:
    export_in_two(growing, lambda: write_from_another_process(growing))
    assert len(rows(growing)) == 3_000 - 300 + 1_000


def test_what_is_written_during_an_export_is_not_in_it(growing: Path) -> None:
    before = promised(growing)
    data = export_in_two(growing, lambda: write_from_another_process(growing))
    assert differences(pq.read_table(io.BytesIO(data)).to_pylist(), before) == []


def test_what_is_written_during_an_export_is_in_the_next(growing: Path) -> None:
    export_in_two(growing, lambda: write_from_another_process(growing))
    assert differences(exported(growing).to_pylist(), promised(growing)) == []


class WriteOnce:
    """Told of an export's progress, it writes to the cache once."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.done = False

    def __call__(self, part: Part) -> None:
        if not self.done:
            self.done = True
            write_from_another_process(self.cache)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_is_written_during_an_export_of_text_is_not_in_it(growing: Path, tmp_path: Path, kind: Format) -> None:
    expected = [row["vin"] for row in rows(growing)]
    write_file(growing, tmp_path / "out", kind, WriteOnce(growing))
    assert [row["vin"] for row in TEXT_READERS[kind](tmp_path / "out")] == expected


def test_partitions_are_of_one_moment(growing: Path, tmp_path: Path) -> None:
    expected = [(row["vin"], row["make"]) for row in rows(growing)]
    write_partitions(growing, tmp_path / "out", ["make"], WriteOnce(growing))
    found = pa_dataset.dataset(tmp_path / "out", partitioning="hive").to_table(columns=["vin", "make"])
    assert sorted(zip(found["vin"].to_pylist(), found["make"].to_pylist(), strict=True)) == expected


@pytest.mark.parametrize("rows_read", [0, 1], ids=["before the first part", "after the first part"])
def test_export_that_is_given_up_ends_its_transaction(growing: Path, rows_read: int) -> None:
    parts = parquet_parts(growing)
    for _ in range(rows_read):
        next(parts)
    parts.close()
    write_from_another_process(growing)
    with closing(sqlite3.connect(growing, timeout=0)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


# Row groups and memory


def sizes_of_groups(path: Path) -> list[int]:
    metadata = file_of(path, Selection(raw=True)).metadata
    return [metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups)]


WIDTHS = {"as vPIC's records are": (10_000, 4_000), "very wide": (2_000, 30_000)}


@pytest.mark.parametrize(("count", "record_bytes"), WIDTHS.values(), ids=WIDTHS)
def test_no_row_group_is_much_larger_than_the_limit(tmp_path: Path, count: int, record_bytes: int) -> None:
    fill_cache(tmp_path / "vin.db", count, record_bytes=record_bytes)
    assert max(sizes_of_groups(tmp_path / "vin.db")) <= 2 * LARGEST_ROW_GROUP


@pytest.mark.parametrize(("count", "record_bytes"), WIDTHS.values(), ids=WIDTHS)
def test_first_row_group_is_small(tmp_path: Path, count: int, record_bytes: int) -> None:
    fill_cache(tmp_path / "vin.db", count, record_bytes=record_bytes)
    assert sizes_of_groups(tmp_path / "vin.db")[0] <= 1024 * 1024


def test_later_row_groups_are_as_large_as_the_limit(tmp_path: Path) -> None:
    fill_cache(tmp_path / "vin.db", 10_000, record_bytes=4_000)
    assert max(sizes_of_groups(tmp_path / "vin.db")) >= LARGEST_ROW_GROUP // 2


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 120,000 vehicles with records of 1 kB."""
    path = tmp_path_factory.mktemp("large") / "vin.db"
    fill_cache(path, 120_000, record_bytes=1_000)
    return path


MEASURE = """
import re, sys
from pathlib import Path
from vin_datasette.batches import Selection
from vin_datasette.parquet import parquet_parts
where = sys.argv[2:]
rows = sum(part.rows for part in parquet_parts(sys.argv[1], Selection(where=where, raw=True)))
# Not ru_maxrss: that begins with what the process had before it became this one.
print(rows, re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak_of_export(cache: Path, *where: str) -> tuple[int, int]:
    """The rows of an export that is thrown away as it is made, and the most memory in MB."""
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, cache, *where], capture_output=True, text=True, check=True, timeout=120
    )
    exported_rows, kilobytes = map(int, ran.stdout.split())
    return exported_rows, kilobytes // 1024


def test_memory_does_not_grow_with_the_cache(large: Path, tmp_path: Path) -> None:
    fill_cache(tmp_path / "vin.db", 30_000, record_bytes=1_000)
    few, peak_of_few = peak_of_export(tmp_path / "vin.db")
    many, peak_of_many = peak_of_export(large)
    assert (few, many) == (30_000, 120_000)
    assert peak_of_many - peak_of_few < 40


# The choice

CHOSEN_COLUMNS = {
    "": None,
    "_col=make": ["vin", "make"],
    "_col=model&_col=make": ["vin", "make", "model"],
    "_col=vin": ["vin"],
    "_col=fetched_at&_col=doors": ["vin", "doors", "fetched_at"],
    "_col=make&_col=make": ["vin", "make"],
    "_col=make&_col=model&_nocol=model": ["vin", "make"],
    "_col=make&_nocol=vin": ["vin", "make"],
    "_col=make&_raw=0": ["vin", "make"],
    "_col=make&_raw=1": ["vin", "make", "record"],
    "_col=make&_col=record": ["vin", "make", "record"],
}


@pytest.mark.parametrize(("query", "expected"), CHOSEN_COLUMNS.items(), ids=CHOSEN_COLUMNS)
async def test_columns_are_chosen(
    make_instance: MakeInstance, cache: Path, query: str, expected: list[str] | None
) -> None:
    table = await ask(make_instance, query)
    chosen = [
        {name: row[name] for name in expected or row} for row in promised(cache, raw="record" in (expected or []))
    ]
    assert differences(table.to_pylist(), chosen) == []


async def ask(make_instance: MakeInstance, query: str) -> pa.Table:
    """What `/export` answers to a query string."""
    datasette = await make_instance()
    response = await datasette.client.get(f"/export?{query}")
    assert response.status_code == 200, response.text
    return pq.read_table(io.BytesIO(response.content))


async def test_columns_are_left_out(make_instance: MakeInstance, cache: Path) -> None:
    table = await ask(make_instance, "_nocol=make&_nocol=record&_nocol=doors")
    expected = [name for name in exported(cache).column_names if name not in ("make", "doors")]
    assert table.column_names == expected


async def test_raw_adds_the_whole_records_to_all_columns(make_instance: MakeInstance, cache: Path) -> None:
    table = await ask(make_instance, "_raw=1")
    assert differences(table.to_pylist(), promised(cache, raw=True)) == []


FLEET: Rows = [
    {"vin": vin(1), "make": "HONDA", "model": "Accord", "model_year": 2003, "doors": 4, "displacement_l": 2.4},
    {"vin": vin(2), "make": "HONDA", "model": "Civic", "model_year": 2015, "doors": 2},
    {"vin": vin(3), "make": "PETERBILT", "model": "379", "model_year": 1999, "displacement_l": 15.0},
    {"vin": vin(4), "make": "Škoda & Söhne", "model": "", "model_year": None, "warnings": "odd"},
    {"vin": vin(5), "make": 'O\'NEIL, "INC"', "model": "%_", "model_year": 2020, "record": '{"Note":"rare"}'},
]

FILTERS = {
    "make=HONDA": [1, 2],
    "make__exact=HONDA": [1, 2],
    "make=honda": [],
    "model=379": [3],
    "model_year=1999": [3],
    "model_year__gte=2015": [2, 5],
    "model_year__gt=2015": [5],
    "model_year__lt=2003": [3],
    "model_year__not=2015": [1, 3, 5],
    "model_year__gte=2000&model_year__lte=2015": [1, 2],
    "displacement_l__gte=2.4": [1, 3],
    "make__in=HONDA,PETERBILT": [1, 2, 3],
    "make__in=[%22O'NEIL, \\%22INC\\%22%22]": [5],
    "make__notin=HONDA,PETERBILT": [4, 5],
    "model_year__in=1999,2003": [1, 3],
    "make__contains=on": [1, 2],
    "make__contains=%C5%A0koda+%26": [4],
    "model__startswith=Acc": [1],
    "make__glob=*BILT": [3],
    "model_year__isnull=1": [4],
    "doors__notnull=1": [1, 2],
    "warnings__isnull=1": [1, 2, 3, 5],
    "model__isblank=1": [4],
    "record__contains=rare": [5],
    "vin__in=" + vin(1) + "," + vin(5): [1, 5],
    "vin__in=" + ",".join(map(vin, range(3, 2_000))): [3, 4, 5],
    "make=HONDA&make=PETERBILT": [],
    "make=HONDA&_col=model&_raw=1&doors=4": [1],
    "make=": [],
}


@pytest.mark.parametrize(("query", "numbers"), FILTERS.items(), ids=[query[:40] for query in FILTERS])
async def test_vehicles_are_chosen_by_column_filters(
    make_instance: MakeInstance, tmp_path: Path, query: str, numbers: list[int]
) -> None:
    insert(tmp_path / "vin.db", FLEET)
    table = await ask(make_instance, query)
    assert table["vin"].to_pylist() == [vin(number) for number in numbers]


async def test_file_of_a_choice_says_how_many_rows_it_has(make_instance: MakeInstance, tmp_path: Path) -> None:
    insert(tmp_path / "vin.db", FLEET)
    datasette = await make_instance()
    response = await datasette.client.get("/export?make=HONDA&_col=make")
    assert about(pq.ParquetFile(io.BytesIO(response.content)))["rows"] == "2"


@pytest.mark.parametrize(
    "where",
    ["make = 'MAKE 0'", "make IN ('MAKE 0', 'MAKE 1')", "model_year IS NULL", "body_class IS NULL", "make LIKE 'M%'"],
)
def test_choice_is_not_gathered_before_it_is_exported(tmp_path: Path, where: str) -> None:
    fill_cache(tmp_path / "vin.db", 10_000, record_bytes=1_000)
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection, connection:
        connection.execute("UPDATE vehicles SET make = 'MAKE 0', model_year = NULL")
    parts = parquet_parts(tmp_path / "vin.db", Selection(where=[where], raw=True))
    next(parts)
    gathered = [link for link in open_files() if "(deleted)" in link and "etilqs" in link]
    parts.close()
    assert gathered == []


def open_files() -> list[str]:
    """What this process has open, by name."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return found


BAD_CHOICES = [
    ("_col", "nonsense", "'nonsense' is no column"),
    ("_col", "", "'' is no column"),
    ("_col", "notes", "'notes' is no column"),
    ("_col", "vin,make", "'vin,make' is no column"),
    ("_col", "vin FROM vehicles; DROP TABLE vehicles --", "is no column"),
    ("_col", "MAKE", "'MAKE' is no column"),
    ("_nocol", "nonsense", "'nonsense' is no column"),
    ("nonsense", "1", "'nonsense' is no column"),
    ("", "1", "'' is no column"),
    ("make__nonsense", "1", "'nonsense' is no filter"),
    ("make__", "1", "'' is no filter"),
    ("make__exact__gte", "1", "'make__exact' is no column"),
    ("make__arraycontains", "1", "'arraycontains' is no filter"),
    ('make" OR 1=1 --', "x", "is no column"),
    ("make) OR (1__gte", "1", "is no column"),
    ("rowid", "1", "'rowid' is no column"),
    ("_where", "1=1", "_where is no parameter"),
    ("_where", "make='HONDA'", "_where is no parameter"),
    ("_search", "HONDA", "_search is no parameter"),
    ("_sort", "make", "_sort is no parameter"),
    ("_size", "1", "_size is no parameter"),
    ("_filter_column", "make", "_filter_column is no parameter"),
    ("_raw", "perhaps", "_raw is 1 or 0, not 'perhaps'"),
    ("make__in", "[1,", "in filter"),
    ("make__in", '["a", {"b": 1}]', "in filter"),
    ("make__in", '[["a"]]', "in filter"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD_CHOICES)
async def test_choice_that_there_is_not_is_400_in_words(
    make_instance: MakeInstance, tmp_path: Path, name: str, value: str, words: str
) -> None:
    insert(tmp_path / "vin.db", FLEET)
    datasette = await make_instance()
    response = await datasette.client.get("/export", params={name: value})
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")
    assert words in response.json()["error"]


HOSTILE = [
    "' OR 1=1 --",
    "'; DROP TABLE vehicles; --",
    '" OR ""="',
    "HONDA') OR (1=1",
    ":p0",
    "?",
    "\0",
    "\ud7ff",
    "99999999999999999999999",
    "²",
]


@pytest.mark.parametrize("filter_name", ["exact", "gte", "in", "contains", "glob", "date"])
@pytest.mark.parametrize("value", HOSTILE)
async def test_values_are_never_sql(make_instance: MakeInstance, tmp_path: Path, filter_name: str, value: str) -> None:
    insert(tmp_path / "vin.db", FLEET)
    datasette = await make_instance()
    response = await datasette.client.get("/export", params={f"plant_city__{filter_name}": value})
    if response.status_code == 200:
        assert pq.read_table(io.BytesIO(response.content)).num_rows == 0
    else:
        assert (response.status_code, response.json()["ok"]) == (400, False)
    assert len(rows(tmp_path / "vin.db")) == len(FLEET)


# The command: one file


def test_command_replaces_an_existing_file(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_text("what was here before")
    run(tmp_path / "out.parquet", "--db", cache)
    assert read_by_pyarrow(tmp_path / "out.parquet")[0]["vin"] == rows(cache)[0]["vin"]


def test_command_leaves_nothing_beside_the_file(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    run(folder / "out.parquet", "--db", cache)
    assert [path.name for path in folder.iterdir()] == ["out.parquet"]


def test_file_may_be_read_by_whom_the_mask_lets(cache: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        run(tmp_path / "out.parquet", "--db", cache)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.parquet").stat().st_mode) == 0o640


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to export into, of its own."""
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


def started(*arguments: str | Path, **options: Any) -> subprocess.Popen[bytes]:
    """A process of its own that exports."""
    return subprocess.Popen(
        [SCRIPT, "export", *arguments],
        env=clean_environment(),
        **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def interrupted(process: subprocess.Popen[bytes], folder: Path, number: signal.Signals) -> int:
    """Send a signal to an export that has begun to write into a folder, and wait for its end."""
    with process:
        until(lambda: [path for path in folder.glob(".*") if path.stat().st_size])
        process.send_signal(number)
        return process.wait(60)


def test_export_that_is_killed_leaves_the_file_that_was_there(large: Path, folder: Path) -> None:
    target = folder / "out.parquet"
    target.write_text("what was here before")
    code = interrupted(started(target, "--db", large), folder, signal.SIGKILL)
    assert (code, target.read_text()) == (-signal.SIGKILL, "what was here before")


def test_export_that_is_killed_leaves_no_file_of_the_name(large: Path, folder: Path) -> None:
    code = interrupted(started(folder / "out.parquet", "--db", large), folder, signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []


def test_partitions_that_are_killed_leave_no_folder_of_the_name(large: Path, folder: Path) -> None:
    process = started(folder / "out", "--db", large, "--partition-by", "make")
    with process:
        until(lambda: list(folder.glob(".*/*/*.parquet")))
        process.kill()
        code = process.wait(60)
    assert code == -signal.SIGKILL
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []


def test_export_that_is_interrupted_leaves_nothing(large: Path, folder: Path) -> None:
    code = interrupted(started(folder / "out.parquet", "--db", large), folder, signal.SIGINT)
    assert (code, list(folder.iterdir())) == (1, [])


def missing_folder(folder: Path) -> Path:
    return folder / "missing" / "out.parquet"


def file_as_folder(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "out.parquet"


def existing_folder(folder: Path) -> Path:
    (folder / "out.parquet").mkdir()
    return folder / "out.parquet"


def too_long(folder: Path) -> Path:
    return folder / ("o" * 300 + ".parquet")


@pytest.mark.parametrize("target_in", [missing_folder, file_as_folder, existing_folder, too_long])
@pytest.mark.parametrize("options", [(), ("--format", "csv"), ("--partition-by", "make")], ids=" ".join)
def test_target_that_cannot_be_written_is_told_in_words(
    cache: Path, folder: Path, target_in: Callable[[Path], Path], options: tuple[str, ...]
) -> None:
    target = target_in(folder)
    before = sorted(folder.rglob("*"))
    ran = run(target, "--db", cache, "--silent", *options)
    assert (ran.exit_code, ran.stderr.count("\n")) == (1, 1)
    assert re.search(r"could not be written: \w+|is there already", ran.stderr)
    assert sorted(folder.rglob("*")) == before


def test_full_disk_is_told_in_words(cache: Path, folder: Path) -> None:
    ran = on_full_disk(folder / "out.parquet", "--db", cache)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert re.fullmatch(r".*out\.parquet could not be written: \w+.*\.\n", ran.stderr)


def on_full_disk(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """An export where no file may be larger than 64 kB."""
    return subprocess.run(
        [SCRIPT, "export", *arguments],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536)),
    )


def test_full_disk_leaves_the_file_that_was_there_and_nothing_else(cache: Path, folder: Path) -> None:
    (folder / "out.parquet").write_text("what was here before")
    on_full_disk(folder / "out.parquet", "--db", cache)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"out.parquet": "what was here before"}


def test_full_disk_leaves_nothing_of_partitions(cache: Path, folder: Path) -> None:
    with closing(sqlite3.connect(cache)) as connection, connection:
        connection.execute("UPDATE vehicles SET make = 'HONDA'")
    ran = on_full_disk(folder / "out", "--db", cache, "--partition-by", "make")
    assert (ran.returncode, "could not be written" in ran.stderr, list(folder.iterdir())) == (1, True, [])


@pytest.mark.parametrize("options", [(), ("--format", "csv"), ("--format", "jsonl")], ids=" ".join)
def test_full_standard_output_is_told_in_words(cache: Path, options: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full, started("-", "--db", cache, *options, stdout=full) as process:
        assert process.stderr
        said = process.stderr.read().decode()
    assert re.fullmatch(r".*could not be written: No space left on device\.\n", said)
    assert process.returncode == 1


def test_target_that_is_a_full_device_is_told_in_words(cache: Path, folder: Path) -> None:
    # Through a link: should it be replaced after all, then not for the whole machine.
    (folder / "full").symlink_to("/dev/full")
    ran = run(folder / "full", "--db", cache)
    assert (ran.exit_code, ran.stderr.endswith("could not be written: No space left on device.\n")) == (1, True)


def test_target_that_is_no_file_is_not_replaced_by_one(empty: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    # Open at both ends, so that nobody waits for the other.
    pipe = os.open(folder / "pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        run(folder / "pipe", "--db", empty)
    finally:
        os.close(pipe)
    assert (folder / "pipe").is_fifo()


@pytest.mark.parametrize("options", [(), ("--format", "csv"), ("--partition-by", "make")], ids=" ".join)
def test_missing_cache_is_2_and_makes_nothing(folder: Path, options: tuple[str, ...]) -> None:
    ran = run(folder / "out", "--db", folder / "vin.db", *options)
    assert (ran.exit_code, list(folder.iterdir())) == (2, [])
    assert f"There is no cache {folder / 'vin.db'}." in ran.stderr


def test_file_that_is_no_cache_is_2_and_makes_nothing(folder: Path) -> None:
    (folder / "vin.db").write_bytes(b"this is no database, by any means " * 100)
    ran = run(folder / "out.parquet", "--db", folder / "vin.db")
    assert (ran.exit_code, [path.name for path in folder.iterdir()]) == (2, ["vin.db"])
    assert "cannot be read as a cache" in ran.stderr


def test_cache_that_sqlite_cannot_open_is_2_in_words(tmp_path: Path, folder: Path) -> None:
    # Longer than SQLite takes, and shorter than the system does.
    deep = tmp_path.joinpath(*["d" * 200] * 3)
    deep.mkdir(parents=True)
    (deep / "vin.db").write_bytes(b"")
    ran = run(folder / "out.parquet", "--db", deep / "vin.db")
    assert (ran.exit_code, isinstance(ran.exception, SystemExit)) == (2, True)
    assert "cannot be read as a cache" in ran.stderr


# The command: standard output


def test_pipe_gets_the_bytes_of_the_file(cache: Path, tmp_path: Path) -> None:
    run(tmp_path / "out.parquet", "--db", cache)
    with started("-", "--db", cache) as process:
        assert process.stdout
        piped = process.stdout.read()
    assert process.returncode == 0
    assert timeless(piped) == timeless((tmp_path / "out.parquet").read_bytes())


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_reader_of_a_pipe_that_goes_away_gets_no_traceback(large: Path, kind: str) -> None:
    with started("-", "--db", large, "--format", kind) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(10)
        process.stdout.close()
        said = process.stderr.read().decode()
    assert said == ""


def test_parquet_is_not_written_to_a_terminal(cache: Path) -> None:
    master, terminal = pty.openpty()
    with (
        open(master, "rb", buffering=0),
        open(terminal, "wb", buffering=0) as out,
        started("-", "--db", cache, stdout=out) as process,
    ):
        assert process.stderr
        said = process.stderr.read().decode()
    assert (process.returncode, "terminal" in said) == (2, True)


# The command: CSV and JSON lines


def read_csv(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def read_json_lines(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [json.loads(line) for line in file]


TEXT_READERS: dict[str, Callable[[Path], Rows]] = {"csv": read_csv, "jsonl": read_json_lines}


def as_text(value: object) -> str | float:
    """A value as CSV has it; numbers with a fraction may be written in several ways."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    return value if isinstance(value, float) else "" if value is None else str(value)


def test_csv_holds_what_the_cache_holds(cache: Path, tmp_path: Path) -> None:
    run(tmp_path / "out.csv", "--db", cache)
    expected = [{name: as_text(value) for name, value in row.items()} for row in promised(cache)]
    found = read_csv(tmp_path / "out.csv")
    for row, wanted in zip(found, expected, strict=False):
        row.update({name: float(row[name]) for name, value in wanted.items() if isinstance(value, float)})
    assert differences(found, expected) == []


def test_json_lines_hold_what_the_cache_holds(cache: Path, tmp_path: Path) -> None:
    run(tmp_path / "out.jsonl", "--db", cache)
    expected = [{**row, "fetched_at": f"{row['fetched_at']:%Y-%m-%dT%H:%M:%SZ}"} for row in promised(cache)]
    assert differences(read_json_lines(tmp_path / "out.jsonl"), expected) == []


@pytest.mark.parametrize(
    ("kind", "first"), [("csv", b'"vin","make","model"'), ("jsonl", b'{"vin": "1HGCM82633A00'), ("parquet", b"PAR1")]
)
@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.parquet", "out"])
def test_format_that_is_asked_for_wins_over_the_name(
    cache: Path, tmp_path: Path, kind: str, first: bytes, name: str
) -> None:
    run(tmp_path / name, "--db", cache, "--format", kind)
    assert (tmp_path / name).read_bytes().startswith(first)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("out.csv", b'"vin",'),
        ("OUT.CSV", b'"vin",'),
        ("out.jsonl", b'{"vin": '),
        ("out.ndjson", b'{"vin": '),
        ("out.parquet", b"PAR1"),
        ("out", b"PAR1"),
        ("out.csv.parquet", b"PAR1"),
    ],
)
def test_format_is_what_the_name_ends_in(cache: Path, tmp_path: Path, name: str, first: bytes) -> None:
    run(tmp_path / name, "--db", cache)
    assert (tmp_path / name).read_bytes().startswith(first)


@pytest.mark.parametrize("kind", TEXT_READERS)
def test_text_goes_to_a_pipe_as_to_a_file(cache: Path, tmp_path: Path, kind: str) -> None:
    run(tmp_path / "out", "--db", cache, "--format", kind)
    assert run("-", "--db", cache, "--format", kind).stdout_bytes == (tmp_path / "out").read_bytes()


def test_empty_cache_is_a_header_in_csv_and_nothing_in_json_lines(empty: Path) -> None:
    [header] = run("-", "--db", empty, "--format", "csv").stdout.splitlines()
    assert next(csv.reader([header])) == exported(empty).column_names
    assert run("-", "--db", empty, "--format", "jsonl").stdout == ""


# The command: partitions

ODD_MAKES = [
    "HONDA",
    "A/B",
    "../..",
    "..",
    'O\'NEIL "INC"',
    "Škoda 日本",
    "100%",
    "%41",
    "a=b",
    "a+b c",
    "C:\\*?[x]",
    "#1",
]


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A cache of makes that are no names for folders, and of model years with and without."""
    years = [1999, 2003, None]
    numbers = range(len(ODD_MAKES) * len(years))
    vehicles = [
        {"vin": vin(number), "make": ODD_MAKES[number // 3], "model_year": years[number % 3], "doors": number}
        for number in numbers
    ]
    insert(tmp_path / "odd.db", vehicles)
    return tmp_path / "odd.db"


def folder_by_pyarrow(path: Path) -> Rows:
    found: Rows = pa_dataset.dataset(path, partitioning="hive").to_table().to_pylist()
    return found


def folder_by_duckdb(path: Path) -> Rows:
    with duckdb.connect() as connection:
        cursor = connection.execute(
            "SELECT * REPLACE (epoch(fetched_at) AS fetched_at) FROM read_parquet(?, hive_partitioning = true)",
            [str(path / "**" / "*.parquet")],
        )
        names = [description[0] for description in cursor.description]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return [{**row, "fetched_at": datetime.fromtimestamp(row["fetched_at"], timezone.utc)} for row in found]


@pytest.mark.parametrize("read", [folder_by_pyarrow, folder_by_duckdb])
@pytest.mark.parametrize("by", [["make"], ["model_year"], ["make", "model_year"], ["model_year", "make"]], ids="+".join)
def test_partitions_hold_what_the_cache_holds(
    odd: Path, tmp_path: Path, read: Callable[[Path], Rows], by: list[str]
) -> None:
    run(tmp_path / "out", "--db", odd, *(f"--partition-by={column}" for column in by))
    found = sorted(read(tmp_path / "out"), key=lambda row: str(row["vin"]))
    for row in found:
        # Readers take a year in a folder's name for a number, and one that is absent for null.
        row["model_year"] = "" if row["model_year"] is None else str(row["model_year"])
    assert differences(found, promised(odd)) == []


@pytest.mark.parametrize(
    ("by", "files"),
    [
        (["make"], ["make=A%2FB", "make=Caf%C3%A9"]),
        (["model_year"], ["model_year=1999", "model_year=__HIVE_DEFAULT_PARTITION__"]),
        (
            ["make", "model_year"],
            ["make=A%2FB/model_year=1999", "make=Caf%C3%A9/model_year=__HIVE_DEFAULT_PARTITION__"],
        ),
    ],
    ids=lambda value: "+".join(value) if value[0] in CONTRACT else "",
)
def test_partitions_are_named_as_readers_know_them(tmp_path: Path, by: list[str], files: list[str]) -> None:
    insert(
        tmp_path / "vin.db",
        [{"vin": vin(1), "make": "A/B", "model_year": 1999}, {"vin": vin(2), "make": "Café", "model_year": None}],
    )
    run(tmp_path / "out", "--db", tmp_path / "vin.db", *(f"--partition-by={column}" for column in by))
    found = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet"))
    assert found == [f"{file}/vehicles.parquet" for file in files]


@pytest.mark.parametrize("contents", [[], ["kept"]], ids=["empty", "with a file"])
def test_partitions_do_not_go_into_a_folder_that_is_there(odd: Path, folder: Path, contents: list[str]) -> None:
    for name in contents:
        (folder / name).touch()
    ran = run(folder, "--db", odd, "--partition-by", "make")
    assert (ran.exit_code, [path.name for path in folder.iterdir()]) == (1, contents)
    assert "is there already" in ran.stderr


@pytest.mark.parametrize("arguments", [("-",), ("out.csv",), ("out", "--format", "jsonl")], ids=" ".join)
def test_partitions_are_parquet_in_a_folder_or_nothing(
    odd: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(folder)
    ran = run(*arguments, "--db", odd, "--partition-by", "make")
    assert (ran.exit_code, list(folder.iterdir())) == (2, [])


# The command: progress


def on_terminal(*arguments: str | Path) -> str:
    """What an export writes to a terminal."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    with open(master, "rb", buffering=0) as screen:
        with open(terminal, "wb", buffering=0) as standard_error:
            process = started(*arguments, stderr=standard_error, stdout=subprocess.DEVNULL)
        shown = b""
        with process, contextlib.suppress(OSError):  # Reading ends with an error when the terminal is closed.
            while more := screen.read(4096):
                shown += more
    assert process.returncode == 0
    return shown.decode()


def test_terminal_shows_vehicles_and_bytes(cache: Path, tmp_path: Path) -> None:
    shown = on_terminal(tmp_path / "out.parquet", "--db", cache)
    last = shown.rstrip().rpartition("\r")[2]
    assert re.search(rf"\b1500 vehicles .*\b{(tmp_path / 'out.parquet').stat().st_size:,} bytes", last)


def test_terminal_shows_nothing_when_silent(cache: Path, tmp_path: Path) -> None:
    assert on_terminal(tmp_path / "out.parquet", "--db", cache, "--silent") == ""


@pytest.mark.parametrize("target", ["out.parquet", "out.csv", "-"])
def test_nothing_is_said_where_there_is_no_terminal(cache: Path, folder: Path, target: str) -> None:
    with started(target, "--db", cache, cwd=folder, stdout=subprocess.DEVNULL) as process:
        assert process.stderr
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")
