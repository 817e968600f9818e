"""Fleets: calls to vPIC, the embedded database, known VINs, misses over HTTP, and memory, beside peers and limits.

    python -m benchmarks.fleet                       # all parts, some ten minutes
    python -m benchmarks.fleet --part calls --rounds 5
    python -m benchmarks.fleet --part embedded --vins 1000000 --rounds 1

Every way runs in a process of its own, the ways in turn within each round; medians over
the rounds are printed, and ratios to the other ways of the same round, each with its goal.
vPIC is `tests.vpic_server` on loopback, in a process of its own that has every answer ready before the
clock starts. Files are made on the first run and kept in the folder `--folder`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import http.client
import importlib
import importlib.util
import io
import itertools
import json
import os
import resource
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fleet_of import cache_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Figures = dict[str, Any]

BATCH = 50
"""VINs in one call (vPIC's documentation)."""

CONCURRENCY = 8
"""Calls in flight."""

RATE = 10_000
"""Calls a second that are allowed: as good as no limit."""

AT_ONCE = 2000
"""VINs that the bare way decodes at once."""

LINES_PER_VIN = 100
"""How often each VIN stands in the larger file of `memory`."""

SEQUENCE = 20
"""Calls that are made one after another by the ways that make them so; what they take is scaled."""

FETCH = (
    "vin_datasette.cli",
    "vin_datasette.portal",
    "vin_datasette.fleet.inputs",
    "vin_datasette.fleet.outputs",
    "vin_datasette.fleet.progress",
    "vin_datasette.fleet.run",
    "vin_datasette.lookup",
    "vin_datasette.sources.embedded",
    "vin_datasette.sources.vpic",
    "vin_datasette.migrations",
    "sqlite_utils",
    "ultravin",
)
"""What `fetch` imports, late; imported before the clock starts where its start is not to be timed."""


# What a child process does. Each takes what it is to work on and returns its figures.


def fetch(options: Figures) -> Figures:
    """`vin-datasette fetch`, without the start of the interpreter and without imports."""
    from vin_datasette.cli import cli

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli(["fetch", *options["arguments"]], prog_name="vin-datasette")
    return {"said": said.getvalue()}


def bare_batches(options: Figures) -> Figures:
    """The limit that vPIC itself sets: as many batches in flight, read and dropped."""
    vins = Path(options["vins"]).read_text().split()
    batches = [vins[start : start + BATCH] for start in range(0, len(vins), BATCH)]
    next_batch = iter(batches)
    url = urllib.parse.urlsplit(options["url"])

    def work(_: int) -> None:
        connection = http.client.HTTPConnection(url.netloc)
        # One iterator for all threads: next() on a list's iterator is one step of the interpreter.
        for batch in next_batch:
            connection.request("POST", f"{url.path}DecodeVINValuesBatch/", *_form(batch))
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                raise SystemExit(f"vPIC answered {response.status}.")
        connection.close()

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(work, range(CONCURRENCY)))
    return {}


