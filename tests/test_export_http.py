"""Exports over real sockets: to readers that are slow, that leave, that are too many."""

from __future__ import annotations

import asyncio
import http.client
import io
import os
import re
import shutil
import socket
import sqlite3
import threading
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import DATASETTE_1, fill_cache, rows, serving, until
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import MakeInstance, Served

VEHICLES, RECORD_BYTES = 30_000, 2_000
"""Much more than all buffers between a server and its reader hold."""

PETERBILT = "1XP5DB9X7XD487964"
EVERYTHING = "/export?_raw=1"
NOTHING = "/export?vin=nonsense"
PAGE = "/vin/vehicles.parquet?_nofacet=1&_nocount=1&_col=record"
QUERY = f"/vin{'/-/query' if DATASETTE_1 else ''}.parquet?sql=SELECT+vin,record+FROM+vehicles"
MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of whole records that hardly shrink."""
    path = tmp_path_factory.mktemp("cache") / "vin.db"
    fill_cache(path, VEHICLES, record_bytes=RECORD_BYTES)
    return path


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server makes its temporary files, if it makes any."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def shared_server(cache: Path, temporary: Path) -> Iterator[Served]:
    """A server of one export at a time."""
    variables = {"VIN_DATASETTE_SOURCE": "embedded", "VIN_DATASETTE_EXPORT_CONCURRENCY": "1"}
    with serving(cache.parent, TMPDIR=str(temporary), SQLITE_TMPDIR=str(temporary), **variables) as served:
        # So that what is made once is made, and one vehicle can be looked up.
        httpx.get(f"{served.url}/lookup/{PETERBILT}", timeout=60).raise_for_status()
        httpx.get(f"{served.url}{EVERYTHING}", timeout=60).raise_for_status()
        yield served


@pytest.fixture
def server(shared_server: Served) -> Iterator[Served]:
    """`shared_server`, which has nothing else to do before and after."""
    yield shared_server
    until(lambda: httpx.get(f"{shared_server.url}{NOTHING}", timeout=60).status_code == 200)


class Reader:
    """Somebody who downloads, takes little at a time, and may stop or leave."""

    def __init__(self, server: Served, path: str = EVERYTHING) -> None:
        parts = urlsplit(server.url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
        self._connection.sock = socket.socket()
        # The buffer is agreed upon when the connection is made.
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._connection.sock.settimeout(60)
        self._connection.sock.connect((parts.hostname, parts.port))
        self._connection.request("GET", path)
        self._response = self._connection.getresponse()
        assert self._response.status == 200

    def read(self, size: int | None = None) -> bytes:
        """The next bytes, by default all that are left. Raises `IncompleteRead` when it was cut off."""
        return self._response.read(size)

    def leave(self) -> None:
        """Close the connection, whatever is still to come."""
        self._response.close()
        self._connection.close()


@contextmanager
def reading(server: Served, path: str = EVERYTHING) -> Iterator[Reader]:
    """A reader that has begun, and leaves in the end."""
    reader = Reader(server, path)
    try:
        reader.read(1000)
        yield reader
    finally:
        reader.leave()


def memory(server: Served) -> int:
    """Bytes of memory that the server has."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def bytes_read(server: Served) -> int:
    """Bytes that the server has read so far, from its cache above all."""
    found = re.search(r"rchar: (\d+)", Path(f"/proc/{server.process.pid}/io").read_text())
    assert found
    return int(found[1])


def at_rest(server: Served) -> bool:
    """Whether the server has been reading nothing for a while."""
    before = bytes_read(server)
    time.sleep(0.5)
    return bytes_read(server) == before


def checkpoint_is_held_up(cache: Path) -> bool:
    """Whether somebody reads the cache in a transaction that began before its last write."""
    with closing(sqlite3.connect(cache, timeout=0)) as connection:
        [busy, *_] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return bool(busy)


@contextmanager
def written(cache: Path) -> Iterator[None]:
    """1,000 vehicles more in the cache, that come last, as long as the context lasts."""
    new = [(f"9{number:016}",) for number in range(1000)]
    with closing(sqlite3.connect(cache, timeout=0)) as connection:
        with connection:
            connection.executemany(
                "INSERT INTO vehicles (vin, make, source, fetched_at, record) "
                "VALUES (?, 'NEW', 'vpic', '2026-01-01T00:00:00Z', '{}')",
                new,
            )
        try:
            yield
        finally:
            with connection:
                connection.executemany("DELETE FROM vehicles WHERE vin = ?", new)


def vins_of(data: bytes) -> list[str]:
    found: list[str] = pq.read_table(io.BytesIO(data), columns=["vin"])["vin"].to_pylist()
    return found


def vins_in(cache: Path) -> list[str]:
    return [row["vin"] for row in rows(cache)]


# Readers that stop


def test_reader_that_stops_stops_the_making(server: Served, cache: Path) -> None:
    before = bytes_read(server)
    with reading(server):
        until(lambda: at_rest(server))
        assert bytes_read(server) - before < cache.stat().st_size / 2


