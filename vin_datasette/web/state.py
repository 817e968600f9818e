"""What the plugin holds for one Datasette instance: its settings, its lookup, its database."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import click
from datasette import handle_exception
from datasette.database import Database
from datasette.utils import StartupError

from vin_datasette.cache import CacheError
from vin_datasette.lookup import Lookup
from vin_datasette.settings import SettingError, Settings
from vin_datasette.web.lists import Lists
from vin_datasette.web.streams import Slots

if TYPE_CHECKING:
    from datasette.app import Datasette

log = logging.getLogger(__name__)

PLUGIN_NAME = "vin-datasette"
"""The key of the plugin's settings under `plugins:` in metadata.yml or datasette.yml."""


class CannotStart(StartupError, click.ClickException):  # type: ignore[misc]
    """A setting or a cache with which the server cannot start.

    Datasette 1.0 turns the one base into a message, and click, under 0.65, the other.
    """


@dataclass(frozen=True)
class State:
    """One instance's lookup path, and the name of its cache among the databases."""

    settings: Settings
    lookup: Lookup
    database: str
    exports: Slots
    lists: Slots
    vin_lists: Lists = field(default_factory=Lists)
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
    lookup = Lookup(settings)
    try:
        await asyncio.to_thread(lookup.cache.open)
    except CacheError as error:
        raise CannotStart(str(error)) from None
    name = _attached(datasette, settings.db) or _attach(datasette, settings.db)
    state = State(settings, lookup, name, Slots(settings.export_concurrency), Slots(settings.list_concurrency))
    _states[datasette] = state
    return state


def _attached(datasette: Datasette, path: Path) -> str | None:
    for name, database in datasette.databases.items():
        if database.path and Path(database.path).exists() and path.samefile(database.path):
            if not database.is_mutable:
                log.warning("%s is served as immutable: what is looked up will not be seen in its pages", path)
            return str(name)
    return None


def _attach(datasette: Datasette, path: Path) -> str:
    database = Database(datasette, path=str(path), is_mutable=True)
    return str(datasette.add_database(database, name=path.stem).name)
