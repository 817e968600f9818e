"""Any file is rows, or told in words what is wrong with it, in bounded memory; and what was read before stands.

VIN_DATASETTE_FUZZ_EXAMPLES=100000 python -m pytest tests/fuzz/test_files.py
"""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import SCRIPT, clean_environment, numbered_vins
from tests.fuzz import DERANDOMIZE, EXAMPLES
from vin_datasette.fleet.inputs import InputError, open_fleet
from vin_datasette.fleet.pasted import vins_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from vin_datasette.fleet.row import Row

each = settings(
    max_examples=EXAMPLES,
    derandomize=DERANDOMIZE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

VINS = [str(vin) for vin in numbered_vins(12)]
OBJECTS: list[dict[str, object]] = [
    {"unit": number, "VIN": vin, "note": "a, b\n\u0160" * (number % 3)} for number, vin in enumerate(VINS)
]

SECONDS = 20
"""What an example may take on a busy machine; each takes a few milliseconds."""


# Files as they should be


def delimited(delimiter: str, encoding: str) -> bytes:
    lines = [delimiter.join(["unit", "VIN", "note"])]
    lines += [delimiter.join([str(item["unit"]), str(item["VIN"]), f'"{item["note"]}"']) for item in OBJECTS]
    return "\r\n".join(lines).encode(encoding)


def parquet(**options: object) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(OBJECTS), out, **options)
    return out.getvalue()


def database_file(folder: Path) -> bytes:
    path = folder / "made.db"
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE t (unit INTEGER, VIN TEXT, note TEXT); CREATE INDEX i ON t (VIN);"
            "CREATE VIEW v AS SELECT VIN, note FROM t ORDER BY note;"
            "CREATE TRIGGER g INSTEAD OF INSERT ON v BEGIN DELETE FROM t; END;"
            "CREATE VIRTUAL TABLE f USING fts5 (VIN);"
        )
        connection.executemany("INSERT INTO t VALUES (:unit, :VIN, :note)", OBJECTS * 9)
        connection.execute("INSERT INTO f SELECT VIN FROM t")
        connection.commit()
    return path.read_bytes()


