"""Headers and connections."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from gateway.testing.conformance.checks import Check, InapplicableError, Level, expect_status, require, require_none
from gateway.testing.conformance.responses import Answer

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

_CONCURRENCY: Final = 8
_DURATION: Final = re.compile(r"(?:[0-9]+(?:ms|h|m|s))+", re.ASCII)
"""Such as 1s, 6m0s, 20ms (reference/openai-images.md 6.2)."""
_STAINLESS: Final = {
    "OpenAI-Organization": "org-conformance",
    "OpenAI-Project": "proj_conformance",
    "X-Stainless-Lang": "js",
    "X-Stainless-Package-Version": "7.57.0",
    "X-Stainless-OS": "Linux",
    "X-Stainless-Arch": "x64",
    "X-Stainless-Runtime": "node",
    "X-Stainless-Runtime-Version": "v24.0.0",
    "X-Stainless-Retry-Count": "1",
    "X-Stainless-Timeout": "600",
    "X-Client-Request-Id": "conformance",
}


def _successes(context: "CheckContext") -> list[Answer]:
    return [answer for answer in context.server.answers if answer.status == 200 and answer.content]


def _content_type(context: "CheckContext") -> None:
    found = [answer for answer in _successes(context) if answer.media_type != "text/event-stream"]
    wrong = [f"{answer.request}: {answer.media_type or 'none'}" for answer in found if not _is_json(answer)]
    require_none(wrong, found)


def _is_json(answer: Answer) -> bool:
    return answer.media_type == "application/json" or answer.media_type.endswith("+json")


def _request_id(context: "CheckContext") -> None:
    found = _successes(context)
    require_none([f"{answer.request}: none" for answer in found if not answer.headers.get("x-request-id")], found)


def _request_id_unique(context: "CheckContext") -> None:
    ids = [answer.headers["x-request-id"] for answer in context.server.answers if "x-request-id" in answer.headers]
    if not ids:
        raise InapplicableError("no answer has one")
    require(len(ids) == len(set(ids)), f"{len(ids)} answers with {len(set(ids))} different ids")


def _processing(context: "CheckContext") -> None:
    found = _successes(context)
    stated = [(answer, answer.headers.get("openai-processing-ms", "absent")) for answer in found]
    wrong = [f"{answer.request}: openai-processing-ms is {text}" for answer, text in stated if not text.isdecimal()]
    wrong += [f"{answer.request}: no openai-version" for answer in found if "openai-version" not in answer.headers]
    require_none(wrong, found)


def _rate_limits(context: "CheckContext") -> None:
    found = {
        (name, text)
        for answer in context.server.answers
        for name, text in answer.headers.items()
        if name.startswith("x-ratelimit-")
    }
    if not found:
        raise InapplicableError("no answer has any")
    require_none(sorted(f"{name}: {text}" for name, text in found if not _is_well_formed(name, text)), found)


def _is_well_formed(name: str, text: str) -> bool:
    if name.startswith("x-ratelimit-reset"):
        return _DURATION.fullmatch(text) is not None
    return text.isdecimal() if name.startswith(("x-ratelimit-limit", "x-ratelimit-remaining")) else True


def _encoding(context: "CheckContext") -> None:
    plain = context.server.get("/models", accept_encoding="identity")
    expect_status(plain, 200)
    packed = context.server.get("/models", accept_encoding="gzip, deflate")
    require(packed.status == 200 and packed.document == plain.document, packed.quote())


def _strange_headers(context: "CheckContext") -> None:
    expect_status(context.server.send("GET", "/models", headers=_STAINLESS), 200)


def _keep_alive(context: "CheckContext") -> None:
    ports = [context.server.get("/models").port for _ in range(3)]
    if None in ports:
        raise InapplicableError("the connection does not tell its port")
    require(len(set(ports)) < len(ports), "a new connection for each request")


def _at_once(context: "CheckContext") -> None:
    with ThreadPoolExecutor(_CONCURRENCY) as pool:
        answers = list(pool.map(lambda _: context.server.get("/models"), range(_CONCURRENCY)))
    for answer in answers:
        expect_status(answer, 200)


CHECKS: Final = (
    Check(
        "headers.content_type",
        Level.MUST,
        "Every answer with 200 that is no stream is application/json.",
        "Node SDK hands back a string instead of an object.",
        _content_type,
    ),
    Check(
        "headers.request_id",
        Level.SHOULD,
        "Every answer with 200 has x-request-id.",
        "Python and Node SDK: users report problems with _request_id.",
        _request_id,
    ),
    Check(
        "headers.request_id_unique",
        Level.SHOULD,
        "No two answers have the same x-request-id.",
        "Operators that search for a request by its ID.",
        _request_id_unique,
    ),
    Check(
        "headers.processing",
        Level.SHOULD,
        "Every answer with 200 has openai-processing-ms, an integer, and openai-version.",
        "Python with_raw_response: programs that measure the server.",
        _processing,
    ),
    Check(
        "headers.rate_limits",
        Level.SHOULD,
        "x-ratelimit-limit and -remaining, where they are, are integers, and -reset is as 1s, 6m0s or 20ms.",
        "Programs that pace themselves; a fraction, or bare seconds, is read as another time.",
        _rate_limits,
    ),
    Check(
        "connections.encoding",
        Level.MUST,
        "Accept-Encoding: gzip, deflate gives the same answer as without.",
        "Every SDK sends it.",
        _encoding,
    ),
    Check(
        "connections.sdk_headers",
        Level.MUST,
        "The headers that SDKs add (X-Stainless-*, OpenAI-Organization, OpenAI-Project) change nothing.",
        "Every SDK sends them.",
        _strange_headers,
    ),
    Check(
        "connections.keep_alive",
        Level.SHOULD,
        "Requests one after another share a connection.",
        "Every SDK keeps a pool; each image would cost another handshake.",
        _keep_alive,
    ),
    Check(
        "connections.at_once",
        Level.MUST,
        f"{_CONCURRENCY} lists of models at once are all answered with 200.",
        "Open WebUI and LibreChat ask for several things as a page opens.",
        _at_once,
    ),
)
