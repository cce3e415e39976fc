"""Wrong behaviours, each with the checks that see it, and no others."""

from typing import Final

from gateway.testing.conformance.fields import UNKNOWN_MODEL, WRONGS
from gateway.testing.conformance.server import WRONG_KEY
from tests.testing.conformance.fair import Call, Reply
from tests.testing.conformance.twists import (
    GENERATIONS,
    Wrong,
    always,
    answering,
    at,
    busy,
    called,
    dropping,
    heading,
    ordered,
    posted,
    refused,
    rushed,
    setting,
    when,
    with_wrong_key,
)
from tests.testing.conformance.wrong_images import IMAGES, STREAMS


def _is_broken(call: Call) -> bool:
    return call.content.startswith(b"{") and call.body is None


def _disown(reply: Reply) -> None:
    for entry in reply.document.get("data", [reply.document]):
        entry.pop("owned_by", None)


_MODELS: Final = (
    Wrong(
        "a list that is none",
        "models.list models.entries models.listed models.retrieve models.slash",
        when(at("/models", "GET"), dropping("object")),
    ),
    Wrong(
        "entries without an owner",
        "models.entries",
        when(called(lambda call: call.path.startswith("/models") and call.method == "GET"), _disown),
    ),
    Wrong(
        "a model that is not listed",
        "models.listed",
        when(at("/models", "GET"), lambda reply: setting("data", to=reply.document["data"][1:])(reply)),
    ),
    Wrong(
        "another object alone",
        "models.retrieve",
        when(at("/models/image-01"), setting("owned_by", to="another")),
    ),
    Wrong(
        "a slash that must be escaped",
        "models.slash",
        when(called(lambda call: call.raw_path.endswith("/acme/painter")), answering(404)),
    ),
    Wrong(
        "an unknown model that exists",
        "models.unknown sdk.not_found",
        when(at(f"/models/{UNKNOWN_MODEL}"), answering(200, {"id": UNKNOWN_MODEL})),
    ),
    Wrong(
        "no list for the SDK",
        "sdk.models",
        when(
            called(lambda call: call.path == "/models" and "OpenAI" in call.headers.get("user-agent", "")),
            answering(500),
        ),
    ),
)


_ROUTES: Final = (
    Wrong(
        "asks for no key",
        "access.no_key access.wrong_key access.other_scheme access.code access.masked sdk.wrong_key",
        accepts="key",
    ),
    Wrong("a wrong key without a code", "access.code", when(with_wrong_key, setting("error", "code", to=None))),
    Wrong(
        "a wrong key in full",
        "access.masked",
        when(with_wrong_key, setting("error", "message", to=f"Incorrect API key provided: {WRONG_KEY}")),
    ),
    Wrong(
        "an unknown address that exists",
        "routes.unknown routes.unknown_named",
        when(at("/conformance-nowhere"), answering(200, {})),
    ),
    Wrong(
        "an unknown address without a name",
        "routes.unknown_named",
        when(at("/conformance-nowhere"), setting("error", "message", to="Not found")),
    ),
    Wrong("images for GET", "routes.method routes.allow", when(at(GENERATIONS, "GET"), answering(200, {"data": []}))),
    Wrong("no Allow", "routes.allow", when(at(GENERATIONS, "GET"), heading(allow=None))),
    Wrong("OPTIONS fails", "routes.head_options", when(at("/models", "OPTIONS"), answering(500))),
    Wrong(
        "a FastAPI refusal of edits",
        "routes.edits errors.envelope",
        when(at("/images/edits"), answering(422, {"detail": []})),
    ),
    Wrong("variations fail", "routes.variations", when(at("/images/variations"), answering(500))),
    Wrong(
        "broken JSON fails",
        "bodies.broken_json bodies.broken_json_nulls",
        when(posted(_is_broken), answering(500)),
    ),
    Wrong(
        "broken JSON with a code",
        "bodies.broken_json_nulls",
        when(posted(_is_broken), setting("error", "code", to="bad_json")),
    ),
    Wrong("an empty body fails", "bodies.empty", when(posted(lambda call: not call.content), answering(500))),
    Wrong("a list fails", "bodies.array", when(posted(lambda call: call.body == []), answering(500))),
    Wrong("a form fails", "bodies.form", when(posted(lambda call: call.content[:6] == b"model="), answering(500))),
    Wrong("a large body fails", "bodies.too_large", when(at(GENERATIONS, status=413), answering(500))),
)

