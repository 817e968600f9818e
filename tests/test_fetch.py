"""The command `fetch`: any file of VINs in; the cache, a file and an account of it out."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import sqlite3
import subprocess
import time
import tracemalloc
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import vin_datasette.breaker
import vin_datasette.fleet.progress
from tests.conftest import numbered_vins, rows, until
from tests.test_cli import (
    AUDI,
    FAILING,
    FAILING_CHECK_DIGIT,
    HONDA,
    PETERBILT,
    assert_fails_in_words,
    run,
    run_on_terminal,
    run_process,
    started,
)
from tests.vpic_server import Fault, closed_port
from vin_datasette.fleet.row import Row
from vin_datasette.fleet.run import Account, run as run_fleet
from vin_datasette.lookup import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from click.testing import Result

    from tests.conftest import MakeSettings
    from tests.vpic_server import VpicServer

MISTYPED = f"I{PETERBILT[1:]}"
"""A VIN of which the first character cannot be one, and which one was meant."""

FLEET = [
    {"unit": "7", "VIN": PETERBILT, "driver": "Ann, the first"},
    {"unit": "8", "VIN": MISTYPED, "driver": "Bob"},
    {"unit": "9", "VIN": HONDA, "driver": 'Cy "the best"'},
    {"unit": "10", "VIN": FAILING_CHECK_DIGIT, "driver": ""},
]
STATUSES = ["found", "rejected", "found", "rejected"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which commands run; the embedded database answers unless they say otherwise,
    and a vPIC that is asked holds nothing up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIN_DATASETTE_SOURCE", "embedded")
    monkeypatch.setenv("VIN_DATASETTE_RATE", "1000")
    return tmp_path


def written(vins: Iterable[str], name: str = "vins.txt") -> str:
    """The name of a file that has a VIN a line."""
    Path(name).write_text("".join(f"{vin}\n" for vin in vins))
    return name


def fleet_file(name: str = "fleet.csv") -> str:
    """The name of a CSV file of `FLEET`."""
    with open(name, "w", newline="") as file:
        writer = csv.DictWriter(file, [*FLEET[0]])
        writer.writeheader()
        writer.writerows(FLEET)
    return name


def by_vpic(server: VpicServer, *arguments: str) -> list[str]:
    """A fetch that asks this server and nobody else."""
    return ["fetch", *arguments, "--source", "vpic", "--vpic-url", server.url, "--rate", "1000"]


def stored() -> set[str]:
    """The VINs of the vehicles that are in the cache by now."""
    if not Path("vin.db").exists():
        return set()
    with closing(sqlite3.connect("vin.db")) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        query = "SELECT vin FROM vehicles"
        return {vin for (vin,) in connection.execute(query)} if "vehicles" in tables else set()


def asked_of(server: VpicServer) -> list[str]:
    """All VINs that the server was asked for, each as often as it was."""
    return [vin for call in server.calls for vin in call.vins]


def partials(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".partial")]


def as_csv(text: str) -> list[dict[str, str]]:
    return [*csv.DictReader(text.splitlines())]


def account(text: str) -> str:
    """The account of a fetch, without its seconds."""
    *_, last = re.findall(r"^(\d.* asked: .*; )\d+\.\d seconds$", text, re.MULTILINE)
    return str(last)


def summary(result: Result | subprocess.CompletedProcess[str]) -> str:
    return account(result.stdout)


# What is told, and exit codes


def test_brings_vins_into_the_cache(folder: Path) -> None:
    result = run("fetch", PETERBILT, HONDA)
    assert result.exit_code == 0
    assert re.fullmatch(
        r"2 asked: 0 cached, 2 fetched \(2 by embedded\), 0 rejected, 0 failed; \d+\.\d seconds\n", result.stdout
    )
    assert [row["vin"] for row in rows(folder / "vin.db")] == sorted([PETERBILT, HONDA])


def test_is_silent_where_standard_error_is_no_terminal() -> None:
    assert run("fetch", PETERBILT).stderr == ""


@pytest.mark.parametrize(
    "content",
    [
        f"{PETERBILT}\n{HONDA}\n",
        f"{PETERBILT}\n{HONDA}",
        f"{PETERBILT}\r\n{HONDA}\r\n",
        f"\n\n{PETERBILT}\n   \n\t\n{HONDA}\n\n",
        f"\ufeff{PETERBILT}\n{HONDA}\n",
        f'  "{PETERBILT.lower()}"  \n{HONDA[:4]}-{HONDA[4:]}\n',
    ],
    ids=["lines", "no last line break", "Windows", "blank lines", "byte order mark", "as people type"],
)
@pytest.mark.parametrize("way", ["a file", "standard input"])
def test_reads_a_vin_a_line(folder: Path, content: str, way: str) -> None:
    (folder / "vins.txt").write_bytes(content.encode())
    result = run("fetch", "-f", "vins.txt") if way == "a file" else run("fetch", "-f", "-", typed=content.encode())
    assert (result.exit_code, summary(result)) == (
        0,
        "2 asked: 0 cached, 2 fetched (2 by embedded), 0 rejected, 0 failed; ",
    )


def test_takes_arguments_and_a_file() -> None:
    assert summary(run("fetch", AUDI, "-f", "-", typed=f"{HONDA}\n")).startswith("2 asked: 0 cached, 2 fetched")


def test_empty_file_asks_nobody() -> None:
    result = run("fetch", "-f", "-", typed="")
    assert (result.exit_code, summary(result)) == (0, "0 asked: 0 cached, 0 fetched, 0 rejected, 0 failed; ")


def test_tells_each_rejection_in_a_line() -> None:
    result = run("fetch", PETERBILT, FAILING_CHECK_DIGIT, MISTYPED, "nonsense")
    first, second, third = result.stderr.splitlines()
    assert first == FAILING
    assert second.startswith("IXP5DB9X7XD487964: Position 1 holds the letter I")
    assert second.endswith(" Suggested: 1XP5DB9X7XD487964")
    assert third.startswith("nonsense: A VIN has 17 characters, and this has 8; position 2 holds the letter O")
    assert (result.exit_code, summary(result)) == (
        1,
        "4 asked: 0 cached, 1 fetched (1 by embedded), 3 rejected, 0 failed; ",
    )


def test_tells_twenty_rejections_and_counts_the_others() -> None:
    result = run("fetch", "-f", written(f"nonsense{number}" for number in range(25)))
    *told, last = result.stderr.splitlines()
    assert [line.partition(":")[0] for line in told] == [f"nonsense{number}" for number in range(20)]
    assert last == "… and 5 more; --rejections FILE lists them all."


def test_tells_all_rejections_where_there_are_twenty() -> None:
    result = run("fetch", "-f", written(f"nonsense{number}" for number in range(20)))
    assert len(result.stderr.splitlines()) == 20


def test_account_tells_who_answered(vpic_server: VpicServer) -> None:
    run("fetch", HONDA)
    result = run(*by_vpic(vpic_server, HONDA, PETERBILT, AUDI, "nonsense"))
    # What the embedded database answered is asked about anew.
    assert summary(result) == "4 asked: 0 cached, 3 fetched (3 by vpic), 1 rejected, 0 failed; "


def test_account_of_a_fleet_that_several_answered(vpic_server: VpicServer) -> None:
    run(*by_vpic(vpic_server, HONDA))
    result = run(*by_vpic(vpic_server, HONDA, AUDI, "--siblings", *numbered_vins(3)))
    assert summary(result) == ("5 asked: 1 cached, 4 fetched (3 by vpic-sibling, 1 by vpic), 0 rejected, 0 failed; ")


# Nobody is asked twice


def test_second_run_asks_nobody(vpic_server: VpicServer) -> None:
    command = by_vpic(vpic_server, "-f", written([PETERBILT, HONDA, FAILING_CHECK_DIGIT]))
    run(*command)
    before = len(vpic_server.calls)
    assert summary(run(*command)) == "3 asked: 2 cached, 0 fetched, 1 rejected, 0 failed; "
    assert len(vpic_server.calls) == before


def test_asks_for_each_vin_once(vpic_server: VpicServer) -> None:
    run(*by_vpic(vpic_server, PETERBILT, HONDA, AUDI, PETERBILT))
    assert sorted(asked_of(vpic_server)) == sorted([PETERBILT, HONDA, AUDI])
    assert [call.method for call in vpic_server.calls] == ["POST"]


@pytest.mark.parametrize("options", [(), ("--output", "out.csv")])
def test_calls_are_full(vpic_server: VpicServer, options: tuple[str, ...]) -> None:
    run(*by_vpic(vpic_server, "-f", written(numbered_vins(1000)), *options))
    assert [len(call.vins) for call in vpic_server.calls] == [50] * 20


def test_calls_are_full_where_some_are_cached(vpic_server: VpicServer) -> None:
    vins = numbered_vins(1000)
    run(*by_vpic(vpic_server, "-f", written(vins[::2])))
    vpic_server.reset()
    run(*by_vpic(vpic_server, "-f", written(vins)))
    assert [len(call.vins) for call in vpic_server.calls] == [50] * 10


def test_killed_run_goes_on_where_it_was(vpic_server: VpicServer) -> None:
    vins = numbered_vins(1500)
    vpic_server.latency = 0.05
    command = by_vpic(vpic_server, "-f", written(vins), "--output", "out.csv", "--concurrency", "1")
    with started(*command) as process:
        until(lambda: len(stored()) >= 500)
        process.kill()
    kept = stored()
    vpic_server.reset()
    vpic_server.latency = 0
    result = run(*command)
    assert 500 <= len(kept) < 1500
    assert sorted(asked_of(vpic_server)) == sorted(set(vins) - kept)
    assert result.exit_code == 0
    assert [row["vin"] for row in as_csv(Path("out.csv").read_text())] == vins


def test_refresh_asks_again(vpic_server: VpicServer) -> None:
    command = by_vpic(vpic_server, PETERBILT, HONDA)
    run(*command)
    result = run(*command, "--refresh")
    assert sorted(asked_of(vpic_server)) == sorted([PETERBILT, HONDA] * 2)
    assert summary(result) == "2 asked: 0 cached, 2 fetched (2 by vpic), 0 rejected, 0 failed; "


@pytest.mark.parametrize("source", ["auto", "vpic"])
def test_refresh_keeps_what_is_there_when_vpic_is_away(vpic_server: VpicServer, folder: Path, source: str) -> None:
    run(*by_vpic(vpic_server, PETERBILT, HONDA))
    before = rows(folder / "vin.db")
    with closed_port() as url:
        result = run("fetch", PETERBILT, HONDA, "--refresh", "--source", source, "--vpic-url", url)
    assert (result.exit_code, summary(result)) == (0, "2 asked: 2 cached, 0 fetched, 0 rejected, 0 failed; ")
    assert rows(folder / "vin.db") == before


@pytest.mark.parametrize(("age", "asked"), [("0", [HONDA, PETERBILT]), ("30d", [HONDA]), ("50d", [])])
def test_max_age_asks_about_what_is_older(vpic_server: VpicServer, age: str, asked: list[str]) -> None:
    run(*by_vpic(vpic_server, PETERBILT, HONDA))
    with closing(sqlite3.connect("vin.db")) as connection, connection:
        old = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now', '-40 days')"
        connection.execute(f"UPDATE vehicles SET fetched_at = {old} WHERE vin = ?", [HONDA])
    vpic_server.reset()
    run(*by_vpic(vpic_server, PETERBILT, HONDA, "--max-age", age))
    assert sorted(asked_of(vpic_server)) == asked


def test_siblings_asks_for_one_of_many_alike(vpic_server: VpicServer, folder: Path) -> None:
    run(*by_vpic(vpic_server, "-f", written(numbered_vins(100)), "--siblings"))
    assert len(asked_of(vpic_server)) == 1
    assert Counter(row["source"] for row in rows(folder / "vin.db")) == {"vpic": 1, "vpic-sibling": 99}


def test_model_years_are_a_hint_to_vpic(vpic_server: VpicServer) -> None:
    Path("fleet.csv").write_text(f"vin,year\n{PETERBILT},1999\n{HONDA},\n")
    run(*by_vpic(vpic_server, "-f", "fleet.csv", "--model-year-column", "year"))
    [call] = vpic_server.calls
    assert dict(zip(call.vins, call.years, strict=True)) == {PETERBILT: 1999, HONDA: None}


def test_column_of_vins_can_be_said(folder: Path) -> None:
    Path("fleet.csv").write_text(f"old,new\n{PETERBILT},{HONDA}\n")
    run("fetch", "-f", "fleet.csv", "--column", "new")
    assert [row["vin"] for row in rows(folder / "vin.db")] == [HONDA]


def test_calls_in_flight_are_as_many_as_asked_for(vpic_server: VpicServer) -> None:
    vpic_server.latency = 0.1
    run(*by_vpic(vpic_server, "-f", written(numbered_vins(600)), "--concurrency", "3"))
    assert vpic_server.max_in_flight == 3


def test_rate_holds_calls_back(vpic_server: VpicServer) -> None:
    run(*by_vpic(vpic_server, "-f", written(numbered_vins(500))), "--rate", "5")
    times = [call.at for call in vpic_server.calls]
    # Five leave together, and of the other five one every fifth of a second.
    assert times[-1] - times[0] > 0.9


# The rows and their vehicles


def test_csv_has_the_own_columns_and_the_vehicle(folder: Path) -> None:
    result = run("fetch", "-f", fleet_file(), "--output", "out.csv")
    assert result.exit_code == 1
    lines = as_csv((folder / "out.csv").read_text())
    assert [{name: line[name] for name in FLEET[0]} for line in lines] == FLEET
    assert [line["status"] for line in lines] == STATUSES
    assert [line["make"] for line in lines] == ["PETERBILT", "", "HONDA", ""]
    assert lines[1]["suggested_vin"] == PETERBILT


def test_json_lines_have_the_own_columns_and_the_vehicle(folder: Path) -> None:
    run("fetch", "-f", fleet_file(), "--output", "out.jsonl")
    lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [{name: line[name] for name in FLEET[0]} for line in lines] == FLEET
    assert [line["status"] for line in lines] == STATUSES


def test_parquet_has_the_own_columns_in_their_types_and_the_vehicle(folder: Path) -> None:
    own = pa.table({"unit": [7, None], "vin": [HONDA, MISTYPED], "km": [1.5, 2.5]})
    pq.write_table(own, folder / "fleet.parquet")
    run("fetch", "-f", "fleet.parquet", "--output", "out.parquet")
    table = pq.read_table(folder / "out.parquet")
    assert table.select(own.column_names).equals(own)
    assert table["status"].to_pylist() == ["found", "rejected"]
    assert table["vpic_vin"].to_pylist()[0] == HONDA


def test_rows_are_in_the_order_of_the_input_whoever_answers_first(vpic_server: VpicServer) -> None:
    vins = numbered_vins(700)
    run(*by_vpic(vpic_server, "-f", written(vins[300:400])))
    mixed = [*vins, *vins[:50], "nonsense", *vins[650:]]
    run(*by_vpic(vpic_server, "-f", written(mixed), "--output", "out.csv", "--concurrency", "4"))
    assert [line["vin"] for line in as_csv(Path("out.csv").read_text())] == mixed


def test_cached_rows_have_their_vehicles_too() -> None:
    run("fetch", HONDA)
    run("fetch", "-f", written([HONDA]), "--output", "out.csv")
    [line] = as_csv(Path("out.csv").read_text())
    assert (line["make"], line["cached"]) == ("HONDA", "true")


def test_given_vins_have_rows_too() -> None:
    run("fetch", HONDA, PETERBILT, "--output", "out.csv")
    assert [line["make"] for line in as_csv(Path("out.csv").read_text())] == ["HONDA", "PETERBILT"]


def test_rows_on_standard_output_have_it_to_themselves() -> None:
    result = run("fetch", "-f", fleet_file(), "--output", "-")
    assert [line["status"] for line in as_csv(result.stdout)] == STATUSES
    assert account(result.stderr) == "4 asked: 0 cached, 2 fetched (2 by embedded), 2 rejected, 0 failed; "


def test_rejections_are_written_with_their_reasons() -> None:
    result = run("fetch", "-f", fleet_file(), "--rejections", "bad.csv")
    first, second = as_csv(Path("bad.csv").read_text())
    assert "letter I" in first.pop("reason")
    assert first == {"row": "3", "vin": MISTYPED, "suggested_vin": PETERBILT, "kind": "rejected"}
    assert "Check Digit" in second.pop("reason")
    assert (second["row"], second["vin"], second["kind"]) == ("5", FAILING_CHECK_DIGIT, "rejected")
    assert result.stderr == ""


def test_rejections_have_what_could_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_PATIENCE", "0")
    with closed_port() as url:
        run("fetch", "-f", written([HONDA]), "--rejections", "bad.jsonl", "--source", "vpic", "--vpic-url", url)
    [line] = [json.loads(line) for line in Path("bad.jsonl").read_text().splitlines()]
    assert (line["row"], line["vin"], line["kind"]) == (1, HONDA, "failed")
    assert line["reason"].startswith("vPIC ")


def test_rejections_on_standard_output_have_it_to_themselves() -> None:
    result = run("fetch", "-f", fleet_file(), "--rejections", "-")
    assert [line["row"] for line in as_csv(result.stdout)] == ["3", "5"]
    assert len(result.stderr.splitlines()) == 1


def test_pipe_that_is_closed_ends_quietly() -> None:
    name = written(numbered_vins(5000))
    with started("fetch", "-f", name, "--output", "-") as process:
        assert process.stdout
        assert process.stderr
        first = process.stdout.readline()
        process.stdout.close()
        stderr = process.stderr.read()
    assert first.startswith("vin,")
    assert re.fullmatch(r"[\d,]+ asked: .* seconds\n", stderr)


def test_pipe_that_is_closed_ends_a_run_whose_input_goes_on() -> None:
    with started("fetch", "-f", "-", "--output", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write("".join(f"{vin}\n" for vin in numbered_vins(3000)))
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.wait(20)
        assert process.stderr
        stderr = process.stderr.read()
    assert "Traceback" not in stderr
    assert "Fatal" not in stderr


def test_full_disk_behind_standard_output_is_told_in_words() -> None:
    with open("/dev/full", "w") as full:
        ended = run_process("fetch", HONDA, "--output", "-", stdout=full)
    assert ended.returncode == 1
    assert "Standard output could not be written: No space left on device." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


# Interrupted


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str, float]:
    """What a process says after Ctrl-C, on both streams, and the seconds that it takes to end."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    return stdout, stderr, time.monotonic() - began


