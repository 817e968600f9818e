"""The log: lines as JSON, and VINs in none of them when they are to be masked."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import httpx
import pytest
from hypothesis import example, given, settings, strategies as st

from tests.conftest import DATASETTE_1, SCRIPT, Served, clean_environment, numbered_vins, rows, serving_aloud
from tests.vpic_server import Fault, VpicServer
from vin_datasette.masking import mask, mask_place
from vin_datasette.vin import ALPHABET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import MakeInstance

PETERBILT = "1XP5DB9X7XD487964"
STARS = "*" * 14


# What is masked


def vins() -> st.SearchStrategy[str]:
    """VINs as most are: with a serial number of six digits."""
    letters = st.text(st.sampled_from(sorted(ALPHABET)), min_size=11, max_size=11)
    return st.builds(str.__add__, letters, st.text(st.sampled_from("0123456789"), min_size=6, max_size=6)).filter(
        lambda vin: not vin.isdigit()
    )


@st.composite
def spelled(draw: st.DrawFn) -> tuple[str, str]:
    """A VIN, and a way to write it that is forgiven."""
    vin = draw(vins())
    text = vin.lower() if draw(st.booleans()) else vin
    separator = draw(st.sampled_from(["", " ", "-", "  ", "\t", "\N{NO-BREAK SPACE}", "\u2011", "\u2212", "\u00ad"]))
    cuts = sorted(draw(st.sets(st.integers(1, 16))))
    parts = [text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    return vin, separator.join(parts)


def as_it_is(text: str) -> str:
    return text


def percent(text: str) -> str:
    return quote(text, safe="")


def every_character(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


def twice(text: str) -> str:
    return percent(every_character(text))


def tilde(text: str) -> str:
    return quote(text, safe="").replace("%", "~")


def plus(text: str) -> str:
    return quote(text, safe="").replace("%20", "+")


ENCODINGS = st.sampled_from([as_it_is, percent, every_character, twice, tilde, plus])
AROUND = st.sampled_from(
    [
        ("", ""),
        ('"GET /lookup/', ' HTTP/1.1" 200'),
        ("/-/vin/refresh/", ""),
        ("/vin/vehicles/", ".json?_extra=foreign_key_tables"),
        ("/vin/vehicles?_search=", "&_size=10"),
        ("/vin/vehicles?vin__exact=", ""),
        ("/-/query?sql=select+%27", "%27"),
        ("ERROR: vPIC answered no record for: ", "!"),
        ('{"vin": "', '"}'),
        ("'a:\\n", "'"),
        ("{'p0': '", "'}"),
        ("fleet_", "_2.csv"),
    ]
)


@settings(deadline=None)
@given(spelled(), ENCODINGS, AROUND)
def test_no_vin_can_be_read_however_it_is_written(
    written: tuple[str, str], encoded: Any, around: tuple[str, str]
) -> None:
    vin, text = written
    before, after = around
    assert mask(f"{before}{encoded(text)}{after}") == f"{before}{vin[:3]}{STARS}{after}"


@settings(deadline=None)
@given(spelled())
def test_no_vin_can_be_read_among_words(written: tuple[str, str]) -> None:
    vin, text = written
    assert vin[-6:] not in re.sub(r"[\W_]", "", mask(f"vPIC answered no record for {text} at all")).upper()


@settings(deadline=None)
@given(st.lists(vins(), min_size=1, max_size=5), st.sampled_from([", ", "\n", "','", "%2C", " | "]))
def test_each_of_several_is_masked(several: list[str], between: str) -> None:
    assert mask(between.join(several)) == between.join(f"{vin[:3]}{STARS}" for vin in several)


WORDS = st.text(st.characters(exclude_categories=["Nd", "Lu", "Cs"], exclude_characters="%~"), max_size=200)


@given(WORDS.filter(lambda text: not re.search(r"/(lookup|remove|refresh|vehicles|rejections|changes)/|vin", text)))
def test_text_without_numbers_stays(text: str) -> None:
    assert mask(text) == text


@given(st.text(max_size=300))
@example("/lookup/1XP")
@example("%" * 40)
def test_what_is_masked_stays_as_it_is(text: str) -> None:
    assert mask(mask(text)) == mask(text)


OTHERS = [
    '127.0.0.1:41234 - "GET /vin/vehicles?make=HONDA&_sort_desc=model_year&_size=100 HTTP/1.1" 200',
    "The cache /var/lib/vin/2026-01-01/vin.db cannot be read (disk I/O error); asking a source instead",
    "vPIC gave no answer within 2 seconds; the last try: vPIC could not be reached ([Errno 111] Connection refused)",
    "2026-01-01T00:00:00.123Z 10000 answers could not be kept in the cache vin.db: database or disk is full",
    "Uvicorn running on http://127.0.0.1:8001 (Press CTRL+C to quit)",
    "Started server process [123456]",
    "A stream was cut off after 3600 seconds, its limit",
    "SELECT vin, make FROM vehicles ORDER BY model_year DESC LIMIT 1000",
    "answered after 1234 seconds",
    "3f786850e387550fdab836ed7e6dc881de23001b",
    "GET /lookup HTTP/1.1",
    "misunderstandings",
]


@pytest.mark.parametrize("text", OTHERS)
def test_what_a_log_says_otherwise_stays(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/lookup/1XP5DB9X7XD48796", f"/lookup/1XP{STARS}"),
        ("/lookup/1XP5DB9X7XD4879645?x=1", f"/lookup/1XP{STARS}?x=1"),
        ("/remove/IXP5-DB9X-7XD4-8796", f"/remove/IXP{STARS}"),
        ("/-/vin/refresh/%221xp5db9x7xd48796%22", f"/-/vin/refresh/1XP{STARS}"),
        ("/vin/vehicles/1XP5DB9X7XD48796.json", f"/vin/vehicles/1XP{STARS}.json"),
        ("/-/vin/lookup?vin=1XP5DB9X7XD48796", f"/-/vin/lookup?vin=1XP{STARS}"),
        ("/vin/vehicles?vin__in=1XP5DB9X7XD48796,1HG&make=HONDA", f"/vin/vehicles?vin__in=1XP{STARS},1HG&make=HONDA"),
        (
            "The cached row of VIN '1XP5DB9X7XD48796' cannot be read",
            f"The cached row of VIN '1XP{STARS}' cannot be read",
        ),
        ("/lookup/\u8eca\u8eca\u8eca\u8eca", f"/lookup/***{STARS}"),
    ],
)
def test_what_stands_in_a_vins_place_is_masked_too(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize("text", ["", "1", "1XP", " 1xp "])
def test_three_characters_stay(text: str) -> None:
    assert mask_place(text) == text


# A server


HONDAS = [str(vin) for vin in numbered_vins(20)]

RAISES = """
from datasette import hookimpl

