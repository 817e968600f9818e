"""Fleets as people have them: any format, delimiter and encoding, row by row, and in words when not."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sqlite3
import sys
import threading
import time
import tracemalloc
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.conftest import numbered_vins
from vin_datasette.fleet import inputs, sqlite, text
from vin_datasette.fleet.inputs import InputError, open_fleet
from vin_datasette.fleet.row import Row
from vin_datasette.fleet.text import LONGEST_LINE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ONE, TWO, THREE = map(str, numbered_vins(3))
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]
LINE_ENDS = ["\n", "\r\n", "\r"]


class Read(SimpleNamespace):
    """A fleet that was read to its end."""

    columns: list[str]
    schema: pa.Schema | None
    source: str
    rows: list[Row]

    @property
    def vins(self) -> list[str]:
        return [row.vin for row in self.rows]

    @property
    def years(self) -> list[int | None]:
        return [row.model_year for row in self.rows]

    @property
    def values(self) -> list[tuple[object, ...]]:
        return [row.values for row in self.rows]

    @property
    def problems(self) -> list[int]:
        return [row.number for row in self.rows if row.problem]


def read(name: str | Path, **options: str) -> Read:
    with open_fleet(str(name), **options) as fleet:
        return Read(columns=fleet.columns, schema=fleet.schema, source=fleet.source, rows=list(fleet.rows))


def why(name: str | Path, **options: str) -> str:
    """What is said of an input that cannot be read."""
    with pytest.raises(InputError) as raised:
        read(name, **options)
    return str(raised.value)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Make a file of this content."""

    def write(content: str | bytes, name: str = "fleet") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


Written = Any


