"""What an upstream answered, taken apart without trusting any of it (reference/minimax.md sections 2 and 8)."""

import binascii
import json
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import URL_MAX_CHARS, Base64Image, ImageUrl, Picture, ResponseFormat, sniff_base64

JSON_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Errors of decoding JSON from outside: invalid, not UTF-8, or nested too deeply."""

_DETAIL_MAX_CHARS: Final = 1000
_ALPHABET: Final = (string.ascii_letters + string.digits + "+/").encode()
_PADDINGS: Final = (b"", b"=", b"==")
_FOREIGN_SIGNS: Final = (b"\\", b" ", b"=", b"-", b"_")
"""Escaped line breaks, spaces in the place of "+", padding that is none, the alphabet of addresses."""
_MARKS: Final = (b",", b'"', b"[")
_MARKS_MAX: Final = 50_000
"""What an answer has of each. One with pictures has some tens, a page of hundreds of models some ten thousand; in one
of megabytes they could be millions of objects that take a minute to make.
"""
_ITEMS_MAX: Final = 32
"""Looked at in a list of pictures: more than can be ordered in one call, blanks among them."""
_BLANKS: Final = b" \t\n\r\v\f"
_PIECE_BYTES: Final = 64 * 1024
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NULL: Final = msgspec.Raw(b"null")
_Object = dict[str, msgspec.Raw]
_T = TypeVar("_T")

HTTP_FAULTS: Final = {
    400: ErrorCode.UPSTREAM_REJECTED,
    401: ErrorCode.BARE_UNAUTHORIZED,
    402: ErrorCode.BARE_PAYMENT_REQUIRED,
    403: ErrorCode.BARE_FORBIDDEN,
    404: ErrorCode.UPSTREAM_UNSUPPORTED,
    405: ErrorCode.UPSTREAM_UNSUPPORTED,
    408: ErrorCode.UPSTREAM_TIMEOUT,
    413: ErrorCode.UPSTREAM_BODY_TOO_LARGE,
    422: ErrorCode.UPSTREAM_REJECTED,
    429: ErrorCode.BARE_RATE_LIMITED,
    504: ErrorCode.UPSTREAM_TIMEOUT,
    524: ErrorCode.UPSTREAM_TIMEOUT,  # an edge proxy's word for 504
}
"""HTTP status where no code says more (reference/minimax.md section 8, step 5).

An edge may have sent it because of the request's words, so no key, account or upstream is to blame. No other 5xx is
here: a proxy sends it also after the provider has made the images.
"""

CLOUDFLARE_UNSENT: Final = frozenset({521, 522, 523, 525, 526})
"""Cloudflare's statuses for an origin that it cannot connect to
(https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/)."""


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """An HTTP answer: status, body, and the pause that its Retry-After asks for, in seconds."""

    status: int
    body: bytes | bytearray
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Names in lower case, or found in any case."""
    sent: tuple[bytes, ...] = field(default=(), compare=False, repr=False)
    """The pieces of the JSON body that it answers, none for a GET: its words may be repeated in the answer's texts."""


class _FastReply(msgspec.Struct):
    """A documented response with every field that a provider uses. Its megabytes are parsed in one pass."""

    data: dict[str, list[msgspec.Raw] | None]
    id: msgspec.Raw = _NULL
    base_resp: msgspec.Raw = _NULL
    metadata: msgspec.Raw = _NULL
    type: msgspec.Raw = _NULL
    error: msgspec.Raw = _NULL
    code: msgspec.Raw = _NULL
    message: msgspec.Raw = _NULL
    request_id: msgspec.Raw = _NULL
    model_remains: msgspec.Raw = _NULL


_NAMES: Final = frozenset(_FastReply.__struct_fields__)


class UntrustedObject:
    """A JSON object whose every field may be missing, null or of the wrong type."""

    def __init__(self, fields: Mapping[str, object], names: frozenset[str] | None = None) -> None:
        """`fields`: msgspec.Raw, or what was read already; `names`: all that may be asked for."""
        self._fields = fields
        self._names = names

    def inner(self, name: str) -> "UntrustedObject":
        field = self._field(name)
        return UntrustedObject(field if isinstance(field, dict) else _read(field, _Object) or {})

    def items(self, name: str) -> list[msgspec.Raw]:
        field = self._field(name)
        return field if isinstance(field, list) else _read(field, list[msgspec.Raw]) or []

    def inners(self, name: str) -> list["UntrustedObject"]:
        """The objects of a list; whatever else it holds is left out."""
        found = (_read(item, _Object) for item in self.items(name))
        return [UntrustedObject(fields) for fields in found if fields is not None]

    def text(self, name: str) -> str:
        return (_read(self._field(name), str) or "")[:_DETAIL_MAX_CHARS]

    def integer(self, name: str) -> int | None:
        """An integer that may come as text."""
        value = _read(self._field(name), int)
        if value is not None:
            return value
        text = self.text(name).strip()
        return int(text) if _INTEGER.fullmatch(text) else None

    def value(self, name: str) -> object:
        return _whole(self._field(name))

    def _field(self, name: str) -> object:
        assert self._names is None or name in self._names  # what the struct does not name is lost
        return self._fields.get(name)


def _read(field: object, kind: type[_T]) -> _T | None:
    if not isinstance(field, msgspec.Raw):
        return None
    try:
        return msgspec.json.decode(field, type=kind)
    except JSON_DECODE_ERRORS:
        return None


def _whole(field: object) -> object:
    match field:
        case dict():
            return {name: _whole(item) for name, item in field.items()}
        case list():
            return [_whole(item) for item in field]
    return _read(field, object)


