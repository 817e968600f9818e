"""A real browser for the tests of pages: Debian's Chromium, driven by Playwright, on loopback alone."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright, expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection
    from pathlib import Path

    from playwright.async_api import Browser, BrowserContext, Page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
"""The browser, where this machine has one."""

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
"""What it is started with: nothing of it leaves this machine."""


# What is awaited comes at once on a machine that is not busy; half of a busy one is slow.
expect.set_options(timeout=60_000)


class Browse(Protocol):
    """A page in a window of its own; options are those of a Playwright context, such as
    `java_script_enabled`, `color_scheme` and `viewport`."""

    async def __call__(self, **options: Any) -> Page: ...


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """One browser for all tests, which have windows of their own."""
    if not CHROMIUM:
        pytest.skip("No Chromium was found: apt-get install chromium, or name it in CHROMIUM")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS, timeout=60_000)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def browse(chromium: Browser) -> AsyncIterator[Browse]:
    """Open pages that fail the test when a script on them fails or is refused, or when they
    ask for anything that is not on loopback. See `Browse`."""
    opened: list[BrowserContext] = []
    said: list[str] = []

    async def open_page(**options: Any) -> Page:
        context = await chromium.new_context(locale="en-US", **options)
        context.set_default_timeout(60_000)
        opened.append(context)
        page = await context.new_page()
        page.on("pageerror", lambda error: said.append(f"{page.url}: {error}"))
        page.on("request", lambda request: None if _is_local(request.url) else said.append(request.url))
        page.on("console", lambda message: said.append(message.text) if _is_refusal(message.text) else None)
        return page

    yield open_page
    for context in opened:
        await context.close()
    assert not said, said


def _is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))


def _is_refusal(text: str) -> bool:
    return "Content Security Policy" in text or "Content-Security-Policy" in text


async def violations(page: Page, *, allowed: Collection[str] = ()) -> list[str]:
    """What axe-core finds wrong with a page by the rules of WCAG 2.2 AA and its own best
    practices: each rule with the elements that break it. `allowed` are rules that stock
    pages of Datasette break by themselves."""
    # Datasette 1.0's dialog for jumping shadows the method `matches` of elements, on which axe relies.
    await page.evaluate("document.querySelector('navigation-search')?.remove()")
    results = await Axe().run(page)
    return [
        f"{rule['id']}: {', '.join(str(node['target']) for node in rule['nodes'])}"
        for rule in results.response["violations"]
        if rule["id"] not in allowed
    ]


async def picture(page: Page, path: Path) -> None:
    """A picture of the whole page."""
    await page.screenshot(path=path, full_page=True)
