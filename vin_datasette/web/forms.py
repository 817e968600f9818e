"""Forms that work without JavaScript: what is posted by one is answered with a page and a message on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasette import Response

if TYPE_CHECKING:
    from datasette import Request
    from datasette.app import Datasette


def is_form(request: Request) -> bool:
    """Whether a person at a browser's form sent this, and not a program that reads JSON."""
    return request.method == "POST" and "text/html" in (request.headers.get("accept") or "")


def led_to(datasette: Datasette, request: Request, path: str, message: str, kind: int | None = None) -> Response:
    """The way to another page (303, RFC 9110), which shows `message`; `kind` is one of
    Datasette's own, `Datasette.INFO` unless said."""
    # Messages travel in a cookie, which holds some 4,000 bytes.
    shown = message if len(message) <= _LONGEST else f"{message[:_LONGEST]}…"
    datasette.add_message(request, shown, datasette.INFO if kind is None else kind)
    return Response.redirect(path, status=303)


_LONGEST = 600
