"""The notebook's door in a kernel: cells run while a widget works, and what is shown stays."""

from __future__ import annotations

import time
from queue import Empty
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import clean_environment, numbered_vins, until
from tests.vpic_server import VpicServer

for _part in ("anywidget", "ipykernel", "nbclient", "nbformat"):
    pytest.importorskip(_part)

import nbformat  # noqa: E402
from jupyter_client.manager import KernelManager  # noqa: E402
from nbclient import NotebookClient  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HONDA, PETERBILT = "1HGCM82633A004352", "1XP5DB9X7XD487964"
WRONG = "1XP5DB9X7XD487945"
"""Its check digit fails."""


class Cell:
    """A cell that was sent to a kernel, and what has come of it."""

    def __init__(self, kernel: Kernel, code: str) -> None:
        self._kernel = kernel
        self.id = kernel.client.execute(code, store_history=False)

    @property
    def said(self) -> list[dict[str, Any]]:
        """What the kernel has published on its behalf."""
        return [message for message in self._kernel.published if message["parent_header"].get("msg_id") == self.id]

    @property
    def ended(self) -> bool:
        """Whether it has ended; reads what the kernel has published meanwhile."""
        self._kernel.read()
        return any(message["content"].get("execution_state") == "idle" for message in self.said)

    def reply(self, seconds: float = 30) -> dict[str, Any]:
        """What the kernel replied, when it has ended."""
        until(lambda: self.ended, seconds)
        while True:
            message = self._kernel.client.get_shell_msg(timeout=seconds)
            if message["parent_header"]["msg_id"] == self.id:
                content: dict[str, Any] = message["content"]
                return content

    def data(self) -> list[dict[str, Any]]:
        """What it shows, by MIME type."""
        return [message["content"]["data"] for message in self.said if "data" in message["content"] and _shows(message)]

    def text(self, stream: str = "stdout") -> str:
        """What it wrote."""
        return "".join(message["content"]["text"] for message in self.said if message["content"].get("name") == stream)


def _shows(message: dict[str, Any]) -> bool:
    return message["msg_type"] in ("display_data", "execute_result")


class Kernel:
    """A running kernel."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=str(folder), env=clean_environment(IPYTHONDIR=str(folder / "ipython")))
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.published: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """All that was published by now."""
        while True:
            try:
                self.published.append(self.client.get_iopub_msg(timeout=0.01))
            except Empty:
                return self.published

    def run(self, code: str) -> Cell:
        """Run a cell to its end. Fails when it fails."""
        cell = Cell(self, code)
        reply = cell.reply()
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", []))
        return cell

    def printed(self, code: str) -> str:
        """What a cell printed."""
        return self.run(code).text().strip()

    def stop(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def one_vpic() -> Iterator[VpicServer]:
    with VpicServer() as server:
        yield server


@pytest.fixture(scope="module")
def one_kernel(tmp_path_factory: pytest.TempPathFactory, one_vpic: VpicServer) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path_factory.mktemp("kernel"))
    try:
        kernel.run(f"""
            import asyncio, time
            from vin_datasette import VinLookup, afetch, fetch
            slow = dict(source="vpic", vpic_url={one_vpic.url!r}, rate=1000, batch_size=1, concurrency=1)
            here = dict(source="embedded")
        """)
        yield kernel
    finally:
        kernel.stop()


@pytest.fixture
def vpic(one_vpic: VpicServer) -> VpicServer:
    one_vpic.reset()
    one_vpic.latency = 0.0
    return one_vpic


@pytest.fixture
def kernel(one_kernel: Kernel, vpic: VpicServer, tmp_path: Path) -> Kernel:
    """A kernel in whose cells `slow` and `here` are settings, with a cache of the test's own."""
    one_kernel.run(f"slow['db'] = here['db'] = {str(tmp_path / 'vin.db')!r}")
    return one_kernel


