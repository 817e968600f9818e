"""`GET /lookup` in a real browser: one box, for one VIN and for many."""

from __future__ import annotations

import asyncio
import csv
import io
import random
import re
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow.parquet as pq
import pytest

from tests.browser import violations
from tests.conftest import Served, numbered_vins, serving, until
from tests.vpic_server import Fault, VpicServer, flat_record
from vin_datasette.vin import VIN, InvalidVIN, check_digit, normalise

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.async_api import Page, Route

    from tests.browser import Browse

pytestmark = pytest.mark.asyncio(loop_scope="session")

PETERBILT, HONDA = "1XP5DB9X7XD487964", "1HGCM82633A004352"
LETTER_O = "1HGCM82633AOO4352"
SHORT = "1XP5DB9X7XD48796"


class Site:
    """A served instance, and the vPIC that it asks."""

    def __init__(self, served: Served, vpic: VpicServer) -> None:
        self.served = served
        self.vpic = vpic
        self.page = f"{served.url}/lookup"
        self.table = f"{served.url}/vin/vehicles"

    def asked(self) -> list[str]:
        """The VINs that vPIC was asked for, in any order."""
        return sorted(vin for call in self.vpic.calls for vin in call.vins)


@pytest.fixture(scope="module")
def one_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    with VpicServer() as vpic, serving(folder, **_settings(vpic)) as served:
        yield Site(served, vpic)


def _settings(vpic: VpicServer) -> dict[str, str]:
    named = {"vpic_url": vpic.url, "source": "vpic", "rate": 1000, "batch_size": 10, "concurrency": 1}
    return {f"VIN_DATASETTE_{name.upper()}": str(value) for name, value in named.items()}


@pytest.fixture
def own_site(tmp_path: Path) -> Iterator[Site]:
    """A site of the test's own: after a fault, vPIC is left alone for a while."""
    # A vPIC that is silent stays so for as long as a test looks at the page.
    with VpicServer() as vpic, serving(tmp_path, **_settings(vpic), VIN_DATASETTE_TIMEOUT="300") as served:
        yield Site(served, vpic)


@pytest.fixture
def site(one_site: Site) -> Iterator[Site]:
    """The site that the tests share, with a vPIC that has not been asked."""
    one_site.vpic.reset()
    yield one_site
    one_site.vpic.reset()
    one_site.vpic.latency = 0.0
    one_site.vpic.records.clear()


def fresh(count: int, first: int) -> list[str]:
    """VINs of Hondas that no other test looks up."""
    return [str(vin) for vin in numbered_vins(first + count)[first:]]


async def paste(page: Page, text: str) -> None:
    """Put a text into the box from the clipboard."""
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.evaluate("text => navigator.clipboard.writeText(text)", text)
    await page.locator("#vin").focus()
    await page.keyboard.press("Control+a")
    await page.keyboard.press("Control+v")


async def done(page: Page, word: str = "Done") -> str:
    """What the page says once it has come to an end."""
    status = page.locator("#vin-status", has_text=f"{word}:")
    await status.wait_for()
    return await status.inner_text()


async def cells(page: Page, row: int) -> list[str]:
    """The cells of a row of the list, counted from 1."""
    return await page.locator(f"#vin-rows tr:nth-child({row}) td").all_inner_texts()


# One VIN


async def test_a_typed_vin_leads_to_its_vehicle_by_keyboard_alone(site: Site, browse: Browse) -> None:
    page = await browse()
    await page.goto(site.page)
    await page.keyboard.type(PETERBILT.lower())
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/vehicles/{PETERBILT}")
    assert "PETERBILT" in await page.locator("body").inner_text()


async def test_without_javascript_a_vin_leads_to_its_vehicle(site: Site, browse: Browse) -> None:
    page = await browse(java_script_enabled=False)
    await page.goto(site.page)
    await page.locator("#vin").fill(PETERBILT)
    await page.locator("#vin").press("Enter")
    await page.wait_for_url(f"**/vehicles/{PETERBILT}")
    assert await page.locator("body").inner_text()


