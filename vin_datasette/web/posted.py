"""`POST /lookup`: many VINs in, one JSON line each out."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from vin_datasette.lookup import Answer, Failure
from vin_datasette.many import as_answered
from vin_datasette.vehicle import Rejection, Vehicle
from vin_datasette.web.asking import is_kept_rejection
from vin_datasette.web.observed import list_observed, observed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from datasette import Request

    from vin_datasette.lookup import Outcome
    from vin_datasette.web.state import State

JSON_LINES = "application/x-ndjson"
"""The usual name of JSON lines; none is registered with IANA."""

MOST_VINS = 10_000
"""VINs in one request."""

MOST_BYTES = 1024 * 1024
"""Bytes of a request, a hundred for each VIN; Datasette 1.0 itself takes 2 MB."""


class BadBody(ValueError):
    """A body that is no list of VINs; `status` is that of the answer, the message says why.
    `unread` is true of one that was given up before its end."""

    def __init__(self, reason: str, status: int = 400, *, unread: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.unread = unread


EXTRAS = ("source", "suggested_vin")
"""What a line can have beside its fields, by the names of the columns of the cache."""


def extras_of(values: Iterable[str]) -> list[str]:
    """The extras that `_extra=` asks for, once or more and separated by commas, in the
    manner of Datasette's JSON. Raises `BadBody` for one that does not exist."""
    extras = [name.strip() for value in values for name in value.split(",") if name.strip()]
    unknown = [name for name in extras if name not in EXTRAS]
    if unknown:
        raise BadBody(f"{unknown[0][:64]!r} is no extra; there are {' and '.join(EXTRAS)}.")
    return extras


async def vins_of(request: Request, *, most: int = MOST_VINS, limit: float) -> list[str]:
    """The VINs of a request, `most` of them at most, as they were written; its body has `limit` seconds to come.

    JSON (`["…"]` or `{"vins": ["…"]}`), a form (`vins=`, with one VIN a line, or `vin=`, as
    often as need be), or text with one VIN a line. Raises `BadBody`.
    """
    try:
        body = await asyncio.wait_for(_body(request), limit)
    except asyncio.TimeoutError:
        raise BadBody(f"The request was not whole after {limit:g} seconds.", 408, unread=True) from None
    kind = (request.headers.get("content-type") or "text/plain").partition(";")[0].strip().lower()
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise BadBody("The request is no text in UTF-8.") from None
    if kind == "application/json":
        vins = _from_json(text)
    elif kind == "application/x-www-form-urlencoded":
        vins = _from_form(text, most)
    elif kind in ("text/plain", "text/csv"):
        vins = _lines(text)
    else:
        raise BadBody(f"VINs are taken as JSON, as a form or as plain text, not as {kind[:100]}.", 415)
    if not vins:
        raise BadBody("No VIN was given.")
    if len(vins) > most:
        words = f"{len(vins):,} VINs are too many for one request: the most are {most:,}."
        raise BadBody(f"{words} vin-datasette fetch takes any number.", 413)
    return vins


async def _body(request: Request) -> bytes:
    """The request's body; it is given up as soon as it is too long."""
    body, more = bytearray(), True
    while more:
        message = await request.receive()
        if message["type"] != "http.request":
            raise BadBody("The request ended before it was whole.")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            raise BadBody(f"A request has {MOST_BYTES:,} bytes at most.", 413, unread=more)
    return bytes(body)


def _from_json(text: str) -> list[str]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadBody(f"The request is no JSON: {error}.") from None
    vins = said.get("vins") if isinstance(said, dict) else said
    if not isinstance(vins, list) or not all(isinstance(vin, str) for vin in vins):
        raise BadBody('JSON has to be a list of VINs, or {"vins": […]}.')
    return vins


def _from_form(text: str, most: int) -> list[str]:
    try:
        fields = parse_qs(text, max_num_fields=most + 10)
    except ValueError:
        raise BadBody(f"A form has {most:,} VINs at most.", 413) from None
    if not fields.keys() & {"vins", "vin"}:
        # What curl sends of a file says that it is a form, unless it is told better.
        raise BadBody("The form has no VIN in a field vin or vins; lines are sent as text/plain.")
    return [vin for name in ("vins", "vin") for value in fields.get(name, ()) for vin in _lines(value)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


async def answer_lines(
    own: State, vins: Sequence[str], *, ask: bool, rejections: bool, extras: Sequence[str] = ()
) -> AsyncGenerator[bytes, None]:
    """A JSON line for each VIN, as it is answered: the six fields of the contract, or the
    VIN with `ok`, `error`, `status` and `title` where there is no vehicle; and `extras`.

    Without `ask` nobody is asked, and without `rejections` those that are kept are as if they were not.
    """
    answered = as_answered(own.lookup, vins, ask=ask)
    hows: Counter[str] = Counter()
    began = time.perf_counter()
    try:
        async for text, known in answered:
            outcome = known if rejections or not is_kept_rejection(known) else None
            if outcome:
                hows[observed(own, outcome)] += 1
            line = json.dumps({**_line(text, outcome), **_extra(outcome, extras)}, ensure_ascii=False)
            # Half a surrogate pair, which JSON can give and UTF-8 cannot hold, leaves as the escape it came as.
            yield line.encode("utf-8", "backslashreplace") + b"\n"
    finally:
        await answered.aclose()
        list_observed(hows, began)


def _extra(outcome: Outcome | None, extras: Sequence[str]) -> dict[str, str | None]:
    result = outcome.result if isinstance(outcome, Answer) else None
    values = {
        "source": result.record.source if result and result.record else None,
        "suggested_vin": result.suggested_vin if isinstance(result, Rejection) else None,
    }
    return {name: values[name] for name in extras}


def _line(text: str, outcome: Outcome | None) -> dict[str, Any]:
    if isinstance(outcome, Answer):
        result = outcome.result
        if isinstance(result, Vehicle):
            return result.six_fields(cached=outcome.cached)
        reason, status = result.reason, 404
    elif isinstance(outcome, Failure):
        reason, status = f"No source could be asked: {outcome.reason}", 503
    else:
        reason, status = "This VIN is not cached, and you may not look up others: vin-lookup is needed.", 403
    return {"Input VIN Requested": text, "ok": False, "error": reason, "status": status, "title": None}