def _form(vins: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    data = urllib.parse.urlencode({"format": "json", "data": ";".join(vins)})
    return data.encode(), {"Content-Type": "application/x-www-form-urlencoded"}


def one_by_one(options: Figures) -> Figures:
    """One call after another with httpx, one VIN in each."""
    import httpx

    vins = Path(options["vins"]).read_text().split()[:SEQUENCE]
    with httpx.Client(base_url=options["url"], verify=False) as client:
        for vin in vins:
            answer = client.get(f"DecodeVinValuesExtended/{vin}", params={"format": "json"}).raise_for_status()
            if answer.json()["Results"][0]["VIN"] != vin:
                raise SystemExit(f"vPIC answered about another VIN than {vin}.")
    return {"vins": len(vins)}


def vpic_api(options: Figures) -> Figures:
    """The batches of the package `vpic-api`, one after another."""
    client = importlib.import_module("vpic").Client(host=options["url"])
    post = client.session.post
    # vPIC reads `format` in a POST's form; in its query, where the package puts it, it is ignored and XML comes back.
    client.session.post = lambda url, data, **rest: post(url, data={**data, "format": "json"}, **rest)
    vins = Path(options["vins"]).read_text().split()[: BATCH * SEQUENCE]
    answered = 0
    for start in range(0, len(vins), BATCH):
        answered += len(client.decode_vin_batch(vins[start : start + BATCH]))
    return {"vins": answered}


def read_csv(options: Figures) -> Figures:
    """Python's csv module, and nothing done with what it reads."""
    rows = 0
    with open(options["csv"], newline="", encoding="utf-8") as file:
        for _ in csv.reader(file):
            rows += 1
    return {"rows": rows}


def read_and_find(options: Figures) -> Figures:
    """The csv module, and for thousands of VINs at once a plain SELECT of those that the cache has."""
    found = 0
    with open(options["csv"], newline="", encoding="utf-8") as file, closing(sqlite3.connect(options["db"])) as cache:
        rows = csv.reader(file)
        position = next(rows).index("vin")
        while vins := [row[position] for row in itertools.islice(rows, AT_ONCE)]:
            sql = "SELECT vin FROM vehicles WHERE vin IN (SELECT value FROM json_each(?))"
            found += len(cache.execute(sql, [json.dumps(vins)]).fetchall())
    return {"rows": found}


def bare_embedded(options: Figures) -> Figures:
    """The limit of the embedded source: decode, and executemany into a table without indexes."""
    import ultravin

    from vin_datasette.attributes import ATTRIBUTES

    vins = Path(options["vins"]).read_text().split()
    keys = [attribute.key for attribute in ATTRIBUTES]
    columns = ", ".join(["vin", *(f"{attribute.column} {attribute.kind}" for attribute in ATTRIBUTES), "record"])
    insert = f"INSERT INTO vehicles VALUES ({', '.join('?' * (len(keys) + 2))})"
    encode = json.JSONEncoder(separators=(",", ":")).encode
    decoding = writing = 0.0
    with closing(sqlite3.connect(options["db"], isolation_level=None)) as cache:
        cache.execute("PRAGMA journal_mode = MEMORY")
        cache.execute("PRAGMA synchronous = OFF")
        cache.execute(f"CREATE TABLE vehicles ({columns})")
        cache.execute("BEGIN")
        for start in range(0, len(vins), AT_ONCE):
            part = vins[start : start + AT_ONCE]
            began = time.perf_counter()
            answers = ultravin.decode_batch(part, full=True)
            decoded = time.perf_counter()
            rows = []
            for vin, answer in zip(part, answers, strict=True):
                record = {element["code"]: element["value"] for element in answer["elements"]}
                rows.append((vin, *map(record.get, keys), encode(record)))
            shaped = time.perf_counter()
            cache.executemany(insert, rows)
            writing += time.perf_counter() - shaped
            decoding += decoded - began
        cache.execute("COMMIT")
    return {"decoding": decoding, "writing": writing}


WAYS: dict[str, tuple[Callable[[Figures], Figures], tuple[str, ...]]] = {
    "fetch": (fetch, FETCH),
    "bare_batches": (bare_batches, ()),
    "one_by_one": (one_by_one, ("httpx",)),
    "vpic_api": (vpic_api, ("vpic",)),
    "read_csv": (read_csv, ()),
    "read_and_find": (read_and_find, ()),
    "bare_embedded": (bare_embedded, ("ultravin", "vin_datasette.attributes")),
}
"""What each child does, and what it imports before the clock starts."""


def child(way: str, options: Figures) -> None:
    """One way, once, in this process; prints its figures as JSON."""
    work, modules = WAYS[way]
    for module in modules:
        importlib.import_module(module)
    if way in ("fetch", "bare_embedded"):
        # The first VIN loads the database.
        importlib.import_module("ultravin").decode("1XP5DB9X7XD487964")
    cpu, began = time.process_time(), time.perf_counter()
    figures = work(options)
    figures.update(seconds=time.perf_counter() - began, cpu=time.process_time() - cpu, peak_mb=memory("self", "VmHWM"))
    print(json.dumps(figures))


def run(way: str, **options: object) -> Figures:
    """One way, once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.fleet", "--child", way, json.dumps(options)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise SystemExit(f"{way} failed: {done.stderr}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def run_command(arguments: Sequence[str]) -> Figures:
    """`vin-datasette fetch` as a whole: its seconds, and those of the processor."""
    command = [sys.executable, "-m", "vin_datasette.cli", "fetch", *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment())
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"said": done.stdout, "seconds": seconds, "cpu": cpu}


def environment(**more: str) -> dict[str, str]:
    """This process's environment, without settings and proxies of whoever runs it."""
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("VIN_DATASETTE_") and name.lower() not in proxies
    }
    return {**kept, **more}


