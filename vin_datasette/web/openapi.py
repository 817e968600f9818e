"""The doors described for programs, by OpenAPI 3.1."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from vin_datasette import __version__
from vin_datasette.web import guard
from vin_datasette.web.routes import error, json_answer
from vin_datasette.web.shapes import HEADERS, SCHEMAS
from vin_datasette.web.state import settings_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from datasette import Request, Response
    from datasette.app import Datasette

    from vin_datasette.web.doors import Answer, Door, Parameter


async def openapi(request: Request, datasette: Datasette) -> Response:
    """`GET /-/vin/openapi.json`: what stands here, as an OpenAPI 3.1 document.

    It tells nothing of the vehicles, so it is for whoever may see the instance; 403 for who may not.
    """
    # The doors have this one among them.
    from vin_datasette.web.doors import DOORS

    if not await guard.may_see_instance(datasette, request.actor):
        return error(datasette, "You may not see this instance: view-instance is needed.", 403)
    short = settings_of(datasette).short_routes
    condition = request.headers.get("if-none-match")
    described = document(DOORS, short=short, base=datasette.urls.instance())
    return json_answer(datasette, request.method, condition, described, {})


def document(doors: Sequence[Door], *, short: bool, base: str) -> dict[str, Any]:
    """The description of `doors` on a server whose paths start with `base`; `short` tells whether the
    short aliases answer."""
    paths: dict[str, dict[str, Any]] = {}
    for door in doors:
        for path in door.paths(short=short):
            alias = path != door.path
            paths.setdefault(path, {}).update({each.lower(): _operation(door, each, alias) for each in door.methods})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "vin-datasette",
            "version": __version__,
            "summary": "A VIN becomes a vehicle.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base.rstrip("/") or "/"}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "headers": {name: {"description": words, "schema": schema} for name, (words, schema) in HEADERS.items()},
        },
    }


def _operation(door: Door, method: str, alias: bool) -> dict[str, Any]:
    said = inspect.getdoc(door.view) or ""
    operation = {
        "operationId": f"{method.lower()}_{door.view.__name__}{'_short' if alias else ''}",
        "description": " ".join(said.partition("\n\n")[0].split()),
        "parameters": [_parameter(each) for each in door.parameters],
        "responses": {str(answer.status): _response(answer, method) for answer in door.answers},
    }
    if door.bodies:
        content = {media: {"schema": schema} for media, schema in door.bodies.items()}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.words,
        "required": parameter.place == "path",
        "schema": parameter.schema,
    }
    return {**described, "style": "form", "explode": parameter.explode} if parameter.place == "query" else described


def _response(answer: Answer, method: str) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.words}
    if answer.headers:
        described["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in answer.headers}
    # An answer to HEAD has no body (RFC 9110, section 9.3.2).
    if answer.content and method != "HEAD":
        described["content"] = {media: {"schema": schema} for media, schema in answer.content.items()}
    return described
