"""A cached vehicle, by the route and by the short way past Datasette's router: the same answer, never an old one."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from datasette import hookimpl
from datasette.plugins import pm

from tests.conftest import DATASETTE_1, rows
from tests.test_permissions import VISIBLE_TO_STAFF
from tests.test_posted import HONDA, PETERBILT, asking
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx
    from datasette.app import Datasette

    from tests.conftest import MakeInstance
    from tests.vpic_server import VpicServer

REJECTED = "1XP5DB9X7XD487945"

BY_ROUTE = "?_=1"
"""What no short way takes."""


class Passed:
    """How often a request has come as far as Datasette's router, which looks for messages in every one."""

    def __init__(self, datasette: Datasette, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        unsign = datasette.unsign

        def counted(*arguments: Any, **more: Any) -> Any:
            self.times += 1
            return unsign(*arguments, **more)

        monkeypatch.setattr(datasette, "unsign", counted)


async def warm(datasette: Datasette) -> Datasette:
    """The instance, with a vehicle in its cache that was asked for by somebody before."""
    for _ in range(2):
        assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 200
    return datasette


def told(answer: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """All of an answer but the seconds since its record was fetched."""
    headers = {name: value for name, value in answer.headers.items() if name != "age"}
    return answer.status_code, {**headers, "age": str("age" in answer.headers)}, answer.content


async def both(datasette: Datasette, path: str, **headers: str) -> tuple[Any, Any]:
    """What a path is answered, the way that it takes by itself and by the route."""
    return (
        told(await datasette.client.get(path, headers=headers)),
        told(await datasette.client.get(f"{path}{BY_ROUTE}", headers=headers)),
    )


async def test_cached_vehicle_takes_the_short_way(make_instance: MakeInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    datasette = await warm(await make_instance())
    passed = Passed(datasette, monkeypatch)
    for path in (f"/lookup/{PETERBILT}", f"/-/vin/lookup/{PETERBILT}"):
        assert (await datasette.client.get(path)).json()["Cached Result?"] is True
    assert passed.times == 0
    assert (await datasette.client.get(f"/lookup/{PETERBILT}{BY_ROUTE}")).status_code == 200
    assert passed.times == 1


@pytest.mark.parametrize(
    "headers",
    [{}, {"if-none-match": '"other"'}, {"if-none-match": "*"}, {"if-none-match": "known"}, {"accept": "text/html"}],
    ids=["plain", "another tag", "any tag", "its tag", "a browser"],
)
@pytest.mark.parametrize("cors", [False, True], ids=["", "cors"])
async def test_both_ways_give_the_same_answer(make_instance: MakeInstance, headers: dict[str, str], cors: bool) -> None:
    datasette = await warm(await make_instance(cors=cors))
    if headers.get("if-none-match") == "known":
        answer = await datasette.client.get(f"/lookup/{PETERBILT}")
        headers = {"if-none-match": f"W/{answer.headers['etag']}"}
    short, route = await both(datasette, f"/lookup/{PETERBILT}", **headers)
    assert short == route
    assert short[0] == (304 if headers.get("if-none-match", '"other"') != '"other"' else 200)


async def test_short_way_holds_under_a_base_url(make_instance: MakeInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    datasette = await make_instance(settings={"base_url": "/fleet/"})
    await warm(datasette)
    passed = Passed(datasette, monkeypatch)
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).json()["Cached Result?"] is True
    assert passed.times == 0


async def test_short_routes_that_are_off_are_no_short_way(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"short_routes": False})
    for _ in range(2):
        await datasette.client.get(f"/-/vin/lookup/{PETERBILT}")
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 404


# What has changed is seen by the next request


async def test_removal_by_another_process_is_seen_at_once(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    datasette = await warm(await make_instance(asking(vpic_server)))
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("DELETE FROM vehicles")
        connection.commit()
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).json()["Cached Result?"] is False


async def test_what_another_process_writes_is_seen_at_once(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await warm(await make_instance())
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute(
            'UPDATE vehicles SET model = \'389\', record = replace(record, \'"Model":"379"\', \'"Model":"389"\')'
        )
        connection.commit()
    short, route = await both(datasette, f"/lookup/{PETERBILT}")
    assert short == route
    assert b'"Model": "389"' in short[2]


async def test_columns_that_say_something_else_than_the_record_are_not_believed(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    datasette = await warm(await make_instance())
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("UPDATE vehicles SET model_year = 2001")
        connection.commit()
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).json()["Model Year"] == "1999"


@pytest.mark.parametrize("path", ["/lookup/{}", f"/lookup/{{}}{BY_ROUTE}"], ids=["short way", "route"])
async def test_what_is_remembered_is_not_read_again(make_instance: MakeInstance, path: str) -> None:
    datasette = await warm(await make_instance())
    reads = reads_of(datasette)
    assert (await datasette.client.get(path.format(PETERBILT))).json()["Cached Result?"] is True
    assert not any("vehicles" in sql for sql in reads)


async def test_with_nothing_remembered_each_hit_is_read(make_instance: MakeInstance) -> None:
    datasette = await warm(await make_instance({"memory_hits": 0}))
    reads = reads_of(datasette)
    for _ in range(2):
        assert (await datasette.client.get(f"/lookup/{PETERBILT}")).json()["Cached Result?"] is True
    assert sum("vehicles" in sql for sql in reads) == 2


def reads_of(datasette: Datasette) -> list[str]:
    """The SQL that is run from now on to find what is cached."""
    said: list[str] = []
    reader, _ = state_of(datasette).lookup.cache._open()
    reader.set_trace_callback(said.append)
    return said


async def test_more_hits_than_are_remembered_are_each_their_own(make_instance: MakeInstance) -> None:
    datasette = await warm(await make_instance({"memory_hits": 1}))
    for _ in range(3):
        for vin in (PETERBILT, HONDA, PETERBILT.lower()):
            answer = (await datasette.client.get(f"/lookup/{vin}")).json()
            assert answer["Input VIN Requested"] == vin.upper()


async def test_removal_by_the_route_is_seen_at_once(make_instance: MakeInstance) -> None:
    datasette = await warm(await make_instance({"allow_remove": True}))
    assert (await datasette.client.post(f"/remove/{PETERBILT}")).json() is True
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).json()["Cached Result?"] is False


async def test_another_file_in_the_place_of_the_cache_is_seen(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await warm(await make_instance())
    with (
        closing(sqlite3.connect(tmp_path / "vin.db")) as connection,
        closing(sqlite3.connect(tmp_path / "other.db")) as other,
    ):
        connection.backup(other)
        other.execute("DELETE FROM vehicles")
        other.commit()
    (tmp_path / "other.db").replace(tmp_path / "vin.db")
    for _ in range(1000):
        if not (await datasette.client.get(f"/lookup/{PETERBILT}")).json()["Cached Result?"]:
            return
        await asyncio.sleep(0.02)
    pytest.fail("The file that is no longer there still answers")


async def test_remembered_vehicle_grows_stale(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await warm(await make_instance(asking(vpic_server, max_age="2s")))
    for _ in range(1000):
        answer = await datasette.client.get(f"/lookup/{PETERBILT}")
        assert answer.json()["Cached Result?"] is True
        if answer.headers["cache-status"] == "vin-datasette; hit; ttl=0":
            return
        await asyncio.sleep(0.02)
    pytest.fail("A vehicle that is too old is answered as a fresh one")


async def test_stale_vehicle_is_asked_about_anew(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await warm(await make_instance(asking(vpic_server, max_age="0s")))
    answer = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert answer.headers["cache-status"] == "vin-datasette; hit; ttl=0"
    while len(vpic_server.calls) < 2:
        await asyncio.sleep(0.002)


async def test_rejection_is_told_as_by_the_route(make_instance: MakeInstance) -> None:
    datasette = await warm(await make_instance())
    await datasette.client.get(f"/lookup/{REJECTED}")
    short, route = await both(datasette, f"/lookup/{REJECTED}")
    assert short == route
    assert short[0] == 404


# Who may not see it


async def test_who_may_not_see_the_vehicles_gets_none(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config=VISIBLE_TO_STAFF)
    await state_of(datasette).lookup.answer(PETERBILT)
    staff = {"ds_actor": datasette.sign({"a": {"id": "staff"}}, "actor")}
    for _ in range(2):
        assert (await datasette.client.get(f"/lookup/{PETERBILT}", cookies=staff)).status_code == 200
        assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 403


@contextmanager
def plugged_in(plugin: object) -> Iterator[None]:
    """Another plugin, for a while."""
    pm.register(plugin, name="tests.another")
    try:
        yield
    finally:
        pm.unregister(name="tests.another")


class Barring:
    """A plugin that lets nobody see a table."""

    if DATASETTE_1:

        @hookimpl
        def permission_resources_sql(self, action: str) -> Any:
            from datasette.permissions import PermissionSQL

            return PermissionSQL.deny(reason="closed") if action == "view-table" else None

    else:

        @hookimpl
        def permission_allowed(self, action: str) -> bool | None:
            return False if action == "view-table" else None


async def test_permissions_of_another_plugin_count_as_soon_as_it_is_there(make_instance: MakeInstance) -> None:
    datasette = await warm(await make_instance())
    with plugged_in(Barring()):
        assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 403
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 200


class Naming:
    """A plugin that knows somebody by neither a cookie nor a token."""

    @hookimpl
    def actor_from_request(self) -> dict[str, str]:
        return {"id": "guest"}


async def test_somebody_whom_another_plugin_knows_is_not_taken_for_nobody(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"allow": {"unauthenticated": True}}}})
    await warm(datasette)
    with plugged_in(Naming()):
        assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 403


class Wrapping:
    """A plugin that adds a header to every answer."""

    __name__ = "tests.wrapping"

    @hookimpl
    def asgi_wrapper(self) -> Any:
        def wrapper(app: Any) -> Any:
            async def application(scope: Any, receive: Any, send: Any) -> None:
                async def sent(message: dict[str, Any]) -> None:
                    if message["type"] == "http.response.start":
                        message = {**message, "headers": [*message["headers"], (b"x-wrapped", b"yes")]}
                    await send(message)

                await app(scope, receive, sent)

            return application

        return wrapper


async def test_wrappers_of_other_plugins_stand_around_the_short_way(make_instance: MakeInstance) -> None:
    with plugged_in(Wrapping()):
        datasette = await warm(await make_instance())
        short, route = await both(datasette, f"/lookup/{PETERBILT}")
    assert short == route
    assert short[1]["x-wrapped"] == "yes"


async def test_damaged_row_is_asked_about_anew(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    datasette = await warm(await make_instance(asking(vpic_server)))
    await datasette.client.get(f"/lookup/{HONDA}")
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("UPDATE vehicles SET record = substr(record, 1, 100) WHERE vin = ?", [PETERBILT])
        connection.commit()
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).json()["Cached Result?"] is False
    assert len(rows(tmp_path / "vin.db")) == 2