@contextlib.contextmanager
def seconds_at_most(most: float) -> Iterator[None]:
    """What takes hours when its time grows with the square of its size has to be done within these seconds."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < most


# Bare VINs


@pytest.mark.parametrize("end", LINE_ENDS)
def test_a_vin_a_line_is_a_fleet_without_columns(written: Written, end: str) -> None:
    fleet = read(written(end.join([ONE, TWO, THREE])))
    assert (fleet.columns, fleet.rows) == ([], [Row(1, ONE), Row(2, TWO), Row(3, THREE)])


@pytest.mark.parametrize("end", LINE_ENDS)
def test_blank_lines_are_skipped_and_counted(written: Written, end: str) -> None:
    assert read(written(f"{end} {end}{ONE}{end}{end}{TWO}{end}{end}")).rows == [Row(3, ONE), Row(5, TWO)]


@pytest.mark.parametrize("content", ["", "\n\n", " \r\n", "\ufeff", "\0"])
def test_nothing_is_a_fleet_without_rows(written: Written, content: str) -> None:
    assert read(written(content)).rows == []


@pytest.mark.parametrize("content", ["", "\n", "[]", '{"a'])
def test_a_column_said_of_nothing_is_not_missed(written: Written, content: str) -> None:
    assert read(written(content), column="vin", model_year_column="year").vins == ([""] if "a" in content else [])


def test_a_mistyped_first_vin_is_no_header(written: Written) -> None:
    assert read(written(f"IHGCM82603A00000\n{ONE}\n{TWO}\n")).vins == ["IHGCM82603A00000", ONE, TWO]


def test_what_is_no_vin_is_a_row_all_the_same(written: Written) -> None:
    assert read(written(f"{ONE}\nhello, world\n{TWO}\n")).vins == [ONE, "hello, world", TWO]


def test_a_list_of_nothing_well_formed_keeps_its_lines(written: Written) -> None:
    assert read(written("abc\ndef\n")).vins == ["abc", "def"]


def test_a_line_too_long_costs_itself_alone(written: Written) -> None:
    fleet = read(written(f"{ONE}\n{'x' * (LONGEST_LINE + 1)}\r\n{TWO}\n"))
    assert (fleet.vins, fleet.problems) == ([ONE, "", TWO], [2])


@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("length", [131_072, 131_073, 262_143, 262_144])
def test_lines_after_one_too_long_keep_their_numbers(written: Written, end: str, length: int) -> None:
    fleet = read(written(f"{ONE}{end}{'x' * (LONGEST_LINE + length)}{end}{TWO}{end}"))
    assert fleet.rows[2] == Row(3, TWO)


def test_vins_that_were_given_are_numbered() -> None:
    fleet = inputs.given([ONE, TWO])
    assert (fleet.columns, fleet.schema, list(fleet.rows)) == ([], None, [Row(1, ONE), Row(2, TWO)])


# CSV


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(written: Written, delimiter: str) -> None:
    lines = ["unit|VIN|note", f"1|{ONE}|red", f'2|{TWO}|"a{delimiter}b"']
    fleet = read(written("\n".join(lines).replace("|", delimiter)))
    assert (fleet.columns, fleet.values) == (
        ["unit", "VIN", "note"],
        [("1", ONE, "red"), ("2", TWO, f"a{delimiter}b")],
    )


def test_commas_within_numbers_are_no_delimiters(written: Written) -> None:
    assert read(written(f"VIN;price\n{ONE};12,5\n{TWO};13,5\n")).values == [(ONE, "12,5"), (TWO, "13,5")]


@pytest.mark.parametrize(
    "name",
    ["vin", "VIN", " Vin ", "VIN Number", "vin_no", "vin-nr.", "VIN #", "Vehicle Identification Number", "Chassis No."],
)
def test_a_column_named_for_vins_holds_them(written: Written, name: str) -> None:
    assert read(written(f"other,{name}\n{ONE},{TWO}\n")).vins == [TWO]


def test_the_content_tells_a_column_of_another_name(written: Written) -> None:
    fleet = read(written(f"unit,serial\n1,{ONE}\n2,oops\n3,{TWO}\n"))
    assert (fleet.columns, fleet.vins) == (["unit", "serial"], [ONE, "oops", TWO])


def test_without_a_header_columns_are_numbered(written: Written) -> None:
    fleet = read(written(f"1,{ONE}\n2,{TWO}\n"))
    assert (fleet.columns, fleet.vins) == (["column_1", "column_2"], [ONE, TWO])


def test_one_column_with_a_header_is_a_column(written: Written) -> None:
    fleet = read(written(f'"vin"\n"{ONE}"\n'))
    assert (fleet.columns, fleet.rows) == (["vin"], [Row(2, ONE, None, (ONE,))])


def test_names_are_made_distinct(written: Written) -> None:
    assert read(written(f"vin,a,,a,a_2,\n{ONE},1,2,3,4,5\n")).columns == [
        "vin",
        "a",
        "column_3",
        "a_3",
        "a_2",
        "column_6",
    ]


@pytest.mark.parametrize(("column", "vin"), [("b", TWO), ("B", TWO), ("2", TWO), ("a", ONE), ("1", ONE)])
def test_the_column_that_is_said_is_taken(written: Written, column: str, vin: str) -> None:
    assert read(written(f"a,b\n{ONE},{TWO}\n"), column=column).vins == [vin]


def test_an_unknown_column_is_told_with_those_there(written: Written) -> None:
    said = why(written(f"vin,make\n{ONE},HONDA\n", "fleet.csv"), column="brand")
    assert "'brand'" in said
    assert "1 'vin', 2 'make'" in said


def test_no_column_of_vins_is_told_with_those_there(written: Written) -> None:
    said = why(written("unit,make\n1,HONDA\n", "fleet.csv"))
    assert "--column" in said
    assert "'make'" in said


def test_a_header_without_rows_is_told_with_its_names(written: Written) -> None:
    assert "2 'make'" in why(written("unit,make\n"))


def test_a_column_that_is_said_by_number_may_hold_no_vin(written: Written) -> None:
    fleet = read(written("unit,make\n1,HONDA\n"), column="2")
    assert (fleet.columns, fleet.vins) == (["unit", "make"], ["HONDA"])


@pytest.mark.parametrize("before", ["sep=;\n", "Our fleet\n\n", "Our fleet;;\nof 2024;;\n"])
def test_titles_before_the_header_are_passed_over(written: Written, before: str) -> None:
    fleet = read(written(f"{before}unit;VIN;a\n1;{ONE};x\n"))
    assert (fleet.columns, fleet.values) == (["unit", "VIN", "a"], [("1", ONE, "x")])


def test_several_vins_a_line_are_not_dropped_silently(written: Written) -> None:
    assert "several VINs" in why(written(f"{ONE},{TWO},{THREE}\n"))


def test_short_rows_are_filled_and_long_ones_cut(written: Written) -> None:
    fleet = read(written(f"vin,a,b\n{ONE}\n{TWO},1,2,3,4\n"))
    assert fleet.values == [(ONE, "", ""), (TWO, "1", "2")]


def test_rows_of_empty_cells_are_blank(written: Written) -> None:
    assert read(written(f"vin,a\n,\n{ONE},1\n , \n,2\n")).rows == [
        Row(3, ONE, None, (ONE, "1")),
        Row(5, "", None, ("", "2")),
    ]


@pytest.mark.parametrize("end", LINE_ENDS)
def test_a_row_has_the_number_of_its_first_line(written: Written, end: str) -> None:
    rows = read(written(end.join(["vin,a", f'{ONE},"x', 'y"', f"{TWO},z"]), "fleet.csv")).rows
    assert [(row.number, row.values) for row in rows] == [(2, (ONE, f"x{end}y")), (4, (TWO, "z"))]


def test_a_vin_behind_a_cell_of_several_lines_is_of_that_row(written: Written) -> None:
    assert read(written(f'note,vin\n"x\ny",{ONE}\nz,{TWO}\n')).values == [("x\ny", ONE), ("z", TWO)]


@pytest.mark.parametrize(
    ("cell", "year"),
    [("2003", 2003), (" 2003 ", 2003), ("2003.0", 2003), ("1979", None), ("2101", None), ("2003.5", None), ("", None),
     ("MY2003", None), ("nan", None), ("٢٠٠٣", None)],
)  # fmt: skip
def test_a_model_year_is_a_whole_number_of_this_time(written: Written, cell: str, year: int | None) -> None:
    assert read(written(f"vin,year\n{ONE},{cell}\n"), model_year_column="Year").years == [year]


def test_model_years_are_read_only_when_asked_for(written: Written) -> None:
    assert read(written(f"vin,model year\n{ONE},2003\n")).years == [None]


# CSV that is broken


def test_a_cell_too_large_costs_its_row_alone(written: Written) -> None:
    large = "x" * (csv.field_size_limit() + 1)
    fleet = read(written(f"vin,a\n{ONE},1\n{TWO},{large}\n{THREE},3\n"))
    assert (fleet.vins, fleet.problems) == ([ONE, "", THREE], [3])


@pytest.mark.parametrize("more", [3, 20_000])
def test_a_quote_that_is_never_closed_costs_no_other_row(written: Written, more: int) -> None:
    lines = [f"{vin},x" for vin in numbered_vins(more)]
    fleet = read(written("\n".join(["vin,a", f'{ONE},"x', *lines])))
    assert len(fleet.rows) == more + 1


def test_a_quote_that_is_closed_rows_later_costs_none_between(written: Written) -> None:
    fleet = read(written(f'vin,a\n{ONE},"red\n{TWO},blue\n{THREE},22"\n'))
    assert fleet.vins == [ONE, TWO, THREE]


def test_a_quote_that_is_closed_rows_later_keeps_the_cells_of_its_row(written: Written) -> None:
    assert read(written(f'vin,a\n{ONE},"red\n{TWO},blue\n{THREE},22"\n')).values[0] == (ONE, "red")


def test_a_quote_within_a_cell_is_part_of_it(written: Written) -> None:
    assert read(written(f'vin,a\n{ONE},5" long\n{TWO},"6" long\n')).values == [(ONE, '5" long'), (TWO, "6 long")]


def test_quotes_that_leave_it_open_what_the_cells_are_are_told(written: Written) -> None:
    fleet = read(written(f'vin,a,b\n{ONE},"5" long, x", "y", z",1,2\n{TWO},x,y\n'))
    assert (fleet.vins, fleet.problems) == (["", TWO], [2])


NOTES = st.text("ab \"'x", max_size=6)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.lists(NOTES, min_size=3, max_size=12), end=st.sampled_from(LINE_ENDS), size=st.integers(20, 200))
def test_stray_quotes_cost_no_row_that_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[str], end: str, size: int
) -> None:
    vins = list(map(str, numbered_vins(len(before))))
    lines = ["vin,a", *(f"{vin},{note}" for vin, note in zip(vins, before, strict=True))]
    path = tmp_path / "fleet"
    path.write_bytes(end.join(lines).encode())
    monkeypatch.setattr(text, "_AT_ONCE", size)
    rows = {row.number: row.vin for row in read(path).rows}
    # A quote at the start of one cell and at the end of the next row's is a cell of two lines.
    whole = [number for number, note in enumerate(before, 2) if '"' not in note]
    assert [rows.get(number) for number in whole] == [vins[number - 2] for number in whole]


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), max_size=8),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(ENCODINGS[:3]),
    end=st.sampled_from(LINE_ENDS),
    zipped=st.booleans(),
)
def test_what_a_csv_writer_wrote_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str]], delimiter: str, encoding: str, end: str, zipped: bool
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    expected = [(ONE, *row) for row in rows]
    writer.writerows([("vin", "a", "b"), *expected])
    data = out.getvalue().encode(encoding)
    path = tmp_path / "fleet"
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert read(path).values == expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=300), st.text("\"',;{}[]\n\r\t1A:", max_size=80).map(str.encode)))
def test_any_bytes_are_rows_or_told_in_words(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fleet"
    path.write_bytes(data)
    with contextlib.suppress(InputError):
        fleet = read(path)
        assert {len(row.values) for row in fleet.rows} <= {len(fleet.columns)}


@pytest.mark.parametrize("lines", ['x",,"\n', 'x",,"\na,b,c\n'], ids=["all", "every other"])
def test_quotes_that_stay_open_to_the_end_take_no_more_than_their_time(written: Written, lines: str) -> None:
    path = written("vin,a,b\n" + lines * 20_000)
    with seconds_at_most(10):
        assert len(read(path).rows) == 20_000 * lines.count("\n")


def test_a_row_after_open_quotes_keeps_its_cell_of_several_lines(written: Written) -> None:
    fleet = read(written("vin,a,b\n" + 'x",,"\n' * 2_000 + f'{ONE},"c\nd",e\n'))
    assert fleet.values[-1] == (ONE, "c\nd", "e")


def test_many_columns_of_one_name_take_no_more_than_their_time(written: Written) -> None:
    path = written(f"vin{',a' * 15_000}\n{ONE}\n")
    with seconds_at_most(10):
        assert read(path).columns[-1] == "a_15000"


def test_a_long_header_is_read_to_its_end(written: Written) -> None:
    names = [f"a column with a long name {number}" for number in range(16_000)]
    path = written(f"{','.join(names)},vin\n{',' * 16_000}{ONE}\n")
    assert (read(path).columns, read(path).vins) == ([*names, "vin"], [ONE])


def test_a_header_too_long_to_be_read_is_told(written: Written) -> None:
    names = ",".join(f"a column with a name that is much too long {number:050}" for number in range(11_000))
    assert "header" in why(written(f"vin,{names}\n{ONE}\n"), column="vin")


@pytest.mark.parametrize("content", [f"vin{',a' * 20_000}", json.dumps([dict.fromkeys(map(str, range(20_001)))])])
def test_more_columns_than_a_spreadsheet_has_are_told(written: Written, content: str) -> None:
    assert "20,001 columns" in why(written(content))


# Encodings


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_encoding_is_found(written: Written, encoding: str) -> None:
    content = f"vin,make\r\n{ONE},Škoda 日本\r\n{TWO},x\r\n"
    assert read(written(content.encode(encoding))).values == [(ONE, "Škoda 日本"), (TWO, "x")]


def test_bytes_that_are_not_utf_8_are_windows_1252(written: Written) -> None:
    content = f"vin,make\n{ONE},".encode() + b"Citro\xebn \x80 \x81\n" + f"{TWO},Citroën\n".encode()
    assert read(written(content)).values == [(ONE, "Citroën € \x81"), (TWO, "Citroën")]


def test_a_byte_that_is_not_utf_8_may_come_late(written: Written) -> None:
    content = b"vin,make\n" + f"{ONE},x\n".encode() * 50_000 + f"{TWO},".encode() + b"Citro\xebn\n"
    assert read(written(content)).values[-1] == (TWO, "Citroën")


def test_nul_characters_are_dropped(written: Written) -> None:
    assert read(written(f"vin,make\n{ONE},HON\0DA\n\0\0\n")).values == [(ONE, "HONDA")]


def test_a_byte_order_mark_between_joined_files_is_dropped(written: Written) -> None:
    assert read(written(f"\ufeff{ONE}\n\ufeff{TWO}\n")).vins == [ONE, TWO]


@pytest.mark.parametrize("char", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_no_other_character_ends_a_line(written: Written, char: str) -> None:
    assert read(written(f"vin,a\n{ONE},x{char}y\n")).values == [(ONE, f"x{char}y")]


# JSON


JSON_FORMS: dict[str, Callable[[Sequence[object]], str]] = {
    "array": json.dumps,
    "indented": lambda items: json.dumps(items, indent=2),
    "lines": lambda items: "".join(json.dumps(item) + "\n" for item in items),
}


@pytest.mark.parametrize("form", JSON_FORMS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_objects_are_rows(written: Written, form: str, encoding: str) -> None:
    items = [{"unit": 1, "vin": ONE, "make": "Škoda"}, {"vin": TWO, "unit": 2.5, "extra": 1}, {"unit": [1, {"a": 0.5}]}]
    fleet = read(written(JSON_FORMS[form](items).encode(encoding)))
    assert (fleet.columns, fleet.rows) == (
        ["unit", "vin", "make"],
        [
            Row(1, ONE, None, (1, ONE, "Škoda")),
            Row(2, TWO, None, (2.5, TWO, None)),
            Row(3, "", None, ([1, {"a": 0.5}], None, None)),
        ],
    )


def test_a_json_array_of_vins_has_no_columns(written: Written) -> None:
    fleet = read(written(json.dumps([ONE, TWO])))
    assert (fleet.columns, fleet.rows) == ([], [Row(1, ONE), Row(2, TWO)])


def test_json_lines_of_vins_are_told_by_the_ending(written: Written) -> None:
    assert read(written(f'"{ONE}"\n\n"{TWO}"\n', "fleet.jsonl")).rows == [Row(1, ONE), Row(3, TWO)]


@pytest.mark.parametrize("form", JSON_FORMS)
def test_the_column_of_vins_among_keys_is_found_or_said(written: Written, form: str) -> None:
    path = written(JSON_FORMS[form]([{"a": "x", "b": ONE, "c": TWO}]))
    assert (read(path).vins, read(path, column="C").vins) == ([ONE], [TWO])


def test_a_bare_vin_among_objects_has_their_columns(written: Written) -> None:
    fleet = read(written(json.dumps([{"a": 1, "vin": ONE}, TWO])))
    assert fleet.values == [(1, ONE), (None, TWO)]


def test_an_object_late_among_bare_vins_gives_its_vin(written: Written) -> None:
    assert read(written(json.dumps([*[ONE] * 200, {"make": "x", "VIN": TWO}]))).vins[-1] == TWO


@pytest.mark.parametrize("content", [f'vin,a\n{ONE},"5" x", y, "z\n', f"vin,a\n{'x' * (LONGEST_LINE + 9)}\n"])
def test_a_row_that_cannot_be_read_has_as_many_values_as_columns(written: Written, content: str) -> None:
    fleet = read(written(content))
    assert (fleet.problems, fleet.values) == ([2], [("", "")])


@pytest.mark.parametrize("form", ["array", "lines"])
@pytest.mark.parametrize("item", [None, 7, True, [ONE]])
def test_an_item_that_holds_no_vin_is_told(written: Written, form: str, item: object) -> None:
    fleet = read(written(JSON_FORMS[form]([{"vin": ONE}, item, {"vin": TWO}])))
    assert (fleet.vins, fleet.problems) == ([ONE, "", TWO], [2])


def test_a_list_under_the_key_of_vins_is_no_vin(written: Written) -> None:
    fleet = read(written(json.dumps({"vins": [ONE]})))
    assert (fleet.vins, fleet.problems) == ([""], [1])


@pytest.mark.parametrize("year", [2003, 2003.0, "2003"])
@pytest.mark.parametrize("form", JSON_FORMS)
def test_a_model_year_in_json_is_a_number_or_text(written: Written, form: str, year: object) -> None:
    assert read(written(JSON_FORMS[form]([{"vin": ONE, "year": year}])), model_year_column="year").years == [2003]


@pytest.mark.parametrize("line", ['{"vin": ', "nonsense", '{"vin": "x"} {"vin": "y"}', "[" * 200_000])
def test_a_json_line_that_is_broken_costs_itself_alone(written: Written, line: str) -> None:
    first, last = json.dumps({"vin": ONE}), json.dumps({"vin": TWO})
    fleet = read(written(f"{first}\n{line}\n{last}\n"))
    assert (fleet.vins, fleet.problems) == ([ONE, "", TWO], [2])


@pytest.mark.parametrize("count", [0, 2, 500])
@pytest.mark.parametrize("end", ["", "-]", "]]", '{"a'])
def test_a_broken_json_array_gives_what_came_before(written: Written, count: int, end: str) -> None:
    items = "".join(f'"{vin}",\n' for vin in numbered_vins(count))
    rows = []
    path = str(written(f"[{items}{end}"))
    with pytest.raises(InputError) as raised, open_fleet(path) as fleet:  # noqa: PT012 - so are rows before
        for row in fleet.rows:
            rows.append(row)  # noqa: PERF402 - those before the failure are kept
    assert (len(rows), f"item {count}" in str(raised.value) or count == 0) == (count, True)


def test_text_that_begins_like_json_is_text(written: Written) -> None:
    assert read(written(f"[VIN],make\n{ONE},HONDA\n")).columns == ["[VIN]", "make"]


@pytest.mark.parametrize("number", ["9" * 5_000, "1e999999999", "-0", "-" + "7" * 200])
@pytest.mark.parametrize("form", ["[{0}, {1}]", '[{{"vin": {0}}}, {{"vin": {1}}}]', '{{"vin": {0}}}\n{{"vin": {1}}}'])
def test_a_number_of_any_size_costs_no_other_item(written: Written, form: str, number: str) -> None:
    fleet = read(written(form.format(number, json.dumps(ONE))))
    assert (len(fleet.rows), fleet.vins[1]) == (2, ONE)


@pytest.mark.parametrize("depth", [500, 3_000, 400_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_an_item_nested_too_deeply_is_told(written: Written, depth: int, start: str, end: str) -> None:
    path = written(f'["{ONE}", {start * depth}1{end * depth}, "{TWO}"]')
    rows = []
    with seconds_at_most(10), contextlib.suppress(InputError), open_fleet(str(path)) as fleet:
        for row in fleet.rows:
            rows.append(row)  # noqa: PERF402 - those before the failure are kept
    assert [row.vin for row in rows if not row.problem] in ([ONE], [ONE, TWO])


def test_a_name_of_half_a_surrogate_pair_is_one_that_can_be_written(written: Written) -> None:
    content = f'{{"vin": "{ONE}", "a\\ud800": "\\ud800"}}'
    assert (read(written(content)).columns, read(written(content)).vins) == (["vin", "a?"], [ONE])


def test_an_item_too_long_is_told(written: Written) -> None:
    path = written(f'["{ONE}", "{"x" * 3_000_000}", "{TWO}"]')
    assert "longer than 1,000,000 characters" in why(path)
    assert "after item 1" in why(path)


@pytest.mark.parametrize("size", [1, 7, 20, 4096])
def test_an_array_may_come_in_pieces_of_any_size(written: Written, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    items = [{"vin": ONE, "note": 'a "b" [c'}, {"vin": TWO, "note": "\u00fc\ud83d\ude97"}, 12, -1.5e3, None, [[1], {}]]
    path = written(json.dumps(items, indent=1))
    monkeypatch.setattr(text, "_AT_ONCE", size)
    assert read(path).values[:2] == [(ONE, 'a "b" [c'), (TWO, "\u00fc\U0001f697")]
    assert read(path).problems == [3, 4, 5, 6]


def test_what_follows_the_end_of_an_array_is_told(written: Written) -> None:
    assert "after item 1" in why(written(f'["{ONE}"] "{TWO}"'))


# Parquet


TYPED = pa.table(
    {
        "unit": pa.array([1, None], pa.int16()),
        "vin": pa.array([ONE, TWO], pa.large_string()),
        "bought": pa.array([date(2003, 1, 2), None]),
        "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
        "tags": pa.array([["a"], []]),
        "year": pa.array([2003.0, None]),
    }
)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pq.write_table(TYPED, tmp_path / "fleet")
    return tmp_path / "fleet"


def test_parquet_keeps_its_types(parquet: Path) -> None:
    fleet = read(parquet)
    assert fleet.schema is not None
    assert fleet.schema.equals(TYPED.schema)
    assert fleet.rows[0] == Row(1, ONE, None, (1, ONE, date(2003, 1, 2), Decimal("1.50"), ["a"], 2003.0))


def test_parquet_tells_model_years(parquet: Path) -> None:
    assert read(parquet, model_year_column="year").years == [2003, None]


@pytest.mark.parametrize("kind", [pa.string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_vins_in_parquet_are_text_of_any_kind(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"a": [1, 2], "b": pa.array([ONE, TWO]).cast(kind)}), tmp_path / "fleet")
    assert read(tmp_path / "fleet").vins == [ONE, TWO]


def test_names_in_parquet_are_made_distinct(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([ONE]), pa.array([1]), pa.array([2])], names=["vin", "a", "a"])
    pq.write_table(table, tmp_path / "fleet")
    fleet = read(tmp_path / "fleet")
    assert fleet.schema is not None
    assert (fleet.columns, fleet.schema.names) == (["vin", "a", "a_2"], ["vin", "a", "a_2"])


@pytest.mark.parametrize("unit", ["us", "ns"])
def test_times_that_python_cannot_hold_are_no_obstacle(tmp_path: Path, unit: str) -> None:
    times = pa.array([2**62, 10**15 + 1], pa.int64()).cast(pa.timestamp(unit))
    pq.write_table(pa.table({"vin": [ONE, TWO], "at": times}), tmp_path / "fleet")
    assert read(tmp_path / "fleet").vins == [ONE, TWO]


def test_a_time_in_a_zone_that_nobody_knows_is_no_obstacle(tmp_path: Path) -> None:
    times = pa.array([1, 2], pa.timestamp("us", "Nowhere/At_All"))
    pq.write_table(pa.table({"vin": [ONE, TWO], "at": times}), tmp_path / "fleet")
    assert read(tmp_path / "fleet").vins == [ONE, TWO]


def test_text_in_parquet_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    odd = pa.Array.from_buffers(pa.string(), 2, pa.array([b"Citro\xebn", b"a"]).buffers())
    pq.write_table(pa.table({"vin": [ONE, TWO], "make": odd}), tmp_path / "fleet")
    assert read(tmp_path / "fleet").values == [(ONE, "Citroën"), (TWO, "a")]


def test_a_row_of_parquet_that_is_too_large_costs_itself_alone(tmp_path: Path) -> None:
    table = pa.table({"vin": [ONE, TWO, THREE], "note": ["a", "x" * 2_000_000, "b"]})
    pq.write_table(table, tmp_path / "fleet")
    assert (read(tmp_path / "fleet").vins, read(tmp_path / "fleet").problems) == ([ONE, "", THREE], [2])


def test_an_unknown_column_of_parquet_is_told(parquet: Path) -> None:
    assert "2 'vin'" in why(parquet, column="x")


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_parquet_that_is_cut_off_is_told(parquet: Path, kept: int) -> None:
    parquet.write_bytes(parquet.read_bytes()[:kept])
    assert "Parquet" in why(parquet)


# SQLite


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "a #fleet?.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute('CREATE TABLE "my ""cars" (unit INTEGER, "chassis.id" TEXT, other TEXT, photo BLOB, year)')
        connection.execute('INSERT INTO "my ""cars" VALUES (1, ?, ?, x\'00ff\', 2003)', (ONE, TWO))
        connection.execute("CREATE VIEW empty AS SELECT 1 AS vin WHERE 0")
        connection.execute("CREATE TABLE odd (vin TEXT, note TEXT)")
        connection.execute("INSERT INTO odd VALUES (?, CAST(x'43eb' AS TEXT))", (ONE,))
    return path


def test_a_table_keeps_its_values(database: Path) -> None:
    fleet = read(f'{database}:my "cars')
    assert fleet.columns == ["unit", "chassis.id", "other", "photo", "year"]
    assert fleet.rows == [Row(1, ONE, None, (1, ONE, TWO, b"\0\xff", 2003))]


def test_a_column_may_follow_the_table(database: Path) -> None:
    assert read(f'{database}:MY "cars.other').vins == [TWO]


def test_a_column_with_a_dot_may_follow_the_table(database: Path) -> None:
    assert read(f'{database}:my "cars.chassis.id').vins == [ONE]


def test_a_table_tells_model_years(database: Path) -> None:
    assert read(f'{database}:my "cars', model_year_column="5").years == [2003]


def test_a_view_without_rows_is_a_fleet_without_rows(database: Path) -> None:
    assert (read(f"{database}:empty").columns, read(f"{database}:empty").rows) == (["vin"], [])


def test_text_in_a_table_that_is_not_utf_8_is_read(database: Path) -> None:
    assert read(f"{database}:odd").values == [(ONE, "Cë")]


def test_an_unknown_table_is_told_with_those_there(database: Path) -> None:
    assert "2 'my \"cars'" in why(f"{database}:x")


def test_an_unknown_column_of_a_table_is_told_with_those_there(database: Path) -> None:
    assert "1 'vin', 2 'note'" in why(f"{database}:odd.x")


@pytest.mark.parametrize("after", ["", ":"])
def test_a_database_without_a_table_is_told_how_to_name_one(database: Path, after: str) -> None:
    said = why(f"{database}{after}")
    assert ":TABLE" in said
    assert "'odd'" in said


def test_a_database_of_another_name_is_told_how_to_name_a_table(database: Path) -> None:
    assert ":TABLE" in why(database.rename(database.with_name("fleet.csv")))


def test_a_database_is_not_written_to(database: Path) -> None:
    before = database.read_bytes()
    read(f"{database}:odd")
    assert (database.read_bytes(), os.listdir(database.parent)) == (before, [database.name])


def test_a_file_with_a_colon_in_its_name_is_that_file(written: Written, database: Path) -> None:
    assert read(written(f"{THREE}\n", f"{database.name}:odd")).vins == [THREE]


@pytest.mark.parametrize("name", ["fleet.csv", "fleet.db"])
def test_a_table_of_what_is_no_database_is_told(written: Written, name: str) -> None:
    assert "not an SQLite file" in why(f"{written(ONE * 9, name)}:vins")


def test_a_broken_database_is_told(database: Path) -> None:
    database.write_bytes(database.read_bytes()[:3000])
    assert "cannot be read" in why(f"{database}:odd")


def test_a_view_that_makes_too_large_a_value_is_told(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE VIEW large AS SELECT vin, zeroblob(300000000) FROM odd")
    if sys.version_info >= (3, 11):
        assert "too big" in why(f"{database}:large")
    else:
        assert read(f"{database}:large", column="1").problems == [1]


def test_a_view_that_never_gives_a_row_is_given_up(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "CREATE VIEW endless AS WITH RECURSIVE n (vin) AS (SELECT 1 UNION ALL SELECT vin + 1 FROM n)"
            " SELECT vin FROM n WHERE vin < 0"
        )
    monkeypatch.setattr(sqlite, "LONGEST_WAIT", 0.2)
    assert "no row within" in why(f"{database}:endless")


# gzip


@pytest.mark.parametrize("pieces", [1, 3])
def test_gzip_is_unpacked(written: Written, pieces: int) -> None:
    assert read(written(gzip.compress(f"{ONE}\n".encode()) * pieces, "fleet.txt")).vins == [ONE] * pieces


def test_parquet_within_gzip_is_read(parquet: Path) -> None:
    parquet.write_bytes(gzip.compress(parquet.read_bytes()))
    assert read(parquet).vins == [ONE, TWO]


@pytest.mark.parametrize("count", [10, 100_000])
def test_gzip_that_is_cut_off_gives_what_came_before(written: Written, count: int) -> None:
    lines = "".join(f"{vin}\n" for vin in numbered_vins(count)).encode()
    rows = []
    path = str(written(gzip.compress(lines)[:-8]))
    with pytest.raises(InputError, match="cut off"), open_fleet(path) as fleet:  # noqa: PT012 - so are rows before
        for row in fleet.rows:
            rows.append(row)  # noqa: PERF402 - those before the failure are kept
    assert len(rows) > count * 0.9


@pytest.mark.parametrize(
    "content",
    [b"\x1f\x8b", b"\x1f\x8b\x08rubbish and more of it", gzip.compress(b"x" * 999)[:-5] + b"wrong"],
    ids=["start", "header", "checksum"],
)
def test_gzip_that_is_damaged_is_told(written: Written, content: bytes) -> None:
    assert "gzip" in why(written(content))


# What cannot be read


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "no file" in why(tmp_path / "none.csv")


def test_a_missing_database_is_told(tmp_path: Path) -> None:
    assert why(f"{tmp_path / 'none.db'}:vins").startswith(f"There is no file {tmp_path / 'none.db'};")


def test_a_folder_is_told(tmp_path: Path) -> None:
    assert "folder" in why(tmp_path)


def test_a_name_that_no_file_can_have_is_told() -> None:
    assert "null" in why("a\0b")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(written: Written) -> None:
    path = written(ONE)
    path.chmod(0)
    assert "permissions" in why(path)


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF-1.7", b"BZh9", b"\xfd7zXZ\0"])
def test_what_is_no_fleet_is_told_with_what_to_do(written: Written, magic: bytes) -> None:
    assert "CSV" in (said := why(written(magic + b"\0" * 99))) or "unpack" in said


# Standard input and pipes


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Have these bytes come through a pipe on the standard input."""
    with contextlib.ExitStack() as opened:

        def put(data: bytes) -> None:
            reading, writing = os.pipe()
            stream = opened.enter_context(open(reading, "rb"))

            def write() -> None:
                with open(writing, "wb") as out, contextlib.suppress(BrokenPipeError):
                    out.write(data)

            thread = threading.Thread(target=write)
            thread.start()
            opened.callback(thread.join)
            opened.callback(stream.close)
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))

        yield put


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("count", [3, 30_000])
def test_a_pipe_is_read(standard_input: Any, pack: Callable[[bytes], bytes], count: int) -> None:
    vins = numbered_vins(count)
    standard_input(pack("".join(f"{vin}\n" for vin in vins).encode()))
    assert read("-").vins == vins


