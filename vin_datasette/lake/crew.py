"""Who decodes: processes of this machine, or the workers of a Dask scheduler."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from vin_datasette.export import clear_leftovers
from vin_datasette.lake.decoding import Outcome, Wanted, decode_file
from vin_datasette.words import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from multiprocessing.connection import Connection

    from distributed import Client

    from vin_datasette.lake.files import Pair

CORES_OF_ONE = 4
"""Cores that one process keeps busy: the embedded database decodes on all that there are, which is three quarters
of the work, while one thread reads and writes. With all columns it takes 17 microseconds for a VIN, 4 of them on
that thread."""

CONNECT_SECONDS = 15
"""Seconds that a Dask scheduler has to answer, and to have a first worker."""

WORKERLESS_SECONDS = 120
"""Seconds for which all workers of a Dask scheduler may be away, as while they are started anew."""

_LOOK_EVERY = 5.0
"""Seconds between looks at a scheduler's workers."""

_RETRIES = 2
"""How often Dask gives a file to a worker again on which decoding it failed for no reason that is the file's."""


class CrewError(Exception):
    """Nobody is there to decode; the message says why, and what to do."""


@dataclass
class Crew:
    """Those who decode.

    `executor` runs `work`, which is `decode_file` or does as it does. `most` says how many
    files it may have at once, some of them waiting; it raises `CrewError` when nobody works
    any more. `rows` are those done by now where that is known before a file is whole, else 0.
    `in_hand` are the files that it has.
    """

    executor: Executor
    work: Callable[[str, str, Wanted], Outcome]
    most: Callable[[], int]
    rows: Callable[[], int] = lambda: 0
    in_hand: dict[Future[Outcome], Pair] = field(default_factory=dict)

    def room(self) -> int:
        """How many files more it may have. Raises `CrewError`."""
        return max(self.most() - len(self.in_hand), 0)

    def begin(self, pair: Pair, wanted: Wanted) -> None:
        """Have a file decoded. Raises `CrewError`."""
        with _to_blame():
            self.in_hand[self.executor.submit(self.work, pair.source, pair.target, wanted)] = pair

    def ended(self, seconds: float) -> list[Outcome]:
        """What came of files that it does not have in hand any more, as soon as there are some; none when there
        are none after so many seconds. Raises `CrewError`."""
        ended, _ = wait(self.in_hand, seconds, FIRST_COMPLETED)
        outcomes = [_outcome(future, self.in_hand[future].source) for future in ended]
        for future in ended:
            del self.in_hand[future]
        return outcomes


def _outcome(future: Future[Outcome], source: str) -> Outcome:
    with _to_blame():
        error = future.exception()
    if isinstance(error, BrokenProcessPool):
        raise CrewError(
            "A process that decodes was ended from outside, as by a system that runs out of memory; "
            "try fewer --processes."
        )
    if isinstance(error, ModuleNotFoundError):
        raise CrewError(f"A worker has no {error.name}; install vin-datasette on all of them.")
    if error:
        return Outcome(problem=f"{source} could not be decoded: {type(error).__name__}: {error}")
    return future.result()


@contextmanager
def _to_blame() -> Iterator[None]:
    try:
        yield
    except CancelledError:
        raise CrewError("The Dask scheduler has given up the work; look at its log.") from None
    except RuntimeError as error:
        raise CrewError(f"Nobody takes on the work any more: {error}") from None


# On this machine


