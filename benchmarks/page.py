"""The page of many VINs: how long its longest task is, how large it becomes, what it costs the server.

    python -m benchmarks.page                        # 10,000 VINs, some three minutes
    python -m benchmarks.page --vins 50000 --rounds 1

VINs are put into the box of `/lookup` in Chromium and asked of a vPIC on loopback, then asked
again, when all are cached; medians over the rounds are printed, with their goals.
Chromium is looked for as in the tests.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

from benchmarks.fleet import BATCH, datasette, goal, memory, middle, table, upstream, vins_of
from tests.browser import ARGUMENTS, CHROMIUM

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Browser

    from benchmarks.fleet import Figures, Upstream

LONGEST_TASK = 200
"""Milliseconds for which the page may not answer while rows arrive."""

MOST_ELEMENTS = 2000

_OBSERVE = """() => {
    window.tasks = [];
    new PerformanceObserver((list) => window.tasks.push(...list.getEntries().map((task) => task.duration)))
        .observe({ type: "longtask" });
}"""


def visit(browser: Browser, port: int, pid: int, vins: Sequence[str]) -> Figures:
    """Look VINs up on the page, once."""
    page = browser.new_page()
    page.set_default_timeout(600_000)
    page.goto(f"http://127.0.0.1:{port}/lookup")
    page.evaluate("text => { document.getElementById('vin').value = text; }", "\n".join(vins))
    page.locator("#vin").focus()
    before = memory(pid, "VmRSS")
    page.evaluate(_OBSERVE)
    began = time.perf_counter()
    page.keyboard.press("Enter")
    page.locator("#vin-status", has_text="Done:").wait_for()
    taken = time.perf_counter() - began
    said = page.locator("#vin-status").inner_text()
    if f"{len(vins):,} of {len(vins):,}" not in said:
        raise SystemExit(f"The page said: {said}")
    figures: Figures = {
        "seconds": taken,
        "longest": max([0.0, *page.evaluate("window.tasks")]),
        "elements": page.locator("*").count(),
        "mb": memory(pid, "VmRSS") - before,
    }
    page.close()
    return figures


def left(browser: Browser, port: int, vpic: Upstream, vins: Sequence[str]) -> int:
    """How many VINs vPIC is asked for when the tab is closed with the first row."""
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/lookup")
    page.evaluate("text => { document.getElementById('vin').value = text; }", "\n".join(vins))
    page.locator("#vin").focus()
    vpic.counted()
    page.keyboard.press("Enter")
    page.locator("#vin-rows tr.found").first.wait_for()
    page.close()
    asked = 0
    while calls := vpic.counted()["calls"]:
        asked += BATCH * calls
        time.sleep(2)
    return asked


def main(given: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vins", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.2, help="Seconds that vPIC takes for a call.")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    arguments = parser.parse_args(given)
    if not CHROMIUM:
        raise SystemExit("No Chromium was found: apt-get install chromium, or name it in CHROMIUM.")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    count, rounds = arguments.vins, arguments.rounds
    file = vins_of(count, arguments.folder)
    vins = file.read_text().split()
    done: dict[str, list[Figures]] = {"asked of vPIC": [], "cached": [], "cached, a tenth of them": []}
    ends: list[int] = []
    with upstream(file, arguments.latency) as vpic, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for _ in range(rounds):
            with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
                with datasette(Path(name) / "left.db", vpic.url) as (port, _):
                    ends.append(left(browser, port, vpic, vins))
                with datasette(Path(name) / "new.db", vpic.url) as (port, pid):
                    visit(browser, port, pid, vins[:BATCH])
                    done["asked of vPIC"].append(visit(browser, port, pid, vins))
                    done["cached, a tenth of them"].append(visit(browser, port, pid, vins[: count // 10]))
                    done["cached"].append(visit(browser, port, pid, vins))
        browser.close()
    table(
        f"page: {count:,} VINs, vPIC at {1000 * arguments.latency:.0f} ms, {rounds} rounds",
        ["VINs", "seconds", "longest task ms", "elements", "server MB more"],
        [
            [way, *(f"{middle(each, name):,.1f}" for name in ("seconds", "longest", "elements", "mb"))]
            for way, each in done.items()
        ],
    )
    _goals(done, ends, count)


def _goals(done: dict[str, list[Figures]], ends: list[int], count: int) -> None:
    def largest(name: str) -> Any:
        return max(middle(each, name) for each in done.values())

    goal("longest task, ms", largest("longest"), LONGEST_TASK, at_least=False, form=".0f")
    goal("elements of the page", largest("elements"), MOST_ELEMENTS, at_least=False, form=".0f")
    more = middle(done["cached"], "mb")
    goal(f"MB that the server holds more after {count:,} cached VINs", more, 10, at_least=False, form=".1f")
    share = statistics.median(ends) / count
    goal("share of the VINs that are asked of vPIC though the tab was closed", share, 0.2, at_least=False)


if __name__ == "__main__":
    main()
