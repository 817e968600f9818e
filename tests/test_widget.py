"""`VinLookup` without a kernel: what changes when, what goes to its view, and what is said when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tests.conftest import numbered_vins, rows, until
from tests.vpic_server import Fault
from vin_datasette import Lookup
from vin_datasette.settings import SettingError

pytest.importorskip("anywidget")

import comm
import ipywidgets.widgets.widget
import traitlets

from vin_datasette import VinLookup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vpic_server import VpicServer

HONDA, PETERBILT = "1HGCM82633A004352", "1XP5DB9X7XD487964"
WRONG = "1XP5DB9X7XD487945"
"""Its check digit fails."""
LETTER_O = "1HGCM82633AOO4352"
"""Its zeros are letters, and a VIN is suggested."""


class Wire(comm.DummyComm):
    """A comm that keeps what a widget sends, where a kernel would pass it on."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.said: list[tuple[float, str, Any]] = []
        super().__init__(*arguments, **options)

    def publish_msg(self, msg_type: str, data: Any = None, **_: Any) -> None:  # type: ignore[override]
        if msg_type == "comm_msg":
            self.said.append((time.monotonic(), data["method"], data.get("content") or data.get("state")))

    def messages(self, kind: str) -> list[dict[str, Any]]:
        """The messages of a kind that were sent to the view, in their order."""
        return [content for _, method, content in self.said if method == "custom" and content["kind"] == kind]

    def rows(self) -> list[list[Any]]:
        """The rows as a view shows them that has heard everything: each VIN and its state."""
        shown: list[list[Any]] = []
        for _, method, content in [*self.said]:
            if method != "custom":
                continue
            if content["kind"] == "rows":
                shown = [[text, "waiting"] for text in content["rows"]]
            elif content["kind"] == "row":
                shown[content["at"]] = [content["text"], "waiting"]
            elif content["kind"] == "answers":
                for at, state, *_rest in content["answers"]:
                    shown[at][1] = state
        return shown

    def state(self) -> dict[str, Any]:
        """The state as a view has it that has heard everything."""
        return {name: value for _, method, state in self.said if method == "update" for name, value in state.items()}


