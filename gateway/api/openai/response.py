"""Answers in OpenAI's format: images, events, models, errors (reference/openai-images.md sections 2, 3, 5).

A body is a list of chunks: small rendered pieces, and the pictures as slices of the received bytes.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.api.openai.request import is_dall_e
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format, ImageResult, ImageUrl, Picture, sniff_base64

Chunks = list[bytes | memoryview]

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""An SSE comment: the only keep-alive that no SDK chokes on (reference/openai-images.md 3.2)."""

_EVENT_USAGE: Final = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
}
_USAGE: Final = _EVENT_USAGE | {"output_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
"""MiniMax counts images, not tokens; clients fail without these keys (reference/openai-images.md section 7)."""

_COMPLETED: Final = "image_generation.completed"
_MODERATION_STAGES: Final = {
    ErrorCode.CONTENT_INPUT: "input",
    ErrorCode.CONTENT_OUTPUT: "output",
    ErrorCode.CONTENT_MODERATED: "output",
}
_OWNER: Final = "minimax"
_CREATED: Final = 1_741_737_600
"""2025-03-12, the date of 302.AI's page of image-01: clients need an integer, the same from every process."""


def render_generation(result: ImageResult, created: int) -> Chunks:
    """The plain answer, at most one small copy around the pictures."""
    tail = {
        "background": "opaque",
        "output_format": _format(result.pictures).value,
        "size": str(result.made),
        "usage": _USAGE,
    }
    chunks: Chunks = [b'{"created":%d,"data":[' % created]
    for index, picture in enumerate(result.pictures):
        chunks.append(b"," if index else b"")
        chunks += _item(picture)
    chunks.append(b"]," + msgspec.json.encode(tail)[1:])
    return chunks


def render_events(result: ImageResult, created: int) -> Iterable[Chunks]:
    """One `image_generation.completed` event a picture."""
    tail = {
        "created_at": created,
        "size": str(result.made),
        "quality": "auto",
        "background": "opaque",
        "output_format": _format(result.pictures).value,
        "usage": _EVENT_USAGE,
    }
    head = f'event: {_COMPLETED}\ndata: {{"type":"{_COMPLETED}",'.encode()
    end = b"," + msgspec.json.encode(tail)[1:] + b"\n\n"
    for picture in result.pictures:
        first, *middle, last = _item(picture)
        yield [head + bytes(first)[1:], *middle, bytes(last)[:-1] + end]


def render_error(error: GatewayError, model_name: str = "") -> bytes:
    """`{"error": {...}}` with all four keys."""
    return msgspec.json.encode({"error": _error(error, model_name)})


def render_error_event(error: GatewayError, model_name: str) -> bytes:
    """An error after the stream has begun: the SDKs raise only on a nested `error` (3.3)."""
    body = msgspec.json.encode({"type": "error", "error": _error(error, model_name)})
    return b"event: error\ndata: " + body + b"\n\n"


def render_missing(count: int) -> bytes:
    """An SSE comment, which SDKs skip and people see: some of the images asked for will not come."""
    return b": missing %d\n\n" % count


def render_model(name: str) -> bytes:
    return msgspec.json.encode(_model(name))


def render_models(names: Iterable[str]) -> bytes:
    return msgspec.json.encode({"object": "list", "data": [_model(name) for name in names]})


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": _OWNER}


def _item(picture: Picture) -> Chunks:
    match picture:
        case Base64Image(base64=data):
            return [b'{"b64_json":"', data, b'"}']
        case ImageUrl(url=url):
            return [b'{"url":', msgspec.json.encode(url), b"}"]


def _format(pictures: Iterable[Picture]) -> Format:
    """What the pictures are; MiniMax makes JPEG (reference/minimax.md 1.4) unless the bytes say otherwise."""
    encoded = (sniff_base64(picture.base64) for picture in pictures if isinstance(picture, Base64Image))
    return next((kind for kind in encoded if kind), Format.JPEG)


def _error(error: GatewayError, model_name: str) -> dict[str, object]:
    row = error.row
    stage = _MODERATION_STAGES.get(error.error_code)
    if stage and not is_dall_e(model_name):
        return {
            "message": error.message,
            "type": "image_generation_user_error",
            "param": error.param,
            "code": "moderation_blocked",
            "moderation_details": {"moderation_stage": stage, "categories": []},
        }
    return {"message": error.message, "type": row.type, "param": error.param, "code": row.code}
