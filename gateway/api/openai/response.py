"""Renders responses in OpenAI's format: images, events, models, errors (reference/openai-images.md sections 2, 3, 5).

A body is a list of chunks: small rendered pieces, and the images as slices of the received bytes.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.api.openai.request import is_dall_e
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format, ImageResult, ImageUrl, Picture, sniff_base64

Chunks = list[bytes | memoryview]

KEEP_ALIVE: Final = b": keep-alive\n\n"
"""An SSE comment, the only keep-alive that every SDK accepts (reference/openai-images.md 3.2)."""

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
"""2025-03-12, the date of 302.AI's page of image-01. Clients need a fixed integer."""


def render_generation(result: ImageResult, created: int) -> Chunks:
    """Renders a response without streaming. The images are not copied."""
    tail = {
        "background": "opaque",
        "output_format": _format(result.pictures).value,
        "size": str(result.made),
        "usage": _USAGE,
    }
    chunks: Chunks = [b'{"created":%d,"data":[' % created]
    for index, image in enumerate(result.pictures):
        chunks.append(b"," if index else b"")
        chunks += _item(image)
    chunks.append(b"]," + msgspec.json.encode(tail)[1:])
    return chunks


def render_events(result: ImageResult, created: int) -> Iterable[Chunks]:
    """Renders one `image_generation.completed` event per image."""
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
    for image in result.pictures:
        first, *middle, last = _item(image)
        yield [head + bytes(first)[1:], *middle, bytes(last)[:-1] + end]


def render_error(error: GatewayError, model_name: str = "") -> bytes:
    """Renders `{"error": {...}}` with all four fields."""
    return msgspec.json.encode({"error": _error(error, model_name)})


def render_error_event(error: GatewayError, model_name: str) -> bytes:
    """Renders an error after the stream has begun. SDKs raise only for a nested `error` (3.3)."""
    body = msgspec.json.encode({"type": "error", "error": _error(error, model_name)})
    return b"event: error\ndata: " + body + b"\n\n"


def render_missing(count: int) -> bytes:
    """Renders an SSE comment with the number of missing images. SDKs skip it."""
    return b": missing %d\n\n" % count


def render_model(name: str) -> bytes:
    return msgspec.json.encode(_model(name))


def render_models(names: Iterable[str]) -> bytes:
    return msgspec.json.encode({"object": "list", "data": [_model(name) for name in names]})


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": _OWNER}


def _item(image: Picture) -> Chunks:
    match image:
        case Base64Image(base64=data):
            return [b'{"b64_json":"', data, b'"}']
        case ImageUrl(url=url):
            return [b'{"url":', msgspec.json.encode(url), b"}"]


def _format(images: Iterable[Picture]) -> Format:
    """Detects the file format. The default is MiniMax's JPEG (reference/minimax.md 1.4)."""
    encoded = (sniff_base64(image.base64) for image in images if isinstance(image, Base64Image))
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
