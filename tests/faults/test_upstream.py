"""What is upstream fails, in every way that was thought of: what the routes and the command line make of it."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from tenacity import wait_none

from tests.conftest import SCRIPT, clean_environment, numbered_vins, rows, serving
from tests.faults import in_order, known
from tests.vpic_server import BASE_PATH, Fault, VpicServer, black_hole, closed_port, deaf, self_signed
from vin_datasette.sources import vpic as vpic_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from datasette.app import Datasette

    from tests.conftest import Clock, MakeInstance, Served

VINS = numbered_vins(23)
MISSES, HITS = VINS[:20], VINS[20:]
"""VINs of which nothing is cached, and of which vPIC's answer is."""

DEADLINE = 1.0
"""Seconds that vPIC has here; two, unless it is set."""

MEGABYTES_200 = 200 * 1024 * 1024


@contextmanager
def without_tls(server: VpicServer) -> Iterator[str]:
    """A server that knows no TLS, behind an address that asks for it."""
    yield server.url.replace("http:", "https:")


@contextmanager
def no_such_name(_: VpicServer) -> Iterator[str]:
    """A host that no resolver knows; none is asked, see `no_resolver`."""
    yield f"http://vpic.invalid{BASE_PATH}"


@contextmanager
def no_name_at_all(_: VpicServer) -> Iterator[str]:
    """A host name that cannot even be encoded for a resolver (RFC 1035, section 2.3.4)."""
    yield f"http://{'v' * 64}.invalid{BASE_PATH}"


ADDRESSES: dict[str, Callable[[VpicServer], AbstractContextManager[str]]] = {
    "refused": lambda _: closed_port(),
    "not accepted": lambda _: black_hole(),
    "accepted and never read": lambda _: deaf(),
    "no TLS": without_tls,
    "a certificate of its own": lambda _: self_signed(),
    "no such name": no_such_name,
    "no name": no_name_at_all,
}
"""What cannot be mended where it is."""

FAULTS = {
    fault.name: fault
    for fault in (
        Fault.reset,
        Fault.close,
        Fault.truncated,
        Fault.silence,
        Fault.slow_drip(60),
        Fault.dripping_headers,
        Fault.endless_headers,
        Fault.no_http,
        Fault.status(429, retry_after=3600),
        Fault.status(403),
        Fault.status(404),
        Fault.status(500),
        Fault.status(503),
        Fault.redirect("http://127.0.0.1:9/elsewhere"),
        Fault.html_200,
        Fault.xml_200,
        Fault.truncated_json,
        Fault.foreign_json,
        Fault.not_json_object,
        Fault.null_results,
        Fault.empty_results,
        Fault.wrong_vin,
        Fault.missing_keys,
        Fault.invalid_utf8,
        Fault.flood(MEGABYTES_200),
        Fault.flood(MEGABYTES_200, codings=1),
        Fault.flood(MEGABYTES_200, codings=2),
    )
}

PACKED = Fault.flood(MEGABYTES_200, codings=1).name

SETTINGS = {"timeout": DEADLINE, "rate": 1000, "lookup_concurrency": 100}
# A handshake that its own time limit ends, and not that of the whole lookup, leaves no socket to the garbage collector.
IN_HASTE = {"connect_timeout": 0.1}

everything = pytest.mark.parametrize("name", [*ADDRESSES, *FAULTS])


@pytest.fixture(autouse=True)
def no_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names fail as they do where no name server answers, and none is asked."""
    resolve = socket.getaddrinfo

    def resolved(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith("vpic.invalid"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once, and what is over is said at once: nothing here depends on that time."""
    monkeypatch.setattr(vpic_module, "_backoff", wait_none())
    monkeypatch.setattr("vin_datasette.trouble.CALM", 0)


@contextmanager
def away(name: str, server: VpicServer) -> Iterator[str]:
    """The address of a vPIC that fails in this way."""
    if name in ADDRESSES:
        with ADDRESSES[name](server) as url:
            yield url
    else:
        server.fail_always(FAULTS[name])
        yield server.url


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A cache that knows `HITS`."""
    known(tmp_path / "vin.db", HITS)
    return tmp_path / "vin.db"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package wrote to the log. No traceback was among it."""
    ours = [record for record in caplog.records if record.name.startswith("vin_datasette")]
    assert [record.exc_info for record in ours if record.exc_info] == []
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


async def seconds_of(asked: Any) -> tuple[Any, float]:
    began = time.monotonic()
    return await asked, time.monotonic() - began


