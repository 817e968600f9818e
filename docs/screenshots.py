"""Make the pictures of the README from a running instance.

    python docs/screenshots.py

The fleet of the notebooks is looked up in the embedded database, in a folder of its own; Chromium is looked for
as in the tests. The pictures are written beside this file.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

import httpx
from playwright.sync_api import sync_playwright

from tests.browser import ARGUMENTS, CHROMIUM
from tests.conftest import serving

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLEET = FOLDER.parent / "notebooks" / "fleet.csv"
LISTED = 60
VEHICLE = "1XP5DB9X7XD487964"
WRONG = ("1HGCM82633AOO4352", "1XP5DB9X8XD487964")
WIDTH = 1100


def list_of_vins(page: Page, url: str, vins: list[str]) -> None:
    """The page of many VINs, with a list that has come to its end."""
    page.goto(f"{url}/lookup")
    page.locator("#vin").fill("\n".join([*vins[:2], *WRONG, *vins[2:]]))
    page.keyboard.press("Enter")
    page.locator("#vin-links").wait_for()
    _shoot(page, "list", 900)


def vehicle(page: Page, url: str) -> None:
    """The page of one vehicle."""
    page.goto(f"{url}/lookup?vin={VEHICLE}")
    _shoot(page, "vehicle", 1000)


def charts(page: Page, url: str) -> None:
    """The fleet at a glance."""
    page.goto(f"{url}/vin/vehicles.charts")
    _shoot(page, "charts", 1000)


def _shoot(page: Page, name: str, height: int) -> None:
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.mouse.move(0, 0)
    page.screenshot(path=FOLDER / f"{name}.png")


def main() -> None:
    """Serve, look, and write."""
    if not CHROMIUM:
        raise SystemExit("No Chromium was found: apt-get install chromium, or name it in CHROMIUM.")
    with open(FLEET, encoding="utf-8", newline="") as file:
        vins = [row["vin"] for row in csv.DictReader(file)]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), VIN_DATASETTE_SOURCE="embedded") as served:
        httpx.post(f"{served.url}/lookup", json=vins, timeout=60).raise_for_status()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
            page = browser.new_page(device_scale_factor=1)
            list_of_vins(page, served.url, vins[:LISTED])
            vehicle(page, served.url)
            charts(page, served.url)
            browser.close()


if __name__ == "__main__":
    main()
