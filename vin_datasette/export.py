"""The cache as files: Parquet, CSV or JSON lines, one file or a folder of partitions.

A file that bears its final name is whole: it is written beside and renamed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, Literal
from urllib.parse import quote

import pyarrow.csv as pa_csv

from vin_datasette.batches import Selection, record_batches
from vin_datasette.cache import snapshot
from vin_datasette.parquet import Part, parquet_parts, snapshot_parts
from vin_datasette.schema import VEHICLES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import pyarrow as pa

Format = Literal["parquet", "csv", "jsonl"]
PartitionColumn = Literal["make", "model_year"]

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""The folder for vehicles without the value, as Hive and its readers name it."""


class ExportError(Exception):
    """A target that cannot be written; the message says which and why."""


def write_to(cache: Path, out: BinaryIO, kind: Format, progress: Callable[[Part], object]) -> None:
    """Write all vehicles of a cache to an open binary stream, and tell `progress` of each part.

    Raises `CacheError` when the cache cannot be read, and what `out.write` raises.
    """
    for part in _parts(cache, kind):
        out.write(part.data)
        progress(part)
    out.flush()


def write_file(cache: Path, target: Path, kind: Format, progress: Callable[[Part], object]) -> None:
    """Write all vehicles of a cache to the file `target`. Raises `CacheError`, `ExportError`."""
    with written_beside(target) as out, in_words(target):
        write_to(cache, out, kind, progress)


def write_partitions(
    cache: Path, folder: Path, by: Sequence[PartitionColumn], progress: Callable[[Part], object]
) -> None:
    """Write all vehicles of a cache, at one moment, as a folder of Parquet files, one for
    each value of the columns `by`, under names that pyarrow, DuckDB and Spark know:
    `make=HONDA/model_year=2003/vehicles.parquet`. The columns are in the names only.

    `folder` must not exist yet and appears when it is whole. Raises `CacheError`, `ExportError`.
    """
    with in_words(folder):
        there = folder.exists()
    if there:
        raise ExportError(f"{folder} is there already; a dataset is written to a new folder.")
    kept = [column.name for column in Selection().schema() if column.name not in by]
    beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        with in_words(folder), snapshot(cache) as connection:
            beside.mkdir()
            for values in _distinct(connection, by):
                place = beside.joinpath(*(_named(column, value) for column, value in zip(by, values, strict=True)))
                place.mkdir(parents=True)
                selection = replace(_where(by, values), columns=kept)
                with open(place / "vehicles.parquet", "wb") as out:
                    for part in snapshot_parts(connection, selection):
                        out.write(part.data)
                        progress(part)
            os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _parts(cache: Path, kind: Format) -> Iterator[Part]:
    if kind == "parquet":
        yield from parquet_parts(cache)
        return
    selection = Selection()
    with snapshot(cache) as connection:
        batches = record_batches(connection, selection)
        yield from _csv(batches, selection.schema()) if kind == "csv" else _json_lines(batches)


def _csv(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[Part]:
    """CSV with a header (RFC 4180); absent values are empty, times in UTC."""
    buffer = io.BytesIO()
    with pa_csv.CSVWriter(buffer, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield Part(_drained(buffer), batch.num_rows)
    yield Part(_drained(buffer), 0)


def _json_lines(batches: Iterable[pa.RecordBatch]) -> Iterator[Part]:
    """One JSON object a line, absent values null, times in UTC as ISO 8601."""
    for batch in batches:
        lines = [json.dumps(row, ensure_ascii=False, default=_iso) for row in batch.to_pylist()]
        yield Part("".join(f"{line}\n" for line in lines).encode(), batch.num_rows)


def _iso(when: object) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def _drained(buffer: io.BytesIO) -> bytes:
    data = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return data


def _distinct(connection: sqlite3.Connection, by: Sequence[str]) -> list[tuple[object, ...]]:
    columns = ", ".join(by)
    return connection.execute(f"SELECT DISTINCT {columns} FROM {VEHICLES} ORDER BY {columns}").fetchall()  # noqa: S608 - names are our own  # nosec B608


def _where(by: Sequence[str], values: Sequence[object]) -> Selection:
    conditions = [f"{column} IS :{column}" for column in by]
    return Selection(where=conditions, parameters=dict(zip(by, values, strict=True)))


def _named(column: str, value: object) -> str:
    return f"{column}={NO_VALUE if value is None else quote(str(value), safe='')}"


@contextmanager
def written_beside(target: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `target` when the context ends well, and vanishes when not.

    A named pipe or a device is written into directly. Raises `ExportError` when the file
    cannot be made, finished or put in its place; what is raised inside passes as it is.
    """
    name: str | None = None
    with in_words(target):
        # A named pipe or a device is there to be written into, not to be replaced.
        if target.exists() and not target.is_file():
            out: BinaryIO = open(target, "wb")  # noqa: SIM115 - closed below, in words
        else:
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=_PARTIAL, dir=target.parent)
            out = open(handle, "wb")  # noqa: SIM115
    try:
        yield out
        with in_words(target):
            out.flush()
            if name:
                os.fsync(out.fileno())
            out.close()
            if name:
                # mkstemp lets nobody else read; a file that is asked for follows the process's mask.
                os.chmod(name, 0o666 & ~_mask())
                os.replace(name, target)
    except BaseException:
        # What waits for a disk that is full or a pipe that is closed cannot be written now either.
        with suppress(OSError):
            out.close()
        if name:
            Path(name).unlink(missing_ok=True)
        raise


_PARTIAL = ".partial"


def clear_leftovers(targets: Iterable[Path]) -> None:
    """Remove what runs that were killed have left of `targets` beside them. A run that is alive
    and writes one of these files fails with it. Raises `ExportError`."""
    names: defaultdict[Path, set[str]] = defaultdict(set)
    for target in targets:
        names[target.parent].add(target.name)
    for folder, there in names.items():
        with in_words(folder), suppress(FileNotFoundError):
            for entry in os.scandir(folder):
                name, _, _ = entry.name.removesuffix(_PARTIAL).rpartition(".")
                if entry.name.endswith(_PARTIAL) and name.startswith(".") and name[1:] in there:
                    Path(entry).unlink(missing_ok=True)


@contextmanager
def in_words(target: Path | str) -> Iterator[None]:
    """What the system has against writing to `target` as an `ExportError`."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"{target} could not be written: {error.strerror or error}.") from error


def _mask() -> int:
    """The process's file mode mask, which cannot be read without setting it."""
    # Two threads that do so at once would leave it as it is set here.
    with _MASK:
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


_MASK = Lock()
