"""`/-/vin/live` and `/-/vin/ready`: what a supervisor and a load balancer ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.test_permissions import VISIBLE_TO_STAFF
from tests.test_posted import asking
from tests.vpic_server import Fault
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import MakeInstance
    from tests.vpic_server import VpicServer

PROBES = ["/-/vin/live", "/-/vin/ready"]


@pytest.mark.parametrize("probe", PROBES)
async def test_server_that_runs_lives_and_is_ready(make_instance: MakeInstance, probe: str) -> None:
    answer = await (await make_instance()).client.get(probe)
    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("probe", PROBES)
async def test_probes_are_for_everyone(make_instance: MakeInstance, probe: str) -> None:
    datasette = await make_instance(config=VISIBLE_TO_STAFF)
    assert (await datasette.client.get(probe)).status_code == 200


async def test_vpic_that_is_away_makes_nothing_unready(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    vpic_server.fail_always(Fault.status(503))
    datasette = await make_instance(asking(vpic_server, timeout=0.2))
    assert (await datasette.client.get("/lookup/1XP5DB9X7XD487964")).status_code == 503
    assert (await datasette.client.get("/-/vin/ready")).status_code == 200


async def test_cache_that_cannot_be_read_is_alive_and_not_ready(
    make_instance: MakeInstance, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datasette = await make_instance()
    state_of(datasette).lookup.cache.close()
    for name in ("vin.db-wal", "vin.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "vin.db").write_bytes(b"This is no database, and never was. " * 200)
    assert (await datasette.client.get("/-/vin/live")).status_code == 200
    answer = await datasette.client.get("/-/vin/ready")
    # Where the file is, is not for everyone.
    assert (answer.status_code, answer.json()) == (
        503,
        {"ok": False, "error": "The cache cannot be read; the log says why.", "status": 503, "title": None},
    )
    assert f"{tmp_path / 'vin.db'} cannot be used as a cache: file is not a database" in caplog.text


async def test_password_of_vpic_is_not_told(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"vpic_url": "http://fleet:secret@[::1]:9/api/"})
    answer = await datasette.client.get("/-/vin.json")
    assert answer.json()["vpic"]["url"] == "http://[::1]:9/api/"
