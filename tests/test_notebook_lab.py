"""The widget in a real JupyterLab, in a real browser."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import sqlite3
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import TimeoutError, expect  # noqa: A004 - Playwright names it so

from tests.conftest import fill_cache, numbered_vins
from tests.lab import Lab, lab
from tests.vpic_server import flat_record
from vin_datasette.vin import check_digit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from playwright.async_api import Browser, Locator, Page

    from tests.vpic_server import VpicServer

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.skipif(importlib.util.find_spec("jupyterlab") is None, reason="pip install jupyterlab has it"),
    pytest.mark.skipif(importlib.util.find_spec("anywidget") is None, reason="pip install 'vin-datasette[notebook]'"),
]

PETERBILT, HONDA = "1XP5DB9X7XD487964", "1HGCM82633A004352"
LETTER_O = "1HGCM82633AOO4352"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>"
COLUMNS = ["No.", "VIN", "Year", "Make", "Model", "Body class", "Answer"]


class OpenNotebook(Protocol):
    """Open a notebook with these cells; its first one is run and shows a widget."""

    async def __call__(self, cells: Sequence[str]) -> Notebook: ...


class Notebook:
    """A notebook on a page, and the first widget in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.widget = page.locator(".vin-lookup").first
        self.box = self.widget.locator("textarea")
        self.rows = self.widget.locator("tbody tr")
        self.status = self.widget.locator(".vin-status")

    def button(self, text: str) -> Locator:
        """The button of the widget with this text; of a filter, with its number."""
        return self.widget.get_by_role("button", name=text, exact=True)

    async def said(self, words: str) -> None:
        """Wait until the status says this, and no more."""
        await self.status.filter(has_text=re.compile(f"^{re.escape(words)}$")).wait_for()

    async def cells(self, row: int) -> list[str]:
        """The cells of a row of the table, counted from 1."""
        return await self.rows.nth(row - 1).locator("td").all_inner_texts()

    async def column(self, name: str) -> list[str]:
        """What stands in a column, row by row."""
        return await self.rows.locator(f"td:nth-child({COLUMNS.index(name) + 1})").all_inner_texts()

    async def paste(self, text: str) -> None:
        """Put a text into the box from the clipboard, instead of what is there."""
        await self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await self.page.evaluate("text => navigator.clipboard.writeText(text)", text)
        before = await self.box.input_value()
        for _ in range(3):
            await self.box.focus()
            await self.page.keyboard.press("Control+a")
            await self.page.keyboard.press("Control+v")
            # Where Lab is slow, what is pasted now and then does not arrive.
            with contextlib.suppress(AssertionError):
                await expect(self.box).not_to_have_value(before, timeout=5_000 if text != before else 1)
                return

    async def run_cell(self, number: int) -> str:
        """Run a cell, counted from 1, from its editor; what its output says."""
        cell = self.page.locator(".jp-CodeCell").nth(number - 1)
        await cell.locator(".cm-content").click()
        await self.page.keyboard.press("Shift+Enter")
        output = cell.locator(".jp-OutputArea-output")
        await output.wait_for()
        return (await output.inner_text()).strip()

    async def shows(self, row: int, cells: Sequence[str]) -> None:
        """Wait until a row of the table, counted from 1, begins with these cells: what is told is drawn soon after."""
        drawn = self.rows.nth(row - 1).locator("td")
        for number, text in enumerate(cells):
            await expect(drawn.nth(number)).to_have_text(text)

    async def lists(self, name: str, values: Sequence[str]) -> None:
        """Wait until a column of the table begins with these values."""
        drawn = self.rows.locator(f"td:nth-child({COLUMNS.index(name) + 1})")
        for number, text in enumerate(values):
            await expect(drawn.nth(number)).to_have_text(text)

    async def focused(self, part: str) -> None:
        """Wait until this control of the widget has the focus."""
        await expect(self.page.locator(":focus")).to_have_attribute("data-part", part)

    async def violations(self) -> list[str]:
        """What axe-core finds wrong with the widgets."""
        found = await Axe().run(self.page, context={"include": [[".vin-lookup"]]})
        rules = found.response["violations"]
        return [f"{rule['id']}: {', '.join(str(node['target']) for node in rule['nodes'])}" for rule in rules]


