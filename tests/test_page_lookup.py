"""`GET /lookup` in a real browser: one VIN, and many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser import violations
from tests.conftest import serving

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser import Browse
    from tests.vpic_server import VpicServer

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_is_accessible(tmp_path: Path, vpic_server: VpicServer, browse: Browse, scheme: str) -> None:
    with serving(tmp_path, VIN_DATASETTE_VPIC_URL=vpic_server.url) as served:
        page = await browse(color_scheme=scheme)
        await page.goto(f"{served.url}/lookup")
        assert await violations(page) == []
