"""Links every VIN in a table, of whichever database of this instance, to its vehicle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datasette import hookimpl
from markupsafe import Markup

from vin_datasette import VIN, InvalidVIN
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from datasette.app import Datasette


@hookimpl
def render_cell(value: Any, column: str, database: str, datasette: Datasette) -> Markup | None:
    """A cell that holds a VIN with a valid check digit, under a column whose name says
    so, leads to the lookup of that VIN."""
    if not isinstance(value, str) or "vin" not in column.lower() or database == state_of(datasette).database:
        return None
    try:
        vin = VIN(value)
    except InvalidVIN:
        return None
    if not vin.check_digit_valid:
        return None
    href = datasette.urls.path(f"/-/vin/lookup?vin={vin}")
    return Markup('<a href="{}">{}</a>').format(href, value)
