"""The error object of every refusal in this run."""

from typing import TYPE_CHECKING, Final

from gateway.testing.conformance.checks import Check, InapplicableError, Level, require_none
from gateway.testing.conformance.responses import Answer, member

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

_TRACES: Final = (b"Traceback (most recent call last)", b'File "', b"\tat ", b"node_modules")


def _refusals(context: "CheckContext") -> list[Answer]:
    """Returns refusals with a body: HEAD has none."""
    return [
        answer for answer in context.server.answers if answer.status >= 400 and not answer.request.startswith("HEAD")
    ]


def _envelope(context: "CheckContext") -> None:
    found = _refusals(context)
    wrong = [f"{answer.request}: {answer.quote()}" for answer in found if not _has_envelope(answer)]
    require_none(wrong, found)


def _has_envelope(answer: Answer) -> bool:
    return all(isinstance(member(answer.error, name), str) for name in ("message", "type"))


def _four_keys(context: "CheckContext") -> None:
    found = [answer for answer in _refusals(context) if _has_envelope(answer)]
    wrong = [f"{answer.request}: {answer.quote()}" for answer in found if not _has_all_keys(answer)]
    require_none(wrong, found)


def _has_all_keys(answer: Answer) -> bool:
    error = answer.error or {}
    return all(isinstance(error.get(name, 0), str | None) for name in ("param", "code"))


def _content_type(context: "CheckContext") -> None:
    found = _refusals(context)
    wrong = [f"{answer.request}: {answer.quote()}" for answer in found if answer.media_type != "application/json"]
    require_none(wrong, found)


def _traces(context: "CheckContext") -> None:
    found = _refusals(context)
    wrong = [
        f"{answer.request}: {answer.quote()}" for answer in found if any(trace in answer.content for trace in _TRACES)
    ]
    require_none(wrong, found)


def _request_id(context: "CheckContext") -> None:
    found = _refusals(context)
    wrong = [f"{answer.request}: HTTP {answer.status} without" for answer in found if not _id(answer)]
    require_none(wrong, found)


def _id(answer: Answer) -> str:
    return answer.headers.get("x-request-id", "")


def _should_retry(context: "CheckContext") -> None:
    stated = [answer for answer in context.server.answers if "x-should-retry" in answer.headers]
    if not stated:
        raise InapplicableError("no answer had one")
    wrong = [
        f"{answer.request}: {answer.headers['x-should-retry']}"
        for answer in stated
        if answer.headers["x-should-retry"] not in {"true", "false"}
    ]
    require_none(wrong, stated)


CHECKS: Final = (
    Check(
        "errors.envelope",
        Level.MUST,
        'Every refusal is {"error": {"message": text, "type": text, ...}}.',
        'Python SDK: no code, no message; Node 4 and 6 say "status code (no body)" of {"detail": ...}.',
        _envelope,
    ),
    Check(
        "errors.four_keys",
        Level.SHOULD,
        "Every error object has param and code too, text or null.",
        "Clients that are generated from the specification, where all four are required.",
        _four_keys,
    ),
    Check(
        "errors.content_type",
        Level.MUST,
        "Every refusal is application/json.",
        "Clients that read the body by its type (n8n, axios) show nothing, or a page of HTML.",
        _content_type,
    ),
    Check(
        "errors.no_trace",
        Level.MUST,
        "No refusal holds a stack trace.",
        "Applications that show the error to users disclose the server's internals.",
        _traces,
    ),
    Check(
        "errors.request_id",
        Level.SHOULD,
        "Every refusal has x-request-id.",
        "Python and Node SDK: users report problems with e.request_id.",
        _request_id,
    ),
    Check(
        "errors.should_retry",
        Level.SHOULD,
        "x-should-retry, where it is, is true or false.",
        "Python, Node, Go, Ruby and Java SDK: another word is not heeded.",
        _should_retry,
    ),
)
