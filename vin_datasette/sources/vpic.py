"""The DOT's API: vPIC over HTTP (https://vpic.nhtsa.dot.gov/api/)."""

from __future__ import annotations

import asyncio
import time
import zlib
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import quote

import httpx
from aiolimiter import AsyncLimiter
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from vin_datasette import __version__
from vin_datasette.flat import fault, parsed
from vin_datasette.record import Record, SourceName
from vin_datasette.sources import Question, SourceError
from vin_datasette.tally import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from ssl import SSLContext

    from vin_datasette.settings import Settings
    from vin_datasette.sources import FailureKind

BATCH_LIMIT = 50
"""VINs in one call of `DecodeVINValuesBatch` (vPIC's documentation)."""

SECONDS_PER_FURTHER_VIN = 0.1
"""Added to the deadline for each VIN of a batch after the first: vPIC's own
procedure decodes some twenty VINs a second."""

ATTEMPTS_WITH_STAND_IN = 3
ATTEMPTS_ALONE = 6
"""How often one call is tried within its deadline, when the embedded database can
answer instead and when nobody can."""

_RETRIED_STATUSES = frozenset({408, 425, 429, *range(500, 600)})
# These may be due to what was asked; the others are due to who asks, how often, or to vPIC itself.
_STATUSES_OF_THE_QUESTION = frozenset({400, 413, 414, 422, 500})
# A record is some 4 KB of JSON; sixteen times that is no answer of vPIC's.
_BYTES_PER_RECORD = 65_536


_backoff = wait_exponential(multiplier=0.1, max=5) + wait_random(0, 0.1)


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: those that vPIC named, or a growing, jittered few."""
    error = state.outcome.exception() if state.outcome else None
    named = error.retry_after if isinstance(error, SourceError) else None
    return _backoff(state) if named is None else named


class VpicSource:
    """vPIC's API, asked politely: a rate limit, few calls in flight, retries with
    backoff and jitter that honour `Retry-After`, one deadline for everything.

    Used on one event loop at a time; connections are pooled on it. It may be made elsewhere, as
    that takes some time: the authorities that are trusted are read then.
    """

    name: SourceName = "vpic"

    def __init__(self, settings: Settings, tally: Tally | None = None) -> None:
        self._settings = settings
        self._tally = tally or Tally()
        self._trust = httpx.create_ssl_context()
        self._bound: _Connections | None = None

    async def decode(self, questions: Sequence[Question], *, attempts: int | None = None) -> list[Record]:
        """One record for each question, tried at most `attempts` times. See `Source.decode`."""
        deadline = self._settings.deadline + SECONDS_PER_FURTHER_VIN * (len(questions) - 1)
        tries = _Tries()
        try:
            return await asyncio.wait_for(self._with_retries(questions, deadline, tries, attempts), deadline)
        except asyncio.TimeoutError:
            if not tries.sent:
                reason = f"vPIC was not asked: the limits on calls to it left no turn within {deadline:g} seconds"
                raise SourceError(reason, asked=False) from None
            tail = f"; the last try: {tries.error}" if tries.error else ""
            raise SourceError(f"vPIC gave no answer within {deadline:g} seconds{tail}", unreachable=True) from None

    async def aclose(self) -> None:
        """Close the pooled connections."""
        if self._bound and self._bound.loop is asyncio.get_running_loop():
            await self._bound.client.aclose()
        self._bound = None

    async def _with_retries(
        self, questions: Sequence[Question], deadline: float, tries: _Tries, attempts: int | None
    ) -> list[Record]:
        loop = asyncio.get_running_loop()
        ends = loop.time() + deadline

        def worth_another_try(error: BaseException) -> bool:
            if not isinstance(error, SourceError) or not error.transient:
                return False
            tries.error = error
            # Asking before the time that vPIC named would be impolite, waiting past the deadline pointless.
            return error.retry_after is None or loop.time() + error.retry_after < ends

        usual = ATTEMPTS_WITH_STAND_IN if self._settings.source == "auto" else ATTEMPTS_ALONE
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(worth_another_try),
            stop=stop_after_attempt(attempts or usual),
            wait=_pause,
            reraise=True,
        ):
            with attempt:
                return await self._ask(questions, tries)
        raise AssertionError("the retries ended without an answer or an error")  # pragma: no cover

    async def _ask(self, questions: Sequence[Question], tries: _Tries) -> list[Record]:
        """One call, when its turn has come, and counted. Raises `SourceError`."""
        connections = self._connections()
        async with connections.in_flight, connections.limiter:
            tries.sent += 1
            began = time.monotonic()
            # The deadline ends a call by cancelling it.
            outcome = "timeout"
            try:
                records = _records(questions, await _said(connections.client, questions))
                outcome = "answered"
            except SourceError as error:
                outcome = error.kind
                raise
            finally:
                self._tally.called(outcome, time.monotonic() - began)
            return records

    def _connections(self) -> _Connections:
        loop = asyncio.get_running_loop()
        if self._bound is None or self._bound.loop is not loop:
            self._bound = _Connections(self._settings, loop, self._trust)
        return self._bound


@dataclass
class _Tries:
    """How the tries of one question have gone: those sent, and how the last one failed."""

    sent: int = 0
    error: SourceError | None = None


class _Connections:
    """What belongs to one event loop: the pool, the limiter, the semaphore."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop, trust: SSLContext) -> None:
        self.loop = loop
        self.in_flight = asyncio.Semaphore(settings.concurrency)
        # A bucket of at least one, so that a rate below one a second lets single calls through.
        burst = max(1.0, settings.rate)
        self.limiter = AsyncLimiter(burst, burst / settings.rate)
        contact = f" ({settings.contact})" if settings.contact else ""
        self.client = httpx.AsyncClient(
            base_url=settings.vpic_url,
            verify=trust,
            headers={
                "User-Agent": f"vin-datasette/{__version__}{contact}",
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
            },
            timeout=httpx.Timeout(settings.deadline, connect=settings.connect_timeout, pool=None),
            limits=httpx.Limits(max_connections=settings.concurrency, keepalive_expiry=60),
            # vPIC redirects nobody; whoever does is not to be followed with somebody's VINs.
            follow_redirects=False,
        )


