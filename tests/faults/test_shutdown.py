"""The end of a server: SIGTERM and SIGINT while it is at work."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import SCRIPT, clean_environment, fill_cache, numbered_vins, rows, serving, until
from tests.vpic_server import Fault
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import MakeInstance, Served
    from tests.vpic_server import VpicServer

SIGNALS = [signal.SIGTERM, signal.SIGINT]

PETERBILT = "1XP5DB9X7XD487964"
HONDA = str(numbered_vins(1)[0])


def by_vpic(vpic_server: VpicServer, **more: str) -> dict[str, str]:
    """The environment of a server that asks this vPIC, and nobody else."""
    return {
        "VIN_DATASETTE_VPIC_URL": vpic_server.url,
        "VIN_DATASETTE_SOURCE": "vpic",
        "VIN_DATASETTE_RATE": "1000",
        "VIN_DATASETTE_SHUTDOWN_TIMEOUT": "20",
        **more,
    }


def end(server: Served, sent: signal.Signals) -> None:
    """Tell a server to end, and wait until it has heard."""
    server.process.send_signal(sent)
    until(lambda: "Shutting down" in server.said())


def ended(server: Served, sent: signal.Signals, folder: Path, within: float) -> None:
    """That it ends as uvicorn does: by the signal itself, or, as Datasette 0.65 and click have it
    for Ctrl-C, with 0 or 1; and leaves a cache that is whole and alone."""
    assert server.process.wait(within) in ((-sent,) if sent is signal.SIGTERM else (0, 1, -sent))
    assert "Traceback" not in server.said()
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith("vin.db")) == ["vin.db"]
    assert whole(folder)


def whole(folder: Path) -> bool:
    """Whether nothing is wrong with the cache, as far as SQLite can tell."""
    with closing(sqlite3.connect(folder / "vin.db")) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_lookup_in_flight_is_answered_and_kept(vpic_server: VpicServer, tmp_path: Path, sent: signal.Signals) -> None:
    vpic_server.latency = 1.0
    with serving(tmp_path, **by_vpic(vpic_server)) as server, ThreadPoolExecutor() as threads:
        asked = threads.submit(httpx.get, f"{server.url}/lookup/{PETERBILT}", timeout=30)
        until(lambda: vpic_server.calls)
        end(server, sent)
        assert (asked.result().status_code, asked.result().json()["Make"]) == (200, "PETERBILT")
        ended(server, sent, tmp_path, within=5)
    assert [row["vin"] for row in rows(tmp_path / "vin.db")] == [PETERBILT]


def test_a_list_in_flight_is_answered_or_told_line_by_line(vpic_server: VpicServer, tmp_path: Path) -> None:
    vpic_server.latency = 0.3
    vins = numbered_vins(500)
    with serving(tmp_path, **by_vpic(vpic_server)) as server:
        with httpx.stream("POST", f"{server.url}/lookup", json=vins, timeout=30) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            end(server, signal.SIGTERM)
            said = [json.loads(line) for line in (first, *lines)]
        ended(server, signal.SIGTERM, tmp_path, within=5)
    assert sorted(each["Input VIN Requested"] for each in said) == sorted(vins)
    answered = {each["Input VIN Requested"] for each in said if each.get("Make") == "HONDA"}
    told = [each for each in said if "Make" not in each]
    assert answered == {row["vin"] for row in rows(tmp_path / "vin.db")}
    assert answered
    assert {(each["status"], each["error"]) for each in told} == {
        (503, "No source could be asked: the server is shutting down")
    }
    # What was not on its way is not asked about any more.
    assert sum(len(call.vins) for call in vpic_server.calls) < len(vins)


def test_who_cannot_be_answered_in_time_is_told_so(vpic_server: VpicServer, tmp_path: Path) -> None:
    vpic_server.fail_always(Fault.silence)
    variables = by_vpic(vpic_server, VIN_DATASETTE_SHUTDOWN_TIMEOUT="0.5")
    with serving(tmp_path, **variables) as server, ThreadPoolExecutor() as threads:
        one = threads.submit(httpx.get, f"{server.url}/lookup/{PETERBILT}", timeout=30)
        many = threads.submit(httpx.post, f"{server.url}/lookup", json=numbered_vins(500), timeout=30)
        until(lambda: len(vpic_server.calls) == 2)
        end(server, signal.SIGTERM)
        assert (one.result().status_code, one.result().headers["Retry-After"]) == (503, "30")
        assert one.result().json()["error"] == "No source could be asked: the server is shutting down"
        lines = [json.loads(line) for line in many.result().text.splitlines()]
        ended(server, signal.SIGTERM, tmp_path, within=5)
    assert [each["status"] for each in lines] == [503] * 500


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cache that no buffers between a server and its reader hold."""
    folder = tmp_path_factory.mktemp("large")
    fill_cache(folder / "vin.db", 30_000, record_bytes=2_000)
    return folder


