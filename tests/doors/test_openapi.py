"""The description at `/-/vin/openapi.json`: that it is true, and whole."""

from __future__ import annotations

import inspect
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest
from datasette.plugins import pm
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.vpic_server import closed_port
from vin_datasette import __version__
from vin_datasette.web.doors import DOORS
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from datasette.app import Datasette

    from tests.conftest import MakeInstance

PETERBILT, FAILING_CHECK_DIGIT = "1XP5DB9X7XD487964", "1XP5DB9X7XD487945"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PURGE")
AS_BROWSER = {"accept": "text/html,application/xhtml+xml"}
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def datasette(make_instance: MakeInstance) -> Datasette:
    """An instance in which everybody may do everything, answered by the embedded database."""
    return await make_instance({"allow_remove": True})


async def described(datasette: Datasette) -> dict[str, Any]:
    """The description that an instance gives of itself."""
    response = await datasette.client.get("/-/vin/openapi.json")
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """What is described, by path and method."""
    return {
        (path, method.upper()): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def at(path: str) -> str:
    """A path whose VIN is that of a vehicle."""
    return path.replace("{vin}", PETERBILT)


# It is whole


async def test_it_is_valid_openapi(datasette: Datasette) -> None:
    document = await described(datasette)
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


def own_patterns(datasette: Datasette) -> set[str]:
    """The patterns of all routes that Datasette gets from this package."""
    return {
        pattern
        for routes in pm.hook.register_routes(datasette=datasette)
        for pattern, view in routes
        if (inspect.getmodule(view) or inspect).__name__.startswith("vin_datasette.")
    }


@pytest.mark.parametrize("short", [True, False], ids=["with short routes", "without short routes"])
async def test_every_route_that_is_registered_is_described(make_instance: MakeInstance, *, short: bool) -> None:
    datasette = await make_instance({"short_routes": short})
    paths = [at(path) for path in (await described(datasette))["paths"]]
    matched = {pattern: [path for path in paths if re.match(pattern, path)] for pattern in own_patterns(datasette)}
    assert sorted(path for found in matched.values() for path in found) == sorted(paths)
    assert {pattern for pattern, found in matched.items() if len(found) != 1} == set()


async def test_every_door_is_described_with_its_methods(datasette: Datasette) -> None:
    assert operations(await described(datasette)).keys() == {
        (path, method) for door in DOORS for path in door.paths(short=True) for method in door.methods
    }


def test_a_door_that_is_read_answers_head_as_well() -> None:
    assert [door.path for door in DOORS if ("GET" in door.methods) != ("HEAD" in door.methods)] == []


async def test_descriptions_are_the_docstrings_of_the_views(datasette: Datasette) -> None:
    document = await described(datasette)
    for door in DOORS:
        words = " ".join((door.view.__doc__ or "").split())
        for method in door.methods:
            said = document["paths"][door.path][method.lower()]["description"]
            assert said
            assert words.startswith(said)


async def test_each_operation_has_an_id_of_its_own(datasette: Datasette) -> None:
    identifiers = [operation["operationId"] for operation in operations(await described(datasette)).values()]
    assert len({*identifiers}) == len(identifiers)


async def test_who_is_refused_without_a_permission_is_described(datasette: Datasette) -> None:
    needing = {(door.path, method) for door in DOORS if door.permission for method in door.methods}
    refusing = {key for key, said in operations(await described(datasette)).items() if "403" in said["responses"]}
    assert refusing >= needing


# It is true


async def test_every_operation_is_answered_as_described(datasette: Datasette) -> None:
    document = await described(datasette)
    undescribed = {}
    for (path, method), operation in operations(document).items():
        response = await datasette.client.request(method, at(path))
        if str(response.status_code) not in operation["responses"]:
            undescribed[path, method] = response.status_code
    assert undescribed == {}


async def test_every_other_method_is_refused_and_told_which_are_allowed(datasette: Datasette) -> None:
    expected, answered = {}, {}
    for path, described_here in (await described(datasette))["paths"].items():
        allowed = {method.upper() for method in described_here}
        for method in set(METHODS) - allowed:
            response = await datasette.client.request(method, at(path))
            expected[path, method] = (405, allowed)
            answered[path, method] = (response.status_code, {*response.headers.get("allow", "").split(", ")})
    assert answered == expected


class Asked(NamedTuple):
    """A request, and the status of its answer."""

    status: int
    method: str
    path: str
    options: dict[str, Any] = {}  # noqa: RUF012 - none is changed


LOOKUP, REMOVE, REFRESH = (f"/-/vin/{name}/{{vin}}" for name in ("lookup", "remove", "refresh"))
ANSWERS = {
    "a vehicle": Asked(200, "GET", LOOKUP),
    "a vehicle that is at hand": Asked(304, "GET", LOOKUP, {"headers": {"if-none-match": "*"}}),
    "no vehicle": Asked(404, "GET", LOOKUP.replace("{vin}", FAILING_CHECK_DIGIT)),
    "no VIN": Asked(404, "GET", LOOKUP.replace("{vin}", "x" * 100)),
    "the page": Asked(200, "GET", "/-/vin/lookup"),
    "the way to a vehicle": Asked(302, "GET", "/-/vin/lookup", {"params": {"vin": PETERBILT}}),
    "the page about no vehicle": Asked(404, "GET", "/-/vin/lookup", {"params": {"vin": FAILING_CHECK_DIGIT}}),
    "a list": Asked(200, "POST", "/-/vin/lookup", {"json": [PETERBILT, FAILING_CHECK_DIGIT]}),
    "an empty list": Asked(400, "POST", "/-/vin/lookup", {"json": []}),
    "a list that is too long": Asked(413, "POST", "/-/vin/lookup", {"content": "X\n" * MEBIBYTE}),
    "a list in XML": Asked(415, "POST", "/-/vin/lookup", {"content": "X", "headers": {"content-type": "text/xml"}}),
    "a list from another site": Asked(
        403, "POST", "/-/vin/lookup", {"json": [PETERBILT], "headers": {"sec-fetch-site": "cross-site"}}
    ),
    "removal": Asked(200, "POST", REMOVE),
    "removal by DELETE": Asked(200, "DELETE", REMOVE),
    "removal by a form": Asked(303, "POST", REMOVE, {"headers": AS_BROWSER}),
    "removal from another site": Asked(403, "POST", REMOVE, {"headers": {"sec-fetch-site": "cross-site"}}),
    "removal by another site's form": Asked(
        403, "POST", REMOVE, {"headers": {**AS_BROWSER, "origin": "https://example.com"}}
    ),
    "an export": Asked(200, "GET", "/-/vin/export"),
    "an export of a column that does not exist": Asked(400, "GET", "/-/vin/export", {"params": {"_col": "colour"}}),
    "a refresh": Asked(200, "POST", REFRESH),
    # A condition holds for requests that choose an answer, and not for what is done (RFC 9110, section 13.2.1).
    "a refresh of what is at hand": Asked(200, "POST", REFRESH, {"headers": {"if-none-match": "*"}}),
    "a refresh by a form": Asked(303, "POST", REFRESH, {"headers": AS_BROWSER}),
    "a refresh of no vehicle": Asked(404, "POST", REFRESH.replace("{vin}", FAILING_CHECK_DIGIT)),
    "the state": Asked(200, "GET", "/-/vin.json"),
    "a list that is kept": Asked(200, "POST", "/-/vin/lists", {"data": {"vins": f"{PETERBILT}\n{PETERBILT}"}}),
    "no list to keep": Asked(400, "POST", "/-/vin/lists", {"content": b"\xff"}),
    "metrics": Asked(200, "GET", "/-/vin/metrics"),
    "metrics in OpenMetrics": Asked(
        200, "GET", "/-/vin/metrics", {"headers": {"accept": "application/openmetrics-text; version=1.0.0"}}
    ),
    "liveness": Asked(200, "GET", "/-/vin/live"),
    "readiness": Asked(200, "GET", "/-/vin/ready"),
    "the description": Asked(200, "GET", "/-/vin/openapi.json"),
}


@pytest.mark.parametrize("asked", ANSWERS.values(), ids=ANSWERS)
async def test_answers_are_of_the_described_status_type_and_shape(datasette: Datasette, asked: Asked) -> None:
    response = await datasette.client.request(asked.method, at(asked.path), **asked.options)
    assert response.status_code == asked.status
    check(await described(datasette), asked, response)


NOBODY = {"source": "vpic", "timeout": 0.2}
REFUSALS = {
    "a lookup with no source": (NOBODY, Asked(503, "GET", LOOKUP)),
    "a page with no source": (
        NOBODY,
        Asked(503, "GET", "/-/vin/lookup", {"params": {"vin": PETERBILT}}),
    ),
    "a refresh with no source": (NOBODY, Asked(503, "POST", REFRESH)),
    "a lookup that is not allowed": ({"allow_lookup": False}, Asked(403, "GET", LOOKUP)),
    "a page about what is not allowed": (
        {"allow_lookup": False},
        Asked(403, "GET", "/-/vin/lookup", {"params": {"vin": PETERBILT}}),
    ),
    "a refresh that is not allowed": ({"allow_lookup": False}, Asked(403, "POST", REFRESH)),
    "an export that is not allowed": ({"allow_export": False}, Asked(403, "GET", "/-/vin/export")),
    "a removal that is not allowed": ({"allow_remove": False}, Asked(403, "POST", REMOVE)),
    "a removal by a form that is not allowed": (
        {"allow_remove": False},
        Asked(403, "POST", REMOVE, {"headers": AS_BROWSER}),
    ),
}


@pytest.mark.parametrize(("settings", "asked"), REFUSALS.values(), ids=REFUSALS)
async def test_refusals_are_of_the_described_status_type_and_shape(
    make_instance: MakeInstance, settings: dict[str, object], asked: Asked
) -> None:
    with closed_port() as url:
        datasette = await make_instance({"vpic_url": url, **settings})
        response = await datasette.client.request(asked.method, at(asked.path), **asked.options)
    assert response.status_code == asked.status
    check(await described(datasette), asked, response)


@pytest.mark.parametrize(
    "asked",
    [Asked(429, "GET", "/-/vin/export"), Asked(429, "POST", "/-/vin/lookup", {"json": [PETERBILT]})],
    ids=["exports", "lists"],
)
async def test_too_many_at_once_are_refused_as_described(datasette: Datasette, asked: Asked) -> None:
    own = state_of(datasette)
    while own.exports.take() or own.lists.take():
        pass
    response = await datasette.client.request(asked.method, asked.path, **asked.options)
    assert response.status_code == asked.status
    check(await described(datasette), asked, response)


def check(document: dict[str, Any], asked: Asked, response: httpx.Response) -> None:
    """Hold an answer against its description: its media type, its body and its headers."""
    path = re.sub(r"/(lookup|remove|refresh)/.+", r"/\1/{vin}", asked.path)
    said = document["paths"][path][asked.method.lower()]["responses"][str(asked.status)]
    components = {"components": document["components"]}
    content = said.get("content", {})
    if content:
        media_type = response.headers["content-type"].partition(";")[0]
        assert media_type in content
        if media_type == "application/json":
            Draft202012Validator({**components, **content[media_type]["schema"]}).validate(response.json())
    else:
        assert response.content == b""
    for name in said.get("headers", {}):
        if name.lower() in response.headers:
            schema = document["components"]["headers"][name]["schema"]
            text = response.headers[name]
            Draft202012Validator(schema).validate(int(text) if schema.get("type") == "integer" else text)


async def test_lines_are_of_the_described_shape(datasette: Datasette) -> None:
    document = await described(datasette)
    response = await datasette.client.post(
        "/-/vin/lookup?_extra=source,suggested_vin", json=[PETERBILT, FAILING_CHECK_DIGIT, "", "x"]
    )
    schema = {"$ref": "#/components/schemas/Line", "components": document["components"]}
    lines = response.text.splitlines()
    assert len(lines) == 4
    for line in lines:
        Draft202012Validator(schema).validate(json.loads(line))


async def test_the_contract_is_six_fields_all_needed_and_no_other(datasette: Datasette) -> None:
    schema = (await described(datasette))["components"]["schemas"]["Vehicle"]
    fields = ["Input VIN Requested", "Make", "Model", "Model Year", "Body Class", "Cached Result?"]
    assert [*schema["properties"]] == schema["required"] == fields
    assert schema["additionalProperties"] is False


# Where it stands, and for whom


async def test_it_names_the_version_of_the_package(datasette: Datasette) -> None:
    assert (await described(datasette))["info"]["version"] == __version__


async def test_its_paths_stand_under_the_base_url(make_instance: MakeInstance) -> None:
    datasette = await make_instance(settings={"base_url": "/fleet/"})
    document = await described(datasette)
    assert document["servers"] == [{"url": "/fleet"}]
    # Datasette's own client would put the base URL before each path by itself.
    transport = httpx.ASGITransport(app=datasette.app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get(f"/fleet{at(LOOKUP)}")).json()["Make"] == "PETERBILT"


async def test_without_a_base_url_its_paths_stand_at_the_root(datasette: Datasette) -> None:
    assert (await described(datasette))["servers"] == [{"url": "/"}]


async def test_short_routes_are_described_where_they_answer(datasette: Datasette) -> None:
    paths = (await described(datasette))["paths"]
    assert {path for path in paths if not path.startswith("/-/vin")} == {
        "/lookup",
        "/lookup/{vin}",
        "/remove/{vin}",
        "/export",
    }


async def test_short_routes_that_are_turned_off_are_neither_described_nor_there(make_instance: MakeInstance) -> None:
    datasette = await make_instance({"short_routes": False})
    assert [path for path in (await described(datasette))["paths"] if not path.startswith("/-/vin")] == []
    assert (await datasette.client.get("/export")).headers["content-type"] != "application/vnd.apache.parquet"


async def test_who_may_see_the_instance_but_no_vehicle_may_read_it(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"databases": {"vin": {"allow": {"id": "staff"}}}})
    assert (await datasette.client.get("/-/vin.json")).status_code == 403
    assert "/-/vin.json" in (await described(datasette))["paths"]


async def test_who_may_not_see_the_instance_may_not_read_it(make_instance: MakeInstance) -> None:
    datasette = await make_instance(config={"allow": {"id": "staff"}})
    response = await datasette.client.get("/-/vin/openapi.json")
    assert response.status_code == 403
    assert response.json()["error"] == "You may not see this instance: view-instance is needed."


async def test_who_has_it_already_is_told_so(datasette: Datasette) -> None:
    first = await datasette.client.get("/-/vin/openapi.json")
    again = await datasette.client.get("/-/vin/openapi.json", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
