"""What the owner of a fleet asks, as queries of Datasette's own: canned in 0.65, stored in 1.0.

They run without the permission to execute SQL, for those who may see all the tables that they
read; nobody else learns of them. A query of the same name in the instance's configuration wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vin_datasette.schema import CHANGES, REJECTIONS, VEHICLES
from vin_datasette.vin import VIN, InvalidVIN
from vin_datasette.web import guard
from vin_datasette.web.state import state_of

if TYPE_CHECKING:
    from datasette.app import Datasette

SOURCE = "vin-datasette"
"""Who put a stored query into Datasette 1.0."""


@dataclass(frozen=True)
class Analysis:
    """A question about the cache, in SQL."""

    name: str
    title: str
    description: str
    sql: str
    tables: tuple[str, ...] = (VEHICLES,)
    """What it reads: who may see these may run it."""
    parameters: tuple[str, ...] = ()


ANALYSES = (
    Analysis(
        "vehicles_by_year_and_make",
        "Vehicles by model year and make",
        "How many vehicles there are of each make in each model year, the newest first.",
        """\
select model_year, make, count(*) as vehicles
from vehicles
group by make, model_year
order by model_year desc, vehicles desc, make""",
    ),
    Analysis(
        "oldest_and_newest",
        "The oldest and the newest vehicles",
        "The 25 vehicles of the earliest model years and the 25 of the latest: what is due for replacement, and what "
        "has just come. A model year far from all others may be a mistyped VIN.",
        """\
select * from (
  select 'oldest' as which, model_year, vin, make, model, body_class
  from vehicles
  where model_year is not null
  order by model_year, vin
  limit 25
)
union all
select * from (
  select 'newest', model_year, vin, make, model, body_class
  from vehicles
  where model_year is not null
  order by model_year desc, vin desc
  limit 25
)""",
    ),
    Analysis(
        "duplicated_serials",
        "VINs that share a serial number",
        "Pairs of VINs of the same maker (positions 1 to 3) with the same serial number (12 to 17) that differ in "
        "one thing alone: the description of the vehicle (4 to 8), the plant (11) or the model year (10). A maker "
        "gives a serial number once in a year and plant, so one of the two is likely mistyped, or a clone. Pairs that "
        "differ in the model year come last: some makers count anew each year, and then both are right.",
        """\
with shared as (
  select substr(vin, 12) as serial, substr(vin, 1, 3) as maker
  from vehicles
  group by substr(vin, 12), substr(vin, 1, 3)
  having count(*) > 1
),
pairs as (
  select
    serial,
    one.vin as vin,
    other.vin as other_vin,
    substr(one.vin, 4, 5) <> substr(other.vin, 4, 5) as description,
    substr(one.vin, 11, 1) <> substr(other.vin, 11, 1) as plant,
    substr(one.vin, 10, 1) <> substr(other.vin, 10, 1) as year
  from shared
  join vehicles as one on substr(one.vin, 12) = serial and substr(one.vin, 1, 3) = maker
  join vehicles as other on substr(other.vin, 12) = serial and substr(other.vin, 1, 3) = maker
  where one.vin < other.vin
)
select
  case when description then 'description' when plant then 'plant' when year then 'model year'
    else 'check digit' end as differs_in,
  serial,
  pairs.vin,
  trim(coalesce(one.model_year, '') || ' ' || one.make || ' ' || coalesce(one.model, '')) as vehicle,
  pairs.other_vin,
  trim(coalesce(other.model_year, '') || ' ' || other.make || ' ' || coalesce(other.model, '')) as other_vehicle
from pairs
join vehicles as one on one.vin = pairs.vin
join vehicles as other on other.vin = pairs.other_vin
where description + plant + year <= 1
order by year, plant, pairs.vin, pairs.other_vin""",
    ),
    Analysis(
        "rejections_and_why",
        "Rejected VINs and why",
        "VINs for which there is no vehicle, by reason, the most frequent reason first, each with the VIN that vPIC "
        "believes was meant; ! marks a position in doubt. What is no VIN at all is refused at once, and not kept.",
        """\
with reasons as (
  select reason, count(*) as vins_with_this_reason
  from rejections
  group by reason
)
select reason, vins_with_this_reason, vin, suggested_vin
from reasons
join rejections using (reason)
order by vins_with_this_reason desc, reason, vin""",
        (REJECTIONS,),
    ),
    Analysis(
        "changed_since_last_month",
        "What vPIC says differently now",
        "Each value that vPIC changed, the latest first: what it was, and what it became; since a date such as "
        "2026-01-31, or of the last 31 days.",
        """\
