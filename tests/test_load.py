"""`vin-datasette load`: what an engine decoded is in the cache as a lookup would have put it there."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ultravin
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import SCRIPT, clean_environment, fill_cache, numbered_vins, rows, until
from tests.fuzz import DERANDOMIZE, EXAMPLES
from tests.fuzz.test_files import MEASURED, MOST, damaged
from tests.test_cli import assert_fails_in_words, run_process, started
from tests.test_lookup import read_only
from tests.vpic_server import flat_record
from vin_datasette import VIN
from vin_datasette.arrow import decode_batches
from vin_datasette.batches import fields
from vin_datasette.cache import Cache
from vin_datasette.cli import cli
from vin_datasette.fleet.columns import names_beside, position_beside
from vin_datasette.rebuilt import MARK
from vin_datasette.record import Record
from vin_datasette.vehicle import Vehicle, interpret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from click.testing import Result

    from vin_datasette.record import SourceName

HONDA, PETERBILT, FAILING = "1HGCM82633A004352", "1XP5DB9X7XD487964", "1XP5DB9X7XD487945"
FLEET = [HONDA, PETERBILT, FAILING]
WHOLE = [field.name for field in fields(raw=True) if field.name != "vin"]
NOON = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
LATER = NOON + timedelta(days=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIN_DATASETTE_SOURCE", "embedded")
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def decoded(vins: Sequence[object], columns: Sequence[str] | None = None, **own: Sequence[object]) -> pa.Table:
    """What `decode_batches` makes of VINs, behind columns of one's own."""
    batch = pa.record_batch({**own, "vin": pa.array(vins, pa.string())})
    return pa.Table.from_batches(decode_batches([batch], columns=columns))


def changed(table: pa.Table, row: int = 0, **values: object) -> pa.Table:
    """A table with other values in one of its rows."""
    said = table.to_pylist()
    said[row].update(values)
    return pa.Table.from_pylist(said, table.schema)


def written(table: pa.Table, name: str = "decoded.parquet") -> str:
    pq.write_table(table, name)
    return name


def loaded(table: pa.Table, *options: str) -> Result:
    return run("load", written(table), *options)


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def counted(result: Result) -> str:
    """The summary without its seconds."""
    return result.stdout.rpartition(";")[0]