@pytest.fixture(scope="module")
def one_lab(tmp_path_factory: pytest.TempPathFactory, one_authority: Path) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("lab"), SSL_CERT_FILE=str(one_authority)) as running:
        yield running


_KERNEL_IS_IDLE = """() => {
  const kernel = window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel;
  return kernel?.connectionStatus === "connected" && kernel.status === "idle"
    && window.jupyterapp.commands.isEnabled("notebook:run-cell");
}"""


@pytest_asyncio.fixture(loop_scope="session")
async def open_notebook(chromium: Browser, one_lab: Lab, tmp_path: Path) -> AsyncIterator[OpenNotebook]:
    """Open notebooks, see `OpenNotebook`. The test fails when a script on the page fails, or asks
    for anything that is not on loopback."""
    context = await chromium.new_context(locale="en-US", viewport={"width": 1100, "height": 1400})
    context.set_default_timeout(60_000)
    said: list[str] = []

    async def opened(cells: Sequence[str]) -> Notebook:
        page = await context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: None if _is_local(request.url) else said.append(request.url))
        await page.goto(one_lab.notebook(tmp_path.name, cells))
        notebook = Notebook(page)
        # A kernel takes what is run once it is idle; what is run before is lost without a word.
        await page.wait_for_function(_KERNEL_IS_IDLE)
        for _ in range(6):
            # Not awaited: it ends when the cell has run.
            await page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-cell'); }")
            # What a kernel opens is now and then lost where Lab does not listen for widgets yet.
            with contextlib.suppress(TimeoutError):
                await notebook.box.wait_for(timeout=15_000)
                return notebook
        shown = await page.locator(".jp-Notebook .jp-OutputArea").all_inner_texts()
        raise AssertionError(f"No widget is shown, but {shown}; {said}")

    yield opened
    await context.close()
    assert not said, said


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def widget(data: str = "", /, **settings: Any) -> str:
    """A cell that makes and shows a widget `w`."""
    given = [data, *(f"{name}={value!r}" for name, value in settings.items())]
    return f"from vin_datasette import VinLookup\nw = VinLookup({', '.join(filter(None, given))})\nw"


def asking(vpic: VpicServer, folder: Path) -> dict[str, Any]:
    """Settings of a widget that asks this vPIC and has a cache of its own."""
    return {
        "db": str(folder / "vin.db"),
        "vpic_url": vpic.url,
        "source": "vpic",
        "rate": 1000,
        "batch_size": 10,
        "concurrency": 1,
    }


