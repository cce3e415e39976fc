"""Invalid fields: each is sent once, and must be refused before anything is bought."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.testing.conformance.checks import (
    BrokenError,
    Check,
    Level,
    UntriedError,
    expect_refusal,
    expect_status,
    require_none,
)
from gateway.testing.conformance.purchases import PROMPT
from gateway.testing.conformance.responses import Answer, member, shown
from gateway.testing.conformance.server import Server

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

UNKNOWN_MODEL: Final = "conformance-no-such-model"
_TOO_LONG: Final = "a" * 40_000
"""OpenAI's longest prompt has 32,000 characters."""


@dataclass(frozen=True, slots=True)
class Wrong:
    """A body with one invalid field; `codes` are OpenAI's for it, empty accepts any."""

    name: str
    body: Mapping[str, object]
    codes: frozenset[str]
    level: Level
    breaks: str
    param: str
    omits_prompt: bool = False

    @property
    def images(self) -> int:
        """Images made by a server that accepts the body."""
        n = self.body.get("n")
        return n if isinstance(n, int) and n > 1 else 1


def _wrong(name: str, body: Mapping[str, object], codes: str, level: Level, breaks: str) -> Wrong:
    *_, param = body
    return Wrong(name, body, frozenset(codes.split()), level, breaks, param)


_TYPE: Final = "invalid_type"
_VALUE: Final = "invalid_value"
_EITHER: Final = "invalid_value invalid_type"
_UNKNOWN: Final = "invalid_value unknown_parameter"
_SILENT: Final = "Every client: what was asked for is dropped, and its user pays for another picture."
_TYPED: Final = "SDKs send wrong types unchecked: only the server can report them."
_PROMPT: Final = "Every SDK: a mistake in the user's program buys a picture of nothing."
_COUNT: Final = "Open WebUI, AI SDK: the user pays for another number of pictures than he asked for."
_M, _S = Level.MUST, Level.SHOULD

WRONGS: Final = (
    Wrong(
        "fields.prompt_missing", {}, frozenset({"missing_required_parameter"}), _M, _PROMPT, "prompt", omits_prompt=True
    ),
    _wrong("fields.prompt_empty", {"prompt": ""}, "", _M, _PROMPT),
    _wrong("fields.prompt_number", {"prompt": 123}, _TYPE, _M, _TYPED),
    _wrong("fields.prompt_too_long", {"prompt": _TOO_LONG}, "string_above_max_length", _M, _SILENT),
    _wrong("fields.n_zero", {"n": 0}, "integer_below_min_value", _M, _COUNT),
    _wrong("fields.n_negative", {"n": -1}, "integer_below_min_value", _M, _COUNT),
    _wrong("fields.n_eleven", {"n": 11}, "integer_above_max_value", _M, _COUNT),
    _wrong("fields.n_fraction", {"n": 1.5}, _TYPE, _M, _TYPED),
    _wrong("fields.n_text", {"n": "2"}, _TYPE, _M, _TYPED),
    _wrong("fields.n_true", {"n": True}, _TYPE, _M, _TYPED),
    _wrong("fields.size_tiny", {"size": "9x9"}, _VALUE, _M, _SILENT),
    _wrong("fields.size_star", {"size": "1024*1024"}, _VALUE, _M, _SILENT),
    _wrong("fields.size_empty", {"size": ""}, _VALUE, _M, _SILENT),
    _wrong("fields.size_number", {"size": 1024}, _EITHER, _M, _TYPED),
    _wrong("fields.response_format", {"response_format": "nonsense"}, _UNKNOWN, _M, _SILENT),
    _wrong("fields.output_format", {"output_format": "nonsense"}, _UNKNOWN, _M, _SILENT),
    _wrong("fields.output_compression", {"output_compression": 101}, "", _S, _SILENT),
    _wrong("fields.quality", {"quality": "nonsense"}, _UNKNOWN, _S, _SILENT),
    _wrong("fields.style", {"style": "nonsense"}, _UNKNOWN, _S, _SILENT),
    _wrong("fields.background", {"background": "nonsense"}, _UNKNOWN, _S, _SILENT),
    _wrong("fields.moderation", {"moderation": "nonsense"}, _UNKNOWN, _S, _SILENT),
    _wrong("fields.stream_text", {"stream": "yes"}, _TYPE, _S, _TYPED),
    _wrong("fields.partial_images", {"stream": True, "partial_images": 4}, "", _S, _SILENT),
    _wrong("fields.user_number", {"user": 5}, _TYPE, _S, _TYPED),
    _wrong("fields.model_number", {"model": 5}, _TYPE, _S, _TYPED),
    _wrong("fields.unknown", {"conformance_field": 1}, "unknown_parameter", _S, _SILENT),
)


