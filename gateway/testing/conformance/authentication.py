"""Authentication: missing and wrong API keys get OpenAI's errors."""

from typing import TYPE_CHECKING, Final

from gateway.testing.conformance.checks import Check, Level, expect_refusal, expect_status, require
from gateway.testing.conformance.purchases import PROMPT
from gateway.testing.conformance.responses import Answer, member
from gateway.testing.conformance.server import GENERATIONS, WRONG_KEY

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext


def _ask(context: "CheckContext", authorization: str | None) -> Answer:
    body = {"model": context.purchases.model, "prompt": PROMPT}
    return context.server.send("POST", GENERATIONS, authorization=authorization, json=body)


def _no_key(context: "CheckContext") -> None:
    expect_refusal(_ask(context, None), 401)


def _wrong_key(context: "CheckContext") -> None:
    expect_refusal(_ask(context, f"Bearer {WRONG_KEY}"), 401)


def _other_scheme(context: "CheckContext") -> None:
    expect_refusal(_ask(context, "Basic Y29uZm9ybWFuY2U6MA=="), 401)


def _code(context: "CheckContext") -> None:
    answer = _ask(context, f"Bearer {WRONG_KEY}")
    expect_status(answer, 401)
    require(member(answer.error, "code") == "invalid_api_key", answer.quote())


def _masked(context: "CheckContext") -> None:
    answer = _ask(context, f"Bearer {WRONG_KEY}")
    expect_status(answer, 401)
    require(WRONG_KEY.encode() not in answer.content, f"the key in full: {answer.quote()}")


CHECKS: Final = (
    Check(
        "access.no_key",
        Level.MUST,
        "Without Authorization: 401 and a message.",
        "Every SDK: AuthenticationError is how a program learns that its key is missing.",
        _no_key,
    ),
    Check(
        "access.wrong_key",
        Level.MUST,
        "With a wrong key: 401 and a message.",
        "Every SDK: AuthenticationError; any status that is retried makes three wrong guesses of one.",
        _wrong_key,
    ),
    Check(
        "access.other_scheme",
        Level.MUST,
        "With another scheme than Bearer: 401 and a message.",
        "Every SDK sends Bearer; what is not understood must not pass for a key.",
        _other_scheme,
    ),
    Check(
        "access.code",
        Level.SHOULD,
        "error.code of a wrong key is invalid_api_key.",
        "Programs that tell a wrong key from a missing one.",
        _code,
    ),
    Check(
        "access.masked",
        Level.SHOULD,
        "The refusal does not repeat the key.",
        "Every client that logs its errors: the key would stand in the log.",
        _masked,
    ),
)
