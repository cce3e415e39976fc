"""Luma's Dream Machine API, api.lumalabs.ai: `POST .../generations/image` begins a task (reference/providers.md 8.1).

Sources: [S] the API's own description of 2026-08-02 and Luma's SDK lumaai 1.21.0, [A] the AI SDK's adapter, [K] general
knowledge, [I] inferred.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, ResponseFormat, Size
from gateway.domain.sizes import AspectRatios
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.error_texts import refusal, task_error
from gateway.providers.luma import JSON, bearer_headers, detail_of, is_lost, read_task, refused_key
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link

_RATIOS: Final = AspectRatios(
    {
        "1:1": Size(1536, 1536),
        "16:9": Size(2048, 1152),
        "9:16": Size(1152, 2048),
        "4:3": Size(1792, 1344),
        "3:4": Size(1344, 1792),
        "21:9": Size(2432, 1024),
        "9:21": Size(1024, 2432),
    }
)
"""Ratios [S]; the sizes are not documented [I]."""
_FACTS: Final = ModelFacts(
    Capability(
        (_RATIOS,),
        Size(1536, 1536),
        prompt_max_chars=32_000,
        edits=EditRule(frozenset(), 0),  # the API takes links only [A]
        supports_base64=False,
        fields=frozenset({"output_format.jpeg", "output_format.png", "background.opaque"}),
    )
)
MODELS: Final[Mapping[str, ModelFacts]] = dict.fromkeys(("photon-1", "photon-flash-1"), _FACTS)
"""Their prices were not found."""
_FORMATS: Final = {Format.JPEG: "jpg", Format.PNG: "png"}
_PENDING: Final = frozenset({"queued", "dreaming"})
_STATUSES: Final = {400: ErrorCode.UPSTREAM_REJECTED, 422: ErrorCode.UPSTREAM_REJECTED}
"""By the HTTP status, if the body is the API's own form, an object with `detail` [S]. Those of a lack of credits and of
too many requests are not documented, so no other one blames an account."""
_PATH: Final = "/dream-machine/v1/generations"
_CREDITS_PATH: Final = "/dream-machine/v1/credits"


class LumaPhoton:
    """The `luma-photon` provider."""

    base_url = "https://api.lumalabs.ai"
    result_hosts: tuple[str, ...] = ("*.cdn-luma.com",)  # [K]
    poll_hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = (f"{_PATH}/image", f"{_PATH}/", _CREDITS_PATH)
    rhythm = PollRhythm(first_s=1.0, interval_s=1.0, factor=1.5, longest_s=5.0, expires_s=3600.0)
    """The AI SDK asks every 0.5 s for 60 s [A]. How long a task is known is [I]."""
    models = MODELS

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:  # noqa: ARG002 - both are alike
        return lowered(_FACTS.capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        body: dict[str, object] = {"model": plan.model, "prompt": job.prompt}
        body["aspect_ratio"] = plan.shape.aspect_ratio or "1:1"
        if job.output_format:
            body["format"] = _FORMATS[job.output_format]
        pieces = [msgspec.json.encode(body)[:-1]]
        for image in job.inputs:
            pieces += [b',"modify_image_ref":{"url":', image.link, b"}"]
        return ProviderRequest("POST", f"{_PATH}/image", (*bearer_headers(secret), JSON), (*pieces, b"}"))

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
            return task_error(answer.text("failure_reason"))
        if link := read_link(answer.inner("assets").raw("image")):
            return ImageReply((link,), task.id)
        return GatewayError(ErrorCode.INVALID_RESPONSE, "completed without a picture")

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """The balance, in US cents [S]."""
        return ProviderRequest("GET", _CREDITS_PATH, bearer_headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        answer = parse_any(reply)
        if check := refused_key(reply, answer):
            return check
        _raise_error(reply, answer)
        left = answer.value("credit_balance")
        if isinstance(left, bool) or not isinstance(left, int | float):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no balance")
        if left <= 0:
            return KeyCheck(ErrorCode.INSUFFICIENT_BALANCE, "no credits are left")
        return KeyCheck(proves_balance=True)


def _raise_error(reply: UpstreamResponse, answer: UntrustedObject) -> None:
    """Raises the error of a response that is not 2xx."""
    if 200 <= reply.status < 300:
        return
    detail = detail_of(answer)
    if detail and (error_code := _STATUSES.get(reply.status)):
        raise refusal(error_code, detail, detail, reply)
    raise http_error(reply, detail)
