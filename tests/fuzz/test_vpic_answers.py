"""Whatever vPIC answers is the failure of a source, or a vehicle or a rejection of the VIN that was asked.

VIN_DATASETTE_FUZZ_EXAMPLES=100000 python -m pytest tests/fuzz/test_vpic_answers.py
"""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import close, new_datasette, numbered_vins, rows
from tests.fuzz import DERANDOMIZE, EXAMPLES
from tests.vpic_server import FLAT_KEYS
from vin_datasette import Settings
from vin_datasette.attributes import ATTRIBUTES
from vin_datasette.export import write_file
from vin_datasette.lookup import Answer, Lookup
from vin_datasette.sources import SourceError, vpic
from vin_datasette.vehicle import Rejection, Vehicle
from vin_datasette.web.vehicle_facts import facts, origin, parts

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from pathlib import Path

    from vin_datasette.record import Record
    from vin_datasette.vin import VIN

    Outcome = Answer | SourceError

each = settings(
    max_examples=EXAMPLES,
    derandomize=DERANDOMIZE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

VINS = numbered_vins(3)

# Strings

ODD_TEXTS = st.sampled_from([
    *["", " ", "\0", "\ud800", "\udfff x", "\x1b[31m", "\u202e", "Not Applicable", "<script>", "{{ 1 }}", "nan"],
    *["1e400", "-0", "9" * 30, "0" * 60, "1.5", "(1 kg", "(1 - 2 kg)" * 9, "0", "0,14", "1", "1,400", "0 - clean", "!"],
    *["x" * 20_000, "\u0130", "A\nB\r\nC\t", "\ufeff", "\U0001f697", "1999", "2_003", "\u0661", "=1+1"],
])  # fmt: skip
TEXTS = ODD_TEXTS | st.text(st.characters(codec=None), max_size=20)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([10**18, -(10**400)])
SCALARS = TEXTS | st.none() | st.booleans() | NUMBERS
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
KEYS = st.sampled_from([*FLAT_KEYS, "Make", "ErrorCode", "ErrorText", "ModelYear", "GVWR", "VIN"]) | TEXTS


@st.composite
def records(draw: st.DrawFn, vin: str) -> dict[str, Any]:
    """What may pass for a vehicle, with any values under any keys."""
    said = {"VIN": vin, "Make": "HONDA", "Model": "Accord", "ModelYear": "2003", "ErrorCode": "0", "ErrorText": "0 - "}
    code = draw(st.sampled_from(["0", "0", "0", "14", "8,14", "1", "6,14", 0, ""]))
    no_number = {"Windows": math.nan} if draw(st.integers(0, 9)) == 0 else {}
    return {**said, "ErrorCode": code, **no_number, **draw(st.dictionaries(KEYS, VALUES, max_size=8))}


@st.composite
def answers(draw: st.DrawFn, vins: Sequence[str]) -> bytes:
    """An answer about these VINs as JSON, in which little is as it should be."""
    results: Any = [draw(records(vin)) for vin in vins]
    disorder = draw(st.sampled_from(["none"] * 12 + ["order", "lost", "twice", "foreign", "any"]))
    if disorder == "order":
        results = draw(st.permutations(results))
    elif disorder == "lost":
        results = results[1:]
    elif disorder == "twice":
        results = [*results, results[0]]
    elif disorder == "foreign":
        results[-1] = {**results[-1], "VIN": draw(TEXTS | st.just("1XP5DB9X7XD487964"))}
    elif disorder == "any":
        results = draw(VALUES)
    said = {"Count": draw(SCALARS), "Message": draw(SCALARS), "Results": results}
    text = json.dumps(said, ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 9)) == 0:
        # The last of equal keys is the one that counts.
        text = text.replace('"VIN":', '"VIN": "twice", "VIN":', 1)
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-32-le", "cp1252"]))
    body = text.encode(encoding, "replace" if encoding == "cp1252" else "surrogatepass")
    for _ in range(draw(st.sampled_from([0] * 9 + [1, 3]))):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return body


class House:
    """A lookup that asks a vPIC which answers what it is told to, on a loop of its own."""

    def __init__(self, settings: Settings) -> None:
        self.db = settings.db
        self.loop = asyncio.new_event_loop()
        self.answer = httpx.Response(503)
        self._path = Lookup(settings)

    def ask(self, vins: Sequence[VIN], body: bytes, coding: str = "") -> tuple[list[Outcome], list[Answer | None]]:
        """What comes of VINs of which nothing is cached when vPIC answers this; then what the cache says of them."""
        packed = gzip.compress(body, 1) if coding == "gzip" else body
        headers = {"Content-Encoding": coding} if coding else {}
        self.answer = httpx.Response(200, headers=headers, stream=Sent(packed))
        return self.loop.run_until_complete(self._asked(vins))

    async def _asked(self, vins: Sequence[VIN]) -> tuple[list[Outcome], list[Answer | None]]:
        for vin in vins:
            await self._path.remove(vin)
        said = await asyncio.gather(*map(self._path.answer, vins), return_exceptions=True)
        return [outcome_of(each) for each in said], [self._path.cached(vin) for vin in vins]

    def kept(self) -> dict[str, Any]:
        """The records in the file; SQLite, too, can read each as JSON."""
        with closing(sqlite3.connect(self.db)) as connection:
            assert connection.execute("SELECT vin FROM vehicles WHERE NOT json_valid(record)").fetchall() == []
        return {
            row["vin"]: json.loads(row["record"])
            for table in ("vehicles", "rejections")
            for row in rows(self.db, table)
        }

    def close(self) -> None:
        """Let go of the file."""
        self.loop.run_until_complete(self._path.aclose())
        self.loop.close()


