"""A small HTTP server that speaks the contract of NHTSA's vPIC API on a real loopback socket.

The records come from `ultravin`, which carries vPIC's own database, so every VIN has an answer
and nothing leaves the machine. Latency, a rate limit and faults can be set while it runs:

    with VpicServer(latency=0.05) as server:
        server.fail_next(Fault.status(503, retry_after=1))
        httpx.get(server.url + "DecodeVinValues/1HGCM82633A004352?format=json")
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import random
import select
import socket
import ssl
import struct
import sys
import threading
import time
import zlib
from collections import OrderedDict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import lru_cache
from http.client import responses
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

import ultravin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

BASE_PATH = "/api/vehicles/"
BATCH = "decodevinvaluesbatch"
BATCH_LIMIT = 50
SELF_SIGNED = Path(__file__).parent / "data" / "self_signed.pem"
"""A certificate with its key, for 127.0.0.1 and for a hundred years, made for these tests alone."""
REMEMBERED = 16_384
FLAT = ("decodevinvalues", "decodevinvaluesextended")
VARIABLES = ("decodevin", "decodevinextended")

_JSON, _XML, _HTML = "application/json", "application/xml; charset=utf-8", "text/html"
_MESSAGE = (
    "Results returned successfully. NOTE: Any missing decoded values should be interpreted as"
    " NHTSA does not have data on the specific variable. Missing value should NOT be interpreted"
    " as an indication that a feature or technology is unavailable for a vehicle."
)
_KEYS = """
ABS ActiveSafetySysNote AdaptiveCruiseControl AdaptiveDrivingBeam AdaptiveHeadlights
AdditionalErrorText AirBagLocCurtain AirBagLocFront AirBagLocKnee AirBagLocSeatCushion
AirBagLocSide AutoReverseSystem AutomaticPedestrianAlertingSound AxleConfiguration Axles BasePrice
BatteryA BatteryA_to BatteryCells BatteryInfo BatteryKWh BatteryKWh_to BatteryModules BatteryPacks
BatteryType BatteryV BatteryV_to BedLengthIN BedType BlindSpotIntervention BlindSpotMon BodyCabType
BodyClass BrakeSystemDesc BrakeSystemType BusFloorConfigType BusLength BusType CAN_AACN CIB
CashForClunkers ChargerLevel ChargerPowerKW CombinedBrakingSystem CoolingType CurbWeightLB
CustomMotorcycleType DaytimeRunningLight DestinationMarket DisplacementCC DisplacementCI
DisplacementL Doors DriveType DriverAssist DynamicBrakeSupport EDR ESC EVDriveUnit
ElectrificationLevel EngineConfiguration EngineCycles EngineCylinders EngineHP EngineHP_to EngineKW
EngineManufacturer EngineModel EntertainmentSystem ErrorCode ErrorText ForwardCollisionWarning
FuelInjectionType FuelTankMaterial FuelTankType FuelTypePrimary FuelTypeSecondary GCWR GCWR_to GVWR
GVWR_to KeylessIgnition LaneCenteringAssistance LaneDepartureWarning LaneKeepSystem
LowerBeamHeadlampLightSource Make MakeID Manufacturer ManufacturerId Model ModelID ModelYear
MotorcycleChassisType MotorcycleSuspensionType NCSABodyType NCSAMake NCSAMapExcApprovedBy
NCSAMapExcApprovedOn NCSAMappingException NCSAModel NCSANote NonLandUse Note OtherBusInfo
OtherEngineInfo OtherMotorcycleInfo OtherRestraintSystemInfo OtherTrailerInfo ParkAssist
PedestrianAutomaticEmergencyBraking PlantCity PlantCompanyName PlantCountry PlantState
PossibleValues Pretensioner RearAutomaticEmergencyBraking RearCrossTrafficAlert
RearVisibilitySystem SAEAutomationLevel SAEAutomationLevel_to SeatBeltsAll SeatRows Seats
SemiautomaticHeadlampBeamSwitching Series Series2 SteeringLocation SuggestedVIN TPMS TopSpeedMPH
TrackWidth TractionControl TrailerBodyType TrailerLength TrailerType TransmissionSpeeds
TransmissionStyle Trim Trim2 Turbo VIN ValveTrainDesign VehicleDescriptor VehicleType WheelBaseLong
WheelBaseShort WheelBaseType WheelSizeFront WheelSizeRear WheelieMitigation Wheels Windows
"""
FLAT_KEYS = tuple(_KEYS.split())
_ID_KEYS = {26: "MakeID", 27: "ManufacturerId", 28: "ModelID"}
_NCSA = {"NCSA Body Type": 96, "NCSA Make": 97, "NCSA Model": 98, "NCSA Note": 186}


@dataclass
class Call:
    """One call as the server received it.

    `path` is as sent, `endpoint` in lower case, `vins` upper-cased and trimmed, as vPIC does.
    `status` is None until, and unless, an answer goes out.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    vins: tuple[str, ...]
    years: tuple[int | None, ...]
    at: float
    status: int | None = None
    endpoint: str = ""
    subject: str = ""
    as_json: bool = False


