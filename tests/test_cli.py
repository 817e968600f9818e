"""The command line: what is printed where, exit codes, and words instead of tracebacks."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import signal
import sqlite3
import stat
import struct
import subprocess
import termios
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

import click
import httpx
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from tests.conftest import SCRIPT, clean_environment, rows, serving
from tests.vpic_server import closed_port, flat_record
from vin_datasette import __version__
from vin_datasette.cache import Cache
from vin_datasette.cli import cli
from vin_datasette.record import Record
from vin_datasette.vehicle import Vehicle
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

    from tests.conftest import Served
    from tests.vpic_server import VpicServer

PETERBILT, HONDA, AUDI = "1XP5DB9X7XD487964", "1HGCM82633A004352", "WA1A4AFY2J2008189"
FAILING_CHECK_DIGIT = "1XP5DB9X7XD487945"
FAILING = f"{FAILING_CHECK_DIGIT}: 1 - Check Digit (9th position) does not calculate properly"
AS_COLUMNS = """\
Input VIN Requested  1XP5DB9X7XD487964
Make                 PETERBILT
Model                379
Model Year           1999
Body Class           Truck-Tractor
Cached Result?       false
"""
AS_JSON = (
    '{"Input VIN Requested": "1XP5DB9X7XD487964", "Make": "PETERBILT", "Model": "379", '
    '"Model Year": "1999", "Body Class": "Truck-Tractor", "Cached Result?": false}'
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which commands run; the embedded database answers unless they say otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIN_DATASETTE_SOURCE", "embedded")
    return tmp_path


def run(*arguments: str, typed: str | bytes | None = None) -> Result:
    """A command, in this process."""
    return CliRunner().invoke(cli, arguments, input=typed, catch_exceptions=False)


def started(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """A command, in a process of its own that goes on."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {**pipes, "text": True, **options}
    environment = clean_environment(VIN_DATASETTE_SOURCE="embedded", **options.pop("variables", {}))
    return subprocess.Popen([SCRIPT, *arguments], env=environment, **options)


