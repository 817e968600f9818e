"""What Datasette shows of tables and columns: the plugin's words, unless the instance has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import DATASETTE_1

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from datasette.app import Datasette

    from tests.conftest import MakeInstance

OURS = {"vin": "Vehicle identification number, 17 characters (ISO 3779)", "error_code": "vPIC's codes; 0 is clean"}


async def table_page(datasette: Datasette) -> str:
    response = await datasette.client.get("/vin/vehicles")
    assert response.status_code == 200
    return str(response.text)


def said(tables: dict[str, Any]) -> dict[str, Any]:
    """Options of an instance whose metadata says this of the cache's tables."""
    metadata = {"databases": {"vin": {"tables": tables}}}
    return {"metadata": metadata} if DATASETTE_1 else {"config": metadata}


async def test_tables_and_columns_are_described(make_instance: MakeInstance) -> None:
    page = await table_page(await make_instance())
    assert "Every vehicle looked up so far, as vPIC describes it." in page
    for text in OURS.values():
        assert text.replace("'", "&#39;") in page


async def test_what_the_instance_says_itself_stays(make_instance: MakeInstance) -> None:
    own = {"vehicles": {"description": "Our lorries.", "columns": {"vin": "The plate in the windscreen"}}}
    page = await table_page(await make_instance(**said(own)))
    assert "Our lorries." in page
    assert "Every vehicle looked up" not in page
    assert "The plate in the windscreen" in page
    assert OURS["vin"] not in page
    assert OURS["error_code"].replace("'", "&#39;") in page


@pytest.mark.skipif(not DATASETTE_1, reason="Datasette 0.65 keeps no metadata of its own")
async def test_what_was_said_in_a_kept_internal_database_stays(make_instance: MakeInstance, tmp_path: Path) -> None:
    internal = str(tmp_path / "internal.db")
    before = await make_instance(internal=internal)
    await before.set_column_metadata("vin", "vehicles", "vin", "description", "The plate in the windscreen")
    page = await table_page(await make_instance(internal=internal))
    assert "The plate in the windscreen" in page
    assert OURS["vin"] not in page
