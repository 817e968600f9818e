"""HTTP/1.1 read by httptools, which is in C and has no limit of its own to what is no body."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD_BYTES = 64 * 1024
"""Bytes of a request beside its body: the request line, fields, and the framing of chunks."""


class LimitedHttpTools(HttpToolsProtocol):
    """A connection that ends with 400 when a head does not, and with its answer when a body goes on after it."""

    _is_body_coming = False

    _body_bytes = _other_bytes = 0

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._other_bytes += len(data)
        super().data_received(data)
        # Chunks have six bytes of their own each, and may be small.
        if self._other_bytes > MOST_HEAD_BYTES + self._body_bytes and not self.transport.is_closing():
            if self._is_body_coming:
                self.transport.close()
            else:
                self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        """See `httptools.HTTPProtocol`."""
        super().on_headers_complete()
        self._is_body_coming = True

    def on_body(self, body: bytes) -> None:
        """See `httptools.HTTPProtocol`."""
        super().on_body(body)
        self._body_bytes += len(body)
        self._other_bytes -= len(body)

    def on_message_complete(self) -> None:
        """See `httptools.HTTPProtocol`."""
        super().on_message_complete()
        self._is_body_coming = False
        self._body_bytes = self._other_bytes = 0

    def on_response_complete(self) -> None:
        """Of a request that is answered before it has come whole, the rest would be read for nothing."""
        super().on_response_complete()
        if self._is_body_coming and self.cycle.response_complete:
            self.transport.close()
