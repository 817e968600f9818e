"""Vehicles as plain HTML: what a notebook shows where there is no kernel, no script and no style sheet of ours."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from vin_datasette.elements import grouped
from vin_datasette.fetched import counts
from vin_datasette.lookup import Answer
from vin_datasette.vehicle import Vehicle

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vin_datasette.fetched import Fetched
    from vin_datasette.lookup import Failure

MOST_ROWS = 100
"""Rows of a table; a notebook keeps all of its output."""

_LONGEST = 40
"""Characters of a text that is to be a VIN; who pastes a whole book sees how it begins."""

_HEADINGS = ("VIN", "Model year", "Make", "Model", "Body class", "Answer")


def table(fetched: Fetched) -> str:
    """What came of many VINs, the first hundred of them, and how many of each kind there are."""
    rows = zip(fetched.given.texts[:MOST_ROWS], fetched.outcomes[:MOST_ROWS], strict=True)
    body = "".join(_row(_cells(text, outcome)) for text, outcome in rows)
    more = len(fetched) - MOST_ROWS
    rest = f"<p>And {more:,} more.</p>" if more > 0 else ""
    titles = "".join(f'<th scope="col">{heading}</th>' for heading in _HEADINGS)
    head = f"<caption>{counts(fetched.outcomes)}</caption><thead><tr>{titles}</tr></thead>"
    return f"<table>{head}<tbody>{body}</tbody></table>{rest}"


def vehicle(shown: Vehicle) -> str:
    """A vehicle: its name, where it came from, and all that vPIC says, by vPIC's groups and folded."""
    facts = ", ".join(escape(text) for text in (shown.body_class, shown["PlantCity"], shown["PlantCountry"]) if text)
    groups = "".join(
        f'<tr><th colspan="2" scope="rowgroup" style="text-align: left">{escape(title)}</th></tr>'
        + "".join(_row((each.label, each.value)) for each in items)
        for title, items in grouped(shown.record)
    )
    warnings = "".join(f"<p>{escape(warning)}</p>" for warning in shown.warnings)
    return (
        f"<div><strong>{escape(shown.name)}</strong> <code>{escape(shown.vin)}</code><br>{facts}"
        f"<br><small>{escape(shown.source)}, {shown.record.fetched_at:%Y-%m-%d}</small>{warnings}"
        f"<details><summary>All that vPIC says</summary><table><tbody>{groups}</tbody></table></details></div>"
    )


def _cells(text: str, outcome: Answer | Failure | None) -> Sequence[str]:
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    if outcome is None:
        return text, "", "", "", "", "waiting"
    if not isinstance(outcome, Answer):
        return text, "", "", "", "", f"failed: {outcome.reason}"
    result = outcome.result
    if isinstance(result, Vehicle):
        answer = f"{'cached' if outcome.cached else 'new'}, {result.source}"
        return result.vin, result["ModelYear"], result.make, result.model, result.body_class, answer
    return text, "", "", "", "", f"rejected: {result.reason}"


def _row(cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
