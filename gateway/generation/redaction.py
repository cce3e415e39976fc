"""Removes keys and request texts from upstream text, which may repeat what it received.

Texts are compared case-insensitively, decoded, and again without non-alphanumeric characters.
"""

import re
from base64 import b64encode
from collections.abc import Container, Iterable
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.errors import GatewayError
from gateway.domain.images import ImageJob, ImageReply, ImageUrl
from gateway.providers.error_texts import pieces_of, replace_hidden

_PIECE: Final = 8
"""Characters in a row that disclose a key or an address. Upstream text may be truncated within one."""
_SCRAP: Final = 4
"""Characters in a row that count if others of the key follow. Random matches are rare, and never half of a key."""
_SCATTERED_MIN_CHARS: Final = 16
"""Minimum key length for scattered matches: half of a shorter key matches by chance."""
_PROMPT_PIECE: Final = 12
"""Shorter pieces of a prompt are not secret, and occur in any sentence."""
_WORDS_MAX_CHARS: Final = 32 * 1024
"""Limit on compared characters of a request's texts. An honest request has a prompt and an image URL."""
_DETAIL_MAX_CHARS: Final = 2048
"""Limit on an error's text; provider messages have at most 1,000 characters."""
_PICTURE: Final = re.compile(r"data:image/[a-z+.-]{1,20};base64,([A-Za-z0-9+/=]*)")
_PICTURE_MAX_CHARS: Final = 1024
"""Limit on compared characters of an image's base64; later parts are recognised by their form."""
_DATA: Final = re.compile(r"[A-Za-z0-9+/=_%\\-]{40,}")
_ESCAPES: Final = re.compile(r"(?:%[0-9a-fA-F]{2})+|\\u[0-9a-fA-F]{4}")
_NOT_ALPHANUMERIC: Final = re.compile(r"[\W_]+")
_ROUNDS: Final = 3
"""Decoding rounds; text encoded more often is not recognised."""
_REQUEST: Final = "<request>"
_LEFT_OUT: Final = "text omitted: the request is too long to compare"

_Mapped = list[tuple[str, int, int]]
"""Characters, each with the start and end of its source."""


def own_words(job: ImageJob) -> tuple[str, ...]:
    """Returns a request's free texts, which an upstream may repeat: prompt, end user, and URLs and data of its inputs.

    Options are closed sets of the provider's own words. Reads up to 16 MiB of JSON, so use it for errors only.
    """
    texts = (job.prompt, job.end_user) if job.end_user else (job.prompt,)
    return (*texts, *(msgspec.json.decode(image.link, type=str) for image in job.inputs))


def redact(text: str, secret: Secret) -> str:
    """Returns the text without the key and pieces of it."""
    hidden = _find_key(text, secret.plaintext)
    return replace_hidden(text, hidden, repr(secret)) if any(hidden) else text


def redact_error(error: GatewayError, secret: Secret, words: Iterable[str] = ()) -> GatewayError:
    """Returns the error with neither the key nor `words`, the request's free texts, in its detail.

    If the comparison would take too long, the whole detail is dropped.
    """
    texts, pictures = list[str](), list[str]()
    for word in words:
        if picture := _PICTURE.fullmatch(word):
            pictures.append(word[picture.start(1) :][:_PICTURE_MAX_CHARS])
        else:
            texts.append(word)
    if sum(map(len, (*pictures, *texts))) > _WORDS_MAX_CHARS:
        error.detail = _LEFT_OUT
        return error
    detail = redact(error.detail[:_DETAIL_MAX_CHARS], secret)
    detail = _without(detail, [one for one in (*pictures, *texts) if len(one) >= _PROMPT_PIECE], _PROMPT_PIECE)
    if pictures:
        detail = _DATA.sub(_REQUEST, detail)
    urls = (one for one in texts if one.lower().startswith(("http://", "https://")))
    error.detail = _without(detail, [part for url in urls for part in _parts(url)], _PIECE)
    return error


def redact_reply(reply: ImageReply, secret: Secret) -> ImageReply:
    """Drops links that contain the key or a piece of it, because the tenant would receive them.

    Of a JWT only the signature counts: other JWTs have the same beginning, and paid images must not be lost.
    """
    key = secret.plaintext
    key = key.rpartition(".")[2] if key.startswith("eyJ") else key
    pictures = tuple(one for one in reply.pictures if not (isinstance(one, ImageUrl) and any(_find_key(one.url, key))))
    return replace(reply, pictures=pictures, id=redact(reply.id, secret))