select
  changes.replaced_at,
  changes.vin,
  value.key,
  json_extract(value.value, '$[0]') as was,
  json_extract(value.value, '$[1]') as became
from changes
join json_each(changes.changed) as value
where changes.replaced_at >= coalesce(nullif(trim(:since), ''), date('now', '-31 days'))
order by changes.replaced_at desc, changes.id desc, value.key""",
        (CHANGES,),
        ("since",),
    ),
)
"""In the order in which they are offered."""


async def offered(datasette: Datasette, actor: dict[str, Any] | None) -> list[Analysis]:
    """The analyses that an actor may run."""
    return [each for each in ANALYSES if await _is_own(datasette, each) and await _may_run(datasette, actor, each)]


def canned(datasette: Datasette, database: str) -> dict[str, dict[str, Any]]:
    """Those of a database, as Datasette 0.65 takes them.

    They are the same for everyone, as 0.65 fails on a query that one actor has and another
    has not; `permits` tells who may see one.
    """
    if database != _database(datasette):
        return {}
    return {
        each.name: {
            "sql": each.sql,
            "title": each.title,
            "description": each.description,
            "params": list(each.parameters),
            "hide_sql": True,
        }
        for each in ANALYSES
        if not _configured(datasette, each)
    }


async def store(datasette: Datasette) -> None:
    """Put them among the stored queries of Datasette 1.0, in the place of an earlier version's."""
    internal, database = datasette.get_internal_database(), state_of(datasette).database
    await internal.execute_write("DELETE FROM queries WHERE source = ?", [SOURCE])
    for each in ANALYSES:
        if await datasette.get_query(database, each.name) is None:
            await datasette.add_query(
                database,
                each.name,
                each.sql,
                title=each.title,
                description=each.description,
                parameters=each.parameters,
                hide_sql=True,
                is_trusted=True,
                source=SOURCE,
            )


async def permits(datasette: Datasette, actor: dict[str, Any] | None, database: str, query: str) -> bool | None:
    """Whether an actor may see a query of Datasette 0.65: False for one of these that reads what the
    actor may not see, None where Datasette's own rules decide."""
    if database != _database(datasette):
        return None
    for each in ANALYSES:
        if each.name == query and not _configured(datasette, each):
            return None if await _may_run(datasette, actor, each) else False
    return None


async def denials(datasette: Datasette, actor: dict[str, Any] | None) -> str | None:
    """The same for Datasette 1.0: SQL, over its internal database, for a rule of each of these
    queries that reads what the actor may not see; None where there is no such."""
    if _database(datasette) is None:
        return None
    names = [f"'{each.name}'" for each in ANALYSES if not await _may_run(datasette, actor, each)]
    return f"""
        SELECT database_name AS parent, name AS child, 0 AS allow, 'reads a table that is not to be seen' AS reason
        FROM queries WHERE source = '{SOURCE}' AND name IN ({", ".join(names)})
    """  # noqa: S608 - our own names  # nosec B608


def linked_vin(datasette: Datasette, column: str, value: object) -> Markup | None:
    """A VIN in a result, under a column whose name says so, as a link to its vehicle; None for other cells."""
    if not isinstance(value, str) or not (column == "vin" or column.endswith("_vin")):
        return None
    try:
        vin = VIN(value)
    except InvalidVIN:
        return None
    return Markup('<a href="{}?vin={}">{}</a>').format(datasette.urls.path("/-/vin/lookup"), vin, value)


async def _may_run(datasette: Datasette, actor: dict[str, Any] | None, analysis: Analysis) -> bool:
    for table in analysis.tables:
        if not await guard.may_see(datasette, actor, table):
            return False
    return True


async def _is_own(datasette: Datasette, analysis: Analysis) -> bool:
    """Whether a query of this name is ours, and not the instance's."""
    if not hasattr(datasette, "get_query"):
        return not _configured(datasette, analysis)
    query = await datasette.get_query(state_of(datasette).database, analysis.name)
    return query is not None and query.source == SOURCE


def _configured(datasette: Datasette, analysis: Analysis) -> bool:
    """Whether the metadata of Datasette 0.65 has a query of this name. What `canned` returned
    stands there as well: 0.65 writes it in."""
    queries = datasette.metadata("queries", database=_database(datasette), fallback=False) or {}
    query = queries.get(analysis.name)
    return query is not None and not (isinstance(query, dict) and query.get("sql") == analysis.sql)


def _database(datasette: Datasette) -> str | None:
    """The name of the cache; None before the plugin was started."""
    try:
        return state_of(datasette).database
    except KeyError:
        return None
