"""Parses untrusted upstream responses (reference/minimax.md sections 2 and 8)."""

import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar, get_origin

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import (
    URL_MAX_CHARS,
    Base64Image,
    ImageUrl,
    Picture,
    ResponseFormat,
    is_base64,
    sniff_base64,
)
from gateway.providers.web_pages import describe_page, describe_redirect, is_web_page

JSON_DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""Decoding errors of untrusted JSON: invalid, not UTF-8, or nested too deeply."""

_DETAIL_MAX_CHARS: Final = 1000
_MARKS: Final = (b",", b'"', b"[")
_MARKS_MAX: Final = 50_000
"""Limit on each mark in a response. A response with images has tens of them, a list of hundreds of models ten thousand.
Megabytes of marks would parse into millions of objects, which takes a minute.
"""
_ITEMS_MAX: Final = 32
"""Limit on list items read: more than one call can return, including blanks."""
_BLANKS: Final = b" \t\n\r\v\f"
_PIECE_BYTES: Final = 64 * 1024
_INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NULL: Final = msgspec.Raw(b"null")
_Object = dict[str, msgspec.Raw]
_Items = list[msgspec.Raw]
_T = TypeVar("_T")

STATUS_ERRORS: Final = {
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
    524: ErrorCode.UPSTREAM_TIMEOUT,  # Cloudflare's form of 504
}
"""Error code by HTTP status, for responses without an error code of their own (reference/minimax.md section 8, step 5).

A firewall may have sent it because of the prompt, so it causes no cooldown. Other 5xx are missing because a proxy may
send them after the provider has generated the images.
"""

_CLOUDFLARE_UNSENT: Final = frozenset({521, 522, 523, 525, 526})
"""Cloudflare's statuses for an origin that it cannot connect to
(https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/)."""

_PROXY_LOGIN: Final = 407
"""The gateway's own proxy requires a login: it did not forward the request."""


@dataclass(frozen=True, slots=True)
class UpstreamResponse:
    """An HTTP response of an upstream: status, body, and its Retry-After in seconds."""

    status: int
    body: bytes | bytearray
    retry_after_s: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Names are lower case, or lookup ignores case."""
    sent: tuple[bytes | memoryview, ...] = field(default=(), compare=False, repr=False)
    """Pieces of the request's body, empty for a GET. The response's texts may repeat its words."""
    url: str = field(default="", compare=False)
    """The URL that was requested, for messages."""


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
    image_urls: msgspec.Raw = _NULL
    image_base64: msgspec.Raw = _NULL


_NAMES: Final = frozenset(_FastReply.__struct_fields__)


@dataclass(slots=True, eq=False)
class UntrustedObject:
    """A JSON object whose every field may be missing, null or of the wrong type."""

    fields: Mapping[str, object]
    """msgspec.Raw or decoded values."""
    names: frozenset[str] | None = None
    """All names that may be read: `_FastReply` drops other fields."""

    def inner(self, name: str) -> "UntrustedObject":
        return UntrustedObject(self._read(name, _Object) or {})

    def items(self, name: str) -> list[msgspec.Raw]:
        return self._read(name, _Items) or []

    def inners(self, name: str) -> list["UntrustedObject"]:
        """Returns the objects of a list; other items are skipped."""
        objects = (_decode(item, _Object) for item in self.items(name))
        return [UntrustedObject(fields) for fields in objects if fields is not None]

    def text(self, name: str) -> str:
        return (self._read(name, str) or "")[:_DETAIL_MAX_CHARS]

    def integer(self, name: str) -> int | None:
        """Reads an integer, which may be a string."""
        value = self._read(name, int)
        if value is not None:
            return value
        text = self.text(name).strip()
        return int(text) if _INTEGER.fullmatch(text) else None

    def raw(self, name: str) -> msgspec.Raw:
        """Returns the field's received bytes."""
        found = self.fields.get(name)
        return found if isinstance(found, msgspec.Raw) else _NULL

    def value(self, name: str) -> object:
        """Decodes a field. Lists in `data` may hold msgspec.Raw."""
        return self._read(name, object)

    def leaves(self, *names: str) -> Iterator[tuple[str, object]]:
        """Yields each value that is no object or list, with the name of the field that holds it or its list.

        A value that cannot be decoded is a msgspec.Raw.
        """
        stack: list[tuple[str, object]] = [(name, self.fields.get(name)) for name in names]
        while stack:
            name, value = stack.pop()
            if isinstance(value, msgspec.Raw):  # one image at a time
                decoded = _decode(value, object)
                value = decoded if decoded is not None or value == _NULL else value
            match value:
                case dict():
                    stack += value.items()
                case list():
                    stack += [(name, item) for item in value]
                case _:
                    yield name, value

    def _read(self, name: str, kind: type[_T]) -> _T | None:
        assert self.names is None or name in self.names
        field = self.fields.get(name)
        if isinstance(field, msgspec.Raw):
            return None if field is _NULL else _decode(field, kind)
        return field if isinstance(field, get_origin(kind) or kind) else None


