"""Caches of every schema that there was: upgraded by this version, and used by an older one again."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlite_utils import Migrations

from tests.conftest import close, new_datasette
from tests.data.schemas.make import CHANGE, FOLDER, RECORDS, keep, record, statements
from tests.test_cache import is_whole, without_privileges
from vin_datasette import migrations
from vin_datasette.cache import Cache, CacheError
from vin_datasette.schema import MIGRATION_NAMES, MIGRATION_SET, USABLE_SINCE, USABLE_SINCE_SET
from vin_datasette.vehicle import Rejection, interpret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from datasette.app import Datasette
    from sqlite_utils import Database

TABLES = ("vehicles", "rejections", "changes")
OLDER = MIGRATION_NAMES[:-1]
LATER = record("1HGCM82693A004355", "HÖNDA", Model="LÄTER", ModelYear="2003", VehicleDescriptor="1HGCM826*3A")
LATER_REJECTION = record("1XP5DB9X9XD487946", "PETERBILT", ErrorCode="1", ErrorText="1 - Check Digit")


def query(path: Path, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql, parameters).fetchall()


def content(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of the cache's tables that are there, texts as bytes."""
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        there = {name.decode() for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall()
            for table in TABLES
            if table in there
        }


def steps(path: Path, migration_set: str = MIGRATION_SET) -> list[str]:
    sql = "SELECT name FROM _sqlite_migrations WHERE migration_set = ? ORDER BY id"
    return [name for (name,) in query(path, sql, migration_set)]


@pytest.fixture(params=MIGRATION_NAMES)
def step(request: pytest.FixtureRequest) -> str:
    """The last step of a file, each in turn."""
    return str(request.param)


@pytest.fixture
def path(step: str, tmp_path: Path) -> Path:
    """The cache of that step, as its version left it."""
    return Path(shutil.copy(FOLDER / f"{step}.sqlite", tmp_path / "vin.db"))


@pytest.fixture
def upgraded(path: Path) -> Path:
    """The same, opened once by this version."""
    with closing(Cache(path)) as cache:
        cache.open()
    return path


def test_a_file_of_every_step_is_at_hand() -> None:
    assert [steps(FOLDER / f"{step}.sqlite") for step in MIGRATION_NAMES] == [
        list(MIGRATION_NAMES[: number + 1]) for number in range(len(MIGRATION_NAMES))
    ]


# Upgrades


def test_an_upgrade_changes_no_row_by_a_single_byte(path: Path) -> None:
    before = content(path)
    with closing(Cache(path)) as cache:
        cache.open()
    after = content(path)
    assert {table: after[table] for table in before} == before
    assert len(before["vehicles"]) + len(before["rejections"]) == len(RECORDS)


def test_an_upgraded_file_has_the_schema_of_a_new_one(upgraded: Path, tmp_path: Path) -> None:
    with closing(Cache(tmp_path / "new.db")) as new:
        new.open()
    schema = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    assert query(upgraded, schema) == query(tmp_path / "new.db", schema)
    assert steps(upgraded) == list(MIGRATION_NAMES)
    assert is_whole(upgraded)


def test_every_record_of_an_upgraded_file_is_found_whole(upgraded: Path) -> None:
    with closing(Cache(upgraded)) as cache:
        assert cache.get_many([said.vin for said in RECORDS]) == {said.vin: said for said in RECORDS}


@pytest.mark.parametrize(
    ("words", "vin"), [("peterbilt DENTON", "1XP5DB9X7XD487964"), ("citroën", "VF7RDRHFH9L547789")]
)
def test_search_finds_the_vehicles_of_an_upgraded_file(upgraded: Path, words: str, vin: str) -> None:
    sql = "SELECT vin FROM vehicles WHERE rowid IN (SELECT rowid FROM vehicles_fts WHERE vehicles_fts MATCH ?)"
    assert query(upgraded, sql, words) == [(vin,)]