async def test_without_javascript_one_can_type_at_once(site: Site, browse: Browse) -> None:
    page = await browse(java_script_enabled=False)
    await page.goto(site.page)
    await page.locator("input#vin:focus").wait_for()
    await page.keyboard.type(PETERBILT)
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/vehicles/{PETERBILT}")


async def test_what_is_typed_while_the_scripts_load_is_kept(site: Site, browse: Browse) -> None:
    page = await browse()
    typed = asyncio.Event()

    async def late(route: Route) -> None:
        await typed.wait()
        await route.continue_()

    await page.route("**/lookup.js*", late)
    await page.goto(site.page, wait_until="commit")
    await page.locator("input#vin:focus").wait_for()
    await page.keyboard.type(PETERBILT[:7])
    typed.set()
    await page.locator("textarea#vin:focus").wait_for()
    await page.keyboard.type(PETERBILT[7:])
    assert await page.locator("#vin").input_value() == PETERBILT


async def test_without_javascript_a_rejection_says_why_and_offers_what_was_meant(site: Site, browse: Browse) -> None:
    page = await browse(java_script_enabled=False)
    await page.goto(site.page)
    assert not await page.locator("text=Choose a file").is_visible()
    await page.locator("#vin").fill(LETTER_O)
    await page.locator("input[type=submit]").click()
    assert "position 12 holds the letter O" in (await page.locator("#vin-reason").inner_text()).replace("P", "p")
    await page.locator(f"#vin-reason a:has-text('{HONDA}')").click()
    await page.wait_for_url(f"**/vehicles/{HONDA}")


@pytest.mark.parametrize(
    ("text", "said", "kind"),
    [
        ("1XP5", "4 of 17 characters", ""),
        (PETERBILT, "A VIN, and its check digit is right.", "good"),
        (LETTER_O, "Position 12 holds the letter O, which no VIN uses: likely the digit 0.", "bad"),
        ("1XP5DB9X8XD487964", "Position 9, the check digit, is 8 where 7 is due", "bad"),
        (f"{PETERBILT}1", "A VIN has 17 characters, and this has 18.", "bad"),
        ("1XP5*", "Position 5 holds *", "bad"),
        (f"{PETERBILT}\n{LETTER_O}\n{HONDA}", "3 VINs; 1 of them looks wrong. No. 2: Position 12", "bad"),
        (f"{PETERBILT}\n{HONDA}\n{PETERBILT}", "3 VINs, 1 of them listed before; every check digit is right.", "good"),
        ("<script>alert(1)</script>", "Position 1 holds <", "bad"),
    ],
)
async def test_the_box_says_what_is_wrong_before_anything_is_sent(
    site: Site, browse: Browse, text: str, said: str, kind: str
) -> None:
    page = await browse()
    await page.goto(site.page)
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    await paste(page, text)
    hint = page.locator("#vin-hint", has_text=said)
    await hint.wait_for()
    assert await hint.get_attribute("class") == kind
    assert sent == []


async def test_the_browser_and_the_server_agree_on_what_a_vin_is(site: Site, browse: Browse) -> None:
    chance = random.Random(17)
    odd = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u2003\u3000-‐‑‒–—−\u00ad\"'`´‘’‚“”„«»‹›ßıſéÀ*!.,;ioqIOQ🚗"
    vins = [str(vin) for vin in numbered_vins(50)] + [PETERBILT, "WP0ZZZ99ZTS392124"]
    texts = ["".join(_spoilt(chance, chance.choice(vins), odd)) for _ in range(3000)]
    page = await browse()
    await page.goto(site.page)
    found = await page.evaluate(
        """async ([url, texts]) => {
            const { normalise, finding, checkDigit } = await import(url);
            return texts.map((text) => {
                const vin = normalise(text), found = finding(vin);
                return [vin, !found?.fatal, found?.fatal ? "" : checkDigit(vin)];
            });
        }""",
        [f"{site.served.url}/-/static-plugins/vin-datasette/vin.js", texts],
    )
    assert found == [_as_here(text) for text in texts]


