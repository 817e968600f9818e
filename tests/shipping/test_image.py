"""The image of the Dockerfile, built and run, with neither an engine nor a network while it runs.

It takes some minutes, root, Debian's `buildah` and `debootstrap`, and the registries of packages, so it is
run only when it is asked for: `TRY_IMAGE=1 python -m pytest tests/shipping/test_image.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet
import pytest

from tests.conftest import rows
from tests.shipping.container import NEEDED, Container, Image, built

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
VIN = "1XP5DB9X7XD487964"
MOST_BYTES = 500_000_000
"""What the image may be at most, the base of some 175 MB included."""

FETCH = """
import sys, urllib.request
sys.stdout.buffer.write(urllib.request.urlopen("http://127.0.0.1:8001" + sys.argv[1]).read())
"""

_missing = [name for name in NEEDED if not shutil.which(name)]

pytestmark = [
    pytest.mark.skipif(not os.environ.get("TRY_IMAGE"), reason="TRY_IMAGE=1 builds the image and runs it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="root is needed to build an image without an engine"),
    pytest.mark.skipif(bool(_missing), reason=f"not installed: {', '.join(_missing)}"),
]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with built(ROOT) as image:
        yield image


@contextlib.contextmanager
def started(image: Image) -> Iterator[tuple[Container, Path]]:
    """A healthy container and its volume, which belongs to the image's user."""
    with tempfile.TemporaryDirectory() as folder:
        volume = Path(folder) / "volume"
        volume.mkdir(mode=0o750)
        os.chown(volume, *(int(number) for number in image.config["User"].split(":")))
        # Its VIN is answered although there is no network: by vPIC's embedded database.
        container = Container(image, volume, {"VIN_DATASETTE_SOURCE": "embedded"})
        try:
            container.wait_until_healthy()
            yield container, volume
        finally:
            container.close()


def said(container: Container, *command: str) -> bytes:
    """What a command in the container writes, which has to succeed."""
    done = container.run([*command])
    assert done.returncode == 0, done.stderr
    return done.stdout


def fetched(container: Container, path: str) -> bytes:
    """The body of an answer, asked for inside of the container: its network is its own."""
    return said(container, "python3", "-c", FETCH, path)


def test_the_image_serves_from_a_read_only_root_and_keeps_what_it_learns_on_the_volume(image: Image) -> None:
    with started(image) as (container, volume):
        vehicle = json.loads(fetched(container, f"/lookup/{VIN}"))
        assert (vehicle["Make"], vehicle["Cached Result?"]) == ("PETERBILT", False)
        assert b"</html>" in fetched(container, "/vin/vehicles")
        assert b"import" in fetched(container, "/-/static-plugins/vin-datasette/lookup.js")
        table = pyarrow.parquet.read_table(io.BytesIO(fetched(container, "/export")))
        assert table["vin"].to_pylist() == [VIN]

        assert json.loads(said(container, "vin-datasette", "lookup", VIN, "--json"))["Cached Result?"] is True

        assert b"Read-only file system" in container.run(["touch", "/opt/vin/x"]).stderr
        assert said(container, "find", "/tmp", "-mindepth", "1") == b""
        assert container.stop(30) == 0
        assert "Traceback" not in container.said()
        assert [row["vin"] for row in rows(volume / "vin.db")] == [VIN]


def test_the_image_holds_nothing_that_its_user_could_change_but_the_volume(image: Image) -> None:
    uid, gid = (int(number) for number in image.config["User"].split(":"))

    def changeable(path: Path) -> bool:
        status = path.lstat()
        mode, kind = status.st_mode, stat.S_IFMT(status.st_mode)
        may = mode & stat.S_IWOTH or (status.st_uid == uid) or (status.st_gid == gid and mode & stat.S_IWGRP)
        return bool(may) and kind != stat.S_IFLNK

    found = {str(path.relative_to(image.tree)) for path in image.paths() if changeable(path)}
    assert found == {"data", "tmp", "var/tmp", "run/lock"}


def test_the_image_is_small_and_keeps_no_way_to_a_registry(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    size = sum(path.lstat().st_size for path in image.paths())
    with capsys.disabled():
        sys.stdout.write(f"\nThe image has {size / 1e6:,.0f} MB\n")
    assert size < MOST_BYTES
    assert not (image.tree / "etc/pip.conf").exists()
    assert not any("pip" in variable.lower() for variable in image.config["Env"])