def _decode(raw: msgspec.Raw, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except JSON_DECODE_ERRORS:
        return None


def parse_object(reply: UpstreamResponse) -> UntrustedObject:
    """Parses the JSON object of a response, of which only the fields of `_FastReply` may be read.

    Raises: as `parse_any`.
    """
    _check_marks(reply)
    try:
        return UntrustedObject(msgspec.structs.asdict(msgspec.json.decode(reply.body, type=_FastReply)), _NAMES)
    except JSON_DECODE_ERRORS:  # no images, or in another format
        return UntrustedObject(parse_any(reply).fields, _NAMES)


def parse_any(reply: UpstreamResponse) -> UntrustedObject:
    """Parses the JSON object of a response. Its fields are slices of the received bytes.

    Raises: GatewayError without one: by the HTTP status, or INVALID_RESPONSE with 2xx, since the images may have been
    generated.
    """
    _check_marks(reply)
    try:
        return UntrustedObject(msgspec.json.decode(reply.body, type=_Object))
    except JSON_DECODE_ERRORS as error:
        head = reply.body[:80].decode("ascii", "replace")
        raise http_error(reply, f"no JSON object: {head!r}") from error


def _check_marks(reply: UpstreamResponse) -> None:
    for mark in _MARKS:
        at = -1
        for _ in range(_MARKS_MAX + 1):  # `count` would not stop there
            at = reply.body.find(mark, at + 1)
            if at < 0:
                break
        else:
            raise http_error(reply, "too many parts")


def has_unique_members(body: bytes | bytearray) -> bool:
    """Returns whether no object in the body has a duplicate member. False above 64 KiB, which no error needs.

    An upstream that echoes a part of the request unescaped can duplicate a member.
    """
    if len(body) > _PIECE_BYTES:
        return False
    try:
        json.loads(body.decode("utf-8", "replace"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return False
    return True


def _unique(members: list[tuple[str, object]]) -> dict[str, object]:
    unique = dict(members)
    if len(unique) != len(members):
        raise ValueError
    return unique


def http_error(reply: UpstreamResponse, detail: str) -> GatewayError:
    """Builds the error of a bare HTTP status. The outcome of a 5xx is unknown unless Cloudflare never forwarded it.

    A web page with 2xx to 4xx is no provider's: it holds no images, and is no verdict on a key or on parameters.
    """
    is_page, status = is_web_page(reply.body), reply.status
    target = describe_redirect(reply.headers) if 300 <= status < 400 else ""
    source = f" from {reply.url}" if reply.url else ""
    detail = f"HTTP {status}{source}{target}, {describe_page(reply.body) if is_page else detail}"
    is_cloudflare = "cf-ray" in reply.headers or reply.headers.get("server", "").strip().lower() == "cloudflare"
    if status == _PROXY_LOGIN or (is_cloudflare and status in _CLOUDFLARE_UNSENT):
        return GatewayError(ErrorCode.CONNECT_FAILED, detail)
    error_code = STATUS_ERRORS.get(status)
    if is_page and 200 <= status < 300:
        error_code = ErrorCode.UNEXPECTED_RESPONSE
    elif (is_page and error_code is ErrorCode.UPSTREAM_REJECTED) or (error_code is None and 300 <= status < 500):
        error_code = ErrorCode.BARE_REFUSAL
    return GatewayError(error_code or ErrorCode.INVALID_RESPONSE, detail, retry_after_s=reply.retry_after_s)


def read_images(data: UntrustedObject, delivery: ResponseFormat) -> tuple[Picture, ...]:
    """Reads the list in the requested format, else the other one. Blank and invalid items are skipped."""
    links = tuple(link for raw in data.items("image_urls")[:_ITEMS_MAX] if (link := read_link(raw)))
    encoded = tuple(image for raw in data.items("image_base64")[:_ITEMS_MAX] if (image := read_base64(raw)))
    if delivery is ResponseFormat.BASE64:
        return encoded or links
    return links or encoded


def read_link(raw: msgspec.Raw) -> ImageUrl | None:
    url = (_decode(raw, str) or "").strip()
    is_link = url.lower().startswith(("http://", "https://")) and len(url) <= URL_MAX_CHARS and url.isprintable()
    return ImageUrl(url) if is_link else None


def read_base64(raw: msgspec.Raw) -> Base64Image | None:
    """Returns a slice of the received bytes, or a normalised copy if it is not plain base64.

    Checks every character, as clients with a strict decoder do: 0.26 ms/MB. The JSON parser takes 0.16 ms/MB, and
    decoding would take 1.5 ms/MB.
    """
    data = memoryview(raw)[1:-1]
    if sniff_base64(data) and is_base64(data):
        return Base64Image(data)
    data = memoryview(_clean(raw))
    return Base64Image(data) if sniff_base64(data) else None


def _clean(raw: msgspec.Raw) -> bytes:
    """Returns base64 without `data:` prefix, escapes and line breaks, padded. Empty if it is not base64."""
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
