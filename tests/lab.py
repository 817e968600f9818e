"""A JupyterLab server of the tests' own, and its notebooks in a real browser."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.conftest import clean_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TOKEN = "of-the-tests"


class Lab:
    """A running server and the folder of its notebooks."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    def notebook(self, name: str, cells: Sequence[str]) -> str:
        """Write a notebook; its address, which opens it in a workspace of its own."""
        made: list[dict[str, object]] = [
            {
                "cell_type": "code",
                "id": f"cell-{at}",
                "metadata": {},
                "execution_count": None,
                "outputs": [],
                "source": source,
            }
            for at, source in enumerate(cells)
        ]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        content = {"cells": made, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
        (self.folder / f"{name}.ipynb").write_text(json.dumps(content), "utf-8")
        return f"{self.url}doc/workspaces/{name}/tree/{name}.ipynb?reset&token={TOKEN}"


@contextlib.contextmanager
def lab(folder: Path, **variables: str) -> Iterator[Lab]:
    """JupyterLab in `folder`, on a free port of its own choice, which knows nothing of
    whoever runs the tests and asks nobody for news."""
    own = {
        name: str(folder / name.lower())
        for name in (
            "HOME",
            "IPYTHONDIR",
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )
    }
    _settle(Path(own["JUPYTERLAB_SETTINGS_DIR"]), "notification", fetchNews="false", checkForUpdates=False)
    notebooks = folder / "notebooks"
    notebooks.mkdir()
    said = folder / "jupyter.log"
    options = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", f"--IdentityProvider.token={TOKEN}"]
    with said.open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "jupyterlab",
                *options,
                "--LabApp.expose_app_in_browser=True",
                "--LabApp.extension_manager=readonly",
            ],
            cwd=notebooks,
            env={**clean_environment(), **own, **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        url = _url(process, Path(own["JUPYTER_RUNTIME_DIR"]), said)
        yield Lab(notebooks, url)
        # Its kernels would outlive it.
        httpx.post(f"{url}api/shutdown", headers={"Authorization": f"token {TOKEN}"}, trust_env=False)
        process.wait(20)
    finally:
        process.kill()
        process.wait()


def _settle(folder: Path, plugin: str, **settings: Any) -> None:
    path = folder / "@jupyterlab" / "apputils-extension" / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(settings), "utf-8")


def _url(process: subprocess.Popen[bytes], folder: Path, said: Path) -> str:
    """Where it serves, as soon as it answers."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        for path in folder.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError, httpx.TransportError):
                url = str(json.loads(path.read_text("utf-8"))["url"])
                httpx.get(f"{url}api", trust_env=False).raise_for_status()
                return url
        time.sleep(0.05)
    raise RuntimeError(f"JupyterLab did not start: {said.read_text('utf-8', 'replace')}")
