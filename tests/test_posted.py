"""`POST /lookup`: many VINs in, one JSON line each out, over ASGI and over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import httpx
import pytest

from tests.conftest import DATASETTE_1, fill_cache, numbered_vins, serving, until
from tests.test_permissions import FROM_ELSEWHERE, VISIBLE_TO_STAFF
from tests.vpic_server import Fault, VpicServer, closed_port, flat_record
from vin_datasette.web.posted import MOST_BYTES, MOST_VINS
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance, Served

PETERBILT, HONDA, AUDI = "1XP5DB9X7XD487964", "1HGCM82633A004352", "WA1A4AFY2J2008189"
REJECTED_BY_VPIC = "11111111111111111"
PATHS = ["/lookup", "/-/vin/lookup"]
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
VIN_FIELD = "Input VIN Requested"
SIX_FIELDS = [VIN_FIELD, "Make", "Model", "Model Year", "Body Class", "Cached Result?"]
ERROR_FIELDS = [VIN_FIELD, "ok", "error", "status", "title"]


def asking(server: VpicServer, **settings: object) -> dict[str, object]:
    """Settings of an instance that asks this server and nobody else, and does not give up soon."""
    return {"source": "vpic", "vpic_url": server.url, "rate": 1000, "timeout": 60, **settings}


@pytest.fixture
async def datasette(make_instance: MakeInstance) -> Datasette:
    """An instance that the embedded database answers."""
    return await make_instance()


async def post(
    datasette: Datasette,
    body: bytes | Sequence[str],
    content_type: str | None = None,
    path: str = PATHS[0],
    **headers: str,
) -> httpx.Response:
    """What a body, or a JSON list, is answered."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    said = content_type or ("text/plain" if isinstance(body, bytes) else JSON)
    answer: httpx.Response = await datasette.client.post(
        path, content=content, headers={"content-type": said, **headers}
    )
    return answer


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    """The lines of an answer, each of them JSON."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.content.endswith(b"\n")
    return [json.loads(line) for line in answer.content.split(b"\n")[:-1]]


def vins(answer: httpx.Response) -> list[str]:
    return [line[VIN_FIELD] for line in lines(answer)]


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """The status and the words of Datasette's error JSON."""
    said = answer.json()
    assert list(said) == ["ok", "error", "status", "title"]
    assert (said["ok"], said["status"], said["title"]) == (False, answer.status_code, None)
    return answer.status_code, said["error"]


class Conversation:
    """A request that is sent message by message, and whose answer is held up while nobody takes it."""

    def __init__(self, datasette: Datasette, *, content_type: str = JSON) -> None:
        self._incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=1)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/lookup",
            "raw_path": b"/lookup",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", content_type.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", None),
            "root_path": "",
        }
        self.answering = asyncio.ensure_future(datasette.app()(scope, self._receive, self._outgoing.put))
        self.taken = 0
        """Messages of the request that were taken."""

    async def _receive(self) -> dict[str, Any]:
        message = await self._incoming.get()
        self.taken += 1
        return message

    def say(self, body: bytes, *, more: bool = False) -> None:
        """Send a part of the request."""
        self._incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def leave(self) -> None:
        """Close the connection."""
        self._incoming.put_nowait({"type": "http.disconnect"})

    async def take(self) -> dict[str, Any]:
        """The next message of the answer."""
        return await asyncio.wait_for(self._outgoing.get(), 30)

    async def status(self) -> int:
        """The status, which is the first that is taken."""
        started = await self.take()
        assert started["type"] == "http.response.start"
        return int(started["status"])

    async def line(self) -> dict[str, Any]:
        """The next line."""
        said: dict[str, Any] = json.loads((await self.take())["body"])
        return said

    async def lines_before_it_is_cut_off(self) -> list[dict[str, Any]]:
        """All lines of an answer that does not come to its end."""
        found: list[dict[str, Any]] = []
        while True:
            next_one = asyncio.ensure_future(self.take())
            await asyncio.wait({next_one, self.answering}, return_when=asyncio.FIRST_COMPLETED)
            if not next_one.done() and self._outgoing.empty():
                next_one.cancel()
                return found
            message = await next_one
            assert message["more_body"]
            found.append(json.loads(message["body"]))

    async def ended(self) -> None:
        """Return when nothing more comes of it."""
        await asyncio.wait({self.answering}, timeout=30)
        assert self.answering.done()
        if not self.answering.cancelled():
            self.answering.result()


@asynccontextmanager
async def conversing(datasette: Datasette, asked: Sequence[str]) -> AsyncIterator[Conversation]:
    """A conversation about these VINs that has its status, and that is left in the end."""
    conversation = Conversation(datasette)
    conversation.say(json.dumps(asked).encode())
    try:
        assert await conversation.status() == 200
        yield conversation
    finally:
        conversation.leave()
        await conversation.ended()


