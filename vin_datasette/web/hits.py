"""Cached vehicles as they were last answered, for as long as nothing is written to the cache.

Whether something was, by whichever process, SQLite tells in a third of the time that it takes to read
a vehicle and say what it means. So what is removed or asked anew is seen by the next request.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, NamedTuple

from vin_datasette.cache import CacheError
from vin_datasette.record import seconds_since
from vin_datasette.vehicle import Vehicle
from vin_datasette.vin import LENGTH
from vin_datasette.web.tagged import Tagged, tagged

if TYPE_CHECKING:
    from datetime import datetime

    from vin_datasette.lookup import Lookup


class Hit(NamedTuple):
    """What is answered for a fresh vehicle of the cache, who said it and when (aware, UTC)."""

    vin: str
    body: Tagged
    source: str
    fetched_at: datetime


class Hits:
    """The hits of one lookup path, of which as many as `most` are remembered.

    Use it on the thread of the event loop.
    """

    def __init__(self, lookup: Lookup, most: int) -> None:
        self._lookup = lookup
        self._most = most
        self._remembered: dict[str, Hit] = {}
        self._version: tuple[int, int] | None = None

    def find(self, text: str) -> Hit | None:
        """What is answered for a VIN that the cache has a fresh vehicle for; None for all others, and where
        the cache cannot be read. Raises `CacheError` where it cannot be used at all."""
        try:
            version = self._lookup.cache.version()
        except (sqlite3.Error, CacheError):
            # What is wrong, the way of those that are no hits finds out.
            return None
        # Before anything is read: what is written after this is a later version.
        if version != self._version:
            self._remembered.clear()
            self._version = version
        hit = self._remembered.get(text)
        return hit if hit and not self._is_old(hit) else self._read(text)

    def _is_old(self, hit: Hit) -> bool:
        max_age = self._lookup.settings.max_age
        return max_age is not None and seconds_since(hit.fetched_at) >= max_age

    def _read(self, text: str) -> Hit | None:
        answer = self._lookup.cached(text)
        if answer is None or answer.how != "hit" or not isinstance(answer.result, Vehicle):
            return None
        vehicle = answer.result
        body = tagged(vehicle.six_fields(cached=True))
        hit = Hit(vehicle.vin, body, vehicle.source, vehicle.record.fetched_at)
        # One VIN can be written in any number of ways.
        if self._most and len(text) == LENGTH:
            if len(self._remembered) >= self._most:
                self._remembered.clear()
            self._remembered[text] = hit
        return hit
