"""A response that is encoded already, as it is sent over and over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from datasette import Response

if TYPE_CHECKING:
    from vin_datasette.web.shutdown import Send


class Encoded(Response):  # type: ignore[misc]
    """200 with a text and these header fields, names and values in bytes, `Content-Type` among them."""

    def __init__(self, body: str, fields: list[tuple[bytes, bytes]]) -> None:
        super().__init__(body)
        self._fields = fields

    async def asgi_send(self, send: Send) -> None:
        """Send it, with the cookies that Datasette gave it."""
        cookies = [(b"set-cookie", said.encode()) for said in self._set_cookie_headers]
        await send({"type": "http.response.start", "status": 200, "headers": [*self._fields, *cookies]})
        await send({"type": "http.response.body", "body": self.body.encode()})
