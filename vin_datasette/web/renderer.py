"""`.parquet` beside `.json` and `.csv` on every table, view and query page: all rows, not
the first page's. The page's own query is run once, without the page's limit, and read
on in pages: one moment of the database in the order that was asked for, where pages
that are asked for one after another pass over rows or meet them twice."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datasette import Response
from datasette.database import QueryInterrupted
from datasette.utils import escape_sqlite, sqlite3, sqlite_timelimit

from vin_datasette.parquet import MEDIA_TYPE, Encoder, Part
from vin_datasette.web.asking import RETRY_AFTER
from vin_datasette.web.leaving import WORDS
from vin_datasette.web.page_query import PageError, page_query
from vin_datasette.web.routes import error, too_many_exports
from vin_datasette.web.state import state_of
from vin_datasette.web.streams import Streamed, download_headers, finished, own_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

Row = tuple[Any, ...]


async def render_parquet(  # noqa: PLR0917 - Datasette passes what is named
    datasette: Datasette,
    request: Request,
    database: str,
    table: str | None,
    columns: Sequence[str],
    rows: Sequence[Any],
    sql: str | None,
) -> Response:
    """The rows of a page's table, view or query as a Parquet file, streamed.

    The query of a table is Datasette's own answer to the same actor, so its permissions
    hold; its time limit holds for each page. Column types are those of all values where
    they can be read within `sql_time_limit_ms`, else the declared ones.
    """
    db = datasette.get_database(database)
    if not columns and sql:
        # Datasette 0.65 tells a renderer nothing of an error in the query: meet it again.
        try:
            await db.execute(sql, _parameters(request, sql))
        except (sqlite3.Error, PageError) as problem:
            return _refusal(datasette, str(problem))
    # Datasette 0.65 gives a key that is also asked for by _col twice.
    kept = [index for index, column in enumerate(columns) if not table or column not in columns[:index]]
    columns = [columns[index] for index in kept]
    if not can_render_parquet(columns):
        return _refusal(datasette, "Parquet needs columns, each with a name of its own; name them with AS.")
    try:
        if "pks" in request.url_vars:
            pages = _one_page([tuple(row) for row in rows])
            kinds = await _kinds(db, table, {}, columns, "")
        elif table:
            page = await page_query(datasette, request)
            pages = _query_pages(datasette, db, page.sql, page.parameters)
            kinds = await _kinds(db, table, {}, columns, "")
        else:
            parameters = _parameters(request, sql or "")
            pages = _query_pages(datasette, db, sql or "", parameters)
            kinds = await _kinds(db, None, parameters, columns, sql or "")
    except (sqlite3.Error, PageError) as problem:
        return _refusal(datasette, f"This cannot be written as Parquet: {problem}.")
    own = state_of(datasette)
    if own.leaving.begun:
        return _Unchanged(error(datasette, f"{WORDS}.", 503, {"Retry-After": str(RETRY_AFTER)}))
    if not own.exports.take():
        return _Unchanged(too_many_exports(datasette))
    return Streamed(
        _encoded(pages, kept, pa.schema(zip(columns, kinds, strict=True))),
        request.receive,
        headers=download_headers(datasette, f"{re.sub(r'[^A-Za-z0-9._-]', '_', table or database)}.parquet"),
        content_type=MEDIA_TYPE,
        limit=own.settings.export_timeout,
        stall=own.settings.stall_timeout,
        slots=own.exports,
        over=own.leaving.over,
        failed=lambda failure: error(datasette, f"This cannot be written as Parquet: {failure}.", 400),
    )


def can_render_parquet(columns: Sequence[str] | None) -> bool:
    """Whether a page has columns, each under its own name."""
    return bool(columns) and len(set(columns or ())) == len(columns or ())


class _Unchanged(Response):  # type: ignore[misc]
    """A response that keeps its status: Datasette 0.65 sets a renderer's to the page's own."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.body, response.status, response.headers, response.content_type)
        self._status = response.status

    async def asgi_send(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Send the response as it was made."""
        self.status = self._status
        await super().asgi_send(send)


def _refusal(datasette: Datasette, reason: str) -> Response:
    return _Unchanged(error(datasette, reason, 400))


async def _one_page(rows: Sequence[Row]) -> AsyncIterator[Sequence[Row]]:
    yield rows


async def _query_pages(
    datasette: Datasette, db: Database, sql: str, parameters: dict[str, str]
) -> AsyncIterator[Sequence[Row]]:
    """The rows of a query, run once, in pages of as many as Datasette returns at most
    and each within its time limit."""
    thread = own_thread()
    connection = await finished(thread, db.connect)
    try:
        datasette._prepare_connection(connection, db.name)  # noqa: SLF001
        limit, size = datasette.setting("sql_time_limit_ms"), datasette.setting("max_returned_rows")
        cursor = None
        while True:
            cursor, rows = await finished(thread, _page, connection, cursor, sql, parameters, limit, size)
            yield rows
            if len(rows) < size:
                return
    finally:
        connection.close()
        thread.shutdown(wait=False)


def _page(  # noqa: PLR0917 - one step of the loop above, for its thread
    connection: sqlite3.Connection,
    cursor: sqlite3.Cursor | None,
    sql: str,
    parameters: dict[str, str],
    limit: int,
    size: int,
) -> tuple[sqlite3.Cursor, list[Row]]:
    with sqlite_timelimit(connection, limit):
        cursor = cursor or connection.execute(sql, parameters)
        return cursor, [tuple(row) for row in cursor.fetchmany(size)]


_NAMED = re.compile(r":([A-Za-z0-9_]+)")


def _parameters(request: Request, sql: str) -> dict[str, str]:
    """The named parameters of a query from the request; those not given are blank, as on the page."""
    names = _NAMED.findall(sql)
    if any(name.startswith("_") for name in names):
        raise PageError("the query uses parameters that only its page can fill in")
    return {name: request.args.get(name) or "" for name in names}


async def _kinds(
    db: Database, table: str | None, parameters: dict[str, str], columns: Sequence[str], sql: str
) -> list[pa.DataType]:
    """The Arrow type of each column: that of all its values, else the declared one, else text."""
    declared = await _declared(db, table) if table else {}
    chosen = f"SELECT {', '.join(map(escape_sqlite, columns))} FROM {escape_sqlite(table)}" if table else sql  # noqa: S608 - escaped, or Datasette's own SQL  # nosec B608
    # By position, as names may differ in case alone. On a line of its own the parenthesis is not
    # swallowed by a comment at the end.
    names = [f"c{index}" for index in range(len(columns))]
    flags = [flag.format(name) for name in names for flag in _FLAGS]
    scan = f"WITH q ({', '.join(names)}) AS (\n{chosen.strip().rstrip(';')}\n) SELECT {', '.join(flags)} FROM q"  # noqa: S608 - escaped, or Datasette's own SQL  # nosec B608
    try:
        [seen] = (await db.execute(scan, parameters)).rows
    except QueryInterrupted:
        return [declared.get(column, pa.string()) for column in columns]
    width = len(_FLAGS)
    return [
        _kind([bool(flag) for flag in seen[width * index : width * (index + 1)]], declared.get(column, pa.string()))
        for index, column in enumerate(columns)
    ]


_FLAGS = (
    *(f"max(typeof({{0}}) = '{kind}')" for kind in ("integer", "real", "text", "blob")),
    f"max(typeof({{0}}) = 'integer' AND {{0}} NOT BETWEEN -{2**53} AND {2**53})",
)
"""Whether a column has values of each kind, and integers that are no exact real numbers."""


def _kind(seen: Sequence[bool], declared: pa.DataType) -> pa.DataType:
    integer, real, text, blob, large = seen
    if blob:
        return pa.binary()
    if text or (real and large):
        return pa.string()
    if real:
        return pa.float64()
    return pa.int64() if integer else declared


async def _declared(db: Database, table: str) -> dict[str, pa.DataType]:
    """Declared column types by the rules of SQLite's type affinity (its documentation, 3.1)."""
    info = await db.execute_fn(
        lambda connection: connection.execute(f"PRAGMA table_info({escape_sqlite(table)})").fetchall()
    )
    kinds: dict[str, pa.DataType] = {"rowid": pa.int64()}
    for row in info:
        words = str(row[2]).upper()
        if "INT" in words:
            kinds[row[1]] = pa.int64()
        elif any(word in words for word in ("REAL", "FLOA", "DOUB")):
            kinds[row[1]] = pa.float64()
        else:
            kinds[row[1]] = pa.binary() if "BLOB" in words else pa.string()
    return kinds


async def _encoded(
    pages: AsyncIterator[Sequence[Row]], kept: Sequence[int], schema: pa.Schema
) -> AsyncGenerator[bytes, None]:
    """Pages as the bytes of a Parquet file, encoded on a thread."""
    encoder, thread = Encoder(schema), own_thread()
    try:
        async for rows in pages:
            part = await finished(thread, _added, encoder, rows, kept, schema)
            if part:
                yield part.data
        yield (await finished(thread, encoder.finish)).data
    finally:
        encoder.close()
        thread.shutdown(wait=False)
        if isinstance(pages, AsyncGenerator):
            await pages.aclose()


def _added(encoder: Encoder, rows: Sequence[Row], kept: Sequence[int], schema: pa.Schema) -> Part | None:
    return encoder.add(_batch([tuple(row[index] for index in kept) for row in rows], schema))


def _batch(rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    values = zip(*rows, strict=True) if rows else ((),) * len(schema)
    arrays = [
        pa.array([_fitted(value, kind.type) for value in column], kind.type)
        for kind, column in zip(schema, values, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _fitted(value: Any, kind: pa.DataType) -> Any:
    """A value of a page as one of its column's type; numbers in a column of text as text."""
    if pa.types.is_binary(kind) and isinstance(value, (str, int, float)):
        return str(value).encode()
    return str(value) if pa.types.is_string(kind) and isinstance(value, (int, float)) else value
