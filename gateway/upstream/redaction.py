"""Keeps an upstream's words from carrying a key or a prompt further: some repeat what they were sent."""

from dataclasses import replace
from typing import Final

from gateway.domain.faults import GatewayError
from gateway.domain.images import ImageReply, Link
from gateway.domain.keys import Secret

_PIECE: Final = 8
"""So many characters in a row give a key away: upstream text is cut, perhaps in the middle of one."""
_PROMPT_PIECE: Final = 12
"""Fewer words of a prompt than that are no one's secret, and are found in every sentence."""


def redact(text: str, secret: Secret) -> str:
    """The text without the key, and without pieces of it."""
    return _without(text, secret.reveal(), repr(secret), _PIECE)


def redact_error(error: GatewayError, secret: Secret, prompt: str = "") -> GatewayError:
    """The same error, whose detail holds neither the key nor what the prompt says."""
    error.detail = redact(error.detail, secret)
    if len(prompt) >= _PROMPT_PIECE:
        error.detail = _without(error.detail, prompt, "<prompt>", _PROMPT_PIECE)
    return error


def redact_reply(reply: ImageReply, secret: Secret) -> ImageReply:
    """The reply without its links that hold the key, which the tenant would be given."""
    key = secret.reveal()
    pictures = tuple(one for one in reply.pictures if not (isinstance(one, Link) and key in one.url))
    return replace(reply, pictures=pictures, id=redact(reply.id, secret))


def _without(text: str, private: str, instead: str, length: int) -> str:
    """Every stretch of `length` or more characters that `private` has too is replaced."""
    length = min(length, len(private))
    if not any(text[at : at + length] in private for at in range(len(text) - length + 1)):
        return text
    pieces = {private[at : at + length] for at in range(len(private) - length + 1)}
    hidden = [False] * len(text)
    for at in range(len(text) - length + 1):
        if text[at : at + length] in pieces:
            hidden[at : at + length] = [True] * length
    return "".join(
        instead if is_hidden and not (at and hidden[at - 1]) else "" if is_hidden else character
        for at, (character, is_hidden) in enumerate(zip(text, hidden, strict=True))
    )
