"""The routes: `/lookup`, `/remove`, `/export` and the plugin's state."""

from __future__ import annotations

import functools
import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from math import ceil
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from datasette import Forbidden, Response
from datasette.utils import add_cors_headers

from vin_datasette import __version__
from vin_datasette.cache import CacheError
from vin_datasette.late import imported
from vin_datasette.record import seconds_since
from vin_datasette.schema import REJECTIONS, VEHICLES
from vin_datasette.sources import SourceError
from vin_datasette.vehicle import Rejection
from vin_datasette.web import guard
from vin_datasette.web.asking import RETRY_AFTER, Refused, answer_for, check_leaving, check_queue, hit_for
from vin_datasette.web.encoded import Encoded
from vin_datasette.web.forms import is_form, led_to
from vin_datasette.web.posted import JSON_LINES, BadBody, answer_lines, extras_of, vins_of
from vin_datasette.web.state import state_of
from vin_datasette.web.streams import PARQUET, PRIVATE, Streamed, download_headers, in_thread
from vin_datasette.web.tagged import tagged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasette import Request
    from datasette.app import Datasette

    from vin_datasette.lookup import Answer
    from vin_datasette.web.hits import Hit
    from vin_datasette.web.tagged import Tagged

log = logging.getLogger(__name__)

View = Callable[["Request", "Datasette"], Awaitable[Response]]


def answering(view: View) -> View:
    """A view that says in words why it refuses, and answers 503 where the cache cannot be used at all."""

    @functools.wraps(view)
    async def answered(request: Request, datasette: Datasette) -> Response:
        try:
            return await view(request, datasette)
        except Refused as refusal:
            return error(datasette, str(refusal), refusal.status, refusal.headers)
        except CacheError as failure:
            return error(datasette, str(failure), 503, {"Retry-After": str(RETRY_AFTER)})

    return answered


@answering
async def lookup(request: Request, datasette: Datasette) -> Response:
    """`GET /lookup/<vin>`: the six fields of the contract, as JSON.

    404 for every VIN that cannot be looked up, 403 for who may not, 429 with `Retry-After`
    while as many as are allowed wait for a source, 503 with it when none could be asked. How
    the answer came about is told by `Cache-Status` (RFC 9211), `Age` (RFC 9111), `ETag` and `Vin-Source`.
    """
    text = vin_of(request)
    hit = await hit_for(datasette, request, text)
    if hit:
        return shown(datasette, request.method, condition_of(request.scope), hit)
    try:
        answer = await answer_for(datasette, request, text)
    except SourceError as failure:
        headers = {"Retry-After": str(ceil(failure.retry_after or RETRY_AFTER)), "Cache-Status": _MISSED}
        return error(datasette, f"No source could be asked: {failure.reason}", 503, headers)
    if isinstance(answer.result, Rejection):
        return error(datasette, answer.result.reason, 404, provenance(answer))
    return found(datasette, request.method, condition_of(request.scope), answer)


def condition_of(scope: Mapping[str, Any]) -> str | None:
    """The `If-None-Match` of a request, of which Datasette would make a dictionary of all headers."""
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"if-none-match"), None)


def found(datasette: Datasette, method: str, condition: str | None, answer: Answer) -> Response:
    """A vehicle that was found, for a request of `method` with `condition` as its `If-None-Match`."""
    return json_answer(
        datasette, method, condition, answer.vehicle.six_fields(cached=answer.cached), provenance(answer)
    )


def shown(datasette: Datasette, method: str, condition: str | None, hit: Hit) -> Response:
    """A hit, for a request of `method` with `condition` as its `If-None-Match`."""
    kept = _kept(hit.source, hit.fetched_at)
    if condition:
        return _validated(datasette, method, condition, hit.body, kept)
    own = [(b"Age", kept["Age"].encode()), (b"ETag", hit.body.etag.encode())]
    return Encoded(hit.body.text, [*_in_common(hit.source, cors=datasette.cors), *own])


@functools.lru_cache(maxsize=64)
def _in_common(source: str, *, cors: bool) -> list[tuple[bytes, bytes]]:
    """The header fields that the hits of a source have in common."""
    headers = _headers({**_revalidated(""), **_kept(source, datetime.now(timezone.utc))}, cors=cors)
    fields = {**headers, "content-type": _JSON_TYPE}
    return [(name.encode(), value.encode()) for name, value in fields.items() if name not in ("Age", "ETag")]


