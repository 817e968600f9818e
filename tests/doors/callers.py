"""Who knocks, and from where: callers with what makes them known, and what browsers say of a page's requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tests.conftest import DATASETTE_1

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasette.app import Datasette

HERE = "127.0.0.1:8001"
"""The server under its own name."""

REBOUND = "elsewhere.example:8001"
"""A name of somebody else's that leads to loopback."""

SAFE = ("GET", "HEAD", "OPTIONS")

Known = Literal["not", "cookie", "token", "wrong token"]
Place = Literal["here", "elsewhere", "link", "rebound"]


@dataclass(frozen=True)
class Caller:
    """Somebody, and how they make themselves known."""

    name: str
    known_by: Known
    actor: str = ""
    only: tuple[str, ...] | None = None
    """What a restricted token may do; None for one that may do what its actor may."""

    differs: bool = False
    """Whether it may do something else than the others where all may see the vehicles, by the plugin's own settings."""

    @property
    def has_token(self) -> bool:
        """Whether it sends an `Authorization`."""
        return "token" in self.known_by


VIEWING = ("view-instance", "view-database", "view-table")

CALLERS = (
    Caller("anonymous", "not", differs=True),
    Caller("stranger", "cookie", "stranger"),
    Caller("somebody", "cookie", "somebody"),
    Caller("looker", "cookie", "looker"),
    Caller("remover", "cookie", "remover"),
    Caller("exporter", "cookie", "exporter"),
    Caller("root", "cookie", "root", differs=True),
    Caller("token", "token", "keeper", differs=True),
    Caller("token to view", "token", "keeper", VIEWING, differs=True),
    Caller("token to view and look up", "token", "keeper", (*VIEWING, "vin-lookup")),
    Caller("wrong token", "wrong token"),
)


@dataclass(frozen=True)
class Origin:
    """Where a request comes from, and what the browser says of that."""

    name: str
    place: Place
    site: str | None = None
    """`Sec-Fetch-Site`."""
    goes: str | None = None
    """`Sec-Fetch-Mode` and `Sec-Fetch-Dest`."""
    origin: str | None = None
    """`Origin`, which browsers send with all but plain GETs, and here with those too."""
    host: str = HERE
    cookies: bool = True
    """Whether cookies come along."""
    form_token: bool = True
    """Whether it has the token that Datasette 0.65 gives its own forms, as somebody might who was let
    read one: what is refused then is refused by the plugin."""
    extra: tuple[tuple[str, str], ...] = ()

    def headers(self, method: str) -> dict[str, str]:
        """What the request says of where it comes from."""
        said = {"host": self.host, **dict(self.extra)}
        if self.site:
            said["sec-fetch-site"] = self.site
        if self.goes:
            said["sec-fetch-mode"], said["sec-fetch-dest"] = self.goes.split(" ")
        if self.origin and (self.goes != "navigate document" or method not in SAFE):
            said["origin"] = self.origin
        return said


_ATTACKER = "http://elsewhere.example"

ORIGINS = (
    Origin("a page of the server", "here", "same-origin", "cors empty", f"http://{HERE}"),
    Origin("an address that was typed", "here", "none", "navigate document"),
    Origin("a program", "here", form_token=False),
    Origin("another site, with cookies", "elsewhere", "cross-site", "cors empty", _ATTACKER),
    Origin("another site, with cookies alone", "elsewhere", "cross-site", "cors empty", _ATTACKER, form_token=False),
    Origin("another site, without cookies", "elsewhere", "cross-site", "cors empty", _ATTACKER, cookies=False),
    Origin("an image on another site", "elsewhere", "cross-site", "no-cors image"),
    Origin("a frame on another site", "elsewhere", "cross-site", "navigate iframe"),
    Origin(
        "a page fetched ahead for another site",
        "elsewhere",
        "cross-site",
        "navigate document",
        extra=(("sec-purpose", "prefetch;prerender"),),
    ),
    Origin("a page without an origin", "elsewhere", "cross-site", "cors empty", "null"),
    Origin("another port", "elsewhere", "same-site", "cors empty", "http://127.0.0.1:8002"),
    Origin("a sister host", "elsewhere", "same-site", "cors empty", "http://sister.localhost:8001"),
    Origin("another site, by an old browser", "elsewhere", origin=_ATTACKER),
    Origin("a link on another site", "link", "cross-site", "navigate document", _ATTACKER),
    Origin("a link on a sister host", "link", "same-site", "navigate document", "http://sister.localhost:8001"),
    Origin("a page of a rebound host", "rebound", "same-origin", "cors empty", f"http://{REBOUND}", REBOUND),
    Origin("a rebound host, by an old browser", "rebound", host=REBOUND),
    Origin("a link to a rebound host", "rebound", "cross-site", "navigate document", _ATTACKER, REBOUND),
)

