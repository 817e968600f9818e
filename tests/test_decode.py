"""`vin-datasette decode`: folders of Parquet files into folders of the same shape, whatever comes between."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import dask.config
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ultravin
from click.testing import CliRunner
from dask.distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import SCRIPT, clean_environment, numbered_vins, until
from tests.faults.test_disk import mounted, mounting  # noqa: F401 - a fixture
from tests.test_cli import run_on_terminal
from tests.vpic_server import closed_port
from vin_datasette import fetch
from vin_datasette.arrow import decode_batches, decode_schema
from vin_datasette.cli import cli
from vin_datasette.lake import crew, decoding
from vin_datasette.lake.decoding import Outcome, decode_file, wanted_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from click.testing import Result

ODD = ["IXP5DB9X7XD487964", None, "1XP5DB9X7XD487945", " 1xp5db9x7-xd487964 "]
"""What is no VIN, nothing, a VIN that vPIC rejects, and one as people write it."""

TOLD_WHEN = "fetched_at"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fleet(first: int = 0, rows: int = 6, **columns: Sequence[object]) -> pa.Table:
    """Trucks of an insurer's: some odd VINs, then good ones, and columns of its own."""
    vins = [*ODD, *numbered_vins(first + rows)[first:]][:rows]
    return pa.table({"policy": [*range(first, first + rows)], "vin": vins, "paid": [[1.5, None]] * rows, **columns})


