"""Who may do what, on both Datasettes, and which requests may change nothing whoever sends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import DATASETTE_1, rows, serving
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance, Served
    from tests.vpic_server import VpicServer

PETERBILT, HONDA = "1XP5DB9X7XD487964", "1HGCM82633A004352"
SOMEBODY, STAFF, REMOVER, ROOT = ({"id": name} for name in ("somebody", "staff", "remover", "root"))
VISIBLE_TO_STAFF = {"databases": {"vin": {"allow": {"id": "staff"}}}}

only_datasette_1 = pytest.mark.skipif(not DATASETTE_1, reason="Datasette 0.65 has nothing of the kind")


async def with_cached(datasette: Datasette) -> Datasette:
    """The instance, with one vehicle in its cache."""
    datasette.root_enabled = True
    await state_of(datasette).lookup.answer(PETERBILT)
    return datasette


async def send(datasette: Datasette, method: str, path: str, actor: Mapping[str, Any] | None = None) -> Any:
    """What an actor, known by Datasette's own signed cookie, is answered."""
    cookies, headers = {}, {}
    if actor:
        cookies["ds_actor"] = datasette.sign({"a": actor}, "actor")
        if not DATASETTE_1:
            # 0.65 wants the token of its own forms with every write that comes with a cookie.
            form = await datasette.client.get("/-/logout", cookies=cookies)
            headers["x-csrftoken"] = cookies["ds_csrftoken"] = form.cookies["ds_csrftoken"]
    return await datasette.client.request(method, path, cookies=cookies, headers=headers)


REQUESTS = {
    "cached": ("GET", f"/lookup/{PETERBILT}"),
    "uncached": ("GET", f"/lookup/{HONDA}"),
    "export": ("GET", "/export"),
    "page": ("GET", "/lookup"),
    "state": ("GET", "/-/vin.json"),
    "remove": ("POST", f"/remove/{PETERBILT}"),
}

EVERYTHING = dict.fromkeys(REQUESTS, 200)
NOTHING = dict.fromkeys(REQUESTS, 403)
ALL_BUT_REMOVE = {**EVERYTHING, "remove": 403}

FOR_REMOVER = {"allow_remove": {"id": ["remover"]}}
ONLY_CACHED = {"allow_lookup": False}
NO_EXPORT = {"allow_export": {"id": "somebody"}}
ALL_BUT_UNCACHED_AND_REMOVE = {**ALL_BUT_REMOVE, "uncached": 403}
ALL_BUT_EXPORT_AND_REMOVE = {**ALL_BUT_REMOVE, "export": 403}

EXPECTED: dict[str, tuple[Mapping[str, str] | None, Mapping[str, object], dict[str, int], dict[str, int]]] = {
    # caller: actor, settings of the plugin, what is answered when all may see the table, and when only staff may
    "anonymous": (None, {}, ALL_BUT_REMOVE, NOTHING),
    "somebody": (SOMEBODY, {}, ALL_BUT_REMOVE, NOTHING),
    "staff": (STAFF, {}, ALL_BUT_REMOVE, ALL_BUT_REMOVE),
    "root": (ROOT, {}, EVERYTHING, NOTHING),
    "remover, allowed by name": (REMOVER, FOR_REMOVER, EVERYTHING, NOTHING),
    "staff, not allowed by name": (STAFF, FOR_REMOVER, ALL_BUT_REMOVE, ALL_BUT_REMOVE),
    "root, not allowed by name": (ROOT, FOR_REMOVER, ALL_BUT_REMOVE, NOTHING),
    "anonymous, all may remove": (None, {"allow_remove": True}, EVERYTHING, NOTHING),
    "staff, all may remove": (STAFF, {"allow_remove": True}, EVERYTHING, EVERYTHING),
    "anonymous, nobody may look up": (None, ONLY_CACHED, ALL_BUT_UNCACHED_AND_REMOVE, NOTHING),
    "somebody, nobody may look up": (SOMEBODY, ONLY_CACHED, ALL_BUT_UNCACHED_AND_REMOVE, NOTHING),
    "staff, may not export": (STAFF, NO_EXPORT, ALL_BUT_EXPORT_AND_REMOVE, ALL_BUT_EXPORT_AND_REMOVE),
}


