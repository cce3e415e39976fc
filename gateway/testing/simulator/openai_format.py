"""OpenAI's format, as each of its providers speaks it."""

import base64
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, NOT_AUTHORISED, RefusedError
from gateway.testing.simulator.openai_wires import Wire
from gateway.testing.simulator.own_formats import Made, Order
from gateway.testing.simulator.parsing import bearer
from gateway.testing.simulator.responses import answer_json

_SIZE: Final = re.compile(r"([1-9][0-9]{1,4})x([1-9][0-9]{1,4})", re.ASCII)
_NO_BALANCE: Final = 1008
_SAME: Final = {1041: 1002, 2056: 1002}
"""Faults that most providers do not tell apart."""


class OpenAIFormat:
    """Generations, edits and the free page of one provider."""

    has_links = False

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.paths = tuple(wire.prefix + path for path in (wire.path, wire.edit_path) if path)

    def key(self, request: Request) -> str | None:
        return bearer(request) if self.wire.key_header == "authorization" else request.headers.get(self.wire.key_header)

    def parse(self, request: Request, body: dict[str, object]) -> Order:
        wire, is_edit = self.wire, bool(self.wire.edit_path) and request.url.path.endswith("/edits")
        body = {name: value for name, value in body.items() if value is not None}
        allowed = (wire.edit_fields if is_edit else wire.fields) | {"model", "prompt"}
        if unknown := sorted(body.keys() - allowed):
            raise RefusedError(INVALID_PARAMS, f"unknown: {', '.join(unknown)}")
        model, prompt = request.path_params.get("model") or body.get("model"), body.get("prompt")
        if not isinstance(model, str) or (wire.models and model not in wire.models):
            raise RefusedError(INVALID_PARAMS, "model is unknown")
        if not isinstance(prompt, str) or not prompt:
            raise RefusedError(INVALID_PARAMS, "prompt is missing")
        width, height = self._size(body.get("size"), model)
        form, image = self._form(body), _image(body)
        if is_edit and not image:
            raise RefusedError(INVALID_PARAMS, "image is missing")
        is_linked = self._response_format(request, body) == "url"
        return Order(
            *(model, prompt, width, height, self._count(body), form),
            seed=int(str(body.get("seed", body.get("random_seed", 0)))) or None,
            reference=base64.b64decode(image.partition(",")[2]) if image else b"",
            is_linked=is_linked,
        )

    def refuse(self, refusal: RefusedError) -> Response:
        errors = self.wire.errors
        code = refusal.code if refusal.code in errors else _SAME.get(refusal.code, 0)
        status, error = errors[code]
        return answer_json(error, status=refusal.status or status)

    def render(self, order: Order, made: Made) -> bytes:
        if made.links:
            items: list[dict[str, object]] = [{"url": link} for link in made.links]
        else:
            items = [{"b64_json": base64.b64encode(file).decode("ascii")} for file in made.files]
        count = len(items) - made.withheld
        kept = items[:count] if items else []
        if self.wire.has_item_errors:
            kept = [item | {"size": f"{order.width}x{order.height}"} for item in kept]
            code = "OutputImageSensitiveContentDetected"
            kept += [{"error": {"code": code, "message": "withheld"}} for _ in items[count:]]
        extra = _filled(self.wire.extra, max(0, count))
        return msgspec.json.encode({"created": 1_790_000_000, "data": kept, **extra})

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {self.wire.prefix + self.wire.page: self._page} if self.wire.page else {}

    def _page(self, code: int) -> Response:
        """Says nothing about the balance, unless it shows it."""
        if code in {NOT_AUTHORISED, 2049}:
            return self.refuse(RefusedError(code))
        content = dict(self.wire.page_content)
        if code == _NO_BALANCE and "credits" in content:
            content["credits"] = 0
        return answer_json(content)

    def _size(self, asked: object, model: str) -> tuple[int, int]:
        sizes = self.wire.models.get(model)
        default = (sizes and sizes.default) or self.wire.default_size
        match = _SIZE.fullmatch(default if asked in {None, "auto"} else str(asked))
        if not match:
            raise RefusedError(INVALID_PARAMS, "size is invalid")
        width, height = int(match[1]), int(match[2])
        if asked and sizes and not sizes.allow(width, height):
            raise RefusedError(INVALID_PARAMS, "size is not supported")
        return width, height

    def _count(self, body: Mapping[str, object]) -> int:
        count = str(body.get("n", 1))
        if not count.isdecimal() or not 1 <= int(count) <= self.wire.n_max:
            raise RefusedError(INVALID_PARAMS, f"n must be 1 to {self.wire.n_max}")
        return int(count)

    def _form(self, body: Mapping[str, object]) -> str:
        form = body.get(self.wire.format_field, self.wire.default_format)
        if form not in self.wire.formats:
            raise RefusedError(INVALID_PARAMS, f"{self.wire.format_field} is not supported")
        return str(form)

    def _response_format(self, request: Request, body: Mapping[str, object]) -> str:
        asked: object = body.get("response_format")
        if self.wire.is_form_in_query:
            asked = request.query_params.get("response_format")
        if asked is not None and asked not in self.wire.forms:
            raise RefusedError(INVALID_PARAMS, "response_format is not supported")
        return str(asked or self.wire.forms[0])


def _image(body: Mapping[str, object]) -> str:
    """Returns the first image of an edit; empty without one, or for a link."""
    found = body.get("image") or body.get("image[]") or body.get("images")
    found = found[0] if isinstance(found, list) and found else found
    found = found.get("image_url") if isinstance(found, dict) else found
    return found if isinstance(found, str) and found.startswith("data:") else ""


def _filled(extra: Mapping[str, object], images: int) -> dict[str, object]:
    return {
        name: images if value == "{n}" else _filled(value, images) if isinstance(value, dict) else value
        for name, value in extra.items()
    }