def run_process(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command, in a process of its own that has ended."""
    with started(*arguments, **options) as process:
        stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def run_on_terminal(stream: Literal["stdout", "stderr"], *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what a terminal shows that is one of its streams."""
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = b""
    with started(*arguments, **{stream: end}) as process:
        os.close(end)
        # Linux tells by an error that nobody has the other end any more.
        try:
            while part := os.read(terminal, 4096):
                shown += part
        except OSError:
            pass
        os.close(terminal)
        process.communicate(timeout=60)
    return process.returncode, shown.decode()


def assert_fails_in_words(result: Result | subprocess.CompletedProcess[str], exit_code: int, words: str) -> None:
    code = result.exit_code if not isinstance(result, subprocess.CompletedProcess) else result.returncode
    assert words in result.stderr
    assert (code, result.stdout) == (exit_code, "")
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def junk(folder: Path) -> str:
    """A file that is no database."""
    (folder / "junk.db").write_bytes(b"this is no database, by any means " * 100)
    return "junk.db"


# Help

COMMANDS = {"lookup", "fetch", "remove", "export", "decode", "load", "serve"}
ARGUMENTS = {
    # How the help of a command speaks of each of its arguments.
    ("lookup", "vin"): "a VIN",
    ("fetch", "vins"): "VINs",
    ("remove", "vins"): "VINs",
    ("export", "out"): "a file, to standard output (-), or to a folder",
    ("decode", "inputs"): "For each file IN",
    ("load", "paths"): "Parquet files, and the Parquet files of folders",
    ("serve", "datasette_options"): "What follows -- is passed to datasette serve",
}


@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_lists_every_command(asked: str) -> None:
    result = run(asked)
    listed = re.findall(r"^  (\w+)  +\S", result.stdout.partition("Commands:")[2], re.MULTILINE)
    assert (result.exit_code, set(listed)) == (0, COMMANDS)


def test_every_command_is_tested_for_its_help() -> None:
    assert set(cli.commands) == COMMANDS


@pytest.mark.parametrize("name", [None, *sorted(COMMANDS)])
def test_every_option_has_help(name: str | None) -> None:
    command = cli.commands[name] if name else cli
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    assert [option.name for option in options if not option.help] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_argument_is_spoken_of_in_the_help(name: str) -> None:
    text = " ".join((cli.commands[name].help or "").split())
    arguments = [each.name for each in cli.commands[name].params if isinstance(each, click.Argument)]
    assert [each for each in arguments if ARGUMENTS[name, str(each)] not in text] == []


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_shows_all_its_options(name: str) -> None:
    result = run(name, "--help")
    options = [option for each in cli.commands[name].params for option in each.opts if option.startswith("--")]
    assert result.exit_code == 0
    assert [option for option in options if option not in result.stdout] == []


def test_version_is_told() -> None:
    assert run("--version").stdout == f"vin-datasette, version {__version__}\n"


# What every command does with a wrong call

BY_COMMAND = {
    "lookup": ("lookup", PETERBILT),
    "fetch": ("fetch", PETERBILT),
    "remove": ("remove", PETERBILT),
    "export": ("export", "out.parquet"),
    "decode": ("decode", ".", "-o", "out"),
    "load": ("load", "."),
    "serve": ("serve", "--port", "0", "--", "--get", "/"),
}


WITH_SETTINGS = sorted(COMMANDS - {"decode"})
"""The commands that ask, or have a cache of their own."""


def with_options(name: str, *options: str) -> list[str]:
    command, *rest = BY_COMMAND[name]
    return [command, *options, *rest]


@pytest.mark.parametrize("name", WITH_SETTINGS)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--source", "nobody"), "Invalid value for '--source': 'nobody' is not one of 'auto', 'vpic', 'embedded'"),
        (("--vpic-url", "ftp://example.org"), "The setting vpic_url must be an http or https URL"),
        (("--vpic-url", "nonsense"), "The setting vpic_url must be an http or https URL"),
        (("--db",), "Option '--db' requires an argument"),
    ],
)
def test_wrong_option_is_told_in_words(name: str, options: tuple[str, ...], words: str) -> None:
    arguments = with_options(name, *options) if len(options) > 1 else [name, *options]
    assert_fails_in_words(run(*arguments), 2, words)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_wrong_environment_variable_is_told_in_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_RATE", "fast")
    words = "The environment variable VIN_DATASETTE_RATE must be a number from 0.01 to 10000, not 'fast'"
    assert_fails_in_words(run(*with_options(name)), 2, words)


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_junk_for_a_cache_is_told_in_words(name: str, folder: Path) -> None:
    assert_fails_in_words(run(*with_options(name, "--db", junk(folder))), 2, "junk.db cannot be ")


@pytest.mark.parametrize("name", WITH_SETTINGS)
def test_folder_for_a_cache_is_told_in_words(name: str, folder: Path) -> None:
    (folder / "caches").mkdir()
    words = "There is no cache caches" if name == "export" else "caches is a folder, and the cache is a file"
    assert_fails_in_words(run(*with_options(name, "--db", "caches")), 2, words)


@pytest.mark.parametrize("name", ["lookup", "fetch", "serve"])
def test_cache_in_no_folder_is_told_in_words(name: str) -> None:
    words = f"{Path('missing/vin.db')} cannot be made: there is no folder missing"
    assert_fails_in_words(run(*with_options(name, "--db", "missing/vin.db")), 2, words)


@pytest.mark.parametrize("name", ["lookup", "export", "serve"])
def test_process_ends_without_a_traceback_when_the_cache_is_junk(name: str, folder: Path) -> None:
    assert_fails_in_words(run_process(*with_options(name, "--db", junk(folder))), 2, "junk.db cannot be ")


# lookup


def test_lookup_prints_the_six_fields() -> None:
    result = run("lookup", PETERBILT)
    assert (result.exit_code, result.stdout, result.stderr) == (0, AS_COLUMNS, "")


def test_second_lookup_says_that_it_was_cached() -> None:
    run("lookup", PETERBILT)
    assert run("lookup", PETERBILT).stdout == AS_COLUMNS.replace("false", "true")


def test_lookup_forgives_how_people_type() -> None:
    assert run("lookup", " 1xp5-db9x-7xd4-87964 ").stdout == AS_COLUMNS


def test_lookup_prints_one_line_of_json() -> None:
    assert run("lookup", "--json", PETERBILT).stdout == f"{AS_JSON}\n"