async def fails(request):
    raise RuntimeError("no way to " + request.url_vars["vin"])

@hookimpl
def register_routes():
    return [(r"^/fails/(?P<vin>.*)$", fails)]
"""


def spoil(cache: Path) -> None:
    """A row that cannot be read, and a vehicle that cannot be written."""
    with closing(sqlite3.connect(cache)) as connection:
        connection.execute("UPDATE vehicles SET record = 'nonsense' WHERE vin = ?", [HONDAS[1]])
        connection.execute(
            f"""
            CREATE TRIGGER full BEFORE INSERT ON vehicles WHEN new.vin = '{HONDAS[2]}'
            BEGIN SELECT raise(ABORT, 'no room for {HONDAS[2]}'); END
            """
        )
        connection.commit()


def go_through_all_doors(server: Served, vpic_server: VpicServer, cache: Path) -> None:
    """Ask for Hondas in every way."""
    query = "/vin/-/query.json" if DATASETTE_1 else "/vin.json"
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for vin in (
            *HONDAS[:2],
            HONDAS[0],
            f"{HONDAS[0][:9]}-{HONDAS[0][9:].lower()}",
            "".join(map(every_character, HONDAS[0])),
        ):
            assert client.get(f"/lookup/{vin}").status_code == 200
        spoil(cache)
        expected = {
            f"/lookup/{HONDAS[1]}": 200,
            f"/lookup/{HONDAS[2]}": 200,
            f"/lookup/{HONDAS[3][:-1]}": 404,
            f"/lookup/{HONDAS[3][:8]}X{HONDAS[3][9:]}": 404,
            f"/-/vin/lookup?vin={HONDAS[0]}": 302,
            f"/vin/vehicles/{HONDAS[0]}": 200,
            f"/vin/vehicles/{HONDAS[0]}.json": 200,
            f"/vin/vehicles?vin__exact={HONDAS[0]}": 200,
            f"/vin/vehicles.json?_search={HONDAS[0]}": 200,
            f"/nothing/{HONDAS[0]}": 404,
            f"/fails/{HONDAS[0]}": 500,
            f"{query}?sql=select+nonsense('{HONDAS[0]}')": 400,
        }
        assert {path: client.get(path).status_code for path in expected} == expected
        for fault in (Fault.wrong_vin, Fault.status(503), Fault.html_200):
            vpic_server.fail_always(fault)
            client.get(f"/lookup/{HONDAS[4]}")
    # Without the cookies that pages have set, which make Datasette 0.65 want a token.
    assert httpx.post(f"{server.url}/lookup", json=[*HONDAS, "nonsense"], timeout=30).status_code == 200
    assert httpx.post(f"{server.url}/-/vin/refresh/{HONDAS[0]}", timeout=30).status_code in (200, 503)
    assert httpx.post(f"{server.url}/remove/{HONDAS[0]}", timeout=30).text == "true"


def readable(said: str) -> list[str]:
    """The VINs that somebody who has the log can read to their end."""
    plain = re.sub(r"[\s-]", "", unquote(unquote(said.replace("~", "%")))).upper()
    return [vin for vin in HONDAS if vin[3:] in plain or vin[3:-1] in plain]


@contextmanager
def of_somebody(folder: Path, **variables: str) -> Iterator[Served]:
    """The plugin in somebody's own Datasette."""
    process = subprocess.Popen(
        [Path(sys.executable).with_name("datasette"), "--port", "0", "--plugins-dir", "plugins", "."],
        cwd=folder,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    served = Served(process)
    try:
        yield served
    finally:
        served.stop()


def logged(folder: Path, own: bool, **variables: str) -> str:
    """All that a server wrote while it was asked in every way."""
    (folder / "plugins").mkdir()
    (folder / "plugins" / "fails.py").write_text(RAISES)
    with VpicServer() as vpic_server:
        variables |= {"VIN_DATASETTE_VPIC_URL": vpic_server.url, "VIN_DATASETTE_RATE": "1000"}
        variables |= {"VIN_DATASETTE_TIMEOUT": "1"}
        serving = serving_aloud(folder, "--", "--plugins-dir", "plugins", **variables)
        of_others = of_somebody(folder, VIN_DATASETTE_ALLOW_REMOVE="true", **variables)
        with serving if own else of_others as server:
            go_through_all_doors(server, vpic_server, folder / "vin.db")
    return server.said()


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The log of `vin-datasette serve` as JSON, VINs masked."""
    said = logged(
        tmp_path_factory.mktemp("json"), True, VIN_DATASETTE_LOG_FORMAT="json", VIN_DATASETTE_MASK_VINS="true"
    )
    return [json.loads(line) for line in said.splitlines()]


def test_every_line_is_an_object(lines: list[dict[str, Any]]) -> None:
    assert len(lines) > 40
    for line in lines:
        assert [*line][:4] == ["time", "level", "logger", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        age = datetime.now(timezone.utc) - datetime.fromisoformat(line["time"].replace("Z", "+00:00"))
        assert 0 <= age.total_seconds() < 600


def test_no_vin_is_in_any_line(lines: list[dict[str, Any]]) -> None:
    said = json.dumps(lines)
    assert f"1HG{STARS}" in said
    assert readable(said) == []


def test_a_request_is_told_of_by_its_parts(lines: list[dict[str, Any]]) -> None:
    requests = [line for line in lines if line["logger"] == "uvicorn.access"]
    [removed] = [line for line in requests if "/remove/" in line["path"]]
    told = {name: removed[name] for name in ("level", "method", "path", "status", "http_version")}
    assert told == {
        "level": "INFO",
        "method": "POST",
        "path": f"/remove/1HG{STARS}",
        "status": 200,
        "http_version": "1.1",
    }
    assert re.fullmatch(r"127\.0\.0\.1:\d+", removed["client"])


def test_a_lookup_is_told_of_by_how_it_was_answered(lines: list[dict[str, Any]]) -> None:
    lookups = [line for line in lines if line["logger"] == "vin_datasette.lookups"]
    first, second, third, *_ = [
        {name: line.get(name) for name in ("vin", "how", "result", "source")} for line in lookups if "vin" in line
    ]
    assert first == {"vin": f"1HG{STARS}", "how": "miss", "result": "vehicle", "source": "vpic"}
    assert second["how"] == "miss"
    assert third == {"vin": f"1HG{STARS}", "how": "hit", "result": "vehicle", "source": "vpic"}
    assert {line["how"] for line in lookups if "vin" in line} >= {"hit", "miss", "malformed"}
    assert re.fullmatch(r"VIN '1HG\*{14}': miss, vehicle, by vpic in [\d.]+ seconds", lookups[0]["message"])
    assert all(0 < line["seconds"] < 60 for line in lookups)
    [listed] = [line for line in lookups if "vins" in line]
    assert listed["vins"] == 21
    assert listed["malformed"] == 1


@pytest.mark.parametrize(
    "words",
    [
        "Whoever reaches 127.0.0.1",
        "The cached row of VIN '1HG",
        "vin.db cannot be written (no room for 1HG",
        "the embedded database answers",
    ],
)
def test_warnings_are_among_the_lines(lines: list[dict[str, Any]], words: str) -> None:
    assert [line for line in lines if words in line["message"] and line["level"] in ("WARNING", "ERROR")]


def test_an_error_that_nobody_foresaw_is_one_line(lines: list[dict[str, Any]]) -> None:
    [failed] = [line for line in lines if "exception" in line]
    assert failed["message"] == "A request failed"
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert failed["exception"].endswith(f"RuntimeError: no way to 1HG{STARS}")


def test_what_datasette_prints_past_the_log_is_a_line_too(lines: list[dict[str, Any]]) -> None:
    assert [line for line in lines if line["logger"] == "stderr" and "no such function" in line["message"]]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of somebody's own Datasette as text, VINs masked."""
    return logged(tmp_path_factory.mktemp("text"), False, VIN_DATASETTE_MASK_VINS="true")


def test_no_vin_is_in_any_text(texts: str) -> None:
    assert f'"GET /lookup/1HG{STARS} HTTP/1.1" 200 OK' in texts
    assert f"RuntimeError: no way to 1HG{STARS}" in texts
    assert readable(texts) == []


def test_somebodys_own_datasette_logs_as_json(tmp_path: Path) -> None:
    said = logged(tmp_path, False, VIN_DATASETTE_LOG_FORMAT="json")
    found = [json.loads(line) for line in said.splitlines()]
    assert f"/lookup/{HONDAS[0]}" in {line.get("path") for line in found}
    assert [line for line in found if line["message"].startswith("Uvicorn running on")]


async def test_nothing_is_changed_where_settings_say_nothing(make_instance: MakeInstance) -> None:
    from datasette import handle_exception
    from uvicorn.config import LOGGING_CONFIG

    before = json.dumps(LOGGING_CONFIG), logging.getLogRecordFactory(), sys.stderr, handle_exception.traceback
    datasette = await make_instance()
    assert (await datasette.client.get(f"/lookup/{PETERBILT}")).status_code == 200
    assert before == (
        json.dumps(LOGGING_CONFIG),
        logging.getLogRecordFactory(),
        sys.stderr,
        handle_exception.traceback,
    )
    assert not logging.getLogger("vin_datasette.lookups").isEnabledFor(logging.INFO)


# The command line


def test_a_command_masks_its_log_and_not_its_answers(vpic_server: VpicServer, tmp_path: Path) -> None:
    vpic_server.fail_always(Fault.status(400, body="<p>no</p>"))
    found = subprocess.run(
        [SCRIPT, "fetch", *HONDAS[:2], "nonsense", "--vpic-url", vpic_server.url, "--rate", "1000"],
        cwd=tmp_path,
        env=clean_environment(VIN_DATASETTE_LOG_FORMAT="json", VIN_DATASETTE_MASK_VINS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 fetched (2 by embedded)" in found.stdout
    log = [json.loads(line) for line in found.stderr.splitlines() if line.startswith("{")]
    told = [line for line in found.stderr.splitlines() if not line.startswith("{")]
    assert {line["logger"] for line in log} == {"vin_datasette.sources.standin"}
    assert readable(json.dumps(log)) == []
    assert [line.partition(": ")[0] for line in told] == ["nonsense"]
    assert {row["vin"] for row in rows(tmp_path / "vin.db")} == set(HONDAS[:2])


def test_a_lookup_prints_its_vin(tmp_path: Path) -> None:
    said = subprocess.run(
        [SCRIPT, "lookup", PETERBILT, "--source", "embedded"],
        cwd=tmp_path,
        env=clean_environment(VIN_DATASETTE_LOG_FORMAT="json", VIN_DATASETTE_MASK_VINS="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"Input VIN Requested  {PETERBILT}\n" in said.stdout
    assert said.stderr == ""


@pytest.mark.parametrize(("options", "logged"), [((), True), (("--no-access-log",), False)])
def test_requests_are_logged_unless_the_server_is_told_not_to(
    tmp_path: Path, options: tuple[str, ...], logged: bool
) -> None:
    with serving_aloud(tmp_path, "--source", "embedded", *options) as served:
        assert httpx.get(f"{served.url}/-/vin/live").status_code == 200
    assert ("GET /-/vin/live" in served.said()) is logged
