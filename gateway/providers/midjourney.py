"""Midjourney through a relay: `POST /submit/imagine` begins a task (reference/providers.md section 5).

Midjourney has no API. 302.AI and others speak that of midjourney-proxy, and the base URL chooses the speed. One task
makes one picture, a grid of four images, which the gateway cuts apart. All four are paid, even if one is requested.

Sources: [S] the sources of midjourney-proxy, [A] 302.AI's SDK, [K] general knowledge, [I] inferred.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.domain.accounts import Secret
from gateway.domain.catalog import Capability
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import CallPlan, ImageJob, ImageReply, ResponseFormat, Size
from gateway.domain.sizes import AspectRatios
from gateway.domain.tasks import PollRhythm, Task
from gateway.providers.ai302 import Ai302, raise_err_code
from gateway.providers.error_texts import refusal, task_error
from gateway.providers.protocol import KeyCheck, ModelFacts, ProviderRequest, lowered
from gateway.providers.replies import UntrustedObject, UpstreamResponse, http_error, parse_any, read_link

_FACTS: Final = ModelFacts(
    Capability(
        (
            AspectRatios(
                {
                    "1:1": Size(1024, 1024),
                    "16:9": Size(1456, 816),
                    "9:16": Size(816, 1456),
                    "3:2": Size(1344, 896),
                    "2:3": Size(896, 1344),
                    "5:4": Size(1232, 928),
                    "4:5": Size(928, 1232),
                }
            ),
        ),
        max_images_per_call=4,
        prompt_max_chars=6000,
        supports_base64=False,
        fields=frozenset({"background.opaque", "seed"}),
    )
)
"""Ratios [A], and the size of each image of versions 6 and 7 [K]. The limit on a prompt is [K]."""
_BOTS: Final[Mapping[str, tuple[str, str]]] = {
    "midjourney": ("MID_JOURNEY", ""),
    "midjourney-v6.1": ("MID_JOURNEY", " --v 6.1"),
    "midjourney-v7": ("MID_JOURNEY", " --v 7"),
    "niji": ("NIJI_JOURNEY", ""),
    "niji-6": ("NIJI_JOURNEY", " --niji 6"),
}
"""The bot and the flag of each model; without a flag it is the bot's default."""
MODELS: Final[Mapping[str, ModelFacts]] = dict.fromkeys(_BOTS, _FACTS)
"""A relay's prices are its own."""

_DASHES: Final = r"(?:[\-\u2010-\u2015\u2212\uFE58\uFE63\uFF0D]{2,}|[\u2013-\u2015])[\u200B-\u200F\u2060\uFEFF]*"
"""What begins a flag: two hyphens, or the dash into which editors turn them. Invisible characters may follow."""
_FLAG: Final = re.compile(rf"(?<!\S){_DASHES}[^\W_]+")
_INNER: Final = re.compile(rf"{_DASHES}(?=[^\W_])")
_PERMUTATIONS: Final = str.maketrans("{}", "()")
"""`{a, b}` would make a task, and a charge, of each alternative [K]."""

CODES: Final[Mapping[int, ErrorCode]] = {
    3: ErrorCode.MODEL_UNAVAILABLE,  # no account of Midjourney's is connected
    4: ErrorCode.UPSTREAM_REJECTED,
    9: ErrorCode.UPSTREAM_ERROR,
    23: ErrorCode.ACCOUNT_CONNECTION_LIMITED,  # the queue is full
    24: ErrorCode.CONTENT_INPUT,  # a banned word
}
"""`code` of a submission that began no task [S], with the meaning of each [I]."""
_BEGUN: Final = frozenset({1, 21, 22})
"""Accepted, known already, queued [S]."""
_TITLES: Final[Mapping[str, ErrorCode]] = {
    "banned prompt": ErrorCode.CONTENT_INPUT,
    "banned prompt detected": ErrorCode.CONTENT_INPUT,
    "invalid parameter": ErrorCode.UPSTREAM_REJECTED,
    "invalid prompt": ErrorCode.UPSTREAM_REJECTED,
}
"""Error code by the title of Midjourney's message, in lower case, as `[Title] text` in `failReason` [S, I]."""
_TITLE: Final = re.compile(r"\[([^\[\]]{1,60})\]")
_PENDING: Final = frozenset({"NOT_START", "SUBMITTED", "IN_PROGRESS"})
_FAILED: Final = frozenset({"FAILURE", "FAILED"})
_STUCK: Final = frozenset({"MODAL", "CANCEL"})
"""States of newer relays: it waits for a second input, or was cancelled. Whether they are billed is not known [K]."""
_SUBMIT_PATH: Final = "/submit/imagine"
_CHECK_PATH: Final = "/task/0/fetch"
_PARTS: Final = 4


