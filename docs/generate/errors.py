"""Tables of error codes from gateway/domain/errors, and of OpenAI and MiniMax codes from gateway/api."""

from collections.abc import Iterable, Iterator, Mapping

from docs.generate.pages import code, codes, table
from gateway.api.minimax import TEXTS, native_code
from gateway.domain.errors import (
    ERROR_SPECS,
    CapacityHint,
    CooldownKind,
    ErrorCode,
    ErrorSpec,
    GatewayError,
    KeyState,
    Outcome,
    Retry,
    Scope,
)
from gateway.providers.ai302 import CODE_WORDS, ERR_CODES
from gateway.providers.error_texts import SENTENCES
from gateway.providers.google import FINISHED, REASONS, STATUSES
from gateway.providers.ideogram import STATUSES as IDEOGRAM_STATUSES
from gateway.providers.luma import FAILURES
from gateway.providers.midjourney import CODES as MIDJOURNEY_CODES
from gateway.providers.minimax import CODES, NEWER_TYPES
from gateway.providers.openai.errors import (
    ARK_CODES,
    AZURE_CODES,
    OPENAI_CODES,
    OPENAI_TYPES,
    QIANFAN_CODES,
    ZHIPU_CODES,
)
from gateway.providers.replies import STATUS_ERRORS
from gateway.providers.stability import ERRORS as STABILITY_ERRORS

_THINGS: Mapping[Scope, str] = {
    Scope.KEY: "the key",
    Scope.MODEL: "the key for this model",
    Scope.ACCOUNT: "the account",
    Scope.UPSTREAM: "the upstream",
}
_STATES: Mapping[KeyState, str] = {KeyState.COOLING: "on cooldown", KeyState.QUARANTINED: "quarantined"}
_RETRIES: Mapping[Retry, str] = {Retry.NEVER: "no", Retry.ONCE: "once", Retry.FREELY: "while attempts last"}
_LOWERED: Mapping[CapacityHint, str] = {
    CapacityHint.NOTHING: "",
    CapacityHint.RATE: "; its allowed rate is lowered to the rate that succeeded",
    CapacityHint.GROWTH: "; its allowed rate is halved",
    CapacityHint.CONCURRENCY: "; its allowed concurrency is lowered",
}


def blocks() -> dict[str, str]:
    return {
        "answers": table(("error_code", "status", "type", "code", "message", "retry?"), map(_answer, ERROR_SPECS)),
        "consequences": table(("error_code", "outcome", "charged?", "retried?", "cooldown"), _consequences()),
        "codes-minimax": table(("code", "error_code"), _minimax()),
        "codes-types": _map("`error.type`", NEWER_TYPES),
        "codes-302ai": _map("`err_code`", ERR_CODES),
        "codes-words": _map("`code`", CODE_WORDS),
        "codes-stability": _map("`name`", STABILITY_ERRORS),
        "codes-google": _map("`error.status`", STATUSES),
        "codes-google-reasons": _map("`reason`", REASONS),
        "codes-google-images": _map("`finishReason`", FINISHED),
        "codes-ideogram": _map("`status`", IDEOGRAM_STATUSES),
        "codes-luma": _map("`failure_code`", FAILURES),
        "codes-midjourney": _map("`code`", MIDJOURNEY_CODES),
        "codes-openai": _map("`error.code`", OPENAI_CODES),
        "codes-openai-types": _map("`error.type`", OPENAI_TYPES),
        "codes-azure": _map("`error.code`", {one: AZURE_CODES[one] for one in AZURE_CODES if one not in OPENAI_CODES}),
        "codes-ark": _map("`error.code`", ARK_CODES),
        "codes-zhipu": _map("`error.code`", ZHIPU_CODES),
        "codes-qianfan": _map("`error.code`", QIANFAN_CODES),
        "codes-http": _map("HTTP status", STATUS_ERRORS),
        "codes-native": table(("`status_code`", "`status_msg`", "error_codes"), _native()),
    }


def _answer(error_code: ErrorCode) -> tuple[str, ...]:
    row = ERROR_SPECS[error_code]
    again = "yes" if row.may_client_retry else "no"
    if (wait_s := GatewayError(error_code).retry_after) is not None:
        again += f", `retry-after` {wait_s} s"
    shown = row.message + (" …" if row.shows_detail else "")
    return code(error_code.value), str(row.status), code(row.type), code(row.code) if row.code else "null", shown, again


def _consequences() -> Iterator[tuple[str, ...]]:
    for error_code, row in ERROR_SPECS.items():
        if row.outcome is not Outcome.NOT_SENT or row.scope is not Scope.NOTHING:
            yield code(error_code.value), row.outcome.value.replace("_", " "), _charged(row), _again(row), _rest(row)


def _charged(row: ErrorSpec) -> str:
    if row.withholds_images:
        return "if `charge_moderated`"
    return "if `charge_unknown_outcomes`" if row.outcome is Outcome.UNKNOWN else "no"


def _again(row: ErrorSpec) -> str:
    words = _RETRIES[row.retry]
    return words if row.retry is Retry.NEVER else f"{words}, not with {_THINGS[row.scope]}"


def _rest(row: ErrorSpec) -> str:
    illness = "counts against the upstream's breaker" if row.trips_breaker else ""
    if row.pause is CooldownKind.NONE:
        return illness or "nothing"
    return f"{_THINGS[row.scope]} {_STATES[row.state]} {_how_long(row)}{_LOWERED[row.lowers]}"


def _how_long(row: ErrorSpec) -> str:
    if row.pause is not CooldownKind.SECONDS:
        return f"until the end of the {'day' if row.pause is CooldownKind.DAY_END else 'month'} (UTC)"
    doubling = f", doubling up to {_duration(row.pause_max_s)}" if row.pause_max_s else ""
    return f"for {_duration(row.pause_s)}{doubling}"


def _duration(seconds: int) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _minimax() -> Iterator[tuple[str, str]]:
    for number, error_code in sorted(CODES.items()):
        yield code(number), code(error_code.value)
        if number == 2013:
            for pattern, other in SENTENCES:
                yield f"{code(number)}, text like `{pattern.pattern}`", code(other.value)


def _map(name: str, error_codes: Mapping[int, ErrorCode] | Mapping[str, ErrorCode]) -> str:
    return table((name, "error_code"), ((code(key), code(error_code.value)) for key, error_code in error_codes.items()))


def _native() -> Iterable[tuple[str, str, str]]:
    by_code: dict[int, list[str]] = {}
    for error_code in ErrorCode:
        by_code.setdefault(native_code(GatewayError(error_code)), []).append(error_code.value)
    return ((code(number), TEXTS[number], codes(by_code[number])) for number in sorted(by_code))
