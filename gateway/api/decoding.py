"""Decodes request bodies: content codings, and JSON that is not plain UTF-8.

The codings are those of the standard library. Python 3.11 has neither zstd nor br.
"""

import json
import re
from collections.abc import Iterator
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.inflation import Inflater

CODINGS: Final = ("gzip", "deflate")
_NAMES: Final = frozenset({*CODINGS, "x-gzip"})  # RFC 9110 section 8.4.1.3
_LAYERS_MAX: Final = 2
_RATIO_MAX: Final = 100
"""Limit on decompressed bytes per received byte: prompts compress to a third, repeated blanks to a thousandth."""
_RATIO_FREE_BYTES: Final = 64 * 1024
"""Decompressed bytes before the ratio counts."""

_BOM: Final = b"\xef\xbb\xbf"
_BACKSLASH: Final = ord("\\")
_REPLACEMENT: Final = b"\\ufffd"
_SURROGATE: Final = re.compile(rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F]|[89a-fA-F])[0-9a-fA-F]{2}")
"""A pair of surrogates or a lone one, as escapes."""
_ESCAPE_CHARS: Final = 6
_ESCAPES_MAX: Final = 20_000
"""Limit on surrogates in a body whose lone ones are replaced, which takes 1 us each."""
_HEAD_BYTES: Final = 64
_COMPRESSED: Final = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *((b"\x78" + level, "deflate") for level in (b"\x01", b"\x5e", b"\x9c", b"\xda")),
)
"""First bytes of compressed data. No JSON begins with them."""


class BodyDecoder:
    """Decompresses a body with the content codings of its header, in small steps."""

    def __init__(self, header: str) -> None:
        """Raises: GatewayError UNSUPPORTED_CONTENT_TYPE for another coding, or too many."""
        names = [name for part in header.split(",") if (name := part.strip().lower()) not in {"", "identity"}]
        if not _NAMES.issuperset(names) or len(names) > _LAYERS_MAX:
            listed = " or ".join(f"'{name}'" for name in CODINGS)
            raise GatewayError(
                ErrorCode.UNSUPPORTED_CONTENT_TYPE,
                f"Unsupported content encoding: '{header[:100]}'. Send the body with {listed}, or uncompressed.",
            )
        self._layers = [Inflater(_broken) for _ in names]
        self._received_bytes = self._decoded_bytes = 0

    def feed(self, received: bytes) -> Iterator[bytes]:
        """Yields decoded pieces of at most 256 KiB, some of them empty. Yield to other tasks after each.

        Raises: GatewayError INVALID_JSON, BODY_TOO_LARGE.
        """
        self._received_bytes += len(received)
        for piece in self._decode(received, len(self._layers)):
            self._decoded_bytes += len(piece)
            if self._decoded_bytes > max(_RATIO_FREE_BYTES, _RATIO_MAX * self._received_bytes):
                raise GatewayError(
                    ErrorCode.BODY_TOO_LARGE,
                    f"The request body is more than {_RATIO_MAX} times larger than its compressed form.",
                )
            yield piece

    def finish(self) -> None:
        """Raises: GatewayError INVALID_JSON if the compressed data is incomplete, or other data follows it."""
        for layer in self._layers:
            layer.finish()

    def _decode(self, data: bytes, layers: int) -> Iterator[bytes]:
        """Removes the last coding first: they are listed in the order in which they were applied."""
        if not layers:
            yield data
            return
        for piece in self._layers[layers - 1].feed(data):
            yield from self._decode(piece, layers - 1)


def _broken(why: str) -> GatewayError:
    return GatewayError(ErrorCode.INVALID_JSON, f"We could not decompress the body of your request: {why}.")


def normalize_json(body: bytes | bytearray) -> bytes | bytearray:
    """Removes a byte order mark, and replaces each lone surrogate by U+FFFD, as browsers do.

    A program that cuts a text inside an emoji leaves one half of it.
    """
    if body.startswith(_BOM):  # otherwise a bytearray would be copied
        body = body.removeprefix(_BOM)

    def replace_lone(match: re.Match[bytes]) -> bytes:
        escapes, at = match[0], match.start()
        while at and body[at - 1] == _BACKSLASH:
            at -= 1
        if (match.start() - at) % 2:  # an escaped backslash: its `u` is a letter, and a second escape is alone
            return escapes[:_ESCAPE_CHARS] + _REPLACEMENT[: len(escapes) - _ESCAPE_CHARS]
        return escapes if len(escapes) > _ESCAPE_CHARS else _REPLACEMENT

    if 0 < body.count(b"\\ud") + body.count(b"\\uD") <= _ESCAPES_MAX:
        body = _SURROGATE.sub(replace_lone, body)
    return body


def explain_unreadable(body: bytes | bytearray) -> str | None:
    """Returns the reason why a body is no JSON, if it is empty, compressed or in another encoding."""
    head = bytes(body[:_HEAD_BYTES])
    if not body or body.isspace():
        return "it is empty"
    for magic, name in _COMPRESSED:
        if head.startswith(magic):
            remedy = f"send the header 'content-encoding: {name}'" if name in CODINGS else "send it uncompressed"
            return f"it is compressed with {name}: {remedy}"
    encoding = json.detect_encoding(head)
    if not encoding.startswith("utf-8") and head.decode(encoding, "ignore").lstrip("\ufeff \t\r\n")[:1] in set('{["'):
        return f"it is {encoding[:6].upper()}, not UTF-8"
    return None
