"""Who works on the same file from the command line, and has VINs of their own like any client."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

from benchmarks.fleet import environment
from benchmarks.soaking.clients import MALFORMED, Client
from benchmarks.soaking.processes import command
from benchmarks.soaking.weather import is_over

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping, Sequence

    from benchmarks.soaking.asking import World
    from benchmarks.soaking.fates import Fates

NEW, KNOWN, SHARED = 200, 50, 30
"""VINs of a fleet: those that are not in the cache, as far as there are, and others."""

REMOVED = 150

PAUSE = (3.0, 8.0)
"""Seconds between one call of the command and the next, from and to."""

KILLED = 0.15
"""How often a fetch is killed in the middle, of all."""

PATIENCE = 120.0
"""Seconds that a command has to end."""

_ACCOUNT = re.compile(r"^([\d,]+) asked: .* 0 failed(?:, (\d+) not kept in the cache)?; ", re.MULTILINE)


class Operator(Client):
    """Fetches fleets and removes vehicles, and looks at what the server says of them then."""

    def __init__(
        self,
        world: World,
        fates: Fates,
        chance: random.Random,
        gap: float,
        *,
        options: Sequence[str],
        settings: Mapping[str, str],
    ) -> None:
        """`options` and `settings`, which are environment variables, are those of the command."""
        super().__init__(world, fates, chance, gap)
        self._options = options
        self._settings = settings

    async def go_on(self, over: asyncio.Event) -> None:
        """Work until it is over."""
        while not await is_over(over, self._chance.uniform(*PAUSE)):
            await self.fetch()
            if await is_over(over, self._chance.uniform(*PAUSE)):
                return
            await self.remove_some()
            for _ in range(3):
                await self._world.server.up.wait()
                await self.hit()
                await self.miss()

    async def fetch(self) -> None:
        """`vin-datasette fetch`, at times killed in the middle."""
        new = self._fates.some(NEW, "absent", "unsure")
        known = self._fates.some(KNOWN, "stored")
        vins = [*new, *known, *self._chance.sample([*self._world.shared], SHARED), *MALFORMED[:2]]
        self._chance.shuffle(vins)
        for vin in new:
            self._fates.begin(vin, "fetch")
        file = self._world.db.with_suffix(".txt")
        file.write_text("\n".join(vins))
        killed_after = self._chance.uniform(0.5, 3) if self._chance.random() < KILLED else None
        code, said = await self._run("fetch", "-f", str(file), "--silent", killed_after=killed_after)
        if code is None:
            return
        account = _ACCOUNT.search(said)
        # What others remove while it is asked about anew is not kept.
        if code != 1 or not account or int(account[1]) != len(vins) or int(account[2] or 0) > SHARED:
            self._world.account.violation("broken", f"fetch of {len(vins)} VINs ended with {code} and said {said!r}")
            return
        for vin in new:
            self._fates.settle(vin, "stored", "fetched")

    async def remove_some(self) -> None:
        """`vin-datasette remove`."""
        own = [*self._fates.some(REMOVED, "stored"), *self._fates.some(10, "absent", "unsure")]
        shared = self._chance.sample([*self._world.shared], 10)
        vins = [*own, *shared]
        self._chance.shuffle(vins)
        before = {vin: self._fates.begin(vin, "remove by command") for vin in own}
        code, said = await self._run("remove", *vins)
        lines = said.splitlines()
        if code not in (0, 1) or len(lines) != len(vins):
            self._world.account.violation("broken", f"remove of {len(vins)} VINs ended with {code} and said {said!r}")
            return
        for vin, line in zip(vins, lines, strict=True):
            if vin in before:
                self._removed(vin, before[vin], line)

    async def _run(self, *arguments: str, killed_after: float | None = None) -> tuple[int | None, str]:
        """The exit code of a command, None of one that was killed, and what it said."""
        process = await asyncio.create_subprocess_exec(
            *command(*arguments, *self._options),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(**self._settings),
        )
        began = time.monotonic()
        try:
            said, complaint = await asyncio.wait_for(process.communicate(), killed_after or PATIENCE)
        except asyncio.TimeoutError:
            if killed_after is None:
                words = f"{arguments[0]} did not end within {PATIENCE:g} seconds."
                self._world.account.violation("broken", words)
            process.kill()
            await process.wait()
            self._world.weather.happened("command: SIGKILL", began)
            return None, ""
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._world.account.count(f"command {arguments[0]}", str(process.returncode))
        if b"Traceback" in complaint:
            self._world.account.violation("broken", f"{arguments[0]} said: {complaint[-300:].decode()}")
        return process.returncode, said.decode()