@dataclass(frozen=True)
class RateLimit:
    """At most `calls` admitted in any `per` seconds; a call beyond it is told `retry_after`."""

    calls: int
    per: float = 1.0
    retry_after: float | str | None = 1


@dataclass(frozen=True)
class Answer:
    """An HTTP answer before it is put on the wire; `declared` says whether it tells its length."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: tuple[str, ...] = ()
    declared: bool = True

    def head(self, keep_alive: bool) -> bytes:
        """Return the status line and the headers, with the empty line that ends them."""
        lines = [
            f"HTTP/1.1 {self.status} {responses.get(self.status, 'Unknown')}",
            f"Content-Type: {self.content_type}",
            "Cache-Control: no-cache",
            "Pragma: no-cache",
            "Expires: -1",
            "Vary: Accept-Encoding",
            f"Connection: {'keep-alive' if keep_alive else 'close'}",
            *([f"Content-Length: {len(self.body)}"] if self.declared else []),
            *self.headers,
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _page(status: int, retry_after: float | str | None = None, body: str | None = None) -> Answer:
    page = f"<html><body><h1>{status} {responses.get(status, 'Unknown')}</h1></body></html>"
    headers = () if retry_after is None else (f"Retry-After: {retry_after}",)
    return Answer(status, (page if body is None else body).encode(), _HTML, headers)


def _refusal(status: int, message: str, detail: str) -> Answer:
    return Answer(status, _dumps({"message": message, "messageDetail": detail}).encode())


def _envelope(criteria: str, results: Sequence[str]) -> Answer:
    # The results are JSON already: encoding them again would be most of the work of a call.
    start = {"Count": len(results), "Message": _MESSAGE, "SearchCriteria": criteria}
    body = f'{_dumps(start)[:-1]},"Results":[{",".join(results)}]}}'
    return Answer(200, body.encode())


def _xml(count: int) -> Answer:
    text = f"<Response><Count>{count}</Count><Message>{_MESSAGE}</Message><Results/></Response>"
    return Answer(200, text.encode(), _XML)


def flat_record(vin: str, year: int | None = None) -> dict[str, str]:
    """Return the flat record that the server answers for this VIN, given in upper case."""
    return _flattened(vin, ultravin.decode(vin, year=year, full=True)["elements"])


def _flattened(vin: str, elements: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    values: dict[str, list[str]] = {"VIN": [vin]}
    for element in elements:
        values.setdefault(element["code"], []).append(element["value"] or "")
        if id_key := _ID_KEYS.get(element["element_id"]):
            values[id_key] = [element["attribute_id"] or ""]
    return {key: "; ".join(values.get(key, ())) for key in FLAT_KEYS}


def _rows(vin: str, year: int | None, extended: bool) -> list[str]:
    """Return DecodeVin's rows as JSON: every variable, a repeated value as a repeated row."""
    found: dict[str, list[tuple[str | None, str]]] = {}
    for each in ultravin.decode(vin, year=year, full=True)["elements"]:
        value_id = each["attribute_id"] if each["data_type"] == "lookup" else ""
        found.setdefault(each["code"], []).append((each["value"], value_id))
    names = [(e["variable"], e["element_id"], e["code"]) for e in ultravin.ELEMENTS.values()]
    if extended:
        names += [(name, number, "") for name, number in _NCSA.items()]
    rows = (
        {"Value": value, "ValueId": value_id, "Variable": name, "VariableId": number}
        for name, number, code in names
        for value, value_id in found.get(code, [(None, "")])
    )
    return [_dumps(row) for row in rows]