def test_a_pipe_may_bring_parquet(standard_input: Any, parquet: Path) -> None:
    standard_input(parquet.read_bytes())
    assert read("-").vins == [ONE, TWO]


def test_a_pipe_cannot_bring_a_database(standard_input: Any, database: Path) -> None:
    standard_input(database.read_bytes())
    assert "standard input" in why("-")


def test_the_standard_input_stays_open(standard_input: Any) -> None:
    standard_input(ONE.encode())
    read("-")
    assert not sys.stdin.buffer.closed


def test_no_standard_input_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert "name a file" in why("-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    answered = threading.Event()

    def write() -> None:
        with open(path, "wb") as out:
            out.write("".join(f"{vin}\n" for vin in numbered_vins(300)).encode())
            out.flush()
            assert answered.wait(20)

    thread = threading.Thread(target=write)
    thread.start()
    with open_fleet(str(path)) as fleet:
        first = next(fleet.rows)
        answered.set()
    thread.join()
    assert first == Row(1, ONE)


# Memory


def columns_of_rows(count: int) -> bytes:
    return "".join(f"{vin},HONDA,Accord,2003,dark blue\n" for vin in numbered_vins(count)).encode()


CSV_LINES = columns_of_rows(20_000)
LARGE: dict[str, bytes] = {
    "csv": b"vin,make,model,year,colour\n" + CSV_LINES * 40,
    "line": b"x" * 40_000_000,
    "quote": b'vin,make,model,year,colour\n"' + CSV_LINES * 10,
    "json": b"[" + b",".join([f'{{"vin": "{ONE}", "note": "{"x" * 100}"}}'.encode()] * 100_000) + b"]",
}


@pytest.mark.parametrize("kept", [b"x", b"\0"], ids=["one line", "zeros"])
def test_a_line_without_end_is_given_up(written: Written, kept: bytes) -> None:
    path = written(gzip.compress(kept * 400_000_000, 1))
    with seconds_at_most(10):
        assert "no text" in why(path)


def test_a_string_without_end_is_given_up(written: Written) -> None:
    path = written(gzip.compress(b'["' + b"x" * 100_000_000, 1))
    tracemalloc.start()
    try:
        assert "longer than" in why(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000


def test_unpacked_parquet_has_an_end(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LARGEST_SPOOLED", 10_000_000)
    assert "10,000,000 bytes" in why(written(gzip.compress(b"PAR1" + bytes(20_000_000))))


@pytest.mark.parametrize("kind", LARGE)
def test_memory_does_not_grow_with_the_input(written: Written, kind: str) -> None:
    path = written(gzip.compress(LARGE[kind], 1))
    tracemalloc.start()
    try:
        with open_fleet(str(path)) as fleet:
            for _ in islice(fleet.rows, 100_000):
                pass
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000


def test_leaving_early_leaves_the_rest_unread(tmp_path: Path) -> None:
    path = tmp_path / "fleet.gz"
    with gzip.open(path, "wb", 1) as out:
        for _ in range(8):
            out.write(LARGE["csv"])
    with open_fleet(str(path)) as fleet:
        assert next(fleet.rows).vin == ONE


def test_rows_of_a_fleet_that_was_left_are_no_more(written: Written) -> None:
    with open_fleet(str(written(f"{ONE}\n{TWO}\n"))) as fleet:
        next(fleet.rows)
    assert list(fleet.rows) == []


def test_an_error_of_the_reader_of_rows_is_its_own(written: Written) -> None:
    with pytest.raises(FileNotFoundError), open_fleet(str(written(ONE))):
        raise FileNotFoundError


def test_a_time_is_kept_as_python_knows_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"vin": [ONE], "at": [datetime(2003, 1, 2)]}), tmp_path / "fleet")
    assert read(tmp_path / "fleet").values == [(ONE, datetime(2003, 1, 2))]
