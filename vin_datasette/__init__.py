"""A VIN becomes a vehicle: make, model, model year, body class and all else that vPIC knows.

`lookup(vin)` and `alookup(vin)` answer with a `Vehicle` from the cache or a source;
`Lookup` is the path they take, for those who look up many.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "VIN",
    "InvalidVIN",
    "Lookup",
    "Rejected",
    "Rejection",
    "Settings",
    "SourceError",
    "Vehicle",
    "__version__",
    "alookup",
    "lookup",
]

if TYPE_CHECKING:
    from vin_datasette.lookup import Lookup, Rejected, alookup, lookup
    from vin_datasette.settings import Settings
    from vin_datasette.sources import SourceError
    from vin_datasette.vehicle import Rejection, Vehicle
    from vin_datasette.vin import VIN, InvalidVIN

_HOMES = {
    "InvalidVIN": "vin",
    "Lookup": "lookup",
    "Rejected": "lookup",
    "Rejection": "vehicle",
    "Settings": "settings",
    "SourceError": "sources",
    "VIN": "vin",
    "Vehicle": "vehicle",
    "alookup": "lookup",
    "lookup": "lookup",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import vin_datasette` costs little."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
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
