"""Scale: what `decode_batches` costs over the engine beneath it, from one process to two, and in memory.

    python -m benchmarks.scale                       # 1, 4 and 16 million rows, some half an hour
    python -m benchmarks.scale --rows 1000000 --rounds 1

`ultravin.decode_stream`, bare, decodes the same batches into the columns that `decode_batches` reads, in turn with
it and in the same process, so that both meet the same machine; medians of the pairs' ratios are
printed. To measure one process and two, each has a core to itself and one thread of the engine's
(`RAYON_NUM_THREADS=1`), as workers of Spark or Dask have; both begin at once. VINs are of all
manufacturers alike, 1 of 100 rejected where nothing else is said; numbers of rows beyond `--vins`
take the same VINs again. From what was measured a billion VINs are planned.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.fleet import environment, goal, memory, ratio, table, vins_of
from vin_datasette.arrow import decode_batches
from vin_datasette.batches import fields
from vin_datasette.columnar import Columns
from vin_datasette.vin import check_digit

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Figures = dict[str, Any]

ROWS = (1_000_000, 4_000_000, 16_000_000)
VINS = 1_000_000
BATCH = 65_536
"""Rows of a batch, as readers of Parquet give them."""

PAIRED = 131_072
"""Rows that are decoded by the one way before the other has its turn."""

SHARES = (0.0, 0.01, 0.1)
"""Shares of VINs that are rejected: half of them by the check digit, half for a letter that no VIN has."""

BILLION = 1_000_000_000


def vins_with(rejected: float, count: int, folder: Path) -> Path:
    """A file of VINs of which a share is rejected."""
    path = folder / f"scale-{count}-{rejected}.parquet"
    if not path.exists():
        vins = vins_of(count, folder).read_text().split()
        every = round(1 / rejected) if rejected else count + 1
        for number, at in enumerate(range(every - 1, count, every)):
            vins[at] = spoilt(vins[at], by_letter=bool(number % 2))
        pq.write_table(pa.table({"vin": vins}), path)
    return path


def spoilt(vin: str, *, by_letter: bool) -> str:
    """A VIN that is rejected."""
    if by_letter:
        return f"{vin[:11]}O{vin[12:]}"
    wrong = "1" if check_digit(vin) != "1" else "2"
    return f"{vin[:8]}{wrong}{vin[9:]}"


def batches_of(vins: pa.Array, rows: int) -> Iterator[pa.RecordBatch]:
    """So many rows in batches, of these VINs again and again."""
    whole = pa.table({"vin": vins}).to_batches(max_chunksize=BATCH)
    for batch in itertools.cycle(whole):
        if rows <= 0:
            return
        yield batch.slice(0, rows)
        rows -= batch.num_rows


def ours(batches: Iterator[pa.RecordBatch]) -> int:
    """`decode_batches` with all its columns."""
    return sum(batch.num_rows for batch in decode_batches(batches))


def bare(batches: Iterator[pa.RecordBatch]) -> int:
    """The engine alone, over the same batches and for the elements that ours is read from."""
    import ultravin

    ids = {element["code"]: element["element_id"] for element in ultravin.ELEMENTS.values()}
    stream = ultravin.decode_stream(
        pa.RecordBatchReader.from_batches(pa.schema({"vin": pa.string()}), batches),
        vin_column="vin",
        columns=[ids[key] for key in Columns([field.name for field in fields()]).keys],
        column_names="id",
        batch_size=BATCH,
    )
    return sum(batch.num_rows for batch in pa.RecordBatchReader.from_stream(stream))


WAYS = {"ours": ours, "bare": bare}


# What a child process does


def pairs(options: Figures) -> Figures:
    """Both ways in turn over the same rows, for each file of VINs: seconds, and the processor's, of each turn."""
    files = [pq.read_table(path)["vin"].combine_chunks() for path in options["paths"]]
    turns: list[dict[str, list[tuple[float, float]]]] = [{way: [] for way in WAYS} for _ in files]
    for number in range(options["pairs"]):
        for vins, taken in zip(files, turns, strict=True):
            part = vins.slice(number * PAIRED % max(len(vins) - PAIRED, 1), PAIRED)
            # Each way is the first as often as the other.
            for way, work in sorted(WAYS.items(), reverse=bool(number % 2)):
                began, cpu = time.perf_counter(), time.process_time()
                work(batches_of(part, len(part)))
                taken[way].append((time.perf_counter() - began, time.process_time() - cpu))
    return {"turns": turns, "rows": len(part)}


