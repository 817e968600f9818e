"""What strangers can send to a server: it is answered as `/-/vin/openapi.json` says, and tells nothing
of the machine."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import example, given, settings, strategies as st
from jsonschema import Draft202012Validator

from tests.conftest import SCRIPT, clean_environment, serving
from tests.fuzz import DERANDOMIZE, EXAMPLES
from tests.fuzz.strangers import EVIL, KNOWN, VINS, check_tells_nothing
from vin_datasette.web.doors import DOORS
from vin_datasette.web.openapi import document

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Served

ROOT = Path(__file__).parents[2]

DESCRIPTION = document(DOORS, short=False, base="/")
"""The short aliases have the same views."""

each = settings(max_examples=EXAMPLES, derandomize=DERANDOMIZE, deadline=None)
"""As many examples as are asked for."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that everybody may do everything with; it must end without having said that anything broke."""
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, VIN_DATASETTE_SOURCE="embedded", VIN_DATASETTE_EXPORT_TIMEOUT="10") as served:
        httpx.post(f"{served.url}/-/vin/lookup", json=KNOWN).raise_for_status()
        yield served
        assert served.process.poll() is None
        assert "Traceback" not in served.said()


CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "tells_nothing",
)


def test_requests_are_answered_as_described(server: Served, tmp_path: Path) -> None:
    options = [
        f"--max-examples={max(1, EXAMPLES // 10)}",
        f"--checks={','.join(CHECKS)}",
        "--phases=examples,coverage,fuzzing",
        # The short aliases, and HEAD, have the same views.
        "--include-path-regex=^/-/vin",
        "--exclude-method=HEAD",
        "--continue-on-failure",
        "--request-timeout=10",
        "--warnings=off",
        "--no-color",
        "--generation-deterministic" if DERANDOMIZE else "--generation-database=none",
    ]
    told = subprocess.run(
        [SCRIPT.with_name("schemathesis"), "run", f"{server.url}/-/vin/openapi.json", *options],
        cwd=tmp_path,
        env=clean_environment(PYTHONPATH=str(ROOT), SCHEMATHESIS_HOOKS="tests.fuzz.hooks"),
        capture_output=True,
        text=True,
        timeout=300 + EXAMPLES,
        check=False,
    )
    assert told.returncode == 0, told.stdout + told.stderr


class Raw(NamedTuple):
    """An answer, as it came from the socket."""

    status: int
    headers: dict[str, str]
    head: str
    body: bytes


def send(server: Served, method: str, target: bytes, *headers: bytes, body: bytes = b"") -> Raw:
    """Send a request byte for byte: HTTP clients mend what is broken, or refuse to send it."""
    address = urlsplit(server.url)
    length = [b"Content-Length: %d" % len(body)] if body else []
    lines = [b"%s %s HTTP/1.1" % (method.encode(), target), b"Connection: close", *length, *headers]
    with socket.create_connection((address.hostname, address.port or 80), timeout=10) as connection:
        connection.sendall(b"\r\n".join([*lines, b"", body]))
        said = b"".join(iter(lambda: connection.recv(65536), b""))
    start, _, body = said.partition(b"\r\n\r\n")
    first, *rest = start.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", first)
    assert found, f"This is no answer: {said[:200]!r}"
    pairs = [line.partition(":")[::2] for line in rest]
    return Raw(int(found[1]), {name.lower(): value.strip() for name, value in pairs}, "\n".join(rest), body)


def check_answer(answer: Raw) -> None:
    """Hold any answer against what must be so of each: an end that was chosen, and nothing of the request in its
    head but where to go on."""
    assert answer.status < 500, answer.body
    assert answer.headers.keys() <= HEADERS
    if "content-length" in answer.headers and answer.status != 304:
        assert len(answer.body) in (int(answer.headers["content-length"]), 0)
    check_tells_nothing(answer.head, answer.body)


