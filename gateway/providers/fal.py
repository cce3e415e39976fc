"""fal.ai's queue, queue.fal.run: `POST /MODEL` begins a task (reference/providers.md 4.2).

Sources: [D] fal.ai/docs (inference API, model errors, request errors, FAQ), [S] fal-client 1.0.3, [I3] @ai-sdk/fal
2.0.59, [L] issues of fal-ai/fal with bodies that users saw, [I] inferred.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, Operation, ResponseFormat, Size
from gateway.domain.pricing import PerImage, Rate
from gateway.domain.sizes import AspectRatios, SizeBounds, SizeList, SizeRule
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.error_texts import refusal
from gateway.providers.google import SIZES
from gateway.providers.ideogram import V3_RATIOS
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link
from gateway.providers.stray_images import has_stray_images


@dataclass(frozen=True, slots=True)
class FieldMap:
    """What is sent for a model: each has fields of its own."""

    facts: ModelFacts
    size: str  # image_size has width and height, aspect_ratio a ratio
    edits_at: str = ""  # path of its edits, after the model's own


def _map(
    size: str,
    rule: SizeRule,
    *,
    images: int,
    prompt: int,
    fields: tuple[str, ...] = (),
    rate: Rate | None = None,
    edits: EditRule | None = None,
) -> FieldMap:
    made = rule.sizes["1:1"] if isinstance(rule, AspectRatios) else Size(1024, 1024)
    supported = frozenset({"background.opaque", *fields})
    capability = Capability(
        (rule,), made, images, prompt_max_chars=prompt, edits=edits, supports_base64=False, fields=supported
    )
    return FieldMap(ModelFacts(capability, rate), size, "/edit" if edits else "")


_FLUX: Final = SizeBounds(256, 1440, 32)
"""Of FLUX.1 at its maker (4.1). fal documents no bounds [I]."""
ULTRA: Final = AspectRatios(
    {
        "1:1": Size(2048, 2048),
        "21:9": Size(3136, 1344),
        "16:9": Size(2752, 1536),
        "4:3": Size(2368, 1792),
        "3:2": Size(2496, 1664),
        "2:3": Size(1664, 2496),
        "3:4": Size(1792, 2368),
        "9:16": Size(1536, 2752),
        "9:21": Size(1344, 3136),
    }
)
"""About 4 megapixels [I]; the response states the size."""
RECRAFT: Final = SizeList(
    (
        *(Size(1024, 1024), Size(1365, 1024), Size(1024, 1365), Size(1536, 1024), Size(1024, 1536)),
        *(Size(1820, 1024), Size(1024, 1820), Size(2048, 1024), Size(1024, 2048), Size(1434, 1024)),
        *(Size(1024, 1434), Size(1280, 1024), Size(1024, 1280), Size(1707, 1024), Size(1024, 1707)),
    )
)
"""Of Recraft V3 at its maker (section 7)."""
_IDEOGRAM: Final = AspectRatios(V3_RATIOS)
"""Ratios of 3.0 at its maker (6.2), sent as width and height [I]."""
_NANO_BANANA: Final = AspectRatios(SIZES)
"""Of the model at 1K (section 10), which is the default and has the price below."""
_EDITS: Final = EditRule(frozenset({Format.JPEG, Format.PNG, Format.WEBP}), 7 * 1024 * 1024, images_max=3)
"""As at the model's maker (section 10): fal documents up to 14 images, without a limit in bytes [I]."""
_FLUX_FIELDS: Final = ("seed", "output_format.jpeg", "output_format.png")

MODELS: Final[Mapping[str, FieldMap]] = {
    "fal-ai/flux/dev": _map("image_size", _FLUX, images=4, prompt=10_000, fields=_FLUX_FIELDS),
    "fal-ai/flux/schnell": _map("image_size", _FLUX, images=4, prompt=10_000, fields=_FLUX_FIELDS),
    "fal-ai/flux-pro/v1.1": _map("image_size", _FLUX, images=4, prompt=10_000, fields=_FLUX_FIELDS),
    "fal-ai/flux-pro/v1.1-ultra": _map(
        *("aspect_ratio", ULTRA), images=4, prompt=10_000, fields=_FLUX_FIELDS, rate=PerImage(60_000)
    ),
    "fal-ai/recraft/v3/text-to-image": _map("image_size", RECRAFT, images=1, prompt=1000, rate=PerImage(40_000)),
    "fal-ai/ideogram/v3": _map(
        *("image_size", _IDEOGRAM), images=8, prompt=10_000, fields=("seed",), rate=PerImage(60_000)
    ),
    "fal-ai/nano-banana-2": _map(
        *("aspect_ratio", _NANO_BANANA),
        images=4,
        prompt=32_000,
        fields=("output_format.jpeg", "output_format.png", "output_format.webp"),
        rate=PerImage(80_000),
        edits=_EDITS,
    ),
}
"""By the model's ID. Flux has a price by whole megapixels, which is no rate here (4.2)."""