def worker(options: Figures) -> Figures:
    """`decode_batches` over some rows, when a line at standard input says so."""
    vins = pq.read_table(options["paths"][0])["vin"].combine_chunks()
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.time()
    rows = ours(batches_of(vins, options["rows"]))
    return {"rows": rows, "began": began, "ended": time.time(), "peak_mb": memory("self", "VmHWM")}


def child(work: str, options: Figures) -> None:
    """One of these, in this process; prints its figures as JSON."""
    if options["core"] is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[options["core"] % len(cores)]})
    # The first VINs bring the database into memory.
    first = pq.read_table(options["paths"][0])["vin"].combine_chunks().slice(0, PAIRED)
    for way in WAYS.values() if work == "pairs" else [ours]:
        way(batches_of(first, len(first)))
    print(json.dumps({"pairs": pairs, "worker": worker}[work](options)), flush=True)


def started(work: str, core: int | None, paths: Sequence[Path], **options: object) -> subprocess.Popen[str]:
    """A child process with one core to itself, and one thread of the engine's, or with all cores."""
    variables = {} if core is None else {"RAYON_NUM_THREADS": "1"}
    options.update(core=core, paths=[str(path) for path in paths])
    command = [sys.executable, "-m", "benchmarks.scale", "--child", work, json.dumps(options)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(**variables)
    )


def said_by(process: subprocess.Popen[str]) -> Figures:
    """The figures of a child, when it has ended."""
    said, _ = process.communicate("\n")
    if process.returncode:
        raise SystemExit("A child process failed; what it said stands above.")
    figures: Figures = json.loads(said.splitlines()[-1])
    return figures


# The parts


def overhead(vins: int, count: int, folder: Path) -> None:
    """Ours over bare, by the share that is rejected and the cores."""
    paths = [vins_with(share, vins, folder) for share in SHARES]
    shown, ratios = [], {}
    for core in (None, 0):
        figures = said_by(started("pairs", core, paths, pairs=count))
        for share, turns in zip(SHARES, figures["turns"], strict=True):
            (times, cpus), (bare_times, bare_cpus) = (zip(*turns[way], strict=True) for way in ("ours", "bare"))
            name = f"{share:.0%} rejected, {'all cores' if core is None else 'one core'}"
            ratios[name] = ratio(times, bare_times)
            rates = (figures["rows"] / statistics.median(seconds) for seconds in (bare_times, times))
            shown.append(
                [name, *(f"{rate:,.0f}" for rate in rates), f"{ratios[name]:.2f}", f"{ratio(cpus, bare_cpus):.2f}"]
            )
    table(
        f"decode_batches and bare decode_stream, {count} pairs of {figures['rows']:,} rows",
        ["", "bare rows/s", "ours rows/s", "time", "processor"],
        shown,
    )
    for name, over in ratios.items():
        goal(f"time over bare, {name}", over, 1.15, at_least=False)