Results: TypeAlias = "list[dict[str, Any]]"
Spoiler: TypeAlias = "Callable[[Answer], Answer]"
Delivery = Literal["whole", "half", "half, then reset", "nothing", "silence"]
Ending: TypeAlias = 'tuple[bytes, Literal["keep", "close", "reset"]]'


@dataclass(frozen=True, eq=False)
class Fault:
    """One way for an answer to go wrong; those that need an argument are static methods."""

    name: str
    spoil: Spoiler = field(default=lambda answer: answer, repr=False)
    delivery: Delivery = "whole"
    seconds: float = 0.0
    poured: Callable[[], Iterator[bytes]] | None = field(default=None, repr=False)

    html_200: ClassVar[Fault]  # status 200 with an HTML page
    xml_200: ClassVar[Fault]  # status 200 with XML although JSON was asked
    truncated: ClassVar[Fault]  # half of the body, then the connection ends
    truncated_json: ClassVar[Fault]  # complete HTTP that carries the first half of the JSON
    reset: ClassVar[Fault]  # a TCP reset in the middle of the body
    close: ClassVar[Fault]  # the connection ends before any byte of the answer
    silence: ClassVar[Fault]  # no answer until the client leaves or the server stops
    empty_results: ClassVar[Fault]  # `Results` is an empty list
    short_results: ClassVar[Fault]  # the last result is missing
    doubled_results: ClassVar[Fault]  # each result comes twice
    reordered: ClassVar[Fault]  # the results are rotated by one: the first comes last
    wrong_vin: ClassVar[Fault]  # the first result is the record of a VIN that was not asked
    null_results: ClassVar[Fault]  # `Results` is null
    not_json_object: ClassVar[Fault]  # the body is `[]`
    foreign_json: ClassVar[Fault]  # the body is `{"hello":"world"}`
    missing_keys: ClassVar[Fault]  # the results have neither `VIN` nor `ErrorCode`
    invalid_utf8: ClassVar[Fault]  # a string in the JSON holds a byte that UTF-8 does not have
    endless_headers: ClassVar[Fault]  # one header after another, and never a body
    dripping_headers: ClassVar[Fault]  # one header after another, each 50 ms after the last
    no_http: ClassVar[Fault]  # what another protocol says

    @staticmethod
    def status(code: int, retry_after: float | str | None = None, body: str | None = None) -> Fault:
        """Answer this status with an HTML body and, if given, a Retry-After header."""
        return Fault(f"status({code})", lambda _: _page(code, retry_after, body))

    @staticmethod
    def redirect(location: str, code: int = 302) -> Fault:
        """Send the client elsewhere."""
        answer = Answer(code, b"", _HTML, (f"Location: {location}",))
        return Fault(f"redirect({location})", lambda _: answer)

    @staticmethod
    def slow_drip(seconds: float) -> Fault:
        """Spread the right answer over so many seconds, in pieces at most 50 ms apart."""
        return Fault(f"slow_drip({seconds})", seconds=seconds)

    @staticmethod
    def huge(size: int, declared: bool = True) -> Fault:
        """Fill the right answer with blanks up to this size; `declared` sends Content-Length."""
        return Fault("huge", lambda a: replace(a, body=a.body.ljust(size), declared=declared))

    @staticmethod
    def flood(size: int, codings: int = 0) -> Fault:
        """Send so many bytes in chunks, unlike `huge` without having them in memory; with
        `codings`, packed by gzip so many times, and said to be."""
        if codings:
            # Once, and not in the time of whoever is kept waiting.
            _packed(size, codings)
        return Fault(f"flood({size}, {codings})", poured=lambda: _flood(size, codings))


