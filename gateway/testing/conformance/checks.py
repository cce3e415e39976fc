"""What a check is, and how it says what it found.

A check returns where its statement holds. Otherwise it raises one of the three exceptions below, with what was seen.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext
    from gateway.testing.conformance.responses import Answer


class Level(Enum):
    """How much a check weighs."""

    MUST = "must"
    """A client that is used today breaks."""
    SHOULD = "should"
    """OpenAI does so; a client tells its user less, or does something needless."""


class Outcome(Enum):
    """What came of a check."""

    HOLDS = "holds"
    FAILS = "does not hold"
    INAPPLICABLE = "not applicable"
    UNTRIED = "could not be tried"


class BrokenError(Exception):
    """The statement does not hold; the text says what was seen."""


class InapplicableError(Exception):
    """The statement is about something that this server does not do."""


class UntriedError(Exception):
    """Nothing can be said: the server was busy, or out of reach, or had nothing to be judged by."""


@dataclass(frozen=True, slots=True)
class Check:
    """One statement of the contract."""

    name: str
    level: Level
    holds: str
    """What must hold."""
    breaks: str
    """Which client breaks, and how, if it does not."""
    attempt: "Callable[[CheckContext], None]"
    buys: bool = False
    """Whether it judges an image, which has to be made first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check; `seen` is empty where it holds."""

    check: Check
    outcome: Outcome
    seen: str = ""


def require(statement: object, seen: str) -> None:
    """Raises: BrokenError."""
    if not statement:
        raise BrokenError(seen)


def expect_status(answer: "Answer", *expected: int) -> None:
    """Raises: BrokenError; UntriedError where the server was busy."""
    if answer.status in expected:
        return
    if answer.status == 429:
        raise UntriedError(f"{answer.request}: {answer.quote()}")
    raise BrokenError(f"{answer.request}: {answer.quote()}; expected {' or '.join(map(str, expected))}")


def expect_refusal(answer: "Answer", *expected: int) -> None:
    """A status and a message; the rest of the error object has checks of its own. Raises: as `expect_status`."""
    expect_status(answer, *expected)
    message = (answer.error or {}).get("message")
    if not isinstance(message, str) or not message:
        raise BrokenError(f"{answer.request}: no error.message in {answer.quote()}")


def require_none(wrong: Collection[str], tried: object) -> None:
    """For checks that judge many answers. Raises: BrokenError with the first of `wrong`; UntriedError without any."""
    if not tried:
        raise UntriedError("there was no answer to judge by")
    if wrong:
        first = list(dict.fromkeys(wrong))
        more = f"; and {len(first) - 3} more" if len(first) > 3 else ""
        raise BrokenError("; ".join(first[:3]) + more)
