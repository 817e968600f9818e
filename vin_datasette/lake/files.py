"""Which Parquet files are decoded, and where to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from vin_datasette.fleet.fleet import InputError, in_words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ENDINGS = (".parquet", ".parq", ".pq")
"""What the names of Parquet files in folders end in, in whichever case; one that is named itself may have any name."""


class Pair(NamedTuple):
    """A file that is read, of how many bytes, and the one that is written; both paths are absolute."""

    source: str
    size: int
    target: str


def pairs(inputs: Sequence[str], out: str) -> list[Pair]:
    """What is to be decoded into the folder `out`, the largest first, so that none is left over at the end.

    Of each of `inputs` that is a folder these are the Parquet files in it and in the folders
    below, at the same relative path under `out`; any other is a file itself. What engines put beside
    their data is passed over: names that begin with `.` or `_` (but not folders such as
    `_year=2024`, which Spark reads too), and symbolic links. Raises `InputError` where an input cannot be
    read or has no such file, and where an output would be in an input, be an input, or be
    that of two.
    """
    folder = os.path.realpath(out)
    found: dict[str, Pair] = {}
    for name in inputs:
        for source, size, relative in _sources(name, folder):
            pair = Pair(source, size, os.path.join(folder, relative))
            other = found.setdefault(pair.target, pair)
            if other.source != source:
                raise InputError(
                    f"{other.source} and {source} would both be written to {pair.target}; decode them to two folders."
                )
    sources = {pair.source for pair in found.values()}
    for pair in found.values():
        if pair.target in sources:
            raise InputError(f"{pair.target} is read, and would be written, too; name a folder elsewhere than {out}.")
    return sorted(found.values(), key=lambda pair: (-pair.size, pair.source))


def _sources(name: str, out: str) -> Iterator[tuple[str, int, str]]:
    """The files of one input: path, bytes, and path relative to the input."""
    with in_words(name):
        root = os.path.realpath(name)
        size = os.stat(root).st_size
    if not os.path.isdir(root):
        yield root, size, os.path.basename(os.path.normpath(name))
        return
    if root == out or out.startswith(os.path.join(root, "")):
        raise InputError(f"{name} is read, and what is written would lie in it; name a folder elsewhere.")
    none = True
    for path, size in parquet_files(root):
        none = False
        yield path, size, os.path.relpath(path, root)
    if none:
        raise InputError(no_parquet_in(name))


def no_parquet_in(folder: str) -> str:
    """The message when a folder has no file of `parquet_files`."""
    endings = ", ".join(ENDINGS)
    return f"{folder} has no Parquet file: none whose name ends in {endings}; links are not followed."


def parquet_files(folder: str) -> Iterator[tuple[str, int]]:
    """The Parquet files in a folder and in those below, as `pairs` tells them, and their bytes. Raises `InputError`."""
    with in_words(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() or entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not entry.name.startswith("_") or "=" in entry.name:
                    yield from parquet_files(entry.path)
            elif entry.name.lower().endswith(ENDINGS) and not entry.name.startswith("_") and entry.is_file():
                yield entry.path, entry.stat().st_size
