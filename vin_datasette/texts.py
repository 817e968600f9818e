"""Private: `Record.text` for a column of vPIC's texts, of which nearly all are tidy already."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from vin_datasette.record import NOT_APPLICABLE, words

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIRST, _LAST = 0x20, 0x7F
"""Signs of ASCII that `words` leaves as they are, with what is between; but for spaces, see `tidy`."""

_CONTROL = r"[\x00-\x1f]"
_FEW = 8
"""One in so many of a column's values, or fewer."""

_TWO_SPACES = pa.scalar(0x2020, pa.uint16())


def tidy(column: pa.Array, kept: pa.Array | None = None) -> pa.Array:
    """What `Record.text` says of each text of a string array in which none is "", null in place of "";
    null also where the booleans `kept` are not true.

    Texts of printable ASCII are themselves when no space is first, last or beside another. That is
    seen from the bytes of the whole column at once, many times as quickly as from each text, and
    only the others are read one by one.
    """
    if column.null_count == len(column):
        return column
    said = pc.not_equal(column, NOT_APPLICABLE)
    said = said if kept is None else pc.and_(said, kept)
    if said.true_count + column.null_count < len(column):
        column = only(column, said)
    if column.null_count == len(column):
        return column
    marks = bytearray(len(column))
    for row in _perhaps_untidy(column):
        marks[row] = 1
    if 1 not in marks:
        return column
    mask = pa.Array.from_buffers(pa.uint8(), len(marks), [None, pa.py_buffer(marks)]).cast(pa.bool_())
    texts = column.filter(mask).to_pylist()
    tidied = [text and (words(text) or None) for text in texts]
    return column if tidied == texts else pc.replace_with_mask(column, mask, pa.array(tidied, column.type))


def only(values: pa.Array, mask: pa.Array) -> pa.Array:
    """The values where the booleans of `mask` are true, null elsewhere.

    Where few are left out they stay in the array, unseen: to write the others anew takes
    longer than all else that is done with a column.
    """
    kept = pc.and_kleene(values.is_valid(), mask)
    left_out = len(values) - values.null_count - kept.true_count
    if values.offset or left_out * _FEW > len(values):
        return values.filter(pc.if_else(kept, kept, None), null_selection_behavior="emit_null")
    return pa.Array.from_buffers(values.type, len(values), [kept.buffers()[1], *values.buffers()[1:]])


def _perhaps_untidy(column: pa.Array) -> Iterator[int]:
    """The rows of a string array whose texts may not be what `words` makes of them."""
    _, offsets, data = column.buffers()
    ends = memoryview(offsets).cast("i")[column.offset : column.offset + len(column) + 1]
    if not ends[-1]:
        return
    signs = pc.min_max(pa.Array.from_buffers(pa.uint8(), ends[-1], [None, data])).as_py()
    if signs["max"] > _LAST:
        yield from _true(pc.invert(pc.string_is_ascii(column)))
    if signs["min"] < _FIRST:
        yield from _true(pc.match_substring_regex(column, _CONTROL))
    if signs["min"] > _FIRST:
        return
    yield from _true(pc.or_(pc.starts_with(column, " "), pc.ends_with(column, " ")))
    for start in (0, 1):
        pairs = pa.Array.from_buffers(pa.uint16(), (ends[-1] - start) // 2, [None, data.slice(start)])
        for pair in _true(pc.equal(pairs, _TWO_SPACES)):
            yield bisect_right(ends, 2 * pair + start) - 1


def _true(flags: pa.Array) -> list[int]:
    indices: list[int] = pc.indices_nonzero(flags).to_pylist() if flags.true_count else []
    return indices