def memory(pid: int | str, field: str) -> float:
    """A process's memory in MB; `field` is a name of /proc/<pid>/status."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().split("\n") if line.startswith(field)]
    return int(line.split()[1]) / 1024


def processor_seconds(pid: int) -> float:
    """What a process has used of the processor so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# The local vPIC


def serve_vpic(vins: Path, latency: float) -> None:
    """Serve vPIC with the answers to all `vins` ready; for each line at standard input, print
    what came since the last."""
    from tests import vpic_server

    known = vins.read_text().split()
    vpic_server.REMEMBERED = max(vpic_server.REMEMBERED, len(known) + 1)
    with vpic_server.VpicServer() as server:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for start in range(0, len(known), BATCH):
            # The same records are given to GETs.
            request = urllib.request.Request(f"{server.url}DecodeVINValuesBatch/", *_form(known[start : start + BATCH]))
            direct.open(request).read()
        server.latency = latency
        server.reset()
        print(server.url, flush=True)
        cpu = time.process_time()
        for _ in sys.stdin:
            now = time.process_time()
            counted = {"calls": len(server.calls), "in_flight": server.max_in_flight, "cpu": now - cpu}
            server.reset()
            cpu = now
            print(json.dumps(counted), flush=True)


class Upstream:
    """The local vPIC in its process: `url`, and what it counted."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.url = self._line()

    def counted(self) -> Figures:
        """Calls, most calls in flight and processor seconds since this was last asked."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        counted: Figures = json.loads(self._line())
        return counted

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("The local vPIC has ended.")
        return line


