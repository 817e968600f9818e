"""The applications that are not Datasette: a bare one, one that reads a row, and FastAPI with SQLAlchemy.

uvicorn benchmarks.hits.peers:bare
CACHE=vin.db uvicorn benchmarks.hits.peers:reading
CACHE=vin.db uvicorn --factory benchmarks.hits.peers:replaced
"""

from __future__ import annotations

import json
import os
import sqlite3
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vin_datasette.web.shutdown import Receive, Send

    Scope = dict[str, Any]

BODY = (
    '{"Input VIN Requested": "1XP5DB9X7XD487964", "Make": "PETERBILT", "Model": "379", "Model Year": "1999", '
    '"Body Class": "Truck-Tractor", "Cached Result?": true}'
)

HEAD = {
    "Cache-Control": "private, no-cache",
    "Vary": "Cookie, Authorization",
    "X-Content-Type-Options": "nosniff",
    "Vin-Source": "vpic",
    "Cache-Status": "vin-datasette; hit",
    "Age": "86400",
    "ETag": '"e922dc3598b2f3c03d0f6557"',
    "Content-Type": "application/json",
}
"""What comes before the body of a cached vehicle's answer, beside what the server itself adds."""

_HEAD = [(name.lower().encode(), value.encode()) for name, value in HEAD.items()]


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that an ASGI application can do to answer with these bytes: what the server costs."""
    await (_answer(send, BODY) if scope["type"] == "http" else _lifespan(receive, send))


async def reading(scope: Scope, receive: Receive, send: Send) -> None:
    """The least that one can do that reads a row for each answer."""
    if scope["type"] == "http":
        await _answer(send, row_of(scope["path"].rpartition("/")[2]))
    else:
        await _lifespan(receive, send)


def row_of(vin: str) -> str:
    """The answer of a vehicle by one read on a connection that is held, and nothing else."""
    row = _connection().execute(_SELECT, [vin]).fetchone()
    names = ("Input VIN Requested", "Make", "Model", "Model Year", "Body Class")
    return json.dumps({**dict(zip(names, map(str, row), strict=True)), "Cached Result?": True})


_SELECT = "SELECT vin, make, model, model_year, body_class FROM vehicles WHERE vin = ?"


@cache
def _connection() -> sqlite3.Connection:
    return sqlite3.connect(os.environ["CACHE"], check_same_thread=False)


async def _answer(send: Send, body: str) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
    await send({"type": "http.response.body", "body": body.encode()})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def replaced() -> Any:
    """The design that this one replaces: a session of SQLAlchemy for each request, over the same file."""
    from fastapi import Depends, FastAPI, HTTPException
    from sqlalchemy import Text, create_engine
    from sqlalchemy.orm import DeclarativeBase, mapped_column, sessionmaker

    # With SQLAlchemy's fifteen connections, FastAPI's forty threads wait for each other until nothing moves.
    sessions = sessionmaker(create_engine(f"sqlite:///{os.environ['CACHE']}", pool_size=40))

    class Base(DeclarativeBase):
        pass

    class Vehicle(Base):
        __tablename__ = "vehicles"
        vin = mapped_column(Text, primary_key=True)
        record = mapped_column(Text)

    def session() -> Any:
        with sessions() as opened:
            yield opened

    app = FastAPI()
    one_session = Depends(session)

    @app.get("/lookup/{vin}")
    def lookup(vin: str, db: Any = one_session) -> dict[str, object]:
        vehicle = db.get(Vehicle, vin)
        if vehicle is None:
            raise HTTPException(404)
        record = json.loads(vehicle.record)
        fields = {"Make": "Make", "Model": "Model", "Model Year": "ModelYear", "Body Class": "BodyClass"}
        found = {name: record.get(key) for name, key in fields.items()}
        return {"Input VIN Requested": vehicle.vin, **found, "Cached Result?": True}

    return app