async def test_one_vin_then_many_then_a_frame_in_the_next_cell(
    open_notebook: OpenNotebook, vpic_server: VpicServer, tmp_path: Path
) -> None:
    frame = "w.to_pandas()[['vin', 'make']].iloc[[0, -1]].to_csv(index=False)"
    notebook = await open_notebook([widget(**asking(vpic_server, tmp_path)), f"print(len(w.vehicles), {frame})"])
    page = notebook.page

    await notebook.box.click()
    await page.keyboard.type("1xp5db9x8xd487964")
    await notebook.widget.get_by_text("Position 9, the check digit, is 8 where 7 is due.").wait_for()
    await notebook.paste(f"  {PETERBILT.lower()} ")
    await notebook.button("Look up").click()
    await notebook.said("1 VIN: 1 found")
    await notebook.shows(1, ["1", PETERBILT, "1999", "PETERBILT", "379", "Truck-Tractor", "new"])

    vins = [str(vin) for vin in numbered_vins(200)]
    vpic_server.latency = 0.2
    await notebook.paste("\n".join(["VIN", PETERBILT, *vins]))
    await page.keyboard.press("Enter")
    await notebook.widget.locator("tr.found").nth(20).wait_for()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await notebook.focused("stop")
    await page.keyboard.press("Enter")
    await notebook.button("Resume").wait_for()
    stopped = re.fullmatch(r"201 VINs: (\d+) found, (\d+) waiting", await notebook.status.inner_text())
    assert stopped
    assert int(stopped[1]) < 201
    assert await notebook.widget.locator("progress").evaluate("bar => [bar.value, bar.max]") == [int(stopped[1]), 201]

    vpic_server.latency = 0.0
    # By the keyboard alone, also after the view was drawn anew when the work had stopped.
    await notebook.focused("resume")
    await page.keyboard.press("Enter")
    await notebook.said("201 VINs: 201 found")
    asked = [vin for call in vpic_server.calls for vin in call.vins]
    assert sorted(asked) == sorted([PETERBILT, *vins])

    assert await notebook.widget.get_by_text("1 to 100 of 201").is_visible()
    await notebook.button("Make").click()
    await expect(notebook.rows.first.locator("td").nth(3)).to_have_text("HONDA")
    await notebook.button("Make").click()
    await expect(notebook.rows.first.locator("td").nth(3)).to_have_text("PETERBILT")
    await notebook.lists("No.", ["1", "2", "3", "4"])
    await notebook.button("Next").click()
    await notebook.button("Next").click()
    await notebook.lists("No.", ["201"])
    assert await notebook.rows.count() == 1
    assert (await notebook.run_cell(2)).splitlines() == ["201 vin,make", f"{PETERBILT},PETERBILT", f"{vins[-1]},HONDA"]


async def test_what_is_rejected_or_hostile(
    open_notebook: OpenNotebook, vpic_server: VpicServer, tmp_path: Path
) -> None:
    vpic_server.records[HONDA] = {**flat_record(HONDA), "Model": HOSTILE}
    vpic_server.records["1XP5DB9X8XD487964"] = {**flat_record("1XP5DB9X8XD487964"), "SuggestedVIN": PETERBILT}
    notebook = await open_notebook([widget(**asking(vpic_server, tmp_path)), "w"])
    page = notebook.page
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await notebook.paste("\n".join([HONDA, "<script>alert(2)</script>1234567890", "1XP5DB9X8XD487964", LETTER_O]))
    await page.keyboard.press("Enter")
    await notebook.said("4 VINs: 1 found, 3 rejected")
    await expect(notebook.rows.first.locator("td").nth(4)).to_have_text(HOSTILE)
    assert (await notebook.cells(2))[1] == "<script>alert(2)</script>1234567890"

    for _ in ("ascending", "descending", "none"):
        await notebook.button("Year").click()
        # Those without a year come last, one way and the other.
        await notebook.lists("No.", ["1", "2", "3", "4"])
    await notebook.button("Rejected 3").click()
    await notebook.lists("No.", ["2", "3", "4"])
    assert "holds the letter O" in (await notebook.cells(3))[2]
    # A second view of the widget shows the same.
    await notebook.run_cell(2)
    views = page.locator(".vin-lookup")
    await views.nth(1).locator("tr.rejected").nth(2).wait_for()
    assert await views.nth(1).locator("button[aria-pressed=true]").inner_text() == "Rejected 3"

    for theme in ("Light", "Dark"):
        await page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        await page.locator(f"body[data-jp-theme-name='JupyterLab {theme}']").wait_for(state="attached")
        assert await notebook.violations() == []

    await notebook.button(f"Take {PETERBILT}").click()
    await notebook.said("4 VINs: 2 found, 2 rejected")
    await notebook.focused("table")
    await notebook.button(f"Take {HONDA}").click()
    await notebook.said("4 VINs: 3 found, 1 rejected")
    await notebook.button("All 4").click()
    await notebook.lists("VIN", [HONDA, "<script>alert(2)</script>1234567890", PETERBILT, HONDA])
    assert await views.nth(1).locator("tbody tr").count() == 4

    await page.set_viewport_size({"width": 420, "height": 1400})
    for place, wide in ((".vin-scroll", True), (".vin-lookup", False)):
        held = page.locator(place).first
        assert await held.evaluate("held => held.scrollWidth > held.clientWidth") is wide
    assert not dialogs


