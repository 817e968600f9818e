"""Many VINs from Python: `fetch`, `afetch`, and what they came to as frames and as HTML."""

from __future__ import annotations

import asyncio
import io
import pickle
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.conftest import clean_environment, numbered_vins, rows, until
from tests.vpic_server import Fault
from vin_datasette import Fetched, Vehicle, afetch, fetch, lookup
from vin_datasette.cache import CacheError
from vin_datasette.given import given
from vin_datasette.lookup import Answer, Failure
from vin_datasette.settings import SettingError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vpic_server import VpicServer

HONDA, PETERBILT = "1HGCM82633A004352", "1XP5DB9X7XD487964"
WRONG = "1XP5DB9X7XD487945"
"""Its check digit fails."""


@pytest.fixture
def here(tmp_path: Path) -> dict[str, Any]:
    """Settings under which the embedded database answers and nothing is shown."""
    return {"db": tmp_path / "vin.db", "source": "embedded", "silent": True}


@pytest.fixture
def vpic(tmp_path: Path, vpic_server: VpicServer) -> dict[str, Any]:
    """Settings under which `vpic_server` answers, quickly, and nothing is shown."""
    options = {"source": "vpic", "vpic_url": vpic_server.url, "rate": 1000, "silent": True}
    return {"db": tmp_path / "vin.db", **options}


# What comes of many VINs


def test_there_is_an_outcome_for_each_vin_in_their_order(here: dict[str, Any]) -> None:
    fetched = fetch([HONDA, WRONG, "no VIN", HONDA], **here)
    assert repr(fetched) == "<Fetched: 4 VINs: 2 found, 2 rejected>"
    assert len(fetched) == 4
    assert [type(each) for each in fetched] == [Answer] * 4
    assert fetched[0] is fetched.outcomes[0]
    assert fetched[1:3] == fetched.outcomes[1:3]


def test_vehicles_and_rejections_are_there_once_each(here: dict[str, Any]) -> None:
    fetched = fetch([HONDA, WRONG, HONDA.lower(), "1HGCM826-33A004352", WRONG, PETERBILT], **here)
    assert [vehicle.vin for vehicle in fetched.vehicles] == [HONDA, PETERBILT]
    assert [(each.vin, each.codes) for each in fetched.rejections] == [(WRONG, (1,))]
    assert fetched.failures == ()


def test_none_are_none(here: dict[str, Any]) -> None:
    fetched = fetch([], **here)
    assert repr(fetched) == "<Fetched: 0 VINs>"
    assert (len(fetched), fetched.vehicles, fetched.rejections) == (0, (), ())
    assert len(fetched.to_pandas()) == len(fetched.to_polars()) == len(fetched.to_arrow()) == 0
    assert list(fetched.to_pandas().dtypes.map(str)) == list(fetch([HONDA], **here).to_pandas().dtypes.map(str))


