"""Ideogram, api.ideogram.ai: `/v1/ideogram-v3` and `/v1/ideogram-v4` (reference/providers.md section 6)."""

from collections.abc import Mapping
from typing import Final

import msgspec
import pybase64

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import (
    CallPlan,
    Format,
    ImageJob,
    ImageReply,
    ImageUrl,
    Operation,
    ResponseFormat,
    Size,
)
from gateway.domain.pricing import PerImage
from gateway.domain.sizes import AspectRatios, SizeList
from gateway.providers.error_texts import refusal
from gateway.providers.forms import build_form
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link
from gateway.providers.stray_images import has_stray_images


def _sizes(text: str) -> tuple[Size, ...]:
    return tuple(Size(*map(int, one.split("x"))) for one in text.split())


V3_SIZES: Final = _sizes(
    "512x1536 576x1408 576x1472 576x1536 640x1344 640x1408 640x1472 640x1536 704x1152 704x1216 704x1280 704x1344 "
    "704x1408 704x1472 736x1312 768x1088 768x1216 768x1280 768x1344 800x1280 832x960 832x1024 832x1088 832x1152 "
    "832x1216 832x1248 864x1152 896x960 896x1024 896x1088 896x1120 896x1152 960x832 960x896 960x1024 960x1088 "
    "1024x832 1024x896 1024x960 1024x1024 1088x768 1088x832 1088x896 1088x960 1120x896 1152x704 1152x832 1152x864 "
    "1152x896 1216x704 1216x768 1216x832 1248x832 1280x704 1280x768 1280x800 1312x736 1344x640 1344x704 1344x768 "
    "1408x576 1408x640 1408x704 1472x576 1472x640 1472x704 1536x512 1536x576 1536x640"
)
"""`resolution` of 3.0: 69 values. The list is general knowledge; its number and bounds have a source (6.2)."""

V3_RATIOS: Final = {
    "1:3": Size(512, 1536),
    "3:1": Size(1536, 512),
    "1:2": Size(704, 1408),
    "2:1": Size(1408, 704),
    "9:16": Size(736, 1312),
    "16:9": Size(1312, 736),
    "10:16": Size(800, 1280),
    "16:10": Size(1280, 800),
    "2:3": Size(832, 1248),
    "3:2": Size(1248, 832),
    "3:4": Size(864, 1152),
    "4:3": Size(1152, 864),
    "4:5": Size(896, 1120),
    "5:4": Size(1120, 896),
    "1:1": Size(1024, 1024),
}
"""The 15 aspect ratios of 3.0. They are sent as a `resolution`, so the size is known beforehand."""

_V4_SIZES: Final = _sizes(
    "2048x2048 1440x2880 2880x1440 1664x2496 2496x1664 1792x2240 2240x1792 1440x2560 2560x1440 1600x2560 2560x1600 "
    "1728x2304 2304x1728 1296x3168 3168x1296 1152x2944 2944x1152 1248x3328 3328x1248 1280x3072 3072x1280"
)
"""`resolution` of 4.0: the 21 values that docs.comfy.org lists for ideogram-v4 (read 2026-11-30), of about 38 (6.2)."""

_REMIX: Final = EditRule(
    frozenset({Format.JPEG, Format.PNG, Format.WEBP}), image_max_bytes=10 * 1024 * 1024, supports_links=False
)
"""An edit by `remix`, from one image of at most 10 MB (6.1, 6.2).

`edit` needs a mask whose black part is edited. OpenAI's is transparent there, so masks are refused.
"""


def _facts(version: int, usd_cents: int) -> ModelFacts:
    fields = frozenset({"output_format.png", "background.opaque"})
    capability = Capability(
        (SizeList(_V4_SIZES),), Size(2048, 2048), prompt_max_chars=10_000, supports_base64=False, fields=fields
    )
    if version == 3:
        capability = Capability(
            (AspectRatios(V3_RATIOS), SizeList(V3_SIZES)),
            max_images_per_call=8,
            prompt_max_chars=10_000,
            supports_base64=False,
            fields=fields | {"seed"},
            edits=_REMIX,
        )
    return ModelFacts(capability, PerImage(usd_cents * 10_000))


MODELS: Final[Mapping[str, ModelFacts]] = {
    "ideogram-v4": _facts(4, 6),
    "ideogram-v4-turbo": _facts(4, 3),
    "ideogram-v4-quality": _facts(4, 10),
    "ideogram-v3": _facts(3, 6),
    "ideogram-v3-turbo": _facts(3, 3),
    "ideogram-v3-quality": _facts(3, 9),
}
"""Versions, each with its `rendering_speed`, on which the price depends: 6.4 for 4.0, general knowledge for 3.0."""

STATUSES: Final[Mapping[int, ErrorCode]] = {
    400: ErrorCode.UPSTREAM_REJECTED,
    401: ErrorCode.KEY_INVALID,
    402: ErrorCode.INSUFFICIENT_BALANCE,
    422: ErrorCode.CONTENT_INPUT,
    429: ErrorCode.ACCOUNT_CONNECTION_LIMITED,  # 10 requests in flight
    500: ErrorCode.UPSTREAM_ERROR,
    503: ErrorCode.UPSTREAM_ERROR,
}
"""Error code by the `status` of an error in Ideogram's form, which is that of RFC 7807 (6.4). It has no other codes."""

