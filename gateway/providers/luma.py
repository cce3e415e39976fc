"""Luma's Agents API, agents.lumalabs.ai: `POST /v1/generations` begins a task (reference/providers.md 8.2).

Sources: [S] Luma's SDK luma-agents 0.5.0, [N] notes of 2026-09 that quote docs.agents.lumalabs.ai, [I] inferred.
"""

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, InputImage, ResponseFormat, Size
from gateway.domain.pricing import PerImage
from gateway.domain.sizes import AspectRatios
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.error_texts import refusal
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link

_RATIOS: Final = AspectRatios(
    {
        "1:1": Size(2048, 2048),
        "16:9": Size(2048, 1152),
        "9:16": Size(1152, 2048),
        "3:2": Size(2048, 1365),
        "2:3": Size(1365, 2048),
        "2:1": Size(2048, 1024),
        "1:2": Size(1024, 2048),
        "3:1": Size(2048, 683),
        "1:3": Size(683, 2048),
    }
)
"""Ratios [N]; 21:9, 4:3 and 3:4 depend on the model [S]. The class is 2048 pixels [N]; the exact sizes are [I]."""
_CAPABILITY: Final = Capability(
    (_RATIOS,),
    Size(2048, 2048),
    prompt_max_chars=32_000,
    edits=EditRule(frozenset({Format.JPEG, Format.PNG}), 10 * 1024 * 1024, images_max=9),
    supports_base64=False,
    fields=frozenset({"output_format.jpeg", "output_format.png", "background.opaque"}),
)
"""An edit has a source and up to eight references [S]. The limits on a prompt and on an image are [I]."""

MODELS: Final[Mapping[str, ModelFacts]] = {
    "uni-1": ModelFacts(_CAPABILITY, PerImage(40_400)),
    "uni-1-max": ModelFacts(_CAPABILITY, PerImage(100_000)),
}
"""Rates without input images: with the first one they are .0434 and .103, and each further one costs .003 [N]."""

FAILURES: Final[Mapping[str, ErrorCode]] = {
    "content_moderated": ErrorCode.CONTENT_OUTPUT,
    "generation_failed": ErrorCode.UPSTREAM_ERROR,
    "budget_exhausted": ErrorCode.UPSTREAM_ERROR,  # the task's or the account's is not said, so no key is blamed
    "output_not_found": ErrorCode.UPSTREAM_ERROR,
    "image_too_large": ErrorCode.UPSTREAM_REJECTED,
    "unsupported_format": ErrorCode.UPSTREAM_REJECTED,
    "corrupt_input": ErrorCode.UPSTREAM_REJECTED,
    "invalid_request": ErrorCode.UPSTREAM_REJECTED,
    "rate_limited": ErrorCode.UPSTREAM_ERROR,  # within the task
}
"""Error code by `failure_code` [S], with the meaning of each [I]."""
_BUSY: Final = {
    "rate limit exceeded": ErrorCode.ACCOUNT_RATE_LIMITED,
    "too many concurrent jobs": ErrorCode.ACCOUNT_CONNECTION_LIMITED,
}
"""Error code by the beginning of a 429's `detail` [N]."""
_STATUSES: Final = {
    400: ErrorCode.UPSTREAM_REJECTED,
    402: ErrorCode.INSUFFICIENT_BALANCE,
    422: ErrorCode.UPSTREAM_REJECTED,
}
"""By the HTTP status, if the body is the API's own form, an object with `detail` [N]."""
_PENDING: Final = frozenset({"queued", "processing"})
_PATH: Final = "/v1/generations"
_FILES_PATH: Final = "/v1/files?limit=1"
_ITEMS_MAX: Final = 32
JSON: Final = ("content-type", "application/json")