# Ways to give VINs

WAYS: dict[str, tuple[str, bytes]] = {
    "a JSON list": (JSON, json.dumps([PETERBILT, HONDA]).encode()),
    "a JSON object": (JSON, json.dumps({"vins": [PETERBILT, HONDA]}).encode()),
    "JSON with a byte order mark": (JSON, b"\xef\xbb\xbf" + json.dumps([PETERBILT, HONDA]).encode()),
    "JSON that says its charset": ("Application/JSON; charset=utf-8", json.dumps([PETERBILT, HONDA]).encode()),
    "a form of one field a VIN": (FORM, urlencode([("vin", PETERBILT), ("vin", HONDA)]).encode()),
    "a form of one field of lines": (FORM, urlencode({"vins": f"{PETERBILT}\r\n\r\n {HONDA} \r\n"}).encode()),
    "a form of both, and of others": (
        FORM,
        urlencode({"vin": HONDA, "x": AUDI, "vins": PETERBILT, "vin2": ""}).encode(),
    ),
    "lines": ("text/plain", f"{PETERBILT}\n{HONDA}\n".encode()),
    "lines without a last end": ("text/plain; charset=utf-8", f"{PETERBILT}\n{HONDA}".encode()),
    "lines of Windows": ("text/plain", f"{PETERBILT}\r\n{HONDA}\r\n".encode()),
    "lines of an old Mac": ("text/plain", f"{PETERBILT}\r{HONDA}\r".encode()),
    "lines with a byte order mark": ("text/plain", f"\ufeff{PETERBILT}\n{HONDA}\n".encode()),
    "lines and blank lines": ("text/plain", f"\n\n{PETERBILT}\n  \t\n\n{HONDA}\n\n".encode()),
    "lines with blanks around": ("text/plain", f"  {PETERBILT} \n\t{HONDA}\n".encode()),
    "CSV of one column": ("text/csv", f"{PETERBILT}\n{HONDA}\n".encode()),
}


@pytest.mark.parametrize(("content_type", "body"), WAYS.values(), ids=WAYS)
async def test_vins_are_taken_in_many_ways(datasette: Datasette, content_type: str, body: bytes) -> None:
    assert sorted(vins(await post(datasette, body, content_type))) == [HONDA, PETERBILT]


async def test_body_without_a_type_is_lines(datasette: Datasette) -> None:
    answer = await datasette.client.post("/lookup", content=f"{PETERBILT}\n{HONDA}\n".encode())
    assert sorted(vins(answer)) == [HONDA, PETERBILT]


async def test_body_in_many_parts_is_one(datasette: Datasette) -> None:
    conversation = Conversation(datasette, content_type="text/plain")
    for byte in f"\ufeff{PETERBILT}\r\n{HONDA}".encode():
        conversation.say(bytes([byte]), more=True)
    conversation.say(b"")
    assert await conversation.status() == 200
    found = {(await conversation.line())[VIN_FIELD] for _ in range(2)}
    assert (found, await conversation.take()) == (
        {PETERBILT, HONDA},
        {"type": "http.response.body", "body": b"", "more_body": False},
    )
    conversation.leave()
    await conversation.ended()


@pytest.mark.parametrize("path", PATHS)
async def test_both_paths_answer(datasette: Datasette, path: str) -> None:
    assert vins(await post(datasette, [PETERBILT], path=path)) == [PETERBILT]


async def test_only_the_long_path_answers_when_short_routes_are_off(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"short_routes": False})
    answers = [await post(datasette, [PETERBILT], path=path) for path in PATHS]
    assert (answers[0].status_code != 200, vins(answers[1])) == (True, [PETERBILT])


async def test_list_answers_under_the_base_url(make_instance: MakeInstance) -> None:
    datasette = await make_instance(settings={"base_url": "/prefix/"})
    assert vins(await post(datasette, [PETERBILT], path="/-/vin/lookup")) == [PETERBILT]


# A line for each


async def test_vehicle_is_six_fields_in_their_order_and_nothing_else(datasette: Datasette) -> None:
    [line] = lines(await post(datasette, [PETERBILT]))
    assert list(line.items()) == [
        *zip(SIX_FIELDS, (PETERBILT, "PETERBILT", "379", "1999", "Truck-Tractor", False), strict=True)
    ]


async def test_line_says_what_the_vins_own_address_says(datasette: Datasette) -> None:
    await post(datasette, [PETERBILT])
    answer = await post(datasette, [PETERBILT])
    assert answer.text == (await datasette.client.get(f"/lookup/{PETERBILT}")).text + "\n"


