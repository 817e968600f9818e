"""What several tests need: a clean environment, a vPIC to ask, settings that make haste."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

import certifi
import pytest
from datasette.app import Datasette

from tests.browser import browse, chromium  # noqa: F401 - fixtures
from tests.vpic_server import VpicServer
from vin_datasette.cache import Cache
from vin_datasette.settings import ENVIRONMENT_PREFIX, Settings
from vin_datasette.vin import VIN, check_digit
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

PROXIES = {"http_proxy", "https_proxy", "all_proxy"}

SCRIPT = Path(sys.executable).with_name("vin-datasette")
"""The console script, as installed beside the interpreter that runs the tests."""

DATASETTE_1 = hasattr(Datasette, "allowed")
"""Whether this is Datasette 1.0, and not 0.65."""


def clean_environment(**variables: str) -> dict[str, str]:
    """The environment of a process that is to know these settings and no others."""
    inherited = {name: value for name, value in os.environ.items() if not _from_outside(name)}
    return {**inherited, **variables}


def _from_outside(name: str) -> bool:
    return name.upper().startswith(ENVIRONMENT_PREFIX) or name.lower() in PROXIES


def numbered_vins(count: int) -> list[VIN]:
    """VINs of as many Hondas, of which vPIC knows each."""
    bare = [f"1HGCM82603A{number:06}" for number in range(count)]
    return [VIN(vin[:8] + check_digit(vin) + vin[9:]) for vin in bare]


@pytest.fixture(scope="session")
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the certificates that HTTP clients trust. The tests make hundreds of
    clients, none of which meets a certificate, and each would load all of them."""
    end = "-----END CERTIFICATE-----\n"
    path = tmp_path_factory.mktemp("authorities") / "one.pem"
    path.write_text(Path(certifi.where()).read_text("utf-8").partition(end)[0] + end, "utf-8")
    return path


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, one_authority: Path) -> None:
    """Keep settings and proxies of whoever runs the tests out of them."""
    for name in [*os.environ]:
        if _from_outside(name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(one_authority))


@pytest.fixture
def vpic_server() -> Iterator[VpicServer]:
    """A vPIC of the test's own, on a loopback port."""
    with VpicServer() as server:
        yield server


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which vPIC is left alone; all else keeps real time."""
    clock = Clock()
    monkeypatch.setattr("vin_datasette.breaker.time", SimpleNamespace(monotonic=clock))
    return clock


class MakeSettings(Protocol):
    """Settings for `vpic_server` and a cache in the test's own folder; options win."""

    def __call__(self, **options: object) -> Settings: ...


@pytest.fixture
def make_settings(tmp_path: Path, vpic_server: VpicServer) -> MakeSettings:
    """Make settings with a rate that holds nothing up. See `MakeSettings`."""

    def make(**options: object) -> Settings:
        ours: dict[str, object] = {"db": tmp_path / "vin.db", "vpic_url": vpic_server.url, "rate": 1000}
        return Settings.load({**ours, **options})

    return make


class MakeInstance(Protocol):
    """A started Datasette, with the plugin's settings and further configuration."""

    async def __call__(
        self,
        plugin: Mapping[str, object] | None = None,
        config: Mapping[str, object] | None = None,
        **options: Any,
    ) -> Datasette: ...


@pytest.fixture
async def make_instance(tmp_path: Path) -> AsyncIterator[MakeInstance]:
    """Make instances whose cache is `vin.db` in the test's own folder, and which the
    embedded database answers, unless their settings say otherwise. See `MakeInstance`."""
    made: list[Datasette] = []

    async def make(
        plugin: Mapping[str, object] | None = None,
        config: Mapping[str, object] | None = None,
        **options: Any,
    ) -> Datasette:
        own = {"db": str(tmp_path / "vin.db"), "source": "embedded", **(plugin or {})}
        datasette = new_datasette({**(config or {}), "plugins": {"vin-datasette": own}}, **options)
        made.append(datasette)
        await datasette.invoke_startup()
        return datasette

    yield make
    for datasette in made:
        await close(datasette)