def test_cells_run_while_a_widget_works(kernel: Kernel, vpic: VpicServer) -> None:
    vpic.latency = 0.02
    kernel.run(f"""
        events, widget = [], VinLookup(**slow)
        widget.observe(lambda change: events.append((change["name"], change["new"])), ["busy", "progress", "vehicles"])
        widget.look_up({numbered_vins(300)!r})
    """)
    kernel.run("while not widget.vehicles: await asyncio.sleep(0.01)")
    began = time.monotonic()
    assert kernel.printed("print(widget.busy, 0 <= widget.progress < 1, 6 * 7)") == "True True 42"
    assert time.monotonic() - began < 1
    # While a cell blocks the main thread, traits go on changing and a view goes on hearing of it.
    blocked = kernel.run("before = widget.progress; time.sleep(0.5); print(before < widget.progress < 1)")
    assert blocked.text() == "True\n"
    vpic.latency = 0
    assert kernel.printed("print(await widget.done())") == "<Fetched: 300 VINs: 300 found>"
    assert kernel.printed("print(events[0], events[-1])") == "('busy', True) ('busy', False)"
    assert kernel.printed("print([value for name, value in events if name == 'progress'][-1])") == "1.0"
    assert kernel.printed("print(len([value for name, value in events if name == 'vehicles'][-1]))") == "300"


def test_a_view_hears_of_it_while_a_cell_blocks_the_kernel(kernel: Kernel, vpic: VpicServer, tmp_path: Path) -> None:
    vpic.latency = 0.03
    heard = tmp_path / "heard"
    kernel.run(f"import pathlib; widget = VinLookup({numbered_vins(300)!r}, **slow)")
    # The cell blocks the kernel until the view's side says that it has heard enough.
    cell = Cell(
        kernel, f"print('asleep', flush=True)\nwhile not pathlib.Path({str(heard)!r}).exists(): time.sleep(0.01)"
    )
    until(lambda: kernel.read() and cell.text())
    already = len(kernel.published)

    def said_meanwhile() -> list[dict[str, Any]]:
        return [message["content"]["data"] for message in kernel.read()[already:] if _is_comm(message)]

    def is_heard() -> bool:
        said = said_meanwhile()
        answers = [data for data in said if data.get("content", {}).get("kind") == "answers"]
        return len(answers) > 2 and any("progress" in data.get("state", {}) for data in said)

    try:
        until(is_heard)
        assert not cell.ended
    finally:
        heard.touch()
    assert cell.reply()["status"] == "ok"
    vpic.latency = 0
    kernel.run("await widget.done()")


def _is_comm(message: dict[str, Any]) -> bool:
    return bool(message["msg_type"] == "comm_msg")


def test_who_interrupts_a_cell_does_not_interrupt_a_widget(kernel: Kernel, vpic: VpicServer) -> None:
    vpic.latency = 0.03
    kernel.run(f"widget = VinLookup({numbered_vins(60)!r}, **slow)")
    cell = Cell(kernel, "print('asleep', flush=True); time.sleep(60)")
    until(lambda: kernel.read() and cell.text())
    kernel.manager.interrupt_kernel()
    assert cell.reply()["ename"] == "KeyboardInterrupt"
    assert kernel.printed("print(widget.busy)") == "True"
    assert kernel.printed("print(await widget.done())") == "<Fetched: 60 VINs: 60 found>"


def test_who_interrupts_a_fetch_keeps_what_was_answered(kernel: Kernel, vpic: VpicServer) -> None:
    vpic.latency = 0.05
    cell = Cell(kernel, f"fetch({numbered_vins(300)!r}, **slow)")
    until(lambda: len(vpic.calls) > 5)
    kernel.manager.interrupt_kernel()
    assert cell.reply()["ename"] == "KeyboardInterrupt"
    assert len(vpic.calls) < 100
    vpic.latency = 0
    again = f"fetch({numbered_vins(300)!r}, silent=True, **slow)"
    assert kernel.printed(f"print({again})") == "<Fetched: 300 VINs: 300 found>"
    # Those that were on their way at the time may be asked about once more, and no others.
    assert 300 <= len(vpic.calls) <= 303


