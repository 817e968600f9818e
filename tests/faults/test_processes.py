"""Processes that are killed at any moment, and many of them on one file: what was saved stays."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import SCRIPT, clean_environment, numbered_vins, serving
from tests.data.schemas.make import FOLDER, RECORDS
from tests.test_cache import Script, is_whole
from tests.vpic_server import VpicServer
from vin_datasette.cache import Cache
from vin_datasette.schema import MIGRATION_NAMES, MIGRATION_SET
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Served

KILLS = int(os.environ.get("VIN_DATASETTE_KILLS", "200"))
"""How many processes are killed while they write. The environment may ask for more."""

CHECKED_EVERY = 50
SINGLES, BATCHES, BATCH = 400, 6, 300
"""VINs that are saved alone, and batches of as many that are saved at once, again and again."""

IMPORTS = """
import json, random
from sqlite_utils import Database
from vin_datasette import migrations
import vin_datasette.cache
from vin_datasette.vehicle import interpret
"""
"""In the parent, which stays of one thread: its children are there at once."""

# Each line tells what is begun, and what has returned: the moment between belongs to neither.
WRITERS = (
    IMPORTS
    + """
def answer(number, source, said):
    vin = f"1XP5DB9X7XD{number:06}"
    values = {"VIN": vin, "Make": "PETERBILT", "Model": said, "ErrorCode": "0", "Note": said * 20}
    return interpret(Record(VIN(vin), values, source, None, datetime(2026, 11, 1, 12, tzinfo=timezone.utc)))

def writes(path, seed):
    chosen, cache = random.Random(seed), Cache(path)
    for turn in range(10_000):
        said, kind = f"G{seed}x{turn}", chosen.choices(("single", "remove", "batch"), (6, 2, 2))[0]
        number = chosen.randrange(BATCHES if kind == "batch" else SINGLES)
        say(f"begins {kind} {number} {said}")
        if kind == "single":
            cache.save([answer(number, "vpic", said)])
        elif kind == "remove":
            cache.remove(VIN(f"1XP5DB9X7XD{number:06}"))
        else:
            first = 1000 * (number + 1)
            cache.save([answer(first + each, "embedded", said) for each in range(BATCH)])
        say(f"has {kind} {number} {said}")

for line in sys.stdin:
    path, seed = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        say("gone")
        continue
    say(os.getpid())
    writes(path, int(seed))
    os._exit(0)