def test_lookup_indents_json_for_a_terminal() -> None:
    code, shown = run_on_terminal("stdout", "lookup", "--json", PETERBILT)
    assert (code, json.loads(shown)) == (0, json.loads(AS_JSON))
    assert shown.startswith('{\r\n  "Input VIN Requested"')


def test_lookup_prints_the_whole_record() -> None:
    lines = run("lookup", "--full", PETERBILT).stdout.splitlines()
    shown = {name: value for name, _, value in (line.partition("  ") for line in lines)}
    told = {name: shown[name].strip() for name in ("vin", "source", "Make", "EngineModel")}
    assert told == {"vin": PETERBILT, "source": "embedded", "Make": "PETERBILT", "EngineModel": "3406/C15/C16"}


def test_lookup_leaves_out_what_a_record_does_not_say() -> None:
    lines = run("lookup", "--full", PETERBILT).stdout.splitlines()
    assert [line for line in lines if line.split()[1:] == [] and line not in ("source_version", "warnings")] == []


def test_lookup_prints_half_a_surrogate_pair_as_json_has_it() -> None:
    said = {"VIN": PETERBILT, "Make": "\ud800", "ErrorCode": "0", "\udfff": "\ud800\u0160"}
    cache = Cache(Path("vin.db"))
    cache.save([Vehicle(Record(VIN(PETERBILT), said, "vpic", None, datetime(2026, 1, 1, tzinfo=timezone.utc)))])
    cache.close()
    ended = run_process("lookup", "--full", "--json", PETERBILT)
    assert (ended.returncode, json.loads(ended.stdout)["record"]) == (0, said)


def test_lookup_prints_the_whole_record_as_json() -> None:
    answer = json.loads(run("lookup", "--full", "--json", PETERBILT).stdout)
    assert list(answer) == ["vin", "source", "source_version", "fetched_at", "warnings", "record"]
    assert (answer["vin"], answer["source"]) == (PETERBILT, "embedded")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer["fetched_at"])
    assert (answer["record"]["Make"], answer["record"]["EngineModel"]) == ("PETERBILT", "3406/C15/C16")


def test_lookup_passes_the_model_year_on(vpic_server: VpicServer) -> None:
    run("lookup", PETERBILT, "--model-year", "1999", "--source", "vpic", "--vpic-url", vpic_server.url)
    assert [call.years for call in vpic_server.calls] == [(1999,)]


@pytest.mark.parametrize("year", ["1979", "2101", "ninety", ""])
def test_lookup_refuses_a_year_that_is_none(year: str) -> None:
    assert_fails_in_words(run("lookup", PETERBILT, "--model-year", year), 2, "Invalid value for '--model-year'")


def test_lookup_tells_a_rejection_on_standard_error() -> None:
    result = run("lookup", FAILING_CHECK_DIGIT)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"{FAILING}\n")


def test_lookup_suggests_the_vin_that_was_likely_meant() -> None:
    result = run("lookup", f"I{PETERBILT[1:]}")
    assert (result.exit_code, result.stdout, result.stderr) == (
        1,
        "",
        "IXP5DB9X7XD487964: Position 1 holds the letter I, which no VIN uses: likely the digit 1. "
        "Suggested: 1XP5DB9X7XD487964\n",
    )


@pytest.mark.parametrize("vin", ["", " ", "nonsense", "1" * 10_000, "' OR 1=1 --", "\u0425" * 17, "\udcff"])
def test_lookup_tells_what_is_wrong_with_a_malformed_vin(vin: str, folder: Path) -> None:
    result = run("lookup", vin)
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert len(result.stderr) < 500
    assert rows(folder / "vin.db") == []


@pytest.mark.parametrize("command", ["lookup", "fetch", "remove"])
def test_control_characters_do_not_reach_the_terminal(command: str) -> None:
    result = run(command, "\x1b]0;owned\x07\x9b2J\rVIN")
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if not line.isprintable()] == []


@pytest.mark.parametrize("options", [(), ("--full",)])
def test_what_vpic_says_is_one_line_each_and_nothing_a_terminal_obeys(
    vpic_server: VpicServer, options: tuple[str, ...]
) -> None:
    said = {"Model": "3\x0779", "Note": "first\nsecond\x1b[2J"}
    vpic_server.records[PETERBILT] = {**flat_record(PETERBILT), **said}
    result = run("lookup", PETERBILT, *options, "--source", "vpic", "--vpic-url", vpic_server.url)
    lines = result.stdout.splitlines()
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.startswith("second")] == []


