"""`%vin` and `%%vins`: vehicles in a line or a cell of a notebook."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, line_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring

from vin_datasette.cache import CacheError
from vin_datasette.fetched import fetch
from vin_datasette.fleet.fleet import InputError
from vin_datasette.fleet.pasted import vins_in
from vin_datasette.lookup import Rejected, lookup
from vin_datasette.settings import SettingError
from vin_datasette.sources import SourceError
from vin_datasette.words import told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vin_datasette.fetched import Fetched
    from vin_datasette.vehicle import Vehicle


def _unquoted(text: str) -> str:
    # IPython leaves quotes where they are.
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _variable(text: str) -> str:
    if not text.isidentifier():
        raise ArgumentTypeError(f"{text!r} is no name that a variable can have")
    return text


def _settings_arguments(magic: Callable[..., Any]) -> Callable[..., Any]:
    """The options that both magics take, in the order of their help."""
    options = (
        argument("--db", metavar="PATH", type=_unquoted, help="The cache, an SQLite file; vin.db by default."),
        argument(
            "--source",
            choices=["auto", "vpic", "embedded"],
            help="Who is asked: the DOT's API, its database embedded here, or auto: the one, and the other when the "
            "one cannot be reached.",
        ),
        argument("--vpic-url", metavar="URL", type=_unquoted, help="Where vPIC's API is."),
    )
    for option in reversed(options):
        magic = option(magic)
    return magic


@magics_class
class VinMagics(Magics):
    """The magics that `%load_ext vin_datasette` loads."""

    @magic_arguments()
    @argument("vin", nargs="+", type=_unquoted, help="The VIN; hyphens, blanks and lower case are forgiven.")
    @_settings_arguments
    @line_magic
    def vin(self, line: str) -> Vehicle | None:
        """The vehicle that a VIN names, which shows itself.

        None, and the reason on standard error, where there is none.
        """
        options = vars(parse_argstring(self.vin, line))
        vin = " ".join(options.pop("vin"))
        with _in_words():
            try:
                return lookup(vin, **options)
            except Rejected as error:
                print(told(error.rejection), file=sys.stderr)  # noqa: T201
                return None

    @magic_arguments()
    @argument("--name", metavar="VARIABLE", type=_variable, help="A variable for what came of them.")
    @_settings_arguments
    @cell_magic
    def vins(self, line: str, cell: str) -> Fetched:
        """What the VINs of the cell are, pasted in any shape."""
        options = vars(parse_argstring(self.vins, line))
        name = options.pop("name")
        with _in_words():
            texts = vins_in(cell)
            if not texts:
                raise UsageError("The cell holds no VINs.")
            fetched = fetch(texts, **options)
        if name and self.shell:
            self.shell.push({name: fetched})
        return fetched


@contextmanager
def _in_words() -> Iterator[None]:
    """What cannot be done is told without a traceback: it is not a fault of the program."""
    try:
        yield
    except SourceError as error:
        raise UsageError(f"No source could be asked: {error}.") from None
    except (CacheError, InputError, SettingError) as error:
        raise UsageError(str(error)) from None