@pytest.mark.parametrize("vin", ["nonsense", REJECTED_BY_VPIC, "", " ", "1XP5DB9X7XD48796", "naïve–🚗"])
async def test_rejection_is_the_vin_with_404_and_the_reason(datasette: Datasette, vin: str) -> None:
    [line] = lines(await post(datasette, [vin]))
    reason = (await datasette.client.get(f"/lookup/{vin}")).json()["error"] if vin.strip() else line["error"]
    assert list(line.items()) == [*zip(ERROR_FIELDS, (vin, False, reason, 404, None), strict=True)]


@pytest.mark.parametrize("vin", ["\ud800", "1XP5DB9X7XD48796\udfff", "\0", "\u2028", 'a"b\\c\n'])
async def test_text_of_any_kind_comes_back_as_it_was_given(datasette: Datasette, vin: str) -> None:
    answer = await post(datasette, [vin, PETERBILT])
    assert [(line[VIN_FIELD], line.get("status")) for line in lines(answer)] == [(vin, 404), (PETERBILT, None)]


async def test_vin_that_nobody_could_be_asked_about_is_503(make_instance: MakeInstance) -> None:
    with closed_port() as url:
        datasette = await make_instance({"source": "vpic", "vpic_url": url, "timeout": 0.5})
        [line] = lines(await post(datasette, [PETERBILT]))
    assert list(line) == ERROR_FIELDS
    assert (line[VIN_FIELD], line["ok"], line["status"], line["title"]) == (PETERBILT, False, 503, None)
    assert line["error"].startswith("No source could be asked: vPIC ")


async def test_source_that_is_away_costs_the_others_nothing(make_instance: MakeInstance) -> None:
    with closed_port() as url:
        datasette = await make_instance()
        await state_of(datasette).lookup.answer(HONDA)
        datasette = await make_instance({"source": "vpic", "vpic_url": url, "timeout": 0.5})
        found = {line[VIN_FIELD]: line.get("status") for line in lines(await post(datasette, [PETERBILT, HONDA, "X"]))}
    assert found == {PETERBILT: 503, HONDA: None, "X": 404}


async def test_vin_that_vpic_chokes_on_costs_the_others_of_its_call_nothing(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fault_for[HONDA] = Fault.status(400)
    datasette = await make_instance(asking(vpic_server))
    found = {line[VIN_FIELD]: line.get("status") for line in lines(await post(datasette, [PETERBILT, HONDA, AUDI]))}
    assert found == {PETERBILT: None, HONDA: 503, AUDI: None}


async def test_every_vin_has_its_line_also_those_that_are_there_twice(datasette: Datasette) -> None:
    await state_of(datasette).lookup.answer(HONDA)
    given = [PETERBILT, HONDA, "nonsense", PETERBILT, HONDA, "nonsense", PETERBILT]
    assert sorted(vins(await post(datasette, given))) == sorted(given)


async def test_vin_that_is_written_in_two_ways_has_two_lines(datasette: Datasette) -> None:
    assert vins(await post(datasette, [PETERBILT, "1xp5-db9x-7xd4-87964"])) == [PETERBILT, PETERBILT]


async def test_what_was_answered_is_cached_for_all(datasette: Datasette) -> None:
    await post(datasette, [PETERBILT])
    single = (await datasette.client.get(f"/lookup/{PETERBILT}")).json()
    [line] = lines(await post(datasette, [PETERBILT]))
    assert (single["Cached Result?"], line["Cached Result?"]) == (True, True)


async def test_as_many_as_are_allowed_are_answered_each_once(datasette: Datasette) -> None:
    given = sorted(numbered_vins(MOST_VINS))
    assert sorted(vins(await post(datasette, given))) == given


async def test_vpic_that_goes_away_half_way_loses_no_vin_and_doubles_none(make_instance: MakeInstance) -> None:
    given = sorted(numbered_vins(700))
    with closed_port() as url:
        datasette = await make_instance({"source": "auto", "vpic_url": url})
        assert sorted(vins(await post(datasette, given))) == given


async def test_answer_is_not_to_be_kept_by_others(datasette: Datasette) -> None:
    answer = await post(datasette, [PETERBILT])
    assert answer.headers["cache-control"] == "private, no-store"


# Who may


async def test_who_may_not_ask_gets_what_is_cached_and_the_reason_for_the_rest(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server, allow_lookup=False))
    await state_of(datasette).lookup.answer(PETERBILT)
    vpic_server.reset()
    found = {line[VIN_FIELD]: line for line in lines(await post(datasette, [HONDA, PETERBILT, "nonsense"]))}
    assert list(found[PETERBILT]) == SIX_FIELDS
    assert list(found[HONDA]) == ERROR_FIELDS
    assert {vin: line.get("status") for vin, line in found.items()} == {HONDA: 403, PETERBILT: None, "nonsense": 404}
    assert "vin-lookup is needed" in found[HONDA]["error"]
    assert vpic_server.calls == []