async def is_told_by_the_state(datasette: Datasette) -> bool:
    """That vPIC is left alone, or what is wrong with its answers."""
    state = (await datasette.client.get("/-/vin.json")).json()
    nonsense = any(words.startswith("vPIC gives no usable answer: ") for words in state.get("trouble", []))
    return (state["vpic"]["breaker"] == "open" and state["vpic"]["retry_in"] > 0) or nonsense


@everything
async def test_the_embedded_database_answers(
    name: str, make_instance: MakeInstance, vpic_server: VpicServer, db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with away(name, vpic_server) as url:
        settings = {**SETTINGS, **(IN_HASTE if name in ADDRESSES else {})}
        datasette = await make_instance({"source": "auto", "vpic_url": url, **settings})
        first, seconds = await seconds_of(datasette.client.get(f"/lookup/{MISSES[0]}"))
        assert (first.status_code, first.headers["vin-source"], first.json()["Make"]) == (200, "embedded", "HONDA")
        assert first.headers["cache-status"] == "vin-datasette; fwd=uri-miss; stored"
        # The embedded database, which may have to be read first, has its own time.
        assert seconds < DEADLINE + 4
        asked = [datasette.client.get(f"/lookup/{vin}") for vin in MISSES[1:]]
        answers = await asyncio.gather(*asked)
        assert {(each.status_code, each.headers["vin-source"]) for each in answers} == {(200, "embedded")}
        hit, seconds = await seconds_of(datasette.client.get(f"/lookup/{HITS[0]}"))
        assert (hit.headers["cache-status"], seconds < DEADLINE) == ("vin-datasette; hit", True)
        [line] = said(caplog)
        assert line.startswith("vPIC")
        assert "; the embedded database answers" in line
        assert await is_told_by_the_state(datasette)
    kept = rows(db)
    assert [row["vin"] for row in kept if row["source"] == "embedded"] == sorted(MISSES)
    assert [row["vin"] for row in kept if row["source"] == "vpic"] == HITS
    assert {row["make"] for row in kept} == {"HONDA"}
    assert in_order(db)


@everything
async def test_nobody_answers_where_nobody_else_may(
    name: str, make_instance: MakeInstance, vpic_server: VpicServer, db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with away(name, vpic_server) as url:
        settings = {**SETTINGS, **(IN_HASTE if name in ADDRESSES else {})}
        datasette = await make_instance({"source": "vpic", "vpic_url": url, **settings})
        for vin in MISSES[:5]:
            response = await datasette.client.get(f"/lookup/{vin}")
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) >= 1
            assert response.json()["error"].startswith("No source could be asked: vPIC")
        hit, seconds = await seconds_of(datasette.client.get(f"/lookup/{HITS[0]}"))
        assert (hit.headers["cache-status"], seconds < DEADLINE) == ("vin-datasette; hit", True)
        assert len(said(caplog)) == 1
        assert await is_told_by_the_state(datasette)
    assert [row["vin"] for row in rows(db)] == HITS
    assert rows(db, "rejections") == []
    assert in_order(db)


@pytest.mark.parametrize(
    "name", ["reset", "silence", "dripping_headers", "status(429)", "status(403)", "html_200", "wrong_vin", PACKED]
)
async def test_vpic_answers_when_it_is_over(
    name: str,
    make_instance: MakeInstance,
    vpic_server: VpicServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    vpic_server.fail_always(FAULTS[name])
    datasette = await make_instance({"source": "auto", "vpic_url": vpic_server.url, **SETTINGS})
    for vin in MISSES[:3]:
        await datasette.client.get(f"/lookup/{vin}")
    vpic_server.fail_always(None)
    clock.now += 3600
    response = await datasette.client.get(f"/lookup/{MISSES[3]}")
    assert (response.headers["vin-source"], response.headers["cache-status"]) == (
        "vpic",
        "vin-datasette; fwd=uri-miss; stored",
    )
    assert said(caplog)[1:] in (["vPIC is back"], ["vPIC answers as it should again"])
    assert not await is_told_by_the_state(datasette)


async def test_a_port_that_is_served_again_is_asked_again(
    make_instance: MakeInstance, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with VpicServer() as vpic_server:
        datasette = await make_instance({"source": "auto", "vpic_url": vpic_server.url, "timeout": DEADLINE})
        vpic_server.stop()
        response = await datasette.client.get(f"/lookup/{MISSES[0]}")
        assert response.headers["vin-source"] == "embedded"
        vpic_server.start()
        clock.now += 3600
        response = await datasette.client.get(f"/lookup/{MISSES[1]}")
        assert response.headers["vin-source"] == "vpic"
    assert said(caplog)[1:] == ["vPIC is back"]


async def test_an_hour_is_an_hour(make_instance: MakeInstance, vpic_server: VpicServer, clock: Clock) -> None:
    vpic_server.fail_next(Fault.status(429, retry_after=3600))
    datasette = await make_instance({"source": "auto", "vpic_url": vpic_server.url, "rate": 1000})
    for vin in MISSES[:-1]:
        await datasette.client.get(f"/lookup/{vin}")
        clock.now += 3599 / len(MISSES)
    assert len(vpic_server.calls) == 1
    clock.now += 3600 / len(MISSES) * 2
    await datasette.client.get(f"/lookup/{MISSES[-1]}")
    assert len(vpic_server.calls) == 2


async def test_a_minute_of_silence_costs_two_seconds_once(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    vpic_server.fail_always(Fault.silence)
    datasette = await make_instance({"source": "auto", "vpic_url": vpic_server.url})
    _, first = await seconds_of(datasette.client.get(f"/lookup/{MISSES[0]}"))
    _, second = await seconds_of(datasette.client.get(f"/lookup/{MISSES[1]}"))
    assert 1.9 < first < 3
    assert second < 1


# Memory


MOST_GROWTH = 32 * 1024
"""Kilobytes that a server may grow by, of which most is what a first answer takes anyway."""


@pytest.fixture(scope="module")
def outside() -> Iterator[VpicServer]:
    with VpicServer() as server:
        yield server


@pytest.fixture(scope="module")
def server(outside: VpicServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real server that has asked this vPIC once."""
    variables = {"VIN_DATASETTE_SOURCE": "vpic", "VIN_DATASETTE_VPIC_URL": outside.url, "VIN_DATASETTE_RATE": "1000"}
    with serving(tmp_path_factory.mktemp("server"), **variables) as served:
        httpx.get(f"{served.url}/lookup/{MISSES[0]}").raise_for_status()
        yield served


def peak(served: Served) -> int:
    """The most memory that a process has had so far, in kilobytes."""
    return int(re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.process.pid}/status").read_text())[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("codings", [0, 1, 2], ids=["plain", "packed", "packed twice"])
def test_200_megabytes_are_not_taken_in(server: Served, outside: VpicServer, codings: int) -> None:
    before = peak(server)
    outside.fail_next(Fault.flood(MEGABYTES_200, codings))
    response = httpx.get(f"{server.url}/lookup/{MISSES[1 + codings]}", timeout=20)
    reason = "is packed as 'gzip, gzip', which was not asked for" if codings == 2 else "is larger than 131,072 bytes"
    assert (response.status_code, response.json()["error"]) == (
        503,
        f"No source could be asked: vPIC's answer {reason}",
    )
    assert peak(server) - before < MOST_GROWTH


# The command line


@pytest.fixture(scope="module")
def vpic() -> Iterator[VpicServer]:
    with VpicServer() as server:
        yield server


def run(*arguments: str, db: Path, url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, *arguments, "--db", str(db), "--vpic-url", url],
        check=False,
        cwd=db.parent,
        env=clean_environment(VIN_DATASETTE_TIMEOUT=str(DEADLINE), VIN_DATASETTE_RATE="1000", **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("name", ["refused", "html_200"])
def test_fetch_takes_the_embedded_database_and_says_so_once(name: str, vpic: VpicServer, db: Path) -> None:
    with away(name, vpic) as url:
        ended = run("fetch", *MISSES, *HITS, "--silent", "--source", "auto", db=db, url=url)
    vpic.reset()
    assert ended.returncode == 0
    assert "23 asked: 3 cached, 20 fetched (20 by embedded), 0 rejected, 0 failed" in ended.stdout
    [line] = ended.stderr.splitlines()
    assert "; the embedded database answers" in line
    assert len(rows(db)) == len(MISSES) + len(HITS)
    assert in_order(db)


@pytest.mark.parametrize("name", ["a certificate of its own", "reset"])
def test_lookup_says_that_nobody_could_be_asked(name: str, vpic: VpicServer, db: Path) -> None:
    with away(name, vpic) as url:
        ended = run("lookup", MISSES[0], "--source", "vpic", db=db, url=url)
    vpic.reset()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "No source could be asked: vPIC " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [row["vin"] for row in rows(db)] == HITS
