"""`.parquet` beside every page of rows: all of them, as what they are, to whom may see them."""

from __future__ import annotations

import asyncio
import io
import math
import re
import sqlite3
import threading
import time
from contextlib import closing
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasette import hookimpl
from datasette.database import Database
from datasette.plugins import pm
from datasette.utils import tilde_encode

from tests.conftest import DATASETTE_1, fill_cache, rows
from vin_datasette.parquet import Encoder
from vin_datasette.web import page_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from datasette import Request
    from datasette.app import Datasette

    from tests.conftest import MakeInstance
    from vin_datasette.parquet import Part

ROWS = 2_500
"""More than two pages of what Datasette returns at most."""

ODD_TABLE = 'odd "table"/x.y 100% 名.parquet'
ODD_COLUMNS = ["a column", 'says "so"', "it's", "naïve 名", "a/b&c=d?#", "select", "1st", "Größe_in_m"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A database of one table of many rows, to which tests add their own."""
    with closing(sqlite3.connect(tmp_path / "data.db", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE many (id INTEGER PRIMARY KEY, kind TEXT, size REAL, name TEXT)")
        many = [(number, [None, "a", "b"][number % 3], number / 2, f"nr {number}") for number in range(ROWS)]
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO many VALUES (?, ?, ?, ?)", many)
        connection.execute("COMMIT")
        yield connection


@pytest.fixture
async def datasette(make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path) -> Datasette:
    """An instance that serves that database."""
    return await make_instance(files=[str(tmp_path / "data.db")])


async def table_at(datasette: Datasette, path: str, **options: Any) -> pa.Table:
    """The file that a path answers with."""
    response = await datasette.client.get(path, **options)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/vnd.apache.parquet"
    return pq.read_table(io.BytesIO(response.content))


def query(sql: str, format: str = ".parquet", **parameters: str) -> str:  # noqa: A002
    """The path of a query's page."""
    page = "/data/-/query" if DATASETTE_1 else "/data"
    return f"{page}{format}?{urlencode({'sql': sql, **parameters})}"


def selected(connection: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    """What SQLite itself answers."""
    return connection.execute(sql).fetchall()


def tuples(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


def types(table: pa.Table) -> dict[str, pa.DataType]:
    return dict(zip(table.schema.names, table.schema.types, strict=True))


# All rows

PAGES = {
    "table": ("/data/many.parquet", "SELECT * FROM many ORDER BY id"),
    "filter": ("/data/many.parquet?kind=a", "SELECT * FROM many WHERE kind = 'a' ORDER BY id"),
    "filter of many": ("/data/many.parquet?id__gte=300", "SELECT * FROM many WHERE id >= 300 ORDER BY id"),
    "filter of none": ("/data/many.parquet?id__gte=9999", "SELECT * FROM many WHERE 0"),
    "order": ("/data/many.parquet?_sort_desc=id", "SELECT * FROM many ORDER BY id DESC"),
    "order of another column": ("/data/many.parquet?_sort=name", "SELECT * FROM many ORDER BY name"),
    "columns": ("/data/many.parquet?_col=name", "SELECT id, name FROM many ORDER BY id"),
    "columns with the key": ("/data/many.parquet?_col=id&_col=name", "SELECT id, name FROM many ORDER BY id"),
    "columns left out": ("/data/many.parquet?_nocol=name&_nocol=size", "SELECT id, kind FROM many ORDER BY id"),
    "size of the page": ("/data/many.parquet?_size=5", "SELECT * FROM many ORDER BY id"),
    "later page": ("/data/many.parquet?_next=100", "SELECT * FROM many ORDER BY id"),
    "facets": ("/data/many.parquet?_facet=kind&_facet_size=3", "SELECT * FROM many ORDER BY id"),
    "shape": ("/data/many.parquet?_shape=array&_nl=on", "SELECT * FROM many ORDER BY id"),
    "download": ("/data/many.parquet?_stream=on&_dl=1", "SELECT * FROM many ORDER BY id"),
}


@pytest.mark.parametrize(("path", "sql"), PAGES.values(), ids=PAGES)
async def test_table_page_has_all_its_rows(
    datasette: Datasette, database: sqlite3.Connection, path: str, sql: str
) -> None:
    assert tuples(await table_at(datasette, path)) == selected(database, sql)


async def test_view_has_all_its_rows(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute("CREATE VIEW seen AS SELECT id, upper(name) AS loud FROM many WHERE id % 2 = 0 OR id < 2000")
    assert tuples(await table_at(datasette, "/data/seen.parquet")) == selected(database, "SELECT * FROM seen")


async def test_rowid_table_has_all_its_rows_under_their_numbers(
    datasette: Datasette, database: sqlite3.Connection
) -> None:
    database.execute("CREATE TABLE plain AS SELECT name FROM many")
    table = await table_at(datasette, "/data/plain.parquet")
    assert tuples(table) == selected(database, "SELECT rowid, name FROM plain ORDER BY rowid")


async def test_table_of_a_compound_key_has_all_its_rows(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE pairs (a TEXT, b INTEGER, c REAL, PRIMARY KEY (a, b))")
    database.execute("INSERT INTO pairs SELECT 'k/' || (id % 7), id, size FROM many")
    table = await table_at(datasette, "/data/pairs.parquet")
    assert tuples(table) == selected(database, "SELECT * FROM pairs ORDER BY a, b")


@pytest.mark.parametrize("order", ["_sort=kind", "_sort_desc=kind"])
@pytest.mark.parametrize("indexed", [False, True])
async def test_order_by_what_many_rows_share_loses_none(
    datasette: Datasette, database: sqlite3.Connection, order: str, indexed: bool
) -> None:
    database.execute("CREATE TABLE shared (name TEXT PRIMARY KEY, kind TEXT)")
    database.execute("INSERT INTO shared SELECT name, kind FROM many ORDER BY id * 7919 % 10000")
    if indexed:
        database.execute("CREATE INDEX by_kind ON shared (kind)")
    table = await table_at(datasette, f"/data/shared.parquet?{order}")
    assert sorted(tuples(table)) == selected(database, "SELECT * FROM shared ORDER BY name")


@pytest.mark.parametrize("asked", ["kind=a", "kind=a&_sort=one", "kind=a&_sort_desc=two", "kind__in=a,b"])
async def test_compound_key_loses_no_row_that_shares_its_first_column(
    datasette: Datasette, database: sqlite3.Connection, asked: str
) -> None:
    database.execute("CREATE TABLE pairs (one INTEGER, two INTEGER, kind TEXT, PRIMARY KEY (one, two))")
    database.execute("INSERT INTO pairs SELECT 1, id * 7919 % 10000, CASE WHEN id < 2000 THEN 'a' END FROM many")
    database.execute("CREATE INDEX by_kind ON pairs (kind)")
    table = await table_at(datasette, f"/data/pairs.parquet?{asked}")
    assert sorted(tuples(table)) == selected(database, "SELECT * FROM pairs WHERE kind = 'a' ORDER BY one, two")


@pytest.mark.parametrize(
    "shown",
    [
        {"sort": "kind"},
        {"sort_desc": "size"},
        {"sortable_columns": ["size"]},
        {"sort": "size", "sortable_columns": ["size"]},
    ],
    ids=str,
)
async def test_order_that_the_instance_prescribes_loses_no_row(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path, shown: dict[str, object]
) -> None:
    config = {"databases": {"data": {"tables": {"many": shown}}}}
    datasette = await make_instance(config=config, files=[str(tmp_path / "data.db")])
    table = await table_at(datasette, "/data/many.parquet")
    assert sorted(table["id"].to_pylist()) == list(range(ROWS))


async def test_order_that_the_instance_prescribes_for_a_compound_key_loses_no_row(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE pairs (one INTEGER, two INTEGER, kind TEXT, PRIMARY KEY (one, two))")
    database.execute("INSERT INTO pairs SELECT 1, id, kind FROM many")
    config = {"databases": {"data": {"tables": {"pairs": {"sort": "kind"}}}}}
    datasette = await make_instance(config=config, files=[str(tmp_path / "data.db")])
    table = await table_at(datasette, "/data/pairs.parquet")
    assert sorted(table["two"].to_pylist()) == list(range(ROWS))


async def test_table_without_rows_is_a_file_of_its_columns(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE bare (id INTEGER PRIMARY KEY, name TEXT, size REAL)")
    table = await table_at(datasette, "/data/bare.parquet")
    assert (table.num_rows, types(table)) == (0, {"id": pa.int64(), "name": pa.string(), "size": pa.float64()})


async def test_row_page_has_its_row(datasette: Datasette, database: sqlite3.Connection) -> None:
    table = await table_at(datasette, "/data/many/7.parquet")
    assert tuples(table) == selected(database, "SELECT * FROM many WHERE id = 7")


async def test_row_page_of_a_compound_key_has_its_row(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE pairs (a TEXT, b INTEGER, c BLOB, PRIMARY KEY (a, b))")
    database.execute("INSERT INTO pairs VALUES ('k/1', 7, x'00ff')")
    table = await table_at(datasette, f"/data/pairs/{tilde_encode('k/1')},7.parquet")
    assert tuples(table) == [("k/1", 7, b"\x00\xff")]


async def test_foreign_keys_stay_what_they_are(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE likes (id INTEGER PRIMARY KEY, liked INTEGER REFERENCES many (id))")
    database.execute("INSERT INTO likes VALUES (1, 7)")
    assert tuples(await table_at(datasette, "/data/likes.parquet?_labels=on")) == [(1, 7)]


async def test_table_of_any_name_has_all_its_rows(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute(f"""CREATE TABLE "{ODD_TABLE.replace('"', '""')}" AS SELECT * FROM many""")
    table = await table_at(datasette, f"/data/{tilde_encode(ODD_TABLE)}.parquet")
    assert table["id"].to_pylist() == list(range(ROWS))


async def test_columns_of_any_name_keep_it(datasette: Datasette, database: sqlite3.Connection) -> None:
    names = ", ".join('"{}"'.format(name.replace('"', '""')) for name in ODD_COLUMNS)
    database.execute(f"CREATE TABLE odd (id INTEGER PRIMARY KEY, {names})")
    database.execute(f"INSERT INTO odd VALUES (1, {', '.join('?' * len(ODD_COLUMNS))})", ODD_COLUMNS)
    table = await table_at(datasette, "/data/odd.parquet")
    assert table.to_pylist() == [{"id": 1, **{name: name for name in ODD_COLUMNS}}]


async def test_vehicles_have_their_page_too(make_instance: MakeInstance, tmp_path: Path) -> None:
    fill_cache(tmp_path / "vin.db", ROWS)
    datasette = await make_instance()
    table = await table_at(datasette, "/vin/vehicles.parquet")
    assert sorted(table.to_pylist(), key=lambda row: str(row["vin"])) == rows(tmp_path / "vin.db")


async def test_pages_under_a_base_url_have_all_their_rows(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path
) -> None:
    datasette = await make_instance(files=[str(tmp_path / "data.db")], settings={"base_url": "/prefix/"})
    assert (await table_at(datasette, "/data/many.parquet")).num_rows == ROWS


async def test_small_pages_are_followed_to_the_end(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path
) -> None:
    datasette = await make_instance(files=[str(tmp_path / "data.db")], settings={"max_returned_rows": 100})
    table = await table_at(datasette, "/data/many.parquet?id__lt=1000")
    assert table["id"].to_pylist() == list(range(1000))


# Queries

QUERIES = {
    "all": "SELECT id, name FROM many",
    "in an order": "SELECT id, name FROM many ORDER BY size DESC",
    "limited": "SELECT id FROM many ORDER BY id LIMIT 1700 OFFSET 100",
    "with": "WITH few AS (SELECT id FROM many WHERE id < 1500) SELECT id AS number FROM few",
    "with a semicolon": "SELECT id FROM many; ",
    "with a comment": "SELECT id FROM many -- all of them",
    "with a time in it": "SELECT id, '12:30' AS at FROM many",
    "joined": "SELECT a.id AS one, b.id AS other FROM many a JOIN many b ON b.id = a.id + 1",
    "without rows": "SELECT id, name FROM many WHERE 0",
    "of names with brackets": 'SELECT id AS "a]b", name AS "[c" FROM many',
    "of names that differ in case alone": "SELECT id AS a, name AS A FROM many",
}


@pytest.mark.parametrize("sql", QUERIES.values(), ids=QUERIES)
async def test_query_has_all_its_rows(datasette: Datasette, database: sqlite3.Connection, sql: str) -> None:
    assert tuples(await table_at(datasette, query(sql))) == selected(database, sql)


async def test_query_of_another_order_at_each_turn_has_each_row_once(datasette: Datasette) -> None:
    table = await table_at(datasette, query("SELECT id FROM many ORDER BY random()"))
    assert sorted(table["id"].to_pylist()) == list(range(ROWS))


async def test_parameters_of_a_query_are_filled_in(datasette: Datasette, database: sqlite3.Connection) -> None:
    sql = "SELECT id FROM many WHERE kind = :kind AND id > CAST(:least AS INTEGER)"
    table = await table_at(datasette, query(sql, kind="a", least="20"))
    assert tuples(table) == selected(database, "SELECT id FROM many WHERE kind = 'a' AND id > 20")


async def test_parameters_that_are_not_given_are_blank(datasette: Datasette, database: sqlite3.Connection) -> None:
    table = await table_at(datasette, query("SELECT :absent AS value"))
    assert tuples(table) == [("",)]


async def test_query_is_named_after_its_database(datasette: Datasette) -> None:
    response = await datasette.client.get(query("SELECT 1 AS one"))
    assert response.headers["content-disposition"] == 'attachment; filename="data.parquet"'


async def test_table_is_named_so_that_any_system_takes_it(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute("""CREATE TABLE "a ""b""/c; é" (id INTEGER PRIMARY KEY)""")
    name = tilde_encode('a "b"/c; é')
    response = await datasette.client.get(f"/data/{name}.parquet")
    assert response.headers["content-disposition"] == 'attachment; filename="a__b__c___.parquet"'


@pytest.fixture
async def with_queries(make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path) -> Datasette:
    """An instance with queries of its own."""
    queries = {
        "everything": {"sql": "SELECT id, name FROM many"},
        "of_kind": {"sql": "SELECT id FROM many WHERE kind = :kind"},
        "today": {"sql": "SELECT :_now_date_utc AS today"},
        "emptied": {"sql": "DELETE FROM many", "write": True},
    }
    return await make_instance(config={"databases": {"data": {"queries": queries}}}, files=[str(tmp_path / "data.db")])


async def test_instances_own_query_has_all_its_rows(with_queries: Datasette, database: sqlite3.Connection) -> None:
    table = await table_at(with_queries, "/data/everything.parquet")
    assert tuples(table) == selected(database, "SELECT id, name FROM many")


async def test_instances_own_query_takes_parameters(with_queries: Datasette, database: sqlite3.Connection) -> None:
    table = await table_at(with_queries, "/data/of_kind.parquet?kind=b")
    assert tuples(table) == selected(database, "SELECT id FROM many WHERE kind = 'b'")


async def test_query_that_only_its_page_can_fill_in_is_400_in_words(with_queries: Datasette) -> None:
    await assert_refused(with_queries, "/data/today.parquet", "only its page can fill in")


async def test_query_that_writes_does_not(with_queries: Datasette, database: sqlite3.Connection) -> None:
    response = await with_queries.client.get("/data/emptied.parquet")
    assert response.status_code >= 400
    assert selected(database, "SELECT count(*) FROM many") == [(ROWS,)]


# Types


async def typed(datasette: Datasette, database: sqlite3.Connection, declared: str, values: list[Any]) -> pa.Table:
    """The column `value` of a table that declares it so and holds these, the last on a later page."""
    database.execute(f"CREATE TABLE typed (id INTEGER PRIMARY KEY, value {declared})")
    *others, last = values
    database.execute("BEGIN")
    database.executemany("INSERT INTO typed (value) VALUES (?)", [(others[0],)] * (1_500 - len(values)))
    database.executemany("INSERT INTO typed (value) VALUES (?)", [(value,) for value in [*others, last]])
    database.execute("COMMIT")
    return (await table_at(datasette, "/data/typed.parquet")).select(["value"])


TYPES: dict[str, tuple[str, list[Any], pa.DataType, list[Any]]] = {
    "integers": ("INTEGER", [1, None, -1], pa.int64(), [1, None, -1]),
    "largest integers": ("INTEGER", [2**63 - 1, -(2**63)], pa.int64(), [2**63 - 1, -(2**63)]),
    "integers of no declared type": ("", [1, 2], pa.int64(), [1, 2]),
    "integers where text is declared": ("TEXT", [1, 2], pa.string(), ["1", "2"]),
    "reals": ("REAL", [0.1, None, 1e300], pa.float64(), [0.1, None, 1e300]),
    "infinities": ("REAL", [1.5, math.inf, -math.inf], pa.float64(), [1.5, math.inf, -math.inf]),
    "a real after integers": ("INTEGER", [1, 2, 0.5], pa.float64(), [1.0, 2.0, 0.5]),
    "an integer that no real can be after reals": ("", [0.5, 2**53 + 1], pa.string(), ["0.5", str(2**53 + 1)]),
    "text": ("TEXT", ["a", None, ""], pa.string(), ["a", None, ""]),
    "text of all kinds": ("TEXT", ["Škoda 🚚 日本", "a\0b", '"'], pa.string(), ["Škoda 🚚 日本", "a\0b", '"']),
    "text after integers": ("INTEGER", [1, None, "late"], pa.string(), ["1", None, "late"]),
    "text after reals": ("REAL", [0.5, "late"], pa.string(), ["0.5", "late"]),
    "text that looks like bytes": (
        "TEXT",
        ['{"$base64": true, "encoded": "aGk="}', "b"],
        pa.string(),
        ['{"$base64": true, "encoded": "aGk="}', "b"],
    ),
    "bytes": ("BLOB", [b"\x00\xff", None, b""], pa.binary(), [b"\x00\xff", None, b""]),
    "bytes after text": ("TEXT", ["é", b"\xff"], pa.binary(), ["é".encode(), b"\xff"]),
    "bytes after numbers": ("", [7, 0.5, b"\xff"], pa.binary(), [b"7", b"0.5", b"\xff"]),
    "nulls declared INTEGER": ("INTEGER", [None, None], pa.int64(), [None, None]),
    "nulls declared BIGINT": ("BIGINT", [None, None], pa.int64(), [None, None]),
    "nulls declared REAL": ("REAL", [None, None], pa.float64(), [None, None]),
    "nulls declared DOUBLE PRECISION": ("DOUBLE PRECISION", [None, None], pa.float64(), [None, None]),
    "nulls declared VARCHAR": ("VARCHAR(20)", [None, None], pa.string(), [None, None]),
    "nulls declared BLOB": ("BLOB", [None, None], pa.binary(), [None, None]),
    "nulls of no declared type": ("", [None, None], pa.string(), [None, None]),
}


@pytest.mark.parametrize(("declared", "values", "kind", "expected"), TYPES.values(), ids=TYPES)
async def test_type_of_a_column_is_that_of_all_its_values(
    datasette: Datasette,
    database: sqlite3.Connection,
    declared: str,
    values: list[Any],
    kind: pa.DataType,
    expected: list[Any],
) -> None:
    column = (await typed(datasette, database, declared, values))["value"]
    assert (column.type, column.slice(1_500 - len(values)).to_pylist()) == (kind, expected)


async def test_type_of_a_querys_column_is_that_of_all_its_values(
    datasette: Datasette, database: sqlite3.Connection
) -> None:
    sql = "SELECT CASE WHEN id < 2400 THEN id ELSE name END AS value FROM many ORDER BY id"
    column = (await table_at(datasette, query(sql)))["value"]
    assert (column.type, column[0].as_py(), column[ROWS - 1].as_py()) == (pa.string(), "0", f"nr {ROWS - 1}")


async def test_bytes_of_a_query_are_bytes(datasette: Datasette, database: sqlite3.Connection) -> None:
    table = await table_at(datasette, query("SELECT x'00ff' AS value UNION ALL SELECT NULL"))
    assert (types(table), tuples(table)) == ({"value": pa.binary()}, [(b"\x00\xff",), (None,)])


async def test_row_page_has_the_types_of_its_table(datasette: Datasette, database: sqlite3.Connection) -> None:
    database.execute("CREATE TABLE few (id INTEGER PRIMARY KEY, late INTEGER, ratio, data BLOB)")
    database.execute("INSERT INTO few VALUES (1, 1, 9e999, x'ff'), (2, 'late', 1, NULL)")
    table = await table_at(datasette, "/data/few/1.parquet")
    assert table.to_pylist() == [{"id": 1, "late": "1", "ratio": math.inf, "data": b"\xff"}]


# What cannot be


async def assert_refused(datasette: Datasette, path: str, words: str) -> None:
    response = await datasette.client.get(path)
    assert response.status_code == 400
    assert words in unescape(response.text)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS a, 2 AS a",
        "SELECT * FROM many a JOIN many b ON a.id = b.id",
        "SELECT 1 AS a, 2 AS b, 3 AS a WHERE 0",
    ],
)
async def test_columns_of_one_name_are_400_in_words(datasette: Datasette, sql: str) -> None:
    await assert_refused(datasette, query(sql), "each with a name of its own; name them with AS")


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT nonsense FROM many", "no such column: nonsense"),
        ("SELECT * FROM nonsense", "no such table: nonsense"),
        ("SELECT 'open FROM many", "unrecognized token"),
        ("SELECT id FROM many)", "syntax error"),
        ("DELETE FROM many", "Statement must be a SELECT"),
    ],
)
async def test_broken_sql_is_400_in_words(datasette: Datasette, sql: str, words: str) -> None:
    await assert_refused(datasette, query(sql), words)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM many",
        "SELECT 1 AS a; DELETE FROM many",
        "SELECT id FROM many); DELETE FROM many; SELECT (1",
        "WITH a AS (SELECT 1) DELETE FROM many",
        "SELECT id FROM many) UNION SELECT (1",
    ],
)
async def test_sql_that_is_no_query_changes_nothing(
    datasette: Datasette, database: sqlite3.Connection, sql: str
) -> None:
    response = await datasette.client.get(query(sql))
    assert response.status_code >= 400
    assert selected(database, "SELECT count(*) FROM many") == [(ROWS,)]


@pytest.mark.parametrize("path", ["/data/nonsense.parquet", "/nonsense/many.parquet", "/data/many/9999.parquet"])
async def test_what_is_not_there_is_404(datasette: Datasette, path: str) -> None:
    assert (await datasette.client.get(path)).status_code == 404


async def test_time_limit_holds_for_queries(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path
) -> None:
    datasette = await make_instance(files=[str(tmp_path / "data.db")], settings={"sql_time_limit_ms": 200})
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n"
    began = time.monotonic()
    await assert_refused(datasette, query(endless), "took too long")
    assert time.monotonic() - began < 10


async def test_time_limit_holds_for_what_is_read_after_the_first_page(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path
) -> None:
    datasette = await make_instance(files=[str(tmp_path / "data.db")], settings={"sql_time_limit_ms": 200})
    # The first thousand rows come at once, and there is no end.
    endless = (
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n WHERE i <= 1001 OR i < 0"
    )
    began = time.monotonic()
    response = await datasette.client.get(query(endless))
    assert response.status_code != 200
    assert time.monotonic() - began < 10


# Readers that leave


class Reader:
    """Somebody who asks for a page, and leaves when told to."""

    def __init__(self) -> None:
        self.answered = False
        self._asked = False
        self._left = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def leave(self) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._left.set)

    async def ask(self, datasette: Datasette, path: str) -> None:
        """Until the server is done with the request."""
        path, _, query_string = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query_string.encode(),
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", None),
            "root_path": "",
        }
        await asyncio.wait_for(datasette.app()(scope, self._receive, self._send), 30)

    async def _receive(self) -> dict[str, Any]:
        if self._asked:
            await self._left.wait()
            return {"type": "http.disconnect"}
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        self.answered = True


async def test_reader_who_leaves_does_not_end_what_is_being_encoded(
    datasette: Datasette, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    used_when_closed = []

    class Slow(Encoder):
        used = False

        def add(self, batch: pa.RecordBatch) -> Part | None:
            self.used = True
            reader.leave()
            time.sleep(0.2)
            self.used = False
            return super().add(batch)

        def close(self) -> None:
            used_when_closed.append(self.used)
            super().close()

    monkeypatch.setattr(page_parquet, "Encoder", Slow)
    await reader.ask(datasette, "/data/many.parquet")
    assert used_when_closed
    assert not any(used_when_closed)


async def test_reader_who_leaves_does_not_end_what_is_being_read(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    used_when_closed = []

    napped = threading.Event()

    class Watched(sqlite3.Connection):
        used = False

        def nap(self) -> int:
            if reader.answered and not napped.is_set():
                napped.set()
                self.used = True
                reader.leave()
                time.sleep(0.2)
                self.used = False
            return 1

        def close(self) -> None:
            used_when_closed.append(self.used)
            if not self.used:  # Else the interpreter would crash.
                super().close()

    def connect(database: Database, write: bool = False) -> Any:
        if database.name != "data":
            return original(database, write)
        connection = sqlite3.connect(database.path, check_same_thread=False, factory=Watched)
        connection.create_function("nap", 0, connection.nap)
        return connection

    original = Database.connect
    monkeypatch.setattr(Database, "connect", connect)
    datasette = await make_instance(files=[str(tmp_path / "data.db")])
    # Of the first thousand rows the reader gets the beginning of the file, while others are read.
    await reader.ask(datasette, query("SELECT nap() AS napped, hex(zeroblob(100)) AS much FROM many"))
    assert reader.answered
    assert used_when_closed
    assert not any(used_when_closed)


# Permissions

SECRET = {"databases": {"data": {"tables": {"many": {"allow": {"id": "ann"}}}}}}
NO_SQL = {"databases": {"data": {"allow_sql": {"id": "ann"}}}}


@pytest.fixture
async def secretive(make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path) -> Datasette:
    """An instance whose table only Ann may see."""
    return await make_instance(config=SECRET, files=[str(tmp_path / "data.db")])


def signed_in(datasette: Datasette, actor: str) -> dict[str, str]:
    return {"ds_actor": datasette.sign({"a": {"id": actor}}, "actor")}


@pytest.mark.parametrize("path", ["/data/many.parquet", "/data/many.parquet?id=1", "/data/many/1.parquet"])
@pytest.mark.parametrize("actor", [None, "bob"])
async def test_table_that_one_may_not_see_is_403(secretive: Datasette, path: str, actor: str | None) -> None:
    cookies = signed_in(secretive, actor) if actor else {}
    assert (await secretive.client.get(path, cookies=cookies)).status_code == 403


async def test_who_is_signed_in_gets_all_pages(secretive: Datasette) -> None:
    table = await table_at(secretive, "/data/many.parquet", cookies=signed_in(secretive, "ann"))
    assert table["id"].to_pylist() == list(range(ROWS))


class ByHeader:
    """Believes whoever says who they are."""

    @hookimpl  # type: ignore[untyped-decorator]
    def actor_from_request(self, request: Request) -> dict[str, str] | None:
        name = request.headers.get("x-user")
        return {"id": name} if name else None


async def test_who_is_known_by_a_header_gets_all_pages(secretive: Datasette) -> None:
    pm.register(ByHeader(), name="by-header")
    try:
        table = await table_at(secretive, "/data/many.parquet", headers={"X-User": "ann"})
    finally:
        pm.unregister(name="by-header")
    assert table["id"].to_pylist() == list(range(ROWS))


async def test_who_may_not_run_sql_may_not_as_parquet(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path
) -> None:
    datasette = await make_instance(config=NO_SQL, files=[str(tmp_path / "data.db")])
    assert (await datasette.client.get(query("SELECT id FROM many"))).status_code == 403


async def test_who_may_run_sql_may_as_parquet(
    make_instance: MakeInstance, database: sqlite3.Connection, tmp_path: Path
) -> None:
    datasette = await make_instance(config=NO_SQL, files=[str(tmp_path / "data.db")])
    table = await table_at(datasette, query("SELECT id FROM many"), cookies=signed_in(datasette, "ann"))
    assert table.num_rows == ROWS


# The link


def links_of(page: str) -> list[str]:
    return [unescape(href) for href in re.findall(r'href="([^"]*\.parquet[^"]*)"', page)]


LINKED = {
    "table": ("/data/many", ROWS),
    "filter": ("/data/many?kind=a", 833),
    "row": ("/data/many/7", 1),
    "query": (query("SELECT id FROM many", format=""), ROWS),
    "instance's own query": ("/data/everything", ROWS),
}


@pytest.mark.parametrize(("page", "count"), LINKED.values(), ids=LINKED)
async def test_page_links_to_its_rows(with_queries: Datasette, page: str, count: int) -> None:
    [href] = set(links_of((await with_queries.client.get(page)).text))
    assert (await table_at(with_queries, href)).num_rows == count


async def test_page_that_cannot_be_parquet_has_no_link(datasette: Datasette) -> None:
    response = await datasette.client.get(query("SELECT 1 AS a, 2 AS a", format=""))
    assert (response.status_code, links_of(response.text)) == (200, [])


async def test_question_about_a_page_makes_no_file(datasette: Datasette) -> None:
    response = await datasette.client.head("/data/many.parquet")
    assert (response.status_code, response.content) == (200, b"")
