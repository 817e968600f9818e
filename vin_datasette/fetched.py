"""Many VINs from Python: `fetch` and `afetch`, and what they came to as frames."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from vin_datasette import portal
from vin_datasette.given import Given, given
from vin_datasette.lookup import Answer, Failure, Plan, shared
from vin_datasette.settings import Settings
from vin_datasette.vehicle import Rejection, Vehicle
from vin_datasette.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas
    import polars
    import pyarrow as pa

    Outcome = Answer | Failure


@dataclass(frozen=True, eq=False)
class Fetched:
    """What came of many VINs, in their order.

    `outcomes` has an `Answer` or a `Failure` for each VIN of `given`, None for those that
    were not asked (yet). As a sequence it is that of its outcomes.
    """

    given: Given
    outcomes: Sequence[Outcome | None]

    def __repr__(self) -> str:
        return f"<Fetched: {counts(self.outcomes)}>"

    def __len__(self) -> int:
        return len(self.outcomes)

    def __iter__(self) -> Iterator[Outcome | None]:
        return iter(self.outcomes)

    @overload
    def __getitem__(self, index: int) -> Outcome | None: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Outcome | None]: ...

    def __getitem__(self, index: int | slice) -> Outcome | Sequence[Outcome | None] | None:
        return self.outcomes[index]

    @property
    def vehicles(self) -> tuple[Vehicle, ...]:
        """The vehicles, each once."""
        found = (each.result for each in self.outcomes if isinstance(each, Answer))
        return tuple({each.vin: each for each in found if isinstance(each, Vehicle)}.values())

    @property
    def rejections(self) -> tuple[Rejection, ...]:
        """The VINs for which there is no vehicle, each once, with the reason."""
        said = (each.result for each in self.outcomes if isinstance(each, Answer))
        return tuple({each.vin: each for each in said if isinstance(each, Rejection)}.values())

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The VINs that no source could be asked about, each once; asking again later may help."""
        return tuple({each.vin: each for each in self.outcomes if isinstance(each, Failure)}.values())

    def to_arrow(self) -> pa.Table:
        """The vehicles as an Arrow table, with the columns of an export: `vin`, the contract's four,
        some forty typed ones, then where each answer came from. The model year is a number here."""
        import pyarrow as pa

        from vin_datasette.batches import fields
        from vin_datasette.fleet.beside import vehicle_values

        rows = [vehicle_values(vehicle) for vehicle in self.vehicles]
        return _with_years(pa.Table.from_pylist(rows, schema=pa.schema(fields())))

    def to_pandas(self) -> pandas.DataFrame:
        """The vehicles as a pandas frame; whole numbers stay whole, with `<NA>` for none. Needs pandas."""
        return _as_pandas(self.to_arrow())

    def to_polars(self) -> polars.DataFrame:
        """The vehicles as a polars frame. Needs polars."""
        import polars

        return polars.DataFrame(self.to_arrow())

    @property
    def enriched(self) -> Any:
        """The frame that was handed in, of its own kind, with the vehicle's columns beside its
        own, and `cached`, `status` (`found`, `rejected`, `failed` or `waiting`), `reason` and
        `suggested_vin`. Where the frame has a column of a name, the vehicle's is `vpic_…`.
        Raises `ValueError` where VINs came without a frame."""
        if self.given.kind is None:
            raise ValueError("There is no frame to enrich: VINs came as a list. to_pandas() has the vehicles.")
        beside = _beside(self.given, self.outcomes)
        if self.given.kind == "pandas":
            import pandas

            own = self.given.frame
            added = _as_pandas(beside).set_axis(own.index, axis=0)
            if own.columns.nlevels > 1:
                below = [""] * (own.columns.nlevels - 1)
                added.columns = pandas.MultiIndex.from_tuples([(name, *below) for name in added.columns])
            added.columns = added.columns.set_names(own.columns.names)
            return pandas.concat([own, added], axis=1)
        if self.given.kind == "polars":
            import polars

            return self.given.frame.hstack(polars.from_arrow(beside))
        table = self.given.frame
        for column, values in zip(beside.schema, beside.columns, strict=True):
            table = table.append_column(column, values)
        return table

    def _repr_html_(self) -> str:
        from vin_datasette.notebook.html import table

        return table(self)


def counts(outcomes: Sequence[Outcome | None]) -> str:
    """How far it is, in words: `3 VINs: 2 found, 1 rejected`."""
    said = Counter(map(_status, outcomes))
    words = ", ".join(f"{said[word]:,} {word}" for word in ("found", "rejected", "failed", "waiting") if said[word])
    return f"{counted(len(outcomes), 'VIN')}{f': {words}' if words else ''}"