@pytest.mark.parametrize("caller", EXPECTED)
@pytest.mark.parametrize("visible_to", ["all", "staff"])
async def test_who_may_do_what(make_instance: MakeInstance, caller: str, visible_to: str) -> None:
    actor, settings, *expected = EXPECTED[caller]
    config = VISIBLE_TO_STAFF if visible_to == "staff" else {}
    datasette = await with_cached(await make_instance(settings, config))
    answers = {name: await send(datasette, *request, actor) for name, request in REQUESTS.items()}
    statuses = {name: answer.status_code for name, answer in answers.items()}
    assert statuses == expected[visible_to == "staff"]


@pytest.mark.parametrize(
    ("request_name", "words"),
    [
        ("uncached", "vin-lookup is needed"),
        ("export", "vin-export is needed"),
        ("remove", "vin-remove is needed"),
    ],
)
async def test_refusal_names_the_permission_that_is_needed(
    make_instance: MakeInstance, request_name: str, words: str
) -> None:
    nobody = {"allow_lookup": False, "allow_remove": False, "allow_export": False}
    datasette = await with_cached(await make_instance(nobody))
    response = await send(datasette, *REQUESTS[request_name])
    answer = response.json()
    assert list(answer) == ["ok", "error", "status", "title"]
    assert (answer["ok"], answer["status"]) == (False, 403)
    assert words in answer["error"]


