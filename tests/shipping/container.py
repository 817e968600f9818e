"""A container without an engine: the tree of an image, entered as its configuration says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NEEDED = ("buildah", "debootstrap", "unshare", "nsenter", "mount", "chroot", "tar", "ip")
"""The programs that build an image and enter it."""

DEBIAN = "bookworm"
"""The release whose tree is the base of images that are built here: the one of the Dockerfile's own base."""

_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"

_NAMESPACES = ("--mount", "--net", "--pid", "--ipc", "--uts")

# What an engine does before it starts a process: the root read-only, a volume, a small /tmp that runs
# nothing, few devices, a network of its own.
_ENTER = """
set -e
ip link set lo up
mount --bind "$TREE" "$TREE"
mount --bind "$VOLUME" "$TREE/data"
mount -t tmpfs -o size=64m,mode=1777,noexec,nosuid,nodev tmpfs "$TREE/tmp"
mount -t proc -o nosuid,nodev,noexec proc "$TREE/proc"
mount -t tmpfs -o size=64k,mode=755 tmpfs "$TREE/dev"
for device in null zero urandom; do touch "$TREE/dev/$device"; mount --bind "/dev/$device" "$TREE/dev/$device"; done
mount -o remount,bind,ro,nosuid,nodev "$TREE"
exec "$@"
"""


@dataclass(frozen=True)
class Image:
    """A built image: its tree, and its configuration as Docker writes it."""

    tree: Path
    config: Mapping[str, Any]

    def paths(self) -> Iterator[Path]:
        """All that is in the tree."""
        for folder, folders, files in os.walk(self.tree):
            yield from (Path(folder, name) for name in (*folders, *files))


@contextlib.contextmanager
def built(context: Path) -> Iterator[Image]:
    """The image that the Dockerfile of `context` makes, on a base of Debian's own packages."""
    with tempfile.TemporaryDirectory(prefix="vin-image-") as name:
        work = Path(name)
        buildah = ["buildah", "--root", str(work / "store"), "--runroot", str(work / "run"), "--storage-driver", "vfs"]

        def call(*arguments: str) -> str:
            return _said([*buildah, *arguments])

        base = call("from", "scratch")
        call("add", "--quiet", base, str(_debian(work)), "/")
        call("commit", "--quiet", "--rm", base, "localhost/base")
        call(
            *("build-using-dockerfile", "--isolation", "chroot", "--format", "docker", "--quiet"),
            *("--build-arg", "BASE=localhost/base", "--secret", f"id=pip,src={_pip_configuration(work)}"),
            *("--tag", "localhost/vin-datasette", str(context)),
        )
        entered = call("from", "localhost/vin-datasette")
        try:
            tree = Path(call("mount", entered))
            config = json.loads(call("inspect", "--type", "image", "localhost/vin-datasette"))["Docker"]["config"]
            yield Image(tree, config)
        finally:
            call("umount", entered)


def _debian(work: Path) -> Path:
    """A tar of a small Debian with Python. It trusts whom this machine trusts, as a base of one's own does."""
    tree, archive = work / "debian", work / "debian.tar"
    _said(["debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", DEBIAN, str(tree)])
    shutil.copy(f"/{_CERTIFICATES}", tree / _CERTIFICATES)
    without = [f"--exclude=./{name}" for name in ("proc/*", "sys/*", "dev/*", "var/cache/apt/*", "var/lib/apt/lists/*")]
    _said(["tar", "-C", str(tree), *without, "-cf", str(archive), "."])
    shutil.rmtree(tree)
    return archive


def _pip_configuration(work: Path) -> Path:
    """How this machine's pip reaches its registry, as far as it holds in another tree."""
    lines = ["[global]", f"cert = /{_CERTIFICATES}"]
    for line in _said([sys.executable, "-m", "pip", "config", "list"]).splitlines():
        key, _, value = line.partition("=")
        option, value = key.rpartition(".")[2], value.strip("'")
        if option in ("index-url", "extra-index-url", "proxy", "timeout", "trusted-host") and "file:" not in value:
            lines.append(f"{option} = {value}")
    path = work / "pip.conf"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def _said(command: list[str]) -> str:
    """What a command writes to standard output. Raises `AssertionError` with the end of both outputs when it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(command[:6])} …\n{(done.stdout + done.stderr)[-4000:]}"
    return done.stdout.strip()


class Container:
    """A running container: the image's entry point as process 1, and what is run beside it."""

    def __init__(self, image: Image, volume: Path, variables: Mapping[str, str]) -> None:
        self._image = image
        self._variables = variables
        command = [*image.config["Entrypoint"], *image.config["Cmd"]]
        self._process = subprocess.Popen(
            [
                *("unshare", *_NAMESPACES, "--fork", "--kill-child"),
                *("sh", "-c", _ENTER, "enter", *self._inside(command)),
            ],
            env={**os.environ, "TREE": str(image.tree), "VOLUME": str(volume)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _inside(self, command: list[str]) -> list[str]:
        """A command in the tree, as the image's user, without any capability and with the image's environment."""
        uid, gid = self._image.config["User"].split(":")
        variables = [*self._image.config["Env"], *(f"{name}={value}" for name, value in self._variables.items())]
        return [
            *("chroot", str(self._image.tree)),
            *("setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs", "--bounding-set=-all"),
            *("env", "-i", "-C", self._image.config["WorkingDir"], *variables, *command),
        ]

    def run(self, command: list[str]) -> subprocess.CompletedProcess[bytes]:
        """Run a command in the container, as `docker exec` does, and keep what it writes. Raises `ValueError` while
        there is no process 1."""
        return subprocess.run(
            [*("nsenter", "--target", self._first(), *_NAMESPACES), *self._inside(command)],
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )

    def _first(self) -> str:
        """The number that process 1 has outside."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text("utf-8")
        [first] = children.split()
        return first

    def wait_until_healthy(self) -> None:
        """Wait until the image's own health check says so. Raises `AssertionError` when the process ends before."""
        kind, *check = self._image.config["Healthcheck"]["Test"]
        assert kind == "CMD"

        def healthy() -> bool:
            assert self._process.poll() is None, self.said()
            with contextlib.suppress(ValueError):
                return self.run(check).returncode == 0
            return False

        until(healthy, 60)

    def stop(self, seconds: float) -> int:
        """Send process 1 the image's stop signal; its exit code, when it has ended within these seconds."""
        os.kill(int(self._first()), signal.Signals[self._image.config["StopSignal"]])
        return self._process.wait(seconds)

    def said(self) -> str:
        """What an ended container wrote to standard error."""
        assert self._process.stderr
        return self._process.stderr.read()

    def close(self) -> None:
        """End it, whatever it is at."""
        self._process.kill()
        self._process.wait()
        assert self._process.stderr
        self._process.stderr.close()
