"""A soak: hits, misses, lists, exports and removals for a long time, while everything goes wrong that can.

    python -m benchmarks.soak --minutes 30 --seed 1     # half an hour, as the README has it
    python -m benchmarks.soak --minutes 2
    python -m benchmarks.soak --minutes 10 --source vpic

A `vin-datasette serve` on loopback over a cache of its own is asked by some clients at once, each
with VINs of its own whose whole history it knows; a command line writes to the same file. Meanwhile
vPIC, which is `tests.vpic_server`, fails in ten ways, another process locks the file, clients stall,
and the server is killed or told to end, and started anew. Every answer, every row of every export
and the file itself are held against what must be there. In the second half of the time the server
is left to live, and its memory and descriptors are to stay what they are.

Prints what was seen, and each thing that must not be as it is found; the exit code is 1 when there was one.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sqlite3
import statistics
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from benchmarks.fleet import environment, goal, table, vins_of
from benchmarks.soaking.account import Account
from benchmarks.soaking.asking import World
from benchmarks.soaking.clients import Client
from benchmarks.soaking.commands import Operator
from benchmarks.soaking.fates import Fates
from benchmarks.soaking.processes import Server, Vpic, command, serve_vpic
from benchmarks.soaking.rough import Rough
from benchmarks.soaking.truth import COLUMNS, Truth
from benchmarks.soaking.weather import Weather, is_over
from vin_datasette.schema import REJECTIONS, VEHICLES
from vin_datasette.vin import check_digit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from benchmarks.soaking.processes import Life, Sample

CLIENTS = 16
ROUGH = 3
"""Clients that behave, and those that do not."""

RATE = 60.0
"""Requests a second of all clients together: what leaves the machine room, so that latencies say something."""

NEW_A_SECOND = 4
"""VINs that nobody has asked for yet, for each second of the soak."""

SHARED = 300
REJECTED = 20
"""VINs that all have in common; VINs of each client for which there is no vehicle."""

STALE = 0.1
"""Share of the vehicles that the embedded database answered before, which are to be asked about anew."""

SETTINGS = {"VIN_DATASETTE_RATE": "50", "VIN_DATASETTE_CONCURRENCY": "4"}
"""Of the server and of commands: vPIC is asked more often than the DOT would be."""

PATIENT = {"VIN_DATASETTE_TIMEOUT": "3"}
"""With the source vpic: less than the usual 20 seconds, so that clients fail more than one lookup in a fault."""

KILLS_EVERY = (120.0, 300.0)
"""Seconds between two ends of the server, from and to; less where the soak itself is short."""

JUDGED = 40.0
"""Seconds for which a server has to live for its memory to be judged."""

MORE_MB, MORE_SHARE = 10.0, 0.1
MORE_DESCRIPTORS = 5
"""What the server may hold more in the last quarter of its life than in the second, whichever of MB is more."""

WARM, PAGE_CACHE = 300.0, 32.0
"""Seconds within which SQLite's page cache of the connection that writes may still be filling, and its MB."""

HELD = {"mb": "MB", "own_mb": "MB of its own", "descriptors": "descriptors", "threads": "threads"}
"""What is sampled of the server, and its names in the table. The other megabytes are pages of files: the
embedded database's come into memory as vehicles are asked for, and go when it is short."""

ENDING = 180.0
SETTLED = 60.0
"""Seconds for all who ask to come to an end, and after that until nothing is on its way any longer."""


