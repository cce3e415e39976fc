"""A small server that keeps the whole contract, and whose answers a test can twist."""

import asyncio
import base64
import email
import io
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KEY: Final = "sk-test-0123456789abcdef"
MODELS: Final = ("image-01", "dall-e-2", "dall-e-3", "gpt-image-1", "gpt-image-1-mini", "gpt-image-2", "acme/painter")
BODY_MAX: Final = 1_048_576
METHODS: Final = ["GET", "HEAD", "POST", "OPTIONS"]
_CHOICES: Final = {
    "response_format": ("url", "b64_json"),
    "output_format": ("png", "jpeg", "webp"),
    "quality": ("auto", "high", "hd", "standard"),
    "style": ("vivid", "natural"),
    "background": ("auto", "opaque"),
    "moderation": ("auto", "low"),
    "size": ("auto", "256x256", "512x512", "1024x1024", "1792x1024"),
    "model": MODELS,
    "input_fidelity": ("high", "low"),
    "aspectRatio": ("1:1",),
}
_TYPES: Final = {"prompt": str, "model": str, "user": str, "size": str, "stream": bool, "n": int}
_PURCHASES: Final = ("/images/generations", "/images/edits", "/deployments/gpt-image-1/images/generations")
_BOUNDS: Final = {"n": (1, 10), "partial_images": (0, 3), "output_compression": (0, 100)}


def _draw(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (1024, 1024), "red").save(file, kind)
    return file.getvalue()


PICTURES: Final = {kind: _draw(kind) for kind in ("png", "jpeg", "webp")}
ENCODED: Final = base64.b64encode(PICTURES["png"]).decode()
USAGE: Final = {
    "total_tokens": 2,
    "input_tokens": 1,
    "output_tokens": 1,
    "input_tokens_details": {"text_tokens": 1, "image_tokens": 0},
}


@dataclass
class Call:
    """A request, as a twist sees it."""

    method: str
    path: str
    raw_path: str
    headers: Mapping[str, str]
    content: bytes
    body: Any = None
    """Of JSON, or of a form with its files as None; None where it is neither."""
    at_once: int = 1


@dataclass
class Reply:
    """An answer before it is sent; a twist changes it, or makes another."""

    status: int
    document: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] | None = None
    raw: bytes | None = None
    """Sent in the place of the document."""


Twist = Callable[[Call, Reply], Reply | None]


@dataclass
class Fair:
    """The contract, kept; `accepts` names the fields that are not looked at, `*` for none at all."""

    twist: Twist = lambda _call, reply: reply
    accepts: frozenset[str] = frozenset()
    pauses: Mapping[str, float] = field(default_factory=dict)
    """Seconds before each answer, by path."""
    images_made: int = 0
    requests: list[Call] = field(default_factory=list)
    _running: int = 0

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{path:path}", self._serve, methods=METHODS)])

    async def _serve(self, request: Request) -> Response:
        content, raw_path = await request.body(), request.scope["raw_path"].decode()
        path = request.url.path.removeprefix("/v1")
        body = _parse(content, request.headers.get("content-type", ""))
        call = Call(request.method, path, raw_path, request.headers, content, body)
        self.requests.append(call)
        self._running += 1
        try:
            await asyncio.sleep(self.pauses.get(path, 0.0))
            call.at_once = self._running
            reply = self._answer(call, str(request.base_url))
        finally:
            self._running -= 1
        reply.headers = _usual_headers() | reply.headers
        return _rendered(self.twist(call, reply) or reply)

    def _answer(self, call: Call, origin: str) -> Reply:
        if call.path.startswith("/pictures/"):
            ending = call.path.rpartition(".")[2]
            kind = ending if ending in PICTURES else "png"
            return Reply(200, headers={"content-type": f"image/{kind}"}, raw=PICTURES[kind])
        if "key" not in self.accepts and not _has_key(call):
            code = "invalid_api_key" if call.headers.get("authorization", "").startswith("Bearer ") else None
            return refusal(401, "Incorrect API key provided: sk-***.", code=code)
        if call.method in {"HEAD", "OPTIONS"}:
            return Reply(204, raw=b"")
        if call.path.startswith("/models"):
            return _answer_models(call)
        if call.path not in _PURCHASES:
            return refusal(404, f"Invalid URL ({call.method} {call.path})", code="unknown_url")
        return self._generate(call, origin)

    def _generate(self, call: Call, origin: str) -> Reply:
        if call.method != "POST":
            reply = refusal(405, f"Not allowed to {call.method}.")
            reply.headers["allow"] = "POST"
            return reply
        if len(call.content) > BODY_MAX:
            return refusal(413, "The body is too large.", code="request_too_large")
        is_edit = call.path.endswith("/edits")
        if not call.headers.get("content-type", "").startswith("multipart/" if is_edit else "application/json"):
            return refusal(415, "The body must be JSON, or a form for edits.")
        if not isinstance(call.body, dict):
            return refusal(400, "We could not parse the JSON body of your request.")
        purchase = {name: value for name, value in call.body.items() if value is not None}
        pictures = [name for name, value in call.body.items() if value is None and is_edit]
        if is_edit and not {"image", "image[]"} & set(pictures):
            return refusal(400, "Missing required parameter: 'image'.", "image", "missing_required_parameter")
        refused = None if "*" in self.accepts else _refuse(purchase, self.accepts)
        return refused or self._make(purchase, origin)

    def _make(self, purchase: dict[str, Any], origin: str) -> Reply:
        count = purchase.get("n", 1) if isinstance(purchase.get("n", 1), int) else 1
        self.images_made += max(count, 0)
        if purchase.get("stream") is True:
            asked = purchase.get("partial_images", 0)
            return Reply(200, events=[*(_event(f"partial_image {at}") for at in range(asked)), _event("completed")])
        kind = purchase.get("output_format")
        kind = kind if kind in PICTURES else "png"
        item = {"url": f"{origin}pictures/one.{kind}", "b64_json": base64.b64encode(PICTURES[kind]).decode()}
        default = "b64_json" if str(purchase.get("model")).startswith("gpt-image") else None
        wanted = purchase.get("response_format", default)
        return Reply(
            200,
            {
                "created": int(time.time()),
                "data": [{wanted: item[wanted]} if wanted in item else dict(item) for _ in range(count)],
                "size": "1024x1024",
                "output_format": kind,
                "usage": json.loads(json.dumps(USAGE)),
            },
        )


