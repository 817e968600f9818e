"""JSON: an array of VINs or of objects, or one of them a line."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from vin_datasette.fleet.columns import distinct, model_year_column, named_for_vins, peeked, vin_column
from vin_datasette.fleet.fleet import Fleet, InputError, Wanted
from vin_datasette.fleet.row import Row
from vin_datasette.fleet.text import LONGEST_LINE
from vin_datasette.fleet.values import model_year_of, new_row, text_of, too_long

if TYPE_CHECKING:
    from collections.abc import Iterator

    Blocks = Iterator[list[str] | None]


class Item(NamedTuple):
    """An item of a JSON document by its number, or why it could not be read."""

    number: int
    value: object
    problem: str | None = None


def array_items(pieces: Iterator[str], source: str) -> Iterator[Item]:
    """The items of a JSON array that comes in pieces, each as soon as it is whole. Raises
    `InputError` where the array breaks, and for an item that is too long or nested too deeply."""
    text = _Text(pieces)
    number = 0
    try:
        text.take("[")
        while text.sign() != "]" or number:
            value = text.value()
            number += 1
            yield Item(number, value)
            if text.sign() == "]":
                break
            text.take(",")
        text.take("]")
        text.take("")
    except (ValueError, RecursionError) as error:
        where = f"after item {number:,}" if number else "before its first item"
        raise InputError(f"{source} is broken JSON {where}: {_why(error)}") from error


class _Text:
    """JSON text that comes in pieces, and is taken from its beginning."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text = ""
        self._at = 0

    def sign(self) -> str:
        """The next character that is no white space, which is not taken; "" at the end."""
        while True:
            found = _NOT_BLANK.search(self._text, self._at)
            self._at = found.start() if found else len(self._text)
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, sign: str) -> None:
        """Take the next character. Raises `ValueError` when it is not this one."""
        found = self.sign()
        if found != sign:
            raise ValueError(f"it has {found or 'its end'} where {sign or 'its end'} is due")
        self._at += len(sign)

    def value(self) -> object:
        """Take the next value. Raises `ValueError` or `RecursionError` when there is none that can be read."""
        self.sign()
        while True:
            problem = None
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                problem = error
            else:
                # What follows a number may be more of it.
                number = self._text[self._at] in "-0123456789"
                if end < len(self._text) and not (number and self._text[end] in ".eE+-"):
                    _refuse_depth(self._text, self._at, end, value)
                    self._at = end
                    return value
            length = len(self._text) - self._at
            if length > LONGEST_LINE:
                raise ValueError(f"what follows is longer than {LONGEST_LINE:,} characters")
            # A value is begun again with each piece, so a long one is given more at once.
            wanted = 2 * length if length > _SHORT else 0
            if not self._more(wanted):
                raise problem or ValueError("it stops within the array")

    def _more(self, wanted: int = 0) -> bool:
        """Have more text, of this length if there is as much; whether there was any."""
        parts = [self._text[self._at :]]
        length = before = len(parts[0])
        while length <= max(before, wanted):
            piece = next(self._pieces, None)
            if piece is None:
                break
            parts.append(piece)
            length += len(piece)
        self._text, self._at = "".join(parts), 0
        return length > before


def _whole_number(text: str) -> int | str:
    # Python refuses to read very long ones, and would go on at length to write them.
    return int(text) if len(text) <= _LONGEST_NUMBER else text


_DECODER = json.JSONDecoder(parse_int=_whole_number)
_NOT_BLANK = re.compile(r"[^ \t\n\r]")
_LONGEST_NUMBER = 100
_SHORT = 10_000
_DEEPEST = 100
"""Levels of lists and objects within each other: some readers of what is written bear no more than a thousand."""


def _refuse_depth(text: str, start: int, end: int, value: object) -> None:
    """Raises `RecursionError` for a value that is nested too deeply; `text` holds it from `start` to `end`."""
    if text.count("[", start, end) + text.count("{", start, end) <= _DEEPEST:
        return
    level = [value]
    for _ in range(_DEEPEST):
        holders = [each for each in level if isinstance(each, (list, dict))]
        level = [inner for each in holders for inner in (each.values() if isinstance(each, dict) else each)]
    if any(isinstance(each, (list, dict)) for each in level):
        raise RecursionError


def _why(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "what follows is nested too deeply."
    return f"{error.msg if isinstance(error, json.JSONDecodeError) else error}."


def line_items(blocks: Blocks) -> Iterator[Item]:
    """The items of JSON lines that come in blocks."""
    number = 0
    for block in blocks:
        if block is None:
            number += 1
            yield Item(number, None, too_long(number).problem)
            continue
        for line in block:
            number += 1
            if line.isspace():
                continue
            try:
                value = _DECODER.decode(line)
                _refuse_depth(line, 0, len(line), value)
                yield Item(number, value)
            except RecursionError:
                yield Item(number, None, "It is nested too deeply.")
            except json.JSONDecodeError as error:
                yield Item(number, None, f"It is not JSON: {error.msg}, at character {error.pos + 1:,}.")


def items_fleet(items: Iterator[Item], source: str, wanted: Wanted) -> Fleet:
    """The fleet of a JSON document: of VINs, or of objects whose keys are its columns."""
    head, items = peeked(items)
    objects = [item.value for item in head if isinstance(item.value, dict)]
    keys = list(objects[0]) if objects else []
    names = distinct(keys)
    cells = [tuple(map(item.get, keys)) for item in objects]
    if not head:
        return Fleet([], None, _item_rows(items, [], 0, None), source)
    if not keys and not any(isinstance(item.value, str) for item in head):
        # Nothing was read of which it could be said that a column is missing.
        wanted = Wanted(None, None)
    vin_at = vin_column(names, cells, wanted.vin, source) if keys or wanted.vin is not None else 0
    year_at = model_year_column(names, wanted.model_year, source)
    return Fleet(names, None, _item_rows(items, keys, vin_at, year_at), source)


def _item_rows(items: Iterator[Item], keys: list[str], vin_at: int, year_at: int | None) -> Iterator[Row]:
    nothing: tuple[object, ...] = (None,) * len(keys)
    for number, value, problem in items:
        if problem is not None:
            yield Row(number, "", None, nothing, problem)
        elif isinstance(value, str):
            # Among objects, one that has nothing else to tell.
            yield Row(number, value, None, (*nothing[:vin_at], value, *nothing[vin_at + 1 :]) if keys else ())
        elif not isinstance(value, dict):
            unknown = f"It is {_kind(value)}, and neither a VIN nor an object with one."
            yield Row(number, "", None, nothing, unknown)
        elif not keys:
            yield _late_object(number, value)
        else:
            cells = tuple(map(value.get, keys))
            vin = cells[vin_at]
            if isinstance(vin, (list, dict)):
                yield Row(number, "", None, cells, f"Its {keys[vin_at]!r} is {_kind(vin)}, and no VIN.")
                continue
            year = None if year_at is None else model_year_of(cells[year_at])
            yield new_row(Row, (number, text_of(vin), year, cells, None))


def _late_object(number: int, item: dict[str, object]) -> Row:
    """An object that comes so late among bare VINs that its keys became no columns."""
    named = named_for_vins(list(item))
    if named is None:
        return Row(number, "", problem="It is an object without a key that is named for a VIN.")
    return Row(number, text_of(list(item.values())[named]))


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {list: "a list", dict: "an object", bool: "true or false"}
    return kinds.get(type(value), "a number")