class Refusals:
    """Responses to the invalid bodies."""

    def __init__(self, server: Server, model: str) -> None:
        self._server = server
        self._model = model

    def of(self, wrong: Wrong) -> Answer:
        right = {"model": self._model} if wrong.omits_prompt else {"model": self._model, "prompt": PROMPT}
        return self._send_once(wrong.name, {**right, **wrong.body})

    def _send_once(self, name: str, body: Mapping[str, object]) -> Answer:
        return self._server.remember(name, lambda: self._server.generate(body))

    def stated(self) -> list[tuple[Wrong, Answer]]:
        """Refusals with an error object."""
        found = []
        for wrong in WRONGS:
            try:
                answer = self.of(wrong)
            except (UntriedError, BrokenError):
                continue
            if answer.error is not None and answer.status != 429:
                found.append((wrong, answer))
        return found

    def unknown_model(self) -> Answer:
        return self._send_once("fields.model_unknown", {"model": UNKNOWN_MODEL, "prompt": PROMPT})


def _check_wrong(wrong: Wrong) -> Check:
    asked = ", ".join(f"{name}={shown(value)[:24]}" for name, value in wrong.body.items()) or "no prompt"
    if wrong.body.get("prompt") == _TOO_LONG:
        asked = f"a prompt of {len(_TOO_LONG):,} characters"
    return Check(
        wrong.name,
        wrong.level,
        f"{asked} is refused with 400 and a message.",
        wrong.breaks,
        lambda context: expect_refusal(context.refusals.of(wrong), 400),
    )


def _params(context: "CheckContext") -> None:
    stated = context.refusals.stated()
    params = [(wrong, member(answer.error, "param")) for wrong, answer in stated]
    wrong_ones = [f"{wrong.name}: param is {shown(param)}" for wrong, param in params if param != wrong.param]
    require_none(wrong_ones, stated)


def _codes(context: "CheckContext") -> None:
    stated = [(wrong, member(answer.error, "code")) for wrong, answer in context.refusals.stated() if wrong.codes]
    wrong_ones = [
        f"{wrong.name}: code is {shown(code)}, not {' or '.join(sorted(wrong.codes))}"
        for wrong, code in stated
        if code not in wrong.codes
    ]
    require_none(wrong_ones, stated)


def _unknown_model(context: "CheckContext") -> None:
    expect_refusal(context.refusals.unknown_model(), 400, 404)


def _model_named(context: "CheckContext") -> None:
    answer = context.refusals.unknown_model()
    expect_status(answer, 400, 404)
    if UNKNOWN_MODEL not in str(member(answer.error, "message")):
        raise BrokenError(answer.quote())


CHECKS: Final = (
    *map(_check_wrong, WRONGS),
    Check(
        "fields.param",
        Level.SHOULD,
        "error.param of each of these refusals is the field's name.",
        "Every SDK: e.param is what a program can act on; LibreChat and Dify show the message alone.",
        _params,
    ),
    Check(
        "fields.code",
        Level.SHOULD,
        "error.code of each of these refusals is OpenAI's.",
        "Every SDK: programs branch on e.code, as on unknown_parameter to leave a field out.",
        _codes,
    ),
    Check(
        "fields.model_unknown",
        Level.MUST,
        "An unknown model is refused with 400 or 404 and a message.",
        "Every client: a misspelt name must not buy a picture of another model.",
        _unknown_model,
    ),
    Check(
        "fields.model_named",
        Level.SHOULD,
        "The refusal of an unknown model names it.",
        "Every client that shows the message: its user cannot see which of his names is wrong.",
        _model_named,
    ),
)