def put(path: str, table: pa.Table | None = None, **options: Any) -> Path:
    """A Parquet file."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(fleet() if table is None else table, path, **options)
    return Path(path)


def large_lake(files: int = 8, rows: int = 6_000) -> None:
    """So much that a run can be met in the middle."""
    vins = ultravin.generate(rows, seed=7)
    for number in range(files):
        put(f"lake/{number}.parquet", pa.table({"row": [*range(rows)], "vin": vins}))


def run(*arguments: str) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(cli, ["decode", *arguments], catch_exceptions=False)


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command, in a process of its own that goes on, as the first of a terminal's group."""
    process = subprocess.Popen(
        [SCRIPT, "decode", *arguments],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """The exit code of a command, and what it said on standard output and standard error."""
    stdout, stderr = process.communicate(timeout=120)
    assert "Traceback" not in stderr
    return process.returncode, stdout, stderr


def account(result: Result) -> str:
    """What a run came to, without the time that it took."""
    assert "Traceback" not in result.output
    return result.stdout.rpartition("; ")[0]


def names(out: str) -> list[str]:
    """All that lies in a folder and those below it, hidden files too."""
    return sorted(str(path.relative_to(out)) for path in Path(out).rglob("*") if path.is_file())


def rows_of(path: Path) -> pa.Table:
    """The rows of one file, without the time at which each was decoded; columns are not taken from its folders."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    assert table[TOLD_WHEN].null_count == table["source"].null_count
    return table.drop_columns([TOLD_WHEN])


def in_one_process(path: Path) -> pa.Table:
    """What the rows of one file come to without any of this."""
    with pq.ParquetFile(path) as file:
        table = file.read()
    schema = decode_schema(table.schema)
    return pa.Table.from_batches(decode_batches(table.to_batches()), schema).drop_columns([TOLD_WHEN])


def assert_decoded(files: int) -> None:
    """Each file of the lake is there, decoded row by row, and nothing else is."""
    assert len(names("lake")) == files
    assert names("out") == names("lake")
    for name in names("lake"):
        assert rows_of(Path("out", name)).equals(in_one_process(Path("lake", name)))


def whole() -> list[str]:
    """The files that are written by now, and bear their names."""
    return [name for name in names("out") if not Path(name).name.startswith(".")] if Path("out").exists() else []


def in_hand() -> list[str]:
    """The files that are being written."""
    return [name for name in names("out") if name.endswith(".partial")] if Path("out").exists() else []


# What is written


def test_folder_is_decoded_into_one_of_the_same_shape() -> None:
    put("lake/a.parquet")
    put("lake/state=TX/month=1/b.snappy.parquet", fleet(10, 30), row_group_size=7)
    put("lake/state=TX/month=2/c.PARQ", fleet(50, 0))
    result = run("lake", "-o", "out", "--processes", "2", "--silent")
    assert (result.exit_code, result.stderr) == (0, "")
    assert account(result) == "3 files: 3 decoded, 0 done before, 0 failed; 36 rows: 30 vehicles, 6 rejected"
    assert_decoded(3)


def test_files_are_decoded_beside_folders_whatever_their_names() -> None:
    put("lake/part-0")
    put("other/state=TX/b.parquet")
    result = run("lake/part-0", "other", "lake/part-0", "-o", "made/out")
    assert result.exit_code == 0
    assert names("made/out") == ["part-0", "state=TX/b.parquet"]


def test_columns_of_its_own_come_first_with_their_types_and_metadata() -> None:
    fields = [
        pa.field("id", pa.int16(), False, {"unit": "policies"}),
        pa.field("vin", pa.dictionary(pa.int8(), pa.string())),
    ]
    table = pa.Table.from_pylist([{"id": 1, "vin": numbered_vins(1)[0]}], pa.schema(fields, {"owner": "Ann"}))
    put("lake/a.parquet", table)
    assert run("lake", "-o", "out", "--columns", "make, doors").exit_code == 0
    schema = pq.read_schema("out/a.parquet")
    assert schema.names == ["id", "vin", "make", "doors", "vin_error"]
    assert [schema.field(0), schema.field(1)] == fields
    assert schema.field(0).metadata[b"unit"] == b"policies"
    assert schema.metadata[b"owner"] == b"Ann"


def test_what_engines_put_beside_their_data_is_passed_over(folder: Path) -> None:
    put("lake/_year=2024/a.parquet")
    for hidden in ("_SUCCESS", ".a.parquet.crc", ".b.parquet", "_metadata.parquet", "notes.txt"):
        (folder / "lake" / hidden).write_text("not Parquet")
    put("lake/_temporary/0/c.parquet")
    put("lake/.hidden/d.parquet")
    put("elsewhere/e.parquet")
    (folder / "lake/e.parquet").symlink_to(folder / "elsewhere/e.parquet")
    (folder / "lake/more").symlink_to(folder / "elsewhere")
    assert run("lake", "-o", "out").exit_code == 0
    assert names("out") == ["_year=2024/a.parquet"]


def test_names_of_folders_are_columns_and_taken() -> None:
    put("lake/Model_Year=2003/a.parquet")
    assert run("lake", "-o", "out", "--columns", "make,model_year").exit_code == 0
    assert pq.read_schema("out/Model_Year=2003/a.parquet").names == [
        *fleet().column_names,
        "make",
        "vpic_model_year",
        "vin_error",
    ]
    columns = pq.read_table("out").column_names
    assert {"Model_Year", "vpic_model_year"} <= {*columns}


def test_columns_that_spark_wrote_down_hide_none_of_those_that_are_added() -> None:
    told = {"org.apache.spark.sql.parquet.row.metadata": json.dumps({"type": "struct", "fields": []}), "writer": "Ann"}
    put("lake/a.parquet", fleet().replace_schema_metadata(told))
    assert run("lake", "-o", "out").exit_code == 0
    metadata = pq.read_metadata("out/a.parquet").metadata
    assert metadata[b"writer"] == b"Ann"
    assert b"org.apache.spark.sql.parquet.row.metadata" not in metadata


def test_what_was_decoded_can_be_decoded() -> None:
    put("lake/a.parquet")
    assert run("lake", "-o", "out", "--columns", "make").exit_code == 0
    assert run("out", "-o", "again", "--columns", "make").exit_code == 0
    [row, *_] = pq.read_table("again/a.parquet").slice(5).to_pylist()
    assert (row["make"], row["vpic_make"]) == ("HONDA", "HONDA")
    assert run("out", "-o", "again", "--columns", "make").stdout.startswith("1 file: 0 decoded, 1 done before")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ([], "Vehicle VIN"),
        (["--column", "vehicle vin"], "Vehicle VIN"),
        (["--column", "2"], "chassis"),
    ],
)
def test_column_is_found_by_its_name_or_named(options: list[str], named: str) -> None:
    good, bad = numbered_vins(1)[0], "no VIN"
    columns = {name: [good if name == named else bad] for name in ("policy", "chassis", "Vehicle VIN")}
    put("lake/a.parquet", pa.table(columns))
    assert run("lake", "-o", "out", *options).exit_code == 0
    assert pq.read_table("out/a.parquet")["vin_error"].to_pylist() == [None]


def test_model_years_that_are_known_are_used() -> None:
    put("lake/a.parquet", pa.table({"vin": ["1XP5DB9X7XD487964"] * 2, "built": ["1999", "2001"]}))
    assert run("lake", "-o", "out", "--model-year-column", "built").exit_code == 0
    right, wrong = rows_of(Path("out/a.parquet"))["warnings"].to_pylist()
    assert right is None
    assert "Asked with model year 2001, vPIC said: " in wrong


def test_cache_answers_first(folder: Path) -> None:
    vin = numbered_vins(1)[0]
    fetch([vin], db=folder / "vin.db", source="embedded")
    with contextlib.closing(sqlite3.connect("vin.db")) as connection, connection:
        connection.execute("UPDATE vehicles SET record = replace(record, '\"HONDA\"', '\"HONDA, AS CACHED\"')")
    before = Path("vin.db").read_bytes()
    put("lake/a.parquet", pa.table({"vin": [vin, "1XP5DB9X7XD487964"]}))
    assert run("lake", "-o", "out", "--cache", "vin.db").exit_code == 0
    assert pq.read_table("out/a.parquet")["make"].to_pylist() == ["HONDA, AS CACHED", "PETERBILT"]
    assert Path("vin.db").read_bytes() == before


OWN_TYPES = st.sampled_from(
    [
        (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
        (pa.float64(), st.floats(allow_nan=False)),
        (pa.large_string(), st.text(st.characters(codec="utf-8"), max_size=20)),
        (pa.binary(), st.binary(max_size=20)),
        (pa.bool_(), st.booleans()),
        (pa.list_(pa.int8()), st.lists(st.integers(-128, 127), max_size=4)),
        (pa.struct({"a": pa.string()}), st.fixed_dictionaries({"a": st.text("ab", max_size=3)})),
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Tables of any columns, with a few VINs."""
    rows = draw(st.integers(0, 20))
    columns = {
        "vin": pa.array(
            draw(st.lists(st.sampled_from(["", *ODD, *numbered_vins(3)]), min_size=rows, max_size=rows)), pa.string()
        )
    }
    for name in draw(st.lists(st.sampled_from(["a", "make", "MAKE", "vin_error", "vpic_make", "ü"]), unique=True)):
        kind, values = draw(OWN_TYPES)
        columns[name] = pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind)
    return pa.table(columns)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), group=st.integers(1, 7))
