"""The log: on request its lines as JSON, and the VINs in them masked but for who made the vehicle.

Whose a vehicle is can be learnt from its VIN, which makes it personal data in many places.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

from vin_datasette.masking import mask, mask_place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vin_datasette.settings import Settings

LOOKUPS = "vin_datasette.lookups"
"""The logger that is told of each lookup by a route, at the level INFO."""


def set_up(settings: Settings) -> None:
    """Let the log of this process be as the settings say. Where they say nothing, nobody's is touched."""
    if settings.mask_vins and not isinstance(logging.getLogRecordFactory(), _Masked):
        logging.setLogRecordFactory(_Masked(logging.getLogRecordFactory()))
    if settings.log_format == "json":
        from vin_datasette.loglines import JSONLines

        for handler in _printing():
            handler.setFormatter(JSONLines())
            handler.setStream(_beneath(handler.stream))
        # Does nothing where there is one: what nobody handles would be printed as it is.
        handler = logging.StreamHandler(_beneath(sys.stderr))
        handler.setFormatter(JSONLines())
        logging.basicConfig(handlers=[handler])


def set_up_server(settings: Settings) -> None:
    """As `set_up`, for a process that serves: also for what is printed to standard error past the
    log, as Datasette does with errors in SQL, and for the log of a uvicorn that is started after this."""
    set_up(settings)
    formatter = None
    if settings.log_format == "json":
        from uvicorn.config import LOGGING_CONFIG

        from vin_datasette.loglines import JSONLines

        formatter = JSONLines()
        logging.getLogger(LOOKUPS).setLevel(logging.INFO)
        # By this Datasette lets uvicorn put its own handlers in the place of any that its loggers have.
        LOGGING_CONFIG["formatters"] = {name: {"()": _FORMATTER} for name in LOGGING_CONFIG["formatters"]}
        LOGGING_CONFIG["handlers"]["default"]["stream"] = "ext://sys.__stderr__"
    if (formatter or settings.mask_vins) and not isinstance(sys.stderr, _Printed):
        sys.stderr = _Printed(sys.stderr, formatter, masks=settings.mask_vins)


_FORMATTER = "vin_datasette.loglines.JSONLines"


class _Masked:
    """Makes records whose VINs are masked, whichever logger and handler they are for.

    (A filter of a logger does not see what loggers below it log, and those of handlers go with
    the handlers, which uvicorn replaces when it starts.)
    """

    def __init__(self, make: Callable[..., logging.LogRecord]) -> None:
        self._make = make

    def __call__(self, *arguments: Any, **named: Any) -> logging.LogRecord:
        record = self._make(*arguments, **named)
        if record.args:
            _mask_arguments(record)
        else:
            record.msg = _masked(record.msg)
        if record.exc_info and record.exc_info[0]:
            # As formatters keep it, so that none makes its own.
            record.exc_text = mask("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
            record.exc_info = None
        return record


def _mask_arguments(record: logging.LogRecord) -> None:
    """Mask what a message is made of, and as they are in it: what stands in a VIN's place is seen only there."""
    message = _message(record)
    if isinstance(record.args, Mapping):
        record.args = {
            name: mask_place(str(value)) if name == "vin" else _masked(value) for name, value in record.args.items()
        }
    else:
        record.args = tuple(_masked(value) for value in record.args or ())
    # uvicorn takes its own line from the arguments, of which one is the whole URL.
    if record.name != "uvicorn.access" and _message(record) != mask(message):
        # Names are for who reads the record's parts.
        record.args = record.args if isinstance(record.args, Mapping) else ()
        record.msg = mask(message).replace("%", "%%") if record.args else mask(message)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        # Who handles the record reports it.
        return ""


def _masked(value: Any) -> Any:
    """A part of a record; numbers stay what they are, as does what has no VIN."""
    if value is None or isinstance(value, (int, float)):
        return value
    try:
        text = str(value)
    except Exception:
        return f"<{type(value).__name__}>"
    masked = mask(text)
    return value if masked == text else masked


def _printing() -> Iterator[logging.StreamHandler[TextIO]]:
    """The handlers that write to standard output or standard error."""
    loggers = [logging.getLogger(), *logging.getLogger().manager.loggerDict.values()]
    printed = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
    for logger in loggers:
        for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
            if isinstance(handler, logging.StreamHandler) and handler.stream in printed:
                yield handler


def _beneath(stream: TextIO) -> TextIO:
    return stream.beneath if isinstance(stream, _Printed) else stream


class _Printed(io.TextIOBase):
    """Standard error, line by line: masked where that is asked for, and as JSON."""

    def __init__(self, beneath: TextIO, formatter: logging.Formatter | None, *, masks: bool) -> None:
        self.beneath = beneath
        self._formatter = formatter
        self._masks = masks
        self._rest = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write the lines that are whole now."""
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                shown = mask(line) if self._masks else line
                if self._formatter is None:
                    self.beneath.write(f"{shown}\n")
                elif shown.strip():
                    record = {"name": "stderr", "levelno": logging.WARNING, "levelname": "WARNING", "msg": shown}
                    self.beneath.write(f"{self._formatter.format(logging.makeLogRecord(record))}\n")
        return len(text)

    def flush(self) -> None:
        """Pass on what is written."""
        self.beneath.flush()

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Whether a person reads."""
        return self.beneath.isatty()

    def fileno(self) -> int:
        """The file that is written to."""
        return self.beneath.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the file."""
        return self.beneath.encoding
