"""One row of a fleet: a VIN as somebody wrote it, where it stood, and what stood beside it."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One row of a fleet's file, table or list.

    `number` counts as the file's reader does: lines of text from 1, rows of a
    spreadsheet with its header as row 1, items of everything else from 1. `vin` is the
    text as it stood there, "" where there was none. `values` are the fleet's own
    columns, as many as its names and in their order. `problem` says in words why the row
    itself could not be read; such a row has no VIN.
    """

    number: int
    vin: str
    model_year: int | None = None
    values: tuple[object, ...] = ()
    problem: str | None = None