def test_who_waits_for_a_frame_is_interrupted(kernel: Kernel, vpic: VpicServer) -> None:
    vpic.latency = 0.05
    kernel.run(f"import pandas; widget = VinLookup(pandas.DataFrame({{'vin': {numbered_vins(100)!r}}}), **slow)")
    cell = Cell(kernel, "print('waits', flush=True); widget.enriched")
    until(lambda: kernel.read() and cell.text())
    kernel.manager.interrupt_kernel()
    assert cell.reply()["ename"] == "KeyboardInterrupt"
    vpic.latency = 0
    assert kernel.printed("print(set(widget.enriched['status']))") == "{'found'}"


def test_many_are_awaited_on_the_kernels_own_loop(kernel: Kernel) -> None:
    vins = [HONDA, WRONG]
    assert (
        kernel.printed(f"print(await afetch({vins}, silent=True, **here))") == "<Fetched: 2 VINs: 1 found, 1 rejected>"
    )


@pytest.mark.parametrize("call", ["fetch", "await afetch"])
def test_the_bar_of_a_fetch_stands_in_its_own_cell(kernel: Kernel, call: str) -> None:
    cell = kernel.run(f"fetched = {call}({[HONDA, WRONG]}, **here)")
    shown = "".join(data["text/plain"] for data in cell.data())
    assert "Looking up" in shown
    assert cell.text("stderr") == ""


def test_a_widget_shows_its_view_and_then_its_last_state(kernel: Kernel, vpic: VpicServer) -> None:
    vpic.latency = 0.03
    kernel.run(f"widget = VinLookup({[*numbered_vins(20), 'no VIN']!r}, **slow)")
    first, second = kernel.run("widget"), kernel.run("display(widget)")
    [data] = first.data()
    assert set(data) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert data["text/plain"].startswith("VinLookup: 21 VINs: ")
    assert second.data()[0].keys() == data.keys()
    kernel.run("await widget.done()")
    until(lambda: kernel.read() and _updates(kernel))
    last = _updates(kernel)[-1]
    assert last["data"]["text/plain"] == "VinLookup: 21 VINs: 20 found, 1 rejected"
    assert last["data"]["text/html"].count("<td>HONDA</td>") == 20
    assert last["data"]["application/vnd.jupyter.widget-view+json"] == data["application/vnd.jupyter.widget-view+json"]
    ids = {
        message["content"]["transient"]["display_id"]
        for cell in (first, second)
        for message in cell.said
        if _shows(message)
    }
    assert ids == {last["transient"]["display_id"]}


def _updates(kernel: Kernel) -> list[dict[str, Any]]:
    return [message["content"] for message in kernel.published if message["msg_type"] == "update_display_data"]


def test_vehicles_show_themselves(kernel: Kernel) -> None:
    [table] = kernel.run(f"fetch({[HONDA, WRONG]}, silent=True, **here)").data()
    assert "<td>Accord</td>" in table["text/html"]
    assert table["text/plain"] == "<Fetched: 2 VINs: 1 found, 1 rejected>"


# Magics


