"""What is kept of each lookup that a route answers, for whoever watches the server."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from vin_datasette.logs import LOOKUPS
from vin_datasette.lookup import Answer, Failure
from vin_datasette.vehicle import Vehicle

if TYPE_CHECKING:
    from collections import Counter

    from vin_datasette.lookup import Outcome
    from vin_datasette.web.hits import Hit
    from vin_datasette.web.state import State


lookups = logging.getLogger(LOOKUPS)


def observed(own: State, outcome: Outcome, began: float | None = None) -> str:
    """Count a lookup; with the time since `began`, by `time.perf_counter`, where it came alone, and then
    the log is told too. How it was answered."""
    how: str = "failed"
    result = "failure"
    if isinstance(outcome, Answer):
        how, result = outcome.how, "vehicle" if isinstance(outcome.result, Vehicle) else "rejection"
    seconds = None if began is None else time.perf_counter() - began
    own.lookup.tally.looked_up(how, result, seconds)
    if seconds is not None and lookups.isEnabledFor(logging.INFO) and isinstance(outcome, (Answer, Failure)):
        about = outcome.result if isinstance(outcome, Answer) else outcome
        record = None if isinstance(about, Failure) else about.record
        _log(str(about.vin), how, result, record.source if record else None, seconds)
    return how


def hit_observed(own: State, hit: Hit, began: float) -> None:
    """Count a hit, and tell the log, as `observed` does."""
    seconds = time.perf_counter() - began
    own.lookup.tally.looked_up("hit", "vehicle", seconds)
    if lookups.isEnabledFor(logging.INFO):
        _log(hit.vin, "hit", "vehicle", hit.source, seconds)


def _log(vin: str, how: str, result: str, source: str | None, seconds: float) -> None:
    said = {"vin": vin, "how": how, "result": result, "source": source, "seconds": round(seconds, 6)}
    lookups.info("VIN '%(vin)s': %(how)s, %(result)s, by %(source)s in %(seconds)s seconds", said)


def list_observed(hows: Counter[str], began: float) -> None:
    """Tell the log of a list of VINs, each of which was counted: how they were answered."""
    if lookups.isEnabledFor(logging.INFO):
        said = {"vins": hows.total(), **hows, "seconds": round(time.perf_counter() - began, 6)}
        lookups.info("%(vins)s VINs of a list in %(seconds)s seconds", said)
