"""Cold start: from the start of a process to its first answer, and what takes the time.

    python -m benchmarks.start                       # 100,000 vehicles, some three minutes
    python -m benchmarks.start --rounds 3 --part imports

Each way starts a process of its own, the ways in turn within each round; medians over the rounds are
printed, ratios are the medians of the rounds' ratios. Files are in the page cache and modules are
compiled. The cache is made on the first run and kept in the folder `--folder`. What is
installed beside the package has its part: pandas, where it is, is imported by pyarrow and sqlite-utils.
"""

from __future__ import annotations

import argparse
import cProfile
import http.client
import json
import pstats
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.bare import leave_out
from benchmarks.fleet import environment, goal, ratio, table, upstream, vins_of
from benchmarks.fleet_of import cache_of
from benchmarks.lookup import served

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PARTS = ("serve", "commands", "imports", "startup", "first")

GIVES_UP = 60
"""Seconds to the first answer."""

TOP = 10


class Way(NamedTuple):
    """A command of Python's, of a server with the path that it is asked for."""

    name: str
    command: Sequence[str]
    path: str = ""
    variables: Mapping[str, str] = {}


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    """What is compiled once is compiled no more."""
    return environment(**more, PYTHONDONTWRITEBYTECODE="")


def first_answer(way: Way) -> float:
    """Milliseconds from the start of a server to its first answer."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *way.command, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=_environment(way.variables),
    ) as process:
        try:
            status = _asked(port, way.path, began, process)
            taken = time.perf_counter() - began
        finally:
            process.send_signal(signal.SIGTERM)
    if status != http.client.OK:
        raise SystemExit(f"{way.name} answered {status} to {way.path}.")
    return 1000 * taken


def _asked(port: int, path: str, began: float, process: subprocess.Popen[bytes]) -> int:
    """The status of the first answer."""
    while True:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=GIVES_UP)) as connection:
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
            except ConnectionRefusedError:
                if process.poll() is not None or time.perf_counter() - began > GIVES_UP:
                    raise SystemExit("A server did not start.") from None
                # A look takes a fiftieth of this.
                time.sleep(0.005)
            else:
                return answer.status


def whole(way: Way) -> float:
    """Milliseconds of a command, from its start to its end."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *way.command], check=False, capture_output=True, text=True, env=_environment(way.variables)
    )
    taken = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{way.name} failed: {done.stderr}")
    return 1000 * taken


