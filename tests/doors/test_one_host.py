"""vPIC is where the settings say, and nowhere else: nothing that comes in, from a request or from vPIC itself,
sends the client to another host."""

from __future__ import annotations

import json
import socket
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest

from tests.conftest import SCRIPT, clean_environment, numbered_vins, serving
from tests.vpic_server import BASE_PATH, Answer, Fault, VpicServer
from vin_datasette.vin import LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasette.app import Datasette

    from tests.conftest import MakeInstance, Served

VIN, OTHER = map(str, numbered_vins(2))


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[VpicServer]:
    """A server that would answer just as well, if anybody asked it."""
    with VpicServer() as server:
        yield server


@pytest.fixture(autouse=True)
def nobody_goes_elsewhere(elsewhere: VpicServer, vpic_server: VpicServer) -> Iterator[None]:
    """Whatever a test does, the other server sees no connection, and vPIC nothing but questions about VINs."""
    elsewhere.reset()
    yield
    assert elsewhere.connections == 0
    for call in vpic_server.calls:
        assert call.path.startswith((f"{BASE_PATH}DecodeVinValuesExtended/", f"{BASE_PATH}DecodeVINValuesBatch/"))
        assert {len(vin) for vin in call.vins} == {LENGTH}
        assert call.headers["host"] == urlsplit(vpic_server.url).netloc


@pytest.fixture
async def instance(make_instance: MakeInstance, vpic_server: VpicServer) -> Datasette:
    """An instance that asks vPIC, and in which everybody may do everything."""
    return await make_instance({"source": "vpic", "vpic_url": vpic_server.url, "rate": 1000, "allow_remove": True})


async def through_all_doors(datasette: Datasette, text: str, **options: Any) -> list[Any]:
    """What each door that asks a source says of a VIN."""
    path, client = quote(text, safe=""), datasette.client
    return [
        await client.get(f"/lookup/{path}", **options),
        await client.get(f"/lookup?vin={path}", **options),
        await client.post(f"/-/vin/refresh/{path}", **options),
        await client.post("/lookup", content=json.dumps([text]), **_with_json(options)),
    ]


def _with_json(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "headers": {**options.get("headers", {}), "content-type": "application/json"}}


# What a request says

FORGED = {
    "Host": "{host}",
    "X-Forwarded-Host": "{host}",
    "X-Forwarded-Server": "{host}",
    "X-Forwarded-For": "{host}",
    "X-Forwarded-Proto": "http://{host}",
    "X-Forwarded-Port": "{port}",
    "X-Forwarded-Prefix": "//{host}",
    "X-Forwarded-Path": "//{host}/",
    "X-Host": "{host}",
    "X-Real-IP": "{host}",
    "X-Original-URL": "http://{host}/lookup",
    "X-Original-Host": "{host}",
    "X-Rewrite-URL": "http://{host}/lookup",
    "X-HTTP-Method-Override": "CONNECT",
    "Forwarded": 'for={host};host="{host}";proto=http',
    "Via": "1.1 {host}",
    "Proxy": "http://{host}",
    "Proxy-Authorization": "Basic eDp5",
    "Referer": "http://{host}/api/vehicles/",
    "Location": "http://{host}/api/vehicles/",
    "Content-Location": "http://{host}/api/vehicles/",
    "Destination": "http://{host}/",
    "Vpic-Url": "http://{host}/api/vehicles/",
    "VIN-DATASETTE-VPIC-URL": "http://{host}/api/vehicles/",
    "HTTP-PROXY": "http://{host}",
    "Cookie": "vpic_url=http://{host}/api/vehicles/",
}


@pytest.mark.parametrize("name", FORGED)
async def test_no_header_names_another_host(
    instance: Datasette, vpic_server: VpicServer, elsewhere: VpicServer, name: str
) -> None:
    host = f"127.0.0.1:{elsewhere.port}"
    await through_all_doors(instance, VIN, headers={name: FORGED[name].format(host=host, port=elsewhere.port)})
    assert {vin for call in vpic_server.calls for vin in call.vins} == {VIN}


async def test_no_parameter_names_another_host(
    instance: Datasette, vpic_server: VpicServer, elsewhere: VpicServer
) -> None:
    further = "&".join(f"{name}={quote(elsewhere.url)}" for name in ("vpic_url", "url", "base_url", "source", "proxy"))
    for path in (f"/lookup/{VIN}?{further}", f"/lookup?vin={OTHER}&{further}"):
        await instance.client.get(path)
    body = {"vins": [VIN], "vpic_url": elsewhere.url, "url": elsewhere.url, "base_url": elsewhere.url}
    answer = await instance.client.post("/lookup", json=body)
    assert answer.status_code == 200
    assert {vin for call in vpic_server.calls for vin in call.vins} == {VIN, OTHER}