def without(rows: Sequence[Mapping[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in names} for row in rows]


def answered(vin: str, source: SourceName = "vpic", when: datetime = NOON, **values: str) -> Vehicle:
    """A whole answer."""
    version = "2026_10" if source == "embedded" else None
    answer = interpret(Record(VIN(vin), {**flat_record(vin), **values}, source, version, when))
    assert isinstance(answer, Vehicle)
    return answer


def kept(path: Path, *answers: Vehicle) -> None:
    with closing(Cache(path)) as cache:
        cache.save(answers)


def exported(path: Path, *answers: Vehicle, whole: bool = False) -> pa.Table:
    """What an export of a cache with these answers has, with `whole` as `_raw=1` adds it."""
    kept(path, *answers)
    assert run("export", "exported.parquet", "--db", str(path)).exit_code == 0
    table = pq.read_table("exported.parquet")
    if whole:
        table = table.append_column(fields(raw=True)[-1], [[row["record"] for row in rows(path)]])
    return table


# As a lookup would have had it


@pytest.fixture(scope="module")
def looked_up(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """VINs of all kinds, among them some that are none, and the cache that has looked them up."""
    place = tmp_path_factory.mktemp("looked-up")
    vins = [*ultravin.generate(250, seed=9, invalid_rate=0.2), *FLEET, "1hg-CM82633A004352", "no VIN", ""]
    (place / "vins.json").write_text(json.dumps(vins))
    options = ["--source", "embedded", "--silent", "--rejections", os.devnull]
    run("fetch", "-f", str(place / "vins.json"), "--db", str(place / "vin.db"), *options)
    return vins, place / "vin.db"


def test_whole_records_are_those_of_a_lookup(looked_up: tuple[list[str], Path], folder: Path) -> None:
    vins, there = looked_up
    assert loaded(decoded(vins, WHOLE)).exit_code == 0
    for table in ("vehicles", "rejections"):
        want = without(rows(there, table), "fetched_at")
        assert len(want) > 20
        assert without(rows(folder / "vin.db", table), "fetched_at") == want


def test_columns_are_those_of_a_lookup(looked_up: tuple[list[str], Path], folder: Path) -> None:
    vins, there = looked_up
    assert loaded(decoded(vins)).exit_code == 0
    unknown = ("fetched_at", "record", "suggested_vin")
    assert without(rows(folder / "vin.db"), *unknown) == without(rows(there), *unknown)
    want = without(rows(there, "rejections"), *unknown, "make")
    assert without(rows(folder / "vin.db", "rejections"), *unknown, "make") == want


def test_folders_of_an_export_are_columns(folder: Path) -> None:
    answers = [answered(HONDA), answered(PETERBILT, ModelYear="", Make="A/B = \u0160"), answered("WA1A4AFY2J2008189")]
    kept(folder / "there.db", *answers)
    run("export", "parts", "--partition-by", "make", "--partition-by", "model_year", "--db", "there.db")
    result = run("load", "parts")
    assert (result.exit_code, result.stderr) == (0, "")
    assert without(rows(folder / "vin.db"), "record") == without(rows(folder / "there.db"), "record")


def test_an_export_of_what_was_loaded_is_the_file(looked_up: tuple[list[str], Path]) -> None:
    _, there = looked_up
    run("export", "one.parquet", "--db", str(there))
    run("load", "one.parquet")
    run("export", "two.parquet")
    assert pq.read_table("two.parquet").equals(pq.read_table("one.parquet"))


def test_a_record_that_is_rebuilt_says_so(folder: Path) -> None:
    loaded(decoded([HONDA]))
    [row] = rows(folder / "vin.db")
    record = json.loads(row["record"])
    assert record[MARK]
    assert (record["EngineCylinders"], record["Trim"], "ABS" in record) == ("6", "EX-V6", False)


def test_when_it_was_answered_stays(folder: Path) -> None:
    table = changed(decoded([HONDA]), fetched_at=NOON)
    loaded(table)
    assert [row["fetched_at"] for row in rows(folder / "vin.db")] == ["2026-11-01T12:00:00Z"]


GROSS = ["", *(f"Class 2: 6,001 - 10,000 lb ({low} - {high} kg)" for low in ("2,722", "4,082") for high in ("4,536",))]
GROSS += ["Class 1A: 3,000 lb or less (1,360 kg or less)", "Class 8: 33,001 lb and above (14,969 kg and above)"]
TEXTS = st.sampled_from(["", "Not Applicable", "a  b", "\ud800", "\u2028x", "[1]"]) | st.text(max_size=5)
NUMBERS = st.integers(0, 9999).map(str) | st.floats(0, 1e6).map(repr) | st.sampled_from(["", "2.50", "1e400", "-0.0"])
each = settings(
    max_examples=EXAMPLES,
    derandomize=DERANDOMIZE,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SAID = st.fixed_dictionaries(
    {
        "GVWR": st.sampled_from(GROSS),
        "GVWR_to": st.sampled_from(GROSS),
        "CurbWeightLB": NUMBERS,
        "ErrorCode": st.sampled_from(["0", "8", "12,14", "0 - VIN decoded clean", "14 - Unable to tell", ""]),
        "ErrorText": TEXTS,
        "AdditionalErrorText": TEXTS,
        "Doors": NUMBERS,
        "EngineHP": NUMBERS,
        "Trim": TEXTS,
        "ModelYear": st.sampled_from(["", "1999", "x"]),
    }
)


@settings(each, max_examples=max(EXAMPLES // 20, 1))
@given(st.lists(st.tuples(SAID, st.lists(st.sampled_from(["One note.", "Another."]), max_size=2)), min_size=50))
def test_whatever_was_said_is_rebuilt_from_its_columns(
    folder: Path, said: list[tuple[dict[str, str], list[str]]]
) -> None:
    for name in ("vin.db", "there.db"):
        (folder / name).unlink(missing_ok=True)
    answers = [
        Vehicle(Record(vin, {"VIN": vin, "Make": "HONDA", **values}, "vpic", None, NOON, tuple(notes)))
        for vin, (values, notes) in zip(numbered_vins(len(said)), said, strict=True)
    ]
    result = loaded(exported(folder / "there.db", *answers))
    assert (result.exit_code, result.stderr) == (0, "")
    unknown = ("record", "notes")
    assert without(rows(folder / "vin.db"), *unknown) == without(rows(folder / "there.db"), *unknown)


# Again


@pytest.mark.parametrize("columns", [None, WHOLE], ids=["columns", "records"])
def test_what_is_there_is_not_written_again(folder: Path, columns: list[str] | None) -> None:
    table = decoded(FLEET, columns)
    assert counted(loaded(table)) == "3 rows of 1 file: 2 loaded, 0 already there, 1 rejected, 0 left out"
    before = dump(folder / "vin.db")
    result = loaded(table)
    assert counted(result) == "3 rows of 1 file: 0 loaded, 2 already there, 1 rejected, 0 left out"
    assert result.exit_code == 0
    assert dump(folder / "vin.db") == before


def test_a_vin_that_is_there_twice_is_loaded_once(folder: Path) -> None:
    result = loaded(decoded([HONDA, f" {HONDA.lower()}"]))
    assert counted(result) == "2 rows of 1 file: 1 loaded, 1 already there, 0 rejected, 0 left out"
    assert [row["vin"] for row in rows(folder / "vin.db")] == [HONDA]


def test_a_run_that_was_killed_goes_on(folder: Path) -> None:
    fill_cache(folder / "there.db", 5_000)
    run("export", "many.parquet", "--db", "there.db")
    with started("load", "many.parquet", "--silent", cwd=folder) as process:
        until(lambda: has_some(folder / "vin.db"))
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    done = len(rows(folder / "vin.db"))
    result = run("load", "many.parquet")
    assert counted(result).startswith(f"5,000 rows of 1 file: {5_000 - done:,} loaded, {done:,} already there")
    assert without(rows(folder / "vin.db"), "record", "error_code") == without(
        rows(folder / "there.db"), "record", "error_code"
    )


def has_some(path: Path) -> bool:
    try:
        return path.exists() and bool(rows(path))
    except sqlite3.OperationalError:
        return False


@pytest.mark.one_end
@pytest.mark.parametrize(
    ("sent", "code", "words"),
    [(signal.SIGINT, 130, "Interrupted."), (signal.SIGTERM, -signal.SIGTERM, "Terminated.")],
)
def test_a_run_that_is_ended_says_how_to_go_on(folder: Path, sent: int, code: int, words: str) -> None:
    fill_cache(folder / "there.db", 5_000)
    run("export", "many.parquet", "--db", "there.db")
    with started("load", "many.parquet", "--silent", cwd=folder) as process:
        until(lambda: has_some(folder / "vin.db"))
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "rows of 1 file" in stdout
    assert stderr == f"{words} What was loaded is kept; call again to go on.\n"


# What the cache has is never made worse


REBUILT, ENTIRE = False, True
BETTER: dict[str, tuple[tuple[SourceName, datetime, str, bool], tuple[SourceName, datetime, str, bool], bool]] = {
    # What is there, what comes, and whether that takes its place.
    "embedded after vpic": (("vpic", NOON, "", ENTIRE), ("embedded", LATER, "2026_11", ENTIRE), False),
    "embedded after rebuilt vpic": (("vpic", NOON, "", REBUILT), ("embedded", LATER, "2026_11", ENTIRE), False),
    "vpic after embedded": (("embedded", LATER, "2026_10", ENTIRE), ("vpic", NOON, "", ENTIRE), True),
    "rebuilt vpic after embedded": (("embedded", LATER, "2026_10", ENTIRE), ("vpic", NOON, "", REBUILT), True),
    "embedded after a vpic sibling": (
        ("vpic-sibling", NOON, "", ENTIRE),
        ("embedded", LATER, "2026_10", ENTIRE),
        False,
    ),
    "embedded after its sibling": (
        ("embedded-sibling", LATER, "2026_10", ENTIRE),
        ("embedded", NOON, "2026_10", ENTIRE),
        True,
    ),
    "later vpic": (("vpic", NOON, "", ENTIRE), ("vpic", LATER, "", ENTIRE), True),
    "earlier vpic": (("vpic", LATER, "", ENTIRE), ("vpic", NOON, "", ENTIRE), False),
    "rebuilt after whole vpic": (("vpic", NOON, "", ENTIRE), ("vpic", LATER, "", REBUILT), False),
    "whole after rebuilt vpic": (("vpic", LATER, "", REBUILT), ("vpic", NOON, "", ENTIRE), True),
    "later data": (("embedded", LATER, "2026_09", ENTIRE), ("embedded", NOON, "2026_10", REBUILT), True),
    "earlier data": (("embedded", NOON, "2026_10", REBUILT), ("embedded", LATER, "2026_09", ENTIRE), False),
    "same data later": (("embedded", NOON, "2026_10", ENTIRE), ("embedded", LATER, "2026_10", ENTIRE), False),
    "same data rebuilt": (("embedded", NOON, "2026_10", ENTIRE), ("embedded", LATER, "2026_10", REBUILT), False),
    "same data whole": (("embedded", NOON, "2026_10", REBUILT), ("embedded", LATER, "2026_10", ENTIRE), True),
    "data of no known month": (("embedded", NOON, "2026_10", ENTIRE), ("embedded", LATER, "x", ENTIRE), False),
}


@pytest.mark.parametrize(("there", "comes", "replaces"), BETTER.values(), ids=BETTER)
def test_only_what_is_better_takes_the_place_of_an_answer(
    folder: Path,
    there: tuple[SourceName, datetime, str, bool],
    comes: tuple[SourceName, datetime, str, bool],
    replaces: bool,
) -> None:
    tables = []
    for name, (source, when, version, whole) in (("there", there), ("comes", comes)):
        answer = answered(HONDA, source, when, Trim=name)
        record = replace(answer.record, source_version=version or None)
        tables.append(exported(folder / f"{name}.db", Vehicle(record), whole=whole))
    loaded(tables[0])
    before = dump(folder / "vin.db")
    result = loaded(tables[1])
    assert ("1 loaded" in result.stdout, "1 already there" in result.stdout) == (replaces, not replaces)
    assert [row["trim"] for row in rows(folder / "vin.db")] == ["comes" if replaces else "there"]
    assert (dump(folder / "vin.db") == before) is not replaces


def test_the_better_of_two_in_a_file_is_kept_whatever_their_order(folder: Path) -> None:
    answers = [answered(HONDA, "vpic", NOON + timedelta(days=day), Trim=str(day)) for day in range(3)]
    tables = [exported(folder / f"{number}.db", answers[number], whole=True) for number in (1, 2, 0)]
    result = loaded(pa.concat_tables(tables))
    assert counted(result) == "3 rows of 1 file: 1 loaded, 2 already there, 0 rejected, 0 left out"
    assert [row["trim"] for row in rows(folder / "vin.db")] == ["2"]


def test_of_rebuilt_records_the_one_of_more_columns_is_kept(folder: Path) -> None:
    table = decoded([HONDA])
    few = table.drop_columns(["trim", "doors"])
    loaded(few)
    assert "1 loaded" in loaded(table).stdout
    assert "1 already there" in loaded(few).stdout
    assert [row["trim"] for row in rows(folder / "vin.db")] == ["EX-V6"]


def what_changed(path: Path) -> list[object]:
    return [json.loads(row["changed"]) for row in rows(path, "changes")]


@pytest.mark.parametrize("whole", [False, True], ids=["rebuilt", "whole"])
def test_what_vpic_used_to_say_is_kept(folder: Path, whole: bool) -> None:
    for name, when in (("old", NOON), ("new", LATER)):
        loaded(exported(folder / f"{name}.db", answered(HONDA, when=when, Trim=name), whole=whole))
    assert what_changed(folder / "vin.db") == [{"Trim": ["old", "new"]}]


def test_a_whole_record_after_a_rebuilt_one_is_no_change_of_what_vpic_said(folder: Path) -> None:
    heavy: dict[str, Any] = {"CurbWeightLB": "3001", "EngineHP": "240.0", "GVWR": GROSS[1], "GVWR_to": GROSS[-1]}
    answer = answered(PETERBILT, **heavy)
    loaded(exported(folder / "there.db", answer))
    kept(folder / "vin.db", answered(PETERBILT, when=LATER, **heavy))
    assert what_changed(folder / "vin.db") == []
    assert MARK not in json.loads(rows(folder / "vin.db")[0]["record"])


def test_a_change_of_a_rebuilt_record_is_what_its_columns_show(folder: Path) -> None:
    loaded(exported(folder / "there.db", answered(HONDA, Trim="")))
    kept(folder / "vin.db", answered(HONDA, when=LATER, Trim="new", ABS="Standard"))
    assert what_changed(folder / "vin.db") == [{"Trim": ["", "new"]}]


def test_a_rejection_of_vpics_is_kept(folder: Path) -> None:
    said = interpret(Record(VIN(HONDA), {"VIN": HONDA, "ErrorCode": "1", "ErrorText": "1 - x"}, "vpic", None, NOON))
    with closing(Cache(folder / "vin.db")) as cache:
        cache.save([said])
    assert "1 already there" in loaded(decoded([HONDA])).stdout
    assert [row["vin"] for row in rows(folder / "vin.db", "rejections")] == [HONDA]


# Rejected VINs


def test_rejections_are_kept_but_for_malformed_vins(folder: Path) -> None:
    result = loaded(decoded([FAILING, "no VIN", None, ""]))
    assert counted(result) == "4 rows of 1 file: 0 loaded, 0 already there, 4 rejected, 0 left out"
    assert (result.exit_code, result.stderr) == (0, "")
    [row] = rows(folder / "vin.db", "rejections")
    assert (row["vin"], row["error_code"], row["source"]) == (FAILING, "1", "embedded")
    assert row["reason"] == "1 - Check Digit (9th position) does not calculate properly"


@pytest.mark.parametrize("columns", [None, WHOLE], ids=["columns", "records"])
def test_the_rule_for_check_digits_is_the_one_of_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, columns: list[str] | None
) -> None:
    monkeypatch.setenv("VIN_DATASETTE_CHECK_DIGIT", "lenient")
    loaded(decoded([FAILING], columns))
    # Of its columns nobody knows what vehicle it is, and by this rule no source has rejected it.
    assert [row["make"] for row in rows(folder / "vin.db")] == (["PETERBILT"] if columns else [])
    assert rows(folder / "vin.db", "rejections") == []


# Files as engines leave them


def bare(table: pa.Table) -> pa.Table:
    """Without the metadata of its fields."""
    return table.cast(pa.schema([(column.name, column.type) for column in table.schema]))


@pytest.mark.parametrize("left", [bare, lambda table: table], ids=["without metadata", "with metadata"])
def test_columns_of_ones_own_are_passed_over(folder: Path, left: Callable[[pa.Table], pa.Table]) -> None:
    own: dict[str, Any] = {"make": ["mine"], "Source": [7], "vpic_make": ["x"], "FETCHED_AT": ["today"]}
    table = left(decoded([HONDA], **own))
    assert {"vpic_make_2", "vpic_source", "vpic_fetched_at"} <= {*table.schema.names}
    assert loaded(table).exit_code == 0
    assert [(row["make"], row["source"]) for row in rows(folder / "vin.db")] == [("HONDA", "embedded")]


@given(
    st.lists(st.sampled_from(["make", "Make", "vpic_make", "VPIC_make_2", "model", "vin", "make_3", "x"]), unique=True)
)
def test_a_column_is_found_that_was_named_beside_others(own: list[str]) -> None:
    added = ["make", "model", "model_year"]
    names = [*own, *names_beside(own, added)]
    assert [position_beside(names, each) for each in added] == [len(own), len(own) + 1, len(own) + 2]


def test_columns_that_were_renamed_are_known_by_their_metadata(folder: Path) -> None:
    table = decoded([HONDA])
    others = {"make": "Marke", "gvwr_class": "Gewicht"}
    table = table.rename_columns([others.get(name, name) for name in table.schema.names])
    assert loaded(table).exit_code == 0
    assert [(row["make"], row["vin"]) for row in rows(folder / "vin.db")] == [("HONDA", HONDA)]


def recast(table: pa.Table, kinds: Mapping[pa.DataType, pa.DataType]) -> pa.Table:
    return table.cast(pa.schema([(field.name, kinds.get(field.type, field.type)) for field in table.schema]))


TYPES: dict[str, dict[pa.DataType, pa.DataType]] = {
    "large text": {pa.string(): pa.large_string()},
    "text in views": {pa.string(): pa.string_view()},
    "text by dictionary": {pa.string(): pa.dictionary(pa.int32(), pa.string())},
    "whole numbers as real ones": {pa.int64(): pa.float64()},
    "whole numbers of another width": {pa.int64(): pa.int32()},
    "times without a zone": {pa.timestamp("s", "UTC"): pa.timestamp("us")},
    "times to the nanosecond": {pa.timestamp("s", "UTC"): pa.timestamp("ns", "UTC")},
    "times elsewhere": {pa.timestamp("s", "UTC"): pa.timestamp("ms", "America/New_York")},
}


@pytest.mark.parametrize("kinds", TYPES.values(), ids=TYPES)
@pytest.mark.parametrize("columns", [None, WHOLE], ids=["columns", "records"])
def test_types_of_other_engines_are_read(
    folder: Path, kinds: dict[pa.DataType, pa.DataType], columns: list[str] | None
) -> None:
    table = decoded(FLEET, columns)
    loaded(table, "--db", "want.db")
    result = loaded(recast(table, kinds))
    assert (result.exit_code, result.stderr) == (0, "")
    assert rows(folder / "vin.db") == rows(folder / "want.db")


def test_the_column_of_vins_may_have_any_name(folder: Path) -> None:
    table = decoded([HONDA], **{"a.b": ["x"]})
    table = table.rename_columns([{"vin": "a"}.get(name, name) for name in table.schema.names])
    refused = loaded(table)
    assert (refused.exit_code, "No column of decoded.parquet was found to hold VINs" in refused.stderr) == (1, True)
    assert loaded(table, "--column", "a").exit_code == 0
    assert [row["vin"] for row in rows(folder / "vin.db")] == [HONDA]


def test_files_of_folders_are_found_and_what_engines_put_beside_is_not(folder: Path) -> None:
    table = decoded([HONDA])
    for name in ("out/part=1/a.parquet", "out/_temporary/b.parquet", "out/.c.parquet", "out/_SUCCESS", "out/x.crc"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        written(table, name)
    result = run("load", "out")
    assert counted(result) == "1 row of 1 file: 1 loaded, 0 already there, 0 rejected, 0 left out"


# What cannot be loaded


BAD_FILES: dict[str, tuple[Callable[[], pa.Table], str]] = {
    "no source": (lambda: decoded([PETERBILT]).drop_columns(["source"]), "has no column source."),
    "no time": (lambda: decoded([PETERBILT], WHOLE).drop_columns(["fetched_at"]), "has no column fetched_at."),
    "no version": (lambda: decoded([PETERBILT]).drop_columns(["source_version"]), "has no column source_version."),
    "not the contract's": (
        lambda: decoded([PETERBILT]).drop_columns(["model", "error_code"]),
        "has no column model, error_code.",
    ),
    "another schema": (lambda: pa.table({"vin": [PETERBILT], "price": [1]}), "its columns are: 1 'vin', 2 'price'"),
    "no VINs": (lambda: decoded([PETERBILT]).drop_columns(["vin"]), "was found to hold VINs"),
    "no columns": (lambda: pa.table({}), "was found to hold VINs"),
    "VINs that are no text": (
        lambda: decoded([PETERBILT]).set_column(0, "vin", [[1.5]]),
        "has a column 'vin' of the type double, where string is due.",
    ),
    "a list": (
        lambda: decoded([PETERBILT]).drop_columns(["make"]).append_column("make", [[["HONDA"]]]),
        "has a column 'make' of the type list<",
    ),
    "text for numbers": (
        lambda: decoded([PETERBILT]).drop_columns(["doors"]).append_column("doors", [["two"]]),
        "has a column 'doors' of the type string, where int64 is due.",
    ),
    "a column twice": (
        lambda: (table := decoded([PETERBILT])).append_column(table.schema.field("source"), table.column("source")),
        "has several columns 'source'",
    ),
}


@pytest.mark.parametrize(("table", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_cannot_be_loaded_costs_no_other(folder: Path, table: Callable[[], pa.Table], words: str) -> None:
    (folder / "out").mkdir()
    written(decoded([HONDA]), "out/good.parquet")
    written(table(), "out/bad.parquet")
    result = run("load", "out")
    assert words in result.stderr
    assert "bad.parquet" in result.stderr
    assert counted(result) == "1 row of 2 files: 1 loaded, 0 already there, 0 rejected, 0 left out, 1 file not read"
    assert result.exit_code == 1
    assert [row["vin"] for row in rows(folder / "vin.db")] == [HONDA]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"VIN\n1XP5DB9X7XD487964\n", "cannot be read as Parquet"), (b"", "cannot be read as Parquet")],
)
def test_a_path_that_is_no_parquet_is_told_in_words(folder: Path, content: bytes, words: str) -> None:
    (folder / "fleet.csv").write_bytes(content)
    written(decoded([HONDA]), "good.parquet")
    result = run("load", "fleet.csv", "good.parquet")
    assert words in result.stderr
    assert (result.exit_code, len(rows(folder / "vin.db"))) == (1, 1)


def test_a_file_that_is_cut_off_is_loaded_up_to_there(folder: Path) -> None:
    pq.write_table(decoded(numbered_vins(3_000)), "long.parquet", row_group_size=1024, compression="none")
    with pq.ParquetFile("long.parquet") as file:
        start = file.metadata.row_group(2).column(0).dictionary_page_offset
    content = bytearray((folder / "long.parquet").read_bytes())
    content[start : start + 2_000] = bytes(2_000)
    (folder / "long.parquet").write_bytes(content)
    result = run("load", "long.parquet")
    assert "long.parquet cannot be read as Parquet" in result.stderr
    assert (result.exit_code, len(rows(folder / "vin.db"))) == (1, 2_048)


def test_a_folder_without_files_is_told_in_words(folder: Path) -> None:
    (folder / "empty").mkdir()
    result = run("load", "empty")
    assert_fails_in_words(result, 1, "empty has no Parquet file")


def test_a_path_that_is_not_there_is_a_wrong_call(folder: Path) -> None:
    result = run("load", "nowhere")
    assert_fails_in_words(result, 2, "'nowhere' does not exist")
    assert not (folder / "vin.db").exists()


def as_json(**values: object) -> str:
    return json.dumps({**flat_record(HONDA), **values})


BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "a VIN that is none": ({"vin": "1XP5"}, "its VIN is none: "),
    "no VIN": ({"vin": None}, "its VIN is none: "),
    "no source": ({"source": None}, "it does not say who answered"),
    "no time": ({"fetched_at": None}, "it does not say who answered"),
    "another source": ({"source": "a friend"}, "its source is 'a friend', which is none of vpic, embedded"),
    "a version that is none": ({"source_version": "x\ny"}, "its source_version is"),
    "a time to come": ({"fetched_at": datetime(2999, 1, 1, tzinfo=timezone.utc)}, "its fetched_at is no value"),
    "a time before all": ({"fetched_at": datetime(1, 1, 1, tzinfo=timezone.utc)}, "its fetched_at is no value"),
    "no make": ({"make": None}, "it names no make"),
    "what vPIC cannot have said": ({"trim": "a \n b"}, "its trim is 'a \\n b', which no record of vPIC's gives"),
    "weights that contradict each other": ({"gvwr_from_kg": 1}, "its gvwr_from_kg is '1'"),
    "more than any number": ({"engine_hp": float("inf")}, "its engine_hp is 'inf'"),
    "what is too large": ({"trim": "x" * 1_000_001}, "its values are larger than 1,000,000 characters"),
}
BAD_RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "another VIN's": ({"record": as_json(VIN=PETERBILT)}, f"vPIC answered about another VIN than {HONDA}"),
    "no VIN's": ({"record": as_json(VIN=None)}, f"vPIC answered about another VIN than {HONDA}"),
    "no code": ({"record": as_json(ErrorCode="")}, "vPIC answered a record without an error code"),
    "no object": ({"record": "[]"}, f"vPIC answered no record for {HONDA}"),
    "no JSON": ({"record": "{"}, "its record is no JSON"),
    "no number": ({"record": '{"VIN": NaN}'}, "its record is no JSON"),
    "too deep": ({"record": as_json(Trim=json.loads("[" * 50 + "]" * 50))}, "nested too deeply"),
    "far too deep": ({"record": "[" * 100_000}, "its record is no JSON"),
    "no source": ({"source": None}, "it does not say who answered"),
}


@pytest.mark.parametrize(
    ("columns", "values", "words"),
    [*((None, *each) for each in BAD_ROWS.values()), *((WHOLE, *each) for each in BAD_RECORDS.values())],
    ids=[*BAD_ROWS, *(f"record: {each}" for each in BAD_RECORDS)],
)
def test_a_row_that_cannot_be_loaded_costs_no_other(
    folder: Path, columns: list[str] | None, values: dict[str, Any], words: str
) -> None:
    result = loaded(changed(decoded([HONDA, PETERBILT], columns), **values))
    assert result.stderr.startswith("decoded.parquet, row 1: ")
    assert words in result.stderr
    assert counted(result) == "2 rows of 1 file: 1 loaded, 0 already there, 0 rejected, 1 left out"
    assert result.exit_code == 1
    assert [row["vin"] for row in rows(folder / "vin.db")] == [PETERBILT]


def test_of_many_rows_that_cannot_be_loaded_the_first_are_told() -> None:
    result = loaded(decoded(numbered_vins(30)).drop_columns(["source"]).append_column("source", [["?"] * 30]))
    lines = result.stderr.splitlines()
    assert (len(lines), lines[-1]) == (21, "… and 10 more.")


def test_values_do_not_command_a_terminal() -> None:
    result = loaded(changed(decoded([HONDA]), source="\x1b[2J"))
    assert "\x1b" not in result.stderr


def test_a_cache_that_may_not_be_written_is_told_in_words(folder: Path) -> None:
    kept(folder / "vin.db", answered(PETERBILT))
    with read_only(False, (folder / "vin.db").read_bytes()) as db:
        result = run("load", written(decoded([HONDA]), f"{db.parent}/decoded.parquet"), "--db", str(db))
    assert result.exit_code == 2
    assert f"The cache {db} cannot be written: attempt to write a readonly database." in result.stderr


def test_a_cache_that_is_none_is_told_in_words(folder: Path) -> None:
    (folder / "vin.db").write_bytes(b"this is no database, by any means " * 100)
    assert_fails_in_words(loaded(decoded([HONDA])), 2, "vin.db cannot be used as a cache")


def test_a_locked_cache_is_told_in_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vin_datasette.cache.WRITE_TIMEOUT", 0.1)
    kept(folder / "vin.db", answered(PETERBILT))
    with closing(sqlite3.connect(folder / "vin.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        result = loaded(decoded([HONDA]))
    assert (result.exit_code, result.stderr) == (
        2,
        "The cache vin.db cannot be written: database is locked. What was loaded is kept; call again to go on.\n",
    )


def test_a_full_disk_is_told_in_words_and_keeps_what_there_is(folder: Path) -> None:
    kept(folder / "vin.db", answered(PETERBILT))
    name = written(decoded(numbered_vins(3_000)))
    limit = (folder / "vin.db").stat().st_size + 3_000_000
    result = run_process("load", name, "--silent", cwd=folder, preexec_fn=lambda: limited(limit))
    assert result.returncode == 2
    assert "The cache vin.db cannot be written: " in result.stderr
    assert "Traceback" not in result.stderr
    assert "3,000 rows" in run("load", name).stdout
    assert len(rows(folder / "vin.db")) == 3_001


def limited(size: int) -> None:
    """Let files of this process grow no larger, as those on a disk that is full."""
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


# What strangers send


@each
@given(st.data(), st.sampled_from([None, WHOLE]))
def test_a_damaged_file_is_loaded_or_told_in_words(
    folder: Path, data: st.DataObject, columns: list[str] | None
) -> None:
    name = written(decoded(FLEET, columns))
    (folder / name).write_bytes(data.draw(damaged((folder / name).read_bytes())))
    result = run("load", name)
    assert result.exit_code in (0, 1)
    assert (result.exit_code == 0) == (result.stderr == "")
    with closing(Cache(folder / "vin.db")) as cache:
        assert {row["vin"] for row in rows(cache.path)} == {*cache.get_many([VIN(vin) for vin in FLEET])} - {FAILING}


ODD = st.sampled_from(["", "Not Applicable", "\0", "\ud800", "[1]", "1,400", "8", "14", "-1", "1e999"]) | st.text()
ODD_VALUES: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): st.none() | ODD.map(lambda text: text.encode("utf-8", "replace").decode()),
    pa.int64(): st.none() | st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.none() | st.floats(),
    pa.timestamp("s", "UTC"): st.none() | st.datetimes(timezones=st.just(timezone.utc)),
}


@each
@given(st.data(), st.sampled_from([None, WHOLE]))
def test_odd_values_are_loaded_as_they_are_or_told_in_words(
    folder: Path, data: st.DataObject, columns: list[str] | None
) -> None:
    table = decoded([HONDA], columns)
    odd = data.draw(
        st.lists(st.sampled_from([*table.schema]), min_size=1, max_size=4, unique_by=lambda each: each.name)
    )
    values: dict[str, Any] = {each.name: data.draw(ODD_VALUES[each.type]) for each in odd}
    (folder / "vin.db").unlink(missing_ok=True)
    result = loaded(changed(table, **values))
    assert result.exit_code in (0, 1)
    for row in rows(folder / "vin.db") if columns is None else ():
        assert {name: row[name] for name in values if name in ("trim", "doors", "engine_hp", "warnings")} == {
            name: value or None if isinstance(value, str) else value
            for name, value in values.items()
            if name in ("trim", "doors", "engine_hp", "warnings")
        }


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere memory is counted in other units, or not at all")
def test_a_small_file_of_large_values_takes_little_memory(folder: Path) -> None:
    """A value that a dictionary repeats is as small as its number in the file."""
    table = decoded(numbered_vins(60))
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 60, pa.int32()), pa.array(["x" * 20_000_000]))
    written(table.drop_columns(["trim"]).append_column("trim", large))
    command = [sys.executable, "-c", MEASURED, str(SCRIPT), "load", "decoded.parquet", "--silent"]
    ended = subprocess.run(
        command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
    )
    summary, kilobytes = ended.stdout.splitlines()
    assert "60 left out" in summary
    assert "Traceback" not in ended.stderr
    assert int(kilobytes) * 1024 < MOST