async def test_refused_removal_removes_nothing(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await with_cached(await make_instance())
    await send(datasette, *REQUESTS["remove"], SOMEBODY)
    assert [row["vin"] for row in rows(tmp_path / "vin.db")] == [PETERBILT]


# Callers who may see what is cached, and look up nothing else


@pytest.fixture
async def only_cached(make_instance: MakeInstance, vpic_server: VpicServer) -> Datasette:
    """An instance with one vehicle, in which nobody may look up another."""
    settings = {**ONLY_CACHED, "source": "vpic", "vpic_url": vpic_server.url}
    datasette = await with_cached(await make_instance(settings))
    vpic_server.reset()
    return datasette


async def test_hit_is_served_to_who_may_not_look_up(only_cached: Datasette) -> None:
    response = await only_cached.client.get(f"/lookup/{PETERBILT}")
    assert response.json()["Cached Result?"] is True


async def test_vpic_is_not_called_for_who_may_not_look_up(only_cached: Datasette, vpic_server: VpicServer) -> None:
    for path in (f"/lookup/{HONDA}", f"/lookup?vin={HONDA}", f"/-/vin/lookup/{HONDA}"):
        await only_cached.client.get(path)
    assert vpic_server.calls == []


async def test_page_says_that_one_may_not_look_up(only_cached: Datasette) -> None:
    response = await only_cached.client.get(f"/lookup?vin={HONDA}")
    assert response.status_code == 403
    assert "This VIN is not cached, and you may not look up others: vin-lookup is needed." in response.text


async def test_page_leads_who_may_not_look_up_to_what_is_cached(only_cached: Datasette) -> None:
    response = await only_cached.client.get(f"/lookup?vin={PETERBILT}")
    assert response.headers["location"] == f"/vin/vehicles/{PETERBILT}"


async def test_malformed_vin_is_404_for_who_may_not_look_up(only_cached: Datasette) -> None:
    response = await only_cached.client.get("/lookup/nonsense")
    assert response.status_code == 404


# Callers who may not see the table


async def test_nothing_is_said_of_the_cache_to_who_may_not_see_it(make_instance: MakeInstance) -> None:
    datasette = await with_cached(await make_instance({"allow_remove": True}, VISIBLE_TO_STAFF))
    cached = [(await send(datasette, "GET", f"/lookup/{vin}")).text for vin in (PETERBILT, HONDA)]
    malformed = (await send(datasette, "GET", "/lookup/nonsense")).text
    assert {*cached, malformed} == {cached[0]}


@pytest.mark.parametrize("config", [{"allow": {"id": "staff"}}, VISIBLE_TO_STAFF])
@pytest.mark.parametrize(("actor", "shown"), [(None, False), (STAFF, True)])
async def test_menu_leads_only_those_to_the_page_who_may_see_the_table(
    make_instance: MakeInstance, config: Mapping[str, object], actor: Mapping[str, str] | None, shown: bool
) -> None:
    datasette = await make_instance({}, config)
    response = await send(datasette, "GET", "/", actor)
    assert ('href="/-/vin/lookup"' in response.text) is shown


async def test_allow_block_of_the_table_alone_counts(make_instance: MakeInstance) -> None:
    config = {"databases": {"vin": {"tables": {"vehicles": {"allow": {"id": "staff"}}}}}}
    datasette = await with_cached(await make_instance({}, config))
    answers = [await send(datasette, *REQUESTS["cached"], actor) for actor in (None, STAFF)]
    assert [answer.status_code for answer in answers] == [403, 200]


# What only Datasette 1.0 has


@only_datasette_1
@pytest.mark.parametrize("where", ["instance", "database", "table"])
async def test_permissions_block_lets_somebody_remove(make_instance: MakeInstance, where: str) -> None:
    block: dict[str, object] = {"permissions": {"vin-remove": {"id": "somebody"}}}
    config: dict[str, dict[str, object]] = {
        "instance": block,
        "database": {"databases": {"vin": block}},
        "table": {"databases": {"vin": {"tables": {"vehicles": block}}}},
    }
    datasette = await with_cached(await make_instance({}, config[where]))
    answers = [await send(datasette, *REQUESTS["remove"], actor) for actor in (None, STAFF, SOMEBODY)]
    assert [answer.status_code for answer in answers] == [403, 403, 200]


@only_datasette_1
async def test_permissions_block_keeps_others_from_looking_up(make_instance: MakeInstance) -> None:
    datasette = await with_cached(await make_instance({}, {"permissions": {"vin-lookup": {"id": "somebody"}}}))
    answers = [await send(datasette, *REQUESTS["uncached"], actor) for actor in (None, SOMEBODY)]
    assert [answer.status_code for answer in answers] == [403, 200]


@only_datasette_1
async def test_restricted_token_may_do_no_more_than_it_says(make_instance: MakeInstance) -> None:
    datasette = await with_cached(await make_instance({"allow_remove": True}))
    restricted = {"id": "root", "_r": {"a": ["view-instance", "view-database", "view-table"]}}
    answers = {name: await send(datasette, *request, restricted) for name, request in REQUESTS.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == {
        **EVERYTHING,
        "uncached": 403,
        "export": 403,
        "remove": 403,
    }


# Writes from elsewhere


@pytest.fixture
async def open_to_all(make_instance: MakeInstance) -> Datasette:
    """An instance with one vehicle, in which everybody may do everything."""
    return await with_cached(await make_instance({"allow_remove": True}, cors=True))


FROM_ELSEWHERE = {
    "a page of another site": {"Sec-Fetch-Site": "cross-site"},
    "a page of a sister site": {"Sec-Fetch-Site": "same-site"},
    "a page of another site that hides where it is": {"Sec-Fetch-Site": "cross-site", "Origin": "null"},
    "a page of another host": {"Origin": "http://elsewhere.example"},
    "a page of another port": {"Origin": "http://localhost:8002"},
    "a page of a host that begins alike": {"Origin": "http://localhost.elsewhere.example"},
    "a page of a host that ends alike": {"Origin": "http://notlocalhost"},
    "a page with a user's name": {"Origin": "http://localhost@elsewhere.example"},
    "a page without an origin": {"Origin": "null"},
    "a page of a broken origin": {"Origin": "http://[localhost"},
    "a page of a port that is none": {"Origin": "http://localhost:http"},
    "a page under a rebound name": {"Host": "elsewhere.example", "Origin": "http://elsewhere.example"},
    "a rebound name": {"Host": "elsewhere.example"},
    "a rebound name that begins alike": {"Host": "localhost.elsewhere.example"},
    "a rebound name that looks like an address": {"Host": "127.0.0.1.elsewhere.example"},
    "a rebound name with a port": {"Host": "elsewhere.example:8001"},
}


@pytest.mark.parametrize("method", ["POST", "DELETE"])
async def test_requests_from_elsewhere_are_refused(open_to_all: Datasette, method: str) -> None:
    answers = {
        name: await open_to_all.client.request(method, f"/remove/{PETERBILT}", headers=headers)
        for name, headers in FROM_ELSEWHERE.items()
    }
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(FROM_ELSEWHERE, 403)


async def test_requests_from_elsewhere_remove_nothing(open_to_all: Datasette, tmp_path: Path) -> None:
    removed = []
    for name, headers in FROM_ELSEWHERE.items():
        for path in (f"/remove/{PETERBILT}", f"/-/vin/remove/{PETERBILT}"):
            await open_to_all.client.post(path, headers=headers)
        if not rows(tmp_path / "vin.db"):
            removed.append(name)
            await state_of(open_to_all).lookup.answer(PETERBILT)
    assert removed == []


async def test_request_of_root_from_elsewhere_is_refused(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await with_cached(await make_instance())
    cookies = {"ds_actor": datasette.sign({"a": ROOT}, "actor")}
    path, headers = f"/remove/{PETERBILT}", {"Sec-Fetch-Site": "cross-site"}
    response = await datasette.client.post(path, cookies=cookies, headers=headers)
    assert (response.status_code, len(rows(tmp_path / "vin.db"))) == (403, 1)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Host": "127.0.0.1:8001", "Origin": "http://127.0.0.1:8001"},
        {"Host": "[::1]:8001", "Origin": "http://[::1]:8001"},
    ],
)
async def test_request_from_here_removes(open_to_all: Datasette, headers: dict[str, str]) -> None:
    response = await open_to_all.client.post(f"/remove/{PETERBILT}", headers=headers)
    assert (response.status_code, response.text) == (200, "true")


# The same on a real server, bound to loopback, that is also known as fleet.example


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, "--source", "embedded", VIN_DATASETTE_HOSTS="fleet.example") as server:
        yield server


