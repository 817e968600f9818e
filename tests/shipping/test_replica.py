"""The cache comes back from Litestream's copy, with the very configuration that the compose file uses."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.conftest import clean_environment, fill_cache, numbered_vins, rows, serving, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vpic_server import VpicServer

ROOT = Path(__file__).parents[2]
LITESTREAM = Path(sys.executable).with_name("litestream")

pytestmark = pytest.mark.skipif(not LITESTREAM.exists(), reason="litestream is not installed, as its package is not")


class Replica:
    """A copy of the cache of one folder, kept and brought back as the services of the compose file do."""

    def __init__(self, folder: Path, copies: Path) -> None:
        composed = yaml.safe_load((ROOT / "deploy/compose.yml").read_text("utf-8"))
        self._commands = {name: composed["services"][name]["command"] for name in ("litestream", "restore")}
        self._environment = clean_environment(LITESTREAM_REPLICA_URL=copies.as_uri())
        self._folder = folder
        configuration = (ROOT / "deploy/litestream.yml").read_text("utf-8")
        self._configuration = folder / "litestream.yml"
        self._configuration.write_text(configuration.replace("/data/", f"{folder}/"), "utf-8")

    def _command(self, service: str) -> list[str]:
        command, *rest = (word.replace("/data/", f"{self._folder}/") for word in self._commands[service])
        return [str(LITESTREAM), command, "-config", str(self._configuration), *rest]

    def restore(self) -> None:
        """What is done before the server starts."""
        subprocess.run(self._command("restore"), env=self._environment, check=True, capture_output=True, timeout=60)

    @contextlib.contextmanager
    def kept(self) -> Iterator[subprocess.Popen[bytes]]:
        """Copy what is written, until the context ends."""
        process = subprocess.Popen(
            self._command("litestream"),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    (tmp_path / "data").mkdir()
    return Replica(tmp_path / "data", tmp_path / "copies")


def test_what_a_server_learnt_comes_back_on_a_new_machine(
    replica: Replica, vpic_server: VpicServer, tmp_path: Path
) -> None:
    data, vins = tmp_path / "data", numbered_vins(300)
    replica.restore()
    assert not (data / "vin.db").exists()

    with (
        serving(data, "--vpic-url", vpic_server.url, VIN_DATASETTE_RATE="1000") as served,
        replica.kept() as copying,
    ):
        until(lambda: [*(tmp_path / "copies").rglob("*.ltx")])
        # Posted in parts, so that the two processes write and checkpoint the one file in turns.
        for start in range(0, len(vins), 20):
            body = "\n".join(vins[start : start + 20]).encode()
            request = urllib.request.Request(f"{served.url}/lookup", body, {"Content-Type": "text/plain"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert b'"error"' not in answer.read()
        with urllib.request.urlopen(f"{served.url}/vin.json", timeout=60) as answer:
            shown = [table["name"] for table in json.load(answer)["tables"] if not table["hidden"]]
        assert not [name for name in shown if name.startswith("_")]
        # It is told to end, as by a machine that shuts down, and copies what it has not copied yet.
        copying.terminate()
        assert copying.wait(40) == 0
        # A machine that is lost stops nothing in order.
        served.process.kill()
        served.process.wait()
    shutil.rmtree(data)

    data.mkdir()
    Replica(data, tmp_path / "copies").restore()
    assert [row["vin"] for row in rows(data / "vin.db")] == sorted(vins)


def test_what_is_copied_while_nobody_ends_it_is_whole(replica: Replica, tmp_path: Path) -> None:
    source, copies = tmp_path / "data" / "vin.db", tmp_path / "copies"
    fill_cache(source, 500, record_bytes=1_000)
    expected = rows(source)

    def brought_back() -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            Replica(Path(folder), copies).restore()
            return rows(Path(folder) / "vin.db")

    with replica.kept():
        assert until(brought_back) == expected


def test_a_cache_that_is_there_is_left_as_it_is(replica: Replica, tmp_path: Path) -> None:
    path = tmp_path / "data" / "vin.db"
    fill_cache(path, 1)
    before = path.read_bytes()
    replica.restore()
    assert path.read_bytes() == before