class Soak:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path, vpic: Vpic) -> None:
        self._options = options
        self._seconds = 60 * options.minutes
        self._chance = random.Random(options.seed)
        self._vpic = vpic
        self._db = folder / "soak.db"
        self.account = Account()
        source = ["--source", options.source, "--vpic-url", vpic.url]
        settings = {**SETTINGS, **(PATIENT if options.source == "vpic" else {})}
        self.server = Server(self._db, source, settings, self.account)
        self.weather = Weather(random.Random(f"{options.seed} weather"), vpic, self.server, self._db)
        self._operator_options = [*source, "--db", str(self._db)]
        self._settings = settings

    async def run(self) -> None:
        """Fill the cache, let all happen for the time that was said, and look at what is left."""
        world, everyone = self._world()
        await self.server.start()
        self.account.begin()
        over, pauses = asyncio.Event(), ends_after(self._seconds, self._chance)
        async with world.http:
            ending = self.weather.of_process(pauses, lambda end: self._check_file(world, f"the file after {end}"))
            finite = [ending, self._watch(over), *(each.go_on(over) for each in self._askers(world, everyone))]
            going_on = [asyncio.create_task(each) for each in finite]
            going_wrong = [asyncio.create_task(each) for each in (self.weather.of_vpic(), self.weather.of_disk())]
            try:
                await _for(self._seconds, [*going_on, *going_wrong])
                over.set()
                await asyncio.wait_for(asyncio.gather(*going_on), ENDING)
            finally:
                await _ended([*going_on, *going_wrong])
            await self._settled(world)
            await self.server.stop(signal.SIGTERM)
            await self._check_file(world, "the file at the end")

    def _askers(self, world: World, everyone: Sequence[Fates]) -> list[Client | Rough]:
        seed, gap = self._options.seed, self._options.clients / self._options.rate
        return [
            Operator(
                world,
                everyone[0],
                random.Random(f"{seed} operator"),
                gap,
                options=self._operator_options,
                settings=self._settings,
            ),
            *(
                Client(world, fates, random.Random(f"{seed} {number}"), gap)
                for number, fates in enumerate(everyone[1:])
            ),
            *(Rough(world, random.Random(f"{seed} rough {number}")) for number in range(ROUGH)),
        ]

    def _world(self) -> tuple[World, list[Fates]]:
        """A cache that is filled by the command, and the VINs of each client."""
        owners = self._options.clients + 1
        vehicles = self._options.vehicles
        unknown = 200 + int(NEW_A_SECOND * self._seconds)
        vins = vins_of(vehicles + SHARED + unknown, self._options.folder).read_text().split()
        # Each client is to have some of all kinds.
        random.Random(self._options.seed).shuffle(vins)
        rejected = [_misspelt(vin) for vin in vins[: REJECTED * owners]]
        truth = Truth([*vins, *rejected])
        stored, shared, new = vins[:vehicles], vins[vehicles : vehicles + SHARED], vins[vehicles + SHARED :]
        shared = [vin for vin in shared if truth.is_vehicle(vin)]
        stale = int(STALE * vehicles)
        sources = dict.fromkeys(stored[:stale], "embedded") | dict.fromkeys(stored[stale:], "vpic")
        for source in ("embedded", "vpic"):
            self._fill([vin for vin, by in sources.items() if by == source], source)
        everyone = [
            Fates(
                {vin: sources[vin] for vin in stored[number::owners]},
                [*new[number::owners], *rejected[number::owners]],
                random.Random(f"{self._options.seed} fates {number}"),
                self.account,
            )
            for number in range(owners)
        ]
        http = httpx.AsyncClient(
            base_url=self.server.url,
            trust_env=False,
            verify=False,
            # A page's cookie would make each later request a browser's, which has to bring a token.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=60,
            # Less than the server keeps an idle one: what it closes must not be taken for a fault.
            limits=httpx.Limits(max_connections=2 * owners, keepalive_expiry=2),
        )
        world = World(
            http, self.server, self.weather, truth, self.account, everyone, shared, self._options.source, self._db
        )
        return world, everyone

    def _fill(self, vins: Sequence[str], source: str) -> None:
        file = self._db.with_suffix(".txt")
        file.write_text("\n".join(vins))
        limits = ["--rate", "10000", "--concurrency", "8", "--silent"]
        done = subprocess.run(
            command("fetch", "-f", str(file), *limits, *self._operator_options, "--source", source),
            check=False,
            capture_output=True,
            text=True,
            env=environment(),
        )
        if " 0 failed" not in done.stdout:
            raise SystemExit(f"The cache could not be filled: {done.stdout}{done.stderr}")

    async def _watch(self, over: asyncio.Event) -> None:
        while not await is_over(over, 1):
            self.server.sample()
            self.server.check_alive()

    async def _settled(self, world: World) -> None:
        """When nobody asks any longer, nothing may be under way for long."""
        gives_up, held = time.monotonic() + SETTLED, ["?"]
        while held and time.monotonic() < gives_up:
            await asyncio.sleep(0.5)
            metrics = (await world.http.get("/-/vin/metrics")).text
            held = [
                line
                for line in metrics.splitlines()
                if line.startswith(("vin_datasette_under_way{", "vin_datasette_questions{")) and float(line.split()[-1])
            ]
        if held:
            self.account.violation("broken", f"{SETTLED:g} seconds after the last request: {', '.join(held)}")

    async def _check_file(self, world: World, where: str) -> None:
        """SQLite's own checks of the file and of its search index, and every row."""
        began = time.monotonic()
        try:
            rows, rejected = await asyncio.to_thread(self._read_file, where)
        except sqlite3.Error as error:
            self.account.violation("broken", f"{where} cannot be read: {error}")
            return
        await world.check_rows(rows, began, where)
        for fates in world.everyone:
            stored, absent = fates.certain(began)
            for vin in stored:
                if not world.truth.is_vehicle(vin) and vin not in rejected:
                    self.account.violation("lost", f"The rejection of {vin} is not in {where}: {fates.story(vin)}")
            for vin in absent & rejected:
                self.account.violation("lost", f"The rejection of {vin} is in {where}: {fates.story(vin)}")
        self.account.checked["files"] += 1
        self.account.checked["stored"] = len(rows)

    def _read_file(self, where: str) -> tuple[list[tuple[str, ...]], set[str]]:
        with closing(sqlite3.connect(self._db, timeout=30, isolation_level=None)) as file:
            [(said,)] = file.execute("PRAGMA integrity_check(1)").fetchall()
            if said != "ok":
                self.account.violation("broken", f"{where}: {said}")
            try:
                # With rank 1, the index is held against the table (SQLite's documentation of FTS5, section 6.5).
                file.execute(f"INSERT INTO {VEHICLES}_fts ({VEHICLES}_fts, rank) VALUES ('integrity-check', 1)")
            except sqlite3.DatabaseError as error:
                self.account.violation("broken", f"{where}: the search index: {error}")
            file.execute("BEGIN")
            found = file.execute(f"SELECT vin, {', '.join(COLUMNS)}, source FROM {VEHICLES}").fetchall()
            rejected = {vin for (vin,) in file.execute(f"SELECT vin FROM {REJECTIONS}")}
        return [tuple("" if value is None else str(value) for value in row) for row in found], rejected

    # What is printed

    def report(self) -> None:
        """Tables of what was seen."""
        seconds, requests = self._seconds, self.account.requests
        table(
            f"soak: {seconds / 60:g} minutes, seed {self._options.seed}, source {self._options.source}, "
            f"{self._options.clients} clients, {self._options.rate:g} requests a second meant, "
            f"{requests.total() / seconds:.0f} made",
            ["requests", *(outcomes := sorted({outcome for _, outcome in requests}))],
            [
                [kind, *(f"{requests[kind, outcome]:,}" if requests[kind, outcome] else "" for outcome in outcomes)]
                for kind in dict.fromkeys(kind for kind, _ in requests)
            ],
        )
        table(
            "faults",
            ["what", "times", "seconds"],
            [
                [kind, str(times), f"{self.weather.seconds[kind]:,.0f}"]
                for kind, times in sorted(self.weather.times.items())
            ],
        )
        table(
            "hits",
            ["while", "requests", "p50 ms", "p99 ms", "longest ms"],
            [
                [label, f"{len(taken):,}", *(f"{1000 * share(taken, part):,.1f}" for part in (0.5, 0.99, 1))]
                for label, taken in sorted(self.account.hits.items())
            ],
        )
        self._report_life(max(self.server.lives, key=lambda life: life.samples[-1].at if life.samples else 0))
        checked = self.account.checked
        print(
            f"\n{checked['stored']:,} vehicles stored at the end. Compared: {checked['answers']:,} answers, "
            f"{checked['lines']:,} lines of lists, {checked['rows']:,} rows of exports and files; "
            f"{checked['files']} files checked whole; {self._vpic.calls:,} calls to vPIC"
        )
        for what, kind in (("vehicles lost", "lost"), ("wrong answers", "wrong"), ("else broken", "broken")):
            goal(what, self.account.violations[kind], 0, at_least=False, form="d")  # type: ignore[index]

    def _report_life(self, life: Life) -> None:
        if not life.samples or life.samples[-1].at < JUDGED:
            print(f"\nThe server never lived for {JUDGED:g} seconds: nothing is said of its memory.")
            return
        length = life.samples[-1].at
        second, last = life.quarter(2), life.quarter(4)
        rows = [
            [words, *(f"{middle(part, name):,.1f}" for part in (life.quarter(1), second, life.quarter(3), last))]
            for name, words in HELD.items()
        ]
        table(
            f"the server in its longest life, {length / 60:.1f} minutes, {life.cpu / length:.0%} of a core; "
            "medians of the quarters of it",
            ["held", "first", "second", "third", "last"],
            rows,
        )
        allowed = max(MORE_MB, MORE_SHARE * middle(second, "own_mb")) + (PAGE_CACHE if length < WARM else 0)
        grown = middle(last, "own_mb") - middle(second, "own_mb")
        goal("MB of its own more in the last quarter than in the second", grown, allowed, at_least=False, form=".1f")
        # Those that are there at any time: how many clients are connected just now is chance.
        more = min(sample.descriptors for sample in last) - min(sample.descriptors for sample in second)
        goal("descriptors more, at least", more, MORE_DESCRIPTORS, at_least=False, form="d")
        if grown > allowed or more > MORE_DESCRIPTORS:
            self.account.violations["broken"] += 1