def remove(served: Served, headers: Mapping[str, str], vin: str = PETERBILT) -> httpx.Response:
    """What a request to remove a vehicle that is cached is answered."""
    httpx.get(f"{served.url}/lookup/{vin}", timeout=20)
    return httpx.post(f"{served.url}/remove/{vin}", headers=headers, timeout=20)


def is_cached(served: Served, vin: str = PETERBILT) -> bool:
    return bool(httpx.get(f"{served.url}/lookup/{vin}", timeout=20).json()["Cached Result?"])


@pytest.mark.parametrize("headers", FROM_ELSEWHERE.values(), ids=FROM_ELSEWHERE)
def test_server_on_loopback_removes_nothing_for_requests_from_elsewhere(
    served: Served, headers: Mapping[str, str]
) -> None:
    assert remove(served, headers).status_code == 403
    assert is_cached(served)


def test_server_on_loopback_says_which_setting_makes_a_host_known(served: Served) -> None:
    answer = remove(served, {"Host": "elsewhere.example:8001"}).json()
    assert answer["error"] == ("A server bound to loopback is not known as elsewhere.example; see the setting hosts.")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8001", "127.0.0.1", "127.0.0.2:80", "[::1]:8001"])
def test_server_on_loopback_is_known_by_every_name_of_loopback(served: Served, host: str) -> None:
    assert remove(served, {"Host": host}).text == "true"


@pytest.mark.parametrize("host", ["fleet.example", "Fleet.Example:443", "fleet.example."])
def test_server_on_loopback_is_known_by_the_names_in_its_settings(served: Served, host: str) -> None:
    assert remove(served, {"Host": host}).text == "true"


def test_server_known_by_a_name_still_refuses_pages_of_other_sites(served: Served) -> None:
    response = remove(served, {"Host": "fleet.example", "Origin": "http://elsewhere.example"})
    assert response.status_code == 403


def test_page_of_the_server_itself_may_remove(served: Served) -> None:
    response = remove(served, {"Origin": served.url, "Sec-Fetch-Site": "same-origin"})
    assert response.text == "true"


# A server that other machines reach


@pytest.mark.parametrize(
    ("hosts", "host", "status"),
    [
        ([], "fleet.example", 200),
        (["fleet.example"], "fleet.example", 200),
        (["fleet.example"], "127.0.0.1:8001", 200),
        (["fleet.example"], "elsewhere.example", 403),
    ],
)
async def test_names_in_the_settings_are_the_only_ones_wherever_the_server_is_bound(
    make_instance: MakeInstance, hosts: list[str], host: str, status: int
) -> None:
    datasette = await make_instance({"hosts": hosts, "allow_remove": True})
    app = bound_to("192.0.2.1", datasette.app())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}") as client:
        assert (await client.delete(f"/remove/{PETERBILT}")).status_code == status
        assert (await client.get(f"/lookup/{PETERBILT}")).status_code == status


def bound_to(address: str, app: Any) -> Any:
    """The application as a server at this address runs it."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await app({**scope, "server": (address, 8001)}, receive, send)

    return application
