"""Several servers over one cache file behave as one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.conftest import Served, numbered_vins, serving
from tests.vpic_server import VpicServer

if TYPE_CHECKING:
    from collections.abc import Iterator

VINS = [str(vin) for vin in numbered_vins(60)]
WRONG = "1XP5DB9X7XD487945"


@pytest.fixture(scope="module")
def vpic() -> Iterator[VpicServer]:
    with VpicServer() as server:
        yield server


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory, vpic: VpicServer) -> Iterator[list[httpx.Client]]:
    """Three servers that were started at once, over a file that was not there yet."""
    folder = tmp_path_factory.mktemp("workers")
    options = ["--vpic-url", vpic.url, "--source", "vpic", "--no-access-log"]
    variables = {"VIN_DATASETTE_RATE": "1000", "DATASETTE_SECRET": "one"}
    with ExitStack() as held, ThreadPoolExecutor(3) as pool:
        started = pool.map(lambda _: held.enter_context(serving(folder, *options, **variables)), range(3))
        servers: list[Served] = list(started)
        yield [held.enter_context(httpx.Client(base_url=server.url, timeout=30)) for server in servers]


def status(worker: httpx.Client, vin: str) -> str:
    return worker.get(f"/lookup/{vin}").headers["cache-status"]


def test_what_one_has_asked_all_know(workers: list[httpx.Client], vpic: VpicServer) -> None:
    one, *others = workers
    assert "fwd=uri-miss" in status(one, VINS[0])
    before = len(vpic.calls)
    bodies = {worker.get(f"/lookup/{VINS[0]}").text for worker in workers}
    assert [status(worker, VINS[0]) for worker in others] == ["vin-datasette; hit"] * 2
    assert len(bodies) == 1
    assert len(vpic.calls) == before


def test_what_one_removes_no_other_has_any_longer(workers: list[httpx.Client]) -> None:
    one, other, third = workers
    for remover, asked in ((one, other), (other, third), (third, one)) * 5:
        asked.get(f"/lookup/{VINS[1]}")
        assert status(asked, VINS[1]) == "vin-datasette; hit"
        assert remover.post(f"/remove/{VINS[1]}").json() is True
        assert "fwd=uri-miss" in status(asked, VINS[1])


def test_what_one_asks_anew_all_answer_with(workers: list[httpx.Client], vpic: VpicServer) -> None:
    one, other, _ = workers
    former = other.get(f"/lookup/{VINS[2]}")
    vpic.records[VINS[2]] = {**vpic.records.get(VINS[2], {}), "VIN": VINS[2], "Make": "RENAMED", "ErrorCode": "0"}
    assert one.post(f"/-/vin/refresh/{VINS[2]}").status_code == 200
    now = other.get(f"/lookup/{VINS[2]}", headers={"if-none-match": former.headers["etag"]})
    assert now.json()["Make"] == "RENAMED"


def test_a_rejection_is_known_to_all(workers: list[httpx.Client], vpic: VpicServer) -> None:
    assert workers[0].get(f"/lookup/{WRONG}").status_code == 404
    before = len(vpic.calls)
    assert [worker.get(f"/lookup/{WRONG}").status_code for worker in workers] == [404] * 3
    assert len(vpic.calls) == before


def test_a_list_given_to_one_is_shown_by_all(workers: list[httpx.Client]) -> None:
    one, *others = workers
    one.post("/lookup", json=VINS)
    kept = one.post("/-/vin/lists", json=VINS).json()
    pages = [worker.get(f"/vin/vehicles.json?_list={kept['list']}&_shape=array&_size=max").json() for worker in others]
    assert [sorted(row["vin"] for row in page) for page in pages] == [sorted(VINS)] * 2


def test_a_list_asked_of_all_at_once_is_answered_whole_by_each(workers: list[httpx.Client]) -> None:
    fresh = [str(vin) for vin in numbered_vins(400)[100:]]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda worker: worker.post("/lookup", json=fresh).text.splitlines(), workers))
    assert [len(answer) for answer in answers] == [300] * 3
    assert workers[0].get("/-/vin.json").json()["rows"] == workers[2].get("/-/vin.json").json()["rows"]