TYPES: Final[Mapping[str, ErrorCode]] = {
    "content_policy_violation": ErrorCode.CONTENT_INPUT,
    "no_media_generated": ErrorCode.UPSTREAM_ERROR,
    "internal_server_error": ErrorCode.UPSTREAM_ERROR,
    "generation_timeout": ErrorCode.UPSTREAM_ERROR,
    "downstream_service_error": ErrorCode.UPSTREAM_ERROR,
    "downstream_service_unavailable": ErrorCode.UPSTREAM_ERROR,
}
"""By `detail[].type` of a model's error [D]; any other one names a mistake in the request. fal charges no 5xx [D]."""
REQUEST_ERRORS: Final[Mapping[str, ErrorCode]] = {
    **dict.fromkeys(
        (
            *("request_timeout", "startup_timeout", "runner_scheduling_failure", "runner_connection_timeout"),
            *("runner_disconnected", "runner_connection_refused", "runner_connection_error"),
            *("runner_incomplete_response", "runner_server_error"),
        ),
        ErrorCode.UPSTREAM_ERROR,
    ),
    "bad_request": ErrorCode.UPSTREAM_REJECTED,
}
"""By `error_type` of a task that failed outside its model [D]."""
LOCKS: Final = (
    (re.compile(r"User is locked\. Reason: (Exhausted balance|TOP_UP)\b.*"), ErrorCode.INSUFFICIENT_BALANCE),
    (re.compile(r"User is locked\. Reason: Admin lock\b.*"), ErrorCode.ACCOUNT_UNVERIFIED),
)
"""Whole sentences of the queue with 403, which has no code [L]. It sends them before a model sees the request."""
_IN_PROGRESS: Final = "Request is still in progress"  # `detail` of the result of a task that has not ended [I3]
_PENDING: Final = frozenset({"IN_QUEUE", "IN_PROGRESS"})
_ID: Final = re.compile(r"https?://[^/]+(?:/.*)?/([a-z0-9._-]+/[a-z0-9._-]+/requests/([A-Za-z0-9_-]{1,64}))")
_CHECK_PATH: Final = "/fal-ai/flux/requests/00000000-0000-4000-8000-000000000000/status"
_EXPLAINED: Final = re.compile(rb'"https://docs\.fal\.ai/errors[^"\\]{0,200}"')  # the page of an error [D]
_ITEMS_MAX: Final = 32
_START_S: Final = 600


class Fal:
    """The `fal` provider."""

    base_url = "https://queue.fal.run"
    result_hosts: tuple[str, ...] = ("fal.media", "*.fal.media")
    poll_hosts: tuple[str, ...] = ("queue.fal.run", "queue.falrun.com")
    paths: tuple[str, ...] = tuple(f"/{model}" for model in MODELS)
    rhythm = PollRhythm(first_s=0.5, interval_s=0.5, factor=1.3, longest_s=4.0, expires_s=1800.0)
    """fal's own clients poll twice a second [S]. It keeps a result for days; a task that waits begins within 10 minutes
    or never, as `_headers` asks."""
    models: Mapping[str, ModelFacts] = {name: known.facts for name, known in MODELS.items()}

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        if model not in MODELS:
            raise LookupError(f"'{model}' has fields that the gateway does not know; use one of {', '.join(MODELS)}")
        return lowered(MODELS[model].facts.capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        known = MODELS[plan.model]
        body: dict[str, object] = {"prompt": job.prompt}
        if known.size == "aspect_ratio":
            body["aspect_ratio"] = plan.shape.aspect_ratio or "1:1"
        else:
            body["image_size"] = {"width": plan.shape.made.width, "height": plan.shape.made.height}
        if plan.images > 1:
            body["num_images"] = plan.images
        if job.seed is not None:
            body["seed"] = job.seed
        if job.output_format:
            body["output_format"] = job.output_format.value
        if job.operation is not Operation.EDIT:
            return ProviderRequest("POST", f"/{plan.model}", _submitting(secret), (msgspec.json.encode(body),))
        pieces = [msgspec.json.encode(body)[:-1], b',"image_urls":[']
        for number, image in enumerate(job.inputs):
            pieces += [b"," if number else b"", image.link]
        return ProviderRequest("POST", f"/{plan.model}{known.edits_at}", _submitting(secret), (*pieces, b"]}"))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | Task:  # noqa: ARG002
        """Reads the task. Raises: GatewayError; INVALID_RESPONSE if it cannot be polled, as it may have begun."""
        answer = UntrustedObject({})
        try:
            answer = parse_any(reply)
            _raise_error(reply, answer)
        except GatewayError as error:
            own = replace(reply, body=_EXPLAINED.sub(b'""', reply.body))
            if error.row.outcome is not Outcome.UNKNOWN and has_stray_images(own, answer):
                raise GatewayError(ErrorCode.INVALID_RESPONSE, f"images where none belong: {error.detail}") from error
            raise
        url = answer.text("response_url")
        found = _ID.fullmatch(url)
        if not found or found[2] != answer.text("request_id"):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no request ID, or no response_url with it")
        return Task(found[1], url)

    def build_poll(self, task: Task, secret: Secret) -> ProviderRequest:
        """Requests the result, whose response says if there is none yet: one request less than by its status."""
        return ProviderRequest("GET", f"/{task.id}", _headers(secret))

    def read_poll(
        self,
        reply: UpstreamResponse,
        task: Task,
        delivery: ResponseFormat,  # noqa: ARG002 - part of the protocol
    ) -> ImageReply | GatewayError | None:
        answer = parse_any(reply)
        if reply.status < 500 and (answer.text("detail") == _IN_PROGRESS or answer.text("status") in _PENDING):
            return None
        if not 200 <= reply.status < 300:
            if error := _read_failure(reply, answer):
                return error
            raise http_error(reply, _detail(answer))
        if "images" in answer.fields or "image" in answer.fields:
            return _read_images(answer, task.id)
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "no result of a task")

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """The status of a task that does not exist: 404 with a good key [I]. The balance needs another kind of key."""
        return ProviderRequest("GET", _CHECK_PATH, _headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        """Reads the status, in a response of the queue's form. The balance stays unknown."""
        answer = parse_any(reply)
        if reply.status == 404 and "detail" in answer.fields:
            return KeyCheck()
        if reply.status == 401 and answer.text("detail"):
            return KeyCheck(ErrorCode.KEY_INVALID, answer.text("detail"))
        _raise_error(reply, answer)
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "the status of a task that does not exist")


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("authorization", f"Key {secret.plaintext}"), ("accept", "application/json")