def test_reader_that_stops_does_not_fill_the_servers_memory(server: Served) -> None:
    before = memory(server)
    with reading(server):
        until(lambda: at_rest(server))
        assert memory(server) - before < 40 * MEGABYTE


def test_reader_that_stops_and_goes_on_gets_a_file_of_the_moment_it_began(server: Served, cache: Path) -> None:
    expected = vins_in(cache)
    reader = Reader(server)
    try:
        data = reader.read(1000)
        with written(cache):
            until(lambda: at_rest(server))
            data += reader.read()
    finally:
        reader.leave()
    assert vins_of(data) == expected


def test_what_was_written_before_an_export_is_in_it(server: Served, cache: Path) -> None:
    with written(cache):
        data = httpx.get(f"{server.url}/export?_col=vin", timeout=60).content
        assert vins_of(data) == vins_in(cache)


# Readers that leave


@pytest.mark.parametrize("path", [EVERYTHING, QUERY], ids=["export", "query"])
def test_reader_that_leaves_ends_the_read_transaction(server: Served, cache: Path, path: str) -> None:
    with reading(server, path) as reader, written(cache):
        until(lambda: at_rest(server))
        assert checkpoint_is_held_up(cache)
        reader.leave()
        until(lambda: not checkpoint_is_held_up(cache), seconds=3)


def test_reader_that_leaves_ends_the_making(server: Served, cache: Path) -> None:
    before = bytes_read(server)
    with reading(server) as reader:
        until(lambda: at_rest(server))
        reader.leave()
        until(lambda: at_rest(server))
    assert bytes_read(server) - before < cache.stat().st_size / 2


def test_reader_that_leaves_at_once_ends_the_making(server: Served, cache: Path) -> None:
    before = bytes_read(server)
    Reader(server).leave()
    until(lambda: at_rest(server))
    assert bytes_read(server) - before < cache.stat().st_size / 2


def test_reader_that_leaves_frees_the_slot(server: Served) -> None:
    with reading(server) as reader:
        assert httpx.get(f"{server.url}{NOTHING}", timeout=60).status_code == 429
        reader.leave()
        until(lambda: httpx.get(f"{server.url}{NOTHING}", timeout=60).status_code == 200, seconds=3)


# Others meanwhile


def test_cached_vin_is_looked_up_while_a_reader_has_stopped(server: Served) -> None:
    with reading(server):
        answers = [httpx.get(f"{server.url}/lookup/{PETERBILT}", timeout=5) for _ in range(10)]
    assert {(answer.status_code, answer.json()["Cached Result?"]) for answer in answers} == {(200, True)}


def test_cached_vin_is_looked_up_while_an_export_runs(server: Served) -> None:
    status: list[int] = []
    export = threading.Thread(
        target=lambda: status.append(httpx.get(f"{server.url}{EVERYTHING}", timeout=60).status_code)
    )
    during = []
    with httpx.Client(base_url=server.url, timeout=5) as client:
        export.start()
        while export.is_alive():
            during.append(client.get(f"/lookup/{PETERBILT}").json()["Cached Result?"])
        export.join()
    assert (status, set(during)) == ([200], {True})
    assert len(during) >= 5


# Limits


def test_too_many_exports_are_429_with_the_time_to_ask_again(server: Served) -> None:
    with reading(server):
        refused = httpx.get(f"{server.url}/export", timeout=60)
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/json")
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["error"] == "1 exports are under way, as many as are allowed; try again in 30 seconds."


def test_too_many_exports_of_pages_are_429_too(server: Served) -> None:
    with reading(server):
        refused = httpx.get(f"{server.url}/vin/rejections.parquet", timeout=60)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")


def test_export_is_allowed_again_after_one_has_ended(server: Served) -> None:
    statuses = [httpx.get(f"{server.url}/export?_col=vin", timeout=60).status_code for _ in range(3)]
    assert statuses == [200, 200, 200]


async def test_slot_is_free_before_the_last_byte_is_sent(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    taken = []

    async def receive() -> dict[str, object]:
        await asyncio.Event().wait()
        raise AssertionError("nobody leaves")

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.body":
            taken.append((message["more_body"], state_of(datasette).exports.taken))

    asked = httpx.Request("GET", "http://localhost/export")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.url.path,
        "raw_path": asked.url.raw_path,
        "query_string": b"",
        "headers": asked.headers.raw,
    }
    await datasette.app()(scope, receive, send)
    assert taken[0] == (True, 1)
    assert taken[-1] == (False, 0)
    assert state_of(datasette).exports.taken == 0