def _spoilt(chance: random.Random, vin: str, odd: str) -> Iterator[str]:
    for character in vin:
        roll = chance.random()
        if roll < 0.03:
            yield chance.choice(odd)
        if roll < 0.02:
            continue
        yield character.lower() if roll > 0.9 else character
    yield chance.choice(("", "", "", chance.choice(odd), chance.choice("0123456789ABC")))


def _as_here(text: str) -> list[Any]:
    normal = normalise(text)
    try:
        VIN(text)
    except InvalidVIN:
        return [normal, False, ""]
    return [normal, True, check_digit(normal)]


# Many VINs


async def test_a_pasted_column_becomes_a_list(site: Site, browse: Browse) -> None:
    vins = fresh(24, 1000)
    site.vpic.records["1XP5DB9X8XD487964"] = {
        **flat_record("1XP5DB9X8XD487964"),
        "SuggestedVIN": PETERBILT,
    }
    page = await browse()
    await page.goto(site.page)
    await paste(page, "\n".join(["VIN", *vins, SHORT, "1XP5DB9X8XD487964", vins[0]]))
    await page.keyboard.press("Enter")
    said = await done(page)
    assert "27 of 27. 25 found, 0 of them cached, 2 rejected, 1 listed more than once" in said
    assert (await cells(page, 1))[:4] == ["1", vins[0], "2003", "HONDA"]
    assert (await cells(page, 25))[1:3] == [SHORT, "A VIN has 17 characters, and this has 16."]
    assert site.asked() == sorted([*vins, "1XP5DB9X8XD487964"])

    rejected = page.locator("button[data-show=rejected]")
    await rejected.click()
    assert await page.locator("#vin-rows tr").count() == 2
    assert await rejected.get_attribute("aria-pressed") == "true"
    await page.locator(f"button:has-text('Take {PETERBILT}')").click()
    await page.locator("button[data-show=found]", has_text="26").wait_for()
    await page.locator("button[data-show=all]").click()
    taken = await cells(page, 26)
    assert PETERBILT in taken[1]
    assert "instead of 1XP5DB9X8XD487964" in taken[1]
    assert taken[3] == "PETERBILT"


async def test_rows_come_as_they_are_answered(own_site: Site, browse: Browse) -> None:
    vins = fresh(60, 2000)
    # The second call is answered when the test is over.
    own_site.vpic.fail_next(Fault(name="none"))
    own_site.vpic.fail_always(Fault.silence)
    page = await browse()
    await page.goto(own_site.page)
    await paste(page, "\n".join(vins))
    await page.keyboard.press("Enter")
    await page.locator("#vin-rows tr.found").nth(9).wait_for()
    assert await page.locator("#vin-rows tr.waiting").count() == 50
    assert await page.locator("#vin-progress").evaluate("bar => [bar.value, bar.max]") == [10, 60]
    assert await page.locator("#vin-links").is_hidden()


async def test_a_stopped_list_goes_on_where_it_was_by_keyboard_alone(own_site: Site, browse: Browse) -> None:
    vins = sorted(fresh(60, 3000))
    own_site.vpic.latency = 1.0
    page = await browse()
    await page.goto(own_site.page)
    await paste(page, "\n".join(vins))
    await page.keyboard.press("Enter")
    await page.locator("#vin-rows tr.found").nth(9).wait_for()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    assert re.search(r"Stopped: [1-5]0 of 60", await done(page, "Stopped"))
    own_site.vpic.latency = 0.0
    assert await page.locator(":focus").inner_text() == "Resume"
    await page.keyboard.press("Enter")
    assert "60 of 60. 60 found" in await done(page)
    assert own_site.asked() == vins


