"""aiohttp's client protocol with limits on what an upstream may send outside of a response body.

aiohttp parses unlimited interim responses (1xx), a whole read of 256 KiB in one event-loop iteration. It also
stores a response that arrives on an idle connection, and would return it for the next request.
"""

import asyncio
import re
import sys
from typing import Any, Final

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage
from aiohttp.streams import StreamReader

_INTERIM_MAX: Final = 10
"""Servers send one or two (100, 103)."""
_HEAD_BYTES_MAX: Final = 64 * 1024
"""Interim responses and the final head together; heads of providers and object stores have at most 2 KiB."""
_FRAMING_BYTES_MAX: Final = _HEAD_BYTES_MAX + 64 * 1024
"""Limit on bytes outside the body, besides a share of it: 8,000 chunks of any size."""
_FRAMING_PART: Final = 64
"""Share of a body that may be framing: chunks of 450 bytes. Providers and proxies send kilobytes. A chunk costs 2 us
of

CPU whatever its size, so a body of 60-byte chunks costs 50 times as much as in one piece.
"""
_PIECE_BYTES: Final = 1024
"""Minimum part of a read that is parsed in one step, then up to the next blank line, which every response has."""
_CHUNKED_PIECE_BYTES: Final = 64 * 1024
"""Maximum part of a chunked read that is parsed before the framing is checked."""
_BLANK_LINE: Final = re.compile(rb"\n\r?\n")


class BoundedHandler(ResponseHandler):
    """Closes the connection on responses that are mostly framing, and on bytes that belong to no request."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._interim = self._received_bytes = 0
        self._body: StreamReader | None = None
        self._piece_max_bytes = _CHUNKED_PIECE_BYTES
        self._held_back = b""

    def set_response_params(self, **params: Any) -> None:
        self._interim = self._received_bytes = 0
        self._body = None
        self._piece_max_bytes = _CHUNKED_PIECE_BYTES
        self._held_back = b""
        super().set_response_params(**params)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._body = None  # a reference cycle that only the garbage collector would break

    def data_received(self, data: bytes) -> None:
        if not data:  # reading resumes: aiohttp first parses its own buffer
            super().data_received(data)
            self._check_framing()
        data, self._held_back = self._held_back + data, b""
        at = 0
        while at < len(data) and self._is_expecting():
            if self._reading_paused:
                self._held_back = data[at:]
                return
            end = min(_end_of_piece(data, at), at + self._piece_max_bytes)
            self._received_bytes += end - at
            super().data_received(data[at:end])
            self._check_framing()
            at = end

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        message, body = data
        if 100 <= message.code < 200 and message.code != 101:
            self._interim += 1
        elif self._body is None and self._interim <= _INTERIM_MAX:
            self._body = body
            if not message.chunked:
                self._piece_max_bytes = sys.maxsize
            super().feed_data(data, size)
        else:  # after the response of the request
            self._close()

    def _is_expecting(self) -> bool:
        """Closes the connection on bytes that arrive when no request is open."""
        if self._body is not None and self._body.is_eof():
            self._close()
        return self.transport is not None and not self.transport.is_closing()

    def _check_framing(self) -> None:
        if self._reading_paused:  # a part of the received data is not parsed yet
            return
        if self._body is None:
            is_excessive = self._interim > _INTERIM_MAX or self._received_bytes > _HEAD_BYTES_MAX
        else:
            is_excessive = (
                self._received_bytes - self._body.total_bytes
                > _FRAMING_BYTES_MAX + self._body.total_bytes // _FRAMING_PART
            )
        if is_excessive:
            (self if self._body is None else self._body).set_exception(
                aiohttp.ClientPayloadError("the response is mostly framing")
            )
            self._close()

    def _close(self) -> None:
        self.force_close()
        if self.transport is not None:
            self.transport.close()


def _end_of_piece(data: bytes, start: int) -> int:
    """A body rarely has a blank line and is parsed as read. Of short responses, about 64 are parsed in one step."""
    start += _PIECE_BYTES
    if data.find(b"\n", start) < 0:  # 30 times as fast as the pattern
        return len(data)
    blank = _BLANK_LINE.search(data, start)
    return blank.end() if blank else len(data)
