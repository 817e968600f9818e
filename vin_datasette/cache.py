"""The cache: every answer ever given, in one SQLite file managed by sqlite-utils.

`vehicles` and `rejections` keep each answer whole, as the JSON under `record`,
beside typed columns to browse by. Several processes may use the file at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from vin_datasette.flat import stored
from vin_datasette.place import Left, Place
from vin_datasette.rebuilt import differences
from vin_datasette.record import SOURCE_NAMES, Record, Unread
from vin_datasette.schema import (
    CHANGES,
    FRESHNESS_INDEX,
    MIGRATION_NAMES,
    MIGRATION_SET,
    REJECTIONS,
    USABLE_SINCE_SET,
    VEHICLES,
)
from vin_datasette.standing import Said, is_better
from vin_datasette.trouble import Trouble
from vin_datasette.vehicle import Rejection, Vehicle
from vin_datasette.vin import VIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from sqlite_utils import Database


log = logging.getLogger(__name__)

READ_TIMEOUT = 0.25
"""Seconds that a read waits for a lock; readers of a WAL file hardly ever meet one."""

WRITE_TIMEOUT = 10.0
"""Seconds that a write waits for another process to end its own."""

LOOK_EVERY = 2.0
"""Seconds after which a read looks again whether the file still lies where it was opened; each write does."""

# SQLite takes at most 999 variables in a statement before 3.32, and 32,766 since.
_VARIABLES = 500
_TIME = "%Y-%m-%dT%H:%M:%SZ"


class CacheError(Exception):
    """A cache file that cannot be used; the message says which and why. `temporary`
    when that may pass: somebody else holds its lock, or it was in use until just now."""

    temporary = False


_caches: WeakSet[Cache] = WeakSet()
_inherited: list[sqlite3.Connection] = []
"""Of the parent of this process, which was forked. While they are open, SQLite takes the parent's locks for
this process's own, and the parent, when it closes the file, removes what this process is writing."""

_abandoned: list[sqlite3.Connection] = []


def _leave_to_the_parent() -> None:
    for cache in _caches:
        cache.begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)


