"""The processes of a soak: the server that is watched, the local vPIC that it asks, and one that locks its file."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from benchmarks.fleet import environment, memory, processor_seconds
from benchmarks.soaking.truth import MarkedRecords
from tests.vpic_server import Fault, VpicServer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.soaking.account import Account

COMMAND = """
import vin_datasette.breaker
from vin_datasette.cli import main

vin_datasette.breaker.FIRST_PAUSE, vin_datasette.breaker.LONGEST_PAUSE = 1.0, 4.0
main()
"""
"""`vin-datasette` as it is, but for the pauses for which it leaves a vPIC alone that is away: with
those of half a minute and more, most faults would meet nobody."""

PAUSE = 4.0
"""Seconds for which vPIC is left alone at most."""

LATENCY = 0.05
"""Seconds that vPIC takes for a call."""

READY = 60.0
ENDED = 30.0
"""Seconds for a server to begin and, told to, to end."""

FAULTS = {
    "status 500": Fault.status(500),
    "429 with Retry-After": Fault.status(429, retry_after=1),
    "HTML": Fault.html_200,
    "truncated": Fault.truncated,
    "reset": Fault.reset,
    "silence": Fault.silence,
    "another VIN": Fault.wrong_vin,
    "slow": Fault.slow_drip(1.5),
}
"""What may be wrong with vPIC's answers."""

REFUSED, MIXED = "refused", "all at once"
"""Two more: nobody listens; and each answer meets another fault, or none."""

HOLD = """
import sqlite3, sys, time
file = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
file.execute("BEGIN IMMEDIATE")
time.sleep(float(sys.argv[2]))
"""


def command(*arguments: str) -> list[str]:
    """`vin-datasette` with these arguments."""
    return [sys.executable, "-c", COMMAND, *arguments]


def free_port() -> int:
    """A port that nobody is given by chance while nobody listens there."""
    # Below those that Linux takes for outgoing connections, which are made all the time.
    for port in random.sample(range(20_000, 32_000), 1000):
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit("No port is free.")


# The local vPIC


def serve_vpic(port: int) -> None:
    """Serve vPIC; for each line at standard input, let this be wrong with it from now on, or nothing."""
    server = VpicServer(LATENCY)
    server.port, server.records = port, MarkedRecords()
    server.start()
    running = True
    print(server.url, flush=True)
    calls = 0
    for line in sys.stdin:
        fault = line.strip()
        if running and fault == REFUSED:
            server.stop()
            running = False
        elif not running and fault != REFUSED:
            server.start()
            running = True
        calls += len(server.calls)
        server.reset()
        server.fail_always(FAULTS.get(fault))
        if fault == MIXED:
            server.fault_rates(dict.fromkeys(FAULTS.values(), 0.8 / len(FAULTS)))
        print(json.dumps({"calls": calls}), flush=True)
    server.stop()


class Vpic:
    """The local vPIC in its process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--vpic", str(free_port())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        self._lock = threading.Lock()
        self.calls = 0
        self.url = self._line()

    def let(self, fault: str) -> None:
        """From now on this is wrong with it; "" for nothing."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(f"{fault}\n")
            self._process.stdin.flush()
            self.calls = json.loads(self._line())["calls"]

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("The local vPIC has ended.")
        return line


# The lock


async def hold_lock(db: Path, seconds: float) -> None:
    """Let another process hold the write lock of a cache for a while."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-I", "-c", HOLD, str(db), str(seconds))
    try:
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# The server


@dataclass(frozen=True)
class Sample:
    """What the server holds at a moment, in seconds of its life."""

    at: float
    mb: float
    own_mb: float
    """Without the pages of files, such as the embedded database's, which come as vehicles are asked for."""
    descriptors: int
    threads: int