def test_lookup_without_a_vin_is_a_wrong_call() -> None:
    assert_fails_in_words(run("lookup"), 2, "Missing argument 'VIN'")


def test_lookup_tells_that_nobody_could_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_TIMEOUT", "0.3")
    with closed_port() as url:
        result = run("lookup", PETERBILT, "--source", "vpic", "--vpic-url", url)
    assert_fails_in_words(result, 1, "No source could be asked: vPIC ")


def test_lookup_says_who_stands_in_for_a_vpic_that_is_away() -> None:
    with closed_port() as url:
        ended = run_process("lookup", PETERBILT, "--source", "auto", "--vpic-url", url)
    assert (ended.returncode, ended.stdout) == (0, AS_COLUMNS)
    assert re.fullmatch(
        r"vPIC could not be reached \(.*\); the embedded database answers. vPIC is asked again in 30 seconds\n",
        ended.stderr,
    )


def test_lookup_asks_vpic_once(vpic_server: VpicServer) -> None:
    for _ in range(2):
        run("lookup", PETERBILT, "--source", "vpic", "--vpic-url", vpic_server.url)
    assert len(vpic_server.calls) == 1


def test_lookup_into_a_pipe_that_is_closed_ends_quietly() -> None:
    with started("lookup", PETERBILT) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        stderr = process.stderr.read()
    assert stderr == ""


@pytest.mark.parametrize("arguments", [("lookup", PETERBILT), ("lookup", PETERBILT, "--json"), ("export", "-")])
def test_full_disk_at_the_end_of_a_pipe_is_told_in_words(arguments: tuple[str, ...]) -> None:
    run("lookup", PETERBILT)
    with open("/dev/full", "w") as full, started(*arguments, stdout=full) as process:
        assert process.stderr
        stderr = process.stderr.read()
    assert process.returncode == 1
    assert "No space left on device" in stderr
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


# Settings


def test_cache_is_the_file_that_the_environment_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_DB", "fleet.db")
    run("lookup", PETERBILT)
    assert [path.name for path in folder.glob("*.db")] == ["fleet.db"]


def test_option_wins_over_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_DB", "fleet.db")
    run("lookup", PETERBILT, "--db", "other.db")
    assert [path.name for path in folder.glob("*.db")] == ["other.db"]


def test_environment_names_source_and_address(vpic_server: VpicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_SOURCE", "vpic")
    monkeypatch.setenv("VIN_DATASETTE_VPIC_URL", vpic_server.url)
    assert run("lookup", PETERBILT).exit_code == 0
    assert len(vpic_server.calls) == 1


def test_empty_environment_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_DB", "")
    assert run("lookup", PETERBILT).stdout == AS_COLUMNS


def test_settings_without_an_option_are_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_CHECK_DIGIT", "lenient")
    result = run("lookup", FAILING_CHECK_DIGIT)
    assert (result.exit_code, result.stdout.splitlines()[1]) == (0, "Make                 PETERBILT")


# remove


def test_remove_prints_true_for_what_the_cache_held(folder: Path) -> None:
    run("fetch", PETERBILT, HONDA, FAILING_CHECK_DIGIT)
    result = run("remove", PETERBILT, FAILING_CHECK_DIGIT)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "true\ntrue\n", "")
    assert [row["vin"] for row in rows(folder / "vin.db")] == [HONDA]
    assert rows(folder / "vin.db", "rejections") == []


def test_remove_prints_false_for_what_it_did_not() -> None:
    run("fetch", PETERBILT)
    result = run("remove", HONDA, PETERBILT, PETERBILT)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "false\ntrue\nfalse\n", "")


def test_remove_says_why_a_malformed_vin_cannot_be_there() -> None:
    result = run("remove", "16")
    assert (result.exit_code, result.stdout) == (1, "false\n")
    assert result.stderr == "16: A VIN has 17 characters, and this has 2.\n"