@answering
async def remove(request: Request, datasette: Datasette) -> Response:
    """`POST` or `DELETE /remove/<vin>`: `true` when the cache held an answer for the
    VIN and it is gone, else `false`. 403 for who may not, 405 for other methods, 503
    when the cache cannot be written. A browser's form is led to the vehicles (303), where
    the same is said in words."""
    reason = guard.write_refusal(datasette, request)
    if reason is None and not await guard.may(datasette, request.actor, "vin-remove"):
        reason = "You may not remove vehicles from the cache: vin-remove is needed."
    if reason:
        return forbidden(datasette, request, reason)
    text, own = vin_of(request), state_of(datasette)
    table = datasette.urls.table(own.database, VEHICLES)
    try:
        removed = await own.lookup.remove(text)
    except (sqlite3.Error, CacheError) as failure:
        log.error("The cache could not be written: %s", failure)  # noqa: TRY400
        words = f"The cache could not be written: {failure}"
        if is_form(request):
            return led_to(datasette, request, table, f"{text[:40]} is not removed. {words}", datasette.ERROR)
        return error(datasette, words, 503, {"Retry-After": str(RETRY_AFTER)})
    if is_form(request):
        told = f"{text[:40]} is removed from the cache." if removed else f"The cache held nothing for {text[:40]}."
        return led_to(datasette, request, table, told)
    return _respond(datasette, json.dumps(removed), 200, {})


@answering
async def export(request: Request, datasette: Datasette) -> Response:
    """`GET /export`: the vehicles of the cache as one Parquet file, streamed.

    In the manner of Datasette's table pages: `_col=` and `_nocol=` choose columns,
    `make=HONDA` and `model_year__gte=2015` rows; `_raw=1` adds vPIC's whole records.
    400 for columns and filters that do not exist, 403 for who may not, 429 with
    `Retry-After` when as many exports as are allowed are under way.
    """
    if not await guard.may(datasette, request.actor, "vin-export"):
        return error(datasette, "You may not export the cache: vin-export is needed.", 403)
    # They bring pyarrow, which nothing but Parquet needs.
    await imported("vin_datasette.parquet", "vin_datasette.web.selection")
    from vin_datasette.parquet import parquet_parts
    from vin_datasette.web.selection import BadSelection, selected

    try:
        selection = selected(parse_qsl(request.query_string, keep_blank_values=True))
    except BadSelection as problem:
        return error(datasette, str(problem), 400)
    own = state_of(datasette)
    headers = download_headers(datasette, f"vehicles-{datetime.now(timezone.utc):%Y-%m-%d}.parquet")
    if request.method == "HEAD":
        return Response("", headers=headers, content_type=PARQUET)
    check_leaving(own)
    if not own.exports.take():
        return too_many_exports(datasette)
    return Streamed(
        in_thread(parquet_parts(own.lookup.cache.path, selection)),
        request.receive,
        headers=headers,
        content_type=PARQUET,
        limit=own.settings.export_timeout,
        stall=own.settings.stall_timeout,
        slots=own.exports,
        over=own.leaving.over,
        failed=lambda failure: error(datasette, str(failure), 503, {"Retry-After": str(RETRY_AFTER)}),
    )


def too_many_exports(datasette: Datasette) -> Response:
    """The refusal when all slots for downloads are taken."""
    own = state_of(datasette)
    own.lookup.tally.refused["exports"] += 1
    allowed = own.settings.export_concurrency
    words = f"{allowed} exports are under way, as many as are allowed; try again in {RETRY_AFTER} seconds."
    return error(datasette, words, 429, {"Retry-After": str(RETRY_AFTER)})


@answering
async def state(request: Request, datasette: Datasette) -> Response:
    """`GET /-/vin.json`: versions, rows, the health of the sources, what is in flight."""
    refusal = await sight_refusal(datasette, request)
    if refusal:
        return refusal
    own = state_of(datasette)
    try:
        counts = own.lookup.cache.counts()
        rows: dict[str, int] | str = {
            table: count for table, count in counts.items() if await guard.may_see(datasette, request.actor, table)
        }
    except (sqlite3.Error, CacheError) as failure:
        rows = str(failure)
    body = {
        "ok": True,
        "version": __version__,
        "database": own.database,
        "table": VEHICLES,
        "rows": rows,
        **own.lookup.health(),
    }
    return _respond(datasette, json.dumps(body), 200, {})