async def test_what_is_cached_is_told_apart(site: Site, browse: Browse) -> None:
    vins = fresh(4, 4000)
    for vin in vins[:3]:
        httpx.get(f"{site.page}/{vin}").raise_for_status()
    page = await browse()
    await page.goto(site.page)
    await paste(page, "\n".join(vins))
    await page.locator("input[type=submit]").click()
    assert "4 found, 3 of them cached" in await done(page)
    assert [(await cells(page, row))[-1] for row in (1, 2, 3, 4)] == ["cached", "cached", "cached", "new"]


@pytest.mark.parametrize("count", [3, 320])
async def test_links_at_the_end_lead_to_the_same_rows(site: Site, browse: Browse, count: int) -> None:
    vins = fresh(count, 5000)
    page = await browse()
    await page.goto(site.page)
    await paste(page, "\n".join([*vins, SHORT]))
    await page.keyboard.press("Enter")
    await page.locator("#vin-links").wait_for()
    table, parquet, as_csv = await page.locator("#vin-links a").evaluate_all("links => links.map((link) => link.href)")
    assert sorted(pq.read_table(io.BytesIO(httpx.get(parquet).content))["vin"].to_pylist()) == sorted(vins)
    assert sorted(row["vin"] for row in csv.DictReader(io.StringIO(httpx.get(as_csv).text))) == sorted(vins)
    await page.goto(table)
    assert f"{count} rows" in await page.locator("h3").first.inner_text()
    async with page.expect_navigation():
        await page.locator("form.filters input[type=submit]").click()
    assert f"{count} rows" in await page.locator("h3").first.inner_text()


async def test_the_list_is_saved_with_its_rejections(site: Site, browse: Browse) -> None:
    page = await browse()
    await page.goto(site.page)
    await paste(page, f"{PETERBILT}\n{LETTER_O}\n=cmd()")
    await page.keyboard.press("Enter")
    async with page.expect_download() as saved:
        await page.locator("#vin-save").click()
    text = (await (await saved.value).path()).read_text("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["VIN"] for row in rows] == [PETERBILT, LETTER_O, "'=cmd()"]
    assert [row["Make"] for row in rows] == ["PETERBILT", "", ""]
    assert rows[1]["Suggested VIN"] == HONDA
    assert "letter O" in rows[1]["Reason"]


SHAPES = {
    "a row of a spreadsheet": "{0}\t{1}\t{2}",
    "a block of a spreadsheet": "Unit\tVIN\tDriver\n1\t{0}\tAnn\n2\t{1}\tBob\n\n3\t{2}\t",
    "CSV": 'unit,name,vin\r\n1,"Ann, A.",{0}\r\n2,"B ""Bob""",{1}\r\n3,,"{2}"\r\n',
    "CSV with semicolons and without a heading": "7;{0}\n8;{1}\n9;{2}\n",
    "a list with commas": "{0}, {1}, {2}",
    "a list with spaces": "{0} {1}\n{2}",
    "written in groups": "1HGC M826 X3A0 0600 0\n{1}\n{2}",
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
async def test_vins_are_found_in_any_shape(site: Site, browse: Browse, shape: str) -> None:
    vins = fresh(3, 6000)
    shape = shape.replace("1HGC M826 X3A0 0600 0", f"{vins[0][:4]} {vins[0][4:8]} {vins[0][8:]}")
    page = await browse()
    await page.goto(site.page)
    await paste(page, shape.format(*vins))
    await page.keyboard.press("Enter")
    assert "3 of 3. 3 found" in await done(page)
    assert [(await cells(page, row))[1] for row in (1, 2, 3)] == vins


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "windows-1252"])
async def test_a_chosen_file_becomes_a_list(site: Site, browse: Browse, encoding: str) -> None:
    vins = fresh(3, 6000)
    text = "Fahrer;Fahrgestellnummer\r\n" + "".join(f"Jürgen;{vin}\r\n" for vin in vins)
    page = await browse()
    await page.goto(site.page)
    file: Any = {"name": "fleet.csv", "mimeType": "text/csv", "buffer": text.encode(encoding)}
    await page.locator("#vin-file").set_input_files(file)
    assert "3 of 3. 3 found" in await done(page)
    assert await page.locator("#vin-list-title").inner_text() == "fleet.csv: 3 VINs"


