"""The Datasette door: what each route answers, on both Datasettes."""

from __future__ import annotations

import asyncio
import io
import json
import re
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timezone
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import DATASETTE_1, SCRIPT, clean_environment, close, new_datasette, rows
from tests.vpic_server import Fault, VpicServer, closed_port, flat_record
from vin_datasette.web.presentation import TABLES
from vin_datasette.web.state import CannotStart

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from datasette.app import Datasette

    from tests.conftest import MakeInstance

PETERBILT, HONDA, AUDI = "1XP5DB9X7XD487964", "1HGCM82633A004352", "WA1A4AFY2J2008189"
FAILING_CHECK_DIGIT, UNREGISTERED = "1XP5DB9X7XD487945", "11111111111111111"
SIX_FIELDS = [
    ("Input VIN Requested", PETERBILT),
    ("Make", "PETERBILT"),
    ("Model", "379"),
    ("Model Year", "1999"),
    ("Body Class", "Truck-Tractor"),
    ("Cached Result?", False),
]
ROOT_OF_REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
async def datasette(make_instance: MakeInstance) -> Datasette:
    """An instance in which everybody may do everything, answered by the embedded database."""
    return await make_instance({"allow_remove": True})


def asking(server: VpicServer, **settings: object) -> dict[str, object]:
    """Settings of an instance that asks this server and nobody else, without waiting its turn."""
    return {"source": "vpic", "vpic_url": server.url, "rate": 1000, "allow_remove": True, **settings}


async def send_raw(datasette: Datasette, path: bytes, method: str = "GET") -> RawAnswer:
    """Send a path as it stands, byte for byte: HTTP clients mend percent encodings that
    are broken, and Datasette's own puts the base URL before each path."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path.decode("ascii"),
        "raw_path": path,
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", None),
        "root_path": "",
    }
    await datasette.app()(scope, incoming.get, send)
    start, *bodies = sent
    return RawAnswer(start["status"], dict(start["headers"]), b"".join(body["body"] for body in bodies))


class RawAnswer(NamedTuple):
    """What came of `send_raw`."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


# Lookup: a vehicle


async def test_vehicle_is_six_fields_in_their_order_and_nothing_else(datasette: Datasette) -> None:
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert response.status_code == 200
    assert list(response.json().items()) == SIX_FIELDS


async def test_answer_is_application_json(datasette: Datasette) -> None:
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert response.headers["content-type"] == "application/json"


async def test_first_answer_says_false_and_the_second_true(datasette: Datasette) -> None:
    answers = [(await datasette.client.get(f"/lookup/{PETERBILT}")).text for _ in range(2)]
    assert [answer.rpartition(", ")[2] for answer in answers] == [
        '"Cached Result?": false}',
        '"Cached Result?": true}',
    ]


async def test_lower_case_blanks_and_hyphens_are_forgiven(datasette: Datasette) -> None:
    response = await datasette.client.get("/lookup/%201xp5-db9x-7xd4-87964%20")
    assert list(response.json().items()) == SIX_FIELDS


@pytest.mark.parametrize("left_out", [{"BodyClass": ""}, {"BodyClass": None}, {"BodyClass": "Not Applicable"}, {}])
async def test_field_that_vpic_leaves_out_is_empty(
    make_instance: MakeInstance, vpic_server: VpicServer, left_out: dict[str, str | None]
) -> None:
    record = {key: value for key, value in flat_record(PETERBILT).items() if key != "BodyClass"}
    vpic_server.records[PETERBILT] = {**record, **left_out}
    datasette = await make_instance(asking(vpic_server))
    answer = (await datasette.client.get(f"/lookup/{PETERBILT}")).json()
    assert list(answer.items()) == [(name, "" if name == "Body Class" else said) for name, said in SIX_FIELDS]


