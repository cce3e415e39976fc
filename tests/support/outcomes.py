"""Invariants of every reader of provider replies."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.api.minimax import render_native, render_native_error
from gateway.api.openai_responses import render_error, render_events, render_generation
from gateway.domain.errors import ERROR_SPECS, GatewayError, Outcome
from gateway.domain.images import ImageReply, ImageResult, Size
from gateway.providers.ai302 import CODE_WORDS
from gateway.providers.replies import UpstreamResponse

_IMAGE_LISTS: Final = ("image_urls", "image_base64")
_IMAGE_STARTS: Final = ("http://", "https://", "data:image/", "/9j/")
_IN_BASE64: Final = re.compile(rb'(?<!\\)" *(?:/9j/|iVBORw0KGgo|data:image/)')
DETAIL_MAX_CHARS: Final = 2200
"""At most two fields of a reply, of a thousand characters each."""


def parsed(body: bytes) -> Mapping[str, Any] | None:
    """Parses the object with another JSON parser; the gateway's skips unused texts."""
    try:
        found = json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def says_no(reply: UpstreamResponse, document: Mapping[str, Any]) -> bool:
    """Returns True if a reply reports a failure in any way, or shows that nothing was made."""
    data = document.get("data")
    inner = data if isinstance(data, dict) else {}
    stated = document.get("base_resp")
    code = stated.get("status_code") if isinstance(stated, dict) else None
    return (
        not 200 <= reply.status < 300
        or bool(document.get("error") or inner.get("error"))
        or document.get("code") in CODE_WORDS
        or str(code).strip() not in {"0", "None"}
        or (code is not None and not holds_words(data))
        or _withheld(document.get("metadata"))
    )


def _withheld(metadata: object) -> bool:
    """All images were made and withheld: a refusal that the operator may charge."""
    return isinstance(metadata, dict) and str(metadata.get("success_count")).strip() in {"0", "-0"}


def holds_words(value: object) -> bool:
    """Returns True if it contains anything that could be an image."""
    match value:
        case str():
            return bool(value.strip())
        case list():
            return any(map(holds_words, value))
        case dict():
            return any(map(holds_words, value.values()))
        case _:
            return False


def shows_images(body: bytes) -> bool:
    """Returns True if it is a JSON object, strictly, with an image where a reply has images.

    That is an image in base64 anywhere, any text in a list of images, or a link anywhere in `data`.
    """
    document = strictly_parsed(body)
    if not isinstance(document, dict):
        return False
    if _IN_BASE64.search(body):
        return True
    stack = [(name, document.get(name)) for name in ("data", *_IMAGE_LISTS)]
    while stack:
        name, value = stack.pop()
        match value:
            case str() if value.strip() and (name in _IMAGE_LISTS or value.strip().lower().startswith(_IMAGE_STARTS)):
                return True
            case list():
                stack += [(name, item) for item in value]
            case dict():
                stack += value.items()
    return False


def strictly_parsed(body: bytes) -> object:
    """Returns the decoded JSON, or None."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def check_outcome(reply: UpstreamResponse, outcome: ImageReply | GatewayError) -> None:
    """Checks that only an explicit failure without images counts as not billed."""
    if isinstance(outcome, ImageReply):
        assert 200 <= reply.status < 300
        return
    assert outcome.error_code in ERROR_SPECS
    assert outcome.row.outcome in {Outcome.REFUSED, Outcome.UNKNOWN}
    assert len(outcome.detail) <= DETAIL_MAX_CHARS
    if shows_images(bytes(reply.body)):
        assert outcome.row.outcome is Outcome.UNKNOWN
    document = parsed(bytes(reply.body))
    if outcome.row.outcome is Outcome.REFUSED and 200 <= reply.status < 300:
        assert document is not None
        assert says_no(reply, document)


def shown(outcome: ImageReply | GatewayError) -> bytes:
    """Returns everything that a tenant can receive of it, in both client formats."""
    if isinstance(outcome, GatewayError):
        return b"".join((render_error(outcome), render_error(outcome, "dall-e-3"), render_native_error(outcome)))
    result = ImageResult(outcome.pictures, Size(1024, 1024), len(outcome.pictures), outcome.id)
    if not outcome.pictures:
        return b""
    events = [chunk for event in render_events(result, 0) for chunk in event]
    return b"".join((*render_generation(result, 0), *render_native(result), *events))