def error(datasette: Datasette, reason: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Datasette's error JSON: `ok`, `error`, `status`, `title`."""
    body = {"ok": False, "error": reason, "status": status, "title": None}
    return _respond(datasette, json.dumps(body, ensure_ascii=False), status, headers or {})


def bad_body(datasette: Datasette, request: Request, problem: BadBody) -> Response:
    """The refusal of a body that is no list of VINs."""
    # A server would read what is still to come of it to its end, to be able to use the connection
    # again. Only HTTP/1.1 knows the header.
    ends = problem.unread and request.scope.get("http_version") == "1.1"
    return error(datasette, str(problem), problem.status, {"Connection": "close"} if ends else None)


def forbidden(datasette: Datasette, request: Request, reason: str) -> Response:
    """The refusal of a write: Datasette's error JSON. Raises `Forbidden` for a browser's form, which Datasette
    answers with a page."""
    if is_form(request):
        raise Forbidden(reason)
    return error(datasette, reason, 403)


_MISSED = "vin-datasette; fwd=uri-miss"


def provenance(answer: Answer) -> dict[str, str]:
    """The headers that tell how an answer came about: `Vin-Source`, `Cache-Status` (RFC 9211) and `Age` (RFC 9111)."""
    record = answer.result.record
    if record is None:
        return {}
    if answer.how == "sibling":
        stored = "; stored" if answer.stored else ""
        return {"Vin-Source": record.source, "Cache-Status": f'vin-datasette; fwd=uri-miss{stored}; detail="sibling"'}
    if not answer.cached:
        forwarded = "vin-datasette; fwd=request" if answer.how == "refresh" else _MISSED
        return {"Vin-Source": record.source, "Cache-Status": f"{forwarded}; stored" if answer.stored else forwarded}
    headers = _kept(record.source, record.fetched_at)
    # A stale answer has no life left (RFC 9211, section 2.4); it is being asked about anew.
    return {**headers, "Cache-Status": f"{_HIT}; ttl=0"} if answer.how == "stale" else headers


_HIT = "vin-datasette; hit"


def _kept(source: str, fetched_at: datetime) -> dict[str, str]:
    age = max(0, int(seconds_since(fetched_at)))
    return {"Vin-Source": source, "Cache-Status": _HIT, "Age": str(age)}


def json_answer(
    datasette: Datasette, method: str, condition: str | None, body: dict[str, Any], headers: dict[str, str]
) -> Response:
    """`body` with a validator (`ETag`, RFC 9110); 304 for who reads and has it already."""
    return _validated(datasette, method, condition, tagged(body), headers)


def _validated(
    datasette: Datasette, method: str, condition: str | None, body: Tagged, headers: dict[str, str]
) -> Response:
    headers = {**headers, **_revalidated(body.etag)}
    if condition and method in ("GET", "HEAD") and body.is_known(condition):
        return _respond(datasette, "", 304, headers)
    return _respond(datasette, body.text, 200, headers)


def _revalidated(etag: str) -> dict[str, str]:
    """Stored answers are to be asked about again: removal must be seen at once."""
    return {"ETag": etag, "Cache-Control": "private, no-cache"}


def _respond(datasette: Datasette, body: str, status: int, headers: dict[str, str]) -> Response:
    return Response(body, status, _headers(headers, cors=datasette.cors), _JSON_TYPE)


_JSON_TYPE = "application/json"


def _headers(headers: dict[str, str], *, cors: bool) -> dict[str, str]:
    if cors:
        add_cors_headers(headers)
    return {**PRIVATE, **headers}


def vin_of(request: Request) -> str:
    """The text of a path that is to be a VIN."""
    return unquote(request.url_vars["vin"], errors="replace")


def method_refusal(datasette: Datasette, request: Request, *methods: str) -> Response | None:
    """The refusal (405) of a method that a route does not know, or None."""
    if request.method in methods:
        return None
    allowed = ", ".join(methods)
    return error(datasette, f"{request.method} is not allowed here; use {allowed}.", 405, {"Allow": allowed})


async def sight_refusal(datasette: Datasette, request: Request) -> Response | None:
    """The refusal (403) of an actor who may not see the vehicles, or None."""
    if await guard.may_see(datasette, request.actor):
        return None
    return error(datasette, "You may not see the vehicles: view-table is needed.", 403)


@answering
async def many(request: Request, datasette: Datasette) -> Response:
    """`POST /lookup`: up to 10,000 VINs as JSON, form or text in, one JSON line each out,
    as they are answered, the cached ones first.

    A line has the six fields of the contract, or the VIN with Datasette's error JSON;
    `_extra=source` and `_extra=suggested_vin` add who answered and what vPIC believes was
    meant. Who may not ask a source gets what is cached. 403 for who may not see the vehicles and for
    other sites' pages, 400, 413 and 415 in words for what is no list of VINs, 429 with
    `Retry-After` when as many lists as are allowed are under way.
    """
    refusal = await sight_refusal(datasette, request)
    if refusal:
        return refusal
    reason = guard.write_refusal(datasette, request)
    if reason:
        return error(datasette, reason, 403)
    own = state_of(datasette)
    try:
        extras = extras_of(request.args.getlist("_extra"))
        vins = await vins_of(request, limit=own.settings.body_timeout)
    except BadBody as problem:
        return bad_body(datasette, request, problem)
    ask = await guard.may(datasette, request.actor, "vin-lookup")
    rejections = ask or await guard.may_see(datasette, request.actor, REJECTIONS)
    check_leaving(own)
    if ask:
        check_queue(own)
    if not own.lists.take():
        own.lookup.tally.refused["lists"] += 1
        words = f"{own.settings.list_concurrency} lists of VINs are being looked up, as many as are allowed."
        return error(datasette, words, 429, {"Retry-After": str(RETRY_AFTER)})
    headers = {**PRIVATE, "X-Accel-Buffering": "no"}
    if datasette.cors:
        add_cors_headers(headers)
    return Streamed(
        answer_lines(own, vins, ask=ask, rejections=rejections, extras=extras),
        request.receive,
        headers=headers,
        content_type=JSON_LINES,
        limit=own.settings.export_timeout,
        stall=own.settings.stall_timeout,
        slots=own.lists,
        over=own.leaving.over,
        failed=lambda failure: error(datasette, str(failure), 503, {"Retry-After": str(RETRY_AFTER)}),
    )