def _status(outcome: Outcome | None) -> str:
    if not isinstance(outcome, Answer):
        return "failed" if outcome else "waiting"
    return "found" if isinstance(outcome.result, Vehicle) else "rejected"


def _beside(asked: Given, outcomes: Sequence[Outcome | None]) -> pa.Table:
    """The columns beside a frame's own, as many rows as it has."""
    import pyarrow as pa

    from vin_datasette.fleet.beside import WAITING, added_columns, added_values
    from vin_datasette.fleet.row import Row

    added = added_columns(asked.names)
    nullable = [field.with_nullable(True) for field in added.fields]
    rows = [
        WAITING if outcome is None else tuple(added_values(Row(number, text), outcome))
        for number, (text, outcome) in enumerate(zip(asked.texts, outcomes, strict=True), 1)
    ]
    columns = list(zip(*rows, strict=True)) or [()] * len(nullable)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, nullable, strict=True)]
    return _with_years(pa.Table.from_arrays(arrays, schema=pa.schema(nullable)))


def _with_years(table: pa.Table) -> pa.Table:
    """A table of vehicles whose model years are numbers: who has a frame calculates with them."""
    import pyarrow as pa

    from vin_datasette.batches import fields

    # Where it stands, and not by its name, which a frame of somebody's own may have too.
    at = [field.name for field in fields()].index("model_year")
    years = [int(year) if year else None for year in table.column(at).to_pylist()]
    field = table.schema.field(at).with_type(pa.int64()).with_nullable(True)
    return table.set_column(at, field, pa.array(years, pa.int64()))


def _as_pandas(table: pa.Table) -> pandas.DataFrame:
    import pandas
    import pyarrow as pa

    types = {pa.int64(): pandas.Int64Dtype(), pa.bool_(): pandas.BooleanDtype()}
    frame: pandas.DataFrame = table.to_pandas(types_mapper=types.get)
    return frame


def fetch(
    vins: object,
    *,
    column: str | None = None,
    refresh: bool = False,
    max_age: float | str | None = None,
    silent: bool = False,
    **settings: object,
) -> Fetched:
    """What many VINs are, from the cache and, in full batches, from a source; with a bar of tqdm's
    unless `silent`.

    `vins` is an iterable of texts, a pandas or polars frame or an Arrow table, whose `column`
    of VINs is found where it is not said. `refresh` asks about cached vehicles too, and
    `max_age`, in seconds or such as "30d", about those that are older. `settings` are those of
    `Settings`, such as `db="fleet.db"`. Works inside a running event loop too, which it blocks;
    Ctrl-C ends it, and what was answered by then is cached.

    Raises `TypeError` and `ValueError` for what holds no VINs, `SettingError` and
    `CacheError` for what cannot be used. A VIN that nobody could be asked about is a `Failure`.

    >>> len(fetch(["1XP5DB9X7XD487964"], source="embedded", silent=True).vehicles)
    1
    """
    return portal.run(_fetched(given(vins, column), _plan(refresh, max_age), Settings.load(settings), silent=silent))


async def afetch(
    vins: object,
    *,
    column: str | None = None,
    refresh: bool = False,
    max_age: float | str | None = None,
    silent: bool = False,
    **settings: object,
) -> Fetched:
    """`fetch`, awaited, on any event loop, which it does not block."""
    work = _fetched(given(vins, column), _plan(refresh, max_age), Settings.load(settings), silent=silent)
    return await asyncio.wrap_future(portal.submit(work))


def _plan(refresh: bool, max_age: float | str | None) -> Plan:
    # Read as the setting of the same name is, though it is for this once.
    return Plan(refresh=refresh, max_age=None if max_age is None else Settings.load({"max_age": max_age}).max_age)


async def _fetched(asked: Given, plan: Plan, settings: Settings, *, silent: bool) -> Fetched:
    from tqdm.auto import tqdm

    outcomes: list[Outcome] = []
    with tqdm(total=len(asked.texts), desc="Looking up", unit="VIN", disable=silent) as bar:
        answers = shared(settings).answers(asked.texts, refresh=plan.refresh, max_age=plan.max_age)
        async with aclosing(answers):
            async for outcome in answers:
                outcomes.append(outcome)
                bar.update()
    return Fetched(asked, outcomes)
