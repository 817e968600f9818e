"""What is asked of vPIC, how it is asked, and what is made of its answers, good and bad."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import httpx
import pytest
from tenacity import wait_none

from tests.conftest import numbered_vins
from tests.vpic_server import Fault, VpicServer, black_hole, closed_port
from vin_datasette import VIN, Settings, SourceError, __version__
from vin_datasette.settings import DEFAULT_VPIC_URL, SettingError
from vin_datasette.sources import Question, vpic as vpic_module
from vin_datasette.sources.vpic import VpicSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pytest_httpx import HTTPXMock

    from tests.conftest import MakeSettings
    from vin_datasette.record import Record

    Form = Callable[[int], str]

HONDA, PETERBILT, AUDI = VIN("1HGCM82633A004352"), VIN("1XP5DB9X7XD487964"), VIN("WA1A4AFY2J2008189")
ONE = [Question(HONDA)]
TWO = [Question(HONDA), Question(PETERBILT)]
RECORDED = sorted((Path(__file__).parent / "data").glob("flat_*.json"))


def a_record(vin: str = HONDA, **values: object) -> dict[str, object]:
    return {"VIN": vin, "ErrorCode": "0", "ErrorText": "0 - VIN decoded clean.", "Make": "HONDA", **values}


def an_envelope(*results: object) -> dict[str, object]:
    message = "Results returned successfully. NOTE: Any missing decoded values should be interpreted as …"
    return {"Count": len(results), "Message": message, "SearchCriteria": "", "Results": list(results)}


def body_of(value: object) -> bytes:
    return json.dumps(value).encode()


GOOD = an_envelope(a_record(HONDA), a_record(PETERBILT))
GZIP = {"Content-Encoding": "gzip"}


class Sent(httpx.AsyncByteStream):
    """A body as it comes over the wire, piece by piece."""

    def __init__(self, *pieces: bytes) -> None:
        self.left = list(pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left:
            yield self.left.pop(0)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[VpicSource]:
    source = VpicSource(settings)
    try:
        yield source
    finally:
        await source.aclose()


async def decode(questions: Sequence[Question], **options: object) -> list[Record]:
    """Ask vPIC under its own address, where `httpx_mock` answers."""
    async with opened(Settings.load({"rate": 1000, **options})) as source:
        return await source.decode(questions)


async def failure(questions: Sequence[Question], **options: object) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await decode(questions, **options)
    return caught.value


async def failure_at(url: str, **options: object) -> tuple[SourceError, float]:
    """The error of asking at `url`, and the seconds that it took."""
    began = time.monotonic()
    error = await failure(ONE, vpic_url=url, **options)
    return error, time.monotonic() - began


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once, where nothing depends on the time between them."""
    monkeypatch.setattr(vpic_module, "_backoff", wait_none())