def run(rows: int, processes: int, path: Path) -> Figures:
    """Rows shared among processes of one core each: rows a second of all, and the most memory of one."""
    workers = [started("worker", core, [path], rows=rows // processes) for core in range(processes)]
    for each in workers:
        assert each.stdout is not None
        if each.stdout.readline().strip() != "ready":
            raise SystemExit("A child process failed; what it said stands above.")
    for each in workers:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    figures = [said_by(each) for each in workers]
    seconds = max(each["ended"] for each in figures) - min(each["began"] for each in figures)
    return {
        "rate": sum(each["rows"] for each in figures) / seconds,
        "peak_mb": max(each["peak_mb"] for each in figures),
    }


def scaling(vins: int, rows: Sequence[int], rounds: int, folder: Path) -> Figures:
    """One process and two, over ever more rows."""
    path = vins_with(SHARES[1], vins, folder)
    shown, measured = [], []
    for count in rows:
        # The most rows take minutes, in which a machine has time enough to be itself.
        turns = [
            {processes: run(count, processes, path) for processes in (1, 2)}
            for _ in range(rounds if count == min(rows) else 1)
        ]
        one, two = ([turn[processes]["rate"] for turn in turns] for processes in (1, 2))
        figures = {
            "rows": count,
            "one": statistics.median(one),
            "two": statistics.median(two),
            "scaling": ratio(two, one),
            "peak_mb": max(turn[processes]["peak_mb"] for turn in turns for processes in (1, 2)),
        }
        measured.append(figures)
        shown.append(
            [
                f"{count:,}",
                f"{figures['one']:,.0f}",
                f"{figures['two']:,.0f}",
                f"{figures['scaling']:.2f}",
                f"{figures['peak_mb']:,.0f}",
            ]
        )
    table(
        "decode_batches in processes of one core each",
        ["rows", "1 process, rows/s", "2 processes, rows/s", "scaling", "peak MB of a worker"],
        shown,
    )
    goal("from one process to two", statistics.median(each["scaling"] for each in measured), 1.7, at_least=True)
    peaks = [each["peak_mb"] for each in measured]
    if len(peaks) > 1:
        goal("peak memory with the most rows over that with the fewest", peaks[-1] / peaks[0], 1.1, at_least=False)
    return measured[-1]


def bytes_per_row(path: Path) -> tuple[float, float]:
    """Of a decoded row in memory, and in Parquet with zstd."""
    vins = pq.read_table(path)["vin"].combine_chunks()
    decoded = pa.Table.from_batches(decode_batches(batches_of(vins, PAIRED)))
    file = io.BytesIO()
    pq.write_table(decoded, file, compression="zstd")
    return decoded.nbytes / decoded.num_rows, file.tell() / decoded.num_rows


def plan(figures: Figures, in_memory: float, in_parquet: float) -> None:
    """A billion VINs, from what was measured."""
    one, peak = figures["one"], figures["peak_mb"]
    hours, share = BILLION / one / 3600, figures["scaling"] / 2
    of_32 = 32 * share * one
    text = (
        f"A billion VINs. One process on one core decoded {one:,.0f} VINs a second over {figures['rows']:,} rows "
        f"here, so that a billion take {hours:.1f} core-hours; two did {figures['scaling']:.2f} times as much. Where "
        f"each of many does {share:.0%} of what one alone does, as each of two did, 32 cores take "
        f"{BILLION / of_32 / 60:.0f} minutes and 128 cores {BILLION / of_32 / 240:.0f}. A process needs {peak:,.0f} MB "
        f"at its peak, however many rows it is given, and 32 of them {32 * peak / 1024:.1f} GB. All columns take "
        f"{in_memory:,.0f} bytes a row as Arrow, and {in_parquet:,.0f} as Parquet with zstd: "
        f"{BILLION * in_parquet / 1e9:,.0f} GB for a billion rows, of which 17 GB are the VINs. Assumed are cores "
        "like these, each a worker's own; VINs of all manufacturers alike, which repeat less than any fleet's; "
        f"a store that gives 32 cores {of_32 * 20 / 1e6:,.0f} MB/s of VINs and takes {of_32 * in_parquet / 1e6:,.0f} "
        "MB/s of Parquet, the writing of which is not in the time; and an engine that keeps all workers busy "
        "to the end, as it can with partitions of 100,000 to a million rows. Nothing is asked of the DOT's API, "
        "whose limit holds for an address and would not rise with the number of machines."
    )
    print(f"\n{textwrap.fill(text, 110)}")


def main(given: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[*ROWS])
    parser.add_argument("--vins", type=int, default=VINS, help="Different VINs, which are made once and take a minute.")
    parser.add_argument("--rounds", type=int, default=3, help="Of one process and two over the fewest rows.")
    parser.add_argument("--pairs", type=int, default=12, help="Of ours and bare, for each share of rejected VINs.")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--child", nargs=2, metavar=("WORK", "OPTIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.child:
        child(arguments.child[0], json.loads(arguments.child[1]))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    overhead(arguments.vins, arguments.pairs, arguments.folder)
    figures = scaling(arguments.vins, arguments.rows, arguments.rounds, arguments.folder)
    plan(figures, *bytes_per_row(vins_with(SHARES[1], arguments.vins, arguments.folder)))


if __name__ == "__main__":
    main()
