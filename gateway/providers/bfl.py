"""Black Forest Labs' API, api.bfl.ai: `POST /v1/MODEL` begins a task (reference/providers.md 4.1).

Sources: [S] the API's own description of 2026-05-01, [D] docs.bfl.ai/api_integration/errors, [H] third parties' hints.
"""

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, ResponseFormat, Size
from gateway.domain.sizes import AspectRatios, SizeBounds, SizeRule
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.error_texts import refusal, word_error
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link

_FLUX_2: Final = SizeBounds(64, 4000, 16, area_max=4_000_000)
"""Sides of at least 64 in multiples of 16, at most 4 MP [S]. No longest side is documented."""
_FLUX_1: Final = SizeBounds(256, 1440, 32)
_RATIOS: Final = AspectRatios(
    {
        "1:1": Size(1024, 1024),
        "16:9": Size(1392, 752),
        "9:16": Size(752, 1392),
        "4:3": Size(1184, 880),
        "3:4": Size(880, 1184),
        "3:2": Size(1248, 832),
        "2:3": Size(832, 1248),
        "21:9": Size(1568, 672),
        "9:21": Size(672, 1568),
    }
)
"""Of Kontext: about a megapixel. The exact sizes are not documented; the answer's picture has the real one [H]."""
_OUTPUT: Final = frozenset(
    {"output_format.jpeg", "output_format.png", "output_format.webp", "background.opaque", "seed"}
)
_EIGHT: Final = EditRule(frozenset({Format.JPEG, Format.PNG, Format.WEBP}), 20 * 1024 * 1024, images_max=8)
_FOUR: Final = EditRule(frozenset({Format.JPEG, Format.PNG, Format.WEBP}), 20 * 1024 * 1024, images_max=4)


def _facts(*sizes: SizeRule, edits: EditRule | None = None) -> ModelFacts:
    return ModelFacts(
        Capability(
            sizes, max_images_per_call=1, prompt_max_chars=32_000, edits=edits, supports_base64=False, fields=_OUTPUT
        )
    )


MODELS: Final[Mapping[str, ModelFacts]] = {
    **dict.fromkeys(("flux-2-pro", "flux-2-pro-preview", "flux-2-max", "flux-2-flex"), _facts(_FLUX_2, edits=_EIGHT)),
    **dict.fromkeys(("flux-2-klein-4b", "flux-2-klein-9b", "flux-2-klein-9b-preview"), _facts(_FLUX_2, edits=_FOUR)),
    "flux-pro-1.1": _facts(_FLUX_1),
    **dict.fromkeys(("flux-kontext-pro", "flux-kontext-max"), _facts(_RATIOS, edits=_FOUR)),
}

_WORDS: Final = {
    "invalid_api_key": ErrorCode.KEY_INVALID,
    "insufficient_credits": ErrorCode.INSUFFICIENT_BALANCE,
    "rate_limit_exceeded": ErrorCode.ACCOUNT_CONNECTION_LIMITED,  # too many active tasks
    "validation_error": ErrorCode.UPSTREAM_REJECTED,
}
"""By `error` [H]."""
_STATUSES: Final = {402: ErrorCode.INSUFFICIENT_BALANCE, 429: ErrorCode.ACCOUNT_CONNECTION_LIMITED}
"""By the HTTP status, if the body is the API's own form, an object with `detail` [D]."""
_PENDING: Final = frozenset({"Pending", "Queued", "Processing", "Task queued"})
_REFUSED: Final = {
    "Request Moderated": ErrorCode.CONTENT_INPUT,
    "Content Moderated": ErrorCode.CONTENT_OUTPUT,
    "Error": ErrorCode.UPSTREAM_ERROR,
    "Task not found": ErrorCode.TASK_LOST,
}
_CREDIT_USD_MICROS: Final = 10_000
_CREDITS_MAX: Final = 1_000_000_000
"""A larger amount is none."""
_ACCEPT: Final = ("accept", "application/json")