class Stalled:
    """Somebody who asks, and takes next to nothing of the answer."""

    def __init__(self, server: Served, path: str) -> None:
        parts = urlsplit(server.url)
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.settimeout(30)
        self._socket.connect((parts.hostname, parts.port))
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        self._taken = self._socket.recv(1000)
        assert self._taken.startswith(b"HTTP/1.1 200 ")

    def __enter__(self) -> Stalled:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def rest(self) -> bytes:
        """All that is still to be had, with the head and the lengths of chunks."""
        taken = bytearray(self._taken)
        with contextlib.suppress(ConnectionResetError):
            while more := self._socket.recv(1 << 20):
                taken += more
        return bytes(taken)


EXPORT, STREAMED_CSV = "/export?_raw=1", "/vin/vehicles.csv?_stream=on&_size=max"


def test_stalled_readers_hold_nothing_up(large: Path) -> None:
    variables = {"VIN_DATASETTE_SOURCE": "embedded", "VIN_DATASETTE_SHUTDOWN_TIMEOUT": "0.5"}
    with serving(large, **variables) as server, Stalled(server, EXPORT) as ours, Stalled(server, STREAMED_CSV) as other:
        end(server, signal.SIGTERM)
        ended(server, signal.SIGTERM, large, within=5)
        files = [ours.rest(), other.rest()]
    assert "A stream was cut off as the server is shutting down" in server.said()
    # Without the last chunk, of no length, no reader takes it for whole (RFC 9112, section 7.1).
    assert not [file for file in files if file.endswith(b"\r\n0\r\n\r\n")]
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(io.BytesIO(files[0].partition(b"\r\n\r\n")[2]))


@pytest.mark.parametrize("sent", SIGNALS)
def test_a_second_signal_leaves_no_time(vpic_server: VpicServer, large: Path, sent: signal.Signals) -> None:
    vpic_server.fail_always(Fault.silence)
    variables = by_vpic(vpic_server, VIN_DATASETTE_SHUTDOWN_TIMEOUT="10m")
    with serving(large, **variables) as server, Stalled(server, EXPORT), ThreadPoolExecutor() as threads:
        asked = threads.submit(httpx.get, f"{server.url}/lookup/{PETERBILT}", timeout=30)
        until(lambda: vpic_server.calls)
        end(server, sent)
        server.process.send_signal(sent)
        assert asked.result().status_code == 503
        ended(server, sent, large, within=5)


def test_connections_without_a_request_hold_nothing_up(tmp_path: Path) -> None:
    with serving(tmp_path, VIN_DATASETTE_SOURCE="embedded") as server, httpx.Client() as client:
        assert client.get(f"{server.url}/lookup/{PETERBILT}", timeout=30).status_code == 200
        parts = urlsplit(server.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0)) as silent:
            silent.sendall(b"GET /lookup HTTP/1.1\r\n")
            end(server, signal.SIGINT)
            ended(server, signal.SIGINT, tmp_path, within=3)
    assert [row["vin"] for row in rows(tmp_path / "vin.db")] == [PETERBILT]


def test_who_comes_late_is_refused_and_never_left_waiting(vpic_server: VpicServer, tmp_path: Path) -> None:
    vpic_server.latency = 1.5
    came: list[int | str] = []
    with serving(tmp_path, **by_vpic(vpic_server)) as server, ThreadPoolExecutor() as threads:
        asked = threads.submit(httpx.get, f"{server.url}/lookup/{PETERBILT}", timeout=30)
        until(lambda: vpic_server.calls)
        server.process.send_signal(signal.SIGTERM)
        while came[-1:] != ["refused"]:
            try:
                came.append(httpx.get(f"{server.url}/lookup/{HONDA}", timeout=5).status_code)
            except httpx.ConnectError:
                came.append("refused")
            except (httpx.RemoteProtocolError, httpx.ReadError):
                came.append("closed")
        assert asked.result().status_code == 200
        ended(server, signal.SIGTERM, tmp_path, within=5)
    # Until the door is closed, some milliseconds later, those who come are told.
    assert set(came) <= {503, "closed", "refused"}


# Within one process: what the instance does from the signal on


class Lifespan:
    """The application of an instance, started as a server does, within a task of its own."""

    def __init__(self, datasette: Any) -> None:
        self.app = datasette.app()
        self._received: asyncio.Queue[dict[str, str]] = asyncio.Queue()
        self._sent: asyncio.Queue[dict[str, str]] = asyncio.Queue()

    async def __aenter__(self) -> Lifespan:
        self._task = asyncio.ensure_future(self.app({"type": "lifespan"}, self._received.get, self._sent.put))
        await self._received.put({"type": "lifespan.startup"})
        assert (await self._sent.get())["type"] == "lifespan.startup.complete"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._received.put({"type": "lifespan.shutdown"})
        assert (await self._sent.get())["type"] == "lifespan.shutdown.complete"
        await self._task


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """The signals that come to a server's own handlers, which are put back in the end."""
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _: came.append(number))
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


