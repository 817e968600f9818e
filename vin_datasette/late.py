"""Modules that take long to import, for those who need them and when they do."""

from __future__ import annotations

import asyncio
from importlib import import_module


async def imported(*names: str) -> None:
    """Import modules on a thread, so that what else is on the event loop goes on meanwhile; an `import`
    after this takes no time. Raises `ImportError`."""
    await asyncio.to_thread(_import, names)


def _import(names: tuple[str, ...]) -> None:
    for name in names:
        import_module(name)
