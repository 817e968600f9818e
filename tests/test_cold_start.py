"""What costs time is imported when it is needed and not before."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import clean_environment, rows

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
    "pyarrow",
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
