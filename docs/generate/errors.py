"""The tables of faults, from gateway/domain/errors, and of the codes that the wire knows, from gateway/wire."""

from collections.abc import Iterable, Iterator, Mapping

from docs.generate.pages import code, codes, table
from gateway.api.minimax import TEXTS, native_code
from gateway.domain.errors import TABLE, Fault, GatewayError, Lowers, Outcome, Pause, Retry, Row, Scope, State
from gateway.providers.ai302 import CODE_WORDS, ERR_CODES
from gateway.providers.error_texts import SENTENCES
from gateway.providers.minimax import CODES, NEWER_TYPES
from gateway.providers.replies import HTTP_FAULTS

_THINGS: Mapping[Scope, str] = {
    Scope.KEY: "the key",
    Scope.MODEL: "the key for this model",
    Scope.ACCOUNT: "the account",
    Scope.UPSTREAM: "the upstream",
}
_STATES: Mapping[State, str] = {State.COOLING: "cools", State.QUARANTINED: "in quarantine"}
_RETRIES: Mapping[Retry, str] = {Retry.NEVER: "no", Retry.ONCE: "once", Retry.FREELY: "while attempts last"}
_LOWERED: Mapping[Lowers, str] = {
    Lowers.NOTHING: "",
    Lowers.RATE: "; taken to allow the rate that came through",
    Lowers.GROWTH: "; taken to allow half its rate",
    Lowers.CONCURRENCY: "; taken to allow fewer calls at once",
}


def blocks() -> dict[str, str]:
    return {
        "answers": table(("fault", "status", "type", "code", "message", "try again?"), map(_answer, TABLE)),
        "consequences": table(("fault", "what is known", "charged?", "sent again?", "rests"), _consequences()),
        "codes-minimax": table(("code", "fault"), _minimax()),
        "codes-types": _map("`error.type`", NEWER_TYPES),
        "codes-302ai": _map("`err_code`", ERR_CODES),
        "codes-words": _map("`code`", CODE_WORDS),
        "codes-http": _map("HTTP status", HTTP_FAULTS),
        "codes-native": table(("`status_code`", "`status_msg`", "faults"), _native()),
    }


def _answer(fault: Fault) -> tuple[str, ...]:
    row = TABLE[fault]
    again = "yes" if row.may_client_retry else "no"
    if row.asks_to_wait:
        again += f", `retry-after` {row.retry_after_s} s"
    shown = row.message + (" …" if row.shows_detail else "")
    return code(fault.value), str(row.status), code(row.type), code(row.code) if row.code else "null", shown, again


def _consequences() -> Iterator[tuple[str, ...]]:
    for fault, row in TABLE.items():
        if row.outcome is not Outcome.NOT_SENT or row.scope is not Scope.NOTHING:
            yield code(fault.value), row.outcome.value.replace("_", " "), _charged(row), _again(row), _rest(row)


def _charged(row: Row) -> str:
    if row.withholds_images:
        return "if `charge_withheld`"
    return "if `charge_unconfirmed`" if row.outcome is Outcome.UNKNOWN else "no"


def _again(row: Row) -> str:
    words = _RETRIES[row.retry]
    return words if row.retry is Retry.NEVER else f"{words}, not with {_THINGS[row.scope]}"


def _rest(row: Row) -> str:
    illness = "counts against the upstream's breaker" if row.ails_upstream else ""
    if row.pause is Pause.NONE:
        return illness or "nothing"
    return f"{_THINGS[row.scope]} {_STATES[row.state]} {_how_long(row)}{_LOWERED[row.lowers]}"


def _how_long(row: Row) -> str:
    if row.pause is not Pause.SECONDS:
        return f"until the end of the {'day' if row.pause is Pause.DAY_END else 'month'} (UTC)"
    doubling = f", doubling up to {_duration(row.pause_max_s)}" if row.pause_max_s else ""
    return f"for {_duration(row.pause_s)}{doubling}"


def _duration(seconds: int) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _minimax() -> Iterator[tuple[str, str]]:
    for number, fault in sorted(CODES.items()):
        yield code(number), code(fault.value)
        if number == 2013:
            for pattern, other in SENTENCES:
                yield f"{code(number)}, text like `{pattern.pattern}`", code(other.value)


def _map(name: str, faults: Mapping[int, Fault] | Mapping[str, Fault]) -> str:
    return table((name, "fault"), ((code(key), code(fault.value)) for key, fault in faults.items()))


def _native() -> Iterable[tuple[str, str, str]]:
    by_code: dict[int, list[str]] = {}
    for fault in Fault:
        by_code.setdefault(native_code(GatewayError(fault)), []).append(fault.value)
    return ((code(number), TEXTS[number], codes(by_code[number])) for number in sorted(by_code))
