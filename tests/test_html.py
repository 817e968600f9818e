"""What holds of our own pages before a browser has seen them."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import MakeInstance

INLINE = re.compile(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", re.DOTALL)


@pytest.mark.parametrize("path", ["/lookup", "/lookup?vin=nonsense", "/-/vin/lookup"])
async def test_no_script_runs_but_the_instance_s_own(make_instance: MakeInstance, path: str) -> None:
    answer = await (await make_instance()).client.get(path)
    policy = dict(directive.strip().split(" ", 1) for directive in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in INLINE.findall(answer.text)
    }
    assert set(policy["script-src"].split()) == {"'self'", *hashes}


async def test_a_page_is_written_in_a_language(make_instance: MakeInstance) -> None:
    assert '<html lang="en">' in (await (await make_instance()).client.get("/lookup")).text


async def test_a_page_finds_its_files_under_a_base_url(make_instance: MakeInstance) -> None:
    datasette = await make_instance(settings={"base_url": "/fleet/"})
    page = (await datasette.client.get("/fleet/lookup")).text
    addresses = re.findall(r'(?:href|src|action|data-[a-z]+)="(/[^"]*)"', page)
    assert addresses
    assert [address for address in addresses if not address.startswith("/fleet/")] == []


async def test_a_message_waits_for_the_page_that_shows_it(make_instance: MakeInstance) -> None:
    datasette = await make_instance()
    cookie = datasette.sign([["Removed.", 1]], "messages")
    answer = await datasette.client.get("/lookup", cookies={"ds_messages": cookie})
    assert "Removed." in answer.text