HEADERS = {
    "age",
    "allow",
    "cache-control",
    "cache-status",
    "connection",
    "content-disposition",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "link",
    "location",
    "referrer-policy",
    "retry-after",
    "server",
    "set-cookie",
    "transfer-encoding",
    "vary",
    "vin-source",
    "www-authenticate",
    "x-accel-buffering",
    "x-content-type-options",
}
"""The headers that an answer may have; one from a request would be another."""

DOORS_AND_BEYOND = [
    *sorted({path.partition("{")[0] for path in DESCRIPTION["paths"]}),
    "/lookup/",
    "/remove/",
    "/-/static-plugins/vin-datasette/",
    "/-/vin/lookup?vin=",
    "/-/vin/lookup?_extra=",
    "/-/vin/export?",
    "/-/vin/export?_col=",
    "/-/vin/export?make__in=",
]
"""Where made-up bytes are put: behind each door."""

PAGES = [
    "/vin/vehicles/",
    "/vin/vehicles.parquet?make=",
    "/vin/vehicles.charts?make=",
    "/vin/vehicles?_list=",
    "/vin/vehicles.charts?_list=",
]
"""And behind pages of Datasette's own that show what is ours."""

NONSENSE = ["%", "%0", "%zz", "%u0000", "%00", "%0d%0aX-Injected:%20yes", "%0d%0a%0d%0a<script>", "%c0%ae%c0%ae/",
            "%ff%fe", "%ed%a0%80", "%F0%9F%9A%97", "..%2f", "../", "..;/", "//", "/.", "~2F", "~", "+", "&", "=", ";",
            "?", "#", "[", "{vin}", "%25%30%30", *KNOWN[:5]]  # fmt: skip
PIECES = st.one_of(
    st.sampled_from(NONSENSE),
    st.sampled_from(EVIL).map(lambda text: quote(text, safe="/")),
    st.binary(max_size=8).map(lambda raw: "".join(f"%{byte:02x}" for byte in raw)),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20),
)


def targets(places: list[str]) -> st.SearchStrategy[bytes]:
    """Addresses behind these."""
    return st.builds(
        lambda place, pieces: f"{place}{''.join(pieces)}".encode("latin-1"),
        st.sampled_from(places),
        st.lists(PIECES, max_size=6),
    )


VALUES = st.one_of(
    st.sampled_from(
        [
            b"text/html",
            b"*",
            b'W/"',
            b"null",
            b"http://[",
            b"cross-site",
            b"http://localhost:99999999",
            b"[::1",
            b"Bearer dstok_x",
            b"application/json; charset=\xff",
            b"application/openmetrics-text",
        ]
    ),
    st.binary(max_size=40).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F)),
)
HEADERS_SENT = st.fixed_dictionaries(
    {"Host": st.just(b"localhost") | VALUES},
    optional={
        **dict.fromkeys(
            ["Accept", "Authorization", "If-None-Match", "Origin", "Content-Type", "Sec-Fetch-Site"], VALUES
        ),
        # Datasette 0.65 itself breaks at cookies that are no UTF-8.
        "Cookie": VALUES.map(lambda raw: raw.decode("ascii", "ignore").encode()),
    },
)


def check_request(server: Served, method: str, target: bytes, headers: dict[str, bytes]) -> None:
    """Send it, and hold the answer against what must be so of each."""
    check_answer(send(server, method, target, *(f"{name}: ".encode() + value for name, value in headers.items())))


@each
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT"]),
    target=targets(DOORS_AND_BEYOND),
    headers=HEADERS_SENT,
)
@example(method="GET", target=b"/-/vin/lookup/" + b"A" * 60_000, headers={"Host": b"localhost"})
@example(method="POST", target=b"/-/vin/remove/%0d%0aA:%20b", headers={"Host": b"localhost", "Accept": b"text/html"})
@example(method="POST", target=b"/-/vin/refresh/%0d%0aA:%20b", headers={"Host": b"localhost", "Accept": b"text/html"})
def test_any_path_and_any_header_is_answered_in_order(
    server: Served, method: str, target: bytes, headers: dict[str, bytes]
) -> None:
    check_request(server, method, target, headers)


