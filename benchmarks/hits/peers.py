"""The applications that are not Datasette: a bare one, and FastAPI with SQLAlchemy.

uvicorn benchmarks.hits.peers:bare
CACHE=vin.db uvicorn --factory benchmarks.hits.peers:replaced
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

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


async def bare(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    """The least that an ASGI application can do to answer with these bytes: what the server costs."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
        await send({"type": "http.response.body", "body": BODY.encode()})
        return
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