# VINs

NO_VINS = {
    "a path up": "../../../{host}/x",
    "a host": "//{host}/api/vehicles/",
    "a host of a URL": "http://{host}/api/vehicles/DecodeVinValuesExtended/" + VIN,
    "a user before a host": f"{VIN}@{{host}}",
    "a user and a host": "@{host}/" + VIN,
    "a query": f"{VIN}?x=@{{host}}",
    "a fragment": f"{VIN}#@{{host}}",
    "a port": f":{{port}}/{VIN}",
    "a header": f"{VIN}\r\nHost: {{host}}\r\n\r\nGET / HTTP/1.1",
    "a line": f"{VIN}\n//{{host}}",
    "a header in Unicode": f"{VIN}\u010d\u010aHost: {{host}}",
    "a full-width slash": "\uff0f\uff0f{host}\uff0f",
    "a division slash": "\u2215\u2215{host}\u2215" + VIN,
    "a full-width stop": "127\uff0e0\uff0e0\uff0e1:{port}",
    "a back slash": "\\\\{host}\\" + VIN,
    "an encoded slash": "%2f%2f{host}%2f",
    "a slash encoded twice": "%252f%252f{host}",
    "an encoded zero": f"{VIN}%00{{host}}",
    "a zero": f"{VIN}\0{{host}}",
    "another VIN behind a semicolon": f"{VIN};{{host}}",
    "a year that is none": f"{VIN},//{{host}}",
    "a tilde": f"{VIN}~2F~2F{{host}}",
    "seventeen characters with slashes": "//127.0.0.1/12345",
    "seventeen characters with dots": "..................."[:LENGTH],
    "seventeen characters that grow in upper case": "ß" * LENGTH,
    "digits of another script": "١" * LENGTH,
}


def text_of(name: str, elsewhere: VpicServer) -> str:
    return NO_VINS[name].replace("{host}", f"127.0.0.1:{elsewhere.port}").replace("{port}", str(elsewhere.port))


@pytest.mark.parametrize("name", NO_VINS)
async def test_no_vin_names_another_host(
    instance: Datasette, vpic_server: VpicServer, elsewhere: VpicServer, name: str
) -> None:
    answers = await through_all_doors(instance, text_of(name, elsewhere))
    assert {answer.status_code for answer in answers[:3]} == {404}
    assert {json.loads(line)["status"] for line in answers[3].text.splitlines()} == {404}
    assert not any("location" in answer.headers for answer in answers)
    assert vpic_server.connections == 0