def test_whatever_columns_a_file_has_come_back_as_they_are(table: pa.Table, group: int, tmp_path: Path) -> None:
    source, target = tmp_path / "a.parquet", tmp_path / "out" / "a.parquet"
    pq.write_table(table, source, row_group_size=group)
    target.unlink(missing_ok=True)
    outcome = decode_file(str(source), str(target), wanted_of(None, None, ["make", "doors"], None))
    decoded = pq.read_table(target)
    assert outcome.problem is None
    assert (outcome.rows, outcome.rejected) == (
        table.num_rows,
        table.num_rows - decoded[decoded.num_columns - 1].null_count,
    )
    assert decoded.select(range(table.num_columns)).equals(table)
    assert decoded.num_columns == table.num_columns + 3


# What is whole is not done again


def times(out: str = "out") -> dict[str, int]:
    return {name: Path(out, name).stat().st_ino for name in names(out)}


def decoded_again(*options: str) -> list[str]:
    """The files that a second run writes anew."""
    before = times()
    assert run("lake", "-o", "out", *options).exit_code == 0
    return [name for name, inode in times().items() if inode != before.get(name)]


@pytest.fixture
def two_decoded() -> None:
    put("lake/a.parquet")
    put("lake/k=1/b.parquet", fleet(10))
    assert run("lake", "-o", "out").exit_code == 0


