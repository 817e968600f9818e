"""Those who ask: each with VINs of its own, whose history it knows, and some that all have in common."""

from __future__ import annotations

import asyncio
import json
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.soaking.asking import Asker, is_error
from benchmarks.soaking.truth import COLUMNS
from benchmarks.soaking.weather import is_over

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Mapping

    from benchmarks.soaking.asking import World
    from benchmarks.soaking.fates import Fate, Fates, State

LIST = (50, 450)
"""VINs in a list, from and to: as many as the server looks up in the cache at once. Of one that is given up,
what is known has been read by then, and is not asked about later."""

LISTED_UNKNOWN = 60
"""Those of them at most that nobody has asked for."""

MALFORMED = ("IXP5DB9X7XD487964", "1XP5DB9X7XD48796", "not-a-VIN-at-all!", "1XP5DB9X7XD4879645", "ÄÖÜ", "%00")

_LOOKUPS = re.compile(r"^vin_datasette_lookups_total\{.*\} (\S+)$", re.MULTILINE)


class Client(Asker):
    """One who asks, a request at a time, at random, and knows what must be answered."""

    def __init__(self, world: World, fates: Fates, chance: random.Random, gap: float) -> None:
        super().__init__(world, fates)
        self._chance = chance
        self._gap = gap
        self._deeds: dict[Callable[[], Awaitable[None]], float] = {
            self.hit: 70,
            self.miss: 6,
            self.miss_and_leave: 0.5,
            self.reject: 4,
            self.malformed: 3,
            self.remove: 4.5,
            self.refresh: 3,
            self.remove_while_renewed: 1,
            self.shared: 3,
            self.list: 0.5,
            self.list_and_leave: 0.2,
            self.export: 0.15,
            self.page: 2,
            self.table: 2,
            self.state: 0.7,
            self.metrics: 0.5,
            self.probe: 2,
        }

    async def go_on(self, over: asyncio.Event) -> None:
        """Ask until it is over."""
        due = time.monotonic() + self._chance.uniform(0, self._gap)
        while not await is_over(over, max(0.0, due - time.monotonic())):
            await self._world.server.up.wait()
            due = max(due, time.monotonic() - self._gap) + self._chance.expovariate(1 / self._gap)
            [deed] = self._chance.choices([*self._deeds], [*self._deeds.values()])
            await deed()

    # Lookups of one VIN

    async def hit(self) -> None:
        """A vehicle that is in the cache."""
        for vin in self._fates.some(1, "stored", which=self._world.truth.is_vehicle):
            began = time.monotonic()
            response = await self._ask("hit", "GET", f"/lookup/{vin}")
            if response is not None and response.status_code == 200:
                self._world.account.hits[self._world.weather.label(began)].append(time.monotonic() - began)
                self._heard(vin, self._fates[vin], response, began)

    async def miss(self) -> None:
        """A vehicle that is not in the cache, as far as is known."""
        for vin in self._fates.some(1, "absent", "unsure", which=self._world.truth.is_vehicle):
            await self._look_up("miss", vin)

    async def reject(self) -> None:
        """A VIN for which there is no vehicle, whether that is in the cache or not."""
        for vin in self._fates.some(
            1, "stored", "absent", "unsure", which=lambda vin: not self._world.truth.is_vehicle(vin)
        ):
            await self._look_up("rejection", vin)

    async def _look_up(self, kind: str, vin: str) -> None:
        began, before = time.monotonic(), self._fates.begin(vin, kind)
        response = await self._ask(kind, "GET", f"/lookup/{vin}", 200, 404, asks=True)
        if response is not None and response.status_code in (200, 404):
            self._heard(vin, before, response, began)
        elif response is not None and not self._world.server.was_going(began):
            self._fates.settle(vin, before.state, f"{kind}: {response.status_code}", before.source)

    async def miss_and_leave(self) -> None:
        """The same, and gone before there is an answer."""
        for vin in self._fates.some(1, "absent", which=self._world.truth.is_vehicle):
            self._fates.begin(vin, "miss")
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    self._ask("miss, left", "GET", f"/lookup/{vin}", asks=True), self._chance.uniform(0.005, 0.04)
                )
            self._fates.abandon(vin)

    async def refresh(self) -> None:
        """A vehicle, asked about anew."""
        for vin in self._fates.some(1, "stored", which=self._world.truth.is_vehicle):
            began = time.monotonic()
            response = await self._ask("refresh", "POST", f"/-/vin/refresh/{vin}", asks=True)
            if response is not None and response.status_code == 200:
                self._heard(vin, self._fates[vin], response, began, anew=True)

    async def shared(self) -> None:
        """A VIN that others ask for and remove at the same time."""
        vin = self._chance.choice(self._world.shared)
        response = await self._ask("shared", "GET", f"/lookup/{vin}", asks=True)
        if response is not None and response.status_code == 200:
            self._check_fields(vin, response.json(), response.headers.get("Vin-Source", ""), None)
        if self._chance.random() < 0.3:
            await self._ask("remove, shared", "POST", f"/remove/{vin}")

    async def malformed(self) -> None:
        """What is no VIN."""
        text = self._chance.choice(MALFORMED)
        response = await self._ask("malformed", "GET", f"/lookup/{text}", 404)
        if response is not None and response.status_code == 404 and not is_error(response.json(), 404):
            self._wrong(f"GET /lookup/{text} was answered {response.text[:200]}")

    async def remove_while_renewed(self) -> None:
        """A vehicle that is asked about anew, and removed meanwhile: it is to stay away."""
        for vin in self._fates.some(1, "stored", which=self._world.truth.is_vehicle):
            renewing = asyncio.create_task(self._ask("refresh, removed", "POST", f"/-/vin/refresh/{vin}", asks=True))
            await asyncio.sleep(self._chance.uniform(0.01, 0.1))
            await self._remove(vin)
            removed = self._fates.begin(vin, "being refreshed").state == "absent"
            response = await renewing
            if response is None or response.status_code != 200 or not removed:
                self._fates.abandon(vin)
                continue
            source, told = response.headers.get("Vin-Source", ""), response.headers["Cache-Status"]
            self._check_fields(vin, response.json(), source, self._fates[vin])
            # Where it was removed before the server came to this request, it was not cached, and is now.
            came_later = "fwd=uri-miss; stored" in told
            self._fates.settle(vin, "stored" if came_later else "absent", told, source if came_later else None)

    async def remove(self) -> None:
        """Any VIN, removed."""
        which: tuple[State, ...] = ("stored",) if self._chance.random() < 0.7 else ("absent", "unsure")
        for vin in self._fates.some(1, *which):
            await self._remove(vin)

    async def _remove(self, vin: str) -> None:
        before = self._fates.begin(vin, "remove")
        response = await self._ask("remove", self._chance.choice(["POST", "DELETE"]), f"/remove/{vin}")
        if response is not None and response.status_code == 200:
            self._removed(vin, before, response.text)

    def _removed(self, vin: str, before: Fate, said: str) -> None:
        expected = {"stored": "true", "absent": "false"}.get(before.state, said)
        if said != expected or said not in ("true", "false"):
            words = f"The removal of {vin} was answered {said[:80]}, not {expected}: {self._fates.story(vin)}"
            self._world.account.violation("lost", words)
        self._fates.settle(vin, "absent", f"removed: {said[:5]}")

    # Many

    async def list(self) -> None:
        """Many VINs, whose answers are read to the end."""
        await self._list(leave_after=None)

    async def list_and_leave(self) -> None:
        """Many VINs, and gone after some of the answers."""
        await self._list(leave_after=self._chance.randint(1, 100))

    async def _list(self, leave_after: int | None) -> None:
        count = self._chance.randint(*LIST)
        new = self._fates.some(self._chance.choice([0, 3, LISTED_UNKNOWN]), "absent", "unsure")
        others = [*self._chance.choices(self._world.shared, k=10), *self._chance.choices(MALFORMED, k=3)]
        known = self._fates.some(max(1, count - len(new) - len(others)), "stored")
        vins = [*known, *new, *others, *new[:2]]
        self._chance.shuffle(vins)
        before = {vin: self._fates[vin] for vin in known} | {vin: self._fates.begin(vin, "list") for vin in new}
        kind, began, lines = "list" if leave_after is None else "list, left", time.monotonic(), 0
        try:
            body = {"content": "\n".join(vins)} if self._chance.random() < 0.5 else {"json": vins}
            async with self._world.http.stream("POST", "/lookup?_extra=source", **body) as response:
                if not self._expected(kind, "POST /lookup", response, (200, 429), began, asks=True):
                    return
                if response.status_code == 200:
                    async for line in response.aiter_lines():
                        lines += 1
                        self._line(json.loads(line), before, began)
                        if lines == leave_after:
                            break
                    else:
                        leave_after = None
            self._world.account.count(kind, str(response.status_code))
        except httpx.TransportError as error:
            await self._cut(kind, "POST /lookup", began, error)
            return
        if response.status_code != 200 and not self._world.server.was_going(began):
            for vin in new:
                self._fates.settle(vin, before[vin].state, f"list: {response.status_code}")
        elif response.status_code == 200 and leave_after is None and lines != len(vins):
            self._wrong(f"A list of {len(vins)} VINs had {lines} lines.")
        if leave_after is not None:
            for vin in new:
                if self._fates[vin].state == "unsure":
                    self._fates.abandon(vin)

    def _line(self, line: dict[str, Any], before: Mapping[str, Fate], began: float) -> None:
        vin, source = line.get("Input VIN Requested", ""), line.pop("source", None)
        self._world.account.checked["lines"] += 1
        if line.get("status") == 503:
            if not (is_error(line, 503, "Input VIN Requested") and self._may_fail(began)):
                self._wrong(f"A line said: {line}")
            if vin in before and self._fates[vin].state == "unsure" and not self._world.server.was_going(began):
                self._fates.settle(vin, before[vin].state, "list: 503", before[vin].source)
        elif not self._world.truth.knows(vin):
            if not (vin in MALFORMED and is_error(line, 404, "Input VIN Requested")):
                self._wrong(f"A line said: {line}")
        elif not self._world.truth.is_vehicle(vin):
            if not (
                is_error(line, 404, "Input VIN Requested") and self._world.truth.reason(vin) in str(line.get("error"))
            ):
                self._wrong(f"The line of {vin}, which is no vehicle, said: {line}")
            self._known_now(vin, before, None, str(source))
        else:
            self._check_fields(vin, line, str(source), before.get(vin))
            self._known_now(vin, before, line.get("Cached Result?"), str(source))

    def _known_now(self, vin: str, before: Mapping[str, Fate], cached: object, source: str) -> None:
        if vin not in before:
            return
        # A VIN that stands twice in the list has two lines of one answer.
        self._check_cached(vin, before[vin], cached, source)
        self._fates.stored(vin, f"list: cached {cached} by {source}", source)

    async def export(self) -> None:
        """All vehicles, each of them compared."""
        began, cols = time.monotonic(), "&".join(f"_col={name}" for name in (*COLUMNS, "source"))
        path = self._chance.choice(["/export", f"/export?{cols}"])
        response = await self._ask("export", "GET", path, 200, 429)
        if response is None or response.status_code != 200:
            return
        try:
            rows = await asyncio.to_thread(_rows, response.content)
        except (pa.ArrowInvalid, OSError) as error:
            self._wrong(f"GET {path} gave no Parquet file: {error}")
            return
        await self._world.check_rows(rows, began, "an export")

    # Pages

    async def page(self) -> None:
        """The page of a vehicle that is in the cache."""
        for vin in self._fates.some(1, "stored", which=self._world.truth.is_vehicle):
            response = await self._ask("page", "GET", f"/{self._world.db.stem}/vehicles/{vin}")
            if response is not None and response.status_code == 200 and vin not in response.text:
                self._wrong(f"The page of {vin} does not name it.")

    async def table(self) -> None:
        """The rows of a VIN in Datasette's own JSON, by the column or by the search index."""
        for vin in self._fates.some(1, "stored", "absent", which=self._world.truth.is_vehicle):
            state, since = self._fates[vin].state, self._fates[vin].since
            by = self._chance.choice(["vin", "_search"])
            path = f"/{self._world.db.stem}/vehicles.json?{by}={vin}&_shape=array"
            response = await self._ask("table JSON", "GET", path)
            if response is None or response.status_code != 200:
                continue
            rows = response.json()
            if [row["vin"] for row in rows] != ([vin] if state == "stored" else []):
                words = f"{path} has {len(rows)} rows, and it is {state}: {self._fates.story(vin)}"
                self._world.account.violation("lost", words)
            elif rows and self._fates[vin].since == since:
                [row] = rows
                self._world.account.checked["rows"] += 1
                values = tuple("" if row[name] is None else str(row[name]) for name in COLUMNS)
                if values != self._world.truth.values(vin, row["source"]):
                    self._wrong(f"{path} has {values} by {row['source']}")

    async def state(self) -> None:
        """The state of the plugin."""
        response = await self._ask("/-/vin.json", "GET", "/-/vin.json")
        if response is not None and response.status_code == 200:
            said = response.json()
            if said.get("ok") is not True or not isinstance(said.get("rows"), dict):
                self._wrong(f"/-/vin.json said {response.text[:300]}")

    async def metrics(self) -> None:
        """The metrics, whose counters only grow while a server lives."""
        life = self._world.server.life
        response = await self._ask("metrics", "GET", "/-/vin/metrics")
        if response is not None and response.status_code == 200:
            counted = sum(float(value) for value in _LOOKUPS.findall(response.text))
            if counted < life.metrics and life is self._world.server.life:
                self._wrong(f"The lookups that were counted went from {life.metrics:g} to {counted:g}.")
            life.metrics = max(life.metrics, counted)

    async def probe(self) -> None:
        """Whether it lives, and whether it is ready."""
        name = self._chance.choice(["live", "ready"])
        await self._ask(name, "GET", f"/-/vin/{name}")


def _rows(file: bytes) -> list[tuple[str, ...]]:
    reader = pq.ParquetFile(pa.BufferReader(file))
    table, told = reader.read(), reader.metadata.metadata
    if int(told[b"vin_datasette.rows"]) != table.num_rows:
        raise pa.ArrowInvalid(f"it says that it has {told[b'vin_datasette.rows']!r} rows, and has {table.num_rows}")
    columns = [table.column(name).to_pylist() for name in ("vin", *COLUMNS, "source")]
    return [tuple("" if value is None else str(value) for value in row) for row in zip(*columns, strict=True)]
