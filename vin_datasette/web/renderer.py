"""`.parquet` beside `.json` and `.csv` on every table, view and query page: all rows, not
the first page's. The page's own query is run once, without the page's limit, and read
on in pages: one moment of the database in the order that was asked for, where pages
that are asked for one after another pass over rows or meet them twice."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from datasette import Response
from datasette.utils import sqlite3, sqlite_timelimit

from vin_datasette.late import imported
from vin_datasette.web.asking import RETRY_AFTER
from vin_datasette.web.leaving import WORDS
from vin_datasette.web.page_query import PageError, page_query
from vin_datasette.web.routes import error, too_many_exports
from vin_datasette.web.state import state_of
from vin_datasette.web.streams import PARQUET, Streamed, download_headers, finished, own_thread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from datasette import Request
    from datasette.app import Datasette
    from datasette.database import Database

    from vin_datasette.web.page_parquet import Row


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
    # It brings pyarrow, which no other page needs.
    await imported("vin_datasette.web.page_parquet")
    from vin_datasette.web.page_parquet import encoded, schema_of

    try:
        if "pks" in request.url_vars:
            pages = _one_page([tuple(row) for row in rows])
            schema = await schema_of(db, table, {}, columns, "")
        elif table:
            page = await page_query(datasette, request)
            pages = _query_pages(datasette, db, page.sql, page.parameters)
            schema = await schema_of(db, table, {}, columns, "")
        else:
            parameters = _parameters(request, sql or "")
            pages = _query_pages(datasette, db, sql or "", parameters)
            schema = await schema_of(db, None, parameters, columns, sql or "")
    except (sqlite3.Error, PageError) as problem:
        return _refusal(datasette, f"This cannot be written as Parquet: {problem}.")
    own = state_of(datasette)
    if own.leaving.begun:
        return _Unchanged(error(datasette, f"{WORDS}.", 503, {"Retry-After": str(RETRY_AFTER)}))
    if not own.exports.take():
        return _Unchanged(too_many_exports(datasette))
    return Streamed(
        encoded(pages, kept, schema),
        request.receive,
        headers=download_headers(datasette, f"{re.sub(r'[^A-Za-z0-9._-]', '_', table or database)}.parquet"),
        content_type=PARQUET,
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
