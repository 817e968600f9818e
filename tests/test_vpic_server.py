"""The stand-in for vPIC keeps the contract, and each fault goes wrong in the way it is named."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.vpic_server import (
    FLAT_KEYS,
    Fault,
    RateLimit,
    VpicServer,
    black_hole,
    closed_port,
    flat_record,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HONDA, AUDI, FORD = "1HGCM82633A004352", "WA1A4AFY2J2008189", "1FTMW1T88MFA00001"
ASKED = [HONDA, AUDI, FORD]


@pytest.fixture
def server() -> Iterator[VpicServer]:
    with VpicServer() as server:
        yield server


@pytest.fixture
def client(server: VpicServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=5) as client:
        yield client


def batch(client: httpx.Client, data: str = ";".join(ASKED)) -> httpx.Response:
    return client.post("DecodeVINValuesBatch/", data={"format": "json", "data": data})


def vins_of(response: httpx.Response) -> list[str]:
    return [each["VIN"] for each in response.json()["Results"]]


@pytest.mark.parametrize("name", ["DecodeVinValues", "decodevinvaluesextended"])
def test_single(server: VpicServer, client: httpx.Client, name: str) -> None:
    response = client.get(f"{name}/{HONDA.lower()}?format=json")
    answer = response.json()
    (record,) = answer["Results"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-cache"
    assert list(answer) == ["Count", "Message", "SearchCriteria", "Results"]
    assert (answer["Count"], answer["SearchCriteria"]) == (1, f"VIN(s): {HONDA.lower()}")
    assert record == flat_record(HONDA)
    assert tuple(record) == FLAT_KEYS == tuple(sorted(FLAT_KEYS))
    assert (record["VIN"], record["Make"], record["MakeID"]) == (HONDA, "HONDA", "474")
    (call,) = server.calls
    assert (call.method, call.status, call.vins, call.years) == ("GET", 200, (HONDA,), (None,))
    assert (call.query, call.headers["accept"]) == ({"format": "json"}, "*/*")


@pytest.mark.parametrize(("name", "ncsa"), [("DecodeVin", 0), ("DecodeVinExtended", 4)])
def test_variables(client: httpx.Client, name: str, ncsa: int) -> None:
    answer = client.get(f"{name}/1FDZK1C8*MK?format=json").json()
    rows = answer["Results"]
    assert (answer["Count"], answer["SearchCriteria"]) == (len(rows), "VIN:1FDZK1C8*MK")
    assert {"Value": "FORD", "ValueId": "460", "Variable": "Make", "VariableId": 26} in rows
    assert len([row for row in rows if row["Variable"] == "Note"]) > 1
    assert len([row for row in rows if row["Variable"].startswith("NCSA")]) == ncsa


def test_batch_keeps_the_order_and_the_duplicates(server: VpicServer, client: httpx.Client) -> None:
    response = batch(client, f"{HONDA}; {AUDI.lower()} , 2011;{HONDA};5UXWX7C5*BA;tacos;")
    asked = (HONDA, AUDI, HONDA, "5UXWX7C5*BA", "TACOS")
    assert tuple(vins_of(response)) == asked
    assert (response.json()["Count"], response.json()["SearchCriteria"]) == (5, "")
    assert response.json()["Results"][1]["ErrorCode"] == "5,12,14"
    assert response.json()["Results"][0] == flat_record(HONDA)
    assert server.calls[0].vins == asked
    assert server.calls[0].years == (None, 2011, None, None, None)


def test_format_of_a_batch_counts_in_the_form_alone(client: httpx.Client) -> None:
    in_query = client.post("DecodeVINValuesBatch?format=json", data={"data": HONDA})
    assert (in_query.status_code, in_query.content[:10]) == (200, b"<Response>")
    assert in_query.headers["content-type"].startswith("application/xml")
    in_form = client.post("decodevinvaluesbatch", data={"FORMAT": "JSON", "DATA": HONDA})
    assert vins_of(in_form) == [HONDA]
    assert client.get(f"DecodeVinValues/{HONDA}").content[:10] == b"<Response>"


@pytest.mark.parametrize("path", ["DecodeVinValues/", "DecodeVinValues/%20", "Nothing/1", ""])
def test_no_such_resource(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert list(response.json()) == ["message", "messageDetail"]


def test_a_batch_holds_50_vins(client: httpx.Client) -> None:
    assert len(vins_of(batch(client, ";".join([HONDA] * 50)))) == 50
    response = batch(client, ";".join([HONDA] * 51))
    assert (response.status_code, list(response.json())) == (400, ["message", "messageDetail"])


def test_records_override(server: VpicServer, client: httpx.Client) -> None:
    server.records[AUDI] = {"VIN": AUDI, "New": "key"}
    results = batch(client).json()["Results"]
    assert results == [flat_record(HONDA), {"VIN": AUDI, "New": "key"}, flat_record(FORD)]


def raises(error: type[Exception], read: Callable[[httpx.Response], object]) -> Any:
    def check(response: httpx.Response) -> bool:
        with pytest.raises(error):
            read(response)
        return True

    return check


CHECKS: dict[Fault, Callable[[httpx.Response], Any]] = {
    Fault.html_200: lambda r: r.is_success and r.text.startswith("<html>"),
    Fault.xml_200: lambda r: r.is_success and r.text.startswith("<Response>"),
    Fault.truncated_json: raises(json.JSONDecodeError, httpx.Response.json),
    Fault.invalid_utf8: raises(UnicodeDecodeError, httpx.Response.json),
    Fault.empty_results: lambda r: vins_of(r) == [],
    Fault.short_results: lambda r: vins_of(r) == [HONDA, AUDI],
    Fault.doubled_results: lambda r: vins_of(r) == [HONDA, HONDA, AUDI, AUDI, FORD, FORD],
    Fault.reordered: lambda r: vins_of(r) == [AUDI, FORD, HONDA],
    Fault.wrong_vin: lambda r: vins_of(r)[0] not in ASKED and vins_of(r)[1:] == [AUDI, FORD],
    Fault.null_results: lambda r: r.json()["Results"] is None,
    Fault.not_json_object: lambda r: r.json() == [],
    Fault.foreign_json: lambda r: r.json() == {"hello": "world"},
    Fault.missing_keys: lambda r: not {"VIN", "ErrorCode"} & set(r.json()["Results"][0]),
    Fault.huge(300_000): lambda r: len(r.content) == 300_000 and vins_of(r) == ASKED,
    Fault.huge(300_000, declared=False): lambda r: "content-length" not in r.headers,
    Fault.slow_drip(0.2): lambda r: vins_of(r) == ASKED and r.elapsed.total_seconds() >= 0.2,
    Fault.status(503, retry_after=2): lambda r: r.headers["retry-after"] == "2",
    Fault.status(500, body="broken"): lambda r: (r.status_code, r.text) == (500, "broken"),
    Fault.status(403): lambda r: r.headers["content-type"] == "text/html",
    Fault.redirect("/home"): lambda r: (r.status_code, r.headers["location"]) == (302, "/home"),
}


@pytest.mark.parametrize("fault", CHECKS, ids=lambda fault: fault.name)
def test_wrong_answer(server: VpicServer, client: httpx.Client, fault: Fault) -> None:
    server.fail_next(fault)
    response = batch(client)
    assert CHECKS[fault](response)
    assert server.calls[0].status == response.status_code
    assert vins_of(batch(client)) == ASKED


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.truncated, httpx.RemoteProtocolError),
        (Fault.reset, httpx.ReadError),
        (Fault.close, httpx.RemoteProtocolError),
        (Fault.silence, httpx.ReadTimeout),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_no_whole_answer(
    server: VpicServer,
    client: httpx.Client,
    fault: Fault,
    error: type[Exception],
) -> None:
    server.fail_next(fault)
    client.timeout = httpx.Timeout(0.3)
    with pytest.raises(error):
        batch(client)
    assert vins_of(batch(client)) == ASKED
    assert server.connections == 2


def test_a_server_that_stops_ends_the_silence(server: VpicServer, client: httpx.Client) -> None:
    server.fail_always(Fault.silence)
    timer = threading.Timer(0.1, server.stop)
    timer.start()
    with pytest.raises(httpx.TransportError):
        batch(client)
    timer.join()
    server.fail_always(None)
    server.start()
    assert vins_of(batch(client)) == ASKED


def test_which_fault_a_call_meets(server: VpicServer, client: httpx.Client) -> None:
    server.fault_for[AUDI] = Fault.status(501)
    server.fail_always(Fault.status(502))
    server.fail_next(Fault.status(500), times=2)
    server.fail_next(Fault.status(503))
    asked = [HONDA, HONDA, AUDI, AUDI, HONDA]
    assert [batch(client, vin).status_code for vin in asked] == [500, 500, 503, 501, 502]
    server.reset()
    assert batch(client, AUDI).status_code == 200
    assert len(server.calls) == 1


def test_fault_rates(server: VpicServer, client: httpx.Client) -> None:
    def statuses(seed: int) -> list[int]:
        server.fault_rates({Fault.status(500): 0.3, Fault.status(503): 0.3}, seed=seed)
        return [batch(client, HONDA).status_code for _ in range(60)]

    assert set(statuses(1)) == {200, 500, 503}
    assert statuses(1) == statuses(1) != statuses(2)


def test_rate_limit(server: VpicServer, client: httpx.Client) -> None:
    server.rate_limit = RateLimit(calls=2, per=60, retry_after=7)
    responses = [batch(client) for _ in range(3)]
    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[2].headers["retry-after"] == "7"
    assert responses[2].text.startswith("<html>")
    server.rate_limit = RateLimit(calls=1, per=1e-9)
    assert [batch(client).status_code for _ in range(3)] == [200, 200, 200]


async def test_latency_and_calls_in_flight(server: VpicServer) -> None:
    server.latency = 0.1
    start = time.monotonic()
    async with httpx.AsyncClient(base_url=server.url) as client:
        path = f"DecodeVinValues/{HONDA}?format=json"
        await asyncio.gather(*(client.get(path) for _ in range(3)))
        assert time.monotonic() - start >= 0.1
        assert (server.max_in_flight, server.connections) == (3, 3)
        server.reset()
        server.latency = 0
        for _ in range(20):
            await client.get(path)
        assert (server.max_in_flight, server.connections) == (1, 0)


def test_black_hole() -> None:
    with black_hole() as url, pytest.raises(httpx.ConnectTimeout):
        httpx.get(url, timeout=0.3)


def test_closed_port() -> None:
    with closed_port() as url, pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=5)


def test_by_hand() -> None:
    command = [sys.executable, "-m", "tests.vpic_server", "--latency", "0.05"]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert vins_of(httpx.get(f"{url}DecodeVinValues/{HONDA}?format=json")) == [HONDA]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
