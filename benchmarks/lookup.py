"""The hot path: a cached vehicle, beside the limits of the router and of the server.

    python -m benchmarks.lookup                      # 100,000 vehicles, some five minutes
    python -m benchmarks.lookup --rounds 1 --seconds 1

wrk (Debian's package) asks for cached VINs in random order; the ways take turns within each
round, on the same machine. Requests a second, times and processor time a request are
medians over the rounds, ratios the medians of the rounds' ratios. No server logs requests.

Two ways are there to tell what a goal can ask for: the bare application and the constant route, each
with nothing more than one row read by its key and made JSON of.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.request import urlopen

from benchmarks.fleet import environment, goal, middle, processor_seconds, ratio, table, upstream, vins_of
from benchmarks.fleet_of import cache_of
from benchmarks.hits.peers import HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.fleet import Figures

CONNECTIONS = (1, 16, 64)

REMEMBERED = 2
"""How often each VIN is asked for, on average, before anything is measured."""

HERE = Path(__file__).parent / "hits"

# A parameter that nobody reads keeps a request off the short way.
ROUTER = "?_=1"


class Way(NamedTuple):
    """One way to an answer: its server's port and process, and what stands before and after a VIN in the path."""

    name: str
    server: Server
    before: str
    after: str = ""


class Server(NamedTuple):
    """A server on loopback."""

    port: int
    process: int