def _results(change: Callable[[Results], Results | None]) -> Spoiler:
    def spoil(answer: Answer) -> Answer:
        if answer.status != 200 or answer.content_type != _JSON:
            return answer
        envelope = json.loads(answer.body)
        results = change(envelope["Results"])
        envelope.update(Count=len(results or ()), Results=results)
        return replace(answer, body=_dumps(envelope).encode())

    return spoil


def _for_another_vin(results: Results) -> Results:
    others = {f"1FTMW1T8*MFA{number:05}" for number in range(BATCH_LIMIT + 1)}
    return [flat_record(min(others - {each.get("VIN") for each in results})), *results[1:]]


def _anonymous(results: Results) -> Results:
    return [{k: each[k] for k in each if k not in ("VIN", "ErrorCode")} for each in results]


def _body(change: Callable[[bytes], bytes]) -> Spoiler:
    return lambda answer: replace(answer, body=change(answer.body))


def _flood(size: int, codings: int) -> Iterator[bytes]:
    said = f"Content-Encoding: {', '.join(['gzip'] * codings)}\r\n" if codings else ""
    yield f"HTTP/1.1 200 OK\r\nContent-Type: {_JSON}\r\nTransfer-Encoding: chunked\r\n{said}\r\n".encode()
    for piece in [_packed(size, codings)] if codings else _blanks(size):
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def _blanks(size: int) -> Iterator[bytes]:
    block = b" " * 65_536
    return (block for _ in range(math.ceil(size / len(block))))