def parse_object(reply: UpstreamResponse) -> UntrustedObject:
    """The answer's JSON object.

    Raises: GatewayError for an answer that is none: by its status, or INVALID_RESPONSE with 2xx, since the images may
    have been made.
    """
    if any(_has_many(reply.body, mark) for mark in _MARKS):
        raise http_error(reply, "too many parts")
    try:
        return UntrustedObject(msgspec.structs.asdict(msgspec.json.decode(reply.body, type=_FastReply)), _NAMES)
    except JSON_DECODE_ERRORS:
        pass  # something else than pictures, or in another form
    try:
        return UntrustedObject(msgspec.json.decode(reply.body, type=_Object), _NAMES)
    except JSON_DECODE_ERRORS as error:
        head = reply.body[:80].decode("ascii", "replace")
        raise http_error(reply, f"no JSON object: {head!r}") from error


def _has_many(body: bytes | bytearray, mark: bytes) -> bool:
    """Whether a mark is there more than `_MARKS_MAX` times; between marks it costs next to nothing, unlike `count`."""
    at = -1
    for _ in range(_MARKS_MAX + 1):
        at = body.find(mark, at + 1)
        if at < 0:
            return False
    return True


def has_unique_members(body: bytes | bytearray) -> bool:
    """Whether no object in the body has a member twice; False above 64 KiB, which no error needs.

    An upstream that repeats a part of the request without escaping it can repeat a member of ours.
    """
    if len(body) > _PIECE_BYTES:
        return False
    try:
        json.loads(body.decode("utf-8", "replace"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return False
    return True


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    """Raises: ValueError if a name occurs twice."""
    found = dict(members)
    if len(found) != len(members):
        raise ValueError
    return found


def http_error(reply: UpstreamResponse, detail: str) -> GatewayError:
    """The fault of an answer of which only the status speaks. A 5xx is unknown unless Cloudflare never sent it on."""
    detail = f"HTTP {reply.status}, {detail}"
    if reply.status in CLOUDFLARE_UNSENT and _is_from_cloudflare(reply):
        return GatewayError(ErrorCode.CONNECT_FAILED, detail)
    if reply.status in HTTP_FAULTS:
        return GatewayError(HTTP_FAULTS[reply.status], detail, retry_after_s=reply.retry_after_s)
    if 300 <= reply.status < 500:
        return GatewayError(ErrorCode.BARE_REFUSAL, detail)
    return GatewayError(ErrorCode.INVALID_RESPONSE, detail)


def _is_from_cloudflare(reply: UpstreamResponse) -> bool:
    return "cf-ray" in reply.headers or reply.headers.get("server", "").strip().lower() == "cloudflare"


def read_images(data: UntrustedObject, delivery: ResponseFormat) -> tuple[Picture, ...]:
    """The list that was asked for, else the other one; blanks and junk left out."""
    links = tuple(link for raw in data.items("image_urls")[:_ITEMS_MAX] if (link := _link(raw)))
    encoded = tuple(picture for raw in data.items("image_base64")[:_ITEMS_MAX] if (picture := _encoded(raw)))
    if delivery is ResponseFormat.BASE64:
        return encoded or links
    return links or encoded


def has_images(envelope: UntrustedObject) -> bool:
    """Whether `data` holds anything but blanks, in whatever form: it may have been paid for."""
    return not _is_blank(envelope.value("data"))


def _is_blank(value: object) -> bool:
    match value:
        case dict():
            return all(_is_blank(item) for item in value.values())
        case list():
            return all(_is_blank(item) for item in value)
        case str():
            return not value.strip()
        case _:
            return value is None


def _link(raw: msgspec.Raw) -> ImageUrl | None:
    try:
        url = msgspec.json.decode(raw, type=str).strip()
    except JSON_DECODE_ERRORS:
        return None
    is_link = url.lower().startswith(("http://", "https://")) and len(url) <= URL_MAX_CHARS and url.isprintable()
    return ImageUrl(url) if is_link else None


def _encoded(raw: msgspec.Raw) -> Base64Image | None:
    """A JSON string's content: a slice of the received bytes, or a cleaned copy where it is not plain base64."""
    data = memoryview(raw)[1:-1]
    if sniff_base64(data) and _is_ascii_base64(data):
        return Base64Image(data)
    data = memoryview(_clean(raw))
    return Base64Image(data) if sniff_base64(data) else None


def _is_ascii_base64(data: memoryview) -> bool:
    """Whether it is base64 as it should be: of a large picture the end, and no sign of another form elsewhere.

    Looking at each character of it costs four times as much (2 MB: 0.2 ms, 0.8 ms), and finds no form that is known.
    """
    rest_bytes = max(0, len(data) - _PIECE_BYTES)
    end = bytes(data[rest_bytes:])
    padding = end.translate(None, _ALPHABET)
    if len(data) % 4 or padding not in _PADDINGS or not end.endswith(padding):
        return False
    pieces = (bytes(data[at : min(at + _PIECE_BYTES, rest_bytes)]) for at in range(0, rest_bytes, _PIECE_BYTES))
    return not any(_is_non_ascii(piece) for piece in pieces)


def _is_non_ascii(piece: bytes) -> bool:
    return not piece.isascii() or any(sign in piece for sign in _FOREIGN_SIGNS)


def _clean(raw: msgspec.Raw) -> bytes:
    """Base64 without `data:` prefix, escapes and line breaks, padded; empty where it is no base64."""
    try:
        text = msgspec.json.decode(raw, type=str)
        if text.startswith("data:"):
            text = text.partition(",")[2]
        data = text.encode("ascii").translate(None, _BLANKS)
        if data.endswith(b"==="):
            return b""
        return binascii.b2a_base64(binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True), newline=False)
    except (*JSON_DECODE_ERRORS, ValueError):
        return b""
