"""JSON: an array of VINs or of objects, or one of them a line."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from vin_datasette.fleet.columns import distinct, model_year_column, named_for_vins, peeked, vin_column
from vin_datasette.fleet.fleet import Fleet, InputError, Wanted
from vin_datasette.fleet.row import Row
from vin_datasette.fleet.text import utf8
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
    """The items of a JSON array that comes in pieces, each as soon as it is whole."""
    import ijson

    number = 0
    try:
        for value in ijson.items(utf8(pieces), "item"):
            number += 1
            yield _item(number, value)
    except ijson.JSONError as error:
        where = f"after item {number:,}" if number else "before its first item"
        raise InputError(f"{source} is broken JSON {where}: {' '.join(str(error).split())}.") from error


def _item(number: int, value: object) -> Item:
    try:
        return Item(number, _without_decimals(value))
    except RecursionError:
        return Item(number, None, "It is nested too deeply.")


def _without_decimals(value: object) -> object:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {key: _without_decimals(inner) for key, inner in value.items()}
    return [_without_decimals(inner) for inner in value] if isinstance(value, list) else value


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
                yield Item(number, json.loads(line))
            except RecursionError:
                yield Item(number, None, "It is nested too deeply.")
            except json.JSONDecodeError as error:
                yield Item(number, None, f"It is not JSON: {error.msg}, at character {error.pos + 1:,}.")
            except ValueError as error:
                yield Item(number, None, f"It is not JSON that can be read: {error}.")


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