async def _said(client: httpx.AsyncClient, questions: Sequence[Question]) -> bytes:
    """The body of a call's answer. Raises `SourceError`."""
    try:
        async with _call(client, questions) as response:
            _check_head(response)
            return await _body(response, _BYTES_PER_RECORD * (len(questions) + 1))
    except httpx.TimeoutException as error:
        raise SourceError(_words(error, "timed out"), unreachable=True, kind="timeout") from None
    except httpx.TransportError as error:
        raise SourceError(_words(error, "could not be reached"), unreachable=True, kind="connection") from None
    except (httpx.HTTPError, zlib.error) as error:
        raise SourceError(_words(error, "sent an answer that cannot be read"), kind="nonsense") from None
    except UnicodeError as error:
        # Of a host name that cannot be encoded, by the resolver.
        words = _words(error, "has an address that cannot be looked up")
        raise SourceError(words, unreachable=True, transient=False, kind="connection") from None


@asynccontextmanager
async def _call(client: httpx.AsyncClient, questions: Sequence[Question]) -> AsyncIterator[httpx.Response]:
    """The call that asks all questions: a GET for one, a batch POST for more.

    In a POST, `format` counts in the form body only; in the query it is ignored
    and XML comes back.
    """
    if len(questions) == 1:
        [(vin, year)] = questions
        query = {"format": "json"} | ({"modelyear": str(year)} if year else {})
        call = client.stream("GET", f"DecodeVinValuesExtended/{quote(vin, safe='')}", params=query)
    else:
        data = ";".join(f"{vin},{year}" if year else vin for vin, year in questions)
        call = client.stream("POST", "DecodeVINValuesBatch/", data={"format": "json", "data": data})
    async with call as response:
        yield response


def _check_head(response: httpx.Response) -> None:
    status = response.status_code
    if response.is_success:
        return
    if status in _RETRIED_STATUSES:
        raise SourceError(
            f"vPIC answered with status {status} ({response.reason_phrase})",
            unreachable=True,
            retry_after=_retry_after(response),
            answered=status in _STATUSES_OF_THE_QUESTION,
            kind=_kind(status),
        )
    raise SourceError(
        f"vPIC answered with status {status} ({response.reason_phrase})",
        transient=False,
        answered=status in _STATUSES_OF_THE_QUESTION,
        kind=_kind(status),
    )


def _kind(status: int) -> FailureKind:
    if status == httpx.codes.TOO_MANY_REQUESTS:
        return "rate_limited"
    return "server_error" if status >= httpx.codes.INTERNAL_SERVER_ERROR else "refused"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds of a `Retry-After`, given as such or as a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # The oldest of the three forms of a date names no zone; all are in GMT.
    when = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


async def _body(response: httpx.Response, limit: int) -> bytes:
    """The body, unpacked here and no further than to the limit: httpx unpacks whatever has come at
    once, a thousandfold of it, and as often as the answer says that it was packed."""
    coding = response.headers.get("Content-Encoding", "").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip"):
        reason = f"vPIC's answer is packed as {coding[:40]!r}, which was not asked for"
        raise SourceError(reason, transient=False, kind="nonsense")
    unpacker = zlib.decompressobj(_GZIP) if coding.endswith("gzip") else None
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += unpacker.decompress(chunk, limit + 1 - len(body)) if unpacker else chunk
        if len(body) > limit:
            raise SourceError(f"vPIC's answer is larger than {limit:,} bytes", transient=False, kind="nonsense")
    if unpacker and not unpacker.eof:
        raise zlib.error("it ends too early")
    return bytes(body)


_GZIP = zlib.MAX_WBITS | 16
"""What zlib calls gzip."""


def _records(questions: Sequence[Question], body: bytes) -> list[Record]:
    """The records of an answer, one for each question and in their order; any other
    number, order or VIN is a failure of the source, never a vehicle."""
    results = _results(body)
    if len(results) != len(questions):
        raise _nonsense(f"vPIC answered {len(results)} records for {len(questions)} VINs")
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return [
        Record(question.vin, _values(result, question), "vpic", None, now)
        for question, result in zip(questions, results, strict=True)
    ]


def _results(body: bytes) -> list[Any]:
    try:
        answer = parsed(body)
    except (ValueError, RecursionError):
        _reject_body(body)
    results = answer.get("Results") if isinstance(answer, dict) else None
    if not isinstance(results, list):
        raise _nonsense("vPIC answered JSON without a list of results")
    return results


def _reject_body(body: bytes) -> NoReturn:
    start = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    kind = "HTML or XML" if start == b"<" else "nothing" if not start else "broken JSON"
    raise _nonsense(f"vPIC answered {kind} where JSON was due")


def _values(result: Any, question: Question) -> dict[str, object]:
    wrong = fault(result, question.vin)
    if wrong:
        raise _nonsense(f"vPIC answered {wrong}")
    return cast("dict[str, object]", result)


def _nonsense(reason: str) -> SourceError:
    return SourceError(reason, answered=True, kind="nonsense")


def _words(error: Exception, what: str) -> str:
    detail = str(error) or type(error).__name__
    return f"vPIC {what} ({detail})"
