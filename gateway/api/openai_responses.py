"""Responses in OpenAI's images format: images, events, errors and models (reference/openai-images.md)."""

from collections.abc import Iterable
from typing import Final

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format, ImageResult, Operation, Picture, sniff_base64

Chunks = list[bytes | memoryview]
"""A body: small rendered pieces, and the images as slices of the received bytes."""
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""An SSE comment, the only keep-alive that every SDK accepts (reference/openai-images.md 3.2)."""
_DETAILS: Final = {"text_tokens": 0, "image_tokens": 0}
_EVENT_USAGE: Final = {"total_tokens": 0, "input_tokens": 0, "output_tokens": 0, "input_tokens_details": _DETAILS}
_USAGE: Final = _EVENT_USAGE | {"output_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
"""MiniMax counts images, not tokens; clients fail without these keys (reference/openai-images.md section 7)."""
_COMPLETED: Final = {
    Operation.GENERATE: "image_generation.completed",
    Operation.EDIT: "image_edit.completed",
}
_MODERATION_STAGES: Final = {
    ErrorCode.CONTENT_INPUT: "input",
    ErrorCode.CONTENT_OUTPUT: "output",
    ErrorCode.CONTENT_MODERATED: "output",
}
_CREATED: Final = 1_741_737_600
"""2025-03-12, the date of 302.AI's page of image-01. Clients need a fixed integer."""


def is_dall_e(name: str) -> bool:
    """Returns whether the model returns URLs by default and uses `content_policy_violation`."""
    return name.startswith("dall-e-")


def render_generation(result: ImageResult, created: int) -> Chunks:
    """Renders a response without streaming. The images are not copied."""
    kind, size = _format(result.pictures), str(result.made)
    tail = {"background": result.background, "output_format": kind, "size": size, "usage": _USAGE}
    chunks: Chunks = [b'{"created":%d,"data":[' % created]
    for index, image in enumerate(result.pictures):
        chunks.append(b"," if index else b"")
        chunks += _item(image)
    chunks.append(b"]," + msgspec.json.encode(tail)[1:])
    return chunks


def render_events(result: ImageResult, created: int, operation: Operation = Operation.GENERATE) -> Iterable[Chunks]:
    """Renders one `image_generation.completed` or `image_edit.completed` event per image."""
    kind = _COMPLETED[operation]
    tail = {
        "created_at": created,
        "size": str(result.made),
        "quality": "auto",
        "background": result.background,
        "output_format": _format(result.pictures),
        "usage": _EVENT_USAGE,
    }
    head = f'event: {kind}\ndata: {{"type":"{kind}",'.encode()
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


def render_model(name: str, owner: str) -> bytes:
    return msgspec.json.encode({"id": name, "object": "model", "created": _CREATED, "owned_by": owner})


def render_models(names: Iterable[tuple[str, str]]) -> bytes:
    """Renders the names of models with their owners."""
    return b'{"object":"list","data":[' + b",".join(render_model(*one) for one in names) + b"]}"


def _item(image: Picture) -> Chunks:
    link = b'"url":' + msgspec.json.encode(image.url) if image.url else b""
    if isinstance(image, Base64Image):
        return [b"{" + link + (b"," if link else b"") + b'"b64_json":"', image.base64, b'"}']
    return [b"{" + link, b"}"]


def _format(images: Iterable[Picture]) -> Format:
    """Detects the file format; behind a link, by its extension. The default is MiniMax's JPEG (reference 1.4)."""
    kinds = (
        sniff_base64(image.base64) if isinstance(image, Base64Image) else _format_of_link(image.url) for image in images
    )
    return next((kind for kind in kinds if kind), Format.JPEG)


def _format_of_link(url: str) -> Format | None:
    path = url.partition("?")[0]
    return next((kind for kind in Format if path.endswith(f".{kind.value}")), None)


def _error(error: GatewayError, model_name: str) -> dict[str, object]:
    stage = _MODERATION_STAGES.get(error.error_code)
    body: dict[str, object] = {
        "message": error.message,
        "type": error.row.type,
        "param": error.param,
        "code": error.row.code,
    }
    if stage is None or is_dall_e(model_name):
        return body
    details = {"moderation_stage": stage, "categories": []}
    kind, code = "image_generation_user_error", "moderation_blocked"
    return body | {"type": kind, "code": code, "moderation_details": details}