@pytest.mark.parametrize(("actor", "status"), [({"id": "somebody"}, None), ({"id": "other"}, 403), (None, 403)])
@pytest.mark.parametrize("content_type", [JSON, FORM])
async def test_actor_who_may_ask_is_answered(
    make_instance: MakeInstance, actor: dict[str, str] | None, status: int | None, content_type: str
) -> None:
    datasette = await make_instance({"allow_lookup": {"id": "somebody"}})
    cookies, form = {}, {"vin": HONDA}
    if actor:
        cookies["ds_actor"] = datasette.sign({"a": actor}, "actor")
    if actor and not DATASETTE_1:
        # 0.65 wants the token of its own forms with every write that comes with a cookie.
        page = await datasette.client.get("/-/logout", cookies=cookies)
        form["csrftoken"] = cookies["ds_csrftoken"] = page.cookies["ds_csrftoken"]
    headers = {"content-type": content_type}
    if content_type == JSON and "csrftoken" in form:
        headers["x-csrftoken"] = form["csrftoken"]
    body = urlencode(form) if content_type == FORM else json.dumps([HONDA])
    answer = await datasette.client.post("/lookup", content=body, headers=headers, cookies=cookies)
    assert [line.get("status") for line in lines(answer)] == [status]


async def test_who_may_not_see_the_vehicles_is_told_nothing_of_them(make_instance: MakeInstance) -> None:
    datasette = await make_instance({}, VISIBLE_TO_STAFF)
    await state_of(datasette).lookup.answer(PETERBILT)
    status, words = refusal(await post(datasette, [PETERBILT]))
    assert (status, words) == (403, "You may not see the vehicles: view-table is needed.")


@pytest.mark.parametrize("path", PATHS)
async def test_requests_from_elsewhere_are_refused_and_ask_nobody(
    make_instance: MakeInstance, vpic_server: VpicServer, path: str
) -> None:
    datasette = await make_instance(asking(vpic_server), cors=True)
    answers = {
        name: await post(datasette, [PETERBILT], path=path, **headers) for name, headers in FROM_ELSEWHERE.items()
    }
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(FROM_ELSEWHERE, 403)
    assert vpic_server.calls == []


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}, {"Host": "127.0.0.1:8001"}]
)
async def test_requests_from_here_are_answered(datasette: Datasette, headers: Mapping[str, str]) -> None:
    assert vins(await post(datasette, [PETERBILT], **headers)) == [PETERBILT]


async def test_pages_of_other_sites_may_read_when_cors_is_on(make_instance: MakeInstance) -> None:
    datasette = await make_instance(cors=True)
    answers = [await post(datasette, body) for body in ([PETERBILT], [])]
    assert [(answer.status_code, answer.headers.get("access-control-allow-origin")) for answer in answers] == [
        (200, "*"),
        (400, "*"),
    ]


async def test_pages_of_other_sites_may_read_nothing_when_cors_is_off(datasette: Datasette) -> None:
    answers = [await post(datasette, body) for body in ([PETERBILT], [])]
    assert [answer.headers.get("access-control-allow-origin") for answer in answers] == [None, None]


# Which come first, and together


async def test_cached_vins_come_first(datasette: Datasette) -> None:
    for vin in (HONDA, AUDI):
        await state_of(datasette).lookup.answer(vin)
    answer = await post(datasette, [PETERBILT, HONDA, REJECTED_BY_VPIC, "nonsense", AUDI])
    assert vins(answer)[:3] == [HONDA, "nonsense", AUDI]


async def test_cached_vin_is_answered_while_the_source_hangs(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server))
    await state_of(datasette).lookup.answer(HONDA)
    vpic_server.fail_always(Fault.silence)
    async with conversing(datasette, [PETERBILT, HONDA]) as conversation:
        line = await conversation.line()
    assert (line[VIN_FIELD], line["Cached Result?"]) == (HONDA, True)


async def test_vin_is_answered_while_the_call_for_another_hangs(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fault_for[PETERBILT] = Fault.silence
    datasette = await make_instance(asking(vpic_server, batch_size=1, concurrency=2))
    async with conversing(datasette, [PETERBILT, HONDA, AUDI]) as conversation:
        found = {(await conversation.line())[VIN_FIELD] for _ in range(2)}
    assert found == {HONDA, AUDI}


async def test_vins_that_are_not_cached_travel_in_full_calls(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server))
    given = sorted(numbered_vins(520))
    assert sorted(vins(await post(datasette, given))) == given
    assert sorted(len(call.vins) for call in vpic_server.calls) == [20, *[50] * 10]


