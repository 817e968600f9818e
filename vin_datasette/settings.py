"""Every setting once: its name, type, default and one line of help.

A setting is read, the first that says it wins, from a command-line option, from
an environment variable `VIN_DATASETTE_<NAME>`, from the plugin's configuration
(`plugins: vin-datasette:` in metadata.yml or datasette.yml) or from its default.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ENVIRONMENT_PREFIX = "VIN_DATASETTE_"

SourceChoice = Literal["auto", "vpic", "embedded"]

AllowBlock = bool | dict[str, Any] | None
"""Datasette's `allow` block: true, false, or conditions on the actor; None leaves
the plugin's default in force."""


class SettingError(ValueError):
    """A setting whose value cannot be used; the message names it and says what can."""


def _path(value: object) -> Path:
    if not isinstance(value, (str, Path)):
        raise ValueError(f"must be a path, not {value!r}")
    if "\0" in str(value):
        raise ValueError(f"must be a path, which has no zero byte, not {value!r}")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise ValueError(f"must be a path, and there is no such user as in {value!r}") from None


def _header_text(value: object) -> str:
    text = str(value).strip()
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f"must be printable ASCII, as it stands in a header, not {value!r}")
    return text


def _choice(*choices: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in choices:
            raise ValueError(f"must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")
        return str(value)

    return read


def _url(value: object) -> str:
    url = str(value).strip()
    try:
        parts = urlsplit(url)
        port_is_wrong = parts.port == 0
    except ValueError:
        parts, port_is_wrong = urlsplit(""), True
    if port_is_wrong or parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"must be an http or https URL such as {DEFAULT_VPIC_URL}, not {value!r}")
    # The client that asks there is stricter; it is slow to load, and not needed by the default.
    from httpx import URL, InvalidURL

    try:
        URL(url)
    except InvalidURL as error:
        raise ValueError(f"must be a URL that can be asked, not {value!r:.200}: {error}") from None
    return url if url.endswith("/") else f"{url}/"


def _number(low: float, high: float, unit: str = "") -> Callable[[object], float]:
    def read(value: object) -> float:
        try:
            number = float(str(value))
        except ValueError:
            number = float("nan")
        if isinstance(value, bool) or not low <= number <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}{unit and ' ' + unit}, not {value!r}")
        return number

    return read


def _integer(low: int, high: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        number = _number(low, high)(value)
        if not number.is_integer():
            raise ValueError(f"must be a whole number, not {value!r}")
        return int(number)

    return read


_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def _duration(value: object) -> float:
    match = _DURATION.fullmatch(str(value).strip().lower())
    if isinstance(value, bool) or not match:
        raise ValueError(f"must be a duration such as 90, 30m, 12h or 7d, not {value!r}")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if not math.isfinite(seconds):
        raise ValueError(f"must be a duration that has an end, not {value!r:.200}")
    return seconds


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "on": True, "yes": True, "1": True, "false": False, "off": False, "no": False, "0": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise ValueError(f"must be true or false, not {value!r}") from None


def _allow(value: object) -> AllowBlock:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError(f"must be true, false or an allow block in JSON, not {value!r}") from None
    if value is None or isinstance(value, (bool, dict)):
        return value
    raise ValueError(f"must be true, false or an allow block, not {value!r}")


def _hosts(value: object) -> tuple[str, ...]:
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"must be a list of host names, not {value!r}")
    return tuple(str(name).strip().lower() for name in names if str(name).strip())


DEFAULT_VPIC_URL = "https://vpic.nhtsa.dot.gov/api/vehicles/"


def _setting(default: Any, read: Callable[[Any], object], text: str) -> Any:
    return field(default=default, metadata={"read": read, "help": text})


