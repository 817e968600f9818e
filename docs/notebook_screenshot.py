"""Make the picture of the widget from a notebook in JupyterLab.

    python docs/notebook_screenshot.py

The fleet of the notebooks is looked up in the embedded database, in a folder of its own; Chromium is looked for
as in the tests. The picture is written beside this file.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from playwright.sync_api import sync_playwright

from tests.browser import ARGUMENTS, CHROMIUM
from tests.lab import Lab, lab

if TYPE_CHECKING:
    from playwright.sync_api import Page

FLEET = FOLDER.parent / "notebooks" / "fleet.csv"
CELLS = (
    "import pandas\nfrom vin_datasette import VinLookup\n\nfleet = pandas.read_csv('fleet.csv')\n"
    "widget = VinLookup(fleet, source='embedded')\nwidget",
    "widget.enriched[['unit', 'depot', 'vin', 'make', 'model', 'model_year', 'status']].head(4)",
)
SIZE = {"width": 1100, "height": 1010}


def notebook(page: Page, running: Lab) -> None:
    """The widget with a fleet that is looked up, and its frame in the next cell."""
    shutil.copy(FLEET, running.folder)
    page.set_viewport_size({"width": SIZE["width"], "height": SIZE["height"]})
    page.goto(running.notebook("fleet", CELLS))
    page.get_by_text("| Idle").first.wait_for()
    page.locator(".jp-CodeCell .cm-content").first.click()
    page.keyboard.press("Shift+Enter")
    page.locator(".vin-status", has_text="found").wait_for()
    page.get_by_role("button", name="Stop").wait_for(state="hidden")
    page.keyboard.press("Shift+Enter")
    page.locator(".jp-OutputArea table.dataframe").wait_for()
    page.mouse.move(0, 0)
    page.screenshot(path=FOLDER / "notebook.png")


def main() -> None:
    """Serve, look, and write."""
    if not CHROMIUM:
        raise SystemExit("No Chromium was found: apt-get install chromium, or name it in CHROMIUM.")
    with tempfile.TemporaryDirectory() as folder, lab(Path(folder)) as running, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        notebook(browser.new_page(device_scale_factor=1), running)
        browser.close()


if __name__ == "__main__":
    main()