@contextmanager
def processes(count: int | None, files: int) -> Iterator[Crew]:
    """So many processes, one for every `CORES_OF_ONE` by default, but no more than there are
    `files`; one is this process itself.

    Each has its share of the cores. All end with this one, however it does, and with the
    context at the next rows of the files that they have in hand.
    """
    cores = pa.cpu_count()
    count = max(1, min(count or ceil(cores / CORES_OF_ONE), files))
    context = multiprocessing.get_context("spawn")
    # Numbers of rows come by a pipe: what is so short is written at once, without a lock that a process
    # which is killed would keep; and a pipe that nobody reads any more ends who writes.
    reader, writer = context.Pipe(duplex=False)
    executor: Executor
    if count == 1:
        executor = ThreadPoolExecutor(1)
    else:
        executor = ProcessPoolExecutor(count, context, _begin, (writer, max(1, cores // count)))
    work = partial(_decode, writer) if count == 1 else _decode_here
    crew = Crew(executor, work, lambda: 2 * count, _Sum(reader))
    try:
        yield crew
    finally:
        reader.close()
        executor.shutdown(cancel_futures=True)
        writer.close()
        # Of those that were killed.
        clear_leftovers(Path(pair.target) for pair in crew.in_hand.values())


class _Sum:
    """The sum of the numbers that have come by a pipe."""

    def __init__(self, reader: Connection[bytes, bytes]) -> None:
        self._reader = reader
        self._sum = 0

    def __call__(self) -> int:
        while self._reader.poll():
            self._sum += int.from_bytes(self._reader.recv_bytes(), "little")
        return self._sum


def _decode(writer: Connection[bytes, bytes], source: str, target: str, wanted: Wanted) -> Outcome:
    return decode_file(source, target, wanted, lambda rows: writer.send_bytes(rows.to_bytes(8, "little")))


_writers: list[Connection[bytes, bytes]] = []
"""In a process that `processes` made, its end of the pipe."""


def _begin(writer: Connection[bytes, bytes], threads: int) -> None:
    # Ctrl-C is sent to all processes of a terminal; the first of them tells the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    _writers.append(writer)
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    first = multiprocessing.parent_process()
    if first:
        first.join()
    os._exit(1)


def _decode_here(source: str, target: str, wanted: Wanted) -> Outcome:
    return _decode(_writers[0], source, target, wanted)


# On Dask

_ADDRESS = re.compile(r"((tcp|tls|ws|wss|ucx)://)?([\w.-]+|\[[0-9A-Fa-f:.%]+\]):(\d{1,5})", re.ASCII)


@contextmanager
def dask(address: str) -> Iterator[Crew]:
    """The workers of the Dask scheduler at `address`, such as `tcp://10.0.0.7:8786`, which see the same
    paths as this machine and have the same versions installed.

    A file whose worker dies is given to another. Raises `CrewError` when Dask is not installed, or
    nobody answers there, or has no workers.
    """
    match = _ADDRESS.fullmatch(address)
    if not match or not 0 < int(match[4]) < 65536:
        raise CrewError(f"{address!r} is no address of a Dask scheduler, such as tcp://10.0.0.7:8786.")
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise CrewError(f"--dask needs {error.name}: pip install 'vin-datasette[dask]'") from None
    # What it warns of, as of a worker that died, is done again; what cannot be is told by the outcome. And of
    # connections that end with the run its event loop has much to tell.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("asyncio", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CrewError(f"No Dask scheduler answers at {address}: {error or type(error).__name__}") from None
    try:
        workers = _Workers(client, address)
        executor = client.get_executor(pure=False, retries=_RETRIES)
        try:
            yield Crew(executor, decode_file, workers.most)
        finally:
            executor.shutdown(wait=False)
    finally:
        client.close(CONNECT_SECONDS)


class _Workers:
    """Looks now and then whether a scheduler still has workers."""

    def __init__(self, client: Client, address: str) -> None:
        self._client, self._address = client, address
        self._there_at = self._looked_at = time.monotonic()
        self._most = 0
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            raise CrewError(
                f"The Dask scheduler at {address} has no workers; start some with: dask worker {address}"
            ) from None
        self._look()

    def most(self) -> int:
        """Two files for each thread of all workers: one that waits for each in hand."""
        if time.monotonic() - self._looked_at >= _LOOK_EVERY:
            self._look()
        return self._most

    def _look(self) -> None:
        try:
            threads = self._client.sync(self._client.nthreads, callback_timeout=CONNECT_SECONDS)
        except (OSError, TimeoutError, asyncio.TimeoutError, RuntimeError) as error:
            raise CrewError(f"The Dask scheduler at {self._address} answers no more: {error}") from None
        self._looked_at = time.monotonic()
        self._most = max(1, 2 * sum(threads.values()))
        if threads:
            self._there_at = self._looked_at
        elif self._looked_at - self._there_at > WORKERLESS_SECONDS:
            away = duration(WORKERLESS_SECONDS)
            raise CrewError(f"The Dask scheduler at {self._address} has had no workers for {away}.")