def compare(title: str, ways: Sequence[Way], rounds: int) -> dict[str, list[float]]:
    """The ways in turn; milliseconds of each, by round. The last is what the others are compared to."""
    timed = first_answer if ways[0].path else whole
    for way in ways if rounds > 1 else ():
        timed(way)
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for way in ways:
            taken[way.name].append(timed(way))
    reference = taken[ways[-1].name]
    table(
        f"{title}, {rounds} rounds",
        ["way", "ms", "more ms", f"times {ways[-1].name}"],
        [
            [
                name,
                f"{_middle(each):,.0f}",
                f"{_middle([one - other for one, other in zip(each, reference, strict=True)]):+,.0f}",
                f"{ratio(each, reference):.2f}",
            ]
            for name, each in taken.items()
        ],
    )
    return taken


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def imports(way: Way) -> tuple[dict[str, float], dict[str, float]]:
    """What a command imports, in milliseconds: its packages alone, and its modules with all that they import."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *way.command],
        check=False,
        capture_output=True,
        text=True,
        env=_environment(way.variables),
    )
    if done.returncode:
        raise SystemExit(f"{way.name} failed: {done.stderr[-2000:]}")
    alone: dict[str, float] = defaultdict(float)
    together: dict[str, float] = {}
    for line in done.stderr.splitlines():
        if line.startswith("import time:") and "[us]" not in line:
            own, cumulative, name = line.removeprefix("import time:").split("|")
            alone[_package(name.strip())] += int(own) / 1000
            together.setdefault(name.strip(), int(cumulative) / 1000)
    return dict(alone), together


def _package(module: str) -> str:
    name = module.partition(".")[0]
    return "Python's own" if name.lstrip("_") in _PYTHONS or name in _PYTHONS else name


_PYTHONS = sys.stdlib_module_names | {"encodings", "sitecustomize"}


def tell_imports(ways: Sequence[Way], rounds: int) -> None:
    """Which imports take the time: of each way by package, and ours by module."""
    for way in ways:
        tries = [imports(way) for _ in range(rounds)]
        # The quickest of all: what somebody else does on the machine only ever adds.
        alone = {name: min(each.get(name, 0) for each, _ in tries) for name in tries[0][0]}
        together = {name: min(each.get(name, 0) for _, each in tries) for name in tries[0][1]}
        own, pythons = alone.pop("vin_datasette", 0), alone.pop("Python's own", 0)
        table(
            f"imports of {way.name}: vin_datasette {own:.0f} ms, its dependencies {sum(alone.values()):.0f} ms, "
            f"Python's own {pythons:.0f} ms",
            ["package", "ms alone"],
            [[name, f"{taken:.1f}"] for name, taken in _most(alone)],
        )
        ours = {name: taken for name, taken in together.items() if name.startswith("vin_datasette")}
        rows = [[name, f"{taken:.1f}"] for name, taken in _most(ours)]
        table("ours, with all that they import first", ["module", "ms"], rows)


def _most(taken: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(taken.items(), key=lambda each: -each[1])[:TOP]


def started(cache: str, plugin: str) -> None:
    """Start Datasette over a cache, in this process, and print what that took besides imports, as JSON."""
    import asyncio

    if plugin == "without":
        leave_out()
    from datasette.app import Datasette

    async def start() -> float:
        # Its own database, which 1.0 makes in memory, is of this instance.
        datasette = Datasette([cache])
        began = time.perf_counter()
        await datasette.invoke_startup()
        return time.perf_counter() - began

    asyncio.run(start())  # what is imported late
    taken = min(asyncio.run(start()) for _ in range(5))
    profile = cProfile.Profile()
    profile.runcall(asyncio.run, start())
    shown = [
        [f"{Path(file).parent.name}/{Path(file).name}:{line} {name}", calls, 1000 * cumulative]
        for (file, line, name), (_, calls, _, cumulative, _) in pstats.Stats(profile).stats.items()  # type: ignore[attr-defined]
        if "vin_datasette" in file
    ]
    print(json.dumps({"ms": 1000 * taken, "ours": sorted(shown, key=lambda each: -each[2])[:TOP]}))


def tell_startup(cache: Path, rounds: int, variables: Mapping[str, str]) -> None:
    """What happens between Datasette's imports and its first request."""
    taken: dict[str, list[float]] = {"with the plugin": [], "without": []}
    ours: list[list[object]] = []
    for _ in range(rounds):
        for name, times in taken.items():
            command = [sys.executable, "-m", "benchmarks.start", "--started", str(cache), name]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=_environment(variables))
            told = json.loads(done.stdout.splitlines()[-1])
            times.append(told["ms"])
            ours = told["ours"] or ours
    rows = [[name, f"{_middle(each):.1f}"] for name, each in taken.items()]
    table("Datasette's startup, without imports", ["", "ms"], rows)
    table(
        "ours, under the profiler, with all that they call on the same thread",
        ["function", "calls", "ms"],
        [[str(name), str(calls), f"{float(str(cumulative)):.1f}"] for name, calls, cumulative in ours],
    )


