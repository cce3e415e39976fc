"""Stability's format: forms, and images in base64 (reference/providers.md section 3)."""

import base64
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from gateway.testing.simulator.fault_injection import INVALID_PARAMS, RefusedError
from gateway.testing.simulator.own_formats import Made, Order
from gateway.testing.simulator.parsing import bearer
from gateway.testing.simulator.pictures import convert
from gateway.testing.simulator.responses import answer_json

PIXELS: Final = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "21:9": (1536, 640),
    "2:3": (832, 1216),
    "3:2": (1216, 832),
    "4:5": (896, 1088),
    "5:4": (1088, 896),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}
FIELDS: Final = {
    "ultra": {
        "prompt",
        "negative_prompt",
        "aspect_ratio",
        "seed",
        "output_format",
        "style_preset",
        "image",
        "strength",
    },
    "core": {"prompt", "negative_prompt", "aspect_ratio", "seed", "output_format", "style_preset"},
    "sd3": {
        *("prompt", "negative_prompt", "aspect_ratio", "seed", "output_format", "style_preset", "image", "strength"),
        *("mode", "model", "cfg_scale"),
    },
}
"""Fields of each service."""
MODELS: Final = {"sd3.5-large", "sd3.5-large-turbo", "sd3.5-medium", "sd3.5-flash"}
SEED_MAX: Final = 4_294_967_294
ERRORS: Final = {
    1002: (429, "rate_limit_exceeded", "You have exceeded the rate limit of 150 requests within a 10 second period."),
    1004: (401, "unauthorized", "missing authorization header"),
    1008: (402, "payment_required", "You lack sufficient credits to make this request."),
    1026: (403, "content_moderation", "Your request was flagged by our content moderation system."),
    1041: (429, "rate_limit_exceeded", "You have exceeded the rate limit of 150 requests within a 10 second period."),
    2049: (401, "unauthorized", "Incorrect API key provided"),
    2056: (429, "rate_limit_exceeded", "You have exceeded the rate limit of 150 requests within a 10 second period."),
}
_FAILED: Final = (500, "internal_error", "An unexpected server error has occurred, please try again later.")


class StabilityFormat:
    """The v2beta generation services, and the balance."""

    paths: tuple[str, ...] = tuple(f"/v2beta/stable-image/generate/{service}" for service in FIELDS)
    has_links = False

    def key(self, request: Request) -> str | None:
        return bearer(request)

    def parse(self, request: Request, body: dict[str, object]) -> Order:
        fields = {name: str(value) for name, value in body.items()}
        service = request.url.path.rpartition("/")[2]
        _check(fields, service, request)
        edits = "image" in fields
        width, height = PIXELS[fields.get("aspect_ratio", "1:1")]
        return Order(
            fields.get("model", f"stable-image-{service}" if service != "sd3" else "sd3.5-large"),
            fields["prompt"],
            width,
            height,
            form=fields.get("output_format", "png"),
            seed=int(fields.get("seed", "0")) or None,
            reference=base64.b64decode(fields["image"].partition(",")[2]) if edits else b"",
        )

    def refuse(self, refusal: RefusedError) -> Response:
        is_invalid = refusal.code == INVALID_PARAMS
        status, name, text = (400, "bad_request", refusal.text) if is_invalid else ERRORS.get(refusal.code, _FAILED)
        error = {"id": "4c0b2b2a7ad6cf9a0d9a0ae0ad4d8d7e", "name": name, "errors": [text]}
        return answer_json(error, status=refusal.status or status)

    def render(self, order: Order, made: Made) -> bytes:
        if not made.files:
            return msgspec.json.encode({"seed": order.seed or 1, "finish_reason": "SUCCESS"})
        [file] = made.files
        reason = "CONTENT_FILTERED" if made.withheld else "SUCCESS"
        image = convert(file, order.form, blur=True) if made.withheld else file
        encoded = base64.b64encode(image).decode("ascii")
        return msgspec.json.encode({"image": encoded, "finish_reason": reason, "seed": order.seed or 343_940_597})

    def pages(self) -> Mapping[str, Callable[[int], Response]]:
        return {"/v1/user/balance": self._balance}

    def _balance(self, code: int) -> Response:
        if code in {0, 1008}:
            return answer_json({"credits": 0.0 if code else 631.5})
        return self.refuse(RefusedError(code))


def _check(fields: dict[str, str], service: str, request: Request) -> None:
    """Raises: RefusedError for the first rule that a field breaks."""
    is_edit, mode = "image" in fields, fields.get("mode", "text-to-image")
    seed, strength = fields.get("seed", "0"), fields.get("strength", "0")
    rules = (
        (request.headers.get("accept") in {"application/json", "image/*", "*/*"}, "accept: must be application/json"),
        (request.headers.get("content-type", "").startswith("multipart/form-data"), "content-type: must be a form"),
        (fields.keys() <= FIELDS[service], f"unknown: {', '.join(sorted(fields.keys() - FIELDS[service]))}"),
        (1 <= len(fields.get("prompt", "")) <= 10_000, "prompt: must be 1 to 10000 characters"),
        (fields.get("output_format", "png") in {"jpeg", "png", "webp"}, "output_format: must be jpeg, png or webp"),
        (fields.get("aspect_ratio", "1:1") in PIXELS, "aspect_ratio: is not supported"),
        (seed.isdecimal() and int(seed) <= SEED_MAX, f"seed: must be 0 to {SEED_MAX}"),
        (is_edit == ("strength" in fields), "strength: goes with image"),
        (strength.replace(".", "", 1).isdecimal() and float(strength) <= 1, "strength: must be 0 to 1"),
        (fields.get("model", "sd3.5-large") in MODELS, "model: is unknown"),
        (service != "sd3" or is_edit == (mode == "image-to-image"), "mode: must be image-to-image with image"),
        (mode == "text-to-image" or "aspect_ratio" not in fields, "aspect_ratio: goes with text-to-image"),
    )
    for holds, text in rules:
        if not holds:
            raise RefusedError(INVALID_PARAMS, text)
