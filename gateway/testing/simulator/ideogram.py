"""Ideogram's format: JSON or forms, and links to images (reference/providers.md section 6)."""

import base64
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError
from gateway.testing.simulator.own_formats import Made, Order
from gateway.testing.simulator.responses import answer_json

V3_SPEEDS: Final = ("FLASH", "TURBO", "BALANCED", "DEFAULT", "QUALITY")
V4_SPEEDS: Final = ("TURBO", "DEFAULT", "QUALITY")
V3_FIELDS: Final = frozenset(
    (
        *("prompt", "seed", "resolution", "aspect_ratio", "rendering_speed", "magic_prompt", "negative_prompt"),
        *("num_images", "color_palette", "style_codes", "style_type", "style_preset"),
    )
)
V4_FIELDS: Final = frozenset(
    {"text_prompt", "json_prompt", "resolution", "rendering_speed", "enable_copyright_detection"}
)
SIDES: Final = {3: (512, 1536), 4: (1152, 3328)}
"""Least and greatest side of a resolution by version."""
ERRORS: Final = {
    1002: (429, "Too Many Requests", "You have exceeded your limit of requests in flight."),
    1004: (401, "Unauthorized", "No authorization token provided"),
    1008: (402, "Payment Required", "Insufficient credits"),
    1033: (503, "Service Unavailable", "The service is overloaded."),
    1041: (429, "Too Many Requests", "You have exceeded your limit of requests in flight."),
    2049: (401, "Unauthorized", "Invalid API key"),
    2056: (429, "Too Many Requests", "You have exceeded your limit of requests in flight."),
}
_FAILED: Final = (500, "Internal Server Error", "Something went wrong.")


class IdeogramFormat:
    """Generations of 3.0 and 4.0, and remixes of 3.0."""

    paths: tuple[str, ...] = ("/v1/ideogram-v3/generate", "/v1/ideogram-v3/remix", "/v1/ideogram-v4/generate")
    has_links = True

    def key(self, request: Request) -> str | None:
        return request.headers.get("api-key")

    def parse(self, request: Request, body: dict[str, object]) -> Order:
        version, is_remix = 4 if "v4" in request.url.path else 3, request.url.path.endswith("remix")
        fields = {name: str(value) for name, value in body.items()}
        image = fields.pop("image", "") if is_remix else ""
        weight = fields.pop("image_weight", "50") if is_remix else "50"
        prompt = fields.get("text_prompt" if version == 4 else "prompt", "")
        speeds, known = (V4_SPEEDS, V4_FIELDS) if version == 4 else (V3_SPEEDS, V3_FIELDS)
        seed, count = fields.get("seed", "0"), fields.get("num_images", "1")
        rules = (
            (bool(prompt), "prompt is required"),
            (bool(image) == is_remix, "image is required"),
            (weight.isdecimal() and 1 <= int(weight) <= 100, "image_weight is out of range"),
            (fields.keys() <= known, f"unknown fields: {', '.join(sorted(fields.keys() - known))}"),
            (fields.get("rendering_speed", "DEFAULT") in speeds, "rendering_speed is not supported"),
            (seed.isdecimal() and int(seed) < 2**31, "seed is out of range"),
            (count.isdecimal() and 1 <= int(count) <= 8, "num_images is out of range"),
        )
        for holds, text in rules:
            if not holds:
                raise RefusedError(INVALID_PARAMS, text)
        width, height = _pixels(fields.get("resolution", "2048x2048" if version == 4 else "1024x1024"), version)
        reference = base64.b64decode(image.partition(",")[2])
        model = f"ideogram-v{version}"
        return Order(model, prompt, width, height, int(count), "png", seed=int(seed) or None, reference=reference)

    def refuse(self, refusal: RefusedError) -> Response:
        if refusal.code in {1026, 1027}:
            return answer_json({"error": "Prompt provided failed safety check"}, status=422)
        status, title, text = ERRORS.get(refusal.code, _FAILED)
        if refusal.code == INVALID_PARAMS:
            status, title, text = 400, "Bad Request", refusal.text
        status = refusal.status or status
        problem = {"type": "about:blank", "title": title, "detail": text, "status": status}
        return answer_json(problem, status=status)

    def render(self, order: Order, made: Made) -> bytes:
        shown = len(made.links) - made.withheld
        data = [
            {
                "url": link if index < shown else None,
                "prompt": order.prompt,
                "resolution": f"{order.width}x{order.height}",
                "is_image_safe": index < shown,
                "seed": order.seed or 1,
                "style_type": "GENERAL",
            }
            for index, link in enumerate(made.links)
        ]
        return msgspec.json.encode({"created": "2026-11-28T12:00:00.123456+00:00", "data": data})

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {}


def _pixels(text: str, version: int) -> tuple[int, int]:
    least, most = SIDES[version]
    sides = [int(side) for side in text.split("x") if side.isdecimal()]
    if len(sides) != 2 or not all(least <= side <= most and side % 16 == 0 for side in sides):
        raise RefusedError(INVALID_PARAMS, "resolution is not supported")
    return sides[0], sides[1]