ONE_OF_EACH = tuple(
    each
    for each in ORIGINS
    if each.name
    in (
        "a page of the server",
        "another site, with cookies",
        "a page without an origin",
        "a link on another site",
        "a page of a rebound host",
    )
)
"""For what is answered alike wherever it comes from."""


def effective(caller: Caller, origin: Origin) -> Caller:
    """Who a server takes somebody for: nobody, without cookies, and by a token that Datasette 0.65 does not know."""
    lost_cookie = caller.known_by == "cookie" and not origin.cookies
    return CALLERS[0] if lost_cookie or (caller.has_token and not DATASETTE_1) else caller


def stopped_by_datasette(caller: Caller, origin: Origin, method: str) -> int | None:
    """The status with which Datasette itself answers before any route does, or None.

    0.65 looks for the token of its forms wherever there are cookies and no `Authorization`; 1.0
    for where all writes come from but those with a token alone, and refuses tokens that it did not make.
    """
    has_cookies = "cookie" in credentials(caller, origin, {})
    if not DATASETTE_1:
        unproven = has_cookies and not origin.form_token and not caller.has_token
        return 403 if method not in SAFE and unproven else None
    from_elsewhere = origin.site not in (None, "none", "same-origin") or origin.origin == _ATTACKER
    if method not in SAFE and from_elsewhere and (has_cookies or not caller.has_token):
        return 403
    return 401 if caller.known_by == "wrong token" else None


def credentials(caller: Caller, origin: Origin, secrets: Mapping[str, str]) -> dict[str, str]:
    """The headers by which a caller is known; `secrets` has their values by the caller's name and that of the
    form's token."""
    cookies, headers = {}, {}
    if caller.known_by == "cookie" and origin.cookies:
        cookies["ds_actor"] = secrets.get(caller.name, "")
    elif origin.cookies and origin.place != "here":
        # So that a check that looks only at requests with cookies looks at this one.
        cookies["colour"] = "red"
    if caller.has_token:
        headers["authorization"] = f"Bearer {secrets.get(caller.name, '')}"
    if cookies and origin.form_token and not DATASETTE_1:
        cookies["ds_csrftoken"] = headers["x-csrftoken"] = secrets.get("form", "")
    if cookies:
        headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    return headers


async def secrets_of(datasette: Datasette) -> dict[str, str]:
    """What makes the callers known to an instance."""
    form = await datasette.client.get("/-/logout", cookies={"ds_actor": datasette.sign({"a": {"id": "x"}}, "actor")})
    secrets = {"form": form.cookies.get("ds_csrftoken") or ""}
    for caller in CALLERS:
        if caller.known_by == "cookie":
            secrets[caller.name] = datasette.sign({"a": {"id": caller.actor}}, "actor")
        elif caller.known_by == "token":
            secrets[caller.name] = await _token(datasette, caller)
        elif caller.known_by == "wrong token":
            secrets[caller.name] = "dstok_nonsense"
    return secrets


async def _token(datasette: Any, caller: Caller) -> str:
    if not DATASETTE_1:
        # As 1.0 makes them; 0.65 has none.
        return "dstok_" + str(datasette.sign({"a": caller.actor, "t": 0}, namespace="token"))
    from datasette.tokens import TokenRestrictions

    return str(await datasette.create_token(caller.actor, restrictions=TokenRestrictions(all=[*(caller.only or ())])))