@lru_cache(maxsize=4)
def _packed(size: int, codings: int) -> bytes:
    """So many blanks, packed so many times: a thousandth of them, or a millionth."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    pieces = [_packed(size, codings - 1)] if codings > 1 else _blanks(size)
    return b"".join([*map(packer.compress, pieces), packer.flush()])


def _endless_headers() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in count():
        yield b"X-Header-%d: %s\r\n" % (number, b"x" * 1000)


_NO_FAULT = Fault("none")
Fault.html_200 = Fault("html_200", lambda _: _page(200))
Fault.xml_200 = Fault("xml_200", lambda _: _xml(1))
Fault.truncated = Fault("truncated", delivery="half")
Fault.truncated_json = Fault("truncated_json", _body(lambda b: b[: len(b) // 2]))
Fault.reset = Fault("reset", delivery="half, then reset")
Fault.close = Fault("close", delivery="nothing")
Fault.silence = Fault("silence", delivery="silence")
Fault.empty_results = Fault("empty_results", _results(lambda _: []))
Fault.short_results = Fault("short_results", _results(lambda r: r[:-1]))
Fault.doubled_results = Fault("doubled_results", _results(lambda r: [x for x in r for _ in "12"]))
Fault.reordered = Fault("reordered", _results(lambda r: r[1:] + r[:1]))
Fault.wrong_vin = Fault("wrong_vin", _results(_for_another_vin))
Fault.null_results = Fault("null_results", _results(lambda _: None))
Fault.not_json_object = Fault("not_json_object", lambda _: Answer(200, b"[]"))
Fault.foreign_json = Fault("foreign_json", lambda _: Answer(200, b'{"hello":"world"}'))
Fault.missing_keys = Fault("missing_keys", _results(_anonymous))
Fault.endless_headers = Fault("endless_headers", poured=_endless_headers)
Fault.dripping_headers = Fault("dripping_headers", seconds=0.05, poured=_endless_headers)
Fault.no_http = Fault("no_http", poured=lambda: iter([b"220 mail.example.org ESMTP\r\n"]))
Fault.invalid_utf8 = Fault("invalid_utf8", _body(lambda b: b.replace(b':"', b':"\xff', 1)))


class _Connection:
    """What a client sends and is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def call(self) -> Call | None:
        """Read one call; None when the client leaves, or does not speak HTTP."""
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
            method, target, _ = first.split(" ")
            pairs = (line.partition(":") for line in lines)
            headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
            body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            return None
        return _understood(method, target, headers, body)

    async def left_within(self, seconds: float | None) -> bool:
        """Wait so long, or for ever; return early, and true, when the client hangs up."""
        try:
            return not await asyncio.wait_for(self._reader.read(1), seconds)
        except asyncio.TimeoutError:
            return False

    async def drip(self, data: bytes, seconds: float) -> bytes:
        """Send all but the last piece, which is returned."""
        pauses = math.ceil(seconds / 0.05)
        size = math.ceil(len(data) / (pauses + 1))
        for start in range(0, pauses * size, size):
            self._writer.write(data[start : start + size])
            if await self.left_within(seconds / pauses):
                break
        return data[pauses * size :]

    async def pour(self, pieces: Iterator[bytes], pause: float) -> None:
        """Send all of them, a pause after each, as long as the client takes them."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            if pause and await self.left_within(pause):
                break
            # With nothing to wait for, nobody else on the loop would have a turn.
            await asyncio.sleep(0)

    async def finish(self, data: bytes, reset: bool) -> None:
        """Send the last bytes of an answer, and a reset after them if asked."""
        self._writer.write(data)
        if reset:
            peer = self._writer.get_extra_info("socket")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        await self._writer.drain()


def _understood(method: str, target: str, headers: dict[str, str], body: bytes) -> Call:
    path, _, rest = target.partition("?")
    query = dict(parse_qsl(rest, keep_blank_values=True))
    base, rest = path[: len(BASE_PATH)], path[len(BASE_PATH) :]
    name, _, subject = rest.partition("/") if base.lower() == BASE_PATH else ("", "", "")
    endpoint, subject = name.lower(), unquote(subject.rstrip("/")).strip()
    fields = dict(parse_qsl(body.decode("latin-1"))) if endpoint == BATCH else query
    fields = {name.lower(): value for name, value in fields.items()}
    asked = [(subject, ",", fields.get("modelyear", ""))]
    if endpoint == BATCH:
        asked = [entry.partition(",") for entry in fields.get("data", "").split(";")]
    pairs = [(vin.strip().upper(), year.strip()) for vin, _, year in asked if vin.strip()]
    vins = tuple(vin for vin, _ in pairs)
    years = tuple(int(y) if len(y) == 4 and y.isdecimal() else None for _, y in pairs)
    call = Call(method, path, query, headers, vins, years, time.monotonic())
    call.endpoint, call.subject = endpoint, subject
    call.as_json = fields.get("format", "").lower() == "json"
    return call


class VpicServer:
    """vPIC's decoding endpoints on a loopback port, served from a thread of its own.

    All settings may be changed while it runs. `records` (flat records to answer instead) and
    `fault_for` are keyed by VIN in upper case. A call over the rate limit meets no fault; others
    meet the first of: the queue of `fail_next`, `fault_for`, `fail_always`, `fault_rates`.
    `port` 0 becomes a free one at `start()`, and is kept for a start after a `stop()`.
    """

    def __init__(self, latency: float = 0.0, rate_limit: RateLimit | None = None) -> None:
        self.latency = latency
        self.rate_limit = rate_limit
        self.port = 0
        self.records: dict[str, Mapping[str, object]] = {}
        self._texts: OrderedDict[tuple[str, int | None], str] = OrderedDict()
        self._in_flight = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread: threading.Thread | None = None
        self.reset()

    @property
    def url(self) -> str:
        """The base URL, with a slash at its end."""
        return f"http://127.0.0.1:{self.port}{BASE_PATH}"

    def __enter__(self) -> VpicServer:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, and return when calls are being answered."""
        # The first decode loads the database, which must not pass for latency of the first call.
        flat_record("1HGCM82633A004352")
        # Bound here and not in the thread, so that a port in use raises where it can be caught.
        listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        ready: Future[Callable[[], object]] = Future()
        serving = self._listen(listener, ready)
        self._thread = threading.Thread(target=asyncio.run, args=(serving,), daemon=True)
        self._thread.start()
        self._request_stop: Callable[[], object] = ready.result()

    def stop(self) -> None:
        """Drop all connections and end the thread; nothing happens if it is not running."""
        if self._thread is not None:
            self._request_stop()
            self._thread.join()
            self._thread = None

    def reset(self) -> None:
        """Forget the calls, with their counters, and all faults; the other settings stay."""
        self.calls: list[Call] = []
        self.max_in_flight = 0
        self.connections = 0
        self.fault_for: dict[str, Fault] = {}
        self._admitted: deque[float] = deque()
        self._queue: deque[Fault] = deque()
        self._constant: Fault | None = None
        self.fault_rates({})

    def fail_next(self, fault: Fault, times: int = 1) -> None:
        """Let the next `times` calls meet this fault, after those that are queued already."""
        self._queue.extend([fault] * times)

    def fail_always(self, fault: Fault | None) -> None:
        """Let every call meet this fault, until this is called with None."""
        self._constant = fault

    def fault_rates(self, rates: Mapping[Fault, float], seed: int = 0) -> None:
        """Let each call meet a fault with its share (0 to 1), drawn from a seeded generator."""
        self._random = random.Random(seed)
        self._rates = dict(rates)

    async def _listen(self, listener: socket.socket, ready: Future[Callable[[], object]]) -> None:
        loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        with listener:
            loop.add_reader(listener, self._accept, listener)
            ready.set_result(lambda: loop.call_soon_threadsafe(stopped.set))
            await stopped.wait()
            loop.remove_reader(listener)
        # Open connections are not waited for: asyncio.run() cancels the tasks that serve them.

    def _accept(self, listener: socket.socket) -> None:
        peer, _ = listener.accept()
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Not left to the task: it may be cancelled before it begins.
        task.add_done_callback(lambda _: peer.close())

    async def _serve(self, peer: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=peer)
        connection = _Connection(reader, writer)
        try:
            with contextlib.suppress(OSError):  # A client that leaves need not be told anything.
                while (call := await connection.call()) and await self._exchange(connection, call):
                    pass
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _exchange(self, connection: _Connection, call: Call) -> bool:
        """Answer one call; true if the connection may carry another."""
        self.calls.append(call)
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        try:
            last, then = await self._up_to_the_last_bytes(connection, call)
        finally:
            # Before the last bytes leave: who has them may send the next call at once.
            self._in_flight -= 1
        await connection.finish(last, reset=then == "reset")
        return then == "keep"

    async def _up_to_the_last_bytes(self, connection: _Connection, call: Call) -> Ending:
        answer, fault = self._answer_and_fault(call)
        if self.latency and await connection.left_within(self.latency):
            return b"", "close"
        if fault.delivery == "silence":
            await connection.left_within(None)
        if fault.poured:
            await connection.pour(fault.poured(), fault.seconds)
        if fault.poured or fault.delivery in ("silence", "nothing"):
            return b"", "close"
        keep = answer.declared and call.headers.get("connection", "").lower() != "close"
        call.status = answer.status
        data = answer.head(keep) + answer.body
        if fault.delivery != "whole":
            data = data[: len(data) - len(answer.body) // 2]
            return data, "reset" if fault.delivery == "half, then reset" else "close"
        if fault.seconds:
            data = await connection.drip(data, fault.seconds)
        return data, "keep" if keep else "close"

    def _answer_and_fault(self, call: Call) -> tuple[Answer, Fault]:
        if self.rate_limit and not self._admits(self.rate_limit, call.at):
            return _page(429, self.rate_limit.retry_after), _NO_FAULT
        fault = self._fault(call)
        return fault.spoil(self._answer(call)), fault

    def _admits(self, limit: RateLimit, now: float) -> bool:
        while self._admitted and self._admitted[0] <= now - limit.per:
            self._admitted.popleft()
        admitted = len(self._admitted) < limit.calls
        if admitted:
            self._admitted.append(now)
        return admitted

    def _fault(self, call: Call) -> Fault:
        if self._queue:
            return self._queue.popleft()
        named = (self.fault_for[vin] for vin in call.vins if vin in self.fault_for)
        if fault := next(named, self._constant):
            return fault
        rates = {**self._rates, _NO_FAULT: max(0.0, 1.0 - sum(self._rates.values()))}
        return self._random.choices([*rates], [*rates.values()])[0]

    def _answer(self, call: Call) -> Answer:
        batch = call.endpoint == BATCH
        known = batch or (call.endpoint in FLAT + VARIABLES and call.vins)
        if not known or call.method != ("POST" if batch else "GET"):
            message = f"No HTTP resource was found that matches the request URI '{call.path}'."
            return _refusal(404, message, "No action was found on the controller 'Vehicles'.")
        if batch and not 0 < len(call.vins) <= BATCH_LIMIT:
            detail = f"The parameter 'data' must hold 1 to {BATCH_LIMIT} VINs."
            return _refusal(400, "The request is invalid.", detail)
        if call.endpoint in VARIABLES:
            criteria = f"VIN:{call.subject}"
            results = _rows(call.vins[0], call.years[0], call.endpoint == "decodevinextended")
        else:
            criteria = "" if batch else f"VIN(s): {call.subject}"
            results = self._records(call)
        return _envelope(criteria, results) if call.as_json else _xml(len(results))

    def _records(self, call: Call) -> list[str]:
        """Return the flat records as JSON text, the most recently asked ones from memory."""
        asked = list(zip(call.vins, call.years, strict=True))
        new = [key for key in dict.fromkeys(asked) if key not in self._texts]
        vins, years = [vin for vin, _ in new], [year for _, year in new]
        for key, each in zip(new, ultravin.decode_batch(vins, years=years, full=True), strict=True):
            self._texts[key] = _dumps(_flattened(key[0], each["elements"]))
        for key in asked:
            self._texts.move_to_end(key)
        texts = [self._texts[key] for key in asked]
        while len(self._texts) > REMEMBERED:
            self._texts.popitem(last=False)
        overrides = [self.records.get(vin) for vin in call.vins]
        return [text if o is None else _dumps(o) for o, text in zip(overrides, texts, strict=True)]


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """Yield a base URL whose TCP connects are neither accepted nor refused."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Linux ignores connects to a full backlog, and how many fill it is the kernel's affair:
        # those that come through are held until one does not.
        for _ in range(16):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            if not select.select([], [filler], [], 0.1)[1]:
                break
        else:
            raise RuntimeError("this system accepts connects beyond the backlog")
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{BASE_PATH}"


@contextlib.contextmanager
def closed_port() -> Iterator[str]:
    """Yield a base URL whose TCP connects are refused."""
    # Bound but not listening: refused, and nobody else can be given the port meanwhile.
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{holder.getsockname()[1]}{BASE_PATH}"


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """Yield a base URL whose TCP connects are accepted, by the system, and which nobody serves."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}{BASE_PATH}"


@contextlib.contextmanager
def self_signed() -> Iterator[str]:
    """Yield a base URL for TLS whose certificate nobody vouches for, and which says 200 to whom
    that does not matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(SELF_SIGNED)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:

        def serve() -> None:
            # Ended by the listener, which is shut down.
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    peer.settimeout(5)
                    with contextlib.suppress(OSError), peer, context.wrap_socket(peer, server_side=True) as trusting:
                        trusting.recv(65_536)
                        trusting.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}{BASE_PATH}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def main() -> None:
    """Serve until Ctrl-C: `python -m tests.vpic_server --port 9000 --latency 0.2`."""
    parser = argparse.ArgumentParser(prog="python -m tests.vpic_server")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    server = VpicServer(options.latency)
    server.port = options.port
    with server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
