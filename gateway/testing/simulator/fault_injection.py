"""Faults and their triggers: error texts, and the magic words of keys and prompts."""

import re
from dataclasses import dataclass
from typing import Final

NOT_AUTHORISED: Final = 1004
RATE_LIMITED: Final = 1002
TOO_MANY_AT_ONCE: Final = 1041
INVALID_PARAMS: Final = 2013
INVALID_KEY: Final = 2049

MINIMAX_TEXTS: Final = {
    0: "success",
    1000: "unknown error",
    1001: "request timeout",
    RATE_LIMITED: "rate limit exceeded(RPM)",
    NOT_AUTHORISED: "login fail: Please carry the API secret key in the 'Authorization' field of the request header",
    1008: "insufficient balance",
    1024: "internal error",
    1026: "input new_sensitive",
    1027: "output new_sensitive",
    1028: "Daily quota exhausted for image-01",
    1033: "system error",
    1039: "token limit",
    TOO_MANY_AT_ONCE: "conn limit",
    1042: "invisible character ratio limit",
    INVALID_PARAMS: "invalid params",
    2045: "rate growth limit",
    INVALID_KEY: "invalid api key",
    2056: "usage limit exceeded",
    2061: "your current token plan not support model",
}

UNAUTHORISED: Final = frozenset({NOT_AUTHORISED, INVALID_KEY})
USED_UP: Final = frozenset({1028, 1030, 2056, 2067})
"""The plan's images are used up until its window ends."""

AI302_NO_KEY: Final = -10001
AI302_DISABLED: Final = -10002
AI302_TEXTS: Final = {
    AI302_NO_KEY: "API key missing",
    AI302_DISABLED: "key disabled or deleted",
    -10003: "internal error",
    -10004: "insufficient balance",
    -10005: "credential expired",
    -10006: "the key's total limit is reached",
    -10007: "the key's daily limit is reached",
    -10008: "no available channel now",
    -10009: "API function not supported",
    -10010: "resource not found",
    -10011: "invalid request",
    -10012: "hourly quota is reached",
    -10013: "model disabled for this key",
    -10014: "IP address disabled",
    -10018: "monthly limit is reached",
    -1024: "upstream connection timed out",
}
AI302_UNAUTHORISED: Final = frozenset({AI302_NO_KEY, AI302_DISABLED, -10005})

KEY_WORDS: Final = {"dead": INVALID_KEY, "broke": 1008, "window": 2056}

_WORD: Final = re.compile(
    r"\[(?:code=(?P<code>-?\d{1,10})|http=(?P<http>[3-5]\d\d)|delay=(?P<delay>\d{1,4}(?:\.\d{1,3})?)"
    r"|fail=(?P<fail>\d{1,3})|(?P<flag>hang|cut|garbage|empty))\]",
    re.ASCII,
)


class RefusedError(Exception):
    """The request is refused with a code and not billed."""

    def __init__(self, code: int, text: str | None = None, status: int | None = None) -> None:
        """`status` is the HTTP status, by default the API's usual one."""
        super().__init__(code)
        self.code = code
        self.status = status
        self.text = text if text is not None else text_of(code)


@dataclass(frozen=True, slots=True)
class FaultScript:
    """Faults requested by the prompt's words; none by default."""

    code: int | None = None
    http: int | None = None
    delay_s: float | None = None
    withheld: int = 0
    flags: frozenset[str] = frozenset()

    @property
    def prevents_images(self) -> bool:
        """True if no image is made."""
        return self.code is not None or self.http is not None or bool(self.flags & {"garbage", "empty"})


def parse_script(prompt: str) -> FaultScript:
    """Parses the prompt's words; the last occurrence of a word counts."""
    found: dict[str, str] = {}
    flags: set[str] = set()
    for match in _WORD.finditer(prompt):
        found |= {name: value for name, value in match.groupdict().items() if value is not None}
        flags.add(match["flag"] or "")
    return FaultScript(
        code=int(found["code"]) if "code" in found else None,
        http=int(found["http"]) if "http" in found else None,
        delay_s=float(found["delay"]) if "delay" in found else None,
        withheld=int(found.get("fail", "0")),
        flags=frozenset(flags - {""}),
    )


def require_key(key: str | None) -> str:
    """Raises: RefusedError 1004 if the request carries no bearer key."""
    if key is None:
        raise RefusedError(NOT_AUTHORISED)
    return key


def text_of(code: int) -> str:
    return MINIMAX_TEXTS.get(code) or AI302_TEXTS.get(code) or "error"