class TestRequests:
    async def test_one_vin_is_a_get_of_the_extended_flat_record_as_json(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        await decode(ONE)
        [request] = httpx_mock.get_requests()
        assert (request.method, str(request.url)) == (
            "GET",
            f"https://vpic.nhtsa.dot.gov/api/vehicles/DecodeVinValuesExtended/{HONDA}?format=json",
        )

    async def test_a_model_year_is_sent_where_it_was_given(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        await decode([Question(HONDA, 2003)])
        [request] = httpx_mock.get_requests()
        assert dict(request.url.params) == {"format": "json", "modelyear": "2003"}

    async def test_several_vins_are_a_post_to_the_batch(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=GOOD)
        await decode(TWO)
        [request] = httpx_mock.get_requests()
        assert (request.method, str(request.url)) == (
            "POST",
            "https://vpic.nhtsa.dot.gov/api/vehicles/DecodeVINValuesBatch/",
        )

    async def test_a_batch_names_its_format_and_vins_in_the_form_body(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record(HONDA), a_record(PETERBILT), a_record(AUDI)))
        await decode([Question(HONDA), Question(PETERBILT, 1999), Question(AUDI)])
        [request] = httpx_mock.get_requests()
        assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
        assert parse_qs(request.content.decode(), strict_parsing=True) == {
            "format": ["json"],
            "data": [f"{HONDA};{PETERBILT},1999;{AUDI}"],
        }

    async def test_fifty_vins_travel_in_one_call(self, httpx_mock: HTTPXMock) -> None:
        fifty = numbered_vins(50)
        httpx_mock.add_response(json=an_envelope(*(a_record(vin) for vin in fifty)))
        await decode([Question(vin) for vin in fifty])
        [request] = httpx_mock.get_requests()
        assert parse_qs(request.content.decode())["data"] == [";".join(fifty)]

    async def test_the_user_agent_names_the_package_and_its_version(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        await decode(ONE)
        [request] = httpx_mock.get_requests()
        assert request.headers["User-Agent"] == f"vin-datasette/{__version__}"

    async def test_the_user_agent_holds_the_contact(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        await decode(ONE, contact="fleet@example.org")
        [request] = httpx_mock.get_requests()
        assert request.headers["User-Agent"] == f"vin-datasette/{__version__} (fleet@example.org)"

    @pytest.mark.parametrize("contact", ["fleet@example.org\r\nX-Other: 1", "Zoë, fleet@example.org"])
    def test_a_contact_that_no_header_can_carry_is_no_setting(self, contact: str) -> None:
        with pytest.raises(SettingError, match="contact"):
            Settings.load({"contact": contact})

    async def test_no_compression_but_gzip_is_asked_for(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        await decode(ONE)
        [request] = httpx_mock.get_requests()
        assert request.headers["Accept-Encoding"] == "gzip"

    async def test_json_is_asked_for_in_the_headers_too(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        await decode(ONE)
        [request] = httpx_mock.get_requests()
        assert request.headers["Accept"] == "application/json"

    @pytest.mark.parametrize("url", ["http://vpic.example/mirror/v1", "http://vpic.example/mirror/v1/"])
    async def test_another_address_keeps_its_path(self, httpx_mock: HTTPXMock, url: str) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        await decode(ONE, vpic_url=url)
        [request] = httpx_mock.get_requests()
        assert str(request.url) == f"http://vpic.example/mirror/v1/DecodeVinValuesExtended/{HONDA}?format=json"


class TestRecords:
    @pytest.mark.parametrize("path", RECORDED, ids=lambda path: str(path.stem))
    async def test_the_keys_of_every_year_are_read_and_kept_as_they_came(
        self, httpx_mock: HTTPXMock, path: Path
    ) -> None:
        said = json.loads(path.read_text("utf-8"))
        httpx_mock.add_response(json=an_envelope(said))
        [record] = await decode([Question(VIN(said["VIN"]))])
        assert record.values == said

    @pytest.mark.parametrize("count", [131, 154])
    def test_yesterdays_and_todays_keys_are_among_the_recorded(self, count: int) -> None:
        assert count in [len(json.loads(path.read_text("utf-8"))) for path in RECORDED]

    async def test_a_key_that_is_new_is_kept(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record(PlantAddress="1919 Torrance Blvd")))
        [record] = await decode(ONE)
        assert record.text("PlantAddress") == "1919 Torrance Blvd"

    async def test_null_is_the_same_as_nothing(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record(Trim=None)))
        [record] = await decode(ONE)
        assert record.text("Trim") == ""

    async def test_a_count_that_is_not_the_number_of_results_does_not_matter(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json={**an_envelope(a_record()), "Count": 138})
        assert len(await decode(ONE)) == 1

    async def test_a_vin_may_be_echoed_in_lower_case_and_padded(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record(f"{HONDA.lower()}  ")))
        [record] = await decode(ONE)
        assert record.vin == HONDA

    async def test_a_content_type_other_than_json_does_not_matter(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(content=body_of(an_envelope(a_record())), headers={"Content-Type": "text/plain"})
        assert len(await decode(ONE)) == 1

    async def test_a_batch_comes_back_in_the_order_of_its_questions(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=GOOD)
        assert [record.vin for record in await decode(TWO)] == [HONDA, PETERBILT]

    async def test_an_error_code_is_an_answer_and_asked_once(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record(ErrorCode="1,7,400", Make="")))
        await decode(ONE)
        assert len(httpx_mock.get_requests()) == 1

    async def test_a_record_says_that_vpic_gave_it(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        [record] = await decode(ONE)
        assert (record.source, record.source_version) == ("vpic", None)

    async def test_a_record_says_when_it_was_given(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(json=an_envelope(a_record()))
        before = datetime.now(timezone.utc).replace(microsecond=0)
        [record] = await decode(ONE)
        assert before <= record.fetched_at <= datetime.now(timezone.utc)

    async def test_a_compressed_answer_is_read(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(stream=Sent(gzip.compress(body_of(an_envelope(a_record())))), headers=GZIP)
        assert len(await decode(ONE)) == 1

    async def test_an_answer_as_large_as_allowed_is_read(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(content=body_of(an_envelope(a_record())).ljust(2 * 65_536))
        assert len(await decode(ONE)) == 1


ANOTHER_VIN = f"another VIN than {HONDA}"
NO_CODE = f"without an error code for {HONDA}"
NO_LIST = "JSON without a list of results"
BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "html": (b"<!DOCTYPE html><html><body>Service Unavailable</body></html>", "HTML or XML"),
    "html after white space": (b"\r\n  <html></html>", "HTML or XML"),
    "xml": (b"\xef\xbb\xbf<Response><Count>2</Count><Results/></Response>", "HTML or XML"),
    "nothing": (b"", "nothing"),
    "white space": (b" \r\n ", "nothing"),
    "plain text": (b"The service is unavailable.", "broken JSON"),
    "truncated json": (body_of(GOOD)[:-40], "broken JSON"),
    "two answers": (body_of(GOOD) * 2, "broken JSON"),
    "invalid utf-8": (body_of(GOOD).replace(b"decoded", b"d\xffcoded"), "broken JSON"),
    "deep nesting": (b"[" * 100_000, "broken JSON"),
    "a list": (b"[]", NO_LIST),
    "null": (b"null", NO_LIST),
    "a number": (b"1", NO_LIST),
    "a text": (b'"Results"', NO_LIST),
    "no results": (b'{"hello": "world"}', NO_LIST),
    "an error's message": (b'{"message": "The request is invalid.", "messageDetail": ""}', NO_LIST),
    "results in lower case": (body_of({"results": GOOD["Results"]}), NO_LIST),
    "results null": (body_of({**GOOD, "Results": None}), NO_LIST),
    "results an object": (body_of({**GOOD, "Results": a_record()}), NO_LIST),
    "results a text": (body_of({**GOOD, "Results": "none"}), NO_LIST),
    "results empty": (body_of(an_envelope()), "0 records for 2 VINs"),
    "a number that is none": (body_of(an_envelope(a_record(Doors=float("nan")), a_record(PETERBILT))), "broken JSON"),
    "a number without end": (body_of(GOOD).replace(b'"Make": "HONDA"', b'"Make": 1e999', 1), "broken JSON"),
    "a number of many digits": (body_of(GOOD).replace(b'"HONDA"', b"1" * 5000, 1), "broken JSON"),
    "a value nested deeply": (
        body_of(GOOD).replace(b'"Make": "HONDA"', b'"Make": ' + b"[" * 400 + b"]" * 400, 1),
        "nested too deeply",
    ),
    "results short": (body_of(an_envelope(a_record())), "1 records for 2 VINs"),
    "results doubled": (body_of(an_envelope(*[a_record()] * 2, *[a_record(PETERBILT)] * 2)), "4 records for 2 VINs"),
    "results in another order": (body_of(an_envelope(a_record(PETERBILT), a_record(HONDA))), ANOTHER_VIN),
    "a record twice": (body_of(an_envelope(a_record(), a_record())), f"another VIN than {PETERBILT}"),
    "a record of another VIN": (body_of(an_envelope(a_record(AUDI), a_record(PETERBILT))), ANOTHER_VIN),
    "a record of a partial VIN": (body_of(an_envelope(a_record("1HGCM826*3A"), a_record(PETERBILT))), ANOTHER_VIN),
    "a record without VIN": (body_of(an_envelope({"ErrorCode": "0"}, a_record(PETERBILT))), ANOTHER_VIN),
    "a VIN that is null": (body_of(an_envelope({**a_record(), "VIN": None}, a_record(PETERBILT))), ANOTHER_VIN),
    "a VIN that is a number": (body_of(an_envelope({**a_record(), "VIN": 1}, a_record(PETERBILT))), ANOTHER_VIN),
    "a record without error code": (body_of(an_envelope({"VIN": HONDA}, a_record(PETERBILT))), NO_CODE),
    "an error code that is null": (body_of(an_envelope(a_record(ErrorCode=None), a_record(PETERBILT))), NO_CODE),
    "an error code of blanks": (body_of(an_envelope(a_record(ErrorCode=" "), a_record(PETERBILT))), NO_CODE),
    "a record that is null": (body_of(an_envelope(None, a_record(PETERBILT))), f"no record for {HONDA}"),
    "a record that is a list": (body_of(an_envelope([HONDA, "0"], a_record(PETERBILT))), f"no record for {HONDA}"),
    "a record that is a text": (body_of(an_envelope("HONDA", a_record(PETERBILT))), f"no record for {HONDA}"),
}
bad_bodies = pytest.mark.parametrize(("body", "words"), BAD_BODIES.values(), ids=BAD_BODIES.keys())


@pytest.mark.usefixtures("no_backoff")
class TestBadAnswers:
    @bad_bodies
    async def test_is_an_error_with_a_reason_in_words(self, httpx_mock: HTTPXMock, body: bytes, words: str) -> None:
        httpx_mock.add_response(content=body, is_reusable=True)
        error = await failure(TWO)
        assert words in error.reason
        assert not error.unreachable

    @bad_bodies
    async def test_is_forgotten_when_the_next_try_is_answered(
        self, httpx_mock: HTTPXMock, body: bytes, words: str
    ) -> None:
        httpx_mock.add_response(content=body)
        httpx_mock.add_response(json=GOOD)
        assert [record.vin for record in await decode(TWO)] == [HONDA, PETERBILT]

    @pytest.mark.parametrize(("source", "tries"), [("auto", 3), ("vpic", 6)])
    async def test_is_asked_for_again_and_more_often_when_nobody_else_can_answer(
        self, httpx_mock: HTTPXMock, source: str, tries: int
    ) -> None:
        httpx_mock.add_response(html="<html></html>", is_reusable=True)
        await failure(TWO, source=source)
        assert len(httpx_mock.get_requests()) == tries

    @pytest.mark.parametrize("code", ["clean", "1, 11", "1;11", "0.0", ["1"], {"code": 1}, True, "99999"], ids=repr)
    async def test_an_error_code_that_cannot_be_read_is_no_answer(self, httpx_mock: HTTPXMock, code: object) -> None:
        """Otherwise a record with a make would pass for a vehicle, whatever vPIC warned of."""
        httpx_mock.add_response(json=an_envelope(a_record(ErrorCode=code)), is_reusable=True)
        assert "error code" in (await failure(ONE)).reason

    async def test_an_answer_that_claims_to_be_compressed_and_is_not(self, httpx_mock: HTTPXMock) -> None:
        for _ in range(3):
            httpx_mock.add_response(stream=Sent(body_of(GOOD)), headers=GZIP)
        assert "cannot be read" in (await failure(TWO)).reason

    @pytest.mark.parametrize("questions", [ONE, TWO], ids=["get", "batch"])
    async def test_an_answer_over_the_limit(self, httpx_mock: HTTPXMock, questions: list[Question]) -> None:
        limit = 65_536 * (len(questions) + 1)
        httpx_mock.add_response(content=body_of(GOOD).ljust(limit + 1), is_reusable=True)
        assert f"larger than {limit:,} bytes" in (await failure(questions)).reason

    async def test_an_answer_over_the_limit_is_not_asked_for_again(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(content=bytes(1_000_000), is_reusable=True)
        await failure(ONE)
        assert len(httpx_mock.get_requests()) == 1

    async def test_an_answer_that_unpacks_to_more_than_the_limit(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(stream=Sent(gzip.compress(bytes(10_000_000))), headers=GZIP)
        assert "larger than" in (await failure(ONE)).reason

    @pytest.mark.parametrize("coding", ["gzip, gzip", "deflate", "br", "zstd", "gzip,\tbr"])
    async def test_an_answer_in_a_coding_that_was_not_asked_for(self, httpx_mock: HTTPXMock, coding: str) -> None:
        """Two codings, or one that packs better, make gigabytes of a few packets."""
        body = gzip.compress(gzip.compress(body_of(an_envelope(a_record()))))
        httpx_mock.add_response(stream=Sent(body), headers={"Content-Encoding": coding})
        assert "was not asked for" in (await failure(ONE)).reason

    async def test_an_answer_without_end_is_left_at_the_limit(self, httpx_mock: HTTPXMock) -> None:
        body = Sent(*[bytes(65_536)] * 1000)
        httpx_mock.add_response(stream=body)
        await failure(ONE)
        assert len(body.left) == 997


@pytest.mark.usefixtures("no_backoff")
class TestStatuses:
    FINAL = (301, 302, 307, 308, 400, 401, 403, 404, 405, 410, 414, 422)
    PASSING = (408, 425, 429, 500, 502, 503, 504, 520)

    @pytest.mark.parametrize("status", FINAL)
    async def test_that_would_be_the_same_again_is_an_error_at_once(self, httpx_mock: HTTPXMock, status: int) -> None:
        httpx_mock.add_response(status, json=an_envelope(a_record()))
        error = await failure(ONE)
        assert f"status {status}" in error.reason
        assert not error.unreachable

    @pytest.mark.parametrize("status", PASSING)
    async def test_that_may_pass_is_an_error_that_means_vpic_is_away(self, httpx_mock: HTTPXMock, status: int) -> None:
        httpx_mock.add_response(status, json=an_envelope(a_record()), is_reusable=True)
        error = await failure(ONE)
        assert f"status {status}" in error.reason
        assert error.unreachable

    @pytest.mark.parametrize("status", PASSING)
    async def test_that_may_pass_is_forgotten_when_the_next_try_is_answered(
        self, httpx_mock: HTTPXMock, status: int
    ) -> None:
        httpx_mock.add_response(status)
        httpx_mock.add_response(json=an_envelope(a_record()))
        assert len(await decode(ONE)) == 1

    @pytest.mark.parametrize(("source", "tries"), [("auto", 3), ("vpic", 6)])
    async def test_that_may_pass_is_asked_again_and_more_often_when_nobody_else_can_answer(
        self, httpx_mock: HTTPXMock, source: str, tries: int
    ) -> None:
        httpx_mock.add_response(503, is_reusable=True)
        await failure(ONE, source=source)
        assert len(httpx_mock.get_requests()) == tries

    @pytest.mark.parametrize("source", ["auto", "vpic"])
    @pytest.mark.parametrize("attempts", [1, 2, 4])
    async def test_that_may_pass_is_asked_no_more_often_than_said(
        self, httpx_mock: HTTPXMock, source: str, attempts: int
    ) -> None:
        httpx_mock.add_response(503, is_reusable=True)
        async with opened(Settings.load({"rate": 1000, "source": source})) as vpic:
            with pytest.raises(SourceError):
                await vpic.decode(ONE, attempts=attempts)
        assert len(httpx_mock.get_requests()) == attempts

    @pytest.mark.parametrize("status", [400, 413, 414, 422, 500])
    async def test_that_may_be_due_to_what_was_asked_is_an_answer_of_sorts(
        self, httpx_mock: HTTPXMock, status: int
    ) -> None:
        httpx_mock.add_response(status, is_reusable=True)
        assert (await failure(ONE)).answered

    @pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 425, 429, 502, 503, 504])
    async def test_that_is_not_due_to_what_was_asked_is_no_answer(self, httpx_mock: HTTPXMock, status: int) -> None:
        httpx_mock.add_response(status, is_reusable=True)
        assert not (await failure(ONE)).answered

    async def test_no_content_is_no_answer(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(204, is_reusable=True)
        assert "nothing" in (await failure(ONE)).reason

    async def test_vpics_own_refusal_of_an_empty_path_is_an_error(self, httpx_mock: HTTPXMock) -> None:
        httpx_mock.add_response(404, json={"message": "No HTTP resource was found", "messageDetail": "No action"})
        assert not (await failure(ONE)).transient


async def seconds_between_two_tries(httpx_mock: HTTPXMock, retry_after: str) -> float:
    """Asks a vPIC that is busy once, says `retry_after`, and then answers."""
    asked: list[float] = []

    def answer(_: httpx.Request) -> httpx.Response:
        asked.append(time.monotonic())
        if len(asked) == 1:
            return httpx.Response(503, headers={"Retry-After": retry_after})
        return httpx.Response(200, json=an_envelope(a_record()))

    httpx_mock.add_callback(answer, is_reusable=True)
    await decode(ONE, timeout=10)
    first, second = asked
    return second - first


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)


def asctime(seconds: float) -> str:
    """The oldest of the three forms of an HTTP date (RFC 9110, section 5.6.7)."""
    return time.asctime(time.gmtime(time.time() + seconds))


class TestRetryAfter:
    async def test_in_seconds_is_waited_for(self, httpx_mock: HTTPXMock) -> None:
        assert 1 <= await seconds_between_two_tries(httpx_mock, "1") < 3

    async def test_as_a_date_is_waited_for(self, httpx_mock: HTTPXMock) -> None:
        # A date has whole seconds, so up to one of them is lost.
        assert 1 <= await seconds_between_two_tries(httpx_mock, http_date(2)) < 4

    async def test_that_is_over_already_is_not_waited_for(self, httpx_mock: HTTPXMock) -> None:
        assert await seconds_between_two_tries(httpx_mock, http_date(-60)) < 1

    @pytest.mark.parametrize("form", [str, http_date], ids=["seconds", "date"])
    async def test_past_the_deadline_ends_the_tries_at_once(self, httpx_mock: HTTPXMock, form: Form) -> None:
        httpx_mock.add_response(429, headers={"Retry-After": form(60)}, is_reusable=True)
        await failure(ONE)
        assert len(httpx_mock.get_requests()) == 1

    @pytest.mark.parametrize("form", [str, http_date, asctime], ids=["seconds", "date", "old date"])
    async def test_is_told_to_the_caller_in_seconds(self, httpx_mock: HTTPXMock, form: Form) -> None:
        httpx_mock.add_response(429, headers={"Retry-After": form(60)}, is_reusable=True)
        assert (await failure(ONE)).retry_after == pytest.approx(60, abs=2)

    @pytest.mark.parametrize(
        "value",
        ["", "soon", "-1", "1.5", "²", "Wed, 99 Oct 2099 07:28:00 GMT", "Wed, 21 Oct 9999999999999999999 07:28:00 GMT"],
    )
    @pytest.mark.usefixtures("no_backoff")
    async def test_that_cannot_be_read_is_as_if_there_were_none(self, httpx_mock: HTTPXMock, value: str) -> None:
        httpx_mock.add_response(503, headers=[(b"Retry-After", value.encode("latin-1"))], is_reusable=True)
        await failure(ONE)
        assert len(httpx_mock.get_requests()) == 3


class TestTransportErrors:
    @pytest.mark.parametrize(
        ("error", "words"),
        [
            (httpx.ConnectError("Name or service not known"), "could not be reached (Name or service not known)"),
            (httpx.ConnectTimeout(""), "timed out (ConnectTimeout)"),
            (httpx.ReadTimeout(""), "timed out (ReadTimeout)"),
            (httpx.ReadError(""), "could not be reached (ReadError)"),
            (httpx.RemoteProtocolError("Server disconnected"), "could not be reached (Server disconnected)"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    @pytest.mark.usefixtures("no_backoff")
    async def test_is_an_error_with_a_reason_in_words(
        self, httpx_mock: HTTPXMock, error: Exception, words: str
    ) -> None:
        httpx_mock.add_exception(error, is_reusable=True)
        caught = await failure(ONE)
        assert (caught.reason, caught.unreachable) == (f"vPIC {words}", True)

    @pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ReadTimeout(""), httpx.ReadError("")], ids=repr)
    @pytest.mark.usefixtures("no_backoff")
    async def test_is_no_answer_of_any_sort(self, httpx_mock: HTTPXMock, error: Exception) -> None:
        httpx_mock.add_exception(error, is_reusable=True)
        assert not (await failure(ONE)).answered

    @pytest.mark.parametrize("error", [httpx.ConnectError(""), httpx.ReadTimeout(""), httpx.ReadError("")], ids=repr)
    @pytest.mark.usefixtures("no_backoff")
    async def test_is_forgotten_when_the_next_try_is_answered(self, httpx_mock: HTTPXMock, error: Exception) -> None:
        httpx_mock.add_exception(error)
        httpx_mock.add_response(json=an_envelope(a_record()))
        assert len(await decode(ONE)) == 1

    async def test_the_pauses_between_tries_grow(self, httpx_mock: HTTPXMock) -> None:
        asked: list[float] = []

        def answer(_: httpx.Request) -> httpx.Response:
            asked.append(time.monotonic())
            return httpx.Response(503)

        httpx_mock.add_callback(answer, is_reusable=True)
        await failure(ONE)
        first, second, third = asked
        assert 0.1 <= second - first < third - second


@pytest.fixture
async def source(make_settings: MakeSettings) -> AsyncIterator[VpicSource]:
    """A source that asks `vpic_server`."""
    async with opened(make_settings()) as source:
        yield source


class TestOverASocket:
    async def test_one_connection_carries_many_calls(self, source: VpicSource, vpic_server: VpicServer) -> None:
        for questions in [ONE, TWO] * 5:
            await source.decode(questions)
        assert (len(vpic_server.calls), vpic_server.connections) == (10, 1)

    async def test_vpic_gets_an_address_it_knows(self, source: VpicSource, vpic_server: VpicServer) -> None:
        await source.decode(ONE)
        await source.decode(TWO)
        assert [(call.status, call.vins) for call in vpic_server.calls] == [
            (200, (HONDA,)),
            (200, (HONDA, PETERBILT)),
        ]

    async def test_no_more_calls_are_in_flight_than_allowed(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.latency = 0.05
        async with opened(make_settings(concurrency=3)) as source:
            await asyncio.gather(*(source.decode([Question(vin)]) for vin in numbered_vins(12)))
        assert vpic_server.max_in_flight == 3

    async def test_no_more_calls_are_sent_than_the_burst_and_the_rate_allow(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        rate = burst = 10
        async with opened(make_settings(rate=rate, concurrency=64, timeout=20)) as source:
            began = time.monotonic()
            await asyncio.gather(*(source.decode([Question(vin)]) for vin in numbered_vins(25)))
        times = [call.at - began for call in vpic_server.calls]
        early = [at for number, at in enumerate(times, 1) if number > burst + rate * at + 0.01]
        assert early == []

    async def test_waiting_for_its_own_turn_is_not_held_against_vpic(self, make_settings: MakeSettings) -> None:
        async with opened(make_settings(rate=1, timeout=0.5)) as source:
            outcomes = await asyncio.gather(
                *(source.decode([Question(vin)]) for vin in (HONDA, PETERBILT)), return_exceptions=True
            )
        assert [each for each in outcomes if isinstance(each, SourceError) and each.unreachable] == []

    @pytest.mark.parametrize(
        "fault",
        [
            *[Fault.html_200, Fault.xml_200, Fault.truncated_json, Fault.empty_results, Fault.short_results],
            *[Fault.doubled_results, Fault.reordered, Fault.wrong_vin, Fault.null_results, Fault.not_json_object],
            *[Fault.foreign_json, Fault.missing_keys],
        ],
        ids=lambda fault: str(fault.name),
    )
    @pytest.mark.usefixtures("no_backoff")
    async def test_nonsense_is_an_answer_of_sorts(
        self, source: VpicSource, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fail_always(fault)
        with pytest.raises(SourceError) as caught:
            await source.decode(TWO)
        assert (caught.value.answered, caught.value.unreachable) == (True, False)

    async def test_an_absent_name_or_port_is_no_connection(self) -> None:
        with closed_port() as url:
            error, _ = await failure_at(url)
        assert (error.reason[:26], error.unreachable) == ("vPIC could not be reached ", True)

    @pytest.mark.parametrize("connect_timeout", [0.2, 60])
    async def test_a_black_hole_ends_within_the_deadline(self, connect_timeout: float) -> None:
        with black_hole() as url:
            error, seconds = await failure_at(url, timeout=0.6, connect_timeout=connect_timeout)
        assert error.unreachable
        assert seconds < 2

    @pytest.mark.parametrize("fault", [Fault.silence, Fault.slow_drip(30)], ids=["silent", "dripping"])
    async def test_a_server_that_does_not_end_its_answer_ends_within_the_deadline(
        self, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fail_always(fault)
        error, seconds = await failure_at(vpic_server.url, timeout=0.5)
        assert (error.reason, error.unreachable) == ("vPIC gave no answer within 0.5 seconds", True)
        assert 0.5 <= seconds < 2

    async def test_the_deadline_tells_how_the_last_try_failed(self, vpic_server: VpicServer) -> None:
        vpic_server.fail_next(Fault.status(503))
        vpic_server.fail_next(Fault.silence)
        error, _ = await failure_at(vpic_server.url, timeout=0.5)
        assert error.reason.startswith(
            "vPIC gave no answer within 0.5 seconds; the last try: vPIC answered with status 503"
        )

    async def test_a_batch_has_more_time_than_one_vin(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_always(Fault.silence)
        async with opened(make_settings(timeout=0.2)) as source:
            with pytest.raises(SourceError, match=r"within 0\.5 seconds"):
                await source.decode([Question(vin) for vin in numbered_vins(4)])

    @pytest.mark.parametrize("fault", [Fault.reset, Fault.truncated, Fault.close], ids=lambda fault: str(fault.name))
    async def test_a_connection_that_breaks_is_tried_again(
        self, source: VpicSource, vpic_server: VpicServer, fault: Fault
    ) -> None:
        vpic_server.fail_next(fault)
        [record] = await source.decode(ONE)
        assert (record.text("Make"), len(vpic_server.calls)) == ("HONDA", 2)

    async def test_a_connection_that_was_closed_while_idle_is_opened_anew(
        self, source: VpicSource, vpic_server: VpicServer
    ) -> None:
        await source.decode(ONE)
        vpic_server.stop()
        vpic_server.start()
        [record] = await source.decode(ONE)
        assert record.vin == HONDA

    async def test_a_body_over_the_limit_that_hides_its_length_is_left(
        self, source: VpicSource, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_next(Fault.huge(10_000_000, declared=False))
        with pytest.raises(SourceError, match="larger than 131,072 bytes"):
            await source.decode(ONE)

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    async def test_nobodys_redirect_is_followed(self, source: VpicSource, vpic_server: VpicServer, code: int) -> None:
        with VpicServer() as other:
            vpic_server.fail_next(Fault.redirect(f"{other.url}DecodeVinValuesExtended/{HONDA}?format=json", code))
            with pytest.raises(SourceError, match=f"status {code}"):
                await source.decode(ONE)
            assert other.calls == []

    async def test_a_caller_who_leaves_makes_room_for_the_next(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        vpic_server.fail_next(Fault.silence)
        async with opened(make_settings(concurrency=1, source="vpic")) as source:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(source.decode(ONE), 0.2)
            [record] = await asyncio.wait_for(source.decode(ONE), 2)
        assert record.vin == HONDA

    def test_one_source_serves_one_event_loop_after_another(
        self, make_settings: MakeSettings, vpic_server: VpicServer
    ) -> None:
        source = VpicSource(make_settings())

        async def once() -> VIN:
            try:
                [record] = await source.decode(ONE)
            finally:
                await source.aclose()
            return record.vin

        assert [asyncio.run(once()), asyncio.run(once())] == [HONDA, HONDA]

    async def test_closing_twice_or_before_use_does_no_harm(self, make_settings: MakeSettings) -> None:
        source = VpicSource(make_settings())
        await source.aclose()
        await source.decode(ONE)
        await source.aclose()
        await source.aclose()


def test_the_dots_own_address_is_the_default() -> None:
    assert Settings().vpic_url == DEFAULT_VPIC_URL == "https://vpic.nhtsa.dot.gov/api/vehicles/"
