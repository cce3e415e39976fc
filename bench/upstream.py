"""MiniMax's `POST /v1/image_generation`, as fast as possible, so that it never limits a measurement.

The simulator draws each image, which takes longer than anything measured here. These responses are prepared once,
in MiniMax's format, with base64 that begins like a JPEG; a request with `PICTURE_PROMPT` gets a real one, and one with
`PNG_PROMPT` the same as a PNG. `GET /served` returns the count.
"""

import asyncio
import base64
import random
import re
from argparse import ArgumentParser
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Final

import msgspec
import uvloop
from PIL import Image

from gateway.testing.simulator.drawing import draw
from gateway.testing.simulator.pictures import Sketch

PATH: Final = "/v1/image_generation"
SMALL_BYTES: Final = 1024
LARGE_BYTES: Final = 2 * 1024 * 1024
"""Base64 characters of an image: of an ordinary response, and of one with several images."""
PICTURE_PROMPT: Final = "a picture that can be opened"
PNG_PROMPT: Final = "a picture without loss"
_HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_COUNT: Final = re.compile(rb'"n": ?(\d)')


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until an answer (0)")
    given = parser.parse_args()
    uvloop.run(_serve(given.port, given.delay))


async def _serve(port: int, delay_s: float) -> None:
    source = _Source({count: render_reply(count) for count in range(1, 10)}, delay_s)
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(source), "127.0.0.1", port, backlog=4096
    )
    await server.serve_forever()


def render_reply(count: int) -> bytes:
    """Renders a response with this number of images, head included."""
    characters = SMALL_BYTES if count == 1 else LARGE_BYTES
    return _render(b"\xff\xd8\xff\xe0" + random.Random(count).randbytes(characters * 3 // 4 - 4), count)  # noqa: S311


def _render(image: bytes, count: int = 1) -> bytes:
    picture = base64.b64encode(image).decode()
    body = msgspec.json.encode(
        {
            "id": "03ff3cd0820949eb8a410056b5f21d38",
            "data": {"image_base64": [picture] * count},
            "metadata": {"failed_count": "0", "success_count": f"{count}"},
            "base_resp": {"status_code": 0, "status_msg": "success"},
        }
    )
    return _HEAD % len(body) + body


@dataclass
class _Source:
    """The responses, and their count."""

    replies: dict[int, bytes]
    delay_s: float
    served: int = 0

    @cached_property
    def picture(self) -> bytes:
        """A response with a JPEG of 1024x1024."""
        return _render(draw(Sketch(PICTURE_PROMPT, 1024, 1024, 0, None)))

    @cached_property
    def png(self) -> bytes:
        """A response with the same as a gateway's PNG."""
        file = BytesIO()
        with Image.open(BytesIO(draw(Sketch(PICTURE_PROMPT, 1024, 1024, 0, None)))) as picture:
            picture.save(file, "PNG", compress_level=1)
        return _render(file.getvalue())


class _Connection(asyncio.Protocol):
    """Handles sequential requests with a content-length, as all clients here send them."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # it is one
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or (length and len(body) < int(length[1])):
            return
        self._received = b""
        if head.startswith(b"GET"):
            served = b"%d" % self._source.served
            self._transport.write(_HEAD % len(served) + served)
            return
        self._source.served += 1
        count = _COUNT.search(body)
        if PICTURE_PROMPT.encode() in body:
            reply = self._source.picture
        elif PNG_PROMPT.encode() in body:
            reply = self._source.png
        else:
            reply = self._source.replies[int(count[1]) if count else 1]
        if self._source.delay_s:
            self._loop.call_later(self._source.delay_s, self._transport.write, reply)
        else:
            self._transport.write(reply)


if __name__ == "__main__":
    main()
