"""The programs of docs/engines.md, as they stand there, on the engines that they are for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ultravin
from click.testing import CliRunner
from dask.distributed import Client, LocalCluster

from tests.conftest import clean_environment, rows, until
from vin_datasette.arrow import decode_batches, decode_schema
from vin_datasette.cli import cli
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

pytestmark = pytest.mark.one_end

PAGE = Path(__file__).parents[2] / "docs/engines.md"
SECTION = re.compile(r"^## (.+)\n((?:(?!## ).*\n)*)", re.MULTILINE)
PROGRAM = re.compile(r"^```python\n((?:(?!```).*\n)*)```$", re.MULTILINE)
PROGRAMS = {
    heading: program[1]
    for heading, section in SECTION.findall(PAGE.read_text("utf-8"))
    for program in PROGRAM.finditer(section)
}
"""The program under each heading of the page that has one."""

SPARK_COLUMNS = b"org.apache.spark.sql.parquet.row.metadata"
FILES, ROWS = 6, 300
TOLD_WHEN = "fetched_at"
ODD = [None, "", "IXP5DB9X7XD487964", " 1xp5db9x-7xd487964 ", "1XP5DB9X7XD487945", "ÄÖÜ"]

NOT_STARTED = 77

RAY_ON_LOOPBACK = f"""
import ray, runpy, sys
try:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, _temp_dir=sys.argv[2])
except Exception as error:
    print(error)
    sys.exit({NOT_STARTED})
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of Parquet files, one of which has no rows, as an insurer may have it: VINs good and bad, columns of
    its own, and one of them of a decoded column's name."""
    folder = tmp_path_factory.mktemp("lake") / "fleet"
    folder.mkdir()
    numbers = range(FILES * ROWS)
    table = pa.table(
        {
            "policy": pa.array(numbers, pa.int64()),
            "vin": [*ODD, *ultravin.generate(len(numbers) - len(ODD), seed=9, invalid_rate=0.1)],
            "make": [f"make {number % 7}" for number in numbers],
            "insured_at": pa.array((1_750_000_000_000_001 + number for number in numbers), pa.timestamp("us", "UTC")),
            "seen_at": pa.array((1_750_000_000_000_001 - number for number in numbers), pa.timestamp("us")),
        }
    )
    # As Spark leaves it in files that it wrote: of those it reads these columns and no others.
    types = {"policy": "long", "vin": "string", "make": "string", "insured_at": "timestamp", "seen_at": "timestamp_ntz"}
    columns = [{"name": name, "type": kind, "nullable": True, "metadata": {}} for name, kind in types.items()]
    table = table.replace_schema_metadata({SPARK_COLUMNS: json.dumps({"type": "struct", "fields": columns})})
    for number in range(FILES):
        pq.write_table(table.slice(number * ROWS, ROWS), folder / f"{number}.parquet", row_group_size=100)
    pq.write_table(table.schema.empty_table(), folder / "none.parquet")
    return folder


@pytest.fixture(scope="module")
def in_one_process(fleet: Path) -> pa.Table:
    """What the fleet comes to without an engine."""
    batches = pq.read_table(fleet).to_batches()
    decoded = pa.Table.from_batches(decode_batches(batches), decode_schema(batches[0].schema))
    assert decoded["vin_error"].null_count not in (0, decoded.num_rows)
    return decoded


@pytest.fixture
def lake(fleet: Path, tmp_path: Path) -> Path:
    """A folder to run a program in: with `fleet`, and nothing else."""
    (tmp_path / "fleet").symlink_to(fleet)
    return tmp_path