async def test_vins_that_are_there_twice_do_not_make_calls_half_empty(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server))
    given = [written for vin in numbered_vins(1000) for written in (str(vin), vin.lower())]
    assert len(vins(await post(datasette, given))) == 2000
    assert sorted(len(call.vins) for call in vpic_server.calls) == [50] * 20


async def test_cached_vins_do_not_make_calls_half_empty(make_instance: MakeInstance, vpic_server: VpicServer) -> None:
    datasette = await make_instance(asking(vpic_server))
    given = [str(vin) for vin in numbered_vins(600)]
    await post(datasette, given[::3])
    vpic_server.reset()
    await post(datasette, given)
    assert sorted(len(call.vins) for call in vpic_server.calls) == [50] * 8


# What is no list of VINs

REFUSED: dict[str, tuple[int, str, str, bytes]] = {
    "no type that is known": (415, "not as image/png", "image/png", b"x"),
    "a form of many parts": (415, "not as multipart/form-data", "multipart/form-data; boundary=x", b"--x--"),
    "no JSON": (400, "is no JSON", JSON, b"nonsense"),
    "nothing, as JSON": (400, "is no JSON", JSON, b""),
    "cut JSON": (400, "is no JSON", JSON, b'["1XP5DB9X7'),
    "JSON beyond all depth": (400, "is no JSON", JSON, b"[" * 200_000),
    "a number beyond all size": (400, "JSON", JSON, b"[" + b"1" * 10_000 + b"]"),
    "a JSON text": (400, "has to be a list of VINs", JSON, json.dumps(PETERBILT).encode()),
    "a JSON list of others": (400, "has to be a list of VINs", JSON, json.dumps([PETERBILT, 1]).encode()),
    "a JSON list of none": (400, "has to be a list of VINs", JSON, b"[null]"),
    "a JSON object without VINs": (400, "has to be a list of VINs", JSON, b'{"vin": ["1XP5DB9X7XD487964"]}'),
    "a JSON object of a text": (400, "has to be a list of VINs", JSON, b'{"vins": "1XP5DB9X7XD487964"}'),
    "an empty list": (400, "No VIN was given.", JSON, b"[]"),
    "an empty list in an object": (400, "No VIN was given.", JSON, b'{"vins": []}'),
    "an empty form": (400, "The form has no VIN", FORM, b""),
    "a form of empty fields": (400, "The form has no VIN", FORM, b"vin=&vins="),
    "a form of blank lines": (400, "No VIN was given.", FORM, b"vins=%0d%0a+"),
    "lines that are called a form": (400, "lines are sent as text/plain", FORM, f"{PETERBILT}\n{HONDA}".encode()),
    "an empty text": (400, "No VIN was given.", "text/plain", b""),
    "blank lines": (400, "No VIN was given.", "text/plain", b"\xef\xbb\xbf\r\n \r\n"),
    "no UTF-8": (400, "no text in UTF-8", "text/plain", b"1XP5DB9X7XD487964\xff"),
    "UTF-16": (400, "no text in UTF-8", "text/plain", PETERBILT.encode("utf-16")),
    "too many lines": (413, "10,001 VINs are too many", "text/plain", b"X\n" * (MOST_VINS + 1)),
    "too many in JSON": (413, "10,001 VINs are too many", JSON, json.dumps(["X"] * (MOST_VINS + 1)).encode()),
    "too many fields": (413, "VINs", FORM, b"&".join([b"vin=X"] * (MOST_VINS + 1))),
    "far too many fields": (413, "A form has 10,000 VINs at most.", FORM, b"&".join([b"vin=X"] * (MOST_VINS + 100))),
    "too many bytes": (413, "1,048,576 bytes at most", "text/plain", b"\n" * (MOST_BYTES + 1)),
}


@pytest.mark.parametrize(("status", "words", "content_type", "body"), REFUSED.values(), ids=REFUSED)
async def test_what_is_no_list_of_vins_is_refused_in_words(
    datasette: Datasette, status: int, words: str, content_type: str, body: bytes
) -> None:
    found, said = refusal(await post(datasette, body, content_type))
    assert found == status
    assert words in said
    assert len(said) < 200


async def test_body_of_as_many_bytes_as_are_allowed_is_taken(datasette: Datasette) -> None:
    body = PETERBILT.encode().ljust(MOST_BYTES)
    assert vins(await post(datasette, body)) == [PETERBILT]


