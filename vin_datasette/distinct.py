"""Private: what a function makes of the rows of Arrow arrays, called once for each combination of values.

A fleet says few different things, each many times; so the rules that are Python's, for one record,
serve for columns as well and need no second form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def combinations(columns: Sequence[pa.Array]) -> tuple[pa.Array, list[tuple[Any, ...]]]:
    """The combinations of values that rows of these columns have, and for each row the index of its own."""
    first, *others = (column.dictionary_encode("encode") for column in columns)
    codes, values = first.indices, [(value,) for value in first.dictionary.to_pylist()]
    for other in others:
        own = other.dictionary.to_pylist()
        # Neither has more codes than there are rows, of which none is asked about more than some thousands.
        both = pc.add(pc.multiply(codes, pa.scalar(len(own), codes.type)), other.indices).dictionary_encode()
        values = [(*values[code // len(own)], own[code % len(own)]) for code in both.dictionary.to_pylist()]
        codes = both.indices
    return codes, values


def by_distinct(columns: Sequence[pa.Array], read: Callable[..., object], kind: pa.DataType) -> pa.Array:
    """What `read` makes of the values of each row, of type `kind`."""
    codes, values = combinations(columns)
    return pa.array([read(*each) for each in values], kind).take(codes)
