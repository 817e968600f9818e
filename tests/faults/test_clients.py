"""Clients that are slow, rude or gone: each costs its own connection, and not the server."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import select
import socket
import sqlite3
import statistics
import struct
import subprocess
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import SCRIPT, Served, clean_environment, fill_cache, serving, until
from tests.vpic_server import VpicServer
from vin_datasette.cache import Cache
from vin_datasette.record import Record
from vin_datasette.vehicle import interpret
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Rude = Callable[[Served], AbstractContextManager[None]]

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are listed under /proc")

TRACTOR = "1XP5DB9X7XD487964"
UNKNOWN = "1HGCM82633A004352"
STALL = 2.0
"""Seconds for which the hasty server waits for a client."""

MANY = 300
BOUND = 1.0
"""Seconds that hits may take, however others behave; one or another may meet a busy machine."""

RAW = "/export?_raw=1"
UNTAKEN = ('"' * 100 + "\n") * 10_000
"""A list of which the answer is more than sockets hold."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache whose export is more than sockets hold, and a vehicle to hit."""
    folder = tmp_path_factory.mktemp("clients")
    fill_cache(folder / "vin.db", 6_000, record_bytes=4_000)
    said = {"VIN": TRACTOR, "Make": "PETERBILT", "Model": "379", "ErrorCode": "0"}
    with closing(Cache(folder / "vin.db")) as cache:
        cache.save([interpret(Record(VIN(TRACTOR), said, "vpic", None, datetime.now(timezone.utc)))])
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """A server as it is, with what it opens for its own use open already."""
    with serving(folder, VIN_DATASETTE_SOURCE="embedded") as served:
        warm_up(served)
        yield served


@pytest.fixture(scope="module")
def hasty_server(folder: Path) -> Iterator[Served]:
    """A server that waits two seconds for its clients, of two exports and one list."""
    variables = {"VIN_DATASETTE_STALL_TIMEOUT": str(STALL), "VIN_DATASETTE_LIST_CONCURRENCY": "1"}
    with serving(folder, VIN_DATASETTE_SOURCE="embedded", **variables) as served:
        warm_up(served)
        yield served


