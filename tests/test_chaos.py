"""A fleet against a vPIC that fails more often than not, in a process that is killed."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import clean_environment, until
from tests.vpic_server import Fault
from vin_datasette.vin import check_digit

if TYPE_CHECKING:
    from tests.vpic_server import VpicServer

VINS = int(os.environ.get("VIN_DATASETTE_CHAOS_VINS", "20000"))
"""How large the fleet is. The environment may ask for a larger one."""

ALIKE = (("1HGCM826", "3A"), ("1XP5DB9X", "XD"), ("WA1A4AFY", "J2"))
"""What the VINs begin with, and what stands before their numbers."""

NOT_VEHICLES = ["1XP5DB9X7XD487945", "IXP5DB9X7XD487964", "nonsense", ""]

FAULTS = {
    Fault.status(429): 0.1,
    Fault.status(500): 0.1,
    Fault.html_200: 0.1,
    Fault.truncated: 0.1,
    Fault.silence: 0.1,
    Fault.wrong_vin: 0.1,
}

COMMAND = """
import vin_datasette.breaker
from vin_datasette.cli import main

vin_datasette.breaker.FIRST_PAUSE = 0.1
main()
"""
"""`vin-datasette` as it is but for the pauses for which it leaves a vPIC that is away alone."""

KILLED = -9
RUNS_AT_MOST = 4


def fleet() -> list[str]:
    """VINs of three kinds of vehicles in turns, and some that are none among them."""
    vins = []
    for number in range(VINS):
        start, middle = ALIKE[number % len(ALIKE)]
        bare = f"{start}0{middle}{number:06}"
        vins.append(f"{start}{check_digit(bare)}{bare[9:]}")
    half = VINS // 2
    return [*vins[:half], *NOT_VEHICLES, *vins[half:]]


def fetch(server: VpicServer, db: str) -> subprocess.Popen[str]:
    """The fleet on its way from this server into a cache."""
    options = ["--source", "vpic", "--vpic-url", server.url, "--rate", "10000", "--concurrency", "32", "--db", db]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "fetch", "-f", "vins.txt", "--rejections", f"{db}.csv", *options],
        env=clean_environment(VIN_DATASETTE_TIMEOUT="0.5"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def fetched(server: VpicServer, db: str) -> str:
    """The account of a run that is left alone to its end."""
    with fetch(server, db) as process:
        said, _ = process.communicate(timeout=60 + VINS / 100)
    [account] = re.findall(r"^[\d,]+ asked: .* failed; [\d.]+ seconds$", said, re.MULTILINE) or [said]
    return str(account)


def stored(db: str) -> int:
    """How many vehicles are in a cache by now."""
    if not Path(db).exists():
        return 0
    with closing(sqlite3.connect(db)) as connection:
        made = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'vehicles'").fetchone()[0]
        return int(connection.execute("SELECT count(*) FROM vehicles").fetchone()[0]) if made else 0


def content(db: str, table: str) -> list[dict[str, Any]]:
    """All that a table of a cache holds but the time."""
    with closing(sqlite3.connect(db)) as connection:
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY vin")]
    return [{name: value for name, value in row.items() if name != "fetched_at"} for row in found]


@pytest.mark.one_end
def test_killed_runs_against_a_failing_vpic_end_with_every_vehicle(
    vpic_server: VpicServer, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    vins = fleet()
    Path("vins.txt").write_text("".join(f"{vin}\n" for vin in vins))
    fetched(vpic_server, "calm.db")
    vpic_server.reset()
    vpic_server.fault_rates(FAULTS)
    for quarter in (1, 2, 3):
        with fetch(vpic_server, "chaos.db") as process:
            until(lambda: stored("chaos.db") >= VINS * quarter / 4 or process.poll() is not None, 60 + VINS / 100)  # noqa: B023
            process.kill()
        assert process.returncode == KILLED
    # A VIN may be out of luck in all calls that one run makes for it, and has more of it in the next.
    accounts: list[str] = []
    while len(accounts) < RUNS_AT_MOST and " 0 failed; " not in (*accounts, "")[-1]:
        accounts.append(fetched(vpic_server, "chaos.db"))
    assert " 0 failed; " in accounts[-1]
    vehicles = content("chaos.db", "vehicles")
    assert [row["vin"] for row in vehicles] == sorted(vin for vin in vins if vin not in NOT_VEHICLES)
    assert vehicles == content("calm.db", "vehicles")
    assert content("chaos.db", "rejections") == content("calm.db", "rejections")
    assert Path("chaos.db.csv").read_text() == Path("calm.db.csv").read_text()
