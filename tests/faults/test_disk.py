"""The disk fails under the cache: what is answered, what is kept, and what the log says of it."""

from __future__ import annotations

import json
import logging
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Served, clean_environment, numbered_vins, rows, until
from tests.faults import in_order, known
from tests.vpic_server import closed_port
from vin_datasette import Lookup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from datasette.app import Datasette

    from tests.conftest import MakeInstance, MakeSettings
    from tests.vpic_server import VpicServer

VINS = sorted(numbered_vins(60))
OLD, NEW = VINS[:10], VINS[10:]
"""VINs that the cache knows from the beginning, and others."""

ROOT = Path(__file__).parents[2]

STORED, NOT_STORED, HIT = "vin-datasette; fwd=uri-miss; stored", "vin-datasette; fwd=uri-miss", "vin-datasette; hit"


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """A cache that knows `OLD`, in a folder of its own."""
    folder = tmp_path / "cache"
    folder.mkdir()
    known(folder / "vin.db", OLD)
    return folder / "vin.db"


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over is said at once, each read looks where the file is, and locks are waited for for moments."""
    monkeypatch.setattr("vin_datasette.trouble.CALM", 0)
    monkeypatch.setattr("vin_datasette.cache.LOOK_EVERY", 0)
    monkeypatch.setattr("vin_datasette.cache.WRITE_TIMEOUT", 0.3)
    monkeypatch.setattr("vin_datasette.cache.READ_TIMEOUT", 0.05)


@pytest.fixture
async def datasette(make_instance: MakeInstance, vpic_server: VpicServer, db: Path) -> Datasette:
    """An instance whose cache is `db`, and which asks a vPIC that is well."""
    return await make_instance({"db": str(db), "source": "vpic", "vpic_url": vpic_server.url, "rate": 1000})


async def status_of(datasette: Datasette, vin: str) -> str:
    """How a VIN was answered, which it has to be."""
    response = await datasette.client.get(f"/lookup/{vin}")
    assert (response.status_code, response.json().get("Make")) == (200, "HONDA"), response.text
    return str(response.headers["cache-status"])


async def shown(datasette: Datasette) -> list[str]:
    """The VINs that Datasette's own page shows."""
    response = await datasette.client.get("/vin/vehicles.json?_shape=array&_sort=vin&_size=max")
    assert response.status_code == 200
    return [row["vin"] for row in response.json()]