def _parts(url: str) -> list[str]:
    """Returns the host of a URL, and the longer parts of its path and query, which may be repeated alone."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    return [part for part in (host, *re.split(r"[/?#&=:@]+", url)) if part and (part == host or len(part) >= _PIECE)]


def _without(text: str, private: list[str], length: int) -> str:
    """Replaces every stretch of `length` or more characters that occurs in `private`."""
    folded, known = _fold(text), [_decode(one).casefold() for one in private]
    plain = [one for one in folded if one[0].isalnum()]
    stripped = [_NOT_ALPHANUMERIC.sub("", one) for one in known]
    hidden = [False] * len(text)
    for size, pieces in pieces_of(known, length).items():
        _mark(hidden, folded, size, pieces)
    for size, pieces in pieces_of((one for one in stripped if len(one) >= length), length).items():
        _mark(hidden, plain, size, pieces)
    return replace_hidden(text, hidden, _REQUEST)


def _find_key(text: str, key: str) -> list[bool]:
    """Returns for each character if it discloses the key."""
    raw, decoded = key.encode(), (_decode(key) if _ESCAPES.search(key) else key).casefold()
    # Its base64 depends on the number of preceding bytes.
    encoded = [raw.hex(), *(b64encode(bytes(ahead) + raw).decode().casefold() for ahead in range(3))]
    folded, hidden, forms = _fold(text), [False] * len(text), [decoded, *encoded]
    plain = [one for one in folded if one[0].isalnum()]
    _mark(hidden, folded, min(_PIECE, len(decoded)), decoded)
    _mark(hidden, folded, _PIECE, "\n".join(forms))
    _mark(hidden, plain, _PIECE, "\n".join(_NOT_ALPHANUMERIC.sub("", form) for form in forms))
    if stretch := _scattered("".join(one for one, _, _ in plain), _NOT_ALPHANUMERIC.sub("", key.casefold())):
        start, end = plain[stretch.start][1], plain[stretch.stop - 1][2]
        hidden[start:end] = [True] * (end - start)
    return hidden


def _scattered(text: str, key: str) -> range | None:
    """Returns the range that contains at least half of the key in order, possibly in short pieces."""
    at = end = found_chars = 0
    start = len(text)
    while at + _SCRAP <= len(key):
        found, length = text.find(key[at : at + _SCRAP], end), _SCRAP
        if found < 0:
            at += 1
            continue
        while at + length < len(key) and text.startswith(key[at + length], found + length):
            length += 1
        start, end = min(start, found), found + length
        at, found_chars = at + length, found_chars + length
    return range(start, end) if 2 * found_chars >= len(key) >= _SCATTERED_MIN_CHARS else None


def _mark(hidden: list[bool], mapped: _Mapped, size: int, known: Container[str]) -> None:
    """Marks every stretch of `size` characters that is in `known`: a set, or a text for few of them."""
    text = "".join(one for one, _, _ in mapped)
    for at in range(len(text) - size + 1 if size else 0):
        if text[at : at + size] in known:
            start, end = mapped[at][1], mapped[at + size - 1][2]
            hidden[start:end] = [True] * (end - start)


def _decode(text: str) -> str:
    for _ in range(_ROUNDS):
        text = _ESCAPES.sub(_unescape, text)
    return text


def _fold(text: str) -> _Mapped:
    """Decodes and case-folds a text."""
    mapped = [(character, at, at + 1) for at, character in enumerate(text)]
    for _ in range(_ROUNDS):
        found, at = [], 0
        for escape in _ESCAPES.finditer("".join(one for one, _, _ in mapped)):
            start, end = mapped[escape.start()][1], mapped[escape.end() - 1][2]
            found += [*mapped[at : escape.start()], *((one, start, end) for one in _unescape(escape))]
            at = escape.end()
        mapped = found + mapped[at:]
    return [(one, start, end) for raw, start, end in mapped for one in raw.casefold()]


def _unescape(escape: re.Match[str]) -> str:
    if escape[0].startswith("%"):
        return bytes.fromhex(escape[0].replace("%", "")).decode("utf-8", "replace")
    return escape[0].encode().decode("unicode_escape")
