"""Export: rows a second, memory, first byte, and what it costs lookups, beside peers and limits.

    python -m benchmarks.export                      # 1,000 and 1,000,000 vehicles
    python -m benchmarks.export --rows 5000000 --columns all

Every way runs in a process of its own, the ways in turn within each round; the
medians over the rounds are printed, and ratios to the other ways of the same round.
The caches are made on the first run and kept in the folder `--folder`.
"""

from __future__ import annotations

import argparse
import http.client
import importlib
import json
import os
import resource
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fleet_of import cache_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTRACT = ("vin", "make", "model", "model_year", "body_class")


def select(columns: str) -> str:
    """The SQL that every way but ours reads with."""
    from vin_datasette.batches import fields

    names = CONTRACT if columns == "contract" else [column.name for column in fields()]
    return f"SELECT {', '.join(names)} FROM vehicles ORDER BY vin"


def ours(cache: Path, columns: str, out: Path) -> int:
    """`vin-datasette export`, without the start of the interpreter."""
    from vin_datasette.batches import Selection
    from vin_datasette.parquet import parquet_parts

    rows = 0
    with open(out, "wb") as file:
        for part in parquet_parts(cache, Selection(columns=CONTRACT if columns == "contract" else None)):
            file.write(part.data)
            rows += part.rows
    return rows


def replaced(cache: Path, columns: str, out: Path) -> int:
    """(a) The design that this one replaces: all rows as dicts, pandas, one table, a temporary file."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    with closing(sqlite3.connect(cache)) as connection:
        connection.row_factory = sqlite3.Row
        rows = [dict(row) for row in connection.execute(select(columns))]
    frame = pd.DataFrame(rows)
    temporary = out.with_suffix(".temporary")
    pq.write_table(pa.Table.from_pandas(frame), temporary)
    out.write_bytes(temporary.read_bytes())
    temporary.unlink()
    return len(rows)


def pandas_sql(cache: Path, columns: str, out: Path) -> int:
    """(b) pandas: `read_sql` and `to_parquet`."""
    import pandas as pd

    with closing(sqlite3.connect(cache)) as connection:
        frame = pd.read_sql(select(columns), connection)
    frame.to_parquet(out, compression="zstd")
    return len(frame)


def polars_sql(cache: Path, columns: str, out: Path) -> int:
    """(c) polars: `read_database` and `write_parquet`."""
    import polars as pl

    with closing(sqlite3.connect(cache)) as connection:
        frame = pl.read_database(select(columns), connection, infer_schema_length=None)
    frame.write_parquet(out, compression="zstd")
    return len(frame)


def read_alone(cache: Path, columns: str, out: Path) -> int:
    """(d) The limit's one half: the same rows read with sqlite3 and dropped."""
    del out
    rows = 0
    with closing(sqlite3.connect(cache)) as connection:
        cursor = connection.execute(select(columns))
        while page := cursor.fetchmany(1000):
            rows += len(page)
    return rows


def write_alone(cache: Path, columns: str, out: Path) -> int:
    """(d) The other half: the same Arrow table written by pyarrow (its reading is not timed)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vin_datasette.batches import Selection, record_batches
    from vin_datasette.cache import snapshot

    selection = Selection(columns=CONTRACT if columns == "contract" else None)
    with snapshot(cache) as connection:
        table = pa.Table.from_batches(record_batches(connection, selection), selection.schema())
    began = time.perf_counter()
    pq.write_table(table, out, compression="zstd")
    print(json.dumps({"seconds": time.perf_counter() - began}))
    return int(table.num_rows)


WAYS: dict[str, Callable[[Path, str, Path], int]] = {
    "ours": ours,
    "(a) replaced": replaced,
    "(b) pandas": pandas_sql,
    "(c) polars": polars_sql,
    "(d) read alone": read_alone,
    "(d) write alone": write_alone,
}


NEEDS = {
    "ours": "vin_datasette.parquet",
    "(a) replaced": "pandas",
    "(b) pandas": "pandas",
    "(c) polars": "polars",
    "(d) read alone": "sqlite3",
    "(d) write alone": "vin_datasette.batches",
}
"""What each way imports; imported before the clock starts, with pyarrow's Parquet and pandas."""


def child(way: str, cache: Path, columns: str, out: Path) -> None:
    """One way, once, in this process; prints its figures as JSON."""
    # pyarrow imports pandas, where it is installed, at the first array that it makes.
    for module in (NEEDS[way], "pyarrow.parquet", "pandas"):
        importlib.import_module(module)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    rows = WAYS[way](cache, columns, out)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = out.stat().st_size if out.exists() else 0
    print(json.dumps({"rows": rows, "all_seconds": seconds, "peak_mb": (peak - before) / 1024, "bytes": size}))


def run(way: str, cache: Path, columns: str, folder: Path) -> dict[str, float]:
    """One way, once, in a process of its own."""
    out = folder / "export.parquet"
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.export", "--child", way, str(cache), columns, str(out)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    figures: dict[str, float] = {}
    for line in lines:
        if line:
            figures.update(json.loads(line))
    figures.setdefault("seconds", figures["all_seconds"])
    return figures


