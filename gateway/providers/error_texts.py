"""What an upstream's free text may decide, where its code says that the request is at fault.

Invariant: a text never rests a key, an account or an upstream, since it may repeat words of the request.
"""

import re
from collections.abc import Iterator
from typing import Final

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.providers.replies import HTTP_FAULTS, JSON_DECODE_ERRORS, UpstreamResponse, has_unique_members, http_error

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
"""Whole sentences of the provider behind 2013 and `invalid_request_error` (reference/minimax.md section 3)."""

_BARE: Final = {
    ErrorCode.KEY_INVALID: ErrorCode.BARE_UNAUTHORIZED,
    ErrorCode.INSUFFICIENT_BALANCE: ErrorCode.BARE_PAYMENT_REQUIRED,
    ErrorCode.ACCOUNT_RATE_LIMITED: ErrorCode.BARE_RATE_LIMITED,
}
"""What an error word of any gateway may mean, without blame."""
_NAMED_FIELDS: Final = ("prompt", "aspect_ratio", "width", "height", "seed", "subject_reference", "style", "n", "model")
_PIECE_CHARS: Final = 8
"""A stretch this long that the text shares with the request is the request's own."""
_SHORTEST_CHARS: Final = 4
"""Shorter strings of the request are found in every sentence."""
_LONGEST_CHARS: Final = 4096
"""Beginning of a string that is compared: longer ones are pictures, and texts are cut far below."""
_OWN_CHARS: Final = 32_768
"""Limit on all strings that are compared, to bound the work."""
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
    """The error of a structured code; where it is the request's fault, the text says which, and which parameter."""
    if not has_unique_members(reply.body):
        return http_error(reply, f"not believed: {detail}")
    param = None
    if error_code is ErrorCode.UPSTREAM_REJECTED and text:
        words = without_own_words(text, b"".join(reply.sent))
        error_code = next((found for pattern, found in SENTENCES if pattern.fullmatch(words.strip())), error_code)
        if error_code is ErrorCode.UPSTREAM_REJECTED:
            param = next((name for name in _NAMED_FIELDS if re.search(rf"\b{name}\b", words)), None)
    return GatewayError(
        error_code, detail, param=param, retry_after_s=reply.retry_after_s, upstream_code=code, cooldown_s=cooldown_s
    )


def word_error(named: ErrorCode | None, detail: str, text: str, reply: UpstreamResponse) -> GatewayError:
    """The error of a word that is not the provider's alone: it chooses between faults that blame nothing.

    `named`: the fault that the provider would mean by it. A 5xx or a timeout is unknown, whatever the word.
    """
    is_refusal = named is ErrorCode.UPSTREAM_REJECTED or HTTP_FAULTS.get(reply.status) is ErrorCode.UPSTREAM_REJECTED
    is_success = 200 <= reply.status < 300
    if reply.status >= 500 or reply.status == 408 or not (is_refusal or is_success):
        return http_error(reply, detail)
    other = ErrorCode.UPSTREAM_REJECTED if is_refusal else ErrorCode.UPSTREAM_ERROR
    error_code = other if named is None or named is ErrorCode.UPSTREAM_ERROR else _BARE.get(named, named)
    return refusal(error_code, detail, text, reply)


def without_own_words(text: str, sent: bytes) -> str:
    """The text, in lower case, with each stretch that a string of the request has too replaced by an ellipsis."""
    lower = text.lower()
    hidden = [False] * len(lower)
    pieces: dict[int, set[str]] = {}
    for own in _own_strings(sent):
        length = min(len(own), _PIECE_CHARS)
        pieces.setdefault(length, set()).update(own[at : at + length] for at in range(len(own) - length + 1))
    for length, found in pieces.items():
        for at in range(len(lower) - length + 1):
            if lower[at : at + length] in found:
                hidden[at : at + length] = [True] * length
    return "".join(
        _CUT if is_hidden and not (at and hidden[at - 1]) else "" if is_hidden else character
        for at, (character, is_hidden) in enumerate(zip(lower, hidden, strict=True))
    )


def _own_strings(sent: bytes) -> Iterator[str]:
    """Every string of a request's body that is long enough to be recognised."""
    try:
        rest = [msgspec.json.decode(sent)]
    except JSON_DECODE_ERRORS:
        return
    left = _OWN_CHARS
    while rest and left > 0:
        match rest.pop():
            case dict() as fields:
                rest += reversed(fields.values())
            case list() as items:
                rest += reversed(items)
            case str() as own if len(own) >= _SHORTEST_CHARS:
                own = own[: min(left, _LONGEST_CHARS)].lower()
                left -= len(own)
                yield own
