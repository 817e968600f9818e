"""What costs time is imported when it is needed and not before."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import clean_environment, rows
from vin_datasette.batches import fields
from vin_datasette.web.shapes import COLUMN

if TYPE_CHECKING:
    from pathlib import Path

PETERBILT = "1XP5DB9X7XD487964"
COSTLY = {
    "aiolimiter",
    "anyio",
    "datasette",
    "httpx",
    "httpx2",
    "markupsafe",
    "numpy",
    "pandas",
    "prometheus_client",
    "pyarrow",
    "pythonjsonlogger",
    "rich",
    "sqlite_utils",
    "tenacity",
    "tqdm",
    "ultravin",
    "uvicorn",
}
PROGRAM = """
import json, sys
{statement}
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
"""


def imported_by(statement: str, folder: Path) -> set[str]:
    """The packages that a new interpreter has imported after a statement."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(statement=statement)],
        cwd=folder,
        env=clean_environment(VIN_DATASETTE_SOURCE="embedded"),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(ended.stderr))


def command(*arguments: str) -> str:
    return f"from vin_datasette.cli import cli; cli({list(arguments)}, standalone_mode=False)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache that has one vehicle."""
    folder = tmp_path_factory.mktemp("cold")
    imported_by(command("lookup", PETERBILT), folder)
    assert [row["vin"] for row in rows(folder / "vin.db")] == [PETERBILT]
    return folder


@pytest.mark.parametrize(
    "statement",
    [
        command("lookup", PETERBILT),
        command("lookup", PETERBILT, "--full", "--json"),
        command("lookup", PETERBILT, "--help"),
        command("--help"),
        command("--version"),
        "import vin_datasette",
        f"from vin_datasette import VIN; VIN('{PETERBILT}')",
        f"from vin_datasette import lookup; lookup('{PETERBILT}')",
    ],
)
def test_nothing_costly_is_imported(folder: Path, statement: str) -> None:
    assert imported_by(statement, folder) & COSTLY == set()


def test_looking_up_what_is_not_cached_imports_its_source_alone(tmp_path: Path) -> None:
    assert imported_by(command("lookup", PETERBILT), tmp_path) & {"httpx", "ultravin"} == {"ultravin"}


SERVED = """
import asyncio
{before}
from datasette.app import Datasette

async def serve():
    datasette = Datasette(["vin.db"])
    await datasette.invoke_startup()
    for path in {paths}:
        answer = await datasette.client.get(path)
        assert answer.status_code == 200, answer.text

asyncio.run(serve())
"""
# Where pandas is installed, sqlite-utils, which is Datasette 1.0's own, brings it, and it brings pyarrow.
WITHOUT_PANDAS = "import sys; sys.modules['pandas'] = None"
WITHOUT_PLUGINS = "import pluggy; pluggy.PluginManager.load_setuptools_entrypoints = lambda *_, **__: 0"
ROW_PAGE = f"/vin/vehicles/{PETERBILT}.json"


def test_the_plugin_imports_nothing_costly_before_it_is_needed(folder: Path) -> None:
    alone = imported_by(SERVED.format(before=f"{WITHOUT_PANDAS}; {WITHOUT_PLUGINS}", paths=[ROW_PAGE]), folder)
    paths = [ROW_PAGE, f"/lookup/{PETERBILT}", "/-/vin/ready", "/-/vin/openapi.json"]
    served = imported_by(SERVED.format(before=WITHOUT_PANDAS, paths=paths), folder)
    assert "vin_datasette" in served - alone
    assert (served - alone) & COSTLY == set()


@pytest.mark.parametrize(
    ("path", "needed"),
    [("/export", "pyarrow"), (f"{ROW_PAGE[:-5]}.parquet", "pyarrow"), ("/-/vin/metrics", "prometheus_client")],
)
def test_what_is_needed_is_imported_with_the_request_that_needs_it(folder: Path, path: str, needed: str) -> None:
    assert needed in imported_by(SERVED.format(before="", paths=[path]), folder)


def test_columns_that_are_told_without_pyarrow_are_those_of_an_export() -> None:
    assert {"enum": [column.name for column in fields(raw=True)]} == COLUMN
