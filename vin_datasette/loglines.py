"""Lines of the log as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator


class JSONLines(JsonFormatter):
    """Records as JSON objects, one a line: `time` (RFC 3339, in UTC), `level`, `logger`, `message`;
    what the message was made of where that has names; `exception` as one text; and of a request, as uvicorn
    tells of it, `method`, `path`, `status` (a number), `client` and `http_version`."""

    def __init__(self) -> None:
        super().__init__(
            "%(asctime)s %(levelname)s %(name)s %(message)s",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger", "exc_info": "exception"},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's
        """The time of a record, to the millisecond."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """Add what the record tells beside its message."""
        super().add_fields(log_data, record, message_dict)
        for name, value in _fields(record):
            log_data.setdefault(name, value)


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    if isinstance(record.args, Mapping):
        yield from record.args.items()
    elif record.name == "uvicorn.access" and len(record.args or ()) == len(_REQUEST):
        yield from zip(_REQUEST, record.args or (), strict=True)


_REQUEST = ("client", "method", "path", "http_version", "status")
"""The arguments of uvicorn's line for a request, in their order."""