class Hits:
    """Asks for a cached vehicle again and again, on a thread, and keeps the longest wait in milliseconds."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self.longest = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Hits:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _ask(self) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=GIVES_UP)) as connection:
            while not self._ends.is_set():
                self.longest = max(self.longest, _answered(connection, self._path))
                time.sleep(0.002)


def _answered(connection: http.client.HTTPConnection, path: str) -> float:
    """Milliseconds to an answer."""
    began = time.perf_counter()
    connection.request("GET", path)
    answer = connection.getresponse()
    answer.read()
    if answer.status != http.client.OK:
        raise SystemExit(f"{path} was answered {answer.status}.")
    return 1000 * (time.perf_counter() - began)


def tell_first(rounds: int, folder: Path) -> None:
    """What the first request of a kind takes in a server that has answered others, for it and for those beside it."""
    misses = vins_of(40, folder)
    vins = misses.read_text().split()
    taken: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with upstream(misses, 0) as vpic:
        for _ in range(rounds):
            for source in ("vpic", "embedded"):
                with tempfile.TemporaryDirectory(dir=folder) as name:
                    cache = Path(name) / "vin.db"
                    command = [vins[0], "--db", str(cache), "--source", source, "--vpic-url", vpic.url]
                    whole(Way("lookup", ["-m", "vin_datasette.cli", "lookup", *command]))
                    command = ["vin_datasette.cli", "serve", "--db", str(cache), "--source", source]
                    with served(*command, "--vpic-url", vpic.url, VIN_DATASETTE_RATE="1000") as server:
                        asked = [(f"miss, {source}", f"/lookup/{vin}") for vin in vins[1:3]]
                        asked += 2 * [("export", "/export")] if source == "embedded" else []
                        for number, (kind, path) in enumerate(asked):
                            with (
                                Hits(server.port, f"/lookup/{vins[0]}") as hits,
                                closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection,
                            ):
                                time.sleep(0.1)
                                hits.longest = 0
                                which = "second" if number % 2 else "first"
                                taken[f"{which} {kind}"].append((_answered(connection, path), hits.longest))
    table(
        f"In a server that has answered what is cached, {rounds} rounds",
        ["", "ms", "longest hit beside, ms"],
        [[what, *(f"{_middle(each):.0f}" for each in zip(*times, strict=True))] for what, times in taken.items()],
    )


def main(given: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--started", nargs=2, metavar=("CACHE", "PLUGIN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(given)
    if arguments.started:
        started(*arguments.started)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cache = cache_of(arguments.rows, arguments.folder.resolve())
    with closing(sqlite3.connect(cache)) as connection:
        [(vin,)] = connection.execute("SELECT vin FROM vehicles LIMIT 1")
    # What the embedded database answered is asked about anew by all other settings.
    settings = {"VIN_DATASETTE_SOURCE": "embedded", "VIN_DATASETTE_DB": str(cache)}
    ours, theirs, bare = ["-m", "vin_datasette.cli"], ["-m", "datasette"], ["-m", "benchmarks.bare"]
    rounds = arguments.rounds
    lookup, row = f"/lookup/{vin}", f"/{cache.stem}/vehicles/{vin}.json"
    if "serve" in arguments.part:
        taken = compare(
            f"From start to first answer, {arguments.rows:,} vehicles",
            [
                Way("vin-datasette serve, /lookup", [*ours, "serve"], lookup, settings),
                Way("datasette serve with the plugin, /lookup", [*theirs, "serve", str(cache)], lookup, settings),
                Way("datasette serve with the plugin, row page", [*theirs, "serve", str(cache)], row, settings),
                Way("datasette serve", [*bare, "serve", str(cache)], row),
            ],
            rounds,
        )
        share = ratio(taken["vin-datasette serve, /lookup"], taken["datasette serve"])
        goal("vin-datasette serve to its first answer, times datasette serve", share, 1.25, at_least=False)
    if "commands" in arguments.part:
        taken = compare(
            "Commands",
            [
                Way("vin-datasette lookup, cached", [*ours, "lookup", vin], variables=settings),
                Way("vin-datasette --version", [*ours, "--version"]),
                Way("vin-datasette --help", [*ours, "--help"]),
                Way("python -c pass", ["-c", "pass"]),
                Way("datasette --version", [*bare, "--version"]),
            ],
            rounds,
        )
        share = ratio(taken["vin-datasette lookup, cached"], taken["datasette --version"])
        goal("vin-datasette lookup of a cached VIN, times datasette --version", share, 0.5, at_least=False)
    if "imports" in arguments.part:
        tell_imports(
            [
                Way("vin-datasette lookup, cached", [*ours, "lookup", vin], variables=settings),
                Way(
                    "datasette with the plugin and one request",
                    [*theirs, "serve", str(cache), "--get", lookup],
                    variables=settings,
                ),
                Way("datasette and one request", [*bare, "serve", str(cache), "--get", row]),
            ],
            min(rounds, 5),
        )
    if "startup" in arguments.part:
        tell_startup(cache, min(rounds, 5), settings)
    if "first" in arguments.part:
        tell_first(min(rounds, 5), arguments.folder)


if __name__ == "__main__":
    main()