def outcome_of(said: Answer | BaseException) -> Outcome:
    """What was said, or the failure of a source; nothing else may be raised."""
    if isinstance(said, BaseException) and not isinstance(said, SourceError):
        raise said
    return said


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A house with an empty cache, whose vPIC is asked once for each answer."""
    client = httpx.AsyncClient

    def transported(**options: Any) -> httpx.AsyncClient:
        return client(**{"transport": httpx.MockTransport(lambda request: made.answer), **options})

    monkeypatch.setattr(httpx, "AsyncClient", transported)
    monkeypatch.setattr(vpic, "ATTEMPTS_ALONE", 1)
    made = House(Settings.load({"db": tmp_path / "vin.db", "source": "vpic", "rate": 10_000, "timeout": 20}))
    yield made
    made.close()


class Sent(httpx.AsyncByteStream):
    """A body as it came over the wire."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> Any:
        for at in range(0, len(self._body), 5_000):
            yield self._body[at : at + 5_000]


TYPES: dict[str, set[type]] = {"text": {str}, "integer": {int}, "real": {int, float}}


def check_usable(record: Record, result: Vehicle | Rejection) -> None:
    """Every door has something to show of what is stored."""
    vehicle = Vehicle(record)
    *fields, cached = vehicle.six_fields(cached=True).values()
    assert {type(field) for field in fields} == {str}
    assert cached is True
    for attribute in ATTRIBUTES:
        value = vehicle.columns()[attribute.column]
        assert value is None or type(value) in TYPES[attribute.kind]
        # SQLite has 64 bits for a whole number, and nothing for what is none.
        assert not isinstance(value, int) or abs(value) < 2**63
        assert not isinstance(value, float) or math.isfinite(value)
    said = [facts(vehicle), origin(record), parts(record.vin, vehicle), vehicle.name, vehicle.warnings, repr(vehicle)]
    str(said).encode("utf-8")
    if isinstance(result, Rejection):
        assert result.reason.strip()
        result.reason.encode("utf-8")


def check(vins: Sequence[VIN], first: list[Outcome], again: list[Answer | None], kept: Container[str]) -> None:
    for vin, outcome, cached in zip(vins, first, again, strict=True):
        if isinstance(outcome, SourceError):
            assert (bool(outcome.reason.strip()), vin in kept, cached) == (True, False, None)
            continue
        assert (outcome.result.vin, outcome.stored, vin in kept) == (vin, True, True)
        assert cached is not None
        assert (cached.cached, cached.result) == (True, outcome.result)
        assert cached.result.record is not None
        check_usable(cached.result.record, cached.result)


@each
@given(data=st.data(), count=st.integers(1, 3), coding=st.sampled_from(["", "gzip", "identity"]))
def test_an_answer_is_kept_whole_and_told_again_or_refused(
    house: House, data: st.DataObject, count: int, coding: str
) -> None:
    vins = VINS[:count]
    body = data.draw(answers(vins))
    first, again = house.ask(vins, body, coding)
    kept = house.kept()
    check(vins, first, again, kept)
    if not any(isinstance(outcome, SourceError) for outcome in first):
        assert [kept[vin] for vin in vins] == json.loads(body)["Results"]


@each
@given(body=st.binary(max_size=200), coding=st.sampled_from(["", "gzip", "deflate", "br", "gzip, gzip", "\x00"]))
def test_bytes_that_mean_nothing_are_a_failure(house: House, body: bytes, coding: str) -> None:
    first, again = house.ask(VINS[:1], body, coding)
    check(VINS[:1], first, again, house.kept())
    assert isinstance(first[0], SourceError)


PAGES = ["vehicles.json", "rejections.json", "vehicles.charts", "changed_since_last_month.json"]


def test_what_is_stored_is_shown_and_exported(house: House, tmp_path: Path) -> None:
    config = {"plugins": {"vin-datasette": {"db": str(house.db), "source": "embedded"}}}
    datasette = new_datasette(config)
    house.loop.run_until_complete(datasette.invoke_startup())

    async def statuses(paths: Sequence[str]) -> list[int]:
        return [(await datasette.client.get(path)).status_code for path in paths]

    @settings(each, max_examples=max(EXAMPLES // 5, 1))
    @given(answers(VINS[:1]))
    def shown(body: bytes) -> None:
        [outcome], _ = house.ask(VINS[:1], body)
        paths = [f"/vin/{page}" for page in PAGES]
        if isinstance(outcome, Answer) and isinstance(outcome.result, Vehicle):
            paths += [f"/vin/vehicles/{VINS[0]}", f"/lookup/{VINS[0]}"]
        assert house.loop.run_until_complete(statuses(paths)) == [200] * len(paths)
        write_file(house.db, tmp_path / "out.parquet", "parquet", lambda part: None)
        write_file(house.db, tmp_path / "out.csv", "csv", lambda part: None)

    shown()
    house.loop.run_until_complete(close(datasette))
