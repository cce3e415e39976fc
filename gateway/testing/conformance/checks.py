"""Checks and their findings.

A check returns if its statement holds. Otherwise it raises one of the three exceptions below, with the observation.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext
    from gateway.testing.conformance.responses import Answer


class Level(Enum):
    """Severity of a check."""

    MUST = "must"
    """A client in use today breaks."""
    SHOULD = "should"
    """OpenAI does so; a client shows less to its user, or does something needless."""


class Outcome(Enum):
    """Outcome of a check."""

    HOLDS = "holds"
    FAILS = "does not hold"
    INAPPLICABLE = "not applicable"
    UNTRIED = "could not be tried"


class BrokenError(Exception):
    """The statement does not hold; the text is the observation."""


class InapplicableError(Exception):
    """The statement concerns a feature that this server lacks."""


class UntriedError(Exception):
    """No result: the server was busy or unreachable, or there was nothing to check."""


@dataclass(frozen=True, slots=True)
class Check:
    """One statement of the contract."""

    name: str
    level: Level
    holds: str
    """The statement."""
    breaks: str
    """The clients that break otherwise, and how."""
    attempt: "Callable[[CheckContext], None]"
    buys: bool = False
    """The check needs an image, which is bought first."""
    program: str = ""
    """The client program whose request is sent; empty for a statement of the contract."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check; `seen` is empty if it holds."""

    check: Check
    outcome: Outcome
    seen: str = ""


def require(statement: object, seen: str) -> None:
    """Raises: BrokenError."""
    if not statement:
        raise BrokenError(seen)


def expect_status(answer: "Answer", *expected: int) -> None:
    """Raises: BrokenError; UntriedError if the server was busy."""
    if answer.status in expected:
        return
    if answer.status == 429:
        raise UntriedError(f"{answer.request}: {answer.quote()}")
    raise BrokenError(f"{answer.request}: {answer.quote()}; expected {' or '.join(map(str, expected))}")


def expect_refusal(answer: "Answer", *expected: int) -> None:
    """Checks status and message; other checks cover the rest of the error object. Raises: as `expect_status`."""
    expect_status(answer, *expected)
    message = (answer.error or {}).get("message")
    if not isinstance(message, str) or not message:
        raise BrokenError(f"{answer.request}: no error.message in {answer.quote()}")


def require_none(wrong: Collection[str], tried: object) -> None:
    """For checks of many responses. Raises: BrokenError with the first of `wrong`; UntriedError without any."""
    if not tried:
        raise UntriedError("there was no answer to judge by")
    if wrong:
        first = list(dict.fromkeys(wrong))
        more = f"; and {len(first) - 3} more" if len(first) > 3 else ""
        raise BrokenError("; ".join(first[:3]) + more)