@pytest.mark.usefixtures("two_decoded")
def test_second_run_has_nothing_to_do() -> None:
    assert decoded_again() == []
    assert account(run("lake", "-o", "out")) == (
        "2 files: 0 decoded, 2 done before, 0 failed; 0 rows: 0 vehicles, 0 rejected"
    )


@pytest.mark.usefixtures("two_decoded")
def test_file_that_is_new_or_has_changed_is_decoded() -> None:
    put("lake/k=1/b.parquet", fleet(20))
    put("lake/k=2/c.parquet")
    assert decoded_again() == ["k=1/b.parquet", "k=2/c.parquet"]
    assert_decoded(3)


@pytest.mark.usefixtures("two_decoded")
def test_file_that_changed_to_the_same_number_of_bytes_is_decoded() -> None:
    before = Path("lake/a.parquet").stat()
    table = fleet()
    # Neither bytes nor rows nor what the footer says of columns tell them apart.
    for vins in (numbered_vins(6), numbered_vins(6)[::-1]):
        put("lake/a.parquet", table.set_column(1, "vin", pa.array(vins)), compression="none", use_dictionary=False)
        os.utime("lake/a.parquet", ns=(before.st_atime_ns, before.st_mtime_ns + 1 + (vins[0] > vins[1])))
        assert decoded_again() == ["a.parquet"]
        assert pq.read_table("out/a.parquet")["vin"].to_pylist() == vins


@pytest.mark.usefixtures("two_decoded")
@pytest.mark.parametrize("options", [["--columns", "make"], ["--model-year-column", "policy"], ["--column", "policy"]])
def test_other_options_decode_all_anew(options: list[str]) -> None:
    if options == ["--column", "policy"]:
        for name in ("a.parquet", "k=1/b.parquet"):
            put(f"lake/{name}", fleet().append_column("other_vin", fleet()["vin"]))
        assert run("lake", "-o", "out").exit_code == 0
        options = ["--column", "other_vin"]
    assert decoded_again(*options) == ["a.parquet", "k=1/b.parquet"]
    assert decoded_again(*options) == []


@pytest.mark.usefixtures("two_decoded")
def test_other_data_decodes_anew() -> None:
    with pq.ParquetFile("out/a.parquet") as file:
        table = file.read()
    month = ultravin.provenance()["data_month"].encode()
    told = {key: value.replace(month, b"2020_01") for key, value in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(told), "out/a.parquet")
    assert decoded_again() == ["a.parquet"]


def test_changed_cache_decodes_anew(folder: Path) -> None:
    put("lake/a.parquet")
    fetch(numbered_vins(1), db=folder / "vin.db", source="embedded")
    result = run("lake", "-o", "out", "--cache", "vin.db")
    assert (result.exit_code, result.stderr) == (0, "")
    assert decoded_again("--cache", "vin.db") == []
    fetch(numbered_vins(3), db=folder / "vin.db", source="embedded")
    assert decoded_again("--cache", "vin.db") == ["a.parquet"]


def test_outputs_can_be_moved_and_are_still_known() -> None:
    put("lake/a.parquet")
    assert run("lake", "-o", "out").exit_code == 0
    Path("lake").rename("lake2")
    Path("out").rename("out2")
    assert run("lake2", "-o", "out2").stdout.startswith("1 file: 0 decoded, 1 done before")


# Ended in the middle