def test_they_are_asked_in_full_batches_and_once(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vins = numbered_vins(120)
    assert len(fetch([*vins, *vins], **vpic).vehicles) == 120
    assert [len(call.vins) for call in vpic_server.calls] == [50, 50, 20]
    assert {answer.how for answer in fetch(vins, **vpic) if isinstance(answer, Answer)} == {"hit"}
    assert len(vpic_server.calls) == 3


def test_what_nobody_could_be_asked_about_is_a_failure(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.fail_always(Fault.status(404))
    fetched = fetch([HONDA, "no VIN", HONDA], **vpic)
    assert repr(fetched) == "<Fetched: 3 VINs: 1 rejected, 2 failed>"
    assert [type(each) for each in fetched] == [Failure, Answer, Failure]
    assert [failure.vin for failure in fetched.failures] == [HONDA]
    assert "status 404" in fetched.failures[0].reason


def test_the_embedded_database_stands_in(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.fail_always(Fault.status(503))
    assert {vehicle.source for vehicle in fetch([HONDA, PETERBILT], **{**vpic, "source": "auto"}).vehicles} == {
        "embedded"
    }


@pytest.mark.parametrize(
    ("how", "calls"),
    [
        ({}, 1),
        ({"refresh": True}, 2),
        ({"max_age": 0}, 2),
        ({"max_age": "0s"}, 2),
        ({"max_age": 3600}, 1),
        ({"max_age": "30d"}, 1),
    ],
    ids=str,
)
def test_cached_vehicles_are_asked_about_again_when_that_is_wanted(
    vpic_server: VpicServer, vpic: dict[str, Any], how: dict[str, Any], calls: int
) -> None:
    fetch([HONDA], **vpic)
    fetch([HONDA], **how, **vpic)
    assert len(vpic_server.calls) == calls


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"colour": "red"}, "'colour' is no setting of vin-datasette; there are db, source"),
        ({"source": "elsewhere"}, "The setting source must be auto, vpic or embedded, not 'elsewhere'"),
        ({"max_age": "old"}, "The setting max_age must be a duration"),
        ({"max_age": -1}, "The setting max_age must be a duration"),
    ],
)
def test_a_setting_that_cannot_be_used_is_told(here: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        fetch([HONDA], **{**here, **options})


def test_a_cache_that_cannot_be_used_is_told(here: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="there is no folder"):
        fetch([HONDA], **{**here, "db": tmp_path / "nowhere" / "vin.db"})


def test_what_holds_no_vins_is_told(here: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="VINs come as a list"):
        fetch(HONDA, **here)


async def test_it_works_inside_a_running_event_loop(here: dict[str, Any]) -> None:
    assert len(fetch([HONDA], **here).vehicles) == 1


def test_ten_thousand_are_no_trouble(here: dict[str, Any]) -> None:
    vins = numbered_vins(10_000)
    frame = fetch(pd.DataFrame({"vin": vins}), **here).enriched
    assert frame["vpic_vin"].tolist() == vins
    assert set(frame["status"]) == {"found"}


def test_it_travels_between_processes(here: dict[str, Any]) -> None:
    fetched = fetch(pd.DataFrame({"vin": [HONDA, WRONG]}), **here)
    arrived = pickle.loads(pickle.dumps(fetched))
    assert arrived.outcomes == fetched.outcomes
    assert arrived.enriched.equals(fetched.enriched)


def test_two_of_them_compare_without_their_frames(here: dict[str, Any]) -> None:
    frame = pd.DataFrame({"vin": [HONDA, WRONG]})
    one, other = fetch(frame, **here), fetch(frame, **here)
    assert one != other
    assert one in {one}


# Progress, and its end


def test_a_bar_counts_vins(here: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    fetch((vin for vin in [HONDA, WRONG, "no VIN"]), **{**here, "silent": False})
    said = capsys.readouterr()
    assert "Looking up: 100%" in said.err
    assert "3/3" in said.err
    assert "VIN/s" in said.err
    assert said.out == ""


def test_silent_says_nothing(here: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    fetch([HONDA, WRONG], **here)
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_ends_it_and_keeps_what_was_answered(vpic_server: VpicServer, tmp_path: Path) -> None:
    script = """
        import sys
        from vin_datasette import fetch

        settings = dict(db=sys.argv[1], source="vpic", vpic_url=sys.argv[2], rate=1000, batch_size=1, concurrency=1)
        try:
            fetch(sys.argv[3:], **settings)
        except KeyboardInterrupt:
            print("interrupted")
    """
    db, vins = tmp_path / "vin.db", numbered_vins(200)
    vpic_server.latency = 0.05
    command = [sys.executable, "-c", textwrap.dedent(script), str(db), vpic_server.url, *vins]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=clean_environment(), **pipes) as process:  # type: ignore[call-overload]
        until(lambda: len(vpic_server.calls) > 5)
        process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=10)
    assert (process.returncode, said) == (0, "interrupted\n")
    assert "Traceback" not in complaints
    answered = [vin for call in vpic_server.calls if call.status == 200 for vin in call.vins]
    kept = [row["vin"] for row in rows(db)]
    assert len(vins) > len(answered) >= len(kept) >= len(answered) - 2 > 0


async def test_awaiting_it_holds_up_nobody(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.3
    asking = asyncio.create_task(afetch([HONDA, PETERBILT], **vpic))
    turns = 0
    while not asking.done():
        await asyncio.sleep(0.01)
        turns += 1
    assert len((await asking).vehicles) == 2
    assert turns > 10


async def test_who_awaits_it_may_leave(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.05
    asking = asyncio.create_task(afetch(numbered_vins(100), **vpic, batch_size=1, concurrency=1))
    while len(vpic_server.calls) < 3:
        await asyncio.sleep(0.01)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len((await afetch([HONDA], **vpic)).vehicles) == 1
    assert len(vpic_server.calls) < 20


# Frames


def test_a_frame_of_vehicles_has_types(here: dict[str, Any]) -> None:
    frame = fetch([HONDA, PETERBILT, WRONG], **here).to_pandas()
    assert frame[["vin", "make", "model", "model_year", "body_class"]].to_numpy().tolist() == [
        [HONDA, "HONDA", "Accord", 2003, "Coupe"],
        [PETERBILT, "PETERBILT", "379", 1999, "Truck-Tractor"],
    ]
    types = {name: str(kind) for name, kind in frame.dtypes.items()}
    assert {types["model_year"], types["doors"]} == {"Int64"}
    assert types["displacement_l"] == "float64"
    assert types["fetched_at"] == "datetime64[s, UTC]"
    assert frame["doors"].isna().tolist() == [False, True]


def test_the_kinds_of_frames_hold_the_same(here: dict[str, Any]) -> None:
    fetched = fetch([HONDA, PETERBILT], **here)
    table = fetched.to_arrow()
    assert fetched.to_polars().to_dicts() == table.to_pylist()
    assert fetched.to_pandas()["vin"].tolist() == table.column("vin").to_pylist() == [HONDA, PETERBILT]
    assert table.schema.field("model_year").type == pa.int64()
    assert table.schema.field("gvwr_from_kg").metadata[b"unit"] == b"kg"


def test_a_vehicle_without_a_model_year_has_none_in_its_frame(here: dict[str, Any]) -> None:
    [honda] = fetch([HONDA], **here).vehicles
    fetched = Fetched(given([HONDA]), [Answer(_saying(honda, ModelYear=""), "miss")])
    assert fetched.to_arrow().column("model_year").to_pylist() == [None]
    assert fetched.to_pandas()["model_year"].isna().all()


FLEET = {
    "unit": ["a", "b", "c", "d", "e"],
    "make": ["mine", None, "mine", "mine", "mine"],
    "VIN": [HONDA, None, WRONG, HONDA.lower(), "no VIN"],
    "miles": [1, 2, 3, 4, 5],
}
STATUS = ["found", "rejected", "rejected", "found", "rejected"]


def _check_added(columns: dict[str, list[Any]]) -> None:
    """Look at what stands beside the columns of `FLEET`, as values of Python."""
    assert columns["vpic_vin"] == [HONDA, "", WRONG, HONDA, "no VIN"]
    assert columns["vpic_make"] == ["HONDA", None, None, "HONDA", None]
    assert columns["model"] == ["Accord", None, None, "Accord", None]
    assert columns["model_year"] == [2003, None, None, 2003, None]
    assert columns["cached"] == [False] * 5
    assert columns["status"] == STATUS
    assert columns["reason"][0] is None
    assert columns["reason"][2] == "1 - Check Digit (9th position) does not calculate properly"


def test_a_pandas_frame_is_enriched_beside_its_own_columns(here: dict[str, Any]) -> None:
    frame = pd.DataFrame(FLEET, index=[7, 7, 9, 1, 0]).astype({"unit": "category"})
    before = frame.copy()
    enriched = fetch(frame, **here).enriched
    assert isinstance(enriched, pd.DataFrame)
    pd.testing.assert_frame_equal(enriched.iloc[:, :4], before)
    pd.testing.assert_frame_equal(frame, before)
    _check_added({name: [None if pd.isna(each) else each for each in enriched[name]] for name in enriched})
    types = {name: str(kind) for name, kind in enriched.dtypes.items()}
    assert (types["model_year"], types["cached"]) == ("Int64", "boolean")
    assert enriched[enriched["model_year"] > 2000].index.tolist() == [7, 1]


def test_a_polars_frame_is_enriched_beside_its_own_columns(here: dict[str, Any]) -> None:
    frame = pl.DataFrame(FLEET).with_columns(pl.col("unit").cast(pl.Categorical))
    enriched = fetch(frame, **here).enriched
    assert isinstance(enriched, pl.DataFrame)
    assert enriched[:, :4].equals(frame)
    assert enriched.schema["unit"] == pl.Categorical
    _check_added(enriched.to_dict(as_series=False))


def test_an_arrow_table_is_enriched_beside_its_own_columns(here: dict[str, Any]) -> None:
    frame = pa.table(FLEET).replace_schema_metadata({"owner": "me"})
    enriched = fetch(frame, **here).enriched
    assert isinstance(enriched, pa.Table)
    assert enriched.select([0, 1, 2, 3]).equals(frame)
    assert enriched.schema.metadata == {b"owner": b"me"}
    _check_added(enriched.to_pydict())


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_a_frame_without_rows_is_enriched(here: dict[str, Any], make: Any) -> None:
    frame = make({"vin": np.array([], object).astype(str)})
    enriched = fetch(frame, **here).enriched
    assert type(enriched) is type(frame)
    assert (enriched.shape[0], enriched.shape[1] > 50) == (0, True)


def test_names_that_are_there_twice_stay(here: dict[str, Any]) -> None:
    frame = pd.DataFrame([[HONDA, "x", "y", "z"]], columns=["vin", "make", "make", "Vpic_Make"])
    enriched = fetch(frame, **here).enriched
    assert list(enriched.columns[:6]) == ["vin", "make", "make", "Vpic_Make", "vpic_vin", "vpic_make_2"]
    assert enriched["vpic_make_2"].tolist() == ["HONDA"]


def test_levels_of_a_pandas_frame_stay(here: dict[str, Any]) -> None:
    columns = pd.MultiIndex.from_tuples([("truck", "vin"), ("truck", "miles")], names=["what", "which"])
    frame = pd.DataFrame([[HONDA, 5]], columns=columns, index=pd.MultiIndex.from_tuples([("Austin", 1)]))
    enriched = fetch(frame, column=("truck", "vin"), **here).enriched  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(enriched["truck"], frame["truck"])
    assert enriched["make", ""].tolist() == ["HONDA"]
    assert list(enriched.columns.names) == ["what", "which"]
    assert enriched.index.equals(frame.index)


def test_rows_that_were_not_asked_wait(here: dict[str, Any]) -> None:
    whole = fetch(pd.DataFrame({"vin": [HONDA, PETERBILT]}), **here)
    enriched = Fetched(whole.given, [whole[0], None]).enriched
    assert enriched["status"].tolist() == ["found", "waiting"]
    assert enriched["cached"].isna().tolist() == [False, True]
    assert str(enriched["cached"].dtype) == "boolean"


def test_a_list_cannot_be_enriched(here: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="There is no frame to enrich"):
        _ = fetch([HONDA], **here).enriched


# As HTML


class Page(HTMLParser):
    """HTML as it was understood: its elements, and its text. Fails where elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[str] = []
        self.text = io.StringIO()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.elements.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.write(f"{data}\n")


HOSTILE = "<script>alert('1')</script><img src=x onerror=\"alert(1)\">&amp;"


def _saying(vehicle: Vehicle, **values: str) -> Vehicle:
    return Vehicle(replace(vehicle.record, values={**vehicle.record.values, **values}))


def test_a_vehicle_shows_itself(here: dict[str, Any]) -> None:
    page = Page(lookup(HONDA, db=here["db"], source="embedded")._repr_html_())
    shown = page.text.getvalue().splitlines()
    assert shown[:2] == ["2003 HONDA Accord", " "]
    assert {HONDA, "Coupe, MARYSVILLE, UNITED STATES (USA)", "All that vPIC says", "J30A4"} <= set(shown)


def test_hostile_values_are_shown_as_text(here: dict[str, Any]) -> None:
    honda = lookup(HONDA, db=here["db"], source="embedded")
    keys = ["Make", "Model", "BodyClass", "PlantCity", "Trim", "AdditionalErrorText"]
    hostile = _saying(honda, **dict.fromkeys(keys, HOSTILE), ModelYear="<b>")
    shown = Page(hostile._repr_html_())
    assert not {"script", "img", "b"} & set(shown.elements)
    assert shown.text.getvalue().count("<script>") >= len(keys)
    answers: list[Answer | Failure | None] = [Answer(hostile, "hit"), Failure(HOSTILE, HOSTILE), None]
    table = Page(Fetched(given([HONDA, HOSTILE, HOSTILE]), answers)._repr_html_())
    assert not {"script", "img", "b"} & set(table.elements)
    assert table.elements.count("tr") == 4


def test_a_vin_that_is_markup_is_shown_as_text(here: dict[str, Any]) -> None:
    page = Page(fetch([HOSTILE], **here)._repr_html_())
    assert not {"script", "img"} & set(page.elements)
    assert "<script>alert('1')</script>" in page.text.getvalue()


def test_many_show_themselves_as_a_table_of_the_first_hundred(here: dict[str, Any]) -> None:
    page = Page(fetch([*numbered_vins(150), "no VIN"], **here)._repr_html_())
    assert page.elements.count("tr") == 101
    shown = page.text.getvalue()
    assert "151 VINs: 150 found, 1 rejected" in shown
    assert "And 51 more." in shown


def test_each_row_tells_what_came_of_it(here: dict[str, Any]) -> None:
    fetched = fetch([HONDA, WRONG], **here)
    outcomes = [*fetched, Failure(HONDA, "vPIC is away"), None]
    shown = Page(Fetched(given([HONDA, WRONG, HONDA, PETERBILT]), outcomes)._repr_html_()).text.getvalue().splitlines()
    assert "new, embedded" in shown
    assert "rejected: 1 - Check Digit (9th position) does not calculate properly" in shown
    assert "failed: vPIC is away" in shown
    assert "waiting" in shown


def test_a_text_that_is_far_too_long_is_cut(here: dict[str, Any]) -> None:
    assert len(fetch(["X" * 100_000], **here)._repr_html_()) < 2000