@pytest.mark.parametrize("db", ["vin.db", "missing/vin.db"])
def test_remove_makes_no_cache(folder: Path, db: str) -> None:
    result = run("remove", PETERBILT, "--db", db)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "false\n", "")
    assert list(folder.iterdir()) == []


def test_remove_of_nothing_is_a_wrong_call() -> None:
    assert_fails_in_words(run("remove"), 2, "Missing argument 'VIN...'")


# export


def many_vehicles(folder: Path) -> int:
    """Fill the cache with vehicles whose columns cannot be compressed to nothing; their number."""
    run("lookup", PETERBILT)
    count, random = 3_000, Random(0)
    with closing(sqlite3.connect(folder / "vin.db")) as connection, connection:
        connection.row_factory = sqlite3.Row
        row = dict(connection.execute("SELECT * FROM vehicles").fetchone())
        others = (
            {**row, "vin": f"{PETERBILT[:11]}{number:06}", "trim": random.randbytes(50).hex()}
            for number in range(1, count)
        )
        marks = ", ".join(f":{name}" for name in row)
        connection.executemany(f"INSERT INTO vehicles VALUES ({marks})", others)
        connection.execute("DELETE FROM vehicles WHERE vin = ?", [PETERBILT])
    return count - 1


def test_export_writes_a_parquet_file(folder: Path) -> None:
    run("fetch", PETERBILT, HONDA, FAILING_CHECK_DIGIT)
    result = run("export", "out.parquet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    table = pq.read_table(folder / "out.parquet", columns=["vin", "make", "model_year"])
    assert table.to_pylist() == [
        {"vin": HONDA, "make": "HONDA", "model_year": "2003"},
        {"vin": PETERBILT, "make": "PETERBILT", "model_year": "1999"},
    ]


def test_export_writes_to_a_pipe() -> None:
    run("lookup", PETERBILT)
    result = run("export", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    assert pq.read_table(io.BytesIO(result.stdout_bytes)).column("vin").to_pylist() == [PETERBILT]


def test_export_of_an_empty_cache_is_a_file_without_rows(folder: Path) -> None:
    with closing(Cache(folder / "vin.db")) as cache:
        cache.open()
    run("export", "out.parquet")
    assert pq.read_table(folder / "out.parquet").num_rows == 0


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("out.csv", (), f'"{HONDA}","HONDA","Accord"'),
        ("out.jsonl", (), f'{{"vin": "{HONDA}", "make": "HONDA", "model": "Accord"'),
        ("out.txt", ("--format", "csv"), f'"{HONDA}","HONDA","Accord"'),
    ],
)
def test_export_writes_other_formats(folder: Path, name: str, options: tuple[str, ...], first: str) -> None:
    run("fetch", PETERBILT, HONDA)
    assert run("export", name, *options).exit_code == 0
    lines = (folder / name).read_text().splitlines()
    assert lines[-2].startswith(first)


def test_export_writes_partitions(folder: Path) -> None:
    run("fetch", PETERBILT, HONDA)
    assert run("export", "out", "--partition-by", "make").exit_code == 0
    written = sorted(str(path.relative_to(folder)) for path in folder.glob("out/**/*.parquet"))
    assert written == ["out/make=HONDA/vehicles.parquet", "out/make=PETERBILT/vehicles.parquet"]


def test_export_takes_the_place_of_an_earlier_one(folder: Path) -> None:
    run("lookup", PETERBILT)
    (folder / "out.parquet").write_bytes(b"of yesterday")
    assert run("export", "out.parquet").exit_code == 0
    assert pq.read_table(folder / "out.parquet").num_rows == 1


def test_export_may_be_read_by_whom_the_mask_lets(folder: Path) -> None:
    run("lookup", PETERBILT)
    mask = os.umask(0o027)
    try:
        run("export", "out.parquet")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((folder / "out.parquet").stat().st_mode) == 0o640


def test_export_of_no_cache_is_told_in_words_and_makes_none(folder: Path) -> None:
    assert_fails_in_words(run("export", "out.parquet"), 2, "There is no cache vin.db")
    assert list(folder.iterdir()) == []


def test_export_shows_its_progress_on_a_terminal() -> None:
    run("fetch", PETERBILT, HONDA)
    code, shown = run_on_terminal("stderr", "export", "out.parquet")
    assert code == 0
    assert re.search(r"Exporting: 2 vehicles .*, \d+,\d+ bytes\]", shown)


