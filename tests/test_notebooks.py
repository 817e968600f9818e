"""The notebooks of `notebooks/`: kept without outputs, and run here from top to bottom, without a network."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import clean_environment

for _part in ("anywidget", "duckdb", "ipykernel", "matplotlib", "nbclient", "nbformat", "pandas"):
    pytest.importorskip(_part)

import nbformat  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def test_the_notebooks_are_there() -> None:
    assert NOTEBOOKS == ["fleet", "tour"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_kept_without_what_running_it_leaves(name: str) -> None:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)
    assert "widgets" not in notebook.metadata
    assert not any(cell.metadata for cell in notebook.cells)


class Ran:
    """A notebook that was run, in a folder of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder = folder / "notebooks"
        shutil.copytree(FOLDER, self.folder, ignore=shutil.ignore_patterns("*.db*", "*.parquet", ".*"))
        # Whoever can reach nobody is answered all the same.
        nowhere = "http://127.0.0.1:9/"
        settings = {"VIN_DATASETTE_DB": str(folder / "vin.db"), "VIN_DATASETTE_SOURCE": "embedded"}
        proxies = {"HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}
        environment = clean_environment(**settings, **proxies, IPYTHONDIR=str(folder / "ipython"))
        self.notebook = nbformat.read(self.folder / f"{name}.ipynb", as_version=4)
        client = NotebookClient(self.notebook, timeout=60, resources={"metadata": {"path": str(self.folder)}})
        client.execute(env=environment)

    def outputs(self) -> Iterator[dict[str, Any]]:
        """What its cells show, in their order."""
        for cell in self.notebook.cells:
            if cell.cell_type == "code":
                yield from cell.outputs

    def shown(self, kind: str) -> list[str]:
        """What its cells show, of a MIME type."""
        return [output["data"][kind] for output in self.outputs() if kind in output.get("data", {})]

    def wrote(self, stream: str) -> str:
        """What its cells wrote."""
        return "".join(output["text"] for output in self.outputs() if output.get("name") == stream)


@pytest.fixture(scope="module", params=NOTEBOOKS)
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(request.param, tmp_path_factory.mktemp(request.param))


def test_a_notebook_runs_from_top_to_bottom(ran: Ran) -> None:
    assert (ran.folder.parent / "vin.db").exists()
    assert ran.shown("image/png")
    # Neither a warning nor a complaint: what is written there is red in a notebook.
    assert ran.wrote("stderr") == ""


@pytest.mark.parametrize("ran", ["tour"], indirect=True)
def test_the_tour_shows_what_it_promises(ran: Ran) -> None:
    tables = ran.shown("text/html")
    assert "<strong>1999 PETERBILT 379</strong>" in tables[0]
    assert any("<caption>400 VINs: 397 found, 3 rejected</caption>" in table for table in tables)
    assert "Likely meant: 1XP5DB9X7XD487964" in ran.wrote("stdout")
    assert any("'hit': 398" in text for text in ran.shown("text/plain"))
    assert (ran.folder / "vehicles.parquet").exists()


@pytest.mark.parametrize("ran", ["fleet"], indirect=True)
def test_the_fleet_comes_to_a_conclusion(ran: Ran) -> None:
    [conclusion] = ran.shown("text/markdown")
    assert "of 396 vehicles (" in conclusion
    assert "3 units go back to their depots" in conclusion
    assert "nan" not in conclusion.lower()
    assert len(ran.shown("image/png")) == 4
