"""The package as a library: what importing it costs and gives, and where `lookup` works."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import TYPE_CHECKING

import pytest

import vin_datasette
from tests.conftest import clean_environment, numbered_vins, rows
from tests.vpic_server import Fault
from vin_datasette import VIN, InvalidVIN, Lookup, Rejected, Rejection, SourceError, Vehicle, alookup, lookup
from vin_datasette.cache import CacheError
from vin_datasette.settings import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import MakeSettings
    from tests.vpic_server import VpicServer

HONDA, PETERBILT = VIN("1HGCM82633A004352"), VIN("1XP5DB9X7XD487964")
NONSENSE = VIN("12345678901234567")


def run(script: str, *arguments: object, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own, in which nothing is imported yet."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        capture_output=True,
        check=False,
        env=clean_environment(),
        text=True,
        timeout=timeout,
    )


def printed(script: str, *arguments: object, timeout: float = 30) -> str:
    """What a script printed that ended well and complained of nothing."""
    ended = run(script, *arguments, timeout=timeout)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.strip()


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "vin.db"


# Importing


def test_lookup_is_the_function_in_whatever_order_it_is_imported() -> None:
    script = """
        import asyncio, inspect, itertools, logging, os, sqlite3

        statements = [
            "from vin_datasette import lookup",
            "from vin_datasette import Lookup",
            "from vin_datasette import VIN",
            "import vin_datasette.lookup",
        ]

        def check():
            import vin_datasette
            from vin_datasette import VIN, Lookup, lookup
            assert inspect.isfunction(lookup) and vin_datasette.lookup is lookup
            assert inspect.isclass(Lookup) and VIN("1hgcm82633a004352") == "1HGCM82633A004352"

        for order in itertools.permutations(statements):
            # Each order in a process that has nothing of the package yet.
            child = os.fork()
            if not child:
                failed = 1
                try:
                    for statement in order:
                        exec(statement, {})
                    check()
                    failed = 0
                finally:
                    os._exit(failed)
            if os.waitpid(child, 0)[1]:
                print(order)
    """
    assert printed(script) == ""


@pytest.mark.parametrize(
    "imports",
    [
        "from vin_datasette import *",
        "import vin_datasette; lookup = vin_datasette.lookup",
        "import vin_datasette.lookup; from vin_datasette import lookup",
        "import vin_datasette.lookup as lookup",
        "from vin_datasette.lookup import Rejected; from vin_datasette import lookup",
        "from importlib import import_module; import_module('vin_datasette.lookup'); from vin_datasette import lookup",
    ],
)
def test_lookup_is_the_function_however_it_is_imported(imports: str) -> None:
    assert printed(f"{imports}\nprint(type(lookup).__name__)") == "function"


def test_importing_it_costs_little() -> None:
    heavy = (
        "httpx pyarrow sqlite_utils datasette ultravin asyncio pandas polars numpy tenacity aiolimiter sqlite3 click "
        "tqdm anywidget ipywidgets traitlets IPython ipykernel"
    )
    script = "import sys, vin_datasette; print(*sorted(sys.modules.keys() & set(sys.argv[1].split())))"
    assert printed(script, heavy) == ""


NOTEBOOK = "anywidget ipywidgets traitlets IPython ipykernel"
WITHOUT_NOTEBOOK = f"""
    import sys
    sys.modules.update(dict.fromkeys({NOTEBOOK!r}.split()))  # each is as if it were not installed