SENTENCE = "Interrupted. What was answered is kept; call again to go on.\n"


def test_interrupted_run_keeps_what_was_answered(vpic_server: VpicServer, folder: Path) -> None:
    vpic_server.latency = 0.02
    # On a slow machine progress would have a line of its own.
    command = by_vpic(vpic_server, "-f", written(numbered_vins(3000)), "--output", "out.csv", "--silent")
    with started(*command) as process:
        # Two chunks are in hand at most, so that the first of three has been told.
        until(lambda: len(stored()) >= 1100)
        vpic_server.fail_always(Fault.silence)
        # The calls that are in flight will have no answer, and nobody sends another.
        until(lambda: time.monotonic() - vpic_server.calls[-1].at > 1)
        answered = {vin for call in vpic_server.calls if call.status == 200 for vin in call.vins}
        stdout, stderr, seconds = interrupted(process)
    assert process.returncode == 130
    assert seconds < 3
    assert stored() == answered
    assert re.fullmatch(r"[\d,]+ asked: 0 cached, [\d,]+ fetched \(.* by vpic\), 0 rejected, 0 failed; .*\n", stdout)
    assert stderr == SENTENCE
    assert not (folder / "out.csv").exists()
    assert partials(folder) == []


def test_interrupted_run_keeps_an_earlier_output(vpic_server: VpicServer, folder: Path) -> None:
    (folder / "out.csv").write_text("of yesterday")
    vpic_server.fail_always(Fault.silence)
    with started(*by_vpic(vpic_server, PETERBILT, "--output", "out.csv")) as process:
        until(lambda: vpic_server.calls)
        interrupted(process)
    assert (folder / "out.csv").read_text() == "of yesterday"
    assert partials(folder) == []