@dataclass
class Life:
    """From one start of the server to its end."""

    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)
    cpu: float = 0.0
    metrics: float = 0.0
    """The lookups that the server itself has counted, as last heard."""

    def quarter(self, number: int) -> list[Sample]:
        """The samples of one quarter of it, from 1 to 4."""
        length = self.samples[-1].at / 4
        return [sample for sample in self.samples if (number - 1) * length <= sample.at <= number * length]


class Server:
    """`vin-datasette serve` on one port and one file, in one process after another."""

    def __init__(self, db: Path, options: Sequence[str], settings: dict[str, str], account: Account) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = db.with_suffix(".log")
        self._db = db
        self._options = options
        self._environment = environment(**settings)
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        self._unreachable: list[tuple[float, float]] = []
        self._going_since: float | None = None
        self._read_of_log = 0
        self.up = asyncio.Event()
        self.lives: list[Life] = []

    @property
    def life(self) -> Life:
        """The present one."""
        return self.lives[-1]

    async def start(self) -> None:
        """Start it, and return when it is ready. Raises `SystemExit` when it does not become so."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - it is looked at without waiting
                command("serve", "--db", str(self._db), "--port", str(self.port), *self._options),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
            )
        gives_up = time.monotonic() + READY
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, verify=False) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get("/-/vin/ready")).is_success:
                        break
                if self._process.poll() is not None or time.monotonic() > gives_up:
                    raise SystemExit(f"The server did not start: {self.log.read_text()[-2000:]}")
                await asyncio.sleep(0.1)
        if self._going_since is not None:
            self._unreachable.append((self._going_since, time.monotonic()))
            self._going_since = None
        self.lives.append(Life())
        self.up.set()

    async def stop(self, number: signal.Signals) -> float:
        """Send a signal that ends it, and wait until it has; how many seconds it took."""
        assert self._process is not None
        self.sample()
        began = self._going_since = time.monotonic()
        self._process.send_signal(number)
        while self._process.poll() is None:
            if time.monotonic() - began > ENDED:
                self._account.violation("broken", f"{number.name} did not end the server within {ENDED:g} seconds.")
                self._process.kill()
            await asyncio.sleep(0.02)
        self.up.clear()
        code, expected = self._process.returncode, {0, -number}
        if number == signal.SIGTERM and code not in expected:
            self._account.violation("broken", f"The server ended with the code {code} after SIGTERM.")
        self._read_log()
        return time.monotonic() - began

    def close(self) -> None:
        """End it at once, where it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def was_going(self, since: float) -> bool:
        """Whether it was ending, away or starting at some time since then, so that what was asked may be cut off."""
        return self._going_since is not None or any(ended >= since for _, ended in self._unreachable)

    def check_alive(self) -> None:
        """Raise `SystemExit` when it has ended by itself."""
        if self._process is not None and self._going_since is None and self._process.poll() is not None:
            said = self.log.read_text()[-2000:]
            raise SystemExit(f"The server ended by itself with the code {self._process.returncode}: {said}")

    def sample(self) -> None:
        """Look at what it holds, where it runs."""
        if self._process is None or self._process.poll() is not None or self._going_since is not None:
            return
        pid = self._process.pid
        with suppress(OSError, ValueError):
            self.life.samples.append(
                Sample(
                    time.monotonic() - self.life.began,
                    memory(pid, "VmRSS"),
                    memory(pid, "RssAnon"),
                    len(os.listdir(f"/proc/{pid}/fd")),
                    int(memory(pid, "Threads") * 1024),
                )
            )
            self.life.cpu = processor_seconds(pid)

    def _read_log(self) -> None:
        """No traceback may stand in the log."""
        text = self.log.read_text("utf-8", "replace")
        new, self._read_of_log = text[self._read_of_log :], len(text)
        for place in range(new.count("Traceback (most recent call last)")):
            tail = new.split("Traceback (most recent call last)")[place + 1].strip().splitlines()
            last = next((line for line in tail if line and not line.startswith((" ", "\t"))), "?")
            self._account.violation("broken", f"There is a traceback in the server's log ({self.log}): {last}")