_FIELDS: Final = (
    Wrong(
        "looks at no field",
        f"{' '.join(wrong.name for wrong in WRONGS)} fields.model_unknown fields.model_named"
        " streams.error_first sdk.bad_request",
        accepts="*",
    ),
    Wrong(
        "looks at no size", " ".join(f"fields.size_{of}" for of in ("tiny", "star", "empty", "number")), accepts="size"
    ),
    Wrong("looks at no user", "fields.user_number", accepts="user"),
    Wrong("never names the field", "fields.param sdk.attributes", when(refused, setting("error", "param", to=None))),
    Wrong("never gives a code", "fields.code sdk.attributes", when(refused, setting("error", "code", to=None))),
    Wrong(
        "an unknown model without a name",
        "fields.model_named",
        when(
            posted(lambda call: (call.body or {}).get("model") == UNKNOWN_MODEL if call.body else False),
            setting("error", "message", to="No such model."),
        ),
    ),
)

_HEADERS: Final = (
    Wrong(
        "a rate without a message",
        "limits.refusal errors.envelope limits.code",
        when(rushed, answering(429, {})),
        provoked=9,
    ),
    Wrong("a rate without a code", "limits.code", when(rushed, busy(None, "7")), provoked=9),
    Wrong("a rate for an hour", "limits.retry_after", when(rushed, busy("rate_limit_exceeded", "3600")), provoked=9),
    Wrong("JSON as text", "headers.content_type", when(at("/models/image-01"), heading(content_type="text/plain"))),
    Wrong("no id", "headers.request_id", when(at("/models/image-01"), heading(x_request_id=None))),
    Wrong("no id of images", "headers.request_id sdk.request_id", when(ordered, heading(x_request_id=None))),
    Wrong("one id", "headers.request_id_unique", when(at("/models"), heading(x_request_id="req_1"))),
    Wrong("milliseconds in fractions", "headers.processing", when(ordered, heading(openai_processing_ms="12.5"))),
    Wrong(
        "a reset in seconds",
        "headers.rate_limits",
        when(ordered, heading(x_ratelimit_reset_requests="7.6s")),
    ),
    Wrong(
        "needs compression",
        "connections.encoding",
        when(called(lambda call: call.headers.get("accept-encoding") == "identity"), answering(406)),
    ),
    Wrong(
        "knows organisations",
        "connections.sdk_headers",
        when(called(lambda call: "openai-organization" in call.headers), answering(403)),
    ),
    Wrong("hangs up each time", "connections.keep_alive", when(always, heading(connection="close"))),
    Wrong(
        "one at a time",
        "connections.at_once",
        when(called(lambda call: call.at_once > 1), answering(500)),
        pauses={"/models": 0.1},
    ),
    Wrong("an error as text", "errors.envelope routes.method", when(at(GENERATIONS, "GET"), setting("error", to="no"))),
    Wrong("an error with two keys", "errors.four_keys", when(at(GENERATIONS, "GET"), dropping("param", "code"))),
    Wrong("an error as HTML", "errors.content_type", when(at(GENERATIONS, "GET"), heading(content_type="text/html"))),
    Wrong(
        "an error with a trace",
        "errors.no_trace",
        when(at(GENERATIONS, "GET"), setting("error", "message", to="Traceback (most recent call last)")),
    ),
    Wrong("an error without an id", "errors.request_id", when(at(GENERATIONS, "GET"), heading(x_request_id=None))),
    Wrong("retries by another word", "errors.should_retry", when(ordered, heading(x_should_retry="no"))),
)

WRONG_SERVERS: Final = (*_MODELS, *_ROUTES, *_FIELDS, *IMAGES, *STREAMS, *_HEADERS)
