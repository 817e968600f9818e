"""VINs as a notebook has them: which lists, frames and columns are taken, and what is said of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from vin_datasette.fleet.fleet import InputError
from vin_datasette.fleet.pasted import vins_in
from vin_datasette.given import given

if TYPE_CHECKING:
    from collections.abc import Callable

HONDA, PETERBILT = "1HGCM82633A004352", "1XP5DB9X7XD487964"


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        iter,
        lambda vins: (vin for vin in vins),
        dict.fromkeys,
        np.array,
        lambda vins: np.array(vins, "S17"),
        pd.Series,
        lambda vins: pd.Series(vins, dtype="category"),
        pd.Index,
        pl.Series,
        pa.array,
        lambda vins: pa.chunked_array([[vin] for vin in vins]),
        lambda vins: list(pa.array(vins)),
    ],
    ids=lambda make: getattr(make, "__name__", None),
)
def test_vins_come_in_any_iterable(make: Callable[[list[str]], Any]) -> None:
    data = make([HONDA, PETERBILT])
    asked = given(data.keys() if isinstance(data, dict) else data)
    assert asked.texts == [HONDA, PETERBILT]
    assert {type(text) for text in asked.texts} == {str}
    assert (asked.frame, asked.kind) == (None, None)


def test_what_is_missing_is_no_text() -> None:
    missing = [None, float("nan"), np.float64("nan"), pd.NA, pd.NaT, pa.scalar(None, pa.string())]
    assert given(missing).texts == [""] * 6


def test_other_values_are_their_texts() -> None:
    assert given([17, 1.5, True, b"1HG"]).texts == ["17", "1.5", "True", "1HG"]


@pytest.mark.parametrize(
    "data",
    [
        HONDA,
        b"1HGCM82633A004352",
        bytearray(b"1HGCM82633A004352"),
        None,
        17,
        Path("fleet.csv"),
        {"vin": [HONDA]},
        np.array(HONDA),
        pl.LazyFrame({"vin": [HONDA]}),
    ],
    ids=lambda data: type(data).__name__,
)
def test_what_holds_no_vins_is_a_type_error(data: object) -> None:
    words = f"VINs come as a list, a data frame or an Arrow table, not as {type(data).__name__}."
    with pytest.raises(TypeError) as caught:
        given(data)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    "data",
    [[[HONDA, PETERBILT]], [(HONDA,)], [{"vin": HONDA}], np.array([[HONDA]]), pa.array([{"vin": HONDA}])],
    ids=["lists", "tuples", "dicts", "matrix", "structs"],
)
def test_a_list_of_what_is_no_text_is_a_type_error(data: object) -> None:
    with pytest.raises(TypeError, match="Each VIN of a list is a text, and number 1 is a "):
        given(data)


def test_a_list_has_no_column() -> None:
    with pytest.raises(ValueError, match="a list of VINs has none"):
        given([HONDA], "vin")


def test_no_vins_are_none() -> None:
    assert given([]).texts == []


# Frames


def a_frame(kind: str, columns: dict[str, list[Any]]) -> Any:
    return {"pandas": pd.DataFrame, "polars": pl.DataFrame, "arrow": pa.table}[kind](columns)


KINDS = ["pandas", "polars", "arrow"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_column_is_found_by_its_name(kind: str) -> None:
    frame = a_frame(kind, {"unit": [1, 2], "VIN number": [HONDA, None]})
    asked = given(frame)
    assert (asked.texts, asked.kind, asked.names) == ([HONDA, ""], kind, ["unit", "VIN number"])
    assert asked.frame.equals(frame)


@pytest.mark.parametrize("kind", ["pandas", "polars"])
def test_a_frame_may_be_changed_after_it_was_handed_in(kind: str) -> None:
    frame = a_frame(kind, {"vin": [HONDA, PETERBILT]})
    asked = given(frame)
    if kind == "pandas":
        frame["depot"] = "Austin"
        frame.loc[2] = [HONDA, "Denver"]
    else:
        frame.insert_column(0, pl.Series("depot", ["Austin", "Denver"]))
    assert (list(asked.frame.columns), len(asked.frame)) == (["vin"], 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_column_is_found_by_what_it_holds(kind: str) -> None:
    assert given(a_frame(kind, {"unit": [1, 2], "truck": [HONDA, PETERBILT]})).texts == [HONDA, PETERBILT]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["Truck", "truck"])
def test_the_column_is_the_one_that_was_named(kind: str, column: str) -> None:
    assert given(a_frame(kind, {"vin": ["other"], "Truck": [HONDA]}), column).texts == [HONDA]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("column", ["trucks", "1", 1, ""])
def test_a_column_that_is_not_there_is_told_with_those_that_are(kind: str, column: Any) -> None:
    with pytest.raises(ValueError, match=r"has no column .*; its columns are: 'unit', 'truck'"):
        given(a_frame(kind, {"unit": [1], "truck": [HONDA]}), column)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [{"unit": [1]}, {"unit": []}], ids=["no VINs", "no rows"])
def test_a_frame_without_vins_is_told(kind: str, columns: dict[str, list[Any]]) -> None:
    with pytest.raises(ValueError, match="say which with column="):
        given(a_frame(kind, columns))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_without_columns_is_told(kind: str) -> None:
    with pytest.raises(ValueError, match="The frame has no columns"):
        given(a_frame(kind, {}))


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_may_have_no_rows(kind: str) -> None:
    assert given(a_frame(kind, {"vin": []})).texts == []


def test_of_columns_with_one_name_the_first_is_meant() -> None:
    frame = pd.DataFrame([[1, HONDA, PETERBILT]], columns=["unit", "vin", "vin"])
    assert given(frame).texts == given(frame, "vin").texts == [HONDA]
    table = pa.Table.from_arrays([pa.array([HONDA]), pa.array([PETERBILT])], ["vin", "vin"])
    assert given(table).texts == [HONDA]


@pytest.mark.parametrize(
    "values",
    [
        pd.Categorical([HONDA, None]),
        pd.array([HONDA, None], "string"),
        pd.array([HONDA, None], "string[pyarrow]"),
        pd.array([HONDA, None], pd.ArrowDtype(pa.string())),
        pd.array([HONDA, None], pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))),
        np.array([HONDA, float("nan")], dtype=object),
        np.array([HONDA, pd.NA], dtype=object),
    ],
    ids=["category", "string", "string[pyarrow]", "ArrowDtype", "dictionary", "object", "NA"],
)
def test_a_pandas_column_may_be_of_any_type(values: Any) -> None:
    assert given(pd.DataFrame({"vin": values}, index=[7, 7])).texts == [HONDA, ""]


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum([HONDA]), pl.Binary])
def test_a_polars_column_may_be_of_any_type(dtype: Any) -> None:
    values = [HONDA.encode() if dtype is pl.Binary else HONDA, None]
    assert given(pl.DataFrame({"vin": pl.Series(values, dtype=dtype)})).texts == [HONDA, ""]


@pytest.mark.parametrize(
    "dtype", [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), "string")]
)
def test_an_arrow_column_may_be_of_any_type(dtype: Any) -> None:
    values = [HONDA.encode() if dtype == pa.binary() else HONDA, None]
    assert given(pa.table({"vin": pa.array(values, dtype)})).texts == [HONDA, ""]


def test_columns_may_have_names_that_are_no_texts() -> None:
    numbered = pd.DataFrame([["x", HONDA]])
    assert given(numbered).texts == given(numbered, 1).texts == [HONDA]  # type: ignore[arg-type]
    levels = pd.DataFrame([[HONDA]], columns=pd.MultiIndex.from_tuples([("truck", "vin")]))
    assert given(levels, ("truck", "vin")).texts == [HONDA]  # type: ignore[arg-type]


def test_whatever_gives_an_arrow_table_is_taken_as_one() -> None:
    duckdb = pytest.importorskip("duckdb")
    table = pa.table({"vin": [HONDA]})
    with duckdb.connect() as connection:
        for data in (connection.sql(f"SELECT '{HONDA}' AS vin"), table.to_reader(), table.to_batches()[0]):
            asked = given(data)
            assert (asked.texts, asked.kind, asked.frame.column_names) == ([HONDA], "arrow", ["vin"])


# Pasted


@pytest.mark.parametrize(
    "text",
    [
        f"{HONDA}\n{PETERBILT}",
        f"\r\n {HONDA} \r\n\r\n{PETERBILT}\r\n",
        f"{HONDA} {PETERBILT}",
        f"{HONDA}, {PETERBILT}",
        f"{HONDA};{PETERBILT};",
        f"{HONDA}|{PETERBILT}",
        f"{HONDA},\n{PETERBILT},\n",
        f"'{HONDA}', \"{PETERBILT}\"",
        f"['{HONDA}', '{PETERBILT}']",
        f'[\n  "{HONDA}",\n  "{PETERBILT}"\n]',
        f"vin\n{HONDA}\n{PETERBILT}",
        f"unit,vin\n1,{HONDA}\n2,\n3,{PETERBILT}",
        f"{HONDA}\t2003\n{PETERBILT}\t1999",
    ],
)
def test_vins_are_pasted_in_any_shape(text: str) -> None:
    assert vins_in(text) == [HONDA, PETERBILT]


@pytest.mark.parametrize("between", ["\t", " ", ", ", ";"])
def test_several_lines_of_several_vins_are_read_line_by_line(between: str) -> None:
    assert vins_in(f"{HONDA}{between}{PETERBILT}\n{PETERBILT}{between}{HONDA}") == [HONDA, PETERBILT, PETERBILT, HONDA]


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ("", []),
        (" \n\n ", []),
        ("[]", []),
        ("no VIN", ["no VIN"]),
        ("1HG CM8 2633A004352", ["1HG CM8 2633A004352"]),
        (f"{HONDA}\nno VIN", [HONDA, "no VIN"]),
        (f"['{HONDA}', 'no VIN', '']", [HONDA, "no VIN"]),
        (f"vin,unit\n{HONDA[:16]},1\n{PETERBILT},2", [HONDA[:16], PETERBILT]),
    ],
)
def test_what_is_no_vin_is_taken_as_it_is_written(text: str, texts: list[str]) -> None:
    assert vins_in(text) == texts


def test_a_pasted_table_without_a_column_of_vins_is_told() -> None:
    with pytest.raises(InputError) as caught:
        vins_in("name,depot\nAnn,Austin 1\nBob,Denver 2")
    words = "No column of the text was found to hold VINs. Its columns are: 1 'name', 2 'depot'."
    assert str(caught.value) == words
