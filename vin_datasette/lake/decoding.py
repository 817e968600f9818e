"""One Parquet file, decoded into another that is whole and says what it was made of."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from vin_datasette import __version__
from vin_datasette.arrow import ROWS, decode_batches, decode_schema
from vin_datasette.cache import Cache, CacheError
from vin_datasette.export import ExportError, in_words, written_beside
from vin_datasette.fleet.columns import column_of, model_year_column, named_for_vins, no_vin_column
from vin_datasette.fleet.fleet import InputError, in_words as input_in_words
from vin_datasette.fleet.parquet import parquet_in_words
from vin_datasette.parquet import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from typing import BinaryIO

_MADE_OF = "decoded_from"
_KEY = f"vin_datasette.{_MADE_OF}".encode()

_MOST_BYTES = 8 * 1024 * 1024
"""Bytes of a file's own columns, about, that are read at a time."""

_SPARK_SCHEMA = b"org.apache.spark.sql.parquet.row.metadata"
"""Where Spark keeps the columns of a file that it wrote; when it reads one, it sees no others."""

_HOPELESS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""What the system has against writing one file that it would have against all others, too."""


@dataclass(frozen=True)
class Wanted:
    """What is made of every file.

    `column` and `year_column` are the columns of VINs and of model years, by name or by number
    from 1; without the first it is the one whose name says so, and without the second there is
    none. `columns` are those of `decode_batches`, and `cache` is the path of a cache that is
    read. `engine` is what `this_engine` says where the run was begun.
    """

    column: str | None
    year_column: str | None
    columns: tuple[str, ...] | None
    cache: str | None
    engine: str


@dataclass(frozen=True)
class Outcome:
    """What came of one file: how many `rows` were decoded and how many of them `rejected`, or
    that it `was_done` before, or which `problem` there was, in words; `is_hopeless` where all
    other files will have it too."""

    rows: int = 0
    rejected: int = 0
    was_done: bool = False
    problem: str | None = None
    is_hopeless: bool = False


def this_engine() -> str:
    """What decodes on this machine: this package, the embedded database, and its data."""
    import ultravin

    embedded = ultravin.provenance()
    data = f"{embedded['data_month']} ({embedded['artifact_blake3'][:16]})"
    return f"vin-datasette {__version__}, ultravin {embedded['decoder_version']}, data {data}"


def wanted_of(column: str | None, year_column: str | None, columns: Iterable[str] | None, cache: str | None) -> Wanted:
    """What is made of every file by what is on this machine. Raises `InputError` for `columns`
    that there are not, and `CacheError` for a cache that cannot be read."""
    wanted = Wanted(
        column,
        year_column,
        None if columns is None else tuple(columns),
        None if cache is None else os.path.abspath(cache),
        this_engine(),
    )
    try:
        decode_schema(pa.schema({"vin": pa.string()}), columns=wanted.columns)
    except ValueError as error:
        raise InputError(str(error)) from error
    if wanted.cache:
        with closing(Cache(wanted.cache, to_read=True)) as read:
            read.open()
    return wanted


def decode_file(source: str, target: str, wanted: Wanted, told: Callable[[int], object] = lambda rows: None) -> Outcome:
    """Decode the Parquet file `source` into `target`, unless that was made of this very file
    already, in the same way and by the same data.

    Memory does not grow with the number of rows. `target` bears its name when it is whole and
    on the disk, and says what it was made of in its footer. What was not made so is not
    replaced. `told` is called with each number of rows that are done, and may raise to end it.
    Whatever is wrong with either file is in the outcome; raises only what `told` does.
    """
    try:
        here = this_engine()
        if here != wanted.engine:
            raise InputError(
                f"{source} is not decoded: here is {here}, and where the run was begun {wanted.engine}. "
                "Install the same versions on all machines."
            )
        return _decoded(source, Path(target), wanted, told)
    except CacheError as error:
        return Outcome(problem=str(error), is_hopeless=True)
    except (InputError, ExportError) as error:
        cause = error.__cause__
        return Outcome(problem=str(error), is_hopeless=isinstance(cause, OSError) and cause.errno in _HOPELESS)


def _decoded(source: str, target: Path, wanted: Wanted, told: Callable[[int], object]) -> Outcome:
    # Before it is read: one that changes meanwhile is decoded again by the next run.
    of_input = _identity(source)
    with _opened(source) as parquet:
        work = _Work(source, parquet, target, wanted)
        made_of = json.dumps({"input": {**of_input, **_footer(source, parquet)}, **work.described()}, sort_keys=True)
        if _is_made_of(target, made_of):
            return Outcome(was_done=True)
        with in_words(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(target) as out:
            return work.write(out, made_of, told)


@contextmanager
def _opened(source: str) -> Iterator[pq.ParquetFile]:
    with parquet_in_words(source):
        # A buffer of its own for each column, instead of a row group's whole columns in memory.
        parquet = pq.ParquetFile(source, buffer_size=1 << 16, pre_buffer=False)
    with parquet:
        yield parquet


class _Work:
    """What is to be done about one open file. Raises `InputError` where it has not the columns."""

    def __init__(self, source: str, parquet: pq.ParquetFile, target: Path, wanted: Wanted) -> None:
        self._source, self._parquet, self._target, self._wanted = source, parquet, target, wanted
        own = parquet.schema_arrow
        self._vin = own.names[_vin_column(own.names, wanted.column, source)]
        year_at = model_year_column(own.names, wanted.year_column, source)
        self._year = None if year_at is None else own.names[year_at]
        # Readers take the `key=value` folders of the output for columns as well: those names are taken.
        self._keys = [key for key in _folder_keys(target) if key not in own.names]
        self._read = own
        for key in self._keys:
            self._read = self._read.append(pa.field(key, pa.null()))
        try:
            decoded = decode_schema(self._read, column=self._vin, year_column=self._year, columns=wanted.columns)
        except ValueError as error:
            raise InputError(f"{source} cannot be decoded: {error}") from error
        between = range(len(own), len(self._read))
        self._kept = [position for position in range(len(decoded)) if position not in between]
        self._added = decoded.names[len(self._read) :]
        metadata = {
            key: value
            for key, value in (decoded.metadata or {}).items()
            if key != _SPARK_SCHEMA and not key.startswith(b"vin_datasette.")
        }
        self._schema = pa.schema([decoded.field(position) for position in self._kept], metadata)

    def described(self) -> dict[str, object]:
        """What besides the input tells the output from others."""
        return {
            "column": self._vin,
            "year_column": self._year,
            "columns": self._added,
            "cache": self._wanted.cache and _cache_identity(self._wanted.cache),
            "engine": self._wanted.engine,
        }

    def write(self, out: BinaryIO, made_of: str, told: Callable[[int], object]) -> Outcome:
        """Decode all rows into a Parquet file."""
        rows = rejected = 0
        encoder = Encoder(self._schema, metadata={_MADE_OF: made_of})
        batches = self._batches()
        try:
            for batch in batches:
                rows += batch.num_rows
                rejected += batch.num_rows - batch.column(batch.num_columns - 1).null_count
                part = encoder.add(batch)
                if part:
                    self._put(out, part.data)
                told(batch.num_rows)
            self._put(out, encoder.finish().data)
        finally:
            batches.close()
            encoder.close()
        return Outcome(rows, rejected)

    def _put(self, out: BinaryIO, data: bytes) -> None:
        with in_words(self._target):
            out.write(data)

    def _batches(self) -> Generator[pa.RecordBatch, None, None]:
        decoded = decode_batches(
            self._own_batches(),
            column=self._vin,
            year_column=self._year,
            columns=self._wanted.columns,
            cache=self._wanted.cache,
        )
        for batch in decoded:
            yield batch.select(self._kept)

    def _own_batches(self) -> Iterator[pa.RecordBatch]:
        metadata = self._parquet.metadata
        size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        rows = max(1, min(ROWS, _MOST_BYTES * metadata.num_rows // max(size, 1)))
        with parquet_in_words(self._source):
            for batch in self._parquet.iter_batches(batch_size=rows, use_threads=False):
                nulls = [pa.nulls(batch.num_rows)] * len(self._keys)
                yield pa.RecordBatch.from_arrays([*batch.columns, *nulls], schema=self._read)


def _vin_column(names: Sequence[str], wanted: str | None, source: str) -> int:
    """Where the VINs are, by name alone: what rows hold may tell two files of a table apart."""
    position = named_for_vins(names) if wanted is None else column_of(names, wanted, source)
    if position is None:
        raise InputError(no_vin_column(names, source))
    return position


def _folder_keys(target: Path) -> list[str]:
    return [part.partition("=")[0] for part in target.parent.parts if "=" in part]


# What an output was made of


def _identity(path: str) -> dict[str, object]:
    with input_in_words(path):
        found = os.stat(path)
    return {"bytes": found.st_size, "mtime_ns": found.st_mtime_ns}


def _cache_identity(cache: str) -> list[dict[str, object]]:
    # SQLite leaves an empty file where a cache was only read.
    wal = f"{cache}-wal"
    return [_identity(path) for path in (cache, wal) if path == cache or (os.path.exists(wal) and os.path.getsize(wal))]


def _footer(source: str, parquet: pq.ParquetFile) -> dict[str, object]:
    """The number of rows, and a digest of where and in how many bytes each column lies, and of its extremes."""
    with input_in_words(source), open(source, "rb") as file:
        file.seek(-8, os.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        digest = hashlib.sha256(file.read(length)).hexdigest()
    return {"rows": parquet.metadata.num_rows, "footer": digest}


def _is_made_of(target: Path, made_of: str) -> bool:
    """Whether a file is an output that is whole and made of just this. Raises `ExportError` for what
    is there and no output."""
    with in_words(target):
        if not target.exists():
            return False
    try:
        told = pq.read_metadata(target).metadata or {}
    except (pa.ArrowException, OSError):
        told = {}
    if _KEY not in told:
        raise ExportError(
            f"{target} is there already and is not what an earlier run has written; it is kept. Name another folder."
        )
    return bool(told[_KEY].decode() == made_of)