def vins_of(path: Path) -> list[str]:
    return [row["vin"] for row in rows(path)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What this package wrote to the log. No traceback was among it."""
    ours = [record for record in caplog.records if record.name.startswith("vin_datasette")]
    assert [record.exc_info for record in ours if record.exc_info] == []
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


# The file is removed, moved or replaced


async def test_a_cache_that_was_removed_is_made_anew(
    datasette: Datasette, db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await status_of(datasette, OLD[0]) == HIT
    db.unlink()
    assert [await status_of(datasette, vin) for vin in NEW[:3]] == [STORED] * 3
    assert await status_of(datasette, NEW[0]) == HIT
    assert vins_of(db) == NEW[:3]
    assert said(caplog) == [f"The cache {db} was removed while it was open; it is made anew, and begins empty."]
    assert in_order(db)


async def test_a_cache_that_was_moved_away_has_all_that_was_saved_in_it(datasette: Datasette, db: Path) -> None:
    assert await status_of(datasette, NEW[0]) == STORED
    away = db.rename(db.with_name("away.db"))
    assert await status_of(datasette, NEW[1]) == STORED
    assert (vins_of(away), vins_of(db)) == ([*OLD, NEW[0]], [NEW[1]])
    assert in_order(away)
    assert in_order(db)


async def test_a_cache_that_was_replaced_is_used(
    datasette: Datasette, db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert await status_of(datasette, NEW[0]) == STORED
    known(db.with_name("other.db"), NEW[5:7])
    db.with_name("other.db").replace(db)
    assert [await status_of(datasette, vin) for vin in (NEW[5], NEW[1])] == [HIT, STORED]
    # What was saved last in the one that was there is not played into the one that came.
    assert vins_of(db) == [NEW[1], *NEW[5:7]]
    assert said(caplog) == [f"The cache {db} was replaced while it was open; from now on what lies there is used."]
    assert in_order(db)


async def test_a_cache_that_was_replaced_while_somebody_reads_is_not_mixed_with_the_other(
    datasette: Datasette, db: Path
) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM vehicles").fetchone()
        assert await status_of(datasette, NEW[0]) == STORED
        known(db.with_name("other.db"), NEW[5:7])
        db.with_name("other.db").replace(db)
        assert await status_of(datasette, NEW[1]) == STORED
        assert reader.execute("SELECT count(*) FROM vehicles").fetchone() == (len(OLD),)
    assert vins_of(db) == [NEW[1], *NEW[5:7]]
    assert in_order(db)


@pytest.mark.parametrize("endings", [["-wal"], ["-shm"], ["-wal", "-shm"]], ids=" and ".join)
async def test_what_sqlite_keeps_beside_the_cache_is_made_anew(
    datasette: Datasette, db: Path, endings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert [await status_of(datasette, vin) for vin in NEW[:3]] == [STORED] * 3
    for ending in endings:
        db.with_name(f"{db.name}{ending}").unlink()
    assert [await status_of(datasette, vin) for vin in (OLD[0], NEW[0], NEW[3])] == [HIT, HIT, STORED]
    assert vins_of(db) == [*OLD, *NEW[:4]]
    assert said(caplog) == [f"The -wal or -shm of the cache {db} was removed while it was open; it is made anew."]
    assert in_order(db)


@pytest.mark.parametrize("ending", ["", "-wal", "-shm"])
async def test_the_pages_show_what_lies_there_now(datasette: Datasette, db: Path, ending: str) -> None:
    for vin in NEW[:3]:
        await status_of(datasette, vin)
    assert await shown(datasette) == [*OLD, *NEW[:3]]
    db.with_name(f"{db.name}{ending}").unlink()
    await status_of(datasette, NEW[3])
    assert await shown(datasette) == ([] if ending == "" else [*OLD, *NEW[:3]]) + [NEW[3]]


async def answers(lookup: Lookup, *vins: str) -> list[tuple[str, bool]]:
    """How VINs were answered one after another, which they have to be, and whether each is kept."""
    return [(answer.how, answer.stored) for answer in [await lookup.answer(vin) for vin in vins] if answer.vehicle]


# By the library: Datasette connects to the file as well, to find out who may see it, and answers 503 when it cannot.


async def test_a_folder_that_is_gone_costs_no_answer(
    make_settings: MakeSettings, db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Lookup(make_settings(db=db)) as lookup:
        assert await answers(lookup, OLD[0]) == [("hit", True)]
        db.parent.rename(db.parent.with_name("gone"))
        assert await answers(lookup, OLD[0], *NEW[:3]) == [("hit", True)] + [("miss", False)] * 3
        db.parent.with_name("gone").rename(db.parent)
        assert await answers(lookup, OLD[0], NEW[4]) == [("hit", True), ("miss", True)]
    assert vins_of(db) == [*OLD, NEW[4]]
    assert said(caplog) == [
        f"The cache {db} cannot be written (there is no folder {db.parent} any more): answers are given, and not kept.",
        f"The cache {db} can be written again; 3 answers were not kept meanwhile.",
    ]
    assert in_order(db)


async def test_in_a_folder_that_was_gone_a_cache_is_made_anew(make_settings: MakeSettings, db: Path) -> None:
    async with Lookup(make_settings(db=db)) as lookup:
        assert await answers(lookup, OLD[0]) == [("hit", True)]
        shutil.rmtree(db.parent)
        assert await answers(lookup, OLD[0], NEW[0]) == [("hit", True), ("miss", False)]
        db.parent.mkdir()
        assert await answers(lookup, NEW[0], NEW[0]) == [("miss", True), ("hit", True)]
    assert vins_of(db) == [NEW[0]]


async def test_a_removed_cache_costs_a_fleet_nothing_that_is_saved_later(make_settings: MakeSettings, db: Path) -> None:
    async with Lookup(make_settings(db=db)) as lookup:
        assert [each async for each in lookup.answers(NEW[:5])]
        db.unlink()
        assert [each async for each in lookup.answers(NEW[5:9])]
    assert vins_of(db) == NEW[5:9]


# Another process has it locked

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """A cache that another process has locked."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, path], text=True, **pipes) as process:
        assert process.stdout
        assert process.stdout.readline() == "locked\n"
        try:
            yield
        finally:
            process.communicate()


async def test_a_lock_costs_no_answer(datasette: Datasette, db: Path, caplog: pytest.LogCaptureFixture) -> None:
    with locked(db):
        began = time.monotonic()
        assert [await status_of(datasette, vin) for vin in NEW[:10]] == [NOT_STORED] * 10
        assert [await status_of(datasette, vin) for vin in OLD] == [HIT] * 10
        # One has waited as long as a writer may work, and nobody after it.
        assert time.monotonic() - began < 0.3 + 10 * (0.05 + 0.15)
        state = (await datasette.client.get("/-/vin.json")).json()
        assert state["trouble"] == ["The cache cannot be written: database is locked"]
    assert [await status_of(datasette, vin) for vin in NEW[:2]] == [STORED] * 2
    assert vins_of(db) == [*OLD, *NEW[:2]]
    assert said(caplog) == [
        f"The cache {db} cannot be written (database is locked): answers are given, and not kept.",
        f"The cache {db} can be written again; 10 answers were not kept meanwhile.",
    ]
    assert in_order(db)


COMMAND = """
import vin_datasette.cache, vin_datasette.trouble
from vin_datasette.cli import main

vin_datasette.cache.WRITE_TIMEOUT = 0.3
vin_datasette.trouble.CALM = 0
main()
"""
"""`vin-datasette` as it is, but for its patience."""


def command(*arguments: object, source: str = "embedded") -> dict[str, Any]:
    return {
        "args": [sys.executable, "-c", COMMAND, *map(str, arguments)],
        "env": clean_environment(VIN_DATASETTE_SOURCE=source),
        "text": True,
    }


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(*arguments), capture_output=True, check=False, timeout=60)