def in_the_middle(process: subprocess.Popen[str]) -> None:
    """Wait until some files are whole and another is being written."""
    until(lambda: len(whole()) > 1 and in_hand())
    assert process.poll() is None


def children(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a process has made."""
    return [*map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())]


def is_alive(process: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    return False


def test_run_that_was_killed_goes_on_where_it_was() -> None:
    large_lake()
    with started("lake", "-o", "out", "--processes", "2", "--silent") as process:
        in_the_middle(process)
        others = children(process)
        process.kill()
    assert len(others) >= 2
    until(lambda: not any(map(is_alive, others)))
    left = times()
    assert len(whole()) < 8
    assert in_hand()
    result = run("lake", "-o", "out")
    assert result.exit_code == 0
    assert (
        f"{len(left) - len([name for name in left if name.endswith('.partial')])} done before, 0 failed"
        in result.stdout
    )
    assert [name for name, inode in times().items() if left.get(name, inode) != inode] == []
    assert_decoded(8)


@pytest.mark.one_end
@pytest.mark.parametrize(
    ("sent", "to", "code", "word"),
    [
        (signal.SIGINT, os.killpg, 130, "Interrupted"),
        (signal.SIGTERM, os.kill, -signal.SIGTERM, "Terminated"),
        (signal.SIGTERM, os.killpg, -signal.SIGTERM, "Terminated"),
    ],
)
def test_run_that_is_ended_leaves_what_is_whole(
    sent: signal.Signals, to: Callable[[int, int], None], code: int, word: str
) -> None:
    large_lake()
    with started("lake", "-o", "out", "--processes", "2", "--silent") as process:
        in_the_middle(process)
        to(process.pid, sent)
        returned, stdout, stderr = ended(process)
    assert (returned, stderr) == (code, f"{word}. Files that are whole are kept; call again to go on.\n")
    assert stdout.startswith("8 files: ")
    assert 1 < len(whole()) < 8
    assert in_hand() == []
    for name in whole():
        assert rows_of(Path("out", name)).equals(in_one_process(Path("lake", name)))


def test_process_that_is_killed_ends_the_run_in_words() -> None:
    large_lake()
    with started("lake", "-o", "out", "--processes", "2", "--silent") as process:
        in_the_middle(process)
        decoding = [
            child for child in children(process) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        os.kill(decoding[-1], signal.SIGKILL)
        returned, _, stderr = ended(process)
    assert in_hand() == []
    assert (returned, stderr) == (
        1,
        "A process that decodes was ended from outside, as by a system that runs out of memory; "
        "try fewer --processes.\n",
    )
    assert run("lake", "-o", "out", "--silent").exit_code == 0
    assert_decoded(8)


# What cannot be read or written


def assert_refused(words: str, *arguments: str, code: int = 2) -> None:
    before = names(".")
    result = run(*arguments)
    assert words in result.stderr
    assert (result.exit_code, result.stdout, names(".")) == (code, "", before)


def test_inputs_that_are_not_there_are_refused(folder: Path) -> None:
    (folder / "empty/below").mkdir(parents=True)
    put("elsewhere/a.parquet")
    (folder / "empty/a.parquet").symlink_to(folder / "elsewhere/a.parquet")
    assert_refused("There is no file nowhere; check its name and folder.", "nowhere", "-o", "out")
    assert_refused("empty has no Parquet file: none whose name ends in .parquet, .parq, .pq", "empty", "-o", "out")
    assert_refused("Missing argument 'IN...'", "-o", "out")
    assert_refused("Missing option '-o' / '--output'", "empty")
    assert not Path("out").exists()


@pytest.mark.parametrize("out", ["lake", "lake/out", "lake/k=1", "./lake/../lake/", "link"])
def test_output_in_an_input_is_refused(out: str, folder: Path) -> None:
    put("lake/k=1/a.parquet")
    (folder / "link").symlink_to(folder / "lake/k=1")
    assert_refused("lake is read, and what is written would lie in it; name a folder elsewhere.", "lake", "-o", out)


def test_output_over_an_input_is_refused() -> None:
    put("lake/a.parquet")
    put("lake/k=1/k=1/a.parquet")
    assert_refused(f"{Path('lake/a.parquet').resolve()} is read, and would be written", "lake/a.parquet", "-o", "lake")
    assert_refused("is read, and would be written", "lake/k=1", "-o", "lake", "lake/a.parquet")


def test_two_inputs_of_one_output_are_refused() -> None:
    put("one/k=1/a.parquet")
    put("two/k=1/a.parquet")
    both = f"{Path('one/k=1/a.parquet').resolve()} and {Path('two/k=1/a.parquet').resolve()} would both be written to"
    assert_refused(both, "one", "two", "-o", "out")


def test_options_that_cannot_be_are_refused(folder: Path) -> None:
    put("lake/a.parquet")
    (folder / "junk.db").write_text("no database " * 100)
    assert_refused("'colour'", "lake", "-o", "out", "--columns", "make,colour")
    assert_refused(f"There is no cache {folder / 'nowhere.db'}", "lake", "-o", "out", "--cache", "nowhere.db")
    assert_refused("junk.db", "lake", "-o", "out", "--cache", "junk.db")
    assert_refused("Invalid value for '--processes'", "lake", "-o", "out", "--processes", "0")
    assert_refused("--processes are of this machine", "lake", "-o", "out", "--processes", "2", "--dask", "tcp://h:1")


def test_folder_that_cannot_be_written_to_is_told_of(folder: Path) -> None:
    put("lake/a.parquet")
    (folder / "file").write_text("")
    assert_refused("file could not be written: File exists.", "lake", "-o", "file", code=1)
    assert_refused("file/out could not be written: Not a directory.", "lake", "-o", "file/out", code=1)
    assert_refused("/proc/out could not be written: ", "lake", "-o", "/proc/out", code=1)


def broken(path: str, how: str) -> None:
    table = fleet(rows=5000)
    if how == "cut off":
        content = put(path, table).read_bytes()
        Path(path).write_bytes(content[: len(content) // 2])
    elif how == "damaged within":
        content = put(path, table, compression="zstd", row_group_size=1000).read_bytes()
        middle = len(content) // 2
        Path(path).write_bytes(content[:middle] + bytes(2000) + content[middle + 2000 :])
    elif how == "empty":
        Path(path).write_bytes(b"")
    elif how == "text":
        Path(path).write_text("vin\n1XP5DB9X7XD487964\n")


@pytest.mark.parametrize("how", ["cut off", "damaged within", "empty", "text"])
def test_broken_file_costs_no_other(how: str) -> None:
    put("lake/a.parquet")
    broken("lake/b.parquet", how)
    put("lake/c.parquet")
    result = run("lake", "-o", "out")
    assert (result.exit_code, names("out")) == (1, ["a.parquet", "c.parquet"])
    assert account(result).startswith("3 files: 2 decoded, 0 done before, 1 failed; 12 rows")
    [line] = result.stderr.splitlines()
    assert line.startswith(f"{Path('lake/b.parquet').resolve()} cannot be read as Parquet: ")
    assert line.endswith(". Get or write it anew.")


def test_broken_file_leaves_what_was_made_of_it_before() -> None:
    put("lake/a.parquet")
    assert run("lake", "-o", "out").exit_code == 0
    before = Path("out/a.parquet").read_bytes()
    broken("lake/a.parquet", "damaged within")
    assert run("lake", "-o", "out").exit_code == 1
    assert (names("out"), Path("out/a.parquet").read_bytes()) == (["a.parquet"], before)


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (
            pa.table({"id": [1], "name": ["x"]}),
            [],
            "was found to hold VINs; say which does with --column. Its columns are: 1 'id', 2 'name'.",
        ),
        (fleet(), ["--column", "chassis"], "has no column 'chassis'; its columns are: 1 'policy', 2 'vin', 3 'paid'."),
        (
            fleet(),
            ["--model-year-column", "built"],
            "has no column 'built'; its columns are: 1 'policy', 2 'vin', 3 'paid'.",
        ),
        (fleet(), ["--column", "paid"], "cannot be decoded: "),
    ],
)
def test_column_that_is_not_there_is_told_of_with_those_that_are(
    table: pa.Table, options: list[str], words: str
) -> None:
    put("lake/a.parquet", table)
    result = run("lake", "-o", "out", *options)
    assert (result.exit_code, names("out")) == (1, [])
    assert words in result.stderr
    assert str(Path("lake/a.parquet").resolve()) in result.stderr


@pytest.mark.parametrize("theirs", ["Parquet", "text"])
def test_what_others_wrote_is_not_replaced(theirs: str) -> None:
    put("lake/a.parquet")
    before = put("out/a.parquet", fleet(99)).read_bytes() if theirs == "Parquet" else b"notes"
    Path("out").mkdir(exist_ok=True)
    Path("out/a.parquet").write_bytes(before)
    result = run("lake", "-o", "out")
    assert result.exit_code == 1
    assert "a.parquet is there already and is not what an earlier run has written; it is kept." in result.stderr
    assert Path("out/a.parquet").read_bytes() == before


def test_hidden_files_of_others_are_kept(folder: Path) -> None:
    put("lake/a.parquet")
    (folder / "out").mkdir()
    for name in (".a.parquet.crc", ".other.parquet.x.partial", "a.parquet.x.partial", ".a.parquet.abcd.partial"):
        (folder / "out" / name).write_text("")
    assert run("lake", "-o", "out").exit_code == 0
    assert names("out") == [".a.parquet.crc", ".other.parquet.x.partial", "a.parquet", "a.parquet.x.partial"]


@pytest.mark.one_end
@pytest.mark.usefixtures("mounting")
def test_full_disk_ends_the_run_in_words(folder: Path) -> None:
    large_lake(files=6, rows=10_000)
    (folder / "small").mkdir()
    command = {"args": [SCRIPT, "decode", folder / "lake", "-o", "out", "--silent"], "env": clean_environment()}
    # The disk goes with the last process that sees it.
    then = ["sh", "-c", '"$@"; code=$?; ls -A out; exit $code', "sh", *command["args"]]
    on_it = mounted(f"-t tmpfs -o size=700k tmpfs {folder / 'small'}", folder / "small", {**command, "args": then})
    ended = subprocess.run(**on_it, capture_output=True, check=False, timeout=60, text=True)
    first, *_, last = ended.stderr.splitlines()
    assert ended.returncode == 1
    assert first.endswith(".parquet could not be written: No space left on device.")
    assert last == "No other file is begun, for the same would happen to it."
    summary, *listed = ended.stdout.splitlines()
    assert re.match(r"6 files: [0-5] decoded, 0 done before, [12] failed", summary)
    assert [name for name in listed if not re.fullmatch(r"\d\.parquet", name)] == []


def test_machine_with_other_data_decodes_nothing(folder: Path) -> None:
    put("lake/a.parquet")
    here = wanted_of(None, None, None, None)
    wanted = decoding.Wanted(None, None, None, None, here.engine.replace("2026", "2020"))
    outcome = decode_file(str(folder / "lake/a.parquet"), str(folder / "out/a.parquet"), wanted)
    assert outcome == Outcome(problem=outcome.problem)
    assert "Install the same versions on all machines." in str(outcome.problem)
    assert not Path("out").exists()


# Progress


def test_progress_is_a_bar_of_files_and_rows_on_a_terminal() -> None:
    put("lake/a.parquet")
    put("lake/b.parquet", fleet(rows=500))
    code, shown = run_on_terminal("stderr", "decode", "lake", "-o", "out")
    assert code == 0
    assert re.search(r"Decoding: 100%\|.*\| 2/2 .*506 rows", shown)


def test_progress_is_a_line_now_and_then_where_nobody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vin_datasette.fleet.progress.EVERY", 0.0)
    put("lake/a.parquet")
    lines = run("lake", "-o", "out").stderr.splitlines()
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[01] of 1 files, \d rows; \d+ a second", line)] == []


def test_silent_tells_failures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vin_datasette.fleet.progress.EVERY", 0.0)
    put("lake/a.parquet")
    broken("lake/b.parquet", "empty")
    [line] = run("lake", "-o", "out", "--silent").stderr.splitlines()
    assert "b.parquet cannot be read as Parquet: " in line


# Dask


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A scheduler and two workers, processes on loopback."""
    options = {"dashboard_address": "127.0.0.1:0", "host": "127.0.0.1", "threads_per_worker": 1}
    # Nobody is far away, and who does not answer soon is dead.
    with dask.config.set({"distributed.comm.timeouts.connect": "2s"}), LocalCluster(n_workers=2, **options) as cluster:
        yield cluster


@pytest.mark.one_end
def test_dask_loses_a_worker_in_the_middle(cluster: LocalCluster) -> None:
    large_lake()
    put("lake/k=1/odd.parquet")
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        processes = client.run(os.getpid)
        with started("lake", "-o", "out", "--dask", cluster.scheduler_address, "--silent") as process:
            in_the_middle(process)
            victim = until(lambda: next((each for each, tasks in client.processing().items() if tasks), None))
            os.kill(processes[victim], signal.SIGKILL)
            returned, stdout, stderr = ended(process)
    assert (returned, stderr) == (0, "")
    # A file may have been whole when its worker died, and was found so by the next.
    assert re.match("9 files: [89] decoded, [01] done before, 0 failed; ", stdout)
    left = in_hand()
    for name in left:
        Path("out", name).unlink()
    assert_decoded(9)
    assert len(left) <= 1


@pytest.mark.one_end
def test_ctrl_c_cancels_what_dask_has_not_begun(cluster: LocalCluster) -> None:
    large_lake(files=30)
    with started("lake", "-o", "out", "--dask", cluster.scheduler_address, "--silent") as process:
        in_the_middle(process)
        os.killpg(process.pid, signal.SIGINT)
        returned, _, stderr = ended(process)
    assert (returned, stderr) == (130, "Interrupted. Files that are whole are kept; call again to go on.\n")
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        until(lambda: not any(client.processing().values()) and not in_hand())
    assert len(whole()) < 30


@pytest.mark.parametrize(
    "address", ["", "nonsense", "http://127.0.0.1:8786", "tcp://127.0.0.1:0", "tcp://h:99999", "a b:1"]
)
def test_address_that_is_none_is_told_of(address: str) -> None:
    put("lake/a.parquet")
    result = run("lake", "-o", "out", "--dask", address)
    assert result.exit_code == 1
    assert f"{address!r} is no address of a Dask scheduler, such as tcp://10.0.0.7:8786." in result.stderr


def test_scheduler_that_does_not_answer_is_told_of_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "CONNECT_SECONDS", 0.3)
    put("lake/a.parquet")
    with closed_port() as url:
        address = f"tcp://{urlsplit(url).netloc}"
        result = run("lake", "-o", "out", "--dask", address)
    assert result.exit_code == 1
    assert f"No Dask scheduler answers at {address}: " in result.stderr
    assert names("out") == []


@pytest.mark.one_end
def test_scheduler_without_workers_is_told_of_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "CONNECT_SECONDS", 2)
    put("lake/a.parquet")
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster:
        result = run("lake", "-o", "out", "--dask", cluster.scheduler_address)
    assert result.exit_code == 1
    assert "has no workers; start some with: dask worker tcp://127.0.0.1:" in result.stderr


def test_missing_dask_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    put("lake/a.parquet")
    result = run("lake", "-o", "out", "--dask", "tcp://127.0.0.1:8786")
    assert result.exit_code == 1
    assert "--dask needs distributed: pip install 'vin-datasette[dask]'" in result.stderr
