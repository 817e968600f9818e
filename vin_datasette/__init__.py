"""A VIN becomes a vehicle: make, model, model year, body class and all else that vPIC knows.

`lookup(vin)` and `alookup(vin)` answer with a `Vehicle` from the cache or a source, `fetch(vins)`
and `afetch(vins)` with many; `decode_batches` adds vehicles to Arrow record batches, in whichever
engine these are. `VinLookup` is the same in a notebook, where `%load_ext vin_datasette`
gives the magics `%vin` and `%%vins`. `Lookup` is the path that all but `decode_batches` take.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "VIN",
    "Failure",
    "Fetched",
    "InvalidVIN",
    "Lookup",
    "Rejected",
    "Rejection",
    "Settings",
    "SourceError",
    "Vehicle",
    "__version__",
    "afetch",
    "alookup",
    "decode_batches",
    "decode_schema",
    "fetch",
    "lookup",
]

if TYPE_CHECKING:
    from vin_datasette.arrow import decode_batches, decode_schema
    from vin_datasette.fetched import Fetched, afetch, fetch
    from vin_datasette.lookup import Failure, Lookup, Rejected, alookup, lookup

    # Not among those that `*` imports, which would then fail without the notebook's parts.
    from vin_datasette.notebook.widget import VinLookup as VinLookup
    from vin_datasette.settings import Settings
    from vin_datasette.sources import SourceError
    from vin_datasette.vehicle import Rejection, Vehicle
    from vin_datasette.vin import VIN, InvalidVIN

_HOMES = {
    "Failure": "lookup",
    "Fetched": "fetched",
    "InvalidVIN": "vin",
    "Lookup": "lookup",
    "Rejected": "lookup",
    "Rejection": "vehicle",
    "Settings": "settings",
    "SourceError": "sources",
    "VIN": "vin",
    "Vehicle": "vehicle",
    "VinLookup": "notebook.widget",
    "afetch": "fetched",
    "alookup": "lookup",
    "decode_batches": "arrow",
    "decode_schema": "arrow",
    "fetch": "fetched",
    "lookup": "lookup",
}

_NOTEBOOK_PARTS = ("anywidget", "ipywidgets", "traitlets", "IPython")


def load_ipython_extension(ipython: Any) -> None:
    """Give a notebook the magics `%vin` and `%%vins`: `%load_ext vin_datasette`."""
    from vin_datasette.notebook.magics import VinMagics

    ipython.register_magics(VinMagics)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import vin_datasette` costs little."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in _NOTEBOOK_PARTS:
            raise
        words = f"{name} needs {error.name}, a part of the notebook's: pip install 'vin-datasette[notebook]'"
        raise ImportError(words, name=error.name) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(ModuleType):
    """Keeps `vin_datasette.lookup` the function: importing the submodule of the same
    name, which the import system binds here, must not put the module in its place."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "lookup" and isinstance(value, ModuleType):
            value = value.lookup
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