def test_an_upgraded_file_is_written_as_a_new_one(upgraded: Path) -> None:
    changed = record("1XP5DB9X7XD487964", "PETERBILT", Model="389", ModelYear="1999")
    before = len(content(upgraded)["changes"])
    with closing(Cache(upgraded)) as cache:
        cache.save([interpret(changed), interpret(LATER), interpret(LATER_REJECTION)])
        assert cache.get_many([said.vin for said in (changed, LATER, LATER_REJECTION)]) == {
            said.vin: said for said in (changed, LATER, LATER_REJECTION)
        }
    assert len(content(upgraded)["changes"]) == before + 1
    assert is_whole(upgraded)


@pytest.fixture
async def instance(path: Path) -> AsyncIterator[Datasette]:
    """A Datasette over a file of an older step. `ultravin` is left out: only the cache can answer."""
    plugin = {"db": str(path), "source": "vpic", "vpic_url": "http://127.0.0.1:9/", "timeout": 0.1}
    datasette = new_datasette({"plugins": {"vin-datasette": plugin}})
    await datasette.invoke_startup()
    yield datasette
    await close(datasette)


async def test_lookups_hit_what_an_older_version_kept(instance: Datasette) -> None:
    for said in RECORDS:
        answer, body = interpret(said), (await instance.client.get(f"/lookup/{said.vin}")).json()
        # A rejection is repeated for a day, and these are older.
        if isinstance(answer, Rejection):
            assert body["status"] == 503
        else:
            assert body == answer.six_fields(cached=True)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("/vin/vehicles", "CITROËN"),
        ("/vin/rejections", "1XP5DB9X7XD487945"),
        ("/vin/changes", "replaced_at"),
        ("/vin/vehicles/WA1A4AFY2J2008189", "SAN JOSÉ CHIAPA"),
        ("/vin/vehicles.charts", "PETERBILT"),
        ("/vin/vehicles?_search=citroen", "VF7RDRHFH9L547789"),
    ],
)
async def test_pages_show_what_an_older_version_kept(instance: Datasette, page: str, words: str) -> None:
    response = await instance.client.get(page)
    assert (response.status_code, words in response.text) == (200, True)


@pytest.mark.parametrize("step", MIGRATION_NAMES[1:], indirect=True)
async def test_the_page_of_a_vehicle_shows_what_vpic_used_to_say(instance: Datasette) -> None:
    response = await instance.client.get("/vin/vehicles/1HGCM82633A004352")
    assert (response.status_code, "Accörd" in response.text) == (200, True)