async def test_body_that_is_too_long_is_refused_before_its_end(datasette: Datasette) -> None:
    conversation = Conversation(datasette)
    for _ in range(100):
        conversation.say(b" " * 65_536, more=True)
    assert (await conversation.status(), conversation.taken) == (413, MOST_BYTES // 65_536 + 1)
    await conversation.take()
    await conversation.ended()


async def test_body_that_is_cut_off_asks_nobody_and_takes_no_slot(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server, list_concurrency=1))
    conversation = Conversation(datasette, content_type="text/plain")
    conversation.say(f"{PETERBILT}\n".encode(), more=True)
    conversation.leave()
    assert await conversation.status() == 400
    assert "ended before it was whole" in json.loads((await conversation.take())["body"])["error"]
    await conversation.ended()
    assert vpic_server.calls == []
    assert vins(await post(datasette, [HONDA])) == [HONDA]


@pytest.mark.parametrize("path", PATHS)
async def test_other_methods_are_told_which_there_are(datasette: Datasette, path: str) -> None:
    answers = [await datasette.client.request(method, path) for method in ("PUT", "DELETE", "PATCH", "OPTIONS")]
    assert [(answer.status_code, answer.headers["allow"]) for answer in answers] == [(405, "GET, HEAD, POST")] * 4


@pytest.mark.parametrize("path", PATHS)
async def test_page_is_still_there(datasette: Datasette, path: str) -> None:
    page, head = await datasette.client.get(path), await datasette.client.head(path)
    assert (page.status_code, head.status_code, head.content) == (200, 200, b"")
    assert 'name="vin"' in page.text


# How many at once


async def test_more_lists_than_are_allowed_are_429_with_the_time_to_ask_again(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    datasette = await make_instance(asking(vpic_server, list_concurrency=2))
    given = [str(vin) for vin in numbered_vins(3)]
    async with conversing(datasette, given), conversing(datasette, given):
        refused = await post(datasette, given)
    status, words = refusal(refused)
    assert (status, int(refused.headers["retry-after"]) > 0) == (429, True)
    assert words.startswith("2 lists of VINs are being looked up")


async def test_slot_is_free_after_each_list(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"list_concurrency": 1})
    answers = [await post(datasette, [PETERBILT]) for _ in range(3)]
    assert [vins(answer) for answer in answers] == [[PETERBILT]] * 3


async def test_slot_is_free_after_a_refusal(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"list_concurrency": 1})
    answers = [await post(datasette, body) for body in (b"", b"\xff", [PETERBILT])]
    assert [answer.status_code for answer in answers] == [400, 400, 200]


@pytest.mark.parametrize("lines_taken", [0, 1])
async def test_slot_is_free_after_a_client_that_left(
    make_instance: MakeInstance, vpic_server: VpicServer, lines_taken: int
) -> None:
    datasette = await make_instance(asking(vpic_server, list_concurrency=1))
    async with conversing(datasette, ["nonsense", "another", PETERBILT]) as conversation:
        for _ in range(lines_taken):
            await conversation.line()
    assert (await post(datasette, [PETERBILT])).status_code == 200