def _submitting(secret: Secret) -> tuple[tuple[str, str], ...]:
    return (*_headers(secret), ("content-type", "application/json"), ("x-fal-request-timeout", str(_START_S)))


def _detail(answer: UntrustedObject) -> str:
    """Returns the text of `{"detail": "text"}`, or of its list's first error."""
    issues = answer.inners("detail")
    return issues[0].text("msg") if issues else answer.text("detail")


def _read_failure(reply: UpstreamResponse, answer: UntrustedObject) -> GatewayError | None:
    """Reads the error with which a task ended. Returns: None if it is not one that fal documents."""
    for issue in answer.inners("detail")[:1]:
        name, text = issue.text("type"), issue.text("msg")
        error_code = TYPES.get(name, ErrorCode.UPSTREAM_REJECTED if reply.status == 422 else None)
        return refusal(error_code, f"{name}: {text}", text, reply) if error_code and name else None
    name, text = answer.text("error_type"), answer.text("detail")
    return refusal(REQUEST_ERRORS[name], f"{name}: {text}", text, reply) if name in REQUEST_ERRORS else None


def _raise_error(reply: UpstreamResponse, answer: UntrustedObject) -> None:
    """Raises the error of a submission that is not 2xx. The outcome of a 5xx is unknown."""
    if 200 <= reply.status < 300:
        return
    text = _detail(answer)
    if reply.status == 403:
        for pattern, error_code in LOCKS:
            if pattern.fullmatch(text):
                raise refusal(error_code, text, "", reply)
    if reply.status < 500 and (error := _read_failure(reply, answer)):
        raise error
    raise http_error(reply, text)


def _read_images(answer: UntrustedObject, name: str) -> ImageReply | GatewayError:
    """Reads the images, without those that the safety check judged unsafe: fal delivers black ones instead [I]."""
    items = answer.inners("images")[:_ITEMS_MAX] or [answer.inner("image")]
    stated = answer.value("has_nsfw_concepts")
    flags = stated if isinstance(stated, list) and len(stated) == len(items) else [False] * len(items)
    links = [read_link(item.raw("url")) for item in items]
    shown = [link for link, flag in zip(links, flags, strict=True) if link and flag is not True]
    unsafe = sum(flag is True for flag in flags)
    if shown:
        width, height = items[0].integer("width"), items[0].integer("height")
        made = Size(width, height) if width and height and width > 0 < height else None
        return ImageReply(tuple(shown), name, failed=unsafe, made=made)
    if unsafe == len(items):
        return GatewayError(ErrorCode.CONTENT_MODERATED, f"{unsafe} images were judged unsafe")
    return GatewayError(ErrorCode.INVALID_RESPONSE, "a result without a picture")
