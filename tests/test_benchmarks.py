"""The benchmarks run: with numbers that say nothing, but through every way that they compare."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

from benchmarks import fleet, lookup, page, scale, soak, start
from benchmarks.hits import parts
from tests.browser import CHROMIUM

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.one_end

SAID = {
    "calls": ("fetch, in process", "httpx, VIN by VIN", "upstream calls per 1,000 VINs: 25.0"),
    "memory": ("known, 4,000 lines", "embedded, 40 misses"),
    "known": ("csv module and SELECT", "fetch, whole command, 30 columns"),
    "embedded": ("bare decode and executemany", "fetch, in process: share of bare"),
    "misses": ("200 of one VIN", "met     upstream calls for 200 requests of one VIN: 1 "),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that the parts share."""
    return tmp_path_factory.mktemp("fleets")


@pytest.mark.parametrize("part", fleet.PARTS)
def test_each_part_runs(part: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.main(
        ["--part", part, "--rounds", "1", "--vins", "40", "--latency", "0.02", "--folder", str(folder)],
    )
    said = capsys.readouterr().out
    for words in SAID[part]:
        assert words in said
    # Besides what is kept for the next run, nothing is left.
    assert all(path.suffix in (".db", ".txt", ".csv") for path in folder.iterdir())


@pytest.mark.skipif(not CHROMIUM, reason="No Chromium was found")
def test_the_page_is_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page.main(["--rounds", "1", "--vins", "60", "--latency", "0.02", "--folder", str(folder)])
    said = capsys.readouterr().out
    assert "cached, a tenth of them" in said
    assert "met     elements of the page" in said


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not there")
@pytest.mark.skipif(
    not (find_spec("fastapi") and find_spec("sqlalchemy")), reason="FastAPI and SQLAlchemy come with the extra dev"
)
def test_hits_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lookup.main(["--rounds", "1", "--rows", "300", "--seconds", "1", "--folder", str(folder)])
    said = capsys.readouterr().out
    for words in ("64 connections", "the short way, share of bare uvicorn", "beside an export, times alone"):
        assert words in said


def test_scale_is_measured_and_a_billion_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--rows", "300", "--vins", "200", "--pairs", "1", "--rounds", "1"]
    scale.main([*small, "--folder", str(folder / "scale")])
    said = capsys.readouterr().out
    assert "10% rejected, one core" in said
    assert "1 process, rows/s  2 processes, rows/s" in said
    assert "A billion VINs." in said


def test_the_parts_of_a_hit_are_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts.main(["--rows", "300", "--vins", "5", "--folder", str(folder)])
    said = capsys.readouterr().out
    for words in ("the row, by SQLite", "the short way, whole", "a constant route, whole"):
        assert words in said


def test_a_soak_of_seconds_finds_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    soak.main(["--minutes", "0.05", "--vehicles", "300", "--clients", "4", "--folder", str(folder)])
    said = capsys.readouterr().out
    assert "SIGKILL" in said
    for what in ("vehicles lost", "wrong answers", "else broken"):
        assert f"met     {what}: 0" in said


def test_a_start_is_measured(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = ("serve", "imports", "startup", "first")
    start.main(["--rounds", "1", "--rows", "300", "--folder", str(folder), "--part", *parts])
    said = capsys.readouterr().out
    for words in (
        "datasette serve with the plugin, row page",
        "imports of datasette and one request: vin_datasette 0 ms",
        "web/plugin.py",
        "second export",
    ):
        assert words in said
