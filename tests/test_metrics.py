"""`/-/vin/metrics`: what Prometheus reads, by its own parser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import numbered_vins
from tests.test_limits import waiting
from tests.test_permissions import VISIBLE_TO_STAFF
from tests.test_posted import HONDA, PETERBILT, asking, lines, post
from tests.vpic_server import Fault
from vin_datasette import __version__

if TYPE_CHECKING:
    from datasette.app import Datasette

    from tests.conftest import MakeInstance
    from tests.vpic_server import VpicServer

REJECTED = "1XP5DB9X7XD487945"


async def measured(datasette: Datasette) -> dict[tuple[str, ...], float]:
    """All samples, by their names and the values of their labels."""
    answer = await datasette.client.get("/-/vin/metrics")
    assert answer.status_code == 200
    return {
        (sample.name.removeprefix("vin_datasette_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_lookups_are_counted_by_how_they_were_answered(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    for vin in (PETERBILT, PETERBILT, PETERBILT, REJECTED, "nonsense"):
        await datasette.client.get(f"/lookup/{vin}")
    found = await measured(datasette)
    assert {key: value for key, value in found.items() if key[0] == "lookups_total"} == {
        ("lookups_total", "miss", "vehicle"): 1,
        ("lookups_total", "hit", "vehicle"): 2,
        ("lookups_total", "miss", "rejection"): 1,
        ("lookups_total", "malformed", "rejection"): 1,
    }
    assert found["lookup_seconds_count", "hit"] == found["lookup_seconds_bucket", "hit", "+Inf"] == 2
    assert 0 < found["lookup_seconds_sum", "hit"] < 10
    assert found["records_total", "embedded"] == 2


async def test_page_list_and_refresh_are_counted_too(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    await datasette.client.get(f"/lookup?vin={PETERBILT}")
    lines(await post(datasette, [PETERBILT, HONDA]))
    await datasette.client.post(f"/-/vin/refresh/{PETERBILT}")
    found = await measured(datasette)
    assert (found["lookups_total", "miss", "vehicle"], found["lookups_total", "hit", "vehicle"]) == (2, 1)
    assert found["lookups_total", "refresh", "vehicle"] == 1
    # A list has no one time to its answer.
    assert found["lookup_seconds_count", "miss"] == 1


async def test_calls_to_vpic_are_counted_by_what_came_of_them(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server))
    vpic_server.fail_next(Fault.status(429))
    vpic_server.fail_next(Fault.status(503))
    vpic_server.fail_next(Fault.html_200)
    vpic_server.fail_next(Fault.close)
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 200
    vpic_server.fail_next(Fault.status(404))
    assert (await datasette.client.get(f"/lookup/{HONDA}")).status_code == 503
    found = await measured(datasette)
    assert {key[1]: value for key, value in found.items() if key[0] == "vpic_calls_total"} == {
        "rate_limited": 1,
        "server_error": 1,
        "nonsense": 1,
        "connection": 1,
        "answered": 1,
        "refused": 1,
    }
    assert found["vpic_call_seconds_count",] == 6
    assert found["lookups_total", "failed", "failure"] == 1


async def test_call_that_takes_too_long_is_a_timeout_and_opens_the_breaker(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server, timeout=0.1))
    assert (await measured(datasette))["breaker", "closed"] == 1
    vpic_server.fail_always(Fault.silence)
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 503
    found = await measured(datasette)
    assert found["vpic_calls_total", "timeout"] == 1
    assert [found["breaker", state] for state in ("closed", "open", "half-open")] == [0, 1, 0]


async def test_what_waits_and_what_is_turned_away_is_told(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(
        asking(vpic_server, lookup_concurrency=4, queue_length=2, concurrency=1, batch_size=1)
    )
    vpic_server.fail_always(Fault.silence)
    async with waiting(datasette, numbered_vins(4)):
        assert (await datasette.client.get(f"/lookup/{HONDA}")).status_code == 429
        found = await measured(datasette)
    assert (found["questions", "waiting"], found["questions", "in_flight"]) == (2, 2)
    assert found["under_way", "lookups"] == 4
    assert found["refused_total", "queue"] == 1


async def test_version_memory_descriptors_and_size_of_the_cache_are_told(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    found = await measured(datasette)
    assert found["info", __version__] == 1
    assert found["process_resident_memory_bytes",] > 1_000_000
    assert found["process_open_fds",] > 3
    assert found["cache_bytes", "database"] > 0


async def test_openmetrics_is_given_to_who_wants_it(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    answer = await datasette.client.get("/-/vin/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert "vin_datasette" in {family.name for family in read_openmetrics(answer.text)}


async def test_metrics_hold_no_vin(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    for vin in (PETERBILT, REJECTED, "1XP5DB9X7XD48796"):
        await datasette.client.get(f"/lookup/{vin}")
    assert "1XP5" not in (await datasette.client.get("/-/vin/metrics")).text


async def test_metrics_are_for_who_may_see_the_table(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config=VISIBLE_TO_STAFF)
    answer: Any = await datasette.client.get("/-/vin/metrics")
    assert (answer.status_code, answer.json()["error"]) == (403, "You may not see the vehicles: view-table is needed.")
    staff = {"ds_actor": datasette.sign({"a": {"id": "staff"}}, "actor")}
    assert (await datasette.client.get("/-/vin/metrics", cookies=staff)).status_code == 200