def test_fetch_tells_how_many_are_not_kept(db: Path) -> None:
    with locked(db):
        ended = run("fetch", *NEW, *OLD[:5], "--silent", "--db", db)
    assert ended.returncode == 1
    assert re.match(
        r"55 asked: 5 cached, 50 fetched \(50 by embedded\), 0 rejected, 0 failed, 50 not kept in the cache; ",
        ended.stdout,
    )
    assert ended.stderr == f"The cache {db} cannot be written (database is locked): answers are given, and not kept.\n"
    assert vins_of(db) == OLD
    assert in_order(db)


def test_fetch_again_keeps_what_was_not_kept(db: Path) -> None:
    with locked(db):
        run("fetch", *NEW, "--silent", "--db", db)
    ended = run("fetch", *NEW, "--silent", "--db", db)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert vins_of(db) == VINS


# The disk is full, or may only be read

MOUNT = 'mount {} && cd "$1" && shift && exec "$@"'
"""Mounts what nobody but this process and its children sees, and what is gone with them."""


@pytest.fixture(scope="session")
def mounting() -> None:
    """Whether this user may mount, in a namespace of its own."""
    probe = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mounting takes root, and a system with mount namespaces")


def mounted(how: str, folder: Path, started: dict[str, Any]) -> dict[str, Any]:
    """A command that sees a folder as mounted in this way."""
    return {**started, "args": ["unshare", "--mount", "sh", "-c", MOUNT.format(how), "sh", folder, *started["args"]]}


@contextmanager
def served(started: dict[str, Any]) -> Iterator[Served]:
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    server = Served(subprocess.Popen(**started, **pipes))
    try:
        yield server
    finally:
        server.stop()


def seen_by(server: Served, path: Path) -> Path:
    """A path as a process sees it that has a namespace of its own."""
    return Path(f"/proc/{server.process.pid}/root{path}")


def status_at(server: Served, vin: str) -> str:
    """How a VIN was answered by a real server, which it has to be."""
    response = httpx.get(f"{server.url}/lookup/{vin}", timeout=30)
    assert (response.status_code, response.json()["Make"]) == (200, "HONDA")
    return str(response.headers["cache-status"])


def of_the_cache(server: Served) -> list[str]:
    """What a server said of its cache. No traceback was among it."""
    assert "Traceback" not in server.said()
    return [line for line in server.said().splitlines() if line.startswith("The cache")]


