"""Bytes as text: what encoding they are in, and their lines as they come.

Nothing here needs the whole of a stream, nor to go back in it.
"""

from __future__ import annotations

import codecs
import io
import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer

LONGEST_LINE = 1_000_000
"""Characters of the longest line that is read; a longer one is skipped without keeping it."""

SAMPLE_LINES = 100
"""Lines that are looked at to know what the others are like."""

ANY_BYTE = "vin_datasette.any_byte"
"""The name of the `codecs` error handler that takes bytes which are not UTF-8 as Windows-1252."""

ENDLESS_LINE = 100_000_000
"""Characters of a line, or zero bytes on end, after which what is read is no text, and is given up."""

_SAMPLE_BYTES = 256 * 1024
_LONGEST_HEADER = LONGEST_LINE
_AT_ONCE = 128 * 1024
_LINE_END = re.compile(r"\r\n?|\n")
# A mark at the start of a file, which remains within it where files were joined.
_BYTE_ORDER_MARK = "\ufeff"


class Readable(Protocol):
    """A binary stream, as much of it as is needed here."""

    def read1(self, size: int = ..., /) -> bytes:
        """At most `size` bytes, as soon as there are any; none at the end."""


class Sample(NamedTuple):
    """The first bytes of a stream, whether they are all of it, and the whole stream again."""

    head: bytes
    whole: bool
    stream: io.BufferedReader


def sample(stream: Readable) -> Sample:
    """Look at the first hundred lines or so of a stream that need not be seekable.

    The stream itself is to be read through the result only, and is not closed by it. A
    stream that breaks within the sample breaks at the same place when it is read. Raises
    what `stream.read1` raises when nothing at all could be read.
    """
    head = bytearray()
    failure: Exception | None = None
    ended = False
    # Whoever types or trickles lines must not have to fill the buffer before the first is answered.
    while _is_too_little(head):
        try:
            data = stream.read1(_AT_ONCE)
        except Exception as error:
            if not head:
                raise
            failure = error
            break
        if not data:
            ended = True
            break
        head += data
    known = bytes(head)
    return Sample(known, ended, io.BufferedReader(_Replayed(known, stream, failure), _AT_ONCE))


def _is_too_little(head: bytearray) -> bool:
    """Whether more is needed to know what follows: not a header alone, and not a part of one."""
    if len(head) < _SAMPLE_BYTES:
        return max(head.count(b"\n"), head.count(b"\r")) <= SAMPLE_LINES
    return len(head) < _LONGEST_HEADER and b"\n" not in head and b"\r" not in head


class _Replayed(io.RawIOBase):
    """A stream of which the first bytes were read already."""

    def __init__(self, head: bytes, stream: Readable, failure: Exception | None) -> None:
        super().__init__()
        self._head = memoryview(head)
        self._stream = stream
        self._failure = failure

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        if self._head:
            data = self._head[: len(view)]
            self._head = self._head[len(view) :]
        elif self._failure:
            raise self._failure
        else:
            data = memoryview(self._stream.read1(len(view)))
        view[: len(data)] = data
        return len(data)


def encoding_of(head: bytes) -> str:
    """The encoding of text that begins with `head`: "utf-16-le", "utf-16-be", else "utf-8",
    in which whatever is not UTF-8 is Windows-1252."""
    if head.startswith(codecs.BOM_UTF16_LE):
        return "utf-16-le"
    if head.startswith(codecs.BOM_UTF16_BE):
        return "utf-16-be"
    half = len(head) // 2
    if not half:
        return "utf-8"
    even, odd = head[0::2].count(0), head[1::2].count(0)
    # Latin text in UTF-16 is every other byte a NUL; a stray NUL is none.
    if odd * 10 > half * 3 and even * 10 < odd:
        return "utf-16-le"
    if even * 10 > half * 3 and odd * 10 < even:
        return "utf-16-be"
    return "utf-8"


def decoded(stream: Readable, encoding: str) -> Iterator[str]:
    """The text of a stream piece by piece as it comes, without NUL characters and byte
    order marks. `encoding` is what `encoding_of` says. Raises what `stream.read1` raises, and
    `ValueError` when there is nothing but such characters for too long."""
    decode = _decoder(encoding)
    noise = 0
    while data := stream.read1(_AT_ONCE):
        text = _without_noise(decode.decode(data))
        noise = 0 if text else noise + len(data)
        if noise > ENDLESS_LINE:
            raise ValueError(f"it has {ENDLESS_LINE:,} zero bytes on end, and is no text")
        yield text
    yield _without_noise(decode.decode(b"", final=True))


def beginning(head: bytes, encoding: str) -> str:
    """The text that `head` begins, up to the last character that is whole in it."""
    return _without_noise(_decoder(encoding).decode(head))


def line_blocks(pieces: Iterator[str]) -> Iterator[list[str] | None]:
    """The lines of a text with their ends ("\\n", "\\r\\n" or "\\r"), many at a time, as soon as
    they are whole. None stands for one line of more than `LONGEST_LINE` characters. Raises
    `ValueError` for one of more than `ENDLESS_LINE`."""
    rest = ""
    skipping = False
    skipped = 0
    for piece in pieces:
        text = rest + piece
        if skipping:
            end = _LINE_END.search(text)
            # After a "\r" at the end of the piece, the next may begin with its "\n".
            if end is None or text[end.start() :] == "\r":
                rest = "\r" if end else ""
                skipped += len(piece)
                if skipped > ENDLESS_LINE:
                    raise ValueError(f"it has a line of more than {ENDLESS_LINE:,} characters, and is no text")
                continue
            text = text[end.end() :]
            skipping = False
        lines = lines_of(text)
        rest = lines.pop() if lines and not lines[-1].endswith("\n") else ""
        # Only the first can be longer than the piece that completed it.
        if lines and len(lines[0]) > LONGEST_LINE:
            yield None
            del lines[0]
        if lines:
            yield lines
        if len(rest) > LONGEST_LINE and not rest.endswith("\r"):
            yield None
            rest = ""
            skipping, skipped = True, 0
    if rest and not skipping:
        yield [rest] if len(rest) <= LONGEST_LINE else None


def lines_of(text: str) -> list[str]:
    """The lines of `text` with their ends; unlike `str.splitlines`, only where "\\n", "\\r\\n" or "\\r" ends one."""
    lines = text.splitlines(keepends=True)
    ends = text.count("\n")
    if "\r" in text:
        ends += text.count("\r") - text.count("\r\n")
    if len(lines) == ends + (text[-1:] not in {"", "\n", "\r"}):
        return lines
    # Some other character, as a form feed, ended a line for splitlines().
    return io.StringIO(text, newline="").readlines()


def _decoder(encoding: str) -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder(encoding)(ANY_BYTE if encoding == "utf-8" else "replace")


def _without_noise(text: str) -> str:
    if "\0" in text:
        text = text.replace("\0", "")
    return text.replace(_BYTE_ORDER_MARK, "") if _BYTE_ORDER_MARK in text else text


def _as_windows_1252(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(map(_WINDOWS_1252.__getitem__, error.object[error.start : error.end])), error.end


# Windows-1252 leaves five bytes undefined.
_WINDOWS_1252 = [bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(256)]


codecs.register_error(ANY_BYTE, _as_windows_1252)
