"""VINs as somebody pastes them: a column or a row of a spreadsheet, a few lines of CSV, a list."""

from __future__ import annotations

import re

from vin_datasette.fleet.delimited import text_fleet
from vin_datasette.fleet.fleet import InputError, Wanted
from vin_datasette.fleet.layout import layout_of, sampled_lines
from vin_datasette.fleet.text import line_blocks
from vin_datasette.fleet.values import is_vin

_BETWEEN = re.compile(r"[\t;,|]")
_WORD = re.compile(r"[^\s;,|'\"\[\](){}]+")
_LIST = re.compile(r"\s*[\[({](.*)[\])}][\s,;]*", re.DOTALL)
"""A list as Python and JSON write one."""

_ELSEWHERE = re.compile(r"(?:; say which does with|, or say) --column")


def vins_in(text: str) -> list[str]:
    """The VINs of a text, as they are written, in their order; none of an empty one.

    Raises `InputError` for a table none of whose columns is known to hold VINs.
    """
    words = _WORD.findall(text)
    if all(map(is_vin, words)):
        return words
    if as_list := _LIST.fullmatch(text):
        cells = (cell.strip().strip("'\"") for cell in re.split(r"[,\n]", as_list[1]))
        return [cell for cell in cells if cell.strip()]
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) <= 1:
        return [word for cell in _BETWEEN.split(lines[0]) for word in _words(cell)] if lines else []
    try:
        layout = layout_of(sampled_lines(text, whole=True), "the text", Wanted(None, None), "")
    except InputError as error:
        # Who pastes has no options to say it with.
        raise InputError(_ELSEWHERE.sub("", str(error))) from None
    fleet = text_fleet(line_blocks(iter([text])), layout, "the text")
    return [row.vin for row in fleet.rows if row.vin.strip()]


def _words(cell: str) -> list[str]:
    words = cell.split()
    return words if len(words) > 1 and all(map(is_vin, words)) else [cell.strip()] if words else []
