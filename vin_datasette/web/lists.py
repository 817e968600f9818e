"""Lists of VINs that a page is to show: `/vin/vehicles?_list=…`, where the VINs are too many for an address."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import OrderedDict
from typing import TYPE_CHECKING

from datasette.filters import FilterArguments
from datasette.utils.asgi import NotFound

from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import Iterable

PARAMETER = "_list"
"""The parameter of a table page."""

FUNCTION = "vin_list"
"""The SQL function that gives the VINs of a list as a JSON array."""

MOST_BYTES = 32 * 1024 * 1024
"""Bytes of all lists that are kept; the one least lately used gives way."""


class Lists:
    """Lists of VINs, kept in memory while the server runs and by what they hold."""

    def __init__(self) -> None:
        # So that nobody who guesses what a list holds can find out by its name that it is kept.
        self._key = secrets.token_bytes(16)
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._bytes = 0

    def keep(self, texts: Iterable[str]) -> tuple[str, int]:
        """A name for the VINs among `texts`, and how many they are. The same VINs have the same name."""
        vins = sorted(set(_vins(texts)))
        text = json.dumps(vins, separators=(",", ":"))
        name = hashlib.blake2b(text.encode(), digest_size=12, key=self._key).hexdigest()
        if name not in self._kept:
            self._kept[name] = text
            self._bytes += len(text)
        self._kept.move_to_end(name)
        while self._bytes > MOST_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest)
        return name, len(vins)

    def array(self, name: str) -> str:
        """The VINs of a list as a JSON array; an empty one for what is not known (any more)."""
        if name in self._kept:
            self._kept.move_to_end(name)
        return self._kept.get(name, "[]")

    def filter(self, name: str) -> FilterArguments:
        """The condition of a table page. Raises `NotFound`, of Datasette, for a list that is not kept."""
        vins = json.loads(self.array(name))
        if not vins:
            raise NotFound("This list of VINs is not kept any longer: look the VINs up once more, they are cached.")
        return FilterArguments(
            [f"vin in (select value from json_each({FUNCTION}(:{FUNCTION})))"],  # noqa: S608 - names are our own, values are bound  # nosec B608
            params={FUNCTION: name},
            human_descriptions=[f"in a list of {len(vins):,} VIN{'' if len(vins) == 1 else 's'}"],
        )


def _vins(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        try:
            yield VIN(text)
        except InvalidVIN:
            continue
