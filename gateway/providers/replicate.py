"""Replicate's API, api.replicate.com: `POST /v1/models/OWNER/NAME/predictions` begins a task.

See reference/providers.md 4.3. Sources: [D] replicate.com's pages of models, rate limits and prediction deadlines, [S]
replicate 1.0.7, [K] general knowledge, [I] inferred.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, ResponseFormat, Size
from gateway.domain.pricing import PerImage, Rate
from gateway.domain.sizes import AspectRatios, SizeBounds, SizeList, SizeRule
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.error_texts import refusal
from gateway.providers.fal import RECRAFT, ULTRA
from gateway.providers.ideogram import V3_RATIOS, V3_SIZES
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link
from gateway.providers.stray_images import has_stray_images


@dataclass(frozen=True, slots=True)
class FieldMap:
    """What is sent for a model: each has fields of its own."""

    facts: ModelFacts
    pixels: str  # field of a size in pixels, as text; if empty, width and height of the aspect ratio "custom"


def _map(
    *rules: SizeRule,
    fields: frozenset[str],
    images: int = 1,
    prompt: int = 10_000,
    usd_micros: int | None = None,
    edits: EditRule | None = None,
    pixels: str = "",
) -> FieldMap:
    made = next((rule.sizes["1:1"] for rule in rules if isinstance(rule, AspectRatios)), Size(1024, 1024))
    rate: Rate | None = None if usd_micros is None else PerImage(usd_micros)
    capability = Capability(
        rules, made, images, prompt_max_chars=prompt, edits=edits, supports_base64=False, fields=fields
    )
    return FieldMap(ModelFacts(capability, rate), pixels)


_SEEDED: Final = frozenset({"background.opaque", "seed"})
_JPEG_PNG: Final = _SEEDED | {"output_format.jpeg", "output_format.png"}
_ALL: Final = _JPEG_PNG | {"output_format.webp"}
_FLUX: Final = AspectRatios(
    {
        "1:1": Size(1024, 1024),
        "16:9": Size(1344, 768),
        "9:16": Size(768, 1344),
        "21:9": Size(1536, 640),
        "9:21": Size(640, 1536),
        "3:2": Size(1216, 832),
        "2:3": Size(832, 1216),
        "4:5": Size(896, 1088),
        "5:4": Size(1088, 896),
    }
)
"""Ratios of both models [D], of about a megapixel. The sizes are not documented [K]."""
_CUSTOM: Final = SizeBounds(256, 1440, 32)
_IDEOGRAM: Final = (AspectRatios(V3_RATIOS), SizeList(V3_SIZES))
_EDITS: Final = EditRule(frozenset({Format.JPEG, Format.PNG, Format.WEBP}), 256 * 1024, images_max=4)
"""Up to 4 images [D]. A data URL may have 256 KB [K]; the larger file must be a URL, as the gateway uploads none."""

MODELS: Final[Mapping[str, FieldMap]] = {
    "black-forest-labs/flux-schnell": _map(_FLUX, images=4, fields=_ALL, usd_micros=3_000),
    "black-forest-labs/flux-dev": _map(_FLUX, images=4, fields=_ALL, usd_micros=25_000),
    "black-forest-labs/flux-1.1-pro": _map(_CUSTOM, fields=_ALL, usd_micros=40_000),
    "black-forest-labs/flux-1.1-pro-ultra": _map(ULTRA, fields=_JPEG_PNG, usd_micros=60_000),
    "black-forest-labs/flux-2-dev": _map(_CUSTOM, fields=_ALL, edits=_EDITS),
    "ideogram-ai/ideogram-v3-turbo": _map(*_IDEOGRAM, fields=_SEEDED, usd_micros=30_000, pixels="resolution"),
    "ideogram-ai/ideogram-v3-balanced": _map(*_IDEOGRAM, fields=_SEEDED, usd_micros=60_000, pixels="resolution"),
    "ideogram-ai/ideogram-v3-quality": _map(*_IDEOGRAM, fields=_SEEDED, usd_micros=90_000, pixels="resolution"),
    "recraft-ai/recraft-v3": _map(
        RECRAFT, fields=frozenset({"background.opaque"}), prompt=1000, usd_micros=40_000, pixels="size"
    ),
}
"""Official models, with their fields [D] and prices per image [K]. That of flux-2-dev is by megapixel."""

STATUSES: Final[Mapping[int, ErrorCode]] = {
    401: ErrorCode.KEY_INVALID,
    402: ErrorCode.INSUFFICIENT_BALANCE,
    404: ErrorCode.UPSTREAM_UNSUPPORTED,
    422: ErrorCode.UPSTREAM_REJECTED,
}
"""By the `status` that an error in the form of RFC 7807 states [S, K]."""
_THROTTLED: Final = re.compile(r"Request was throttled\. Your rate limit resets in ~(\d{1,3})s\.")
"""The whole `detail` of a 429 [D]."""
_SENSITIVE: Final = re.compile(
    r"(?:NSFW content detected|The input or output was flagged as sensitive)\b.*", re.IGNORECASE | re.DOTALL
)
"""The `error` of a task whose prompt or image was refused [K]."""
_PENDING: Final = frozenset({"starting", "processing"})
_ENDS: Final = {
    "aborted": (ErrorCode.UPSTREAM_ERROR, "it did not begin in time, which is free"),  # [D]
    "canceled": (ErrorCode.TASK_LOST, "it was stopped, and may be charged"),  # [D]
}
_ACCOUNT_PATH: Final = "/v1/account"
_ITEMS_MAX: Final = 32


class Replicate:
    """The `replicate` provider."""

    base_url = "https://api.replicate.com"
    result_hosts: tuple[str, ...] = ("replicate.delivery", "*.replicate.delivery")
    poll_hosts: tuple[str, ...] = ("api.replicate.com",)
    paths: tuple[str, ...] = (
        *(f"/v1/models/{model}/predictions" for model in MODELS),
        "/v1/predictions",
        _ACCOUNT_PATH,
    )
    rhythm = PollRhythm(first_s=0.5, interval_s=0.5, factor=1.3, longest_s=4.0, expires_s=1800.0)
    """Its clients poll twice a second [S]; it keeps files of a result for an hour [K]."""
    models: Mapping[str, ModelFacts] = {name: known.facts for name, known in MODELS.items()}

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        if model not in MODELS:
            raise LookupError(f"'{model}' has fields that the gateway does not know; use one of {', '.join(MODELS)}")
        return lowered(MODELS[model].facts.capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        known, size = MODELS[plan.model], plan.shape.made
        body: dict[str, object] = {"prompt": job.prompt}
        if known.pixels and not plan.shape.aspect_ratio:
            body[known.pixels] = str(size)
        elif _CUSTOM in known.facts.capability.sizes:
            body |= {"aspect_ratio": "custom", "width": size.width, "height": size.height}
        else:
            body["aspect_ratio"] = plan.shape.aspect_ratio or "1:1"
        if plan.images > 1:
            body["num_outputs"] = plan.images
        if job.seed is not None:
            body["seed"] = job.seed
        if job.output_format:
            body["output_format"] = "jpg" if job.output_format is Format.JPEG else job.output_format.value
        pieces = [b'{"input":', msgspec.json.encode(body)[:-1]]
        for number, image in enumerate(job.inputs):
            pieces += [b"," if number else b',"input_images":[', image.link]
        headers = (*_headers(secret), ("content-type", "application/json"), ("cancel-after", "30m"))
        end = b"]}}" if job.inputs else b"}}"
        return ProviderRequest("POST", f"/v1/models/{plan.model}/predictions", headers, (*pieces, end))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | Task:  # noqa: ARG002
        """Reads the task, or the images if it has ended. Raises: GatewayError."""
        answer = UntrustedObject({})
        try:
            answer = parse_any(reply)
            _raise_error(reply, answer)
        except GatewayError as error:
            if error.row.outcome is not Outcome.UNKNOWN and has_stray_images(reply, answer):
                raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error
            raise
        if not (name := answer.text("id")):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no task ID")
        state = _read_state(answer)
        if isinstance(state, GatewayError):
            raise state
        return state or Task(name, answer.inner("urls").text("get"))

    def build_poll(self, task: Task, secret: Secret) -> ProviderRequest:
        return ProviderRequest("GET", f"/v1/predictions/{quote(task.id, safe='')}", _headers(secret))

    def read_poll(
        self,
        reply: UpstreamResponse,
        task: Task,
        delivery: ResponseFormat,  # noqa: ARG002 - part of the protocol
    ) -> ImageReply | GatewayError | None:
        answer = parse_any(reply)
        if reply.status == 404 and answer.integer("status") == 404:
            return GatewayError(ErrorCode.TASK_LOST, answer.text("detail"))
        _raise_error(reply, answer)
        if answer.text("id") != task.id:
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "the state of another task, or of none")
        return _read_state(answer)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """The account, which says nothing of its balance [S]."""
        return ProviderRequest("GET", _ACCOUNT_PATH, _headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        answer = parse_any(reply)
        _raise_error(reply, answer)
        if not answer.text("username"):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no account")
        return KeyCheck()


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("authorization", f"Bearer {secret.plaintext}"), ("accept", "application/json")


def _raise_error(reply: UpstreamResponse, answer: UntrustedObject) -> None:
    """Raises the error of a response that is not 2xx. The outcome of a 5xx is unknown."""
    if 200 <= reply.status < 300:
        return
    title, text = answer.text("title"), answer.text("detail")
    error_code = STATUSES.get(reply.status)
    if error_code and title and answer.integer("status") == reply.status:
        raise refusal(error_code, f"{title}: {text}", text, reply)
    if reply.status == 429 and (found := _THROTTLED.fullmatch(text)):
        raise refusal(ErrorCode.ACCOUNT_RATE_LIMITED, text, "", reply, cooldown_s=max(1.0, float(found[1])))
    raise http_error(reply, text or title)


def _read_state(answer: UntrustedObject) -> ImageReply | GatewayError | None:
    """Reads a task object. Raises: GatewayError INVALID_RESPONSE for an unknown status."""
    status, text = answer.text("status"), answer.text("error")
    if status in _PENDING:
        return None
    if status == "failed":
        return GatewayError(ErrorCode.CONTENT_INPUT if _SENSITIVE.fullmatch(text) else ErrorCode.UPSTREAM_ERROR, text)
    if status in _ENDS:
        return GatewayError(*_ENDS[status])
    if status != "succeeded":
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"status {status!r}")
    items = answer.items("output")[:_ITEMS_MAX] or [answer.raw("output")]  # a list of links, or a link
    links = tuple(link for raw in items if (link := read_link(raw)))
    if not links:
        return GatewayError(ErrorCode.INVALID_RESPONSE, "succeeded without a picture")
    return ImageReply(links, answer.text("id"))