def test_interrupted_before_any_answer_says_one_sentence(vpic_server: VpicServer) -> None:
    vpic_server.fail_always(Fault.silence)
    with started(*by_vpic(vpic_server, PETERBILT)) as process:
        until(lambda: vpic_server.calls)
        stdout, stderr, _ = interrupted(process)
    assert (process.returncode, stdout, stderr) == (130, "", SENTENCE)


def test_interrupted_run_keeps_the_rejections_that_it_counted(vpic_server: VpicServer) -> None:
    vpic_server.latency = 0.05
    vins = [vin for pair in zip(numbered_vins(1500), map(str, range(1500)), strict=True) for vin in pair]
    command = by_vpic(vpic_server, "-f", written(vins), "--rejections", "bad.csv", "--concurrency", "1")
    with started(*command) as process:
        until(lambda: Path("bad.csv").exists() and len(Path("bad.csv").read_text().splitlines()) > 300)
        stdout, _, _ = interrupted(process)
    [counted] = re.findall(r"([\d,]+) rejected", stdout)
    assert len(as_csv(Path("bad.csv").read_text())) == int(counted.replace(",", ""))


def test_interrupted_while_nobody_feeds_its_input() -> None:
    with started("fetch", "-f", "-", stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write("".join(f"{vin}\n" for vin in numbered_vins(3000)))
        process.stdin.flush()
        until(lambda: len(stored()) >= 500)
        # Not by `communicate`, which would end the input.
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert process.stderr
        stderr = process.stderr.read()
    assert (process.returncode, stderr) == (130, SENTENCE)


def test_interrupted_while_nobody_reads_its_output() -> None:
    name = written(numbered_vins(5000))
    with started("fetch", "-f", name, "--output", "-") as process:
        until(lambda: len(stored()) >= 1000)
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert process.stderr
        stderr = process.stderr.read()
    assert process.returncode == 130
    assert stderr.endswith(SENTENCE)
    assert "Traceback" not in stderr


def test_interrupted_while_it_waits_for_vpic() -> None:
    with closed_port() as url, started("fetch", HONDA, "--source", "vpic", "--vpic-url", url) as process:
        assert process.stderr
        said = process.stderr.readline()
        _, stderr, seconds = interrupted(process)
    assert "vPIC is asked again in 30 seconds" in said
    assert (process.returncode, stderr) == (130, SENTENCE)
    assert seconds < 3


# Progress


def test_progress_is_a_line_now_and_then_where_nobody_watches(
    vpic_server: VpicServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vin_datasette.fleet.progress, "EVERY", 0.0)
    result = run(*by_vpic(vpic_server, "-f", written(numbered_vins(1000))))
    lines = result.stderr.splitlines()
    line = r"[\d,]+ asked: 0 cached, [\d,]+ fetched \([\d,]+ by vpic\), .*; \d+\.\d seconds; [\d,]+ a second"
    assert len(lines) >= 2
    assert [each for each in lines if not re.fullmatch(line, each)] == []


def test_progress_is_not_told_more_often(vpic_server: VpicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vin_datasette.fleet.progress, "EVERY", 3600.0)
    result = run(*by_vpic(vpic_server, "-f", written(numbered_vins(1000))))
    assert result.stderr == ""


def test_progress_is_a_bar_on_a_terminal() -> None:
    code, shown = run_on_terminal("stderr", "fetch", PETERBILT, HONDA)
    assert code == 0
    assert re.search(r"Looking up: 100%\|.*\| 2/2 ", shown)


def test_progress_through_a_file_knows_its_length() -> None:
    code, shown = run_on_terminal("stderr", "fetch", "-f", written([PETERBILT, HONDA]))
    assert code == 0
    assert re.search(r"Looking up: 100%\|.*\| 2/2 ", shown)


def test_rejections_are_told_beside_the_bar() -> None:
    _, shown = run_on_terminal("stderr", "fetch", PETERBILT, FAILING_CHECK_DIGIT)
    assert re.search(rf"\r{re.escape(FAILING)}\r\n", shown)


def test_silent_shows_no_bar() -> None:
    assert run_on_terminal("stderr", "fetch", "--silent", PETERBILT) == (0, "")


def test_silent_tells_no_lines(vpic_server: VpicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vin_datasette.fleet.progress, "EVERY", 0.0)
    result = run(*by_vpic(vpic_server, "-f", written(numbered_vins(1000)), "--silent"))
    assert result.stderr == ""


# vPIC away


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vPIC that is away is asked again after a moment."""
    monkeypatch.setattr(vin_datasette.breaker, "FIRST_PAUSE", 0.05)


def test_batch_that_vpic_alone_refuses_costs_no_other_its_answer(vpic_server: VpicServer) -> None:
    vins = numbered_vins(1000)
    vpic_server.fault_for[vins[500]] = Fault.status(503)
    result = run(*by_vpic(vpic_server, "-f", written(vins)), "--source", "auto")
    assert summary(result).startswith("1,000 asked: 0 cached, 1,000 fetched (950 by vpic, 50 by embedded)")


def test_embedded_database_stands_in_from_where_vpic_left(
    vpic_server: VpicServer, caplog: pytest.LogCaptureFixture
) -> None:
    vins = numbered_vins(1000)
    vpic_server.fault_for.update(dict.fromkeys(vins[500:], Fault.status(503)))
    command = by_vpic(vpic_server, "-f", written(vins), "--concurrency", "1")
    result = run(*command, "--source", "auto")
    assert (result.exit_code, summary(result)) == (
        0,
        "1,000 asked: 0 cached, 1,000 fetched (500 by vpic, 500 by embedded), 0 rejected, 0 failed; ",
    )
    [record] = caplog.records
    assert record.message.startswith("vPIC answered with status 503 (Service Unavailable); the embedded database")


@pytest.mark.usefixtures("short_pauses")
def test_run_waits_for_vpic_to_come_back(
    vpic_server: VpicServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VIN_DATASETTE_TIMEOUT", "0.3")
    vpic_server.fail_next(Fault.status(503), 4)
    result = run(*by_vpic(vpic_server, PETERBILT, HONDA))
    assert (result.exit_code, summary(result)) == (
        0,
        "2 asked: 0 cached, 2 fetched (2 by vpic), 0 rejected, 0 failed; ",
    )
    assert caplog.records[-1].message == "vPIC is back"


@pytest.mark.usefixtures("short_pauses")
def test_run_gives_up_when_its_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_PATIENCE", "0.5")
    monkeypatch.setenv("VIN_DATASETTE_TIMEOUT", "0.3")
    began = time.monotonic()
    with closed_port() as url:
        result = run("fetch", PETERBILT, HONDA, "--source", "vpic", "--vpic-url", url)
    assert 0.5 <= time.monotonic() - began < 5
    assert [line.partition(": vPIC")[0] for line in result.stderr.splitlines() if not line.startswith("vPIC ")] == [
        f"{PETERBILT}: no source could be asked",
        f"{HONDA}: no source could be asked",
    ]
    assert (result.exit_code, summary(result)) == (1, "2 asked: 0 cached, 0 fetched, 0 rejected, 2 failed; ")


def test_tells_what_could_not_be_asked(vpic_server: VpicServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIN_DATASETTE_PATIENCE", "0")
    monkeypatch.setenv("VIN_DATASETTE_TIMEOUT", "0.3")
    vpic_server.fail_always(Fault.status(503))
    result = run(*by_vpic(vpic_server, PETERBILT, HONDA))
    assert [line.partition(": vPIC")[0] for line in result.stderr.splitlines() if not line.startswith("vPIC ")] == [
        f"{PETERBILT}: no source could be asked",
        f"{HONDA}: no source could be asked",
    ]
    assert (result.exit_code, summary(result)) == (1, "2 asked: 0 cached, 0 fetched, 0 rejected, 2 failed; ")


def test_vin_that_vpic_cannot_take_costs_no_other_its_answer(vpic_server: VpicServer) -> None:
    vins = numbered_vins(100)
    vpic_server.fault_for[vins[7]] = Fault.status(500)
    result = run(*by_vpic(vpic_server, "-f", written(vins)))
    assert (result.exit_code, summary(result)) == (
        1,
        "100 asked: 0 cached, 99 fetched (99 by vpic), 0 rejected, 1 failed; ",
    )
    assert result.stderr.startswith(f"{vins[7]}: no source could be asked: vPIC answered with status 500")
    assert stored() == {*vins} - {vins[7]}


# Wrong calls


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Give VINs, or a file of them with -f."),
        (("-f", "missing.txt"), "There is no file missing.txt"),
        (("-f", "."), ". is a folder"),
        (("-f", "fleet.csv", "--column", "colour"), "fleet.csv has no column 'colour'; its columns are: 1 'unit'"),
        (("-f", "fleet.csv", "--model-year-column", "year"), "fleet.csv has no column 'year'"),
        (("-f", "plain.csv"), "No column of plain.csv was found to hold VINs; say which does with --column."),
        ((HONDA, "--column", "vin"), "--column and --model-year-column are of a file; name it with -f."),
        ((HONDA, "-f", "fleet.csv", "--output", "out.csv"), "--output writes the rows of a file, or VINs"),
        ((HONDA, "--rate", "fast"), "The setting rate must be a number"),
        ((HONDA, "--concurrency", "0"), "The setting concurrency must be a number from 1 to 64"),
        ((HONDA, "--max-age", "old"), "The setting max_age must be"),
        ((HONDA, "--output", "-", "--rejections", "-"), "--rejections - is what --output writes; name another."),
    ],
)
def test_wrong_call_is_told_in_words(folder: Path, arguments: tuple[str, ...], words: str) -> None:
    fleet_file()
    (folder / "plain.csv").write_text("colour,size\nred,1\nblue,2\n")
    before = {path.name for path in folder.iterdir()}
    assert_fails_in_words(run("fetch", *arguments), 2, words)
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--output", "out.xlsx"), "out.xlsx does not end in .csv, .tsv, .jsonl, .ndjson or .parquet."),
        (("--rejections", "bad.parquet"), "bad.parquet does not end in .csv, .tsv, .jsonl or .ndjson."),
        (("--output", "missing/out.csv"), "missing/out.csv could not be written: No such file or directory"),
        (("--rejections", "missing/bad.csv"), "missing/bad.csv could not be written: No such file or directory"),
        (("--output", "taken.csv"), "taken.csv could not be written: Is a directory"),
    ],
)
def test_target_that_cannot_be_is_told_before_anybody_is_asked(
    folder: Path, vpic_server: VpicServer, options: tuple[str, ...], words: str
) -> None:
    (folder / "taken.csv").mkdir()
    assert_fails_in_words(run(*by_vpic(vpic_server, HONDA, *options)), 1, words)
    assert vpic_server.calls == []
    assert [path.name for path in folder.iterdir()] == ["taken.csv"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("-", "- is standard input and no VIN: read it with -f -."),
        ("fleet.csv", "fleet.csv is a file and no VIN: read it with -f fleet.csv."),
    ],
)
def test_file_that_stands_where_vins_do_is_told(folder: Path, vpic_server: VpicServer, given: str, words: str) -> None:
    (folder / "fleet.csv").write_text(f"vin\n{HONDA}\n")
    assert_fails_in_words(run(*by_vpic(vpic_server, HONDA, given)), 2, words)
    assert vpic_server.calls == []
    assert not (folder / "vin.db").exists()


def test_input_that_breaks_keeps_what_came_before(folder: Path) -> None:
    vins = numbered_vins(200)
    lines = [f'{{"vin": "{vin}"}}' for vin in vins]
    (folder / "vins.json").write_text(f"[{', '.join(lines)}, {{")
    result = run("fetch", "-f", "vins.json", "--output", "out.csv")
    assert result.exit_code == 2
    assert "vins.json" in result.stderr
    assert not (folder / "out.csv").exists()


@pytest.mark.parametrize("option", ["--output", "--rejections"])
@pytest.mark.parametrize("way", ["its name", "another path", "a symbolic link", "a hard link"])
def test_input_is_not_written_over(folder: Path, option: str, way: str) -> None:
    content = Path(fleet_file()).read_bytes()
    target = {"its name": "fleet.csv", "another path": f"../{folder.name}/fleet.csv"}.get(way, "other.csv")
    if way == "a symbolic link":
        Path("other.csv").symlink_to("fleet.csv")
    elif way == "a hard link":
        os.link("fleet.csv", "other.csv")
    words = f"{option} {target} is the file that is read; name another."
    assert_fails_in_words(run("fetch", "-f", "fleet.csv", option, target), 2, words)
    assert Path("fleet.csv").read_bytes() == content


def test_standard_input_is_not_written_over() -> None:
    content = Path(fleet_file()).read_bytes()
    with open("fleet.csv") as file:
        ended = run_process("fetch", "-f", "-", "--rejections", "fleet.csv", stdin=file)
    assert_fails_in_words(ended, 2, "--rejections fleet.csv is the file that is read; name another.")
    assert Path("fleet.csv").read_bytes() == content


def test_standard_output_is_not_what_is_read() -> None:
    content = Path(fleet_file()).read_bytes()
    with open("fleet.csv", "a") as file:
        ended = run_process("fetch", "-f", "fleet.csv", "--output", "-", stdout=file)
    assert (ended.returncode, Path("fleet.csv").read_bytes()) == (2, content)
    assert "--output - is the file that is read; name another." in ended.stderr


@pytest.mark.parametrize("there", [True, False])
def test_output_and_rejections_are_two_files(folder: Path, there: bool) -> None:
    if there:
        Path("out.csv").write_text("of yesterday")
    result = run("fetch", HONDA, "--output", "out.csv", "--rejections", "./out.csv")
    assert_fails_in_words(result, 2, "--rejections ./out.csv is what --output writes; name another.")
    assert [path.read_text() for path in folder.iterdir()] == (["of yesterday"] if there else [])


def test_cache_is_not_written_over(folder: Path) -> None:
    run("fetch", HONDA, "--db", "cache.csv")
    result = run("fetch", HONDA, "--db", "cache.csv", "--rejections", "cache.csv")
    assert_fails_in_words(result, 2, "--rejections cache.csv is the cache; name another.")
    assert [row["vin"] for row in rows(folder / "cache.csv")] == [HONDA]


def test_devices_take_both() -> None:
    result = run("fetch", HONDA, "--output", "/dev/null", "--rejections", "/dev/null")
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b\x08\0" + bytes(range(128, 256)), b"PK\x03\x04" + bytes(100), b"PAR1" + bytes(100)],
    ids=["damaged gzip", "an Excel workbook", "damaged Parquet"],
)
@pytest.mark.parametrize("way", ["a file", "standard input"])
def test_file_that_cannot_be_read_is_told_in_words(folder: Path, content: bytes, way: str) -> None:
    (folder / "junk").write_bytes(content)
    result = run("fetch", "-f", "junk") if way == "a file" else run("fetch", "-f", "-", typed=content)
    assert_fails_in_words(result, 2, "junk " if way == "a file" else "standard input ")


@pytest.mark.parametrize("wrap", [str, lambda note: [{"a": note}]], ids=["text", "nested"])
async def test_memory_does_not_grow_with_the_size_of_rows(make_settings: MakeSettings, wrap: Any) -> None:
    rows = (Row(number, "x", None, ("x", wrap(f"{number:0200000}"))) for number in range(1_500))
    account = Account()
    tracemalloc.start()
    try:
        await run_fleet(make_settings(source="embedded"), rows, account, plan=Plan(hold=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (account.rejected, peak < 200_000_000) == (1_500, True)