def start(
    heading: str, lake: Path, told: Mapping[str, str], *before: str, after: Sequence[str] = ()
) -> subprocess.Popen[str]:
    """Run the program under a heading of the page, in another time zone than its data's, with these variables of the
    environment and, besides its own name, these arguments."""
    program = lake / "program.py"
    program.write_text(PROGRAMS[heading], "utf-8")
    return subprocess.Popen(
        [sys.executable, *before, str(program), *after],
        cwd=lake,
        env=clean_environment(TZ="America/New_York", **told),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(program: subprocess.Popen[str], *, unless: int = 0) -> None:
    """Wait for a program, which has to succeed, `unless` it says by this code that it could not begin."""
    try:
        said, _ = program.communicate(timeout=240)
    finally:
        program.kill()
    assert program.returncode in (0, unless), said


def in_order(table: pa.Table) -> list[dict[str, Any]]:
    """The rows in the order of their policies, as engines keep none, and without the time at which each was decoded."""
    assert table[TOLD_WHEN].null_count == table["source"].null_count
    return table.drop_columns([TOLD_WHEN]).sort_by("policy").to_pylist()  # type: ignore[no-any-return]


def written(lake: Path) -> pa.Table:
    """All that a program wrote, in files whose decoded columns Spark sees."""
    tables = [pq.read_table(path) for path in sorted((lake / "decoded").rglob("*.parquet"))]
    for table in tables:
        assert b"vin_error" in (table.schema.metadata or {}).get(SPARK_COLUMNS, b"vin_error")
    return pa.concat_tables(tables, promote_options="permissive")


def has_done_the_same(lake: Path, in_one_process: pa.Table) -> None:
    """What a program wrote is what comes of the fleet without it, and can be loaded into a cache."""
    expected = in_order(in_one_process)
    assert in_order(written(lake)) == expected
    loaded = CliRunner().invoke(cli, ["load", str(lake / "decoded"), "--db", str(lake / "vin.db"), "--silent"])
    assert loaded.exit_code == 0, loaded.output
    vehicles = {str(VIN(row["vin"])): row["vpic_make"] for row in expected if row["vin_error"] is None}
    assert {row["vin"]: row["make"] for row in rows(lake / "vin.db")} == vehicles


def test_every_program_of_the_page_is_run_here() -> None:
    assert PAGE.read_text("utf-8").count("```python") == len(PROGRAMS)
    assert set(PROGRAMS) == {"Spark", "Dask, by frames", "Dask, file by file", "Ray", "polars", "DuckDB"}


@pytest.mark.parametrize("heading", ["polars", "DuckDB"])
def test_on_one_machine(heading: str, lake: Path, in_one_process: pa.Table) -> None:
    ended(start(heading, lake, {}, "-W", "error"))
    has_done_the_same(lake, in_one_process)


@pytest.mark.skipif(not find_spec("pyspark"), reason="Spark is not installed: pip install -e '.[spark]'")
@pytest.mark.skipif(not shutil.which("java"), reason="Spark takes Java 17, and there is none")
def test_spark(lake: Path, in_one_process: pa.Table) -> None:
    told = {
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false pyspark-shell",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(lake / "spark"),
    }
    ended(start("Spark", lake, told))
    has_done_the_same(lake, in_one_process)


@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed: pip install -e '.[ray]'")
def test_ray(lake: Path, in_one_process: pa.Table) -> None:
    # The first keeps Ray on loopback, on any system. Without the second it writes one into the user's home.
    told = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_TOKEN": token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    # The paths of its sockets have an end at 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        program = start("Ray", lake, told, "-c", RAY_ON_LOOPBACK, after=[folder])
        ended(program, unless=NOT_STARTED)
    if program.returncode == NOT_STARTED:
        # It gives itself half a minute, which nobody can change.
        pytest.skip("Ray did not start on this machine")
    has_done_the_same(lake, in_one_process)


@contextmanager
def two_workers(folder: Path) -> Iterator[Client]:
    """A cluster of two processes on loopback."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", local_directory=folder
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("heading", ["Dask, by frames", "Dask, file by file"])
def test_dask_loses_a_worker(
    heading: str, lake: Path, in_one_process: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lake)
    with two_workers(lake / "dask") as client:
        processes = client.run(os.getpid)
        program = start(heading, lake, {"DASK_SCHEDULER_ADDRESS": client.scheduler_info()["address"]})
        [victim, *_] = until(lambda: [address for address, keys in client.processing().items() if keys])
        os.kill(processes[victim], signal.SIGKILL)
        ended(program)
        [lost] = [event for _, event in client.get_events("all") if event["action"] == "remove-worker"]
    assert lost["worker"] == victim
    assert lost["processing-tasks"]
    has_done_the_same(lake, in_one_process)