def new_datasette(config: Mapping[str, object] | None = None, **options: Any) -> Datasette:
    """An instance that is not started yet, with what 1.0 calls its configuration and
    0.65 its metadata."""
    named = {"config" if DATASETTE_1 else "metadata": config} if config else {}
    return Datasette(options.pop("files", []), **named, **options)


async def close(datasette: Datasette) -> None:
    """Let go of what an instance holds open."""
    with contextlib.suppress(KeyError):
        state_of(datasette).vin_lists.close()
        await state_of(datasette).lookup.aclose()
    if DATASETTE_1:
        datasette.close()
    else:
        for database in datasette.databases.values():
            database.close()


def rows(path: Path, table: str = "vehicles") -> list[dict[str, Any]]:
    """All rows of a table of the cache, as they stand in the file; none while there is no file."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY vin")]


def until(condition: Callable[[], T], seconds: float = 60) -> T:
    """What `condition` returns as soon as it is true, asked again and again until it is."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"This was not so within {seconds} seconds"
        time.sleep(0.002)
    return found


def fill_cache(path: Path, count: int, *, first: int = 0, record_bytes: int = 0) -> None:
    """Put vehicles into a cache, made where there is none, by SQL alone and with records of
    random digits that hardly shrink: `1HGCM82633A000000` and so on, from the number `first`."""
    cache = Cache(path)
    cache.open()
    cache.close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        # The search index would take most of the time.
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(
            """
            WITH RECURSIVE numbers (number) AS (
                SELECT :first UNION ALL SELECT number + 1 FROM numbers WHERE number < :first + :count - 1
            )
            INSERT INTO vehicles (vin, make, model, model_year, doors, displacement_l, source, fetched_at, record)
            SELECT printf('1HGCM82633A%06d', number), 'MAKE ' || (number % 40), 'MODEL ' || (number % 400),
                1980 + number % 45, number % 5, number % 7 / 2.0, 'vpic', '2026-01-01T00:00:00Z',
                '{"ErrorText":"' || hex(randomblob(:record_bytes / 2)) || '"}'
            FROM numbers WHERE :count
            """,
            {"first": first, "count": count, "record_bytes": record_bytes},
        )
        connection.execute("COMMIT")


class Served:
    """A running `vin-datasette serve`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.url = ""
        self._said: list[str] = []
        self._ready = threading.Event()
        self._streams = [stream for stream in (process.stderr, process.stdout) if stream]
        self._readers = [threading.Thread(target=self._read, args=[stream], daemon=True) for stream in self._streams]
        for reader in self._readers:
            reader.start()
        self._ready.wait(60)
        if not self.url:
            self.stop()
            raise RuntimeError(f"The server did not start: {self.said()}")

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._said.append(line)
            if match := re.search(r"Uvicorn running on (http://\S+)", line):
                self.url = match[1]
                self._ready.set()
        self._ready.set()

    def said(self) -> str:
        """What it wrote so far, to standard error and, where that is listened to, to standard output."""
        return "".join(self._said)

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self.process.terminate()
        try:
            self.process.wait(20)
        finally:
            self.process.kill()
            self.process.wait()
            for reader in self._readers:
                reader.join(5)
            for stream in self._streams:
                stream.close()


@contextlib.contextmanager
def serving(folder: Path, *options: str, **variables: str) -> Iterator[Served]:
    """`vin-datasette serve` in `folder`, on a free port of its own choice, with these
    options and environment variables."""
    with _serving(folder, options, variables, subprocess.DEVNULL) as served:
        yield served


@contextlib.contextmanager
def serving_aloud(folder: Path, *options: str, **variables: str) -> Iterator[Served]:
    """As `serving`; what it writes to standard output is kept too."""
    with _serving(folder, options, variables, subprocess.PIPE) as served:
        yield served


@contextlib.contextmanager
def _serving(folder: Path, options: Sequence[str], variables: dict[str, str], stdout: int) -> Iterator[Served]:
    process = subprocess.Popen(
        [SCRIPT, "serve", "--port", "0", *options],
        cwd=folder,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        served.stop()