@pytest.fixture(autouse=True)
def wires(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every widget a wire, and close all of them at the end."""
    monkeypatch.setattr(ipywidgets.widgets.widget.comm, "create_comm", Wire)
    yield
    ipywidgets.Widget.close_all()


@pytest.fixture
def here(tmp_path: Path) -> dict[str, Any]:
    """Settings under which the embedded database answers."""
    return {"db": tmp_path / "vin.db", "source": "embedded"}


@pytest.fixture
def vpic(tmp_path: Path, vpic_server: VpicServer) -> dict[str, Any]:
    """Settings under which `vpic_server` answers one VIN a call."""
    options = {"source": "vpic", "vpic_url": vpic_server.url, "rate": 1000, "batch_size": 1, "concurrency": 1}
    return {"db": tmp_path / "vin.db", **options}


def ended(widget: VinLookup, seconds: float = 20) -> VinLookup:
    """The widget, when nothing is under way and all is told."""
    asyncio.run(asyncio.wait_for(widget.done(), seconds))
    return widget


def says(widget: VinLookup, **content: Any) -> None:
    """Let a view say something."""
    wire: Wire = widget.comm
    wire.handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


def heard(widget: VinLookup) -> Wire:
    """What its view has heard."""
    wire: Wire = widget.comm
    return wire


def watched(widget: VinLookup) -> list[tuple[str, Any]]:
    """The changes of its traits from now on, in their order: a list that grows."""
    changes: list[tuple[str, Any]] = []
    names = ["vins", "vehicles", "rejections", "progress", "busy"]
    widget.observe(lambda change: changes.append((change["name"], change["new"])), names)
    return changes


# What it is to whoever writes Python


def test_it_looks_up_a_list(here: dict[str, Any]) -> None:
    widget = ended(VinLookup([HONDA, WRONG, "no VIN", HONDA], **here))
    assert widget.vins == [HONDA, WRONG, "no VIN", HONDA]
    assert [vehicle.model for vehicle in widget.vehicles] == ["Accord"]
    assert [rejection.vin for rejection in widget.rejections] == [WRONG, "no VIN"]
    assert (widget.progress, widget.busy) == (1.0, False)
    assert repr(widget.fetched) == "<Fetched: 4 VINs: 2 found, 2 rejected>"


def test_without_vins_it_is_an_empty_box(here: dict[str, Any]) -> None:
    widget = VinLookup(**here)
    assert (widget.vins, widget.value, widget.vehicles, widget.progress, widget.busy) == ([], "", (), 0.0, False)
    assert len(ended(widget).to_pandas()) == 0
    widget.start()
    assert not ended(widget).busy


def test_an_empty_list_is_soon_looked_up(here: dict[str, Any]) -> None:
    assert ended(VinLookup([], **here)).progress == 0.0


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table], ids=["pandas", "polars", "arrow"])
def test_a_frame_is_enriched_when_all_is_known(vpic: dict[str, Any], make: Any) -> None:
    vins = [*numbered_vins(5), "no VIN"]
    frame = make({"unit": range(6), "truck": vins})
    enriched = VinLookup(frame, column="truck", **vpic).enriched
    assert type(enriched) is type(frame)
    assert list(enriched["truck"]) == list(frame["truck"])
    assert [str(status) for status in enriched["status"]] == ["found"] * 5 + ["rejected"]


def test_vehicles_are_frames_of_three_kinds(here: dict[str, Any]) -> None:
    widget = ended(VinLookup([HONDA, PETERBILT, WRONG], **here))
    assert widget.to_pandas()["model"].tolist() == ["Accord", "379"]
    assert widget.to_polars()["model"].to_list() == ["Accord", "379"]
    assert widget.to_arrow()["model"].to_pylist() == ["Accord", "379"]


def test_a_list_cannot_be_enriched(here: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="There is no frame to enrich"):
        _ = VinLookup([HONDA], **here).enriched


def test_further_keywords_are_settings_or_traits(here: dict[str, Any]) -> None:
    widget = VinLookup(value=HONDA, vins=[PETERBILT], layout={"width": "50%"}, **here)
    assert (widget.value, widget.layout.width) == (HONDA, "50%")
    assert [vehicle.vin for vehicle in ended(widget).vehicles] == [PETERBILT]


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        ([], {"colour": "red"}, SettingError),
        ([], {"source": "elsewhere"}, SettingError),
        ([HONDA], {}, TypeError),
        ([{"vin": [HONDA]}], {}, TypeError),
        ([pd.DataFrame({"unit": [1]})], {}, ValueError),
        ([pd.DataFrame({"vin": [HONDA]}), "truck"], {}, ValueError),
        ([[HONDA], "vin"], {}, ValueError),
    ],
)
def test_what_cannot_be_meant_is_told(
    here: dict[str, Any], arguments: list[Any], options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        VinLookup(*arguments, **{**here, **options})


def test_setting_the_vins_looks_up_others(here: dict[str, Any]) -> None:
    widget = ended(VinLookup(pd.DataFrame({"vin": [HONDA]}), **here))
    widget.vins = [PETERBILT, WRONG]
    assert widget.busy
    assert [vehicle.model for vehicle in ended(widget).vehicles] == ["379"]
    assert [row[0] for row in heard(widget).rows()] == [PETERBILT, WRONG]


def test_another_frame_takes_the_place_of_the_first(here: dict[str, Any]) -> None:
    widget = VinLookup([HONDA], **here)
    widget.look_up(pl.DataFrame({"vin": [PETERBILT]}))
    assert widget.enriched["model"].to_list() == ["379"]


# What changes, and when


def test_traits_change_in_their_order(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.05
    widget = VinLookup(**vpic)
    changes = watched(widget)
    widget.look_up([*numbered_vins(12), "no VIN"])
    assert widget.busy
    ended(widget)
    assert changes[0] == ("busy", True)
    assert changes[1][0] == "vins"
    assert changes[-1] == ("busy", False)
    assert Counter(name for name, _ in changes)["busy"] == 2
    progress = [value for name, value in changes if name == "progress"]
    assert progress == sorted(progress)
    assert progress[-1] == 1.0
    assert len(progress) > 2
    vehicles = [len(value) for name, value in changes if name == "vehicles"]
    assert vehicles == sorted(vehicles)
    assert vehicles[-1] == 12


def test_who_waits_for_the_end_finds_all_else_as_it_stays(here: dict[str, Any]) -> None:
    frame = pd.DataFrame({"vin": [*numbered_vins(300), WRONG]})
    widget = VinLookup(**here)
    found: list[Any] = []

    def at_the_end(change: dict[str, Any]) -> None:
        if change["new"]:
            return
        seen = len(widget.vehicles), len(widget.rejections), widget.progress, len(widget.to_pandas())
        found.append((*seen, len(widget.enriched), asyncio.run(widget.done()) is not None))

    widget.observe(at_the_end, "busy")
    widget.look_up(frame)
    ended(widget)
    assert found == [(300, 1, 1.0, 300, 301, True)]
    assert widget._trouble == ""


def test_who_observes_the_work_cannot_wait_for_its_end(vpic: dict[str, Any]) -> None:
    widget = VinLookup(**vpic)
    widget.observe(lambda _: widget.enriched, "progress")
    widget.look_up(pd.DataFrame({"vin": numbered_vins(30)}))
    assert len(ended(widget).vehicles) == 30
    assert "What observes progress has failed: RuntimeError('An observer cannot wait" in widget._trouble


def test_traits_change_ten_times_a_second_at_most(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.005
    widget = VinLookup(numbered_vins(150), **vpic)
    ended(widget)
    sent = heard(widget).said
    seconds = sent[-1][0] - sent[0][0]
    assert len(vpic_server.calls) == 150
    # One more at the start and one at the end; each is a state, and answers.
    assert 2 <= len(heard(widget).messages("answers")) <= seconds / 0.1 + 2
    assert sum(method == "update" for _, method, _ in sent) <= seconds / 0.1 + 2


def test_traits_can_be_linked(here: dict[str, Any]) -> None:
    widget, bar = VinLookup(**here), ipywidgets.FloatProgress(max=1.0)
    text = ipywidgets.Textarea()
    traitlets.dlink((widget, "progress"), (bar, "value"))
    traitlets.dlink((widget, "vehicles"), (text, "value"), lambda vehicles: "\n".join(each.vin for each in vehicles))
    traitlets.link((widget, "value"), (text, "description"))
    widget.look_up([HONDA, PETERBILT])
    ended(widget)
    text.description = "from outside"
    assert (bar.value, text.value, widget.value) == (1.0, f"{HONDA}\n{PETERBILT}", "from outside")


def test_one_widget_can_look_up_what_another_suggests(here: dict[str, Any]) -> None:
    first, second = VinLookup(**here), VinLookup(**here)
    traitlets.dlink((first, "rejections"), (second, "vins"), lambda said: [each.suggested_vin or "" for each in said])
    first.look_up([LETTER_O, HONDA])
    ended(first)
    assert [vehicle.vin for vehicle in ended(second).vehicles] == ["1HGCM82633A004352"]


def test_an_observer_that_fails_ends_nothing(here: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    widget = VinLookup(**here)
    changes = watched(widget)

    def fail(change: dict[str, Any]) -> None:
        raise ZeroDivisionError(change["name"])

    for name in ("vehicles", "progress", "busy", "rejections", "vins"):
        widget.observe(fail, name)
    widget.look_up([HONDA, WRONG])
    ended(widget)
    assert (len(widget.vehicles), len(widget.rejections), widget.progress, widget.busy) == (1, 1, 1.0, False)
    assert changes[-1] == ("busy", False)
    assert "has failed: ZeroDivisionError('" in widget._trouble
    assert heard(widget).state()["_trouble"] == widget._trouble
    assert "What observes vehicles of a VinLookup has failed" in caplog.text
    widget.unobserve_all()
    assert ended(_looked_up(widget, [PETERBILT]))._trouble == ""


def _looked_up(widget: VinLookup, data: object) -> VinLookup:
    widget.look_up(data)
    return widget


def test_an_observer_may_stop_it(vpic: dict[str, Any]) -> None:
    widget = VinLookup(**vpic)
    widget.observe(lambda change: widget.stop() if change["new"] > 0 else None, "progress")
    widget.look_up(numbered_vins(1000))
    ended(widget)
    assert 0 < len(widget.vehicles) < 1000
    assert (widget.busy, widget._trouble) == (False, "")


def test_an_observer_may_look_up_others(here: dict[str, Any]) -> None:
    widget = VinLookup(**here)
    again = iter([[PETERBILT], [LETTER_O]])

    def go_on(change: dict[str, Any]) -> None:
        if widget.vins and not change["new"]:
            widget.look_up(next(again, []))

    widget.observe(go_on, "busy")
    widget.look_up([HONDA])
    until(lambda: widget.vins == [])
    assert ended(widget)._trouble == ""


@pytest.mark.parametrize("name", ["busy", "vins"])
def test_an_observer_may_want_others_at_the_very_start(here: dict[str, Any], name: str) -> None:
    widget = VinLookup(**here)

    def rather(_: object) -> None:
        widget.unobserve_all(name)
        widget.look_up([PETERBILT])

    widget.observe(rather, name)
    widget.look_up([HONDA, WRONG])
    assert [vehicle.vin for vehicle in ended(widget).vehicles] == widget.vins == [PETERBILT]
    assert heard(widget).rows() == [[PETERBILT, "found"]]
    assert not widget.busy


# Stop, start, and others instead


def test_it_stops_and_goes_on(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vins = numbered_vins(60)
    vpic_server.latency = 0.02
    widget = VinLookup(vins, **vpic)
    until(lambda: widget.vehicles)
    widget.stop()
    known = len(ended(widget).vehicles)
    asked = len(vpic_server.calls)
    assert (0 < known < 60, widget.busy, 0 < widget.progress < 1) == (True, False, True)
    assert "waiting" in widget._status
    vpic_server.latency = 0
    widget.start()
    assert widget.busy
    assert (len(ended(widget).vehicles), widget.progress) == (60, 1.0)
    assert len(vpic_server.calls) <= 61
    assert asked < 60
    assert {state for _, state in heard(widget).rows()} == {"found"}


def test_stopped_at_once_it_ends(vpic: dict[str, Any]) -> None:
    for _ in range(20):
        widget = VinLookup(numbered_vins(50), **vpic)
        widget.stop()
        assert not ended(widget, 5).busy
        widget.stop()


def test_starting_twice_is_starting_once(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    widget = VinLookup(numbered_vins(10), **vpic)
    widget.start()
    widget.start()
    assert len(ended(widget).vehicles) == len(vpic_server.calls) == 10


def test_other_vins_drop_the_first(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.05
    widget = VinLookup(numbered_vins(100), **vpic)
    changes = watched(widget)
    until(lambda: widget.vehicles)
    widget.look_up([PETERBILT, "no VIN"])
    vpic_server.latency = 0
    ended(widget)
    assert [vehicle.vin for vehicle in widget.vehicles] == [PETERBILT]
    assert heard(widget).rows() == [[PETERBILT, "found"], ["no VIN", "rejected"]]
    after = changes[changes.index(("vins", [PETERBILT, "no VIN"])) :]
    assert {vehicle.vin for name, value in after if name == "vehicles" for vehicle in value} == {PETERBILT}
    assert len(vpic_server.calls) < 100


def test_many_others_in_quick_succession_end_with_the_last(here: dict[str, Any]) -> None:
    vins = numbered_vins(40)
    widget = VinLookup(**here)
    for number in range(40):
        widget.look_up(vins[number:])
    ended(widget)
    assert [vehicle.vin for vehicle in widget.vehicles] == vins[39:]
    assert heard(widget).rows() == [[vins[39], "found"]]
    assert not widget.busy


def test_failures_are_asked_about_again(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.fail_always(Fault.status(404))
    widget = ended(VinLookup([HONDA, "no VIN"], **vpic))
    assert widget._status == "2 VINs: 1 rejected, 1 failed"
    assert widget._trouble.startswith("No source could be asked about 1 of them: ")
    vpic_server.reset()
    widget.start()
    assert (widget.progress, widget._trouble) == (0.5, "")
    assert ended(widget)._status == "2 VINs: 1 found, 1 rejected"
    assert heard(widget).rows() == [[HONDA, "found"], ["no VIN", "rejected"]]


# Waiting for its end


async def test_it_is_awaited_on_any_loop_and_more_than_once(vpic: dict[str, Any]) -> None:
    widget = VinLookup(numbered_vins(20), **vpic)
    first, second = await asyncio.gather(widget.done(), widget.done())
    assert len(first.vehicles) == len(second.vehicles) == 20
    elsewhere: list[int] = []
    thread = threading.Thread(target=lambda: elsewhere.append(len(asyncio.run(widget.done()))))
    thread.start()
    thread.join(10)
    assert elsewhere == [20]


async def test_who_awaits_it_may_leave(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.02
    widget = VinLookup(numbered_vins(20), **vpic)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(widget.done(), 0.05)
    assert len((await widget.done()).vehicles) == 20


async def test_who_awaits_it_awaits_the_vins_that_took_the_place(vpic: dict[str, Any]) -> None:
    widget = VinLookup(numbered_vins(500), **vpic)
    waiting = asyncio.create_task(widget.done())
    await asyncio.sleep(0)
    widget.look_up([HONDA])
    assert [vehicle.vin for vehicle in (await waiting).vehicles] == [HONDA]


# The view


def test_a_view_hears_of_rows_and_answers(here: dict[str, Any]) -> None:
    ended(VinLookup([HONDA], **here))
    widget = ended(VinLookup([HONDA, PETERBILT, LETTER_O, ""], **here))
    assert [message["rows"] for message in heard(widget).messages("rows")] == [[HONDA, PETERBILT, LETTER_O, ""]]
    answers = {each[0]: each[1:] for message in heard(widget).messages("answers") for each in message["answers"]}
    assert answers[0] == ["found", 2003, "HONDA", "Accord", "Coupe", "cached, embedded", "", None]
    assert answers[1] == ["found", 1999, "PETERBILT", "379", "Truck-Tractor", "new, embedded", "", None]
    assert answers[2][0] == answers[3][0] == "rejected"
    assert answers[2][-1] == HONDA
    assert "the letter O" in answers[2][-2]
    assert answers[3][-1] is None
    state = heard(widget).state()
    assert (state["progress"], state["busy"], state["_status"]) == (1.0, False, "4 VINs: 2 found, 2 rejected")


def test_a_view_that_comes_late_hears_all_of_it(here: dict[str, Any]) -> None:
    widget = ended(VinLookup([HONDA, WRONG], **here))
    before = len(heard(widget).said)
    says(widget, kind="ready")
    late = [content for _, _, content in heard(widget).said[before:]]
    assert late[0] == {"kind": "rows", "rows": [HONDA, WRONG]}
    assert [answer[:2] for answer in late[1]["answers"]] == [[0, "found"], [1, "rejected"]]


def test_a_view_that_comes_while_it_works_misses_nothing(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.005
    widget = VinLookup(numbered_vins(30), **vpic)
    until(lambda: widget.vehicles)
    while widget.busy:
        says(widget, kind="ready")
    assert heard(ended(widget)).rows() == [[vin, "found"] for vin in numbered_vins(30)]


def test_a_view_looks_up_what_is_pasted(here: dict[str, Any]) -> None:
    widget = VinLookup(**here)
    says(widget, kind="look_up", text=f"unit,vin\n1,{HONDA}\n2,{PETERBILT}\n")
    assert ended(widget).vins == [HONDA, PETERBILT]
    assert widget.value == f"unit,vin\n1,{HONDA}\n2,{PETERBILT}\n"
    assert len(widget.vehicles) == 2


def test_a_view_that_pastes_what_is_no_list_is_told(here: dict[str, Any]) -> None:
    widget = ended(VinLookup([HONDA], **here))
    text = "name,depot\nAnn,Austin 1\nBob,Denver 2"
    says(widget, kind="look_up", text=text)
    words = "No column of the text was found to hold VINs. Its columns are: 1 'name', 2 'depot'."
    assert (widget._trouble, widget.vins) == (words, [HONDA])
    says(widget, kind="hint", text=text)
    assert heard(widget).messages("hint") == [{"kind": "hint", "text": text, "words": words}]
    says(widget, kind="look_up", text="  \n ")
    assert widget.vins == [HONDA]
    says(widget, kind="look_up", text=PETERBILT)
    assert ended(widget)._trouble == ""


def test_a_view_stops_and_goes_on(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.02
    widget = VinLookup(numbered_vins(40), **vpic)
    until(lambda: widget.vehicles)
    says(widget, kind="stop")
    assert len(ended(widget).vehicles) < 40
    says(widget, kind="start")
    assert len(ended(widget).vehicles) == 40


def test_a_view_takes_the_vin_that_was_likely_meant(here: dict[str, Any]) -> None:
    widget = ended(VinLookup(pd.DataFrame({"vin": [PETERBILT, LETTER_O]}), **here))
    says(widget, kind="take", at=1)
    ended(widget)
    assert widget.vins == [PETERBILT, HONDA]
    assert heard(widget).messages("row") == [{"kind": "row", "at": 1, "text": HONDA}]
    assert heard(widget).rows() == [[PETERBILT, "found"], [HONDA, "found"]]
    assert widget.rejections == ()
    assert widget.enriched[["vin", "vpic_vin"]].to_numpy().tolist() == [[PETERBILT] * 2, [LETTER_O, HONDA]]


def test_a_view_takes_many_of_them_one_by_one(here: dict[str, Any]) -> None:
    vins = numbered_vins(20)
    widget = ended(VinLookup([vin.replace("0", "O") for vin in vins], **here))
    for at in range(20):
        says(widget, kind="take", at=at)
        ended(widget)
    assert heard(widget).rows() == [[vin, "found"] for vin in vins]


@pytest.mark.parametrize("at", [0, 2, -1, 99, None, "1", 1.5])
def test_a_suggestion_that_is_not_there_is_not_taken(here: dict[str, Any], at: object) -> None:
    widget = ended(VinLookup([HONDA, LETTER_O, WRONG], **here))
    says(widget, kind="take", at=at)
    says(widget, kind="take")
    assert ended(widget).vins == [HONDA, LETTER_O, WRONG]
    assert heard(widget).messages("row") == []


def test_a_suggestion_taken_while_it_works_is_for_later(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.latency = 0.05
    widget = VinLookup([LETTER_O, *numbered_vins(20)], **vpic)
    until(lambda: widget.rejections)
    says(widget, kind="take", at=0)
    assert widget._trouble == "A VIN can be replaced when nothing is under way: stop it first, or wait."
    assert widget.vins[0] == LETTER_O


def test_a_view_types(here: dict[str, Any]) -> None:
    widget = VinLookup(**here)
    data = {"method": "update", "state": {"value": HONDA}, "buffer_paths": []}
    heard(widget).handle_msg({"content": {"data": data}, "buffers": []})
    assert widget.value == HONDA


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ""),
        (HONDA, ""),
        (LETTER_O, "Position 12 holds the letter O, which no VIN uses: likely the digit 0"),
        (HONDA[:16], "A VIN has 17 characters, and this has 16"),
        (WRONG, "Position 9, the check digit, is 7 where "),
        (f"{HONDA}\n{PETERBILT}", "2 VINs."),
        (f"{HONDA}\n{HONDA[:16]}\n{WRONG}", "3 VINs. No. 2: A VIN has 17 characters, and this has 16"),
    ],
)
def test_what_is_wrong_with_a_text_is_said_before_it_is_asked(here: dict[str, Any], text: str, words: str) -> None:
    widget = VinLookup(**here)
    says(widget, kind="hint", text=text)
    [message] = heard(widget).messages("hint")
    assert message["text"] == text
    assert message["words"].startswith(words)
    assert bool(message["words"]) == bool(words)
    assert not rows(here["db"])


def test_ten_thousand_rows_are_no_trouble(here: dict[str, Any]) -> None:
    vins = numbered_vins(10_000)
    widget = VinLookup(vins, **here)
    began = time.monotonic()
    while widget.busy:
        before = time.monotonic()
        says(widget, kind="hint", text=HONDA)
        assert time.monotonic() - before < 2
        time.sleep(0.05)
    assert len(ended(widget).vehicles) == 10_000
    assert {state for _, state in heard(widget).rows()} == {"found"}
    assert len(heard(widget).messages("answers")) < (time.monotonic() - began) / 0.1 + 2


# When something is wrong


def test_vpic_away_is_told_in_words(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.fail_always(Fault.status(404))
    widget = ended(VinLookup([HONDA, PETERBILT], **vpic))
    assert widget._status == "2 VINs: 2 failed"
    assert widget._trouble.startswith("No source could be asked about 2 of them: ")
    assert "status 404" in widget._trouble
    assert {state for _, state in heard(widget).rows()} == {"failed"}
    assert widget.progress == 1.0


def test_with_vpic_away_the_embedded_database_answers(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vpic_server.fail_always(Fault.status(503))
    widget = ended(VinLookup([HONDA, PETERBILT], **{**vpic, "source": "auto"}))
    assert {vehicle.source for vehicle in widget.vehicles} == {"embedded"}
    assert widget._trouble == ""


def test_a_cache_that_cannot_be_made_is_told_in_words(here: dict[str, Any], tmp_path: Path) -> None:
    widget = ended(VinLookup([HONDA], **{**here, "db": tmp_path / "nowhere" / "vin.db"}))
    assert "cannot be made: there is no folder" in widget._trouble
    assert widget._trouble == heard(widget).state()["_trouble"]
    assert (widget._status, widget.busy) == ("1 VIN: 1 waiting", False)
    (tmp_path / "nowhere").mkdir()
    widget.start()
    assert (ended(widget)._trouble, len(widget.vehicles)) == ("", 1)


UNKEPT = "The cache could not be written: 2 of the answers are not kept."


def test_a_cache_that_somebody_else_has_locked_costs_no_answer(
    here: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vin_datasette.cache.WRITE_TIMEOUT", 0.2)
    ended(VinLookup([WRONG], **here))
    with contextlib.closing(sqlite3.connect(here["db"], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # Of other settings, so that the file is opened anew, with the shorter wait.
        widget = ended(VinLookup([HONDA, PETERBILT], **here, contact="a@example.org"))
    assert (len(widget.vehicles), widget._trouble) == (2, UNKEPT)
    assert rows(here["db"]) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_cache_that_may_only_be_read_costs_no_answer(here: dict[str, Any], tmp_path: Path) -> None:
    ended(VinLookup([WRONG], **here))
    here["db"].chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        widget = ended(VinLookup([HONDA, PETERBILT], **here, contact="a@example.org"))
    finally:
        tmp_path.chmod(0o700)
    assert (len(widget.vehicles), widget._trouble) == (2, UNKEPT)


def test_a_cache_that_does_not_take_answers_costs_none(here: dict[str, Any]) -> None:
    ended(VinLookup([WRONG], **here))
    with contextlib.closing(sqlite3.connect(here["db"])) as other:
        other.execute("CREATE TRIGGER no BEFORE INSERT ON vehicles BEGIN SELECT RAISE(ABORT, 'full'); END")
        other.commit()
    widget = ended(VinLookup([HONDA, PETERBILT], **here))
    assert (len(widget.vehicles), widget._trouble) == (2, UNKEPT)


def test_what_nobody_foresaw_is_told_in_words(here: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def known(*_: object) -> None:
        raise ZeroDivisionError("by the moon")

    monkeypatch.setattr(Lookup, "known", known)
    widget = ended(VinLookup([HONDA], **here))
    assert widget._trouble == "The lookup has failed: ZeroDivisionError('by the moon')"
    assert not widget.busy


def test_two_widgets_share_a_cache_and_what_they_ask(vpic_server: VpicServer, vpic: dict[str, Any]) -> None:
    vins = numbered_vins(60)
    one, other = VinLookup(vins, **vpic), VinLookup(vins[::-1], **vpic)
    assert len(ended(one).vehicles) == len(ended(other).vehicles) == 60
    assert len(vpic_server.calls) < 70


# How it shows itself


def test_it_shows_a_view_and_a_plain_table(here: dict[str, Any]) -> None:
    widget = ended(VinLookup(["<script>alert(1)</script>", HONDA], **here))
    bundle, _ = widget._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    assert bundle["text/plain"] == "VinLookup: 2 VINs: 1 found, 1 rejected"
    assert "<td>Accord</td>" in bundle["text/html"]
    assert "<script>" not in bundle["text/html"]


def test_its_table_is_as_it_was_when_many_rows_are_left_out(here: dict[str, Any]) -> None:
    bundle, _ = ended(VinLookup(numbered_vins(150), **here))._repr_mimebundle_()
    assert bundle["text/html"].count("<tr>") == 101
    assert "And 50 more." in bundle["text/html"]