def warm_up(served: Served) -> None:
    """Have the threads and connections made that a server keeps."""
    page = f"{served.url}/vin/vehicles.json?_size=1&_nofacet=1&_nocount=1"
    with httpx.Client(timeout=60) as client:
        asking = [threading.Thread(target=client.get, args=(page,)) for _ in range(12)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        client.get(f"{served.url}/export?_col=vin&make=NOBODY")
        client.post(f"{served.url}/lookup", json=[TRACTOR])
        client.post(f"{served.url}/remove/{UNKNOWN}")


@contextmanager
def connected(served: Served, *, receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A bare connection to a server."""
    parts = urlsplit(served.url)
    with socket.socket() as client:
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(30)
        client.connect((parts.hostname, parts.port))
        yield client


def request(path: str, *headers: str, body: str = "", method: str = "GET", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {size}", *headers, "", body]
    return "\r\n".join(lines).encode()


def to_the_end(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection; nothing more where it resets it."""
    data = bytearray()
    with contextlib.suppress(ConnectionError):
        while more := client.recv(65536):
            data += more
    return bytes(data)


def links(served: Served) -> list[str]:
    """What a server has open."""
    found = []
    for number in Path(f"/proc/{served.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(number))
    return found


def connections(served: Served) -> int:
    """The connections that clients have to a server."""
    # One socket listens, and with a pair of them the loop wakes itself.
    return sum(link.startswith("socket:") for link in links(served)) - 3


def readers(served: Served) -> int:
    """The connections that a server has to the cache. Of the file itself SQLite keeps descriptors for later."""
    return sum(link.endswith("vin.db-wal") for link in links(served))


def threads(served: Served) -> int:
    return len(os.listdir(f"/proc/{served.process.pid}/task"))


class Hits(NamedTuple):
    """What lookups of a cached vehicle were answered, each over a connection of its own."""

    statuses: set[bytes]
    seconds: float
    """The median."""


GOOD = {b"HTTP/1.1 200 OK"}


def hits(served: Served, number: int = 9) -> Hits:
    statuses, seconds = set(), []
    for _ in range(number):
        started = time.monotonic()
        with connected(served) as client:
            client.sendall(request(f"/lookup/{TRACTOR}", "Connection: close"))
            statuses.add(to_the_end(client).partition(b"\r\n")[0])
        seconds.append(time.monotonic() - started)
    return Hits(statuses, statistics.median(seconds))


# Rude clients


@contextmanager
def idle(served: Served) -> Iterator[None]:
    """Connections that ask nothing."""
    with ExitStack() as opened:
        for _ in range(MANY):
            opened.enter_context(connected(served))
        yield


@contextmanager
def dripping(served: Served) -> Iterator[None]:
    """Connections that send the head of a request byte by byte, and never its end."""
    gone = threading.Event()
    with ExitStack() as opened:
        clients = [opened.enter_context(connected(served)) for _ in range(MANY)]

        def drip() -> None:
            for byte in b"GET /lookup HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: " + b"x" * 10_000:
                for client in clients:
                    with contextlib.suppress(ConnectionError):
                        client.send(bytes([byte]))
                if gone.wait(0.2):
                    return

        dripper = threading.Thread(target=drip)
        dripper.start()
        try:
            yield
        finally:
            gone.set()
            dripper.join()


def sending(data: bytes, number: int, *, then: Callable[[socket.socket], object] = id) -> Rude:
    """Connections that send this, do something, and stay."""

    @contextmanager
    def rude(served: Served) -> Iterator[None]:
        with ExitStack() as opened:
            for _ in range(number):
                client = opened.enter_context(connected(served, receive_buffer=4096))
                # The server may close it while it is still being sent.
                with contextlib.suppress(ConnectionError):
                    client.sendall(data)
                    then(client)
            yield

    return rude


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def reset(client: socket.socket) -> None:
    """Leave in the middle of an answer, by RST (RFC 9293, section 3.5.2)."""
    client.recv(1000)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


RUDE: dict[str, Rude] = {
    "ask nothing": idle,
    "drip the head of a request": dripping,
    "stop within a head": sending(request(f"/lookup/{TRACTOR}")[:30], MANY),
    "stop within a body": sending(request("/lookup", "Content-Type: text/plain", method="POST", length=1000), 100),
    "stop within a body that nobody reads": sending(request(f"/lookup/{TRACTOR}", length=1000), 100),
    "take no export": sending(request(RAW), 4),
    "take no list": sending(request("/lookup", "Content-Type: text/plain", body=UNTAKEN, method="POST"), 3),
    "take no page": sending(request("/vin/vehicles.json?_size=max"), 3),
    "end their side": sending(request(RAW), 4, then=half_close),
    "end their side and wait for a page": sending(request("/vin/vehicles"), 3, then=half_close),
    "reset in mid-export": sending(request(RAW), 6, then=reset),
    "reset in mid-list": sending(
        request("/lookup", "Content-Type: text/plain", body=UNTAKEN, method="POST"), 10, then=reset
    ),
    "pipeline": sending(request(f"/lookup/{TRACTOR}") * 200, 5),
    "send a header of a megabyte": sending(request("/lookup", "X-Large: " + "x" * 1_000_000), 10),
    "send a request line of 100 KB": sending(request("/lookup/" + "x" * 100_000), 10),
    "send ten thousand headers": sending(request("/lookup", *["X: y"] * 10_000), 10),
    "speak HTTP/0.9": sending(b"GET /lookup\r\n", 20),
    "speak TLS": sending(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 20),
    "speak no protocol": sending(bytes(range(256)) * 10, 20),
}


class Observed(NamedTuple):
    """What hits were like while clients were rude, and what the server had open before."""

    during: Hits
    readers: int
    threads: int


@pytest.fixture(scope="module", params=RUDE)
def observed(request: pytest.FixtureRequest, server: Served) -> Observed:
    until(lambda: connections(server) == 0)
    before = readers(server), threads(server)
    with RUDE[request.param](server):
        during = hits(server)
    return Observed(during, *before)


POOLS = (os.cpu_count() or 1) + 4 + 3 + 4
"""Threads that Python's, Datasette's and libuv's pools may make at most, and keep."""


def test_hits_are_fast_while_others(observed: Observed) -> None:
    assert observed.during.statuses == GOOD
    assert observed.during.seconds < BOUND


def test_nothing_stays_open_of_those_who(observed: Observed, server: Served) -> None:
    until(lambda: connections(server) == 0)
    until(lambda: readers(server) <= observed.readers)
    until(lambda: threads(server) <= max(observed.threads, POOLS + 2))
    assert hits(server, 1).statuses == GOOD


def test_no_traceback_of_any_of_them_is_in_the_log(server: Served) -> None:
    assert "Traceback" not in server.said()


# What they are answered


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        request("/lookup", "X-Large: " + "x" * 1_000_000),
        request("/lookup/" + "x" * 1_000_000),
        b"POST /lookup HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ],
    ids=["TLS", "a large header", "a long request line", "a chunk of no size"],
)
def test_what_is_no_request_is_400_and_the_end(server: Served, data: bytes) -> None:
    with connected(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        assert to_the_end(client)[:12] in (b"HTTP/1.1 400", b"")


@pytest.mark.parametrize("length", ["Transfer-Encoding: chunked", "Content-Length: 1000000000"])
def test_what_comes_after_a_refused_head_is_not_waited_for(server: Served, length: str) -> None:
    head = f"POST /remove/{TRACTOR} HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\n{length}\r\n\r\n"
    with connected(server) as client:
        client.sendall(head.encode())
        said = to_the_end(client)
    assert said.startswith(b"HTTP/1.1 403")
    assert said.count(b"HTTP/1.1") == 1


def test_trailers_without_end_are_not_kept(server: Served) -> None:
    head = "POST /lookup HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(server) as client, pytest.raises(ConnectionError):
        client.sendall(head.encode() + b"0\r\n" + b"X-Trailer: y\r\n" * 1_000_000)
    assert hits(server, 1).statuses == GOOD


def test_a_request_line_of_100_kb_is_answered_or_refused(server: Served) -> None:
    with connected(server) as client:
        client.sendall(request("/lookup/" + "x" * 100_000, "Connection: close"))
        assert to_the_end(client)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404")


def test_pipelined_requests_are_answered_in_their_order(server: Served) -> None:
    with connected(server) as client:
        client.sendall((request(f"/lookup/{TRACTOR}") + request("/lookup/x")) * 10)
        client.sendall(request(f"/lookup/{TRACTOR}", "Connection: close"))
        said = to_the_end(client).decode()
    assert re.findall(r"HTTP/1\.1 (\d+)", said) == ["200", "404"] * 10 + ["200"]


@pytest.mark.parametrize("path", [f"/lookup/{TRACTOR}", "/export?_col=vin"])
def test_who_ends_his_side_gets_the_answer_whole_or_the_connection_ends(server: Served, path: str) -> None:
    with connected(server) as client:
        client.sendall(request(path, "Connection: close"))
        half_close(client)
        said = to_the_end(client)
    assert not said or said.startswith(b"HTTP/1.1 200")


# Clients that are waited for no longer


@pytest.mark.parametrize("data", [b"", b"GET /lookup HTTP/1.1\r\nHost: 127.0"], ids=["nothing", "half a head"])
def test_who_asks_nothing_is_let_go(hasty_server: Served, data: bytes) -> None:
    with connected(hasty_server) as client:
        client.sendall(data)
        started = time.monotonic()
        assert to_the_end(client) == b""
        assert STALL * 0.9 < time.monotonic() - started < STALL + 10


def test_who_asks_byte_by_byte_is_let_go_too(hasty_server: Served) -> None:
    started = time.monotonic()
    head = itertools.chain(b"GET /lookup/", itertools.repeat(ord("x")))
    with connected(hasty_server) as client:
        client.settimeout(0.1)
        said = None
        while said is None and time.monotonic() - started < STALL + 10:
            with contextlib.suppress(TimeoutError, socket.timeout):
                client.sendall(next(head).to_bytes(1, "big"))
                said = to_the_end(client)
    assert said == b""
    assert time.monotonic() - started > STALL * 0.9


def test_who_asks_half_of_a_second_question_is_let_go(hasty_server: Served) -> None:
    with connected(hasty_server) as client:
        client.sendall(request(f"/lookup/{TRACTOR}"))
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /")
        started = time.monotonic()
        assert b"HTTP" not in to_the_end(client)
        assert time.monotonic() - started < STALL + 10


def test_who_waits_for_an_answer_is_not_let_go(folder: Path, tmp_path: Path) -> None:
    variables = {"VIN_DATASETTE_STALL_TIMEOUT": "0.3", "VIN_DATASETTE_TIMEOUT": "20", "VIN_DATASETTE_SOURCE": "vpic"}
    with (
        VpicServer(latency=1.2) as vpic,
        serving(tmp_path, "--vpic-url", vpic.url, **variables) as served,
    ):
        answer = httpx.get(f"{served.url}/lookup/{UNKNOWN}", timeout=30)
    assert (answer.status_code, answer.json()["Make"]) == (200, "HONDA")


def written(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE vehicles SET trim = 'x' WHERE vin = ?", [TRACTOR])


def checkpoint_is_held_up(path: Path) -> bool:
    """Whether somebody still reads what was there before the last write."""
    written(path)
    with closing(sqlite3.connect(path)) as connection:
        busy, pages, moved = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return bool(busy) or moved < pages


NOTHING_TAKEN = f"A stream was cut off as its reader took nothing for {STALL:g} seconds"


def test_an_export_that_nobody_takes_ends_with_its_transaction_and_its_slot(hasty_server: Served, folder: Path) -> None:
    said = hasty_server.said().count(NOTHING_TAKEN)
    with ExitStack() as opened:
        for _ in range(2):
            client = opened.enter_context(connected(hasty_server, receive_buffer=4096))
            client.sendall(request(RAW))
            client.recv(1)
        assert httpx.get(f"{hasty_server.url}{RAW}", timeout=30).status_code == 429
        assert checkpoint_is_held_up(folder / "vin.db")
        until(lambda: hasty_server.said().count(NOTHING_TAKEN) == said + 2, 30)
        until(lambda: not checkpoint_is_held_up(folder / "vin.db"))
        assert httpx.get(f"{hasty_server.url}/export?_col=vin", timeout=30).status_code == 200


def test_a_list_of_which_nobody_takes_the_answers_gives_its_slot_back(hasty_server: Served) -> None:
    said = hasty_server.said().count(NOTHING_TAKEN)
    with connected(hasty_server, receive_buffer=4096) as client:
        client.sendall(request("/lookup", "Content-Type: text/plain", body=UNTAKEN, method="POST"))
        client.recv(1)
        assert httpx.post(f"{hasty_server.url}/lookup", json=[TRACTOR], timeout=30).status_code == 429
        until(lambda: hasty_server.said().count(NOTHING_TAKEN) == said + 1, 30)
        assert httpx.post(f"{hasty_server.url}/lookup", json=[TRACTOR], timeout=30).status_code == 200


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="this system does not end stalled connections")
@pytest.mark.parametrize("path", [RAW, "/vin/vehicles.json?_size=1000"], ids=["an export", "a page of Datasette's"])
def test_the_connection_of_an_answer_that_nobody_takes_ends(hasty_server: Served, path: str) -> None:
    until(lambda: connections(hasty_server) == 0)
    with connected(hasty_server, receive_buffer=4096) as client:
        client.sendall(request(path))
        client.recv(1)
        until(lambda: connections(hasty_server) == 0)


def test_a_slow_reader_who_does_not_stall_gets_all_of_it(hasty_server: Served) -> None:
    with connected(hasty_server, receive_buffer=65536) as client:
        client.sendall(request(RAW, "Connection: close"))
        started, data = time.monotonic(), bytearray()
        while time.monotonic() - started < 2 * STALL:
            data += client.recv(300_000)
            time.sleep(0.1)
        data += to_the_end(client)
    assert data.endswith(b"0\r\n\r\n")
    assert b"PAR1" in data[-20:]


# Few descriptors


@contextmanager
def serving_with_descriptors(folder: Path, limit: int) -> Iterator[Served]:
    """A server that may have so many files and connections open."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f'ulimit -n {limit} && exec "$0" "$@"', SCRIPT, "serve", "--port", "0"],
        cwd=folder,
        env=clean_environment(VIN_DATASETTE_SOURCE="embedded"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture(scope="module")
def poor_server(folder: Path) -> Iterator[Served]:
    with serving_with_descriptors(folder, 200) as served:
        yield served


@pytest.mark.parametrize("rude", [idle, dripping], ids=["ask nothing", "drip"])
def test_more_connections_than_descriptors_do_not_keep_others_out(poor_server: Served, rude: Rude) -> None:
    with rude(poor_server):
        until(lambda: connections(poor_server) <= 100)
        assert hits(poor_server).statuses == GOOD


WITHOUT_DESCRIPTOR = "No connection can be taken: no file descriptor is left"


def is_ended(client: socket.socket) -> bool:
    """Whether the server has ended a connection on which it has said nothing."""
    return bool(select.select([client], [], [], 0)[0]) and to_the_end(client) == b""


def test_without_a_descriptor_the_log_is_not_flooded_and_the_server_goes_on(poor_server: Served) -> None:
    until(lambda: connections(poor_server) == 0)
    lines = len(poor_server.said().splitlines())
    resource.prlimit(poor_server.process.pid, resource.RLIMIT_NOFILE, (len(links(poor_server)), 200))
    try:
        with ExitStack() as held:
            # More than two: what the server itself had open may have been closed since.
            clients = [held.enter_context(connected(poor_server)) for _ in range(20)]
            # asyncio lets them wait and says why, libuv ends them.
            until(lambda: WITHOUT_DESCRIPTOR in poor_server.said() or any(map(is_ended, clients)))
    finally:
        resource.prlimit(poor_server.process.pid, resource.RLIMIT_NOFILE, (200, 200))
    # libuv ends whoever comes while it still ends those before.
    until(lambda: hits(poor_server).statuses == GOOD)
    assert len(poor_server.said().splitlines()) < lines + 20
    assert "Traceback" not in poor_server.said()