class Midjourney:
    """The `midjourney` provider."""

    base_url = ""
    """A key belongs to one relay."""
    result_hosts: tuple[str, ...] = (*Ai302.result_hosts, "cdn.discordapp.com", "cdn.midjourney.com")
    poll_hosts: tuple[str, ...] = ()
    paths: tuple[str, ...] = (_SUBMIT_PATH, "/task/")
    rhythm = PollRhythm(first_s=10.0, interval_s=5.0, factor=1.0, longest_s=5.0, expires_s=3600.0)
    """A task takes 30 to 250 s [A]. How long it is known is [I]."""
    models = MODELS

    def capability(self, model: str, overrides: Mapping[str, int]) -> Capability:  # noqa: ARG002 - every model is alike
        return lowered(_FACTS.capability, overrides)

    def build_call(self, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
        """Raises: GatewayError INVALID_VALUE for a prompt with flags, which would set what the plan does not."""
        bot, version = _BOTS.get(plan.model, _BOTS["midjourney"])
        seed = "" if job.seed is None else f" --seed {job.seed}"
        prompt = f"{_plain(job.prompt)} --ar {plan.shape.aspect_ratio or '1:1'}{seed}{version}"
        body = msgspec.json.encode({"botType": bot, "prompt": prompt})
        return ProviderRequest("POST", _SUBMIT_PATH, (*_headers(secret), _JSON), (body,))

    def read_reply(self, reply: UpstreamResponse, delivery: ResponseFormat) -> ImageReply | Task:  # noqa: ARG002
        """Reads the task. Raises: GatewayError; INVALID_RESPONSE if it may have begun."""
        answer = parse_any(reply)
        _raise_error(reply, answer)
        code, text, name = answer.integer("code"), answer.text("description"), answer.text("result")
        if code in _BEGUN and name:
            return Task(name)
        if (error_code := CODES.get(code or 0)) and not name:
            raise refusal(error_code, f"{code} {text}", text, reply, code)
        raise GatewayError(ErrorCode.INVALID_RESPONSE, f"code {code}, task {name!r}: {text}")

    def build_poll(self, task: Task, secret: Secret) -> ProviderRequest:
        return ProviderRequest("GET", f"/task/{quote(task.id, safe='')}/fetch", _headers(secret))

    def read_poll(
        self,
        reply: UpstreamResponse,
        task: Task,
        delivery: ResponseFormat,  # noqa: ARG002 - part of the protocol
    ) -> ImageReply | GatewayError | None:
        if _is_nothing(reply):
            return GatewayError(ErrorCode.TASK_LOST, "the relay does not know the task")
        answer = parse_any(reply)
        _raise_error(reply, answer)
        status = answer.text("status")
        if answer.text("id") != task.id or status not in {"SUCCESS", *_PENDING, *_FAILED, *_STUCK}:
            raise GatewayError(ErrorCode.INVALID_RESPONSE, f"status {status!r}")
        if status in _PENDING:
            return None
        if status in _FAILED:
            return _failure(answer.text("failReason"))
        link = read_link(answer.raw("imageUrl"))
        if status in _STUCK or link is None:
            return GatewayError(ErrorCode.INVALID_RESPONSE, f"{status} without a picture")
        return ImageReply((link,), task.id, parts=_PARTS)

    def build_key_check(self, secret: Secret) -> ProviderRequest:
        """A task that does not exist: relays have no other free page in common."""
        return ProviderRequest("GET", _CHECK_PATH, _headers(secret))

    def read_key_check(self, reply: UpstreamResponse) -> KeyCheck:
        if not _is_nothing(reply):
            _raise_error(reply, parse_any(reply))
        return KeyCheck()


_JSON: Final = ("content-type", "application/json")


def _headers(secret: Secret) -> tuple[tuple[str, str], ...]:
    """Relays read one of the two [A]."""
    key = secret.plaintext
    return ("authorization", f"Bearer {key}"), ("mj-api-secret", key), ("accept", "application/json")


def _plain(prompt: str) -> str:
    """Returns the prompt without what Midjourney reads as anything but text. Raises: GatewayError for a flag."""
    if found := _FLAG.search(prompt):
        raise GatewayError(
            ErrorCode.INVALID_VALUE,
            f"Invalid 'prompt': '{found.group()}' is a flag of Midjourney, which this server sets itself. Remove it, "
            "or put a space after the dashes.",
            param="prompt",
        )
    return _INNER.sub(r"\g<0> ", prompt).translate(_PERMUTATIONS)


def _is_nothing(reply: UpstreamResponse) -> bool:
    """Returns whether this is the relay's answer for a task that it does not know: `null` [S]."""
    return reply.status == 200 and reply.body.strip() == b"null"


def _failure(reason: str) -> GatewayError:
    title = _TITLE.match(reason)
    return task_error(reason, _TITLES.get(title.group(1).lower() if title else "", ErrorCode.UPSTREAM_ERROR))


def _raise_error(reply: UpstreamResponse, answer: UntrustedObject) -> None:
    """Raises 302.AI's own error, or that of a status that is not 2xx."""
    raise_err_code(reply, answer)
    if not 200 <= reply.status < 300:
        raise http_error(reply, answer.text("description"))