def test_question_about_an_export_makes_none(server: Served) -> None:
    before = bytes_read(server)
    answer = httpx.head(f"{server.url}{EVERYTHING}", timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/vnd.apache.parquet")
    assert bytes_read(server) - before < MEGABYTE


@pytest.fixture(scope="module")
def hasty_server(cache: Path) -> Iterator[Served]:
    """A server of downloads of one second."""
    variables = {"VIN_DATASETTE_SOURCE": "embedded", "VIN_DATASETTE_EXPORT_TIMEOUT": "1s"}
    with serving(cache.parent, VIN_DATASETTE_EXPORT_CONCURRENCY="1", **variables) as served:
        yield served


@pytest.fixture(scope="module")
def cut_off(hasty_server: Served) -> tuple[bytes, Exception | None]:
    """What a reader has who goes on after the time is over, and what the reader was told."""
    times = hasty_server.said().count("cut off")
    data = bytearray()
    with httpx.stream("GET", f"{hasty_server.url}{EVERYTHING}", timeout=60) as response:
        body = response.iter_raw()
        data += next(body)
        until(lambda: hasty_server.said().count("cut off") > times)
        try:
            for more in body:
                data += more
        except httpx.HTTPError as error:
            return bytes(data), error
    return bytes(data), None


def test_download_of_which_the_time_is_over_is_incomplete_to_its_reader(
    cut_off: tuple[bytes, Exception | None],
) -> None:
    _, error = cut_off
    assert isinstance(error, httpx.RemoteProtocolError)
    assert "incomplete" in str(error)


def test_download_of_which_the_time_is_over_is_no_valid_file(cut_off: tuple[bytes, Exception | None]) -> None:
    data, _ = cut_off
    with pytest.raises(pa.ArrowInvalid):
        pq.read_table(io.BytesIO(data))


def test_download_of_which_the_time_is_over_ends_its_transaction_and_frees_its_slot(
    hasty_server: Served, cache: Path
) -> None:
    times = hasty_server.said().count("cut off")
    with reading(hasty_server), written(cache):
        assert checkpoint_is_held_up(cache)
        until(lambda: hasty_server.said().count("cut off") > times)
        until(lambda: not checkpoint_is_held_up(cache), seconds=3)
        assert httpx.get(f"{hasty_server.url}{NOTHING}", timeout=60).status_code == 200


# Temporary files

IN_ANY_MAKE = EVERYTHING + "&make__in=" + ",".join(f"MAKE+{number}" for number in range(40))


@pytest.mark.parametrize("path", [EVERYTHING, IN_ANY_MAKE, PAGE], ids=["all", "chosen by make", "a page"])
def test_slow_download_makes_no_temporary_file(server: Served, temporary: Path, path: str) -> None:
    # Datasette 1.0 has a database of its own there.
    before = {*os.listdir(temporary), *deleted_files(server)}
    made: set[str] = set()
    with reading(server, path) as reader:
        for _ in range(5):
            reader.read(MEGABYTE)
            made.update(os.listdir(temporary), deleted_files(server))
    assert made - before == set()


def deleted_files(server: Served) -> list[str]:
    """Files that the server has open and nobody can see."""
    links = []
    for number in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(os.readlink(number))
    return [link for link in links if link.endswith("(deleted)")]


# Caches that cannot be read


def missing(cache: Path) -> None:
    for name in ("vin.db", "vin.db-wal", "vin.db-shm"):
        (cache.parent / name).unlink(missing_ok=True)


def junk(cache: Path) -> None:
    missing(cache)
    cache.write_bytes(b"this is no database, by any means " * 100)


def a_folder(cache: Path) -> None:
    missing(cache)
    cache.mkdir()


def without_the_table(cache: Path) -> None:
    missing(cache)
    with closing(sqlite3.connect(cache)) as connection:
        connection.execute("CREATE TABLE notes (text)")


@pytest.mark.parametrize("spoil", [missing, junk, a_folder, without_the_table])
async def test_cache_that_cannot_be_read_is_503_in_words(
    make_instance: MakeInstance, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    datasette = await make_instance()
    spoil(tmp_path / "vin.db")
    response = await datasette.client.get("/export")
    assert (response.status_code, response.headers["content-type"]) == (503, "application/json")
    assert (response.headers["retry-after"], " cache" in response.json()["error"]) == ("30", True)


async def test_export_that_failed_frees_its_slot(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await make_instance({"export_concurrency": 1})
    without_the_table(tmp_path / "vin.db")
    statuses = [(await datasette.client.get("/export")).status_code for _ in range(2)]
    assert statuses == [503, 503]


def test_cache_that_proves_damaged_half_way_is_cut_off(cache: Path, tmp_path: Path) -> None:
    shutil.copy(cache, tmp_path / "vin.db")
    with (tmp_path / "vin.db").open("r+b") as file:
        file.seek(cache.stat().st_size // 2)
        file.write(b"\xff" * MEGABYTE)
    with (
        serving(tmp_path, VIN_DATASETTE_SOURCE="embedded") as served,
        httpx.stream("GET", f"{served.url}{EVERYTHING}", timeout=60) as response,
    ):
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            response.read()
