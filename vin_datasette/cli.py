"""The command line: parses, calls, prints."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from vin_datasette import __version__, logs
from vin_datasette.terminated import Terminated, end_by_sigterm, noted, terminable
from vin_datasette.words import printable, told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vin_datasette.export import Format, PartitionColumn
    from vin_datasette.parquet import Part
    from vin_datasette.settings import Settings
    from vin_datasette.vehicle import Vehicle

log = logging.getLogger(__name__)

FOUND, NOT_FOUND, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143
"""Exit codes: all were found; some were not, or could not be asked; the call itself was wrong;
Ctrl-C ended it; SIGTERM did, which is what a shell shows of a process that ended by that signal."""


class CannotRun(click.ClickException):
    """A setting or a cache with which nothing can be done."""

    exit_code = USAGE


def settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all commands take, in the order of their help."""
    options = (
        click.option(
            "--db",
            metavar="PATH",
            help="The cache, an SQLite file; made when it is not there.  [env: VIN_DATASETTE_DB; default: vin.db]",
        ),
        click.option(
            "--source",
            type=click.Choice(["auto", "vpic", "embedded"]),
            help="Who is asked: the DOT's API, its database embedded here, or auto: the one, and the other when the "
            "one cannot be reached.  [env: VIN_DATASETTE_SOURCE; default: auto]",
        ),
        click.option(
            "--vpic-url",
            metavar="URL",
            help="Where vPIC's API is.  [env: VIN_DATASETTE_VPIC_URL; default: the DOT's]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vin-datasette")
def cli() -> None:
    """A VIN becomes a vehicle.

    Vehicles are looked up with the US DOT's vPIC and kept in an SQLite cache that
    Datasette browses.

    Every setting is also an environment variable, VIN_DATASETTE_<NAME>. Exit codes: 0 when
    all was found, 1 when some was not, 2 when the call was wrong, 130 when Ctrl-C ended it, 143
    when SIGTERM did.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


@cli.command()
@click.argument("vin")
@click.option("--model-year", type=click.IntRange(1980, 2100), help="A hint to vPIC; only where it is known for sure.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--full", is_flag=True, help="Print the whole record under vPIC's own keys.")
@settings_options
def lookup(vin: str, model_year: int | None, as_json: bool, full: bool, **options: Any) -> None:
    """Print the vehicle that a VIN names: the six fields of the contract, or the whole record."""
    from vin_datasette import portal
    from vin_datasette.cache import CacheError
    from vin_datasette.lookup import Lookup
    from vin_datasette.sources import SourceError
    from vin_datasette.vehicle import Rejection

    async def ask() -> Any:
        async with Lookup(_settings(options)) as path:
            return await path.answer(vin, model_year=model_year)

    try:
        answer = portal.run(ask())
    except SourceError as error:
        _fail(f"No source could be asked: {error}.")
    except CacheError as error:
        raise CannotRun(str(error)) from None
    if isinstance(answer.result, Rejection):
        _fail(told(answer.result))
    shown = _whole(answer.result) if full else answer.result.six_fields(cached=answer.cached)
    if as_json:
        text = json.dumps(shown, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
        # Half a surrogate pair, which UTF-8 cannot hold, is written so in JSON as well.
        click.echo(text.encode("utf-8", "backslashreplace").decode())
    else:
        _print_columns(shown)


@cli.command()
@click.argument("vins", metavar="[VIN]...", nargs=-1)
@click.option(
    "-f",
    "--file",
    "name",
    metavar="FILE",
    help="A file of VINs: text, CSV, TSV, JSON, JSON lines or Parquet, also with gzip; fleet.db:table.column is a "
    "column of an SQLite file, and - is standard input.",
)
@click.option("--column", help="The column of VINs, by name or number; found by itself otherwise.")
@click.option(
    "--model-year-column", help="A column of model years, a hint to vPIC; only where they are known for sure."
)
@click.option(
    "--output", metavar="FILE|-", help="Write the rows with their vehicles beside: .csv, .tsv, .jsonl or .parquet."
)
@click.option(
    "--rejections", metavar="FILE|-", help="Write the rows for which there is no vehicle, and why: .csv or .jsonl."
)
@click.option("--refresh", is_flag=True, help="Ask about cached vehicles too; what cannot be asked anew is kept.")
@click.option(
    "--max-age", metavar="30d", help="Ask about cached vehicles that are older.  [env: VIN_DATASETTE_MAX_AGE]"
)
@click.option(
    "--siblings",
    is_flag=True,
    default=None,
    help="Answer a VIN from the record of a cached vehicle alike, unasked.  [env: VIN_DATASETTE_SIBLINGS]",
)
@click.option("--rate", metavar="N", help="Calls a second to vPIC.  [env: VIN_DATASETTE_RATE; default: 2]")
@click.option("--concurrency", metavar="N", help="Calls in flight.  [env: VIN_DATASETTE_CONCURRENCY; default: 2]")
@click.option("--silent", is_flag=True, help="No progress.")
@settings_options
def fetch(  # noqa: PLR0917 - each is an option
    vins: tuple[str, ...],
    name: str | None,
    column: str | None,
    model_year_column: str | None,
    output: str | None,
    rejections: str | None,
    refresh: bool,
    silent: bool,
    **options: Any,
) -> None:
    """Bring many VINs into the cache; what is there already is not asked again.

    Prints the first VINs that were rejected, and a summary. Interrupted, it keeps what it
    has; called again, it goes on.
    """
    from contextlib import ExitStack
    from itertools import chain

    from vin_datasette import portal
    from vin_datasette.cache import CacheError
    from vin_datasette.export import ExportError
    from vin_datasette.fleet.inputs import InputError, given, open_fleet
    from vin_datasette.fleet.outputs import open_output, open_rejections
    from vin_datasette.fleet.progress import Progress
    from vin_datasette.fleet.run import Account, run
    from vin_datasette.lookup import Plan

    _check_fetch(vins, name, output, [column, model_year_column])
    settings = _settings(options)
    _refuse_same_files(name, settings.db, output, rejections)
    account = Account()
    problem, code = None, FOUND
    fleet = given(vins)
    with terminable(), ExitStack() as reading:
        try:
            with ExitStack() as opened:
                rows = fleet.rows
                if name is not None:
                    fleet = reading.enter_context(open_fleet(name, column=column, model_year_column=model_year_column))
                    rows = chain(rows, fleet.rows)
                sinks = []
                if output:
                    sinks.append(opened.enter_context(open_output(output, fleet.columns, fleet.schema)).write)
                if rejections:
                    sinks.append(opened.enter_context(open_rejections(rejections)).write)
                progress = opened.enter_context(Progress(account, name, len(vins), silent=silent))
                if not rejections:
                    sinks.append(progress.tell)
                plan = Plan(refresh=refresh, brief=not output, hold=True)
                portal.run(run(settings, rows, account, plan=plan, sinks=sinks, progress=progress.add))
        except (CacheError, InputError) as error:
            problem, code = str(error), USAGE
        except ExportError as error:
            problem, code = _unwritten(error, "-" in (output, rejections)), NOT_FOUND
        except KeyboardInterrupt as interruption:
            what, code = _ended_by(interruption)
            problem = f"{what}. What was answered is kept; call again to go on."
        if account.asked or code == FOUND:
            click.echo(str(account), err="-" in (output, rejections))
        if problem:
            click.echo(problem, err=True)
        code = code or (NOT_FOUND if account.rejected or account.failed or account.unkept else FOUND)
        _leave(code, held_up=getattr(fleet.rows, "gi_running", False))


def _ended_by(interruption: KeyboardInterrupt) -> tuple[str, int]:
    """In a word, and as an exit code, what ended a run."""
    return ("Terminated", TERMINATED) if isinstance(interruption, Terminated) else ("Interrupted", INTERRUPTED)


def _leave(code: int, *, held_up: bool) -> NoReturn:
    """End with this exit code, though a thread may be `held_up` in a pipe: closing its end, or
    the interpreter, would wait for it."""
    if code == TERMINATED:
        end_by_sigterm()
    if code == INTERRUPTED or held_up:
        os._exit(code)
    sys.exit(code)


def _check_fetch(vins: tuple[str, ...], name: str | None, output: str | None, columns: list[str | None]) -> None:
    if not vins and name is None:
        raise click.UsageError("Give VINs, or a file of them with -f.")
    for text in vins:
        # Not Path.is_file, which fails at what is too long for a name.
        if text == "-" or os.path.isfile(text):
            what = "standard input" if text == "-" else "a file"
            raise click.UsageError(f"{printable(text)} is {what} and no VIN: read it with -f {printable(text)}.")
    if name is None and any(columns):
        raise click.UsageError("--column and --model-year-column are of a file; name it with -f.")
    if vins and output and name:
        raise click.UsageError("--output writes the rows of a file, or VINs, but not both.")


def _refuse_same_files(name: str | None, db: Path, output: str | None, rejections: str | None) -> None:
    """Refuse to write into what is read, or twice into one file."""
    taken = {_file(str(db), 1): "the cache"}
    if name is not None:
        taken[_file(name, 0)] = "the file that is read"
    for option, target in (("--output", output), ("--rejections", rejections)):
        if target:
            file = _file(target, 1)
            if file and file in taken:
                raise click.UsageError(f"{option} {printable(target)} is {taken[file]}; name another.")
            taken[file] = f"what {option} writes"


def _file(name: str, standard: int) -> object:
    """What tells the file of this name from all others; `-` is the standard stream of this
    number. None for what is no file, and may be there twice."""
    try:
        found = os.fstat(standard) if name == "-" else os.stat(name)
    except OSError:
        return name if name == "-" else os.path.realpath(name)
    except ValueError:
        return name
    if stat.S_ISREG(found.st_mode):
        return found.st_dev, found.st_ino
    return name if name == "-" and standard else None


@cli.command()
@click.argument("vins", metavar="VIN...", nargs=-1, required=True)
@settings_options
def remove(vins: tuple[str, ...], **options: Any) -> None:
    """Forget VINs. Prints true for each that the cache held an answer for, else false."""
    import sqlite3

    from vin_datasette.cache import Cache, CacheError
    from vin_datasette.vin import VIN, InvalidVIN

    cache = Cache(_settings(options).db)
    missing = False
    for text in vins:
        try:
            removed = cache.remove(VIN(text))
        except InvalidVIN as error:
            removed = False
            click.echo(printable(f"{text[:40]}: {error}"), err=True)
        except (sqlite3.Error, CacheError) as error:
            raise CannotRun(f"Nothing was removed for {text}: {error}") from None
        missing |= not removed
        click.echo(json.dumps(removed))
    cache.close()
    sys.exit(NOT_FOUND if missing else FOUND)


@cli.command()
@click.argument("out", metavar="OUT|-", type=click.Path(allow_dash=True))
@click.option(
    "--format",
    "kind",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    help="What to write; by default what the name of OUT ends in, else parquet.",
)
@click.option(
    "--partition-by",
    "partitions",
    type=click.Choice(["make", "model_year"]),
    multiple=True,
    help="Write a folder OUT of Parquet files, one for each value. May be given twice.",
)
@click.option("--silent", is_flag=True, help="No progress bar.")
@settings_options
def export(
    out: str, kind: Format | None, partitions: tuple[PartitionColumn, ...], silent: bool, **options: Any
) -> None:
    """Write all vehicles of the cache to a file, to standard output (-), or to a folder of partitions."""
    from tqdm import tqdm

    from vin_datasette.cache import CacheError
    from vin_datasette.export import ExportError, write_file, write_partitions, write_to

    db = _settings(options).db
    kind = kind or _format_of(out)
    if partitions and (kind != "parquet" or out == "-"):
        raise click.UsageError("--partition-by writes Parquet files to a folder.")
    if out == "-" and kind == "parquet" and sys.stdout.isatty():
        raise CannotRun("A Parquet file is nothing to read on a terminal; name a file or a pipe.")
    size = 0
    with _ended_well(), tqdm(desc="Exporting", unit=" vehicles", disable=True if silent else None) as bar:

        def progress(part: Part) -> None:
            nonlocal size
            size += len(part.data)
            bar.set_postfix_str(f"{size:,} bytes", refresh=False)
            bar.update(part.rows)

        try:
            if partitions:
                write_partitions(db, Path(out), partitions, progress)
            elif out == "-":
                write_to(db, sys.stdout.buffer, kind, progress)
            else:
                write_file(db, Path(out), kind, progress)
        except CacheError as error:
            raise CannotRun(str(error)) from None
        except ExportError as error:
            _fail(str(error))


@cli.command()
@click.argument("inputs", metavar="IN...", nargs=-1, required=True)
@click.option(
    "-o", "--output", "out", metavar="OUT", required=True, help="The folder to write to; made when it is not there."
)
@click.option("--column", help="The column of VINs, by name or number; by default the one whose name says so.")
@click.option(
    "--model-year-column", help="A column of model years, a hint to vPIC; only where they are known for sure."
)
@click.option(
    "--columns", metavar="NAME,…", help="What is decoded, such as make,model,model_year; by default all but record."
)
@click.option("--cache", metavar="PATH", help="A cache whose answers come first; it is read only, on each machine.")
@click.option(
    "--processes", type=click.IntRange(1, 256), help="Processes that decode.  [default: one for every four cores]"
)
@click.option(
    "--dask",
    "address",
    metavar="ADDRESS",
    help="Decode on the workers of this Dask scheduler, such as tcp://10.0.0.7:8786.",
)
@click.option("--silent", is_flag=True, help="No progress.")
def decode(  # noqa: PLR0917 - each is an option
    inputs: tuple[str, ...],
    out: str,
    column: str | None,
    model_year_column: str | None,
    columns: str | None,
    cache: str | None,
    processes: int | None,
    address: str | None,
    silent: bool,
) -> None:
    """Decode Parquet files, and the Parquet files of folders, into a folder OUT of the same shape.

    For each file IN one is written that has its rows and columns and the vehicle's columns beside,
    decoded by the embedded database: vPIC's API is not asked. Called again it goes on: only files
    that are new or have changed are decoded, all of them after other options or other data.
    Prints the first files that failed, and a summary; rejected VINs have a reason in vin_error.
    """
    from vin_datasette.cache import CacheError
    from vin_datasette.export import ExportError
    from vin_datasette.fleet.fleet import InputError
    from vin_datasette.fleet.progress import Shown
    from vin_datasette.lake import crew, run
    from vin_datasette.lake.decoding import wanted_of
    from vin_datasette.lake.files import pairs

    if processes and address is not None:
        raise click.UsageError("--processes are of this machine, and --dask decodes on others.")
    _settings({})
    problem, code = None, FOUND
    account = None
    with terminable():
        try:
            chosen = None if columns is None else [name.strip() for name in columns.split(",") if name.strip()]
            wanted = wanted_of(column, model_year_column, chosen, cache)
            files = pairs(inputs, out)
            run.make_ready(out, files)
            with crew.processes(processes, len(files)) if address is None else crew.dask(address) as those:
                account = run.Account(len(files))
                shown = Shown("Decoding", " files", account.so_far, total=len(files), rest="", silent=silent)
                with shown, noted() as heed:
                    run.run(files, wanted, those, account, shown, heed)
        except (CacheError, InputError) as error:
            problem, code = str(error), USAGE
        except (ExportError, crew.CrewError) as error:
            problem, code = str(error), NOT_FOUND
        except KeyboardInterrupt as interruption:
            what, code = _ended_by(interruption)
            problem = f"{what}. Files that are whole are kept; call again to go on."
        if account:
            click.echo(str(account))
        if problem:
            click.echo(problem, err=True)
        _leave(code or (NOT_FOUND if account and account.failed else FOUND), held_up=False)


@cli.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--column", help="The column of VINs, by name or number; by default the one whose name says so.")
@click.option("--silent", is_flag=True, help="No progress.")
@settings_options
def load(paths: tuple[str, ...], column: str | None, silent: bool, **options: Any) -> None:
    """Bring what was decoded or exported into the cache: Parquet files, and the Parquet files of folders.

    Each row says who answered it, and when; what the cache has as good or better stays. Prints the
    first files and rows that could not be loaded, and a summary. Interrupted, it keeps what it
    has; called again, it goes on.
    """
    import sqlite3

    from vin_datasette.cache import Cache, CacheError
    from vin_datasette.fleet.load import Loading, load_files
    from vin_datasette.fleet.progress import Shown

    settings = _settings(options)
    account = Loading()
    problem, code = None, FOUND
    loaded = "What was loaded is kept; call again to go on."
    cache = Cache(settings.db)
    with terminable(), contextlib.closing(cache):
        try:
            cache.open()
            with Shown("Loading", " rows", account.so_far, total=None, rest="", silent=silent) as shown:
                load_files(cache, paths, account, shown, column=column, check_digit=settings.check_digit)
        except CacheError as error:
            problem, code = str(error), USAGE
        except sqlite3.Error as error:
            problem, code = f"The cache {cache.path} cannot be written: {error}. {loaded}", USAGE
        except KeyboardInterrupt as interruption:
            what, code = _ended_by(interruption)
            problem = f"{what}. {loaded}"
        if account.files:
            click.echo(str(account))
        if problem:
            click.echo(problem, err=True)
    _leave(code or (NOT_FOUND if account.left_out or account.unread else FOUND), held_up=False)


@contextlib.contextmanager
def _ended_well() -> Iterator[None]:
    """At SIGTERM, files that are not whole are removed before the process ends by it."""
    try:
        with terminable():
            yield
    except Terminated:
        click.echo("Terminated.", err=True)
        end_by_sigterm()


def _format_of(out: str) -> Format:
    ending = Path(out).suffix.lower()
    return "csv" if ending == ".csv" else "jsonl" if ending in (".jsonl", ".ndjson") else "parquet"


@cli.command(context_settings={"ignore_unknown_options": True})
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "-p", "--port", default=8001, show_default=True, type=click.IntRange(0, 65535), help="The port to listen on."
)
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="Whether each request is logged.")
@click.argument("datasette_options", metavar="[-- DATASETTE OPTIONS]...", nargs=-1, type=click.UNPROCESSED)
@settings_options
def serve(host: str, port: int, access_log: bool, datasette_options: tuple[str, ...], **options: Any) -> None:
    """Start Datasette with the plugin and the cache.

    What follows -- is passed to datasette serve. On a loopback address everyone who
    reaches it may look up, remove and export, unless settings say otherwise.
    """
    from datasette.cli import cli as datasette_cli

    from vin_datasette.cache import Cache, CacheError
    from vin_datasette.web import connections, guard, state

    settings = _settings(options)
    cache = Cache(settings.db)
    try:
        cache.open()
    except CacheError as error:
        raise CannotRun(str(error)) from None
    # On a disk that is read-only Datasette, too, reads only what it takes not to change.
    immutable = ["--immutable"] if cache.is_immutable else []
    cache.close()
    # The plugin reads its settings where it stands, in the server; this process becomes that server.
    os.environ["VIN_DATASETTE_DB"] = str(settings.db.resolve())
    for name in ("source", "vpic_url"):
        if options[name] is not None:
            os.environ[f"VIN_DATASETTE_{name.upper()}"] = options[name]
    if guard.is_loopback(host) and settings.allow_remove is None and not _listens_elsewhere(datasette_options):
        state.defaults["allow_remove"] = True
        words = "Whoever reaches %s port %d may look up, remove and export, if settings do not say otherwise."
        log.warning(words, host, port)
    connections.install(settings.stall_timeout, access_log=access_log)
    datasette_cli.main(
        ["serve", *immutable, str(settings.db), "--host", host, "--port", str(port), *datasette_options],
        prog_name="datasette",
    )


def main() -> None:
    """The entry point `vin-datasette`."""
    try:
        cli(prog_name="vin-datasette")
    except OSError as error:
        # What a pipe or a file at standard output had to say; click sees to a pipe that was closed.
        _forget_standard_output()
        _fail(f"Standard output could not be written: {error.strerror or error}.")


def _unwritten(error: Exception, standard_output: bool) -> str | None:
    """What to say of an output that cannot be written on; nothing of a pipe whose reader has seen enough."""
    if standard_output:
        _forget_standard_output()
    return None if isinstance(error.__cause__, BrokenPipeError) else str(error)


def _forget_standard_output() -> None:
    """Spare the interpreter its last flush of a standard output that takes nothing any more."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process


def _settings(options: dict[str, Any]) -> Settings:
    from vin_datasette.settings import SettingError, Settings

    try:
        settings = Settings.load(options)
    except SettingError as error:
        raise CannotRun(str(error)) from None
    logs.set_up(settings)
    return settings


def _whole(vehicle: Vehicle) -> dict[str, Any]:
    record = vehicle.record
    provenance = {
        "source": record.source,
        "source_version": record.source_version,
        "fetched_at": record.fetched_at.isoformat().replace("+00:00", "Z"),
    }
    return {"vin": str(record.vin), **provenance, "warnings": list(vehicle.warnings), "record": dict(record.values)}


def _print_columns(shown: dict[str, Any]) -> None:
    """Names and values in two columns; of a whole record only what has a value."""
    record = shown.pop("record", {})
    rows = {**shown, **{key: value for key, value in record.items() if value}}
    width = max(map(len, rows))
    for name, value in rows.items():
        text = json.dumps(value) if isinstance(value, (bool, list)) else "" if value is None else str(value)
        click.echo(printable(f"{name:<{width}}  {text}".rstrip()))


def _listens_elsewhere(datasette_options: Iterable[str]) -> bool:
    """Whether options passed on may change the address after all."""
    return any(option.startswith(("-h", "--host", "--uds")) for option in datasette_options)


def _fail(message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(NOT_FOUND)


if __name__ == "__main__":
    main()