async def test_slot_is_free_after_a_client_that_left_before_there_was_an_answer(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fault_for[PETERBILT] = Fault.silence
    datasette = await make_instance(asking(vpic_server, list_concurrency=1))
    conversation = Conversation(datasette)
    conversation.say(json.dumps([PETERBILT]).encode())
    await asyncio.to_thread(until, lambda: vpic_server.calls)
    conversation.leave()
    await conversation.ended()
    assert (await post(datasette, ["nonsense"])).status_code == 200


async def test_slot_is_free_after_a_request_that_the_server_ended(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fault_for[PETERBILT] = Fault.silence
    datasette = await make_instance(asking(vpic_server, list_concurrency=1))
    async with conversing(datasette, ["nonsense", PETERBILT]) as conversation:
        conversation.answering.cancel()
        await conversation.ended()
        assert (await post(datasette, ["nonsense"])).status_code == 200


async def test_list_of_which_the_time_is_over_is_cut_off_and_frees_its_slot(
    make_instance: MakeInstance, vpic_server: VpicServer
) -> None:
    vpic_server.fault_for[PETERBILT] = Fault.silence
    datasette = await make_instance(asking(vpic_server, list_concurrency=1, export_timeout="1s"))
    async with conversing(datasette, ["nonsense", PETERBILT]) as conversation:
        assert [line[VIN_FIELD] for line in await conversation.lines_before_it_is_cut_off()] == ["nonsense"]
        assert (await post(datasette, ["nonsense"])).status_code == 200


# Caches that cannot be used


def spoilt(path: Path) -> None:
    """Put something in the cache's place that is none."""
    for name in ("vin.db", "vin.db-wal", "vin.db-shm"):
        (path / name).unlink(missing_ok=True)
    (path / "vin.db").mkdir()


async def test_cache_that_cannot_be_opened_is_503_in_words(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await make_instance()
    state_of(datasette).lookup.cache.close()
    spoilt(tmp_path)
    answer = await post(datasette, [PETERBILT])
    status, words = refusal(answer)
    assert (status, answer.headers["content-type"], answer.headers["retry-after"]) == (503, JSON, "30")
    assert " cache" in words


async def test_cache_that_cannot_be_opened_frees_its_slot(make_instance: MakeInstance, tmp_path: Path) -> None:
    datasette = await make_instance({"list_concurrency": 1})
    state_of(datasette).lookup.cache.close()
    spoilt(tmp_path)
    assert [(await post(datasette, [PETERBILT])).status_code for _ in range(2)] == [503, 503]


async def test_cache_that_fails_half_way_cuts_the_list_off_and_frees_its_slot(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    datasette = await make_instance({"list_concurrency": 1})
    # More than are looked up in the cache at once.
    async with conversing(datasette, ["nonsense"] * 600 + [HONDA]) as conversation:
        state_of(datasette).lookup.cache.close()
        spoilt(tmp_path)
        found = await conversation.lines_before_it_is_cut_off()
    assert {line[VIN_FIELD] for line in found} == {"nonsense"}
    assert (await post(datasette, ["nonsense"])).status_code == 200


# Over real sockets

BATCH, CONCURRENCY = 10, 1
LONG_MODEL = "X" * 20_000
"""So that few VINs are more than all buffers between a server and its reader hold."""


@pytest.fixture(scope="module")
def shared_vpic() -> Iterator[VpicServer]:
    with VpicServer() as server:
        yield server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory, shared_vpic: VpicServer) -> Iterator[Served]:
    """A server of one list at a time, with some vehicles in its cache."""
    folder = tmp_path_factory.mktemp("served")
    fill_cache(folder / "vin.db", 1, first=999_000)
    variables = {
        "VIN_DATASETTE_SOURCE": "vpic",
        "VIN_DATASETTE_VPIC_URL": shared_vpic.url,
        "VIN_DATASETTE_RATE": "1000",
        "VIN_DATASETTE_TIMEOUT": "60",
        "VIN_DATASETTE_BATCH_SIZE": str(BATCH),
        "VIN_DATASETTE_CONCURRENCY": str(CONCURRENCY),
        "VIN_DATASETTE_LIST_CONCURRENCY": "1",
    }
    with serving(folder, **variables) as served:
        yield served


@pytest.fixture
def server(shared_server: Served, shared_vpic: VpicServer) -> Iterator[Served]:
    """`shared_server`, which has nothing else to do before and after, and whose vPIC was not asked yet."""
    shared_vpic.reset()
    yield shared_server
    shared_vpic.reset()
    until(lambda: httpx.post(f"{shared_server.url}/lookup", json=["nonsense"], timeout=60).status_code == 200)
    until(lambda: httpx.get(f"{shared_server.url}/-/vin.json", timeout=60).json()["in_flight"] == 0)
    shared_vpic.latency = 0
    shared_vpic.records.clear()


def address(server: Served) -> tuple[str, int]:
    """The host and the port of a server."""
    parts = urlsplit(server.url)
    return parts.hostname or "", parts.port or 80


class Poster:
    """Somebody who posts a list, takes little of the answer at a time, and may stop or leave."""

    def __init__(self, server: Served, given: Sequence[str]) -> None:
        self._connection = http.client.HTTPConnection(*address(server))
        self._connection.sock = socket.socket()
        # The buffer is agreed upon when the connection is made.
        self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._connection.sock.settimeout(60)
        self._connection.sock.connect(address(server))
        self._connection.request("POST", "/lookup", json.dumps(given), {"content-type": JSON})
        self._response = self._connection.getresponse()
        assert self._response.status == 200

    def line(self) -> dict[str, Any]:
        """The next line."""
        said: dict[str, Any] = json.loads(self._response.readline())
        return said

    def rest(self) -> list[dict[str, Any]]:
        """All lines that are left. Raises `IncompleteRead` when it was cut off."""
        return [json.loads(line) for line in self._response.read().splitlines()]

    def leave(self) -> None:
        """Close the connection, whatever is still to come."""
        self._response.close()
        self._connection.close()


@contextmanager
def posting(server: Served, given: Sequence[str]) -> Iterator[Poster]:
    """A poster who has the head of the answer, and leaves in the end."""
    poster = Poster(server, given)
    try:
        yield poster
    finally:
        poster.leave()


def fresh(count: int, first: int) -> list[str]:
    """VINs that no other test gives, as long as their numbers do not meet."""
    return sorted(str(vin) for vin in numbered_vins(first + count)[first:])


def asks_no_more(vpic: VpicServer) -> bool:
    """Whether vPIC has not been asked for a while."""
    before = len(vpic.calls)
    time.sleep(0.5)
    return len(vpic.calls) == before


def test_lines_come_while_others_are_being_asked_about(server: Served, shared_vpic: VpicServer) -> None:
    shared_vpic.latency = 0.1
    given = fresh(200, first=0)
    with posting(server, given) as poster:
        poster.line()
        assert len(shared_vpic.calls) < 15
        assert len(poster.rest()) == 199


def test_client_that_leaves_ends_the_asking(server: Served, shared_vpic: VpicServer) -> None:
    shared_vpic.latency = 0.05
    with posting(server, fresh(2000, first=1000)) as poster:
        poster.line()
    until(lambda: asks_no_more(shared_vpic))
    # Those that are under way when it leaves are brought to their end.
    assert len(shared_vpic.calls) <= 6


def test_client_that_leaves_frees_its_slot(server: Served, shared_vpic: VpicServer) -> None:
    shared_vpic.latency = 0.05
    with posting(server, fresh(2000, first=4000)) as poster:
        poster.line()
        assert httpx.post(f"{server.url}/lookup", json=["nonsense"], timeout=60).status_code == 429
        poster.leave()
        until(lambda: httpx.post(f"{server.url}/lookup", json=["nonsense"], timeout=60).status_code == 200, seconds=5)


def test_client_that_stops_reading_stops_the_asking_and_loses_nothing(server: Served, shared_vpic: VpicServer) -> None:
    given = fresh(1000, first=7000)
    shared_vpic.records.update({vin: {**flat_record(vin), "Model": LONG_MODEL} for vin in given})
    with posting(server, given) as poster:
        first = poster.line()
        until(lambda: asks_no_more(shared_vpic))
        assert len(shared_vpic.calls) < len(given) / BATCH / 2
        found = [first, *poster.rest()]
    assert sorted(line[VIN_FIELD] for line in found) == given
    assert {line["Model"] for line in found} == {LONG_MODEL}


def test_others_are_answered_while_a_client_has_stopped_reading(server: Served, shared_vpic: VpicServer) -> None:
    given = fresh(1000, first=9000)
    shared_vpic.records.update({vin: {**flat_record(vin), "Model": LONG_MODEL} for vin in given})
    with posting(server, given) as poster:
        poster.line()
        until(lambda: asks_no_more(shared_vpic))
        answers = [httpx.get(f"{server.url}/lookup/{vin}", timeout=10) for vin in fresh(3, first=11_000)]
    assert [answer.status_code for answer in answers] == [200] * 3


def test_endless_body_is_refused_before_its_end(server: Served) -> None:
    with contextlib.closing(socket.create_connection(address(server), 30)) as client:
        head = f"POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {10**12}\r\n\r\n"
        client.sendall(head.encode() + b" " * (MOST_BYTES + 65_536))
        assert client.recv(1000).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(OSError, match=r"reset|[Bb]roken"):
            client.sendall(b" " * 64 * MOST_BYTES)


def test_client_that_sends_too_much_is_told_so(server: Served) -> None:
    answer = httpx.post(f"{server.url}/lookup", content=b" " * 20 * MOST_BYTES, timeout=60)
    assert refusal(answer) == (413, "A request has 1,048,576 bytes at most.")


def test_client_that_leaves_in_the_middle_of_its_body_takes_no_slot(server: Served, shared_vpic: VpicServer) -> None:
    with contextlib.closing(socket.create_connection(address(server), 30)) as client:
        head = "POST /lookup HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"
        client.sendall(f"{head}{HONDA}\n".encode())
        assert httpx.post(f"{server.url}/lookup", json=["nonsense"], timeout=60).status_code == 200
    assert vins(httpx.post(f"{server.url}/lookup", json=["nonsense"], timeout=60)) == ["nonsense"]
    assert shared_vpic.calls == []


@pytest.mark.parametrize("headers", FROM_ELSEWHERE.values(), ids=FROM_ELSEWHERE)
def test_server_on_loopback_refuses_lists_from_elsewhere(server: Served, headers: Mapping[str, str]) -> None:
    answer = httpx.post(f"{server.url}/lookup", json=["nonsense"], headers=headers, timeout=60)
    assert answer.status_code == 403


def test_page_of_the_server_itself_may_post(server: Served) -> None:
    headers = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert vins(httpx.post(f"{server.url}/lookup", json=["nonsense"], headers=headers, timeout=60)) == ["nonsense"]
