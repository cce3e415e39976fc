"""302.AI's unified images API, version 2: `POST /302/v2/image/generate` begins a task (reference/providers.md 2.2).

It reaches models of many vendors by their names there. Sources: [M] a survey of doc.302.ai, [C] 302.AI's command line
tool, [I] inferred.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability, EditRule
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, Format, ImageJob, ImageReply, ResponseFormat, Size
from gateway.domain.sizes import AspectRatios, SizeBounds
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.ai302 import CODE_WORDS, Ai302, raise_err_code
from gateway.providers.error_texts import task_error, word_error
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link

_CAPABILITY: Final = Capability(
    (
        SizeBounds(256, 4096, 8),
        AspectRatios(
            {
                "1:1": Size(1024, 1024),
                "16:9": Size(1344, 768),
                "9:16": Size(768, 1344),
                "4:3": Size(1152, 864),
                "3:4": Size(864, 1152),
                "3:2": Size(1248, 832),
                "2:3": Size(832, 1248),
            }
        ),
    ),
    prompt_max_chars=32_000,
    edits=EditRule(frozenset({Format.JPEG, Format.PNG}), 10 * 1024 * 1024),
    supports_base64=False,
    fields=frozenset({"background.opaque"}),
)
"""Of every model [I]: which fields a model honours is documented for none. 302.AI refuses a size that it cannot make.

`output_format` is left to the gateway, which converts, and `image` is sent once, as several have no documented form.
"""

_PENDING: Final = frozenset({"pending", "processing"})
_CONTENT_WORDS: Final = frozenset(
    {"content_policy_violation", "content_moderated", "moderation_blocked", "content_filter", "nsfw"}
)
"""Words of vendors in `error_type` or `error` of a task that failed [I]."""
_PATH: Final = "/302/v2/image/generate?run_async=true"
_MODELS_PATH: Final = "/v1/models"
_NOT_FOUND: Final = -10010
"""The code of a resource that is not found (reference/minimax.md 5.3): of a poll, the task [I]."""
_ITEMS_MAX: Final = 32


class Ai302Tasks:
    """The `302ai-tasks` provider."""

    models: Mapping[str, ModelFacts] = {}
    base_url = "https://api.302.ai"
    result_hosts: tuple[str, ...] = Ai302.result_hosts
    poll_hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = (_PATH, "/302/v2/image/fetch/", _MODELS_PATH)
    rhythm = PollRhythm(first_s=3.0, interval_s=3.0, factor=1.2, longest_s=6.0, expires_s=1800.0)
    """302.AI asks the vendors every 3 s [M]. How long it knows a task is not documented [I]."""

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:  # noqa: ARG002 - every model is alike
        return lowered(_CAPABILITY, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        body: dict[str, object] = {"model": plan.model, "prompt": job.prompt}
        if plan.shape.aspect_ratio:
            body["aspect_ratio"] = plan.shape.aspect_ratio
        elif size := plan.shape.pixels:
            body |= {"width": size.width, "height": size.height}
        pieces: list[bytes | memoryview] = [msgspec.json.encode(body)[:-1]]
        for image in job.inputs:
            pieces += [b',"image":', image.link]
        return ProviderRequest("POST", _PATH, (*_headers(secret), _JSON), (*pieces, b"}"))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | Task:  # noqa: ARG002
        """Reads the task, or the images if 302.AI waited for them. Raises: GatewayError."""
        answer = parse_any(reply)
        _raise_error(reply, answer)
        state = _read_state(answer)
        if isinstance(state, GatewayError):
            raise state
        if isinstance(state, ImageReply):
            return state
        if not (name := answer.text("task_id")):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no task ID")
        return Task(name)

    def build_poll(self, task: Task, secret: Secret) -> ProviderRequest:
        return ProviderRequest("GET", f"/302/v2/image/fetch/{quote(task.id, safe='')}", _headers(secret))

    def read_poll(
        self,
        reply: UpstreamResponse,
        task: Task,
        delivery: ResponseFormat,  # noqa: ARG002 - part of the protocol
    ) -> ImageReply | GatewayError | None:
        answer = parse_any(reply)
        if answer.text("task_id") != task.id:  # an error of the poll
            if answer.inner("error").integer("err_code") == _NOT_FOUND:
                return GatewayError(ErrorCode.TASK_LOST, "302.AI does not know the task")
            _raise_error(reply, answer)
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "the state of another task, or of none")
        if not 200 <= reply.status < 300:
            raise http_error(reply, answer.text("status"))
        return _read_state(answer)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """The list of models. The balance page needs a key with management rights (reference/minimax.md 5.2)."""
        return ProviderRequest("GET", _MODELS_PATH, _headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        answer = parse_any(reply)
        _raise_error(reply, answer)
        if not isinstance(answer.value("data"), list):
            raise GatewayError(ErrorCode.INVALID_RESPONSE, "no list of models")
        return KeyCheck()


_JSON: Final = ("content-type", "application/json")


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    return ("authorization", f"Bearer {secret.plaintext}"), ("accept", "application/json")


def _read_state(answer: UntrustedObject) -> ImageReply | GatewayError | None:
    """Reads a task object. Raises: GatewayError INVALID_RESPONSE for an unknown status."""
    status = answer.text("status")
    if status in _PENDING:
        return None
    if status == "failed":
        error = answer.inner("error")
        text = error.text("message") or answer.text("error")
        is_refused = not _CONTENT_WORDS.isdisjoint({error.text("error_type"), error.text("error")})
        return task_error(text, ErrorCode.CONTENT_INPUT if is_refused else ErrorCode.UPSTREAM_ERROR)
    if status != "completed":
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"status {status!r}")
    links = [link for raw in answer.items("image_urls")[:_ITEMS_MAX] if (link := read_link(raw))]
    if not links and (link := read_link(answer.raw("image_url"))):
        links = [link]
    if not links:
        return GatewayError(ErrorCode.INVALID_RESPONSE, "completed without a picture")
    return ImageReply(tuple(links), answer.text("task_id"))


def _raise_error(reply: UpstreamResponse, answer: UntrustedObject) -> None:
    """Raises 302.AI's own error, or that of a status that is not 2xx."""
    raise_err_code(reply, answer)
    word, text = answer.text("code"), answer.text("message")
    if word in CODE_WORDS:
        raise word_error(CODE_WORDS[word], f"{word} {text}", text, reply)
    if not 200 <= reply.status < 300:
        raise http_error(reply, text)