def kept_copy(path: Path, folder: Path) -> Path:
    """A copy of a cache with all that lies beside it, to look at."""
    folder.mkdir(exist_ok=True)
    for each in path.parent.iterdir():
        if each.name.startswith(path.name):
            shutil.copy(each, folder)
    return folder / path.name


SERVE = ("serve", "--port", "0", "--db", "vin.db")
FULL = r"cannot be written \((database or disk is full|disk I/O error)\): answers are given, and not kept\.$"
IS_FULL_NO_MORE = r"can be written again; \d+ answers were not kept meanwhile\.$"


@contextmanager
def on_a_small_disk(db: Path) -> Iterator[tuple[Served, Path, Callable[[bool], None]]]:
    """A server on a disk of a megabyte, the cache as it sees it, and what fills and empties the disk."""
    folder = db.parent
    how = f"-t tmpfs -o size=1m tmpfs {folder}"
    with served(mounted(how, folder, command(*SERVE))) as server:
        filler = seen_by(server, folder / "filler")

        def fill(full: bool) -> None:
            if not full:
                return filler.unlink()
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    return None

        yield server, seen_by(server, db), fill


@contextmanager
def under_a_limit(db: Path) -> Iterator[tuple[Served, Path, Callable[[bool], None]]]:
    """The same of a server whose files may grow no more, for want of a disk that may be filled."""
    with served({**command(*SERVE), "cwd": db.parent}) as server:

        def fill(full: bool) -> None:
            limit = db.with_name("vin.db-wal").stat().st_size if full else resource.RLIM_INFINITY
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

        yield server, db, fill


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="the limits of another process are set by Linux alone")
@pytest.mark.parametrize("disk", [on_a_small_disk, under_a_limit])
def test_a_full_disk_costs_no_answer_and_nothing_that_was_saved(
    disk: Callable[..., Any], db: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if disk is on_a_small_disk:
        request.getfixturevalue("mounting")
    others = iter(NEW[4:])
    with disk(db) as (server, path, fill):
        assert [status_at(server, vin) for vin in NEW[:2]] == [STORED] * 2
        fill(True)
        # What is written into pages that are there already may still have room.
        until(lambda: status_at(server, next(others)) == NOT_STORED)
        assert status_at(server, NEW[0]) == HIT
        before = vins_of(kept_copy(path, tmp_path / "full"))
        assert in_order(tmp_path / "full" / "vin.db")
        fill(False)
        assert status_at(server, NEW[3]) == STORED
        after = kept_copy(path, tmp_path / "after")
        # What it says is read on a thread, and may come a moment after the answer.
        until(lambda: len(of_the_cache(server)) > 1)
        [full, over] = of_the_cache(server)
    assert re.search(FULL, full)
    assert re.search(IS_FULL_NO_MORE, over)
    assert {*vins_of(after)} >= {*before, *NEW[:2], NEW[3]}
    assert in_order(after)


@pytest.mark.usefixtures("mounting")
def test_fetch_to_a_full_disk_tells_how_many_are_not_kept(tmp_path: Path) -> None:
    folder, outside = tmp_path / "small", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (tmp_path / "vins.txt").write_text("\n".join(numbered_vins(1000)))
    how = f"-t tmpfs -o size=400k tmpfs {folder}"
    started = command("fetch", "-f", tmp_path / "vins.txt", "--silent", "--db", "vin.db")
    # The disk goes with the last process that sees it.
    then = ["sh", "-c", '"$@"; code=$?; cp vin.db* "$0"; exit $code', str(outside), *started["args"]]
    mounting = mounted(how, folder, {**started, "args": then})
    ended = subprocess.run(**mounting, capture_output=True, check=False, timeout=60)
    assert ended.returncode == 1
    kept = len(vins_of(outside / "vin.db"))
    assert (
        f"1,000 fetched (1,000 by embedded), 0 rejected, 0 failed, {1000 - kept:,} not kept in the cache; "
        in ended.stdout
    )
    [line] = ended.stderr.splitlines()
    assert re.search(FULL, line)
    assert in_order(outside / "vin.db")


READ_ONLY = "--bind {0} {0} && mount -o remount,bind,ro {0}"


@pytest.mark.usefixtures("mounting")
def test_a_disk_that_may_only_be_read_costs_no_answer(db: Path) -> None:
    with served(mounted(READ_ONLY.format(db.parent), db.parent, command(*SERVE))) as server:
        assert [status_at(server, vin) for vin in OLD[:3]] == [HIT] * 3
        assert [status_at(server, vin) for vin in NEW[:3]] == [NOT_STORED] * 3
        shown = httpx.get(f"{server.url}/vin/vehicles.json?_shape=array").raise_for_status()
        assert len(shown.json()) == len(OLD)
        exported = httpx.get(f"{server.url}/export").raise_for_status()
        assert pq.read_table(pa.BufferReader(exported.content)).num_rows == len(OLD)
        until(lambda: of_the_cache(server))
        assert of_the_cache(server) == [
            f"The cache {db} cannot be written (attempt to write a readonly database): answers are given, and not kept."
        ]
    assert vins_of(db) == OLD
    assert in_order(db)


@pytest.mark.usefixtures("mounting")
def test_what_a_killed_process_left_is_read_on_a_disk_that_may_only_be_read(db: Path) -> None:
    killed_while_open(db, NEW[:5])
    with served(mounted(READ_ONLY.format(db.parent), db.parent, command(*SERVE))) as server:
        assert [status_at(server, vin) for vin in (OLD[0], NEW[0], NEW[4], NEW[5])] == [HIT] * 3 + [NOT_STORED]
        shown = httpx.get(f"{server.url}/vin/vehicles.json?_shape=array").raise_for_status()
        assert len(shown.json()) == len(OLD) + 5


# A page is damaged

MANY = sorted(numbered_vins(300))
"""VINs of so many vehicles that a page holds a small part of each table and index."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that knows `MANY`."""
    path = tmp_path_factory.mktemp("whole") / "vin.db"
    known(path, MANY)
    return path


def pages_of(path: Path, name: str) -> tuple[int, list[int]]:
    """The size of a page, and the leaves of a table or index below the first page of its tree
    that branches (https://sqlite.org/fileformat2.html#b_tree_pages)."""
    with closing(sqlite3.connect(path)) as connection:
        [[size]] = connection.execute("PRAGMA page_size")
        [[root]] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [name])
    content = path.read_bytes()
    page = content[(root - 1) * size : root * size]
    assert page[0] in (2, 5), "the tree of this table has a single page"
    cells = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(int.from_bytes(page[3:5], "big"))]
    return size, [int.from_bytes(page[cell : cell + 4], "big") for cell in cells]


