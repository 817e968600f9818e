"""Pages of our own: Datasette's look, a language, and a policy that lets no foreign script run."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import partial
from typing import TYPE_CHECKING, Any

from datasette import Response

from vin_datasette import __version__
from vin_datasette.web.state import PLUGIN_NAME, state_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from datasette import Request
    from datasette.app import Datasette

_INLINE = re.compile(r"<script(?P<attributes>[^>]*)>(?P<script>.*?)</script>", re.DOTALL | re.IGNORECASE)

_DIRECTIVES = (
    "default-src 'none'",
    "script-src 'self'{hashes}",
    # Datasette's own components bring their styles in the document.
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data:",
    "connect-src 'self'",
    "form-action 'self'",
    "base-uri 'none'",
)


async def page(
    datasette: Datasette, request: Request, template: str, context: dict[str, Any], *, status: int = 200
) -> Response:
    """A page of `template`, which extends `vin_base.html`, under the policy."""
    shown = {**context, "vin_static": partial(static, datasette)}
    html = await datasette.render_template(template, shown, request=request)
    # The base template of Datasette 0.65 names no language (WCAG 2.2, 3.1.1).
    html = html.replace("<html>", '<html lang="en">', 1)
    headers = {
        "Content-Security-Policy": f"{await policy(datasette)}; frame-ancestors 'none'",
        "Referrer-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }
    return Response.html(html, status=status, headers=headers)


def static(datasette: Datasette, name: str) -> str:
    """The address of one of our static files; another one for each version."""
    return f"{datasette.urls.static_plugins(PLUGIN_NAME, name)}?{__version__}"


async def policy(datasette: Datasette, *markup: str) -> str:
    """A Content-Security-Policy (W3C, level 3) under which only the instance's own files
    run, and the scripts within Datasette's own base template and `markup`, by their hashes."""
    own = state_of(datasette)
    if not own.base_scripts:
        # Without a request, as to render for one would use up the messages that wait for it.
        own.base_scripts.extend(_hashes(await datasette.render_template("vin_base.html", {"vin_static": str})))
    hashes = "".join(f" '{each}'" for each in dict.fromkeys([*own.base_scripts, *_hashes(*markup)]))
    return "; ".join(directive.format(hashes=hashes) for directive in _DIRECTIVES)


def _hashes(*markup: str) -> Iterable[str]:
    for text in markup:
        for found in _INLINE.finditer(text):
            if "src=" not in found["attributes"]:
                digest = hashlib.sha256(found["script"].encode()).digest()
                yield f"sha256-{base64.b64encode(digest).decode()}"
