"""What the plugin holds for one Datasette instance: its settings, its lookup, its database."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import click
from datasette import handle_exception
from datasette.database import Database
from datasette.utils import StartupError

from vin_datasette import logs
from vin_datasette.cache import Cache, CacheError
from vin_datasette.lookup import Lookup
from vin_datasette.settings import SettingError, Settings
from vin_datasette.web.hits import Hits
from vin_datasette.web.leaving import Leaving
from vin_datasette.web.lists import Lists
from vin_datasette.web.streams import Slots

if TYPE_CHECKING:
    from datasette.app import Datasette

log = logging.getLogger(__name__)

PLUGIN_NAME = "vin-datasette"
"""The key of the plugin's settings under `plugins:` in metadata.yml or datasette.yml."""


LISTS_SUFFIX = "-lists"
"""What the file of lists has behind the name of the cache's."""


class CannotStart(StartupError, click.ClickException):  # type: ignore[misc]
    """A setting or a cache with which the server cannot start.

    Datasette 1.0 turns the one base into a message, and click, under 0.65, the other.
    """


@dataclass(frozen=True)
class State:
    """One instance's lookup path, and the name of its cache among the databases."""

    settings: Settings
    lookup: Lookup
    hits: Hits
    database: str
    exports: Slots
    lists: Slots
    asking: Slots
    vin_lists: Lists
    leaving: Leaving = field(default_factory=Leaving)
    decisions: dict[tuple[object, ...], bool] = field(default_factory=dict)
    """Who may do what, as far as it is known and cannot change: see `guard`."""
    base_scripts: list[str] = field(default_factory=list)
    """Hashes of the scripts within Datasette's base template, once they are known."""


defaults: dict[str, object] = {}
"""Settings that hold in this process where neither the environment nor the
configuration says otherwise: `vin-datasette serve` opens removal on loopback by it."""

_states: WeakKeyDictionary[Datasette, State] = WeakKeyDictionary()


def state_of(datasette: Datasette) -> State:
    """The state that `start` made. Raises `KeyError` before."""
    return _states[datasette]


def settings_of(datasette: Datasette) -> Settings:
    """The settings of an instance, a relative path of the cache taken from the folder
    that Datasette was given as its configuration. Raises `CannotStart`."""
    try:
        settings = Settings.load(config={**defaults, **_configuration(datasette)})
    except SettingError as error:
        raise CannotStart(str(error)) from None
    folder = datasette.config_dir
    return replace(settings, db=Path(folder) / settings.db) if folder else settings


def _configuration(datasette: Datasette) -> dict[str, Any]:
    configuration = datasette.plugin_config(PLUGIN_NAME) or {}
    if not isinstance(configuration, dict):
        raise SettingError(f"The settings of {PLUGIN_NAME} must be names with values, not {configuration!r}.")
    return configuration


async def start(datasette: Datasette) -> State:
    """Open the cache, attach it unless the instance has it, and remember both. Raises `CannotStart`."""
    # Where rich is installed, and the embedded database brings it, Datasette prints every error, each
    # 404 among them, with all local variables, and 1.0 fails at it. Nobody who installs this asked for it.
    handle_exception.rich = None
    settings = settings_of(datasette)
    logs.set_up_server(settings)
    if settings.log_format == "json":
        # What it prints of an error that nobody foresaw, many lines, is one line of the log.
        handle_exception.traceback = SimpleNamespace(print_exc=partial(log.exception, "A request failed"))
    lookup = Lookup(settings)
    try:
        await asyncio.to_thread(lookup.cache.open)
    except CacheError as error:
        raise CannotStart(str(error)) from None
    if lookup.cache.is_read_only:
        lookup.cache.not_written(sqlite3.OperationalError("attempt to write a readonly database"))
    name = _attached(datasette, settings.db) or _attach(datasette, lookup.cache)
    lookup.cache.on_leaving = partial(_reconnect, datasette, name)
    state = State(
        settings,
        lookup,
        Hits(lookup, settings.memory_hits),
        name,
        exports=Slots(settings.export_concurrency),
        lists=Slots(settings.list_concurrency),
        asking=Slots(settings.lookup_concurrency),
        vin_lists=Lists(None if lookup.cache.is_read_only else Path(f"{lookup.cache.path}{LISTS_SUFFIX}")),
    )
    _states[datasette] = state
    return state


def _attached(datasette: Datasette, path: Path) -> str | None:
    for name, database in datasette.databases.items():
        if database.path and Path(database.path).exists() and path.samefile(database.path):
            if not database.is_mutable:
                log.warning("%s is served as immutable: what is looked up will not be seen in its pages", path)
            return str(name)
    return None


def _attach(datasette: Datasette, cache: Cache) -> str:
    # What is on a disk that is read-only Datasette, too, reads only when it takes it not to change.
    database = Database(datasette, path=str(cache.path), is_mutable=not cache.is_immutable)
    return str(datasette.add_database(database, name=cache.path.stem).name)


def _reconnect(datasette: Datasette, name: str) -> None:
    """Let Datasette's pages connect anew to the file of a database, as the one that they have open
    is no longer there. What reads it just now comes to its end before.

    Each of its threads keeps a connection of its own, by the database's name under 0.65 and by the
    database itself under 1.0: so there are new threads, and a new database of the same name.
    """
    old, threads = datasette.databases[name], datasette.executor
    new = Database(datasette, path=old.path, is_mutable=old.is_mutable)
    new.name, new.route = old.name, old.route
    if threads:
        datasette.executor = ThreadPoolExecutor(max_workers=datasette.setting("num_sql_threads"))
    datasette.databases = {**datasette.databases, name: new}
    if threads:
        threads.shutdown(wait=True)
    old.close()
