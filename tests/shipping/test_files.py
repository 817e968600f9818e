"""What the files that a server is set up with promise: who may write what, and what is reached from where."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
from importlib.metadata import requires
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from packaging.requirements import Requirement

from vin_datasette import __version__
from vin_datasette.settings import Settings
from vin_datasette.web.shutdown import STRAGGLING

ROOT = Path(__file__).parents[2]
FIXED = re.compile(r"\d+\.\d+\.\d+")
"""A tag that names one release, and not whatever is the newest."""


def instructions(name: str) -> list[str]:
    """The values of all instructions of this name in the Dockerfile, in order."""
    text = (ROOT / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    return [line.split(None, 1)[1] for line in text.splitlines() if line.startswith(f"{name} ")]


def services() -> dict[str, dict[str, Any]]:
    """The services of the compose file, by name."""
    composed = yaml.safe_load((ROOT / "deploy/compose.yml").read_text("utf-8"))
    return cast("dict[str, dict[str, Any]]", composed["services"])


def test_the_image_runs_as_a_user_without_rights_that_has_a_number() -> None:
    assert instructions("USER")[-1] == "10001:10001"


def test_the_image_has_one_volume_and_starts_in_it() -> None:
    assert instructions("VOLUME") == ["/data"]
    assert instructions("WORKDIR")[-1] == "/data"
    assert json.loads(instructions("CMD")[-1])[-1] == "/data/vin.db"


def test_the_image_stands_on_one_release_throughout() -> None:
    [base] = instructions("ARG")
    assert FIXED.search(base)
    assert {line.split()[0] for line in instructions("FROM")} == {"${BASE}"}


def test_the_image_takes_packages_by_their_hashes_alone() -> None:
    installs = [command for command in instructions("RUN") if "pip install" in command]
    assert installs
    for command in installs:
        assert "--require-hashes" in command or "--no-index --no-build-isolation" in command


def test_the_image_fetches_no_file_by_a_url() -> None:
    assert not instructions("ADD")
    assert not any(re.search(r"curl|wget", command) for command in instructions("RUN"))


def test_the_image_knows_whether_it_is_healthy_and_how_it_is_stopped() -> None:
    assert "/-/vin/ready" in instructions("HEALTHCHECK")[0]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]


def test_the_lock_of_the_image_has_every_package_in_a_version_that_is_asked_for() -> None:
    locked = {
        (found[1], found[2])
        for found in re.finditer(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    }
    for wanted in map(Requirement, requires("vin-datasette") or []):
        if wanted.marker is None:
            versions = [version for name, version in locked if name == wanted.name]
            assert versions, f"{wanted.name} is not in requirements.txt"
            assert all(wanted.specifier.contains(version) for version in versions), f"{wanted} is locked as {versions}"


@pytest.mark.parametrize("name", services())
def test_a_service_can_write_to_its_volume_alone_and_gain_no_right(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["user"] == "10001:10001"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc"} & service.keys()
    writable = [volume for volume in service["volumes"] if not volume.endswith(":ro")]
    assert writable == ["data:/data"]


@pytest.mark.parametrize("name", services())
def test_a_service_is_one_release(name: str) -> None:
    image = services()[name]["image"]
    assert FIXED.search(image.rpartition(":")[2])
    assert image != "vin-datasette" or image.endswith(f":{__version__}")


@pytest.mark.parametrize("name", services())
def test_a_service_is_reached_from_this_machine_alone_and_its_log_has_an_end(name: str) -> None:
    service = services()[name]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()


def test_the_server_starts_when_the_cache_is_restored_and_is_copied_when_it_is_there() -> None:
    after = {name: service.get("depends_on", {}) for name, service in services().items()}
    assert after["vin-datasette"] == {"restore": {"condition": "service_completed_successfully"}}
    assert after["litestream"] == {"vin-datasette": {"condition": "service_healthy"}}
    assert {"-if-db-not-exists", "-if-replica-exists"} <= set(services()["restore"]["command"])


def test_the_compose_file_names_this_version() -> None:
    assert services()["vin-datasette"]["image"] == f"vin-datasette:{__version__}"


@pytest.fixture
def unit() -> configparser.SectionProxy:
    """The service section of the systemd unit; of a directive that stands there twice, the last."""
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(ROOT / "deploy/vin-datasette.service", "utf-8")
    return parser["Service"]


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("DynamicUser", "yes"),
        ("StateDirectory", "vin-datasette"),
        ("ProtectSystem", "strict"),
        ("ProtectHome", "yes"),
        ("PrivateTmp", "yes"),
        ("NoNewPrivileges", "yes"),
        ("CapabilityBoundingSet", ""),
        ("Restart", "on-failure"),
        ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX"),
    ],
)
def test_the_unit_confines_the_server(unit: configparser.SectionProxy, directive: str, value: str) -> None:
    assert unit[directive] == value


def test_the_unit_bounds_memory_and_listens_on_loopback(unit: configparser.SectionProxy) -> None:
    assert unit["MemoryMax"]
    assert "--host 127.0.0.1" in unit["ExecStart"]


def test_the_server_has_the_time_that_it_takes_to_end(unit: configparser.SectionProxy) -> None:
    takes = Settings().shutdown_timeout + STRAGGLING
    assert float(unit["TimeoutStopSec"]) > takes + 5
    assert float(services()["vin-datasette"]["stop_grace_period"].rstrip("s")) > takes + 5


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd is not installed")
    text = (ROOT / "deploy/vin-datasette.service").read_text("utf-8")
    unit = tmp_path / "vin-datasette.service"
    # It looks for the program, which is installed elsewhere here.
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", text), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", unit], check=False, capture_output=True, text=True, timeout=60)
    assert "vin-datasette" not in done.stderr
    assert done.returncode == 0
