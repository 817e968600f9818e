"""Every door, knocked at by everybody from everywhere, on both Datasettes. See `table`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.doors.callers import ONE_OF_EACH, ORIGINS, credentials, effective, stopped_by_datasette
from tests.doors.house import HIT, MISS, REJECTED, STALE, House, house, quoted
from tests.doors.table import TABLE, Cell, Row
from vin_datasette.web.doors import DOORS, OWN, registered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.doors.callers import Caller, Origin
    from tests.doors.house import Answered

pytestmark = pytest.mark.asyncio(loop_scope="module")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
VINS = {f"{OWN}/lookup": [HIT, STALE, MISS, REJECTED], f"{OWN}/lists": [MISS]}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["open", "closed"])
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(tmp_path_factory.mktemp("doors"), closed=request.param == "closed") as made:
        yield made


async def knock(site: House, method: str, path: str, caller: Caller, origin: Origin) -> Answered:
    """What a caller from somewhere is answered. `FORM` is a POST of a person's browser."""
    headers = {**origin.headers(method), **credentials(caller, origin, site.secrets)}
    body = b""
    if method == "FORM":
        headers |= {"accept": "text/html", "content-type": "application/x-www-form-urlencoded"}
    elif method == "POST":
        headers["content-type"] = "text/plain"
        body = "\n".join(VINS.get(_long(path), [])).encode()
    return await site.ask("POST" if method == "FORM" else method, path, headers, body)


def _long(path: str) -> str:
    return path if path.startswith(OWN) else f"{OWN}{path}"


async def told(site: House, answered: Answered, expected: Cell, vins: set[str]) -> str | None:
    """How an answer, and what came of it, differs from what the table says."""
    came, asked = await site.outcome()
    # What a source says may be what the cache has already.
    due = {expected.effect} - {None}
    if came - ({"cache"} if "asked" in due else set()) != due:
        return f"what came about is {sorted(came) or 'nothing'}, and {sorted(map(str, due)) or 'nothing'} was to"
    if asked and not asked <= vins:
        return f"{sorted(asked - vins)} went out"
    if answered.status != expected.status:
        return f"{answered.status}, and not {expected.status}: {answered.body[:200]!r}"
    return None


def expected(site: House, row: Row, caller: Caller, origin: Origin) -> Cell:
    """What the table, and Datasette before it, say."""
    method = row.door[1]
    stopped = stopped_by_datasette(caller, origin, method)
    if stopped:
        return Cell(stopped, None)
    return row.cell(origin.place, site.permissions(effective(caller, origin)))


def path_at(site: House, door: str, path: str) -> str:
    """A path of a door, and in the open house its short alias, where it has one."""
    short = any(each.path == door and each.short for each in DOORS)
    return quoted(path.removeprefix(OWN) if short and not site.closed else path, site.list_name)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
async def test_each_gets_what_the_table_says(site: House, row: Row) -> None:
    path, wrong = path_at(site, row.door[0], row.path), []
    vins = {vin for vin in (HIT, STALE, MISS) if vin in path} or {STALE, MISS}
    for caller in site.callers:
        for origin in ONE_OF_EACH if row.is_alike_from_everywhere else ORIGINS:
            answered = await knock(site, row.method, path, caller, origin)
            problem = await told(site, answered, expected(site, row, caller, origin), vins)
            if problem:
                wrong.append(f"{row.method} {path}, {caller.name}, {origin.name}: {problem}")
    assert not wrong, f"{len(wrong)} cells differ:\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize("path", sorted({door.path for door in DOORS}))
async def test_other_methods_are_refused_to_all_alike(site: House, path: str) -> None:
    known = {method for door in DOORS if door.path == path for method in door.methods}
    at, wrong = path_at(site, path, path.replace("{vin}", HIT)), []
    for method in [method for method in METHODS if method not in known]:
        for caller in [caller for caller in site.callers if caller.differs]:
            for origin in ORIGINS:
                answered = await knock(site, method, at, caller, origin)
                stopped = stopped_by_datasette(caller, origin, method)
                problem = await told(site, answered, Cell(stopped or 405, None), set())
                if problem is None and not stopped and set(answered.headers["allow"].split(", ")) != known:
                    problem = f"{answered.headers['allow']} is said to be allowed"
                if problem:
                    wrong.append(f"{method} {path}, {caller.name}, {origin.name}: {problem}")
    assert not wrong, f"{len(wrong)} cells differ:\n" + "\n".join(wrong[:40])


async def test_the_table_has_every_door(site: House) -> None:
    doors = {(door.path, method) for door in DOORS for method in door.methods}
    assert {row.door for row in TABLE if row.path.startswith(OWN)} == doors


async def test_there_is_no_route_beside_the_doors(site: House) -> None:
    from vin_datasette.web import plugin

    routes = [pattern for pattern, _ in plugin.register_routes(site.datasette)]
    assert routes == [pattern for pattern, _ in registered(short=True)]