class BlackForestLabs:
    """The `bfl` provider."""

    base_url = "https://api.bfl.ai"
    result_hosts: tuple[str, ...] = ("delivery*.bfl.ai", "bfldelivery*.blob.core.windows.net")
    poll_hosts: tuple[str, ...] = ("*.bfl.ai",)
    paths: tuple[str, ...] = (*(f"/v1/{model}" for model in MODELS), "/v1/get_result", "/v1/credits")
    rhythm = PollRhythm(first_s=0.5, interval_s=0.5, factor=1.5, longest_s=5.0, expires_s=600.0)
    """The result dies ten minutes after it was made [S]."""
    models = MODELS

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of a model; of one that is not known, that of the newest."""
        return lowered(MODELS.get(model, MODELS["flux-2-pro"]).capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        body: dict[str, object] = {"prompt": job.prompt}
        if plan.shape.aspect_ratio:
            body["aspect_ratio"] = plan.shape.aspect_ratio
        elif size := plan.shape.pixels or plan.shape.made:
            body |= {"width": size.width, "height": size.height}
        if job.seed is not None:
            body["seed"] = job.seed
        if job.output_format:
            body["output_format"] = job.output_format.value
        pieces = [msgspec.json.encode(body)[:-1]]
        for number, image in enumerate(job.inputs, 1):
            name = b"input_image" if number == 1 else b"input_image_%d" % number
            pieces += [b',"%b":' % name, image.link]
        return ProviderRequest("POST", f"/v1/{plan.model}", (*_headers(secret), _JSON), (*pieces, b"}"))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | Task:  # noqa: ARG002
        """Reads the task. Raises: GatewayError; INVALID_RESPONSE if there is none, as it may have begun."""
        answer = parse_any(reply)
        _raise_error(reply, answer)
        if not (name := answer.text("id")):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no task ID")
        return Task(name, answer.text("polling_url"), _credits(answer.value("cost")))

    def build_poll(self, task: Task, secret: Secret) -> ProviderRequest:
        return ProviderRequest("GET", f"/v1/get_result?id={quote(task.id, safe='')}", _headers(secret))

    def read_poll(
        self,
        reply: UpstreamResponse,
        task: Task,  # noqa: ARG002 - part of the protocol
        delivery: ResponseFormat,  # noqa: ARG002
    ) -> ImageReply | GatewayError | None:
        answer = parse_any(reply)
        status = answer.text("status")
        if reply.status == 429 or reply.status >= 500 or status not in {"Ready", *_PENDING, *_REFUSED}:
            _raise_error(reply, answer)
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"status {status!r}")
        if status in _PENDING:
            return None
        if error_code := _REFUSED.get(status):
            return GatewayError(error_code, status)
        result = answer.inner("result")
        sample = result.fields.get("sample")
        link = read_link(sample) if isinstance(sample, msgspec.Raw) else None
        if link is None:
            return GatewayError(ErrorCode.INVALID_RESPONSE, "ready without a picture")
        return ImageReply((link,), answer.text("id"), stated_usd_micros=_credits(answer.value("cost")))

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """The balance [S]."""
        return ProviderRequest("GET", "/v1/credits", _headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        answer = parse_any(reply)
        _raise_error(reply, answer)
        left = _credits(answer.value("credits"))
        if left is None:
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no credits")
        if left <= 0:
            return KeyCheck(ErrorCode.INSUFFICIENT_BALANCE, "no credits are left")
        return KeyCheck(proves_balance=True)


_JSON: Final = ("content-type", "application/json")


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("x-key", secret.plaintext), _ACCEPT


def _credits(value: object) -> int | None:
    """Converts credits, of a cent each, to micro-dollars, rounded up."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _CREDITS_MAX:
        return None
    try:
        return int((Decimal(str(value)) * _CREDIT_USD_MICROS).to_integral_value("ROUND_CEILING"))
    except InvalidOperation:
        return None


def _raise_error(reply: UpstreamResponse, answer: UntrustedObject) -> None:
    """Raises the error of a response that is not 2xx."""
    if 200 <= reply.status < 300:
        return
    word, detail = answer.text("error"), answer.text("message") or answer.text("detail")
    for issue in answer.inners("detail")[:1]:  # [{"loc", "msg", "type"}]
        detail = issue.text("msg")
    if word in _WORDS and reply.status < 500:
        raise refusal(_WORDS[word], f"{word}: {detail}", detail, reply)
    is_own = "detail" in answer.fields and not word
    if is_own and (error_code := _STATUSES.get(reply.status)):
        raise refusal(error_code, f"HTTP {reply.status}: {detail}", detail, reply)
    if is_own and reply.status == 422:
        raise refusal(ErrorCode.UPSTREAM_REJECTED, detail, detail, reply)
    if word:
        raise word_error(None, f"{word}: {detail}", detail, reply)
    raise http_error(reply, detail)
