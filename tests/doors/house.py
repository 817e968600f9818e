"""An instance with a cache and a vPIC behind it, of which is seen whatever a request changes or sends out."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from tests.conftest import close, new_datasette, numbered_vins
from tests.doors.callers import CALLERS, HERE, secrets_of
from tests.vpic_server import VpicServer
from vin_datasette import Lookup, Settings
from vin_datasette.web.state import LISTS_SUFFIX, state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from datasette.app import Datasette

    from tests.doors.callers import Caller

HIT, STALE, REJECTED = "1XP5DB9X7XD487964", "1HGCM82633A004352", "1HGCM82643A004352"
"""A vehicle that vPIC named; one that the embedded database did, about which vPIC is asked when it can be;
a VIN that vPIC rejected."""
MISS = str(numbered_vins(1)[0])
"""A VIN that nobody was asked about, and that vPIC knows."""
WORDS = {"hit": HIT, "stale": STALE, "rejected": REJECTED, "miss": MISS, "malformed": "1XP5"}

TABLES = ("vehicles", "rejections", "changes", "_sqlite_migrations")

ALL = frozenset({"vin-lookup", "vin-remove", "vin-export"})


@dataclass(frozen=True)
class Answered:
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class House:
    """A started instance: what it is asked, and what came of that."""

    def __init__(self, datasette: Datasette, vpic: VpicServer, secrets: Mapping[str, str], *, closed: bool) -> None:
        self.datasette = datasette
        self.vpic = vpic
        self.secrets = secrets
        self.closed = closed
        self.own = state_of(datasette)
        self.list_name = self.own.vin_lists.keep([HIT, STALE])[0]
        self._app = datasette.app()
        self._file = sqlite3.connect(self.own.settings.db, isolation_level=None)
        self._rows = self._content()
        self._lists = sqlite3.connect(f"{self.own.settings.db}{LISTS_SUFFIX}", isolation_level=None)
        self._version = self._data_version()
        self._calls = len(vpic.calls)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._lists.close()

    @property
    def callers(self) -> list[Caller]:
        """Those to whom it makes a difference who they are."""
        return [caller for caller in CALLERS if self.closed or caller.differs]

    def permissions(self, caller: Caller) -> frozenset[str] | None:
        """The plugin's permissions that a caller has; None for who may not see the vehicles."""
        if caller.known_by == "wrong token":
            return None
        if self.closed:
            everyone = {"somebody": (), "looker": ("vin-lookup",), "remover": ("vin-remove",)}
            by_name = {**everyone, "exporter": ("vin-export",), "root": ALL, "keeper": ALL}
            if caller.actor not in by_name:
                return None
            held = frozenset(by_name[caller.actor])
        else:
            held = ALL if caller.actor == "root" else ALL - {"vin-remove"}
        return held if caller.only is None else held & frozenset(caller.only)

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> Answered:
        """Send a request as a server that is bound to loopback hands it on."""
        raw_path, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(raw_path),
            "raw_path": raw_path.encode("ascii"),
            "query_string": query.encode("ascii"),
            "root_path": "",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
            "server": ("127.0.0.1", int(HERE.rpartition(":")[2])),
            "client": ("127.0.0.1", 50_000),
        }
        inbox = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        head = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in sent[0]["headers"]}
        return Answered(sent[0]["status"], head, b"".join(each.get("body", b"") for each in sent[1:]))

    async def outcome(self) -> tuple[frozenset[str], set[str]]:
        """What has come about since this was last called, and the VINs that went out: `cache` has other rows, a
        source was `asked`, a `list` is kept. All of it is undone."""
        while self._is_busy:
            await asyncio.sleep(0.001)
        calls, self._calls = self.vpic.calls[self._calls :], len(self.vpic.calls)
        came: set[str] = {"asked"} if calls else set()
        if self._lists.execute("DELETE FROM lists WHERE name != ?", [self.list_name]).rowcount:
            came.add("list")
        if self._data_version() != self._version:
            if self._content() != self._rows:
                came.add("cache")
                self._restore()
            self._version = self._data_version()
        return frozenset(came), {vin for call in calls for vin in call.vins}

    @property
    def _is_busy(self) -> bool:
        """Whether a source is being asked, or about to be."""
        health = self.own.lookup.health()
        return bool(health["in_flight"] or health["waiting"])

    def _data_version(self) -> int:
        """Another number when anybody else has changed the file, whichever table (SQLite, PRAGMA data_version)."""
        return int(self._file.execute("PRAGMA data_version").fetchone()[0])

    def _content(self) -> dict[str, list[Any]]:
        return {table: self._file.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}

    def _restore(self) -> None:
        self._file.execute("BEGIN IMMEDIATE")
        for table, rows in self._rows.items():
            self._file.execute(f"DELETE FROM {table}")
            for row in rows:
                self._file.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        self._file.execute("COMMIT")


@asynccontextmanager
async def house(folder: Path, *, closed: bool, cors: bool = False) -> AsyncIterator[House]:
    """An instance that all may see, with the plugin's own settings; or a `closed` one, which only some may see,
    and in which each permission is somebody's."""
    db = folder / "vin.db"
    with VpicServer() as vpic:
        await _fill(db, vpic)
        plugin: dict[str, object] = {"db": str(db), "source": "vpic", "vpic_url": vpic.url, "rate": 10_000}
        config: dict[str, object] = {}
        if closed:
            for permission, name in (("lookup", "looker"), ("remove", "remover"), ("export", "exporter")):
                plugin[f"allow_{permission}"] = {"id": [name, "root", "keeper"]}
            seeing = ["somebody", "looker", "remover", "exporter", "root", "keeper"]
            config["databases"] = {"vin": {"allow": {"id": seeing}}}
        datasette = new_datasette({**config, "plugins": {"vin-datasette": plugin}}, cors=cors)
        try:
            await datasette.invoke_startup()
            made = House(datasette, vpic, await secrets_of(datasette), closed=closed)
            with closing(made):
                yield made
        finally:
            await close(datasette)


async def _fill(db: Path, vpic: VpicServer) -> None:
    async with Lookup(Settings.load({"db": db, "source": "embedded"})) as lookup:
        await lookup.answer(STALE)
    async with Lookup(Settings.load({"db": db, "source": "vpic", "vpic_url": vpic.url})) as lookup:
        await lookup.answer(HIT)
        await lookup.answer(REJECTED)


def quoted(template: str, list_name: str) -> str:
    """A path of the table, its words in the place of their names."""
    return template.format(**{name: quote(vin) for name, vin in WORDS.items()}, list=list_name)