"""
)


def rows(path: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=30)) as connection:
        return connection.execute(sql, parameters).fetchall()


class Model:
    """What the file has to hold: by what each VIN and each batch said last, and what vPIC said before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saved: dict[tuple[str, int], str | None] = {}
        self.history: dict[int, list[str]] = {}
        self.returned = 0

    def hear(self, lines: list[str]) -> None:
        """Take in what a child told before it was killed; the last that it began may be done or not."""
        begun: tuple[str, int, str] | None = None
        for line in lines:
            word, kind, number, said = line.split(" ")
            begun = (kind, int(number), said) if word == "begins" else begun
            if word == "has" and begun:
                self.does(*begun)
                begun, self.returned = None, self.returned + 1
        if begun and self.found(*begun[:2]) != self.saved.get(self.key(begun[0], begun[1])):
            self.does(*begun)

    @staticmethod
    def key(kind: str, number: int) -> tuple[str, int]:
        return ("batch" if kind == "batch" else "single", number)

    def does(self, kind: str, number: int, said: str) -> None:
        key = self.key(kind, number)
        if kind == "single" and self.saved.get(key):
            self.history.setdefault(number, []).append(str(self.saved[key]))
        self.saved[key] = None if kind == "remove" else said

    def found(self, kind: str, number: int) -> str | None:
        """What a VIN, or all VINs of a batch, say in the file."""
        if not self.path.exists() or not rows(self.path, "SELECT 1 FROM sqlite_master WHERE name = 'changes'"):
            return None
        first, count = (1000 * (number + 1), BATCH) if kind == "batch" else (number, 1)
        vins = [f"1XP5DB9X7XD{each:06}" for each in range(first, first + count)]
        sql = "SELECT model, count(*) FROM vehicles WHERE vin BETWEEN ? AND ? GROUP BY model"
        models = rows(self.path, sql, vins[0], vins[-1])
        assert not models or [number for _, number in models] == [count], f"{kind} {number} is there in part"
        return str(models[0][0]) if models else None

    def check(self) -> None:
        """The file holds all of it, whole."""
        assert is_whole(self.path)
        expected: dict[int, str] = {}
        for (kind, number), said in self.saved.items():
            first, count = (1000 * (number + 1), BATCH) if kind == "batch" else (number, 1)
            expected.update(dict.fromkeys(range(first, first + count), said) if said else {})
        found: dict[int, str] = {}
        for vin, model, record in rows(self.path, "SELECT vin, model, record FROM vehicles"):
            values = json.loads(record)
            assert (values["VIN"], values["Model"], values["Note"]) == (vin, model, model * 20)
            found[int(vin[-6:])] = model
        assert found == expected
        before: dict[int, list[str]] = {}
        for vin, record in rows(self.path, "SELECT vin, record FROM changes ORDER BY id"):
            before.setdefault(int(vin[-6:]), []).append(json.loads(record)["Model"])
        assert before == self.history
        triggers = rows(self.path, "SELECT name FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
        assert triggers == [("vehicles_ad",), ("vehicles_ai",), ("vehicles_au",)]


@pytest.mark.one_end
def test_killed_writers_lose_nothing_that_was_saved(tmp_path: Path) -> None:
    path, moments = tmp_path / "vin.db", random.Random(7)
    model = Model(path)
    constants = f"SINGLES, BATCHES, BATCH = {SINGLES}, {BATCHES}, {BATCH}\n"
    with Script(constants + WRITERS) as parent:
        for kill in range(KILLS):
            parent.tell(f"{path}\t{kill}")
            child = int(parent.line())
            lines = [parent.line() for _ in range(moments.randrange(6))]
            time.sleep(moments.uniform(0, 0.01))
            model.hear(lines + parent.kill(child))
            if kill % CHECKED_EVERY == CHECKED_EVERY - 1:
                model.check()
    model.check()
    assert model.returned > KILLS
    assert {kind for kind, _ in model.saved} == {"single", "batch"}


# Servers


def vins_kept(path: Path, vins: list[str]) -> set[str]:
    with closing(Cache(path)) as cache:
        return {str(vin) for vin in cache.get_many([VIN(vin) for vin in vins])}


@pytest.fixture(scope="module")
def vpic() -> Iterator[VpicServer]:
    with VpicServer(latency=0.02) as server:
        yield server


def with_vpic(vpic: VpicServer) -> dict[str, str]:
    """The variables of a process that asks this vPIC, as fast as it can."""
    asked = {"SOURCE": "vpic", "VPIC_URL": vpic.url, "RATE": "10000", "CONCURRENCY": "8"}
    return {f"VIN_DATASETTE_{name}": value for name, value in asked.items()}


def test_what_a_killed_server_had_answered_is_in_the_cache(tmp_path: Path, vpic: VpicServer) -> None:
    chosen = random.Random(11)
    vins = [str(vin) for vin in numbered_vins(3_000)]
    answered: set[str] = set()
    for turn in range(3):
        part = chosen.sample(vins, 1_500)
        with serving(tmp_path, **with_vpic(vpic)) as served:
            heard = heard_until_killed(served, part, chosen.randrange(50, 600))
        assert {said["Make"] for said in heard} == {"HONDA"}
        answered.update(said["Input VIN Requested"] for said in heard)
        assert answered - vins_kept(tmp_path / "vin.db", vins) == set(), f"after kill {turn}"
        assert is_whole(tmp_path / "vin.db")


def heard_until_killed(served: Served, vins: list[str], number: int) -> list[dict[str, Any]]:
    """The lines of a list of which a client has the whole, when the server is killed after so many."""
    heard: list[dict[str, Any]] = []
    with (
        contextlib.suppress(httpx.HTTPError),
        httpx.stream("POST", f"{served.url}/lookup", json=vins, timeout=60) as response,
    ):
        for line in response.iter_lines():
            with contextlib.suppress(ValueError):
                heard.append(json.loads(line))
            if len(heard) == number:
                served.process.kill()
    assert number <= len(heard) < len(vins)
    return heard


def test_an_answer_that_could_not_be_kept_says_so(tmp_path: Path, vpic: VpicServer) -> None:
    """What is answered without having been stored is not told as stored."""
    with serving(tmp_path, **with_vpic(vpic)) as served:
        kept = httpx.get(f"{served.url}/lookup/{numbered_vins(1)[0]}", timeout=60)
        with closing(sqlite3.connect(tmp_path / "vin.db", isolation_level=None)) as other:
            other.execute("CREATE TRIGGER no BEFORE INSERT ON vehicles BEGIN SELECT raise(ABORT, 'full'); END")
        not_kept = httpx.get(f"{served.url}/lookup/{numbered_vins(2)[1]}", timeout=60)
    assert [answer.status_code for answer in (kept, not_kept)] == [200, 200]
    assert "stored" in kept.headers["cache-status"]
    assert "stored" not in not_kept.headers["cache-status"]


def test_two_servers_and_a_fetch_share_a_file_while_vins_are_removed(tmp_path: Path, vpic: VpicServer) -> None:
    vins = [str(vin) for vin in numbered_vins(1_500)]
    removed, wrong, ended = vins[::50], [], threading.Event()
    (tmp_path / "fleet.txt").write_text("\n".join(vins[400:]))

    def look_up(served: Served, part: list[str]) -> None:
        for start in range(0, len(part), 250):
            asked = part[start : start + 250]
            answer = httpx.post(f"{served.url}/lookup", json=asked, timeout=60)
            said = [json.loads(line) for line in answer.text.splitlines()]
            if sorted(line["Input VIN Requested"] for line in said) != sorted(asked):
                wrong.append(f"{len(said)} answers to {len(asked)} questions")
            wrong.extend(str(line) for line in said if line.get("Make") != "HONDA")

    def remove(served: Served) -> None:
        with httpx.Client(base_url=served.url, timeout=60) as client:
            while not ended.is_set():
                for vin in removed:
                    answer = client.post(f"/remove/{vin}")
                    if answer.status_code != 200:
                        wrong.append(answer.text)
                ended.wait(0.01)

    with serving(tmp_path, **with_vpic(vpic)) as one, serving(tmp_path, **with_vpic(vpic)) as other:
        remover = threading.Thread(target=remove, args=(other,))
        askers = [
            threading.Thread(target=look_up, args=(one, vins[:1_000])),
            threading.Thread(target=look_up, args=(other, vins[500:][::-1])),
        ]
        for thread in (remover, *askers):
            thread.start()
        fetched = subprocess.run(
            [SCRIPT, "fetch", "-f", "fleet.txt", "--silent", "--output", "out.csv"],
            cwd=tmp_path,
            env=clean_environment(**with_vpic(vpic)),
            capture_output=True,
            text=True,
            check=False,
        )
        for thread in askers:
            thread.join()
        ended.set()
        remover.join()
        said = one.said() + other.said() + fetched.stdout + fetched.stderr
    assert wrong == []
    assert (fetched.returncode, " 0 rejected, 0 failed" in fetched.stdout) == (0, True), fetched.stderr
    assert not re.search("locked|could not be kept|cannot be|Traceback", said)
    assert len((tmp_path / "out.csv").read_text().splitlines()) == len(vins[400:]) + 1
    assert set(vins) - set(removed) - vins_kept(tmp_path / "vin.db", vins) == set()
    assert is_whole(tmp_path / "vin.db")


# Opening

# Ten at a time, each with its connections of its own.
OPENERS = (
    IMPORTS
    + """
for line in sys.stdin:
    path, number = line.rstrip("\\n").split("\\t")
    children, start = [], time.time() + 0.05
    for each in range(int(number)):
        child = os.fork()
        children.append(child)
        if child:
            continue
        cache = Cache(path)
        time.sleep(max(0, start - time.time()))
        try:
            cache.open()
            save(cache, each)
            cache.close()
        except Exception as error:
            say(repr(error))
            os._exit(1)
        os._exit(0)
    say([os.waitpid(child, 0)[1] for child in children])
"""
)

OPENERS_AT_ONCE = 10
ROUNDS = 5


def steps(path: Path) -> list[str]:
    sql = "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id"
    return [name for (name,) in rows(path, sql, MIGRATION_SET)]


@pytest.fixture(scope="module")
def openers() -> Iterator[Script]:
    with Script(OPENERS) as parent:
        yield parent


@pytest.mark.parametrize("step", [None, *MIGRATION_NAMES[:-1]], ids=["a new file", *MIGRATION_NAMES[:-1]])
def test_ten_processes_make_or_migrate_one_file_at_once(openers: Script, tmp_path: Path, step: str | None) -> None:
    for number in range(ROUNDS):
        path = tmp_path / f"{number}.db"
        if step:
            shutil.copy(FOLDER / f"{step}.sqlite", path)
        openers.tell(f"{path}\t{OPENERS_AT_ONCE}")
        assert openers.line() == str([0] * OPENERS_AT_ONCE)
        assert steps(path) == list(MIGRATION_NAMES)
        assert rows(path, "SELECT count(*) FROM vehicles WHERE vin LIKE '1XP5DB9X7XD0000%'") == [(OPENERS_AT_ONCE,)]
        assert is_whole(path)


# The version of an older step, which answers from its file while it is brought up to date.
OLDER_SERVER = """
vin_datasette_cache = __import__("vin_datasette.cache", fromlist=["cache"])
vin_datasette_cache.MIGRATION_NAMES = vin_datasette_cache.MIGRATION_NAMES[: int(sys.argv[2])]
with closing(Cache(sys.argv[1])) as cache:
    cache.open()
    say("open")
    missed = kept = 0
    while not os.path.exists(sys.argv[1] + ".end"):
        missed += cache.get(VIN("1HGCM82633A004352")) is None
        # Only by what its own schema has.
        with cache._write() as db:
            db.execute("UPDATE vehicles SET trim = ? WHERE vin = '1HGCM82633A004352'", [str(kept)])
        kept += 1
say(f"{missed} {kept}")
"""


def test_an_old_file_is_migrated_while_its_older_version_serves_it(openers: Script, tmp_path: Path) -> None:
    path = tmp_path / "vin.db"
    shutil.copy(FOLDER / f"{MIGRATION_NAMES[0]}.sqlite", path)
    with Script(OLDER_SERVER, path, 1) as older:
        assert older.line() == "open"
        openers.tell(f"{path}\t{OPENERS_AT_ONCE}")
        assert openers.line() == str([0] * OPENERS_AT_ONCE)
        (tmp_path / "vin.db.end").touch()
        missed, kept = map(int, older.line().split())
    assert missed == 0
    assert kept > 0
    assert rows(path, "SELECT trim FROM vehicles WHERE vin = '1HGCM82633A004352'") == [(str(kept - 1),)]
    assert steps(path) == list(MIGRATION_NAMES)
    assert is_whole(path)


# A child that kills itself before its nth statement, or after so many steps within one.
SUICIDES = (
    IMPORTS
    + """
import signal
connect = vin_datasette.cache._connect

def counted(limit, every):
    left = limit

    def count(*_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def connected(path, timeout):
        connection = connect(path, timeout)
        if every:
            connection.set_progress_handler(count, every)
        else:
            connection.set_trace_callback(count)
        return connection

    return connected

for line in sys.stdin:
    path, limit, every = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child:
        say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        continue
    vin_datasette.cache._connect = counted(int(limit), int(every))
    Cache(path).open()
    os._exit(0)
"""
)


def state(path: Path) -> tuple[object, ...]:
    """What a file is: its schema, its steps and its vehicles."""
    if not path.exists():
        return ()
    schema = rows(path, "SELECT type, name, sql FROM sqlite_master ORDER BY type, name")
    return (schema, steps(path), rows(path, "SELECT * FROM vehicles ORDER BY vin")) if schema else ()


@pytest.mark.parametrize("every", [0, 200], ids=["at each statement", "within statements"])
@pytest.mark.parametrize("step", [None, MIGRATION_NAMES[0]], ids=["a new file", MIGRATION_NAMES[0]])
def test_a_file_whose_migration_is_killed_is_old_or_new(tmp_path: Path, step: str | None, every: int) -> None:
    made, states, killed = tmp_path / "vin.db", set(), 0
    old = state(FOLDER / f"{step}.sqlite") if step else ()
    with Script(SUICIDES) as parent:
        for limit in range(1, 1_000):
            for each in tmp_path.iterdir():
                each.unlink()
            if step:
                shutil.copy(FOLDER / f"{step}.sqlite", made)
            parent.tell(f"{made}\t{limit}\t{every}")
            if parent.line() == "0":
                break
            killed += 1
            between = state(made)
            states.add("old" if between == old else "new" if between and between[1] == list(MIGRATION_NAMES) else "?")
            with closing(Cache(made)) as cache:
                cache.open()
                found = cache.get_many([said.vin for said in RECORDS])
                assert found == ({said.vin: said for said in RECORDS} if step else {})
            if limit % 5 == 0:
                assert is_whole(made)
    assert killed > 5
    assert states <= {"old", "new"}
    assert "old" in states


# Forks

# The child writes, as each of the two uses the file, before and after the parent has closed it.
FORKS = (
    IMPORTS
    + """
cache = Cache(sys.argv[1])
save(cache, 0)
read, written = os.pipe()
child = os.fork()
if child == 0:
    os.close(written)
    own = cache if sys.argv[2] == "the parent's" else Cache(sys.argv[1])
    save(own, 1)
    say("saved")
    os.read(read, 1)
    for number in range(2, 10):
        save(own, number)
    os._exit(0)
for line in sys.stdin:
    save(cache, 10)
    cache.close()
    say(os.path.exists(sys.argv[1] + "-wal"))
    os.write(written, b"x")
    say(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
)


@pytest.mark.parametrize("whose", ["the parent's", "a new one"])
def test_a_forked_child_has_connections_of_its_own(tmp_path: Path, whose: str) -> None:
    path = tmp_path / "vin.db"
    with Script(FORKS, path, whose) as parent:
        assert parent.line() == "saved"
        parent.tell("close")
        # SQLite leaves it when it knows of another who has the file open.
        assert parent.line() == "True"
        assert parent.line() == "0"
    assert rows(path, "SELECT count(*) FROM vehicles") == [(11,)]
    assert is_whole(path)