@contextmanager
def served(*command: str, **variables: str) -> Iterator[Server]:
    """What `command` serves on a port of its own."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    full = [sys.executable, "-m", *command, "--port", str(port)]
    settings = environment(**variables)
    with subprocess.Popen(full, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=settings) as process:
        try:
            for _ in range(300):
                with closing(socket.socket()) as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if process.poll() is not None:
                    raise SystemExit(f"{' '.join(command)} did not start.")
                time.sleep(0.1)
            yield Server(port, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)


def asked(way: Way, vins: Path, connections: int, seconds: float) -> Figures:
    """What wrk finds on one way."""
    url = f"http://127.0.0.1:{way.server.port}"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", str(HERE / "paths.lua")]
    before = processor_seconds(way.server.process)
    said = subprocess.run(
        [*command, url, "--", vins, way.before, way.after], check=True, capture_output=True, text=True
    )
    used = processor_seconds(way.server.process) - before
    found = json.loads(said.stdout.strip().rpartition("\n")[2])
    if found["failed"] or not found["requests"]:
        raise SystemExit(f"{way.name}: {found['failed']} of {found['requests']} requests failed.")
    return {
        "rate": found["requests"] / found["microseconds"] * 1e6,
        "p50": found["p50"] / 1000,
        "p99": found["p99"] / 1000,
        "cpu": used / found["requests"] * 1e6,
    }


@contextmanager
def awake() -> Iterator[None]:
    """Keep every processor from sleeping, with what gives way to all else.

    To wake one, in a virtual machine, can take the host longer than to answer takes, and it is the
    server that is charged: wrk sleeps whenever it has asked all that it may.
    """
    if not hasattr(os, "SCHED_IDLE"):
        yield
        return
    idle = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    spinning = [subprocess.Popen([sys.executable, "-c", idle]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def shuffled(cache: Path, count: int, folder: Path) -> Path:
    """A file of cached VINs in random order."""
    with closing(sqlite3.connect(cache)) as connection:
        vins = [vin for (vin,) in connection.execute("SELECT vin FROM vehicles")]
    random.Random(1).shuffle(vins)
    path = folder / f"hits-{count}.txt"
    path.write_text("".join(f"{vin}\n" for vin in vins[:count]))
    return path


def check_head(server: Server, vins: Path) -> None:
    """The peers answer with as many bytes as a hit only while they have its fields."""
    with vins.open() as lines, urlopen(f"http://127.0.0.1:{server.port}/lookup/{next(lines).strip()}") as found:
        names = {name.lower() for name in found.headers} - {"connection", "date", "server", "transfer-encoding"}
    if names != {name.lower() for name in HEAD}:
        raise SystemExit(f"A hit has the fields {', '.join(sorted(names))}: HEAD in benchmarks/hits/peers.py differs.")


def remember(way: Way, vins: Path, requests: int, seconds: float) -> None:
    """Ask for so many VINs."""
    while requests > 0:
        requests -= round(asked(way, vins, CONNECTIONS[-1], seconds)["rate"] * seconds)


def alone(ways: Sequence[Way], vins: Path, rounds: int, seconds: float) -> None:
    """Each way without anything beside it."""
    done = {(way.name, number): [] for number in CONNECTIONS for way in ways}  # type: dict[tuple[str, int], list[Figures]]
    for way in ways:
        asked(way, vins, CONNECTIONS[0], seconds)
    for _ in range(rounds):
        for number in CONNECTIONS:
            for way in ways:
                done[way.name, number].append(asked(way, vins, number, seconds))
    for number in CONNECTIONS:
        bare = [each["rate"] for each in done["bare uvicorn", number]]
        table(
            f"{number} connections, {rounds} rounds",
            ["way", "requests/s", "p50 ms", "p99 ms", "processor us", "of bare uvicorn"],
            [
                [
                    way.name,
                    f"{middle(each, 'rate'):,.0f}",
                    *(f"{middle(each, name):.2f}" for name in ("p50", "p99")),
                    f"{middle(each, 'cpu'):.0f}",
                    f"{ratio([one['rate'] for one in each], bare):.2f}",
                ]
                for way in ways
                for each in [done[way.name, number]]
            ],
        )

    def share(one: str, other: str, number: int, name: str = "rate") -> float:
        return ratio([each[name] for each in done[one, number]], [each[name] for each in done[other, number]])

    print()
    goal("by the router, share of a constant route", share("router", "constant route", 16), 0.9, at_least=True)
    print(f"  (a route that reads a row: {share('a route with a row', 'constant route', 16):.2f})")
    goal("the short way, share of bare uvicorn", share("short way", "bare uvicorn", 16), 0.75, at_least=True)
    print(f"  (of the one that Datasette installs: {share('short way', 'the same, in Python alone', 16):.2f};")
    print(f"  bare uvicorn that reads a row, of bare uvicorn: {share('the same, with a row', 'bare uvicorn', 16):.2f})")
    goal("the short way, times the row page", share("short way", "row page", 16), 8, at_least=True, form=".1f")
    goal("the short way, times FastAPI", share("short way", "FastAPI, SQLAlchemy", 16), 8, at_least=True, form=".1f")
    for name in ("router", "short way"):
        p99 = share(name, "constant route", 64, "p99")
        goal(f"p99 at 64 connections, {name}, times the constant route's", p99, 1.25, at_least=False)


@contextmanager
def repeated(work: Callable[[], subprocess.Popen[bytes]]) -> Iterator[None]:
    """Run a command again and again, beside."""
    running = work()
    try:
        yield
    finally:
        running.terminate()
        running.wait()


def beside(way: Way, vins: Path, misses: Path, rounds: int, seconds: float) -> None:
    """Hits while the same server has something else to do."""
    url = f"http://127.0.0.1:{way.server.port}"
    again = "while True:\n    {}"

    def script(body: str) -> Callable[[], subprocess.Popen[bytes]]:
        head = (
            f"import httpx, itertools\nvins = open({str(misses)!r}).read().split()\nclient = httpx.Client(timeout=60)\n"
        )
        return lambda: subprocess.Popen([sys.executable, "-c", head + again.format(body)], stderr=subprocess.DEVNULL)

    loads: dict[str, Callable[[], subprocess.Popen[bytes]] | None] = {
        "nothing": None,
        "misses": script(f"vins and client.get({url + '/lookup/'!r} + vins.pop())"),
        "writes": script(f"client.post({url + '/lookup'!r}, content='\\n'.join(vins[:50])); del vins[:50]"),
        "an export": script(f"client.get({url + '/export'!r})"),
    }
    done: dict[str, list[Figures]] = {name: [] for name in loads}
    for _ in range(rounds):
        for name, work in loads.items():
            with ExitStack() as held:
                if work:
                    held.enter_context(repeated(work))
                    time.sleep(1)
                done[name].append(asked(way, vins, 1, seconds))
    table(
        f"Hits by the short way on 1 connection, beside something else, {rounds} rounds",
        ["beside", "requests/s", "p50 ms", "p99 ms"],
        [
            [name, f"{middle(each, 'rate'):,.0f}", *(f"{middle(each, key):.2f}" for key in ("p50", "p99"))]
            for name, each in done.items()
        ],
    )
    print()
    idle = [each["p50"] for each in done["nothing"]]
    for name in ("misses", "an export"):
        times = ratio([each["p50"] for each in done[name]], idle)
        goal(f"p50 of hits beside {name}, times alone", times, 2, at_least=False)


def main(given: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="Vehicles in the cache.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="How long each way is asked in each round.")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    arguments = parser.parse_args(given)
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not there: apt-get install wrk.")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    original = cache_of(arguments.rows, arguments.folder.resolve())
    rounds, seconds = arguments.rounds, arguments.seconds
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        # The background writes.
        cache = Path(shutil.copy(original, folder / "vin.db"))
        vins = shuffled(cache, arguments.rows, folder)
        misses = vins_of(20_000, arguments.folder)
        vpic = held.enter_context(upstream(misses, 0.2))
        settings = {
            "VIN_DATASETTE_SOURCE": "vpic",
            "VIN_DATASETTE_VPIC_URL": vpic.url,
            "VIN_DATASETTE_RATE": "1000",
        }
        plain = ["--no-access-log", "--log-level", "warning"]
        serve = ["vin_datasette.cli", "serve", "--no-access-log", "--db", str(cache)]
        with closing(sqlite3.connect(cache)) as connection:
            # What the embedded database answered would be stale, and asked about anew.
            connection.execute("UPDATE vehicles SET source = 'vpic'")
            connection.commit()
        held.enter_context(awake())
        serve += ["--plugins-dir", str(HERE / "plugins")]
        ours = held.enter_context(served(*serve, CACHE=str(cache), **settings))
        check_head(ours, vins)
        forgetful = held.enter_context(served(*serve, VIN_DATASETTE_MEMORY_HITS="0", CACHE=str(cache), **settings))
        bare = held.enter_context(served("uvicorn", *plain, "benchmarks.hits.peers:bare"))
        reading = held.enter_context(served("uvicorn", *plain, "benchmarks.hits.peers:reading", CACHE=str(cache)))
        # As Datasette alone installs it.
        stock = ["--loop", "asyncio", "--http", "h11"]
        slower = held.enter_context(served("uvicorn", *plain, *stock, "benchmarks.hits.peers:bare"))
        replaced = held.enter_context(
            served("uvicorn", *plain, "--factory", "benchmarks.hits.peers:replaced", CACHE=str(cache))
        )
        short = Way("short way", ours, "/lookup/")
        ways = [
            Way("bare uvicorn", bare, "/"),
            Way("the same, in Python alone", slower, "/"),
            Way("the same, with a row", reading, "/lookup/"),
            short,
            Way("short way, none remembered", forgetful, "/lookup/"),
            Way("constant route", ours, f"/-/constant{ROUTER}&"),
            Way("a route with a row", ours, "/-/row/", ROUTER),
            Way("router", ours, "/lookup/", ROUTER),
            Way("router, none remembered", forgetful, "/lookup/", ROUTER),
            Way("row page", ours, "/vin/vehicles/", ".json"),
            Way("FastAPI, SQLAlchemy", replaced, "/lookup/"),
        ]
        remember(short, vins, REMEMBERED * arguments.rows, seconds)
        alone(ways, vins, rounds, seconds)
        beside(short, vins, misses, rounds, seconds)


if __name__ == "__main__":
    main()