def damage(path: Path, name: str) -> None:
    """Overwrite a page in the midst of a table or an index."""
    size, leaves = pages_of(path, name)
    with path.open("r+b") as file:
        file.seek((leaves[len(leaves) // 2] - 1) * size)
        file.write(b"\xa5" * size)


def readable(path: Path) -> set[str]:
    """The VINs whose rows can be read, one by one."""
    found = set()
    with closing(sqlite3.connect(path)) as connection:
        for vin in MANY:
            try:
                found |= {row[0] for row in connection.execute("SELECT vin, record FROM vehicles WHERE vin = ?", [vin])}
            except sqlite3.DatabaseError:
                continue
    return found


TREES = [
    "vehicles",
    "sqlite_autoindex_vehicles_1",
    "idx_vehicles_vin_fetched_at_source_error_code",
    "vehicles_fts_data",
]
damaged = pytest.mark.parametrize("name", TREES)


@pytest.fixture
def damaged_db(whole: Path, tmp_path: Path, name: str) -> Path:
    """A cache of `MANY` with a page that is damaged."""
    damage(Path(shutil.copy(whole, tmp_path / "vin.db")), name)
    return tmp_path / "vin.db"


@damaged
async def test_a_damaged_page_costs_no_answer(
    name: str,
    damaged_db: Path,
    make_instance: MakeInstance,
    vpic_server: VpicServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = readable(damaged_db)
    assert before
    datasette = await make_instance(
        {"db": str(damaged_db), "source": "vpic", "vpic_url": vpic_server.url, "rate": 1000}
    )
    response = await datasette.client.post("/lookup", json={"vins": MANY})
    answers = [json.loads(line) for line in response.text.splitlines()]
    assert {each["Make"] for each in answers} == {"HONDA"}
    assert {each["Input VIN Requested"] for each in answers if each["Cached Result?"]} == before
    for _ in range(3):
        assert {(await datasette.client.get(f"/lookup/{vin}")).status_code for vin in MANY[::10]} == {200}
    assert readable(damaged_db) >= before
    for line in said(caplog):
        assert re.match(
            rf"The cache {damaged_db} cannot be (read|written) \(database disk image is malformed\): ", line
        )
        assert f"sqlite3 '{damaged_db}' .recover | sqlite3 saved.db" in line
    assert len(said(caplog)) == len({*said(caplog)}) <= 2
    if len(before) < len(MANY):
        assert "cannot be read" in said(caplog)[0]


@pytest.mark.parametrize("name", TREES[:2])
async def test_what_is_not_damaged_is_answered_where_nobody_can_be_asked(
    name: str, damaged_db: Path, make_instance: MakeInstance
) -> None:
    before = readable(damaged_db)
    with closed_port() as url:
        datasette = await make_instance({"db": str(damaged_db), "source": "vpic", "vpic_url": url, "timeout": 0.3})
        response = await datasette.client.post("/lookup", json={"vins": MANY})
    answers = [json.loads(line) for line in response.text.splitlines()]
    assert {each["Input VIN Requested"] for each in answers if "Make" in each} == before
    assert {each["status"] for each in answers if "Make" not in each} == {503}


def test_a_server_does_not_start_on_a_file_without_its_head(db: Path) -> None:
    with db.open("r+b") as file:
        file.write(b"\0" * 100)
    ended = run("serve", "--port", "0", "--db", db)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"Error: {db} cannot be used as a cache: file is not a database. What can be saved is saved by "
        f"sqlite3 '{db}' .recover | sqlite3 saved.db, while nobody uses it.\n"
    )


# A process was killed

SAVE_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tests.faults import known
from vin_datasette.cache import Cache
from vin_datasette.vin import VIN

# One that is open and does not end well keeps the others from tidying up.
cache = Cache(sys.argv[1])
cache.open()
for vin in sys.argv[2:]:
    known(Path(sys.argv[1]), [VIN(vin)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_while_open(path: Path, vins: Sequence[str]) -> Path:
    """The `-wal` that a process left which saved these, one after another, and was killed."""
    ended = subprocess.run([sys.executable, "-c", SAVE_AND_DIE, path, *vins], cwd=ROOT, check=False)
    assert ended.returncode == -signal.SIGKILL
    left = path.with_name(f"{path.name}-wal")
    assert left.stat().st_size
    return left


def as_it_is(wal: Path) -> None:
    pass


def without_shm(wal: Path) -> None:
    wal.with_name("vin.db-shm").unlink()


def with_garbage_at_its_end(wal: Path) -> None:
    with wal.open("ab") as file:
        file.write(b"\xa5" * 10_000)


def with_half_a_commit_at_its_end(wal: Path) -> None:
    content = wal.read_bytes()
    with wal.open("ab") as file:
        # A frame of this very file that is cut off, as by a power cut (https://sqlite.org/fileformat2.html#walformat).
        file.write(content[32 : 32 + 2000])


@pytest.mark.parametrize("change", [as_it_is, without_shm, with_garbage_at_its_end, with_half_a_commit_at_its_end])
async def test_all_that_a_killed_process_saved_is_there(
    change: Callable[[Path], None], db: Path, make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    change(killed_while_open(db, NEW[:5]))
    datasette = await make_instance({"db": str(db), "source": "vpic", "vpic_url": vpic_server.url})
    assert [await status_of(datasette, vin) for vin in [*OLD, *NEW[:6]]] == [HIT] * 15 + [STORED]
    assert await shown(datasette) == [*OLD, *NEW[:6]]
    assert vins_of(db) == [*OLD, *NEW[:6]]
    assert in_order(db)


async def test_what_was_saved_before_the_cut_is_there(db: Path, make_instance: MakeInstance) -> None:
    wal = killed_while_open(db, NEW[:5])
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size - 100)
    datasette = await make_instance({"db": str(db)})
    assert await shown(datasette) == [*OLD, *NEW[:4]]
    assert in_order(db)