async def test_text_that_no_utf8_can_hold_does_not_break_the_answer(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    lone_surrogate = Fault("lone surrogate", lambda a: replace(a, body=a.body.replace(b'"379"', b'"3\\ud8009"')))
    vpic_server.fail_next(lone_surrogate)
    datasette = await make_instance(asking(vpic_server))
    answers = [(await datasette.client.get(f"/lookup/{PETERBILT}")).json() for _ in range(2)]
    assert [answer["Model"] for answer in answers] == ["3?9", "3?9"]


# Lookup: where an answer came from


async def test_vpic_is_asked_once_for_a_vin(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(asking(vpic_server))
    for _ in range(2):
        await datasette.client.get(f"/lookup/{PETERBILT}")
    assert [call.vins for call in vpic_server.calls] == [(PETERBILT,)]


async def test_answer_of_vpic_is_said_to_be_so_even_when_cached(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server))
    answers = [await datasette.client.get(f"/lookup/{PETERBILT}") for _ in range(2)]
    assert [answer.headers["vin-source"] for answer in answers] == ["vpic", "vpic"]


async def test_answer_of_the_embedded_database_is_said_to_be_so(datasette: Datasette) -> None:
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert response.headers["vin-source"] == "embedded"


async def test_embedded_database_stands_in_for_a_vpic_that_is_away(make_instance: MakeInstance) -> None:
    with closed_port() as url:
        datasette = await make_instance({"source": "auto", "vpic_url": url, "timeout": 0.2})
        response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert (response.status_code, response.headers["vin-source"]) == (200, "embedded")


async def test_cache_status_tells_misses_from_hits(datasette: Datasette) -> None:
    answers = [await datasette.client.get(f"/lookup/{PETERBILT}") for _ in range(2)]
    assert [answer.headers["cache-status"] for answer in answers] == [
        "vin-datasette; fwd=uri-miss; stored",
        "vin-datasette; hit",
    ]


async def test_cache_status_does_not_claim_that_an_answer_was_stored_when_it_was_not(
    datasette: Datasette, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON vehicles BEGIN SELECT raise(ABORT, 'the disk is full'); END"
        )
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert (response.status_code, response.headers["cache-status"]) == (200, "vin-datasette; fwd=uri-miss")


async def test_age_is_that_of_the_cached_answer_in_seconds(datasette: Datasette, tmp_path: Path) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    fetched_at = "2026-01-02T03:04:05Z"
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection, connection:
        connection.execute("UPDATE vehicles SET fetched_at = ?", [fetched_at])
    before = datetime.now(timezone.utc)
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    asked = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    least, most = ((when - asked).total_seconds() for when in (before, datetime.now(timezone.utc)))
    assert int(least) <= int(response.headers["age"]) <= most


async def test_answer_of_a_source_has_no_age(datasette: Datasette) -> None:
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert "age" not in response.headers


# Lookup: validators


async def test_answer_that_the_client_has_is_not_sent_again(datasette: Datasette) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    known = (await datasette.client.get(f"/lookup/{PETERBILT}")).headers["etag"]
    response = await datasette.client.get(f"/lookup/{PETERBILT}", headers={"If-None-Match": known})
    assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", known)


@pytest.mark.parametrize("form", ["W/{}", '"other", {}', "*"])
async def test_validators_are_understood_in_every_form(datasette: Datasette, form: str) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    known = (await datasette.client.get(f"/lookup/{PETERBILT}")).headers["etag"]
    response = await datasette.client.get(f"/lookup/{PETERBILT}", headers={"If-None-Match": form.format(known)})
    assert response.status_code == 304


async def test_answer_that_has_changed_is_sent_whole(datasette: Datasette) -> None:
    known = (await datasette.client.get(f"/lookup/{PETERBILT}")).headers["etag"]
    response = await datasette.client.get(f"/lookup/{PETERBILT}", headers={"If-None-Match": known})
    assert (response.status_code, response.json()["Cached Result?"]) == (200, True)


async def test_answer_may_not_be_repeated_by_others_without_asking(datasette: Datasette) -> None:
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert response.headers["cache-control"] == "private, no-cache"


# Lookup: VINs that cannot be looked up

MALFORMED = {
    "empty": "",
    "16 characters": PETERBILT[:-1],
    "18 characters": PETERBILT + "4",
    "10,000 characters": "1" * 10_000,
    "the letter I": "I" + PETERBILT[1:],
    "the letter O": "1M8GDM9AXKPO42788",
    "the letter Q": "1M8GDM9AXKPQ42788",
    "a Cyrillic look-alike": PETERBILT.replace("X", "\u0425"),
    "full-width digits": PETERBILT.replace("7", "\uff17"),
    "Arabic digits": PETERBILT.replace("7", "\u0667"),
    "a letter that grows in upper case": PETERBILT[:-1] + "\ufb00",
    "a zero-width space": PETERBILT[:8] + "\u200b" + PETERBILT[8:],
    "a slash": PETERBILT[:8] + "/" + PETERBILT[9:],
    "folders": "../../../etc/passwd",
    "SQL that widens": "' OR 1=1 --",
    "SQL that destroys": "1'; DROP TABLE vehicles; --",
    "a NUL byte": PETERBILT[:-1] + "\0",
    "a NUL byte after the VIN": PETERBILT + "\0",
    "a line break and a header": PETERBILT[:-1] + "\r\nSet-Cookie: x=1",
    "HTML": "<script>alert(1)</script>",
    "a wildcard": "%" * 17,
}
BROKEN_PERCENT_ENCODINGS = {
    "a lone percent sign": b"1XP5DB9X7XD48796%",
    "one hexadecimal digit": b"1XP5DB9X7XD48796%4",
    "no hexadecimal digits": b"1XP5DB9X7XD48796%ZZ",
    "bytes that are no UTF-8": b"1XP5DB9X7XD48796%FF",
    "half a character": b"1XP5DB9X7XD48796%D0",
    "an overlong slash": b"1XP5DB9X7XD48796%C0%AF",
    "a surrogate": b"1XP5DB9X7XD48796%ED%A0%80",
    "a slash as it is": b"1XP5DB9X/XD487964",
}
ILL_FORMED_PATHS = {
    **{name: quote(vin, safe="").encode() for name, vin in MALFORMED.items()},
    **BROKEN_PERCENT_ENCODINGS,
}
BAD_PATHS = {
    **ILL_FORMED_PATHS,
    "a failing check digit": FAILING_CHECK_DIGIT.encode(),
    "an unregistered manufacturer": UNREGISTERED.encode(),
}


@pytest.fixture
async def refusals(datasette: Datasette) -> dict[str, RawAnswer]:
    """What each bad VIN is answered, by its name."""
    return {name: await send_raw(datasette, b"/lookup/" + path) for name, path in BAD_PATHS.items()}


def test_bad_vins_are_404(refusals: dict[str, RawAnswer]) -> None:
    assert {name: answer.status for name, answer in refusals.items()} == dict.fromkeys(BAD_PATHS, 404)


def test_bad_vins_are_answered_in_json(refusals: dict[str, RawAnswer]) -> None:
    types = {name: answer.headers[b"content-type"] for name, answer in refusals.items()}
    assert types == dict.fromkeys(BAD_PATHS, b"application/json")


def test_bad_vins_are_answered_in_datasettes_own_form(refusals: dict[str, RawAnswer]) -> None:
    answers = {name: list(json.loads(answer.body).items()) for name, answer in refusals.items()}
    assert answers == {
        name: [("ok", False), ("error", answer[1][1]), ("status", 404), ("title", None)]
        for name, answer in answers.items()
    }


def test_bad_vins_are_told_the_reason_in_words(refusals: dict[str, RawAnswer]) -> None:
    reasons = {name: json.loads(answer.body)["error"] for name, answer in refusals.items()}
    wordless = {name: text for name, text in reasons.items() if len(re.findall(r"[A-Za-z]{2,}", text)) < 3}
    assert wordless == {}


def test_reasons_are_short_however_long_the_text_is(refusals: dict[str, RawAnswer]) -> None:
    assert max(len(answer.body) for answer in refusals.values()) < 500


def test_no_reason_breaks_a_line_of_the_log_or_the_terminal(refusals: dict[str, RawAnswer]) -> None:
    reasons = [json.loads(answer.body)["error"] for answer in refusals.values()]
    assert [reason for reason in reasons if not reason.isprintable()] == []


async def test_bad_vins_change_nothing_among_the_vehicles(datasette: Datasette, tmp_path: Path) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    before = rows(tmp_path / "vin.db")
    changed = []
    for name, path in BAD_PATHS.items():
        await send_raw(datasette, b"/lookup/" + path)
        if rows(tmp_path / "vin.db") != before:
            changed.append(name)
    assert changed == []


async def test_malformed_vins_never_leave_the_house(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(asking(vpic_server))
    for path in ILL_FORMED_PATHS.values():
        await send_raw(datasette, b"/lookup/" + path)
    assert vpic_server.calls == []


async def test_reason_of_a_rejection_is_vpics(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(asking(vpic_server))
    response = await datasette.client.get(f"/lookup/{FAILING_CHECK_DIGIT}")
    assert response.json()["error"] == "1 - Check Digit (9th position) does not calculate properly"


async def test_rejection_is_remembered(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(asking(vpic_server))
    answers = [await datasette.client.get(f"/lookup/{FAILING_CHECK_DIGIT}") for _ in range(2)]
    assert [answer.headers["cache-status"] for answer in answers] == [
        "vin-datasette; fwd=uri-miss; stored",
        "vin-datasette; hit",
    ]
    assert len(vpic_server.calls) == 1


async def test_check_digit_alone_does_not_reject_when_lenient(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"check_digit": "lenient"})
    response = await datasette.client.get(f"/lookup/{FAILING_CHECK_DIGIT}")
    assert (response.status_code, response.json()["Make"]) == (200, "PETERBILT")


# Lookup: nobody could be asked


async def test_503_when_no_source_can_be_asked(make_instance: MakeInstance) -> None:
    with closed_port() as url:
        datasette = await make_instance({"source": "vpic", "vpic_url": url, "timeout": 0.2})
        response = await datasette.client.get(f"/lookup/{PETERBILT}")
    answer = response.json()
    assert (response.status_code, response.headers["content-type"]) == (503, "application/json")
    assert list(answer) == ["ok", "error", "status", "title"]
    assert (answer["ok"], answer["status"]) == (False, 503)
    assert answer["error"].startswith("No source could be asked: vPIC")


@pytest.mark.parametrize(
    "fault",
    [Fault.html_200, Fault.wrong_vin, Fault.close, Fault.status(500), Fault.status(403), Fault.status(503, 7)],
    ids=lambda fault: fault.name,
)
async def test_503_says_when_to_come_back(make_instance: MakeInstance, vpic_server: VpicServer, fault: Fault) -> None:
    vpic_server.fail_always(fault)
    datasette = await make_instance(asking(vpic_server, timeout=0.3))
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) >= 1


async def test_503_does_not_call_clients_back_before_vpic_is_asked_again(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fail_always(Fault.status(503, retry_after=1))
    datasette = await make_instance(asking(vpic_server, timeout=0.3))
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    state = (await datasette.client.get("/-/vin.json")).json()
    assert int(response.headers["retry-after"]) >= state["vpic"]["retry_in"]


async def test_503_never_calls_clients_back_at_once(
    make_instance: MakeInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vin_datasette.breaker.FIRST_PAUSE", 0.4)
    with closed_port() as url:
        datasette = await make_instance({"source": "vpic", "vpic_url": url, "timeout": 0.2})
        response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert response.headers["retry-after"] == "1"


async def test_vpic_that_is_away_is_left_alone_for_a_while(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fail_always(Fault.status(503, retry_after=60))
    datasette = await make_instance(asking(vpic_server, timeout=0.3))
    for vin in (PETERBILT, HONDA):
        await datasette.client.get(f"/lookup/{vin}")
    assert len(vpic_server.calls) == 1


async def test_nothing_is_kept_of_a_lookup_that_failed(
    make_instance: MakeInstance, vpic_server: VpicServer, tmp_path: Path
) -> None:
    vpic_server.fail_always(Fault.wrong_vin)
    datasette = await make_instance(asking(vpic_server, timeout=0.3))
    await datasette.client.get(f"/lookup/{PETERBILT}")
    assert (rows(tmp_path / "vin.db"), rows(tmp_path / "vin.db", "rejections")) == ([], [])


async def test_cached_answer_needs_no_source(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(asking(vpic_server))
    await datasette.client.get(f"/lookup/{PETERBILT}")
    vpic_server.stop()
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert (response.status_code, response.json()["Cached Result?"]) == (200, True)


async def test_malformed_vin_needs_no_source(make_instance: MakeInstance) -> None:
    with closed_port() as url:
        datasette = await make_instance({"source": "vpic", "vpic_url": url})
        response = await datasette.client.get("/lookup/nonsense")
    assert response.status_code == 404


# HEAD, other methods, CORS


@pytest.mark.parametrize(
    "path",
    [f"/lookup/{PETERBILT}", "/lookup/nonsense", "/lookup", "/export", "/-/vin.json"],
)
async def test_head_is_get_without_a_body(datasette: Datasette, path: str) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    got, head = await datasette.client.get(path), await datasette.client.head(path)
    # Between the two requests a second may pass, and 0.65 gives each visitor a token of their own.
    varies = {"age": "", "set-cookie": ""}
    assert (head.status_code, {**head.headers, **varies}) == (got.status_code, {**got.headers, **varies})
    assert head.content == b""


async def test_what_only_reads_takes_no_other_method(datasette: Datasette) -> None:
    paths = (f"/lookup/{PETERBILT}", "/export", "/-/vin.json")
    requests = [(method, path) for path in paths for method in ("post", "put", "delete", "patch", "options")]
    answers = {each: await getattr(datasette.client, each[0])(each[1]) for each in requests}
    assert {each: (answer.status_code, answer.headers["allow"]) for each, answer in answers.items()} == dict.fromkeys(
        requests, (405, "GET, HEAD")
    )


READABLE = [f"/lookup/{PETERBILT}", "/lookup/nonsense", "/export", "/-/vin.json"]


@pytest.mark.parametrize("path", READABLE)
async def test_pages_of_other_sites_may_read_when_cors_is_on(make_instance: MakeInstance, path: str) -> None:
    datasette = await make_instance(cors=True)
    response = await datasette.client.get(path)
    assert response.headers.get("access-control-allow-origin") == "*"


async def test_pages_of_other_sites_may_read_nothing_when_cors_is_off(datasette: Datasette) -> None:
    answers = [await datasette.client.get(path) for path in READABLE]
    assert [answer.headers.get("access-control-allow-origin") for answer in answers] == [None] * len(READABLE)


# Remove


@pytest.mark.parametrize("method", ["post", "delete"])
async def test_remove_says_true_once_and_then_false(datasette: Datasette, method: str) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    answers = [await getattr(datasette.client, method)(f"/remove/{PETERBILT}") for _ in range(2)]
    assert [answer.text for answer in answers] == ["true", "false"]
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_removed_vehicle_is_gone_from_the_file(datasette: Datasette, tmp_path: Path) -> None:
    for vin in (PETERBILT, HONDA):
        await datasette.client.get(f"/lookup/{vin}")
    await datasette.client.post(f"/remove/{PETERBILT}")
    assert [row["vin"] for row in rows(tmp_path / "vin.db")] == [HONDA]


async def test_removed_vehicle_is_asked_for_anew(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(asking(vpic_server))
    await datasette.client.get(f"/lookup/{PETERBILT}")
    await datasette.client.post(f"/remove/{PETERBILT}")
    response = await datasette.client.get(f"/lookup/{PETERBILT}")
    assert (response.json()["Cached Result?"], len(vpic_server.calls)) == (False, 2)


async def test_removed_vehicle_is_no_longer_found_by_search(datasette: Datasette) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    await datasette.client.post(f"/remove/{PETERBILT}")
    response = await datasette.client.get("/vin/vehicles.json?_search=peterbilt&_shape=array")
    assert response.json() == []


async def test_remembered_rejection_can_be_removed(datasette: Datasette, tmp_path: Path) -> None:
    await datasette.client.get(f"/lookup/{FAILING_CHECK_DIGIT}")
    answers = [(await datasette.client.post(f"/remove/{FAILING_CHECK_DIGIT}")).text for _ in range(2)]
    assert answers == ["true", "false"]
    assert rows(tmp_path / "vin.db", "rejections") == []


async def test_remove_answers_json(datasette: Datasette) -> None:
    response = await datasette.client.post(f"/remove/{PETERBILT}")
    assert response.headers["content-type"] == "application/json"


async def test_there_is_nothing_to_remove_for_a_malformed_vin(datasette: Datasette) -> None:
    answers = {name: await send_raw(datasette, b"/remove/" + path, "POST") for name, path in ILL_FORMED_PATHS.items()}
    assert {name: (answer.status, answer.body) for name, answer in answers.items()} == dict.fromkeys(
        ILL_FORMED_PATHS, (200, b"false")
    )


async def test_malformed_vins_remove_nothing(datasette: Datasette, tmp_path: Path) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    before = rows(tmp_path / "vin.db")
    for path in ILL_FORMED_PATHS.values():
        await send_raw(datasette, b"/remove/" + path, "POST")
    assert rows(tmp_path / "vin.db") == before


async def test_other_methods_remove_nothing(datasette: Datasette, tmp_path: Path) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    methods = ("get", "head", "put", "patch", "options")
    answers = [await getattr(datasette.client, method)(f"/remove/{PETERBILT}") for method in methods]
    assert [(answer.status_code, answer.headers["allow"]) for answer in answers] == [(405, "POST, DELETE")] * 5
    assert len(rows(tmp_path / "vin.db")) == 1


async def test_remove_from_a_cache_that_cannot_be_written_is_503(
    datasette: Datasette, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute(
            "CREATE TRIGGER read_only BEFORE DELETE ON vehicles BEGIN SELECT raise(ABORT, 'it is read-only'); END"
        )
    response = await datasette.client.post(f"/remove/{PETERBILT}")
    assert response.status_code == 503
    assert response.json()["error"] == "The cache could not be written: it is read-only"
    assert int(response.headers["retry-after"]) >= 1
    assert "The cache could not be written: it is read-only" in caplog.text


# Where the routes are


async def test_same_routes_answer_where_no_database_can_be_in_their_way(datasette: Datasette) -> None:
    lookup = await datasette.client.get(f"/-/vin/lookup/{PETERBILT}")
    page = await datasette.client.get("/-/vin/lookup")
    export = await datasette.client.get("/-/vin/export")
    remove = await datasette.client.post(f"/-/vin/remove/{PETERBILT}")
    assert list(lookup.json().items()) == SIX_FIELDS
    assert "Look up a VIN" in page.text
    assert pq.read_table(io.BytesIO(export.content)).num_rows == 1
    assert remove.text == "true"


async def test_short_routes_can_be_turned_off(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"short_routes": False})
    paths = (f"/lookup/{PETERBILT}", "/lookup", "/export", f"/remove/{PETERBILT}")
    answers = [await datasette.client.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [404] * 4


async def test_remove_by_the_short_route_does_nothing_when_it_is_turned_off(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    datasette = await make_instance({"short_routes": False, "allow_remove": True})
    await datasette.client.get(f"/-/vin/lookup/{PETERBILT}")
    await datasette.client.post(f"/remove/{PETERBILT}")
    assert [row["vin"] for row in rows(tmp_path / "vin.db")] == [PETERBILT]


async def test_long_routes_stay_when_the_short_ones_are_turned_off(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"short_routes": False})
    response = await datasette.client.get(f"/-/vin/lookup/{PETERBILT}")
    assert list(response.json().items()) == SIX_FIELDS


@pytest.mark.parametrize(("path", "shows"), [("/lookup", "cars"), ("/lookup/cars", "Beetle")])
async def test_database_named_lookup_is_reachable_when_short_routes_are_off(
    make_instance: MakeInstance, tmp_path: Path, path: str, shows: str
) -> None:
    with closing(sqlite3.connect(tmp_path / "lookup.db")) as connection, connection:
        connection.execute("CREATE TABLE cars (id INTEGER PRIMARY KEY, name TEXT)")
        connection.execute("INSERT INTO cars (name) VALUES ('Beetle')")
    datasette = await make_instance({"short_routes": False}, files=[str(tmp_path / "lookup.db")])
    response = await datasette.client.get(path)
    assert response.status_code == 200
    assert shows in response.text


@pytest.fixture
async def prefixed(make_instance: MakeInstance) -> Datasette:
    """An instance that is reached under /prefix/."""
    return await make_instance({"allow_remove": True}, settings={"base_url": "/prefix/"})


@pytest.mark.parametrize("way", ["lookup", "-/vin/lookup"])
async def test_lookup_answers_under_the_base_url(prefixed: Datasette, way: str) -> None:
    answer = await send_raw(prefixed, f"/prefix/{way}/{PETERBILT}".encode())
    assert list(json.loads(answer.body).items()) == SIX_FIELDS


async def test_remove_answers_under_the_base_url(prefixed: Datasette) -> None:
    await send_raw(prefixed, f"/prefix/lookup/{PETERBILT}".encode())
    answer = await send_raw(prefixed, f"/prefix/remove/{PETERBILT}".encode(), "POST")
    assert answer.body == b"true"


async def test_export_answers_under_the_base_url(prefixed: Datasette) -> None:
    answer = await send_raw(prefixed, b"/prefix/export")
    assert pq.read_table(io.BytesIO(answer.body)).num_rows == 0


async def test_state_answers_under_the_base_url(prefixed: Datasette) -> None:
    answer = await send_raw(prefixed, b"/prefix/-/vin.json")
    assert json.loads(answer.body)["ok"] is True


async def test_links_of_the_page_keep_the_base_url(prefixed: Datasette) -> None:
    response = await prefixed.client.get("/lookup?vin=1M8GDM9AXKPO42788")
    links = re.findall(r'(?:href|action|src)="(/[^"]*)"', response.text)
    assert "/prefix/-/vin/lookup" in links
    assert [link for link in links if not link.startswith("/prefix/")] == []


async def test_page_leads_to_the_vehicle_under_the_base_url(prefixed: Datasette) -> None:
    response = await prefixed.client.get(f"/lookup?vin={PETERBILT}")
    assert response.headers["location"] == f"/prefix/vin/vehicles/{PETERBILT}"


# Other paths


@pytest.mark.parametrize("path", ["/nowhere", "/no/such/path/at/all", "/-/vin/nothing"])
async def test_path_that_nobody_knows_is_404(datasette: Datasette, path: str) -> None:
    response = await datasette.client.get(path)
    assert response.status_code == 404


async def test_path_that_nobody_knows_floods_no_log(datasette: Datasette, capfd: pytest.CaptureFixture[str]) -> None:
    await datasette.client.get("/nowhere")
    assert capfd.readouterr() == ("", "")


# Export


async def exported(datasette: Datasette) -> pa.Table:
    response = await datasette.client.get("/export")
    assert response.status_code == 200
    return pq.read_table(io.BytesIO(response.content))


async def test_export_is_a_parquet_file_of_all_vehicles_by_vin(datasette: Datasette) -> None:
    for vin in (AUDI, PETERBILT, HONDA):
        await datasette.client.get(f"/lookup/{vin}")
    table = await exported(datasette)
    assert table.column("vin").to_pylist() == sorted([AUDI, PETERBILT, HONDA])


async def test_export_begins_with_the_contracts_columns_as_strings(datasette: Datasette) -> None:
    await datasette.client.get(f"/lookup/{PETERBILT}")
    table = (await exported(datasette)).select(range(5))
    assert [(field.name, field.type) for field in table.schema] == [
        (name, pa.string()) for name in ("vin", "make", "model", "model_year", "body_class")
    ]
    assert table.to_pylist() == [
        {"vin": PETERBILT, "make": "PETERBILT", "model": "379", "model_year": "1999", "body_class": "Truck-Tractor"}
    ]


async def test_export_has_typed_attributes_and_where_answers_came_from(datasette: Datasette) -> None:
    before = datetime.now(timezone.utc).replace(microsecond=0)
    await datasette.client.get(f"/lookup/{PETERBILT}")
    [row] = (await exported(datasette)).select(["gvwr_from_kg", "source", "fetched_at"]).to_pylist()
    assert (row["gvwr_from_kg"], row["source"]) == (14_969, "embedded")
    assert before <= row["fetched_at"] <= datetime.now(timezone.utc)


async def test_export_of_an_empty_cache_is_a_file_without_rows(datasette: Datasette) -> None:
    table = await exported(datasette)
    assert (table.num_rows, table.column_names[:2]) == (0, ["vin", "make"])


async def test_rejections_are_not_exported(datasette: Datasette) -> None:
    await datasette.client.get(f"/lookup/{FAILING_CHECK_DIGIT}")
    assert (await exported(datasette)).num_rows == 0


async def test_missing_contract_values_are_exported_as_empty_strings(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.records[PETERBILT] = {**flat_record(PETERBILT), "Model": "", "ModelYear": "", "BodyClass": ""}
    datasette = await make_instance(asking(vpic_server))
    await datasette.client.get(f"/lookup/{PETERBILT}")
    [row] = (await exported(datasette)).select(["model", "model_year", "body_class"]).to_pylist()
    assert row == {"model": "", "model_year": "", "body_class": ""}


async def test_export_names_its_type(datasette: Datasette) -> None:
    response = await datasette.client.get("/export")
    assert response.headers["content-type"] == "application/vnd.apache.parquet"


async def test_export_is_a_download_named_after_the_day(datasette: Datasette) -> None:
    days = {datetime.now(timezone.utc).date()}
    response = await datasette.client.get("/export")
    days.add(datetime.now(timezone.utc).date())
    assert response.headers["content-disposition"] in {
        f'attachment; filename="vehicles-{day.isoformat()}.parquet"' for day in days
    }


async def test_export_of_a_cache_that_cannot_be_read_is_503(datasette: Datasette, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("ALTER TABLE vehicles DROP COLUMN doors")
    response = await datasette.client.get("/export")
    assert (response.status_code, response.headers["content-type"]) == (503, "application/json")
    assert response.json()["error"].endswith("vin.db cannot be read as a cache: no such column: doors.")
    assert int(response.headers["retry-after"]) >= 1


# State


async def test_state_tells_versions_rows_and_health(datasette: Datasette) -> None:
    for vin in (PETERBILT, HONDA, FAILING_CHECK_DIGIT):
        await datasette.client.get(f"/lookup/{vin}")
    response = await datasette.client.get("/-/vin.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {
        "ok": True,
        "version": "0.1.0",
        "database": "vin",
        "table": "vehicles",
        "rows": {"vehicles": 2, "rejections": 1},
        "source": "embedded",
        "vpic": {"url": "https://vpic.nhtsa.dot.gov/api/vehicles/", "breaker": "closed", "retry_in": 0},
        "in_flight": 0,
        "waiting": 0,
    }


async def test_state_tells_that_vpic_is_away(make_instance: MakeInstance) -> None:
    with closed_port() as url:
        datasette = await make_instance({"source": "vpic", "vpic_url": url, "timeout": 0.2})
        await datasette.client.get(f"/lookup/{PETERBILT}")
    vpic = (await datasette.client.get("/-/vin.json")).json()["vpic"]
    assert vpic["breaker"] == "open"
    assert 0 < vpic["retry_in"] <= 30


# The page


async def test_page_has_a_box_for_a_vin(datasette: Datasette) -> None:
    response = await datasette.client.get("/lookup")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert '<form id="vin-form" action="/-/vin/lookup" method="get">' in response.text
    assert re.search(r'<input type="text" id="vin" name="vin" value=""', response.text)


async def test_page_leads_to_the_vehicle(datasette: Datasette) -> None:
    response = await datasette.client.get(f"/lookup?vin={PETERBILT}")
    row = await datasette.client.get(response.headers["location"])
    assert (response.status_code, row.status_code) == (302, 200)
    assert "Truck-Tractor" in row.text


async def test_page_takes_a_vin_as_people_type_it(datasette: Datasette) -> None:
    response = await datasette.client.get("/lookup?vin=+1xp5-db9x-7xd4-87964+")
    assert response.headers["location"] == f"/vin/vehicles/{PETERBILT}"


def reason_of(page: str) -> str:
    [reason] = re.findall(r'id="vin-reason" role="alert">\s*<p><strong class="vin-code">.*?</strong>: (.*?)</p>', page)
    return unescape(str(reason))


async def test_page_says_why_there_is_no_vehicle(datasette: Datasette) -> None:
    response = await datasette.client.get(f"/lookup?vin={FAILING_CHECK_DIGIT}")
    assert response.status_code == 404
    assert reason_of(response.text) == "1 - Check Digit (9th position) does not calculate properly"


async def test_page_says_that_nobody_could_be_asked(make_instance: MakeInstance) -> None:
    with closed_port() as url:
        datasette = await make_instance({"source": "vpic", "vpic_url": url, "timeout": 0.2})
        response = await datasette.client.get(f"/lookup?vin={PETERBILT}")
    assert response.status_code == 503
    assert reason_of(response.text).startswith("No source could be asked: vPIC")


async def test_page_escapes_what_was_typed(datasette: Datasette) -> None:
    response = await datasette.client.get('/lookup?vin="><script>alert(1)</script>')
    assert "<script>alert(1)" not in response.text
    assert 'value="&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"' in response.text


async def test_page_escapes_what_vpic_says(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    said = {"ErrorCode": "7", "ErrorText": "7 - <script>alert(1)</script>", "SuggestedVIN": '"><script>alert(2)'}
    vpic_server.records[UNREGISTERED] = {**flat_record(UNREGISTERED), **said}
    datasette = await make_instance(asking(vpic_server))
    response = await datasette.client.get(f"/lookup?vin={UNREGISTERED}")
    assert "<script>alert(" not in response.text
    assert "7 - <script>alert(1)</script>" in reason_of(response.text)


def suggestion_of(page: str) -> str | None:
    found = re.search(r'<p>Likely meant: <a class="vin-code" href="([^"]+)">([^<]+)</a>.</p>', page)
    return found and found[1]


async def test_page_links_the_vin_that_was_likely_meant(datasette: Datasette) -> None:
    response = await datasette.client.get("/lookup?vin=1M8GDM9AXKPO42788")
    assert suggestion_of(response.text) == "/-/vin/lookup?vin=1M8GDM9AXKP042788"


async def test_page_links_the_vin_that_vpic_suggests(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    vpic_server.records[UNREGISTERED] = {**flat_record(UNREGISTERED), "SuggestedVIN": PETERBILT}
    datasette = await make_instance(asking(vpic_server))
    response = await datasette.client.get(f"/lookup?vin={UNREGISTERED}")
    assert suggestion_of(response.text) == f"/-/vin/lookup?vin={PETERBILT}"


async def test_page_does_not_link_a_suggestion_in_doubt(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    vpic_server.records[UNREGISTERED] = {**flat_record(UNREGISTERED), "SuggestedVIN": "1XP5DB9X7XD4879!4"}
    datasette = await make_instance(asking(vpic_server))
    response = await datasette.client.get(f"/lookup?vin={UNREGISTERED}")
    assert suggestion_of(response.text) is None


async def test_menu_leads_to_the_page(datasette: Datasette) -> None:
    response = await datasette.client.get("/")
    assert '<a href="/-/vin/lookup">Look up a VIN</a>' in response.text


# The tables in Datasette's pages


@pytest.fixture
async def filled(datasette: Datasette) -> Datasette:
    """An instance with two vehicles and a rejection."""
    for vin in (PETERBILT, HONDA, FAILING_CHECK_DIGIT):
        await datasette.client.get(f"/lookup/{vin}")
    return datasette


def facets_of(page: str) -> set[str]:
    return set(re.findall(r'<div class="facet-info [^"]*" id="facet-([^"]+)"', page))


def descriptions_of(page: str) -> dict[str, str]:
    return {name: unescape(text) for name, text in re.findall(r"<dt>(\w+)</dt><dd>([^<]*)</dd>", page)}


def columns_of(path: Path, table: str) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", [table])]


async def test_vehicles_are_faceted(filled: Datasette) -> None:
    response = await filled.client.get("/vin/vehicles")
    assert facets_of(response.text) == {"make", "model_year", "body_class"}


async def test_rejections_are_faceted(filled: Datasette) -> None:
    response = await filled.client.get("/vin/rejections")
    assert facets_of(response.text) == {"error_code"}


@pytest.mark.parametrize("table", ["vehicles", "rejections", "changes"])
async def test_every_column_is_described_on_the_page_of_its_table(
    filled: Datasette, tmp_path: Path, table: str
) -> None:
    # The page of one row has a folded record, whose keys are described in the same way.
    page = (await filled.client.get(f"/vin/{table}?_nocol=record")).text
    described = descriptions_of(page.partition("<table")[0])
    assert described.keys() | {"record"} == set(columns_of(tmp_path / "vin.db", table))
    assert [name for name, text in described.items() if not text.strip()] == []


@pytest.mark.parametrize("table", ["vehicles", "rejections", "changes"])
async def test_descriptions_follow_the_columns_and_there_are_no_others(
    datasette: Datasette, tmp_path: Path, table: str
) -> None:
    assert list(TABLES[table]["columns"]) == columns_of(tmp_path / "vin.db", table)


async def test_latest_answers_come_first(filled: Datasette) -> None:
    response = await filled.client.get("/vin/vehicles")
    assert "sorted by fetched_at descending" in response.text


async def test_tables_have_titles_and_descriptions(filled: Datasette) -> None:
    response = await filled.client.get("/vin/vehicles")
    assert ">Vehicles</h1>" in re.sub(r"\s+", " ", response.text).replace("> ", ">").replace(" <", "<")
    assert "Every vehicle looked up so far, as vPIC describes it." in response.text


@pytest.mark.parametrize(("words", "found"), [("peterbilt", [PETERBILT]), ("accord", [HONDA]), ("audi", [])])
async def test_vehicles_are_found_by_search(filled: Datasette, words: str, found: list[str]) -> None:
    response = await filled.client.get(f"/vin/vehicles.json?_search={words}&_shape=array")
    assert [row["vin"] for row in response.json()] == found


async def test_page_of_the_vehicles_has_a_search_box(filled: Datasette) -> None:
    response = await filled.client.get("/vin/vehicles")
    assert re.search(r'<input [^>]*type="search" name="_search"', response.text)


async def test_whole_record_is_folded(filled: Datasette) -> None:
    response = await filled.client.get(f"/vin/vehicles/{PETERBILT}")
    assert re.search(r"<details><summary>\d+ of \d+ keys</summary><dl>.*<dt>Make</dt><dd>PETERBILT</dd>", response.text)


async def test_folded_record_is_escaped(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    hostile = {"Note": "<script>alert(1)</script>", "<script>alert(2)</script>": "x"}
    vpic_server.records[PETERBILT] = {**flat_record(PETERBILT), **hostile}
    datasette = await make_instance(asking(vpic_server))
    await datasette.client.get(f"/lookup/{PETERBILT}")
    for path in ("/vin/vehicles", f"/vin/vehicles/{PETERBILT}"):
        assert "<script>alert(" not in (await datasette.client.get(path)).text


async def test_script_of_the_tables_is_served(filled: Datasette) -> None:
    page = (await filled.client.get("/vin/vehicles")).text
    [url] = re.findall(r'<script type="module" src="([^"]*columns\.js[^"]*)"', page)
    assert (await filled.client.get(url)).status_code == 200


OWN_METADATA = """
plugins:
  vin-datasette: {source: embedded}
databases:
  vin:
    tables:
      vehicles:
        title: Our fleet
        description: What we drive.
        facets: [plant_country]
        columns: {vin: What stands on the dashboard}
"""


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Makes an instance of a configuration folder with this metadata.yml."""
    made: list[Datasette] = []

    async def make(metadata: str) -> Datasette:
        (tmp_path / "metadata.yml").write_text(metadata)
        datasette = new_datasette(config_dir=tmp_path)
        made.append(datasette)
        await datasette.invoke_startup()
        return datasette

    yield make
    for datasette in made:
        await close(datasette)


@pytest.fixture
async def own_page(folder: Callable[..., Any]) -> str:
    """The page of the vehicles of an instance that has much to say about them itself."""
    datasette = await folder(OWN_METADATA)
    for vin in (PETERBILT, HONDA):
        await datasette.client.get(f"/lookup/{vin}")
    return str((await datasette.client.get("/vin/vehicles")).text)


def test_instances_own_title_wins(own_page: str) -> None:
    assert "Our fleet" in own_page
    assert ">Vehicles<" not in own_page


def test_instances_own_description_wins(own_page: str) -> None:
    assert "What we drive." in own_page
    assert "Every vehicle looked up so far" not in own_page


def test_instances_own_facets_win(own_page: str) -> None:
    assert facets_of(own_page) == {"plant_country"}


def test_instances_own_column_description_wins_and_leaves_the_others(own_page: str) -> None:
    described = descriptions_of(own_page)
    assert described["vin"] == "What stands on the dashboard"
    assert described["make"] == TABLES["vehicles"]["columns"]["make"]


@pytest.mark.parametrize(
    ("order", "said"), [("sort: model_year", "sorted by model_year"), ("sort_desc: vin", "sorted by vin descending")]
)
async def test_instances_own_order_wins(folder: Callable[..., Any], order: str, said: str) -> None:
    datasette = await folder(f"databases: {{vin: {{tables: {{vehicles: {{{order}}}}}}}}}")
    response = await datasette.client.get("/vin/vehicles")
    assert response.status_code == 200
    assert re.search(rf"{said}\s*[<\n]", response.text)


# The cache among the databases


async def test_cache_is_made_and_attached(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await make_instance({"db": str(tmp_path / "garage.db")})
    assert (await datasette.client.get("/garage/vehicles")).status_code == 200


async def databases_of(datasette: Datasette) -> list[str]:
    answer = (await datasette.client.get("/-/databases.json")).json()
    listed = answer["databases"] if isinstance(answer, dict) else answer
    return [database["name"] for database in listed if database["path"]]


@pytest.mark.parametrize("spelling", ["vin.db", "./vin.db", "link.db"])
async def test_cache_that_the_instance_serves_already_is_not_attached_again(
    make_instance: MakeInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
    (tmp_path / "link.db").symlink_to(tmp_path / "vin.db")
    monkeypatch.chdir(tmp_path)
    datasette = await make_instance(files=[spelling])
    assert await databases_of(datasette) == [Path(spelling).stem]


async def test_cache_that_the_instance_serves_already_shows_what_is_looked_up(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "vin.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")
    datasette = await make_instance(files=[str(tmp_path / "vin.db")])
    await datasette.client.get(f"/lookup/{PETERBILT}")
    response = await datasette.client.get("/vin/vehicles.json?_shape=array")
    assert [row["vin"] for row in response.json()] == [PETERBILT]


async def test_cache_of_the_same_name_as_another_database_stands_beside_it(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with closing(sqlite3.connect(tmp_path / "other" / "vin.db")) as connection:
        connection.execute("CREATE TABLE wines (text)")
    datasette = await make_instance(files=[str(tmp_path / "other" / "vin.db")])
    own = (await datasette.client.get("/-/vin.json")).json()["database"]
    assert own != "vin"
    assert (await datasette.client.get("/vin/wines")).status_code == 200
    assert (await datasette.client.get(f"/{own}/vehicles")).status_code == 200


@pytest.mark.skipif(not DATASETTE_1, reason="Datasette 0.65 reads no datasette.yml")
async def test_settings_may_stand_in_datasette_yml(folder: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "datasette.yml").write_text("plugins: {vin-datasette: {source: embedded, db: fleet.db}}")
    datasette = await folder("title: A fleet")
    assert (await datasette.client.get("/-/vin.json")).json()["database"] == "fleet"


@pytest.mark.parametrize("there_already", [True, False])
async def test_cache_lies_beside_the_configuration(
    folder: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_already: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    if there_already:
        with closing(sqlite3.connect(tmp_path / "fleet.db")) as connection:
            connection.execute("CREATE TABLE notes (text)")
    datasette = await folder("plugins: {vin-datasette: {source: embedded, db: fleet.db}}")
    await datasette.client.get(f"/lookup/{PETERBILT}")
    assert [row["vin"] for row in rows(tmp_path / "fleet.db")] == [PETERBILT]
    assert await databases_of(datasette) == ["fleet"]
    assert list(elsewhere.iterdir()) == []


async def test_repositorys_own_metadata_lets_everybody_do_everything(
    folder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIN_DATASETTE_SOURCE", "embedded")
    datasette = await folder((ROOT_OF_REPOSITORY / "metadata.yml").read_text())
    lookup = await datasette.client.get(f"/lookup/{PETERBILT}")
    export = await datasette.client.get("/export")
    remove = await datasette.client.post(f"/remove/{PETERBILT}")
    assert [answer.status_code for answer in (lookup, export, remove)] == [200, 200, 200]


# What cannot start


def junk(folder: Path) -> Path:
    (folder / "junk.db").write_bytes(b"this is no database, by any means " * 100)
    return folder / "junk.db"


def damaged(folder: Path) -> Path:
    (folder / "damaged.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 4000)
    return folder / "damaged.db"


def of_a_newer_version(folder: Path) -> Path:
    with closing(sqlite3.connect(folder / "newer.db")) as connection, connection:
        connection.execute(
            "CREATE TABLE _sqlite_migrations (id INTEGER, migration_set TEXT, name TEXT, applied_at TEXT)"
        )
        connection.execute("INSERT INTO _sqlite_migrations VALUES (1, 'vin_datasette', 'm999_of_tomorrow', '')")
    return folder / "newer.db"


UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "junk": (junk, "cannot be used as a cache"),
    "damaged": (damaged, "cannot be used as a cache"),
    "a folder": (lambda folder: folder, "is a folder"),
    "in no folder": (lambda folder: folder / "missing" / "vin.db", "there is no folder"),
    "of a newer version": (of_a_newer_version, "was made by a newer vin-datasette"),
}


@pytest.mark.parametrize(("make", "words"), UNUSABLE.values(), ids=UNUSABLE)
async def test_unusable_cache_keeps_the_instance_from_starting(
    make_instance: MakeInstance, tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    with pytest.raises(CannotStart, match=words):
        await make_instance({"db": str(make(tmp_path))})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": "nobody"}, "plugin setting source must be auto, vpic or embedded, not 'nobody'"),
        ({"vpic_url": "ftp://example.org"}, "plugin setting vpic_url must be an http or https URL"),
        ({"rate": 0}, "plugin setting rate must be a number from 0.01 to 10000, not 0"),
        ({"batch_size": 51}, "plugin setting batch_size must be a number from 1 to 50, not 51"),
        ({"short_routes": "perhaps"}, "plugin setting short_routes must be true or false, not 'perhaps'"),
        ({"rejection_max_age": "soon"}, "plugin setting rejection_max_age must be a duration"),
        ({"allow_remove": "root"}, "plugin setting allow_remove must be true, false or an allow block"),
        ({"soruce": "vpic"}, "'soruce' is no setting of vin-datasette; there are db, source, "),
    ],
)
async def test_bad_setting_keeps_the_instance_from_starting(
    make_instance: MakeInstance, settings: dict[str, object], words: str
) -> None:
    with pytest.raises(CannotStart, match=words):
        await make_instance(settings)


async def test_settings_that_are_no_mapping_keep_the_instance_from_starting(folder: Callable[..., Any]) -> None:
    with pytest.raises(CannotStart, match="must be names with values, not"):
        await folder("plugins: {vin-datasette: [vpic]}")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("{source: nobody}", "The plugin setting source must be auto, vpic or embedded, not 'nobody'."),
        ("{db: missing/vin.db}", "cannot be made: there is no folder"),
    ],
)
def test_datasette_says_in_words_why_it_does_not_start(tmp_path: Path, settings: str, words: str) -> None:
    (tmp_path / "metadata.yml").write_text(f"plugins: {{vin-datasette: {settings}}}")
    ended = subprocess.run(
        [SCRIPT.with_name("datasette"), "serve", ".", "--get", "/"],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


# The links of the plugin in plugins/


@pytest.fixture
async def cells(make_instance: MakeInstance, tmp_path: Path) -> AsyncIterator[ShowCells]:
    """Shows values in an instance that has the plugins of the repository's own `plugins/`."""
    from datasette.plugins import pm

    async def show(*values: object, column: str = "vin", table: str = "trucks", **options: Any) -> list[str]:
        with closing(sqlite3.connect(tmp_path / "fleet.db")) as connection, connection:
            connection.execute(f'CREATE TABLE "{table}" (id INTEGER PRIMARY KEY, "{column}")')
            connection.executemany(f'INSERT INTO "{table}" ("{column}") VALUES (?)', [(value,) for value in values])
        plugins = str(ROOT_OF_REPOSITORY / "plugins")
        datasette = await make_instance(files=[str(tmp_path / "fleet.db")], plugins_dir=plugins, **options)
        page = (await datasette.client.get(f"/fleet/{table}")).text
        shown = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
        assert len(shown) == 2 * len(values)
        return [cell.strip() for cell in shown[1::2]]

    yield show
    # Datasette registers plugins for the whole process.
    pm.unregister(name="vin_links.py")


class ShowCells(Protocol):
    """The cells that Datasette shows for values of one column, as HTML."""

    async def __call__(
        self, *values: object, column: str = "vin", table: str = "trucks", **options: Any
    ) -> list[str]: ...


LINKED = f'<a href="/-/vin/lookup?vin={PETERBILT}">{PETERBILT}</a>'


@pytest.mark.parametrize("column", ["vin", "VIN", "Vehicle VIN", "vin_of_tractor"])
async def test_vin_in_a_column_that_says_so_is_linked(cells: ShowCells, column: str) -> None:
    assert await cells(PETERBILT, column=column) == [LINKED]


async def test_link_keeps_the_base_url(cells: ShowCells) -> None:
    linked = LINKED.replace('"/-/', '"/prefix/-/')
    assert await cells(PETERBILT, settings={"base_url": "/prefix/"}) == [linked]


async def test_vin_in_another_column_is_left_alone(cells: ShowCells) -> None:
    assert await cells(PETERBILT, column="serial") == [PETERBILT]


async def test_vin_is_linked_whatever_the_table_of_another_database_is_called(cells: ShowCells) -> None:
    assert await cells(PETERBILT, table="vehicles") == [LINKED]


async def test_vin_as_people_type_it_is_linked_and_shown_as_it_is(cells: ShowCells) -> None:
    [cell] = await cells("1xp5-db9x-7xd4-87964")
    assert cell == LINKED.replace(f">{PETERBILT}<", ">1xp5-db9x-7xd4-87964<")


NO_VINS = {
    "a failing check digit": FAILING_CHECK_DIGIT,
    "no VIN": "unknown",
    "a number": int(UNREGISTERED),
    "a real number": 1.5,
    "nothing": None,
    "bytes": PETERBILT.encode(),
    "empty": "",
    "HTML": "<script>alert(1)</script>",
    "HTML around a VIN": f"<b>{PETERBILT}</b>",
    "an attribute": f'{PETERBILT}" onmouseover="alert(1)',
    "a NUL character": f"{PETERBILT}\0",
    "very long": "1" * 100_000,
    "look-alikes": PETERBILT.replace("X", "\u0425"),
}


async def test_cells_that_hold_no_vin_are_not_linked(cells: ShowCells) -> None:
    shown = dict(zip(NO_VINS, await cells(*NO_VINS.values()), strict=True))
    assert {name: cell for name, cell in shown.items() if "/-/vin/lookup" in cell} == {}


async def test_cells_are_escaped(cells: ShowCells) -> None:
    values = [f'"{PETERBILT}"', f"\"'{PETERBILT}'\"", *(value for value in NO_VINS.values() if isinstance(value, str))]
    shown = await cells(*values, settings={"truncate_cells_html": 0})
    texts = [re.sub(r'</?a(?: href="[^"<>]*")?>', "", cell) for cell in shown]
    assert [text for text in texts if re.search(r'[<>"]', text)] == []
    assert [unescape(text).replace("\ufffd", "\0") for text in texts] == [value or "\xa0" for value in values]


async def test_tables_of_the_cache_keep_datasettes_own_links(cells: ShowCells, make_instance: MakeInstance) -> None:
    await cells()
    datasette = await make_instance()
    await datasette.client.get(f"/lookup/{PETERBILT}")
    page = (await datasette.client.get("/vin/vehicles")).text
    assert f'<a href="/vin/vehicles/{PETERBILT}">{PETERBILT}</a>' in page
    assert f"/-/vin/lookup?vin={PETERBILT}" not in page