"""


def test_looking_up_many_needs_nothing_of_a_notebook(db: Path) -> None:
    script = """
        import sys
        from vin_datasette import fetch

        fetched = fetch(["1HGCM82633A004352"], db=sys.argv[1], source="embedded", silent=True)
        print(fetched, "<td>Accord</td>" in fetched._repr_html_())
        print(*sorted(sys.modules.keys() & set(sys.argv[2].split())))
    """
    assert printed(script, db, f"{NOTEBOOK} polars") == "<Fetched: 1 VIN: 1 found> True"


def test_the_widget_tells_what_it_needs() -> None:
    script = (
        WITHOUT_NOTEBOOK
        + """
    try:
        from vin_datasette import VinLookup
    except ImportError as error:
        print(error)
    """
    )
    assert (
        printed(script) == "VinLookup needs anywidget, a part of the notebook's: pip install 'vin-datasette[notebook]'"
    )


def test_all_else_is_there_without_the_notebooks_parts() -> None:
    script = (
        WITHOUT_NOTEBOOK
        + """
    from vin_datasette import *
    print(fetch.__name__, "VinLookup" in globals())
    """
    )
    assert printed(script) == "fetch False"


@pytest.mark.parametrize("name", [*vin_datasette.__all__, "VinLookup"])
def test_every_public_name_is_there_and_listed(name: str) -> None:
    if name == "VinLookup":
        pytest.importorskip("anywidget")
    assert getattr(vin_datasette, name) is not None
    assert name in dir(vin_datasette)


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'vin_datasette' has no attribute 'look_up'"):
        _ = vin_datasette.look_up


def test_the_submodule_stays_importable_by_its_name() -> None:
    import_module = "import sys, vin_datasette.lookup; print(sys.modules['vin_datasette.lookup'].__name__)"
    assert printed(import_module) == "vin_datasette.lookup"


# Looking up


def test_works_without_an_event_loop(db: Path) -> None:
    vehicle = lookup(HONDA, db=db, source="embedded")
    assert (vehicle.make, vehicle.model, vehicle.model_year, vehicle.body_class) == ("HONDA", "Accord", 2003, "Coupe")


async def test_works_inside_a_running_event_loop(db: Path) -> None:
    assert lookup(PETERBILT, db=db, source="embedded").model == "379"


def test_asks_vpic_and_keeps_the_answer(make_settings: MakeSettings, vpic_server: VpicServer) -> None:
    settings = make_settings()
    vehicles = [lookup(HONDA, db=settings.db, vpic_url=vpic_server.url) for _ in "12"]
    assert [vehicle.source for vehicle in vehicles] == ["vpic", "vpic"]
    assert (len(vpic_server.calls), len(rows(settings.db))) == (1, 1)


def test_sends_the_model_year(vpic_server: VpicServer, db: Path) -> None:
    lookup(HONDA, model_year=2003, db=db, vpic_url=vpic_server.url)
    assert [call.years for call in vpic_server.calls] == [(2003,)]


def test_calls_with_the_same_settings_know_that_vpic_is_away(vpic_server: VpicServer, db: Path) -> None:
    vpic_server.fail_always(Fault.status(503, retry_after=60))
    vehicles = [lookup(vin, db=db, vpic_url=vpic_server.url) for vin in numbered_vins(3)]
    assert {vehicle.source for vehicle in vehicles} == {"embedded"}
    assert len(vpic_server.calls) == 1


def test_settings_come_from_the_environment_too(monkeypatch: pytest.MonkeyPatch, db: Path) -> None:
    monkeypatch.setenv("VIN_DATASETTE_DB", str(db))
    monkeypatch.setenv("VIN_DATASETTE_SOURCE", "embedded")
    assert lookup(HONDA).source == "embedded"
    assert len(rows(db)) == 1


def test_a_vin_without_a_vehicle_is_rejected(db: Path) -> None:
    with pytest.raises(Rejected, match="400 - Invalid Characters Present") as caught:
        lookup(NONSENSE, db=db, source="embedded")
    assert caught.value.rejection.codes == (1, 11, 14, 400)


def test_a_rejection_is_a_lookup_error(db: Path) -> None:
    with pytest.raises(LookupError):
        lookup(NONSENSE, db=db, source="embedded")


def test_a_malformed_vin_is_rejected_and_makes_no_file(db: Path) -> None:
    with pytest.raises(Rejected, match="A VIN has 17 characters, and this has 5"):
        lookup("no VIN", db=db, source="embedded")
    assert not db.exists()


@pytest.mark.parametrize(
    ("settings", "words"), [({"source": "elsewhere"}, "source"), ({"colour": "red"}, "colour"), ({"rate": 0}, "rate")]
)
def test_a_setting_that_cannot_be_used_is_an_error(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        lookup(HONDA, model_year=None, **settings)


def test_a_vpic_that_cannot_be_asked_is_an_error_where_it_alone_is_to_answer(vpic_server: VpicServer, db: Path) -> None:
    vpic_server.fail_always(Fault.status(404))
    with pytest.raises(SourceError, match="status 404"):
        lookup(HONDA, db=db, source="vpic", vpic_url=vpic_server.url)


def test_a_cache_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="there is no folder"):
        lookup(HONDA, db=tmp_path / "nowhere" / "vin.db", source="embedded")


# Awaiting


async def test_can_be_awaited_on_the_callers_loop(db: Path) -> None:
    assert (await alookup(HONDA, db=db, source="embedded")).make == "HONDA"


async def test_awaiting_does_not_hold_up_the_callers_loop(vpic_server: VpicServer, db: Path) -> None:
    vpic_server.latency = 0.5
    asking = asyncio.create_task(alookup(HONDA, db=db, vpic_url=vpic_server.url))
    began, longest = time.monotonic(), 0.0
    while not asking.done():
        before = time.monotonic()
        await asyncio.sleep(0)
        longest = max(longest, time.monotonic() - before)
    assert (await asking).source == "vpic"
    assert longest < 0.4 < time.monotonic() - began


def test_can_be_awaited_on_one_loop_after_another(db: Path) -> None:
    async def ask(vin: VIN) -> str:
        return (await alookup(vin, db=db, source="embedded")).vin

    assert [asyncio.run(ask(vin)) for vin in (HONDA, PETERBILT)] == [HONDA, PETERBILT]


async def test_many_who_await_make_one_call(vpic_server: VpicServer, db: Path) -> None:
    asked = [alookup(HONDA, db=db, vpic_url=vpic_server.url) for _ in range(20)]
    assert {vehicle.make for vehicle in await asyncio.gather(*asked)} == {"HONDA"}
    assert len(vpic_server.calls) == 1


async def test_awaiting_raises_what_lookup_raises(db: Path) -> None:
    with pytest.raises(Rejected):
        await alookup(NONSENSE, db=db, source="embedded")


async def test_who_awaits_may_leave(vpic_server: VpicServer, db: Path) -> None:
    vpic_server.latency = 0.2
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(alookup(HONDA, db=db, vpic_url=vpic_server.url), 0.05)
    assert (await alookup(HONDA, db=db, vpic_url=vpic_server.url)).make == "HONDA"


# Threads and processes


def test_works_from_many_threads_at_once(vpic_server: VpicServer, db: Path) -> None:
    vins = numbered_vins(8)
    found: list[str] = []
    start = threading.Barrier(16)

    def ask(vin: VIN) -> None:
        start.wait()
        found.append(lookup(vin, db=db, vpic_url=vpic_server.url).vin)

    threads = [threading.Thread(target=ask, args=[vin], daemon=True) for vin in vins * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(found) == sorted(vins * 2)
    assert sorted(vin for call in vpic_server.calls for vin in call.vins) == sorted(vins)


def test_works_when_the_first_calls_of_a_process_come_from_many_threads() -> None:
    script = """
        import sys, tempfile, threading
        from vin_datasette import lookup

        start, failed = threading.Barrier(16), []

        def ask(db):
            start.wait()
            try:
                lookup("1HGCM82633A004352", db=db, source="embedded")
            except BaseException as error:
                failed.append(repr(error))

        with tempfile.TemporaryDirectory() as folder:
            threads = [threading.Thread(target=ask, args=[folder + "/vin.db"], daemon=True) for _ in range(16)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(5)
            loops = [thread for thread in threading.enumerate() if thread.name.startswith("vin-datasette")]
            print(failed, sum(thread.is_alive() for thread in threads), len(loops))
    """
    assert printed(script) == "[] 0 1"


FORK = textwrap.dedent("""
    import os, signal, sys, threading, time, warnings
    warnings.simplefilter("ignore")  # of forking with threads, which is what this is about
    from vin_datasette import lookup

    def in_a_child(*vins):
        child = os.fork()
        if not child:
            signal.alarm(5)
            try:
                for vin in vins:
                    print(lookup(vin, **settings).make, flush=True)
            except BaseException as error:
                print(repr(error), flush=True)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print("ended" if os.WIFEXITED(status) else "hung", flush=True)
""")


def test_works_after_a_fork(db: Path) -> None:
    script = """
        settings = {"db": sys.argv[1], "source": "embedded"}
        print(lookup("1HGCM82633A004352", **settings).make, flush=True)
        in_a_child("1HGCM82633A004352", "1XP5DB9X7XD487964")
        print(lookup("WA1A4AFY2J2008189", **settings).make)
    """
    assert printed(FORK + textwrap.dedent(script), db).split() == ["HONDA", "HONDA", "PETERBILT", "ended", "AUDI"]


@pytest.mark.parametrize(
    ("vin", "make"), [(HONDA, "HONDA"), ("WA1A4AFY2J2008189", "AUDI")], ids=["the same VIN", "another VIN"]
)
def test_works_in_a_child_forked_while_its_parent_waits_for_an_answer(
    vpic_server: VpicServer, db: Path, vin: str, make: str
) -> None:
    script = """
        settings = {"db": sys.argv[1], "source": "vpic", "vpic_url": sys.argv[2], "rate": 1000, "concurrency": 1}
        asking = threading.Thread(target=lookup, args=["1HGCM82633A004352"], kwargs=settings)
        asking.start()
        sys.stdin.readline()
        in_a_child(sys.argv[3])
        asking.join()
    """
    vpic_server.latency = 0.5
    command = [sys.executable, "-c", FORK + textwrap.dedent(script), str(db), vpic_server.url, vin]
    pipes = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipes, stdout=pipes, text=True, env=clean_environment()) as process:
        wait_for_a_call(vpic_server, process)
        said, _ = process.communicate("fork now\n", timeout=20)
    assert said.split() == [make, "ended"]


def wait_for_a_call(server: VpicServer, process: subprocess.Popen[str]) -> None:
    while not server.calls and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda vehicle: vehicle,
        lambda vehicle: vehicle.record.vin,
        lambda vehicle: Rejection(vehicle.vin, "no such vehicle", (7,), None, vehicle.record),
    ],
    ids=["vehicle", "VIN", "rejection"],
)
def test_an_answer_travels_between_processes(db: Path, make: Callable[[Vehicle], object]) -> None:
    answer = make(lookup(HONDA, db=db, source="embedded"))
    assert pickle.loads(pickle.dumps(answer)) == answer


@pytest.mark.parametrize(
    "error",
    [
        Rejected(Rejection(NONSENSE, "no such vehicle", (7,))),
        SourceError("vPIC is away", unreachable=True, transient=False, retry_after=30.0),
        InvalidVIN("A VIN has 17 characters.", HONDA),
        CacheError("vin.db cannot be used as a cache."),
        SettingError("The setting rate must be a number."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_travels_between_processes(error: Exception) -> None:
    """One that cannot be unpickled hangs a pool of processes or breaks it."""
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(error), str(error), vars(error))


# Ending


def test_a_process_ends_soon_after_its_answer_though_its_name_server_never_answers(db: Path) -> None:
    script = """
        import socket, sys, time

        def getaddrinfo(*arguments, **options):
            time.sleep(60)

        socket.getaddrinfo = getaddrinfo
        from vin_datasette import lookup

        asked = {"vpic_url": "http://vpic.example/api/", "timeout": 1}
        print(lookup("1HGCM82633A004352", db=sys.argv[1], **asked).source)
    """
    ended = run(script, db, timeout=6)
    assert (ended.returncode, ended.stdout) == (0, "embedded\n")


def test_a_process_that_looked_up_ends_without_a_complaint(db: Path) -> None:
    script = """
        import sys, warnings
        warnings.simplefilter("error")
        from vin_datasette import lookup

        print(lookup("1HGCM82633A004352", db=sys.argv[1], source="embedded").make)
    """
    assert printed(script, db) == "HONDA"


def test_a_process_that_asked_vpic_ends_without_a_complaint(db: Path, vpic_server: VpicServer) -> None:
    script = """
        import sys, warnings
        warnings.simplefilter("error")
        from vin_datasette import lookup

        print(lookup("1HGCM82633A004352", db=sys.argv[1], vpic_url=sys.argv[2]).source)
    """
    assert printed(script, db, vpic_server.url) == "vpic"


async def test_a_lookup_of_ones_own_needs_no_other_thread(make_settings: MakeSettings) -> None:
    before = threading.active_count()
    async with Lookup(make_settings(source="embedded")) as own:
        assert own.cached(HONDA) is None
    assert threading.active_count() == before


def test_ctrl_c_ends_a_lookup_at_once(vpic_server: VpicServer, db: Path) -> None:
    script = """
        import sys
        from vin_datasette import lookup

        print("asking", flush=True)
        try:
            lookup("1HGCM82633A004352", db=sys.argv[1], source="vpic", vpic_url=sys.argv[2])
        except KeyboardInterrupt:
            print("interrupted")
    """
    vpic_server.fail_always(Fault.silence)
    command = [sys.executable, "-c", textwrap.dedent(script), str(db), vpic_server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment()) as process:
        wait_for_a_call(vpic_server, process)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=5)
    assert (process.returncode, said) == (0, "asking\ninterrupted\n")