class Luma:
    """The `luma` provider."""

    base_url = "https://agents.lumalabs.ai"
    result_hosts: tuple[str, ...] = ("*.lumalabs.ai", "*.cdn-luma.com")
    """Luma's own names [I]: the host of its presigned links is not documented."""
    poll_hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = (_PATH, "/v1/files")
    rhythm = PollRhythm(first_s=2.0, interval_s=2.0, factor=1.25, longest_s=5.0, expires_s=3600.0)
    """Luma advises 2 to 5 s [N]. A state has fresh links, which expire in an hour; how long it is kept is [I]."""
    models = MODELS

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:
        """Returns the capability of a model; an unknown one is uni-1."""
        return lowered(MODELS.get(model, MODELS["uni-1"]).capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        body: dict[str, object] = {"model": plan.model, "prompt": job.prompt}
        body["type"] = "image_edit" if job.inputs else "image"
        body["aspect_ratio"] = plan.shape.aspect_ratio or "1:1"
        if job.output_format:
            body["output_format"] = job.output_format.value
        if job.end_user:
            body["user_id"] = job.end_user
        pieces: list[bytes | memoryview] = [msgspec.json.encode(body)[:-1]]
        if job.inputs:
            source, *references = (_reference(image) for image in job.inputs)
            pieces += [b',"source":', *source]
            for number, reference in enumerate(references):
                pieces += [b"," if number else b',"image_ref":[', *reference]
            pieces.append(b"]" if references else b"")
        return ProviderRequest("POST", _PATH, (*bearer_headers(secret), JSON), (*pieces, b"}"))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | Task:  # noqa: ARG002
        return read_task(reply, _raise_error)

    def build_poll(self, task: Task, secret: Secret) -> ProviderRequest:
        return ProviderRequest("GET", f"{_PATH}/{quote(task.id, safe='')}", bearer_headers(secret))

    def read_poll(
        self,
        reply: UpstreamResponse,
        task: Task,
        delivery: ResponseFormat,  # noqa: ARG002 - part of the protocol
    ) -> ImageReply | GatewayError | None:
        answer = parse_any(reply)
        if is_lost(reply, answer):
            return GatewayError(ErrorCode.TASK_LOST, answer.text("detail"))
        _raise_error(reply, answer)
        state = answer.text("state")
        if answer.text("id") != task.id or state not in {"completed", "failed", *_PENDING}:
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"state {state!r}")
        if state in _PENDING:
            return None
        if state == "failed":
            code = answer.text("failure_code")
            error_code = FAILURES.get(code, ErrorCode.UPSTREAM_ERROR)
            return GatewayError(error_code, f"{code}: {answer.text('failure_reason')}")
        outputs = answer.inners("output")[:_ITEMS_MAX]
        links = [link for item in outputs if item.text("type") == "image" and (link := read_link(item.raw("url")))]
        if not links:
            return GatewayError(ErrorCode.INVALID_RESPONSE, "completed without a picture")
        return ImageReply(tuple(links), task.id)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """The list of files [S]: there is no page with the balance."""
        return ProviderRequest("GET", _FILES_PATH, bearer_headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        answer = parse_any(reply)
        if check := refused_key(reply, answer):
            return check
        _raise_error(reply, answer)
        if not isinstance(answer.value("data"), list):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no list of files")
        return KeyCheck()


def bearer_headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("authorization", f"Bearer {secret.plaintext}"), ("accept", "application/json")


def read_task(reply: UpstreamResponse, raise_error: Callable[[UpstreamResponse, UntrustedObject], None]) -> Task:
    """Reads the task that began. Raises: GatewayError; INVALID_RESPONSE if there is none, as it may have begun."""
    answer = parse_any(reply)
    raise_error(reply, answer)
    if not (name := answer.text("id")):
        raise GatewayError(ErrorCode.INVALID_RESPONSE, "no task ID")
    return Task(name)


def detail_of(answer: UntrustedObject) -> str:
    """Returns the text of `{"detail": "..."}` or `{"detail": [{"msg": "..."}]}`; empty in another form."""
    for issue in answer.inners("detail")[:1]:
        return issue.text("msg")
    return answer.text("detail")


def is_lost(reply: UpstreamResponse, answer: UntrustedObject) -> bool:
    """Returns whether Luma says in its own form that it has no such task [I]."""
    return reply.status == 404 and bool(detail_of(answer))


def refused_key(reply: UpstreamResponse, answer: UntrustedObject) -> KeyCheck | None:
    """Returns the verdict on a key that Luma refuses in its own form."""
    return KeyCheck(ErrorCode.KEY_INVALID, detail_of(answer)) if reply.status == 401 and detail_of(answer) else None


def _reference(image: InputImage) -> list[bytes | memoryview]:
    """Returns `{"data", "media_type"}` or `{"url"}`; the data is not copied."""
    if image.format is None:
        return [b'{"url":', image.link, b"}"]
    return [b'{"media_type":"image/%b","data":"' % image.format.value.encode(), image.base64, b'"}']


def _raise_error(reply: UpstreamResponse, answer: UntrustedObject) -> None:
    """Raises the error of a response that is not 2xx."""
    if 200 <= reply.status < 300:
        return
    detail, error_code = detail_of(answer), _STATUSES.get(reply.status)
    if reply.status == 429:
        error_code = next((code for words, code in _BUSY.items() if detail.lower().startswith(words)), None)
    if detail and error_code:
        raise refusal(error_code, f"HTTP {reply.status}: {detail}", detail, reply)
    raise http_error(reply, detail)
