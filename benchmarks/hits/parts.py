"""Where the microseconds of a hit go: its parts, each by itself, in one process and without a server.

    python -m benchmarks.hits.parts

Best of many turns each, in microseconds. What a request takes on its way through is more than the
sum: each part by itself finds its code and data in the processor's caches.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasette.app import Datasette

from benchmarks.fleet import table
from benchmarks.fleet_of import cache_of
from vin_datasette.cache import GLANCE
from vin_datasette.vin import VIN
from vin_datasette.web import guard, routes
from vin_datasette.web.observed import hit_observed
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

HERE = Path(__file__).parent
TURNS = 60


async def best(vins: Sequence[str], work: Callable[[str], Awaitable[object] | object]) -> float:
    """Microseconds of `work` for a VIN, at its quickest."""
    found = float("inf")
    for _ in range(TURNS):
        began = time.perf_counter()
        for vin in vins:
            waiting = work(vin)
            if waiting.__class__.__name__ == "coroutine":
                await waiting  # type: ignore[misc]
        found = min(found, time.perf_counter() - began)
    return found / len(vins) * 1e6


def scope(path: str, query: bytes = b"") -> dict[str, Any]:
    """What a server makes of a request without a cookie."""
    address = ("127.0.0.1", 8001)
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:8001")],
        "server": address,
        "client": address,
    }


async def parts(cache: Path, count: int) -> list[list[str]]:
    """What each part takes."""
    own = {"plugins": {"vin-datasette": {"db": str(cache), "source": "embedded"}}}
    known_as = "config" if hasattr(Datasette, "allowed") else "metadata"
    datasette = Datasette([], plugins_dir=str(HERE / "plugins"), **{known_as: own})
    await datasette.invoke_startup()
    app, state = datasette.app(), state_of(datasette)
    with closing(sqlite3.connect(cache)) as connection:
        vins = [vin for (vin,) in connection.execute("SELECT vin FROM vehicles WHERE error_code = '0'")]
        vins = random.Random(1).sample(vins, min(count, len(vins)))

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: object) -> None:
            """Nobody hears of it."""

        await app(scope(f"/lookup/{vins[0]}", b"_=1"), receive, send)
        answers = {vin: state.lookup.cached(vin) for vin in vins}
        hits = {vin: hit for vin in vins if (hit := state.hits.find(vin))}
        responses = {vin: routes.shown(datasette, "GET", None, hit) for vin, hit in hits.items()}
        works: dict[str, Callable[[str], Awaitable[object] | object]] = {
            "the row, by SQLite": lambda vin: connection.execute(GLANCE, [vin]).fetchone(),
            "the record, of the row": lambda vin: state.lookup.cache.glance(VIN(vin)),
            "the answer, of the record": state.lookup.cached,
            "the response, of an answer": lambda vin: routes.found(datasette, "GET", None, answers[vin]),  # type: ignore[arg-type]
            "whether anything was written": lambda vin: state.lookup.cache.version(),
            "what is remembered": state.hits.find,
            "the response, of what is remembered": lambda vin: routes.shown(datasette, "GET", None, hits[vin]),
            "sending it": lambda vin: responses[vin].asgi_send(send),
            "whether anybody may see it": lambda vin: guard.is_open(datasette),
            "counting it": lambda vin: hit_observed(state, hits[vin], 0.0),
            "the short way, whole": lambda vin: app(scope(f"/lookup/{vin}"), receive, send),
            "the router, whole": lambda vin: app(scope(f"/lookup/{vin}", b"_=1"), receive, send),
            "a constant route, whole": lambda vin: app(scope("/-/constant", b"_=1"), receive, send),
        }
        took = [[name, f"{await best(vins, work):.1f}"] for name, work in works.items()]
    state.vin_lists.close()
    await state.lookup.aclose()
    return took


def main(given: Sequence[str] | None = None) -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="Vehicles in the cache.")
    parser.add_argument("--vins", type=int, default=300, help="How many of them are asked for.")
    parser.add_argument("--folder", type=Path, default=Path("benchmarks/data"))
    arguments = parser.parse_args(given)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    cache = cache_of(arguments.rows, arguments.folder.resolve())
    table("Microseconds of a hit", ["part", "microseconds"], asyncio.run(parts(cache, arguments.vins)))


if __name__ == "__main__":
    main()