async def test_a_dropped_file_becomes_a_list(site: Site, browse: Browse) -> None:
    vins = fresh(3, 6000)
    page = await browse()
    await page.goto(site.page)
    await page.evaluate(
        """(text) => {
            const data = new DataTransfer();
            data.items.add(new File([text], "vins.txt", { type: "text/plain" }));
            const drop = new DragEvent("drop", { bubbles: true, dataTransfer: data });
            document.getElementById("vin-help").dispatchEvent(drop);
        }""",
        "\n".join(vins),
    )
    assert "3 of 3. 3 found" in await done(page)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("fleet.xlsx", b"PK\x03\x04\x00\x00\x00\x00" * 200, "This is no text"),
        ("letter.txt", b"Dear Sir or Madam,\nwe write to you\nabout your car.\n" * 9, "anything like a VIN"),
        ("empty.csv", b"", "empty.csv is empty."),
        ("large.csv", b"x" * (16 * 1024 * 1024 + 1), "large.csv is larger than 16 MB"),
        ("many.csv", b"1XP5DB9X7XD487964\n" * 50_001, "50,001 VINs are more than this page takes, 50,000"),
    ],
)
async def test_a_file_that_is_no_list_is_refused_in_words(
    site: Site, browse: Browse, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    page = await browse()
    await page.goto(site.page)
    await page.locator("#vin-file").set_input_files(tmp_path / name)
    await page.locator("#vin-hint.bad", has_text=said).wait_for()
    assert await page.locator("#vin-list").is_hidden()
    assert site.vpic.calls == []


async def test_a_megabyte_that_is_no_list_is_refused_in_words(site: Site, browse: Browse) -> None:
    page = await browse()
    await page.goto(site.page)
    await paste(page, "lorem ipsum, dolor\n" * 55_000)
    await page.keyboard.press("Enter")
    await page.locator("#vin-hint.bad", has_text="None of the 55,000 lines has anything like a VIN").wait_for()
    assert await page.locator("#vin-list").is_hidden()


async def test_hostile_values_are_shown_as_text(site: Site, browse: Browse) -> None:
    [vin] = fresh(1, 7000)
    site.vpic.records[vin] = {**flat_record(vin), "Model": "<script>window.caught = 1</script>"}
    page = await browse()
    await page.goto(site.page)
    await paste(page, f"{vin}\n<img src=x onerror=window.caught=1>")
    await page.keyboard.press("Enter")
    await done(page)
    assert (await cells(page, 1))[4] == "<script>window.caught = 1</script>"
    assert (await cells(page, 2))[1].startswith("<img src=x onerror=")
    assert await page.evaluate("window.caught") is None
    await page.goto(f"{site.page}?vin=%3Cscript%3Ewindow.caught%3D1%3C/script%3E")
    assert "<script>" in await page.locator("#vin-reason").inner_text()
    assert await page.evaluate("window.caught") is None


async def test_what_could_not_be_asked_is_said_and_can_be_asked_again(own_site: Site, browse: Browse) -> None:
    vins = fresh(3, 8000)
    own_site.vpic.fail_always(Fault.status(500))
    page = await browse()
    await page.goto(own_site.page)
    await paste(page, "\n".join(vins))
    await page.keyboard.press("Enter")
    assert "3 could not be asked" in await done(page)
    await page.locator("button[data-show=open]").click()
    assert "No source could be asked" in (await cells(page, 3))[2]
    async with page.expect_request(own_site.page.replace("/lookup", "/-/vin/lookup") + "*") as again:
        await page.locator("#vin-resume").click()
    assert sorted((await again.value).post_data_json or []) == sorted(vins)


async def test_a_lost_server_costs_nothing_that_is_answered(tmp_path: Path, browse: Browse) -> None:
    vins = fresh(30, 0)
    with VpicServer() as vpic:
        with serving(tmp_path, "--port", "0", **_settings(vpic)) as served:
            vpic.fail_next(Fault(name="none"))
            vpic.fail_always(Fault.silence)
            page = await browse()
            await page.goto(f"{served.url}/lookup")
            await paste(page, "\n".join(vins))
            await page.keyboard.press("Enter")
            await page.locator("#vin-rows tr.found").nth(9).wait_for()
            served.process.kill()
            await page.locator("#vin-trouble", has_text="The connection to the server was lost.").wait_for()
            port = served.url.rpartition(":")[2]
        vpic.fail_always(None)
        with serving(tmp_path, "--port", port, **_settings(vpic)):
            await page.locator("#vin-resume").click()
            assert "30 of 30. 30 found" in await done(page)


async def test_a_list_too_many_is_refused_in_words(tmp_path: Path, browse: Browse) -> None:
    with VpicServer() as vpic, serving(tmp_path, VIN_DATASETTE_LIST_CONCURRENCY="1", **_settings(vpic)) as served:
        vpic.latency = 1.0
        pages = [await browse(), await browse()]
        for page, vins in zip(pages, (fresh(100, 0), fresh(10, 100)), strict=True):
            await page.goto(f"{served.url}/lookup")
            await paste(page, "\n".join(vins))
            await page.keyboard.press("Enter")
            until(lambda: vpic.calls)
        trouble = pages[1].locator("#vin-trouble", has_text="1 lists of VINs are being looked up")
        await trouble.wait_for()
        assert "Ask again in 30 seconds." in await trouble.inner_text()
        await pages[0].close()
        await pages[1].locator("#vin-resume").click()
        assert "10 of 10. 10 found" in await done(pages[1])


# Ten thousand


async def test_ten_thousand_vins_leave_the_page_small_and_all_are_there(tmp_path: Path, browse: Browse) -> None:
    vins = [str(vin) for vin in numbered_vins(10_000)]
    with serving(tmp_path, VIN_DATASETTE_SOURCE="embedded") as served:
        page = await browse()
        await page.goto(f"{served.url}/lookup")
        await paste(page, "\n".join(vins))
        await page.keyboard.press("Enter")
        page.set_default_timeout(120_000)
        assert "10,000 of 10,000. 10,000 found" in await done(page)
        assert await page.locator("*").count() < 2_000
        await page.locator("#vin-next").click()
        assert (await cells(page, 1))[:2] == ["101", vins[100]]
        assert await page.locator("#vin-range").inner_text() == "101 to 200 of 10,000"
        await page.locator("#vin-links").wait_for()
        await page.locator("#vin-links a").first.click()
        await page.wait_for_url("**/vehicles?_list=*")
        assert "10,000 rows" in await page.locator("h3").first.inner_text()


async def test_a_closed_tab_ends_the_work(site: Site, browse: Browse) -> None:
    site.vpic.latency = 0.05
    page = await browse()
    await page.goto(site.page)
    await paste(page, "\n".join(fresh(3000, 20_000)))
    await page.keyboard.press("Enter")
    await page.locator("#vin-rows tr.found").nth(0).wait_for()
    await page.close()

    def idle() -> bool:
        state = httpx.get(f"{site.served.url}/-/vin.json").json()
        return bool(state["in_flight"] == 0 and state["waiting"] == 0)

    until(idle)
    assert len(site.asked()) < 1000


# What people see


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_is_accessible_in_every_state(own_site: Site, browse: Browse, scheme: str) -> None:
    page = await browse(color_scheme=scheme)
    await page.goto(own_site.page)
    assert await violations(page) == []
    await paste(page, LETTER_O)
    await page.locator("#vin-hint.bad").wait_for()
    assert await violations(page) == []
    await page.keyboard.press("Enter")
    await page.locator("#vin-reason").wait_for()
    assert await violations(page) == []
    own_site.vpic.fail_next(Fault(name="none"))
    own_site.vpic.fail_always(Fault.silence)
    await paste(page, "\n".join([LETTER_O, SHORT, *fresh(20, 9000 if scheme == "light" else 9100)]))
    await page.keyboard.press("Enter")
    await page.locator("#vin-rows tr.found").nth(9).wait_for()
    assert await violations(page) == []
    await page.locator("#vin-stop").click()
    await done(page, "Stopped")
    assert await violations(page) == []
    await page.set_viewport_size({"width": 360, "height": 740})
    assert await violations(page) == []


async def test_the_page_fits_a_phone(site: Site, browse: Browse) -> None:
    page = await browse(viewport={"width": 360, "height": 740})
    await page.goto(site.page)
    await paste(page, f"{PETERBILT}\n{LETTER_O}\n{HONDA}")
    await page.keyboard.press("Enter")
    await done(page)
    assert await page.evaluate("document.documentElement.scrollWidth") == 360


async def test_the_page_says_that_the_embedded_copy_answers(tmp_path: Path, browse: Browse) -> None:
    with serving(tmp_path, VIN_DATASETTE_SOURCE="embedded") as served:
        page = await browse()
        await page.goto(f"{served.url}/lookup")
        assert "the copy of vPIC's database within this server" in await page.locator(".vin-note").first.inner_text()
        assert await violations(page) == []
        await paste(page, f"{PETERBILT}\n{HONDA}")
        await page.keyboard.press("Enter")
        assert "2 answered by the embedded copy of vPIC's database" in await done(page)
        assert (await cells(page, 1))[-1] == "new, embedded"


async def test_a_list_is_there_again_after_going_back_and_after_a_reload(site: Site, browse: Browse) -> None:
    vins = fresh(3, 9500)
    page = await browse()
    await page.goto(site.page)
    await paste(page, "\n".join([*vins, LETTER_O]))
    await page.keyboard.press("Enter")
    await done(page)
    await page.locator("button[data-show=rejected]").click()
    await page.locator(f"button:has-text('Take {HONDA}')").click()
    await page.locator("#vin-status", has_text="4 found").wait_for()
    await page.locator("button[data-show=all]").click()
    await page.locator("#vin-rows a").first.click()
    await page.wait_for_url(f"**/vehicles/{vins[0]}")
    for again in (page.go_back, page.reload):
        await again()
        assert "4 of 4. 4 found, 4 of them cached" in await done(page)
    await page.goto(site.table)
    await page.goto(site.page)
    assert await page.locator("#vin-list").is_hidden()


async def test_the_csv_of_the_rows_is_a_file(site: Site, browse: Browse) -> None:
    page = await browse()
    await page.goto(site.page)
    await paste(page, f"{PETERBILT}\n{HONDA}")
    await page.keyboard.press("Enter")
    await page.locator("#vin-links").wait_for()
    async with page.expect_download() as saved:
        await page.locator("#vin-links a[data-format='.csv']").click()
    rows = list(csv.DictReader(io.StringIO((await (await saved.value).path()).read_text("utf-8"))))
    assert {row["vin"] for row in rows} == {PETERBILT, HONDA}
    assert "record" not in rows[0]


async def test_what_is_not_answered_can_be_shown_alone(own_site: Site, browse: Browse) -> None:
    own_site.vpic.latency = 1.0
    page = await browse()
    await page.goto(own_site.page)
    await paste(page, "\n".join(fresh(60, 0)))
    await page.keyboard.press("Enter")
    await page.locator("#vin-rows tr.found").nth(9).wait_for()
    assert (await page.locator("#vin-status").inner_text()).startswith("Looking up: ")
    await page.locator("#vin-stop").click()
    await done(page, "Stopped")
    await page.locator("button[data-show=open]").click()
    assert await page.locator("#vin-rows tr.waiting").count() == await page.locator("#vin-rows tr").count() >= 10


async def test_an_empty_box_asks_for_a_vin(site: Site, browse: Browse) -> None:
    page = await browse()
    await page.goto(site.page)
    await paste(page, "  \n ")
    await page.keyboard.press("Enter")
    await page.locator("#vin-hint.bad", has_text="Type or paste a VIN first.").wait_for()