@contextmanager
def upstream(vins: Path, latency: float) -> Iterator[Upstream]:
    """A local vPIC that has the answers to these VINs ready."""
    command = [sys.executable, "-m", "benchmarks.fleet", "--vpic", str(vins), str(latency)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        try:
            yield Upstream(process)
        finally:
            process.terminate()


# Files


def vins_of(count: int, folder: Path) -> Path:
    """A file of `count` distinct VINs, a line each, of all manufacturers alike."""
    import ultravin

    path = folder / f"vins-{count}.txt"
    if not path.exists():
        vins: dict[str, None] = {}
        for seed in itertools.count(11):
            if len(vins) >= count:
                break
            missing = min(count - len(vins), 100_000)
            vins.update(dict.fromkeys(ultravin.generate(missing, seed=seed, invalid_rate=0)))
        path.write_text("".join(f"{vin}\n" for vin in vins))
    return path


def known_vins(cache: Path, count: int) -> list[str]:
    """VINs of a cache, in no order."""
    with closing(sqlite3.connect(cache)) as connection:
        return [vin for (vin,) in connection.execute("SELECT vin FROM vehicles ORDER BY rowid LIMIT ?", [count])]


def csv_of(cache: Path, count: int, columns: int, folder: Path) -> Path:
    """A fleet's file of so many cached VINs, each with the columns of a fleet beside it."""
    path = folder / f"fleet-{count}-{columns}.csv"
    if not path.exists():
        names = ["unit", "vin", "plate", "depot", "driver"] + [f"field_{number}" for number in range(6, columns + 1)]
        with open(path, "w", newline="", encoding="utf-8") as file:
            out = csv.writer(file)
            out.writerow(names)
            for number, vin in enumerate(known_vins(cache, count)):
                filler = [f"value {(number * each) % 997}" for each in range(6, columns + 1)]
                out.writerow(
                    [number, vin, f"AB {number:06}", f"Depot, {number % 40}", f"Driver {number % 5000}", *filler]
                )
    return path


# What is printed


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under a title, the first column to the left and the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    print(f"\n{title}")
    for first, *others in lines:
        print(
            "  ".join(
                [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
            )
        )
    sys.stdout.flush()


def goal(what: str, value: float, limit: float, *, at_least: bool, form: str = ".2f") -> None:
    """Print a figure with its goal, and whether it is met."""
    met = value >= limit if at_least else value <= limit
    word = "at least" if at_least else "at most"
    print(f"{'met   ' if met else 'MISSED'}  {what}: {value:{form}} (goal: {word} {limit:g})", flush=True)


def middle(figures: Iterable[Figures], name: str) -> float:
    """The median of a figure."""
    return float(statistics.median(each[name] for each in figures))


def ratio(ours: Iterable[float], others: Iterable[float]) -> float:
    """The median of the rounds' ratios."""
    return statistics.median(one / other for one, other in zip(ours, others, strict=True))


def none_failed(figures: Figures) -> Figures:
    """The figures of a run of `fetch`; ends everything when a VIN was left without an answer."""
    if " 0 failed" not in figures["said"]:
        raise SystemExit(f"fetch said: {figures['said']!r}")
    return figures


# The parts


def calls(vins: int, rounds: int, latency: float, folder: Path) -> None:
    """Misses down to vPIC, against what its latency allows."""
    file = vins_of(vins, folder)
    bound = CONCURRENCY * BATCH / latency
    ways = [
        "fetch, in process",
        "fetch, whole command",
        "bare batches, dropped",
        "vpic-api, its batches",
        "httpx, VIN by VIN",
    ]
    if importlib.util.find_spec("vpic") is None:
        ways.remove("vpic-api, its batches")
        print("\nThe package vpic-api is not installed: its row is left out.")
    done: dict[str, list[Figures]] = {way: [] for way in ways}
    with upstream(file, latency) as vpic, tempfile.TemporaryDirectory(dir=folder) as name:
        options = {"vins": str(file), "url": vpic.url}
        for number, way in itertools.product(range(rounds), ways):
            limits = ["--rate", str(RATE), "--concurrency", str(CONCURRENCY), "--silent"]
            source = ["--source", "vpic", "--vpic-url", vpic.url, "--db", f"{name}/{number}-{len(way)}.db"]
            arguments = ["-f", str(file), *limits, *source]
            vpic.counted()
            if way == "fetch, in process":
                figures = none_failed(run("fetch", arguments=arguments))
            elif way == "fetch, whole command":
                figures = none_failed(run_command(arguments))
            else:
                child_ways = {"b": "bare_batches", "v": "vpic_api", "h": "one_by_one"}
                figures = run(child_ways[way[0]], **options)
            figures.setdefault("vins", vins)
            counted = vpic.counted()
            figures.update(
                speed=figures["vins"] / figures["seconds"],
                calls=1000 * counted["calls"] / figures["vins"],
                cpu=1e6 * figures["cpu"] / figures["vins"],
                vpic_busy=counted["cpu"] / figures["seconds"],
                in_flight=counted["in_flight"],
            )
            done[way].append(figures)
    alone = [each["speed"] for each in done["httpx, VIN by VIN"]]
    limit = [each["speed"] for each in done["bare batches, dropped"]]
    table(
        f"calls: {vins:,} misses, vPIC at {1000 * latency:.0f} ms, {CONCURRENCY} in flight, {rounds} rounds; "
        f"the bound is {bound:,.0f} VINs/s",
        [
            "way",
            "VINs/s",
            "of bound",
            "of bare",
            "of one by one",
            "calls/1,000",
            "CPU us/VIN",
            "in flight",
            "vPIC busy",
        ],
        [
            [
                way,
                f"{middle(each, 'speed'):,.0f}",
                f"{middle(each, 'speed') / bound:.3f}",
                f"{ratio([figures['speed'] for figures in each], limit):.2f}",
                f"{ratio([figures['speed'] for figures in each], alone):.1f}",
                f"{middle(each, 'calls'):.1f}",
                f"{middle(each, 'cpu'):,.0f}",
                f"{middle(each, 'in_flight'):.0f}",
                f"{middle(each, 'vpic_busy'):.0%}",
            ]
            for way, each in done.items()
        ],
    )
    for way in ways[:2]:
        goal(f"{way}: share of the bound", middle(done[way], "speed") / bound, 0.9, at_least=True, form=".3f")
    goal("upstream calls per 1,000 VINs", middle(done[ways[0]], "calls"), 20, at_least=False, form=".1f")


def embedded(vins: int, rounds: int, latency: float, folder: Path) -> None:
    """Misses answered by the embedded database, against decoding and writing them bare."""
    del latency
    file = vins_of(vins, folder)
    ways = ["fetch, in process", "fetch, whole command", "bare decode and executemany"]
    done: dict[str, list[Figures]] = {way: [] for way in ways}
    for _, way in itertools.product(range(rounds), ways):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            db = Path(name) / "new.db"
            arguments = ["-f", str(file), "--source", "embedded", "--db", str(db), "--silent"]
            if way == "fetch, in process":
                figures = none_failed(run("fetch", arguments=arguments))
            elif way == "fetch, whole command":
                figures = none_failed(run_command(arguments))
            else:
                figures = run("bare_embedded", vins=str(file), db=str(db))
            figures.update(speed=vins / figures["seconds"], mb=db.stat().st_size / 1e6)
        done[way].append(figures)
    limit = [each["speed"] for each in done[ways[2]]]
    table(
        f"embedded: {vins:,} distinct VINs into a new cache, {rounds} rounds",
        ["way", "VINs/s", "of bare", "CPU us/VIN", "peak MB", "file MB"],
        [
            [
                way,
                f"{middle(each, 'speed'):,.0f}",
                f"{ratio([figures['speed'] for figures in each], limit):.2f}",
                f"{1e6 * middle(each, 'cpu') / vins:,.0f}",
                f"{middle(each, 'peak_mb'):,.0f}" if "peak_mb" in each[0] else "",
                f"{middle(each, 'mb'):,.1f}",
            ]
            for way, each in done.items()
        ],
    )
    bare = done[ways[2]]
    parts = [1e6 * middle(bare, name) / vins for name in ("decoding", "writing", "seconds")]
    print("bare, us/VIN: {:.0f} decoding, {:.0f} executemany, {:.0f} in all".format(*parts))
    for way in ways[:2]:
        share = ratio([each["speed"] for each in done[way]], limit)
        goal(f"{way}: share of bare", share, 0.5, at_least=True)


def known(vins: int, rounds: int, latency: float, folder: Path) -> None:
    """A fleet that the cache knows, against the csv module that reads its file."""
    del latency
    cache = cache_of(vins, folder)
    for columns in (5, 30):
        file = csv_of(cache, vins, columns, folder)
        arguments = ["-f", str(file), "--source", "embedded", "--db", str(cache), "--silent"]
        ways: dict[str, Callable[[], Figures]] = {
            "fetch, in process": lambda arguments=arguments: none_failed(run("fetch", arguments=arguments)),  # type: ignore[misc]
            "fetch, whole command": lambda arguments=arguments: none_failed(run_command(arguments)),  # type: ignore[misc]
            "csv module and SELECT": lambda file=file: run("read_and_find", csv=str(file), db=str(cache)),  # type: ignore[misc]
            "csv module alone": lambda file=file: run("read_csv", csv=str(file)),  # type: ignore[misc]
        }
        ways["csv module and SELECT"]()  # the files come into the page cache
        done: dict[str, list[Figures]] = {way: [] for way in ways}
        for _, way in itertools.product(range(rounds), ways):
            done[way].append(ways[way]())
        limit = [each["seconds"] for each in done["csv module alone"]]
        table(
            f"known: {vins:,} cached VINs of a CSV of {columns} columns ({file.stat().st_size / 1e6:.1f} MB), "
            f"{rounds} rounds",
            ["way", "seconds", "rows/s", "times csv", "CPU us/VIN"],
            [
                [
                    way,
                    f"{middle(each, 'seconds'):.3f}",
                    f"{vins / middle(each, 'seconds'):,.0f}",
                    f"{ratio([figures['seconds'] for figures in each], limit):.1f}",
                    f"{1e6 * middle(each, 'cpu') / vins:.1f}",
                ]
                for way, each in done.items()
            ],
        )
        for way in ("fetch, in process", "fetch, whole command"):
            times = ratio([each["seconds"] for each in done[way]], limit)
            goal(f"{way}, {columns} columns: times the csv module", times, 5, at_least=False, form=".1f")


def misses(vins: int, rounds: int, latency: float, folder: Path) -> None:
    """Misses that reach a Datasette server at once: upstream calls, and how long they take."""
    file = vins_of((vins + 1) * rounds + 1, folder)
    warm, *rest = file.read_text().split()
    one_vin = 5 * vins
    _allow_files(one_vin + 200)
    done: list[Figures] = []
    with tempfile.TemporaryDirectory(dir=folder) as name, upstream(file, latency) as vpic:
        alone = statistics.median(_one_call(vpic.url, warm) for _ in range(5))
        with datasette(Path(name) / "new.db", vpic.url) as (port, pid):
            for _ in range(20):
                asyncio.run(burst(port, [f"/lookup/{warm}"]))
            for number in range(rounds):
                some = rest[number * (vins + 1) : (number + 1) * (vins + 1)]
                figures: Figures = {}
                for what, asked in {
                    "missed": [f"/lookup/{vin}" for vin in some[:vins]],
                    "cached": [f"/lookup/{vin}" for vin in some[:vins]],
                    "of Datasette's own /-/actor.json": ["/-/actor.json"] * vins,
                    "of one VIN": [f"/lookup/{some[vins]}"] * one_vin,
                }.items():
                    vpic.counted()
                    cpu = processor_seconds(pid)
                    taken = asyncio.run(burst(port, asked))
                    cpu = processor_seconds(pid) - cpu
                    figures[what] = {
                        "requests": len(asked),
                        "calls": vpic.counted()["calls"],
                        "p50": statistics.median(taken),
                        "first": min(taken),
                        "last": max(taken),
                        "cpu": 1000 * cpu / len(asked),
                    }
                done.append(figures)
    table(
        f"misses: concurrent GET /lookup/<vin>, vPIC at {1000 * latency:.0f} ms "
        f"(one call alone: {1000 * alone:.0f} ms), {rounds} rounds",
        ["requests", "upstream calls", "first ms", "p50 ms", "last ms", "p50 of latency", "CPU ms/request"],
        [
            [
                f"{done[0][what]['requests']:,} {what}",
                f"{max(figures[what]['calls'] for figures in done)}",
                *(
                    f"{1000 * middle([figures[what] for figures in done], field):.0f}"
                    for field in ("first", "p50", "last")
                ),
                f"{middle([figures[what] for figures in done], 'p50') / latency:.2f}",
                f"{middle([figures[what] for figures in done], 'cpu'):.2f}",
            ]
            for what in done[0]
        ],
    )
    most = {what: max(figures[what]["calls"] for figures in done) for what in done[0]}
    goal(f"upstream calls for {vins:,} VINs, at most of all rounds", most["missed"], 8, at_least=False, form="d")
    p50 = middle([figures["missed"] for figures in done], "p50") / latency
    goal("p50 as a multiple of one upstream latency", p50, 1.3, at_least=False)
    goal(f"upstream calls for {one_vin:,} requests of one VIN", most["of one VIN"], 1, at_least=False, form="d")


def _one_call(url: str, vin: str) -> float:
    parts = urllib.parse.urlsplit(url)
    with closing(http.client.HTTPConnection(parts.netloc)) as connection:
        began = time.perf_counter()
        connection.request("GET", f"{parts.path}DecodeVinValuesExtended/{vin}?format=json")
        connection.getresponse().read()
        return time.perf_counter() - began


def _allow_files(count: int) -> None:
    """Let this process, and those that it starts, hold so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard) if hard > 0 else count, hard))


@contextmanager
def datasette(cache: Path, url: str) -> Iterator[tuple[int, int]]:
    """A Datasette server on loopback that asks this vPIC: its port and its process's number."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vin_datasette.cli", "serve", "--db", str(cache), "--vpic-url", url]
    settings = environment(VIN_DATASETTE_RATE=str(RATE), VIN_DATASETTE_CONCURRENCY=str(CONCURRENCY))
    with subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=settings
    ) as process:
        try:
            for _ in range(300):
                with closing(socket.socket()) as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield port, process.pid
        finally:
            process.terminate()


async def burst(port: int, paths: Sequence[str]) -> list[float]:
    """Seconds that each of these GETs took, all of them sent at once, on connections that were open before."""
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in paths]
    # The server has accepted them when it has had some turns.
    await asyncio.sleep(0.2)
    began = time.perf_counter()
    for path, (_, writer) in zip(paths, opened, strict=True):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())

    async def ended(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> float:
        answer = await reader.read()
        taken = time.perf_counter() - began
        writer.close()
        await writer.wait_closed()
        # A VIN for which there is no vehicle is answered by 404.
        if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 404")) or b"Vin-Source: embedded" in answer:
            raise SystemExit(f"The server answered {answer[:200]!r}.")
        return taken

    return await asyncio.gather(*(ended(*each) for each in opened))


def memory_of(vins: int, rounds: int, latency: float, folder: Path) -> None:
    """What `fetch` holds at its peak, by the lines of its input."""
    del latency
    cache = cache_of(vins, folder)
    lines = [f"{vin}\n" for vin in known_vins(cache, vins)]
    inputs = {f"known, {vins:,} lines": 1, f"known, {vins * LINES_PER_VIN:,} lines": LINES_PER_VIN}
    done: dict[str, list[Figures]] = {way: [] for way in (*inputs, f"embedded, {vins:,} misses")}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        file = Path(name) / "fleet.txt"
        for _ in range(rounds):
            for way, times in inputs.items():
                with open(file, "w", encoding="ascii") as out:
                    for _ in range(times):
                        out.writelines(lines)
                arguments = ["-f", str(file), "--source", "embedded", "--db", str(cache), "--silent"]
                done[way].append(none_failed(run("fetch", arguments=arguments)))
            new = Path(name) / "new.db"
            arguments = ["-f", str(vins_of(vins, folder)), "--source", "embedded", "--db", str(new), "--silent"]
            done[f"embedded, {vins:,} misses"].append(none_failed(run("fetch", arguments=arguments)))
            for made in Path(name).glob("new.db*"):
                made.unlink()
    table(
        f"memory: the peak of `vin-datasette fetch`, interpreter and all, {rounds} rounds",
        ["input", "peak MB", "seconds"],
        [[way, f"{middle(each, 'peak_mb'):.1f}", f"{middle(each, 'seconds'):.2f}"] for way, each in done.items()],
    )
    small, large = (middle(done[way], "peak_mb") for way in inputs)
    goal(f"peak at {LINES_PER_VIN} times the lines, of that at {vins:,}", large / small, 1.1, at_least=False)


PARTS: dict[str, tuple[Callable[[int, int, float, Path], None], int, int]] = {
    "calls": (calls, 10_000, 3),
    "memory": (memory_of, 10_000, 1),
    "known": (known, 100_000, 5),
    "embedded": (embedded, 100_000, 3),
    "misses": (misses, 200, 5),
}
"""Each part, how many VINs it takes and how many rounds it goes, where nothing else is said."""


def main(given: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS], nargs="+", default=[*PARTS])
    parser.add_argument("--rounds", type=int, help="By default as many as suit the part.")
    parser.add_argument("--vins", type=int, help="By default as many as the part's goal speaks of.")
    parser.add_argument("--latency", type=float, default=0.2, help="Seconds that vPIC takes for a call.")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--child", nargs=2, metavar=("WAY", "OPTIONS"), help=argparse.SUPPRESS)
    parser.add_argument("--vpic", nargs=2, metavar=("VINS", "LATENCY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.child:
        child(arguments.child[0], json.loads(arguments.child[1]))
        return
    if arguments.vpic:
        serve_vpic(Path(arguments.vpic[0]), float(arguments.vpic[1]))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.part:
        part, vins, rounds = PARTS[name]
        part(arguments.vins or vins, arguments.rounds or rounds, arguments.latency, arguments.folder)


if __name__ == "__main__":
    main()