async def told_to_end(datasette: Any) -> None:
    signal.raise_signal(signal.SIGTERM)
    await asyncio.wait_for(state_of(datasette).leaving.began.wait(), 5)


BEGUN = {
    "a lookup": ("GET", f"/lookup/{HONDA}"),
    "a refresh": ("POST", f"/-/vin/refresh/{PETERBILT}"),
    "a list": ("POST", "/lookup"),
    "an export": ("GET", "/export"),
    "a page as Parquet": ("GET", "/vin/vehicles.parquet"),
    "a query as Parquet": ("GET", "/vin/vehicles.parquet?_col=make"),
}


@pytest.mark.parametrize(("method", "path"), BEGUN.values(), ids=BEGUN)
async def test_nothing_is_begun_any_more(
    make_instance: MakeInstance, signals: list[int], method: str, path: str
) -> None:
    datasette = await make_instance()
    async with Lifespan(datasette):
        assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 200
        await told_to_end(datasette)
        send = {"headers": {"content-type": "text/plain"}, "content": HONDA} if path == "/lookup" else {}
        refused = await datasette.client.request(method, path, **send)
        cached = await datasette.client.get(f"/lookup/{PETERBILT}")
        ready = await datasette.client.get("/-/vin/ready")
        assert signals == [signal.SIGTERM]
    assert (refused.status_code, refused.json()["error"]) == (503, "The server is shutting down.")
    assert refused.headers["Retry-After"] == "30"
    assert (cached.status_code, ready.status_code) == (200, 503)


async def test_one_instance_of_two_ends_alone(make_instance: MakeInstance, tmp_path: Path, signals: list[int]) -> None:
    first, second = await make_instance(), await make_instance({"db": str(tmp_path / "other.db")})
    handlers = [signal.getsignal(number) for number in SIGNALS]
    async with Lifespan(second):
        async with Lifespan(first):
            pass
        assert (await second.client.get(f"/lookup/{PETERBILT}")).status_code == 200
        await told_to_end(second)
    assert not state_of(first).leaving.begun
    assert signals == [signal.SIGTERM]
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


async def test_an_instance_that_ended_hears_nothing_any_more(
    make_instance: MakeInstance, tmp_path: Path, signals: list[int]
) -> None:
    first, second = await make_instance(), await make_instance({"db": str(tmp_path / "other.db")})
    former = Lifespan(first)
    await former.__aenter__()
    async with Lifespan(second):
        # The handler of the second passes signals on to that of the first, which stays where it is.
        await former.__aexit__()
        await told_to_end(second)
    assert not state_of(first).leaving.begun
    assert signals == [signal.SIGTERM]


# The command line


def command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """A command that runs in `folder`."""
    return subprocess.Popen(
        [SCRIPT, *arguments],
        cwd=folder,
        env=clean_environment(VIN_DATASETTE_RATE="1000"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def stored(folder: Path) -> set[str]:
    """The VINs of the vehicles that are in the cache by now."""
    with contextlib.suppress(sqlite3.OperationalError):
        return {row["vin"] for row in rows(folder / "vin.db")}
    return set()


def test_a_fetch_that_is_told_to_end_keeps_what_was_answered(vpic_server: VpicServer, tmp_path: Path) -> None:
    vpic_server.latency = 0.02
    (tmp_path / "vins.txt").write_text("\n".join(numbered_vins(3000)))
    asked = ["--source", "vpic", "--vpic-url", vpic_server.url, "-f", "vins.txt", "--output", "out.csv", "--silent"]
    with command(tmp_path, "fetch", *asked) as process:
        # Two chunks are in hand at most, so that the first of three has been told.
        until(lambda: len(stored(tmp_path)) >= 1100)
        vpic_server.fail_always(Fault.silence)
        # Those in flight will have no answer, and none other is sent.
        until(lambda: time.monotonic() - vpic_server.calls[-1].at > 0.5)
        process.terminate()
        stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert stderr == "Terminated. What was answered is kept; call again to go on.\n"
    assert " asked: 0 cached, " in stdout
    assert stored(tmp_path) == {vin for call in vpic_server.calls if call.status == 200 for vin in call.vins}
    assert whole(tmp_path)
    assert not [path for path in tmp_path.iterdir() if "out.csv" in path.name]


def test_an_export_that_is_told_to_end_leaves_nothing(large: Path, tmp_path: Path) -> None:
    with command(large, "export", str(tmp_path / "out.parquet")) as process:
        until(lambda: [path for path in tmp_path.iterdir() if path.stat().st_size])
        process.terminate()
        _, stderr = process.communicate(timeout=10)
    assert (process.returncode, stderr) == (-signal.SIGTERM, "Terminated.\n")
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_told_twice_ends_at_once() -> None:
    script = """
from vin_datasette.terminated import Terminated, terminable
with terminable():
    try:
        print("at work", flush=True)
        input()
    except Terminated:
        print("told", flush=True)
        input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        for words in ("at work\n", "told\n"):
            assert process.stdout.readline() == words
            process.terminate()
        assert process.wait(5) == -signal.SIGTERM
