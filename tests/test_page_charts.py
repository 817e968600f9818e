"""The charts of the vehicles in a real browser, on their own page and above the table."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.browser import violations
from tests.conftest import fill_cache, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.async_api import Locator, Page, Route

    from tests.browser import Browse

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a fleet of 2,000 vehicles of 45 years."""
    folder = tmp_path_factory.mktemp("charts")
    fill_cache(folder / "vin.db", 2_000)
    with closing(sqlite3.connect(folder / "vin.db")) as connection:
        connection.execute("UPDATE vehicles SET fuel_type = 'Diesel', body_class = 'Sport Utility Vehicle [SUV]/Long'")
        connection.commit()
    with serving(folder, VIN_DATASETTE_SOURCE="embedded") as served:
        yield served.url


def button(page: Page) -> Locator:
    return page.get_by_role("button", name=re.compile("^(Charts of|Hide the charts)"))


def status(page: Page) -> Locator:
    return page.locator(".vin-charts-way [role=status]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_of_charts_is_accessible(url: str, browse: Browse, scheme: str) -> None:
    page = await browse(color_scheme=scheme)
    await page.goto(f"{url}/vin/vehicles.charts")
    await page.get_by_text("The years as a list").click()
    assert await violations(page) == []
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await violations(page) == []


async def test_the_page_of_charts_fits_a_phone(url: str, browse: Browse) -> None:
    page = await browse(viewport={"width": 360, "height": 740})
    await page.goto(f"{url}/vin/vehicles.charts?fuel_type=Diesel&make__in=MAKE+1,MAKE+2,MAKE+3")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    assert await violations(page) == []


async def test_a_year_leads_to_its_rows_by_keyboard_and_without_scripts(url: str, browse: Browse) -> None:
    page = await browse(java_script_enabled=False)
    await page.goto(f"{url}/vin/vehicles")
    await page.get_by_role("link", name="charts", exact=True).focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/vehicles.charts*")
    await page.get_by_role("link", name="1984: 45 vehicles").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_url("**/vehicles?model_year=1984*")
    await expect(page.get_by_role("heading", level=3).first).to_contain_text("45 rows")


async def test_charts_above_the_table_are_shown_remembered_and_hidden(url: str, browse: Browse) -> None:
    page = await browse()
    await page.goto(f"{url}/vin/vehicles?make=MAKE+1")
    await expect(button(page)).to_have_text("Charts of these 50 vehicles")
    await expect(button(page)).to_have_attribute("aria-expanded", "false")
    await button(page).focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#vin-charts .vin-chart")).to_have_count(5)
    await expect(status(page)).to_have_text("The charts stand above the table.")
    await expect(button(page)).to_be_focused()
    await expect(button(page)).to_have_attribute("aria-expanded", "true")
    assert await page.locator("#vin-charts").get_by_role("link", name="MAKE 1 50").count() == 1

    await page.locator("#vin-charts").get_by_role("link", name="Diesel").click()
    await page.wait_for_url("**fuel_type=Diesel*")
    await expect(page.locator("#vin-charts .vin-chart")).to_have_count(5)

    await page.keyboard.press("Tab")
    await button(page).press("Space")
    await expect(page.locator("#vin-charts .vin-chart")).to_have_count(0)
    await page.reload()
    await expect(button(page)).to_have_text("Charts of these 50 vehicles")
    await expect(page.locator("#vin-charts .vin-chart")).to_have_count(0)


async def test_charts_above_the_table_are_accessible_and_fit_a_phone(url: str, browse: Browse) -> None:
    page = await browse(viewport={"width": 360, "height": 740})
    await page.goto(f"{url}/vin/vehicles?make=MAKE+1")
    before = set(await violations(page))
    await button(page).click()
    await expect(page.locator("#vin-charts .vin-chart")).to_have_count(5)
    assert set(await violations(page)) <= before
    assert await page.locator("#vin-charts").evaluate("it => it.scrollWidth <= it.clientWidth")


async def test_charts_that_cannot_be_loaded_are_told_and_tried_again(url: str, browse: Browse) -> None:
    page = await browse()
    await page.goto(f"{url}/vin/vehicles")

    async def fail(route: Route) -> None:
        await route.fulfill(status=400, content_type="text/html", body="<main><p class=vin-note>Too <b>slow</b>.</p>")

    await page.route("**/vehicles.charts*", fail)
    await button(page).click()
    await expect(status(page)).to_have_text("The charts could not be loaded. Too slow. Press to try again.")
    await page.unroute("**/vehicles.charts*")
    await button(page).click()
    await expect(page.locator("#vin-charts .vin-chart")).to_have_count(5)


@pytest.mark.parametrize("path", ["/", "/vin", "/vin/vehicles"])
async def test_a_newcomer_finds_the_lookup(url: str, browse: Browse, path: str) -> None:
    page = await browse()
    await page.goto(url + path)
    await page.locator("section.content").get_by_role("link", name="Look up a VIN").first.click()
    await page.wait_for_url("**/-/vin/lookup")