JSON_LINES = "".join(json.dumps(item) + "\n" for item in OBJECTS).encode()
WHOLE: dict[str, bytes] = {
    "a.txt": "\n".join(VINS).encode(),
    "a.csv": delimited(",", "utf-8-sig"),
    "b.csv": delimited(";", "utf-16"),
    "a.tsv": delimited("\t", "cp1252"),
    "a.json": json.dumps(OBJECTS).encode(),
    "b.json": json.dumps(VINS, indent=1).encode("utf-16-le"),
    "a.jsonl": JSON_LINES,
    "a.parquet": parquet(),
    "b.parquet": parquet(compression="gzip", use_dictionary=False, row_group_size=5),
    "a.csv.gz": gzip.compress(delimited(",", "utf-8"), mtime=0),
    "a.json.gz": gzip.compress(json.dumps(OBJECTS).encode(), mtime=0),
    "none": b"",
}
ODD_BYTES = [b"\0", b'"', b"\n", b"\r", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b",", b"\x1f\x8b", b"[", b"}", b"\\"]
ODD_BYTES += [
    b"\x80",
    b"9" * 400,
    b'"' * 99,
    b"PAR1",
    b"\xff\xff\xff\x7f",
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"SQLite format 3\0",
]


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The content of a file with some of it changed, lost, doubled, moved or cut off."""
    data = whole
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.sampled_from([0, 1, 1, 4, 16, 100, 4096])))
        how = draw(st.sampled_from(["change", "put", "lose", "double", "repeat", "cut", "zero"]))
        piece = draw(st.sampled_from(ODD_BYTES) | st.binary(min_size=1, max_size=6))
        new = {
            "change": piece,
            "put": piece + data[at:end],
            "lose": b"",
            "double": data[at:end] * 2,
            "repeat": piece * draw(st.sampled_from([2, 30, 3_000])),
            "zero": bytes(end - at),
        }
        data = data[:at] if how == "cut" else data[:at] + new[how] + data[end:]
    return data


class Read(NamedTuple):
    """What came of reading: the rows up to where it broke, and what was said there."""

    rows: list[Row]
    columns: list[str]
    said: str


def read(name: str | Path, **options: str | None) -> Read:
    rows: list[Row] = []
    columns: list[str] = []
    said = ""
    began = time.monotonic()
    try:
        with open_fleet(str(name), **options) as fleet:
            columns = fleet.columns
            for row in fleet.rows:
                rows.append(row)  # noqa: PERF402 - those before a failure are kept
    except InputError as error:
        said = str(error)
    assert time.monotonic() - began < SECONDS
    return Read(rows, columns, said)


def check(name: Path | str, found: Read) -> None:
    """Rows that are rows, and words that name the file."""
    numbers = [row.number for row in found.rows]
    assert numbers == sorted(set(numbers))
    assert {len(row.values) for row in found.rows} <= {len(found.columns)}
    assert {type(row.vin) for row in found.rows} <= {str}
    assert {type(row.model_year) for row in found.rows} <= {int, type(None)}
    assert [row for row in found.rows if row.problem is not None and (row.vin or not row.problem.endswith("."))] == []
    assert not found.said or (
        Path(str(name).split(":")[0]).name.split(".")[0] in found.said and found.said.endswith(".")
    )
    assert "Traceback" not in found.said


OPTIONS = st.fixed_dictionaries(
    {
        "column": st.sampled_from([None, None, None, "VIN", "2", "note", "0", "", "9" * 30]),
        "model_year_column": st.sampled_from([None, None, "unit", "1", "x"]),
    }
)


@each
@given(st.data(), st.sampled_from([*WHOLE]), OPTIONS)
def test_a_damaged_file_is_rows_or_words(
    tmp_path: Path, data: st.DataObject, name: str, options: dict[str, str | None]
) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(WHOLE[name])))
    check(path, read(path, **options))


@each
@given(st.data(), st.sampled_from([*WHOLE]), st.sampled_from([*WHOLE, "x.db", "x"]))
def test_the_name_of_a_file_may_lie(tmp_path: Path, data: st.DataObject, content: str, name: str) -> None:
    path = tmp_path / f"as-{name}"
    path.write_bytes(
        gzip.compress(data.draw(damaged(WHOLE[content])), 1) if data.draw(st.booleans()) else WHOLE[content]
    )
    check(path, read(path))


@each
@given(data=st.data(), content=st.sampled_from([*WHOLE]))
def test_the_standard_input_is_rows_or_words(data: st.DataObject, content: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data.draw(damaged(WHOLE[content])))))
        check("standard input", read("-"))


@pytest.fixture(scope="module")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return database_file(tmp_path_factory.mktemp("made"))


@each
@given(data=st.data(), table=st.sampled_from(["t", "v", "f", "f_data", "i", "t.VIN", "x", ""]))
def test_a_damaged_database_is_rows_or_words(
    tmp_path: Path, sqlite_file: bytes, data: st.DataObject, table: str
) -> None:
    path = tmp_path / "fleet.db"
    path.write_bytes(data.draw(damaged(sqlite_file)))
    check(path, read(f"{path}:{table}"))


# What is damaged costs itself alone

LINES = st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0\ufeff"), max_size=40)


@each
@given(line=LINES.filter(lambda line: '"' not in line), at=st.integers(0, len(VINS) - 1))
def test_a_damaged_line_of_csv_costs_no_other_row(tmp_path: Path, line: str, at: int) -> None:
    lines = [f"{number},{vin},x" for number, vin in enumerate(VINS)]
    lines[at] = line
    path = tmp_path / "fleet.csv"
    path.write_text("\n".join(["unit,VIN,note", *lines]), "utf-8", newline="\n")
    found = read(path)
    assert {row.number: row.vin for row in found.rows if row.number != at + 2} == {
        number: vin for number, vin in enumerate(VINS, 2) if number != at + 2
    }


@each
@given(line=LINES, at=st.integers(1, len(VINS) - 1))
def test_a_damaged_line_of_json_costs_no_other_row(tmp_path: Path, line: str, at: int) -> None:
    lines = JSON_LINES.decode().splitlines()
    lines[at] = line
    path = tmp_path / "fleet.jsonl"
    path.write_text("\n".join(lines), "utf-8", newline="\n")
    found = read(path)
    assert [row.vin for row in found.rows if row.number != at + 1] == VINS[:at] + VINS[at + 1 :]


@each
@given(st.data(), st.sampled_from(["a.json", "a.csv.gz", "a.txt"]))
def test_what_came_before_the_end_of_a_file_that_is_cut_off_stands(
    tmp_path: Path, data: st.DataObject, name: str
) -> None:
    path = tmp_path / name
    kept = data.draw(st.integers(0, len(WHOLE[name])))
    path.write_bytes(WHOLE[name][:kept])
    found = [row.vin for row in read(path).rows if len(row.vin) == 17]
    assert found == VINS[: len(found)]


@each
@given(st.data(), st.text("1HGCM82633A004352IOQ \t\n;,|'\"[](){}\\\0\ud800\u0160", max_size=200))
def test_a_pasted_text_is_vins_or_words(data: st.DataObject, text: str) -> None:
    whole = data.draw(
        st.sampled_from([text, f"{VINS[0]}\n{text}", f"unit,VIN\n1,{VINS[0]}\n{text}", f"['{VINS[0]}',{text}]"])
    )
    try:
        found = vins_in(whole)
    except InputError as error:
        found = []
        said = str(error)
    else:
        said = "."
    assert said.endswith(".")
    assert all(isinstance(vin, str) and vin.strip() for vin in found)


# By the command line, in bounded memory

MOST = 300_000_000
"""Bytes of memory that reading any file may take in all; half of it is the program itself."""


def zipped(*pieces: bytes) -> bytes:
    return gzip.compress(b"".join(pieces), 1)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "zeros.gz": (lambda: zipped(bytes(150_000_000)), "no text"),
    "value.json.gz": (lambda: zipped(b'["', b"x" * 300_000_000), "longer than"),
    "number.json": (lambda: b"[" + b"9" * 5_000 + b"]", "1 asked"),
    "nested.json": (lambda: b"[" * 1_000_000, "nested too deeply"),
    "open.csv": (lambda: b"vin,a,b\n" + b'x",,"\n' * 5_000, "5,000 asked"),
    "cut.csv.gz": (lambda: zipped(delimited(",", "utf-8"))[:-20], "cut off"),
}

# What a process that was forked is said to have used begins with what its parent has, so this one is small.
MEASURED = "import resource, subprocess as s, sys; e = s.call(sys.argv[1:]); "
MEASURED += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(e)"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is counted in other units, or not at all")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_ends_in_words_and_in_little_memory(tmp_path: Path, name: str) -> None:
    content, words = HOSTILE[name]
    (tmp_path / name).write_bytes(content())
    command = [str(SCRIPT), "fetch", "-f", name, "--source", "embedded", "--rejections", "out.csv", "--silent"]
    ended = subprocess.run(
        [sys.executable, "-c", MEASURED, *command],
        cwd=tmp_path,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    *told, kilobytes = ended.stdout.splitlines()
    said = ended.stderr + "".join(told)
    assert words in said
    assert "Traceback" not in said
    assert ended.returncode == (1 if "asked" in words else 2)
    assert int(kilobytes) * 1024 < MOST