def compare(rows: int, columns: str, rounds: int, folder: Path) -> None:
    """All ways in turn, `rounds` times, and their medians."""
    cache = cache_of(rows, folder)
    run("(d) read alone", cache, columns, folder)  # the file comes into the page cache
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            figures[way].append(run(way, cache, columns, folder))
    limits = [
        rows / (read["seconds"] + write["seconds"])
        for read, write in zip(figures["(d) read alone"], figures["(d) write alone"], strict=True)
    ]
    print(f"\n{rows:,} vehicles, {columns} columns, {rounds} rounds")
    print(f"{'way':<18}{'rows/s':>12}{'peak MB':>10}{'file MB':>10}{'of (a)':>9}{'of limit':>10}")
    for way, each in figures.items():
        speeds = [rows / figure["seconds"] for figure in each]
        of_a = statistics.median(
            speed / (rows / other["seconds"]) for speed, other in zip(speeds, figures["(a) replaced"], strict=True)
        )
        of_limit = statistics.median(speed / limit for speed, limit in zip(speeds, limits, strict=True))
        peak = statistics.median(figure["peak_mb"] for figure in each)
        print(
            f"{way:<18}{statistics.median(speeds):>12,.0f}{peak:>10,.0f}{each[-1]['bytes'] / 1e6:>10,.1f}"
            f"{of_a:>9.2f}{of_limit:>10.2f}"
        )


@contextmanager
def server(cache: Path) -> Iterator[tuple[int, int]]:
    """A server on loopback over a cache: its port and its process's number."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vin_datasette.cli", "serve", "--db", str(cache), "--source", "embedded"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def memory(pid: int, field: str) -> float:
    """A process's memory in MB; `field` is a name of /proc/<pid>/status."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().split("\n") if line.startswith(field)]
    return int(line.split()[1]) / 1024


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all are below."""
    return sorted(values)[int(len(values) * share)]


def lookups(port: int, vins: list[str], until: Callable[[], bool]) -> list[float]:
    """Milliseconds of cached lookups on one connection, a hundred or so a second: a load
    that leaves the server time to spare, so that what is measured is waiting."""
    taken: list[float] = []
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while not until():
        began = time.perf_counter()
        connection.request("GET", f"/lookup/{vins[len(taken) % len(vins)]}")
        connection.getresponse().read()
        taken.append(1000 * (time.perf_counter() - began))
        time.sleep(0.008)
    connection.close()
    return taken


@contextmanager
def downloading(port: int, query: str) -> Iterator[subprocess.Popen[str]]:
    """A download under way; it prints its first byte's time, its time and its size."""
    shown = "%{time_starttransfer} %{time_total} %{size_download}"
    command = ["curl", "-s", "-f", "-o", os.devnull, "-w", shown, f"http://127.0.0.1:{port}/export{query}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as download:
        yield download


def over_http(rows: int, query: str, folder: Path) -> None:
    """First byte, whole download, the server's memory, and lookups meanwhile."""
    cache = cache_of(rows, folder)
    with closing(sqlite3.connect(cache)) as reading:
        vins = [vin for (vin,) in reading.execute("SELECT vin FROM vehicles LIMIT 2000")]
    with server(cache) as (port, pid):
        quiet_ends = time.monotonic() + 5
        lookups(port, vins, lambda: time.monotonic() > quiet_ends - 4)
        alone = lookups(port, vins, lambda: time.monotonic() > quiet_ends)
        idle = memory(pid, "VmRSS")
        with downloading(port, query) as download:
            first, total, size = map(float, download.communicate()[0].split())
        if download.returncode:
            raise SystemExit("The export was refused.")
        peak = memory(pid, "VmHWM")
        with downloading(port, query) as download:
            during = lookups(port, vins, lambda: download.poll() is not None)
    print(
        f"\n{rows:,} vehicles over HTTP{f' with {query}' if query else ''}: first byte {1000 * first:.0f} ms, "
        f"{rows / total:,.0f} rows/s, {size / 1e6:.1f} MB; server {peak - idle:.0f} MB over idle ({idle:.0f} MB)"
    )
    if len(during) > 100:
        p99, p99_alone = percentile(during, 0.99), percentile(alone, 0.99)
        p50, p50_alone = percentile(during, 0.5), percentile(alone, 0.5)
        print(
            f"cached lookups meanwhile: p50 {p50:.2f} ms ({p50 / p50_alone:.1f} times alone), "
            f"p99 {p99:.2f} ms ({p99 / p99_alone:.1f} times {p99_alone:.2f} ms alone)"
        )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--columns", choices=["contract", "all"], nargs="+", default=["contract", "all"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--http-only", action="store_true", help="Leave the comparison out.")
    parser.add_argument("--child", nargs=4, metavar=("WAY", "CACHE", "COLUMNS", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        way, cache, columns, out = arguments.child
        child(way, Path(cache), columns, Path(out))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for rows in arguments.rows:
        if not arguments.http_only:
            for columns in arguments.columns:
                compare(rows, columns, arguments.rounds, arguments.folder)
        for query in ("", "?_raw=1"):
            over_http(rows, query, arguments.folder)


if __name__ == "__main__":
    main()
