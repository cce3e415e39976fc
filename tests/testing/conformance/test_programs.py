"""The requests of client programs: a server that breaks some of them fails those, and no others."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from gateway.testing.conformance import Outcome, Plan, Report, conform
from gateway.testing.conformance.programs import PROGRAM_REQUESTS, ProgramRequest, Reads
from gateway.testing.conformance.registry import CHECKS
from gateway.testing.conformance.server import EDITS
from tests.support.harness import Gateway, Simulator, serving
from tests.testing.conformance.fair import ENCODED, KEY, Call, Fair, Reply, Twist, refusal
from tests.testing.conformance.twists import dropping, each, ordered, when

PLAN: Final = Plan("", KEY, timeout_s=30.0)
_SENT: Final = sorted({name for request in PROGRAM_REQUESTS for name in request.body})
FIELDS: Final = [frozenset(_SENT[at::5]) for at in range(5)]
"""All fields that programs send, in five groups."""
Choice = Callable[[ProgramRequest], bool]


def tell(done: int, total: int) -> None:
    """Nobody."""


def run(server: Fair) -> Report:
    with serving(server.app()) as url:
        return conform(replace(PLAN, base_url=url), tell)


def programs(report: Report, outcome: Outcome) -> set[str]:
    return {found.check.name for found in report.findings if found.outcome is outcome and found.check.program}


def chosen(choice: Choice) -> set[str]:
    return {request.name for request in PROGRAM_REQUESTS if choice(request)}


def refusing(fields: frozenset[str]) -> Twist:
    """A server that does not know some fields."""

    def refuse(call: Call, reply: Reply) -> Reply | None:
        unknown = sorted(fields & call.body.keys()) if isinstance(call.body, dict) else []
        return refusal(400, f"Unknown parameter: '{unknown[0]}'.", unknown[0], "unknown_parameter") if unknown else None

    return refuse


def without(name: str, is_meant: Callable[[dict[str, Any]], bool]) -> Twist:
    """A server whose items lack a field."""
    lacks = each(lambda item: item.pop(name, None))
    return lambda call, reply: lacks(reply) if reply.status == 200 and is_purchase(call, reply, is_meant) else None


def is_purchase(call: Call, reply: Reply, is_meant: Callable[[dict[str, Any]], bool]) -> bool:
    return isinstance(reply.document, dict) and {"created", "data"} <= reply.document.keys() and is_meant(call.body)


def always_png(call: Call, reply: Reply) -> None:
    if is_purchase(call, reply, lambda body: "output_format" in body):
        each(lambda item: item.update(b64_json=ENCODED))(reply)


def test_every_request_has_its_own_name() -> None:
    assert len(PROGRAM_REQUESTS) == len({request.name for request in PROGRAM_REQUESTS})
    assert {request.name for request in PROGRAM_REQUESTS} == {check.name for check in CHECKS if check.program}


@pytest.mark.slow
@pytest.mark.parametrize("fields", FIELDS, ids=lambda fields: " ".join(sorted(fields)))
def test_a_server_without_a_field_breaks_the_programs_that_send_it(fields: frozenset[str]) -> None:
    report = run(Fair(refusing(fields)))

    assert chosen(lambda request: bool(fields & request.body.keys())) == programs(report, Outcome.FAILS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("twist", "choice"),
    [
        (without("url", lambda body: "response_format" not in body), lambda it: reads(it, Reads.LINK)),
        (
            without("b64_json", lambda body: "response_format" not in body),
            lambda it: reads(it, Reads.BASE64) or (reads(it, Reads.EITHER) and is_encoded(it)),
        ),
        (when(ordered, dropping("usage")), lambda it: it.reads_usage),
        (always_png, lambda it: it.kind not in {None, "png"}),
        (
            lambda call, _reply: refusal(404, "Invalid URL", code="unknown_url") if call.path == EDITS else None,
            lambda it: it.path == EDITS,
        ),
        (
            lambda call, _reply: refusal(500, "Broken.") if call.path.startswith("/deployments") else None,
            lambda it: it.is_azure,
        ),
        (
            lambda call, _reply: refusal(403, "No key.") if call.path.startswith("/pictures") else None,
            lambda it: it.reads is Reads.LINK or (it.reads is Reads.EITHER and not is_encoded(it)),
        ),
    ],
    ids=["links", "base64", "usage", "formats", "edits", "azure", "opening links"],
)
def test_a_server_that_lacks_something_breaks_the_programs_that_need_it(twist: Twist, choice: Choice) -> None:
    report = run(Fair(twist))

    assert chosen(choice) == programs(report, Outcome.FAILS)


def reads(request: ProgramRequest, wanted: Reads) -> bool:
    return request.reads is wanted and "response_format" not in request.body


def is_encoded(request: ProgramRequest) -> bool:
    is_gpt = str(request.body.get("model")).startswith("gpt-image")
    return is_gpt or request.body.get("response_format") == "b64_json"


def test_a_server_need_not_have_masks_several_pictures_and_azure_s_addresses() -> None:
    def refuse(call: Call, reply: Reply) -> Reply | None:
        if call.path.startswith("/deployments"):
            return refusal(404, "Invalid URL", code="unknown_url")
        names = call.body if isinstance(call.body, dict) else {}
        several = call.content.count(b'name="image[]"') > 1
        refused = "mask" if "mask" in names else "image[]" if several else None
        return refusal(400, f"No {refused}.", refused) if refused else None

    report = run(Fair(refuse))

    assert set() == programs(report, Outcome.FAILS)
    assert chosen(lambda it: bool(it.may_refuse) or it.is_azure) == programs(report, Outcome.INAPPLICABLE)


def test_a_model_that_is_not_listed_is_replaced_by_one_of_its_family() -> None:
    server = Fair(lambda call, reply: only_listed(call, reply, "gpt-image-2", "acme/painter"))
    report = run(server)

    asked = {
        call.body.get("model")
        for call in server.requests
        if isinstance(call.body, dict) and call.path != "/images/generations"
    }
    assert {"gpt-image-2", None} >= asked
    assert chosen(lambda it: str(it.body.get("model")).startswith("dall-e")) == programs(report, Outcome.INAPPLICABLE)


def only_listed(call: Call, reply: Reply, *models: str) -> None:
    if call.path == "/models" and call.method == "GET" and reply.status == 200:
        reply.document["data"] = [{"id": name, "object": "model", "created": 1, "owned_by": "a"} for name in models]


def test_two_programs_that_send_the_same_cost_one_image() -> None:
    server = Fair()
    run(server)

    bodies = [
        call.body for call in server.requests if isinstance(call.body, dict) and "response_format" not in call.body
    ]
    same = [body for body in bodies if body.keys() == {"prompt", "n", "size"} and "1024x1024" == body["size"]]
    assert 1 == len([body for body in same if body["n"] == 1])


@pytest.mark.slow
def test_the_gateway_serves_every_program(gateway: Gateway, simulator: Simulator) -> None:
    """MiniMax makes an edit of one picture, and none with a mask."""
    report = conform(replace(PLAN, base_url=gateway.base_url, key=gateway.api_key), tell)

    failed = [(found.check.name, found.seen) for found in report.findings if found.outcome is Outcome.FAILS]
    assert [] == failed
    assert set() == programs(report, Outcome.UNTRIED)
    assert chosen(lambda it: bool(it.may_refuse)) == programs(report, Outcome.INAPPLICABLE)
    assert report.images_seen == simulator.images_billed()
