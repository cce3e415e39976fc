"""Classifies an upstream's error text, if its code blames the request.

Invariant: a text never causes a cooldown, since it may repeat words of the request.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.providers.forms import form_texts
from gateway.providers.replies import (
    JSON_DECODE_ERRORS,
    STATUS_ERRORS,
    UpstreamResponse,
    has_unique_members,
    http_error,
)

SENTENCES: Final = tuple(
    (re.compile(rf"(?:invalid params, )?{sentence}(?: \(\d{{4,10}}\))?\.?", re.IGNORECASE), error_code)
    for sentence, error_code in (
        (r"prompt length must be less than \d{1,6}", ErrorCode.PROMPT_TOO_LONG),
        (
            r"(?:your current )?(?:token plan|credits?)(?: do| does)? not support(?: this)? model",
            ErrorCode.MODEL_DENIED_IN_TEXT,
        ),
        (r"(?:[a-z]+ ){0,6}moderation(?: [a-z]+){0,6}", ErrorCode.CONTENT_INPUT),
        (r"input new_sensitive", ErrorCode.CONTENT_INPUT),
        (r"output new_sensitive", ErrorCode.CONTENT_OUTPUT),
        (r"invisible character ratio limit", ErrorCode.INVALID_PROMPT),
    )
)
"""Whole sentences of the provider with 2013 and `invalid_request_error` (reference/minimax.md section 3)."""

_BARE: Final = {
    ErrorCode.KEY_INVALID: ErrorCode.BARE_UNAUTHORIZED,
    ErrorCode.INSUFFICIENT_BALANCE: ErrorCode.BARE_PAYMENT_REQUIRED,
    ErrorCode.ACCOUNT_RATE_LIMITED: ErrorCode.BARE_RATE_LIMITED,
}
"""Error codes without a cooldown, for words that any gateway may use."""
_NAMED_FIELDS: Final = ("prompt", "aspect_ratio", "width", "height", "seed", "subject_reference", "style", "n", "model")
_PIECE_CHARS: Final = 8
"""A substring of this length that also occurs in the request is assumed to come from it."""
_SHORTEST_CHARS: Final = 4
"""Shorter strings of the request are ignored: they occur in every sentence."""
LONGEST_CHARS: Final = 4096
"""Compared prefix of a string. Longer strings are images, and error texts are shorter."""
_COMPARED_MAX_CHARS: Final = 32_768
"""Limit on the total length of the compared strings, to bound the work."""
_CUT: Final = "\N{HORIZONTAL ELLIPSIS}"


def refusal(
    error_code: ErrorCode,
    detail: str,
    text: str,
    reply: UpstreamResponse,
    code: int | None = None,
    *,
    cooldown_s: float | None = None,
) -> GatewayError:
    """Builds the error of a structured code. If it blames the request, the text may refine it."""
    if not has_unique_members(reply.body):
        return http_error(reply, f"duplicate members: {detail}")
    param = None
    if error_code is ErrorCode.UPSTREAM_REJECTED and text:
        own_text = without_own_words(text, b"".join(reply.sent))
        error_code = next(
            (specific for pattern, specific in SENTENCES if pattern.fullmatch(own_text.strip())), error_code
        )
        if error_code is ErrorCode.UPSTREAM_REJECTED:
            param = next((name for name in _NAMED_FIELDS if re.search(rf"\b{name}\b", own_text)), None)
    return GatewayError(
        error_code, detail, param=param, retry_after_s=reply.retry_after_s, upstream_code=code, cooldown_s=cooldown_s
    )


def word_error(named: ErrorCode | None, detail: str, text: str, reply: UpstreamResponse) -> GatewayError:
    """Builds the error of a word that other gateways use too. It never causes a cooldown.

    `named`: the provider's meaning of the word. The outcome of a 5xx or a timeout is unknown, whatever the word.
    """
    is_rejected = named is ErrorCode.UPSTREAM_REJECTED or STATUS_ERRORS.get(reply.status) is ErrorCode.UPSTREAM_REJECTED
    is_success = 200 <= reply.status < 300
    if reply.status >= 500 or reply.status == 408 or not (is_rejected or is_success):
        return http_error(reply, detail)
    fallback = ErrorCode.UPSTREAM_REJECTED if is_rejected else ErrorCode.UPSTREAM_ERROR
    error_code = fallback if named is None or named is ErrorCode.UPSTREAM_ERROR else _BARE.get(named, named)
    return refusal(error_code, detail, text, reply)


def task_error(text: str, named: ErrorCode = ErrorCode.UPSTREAM_ERROR) -> GatewayError:
    """Builds the error of a task that failed. A whole sentence of the provider may say that the prompt is to blame."""
    known = (error_code for pattern, error_code in SENTENCES if pattern.fullmatch(text.strip()))
    return GatewayError(next(known, named), text or "the task failed without a reason")


def without_own_words(text: str, sent: bytes) -> str:
    """Returns the text in lower case, with each substring of the request replaced by an ellipsis."""
    lower = text.lower()
    hidden = [False] * len(lower)
    for length, known in pieces_of(own_strings(sent), _PIECE_CHARS).items():
        for at in range(len(lower) - length + 1):
            if lower[at : at + length] in known:
                hidden[at : at + length] = [True] * length
    return replace_hidden(lower, hidden, _CUT)


def pieces_of(texts: Iterable[str], length: int) -> dict[int, set[str]]:
    """Returns the substrings of `length` characters by their length; a shorter text is a piece as a whole."""
    pieces: dict[int, set[str]] = {}
    for text in filter(None, texts):
        size = min(length, len(text))
        pieces.setdefault(size, set()).update(text[at : at + size] for at in range(len(text) - size + 1))
    return pieces


def replace_hidden(text: str, hidden: list[bool], instead: str) -> str:
    return "".join(
        instead if is_hidden and not (at and hidden[at - 1]) else "" if is_hidden else character
        for at, (character, is_hidden) in enumerate(zip(text, hidden, strict=True))
    )


def own_strings(sent: bytes) -> Iterator[str]:
    """Yields every string of a request's body that is long enough to be recognised."""
    try:
        stack = [msgspec.json.decode(sent)]
    except JSON_DECODE_ERRORS:
        stack = [*form_texts(sent)][::-1]
    remaining = _COMPARED_MAX_CHARS
    while stack and remaining > 0:
        match stack.pop():
            case dict() as fields:
                stack += reversed(fields.values())
            case list() as items:
                stack += reversed(items)
            case str() as text if len(text) >= _SHORTEST_CHARS:
                text = text[: min(remaining, LONGEST_CHARS)].lower()
                remaining -= len(text)
                yield text