# Datasette's own pages break at a Host that is none, at a NUL in the name of a column, and those of 0.65 at other
# methods.
@each
@given(
    method=st.sampled_from(["GET", "HEAD"]),
    target=targets(PAGES).map(lambda target: target.replace(b"%00", b"%01")),
    headers=HEADERS_SENT.map(lambda headers: {**headers, "Host": b"localhost"}),
)
@example(method="GET", target=b"/vin/vehicles.charts", headers={"Host": b"localhost", "Origin": b"\xfc"})
@example(method="GET", target=b"/vin/vehicles.parquet", headers={"Host": b"localhost", "Authorization": b"\xfc"})
@example(method="GET", target=b"/vin/vehicles.charts?make=" + b"<" * 30_000, headers={"Host": b"localhost"})
@example(method="GET", target=b"/vin/vehicles.parquet?make=" + b"<" * 30_000, headers={"Host": b"localhost"})
def test_any_page_of_vehicles_is_answered_in_order(
    server: Served, method: str, target: bytes, headers: dict[str, bytes]
) -> None:
    check_request(server, method, target, headers)


BODIES = st.one_of(
    st.binary(max_size=200),
    st.text().map(lambda text: text.encode("utf-8", "replace")),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), VINS),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["vins", "vin", ""]), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
    st.builds(
        lambda name, values: "&".join(f"{name}={value}" for value in values).encode("utf-8", "replace"),
        st.sampled_from(["vin", "vins", "%76in"]),
        st.lists(st.one_of(st.sampled_from(NONSENSE), VINS.map(quote))),
    ),
)
KINDS = st.one_of(
    st.sampled_from(
        [
            b"application/json",
            b"application/x-www-form-urlencoded",
            b"text/plain",
            b"text/csv",
            b"TEXT/CSV ;x=y",
            b"multipart/form-data",
            b"multipart/form-data; boundary=x",
            b"application/json; charset=utf-16",
            b"",
        ]
    ),
    VALUES,
)


@each
@given(door=st.sampled_from(["lookup", "lists", "remove/x", "refresh/x"]), kind=KINDS, body=BODIES)
@example(door="lookup", kind=b"application/json", body=b"[" * 200_000)
@example(door="lists", kind=b"application/json", body=b'{"vins":' * 20_000)
@example(door="lookup", kind=b"application/json", body=b'["' + b"A" * 1_000_000 + b'"]')
@example(door="lookup", kind=b"application/json", body=b"1" * 10_000)
@example(door="lookup", kind=b"application/json", body=b'["\\ud800"]')
@example(door="lookup", kind=b"text/plain", body=b"\xef\xbb\xbf")
@example(door="lists", kind=b"application/x-www-form-urlencoded", body=b"&" * 100_000)
@example(door="lists", kind=b"text/plain", body=b"A" * (1024 * 1024 + 1))
def test_any_body_is_answered_in_order(server: Served, door: str, kind: bytes, body: bytes) -> None:
    answer = send(server, "POST", f"/-/vin/{door}".encode(), b"Host: localhost", b"Content-Type: " + kind, body=body)
    check_answer(answer)
    said = DESCRIPTION["paths"][f"/-/vin/{door.replace('/x', '/{vin}')}"]["post"]["responses"]
    # A server refuses a header that is none before anybody else sees the request.
    assert str(answer.status) in said or answer.body == b"Invalid HTTP request received."


LINE = Draft202012Validator({"$ref": "#/components/schemas/Line", "components": DESCRIPTION["components"]})


@each
@given(vins=st.lists(VINS, min_size=1, max_size=20), extra=st.sampled_from(["", "?_extra=source,suggested_vin"]))
def test_any_list_is_answered_with_a_line_for_each(server: Served, vins: list[str], extra: str) -> None:
    body = json.dumps(vins).encode()
    response = httpx.post(
        f"{server.url}/-/vin/lookup{extra}", content=body, headers={"content-type": "application/json"}
    )
    assert response.status_code == 200
    lines = [json.loads(line) for line in response.content.split(b"\n")[:-1]]
    for line in lines:
        LINE.validate(line)
    assert len(lines) == len(vins)
