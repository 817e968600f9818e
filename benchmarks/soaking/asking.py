"""Asking, and what has to come back."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from benchmarks.soaking.processes import PAUSE
from benchmarks.soaking.weather import DISK, VPIC

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.soaking.account import Account
    from benchmarks.soaking.fates import Fate, Fates
    from benchmarks.soaking.processes import Server
    from benchmarks.soaking.truth import Truth
    from benchmarks.soaking.weather import Weather

SLACK = 5.0
"""Seconds for which a fault of vPIC may be felt after it is over, its pause and what was under way besides."""


@dataclass(frozen=True)
class World:
    """What all clients have in common."""

    http: httpx.AsyncClient
    server: Server
    weather: Weather
    truth: Truth
    account: Account
    everyone: Sequence[Fates]
    shared: Sequence[str]
    """VINs that anybody may ask for and remove at any time: of their answers only the values are certain."""
    source: str
    """The setting: `auto`, with which every lookup is answered, or `vpic`."""
    db: Path

    async def check_rows(self, rows: Iterable[tuple[str, ...]], since: float, where: str) -> None:
        """Hold rows (VIN, make, model, model year, body class, source), which were read since then,
        against what must be there and what must not."""
        await asyncio.to_thread(self._check_values, found := list(rows), where)
        sources = {vin: source for vin, *_, source in found}
        for fates in self.everyone:
            stored, absent = fates.certain(since)
            for vin, fate in stored.items():
                if vin not in sources:
                    if self.truth.is_vehicle(vin):
                        self.account.violation("lost", f"{vin} is not in {where}: {fates.story(vin)}")
                elif fate.source == "vpic" and fate.source_since < since and sources[vin] != "vpic":
                    self.account.violation("wrong", f"{vin} is by {sources[vin]} in {where}: {fates.story(vin)}")
            for vin in absent & sources.keys():
                self.account.violation("lost", f"{vin} was removed and is in {where}: {fates.story(vin)}")

    def _check_values(self, rows: Sequence[tuple[str, ...]], where: str) -> None:
        self.account.checked["rows"] += len(rows)
        seen: set[str] = set()
        for vin, *values, source in rows:
            if vin in seen or not self.truth.is_vehicle(vin):
                self.account.violation("wrong", f"{vin} is in {where}, where it is twice or has no place.")
            elif tuple(values) != self.truth.values(vin, source):
                self.account.violation("wrong", f"{vin} in {where} is {values} by {source}.")
            seen.add(vin)


class Asker:
    """One who asks about VINs of its own, and holds the answers against what it knows of them."""

    def __init__(self, world: World, fates: Fates) -> None:
        self._world = world
        self._fates = fates

    async def _ask(self, kind: str, method: str, path: str, *allowed: int, asks: bool = False) -> httpx.Response | None:
        """The answer, counted and of an allowed status, by default 200; None where there is none
        because the server was away, or where there should have been another.

        With `asks` a source is asked, which may fail.
        """
        began = time.monotonic()
        try:
            response = await self._world.http.request(method, path)
        except httpx.TransportError as error:
            await self._cut(kind, f"{method} {path}", began, error)
            return None
        if not self._expected(kind, f"{method} {path}", response, allowed or (200,), began, asks=asks):
            return None
        self._world.account.count(kind, str(response.status_code))
        return response

    def _expected(
        self, kind: str, what: str, response: httpx.Response, allowed: tuple[int, ...], began: float, *, asks: bool
    ) -> bool:
        status, headers = response.status_code, response.headers
        going = self._world.server.was_going(began)
        in_order = status in allowed or (status == 503 and (going or (asks and self._may_fail(began))))
        if in_order and status in (429, 503) and not going:
            in_order = headers.get("Retry-After", "").isdigit()
        if not in_order:
            self._world.account.count(kind, f"{status} (!)")
            words = (
                f"{what} ({kind}) was answered {status}, Retry-After {headers.get('Retry-After')}, {_text(response)}"
            )
            self._world.account.violation("broken", words)
        return in_order

    def _may_fail(self, began: float) -> bool:
        """Whether a lookup that began then may end without an answer."""
        vpic = self._world.source == "vpic" and self._world.weather.at_fault(VPIC, began - PAUSE - SLACK)
        return vpic or self._world.server.was_going(began)

    async def _cut(self, kind: str, what: str, began: float, error: httpx.TransportError) -> None:
        """The connection ended without an answer: only where the server did."""
        if self._world.server.was_going(began):
            self._world.account.count(kind, "refused" if isinstance(error, httpx.ConnectError) else "cut")
            # Until the server has ended all are refused at once; then nobody asks.
            await asyncio.sleep(0.5)
            return
        self._world.account.count(kind, "cut (!)")
        self._world.account.violation("broken", f"{what} ({kind}) had no answer: {type(error).__name__} {error}")

    def _heard(self, vin: str, before: Fate, response: httpx.Response, began: float, *, anew: bool = False) -> None:
        """An answer about one of this client's own VINs."""
        source, told = response.headers.get("Vin-Source", ""), response.headers.get("Cache-Status", "")
        self._world.account.checked["answers"] += 1
        cached, story = "; hit" in told, f"{response.status_code} {told} by {source}"
        if response.status_code == 404 or not self._world.truth.is_vehicle(vin):
            said = response.json()
            if not (
                not self._world.truth.is_vehicle(vin)
                and is_error(said, 404)
                and self._world.truth.reason(vin) in said["error"]
            ):
                self._wrong(f"{vin} was answered {response.status_code} {response.text[:300]}")
        else:
            self._check_fields(vin, response.json(), source, before)
            if response.json().get("Cached Result?") is not cached:
                self._wrong(f"{vin}: the answer and its header do not agree: {response.text}, {told}")
        if not anew:
            self._check_cached(vin, before, cached, source)
        if cached or "; stored" in told:
            self._fates.stored(vin, story, source)
            return
        # The lock is never held for as long as a write waits for it.
        words = f"The answer for {vin} was not kept ({told}), disk at fault: "
        self._world.account.violation(
            "broken", f"{words}{self._world.weather.at_fault(DISK, began)}: {self._fates.story(vin)}"
        )
        self._fates.settle(vin, "unsure", story)

    def _check_cached(self, vin: str, before: Fate, cached: object, source: str) -> None:
        expected = {"stored": True, "absent": False}.get(before.state)
        if cached is not None and expected is not None and cached is not expected:
            words = f"{vin} was answered as cached: {str(cached).lower()}, and it is {before.state}"
            self._world.account.violation("lost" if expected else "wrong", f"{words}: {self._fates.story(vin)}")
        elif before.state == "stored" and before.source == "vpic" and source != "vpic":
            self._wrong(f"{vin} was by vPIC and is by {source}: {self._fates.story(vin)}")

    def _check_fields(self, vin: str, said: Mapping[str, object], source: str, before: Fate | None) -> None:
        cached = said.get("Cached Result?")
        expected = self._world.truth.six_fields(vin, source, cached)
        # As they are written: the order of the fields is part of the contract.
        if source not in ("vpic", "embedded") or not isinstance(cached, bool) or [*said.items()] != [*expected.items()]:
            story = self._fates.story(vin) if before is not None else "everyone's"
            self._wrong(f"{vin} was answered {dict(said)} by {source or 'nobody'}: {story}")

    def _wrong(self, words: str) -> None:
        self._world.account.violation("wrong", words)


def _text(response: httpx.Response) -> str:
    """What it says, where that was read."""
    return response.text[:300] if response.is_stream_consumed else ""


def is_error(said: Mapping[str, object], status: int, *also: str) -> bool:
    """Whether this is Datasette's error JSON, of this status and with words."""
    named = {*also, "ok", "error", "status", "title"}
    return said.keys() == named and said["ok"] is False and said["status"] == status and bool(said["error"])