def middle(samples: Sequence[Sample], name: str) -> float:
    """The median of what a server held."""
    return float(statistics.median(getattr(sample, name) for sample in samples))


def share(taken: Sequence[float], part: float) -> float:
    """The time within which this part of the requests was answered."""
    return sorted(taken)[min(len(taken) - 1, int(part * len(taken)))]


def ends_after(seconds: float, chance: random.Random) -> list[float]:
    """The pauses after which the server is ended: all in the first half, and twice at least."""
    low, high = (min(part * seconds, limit) for part, limit in zip((0.12, 0.22), KILLS_EVERY, strict=True))
    pauses: list[float] = []
    while len(pauses) < 2 or sum(pauses) + high < seconds / 2:
        pauses.append(chance.uniform(low, high))
    return pauses


def _misspelt(vin: str) -> str:
    """A VIN whose check digit fails (49 CFR 565.15)."""
    wrong = "1" if check_digit(vin) != "1" else "2"
    return f"{vin[:8]}{wrong}{vin[9:]}"


async def _for(seconds: float, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Let tasks go on for so long; raises what one of them raises."""
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in done:
        task.result()


async def _ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def main(given: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1, help="Of what is asked and of what goes wrong.")
    parser.add_argument("--source", choices=["auto", "vpic"], default="auto", help="The server's setting.")
    parser.add_argument("--vehicles", type=int, default=10_000, help="Those in the cache at the beginning.")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rate", type=float, default=RATE, help="Requests a second of all clients together.")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    parser.add_argument("--vpic", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.vpic:
        serve_vpic(options.vpic)
        return
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name, closing(Vpic()) as vpic:
        soak = Soak(options, Path(name).resolve(), vpic)
        with closing(soak.server):
            asyncio.run(soak.run())
        with suppress(KeyboardInterrupt):
            soak.report()
        if soak.account.violations:
            raise SystemExit(1)


if __name__ == "__main__":
    # So that whoever is told to end does not leave its processes behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
