"""Finds images where a response should have none: whatever else it says, they may have been billed.

Reads the bytes, since a response may be no JSON, have duplicate members, or keep its images in any field.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from gateway.domain.images import URL_MAX_CHARS, sniff
from gateway.providers.error_texts import LONGEST_CHARS, own_strings
from gateway.providers.replies import JSON_DECODE_ERRORS, UntrustedObject, UpstreamResponse, has_unique_members

_IMAGE_LISTS: Final = ("image_urls", "image_base64")
_FOUND_MAX: Final = 1000
"""Limit on matches of each pattern: far more than a response can repeat of a request."""
_QUOTES_MAX: Final = 50_000
"""Limit on quotes looked at: a response with images has tens of them, and megabytes would take seconds."""
_CUT: Final = ".,:;!?\N{HORIZONTAL ELLIPSIS}"
"""Characters that may follow words of the request."""
_NAME_MAX_BYTES: Final = 512
"""Searched before a link for the name of its field."""


def _compile(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode(), re.DOTALL)


_SLASH: Final = r"(?:\\?/|\\u002[fF])"
_BLANKS: Final = r"(?:\s|\\[nrt])*+"
_START: Final = (
    rf"(?i:(?P<link>https?:{_SLASH}{_SLASH})|data:image{_SLASH})"
    rf"|(?:{_SLASH}|_)9j(?:{_SLASH}|_)|iVBORw0KGgo|UklGR|R0lGOD|AAA[A-P][A-Za-z0-9+/_-][GWm2]Z0eX[A-D]"
)
"""The start of a link, or of a JPEG, PNG, WebP, GIF or AVIF/HEIC in base64."""
_FIRST: Final = rf'\[(?:\s*+(?:null|"{_BLANKS}")\s*+,)*+\s*+'
"""The start of a list, with its blank texts."""
_NOT_BLANK: Final = rf'"{_BLANKS}(?P<text>[^"\s,:}}\]])'

_MEMBER: Final = _compile(r'(?i:"image_(?:urls|base64)"\s*+:)')
_NAMED: Final = _compile(rf'(?i:"image_(?:urls|base64)"\s*+:)\s*+(?:{_FIRST})?+{_NOT_BLANK}')
_MADE: Final = _compile(
    rf'(?:{_FIRST}|(?i:"[^"\\]{{0,40}}(?:image|url|b64|base64)[^"\\]{{0,40}}"\s*+:)\s*+){_NOT_BLANK}'
)
"""Values that may be an image in a success without other images: any text in a list, or in a field with such a name."""
_IMAGE: Final = _compile(rf'"(?<!\\"){_BLANKS}(?P<text>{_START})')
_COUNT: Final = _compile(r'(?i:"success_?count")\s*+:\s*+"?+\s*+0*+[1-9]')
_BODY: Final = _compile(rf"\s*+(?P<text>{_START})")
_JSON: Final = _compile(r'(?:\xef\xbb\xbf)?\s*+(?:[\[{"]|(?:data|event|id):)')
"""JSON, or events of it. A page of a proxy has links of its own."""
_NAME: Final = _compile(r'"([^"]{1,64})"\s*+:\s*+(?:\[[^\[\]{}]*+)?+\Z')
"""The name of the field that a link is in, or its list."""
_WORDS: Final = _compile(
    r"(?i:(?!.*image)(?:.*(?:message|msg|detail|error|reason|title|desc|doc|help|support|recommend|more_?info"
    r"|contact|console|billing|payment|upgrade|recharge)|(?:type|instance)\Z))"
)
"""Names of texts and pages, whose links lead to explanations."""
_TEXT: Final = _compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+')
_LEAF: Final = re.compile(r"\s*(https?://|data:image/|/9j/|iVBORw0KGgo|UklGR|R0lGOD)", re.IGNORECASE)
"""The start of an image in `data`, where no text is expected."""


def has_images(envelope: UntrustedObject) -> bool:
    """Returns whether `data` holds any non-blank value, in any format: it may have been billed."""
    leaves = envelope.leaves("data")
    return any(value.strip() if isinstance(value, str) else value is not None for _, value in leaves)


def has_stray_images(
    reply: UpstreamResponse, envelope: UntrustedObject, *, is_success: bool = False, has_links: bool = True
) -> bool:
    """Returns whether a refusal, or a success without images in `data`, has images anywhere or counts them.

    What the request holds does not count.
    `envelope`: without fields if the body cannot be parsed. Of a duplicate member, it has only the last one.
    `has_links`: False for a provider that never delivers links, whose errors link to its documentation.
    """
    if sniff(reply.body[:16]) or reply.body[4:8] == b"ftyp":  # an image file; AVIF and HEIC
        return True
    own = _OwnWords(reply.sent)
    patterns = (_NAMED, _COUNT, _IMAGE, _MADE) if is_success else (_NAMED, _COUNT, _IMAGE)
    if any(not own.hold(text) for pattern in patterns for text in _found(pattern, reply.body, has_links=has_links)):
        return True
    if any(not own.hold(text) for text in (*_whole(reply.body), *_leaves(envelope))):
        return True
    if not _MEMBER.search(reply.body) or any(own.hold(f'"{name}"') for name in _IMAGE_LISTS):
        return False
    is_undecodable = any(isinstance(value, msgspec.Raw) for _, value in envelope.leaves("data", *_IMAGE_LISTS))
    return is_undecodable or not envelope.fields or not has_unique_members(reply.body)


class _OwnWords:
    """The strings of a request, decoded only if there is something to compare."""

    def __init__(self, sent: tuple[bytes | memoryview, ...]) -> None:
        self._sent = sent
        self._strings: tuple[str, ...] | None = None

    def hold(self, text: str) -> bool:
        """Returns whether the request has the text, which may be cut."""
        if self._strings is None:
            self._strings = tuple(own_strings(b"".join(self._sent)))
        text = text.strip().rstrip(_CUT).lower()[:LONGEST_CHARS]
        return any(text in one for one in self._strings)


def _found(pattern: re.Pattern[bytes], body: bytes | bytearray, *, has_links: bool) -> Iterator[str]:
    """Yields the texts that match, or their first word: an error text may begin with words of the request."""
    if pattern is _IMAGE and not _JSON.match(body):
        return
    for match in islice(pattern.finditer(body, 0, _end(body)), _FOUND_MAX):
        text = match[0].decode("utf-8", "replace") if pattern is _COUNT else _text(body, match.start("text"))
        if pattern is not _IMAGE or (has_links and match["link"] and _is_link(body, match.start(), text)):
            yield text
        elif not match["link"]:
            yield text.split()[0]


def _end(body: bytes | bytearray) -> int:
    at = -1
    for _ in range(_QUOTES_MAX):
        at = body.find(b'"', at + 1)
        if at < 0:
            return len(body)
    return at


def _is_link(body: bytes | bytearray, at: int, text: str) -> bool:
    """Returns whether a string is a link as a whole, in a field or list that is not for texts."""
    before = body[max(0, at - _NAME_MAX_BYTES) : at]
    name = _NAME.search(before)
    return len(text.split()) == 1 and not (name and _WORDS.match(name[1]))


def _text(body: bytes | bytearray, at: int) -> str:
    """Returns the start of the string that has a character at this place."""
    match = _TEXT.match(body, at, at + 4 * LONGEST_CHARS)
    raw = match[0] if match else b""
    try:
        return msgspec.json.decode(b'"%b"' % raw, type=str)
    except JSON_DECODE_ERRORS:
        return raw.decode("utf-8", "replace").replace("\\/", "/")


def _whole(body: bytes | bytearray) -> Iterator[str]:
    """Yields the text of a body that is an image in base64 or a link as a whole."""
    match = _BODY.match(body)
    if match and not (match["link"] and (len(body) > URL_MAX_CHARS or len(body.split()) > 1)):
        yield _text(body, match.start("text")).split()[0]


def _leaves(envelope: UntrustedObject) -> Iterator[str]:
    """Yields the texts in lists of images, and the images elsewhere in `data`."""
    for name, value in envelope.leaves("data", *_IMAGE_LISTS):
        if isinstance(value, str) and value.strip() and name in _IMAGE_LISTS:
            yield value
        elif isinstance(value, str) and _LEAF.match(value):
            yield value.split()[0]
