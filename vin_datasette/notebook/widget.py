"""`VinLookup`: a box, a table that fills, and a data frame in the next cell."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets
from IPython.display import display, update_display

from vin_datasette import portal
from vin_datasette.fetched import counts
from vin_datasette.fleet.fleet import InputError
from vin_datasette.fleet.pasted import vins_in
from vin_datasette.given import Given, given
from vin_datasette.lookup import Answer
from vin_datasette.notebook.html import table
from vin_datasette.notebook.inquiry import Inquiry
from vin_datasette.settings import Settings
from vin_datasette.vehicle import Rejection, Vehicle
from vin_datasette.vin import VIN, InvalidVIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas
    import polars
    import pyarrow as pa

    from vin_datasette.fetched import Fetched
    from vin_datasette.lookup import Failure

log = logging.getLogger(__name__)

_STATIC = Path(__file__).parent / "static"


class VinLookup(anywidget.AnyWidget):
    """A widget that looks VINs up, one or many, while the kernel stays free.

    `data` is a list of VINs, a pandas or polars frame or an Arrow table, whose `column` of
    VINs is found where it is not said; without it the widget has an empty box. Further
    keywords are settings, such as `db="fleet.db"` or `source="embedded"`, or traits of a widget.

    Traits, all of them observable: `vins` (the texts in hand; set them to look up others),
    `value` (the text in the box), `vehicles` and `rejections` (what is known by now), `progress`
    (from 0 to 1) and `busy`. Observers are called from a thread of the widget's own, ten times a
    second at most.

    Raises `TypeError` and `ValueError` for what holds no VINs, and `SettingError`.
    """

    _esm = _STATIC / "widget.js"
    _css = _STATIC / "widget.css"

    vins = traitlets.List(traitlets.Unicode(), help="The VINs in hand, as they are written.")
    value = traitlets.Unicode("", help="The text in the box.").tag(sync=True)
    vehicles = traitlets.Tuple(help="The vehicles found by now, each once.")
    rejections = traitlets.Tuple(help="The VINs for which there is no vehicle, each once, with the reason.")
    progress = traitlets.Float(0.0, help="The share of the VINs that is answered, from 0 to 1.").tag(sync=True)
    busy = traitlets.Bool(False, help="Whether a source or the cache is being asked.").tag(sync=True)
    _status = traitlets.Unicode("").tag(sync=True)
    _trouble = traitlets.Unicode("").tag(sync=True)

    def __init__(self, data: object = None, column: str | None = None, **options: Any) -> None:
        names = set(self.trait_names())
        traits = {name: options.pop(name) for name in [*options] if name in names}
        self._settings = Settings.load(options)
        self._lock = threading.RLock()
        self._teller: int | None = None
        self._unheard = ""
        self._shown = False
        self._inquiry = self._inquiry_about(Given(()))
        asked = traits.pop("vins", None)
        super().__init__(**traits)
        self.on_msg(self._heard)
        if data is not None or asked is not None:
            self.look_up(asked if data is None else data, column)

    def look_up(self, data: object, column: str | None = None) -> None:
        """Look up other VINs than those in hand; `data` and `column` as for the class."""
        self._begin(given(data, column))

    def start(self) -> None:
        """Go on with what has no answer yet."""
        with self._telling():
            self._inquiry.start()
            self._unheard = ""
            self._tell(self.fetched, busy=True)

    def stop(self) -> None:
        """Ask no more; what is answered stays."""
        self._inquiry.stop()

    def close(self) -> None:
        """Leave the notebook: nothing more is asked."""
        # A widget that could not be made is closed as well.
        if "_inquiry" in vars(self):
            self.stop()
        super().close()

    async def done(self) -> Fetched:
        """What came of all VINs in hand, awaited until nothing is under way; on any event loop.

        Raises `RuntimeError` in an observer that is called while something is."""
        while not (ended := self._ending()).done():
            await asyncio.shield(asyncio.wrap_future(ended))
        return self.fetched

    @property
    def fetched(self) -> Fetched:
        """What is known by now, VIN by VIN."""
        return self._inquiry.fetched

    @property
    def enriched(self) -> Any:
        """The frame that was handed in, of its own kind, with the vehicle's columns; waits until
        nothing is under way. See `Fetched.enriched`, and `done` for when it cannot wait."""
        while not (ended := self._ending()).done():
            portal.result(ended)
        return self.fetched.enriched

    def _ending(self) -> Future[None]:
        """Done when nothing is under way."""
        if self._teller != threading.get_ident():
            return self._inquiry.ended
        if self._inquiry.busy:
            raise RuntimeError("An observer cannot wait for the end; `fetched` has what is known by now.")
        told: Future[None] = Future()
        told.set_result(None)
        return told

    def to_arrow(self) -> pa.Table:
        """The vehicles found by now as an Arrow table."""
        return self.fetched.to_arrow()

    def to_pandas(self) -> pandas.DataFrame:
        """The vehicles found by now as a pandas frame."""
        return self.fetched.to_pandas()

    def to_polars(self) -> polars.DataFrame:
        """The vehicles found by now as a polars frame."""
        return self.fetched.to_polars()

    # What begins and what came of it

    @traitlets.observe("vins")
    def _other_vins(self, change: dict[str, Any]) -> None:
        if list(change["new"]) != list(self._inquiry.given.texts):
            self.look_up(change["new"])

    def _begin(self, asked: Given) -> None:
        with self._telling():
            self._inquiry.stop()
            self._inquiry = inquiry = self._inquiry_about(asked)
            self._unheard = ""
            inquiry.start()
            self.send({"kind": "rows", "rows": list(asked.texts)})
            with self.hold_sync():
                self._change(busy=True)
                # Not those that were asked for: who observes it may want others already.
                self._change(vins=list(self._inquiry.given.texts))
                self._tell(self.fetched, busy=True)

    def _inquiry_about(self, asked: Given) -> Inquiry:
        inquiry = Inquiry(asked, self._settings, lambda fresh: self._answered(inquiry, fresh))
        return inquiry

    def _answered(self, inquiry: Inquiry, fresh: Sequence[int]) -> None:
        """Called by an inquiry, from a thread; one that was left for another is not heard."""
        with self._telling():
            if inquiry is not self._inquiry:
                return
            fetched, busy = inquiry.fetched, inquiry.busy
            self._send_answers(fetched, fresh)
            self._tell(fetched, busy=busy)
        if not busy:
            self._show_again()

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """One thread at a time changes traits, and calls those who observe them."""
        with self._lock:
            before, self._teller = self._teller, threading.get_ident()
            try:
                yield
            finally:
                self._teller = before

    def _tell(self, fetched: Fetched, *, busy: bool) -> None:
        """Bring traits up to what is known."""
        known = sum(outcome is not None for outcome in fetched.outcomes)
        with self.hold_sync():
            if busy:
                self._change(busy=True)
            self._change(
                vehicles=fetched.vehicles,
                rejections=fetched.rejections,
                progress=known / len(fetched) if len(fetched) else 0.0,
                _status=counts(fetched.outcomes) if len(fetched) else "",
            )
            self._change(_trouble=self._inquiry.trouble or self._unheard or _trouble(fetched))
            # The last to change: who waits for it finds all else as it stays.
            self._change(busy=busy)
            if self._unheard and not self._trouble:
                self._change(_trouble=self._unheard)

    def _change(self, **traits: object) -> None:
        for name, value in traits.items():
            try:
                setattr(self, name, value)
            except Exception as error:
                # An observer of somebody's own must not end the work, nor fail unheard.
                log.exception("What observes %s of a VinLookup has failed", name)
                self._unheard = f"What observes {name} has failed: {error!r}"

    # The view

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take over what a view has changed."""
        # Not while another thread changes traits: ipywidgets holds back notifications of all of them meanwhile.
        with self._telling():
            super().set_state(sync_data)

    def _heard(self, _: object, content: dict[str, Any], __: object) -> None:
        """What a view says. Nothing here waits: a callback may run on the thread of the cells."""
        kind = content.get("kind")
        if kind == "ready":
            self._send_all()
        elif kind == "look_up":
            self._look_up_text(str(content.get("text", "")))
        elif kind == "start":
            self.start()
        elif kind == "stop":
            self.stop()
        elif kind == "take":
            self._take(content.get("at"))
        elif kind == "hint":
            self.send({"kind": "hint", "text": content.get("text"), "words": hint(str(content.get("text", "")))})

    def _send_all(self) -> None:
        with self._telling():
            fetched = self.fetched
            self.send({"kind": "rows", "rows": list(fetched.given.texts)})
            self._send_answers(fetched, [at for at, outcome in enumerate(fetched.outcomes) if outcome is not None])

    def _look_up_text(self, text: str) -> None:
        with self._telling():
            self._change(value=text)
            try:
                texts = vins_in(text)
            except InputError as error:
                self._change(_trouble=str(error))
                return
            if texts:
                self._begin(Given(texts))

    def _take(self, position: object) -> None:
        with self._telling():
            outcomes = self.fetched.outcomes
            if not isinstance(position, int) or not 0 <= position < len(outcomes):
                return
            suggested = _suggestion(outcomes[position])
            if suggested is None:
                return
            try:
                self._inquiry.replace(position, suggested)
            except RuntimeError as error:
                self._change(_trouble=str(error))
                return
            self.send({"kind": "row", "at": position, "text": suggested})
            with self.hold_sync():
                self._change(busy=True, vins=list(self._inquiry.given.texts))
                self._tell(self.fetched, busy=True)

    def _send_answers(self, fetched: Fetched, positions: Iterable[int]) -> None:
        answers = [[at, *_line(fetched.outcomes[at])] for at in positions]
        if answers:
            self.send({"kind": "answers", "answers": answers})

    # How it shows itself

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The view, and for where there is no kernel a plain table of the last state."""
        bundle = super()._repr_mimebundle_(**options)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data = {
            **(data or {}),
            "text/plain": f"VinLookup: {counts(self.fetched.outcomes)}",
            "text/html": table(self.fetched),
        }
        return data, metadata

    def _ipython_display_(self) -> None:
        self._shown = True
        data, metadata = self._repr_mimebundle_()
        display(data, metadata=metadata, raw=True, display_id=self._display_id)

    def _show_again(self) -> None:
        """Let a notebook that is kept keep the last state, wherever it shows this."""
        if self._shown:
            data, metadata = self._repr_mimebundle_()
            again = partial(update_display, data, metadata=metadata, raw=True, display_id=self._display_id)
            # In this context it would be said for the cell that began it: nbclient hears only the one that runs now.
            Context().run(again)

    @property
    def _display_id(self) -> str:
        return f"vin-lookup-{self.model_id}"


def hint(text: str) -> str:
    """What is wrong with the VINs of a text and where, before they are asked; "" when nothing is known to be."""
    try:
        texts = vins_in(text)
    except InputError as error:
        return str(error)
    wrong = [(number, words) for number, each in enumerate(texts, 1) if (words := _wrong(each))]
    if not wrong:
        return "" if len(texts) < 2 else f"{len(texts):,} VINs."
    number, words = wrong[0]
    if len(texts) == 1:
        return words
    more = f" And {len(wrong) - 1:,} more." if len(wrong) > 1 else ""
    return f"{len(texts):,} VINs. No. {number}: {words}{more}"


def _wrong(text: str) -> str:
    try:
        vin = VIN(text)
    except InvalidVIN as error:
        return error.reason
    if vin.check_digit_valid:
        return ""
    return f"Position 9, the check digit, is {vin.check_digit} where {vin.expected_check_digit} is due."


def _trouble(fetched: Fetched) -> str:
    unstored = sum(isinstance(outcome, Answer) and not outcome.stored for outcome in fetched.outcomes)
    if unstored:
        return f"The cache could not be written: {unstored:,} of the answers are not kept."
    failures = fetched.failures
    return f"No source could be asked about {len(failures):,} of them: {failures[0].reason}" if failures else ""


def _line(outcome: Answer | Failure | None) -> list[Any]:
    """What a row of the view shows: state, year, make, model, body class, answer, reason, suggested VIN."""
    if not isinstance(outcome, Answer):
        return ["failed", None, "", "", "", "", outcome.reason if outcome else "", None]
    result = outcome.result
    if isinstance(result, Vehicle):
        answer = f"{'cached' if outcome.cached else 'new'}{'' if result.source == 'vpic' else f', {result.source}'}"
        return ["found", result.model_year, result.make, result.model, result.body_class, answer, "", None]
    return ["rejected", None, "", "", "", "", result.reason, _suggestion(outcome)]


def _suggestion(outcome: Answer | Failure | None) -> VIN | None:
    """A whole VIN that can be taken instead of a rejected one."""
    result = outcome.result if isinstance(outcome, Answer) else None
    return result.likely_vin if isinstance(result, Rejection) else None