def test_no_vin_of_a_file_names_another_host(tmp_path: Path, vpic_server: VpicServer, elsewhere: VpicServer) -> None:
    texts = [text_of(name, elsewhere) for name in NO_VINS]
    (tmp_path / "fleet.json").write_text(json.dumps([*texts, VIN]), "utf-8")
    done = subprocess.run(
        [SCRIPT, "fetch", "-f", "fleet.json", "--source", "vpic", "--vpic-url", vpic_server.url],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert f"1 fetched (1 by vpic), {len(texts)} rejected, 0 failed" in done.stdout
    assert {vin for call in vpic_server.calls for vin in call.vins} == {VIN}


# What vPIC answers


def with_headers(*lines: str) -> Fault:
    """The right answer, with further headers."""
    return Fault("headers", lambda answer: replace(answer, headers=(*answer.headers, *lines)))


@pytest.mark.parametrize("target", ["{url}DecodeVinValuesExtended/" + VIN, "//{host}/", "/../..//{host}/"])
@pytest.mark.parametrize("code", [300, 301, 302, 303, 305, 307, 308])
async def test_redirect_is_not_followed(
    instance: Datasette, vpic_server: VpicServer, elsewhere: VpicServer, code: int, target: str
) -> None:
    location = target.format(url=elsewhere.url, host=f"127.0.0.1:{elsewhere.port}")
    vpic_server.fail_always(Fault.redirect(location, code))
    answer = await instance.client.get(f"/lookup/{VIN}")
    assert (answer.status_code, "location" in answer.headers) == (503, False)
    assert f"status {code}" in answer.json()["error"]
    assert len(vpic_server.calls) == 1


async def test_redirect_of_a_full_call_is_not_followed(
    instance: Datasette, vpic_server: VpicServer, elsewhere: VpicServer
) -> None:
    vpic_server.fail_always(Fault.redirect(elsewhere.url, 307))
    answer = await instance.client.post("/lookup", content="\n".join([VIN, OTHER]))
    assert {json.loads(line)["status"] for line in answer.text.splitlines()} == {503}
    assert vpic_server.calls


POINTING = [
    "Location: {url}",
    "Content-Location: {url}",
    "Refresh: 0; url={url}",
    'Alt-Svc: http/1.1="127.0.0.1:{port}"; ma=86400',
    "Link: <{url}>; rel=preload",
    "Set-Cookie: vpic_url={url}; Path=/; Domain=127.0.0.1",
    "Set-Cookie: host=127.0.0.1:{port}; Path=/",
    "Proxy-Authenticate: Basic realm=x",
    "Strict-Transport-Security: max-age=86400; includeSubDomains",
]


@pytest.mark.parametrize("header", POINTING)
async def test_header_of_an_answer_points_nowhere(
    instance: Datasette, vpic_server: VpicServer, elsewhere: VpicServer, header: str
) -> None:
    vpic_server.fail_next(with_headers(header.format(url=elsewhere.url, port=elsewhere.port)))
    for vin in (VIN, OTHER):
        assert (await instance.client.get(f"/lookup/{vin}")).status_code == 200
    assert len(vpic_server.calls) == 2


async def test_what_an_answer_says_points_nowhere(
    make_instance: MakeInstance, vpic_server: VpicServer, elsewhere: VpicServer
) -> None:
    instance = await make_instance({"source": "vpic", "vpic_url": vpic_server.url, "timeout": 0.5})
    next_page = json.dumps({"Results": [], "next": elsewhere.url, "url": elsewhere.url}).encode()
    vpic_server.fail_always(Fault("next page", lambda _: Answer(200, next_page)))
    answer = await instance.client.get(f"/lookup/{VIN}")
    assert answer.status_code == 503


# The request line, on a real server


@pytest.fixture(scope="module")
def vpic_of_server() -> Iterator[VpicServer]:
    with VpicServer() as server:
        yield server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, vpic_of_server: VpicServer) -> Iterator[Served]:
    options = ("--source", "vpic", "--vpic-url", vpic_of_server.url)
    with serving(tmp_path_factory.mktemp("served"), *options) as server:
        yield server


REQUEST_LINES = [
    "GET http://{elsewhere}/lookup/{vin} HTTP/1.1",
    "GET http://{elsewhere}/api/vehicles/DecodeVinValuesExtended/{vin} HTTP/1.1",
    "GET http://{here}@{elsewhere}/lookup/{vin} HTTP/1.1",
    "GET //{elsewhere}/lookup/{vin} HTTP/1.1",
    "GET /lookup//{elsewhere}/{vin} HTTP/1.1",
    "GET /lookup/..%2f..%2f{elsewhere} HTTP/1.1",
    "GET /lookup/{vin}%0d%0aHost:%20{elsewhere} HTTP/1.1",
    "GET /lookup/http:%2f%2f{elsewhere}%2f{vin} HTTP/1.1",
    "GET @{elsewhere}/lookup/{vin} HTTP/1.1",
    "POST http://{elsewhere}/lookup HTTP/1.1\r\nContent-Length: 17\r\n\r\n{vin}",
    "CONNECT {elsewhere} HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "GET /lookup/{vin} HTTP/1.1\r\nHost: {elsewhere}",
]


@pytest.mark.parametrize("line", REQUEST_LINES)
def test_no_request_line_names_another_host(
    served: Served, vpic_of_server: VpicServer, elsewhere: VpicServer, line: str
) -> None:
    vpic_of_server.reset()
    here, there = urlsplit(served.url).netloc, f"127.0.0.1:{elsewhere.port}"
    head, _, body = line.format(elsewhere=there, here=here, vin=VIN).partition("\r\n\r\n")
    sent = f"{head}\r\nHost: {here}\r\nConnection: close\r\n\r\n{body}"
    with socket.create_connection(("127.0.0.1", urlsplit(served.url).port or 0), timeout=30) as connection:
        connection.sendall(sent.encode("ascii"))
        status = connection.makefile("rb").readline().decode().split(" ")[1]
    assert int(status) < 500
    assert {urlsplit(vpic_of_server.url).netloc}.issuperset(call.headers["host"] for call in vpic_of_server.calls)