def test_export_refuses_a_terminal() -> None:
    run("lookup", PETERBILT)
    assert run_on_terminal("stdout", "export", "-") == (2, "")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("missing/out.parquet", "missing/out.parquet could not be written: No such file or directory"),
        ("vin.db/out.parquet", "vin.db/out.parquet could not be written: Not a directory"),
        ("folder", "folder could not be written: Is a directory"),
    ],
)
def test_target_that_cannot_be_is_told_in_words(folder: Path, target: str, words: str) -> None:
    run("lookup", PETERBILT)
    (folder / "folder").mkdir()
    assert_fails_in_words(run("export", target), 1, words)
    assert partials(folder) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_target_in_a_folder_that_cannot_be_written_is_told_in_words(folder: Path) -> None:
    run("lookup", PETERBILT)
    (folder / "closed").mkdir(mode=0o555)
    words = "closed/out.parquet could not be written: Permission denied"
    assert_fails_in_words(run("export", "closed/out.parquet"), 1, words)


def partials(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".partial")]


def without_space(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a process that cannot write files of more than 100 KB, as on a disk that is full."""
    return subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 100 && exec "$@"', "sh", SCRIPT, *arguments],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("there_before", [None, b"of yesterday"])
def test_disk_that_runs_full_leaves_no_half_written_file(folder: Path, there_before: bytes | None) -> None:
    many_vehicles(folder)
    target = folder / "out.parquet"
    if there_before:
        target.write_bytes(there_before)
    assert_fails_in_words(without_space("export", "out.parquet"), 1, "out.parquet could not be written: File too large")
    assert (target.read_bytes() if target.exists() else None) == there_before
    assert partials(folder) == []


def test_cache_that_is_damaged_midway_leaves_no_half_written_file(folder: Path) -> None:
    many_vehicles(folder)
    with open(folder / "vin.db", "r+b") as file:
        # Past the middle, as the first row groups have to be written before it is met.
        size = file.seek(0, os.SEEK_END)
        file.seek(size * 2 // 3)
        file.write(b"\xff" * (size // 6))
    assert_fails_in_words(run("export", "out.parquet"), 2, "vin.db cannot be read as a cache: ")
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith("vin.db")) == []


def test_killed_export_leaves_no_half_written_file(folder: Path) -> None:
    many_vehicles(folder)
    (folder / "out.parquet").write_bytes(b"of yesterday")
    with started("export", "out.parquet") as process:
        while not partials(folder) and process.poll() is None:
            pass
        process.kill()
    content = (folder / "out.parquet").read_bytes()
    assert content == b"of yesterday" or pq.read_table(io.BytesIO(content)).num_rows == 2_999


def test_target_that_is_no_file_is_written_to_and_not_replaced(folder: Path) -> None:
    run("lookup", PETERBILT)
    os.mkfifo(folder / "queue")
    reader = os.open(folder / "queue", os.O_RDONLY | os.O_NONBLOCK)
    try:
        ended = run_process("export", "queue")
        assert stat.S_ISFIFO((folder / "queue").stat().st_mode)
        assert os.read(reader, 4) == b"PAR1"
    finally:
        os.close(reader)
    assert ended.returncode == 0


def test_export_into_a_pipe_that_is_closed_ends_quietly(folder: Path) -> None:
    many_vehicles(folder)
    with started("export", "-") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        stderr = process.stderr.read()
    assert stderr == ""


# serve


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The server of the README, on loopback."""
    with serving(tmp_path_factory.mktemp("served"), "--source", "embedded") as server:
        yield server


def test_server_answers_false_then_true(served: Served) -> None:
    answers = [httpx.get(f"{served.url}/lookup/{PETERBILT}", timeout=20).text for _ in range(2)]
    assert answers == [AS_JSON, AS_JSON.replace("false", "true")]


def test_server_on_loopback_says_what_whoever_reaches_it_may_do(served: Served) -> None:
    assert re.search(r"Whoever reaches 127\.0\.0\.1 .* may look up, remove and export", served.said())


def test_server_on_loopback_removes(served: Served) -> None:
    httpx.get(f"{served.url}/lookup/{HONDA}", timeout=20)
    answers = [httpx.post(f"{served.url}/remove/{HONDA}", timeout=20).text for _ in range(2)]
    assert answers == ["true", "false"]


def test_server_exports(served: Served) -> None:
    httpx.get(f"{served.url}/lookup/{AUDI}", timeout=20)
    content = httpx.get(f"{served.url}/export", timeout=20).content
    assert AUDI in pq.read_table(io.BytesIO(content)).column("vin").to_pylist()


def test_server_shows_the_cache(served: Served) -> None:
    assert httpx.get(f"{served.url}/vin/vehicles", timeout=20).status_code == 200


def test_server_knows_its_own_page(served: Served) -> None:
    assert "Look up a VIN" in httpx.get(f"{served.url}/lookup", timeout=20).text


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_when_it_is_told_to(folder: Path, sent: signal.Signals) -> None:
    with serving(folder) as server:
        httpx.get(f"{server.url}/lookup", timeout=20)
        server.process.send_signal(sent)
        code = server.process.wait(20)
    assert code in (0, 1, -sent)
    assert "Traceback" not in server.said()


def removal_status(server: Served) -> int:
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    return httpx.post(f"{url}/remove/{PETERBILT}", timeout=20).status_code


ELSEWHERE: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "all addresses": (("--host", "0.0.0.0"), {}),
    "all addresses, by an option of Datasette": (("--", "--host", "0.0.0.0"), {}),
    "loopback, but a setting forbids": ((), {"VIN_DATASETTE_ALLOW_REMOVE": "false"}),
}


