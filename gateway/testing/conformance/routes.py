"""Unknown paths, methods and bodies."""

from typing import TYPE_CHECKING, Final

from gateway.testing.conformance.checks import (
    BrokenError,
    Check,
    InapplicableError,
    Level,
    expect_refusal,
    expect_status,
    require,
)
from gateway.testing.conformance.purchases import PROMPT
from gateway.testing.conformance.responses import member, shown
from gateway.testing.conformance.server import GENERATIONS

if TYPE_CHECKING:
    from gateway.testing.conformance.context import CheckContext

_NOWHERE: Final = "/conformance-nowhere"
_BROKEN: Final = b'{"model": "dall-e-3", "prompt": '
_JSON: Final = {"content-type": "application/json"}
_LARGE_BYTES: Final = 8 * 2**20
"""Larger than any prompt; a gateway with a higher limit answers that the prompt is too long."""


def _unknown(context: "CheckContext") -> None:
    expect_refusal(context.server.send("POST", _NOWHERE, json={}), 404)


def _unknown_named(context: "CheckContext") -> None:
    answer = context.server.send("POST", _NOWHERE, json={})
    expect_status(answer, 404)
    require(_NOWHERE in str(member(answer.error, "message")), answer.quote())


def _method(context: "CheckContext") -> None:
    expect_refusal(context.server.get(GENERATIONS), 404, 405)


def _allow(context: "CheckContext") -> None:
    answer = context.server.get(GENERATIONS)
    if answer.status == 404:
        raise InapplicableError("the server answers 404 there, as it may")
    expect_status(answer, 405)
    allowed = answer.headers.get("allow", "")
    require("POST" in allowed.replace(",", " ").split(), f"allow is {shown(allowed)}")


def _head_options(context: "CheckContext") -> None:
    for method in ("HEAD", "OPTIONS"):
        for path in ("/models", GENERATIONS):
            answer = context.server.send(method, path)
            require(answer.status < 500, f"{answer.request}: {answer.quote()}")


def _edits(context: "CheckContext") -> None:
    _refuses_form(context, "/images/edits", {"model": context.purchases.model, "n": "1"})


def _variations(context: "CheckContext") -> None:
    _refuses_form(context, "/images/variations", {"n": "1"})


def _refuses_form(context: "CheckContext", path: str, fields: dict[str, str]) -> None:
    """Sends a form as the SDKs do, without the required image and prompt."""
    answer = context.server.send("POST", path, data=fields, files={"conformance": b""})
    expect_refusal(answer, 400, 404, 405)


def _broken_json(context: "CheckContext") -> None:
    expect_refusal(context.server.send("POST", GENERATIONS, content=_BROKEN, headers=_JSON), 400)


def _broken_json_nulls(context: "CheckContext") -> None:
    answer = context.server.send("POST", GENERATIONS, content=_BROKEN, headers=_JSON)
    expect_status(answer, 400)
    found = {name: member(answer.error, name) for name in ("type", "param", "code")}
    require(found == {"type": "invalid_request_error", "param": None, "code": None}, shown(found))


def _empty(context: "CheckContext") -> None:
    expect_refusal(context.server.send("POST", GENERATIONS, content=b"", headers=_JSON), 400)


def _array(context: "CheckContext") -> None:
    expect_refusal(context.server.send("POST", GENERATIONS, json=[]), 400)


def _form(context: "CheckContext") -> None:
    body = {"model": context.purchases.model, "prompt": PROMPT}
    expect_refusal(context.server.send("POST", GENERATIONS, data=body), 400, 415)


def _too_large(context: "CheckContext") -> None:
    body = {"model": context.purchases.model, "prompt": "a" * _LARGE_BYTES}
    answer = context.server.generate(body)
    if answer.status == 400 and answer.error:
        raise InapplicableError(f"no limit within {_LARGE_BYTES // 2**20} MiB: the prompt is refused instead")
    try:
        expect_refusal(answer, 413)
    except BrokenError as error:
        raise BrokenError(f"a body of {_LARGE_BYTES // 2**20} MiB: {error}") from error


CHECKS: Final = (
    Check(
        "routes.unknown",
        Level.MUST,
        "An unknown address: 404 and a message.",
        "Every SDK: NotFoundError; a page in HTML reaches the user as it is.",
        _unknown,
    ),
    Check(
        "routes.unknown_named",
        Level.SHOULD,
        "The message names the unknown address.",
        "A base URL with /v1 twice, or without it, is noticed immediately.",
        _unknown_named,
    ),
    Check(
        "routes.method",
        Level.MUST,
        "GET of the generations: 405, or 404, and a message.",
        "Every SDK, where a proxy turned POST into GET: an answer with 200 has no images.",
        _method,
    ),
    Check(
        "routes.allow",
        Level.SHOULD,
        "That 405 has Allow: POST.",
        "Plain HTTP clients, which RFC 9110 promises it.",
        _allow,
    ),
    Check(
        "routes.head_options",
        Level.MUST,
        "HEAD and OPTIONS of the models and the generations are no 5xx.",
        "Health checks send HEAD, browsers OPTIONS; a 5xx takes the server out of a balancer.",
        _head_options,
    ),
    Check(
        "routes.edits",
        Level.MUST,
        "An edit without an image: 400, or 404 without edits, and a message.",
        "LibreChat and Open WebUI send edits; 422 and 500 are retried, or shown without a text.",
        _edits,
    ),
    Check(
        "routes.variations",
        Level.MUST,
        "A variation without an image: 400, or 404 without variations, and a message.",
        "The SDKs' create_variation: as edits.",
        _variations,
    ),
    Check(
        "bodies.broken_json",
        Level.MUST,
        "A body that is no JSON: 400 and a message.",
        "Plain HTTP clients, n8n: BadRequestError is not retried, a 500 is, three times.",
        _broken_json,
    ),
    Check(
        "bodies.broken_json_nulls",
        Level.SHOULD,
        "Its type is invalid_request_error, its param and code are null.",
        "Programs that branch on code.",
        _broken_json_nulls,
    ),
    Check(
        "bodies.empty",
        Level.MUST,
        "An empty body: 400 and a message.",
        "Plain HTTP clients.",
        _empty,
    ),
    Check(
        "bodies.array",
        Level.MUST,
        "A body that is a list: 400 and a message.",
        "Plain HTTP clients.",
        _array,
    ),
    Check(
        "bodies.form",
        Level.SHOULD,
        "A body of another content type: 400 or 415, and a message.",
        "Plain HTTP clients that forget the content type: curl -d sends a form.",
        _form,
    ),
    Check(
        "bodies.too_large",
        Level.MUST,
        "A body above the server's limit: 413 and a message, on a connection that closes cleanly.",
        "Every SDK: a broken connection is taken for a network fault and sent again, in full, twice.",
        _too_large,
    ),
)