_SPEED: Final = {"turbo": "TURBO", "quality": "QUALITY"}
_ITEMS_MAX: Final = 32
_CHECK_PATH: Final = "/v1/ideogram-v3/generate"


class Ideogram:
    """The `ideogram` provider."""

    models = MODELS
    base_url = "https://api.ideogram.ai"
    result_hosts: tuple[str, ...] = ("ideogram.ai",)
    """The host of its ephemeral links (6.3)."""
    paths: tuple[str, ...] = (_CHECK_PATH, "/v1/ideogram-v3/remix", "/v1/ideogram-v4/generate")

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of a model; an unknown one is 3.0."""
        return lowered(MODELS.get(model, MODELS["ideogram-v3"]).capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        is_v4, speed = plan.model.startswith("ideogram-v4"), _SPEED.get(plan.model.rpartition("-")[2], "DEFAULT")
        body: dict[str, object] = {"text_prompt" if is_v4 else "prompt": job.prompt, "rendering_speed": speed}
        if plan.shape.aspect_ratio or plan.shape.pixels:
            body["resolution"] = str(plan.shape.made)
        if plan.images > 1:
            body["num_images"] = plan.images
        if job.seed is not None:
            body["seed"] = job.seed
        headers = _headers(secret)
        if job.operation is Operation.EDIT:
            [image] = job.inputs
            assert image.format
            content = pybase64.b64decode(image.base64)
            files = [("image", f"image/{image.format.value}", content)]
            kind, pieces = build_form({name: str(value) for name, value in body.items()}, files, secret)
            headers = (*headers, ("content-type", kind))
            return ProviderRequest("POST", "/v1/ideogram-v3/remix", headers, pieces, len(content))
        path = "/v1/ideogram-v4/generate" if is_v4 else "/v1/ideogram-v3/generate"
        headers = (*headers, ("content-type", "application/json"))
        return ProviderRequest("POST", path, headers, (msgspec.json.encode(body),))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply:  # noqa: ARG002 - links only
        """Reads the images of a response. Raises: GatewayError; CONTENT_MODERATED if every image was judged unsafe."""
        envelope = UntrustedObject({})
        try:
            envelope = parse_any(reply)
            _raise_error(reply, envelope)
            return _read_images(envelope)
        except GatewayError as error:
            is_unknown = error.row.outcome is Outcome.UNKNOWN
            if is_unknown or not has_stray_images(reply, envelope):
                raise
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """Builds a request without a prompt, which cannot make an image: 400 with a good key, 401 with a bad one."""
        headers = (*_headers(secret), ("content-type", "application/json"))
        return ProviderRequest("POST", _CHECK_PATH, headers, (b"{}",))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads the status. The balance stays unknown."""
        envelope = parse_any(reply)
        if reply.status == 400:
            return KeyCheck()
        if reply.status == 401 and _text(envelope):
            return KeyCheck(ErrorCode.KEY_INVALID, _text(envelope))
        _raise_error(reply, envelope)
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "a success without a prompt")


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("api-key", secret.plaintext), ("accept", "application/json")


def _text(envelope: UntrustedObject) -> str:
    return envelope.text("detail") or envelope.text("title") or envelope.text("error")


def _raise_error(reply: UpstreamResponse, envelope: UntrustedObject) -> None:
    """Raises the error of `{"error"}`, or of RFC 7807's `{"type", "title", "detail", "status"}`.

    Any server may send `{"error"}`: only a refusal of the request is read from its status. The other form states it.
    """
    if 200 <= reply.status < 300:
        return
    text, is_stated = _text(envelope), envelope.integer("status") == reply.status
    error_code = STATUSES.get(reply.status)
    is_own = bool(text) and (is_stated or error_code in {ErrorCode.CONTENT_INPUT, ErrorCode.UPSTREAM_REJECTED})
    if error_code is None or not is_own:
        raise http_error(reply, text)
    raise refusal(error_code, text, text, reply)


def _read_images(envelope: UntrustedObject) -> ImageReply:
    items = envelope.inners("data")[:_ITEMS_MAX]
    links = [(item, link) for item in items if (link := _link(item))]
    unsafe = sum(item.value("is_image_safe") is False for item in items)
    if links:
        made = _size(links[0][0].text("resolution"))
        return ImageReply(tuple(link for _, link in links), failed=unsafe, made=made)
    if unsafe and unsafe == len(items) == len(envelope.items("data")):
        raise GatewayError(ErrorCode.CONTENT_MODERATED, f"{unsafe} images were judged unsafe")
    raise GatewayError(ErrorCode.INVALID_RESPONSE, f"{len(items)} images without a link")


def _link(item: UntrustedObject) -> ImageUrl | None:
    """Returns the link of an image that was not judged unsafe."""
    return None if item.value("is_image_safe") is False else read_link(item.raw("url"))


def _size(text: str) -> Size | None:
    width, _, height = text.partition("x")
    is_size = width.isdecimal() and height.isdecimal() and len(text) < 12 and text.isascii()
    return Size(int(width), int(height)) if is_size else None