async def test_exports_have_what_an_older_version_kept(instance: Datasette) -> None:
    response = await instance.client.get("/export?_col=vin&_raw=1")
    assert (response.status_code, response.content[:4]) == (200, b"PAR1")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of today, of which the last fails when it has done its work."""
    broken = Migrations(MIGRATION_SET)
    for each in migrations.migrations._migrations:
        broken(name=each.name)(each.fn)

    @broken()
    def m999_of_tomorrow(db: Database) -> None:
        db.execute("ALTER TABLE vehicles ADD COLUMN colour TEXT")
        db.execute("DROP TABLE rejections")
        db.execute("INSERT INTO nowhere VALUES (1)")

    monkeypatch.setattr(migrations, "migrations", broken)
    monkeypatch.setattr("vin_datasette.cache.MIGRATION_NAMES", (*MIGRATION_NAMES, "m999_of_tomorrow"))


@pytest.mark.usefixtures("failing")
def test_an_upgrade_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    before = content(path), query(path, "SELECT * FROM sqlite_master"), steps(path)
    with pytest.raises(CacheError, match="no such table: nowhere"):
        Cache(path).open()
    assert (content(path), query(path, "SELECT * FROM sqlite_master"), steps(path)) == before


@pytest.mark.parametrize("step", OLDER, indirect=True)
@pytest.mark.parametrize("mode", [0o755, 0o555], ids=["a folder that can be written", "one that cannot"])
def test_a_file_that_cannot_be_upgraded_where_it_is_is_refused_in_words(path: Path, mode: int) -> None:
    said = path.read_bytes()
    with without_privileges() as folder:
        (folder / "vin.db").write_bytes(said)
        (folder / "vin.db").chmod(0o444)
        folder.chmod(mode)
        words = r"vin\.db was made by an older vin-datasette and has to be brought up to date, but cannot be written: "
        with pytest.raises(CacheError, match=f"{words}make it, or a copy of it, writable.$"):
            Cache(folder / "vin.db").open()
        folder.chmod(0o755)
        assert (folder / "vin.db").read_bytes() == said


# Downgrades


def test_an_upgraded_file_says_since_when_versions_can_use_it(path: Path) -> None:
    older = steps(path) != list(MIGRATION_NAMES)
    with closing(Cache(path)) as cache:
        cache.open()
    # A file that needs no step is left as it is: whoever can use it needs no word.
    assert steps(path, USABLE_SINCE_SET) == ([USABLE_SINCE] if older else [])


def test_a_new_file_says_since_when_versions_can_use_it(tmp_path: Path) -> None:
    with closing(Cache(tmp_path / "new.db")) as cache:
        cache.open()
    assert steps(tmp_path / "new.db", USABLE_SINCE_SET) == [USABLE_SINCE]


def test_a_later_upgrade_says_it_anew(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM _sqlite_migrations WHERE name = ?", [MIGRATION_NAMES[-1]])
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE name IN "
            "('idx_vehicles_charts', 'idx_vehicles_serials', 'idx_vehicles_fuel_type_vin', "
            "'idx_vehicles_plant_country_vin', 'idx_rejections_reason_vin_suggested_vin', 'idx_changes_replaced_at')"
        ).fetchall():
            connection.execute(f"DROP INDEX {name}")
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name) VALUES (?, 'm000_before')", [USABLE_SINCE_SET]
        )
    monkeypatch.setattr(migrations, "USABLE_SINCE", MIGRATION_NAMES[1])
    with closing(Cache(path)) as cache:
        cache.open()
    assert steps(path, USABLE_SINCE_SET) == [MIGRATION_NAMES[1]]


def of_tomorrow(path: Path, *, usable_since: str | None, also: Callable[[sqlite3.Connection], object] = id) -> None:
    """What a version to come makes of a file of today."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("ALTER TABLE vehicles ADD COLUMN colour TEXT")
        connection.execute("CREATE TABLE recalls (vin TEXT, said TEXT)")
        connection.execute("CREATE INDEX idx_of_tomorrow ON vehicles (colour, vin)")
        insert = "INSERT INTO _sqlite_migrations (migration_set, name) VALUES (?, ?)"
        connection.execute(insert, [MIGRATION_SET, "m999_of_tomorrow"])
        connection.execute("DELETE FROM _sqlite_migrations WHERE migration_set = ?", [USABLE_SINCE_SET])
        if usable_since:
            connection.execute(insert, [USABLE_SINCE_SET, usable_since])
        also(connection)
        connection.execute("COMMIT")


@pytest.mark.parametrize("since", [MIGRATION_NAMES[0], MIGRATION_NAMES[-1]])
def test_a_newer_file_that_this_version_can_use_is_used_with_a_line_in_the_log(
    upgraded: Path, since: str, caplog: pytest.LogCaptureFixture
) -> None:
    of_tomorrow(upgraded, usable_since=since)
    with caplog.at_level(logging.WARNING), closing(Cache(upgraded)) as cache:
        assert cache.get_many([said.vin for said in RECORDS]) == {said.vin: said for said in RECORDS}
        cache.save([interpret(LATER)])
        assert cache.get(LATER.vin) == LATER
        assert cache.remove(RECORDS[0].vin)
    words = f"{upgraded} was made by a newer vin-datasette (m999_of_tomorrow) and is used as it is"
    assert [entry.getMessage() for entry in caplog.records] == [words]
    assert steps(upgraded)[-1] == "m999_of_tomorrow"
    assert is_whole(upgraded)


def test_a_newer_file_takes_many_at_once(upgraded: Path) -> None:
    of_tomorrow(upgraded, usable_since=MIGRATION_NAMES[0])
    many = [interpret(record(f"1XP5DB9X7XD{number:06}", "PETERBILT")) for number in range(300)]
    with closing(Cache(upgraded)) as cache:
        cache.save(many)
    assert query(upgraded, "SELECT count(*) FROM vehicles_fts WHERE vehicles_fts MATCH 'peterbilt'") == [(301,)]
    assert is_whole(upgraded)


