"""vPIC's own database, embedded in the package `ultravin`: offline and quick."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vin_datasette.record import Record, SourceName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vin_datasette.sources import Question

# vPIC's flat answer names the ids of these elements' values; the engine gives them beside the value.
_ID_KEYS = {26: "MakeID", 27: "ManufacturerId", 28: "ModelID"}


class EmbeddedSource:
    """The database that the DOT publishes every month, decoded in this process.

    Its records have the API's flat keys; what the database has nothing to say on
    is left out, and so are the private NCSA elements, which are not published.
    """

    name: SourceName = "embedded"

    @cached_property
    def version(self) -> str:
        """The month of the data, such as `2026_10`."""
        import ultravin

        return ultravin.provenance()["data_month"]

    async def decode(self, questions: Sequence[Question]) -> list[Record]:
        """One record for each question. See `Source.decode`; raises nothing of its own."""
        return await asyncio.to_thread(self.decode_now, questions)

    async def aclose(self) -> None:
        """Nothing is held open."""

    def decode_now(self, questions: Sequence[Question]) -> list[Record]:
        """The same at once, on the calling thread."""
        import ultravin

        answers = ultravin.decode_batch(
            [str(question.vin) for question in questions],
            years=[question.model_year for question in questions],
            full=True,
        )
        now = datetime.now(timezone.utc).replace(microsecond=0)
        return [
            Record(question.vin, {"VIN": str(question.vin), **_flat(answer["elements"])}, "embedded", self.version, now)
            for question, answer in zip(questions, answers, strict=True)
        ]


def _flat(elements: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Elements under vPIC's flat keys; an element that repeats (notes) is joined by `; `."""
    values: dict[str, str] = {}
    for element in elements:
        code, value = element["code"], element["value"] or ""
        values[code] = f"{values[code]}; {value}" if values.get(code) and value else values.get(code) or value
        if element["element_id"] in _ID_KEYS and element["attribute_id"]:
            values[_ID_KEYS[element["element_id"]]] = str(element["attribute_id"])
    return values