@pytest.fixture
def magics(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel with the magics loaded, whose settings come from its environment."""
    kernel.run("%load_ext vin_datasette\n%env VIN_DATASETTE_SOURCE=embedded")
    kernel.run("import os; os.environ['VIN_DATASETTE_DB'] = here['db']")
    return kernel


def test_a_magic_shows_a_vehicle(magics: Kernel) -> None:
    for line in (f"%vin {HONDA}", "%vin 1hgcm826-33a 004352", f"number = {HONDA!r}\n%vin $number"):
        [data] = magics.run(line).data()
        assert "<strong>2003 HONDA Accord</strong>" in data["text/html"]
    assert magics.printed(f"truck = %vin {PETERBILT}\nprint(truck.model)") == "379"


def test_a_rejection_is_one_line_of_words(magics: Kernel) -> None:
    cell = magics.run(f"%vin {WRONG}")
    assert cell.text("stderr") == f"{WRONG}: 1 - Check Digit (9th position) does not calculate properly\n"
    assert (cell.data(), cell.text()) == ([], "")
    assert magics.printed("gone = %vin 1HGCM82633AOO4352\nprint(gone)") == "None"


def test_a_magic_takes_options(magics: Kernel, vpic: VpicServer, tmp_path: Path) -> None:
    db = tmp_path / "a name with blanks.db"
    magics.run(f'%vin {HONDA} --source vpic --vpic-url {vpic.url} --db "{db}"')
    assert (len(vpic.calls), db.exists()) == (1, True)
    magics.run(f'%%vins --source vpic --vpic-url {vpic.url} --db "{db}"\n{HONDA}\n{PETERBILT}')
    assert [call.vins for call in vpic.calls] == [(HONDA,), (PETERBILT,)]


def test_a_cell_of_vins_becomes_a_table(magics: Kernel) -> None:
    cell = magics.run(f"%%vins --name fleet\nunit,vin\n1,{HONDA}\n2,{WRONG}\n3,{PETERBILT}\n")
    table = cell.data()[-1]
    assert table["text/plain"] == "<Fetched: 3 VINs: 2 found, 1 rejected>"
    assert "<td>Truck-Tractor</td>" in table["text/html"]
    assert magics.printed("print(fleet.to_pandas()['model'].tolist())") == "['Accord', '379']"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("%vin", "the following arguments are required: vin"),
        (f"%vin {HONDA} --colour red", "unrecognized arguments: --colour red"),
        (f"%vin {HONDA} --source elsewhere", "argument --source: invalid choice: 'elsewhere'"),
        (f"%vin {HONDA} --vpic-url nonsense", "The setting vpic_url must be an http or https URL"),
        (f"%vin {HONDA} --db /nowhere/vin.db", "/nowhere/vin.db cannot be made: there is no folder /nowhere."),
        (f"%%vins --db /nowhere/vin.db\n{HONDA}", "/nowhere/vin.db cannot be made: there is no folder /nowhere."),
        (f"%%vins --name 2nd\n{HONDA}", "argument --name: '2nd' is no name that a variable can have"),
        ("%%vins\n\n", "The cell holds no VINs."),
        ("%%vins\nname,depot\nAnn,Austin 1", "No column of the text was found to hold VINs. Its columns are: 1 'name'"),
    ],
)
def test_what_a_magic_cannot_do_is_told_in_words(magics: Kernel, code: str, words: str) -> None:
    cell = Cell(magics, code)
    assert cell.reply()["ename"] == "UsageError"
    assert cell.text("stderr").removeprefix("UsageError: ").startswith(words)
    assert "Traceback" not in "".join(map(str, cell.said))


def test_a_source_that_cannot_be_asked_is_told_in_words(magics: Kernel, vpic: VpicServer) -> None:
    url = vpic.url.replace("/api/", "/nothing/")
    cell = Cell(magics, f"%vin {HONDA} --source vpic --vpic-url {url}")
    assert cell.reply()["ename"] == "UsageError"
    # The log has a word of its own of what vPIC said.
    assert cell.text("stderr").splitlines()[-1].startswith("UsageError: No source could be asked: ")


# A notebook that is kept


def test_a_notebook_that_is_kept_keeps_the_last_state(tmp_path: Path, vpic: VpicServer) -> None:
    vpic.latency = 0.02
    settings = f"db='vin.db', source='vpic', vpic_url={vpic.url!r}, rate=1000, batch_size=1, concurrency=1"
    cells = [
        f"from vin_datasette import VinLookup\nwidget = VinLookup({numbered_vins(20)!r}, {settings})\nwidget",
        "await widget.done()",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    [output] = notebook.cells[0].outputs
    assert output["data"]["text/html"].count("<td>HONDA</td>") == 20
    assert output["data"]["text/plain"] == "VinLookup: 20 VINs: 20 found"