def gap(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM _sqlite_migrations WHERE name = ?", [MIGRATION_NAMES[1]])


@pytest.mark.parametrize(
    ("since", "also"),
    [("m999_of_tomorrow", id), (None, id), (MIGRATION_NAMES[0], gap)],
    ids=["it is too old", "the file does not say", "a step is missing between"],
)
def test_a_newer_file_that_this_version_cannot_use_is_refused_with_what_to_do(
    upgraded: Path, since: str | None, also: Callable[[sqlite3.Connection], object]
) -> None:
    of_tomorrow(upgraded, usable_since=since, also=also)
    before = content(upgraded), steps(upgraded)
    words = "was made by a newer vin-datasette; upgrade the package to use it, or put a copy of it from before in its"
    with pytest.raises(CacheError, match=rf"vin\.db {words} place\.$"):
        Cache(upgraded).open()
    assert (content(upgraded), steps(upgraded)) == before


@pytest.fixture
def older_version(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """This package as it was when a step was its last."""
    known = MIGRATION_NAMES[: MIGRATION_NAMES.index(step) + 1]
    monkeypatch.setattr("vin_datasette.cache.MIGRATION_NAMES", known)


@pytest.mark.usefixtures("older_version")
def test_a_new_file_is_accepted_by_the_version_of_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as today:
        today.setattr("vin_datasette.cache.MIGRATION_NAMES", MIGRATION_NAMES)
        with closing(Cache(tmp_path / "new.db")) as cache:
            cache.save([interpret(LATER)])
    with closing(Cache(tmp_path / "new.db")) as cache:
        assert cache.get(LATER.vin) == LATER
    assert steps(tmp_path / "new.db") == list(MIGRATION_NAMES)


def test_an_older_version_reads_the_same_from_an_upgraded_file(upgraded: Path, step: str) -> None:
    for said in RECORDS:
        parameters = {
            "vin": said.vin,
            "vins": json.dumps([said.vin]),
            "words": said.text("Model") or "peterbilt",
            "descriptor": said.text("VehicleDescriptor"),
        }
        for name, statement in statements(step).items():
            if statement.startswith(("SELECT", "PRAGMA")):
                found = [answered(path, statement, parameters) for path in (FOLDER / f"{step}.sqlite", upgraded)]
                assert found[0] == found[1], name


def answered(path: Path, statement: str, parameters: dict[str, str]) -> list[tuple[Any, ...]]:
    """The rows of a query, of which a file that is opened so is not touched."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        return connection.execute(statement, parameters).fetchall()


def test_what_an_older_version_writes_into_an_upgraded_file_is_found(upgraded: Path, step: str) -> None:
    sql = statements(step)
    again = record(RECORDS[0].vin, "PETERBILT", Model="Again", ModelYear="1999")
    with closing(sqlite3.connect(upgraded, isolation_level=None)) as connection:
        for said in (again, LATER, LATER_REJECTION):
            keep(connection, sql, said)
        connection.execute(sql["forget a vehicle"], {"vin": RECORDS[1].vin})
        if "keep a change" in sql:
            connection.execute(sql["keep a change"], {**CHANGE, "vin": str(LATER.vin)})
        assert connection.execute(sql["search"], {"words": "läter"}).fetchall() == [(LATER.vin,)]
    with closing(Cache(upgraded)) as cache:
        vins = [said.vin for said in (again, LATER, LATER_REJECTION, RECORDS[1])]
        assert cache.get_many(vins) == {said.vin: said for said in (again, LATER, LATER_REJECTION)}
        assert cache.fresh([LATER.vin], None, by_vpic=True, clean=True) == {LATER.vin}
        assert cache.sibling("1HGCM826*3A") in (LATER, RECORDS[2])
    assert is_whole(upgraded)


def test_the_statements_of_each_version_are_those_that_made_its_file(step: str, path: Path) -> None:
    """An `INSERT` that names fewer columns than its file has would not be that version's."""
    sql = statements(step)
    for table, name in (("vehicles", "keep a vehicle"), ("rejections", "keep a rejection")):
        columns = [row[1] for row in query(path, f"PRAGMA table_info({table})")]
        named = sql[name].partition("(")[2].partition(")")[0]
        assert [column.strip() for column in named.split(",")] == columns
