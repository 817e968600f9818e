"""The cache: every answer ever given, in one SQLite file managed by sqlite-utils.

`vehicles` and `rejections` keep each answer whole, as the JSON under `record`,
beside typed columns to browse by. Several processes may use the file at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from vin_datasette.record import Record, SourceName
from vin_datasette.schema import CHANGES, FRESHNESS_INDEX, MIGRATION_NAMES, MIGRATION_SET, REJECTIONS, VEHICLES
from vin_datasette.vehicle import Rejection, Vehicle
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sqlite_utils import Database


log = logging.getLogger(__name__)

READ_TIMEOUT = 0.25
"""Seconds that a read waits for a lock; readers of a WAL file hardly ever meet one."""

WRITE_TIMEOUT = 10.0
"""Seconds that a write waits for another process to end its own."""

# SQLite takes at most 999 variables in a statement before 3.32, and 32,766 since.
_VARIABLES = 500
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class CacheError(Exception):
    """A cache file that cannot be used; the message says which and why. `temporary`
    when that is only because somebody else holds its lock."""

    temporary = False


class Cache:
    """One cache file. Opened, and made when it is not there, on first use.

    Safe to use from several threads; a read takes microseconds and never waits
    for this process's own writes. Where nothing else is said, methods raise
    `sqlite3.Error` when the file is locked, full, read-only or damaged, and
    `CacheError` when it cannot be opened at all.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._write_lock = threading.Lock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None

    def open(self) -> None:
        """Make or migrate the file and connect, now rather than on first use.

        A file of an older schema is migrated whole or not at all. Raises
        `CacheError` for a file that is no database, is damaged, comes from a
        newer version of this package, or cannot be made.
        """
        self._open()

    @property
    def is_open(self) -> bool:
        """Whether the file is open, so that a read takes microseconds."""
        return self._connections is not None

    def _open(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """The connections that read and write."""
        with self._lock:
            if self._connections is None:
                self._connections = self._connect()
            return self._connections

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        if "\0" in str(self.path):
            raise CacheError(f"{str(self.path)!r} is no name that a file can have.")
        if not self.path.parent.is_dir():
            raise CacheError(f"{self.path} cannot be made: there is no folder {self.path.parent}.")
        if self.path.is_dir():
            raise CacheError(f"{self.path} is a folder, and the cache is a file.")
        try:
            try:
                return self._opened_to_write()
            except sqlite3.OperationalError as error:
                if "readonly" not in str(error) or not self.path.exists():
                    raise
                return self._opened_to_read()
        except sqlite3.Error as error:
            failure = CacheError(f"{self.path} cannot be used as a cache: {error}.")
            failure.temporary = "locked" in str(error)
            raise failure from error

    def _opened_to_write(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        with contextlib.ExitStack() as opened:
            writer = opened.enter_context(contextlib.closing(_connect(self.path, WRITE_TIMEOUT)))
            _migrate(writer, self.path)
            # A killed process loses nothing by it, as the file is in WAL mode; a power cut the last answers at most.
            writer.execute("PRAGMA synchronous = NORMAL")
            # In KB: a VIN has its place anywhere in several indexes, whose pages are better not read anew.
            writer.execute("PRAGMA cache_size = -32768")
            reader = opened.enter_context(contextlib.closing(_connect(self.path, READ_TIMEOUT)))
            reader.execute("PRAGMA query_only = 1")
            # A text that is no UTF-8, in a row that somebody damaged, must cost that row alone.
            reader.text_factory = bytes
            opened.pop_all()
        return reader, writer

    def _opened_to_read(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Connections to a file that cannot be written, in a folder that cannot either,
        where SQLite opens it no other way. It is taken not to change: who can write it after
        all must not, while it is open here. What is saved is refused by SQLite."""
        log.warning("The cache %s cannot be written: nothing new will be kept", self.path)
        with contextlib.ExitStack() as opened:
            pair = [
                opened.enter_context(
                    contextlib.closing(
                        sqlite3.connect(
                            f"{self.path.resolve().as_uri()}?mode=ro&immutable=1",
                            uri=True,
                            check_same_thread=False,
                            isolation_level=None,
                        )
                    )
                )
                for _ in range(2)
            ]
            if _applied(pair[0]) != set(MIGRATION_NAMES):
                raise sqlite3.OperationalError("attempt to write a readonly database")
            pair[0].text_factory = bytes
            opened.pop_all()
        return pair[0], pair[1]

    def close(self) -> None:
        """Close the file; a later call opens it anew."""
        with self._write_lock, self._lock:
            for connection in self._connections or ():
                connection.close()
            self._connections = None

    def exists(self) -> bool:
        """Whether there is a file yet; asking does not make one."""
        return self.path.exists()

    def get(self, vin: VIN) -> Record | None:
        """The record kept for a VIN, of a vehicle or of a rejection, or None."""
        return self.get_many([vin]).get(vin)

    def get_many(self, vins: Sequence[VIN]) -> dict[VIN, Record]:
        """The records kept for `vins`, by VIN; those that are not there are left out."""
        found: dict[VIN, Record] = {}
        with self._lock:
            reader, _ = self._open()
            for start in range(0, len(vins), _VARIABLES):
                part = vins[start : start + _VARIABLES]
                for sql in _select(f"vin IN ({_marks(part)})"):
                    for row in reader.execute(sql, part):
                        record = _record(row)
                        if record is not None:
                            found.setdefault(record.vin, record)
        return found

    def fresh(self, vins: Sequence[str], since: datetime | None, *, by_vpic: bool, clean: bool) -> set[str]:
        """Those of `vins` that are vehicles and need not be asked about again: known
        later than `since`, with `by_vpic` by vPIC's word, with `clean` without any error code.

        Read from an index alone, so that a fleet that is known costs next to nothing.
        """
        conditions = ["fetched_at > ?"]
        conditions += ["source IN ('vpic', 'vpic-sibling')"] if by_vpic else []
        conditions += ["error_code = '0'"] if clean else []
        # One list in and one text out for all of them: in parts and row by row it takes twice as long.
        sql = (
            f"SELECT group_concat(vin, ' ') FROM {VEHICLES} INDEXED BY {FRESHNESS_INDEX} "  # noqa: S608
            f"WHERE vin IN (SELECT value FROM json_each(?)) AND {' AND '.join(conditions)}"
        )
        with self._lock:
            reader, _ = self._open()
            [(found,)] = reader.execute(sql, [json.dumps(vins), _time(since) if since else ""])
        # Older SQLite ends a text of JSON at a zero byte: what it finds then is not what was asked.
        return set(found.decode().split(" ")).intersection(vins) if found else set()

    def sibling(self, descriptor: str) -> Record | None:
        """A record without any error code, of whichever vehicle with this descriptor, that its
        source itself gave: by vPIC if there is one; None when there is none."""
        with self._lock:
            reader, _ = self._open()
            for source in ("vpic", "embedded"):
                [sql, _] = _select("descriptor = ? AND error_code = '0' AND source = ?")
                for row in reader.execute(sql, [descriptor, source]):
                    record = _record(row)
                    if record is not None:
                        return record
        return None

    def save(self, answers: Iterable[Vehicle | Rejection]) -> None:
        """Keep answers, all of them in one transaction.

        An answer takes the place of an earlier one, but none ever the place of what vPIC
        itself said except what vPIC says now; where that differs, the earlier answer goes
        into the table of changes. Rejections of malformed VINs, which have no record, are
        not kept.
        """
        rows = {answer.vin: _row(answer, answer.record) for answer in answers if answer.record is not None}
        with self._write() as db:
            earlier = _said_by_vpic(db, rows)
            new = {vin: row for vin, row in rows.items() if vin not in earlier or row["source"] == "vpic"}
            _insert(
                db, CHANGES, [change for vin in earlier.keys() & new for change in _changes(earlier[vin], new[vin])]
            )
            # Not sqlite-utils' upsert, which takes a full disk for an old SQLite and loses the rows without
            # an error, nor its insert_all, which takes twice as long for rows of equal columns.
            _forget(db, list(new))
            with _indexed_at_once(db) if len(new) >= _MANY else contextlib.nullcontext():
                _insert(db, VEHICLES, [row for row in new.values() if "reason" not in row])
            _insert(db, REJECTIONS, [row for row in new.values() if "reason" in row])

    def remove(self, vin: VIN) -> bool:
        """Forget a VIN; whether anything was kept for it."""
        if not self.exists():
            return False
        with self._write() as db:
            return bool(_forget(db, [vin]))

    def counts(self) -> dict[str, int]:
        """The number of rows of each table."""
        with self._lock:
            reader, _ = self._open()
            return {
                table: reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
                for table in (VEHICLES, REJECTIONS)
            }

    @contextlib.contextmanager
    def _write(self) -> Iterator[Database]:
        from sqlite_utils import Database

        with self._write_lock:
            _, writer = self._open()
            db = Database(writer, execute_plugins=False)
            # Taking the lock first: a transaction that begins by reading cannot wait for it later.
            writer.execute("BEGIN IMMEDIATE")
            try:
                with db.atomic():
                    yield db
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise


@contextlib.contextmanager
def snapshot(path: str | Path) -> Iterator[sqlite3.Connection]:
    """A connection that sees the cache as it stands now, whatever is written meanwhile.

    It has its own read transaction, ended with the context. Raises `CacheError`
    for a file that is not there or is no cache.
    """
    path = Path(path)
    if not path.is_file():
        raise CacheError(f"There is no cache {path}.")
    connection = None
    try:
        connection = _connect(path, WRITE_TIMEOUT)
        connection.execute("PRAGMA query_only = 1")
        # The transaction begins with the first read, not with BEGIN.
        connection.execute("BEGIN")
        connection.execute(f"SELECT 1 FROM {VEHICLES} LIMIT 1").fetchone()  # noqa: S608
        yield connection
    except sqlite3.Error as error:
        raise CacheError(f"{path} cannot be read as a cache: {error}.") from error
    finally:
        if connection is not None:
            connection.close()


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, check_same_thread=False, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, in one transaction, unless it is already."""
    # A reader's patience: an up-to-date file has to be locked by somebody to make this wait.
    connection.execute(f"PRAGMA busy_timeout = {int(READ_TIMEOUT * 1000)}")
    current = _applied(connection) == set(MIGRATION_NAMES)
    if current and connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        # Who made it was ended before this, or somebody changed it. While others read, it is used as it is.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA busy_timeout = {int(WRITE_TIMEOUT * 1000)}")
    if current:
        return
    from sqlite_utils import Database

    from vin_datasette.migrations import migrations

    made_here = connection.execute("PRAGMA page_count").fetchone() == (0,)
    if made_here:
        _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        newer = _applied(connection) - set(MIGRATION_NAMES)
        if newer:
            raise CacheError(f"{path} was made by a newer vin-datasette; upgrade the package to use it.")
        migrations.apply(Database(connection, execute_plugins=False))
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    if not made_here:
        _use_wal(connection)


def _use_wal(connection: sqlite3.Connection) -> None:
    """Let readers and the one writer not wait for each other. It lasts in the file, and
    cannot be changed inside a transaction."""
    gives_up = time.monotonic() + WRITE_TIMEOUT
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # SQLite's own waiting for locks does not cover this statement.
            if "locked" not in str(error) or time.monotonic() > gives_up:
                raise
            time.sleep(0.02)
        else:
            return


def _applied(connection: sqlite3.Connection) -> set[str]:
    table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if not table:
        return set()
    rows = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ?", [MIGRATION_SET])
    return {name for (name,) in rows}


def _select(condition: str) -> list[str]:
    """SQL for the rows of each table that hold a record and meet the condition."""
    columns = "vin, record, source, source_version, fetched_at, notes"
    return [f"SELECT {columns} FROM {table} WHERE {condition}" for table in (VEHICLES, REJECTIONS)]  # noqa: S608


def _marks(part: Sequence[object]) -> str:
    return ",".join("?" * len(part))


def _record(row: tuple[bytes | None, ...]) -> Record | None:
    """A row as a record; None, and a line in the log, when somebody damaged the row."""
    key, record, *rest = row
    vin = (key or b"").decode("utf-8", "replace")
    try:
        source, version, fetched_at, notes = (None if field is None else field.decode() for field in rest)
        values = json.loads(record or b"")
        if not isinstance(values, dict):
            raise TypeError("the record is no JSON object")
        when = datetime.strptime(fetched_at or "", _TIME).replace(tzinfo=timezone.utc)
        remarks = tuple(json.loads(notes)) if notes else ()
        return Record(VIN(vin), values, _SOURCES[source or ""], version, when, remarks)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("The cached row of VIN %r cannot be read and is passed over: %s", vin, error)
        return None


_SOURCES: dict[str, SourceName] = {name: name for name in get_args(SourceName)}


def _said_by_vpic(db: Database, vins: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """What vPIC itself said of these VINs before."""
    found: dict[str, dict[str, str]] = {}
    asked = list(vins)
    for start in range(0, len(asked), _VARIABLES):
        part = asked[start : start + _VARIABLES]
        for table in (VEHICLES, REJECTIONS):
            sql = f"SELECT vin, fetched_at, record FROM {table} WHERE source = 'vpic' AND vin IN ({_marks(part)})"  # noqa: S608
            for vin, fetched_at, record in db.execute(sql, part):
                found[vin] = {"vin": vin, "fetched_at": fetched_at, "record": record}
    return found


def _changes(earlier: Mapping[str, str], new: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The row that keeps what vPIC used to say, when it says something else now."""
    was, now = _values(earlier["record"]), _values(str(new["record"]))
    changed = {
        key: [was.get(key), now.get(key)] for key in {**was, **now} if (was.get(key) or "") != (now.get(key) or "")
    }
    if changed:
        yield {**earlier, "replaced_at": new["fetched_at"], "changed": json.dumps(changed)}


def _values(record: str) -> dict[str, object]:
    """The values of a stored record; none of one that somebody damaged."""
    try:
        values = json.loads(record)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


_MANY = 200
"""Rows from which on the search index is filled for all of them at once: row by row, by
its triggers, it takes several times as long."""


@contextlib.contextmanager
def _indexed_at_once(db: Database) -> Iterator[None]:
    """Put vehicles that are inserted meanwhile into the search index when all are there."""
    table, trigger = f"{VEHICLES}_fts", f"{VEHICLES}_ai"
    found = db.execute("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = ?", [trigger]).fetchone()
    if not found:
        yield
        return
    last = db.execute(f"SELECT coalesce(max(rowid), 0) FROM {VEHICLES}").fetchone()[0]  # noqa: S608
    db.execute(f"DROP TRIGGER {trigger}")
    yield
    columns = ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({table})"))
    db.execute(
        f"INSERT INTO {table} (rowid, {columns}) SELECT rowid, {columns} FROM {VEHICLES} WHERE rowid > ?",  # noqa: S608
        [last],
    )
    db.execute(found[0])


def _insert(db: Database, table: str, rows: Sequence[dict[str, object]]) -> None:
    if rows:
        columns, marks = ", ".join(rows[0]), ", ".join("?" * len(rows[0]))
        db.conn.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", [[*row.values()] for row in rows])  # noqa: S608


def _row(answer: Vehicle | Rejection, record: Record) -> dict[str, object]:
    return _vehicle_row(answer) if isinstance(answer, Vehicle) else _rejection_row(answer, record)


# ASCII: a lone surrogate in an answer has no UTF-8, and an answer is kept as it came.
_as_json = json.JSONEncoder(separators=(",", ":")).encode


@lru_cache(maxsize=64)
def _time(when: datetime) -> str:
    return when.strftime(_TIME)


def _provenance(record: Record) -> dict[str, object]:
    return {
        "source": record.source,
        "source_version": record.source_version,
        "fetched_at": _time(record.fetched_at),
        "notes": json.dumps(record.notes) if record.notes else None,
        "record": _as_json(dict(record.values)),
    }


def _vehicle_row(vehicle: Vehicle) -> dict[str, object]:
    record = vehicle.record
    return {
        "vin": str(record.vin),
        **vehicle.columns(),
        "error_code": record.text("ErrorCode"),
        "warnings": "\n".join(vehicle.warnings) or None,
        **_provenance(record),
    }


def _rejection_row(rejection: Rejection, record: Record) -> dict[str, object]:
    return {
        "vin": str(record.vin),
        "reason": rejection.reason,
        "error_code": record.text("ErrorCode"),
        "suggested_vin": rejection.suggested_vin,
        "make": record.text("Make") or None,
        **_provenance(record),
    }


def _forget(db: Database, vins: Sequence[str]) -> int:
    """Delete the rows of VINs from both tables; how many there were."""
    deleted = 0
    for start in range(0, len(vins), _VARIABLES):
        part = vins[start : start + _VARIABLES]
        for table in (VEHICLES, REJECTIONS):
            deleted += db.execute(f"DELETE FROM {table} WHERE vin IN ({_marks(part)})", part).rowcount  # noqa: S608
    return deleted
