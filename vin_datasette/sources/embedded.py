"""vPIC's own database, embedded in the package `ultravin`: offline and quick."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vin_datasette.record import Record, SourceName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

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

    def decode_columns(self, vins: pa.Array, years: pa.Array | None, keys: Sequence[str]) -> dict[str, pa.Array]:
        """The same of a string array of VINs, and an array of model years, as one array for each of
        vPIC's flat `keys`: of texts, `int64` or `float64` as vPIC types them, null where it has nothing to say.

        At once, on all cores but with `RAYON_NUM_THREADS` set, and without the interpreter's lock.
        """
        import pyarrow as pa
        import ultravin

        columns = {"vin": vins} if years is None else {"vin": vins, "year": years}
        names = {key: f"attr_{self._element_ids[key]}" for key in keys}
        answers = ultravin.decode_stream(
            pa.table(columns),
            vin_column="vin",
            year_column=None if years is None else "year",
            columns=[self._element_ids[key] for key in keys],
            column_names="id",
            batch_size=max(len(vins), 1),
        )
        table = pa.RecordBatchReader.from_stream(answers).read_all().combine_chunks()
        return {key: _one_array(table[name]) for key, name in names.items()}

    @cached_property
    def _element_ids(self) -> dict[str, int]:
        import ultravin

        return {element["code"]: element["element_id"] for element in ultravin.ELEMENTS.values()}


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _flat(elements: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Elements under vPIC's flat keys; an element that repeats (notes) is joined by `; `."""
    values: dict[str, str] = {}
    for element in elements:
        code, value = element["code"], element["value"] or ""
        values[code] = f"{values[code]}; {value}" if values.get(code) and value else values.get(code) or value
        if element["element_id"] in _ID_KEYS and element["attribute_id"]:
            values[_ID_KEYS[element["element_id"]]] = str(element["attribute_id"])
    return values