async def test_ten_thousand_rows(open_notebook: OpenNotebook, tmp_path: Path) -> None:
    db = tmp_path / "vin.db"
    _fill(db, 10_000)
    vins = [str(vin) for vin in numbered_vins(10_000)]
    notebook = await open_notebook([widget(repr(vins[::-1]), db=str(db), source="embedded")])
    await notebook.said("10,000 VINs: 10,000 found")
    assert await notebook.widget.evaluate(_NODES) < 2_000
    assert await notebook.widget.get_by_text("1 to 100 of 10,000").is_visible()

    await notebook.button("VIN").click()
    await notebook.lists("VIN", sorted(vins)[:2])
    await notebook.button("Model").click()
    models = await notebook.column("Model")
    assert models == ["MODEL 0"] * 25 + ["MODEL 1"] * 25 + ["MODEL 2"] * 25 + ["MODEL 3"] * 25
    await notebook.lists("No.", ["400", "800", "1,200"])
    await notebook.button("Year").click()
    await notebook.button("Year").click()
    assert set(await notebook.column("Year")) == {"2024"}
    await notebook.button("Year").click()
    await notebook.lists("No.", ["1", "2", "3"])
    assert await notebook.widget.evaluate(_NODES) < 2_000

    await notebook.paste("\n".join(vins[:3_000]))
    assert await notebook.box.evaluate("box => box.rows") == 8
    await notebook.widget.get_by_text("3,000 VINs.").wait_for()
    await notebook.page.keyboard.press("Enter")
    await notebook.said("3,000 VINs: 3,000 found")


def _fill(db: Path, count: int) -> None:
    """Put numbered vehicles of 40 makes and 400 models into a cache."""
    fill_cache(db, count)
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as connection:
        connection.create_function("checked", 1, lambda vin: vin[:8] + check_digit(vin) + vin[9:])
        connection.execute(
            """
            UPDATE vehicles SET vin = checked(vin), record = json_object(
                'ErrorCode', '0', 'Make', make, 'Model', model, 'ModelYear', CAST(model_year AS TEXT)
            )
            """
        )


_NODES = """widget => {
    const walker = document.createTreeWalker(widget);
    let nodes = 1;
    while (walker.nextNode()) nodes += 1;
    return nodes;
}"""


async def test_who_types_on_is_not_disturbed(
    open_notebook: OpenNotebook, vpic_server: VpicServer, tmp_path: Path
) -> None:
    after = "w.value = 'set by a cell'"
    notebook = await open_notebook([widget(**asking(vpic_server, tmp_path)), after])
    page = notebook.page
    vpic_server.latency = 0.3
    typed = "abcdefghijklmnopqrstuvwxyz" * 4
    await notebook.paste("\n".join(str(vin) for vin in numbered_vins(20)))
    await page.keyboard.press("Enter")
    await page.keyboard.press("Control+a")
    first = await notebook.widget.element_handle()
    await page.keyboard.type(typed[:30], delay=20)
    await page.keyboard.press("ArrowLeft")
    while await first.evaluate("view => view.isConnected"):
        await page.keyboard.type("1", delay=20)
    await page.keyboard.type("234", delay=20)
    assert re.fullmatch(typed[:29] + "1+234" + typed[29], await notebook.box.input_value())
    await notebook.focused("box")
    await notebook.said("20 VINs: 20 found")

    await page.locator(".jp-CodeCell").nth(1).locator(".cm-content").click()
    await page.keyboard.press("Shift+Enter")
    await page.wait_for_function("document.querySelector('.vin-lookup textarea').value === 'set by a cell'")

    # What is a command to a notebook is a key to the widget.
    await notebook.box.focus()
    await page.keyboard.press("Control+a")
    await page.keyboard.type("dd")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("x")
    assert await notebook.box.input_value() == "dd\nx"
    await notebook.button("Make").focus()
    for key in ("Enter", "x", "d", "d"):
        await page.keyboard.press(key)
    assert await notebook.widget.locator("th[aria-sort=ascending]").inner_text() == "Make"
    assert await page.locator(".jp-CodeCell").count() == 3