@pytest.mark.parametrize(("options", "variables"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_server_that_others_reach_removes_nothing(
    folder: Path, options: tuple[str, ...], variables: dict[str, str]
) -> None:
    with serving(folder, *options, **variables) as server:
        assert removal_status(server) == 403
        assert "may look up, remove and export" not in server.said()


def test_options_after_two_hyphens_reach_datasette(folder: Path) -> None:
    with serving(folder, "--db", "fleet.db", "--source", "embedded", "--", "--setting", "base_url", "/x/") as server:
        root = server.url.removesuffix("/").removesuffix("/x")
        answer = httpx.get(f"{root}/x/lookup/{PETERBILT}", timeout=20)
        table = httpx.get(f"{root}/x/fleet/vehicles.json?_shape=array", timeout=20)
    assert answer.text == AS_JSON
    assert [row["vin"] for row in table.json()] == [PETERBILT]


@pytest.fixture
def configured(folder: Path) -> Callable[[str], str]:
    """Writes the plugin's settings into a file of metadata; its name."""

    def write(settings: str) -> str:
        (folder / "instance.yml").write_text(f"plugins: {{vin-datasette: {settings}}}")
        return "instance.yml"

    return write


def test_configuration_keeps_a_server_on_loopback_from_removing(folder: Path, configured: Callable[[str], str]) -> None:
    with serving(folder, "--", "--metadata", configured("{allow_remove: {id: ann}}")) as server:
        assert removal_status(server) == 403


def test_configuration_counts_where_no_option_says_otherwise(
    folder: Path, vpic_server: VpicServer, configured: Callable[[str], str]
) -> None:
    metadata = configured(f"{{source: vpic, vpic_url: '{vpic_server.url}'}}")
    with closed_port() as url, serving(folder, "--", "--metadata", metadata, HTTPS_PROXY=url) as server:
        response = httpx.get(f"{server.url}/lookup/{PETERBILT}", timeout=20)
    assert response.headers["vin-source"] == "vpic"
    assert len(vpic_server.calls) == 1


def test_option_wins_over_the_configuration(
    folder: Path, vpic_server: VpicServer, configured: Callable[[str], str]
) -> None:
    metadata = configured("{source: embedded}")
    options = ("--source", "vpic", "--vpic-url", vpic_server.url, "--", "--metadata", metadata)
    with serving(folder, *options) as server:
        response = httpx.get(f"{server.url}/lookup/{PETERBILT}", timeout=20)
    assert response.headers["vin-source"] == "vpic"


def test_bad_option_of_datasette_is_told_in_words() -> None:
    ended = run_process("serve", "--port", "0", "--", "--no-such-option")
    assert ended.returncode == 2
    assert "--no-such-option" in ended.stderr
    assert "Traceback" not in ended.stderr
