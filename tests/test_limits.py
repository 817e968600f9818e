"""More than a server takes on: refused in words, while those that are known are answered as ever."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from statistics import median
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.conftest import numbered_vins, rows, serving
from tests.test_posted import HONDA, PETERBILT, Conversation, asking, lines, post, refusal
from tests.vpic_server import Fault, VpicServer
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance

AWAY = Fault.silence


@asynccontextmanager
async def waiting(datasette: Datasette, vins: Sequence[str]) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """Lookups that are under way; ended with the context."""
    lookups = [asyncio.ensure_future(datasette.client.get(f"/lookup/{vin}")) for vin in vins]
    state = state_of(datasette)
    while state.asking.taken < min(len(vins), state.settings.lookup_concurrency):
        await asyncio.sleep(0.002)
    try:
        yield lookups
    finally:
        for lookup in lookups:
            lookup.cancel()
        await asyncio.gather(*lookups, return_exceptions=True)


@pytest.fixture
async def full(make_instance: MakeInstance, vpic_server: VpicServer) -> Datasette:
    """An instance that takes on two lookups, with a vehicle in its cache and a vPIC that is silent."""
    datasette = await make_instance(asking(vpic_server, lookup_concurrency=2))
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 200
    vpic_server.fail_always(AWAY)
    return datasette


async def test_one_lookup_too_many_is_told_to_come_again(full: Datasette, vpic_server: VpicServer) -> None:
    async with waiting(full, numbered_vins(2)):
        answer = await full.client.get(f"/lookup/{HONDA}")
        assert refusal(answer) == (
            429,
            "2 lookups wait for a source, as many as are allowed; try again in 2 seconds.",
        )
        assert answer.headers["retry-after"] == "2"
    assert HONDA not in [vin for call in vpic_server.calls for vin in call.vins]


async def test_page_says_that_too_many_are_looking_up(full: Datasette) -> None:
    async with waiting(full, numbered_vins(2)):
        answer = await full.client.get(f"/lookup?vin={HONDA}")
    assert answer.status_code == 429
    assert "2 lookups wait for a source, as many as are allowed" in answer.text


async def test_refresh_takes_a_place_too(full: Datasette) -> None:
    async with waiting(full, numbered_vins(2)):
        answer = await full.client.post(f"/-/vin/refresh/{PETERBILT}")
    assert refusal(answer)[0] == 429


async def test_what_is_cached_is_answered_while_all_places_are_taken(full: Datasette) -> None:
    async with waiting(full, numbered_vins(2)):
        assert (await full.client.get(f"/lookup/{PETERBILT}")).json()["Cached Result?"] is True
        assert (await full.client.get("/lookup/nonsense")).status_code == 404


async def test_place_is_free_again_when_its_lookup_has_ended(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server, lookup_concurrency=1, timeout=0.2))
    vpic_server.fail_next(AWAY)
    assert (await datasette.client.get(f"/lookup/{HONDA}")).status_code == 503
    state_of(datasette).lookup._sources.breaker.succeeded()
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 200


async def test_no_more_are_taken_on_while_the_queue_is_full(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server, queue_length=3, concurrency=1, batch_size=1))
    vpic_server.fail_always(AWAY)
    # Two are sent, as one call may be prepared while another is in flight, and three wait.
    async with waiting(datasette, numbered_vins(5)):
        while state_of(datasette).lookup.waiting < 3:
            await asyncio.sleep(0.002)
        words = "3 VINs wait for their turn to be asked about, as many as are allowed; try again in 2 seconds."
        for answer in (await datasette.client.get(f"/lookup/{HONDA}"), await post(datasette, [HONDA])):
            assert refusal(answer) == (429, words)
            assert answer.headers["retry-after"] == "2"


async def test_who_may_not_ask_gets_what_is_cached_however_full_the_queue_is(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(
        asking(vpic_server, queue_length=1, concurrency=1, batch_size=1, allow_lookup={"id": "staff"})
    )
    state = state_of(datasette)
    await state.lookup.answer(PETERBILT)
    vpic_server.fail_always(AWAY)
    asked = [asyncio.ensure_future(state.lookup.answer(vin)) for vin in numbered_vins(3)]
    while state.lookup.waiting < 1:
        await asyncio.sleep(0.002)
    [line] = lines(await post(datasette, [PETERBILT]))
    assert line["Cached Result?"] is True
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def test_body_that_does_not_come_is_given_up(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"body_timeout": "0.1s"})
    conversation = Conversation(datasette)
    conversation.say(b'["1XP5', more=True)
    assert await conversation.status() == 408
    assert (await conversation.line())["error"] == "The request was not whole after 0.1 seconds."
    await conversation.ended()


def test_hits_stay_fast_in_a_flood_of_misses(tmp_path: Path) -> None:
    with VpicServer() as server:
        options = ("--vpic-url", server.url)
        settings = {"LOOKUP_CONCURRENCY": "20", "SOURCE": "vpic", "TIMEOUT": "1.5"}
        variables = {f"VIN_DATASETTE_{name}": value for name, value in settings.items()}
        with serving(tmp_path, *options, **variables) as served, httpx.Client(base_url=served.url) as reader:
            assert reader.get(f"/lookup/{PETERBILT}").status_code == 200
            server.fail_always(AWAY)
            statuses, times = asyncio.run(_flood(served.url, reader))
    assert statuses[429] > 0
    assert set(statuses) <= {429, 503}
    assert median(times) < 0.5
    assert len(rows(tmp_path / "vin.db")) == 1


async def _flood(url: str, reader: httpx.Client) -> tuple[dict[int, int], list[float]]:
    """How 200 misses at once were answered, and how long hits took meanwhile."""
    statuses: dict[int, int] = {}
    times = []

    async def miss(vin: str) -> None:
        status = (await client.get(f"/lookup/{vin}")).status_code
        statuses[status] = statuses.get(status, 0) + 1

    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        flood = [asyncio.ensure_future(miss(vin)) for vin in numbered_vins(200)]
        for _ in range(20):
            began = time.monotonic()
            answer = await asyncio.to_thread(reader.get, f"/lookup/{PETERBILT}")
            times.append(time.monotonic() - began)
            assert answer.json()["Cached Result?"] is True
        await asyncio.gather(*flood)
    return statuses, times