class Cache:
    """One cache file. Opened, and made when it is not there, on first use.

    Safe to use from several threads; a read takes microseconds and never waits
    for this process's own writes. Where nothing else is said, methods raise
    `sqlite3.Error` when the file is locked, full, read-only or damaged, and
    `CacheError` when it cannot be opened at all.

    A file that is removed, moved or replaced while it is open is noticed within
    `LOOK_EVERY` seconds, and at the latest by the next write: what lies at the path from then
    on is used, and made where there is nothing. While its folder is gone it is read, and not written.

    With `to_read` the file is opened to be read alone: it is neither made nor migrated, and stays
    the one that was opened.
    """

    def __init__(self, path: str | Path, *, to_read: bool = False) -> None:
        self.path = Path(path)
        self._to_read = to_read
        self._lock = threading.RLock()
        self._write_lock = threading.Lock()
        self._connections: tuple[sqlite3.Connection, sqlite3.Connection] | None = None
        self._times_opened = 0
        self._place: Place | None = None
        self._looked_at = 0.0
        # Whether the file that is open is gone with its folder: it can be read, and what would be saved in it is lost.
        self._is_adrift = False
        self._locked_out = False
        self.is_read_only = False
        """Whether the file that is open cannot be written."""
        self.is_immutable = False
        """Whether the file is read as one that nobody changes, as no other way is open on a disk that is read-only."""
        self.patient = False
        """Whether each write waits `WRITE_TIMEOUT` for a lock, though the last one did so in vain."""
        self.on_leaving: Callable[[], object] = _nothing
        """Called, on whichever thread notices it, when the file that is open is no longer the one at the path, before
        that one is opened: who else has connections to it in this process ought to close them."""
        self.reading = Trouble(log, logging.WARNING, lambda _: f"The cache {self.path} can be read again.")
        """For whoever answers although the cache could not be read."""
        self.writing = Trouble(
            log,
            logging.ERROR,
            lambda cost: f"The cache {self.path} can be written again; {cost:,} answers were not kept meanwhile.",
        )
        """For whoever gives answers that could not be kept."""

        _caches.add(self)

    def begin_anew(self) -> None:
        """In a forked child: have locks and, from the next use on, connections of its own."""
        # What a thread of the parent's was using at that moment is in no state to be closed.
        is_idle = self._lock.acquire(blocking=False) and self._write_lock.acquire(blocking=False)
        (_inherited if is_idle else _abandoned).extend(self._connections or ())
        self._lock, self._write_lock = threading.RLock(), threading.Lock()
        self._connections = self._place = None

    def not_read(self, error: Exception) -> None:
        """Say, once, that a source is asked as the cache cannot be read."""
        self.reading.met(str(error), self._words("read", error, "asking a source instead"), lasts=is_damage(error))

    def not_written(self, error: Exception, answers: int = 0) -> None:
        """Say, once, that answers are not kept, and count them."""
        words = self._words("written", error, "answers are given, and not kept")
        self.writing.met(str(error), words, cost=answers, lasts=is_damage(error))

    def _words(self, done: str, error: Exception, instead: str) -> str:
        return f"The cache {self.path} cannot be {done} ({error}): {instead}.{_advice(self.path, error)}"

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
            is_due = self._connections is not None and time.monotonic() - self._looked_at >= LOOK_EVERY
            # A connection that writes just now is not to be closed; who writes has looked.
            if is_due and self._write_lock.acquire(blocking=False):
                try:
                    self._look()
                finally:
                    self._write_lock.release()
            return self._connected()

    def _connected(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        if self._connections is None:
            try:
                self._connections = self._connect()
            except CacheError as error:
                error.temporary |= self._place is not None
                raise
            self._times_opened += 1
            self._place = Place(self.path)
            self._looked_at = time.monotonic()
        return self._connections

    def _look(self) -> None:
        """Let go of the file when it is no longer the one at the path, after what its `-wal`
        holds is saved in it. Both locks have to be held."""
        self._looked_at = time.monotonic()
        if self._connections is None or self._place is None or self.is_immutable or self._to_read:
            return
        left = self._place.left()
        self._is_adrift = left == "file" and not self.path.parent.is_dir()
        if left == "nothing" or self._is_adrift:
            return
        reader, writer = self._connections
        is_saved = _checkpointed(writer)
        if left == "journal" and not is_saved:
            # Somebody reads what it holds. It can be read and written as it is, and saved at the next look.
            return
        log.error("%s", self._words_for(left))
        self.on_leaving()
        reader.close()
        writer.close()
        self._connections = None
        if left == "file":
            self._place.clear(is_saved=is_saved)
        self.reading.forget()
        self.writing.forget()

    def _words_for(self, left: Left) -> str:
        if left == "journal":
            return f"The -wal or -shm of the cache {self.path} was removed while it was open; it is made anew."
        if self.path.exists():
            return f"The cache {self.path} was replaced while it was open; from now on what lies there is used."
        return f"The cache {self.path} was removed while it was open; it is made anew, and begins empty."

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        while _inherited:
            _inherited.pop().close()
        if "\0" in str(self.path):
            raise CacheError(f"{str(self.path)!r} is no name that a file can have.")
        if self._to_read and not self.path.exists():
            raise CacheError(f"There is no cache {self.path}.")
        if not self.path.parent.is_dir():
            raise CacheError(f"{self.path} cannot be made: there is no folder {self.path.parent}.")
        if self.path.is_dir():
            raise CacheError(f"{self.path} is a folder, and the cache is a file.")
        self.is_read_only = self.is_immutable = False
        try:
            if self._to_read:
                return self._opened_to_read()
            try:
                return self._opened_to_write()
            except sqlite3.OperationalError as error:
                if not _is_refused(error) or not self.path.exists():
                    raise
                return self._opened_to_read()
        except sqlite3.Error as error:
            failure = CacheError(f"{self.path} cannot be used as a cache: {error}.{_advice(self.path, error)}")
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
            reader.execute("PRAGMA cache_size = -32768")
            # A text that is no UTF-8, in a row that somebody damaged, must cost that row alone.
            reader.text_factory = bytes
            opened.pop_all()
        return reader, writer

    def _opened_to_read(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        """Connections to a file that cannot be written. What is saved is refused by SQLite.

        Where the folder cannot be written either, SQLite opens it only if a `-wal` and a `-shm`
        lie there, as of a process that was killed; else it has to be taken not to change: who
        can write it after all must not, while it is open here.
        """
        try:
            pair = self._pair("mode=ro")
        except sqlite3.OperationalError as error:
            if not _is_refused(error):
                raise
            pair = self._pair("mode=ro&immutable=1")
            self.is_immutable = True
        self.is_read_only = True
        wal = self.path.with_name(f"{self.path.name}-wal")
        if self.is_immutable and wal.exists() and wal.stat().st_size:
            log.warning("The latest answers, in %s, cannot be read before the cache can be written", wal)
        return pair

    def _pair(self, query: str) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        with contextlib.ExitStack() as opened:
            pair = [opened.enter_context(contextlib.closing(_connect_to_read(self.path, query))) for _ in range(2)]
            if not _is_current(pair[0], self.path):
                if _steps(pair[0], MIGRATION_SET):
                    raise CacheError(
                        f"{self.path} was made by an older vin-datasette and has to be brought up to date, "
                        f"{self._why_not_migrated}"
                    )
                if self._to_read:
                    raise CacheError(f"{self.path} is no cache of vin-datasette.")
                raise sqlite3.OperationalError("attempt to write a readonly database")
            pair[0].text_factory = bytes
            opened.pop_all()
        return pair[0], pair[1]

    @property
    def _why_not_migrated(self) -> str:
        if self._to_read:
            return "but is only read here: look up any VIN with --db on it, where it can be written."
        return "but cannot be written: make it, or a copy of it, writable."

    def close(self) -> None:
        """Close the file; a later call opens it anew."""
        with self._write_lock, self._lock:
            for connection in self._connections or ():
                connection.close()
            self._connections = self._place = None

    def exists(self) -> bool:
        """Whether there is a file yet; asking does not make one."""
        return self.path.exists()

    def get(self, vin: VIN) -> Record | None:
        """The record kept for a VIN, of a vehicle or of a rejection, or None."""
        return self.get_many([vin]).get(vin)

    def get_many(self, vins: Sequence[VIN]) -> dict[VIN, Record]:
        """The records kept for `vins`, by VIN; those that are not there are left out.

        Of several, those that cannot be read as their part of the file is damaged are left
        out as well, which the log tells; of a single one the `sqlite3.DatabaseError` is raised.
        """
        found: dict[VIN, Record] = {}
        with self._lock:
            reader, _ = self._open()
            for start in range(0, len(vins), _VARIABLES):
                self._read(reader, vins[start : start + _VARIABLES], found, is_all=len(vins) == 1)
        return found

    def version(self) -> tuple[int, int]:
        """What differs from what it was whenever a commit came between, by whichever process and
        connection (SQLite, PRAGMA data_version), and whenever another file was opened.

        Raises `CacheError` and `sqlite3.Error`.
        """
        with self._lock:
            reader, _ = self._open()
            [number] = reader.execute("PRAGMA data_version").fetchone()
            return self._times_opened, number

    def glance(self, vin: VIN) -> Record | None:
        """The record of a vehicle without any error code, by its columns and with its values
        unread until somebody wants others than those of the contract: what most who ask ask for,
        at a fifth of what `get` costs. None for all else, which says nothing of whether it is there."""
        with self._lock:
            reader, _ = self._open()
            row = reader.execute(GLANCE, [vin]).fetchone()
        return None if row is None else _glanced(vin, row)

    def _read(self, reader: sqlite3.Connection, part: Sequence[VIN], found: dict[VIN, Record], *, is_all: bool) -> None:
        """Put what is there for `part` into `found`, around what is damaged."""
        try:
            for sql in _select(f"vin IN ({_marks(part)})"):
                for row in reader.execute(sql, part):
                    record = _record(row)
                    if record is not None:
                        found.setdefault(record.vin, record)
        except sqlite3.DatabaseError as error:
            if is_all or not is_damage(error):
                raise
            if len(part) == 1:
                self.not_read(error)
                return
            middle = len(part) // 2
            for half in (part[:middle], part[middle:]):
                self._read(reader, half, found, is_all=False)

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
            f"SELECT group_concat(vin, ' ') FROM {VEHICLES} INDEXED BY {FRESHNESS_INDEX} "  # noqa: S608 - names are our own, values are bound  # nosec B608
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

    def save(
        self, answers: Iterable[Vehicle | Rejection], *, renewals: bool = False, improvements: bool = False
    ) -> set[str]:
        """Keep answers, all of them in one transaction; the VINs of those that are kept.

        An answer takes the place of an earlier one, but none ever the place of what vPIC
        itself said except what vPIC says now; where that differs, the earlier answer goes
        into the table of changes. Rejections of malformed VINs, which have no record, are
        not kept; nor are `renewals` of what was removed while a source was asked about it. Of
        answers that nobody asked for now, as of a file, `improvements` alone are kept: see `is_better`.
        """
        made = [_row(answer, answer.record) for answer in answers if answer.record is not None]
        rows = _best(made) if improvements else {str(row["vin"]): row for row in made}
        with self._write() as db:
            if improvements:
                rows = _better(db, rows)
            if renewals:
                there = _there(db, [*rows])
                rows = {vin: row for vin, row in rows.items() if vin in there}
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
        return {*rows}

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
                table: reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - names are our own, values are bound  # nosec B608
                for table in (VEHICLES, REJECTIONS)
            }

    @contextlib.contextmanager
    def _write(self) -> Iterator[Database]:
        from sqlite_utils import Database

        with self._write_lock:
            with self._lock:
                self._look()
                if self._is_adrift:
                    failure = CacheError(f"there is no folder {self.path.parent} any more")
                    failure.temporary = True
                    raise failure
                _, writer = self._connected()
            db = Database(writer, execute_plugins=False)
            self._begin(writer)
            try:
                with db.atomic():
                    yield db
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise

    def _begin(self, writer: sqlite3.Connection) -> None:
        """Begin a transaction by taking the lock: one that begins by reading cannot wait for it later."""
        # Who waits behind one who has waited in vain is not to wait as long again, one after another.
        timeout = READ_TIMEOUT if self._locked_out and not self.patient else WRITE_TIMEOUT
        writer.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
        try:
            writer.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            self._locked_out = "locked" in str(error)
            raise
        self._locked_out = False


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file itself is damaged."""
    return "malformed" in str(error) or "not a database" in str(error)


def _advice(path: Path, error: Exception) -> str:
    """What to do about a file that SQLite finds damaged, as a sentence to append; else nothing."""
    if not is_damage(error):
        return ""
    return f" What can be saved is saved by sqlite3 '{path}' .recover | sqlite3 saved.db, while nobody uses it."


def _nothing() -> None:
    pass


def _checkpointed(writer: sqlite3.Connection) -> bool:
    """Whether all that the `-wal` holds is in the database now, and nothing is left in it."""
    try:
        writer.execute(f"PRAGMA busy_timeout = {int(READ_TIMEOUT * 1000)}")
        [(busy, _, _)] = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error:
        return False
    return not busy


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
        try:
            connection = _connect(path, WRITE_TIMEOUT)
            _begin_to_read(connection)
        except sqlite3.OperationalError as error:
            if connection is None or not _is_refused(error):
                raise
            connection.close()
            connection = _connect_to_read(path, "mode=ro&immutable=1")
            _begin_to_read(connection)
        yield connection
    except sqlite3.Error as error:
        raise CacheError(f"{path} cannot be read as a cache: {error}.") from error
    finally:
        if connection is not None:
            connection.close()


def _begin_to_read(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = 1")
    # The transaction begins with the first read, not with BEGIN.
    connection.execute("BEGIN")
    connection.execute(f"SELECT 1 FROM {VEHICLES} LIMIT 1").fetchone()  # noqa: S608 - names are our own, values are bound  # nosec B608


def _is_refused(error: sqlite3.Error) -> bool:
    """Whether a file may be read after all: the one is said of a read-only file, the other of a read-only disk."""
    return "readonly" in str(error) or "unable to open" in str(error)


def _connect_to_read(path: Path, query: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?{query}", uri=True, check_same_thread=False, isolation_level=None
    )


def _connect(path: Path, timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout, check_same_thread=False, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
    return connection


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema up to date, in one transaction, unless it is already."""
    # A reader's patience: an up-to-date file has to be locked by somebody to make this wait.
    connection.execute(f"PRAGMA busy_timeout = {int(READ_TIMEOUT * 1000)}")
    current = _is_current(connection, path)
    if current and connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        # Who made it was ended before this, or somebody changed it. While others read, it is used as it is.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA busy_timeout = {int(WRITE_TIMEOUT * 1000)}")
    if current:
        return
    from sqlite_utils import Database

    from vin_datasette.migrations import upgrade

    made_here = connection.execute("PRAGMA page_count").fetchone() == (0,)
    if made_here:
        _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Another process may have been here first, of this version or of a newer one.
        if not _is_current(connection, path):
            upgrade(Database(connection, execute_plugins=False))
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


def _is_current(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether a file needs no step of ours: it has had them all, or a newer version made it
    and says that this one can use it. Raises `CacheError` when it does not say so."""
    applied, known = _steps(connection, MIGRATION_SET), set(MIGRATION_NAMES)
    newer = applied - known
    if not newer:
        return applied == known
    if not (applied >= known and _steps(connection, USABLE_SINCE_SET) & known):
        raise CacheError(
            f"{path} was made by a newer vin-datasette; upgrade the package to use it, "
            "or put a copy of it from before in its place."
        )
    log.warning("%s was made by a newer vin-datasette (%s) and is used as it is", path, ", ".join(sorted(newer)))
    return True


def _steps(connection: sqlite3.Connection, migration_set: str) -> set[str]:
    """The names that a set of migrations has in a file."""
    table = connection.execute("SELECT 1 FROM sqlite_master WHERE name = '_sqlite_migrations'").fetchone()
    if not table:
        return set()
    rows = connection.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = ?", [migration_set])
    return {name for (name,) in rows}


def _select(condition: str) -> list[str]:
    """SQL for the rows of each table that hold a record and meet the condition."""
    columns = "vin, record, source, source_version, fetched_at, notes"
    return [f"SELECT {columns} FROM {table} WHERE {condition}" for table in (VEHICLES, REJECTIONS)]  # noqa: S608 - names are our own, values are bound  # nosec B608


GLANCE = (
    f"SELECT make, model, model_year, body_class, source, source_version, fetched_at, record FROM {VEHICLES} "  # noqa: S608 # nosec B608 - a table's name
    "WHERE vin = ? AND error_code = '0' AND make > '' AND notes IS NULL"
)
"""What `Cache.glance` reads of a vehicle."""


def _glanced(vin: VIN, row: tuple[Any, ...]) -> Record | None:
    make, model, year, body, source, version, fetched_at, record = row
    # Only what stands in the record as it stands in the columns is known without reading it.
    if b'"ErrorCode":"0"' not in record or b'"ModelYear":"%d"' % (year or 0) not in record or record[-1:] != b"}":
        return None
    try:
        values = Unread(_known(make, model, year, body), record)
        when = _when(fetched_at.decode())
        return Record(vin, values, SOURCE_NAMES[source.decode()], version.decode() if version else None, when)
    except (ValueError, KeyError, AttributeError):
        return None


@lru_cache(maxsize=16_384)
def _known(make: bytes, model: bytes | None, year: int, body: bytes | None) -> Mapping[str, object]:
    """What a clean vehicle's columns say of it, under vPIC's keys: many have it in common."""
    return {
        "Make": make.decode(),
        "Model": (model or b"").decode(),
        "ModelYear": str(year),
        "BodyClass": (body or b"").decode(),
        "ErrorCode": "0",
    }


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
        when = _when(fetched_at or "")
        remarks = tuple(json.loads(notes)) if notes else ()
        return Record(VIN(vin), values, SOURCE_NAMES[source or ""], version, when, remarks)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("The cached row of VIN %r cannot be read and is passed over: %s", vin, error)
        return None


@lru_cache(maxsize=1024)
def _when(text: str) -> datetime:
    """The time that `_time` wrote. Raises `ValueError`."""
    return datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc)


def _said_by_vpic(db: Database, vins: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """What vPIC itself said of these VINs before."""
    found: dict[str, dict[str, str]] = {}
    asked = list(vins)
    for start in range(0, len(asked), _VARIABLES):
        part = asked[start : start + _VARIABLES]
        for table in (VEHICLES, REJECTIONS):
            sql = f"SELECT vin, fetched_at, record FROM {table} WHERE source = 'vpic' AND vin IN ({_marks(part)})"  # noqa: S608 - names are our own, values are bound  # nosec B608
            for vin, fetched_at, record in db.execute(sql, part):
                found[vin] = {"vin": vin, "fetched_at": fetched_at, "record": record}
    return found


def _changes(earlier: Mapping[str, str], new: Mapping[str, object]) -> Iterator[dict[str, object]]:
    """The row that keeps what vPIC used to say, when it says something else now."""
    changed = differences(VIN(earlier["vin"]), stored(earlier["record"]), stored(str(new["record"])))
    if changed:
        yield {**earlier, "replaced_at": new["fetched_at"], "changed": json.dumps(changed)}


def _best(rows: Iterable[dict[str, object]]) -> dict[str, dict[str, object]]:
    """The best row of each VIN, the first of equal ones."""
    best: dict[str, dict[str, object]] = {}
    for row in rows:
        rival = best.setdefault(str(row["vin"]), row)
        if rival is not row and is_better(_said(row), _said(rival)):
            best[str(row["vin"])] = row
    return best


def _better(db: Database, rows: Mapping[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    """Those of the rows, by VIN, that are better than what is there."""
    better, asked = {**rows}, list(rows)
    columns = ", ".join(("vin", *Said._fields))
    for start in range(0, len(asked), _VARIABLES):
        part = asked[start : start + _VARIABLES]
        for table in (VEHICLES, REJECTIONS):
            sql = f"SELECT {columns} FROM {table} WHERE vin IN ({_marks(part)})"  # noqa: S608 - names are our own, values are bound  # nosec B608
            for vin, *there in db.execute(sql, part):
                if not is_better(_said(rows[vin]), Said(*there)):
                    better.pop(vin, None)
    return better


def _said(row: Mapping[str, Any]) -> Said:
    return Said(*(row[name] for name in Said._fields))


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
    last = db.execute(f"SELECT coalesce(max(rowid), 0) FROM {VEHICLES}").fetchone()[0]  # noqa: S608 - names are our own, values are bound  # nosec B608
    db.execute(f"DROP TRIGGER {trigger}")
    yield
    columns = ", ".join(row[1] for row in db.execute(f"PRAGMA table_info({table})"))
    db.execute(
        f"INSERT INTO {table} (rowid, {columns}) SELECT rowid, {columns} FROM {VEHICLES} WHERE rowid > ?",  # noqa: S608 - names are our own, values are bound  # nosec B608
        [last],
    )
    db.execute(found[0])


def _insert(db: Database, table: str, rows: Sequence[dict[str, object]]) -> None:
    if rows:
        columns, marks = ", ".join(rows[0]), ", ".join("?" * len(rows[0]))
        db.conn.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", [[*row.values()] for row in rows])  # noqa: S608 - names are our own, values are bound  # nosec B608


def _row(answer: Vehicle | Rejection, record: Record) -> dict[str, object]:
    return _vehicle_row(answer) if isinstance(answer, Vehicle) else _rejection_row(answer, record)


as_json = json.JSONEncoder(separators=(",", ":")).encode
"""An answer as it is kept. In ASCII, as a lone surrogate in one has no UTF-8, and it is kept as it came."""


@lru_cache(maxsize=64)
def _time(when: datetime) -> str:
    return when.strftime(_TIME)


def _provenance(record: Record) -> dict[str, object]:
    return {
        "source": record.source,
        "source_version": record.source_version,
        "fetched_at": _time(record.fetched_at),
        "notes": json.dumps(record.notes) if record.notes else None,
        "record": as_json(dict(record.values)),
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


def _there(db: Database, vins: Sequence[str]) -> set[str]:
    """Those of some VINs that one of the tables holds."""
    found: set[str] = set()
    for start in range(0, len(vins), _VARIABLES):
        part = vins[start : start + _VARIABLES]
        for table in (VEHICLES, REJECTIONS):
            found.update(vin for (vin,) in db.execute(f"SELECT vin FROM {table} WHERE vin IN ({_marks(part)})", part))  # noqa: S608 - names are our own, values are bound  # nosec B608
    return found


def _forget(db: Database, vins: Sequence[str]) -> int:
    """Delete the rows of VINs from both tables; how many there were."""
    deleted = 0
    for start in range(0, len(vins), _VARIABLES):
        part = vins[start : start + _VARIABLES]
        for table in (VEHICLES, REJECTIONS):
            deleted += db.execute(f"DELETE FROM {table} WHERE vin IN ({_marks(part)})", part).rowcount  # noqa: S608 - names are our own, values are bound  # nosec B608
    return deleted