def _has_key(call: Call) -> bool:
    return call.headers.get("authorization") == f"Bearer {KEY}" or call.headers.get("api-key") == KEY


def _parse(content: bytes, content_type: str) -> Any:
    if content_type.startswith("multipart/"):
        return _parse_form(content, content_type)
    try:
        return json.loads(content)
    except ValueError:
        return None


def _parse_form(content: bytes, content_type: str) -> dict[str, object]:
    message = email.message_from_bytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + content)
    found: dict[str, object] = {}
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        if isinstance(name, str):
            text = str(part.get_payload())
            found[name] = None if part.get_filename() else int(text) if name == "n" else text
    return found


def _usual_headers() -> dict[str, str]:
    return {
        "x-request-id": f"req_{uuid.uuid4().hex}",
        "openai-processing-ms": "12",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "6m0s",
        "x-should-retry": "false",
    }


def refusal(status: int, message: str, param: str | None = None, code: str | None = None) -> Reply:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Reply(status, {"error": error})


def _answer_models(call: Call) -> Reply:
    entries = {name: {"id": name, "object": "model", "created": 1, "owned_by": "acme"} for name in MODELS}
    wanted = call.path.removeprefix("/models").removeprefix("/")
    if not wanted:
        return Reply(200, {"object": "list", "data": list(entries.values())})
    if wanted not in entries:
        return refusal(404, f"The model '{wanted}' does not exist", code="model_not_found")
    return Reply(200, entries[wanted])


def _refuse(purchase: dict[str, Any], accepts: frozenset[str]) -> Reply | None:
    """What is wrong with a purchase; the fields in the order in which they are given."""
    if "prompt" not in purchase and "prompt" not in accepts:
        return refusal(400, "Missing required parameter: 'prompt'.", "prompt", "missing_required_parameter")
    for name, value in purchase.items():
        code = None if name in accepts else _fault_of(name, value)
        if code:
            return refusal(400, f"Invalid '{name}': {str(value)[:40]}", name, code)
    return None


def _fault_of(name: str, value: Any) -> str | None:
    """The code of what is wrong with a field."""
    known = {*_CHOICES, *_TYPES, *_BOUNDS}
    if name not in known:
        return "unknown_parameter"
    if name in _TYPES and type(value) is not _TYPES[name]:
        return "invalid_type"
    if name in _BOUNDS and not _BOUNDS[name][0] <= value <= _BOUNDS[name][1]:
        return "integer_below_min_value" if value < _BOUNDS[name][0] else "integer_above_max_value"
    if name == "prompt":
        return "empty_string" if not value else "string_above_max_length" if len(value) > 32_000 else None
    return "invalid_value" if value not in _CHOICES.get(name, [value]) else None


def _event(kind: str) -> dict[str, Any]:
    name, _, index = kind.partition(" ")
    event: dict[str, Any] = {
        "type": f"image_generation.{name}",
        "b64_json": ENCODED,
        "created_at": int(time.time()),
        "size": "1024x1024",
        "quality": "high",
        "background": "opaque",
        "output_format": "png",
    }
    return event | ({"partial_image_index": int(index)} if index else {"usage": USAGE})


def _rendered(reply: Reply) -> Response:
    if reply.events is not None and reply.raw is None:
        lines = [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in reply.events]
        reply.raw = b": waiting\n\n" + "".join(lines).encode()
    if reply.events is not None:
        reply.headers.setdefault("content-type", "text/event-stream")
    reply.headers.setdefault("content-type", "application/json")
    content = json.dumps(reply.document).encode() if reply.raw is None else reply.raw
    return Response(content, reply.status, reply.headers)