@dataclass(frozen=True)
class Settings:
    """All settings, typed. Durations are in seconds; each field's metadata has its help."""

    db: Path = _setting(Path("vin.db"), _path, "The cache, an SQLite file; made when it is not there.")
    source: SourceChoice = _setting(
        "auto",
        _choice("auto", "vpic", "embedded"),
        "Who is asked: vpic (the DOT's API), embedded (vPIC's own database, offline), "
        "or auto: vpic, and embedded when vpic cannot be reached.",
    )
    vpic_url: str = _setting(DEFAULT_VPIC_URL, _url, "Where vPIC's API is.")
    check_digit: Literal["strict", "lenient"] = _setting(
        "strict", _choice("strict", "lenient"), "Whether a failing check digit alone rejects a VIN."
    )
    timeout: float | None = _setting(
        None,
        _number(0.1, 600, "seconds"),
        "Seconds that vPIC has for a VIN, retries included; 2 by default, and 20 when nobody can answer instead.",
    )
    connect_timeout: float = _setting(1.5, _number(0.1, 60, "seconds"), "Seconds to wait for a connection to vPIC.")
    rate: float = _setting(2.0, _number(0.01, 10_000), "Calls a second to vPIC on average, in bursts of as many.")
    concurrency: int = _setting(2, _integer(1, 64), "Calls to vPIC in flight at once.")
    batch_size: int = _setting(50, _integer(1, 50), "VINs in one call to vPIC; 50 is the most it takes.")
    contact: str = _setting("", _header_text, "An e-mail address or URL for the User-Agent that vPIC is shown.")
    patience: float = _setting(
        600.0, _duration, "How long a fleet waits for vPIC to come back where nobody can stand in, such as 10m."
    )
    max_age: float | None = _setting(
        None,
        _duration,
        "How long a vehicle is fresh, such as 30d; an older one is served at once and asked about again. "
        "Forever by default.",
    )
    siblings: bool = _setting(
        False,
        _flag,
        "Whether a vehicle is answered from the record of a cached one alike (positions 1 to 8, 10 and 11) unasked.",
    )
    rejection_max_age: float = _setting(86400.0, _duration, "How long a rejection is remembered, such as 12h or 7d.")
    lookup_concurrency: int = _setting(
        256, _integer(1, 10_000), "Lookups, of one VIN each, that may wait for a source at once."
    )
    queue_length: int = _setting(
        5_000, _integer(1, 1_000_000), "VINs that may wait for their turn to be asked about; then none are taken on."
    )
    memory_hits: int = _setting(
        100_000,
        _integer(0, 10_000_000),
        "Cached vehicles whose answers a server keeps in memory while nothing is written, some 700 bytes each; "
        "0 for none.",
    )
    body_timeout: float = _setting(30.0, _duration, "How long the body of a request may take to come.")
    export_concurrency: int = _setting(2, _integer(1, 64), "Downloads of Parquet files that may run at once.")
    export_timeout: float = _setting(3600.0, _duration, "How long a download may take, such as 30m.")
    stall_timeout: float = _setting(
        120.0,
        _duration,
        "How long a client may take nothing of what is streamed to it or, of vin-datasette serve, ask nothing.",
    )
    list_concurrency: int = _setting(8, _integer(1, 64), "Lists of VINs, as posted to /lookup, in hand at once.")
    shutdown_timeout: float = _setting(
        10.0, _duration, "How long what is in flight has to be answered when the server is told to end, such as 30s."
    )
    log_format: Literal["text", "json"] = _setting(
        "text", _choice("text", "json"), "What the log's lines are: text, or json, an object a line."
    )
    mask_vins: bool = _setting(False, _flag, "Whether VINs in the log are masked but for their first 3 characters.")
    short_routes: bool = _setting(True, _flag, "Whether /lookup, /remove and /export answer beside /-/vin/…")
    hosts: tuple[str, ...] = _setting(
        (),
        _hosts,
        "Host names besides loopback's under which a server may be written to and asked; any, unless it is bound to "
        "loopback.",
    )
    allow_lookup: AllowBlock = _setting(None, _allow, "Who may ask a source for a VIN that is not cached.")
    allow_remove: AllowBlock = _setting(None, _allow, "Who may remove a VIN from the cache.")
    allow_export: AllowBlock = _setting(None, _allow, "Who may export the cache.")

    @classmethod
    def load(
        cls,
        options: Mapping[str, object] | None = None,
        *,
        config: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Settings:
        """Settings from explicit options (None means not given), the environment
        (by default this process's), the plugin's configuration, and the defaults.

        Raises `SettingError` for an unknown name in the configuration or a value
        that cannot be used.
        """
        environ = os.environ if environ is None else environ
        config = config or {}
        options = options or {}
        unknown = sorted({*config, *options} - {each.name for each in fields(cls)}, key=str)
        if unknown:
            names = ", ".join(each.name for each in fields(cls))
            raise SettingError(f"{unknown[0]!r} is no setting of vin-datasette; there are {names}.")
        values: dict[str, Any] = {}
        for each in fields(cls):
            variable = ENVIRONMENT_PREFIX + each.name.upper()
            for origin, said in (
                (f"the setting {each.name}", options.get(each.name)),
                (f"the environment variable {variable}", environ.get(variable) or None),
                (f"the plugin setting {each.name}", config.get(each.name)),
            ):
                if said is None:
                    continue
                try:
                    values[each.name] = each.metadata["read"](said)
                except ValueError as error:
                    raise SettingError(f"T{origin[1:]} {error}.") from None
                break
        return cls(**values)

    @property
    def deadline(self) -> float:
        """Seconds that vPIC has for one VIN: `timeout`, or 2 when the embedded
        database can answer instead and 20 when it cannot."""
        if self.timeout is not None:
            return self.timeout
        return 2.0 if self.source == "auto" else 20.0
