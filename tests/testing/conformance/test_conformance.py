"""The runner against a server that keeps the contract, and against ones that break it in one way each."""

from dataclasses import replace
from typing import Final

import pytest

from gateway.testing.conformance import Level, Outcome, Plan, Report, UnusableError, conform
from gateway.testing.conformance.checks import UntriedError
from gateway.testing.conformance.purchases import Purchases
from gateway.testing.conformance.registry import CHECKS, CONTRACT_IMAGES, IMAGES_MAX, MISTAKEN_MAX
from gateway.testing.conformance.server import WRONG_KEY, Server
from tests.support.harness import Gateway, MakeGateway, Simulator, new_key, serving
from tests.testing.conformance.fair import KEY, Fair, Reply, refusal
from tests.testing.conformance.twists import (
    GENERATIONS,
    Condition,
    Wrong,
    always,
    answering,
    at,
    busy,
    ordered,
    streamed,
    when,
)
from tests.testing.conformance.wrongs import WRONG_SERVERS

PLAN: Final = Plan("", KEY, timeout_s=30.0)
PURCHASES: Final = ("/generations", "/edits")


def tell(done: int, total: int) -> None:
    """Nobody."""


def run(server: Fair, plan: Plan = PLAN) -> Report:
    with serving(server.app()) as url:
        return conform(replace(plan, base_url=url), tell)


def names(report: Report, outcome: Outcome) -> set[str]:
    return {found.check.name for found in report.findings if found.outcome is outcome}


def test_a_server_that_keeps_the_contract_fails_no_check() -> None:
    server = Fair()
    report = run(server)

    assert set() == names(report, Outcome.FAILS) | names(report, Outcome.UNTRIED)
    assert {check.name for check in CHECKS if check.name.startswith("limits.")} == names(report, Outcome.INAPPLICABLE)
    assert report.holds
    assert IMAGES_MAX == server.images_made == report.images_seen


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG_SERVERS, ids=lambda wrong: wrong.name)
def test_what_is_wrong_is_seen_by_its_checks_and_by_no_other(wrong: Wrong) -> None:
    server = Fair(wrong.twist, frozenset(wrong.accepts.split()), wrong.pauses)
    report = run(server, replace(PLAN, model=wrong.model, provoked=wrong.provoked, programs=False))

    assert set(wrong.fails.split()) == names(report, Outcome.FAILS)
    broken_musts = {check.name for check in CHECKS if check.level is Level.MUST} & set(wrong.fails.split())
    assert bool(broken_musts) != report.holds


def test_every_check_is_seen_to_fail() -> None:
    contract = {check.name for check in CHECKS if not check.program}
    assert contract == {name for wrong in WRONG_SERVERS for name in wrong.fails.split()}
    assert len(CHECKS) == len({check.name for check in CHECKS})


def test_a_server_that_refuses_nothing_makes_no_more_than_was_said() -> None:
    server = Fair(accepts=frozenset({"*", "key"}))
    run(server)

    assert IMAGES_MAX < server.images_made <= IMAGES_MAX + MISTAKEN_MAX


def test_without_images_none_is_made() -> None:
    server = Fair()
    report = run(server, replace(PLAN, buys=False))

    assert report.holds
    assert (0, 0) == (server.images_made, report.images_seen)
    assert {check.name for check in CHECKS if not check.buys} == {found.check.name for found in report.findings}


def test_a_rate_that_is_met_as_it_should_be_holds() -> None:
    server = Fair()
    server.twist = lambda _call, reply: _refuse_above(server, IMAGES_MAX + 3, reply)
    report = run(server, replace(PLAN, provoked=9))

    assert {"limits.refusal", "limits.code", "limits.retry_after"} <= names(report, Outcome.HOLDS)
    assert set() == names(report, Outcome.FAILS)


def _refuse_above(server: Fair, images_max: int, reply: Reply) -> Reply | None:
    if server.images_made <= images_max or not (reply.status == 200 and "data" in (reply.document or {})):
        return None
    if reply.document.get("object") == "list":
        return None
    made = refusal(429, "Rate limit exceeded for images per minute.", code="rate_limit_exceeded")
    made.headers = {"retry-after": "7", "x-request-id": reply.headers["x-request-id"]}
    return made


@pytest.mark.parametrize("status", [402, 429, 503])
def test_a_server_that_can_make_none_now_is_not_called_wrong(status: int) -> None:
    """Whatever judges images could not be tried; a must that was not tried does not hold."""
    server = Fair(
        lambda call, reply: refusal(status, "Later.") if call.path.endswith(PURCHASES) and reply.status == 200 else None
    )
    report = run(server)

    images = {check.name for check in CHECKS if check.buys and not check.name.startswith("limits.")}
    assert images <= names(report, Outcome.UNTRIED)
    assert not report.holds


def test_a_server_without_streams_that_says_so_is_not_called_wrong() -> None:
    report = run(Fair(when(streamed, answering(400))))

    assert set() == names(report, Outcome.FAILS)
    assert {check.name for check in CHECKS if check.name.startswith("streams.") and check.buys} == {
        name for name in names(report, Outcome.INAPPLICABLE) if name.startswith("streams.")
    }


@pytest.mark.parametrize("condition", [at("/conformance-nowhere"), ordered], ids=["a request", "a purchase"])
def test_a_busy_server_is_asked_again_after_the_pause_it_wants(condition: Condition) -> None:
    refused: list[str] = []

    def refuse_first(reply: Reply) -> Reply | None:
        refused.append("once")
        return busy("slow_down", "0")(reply) if len(refused) == 1 else None

    report = run(Fair(when(condition, refuse_first)))

    assert len(refused) > 1
    assert set() == names(report, Outcome.FAILS) | names(report, Outcome.UNTRIED)


@pytest.mark.slow
def test_an_address_that_is_silent_twice_is_not_asked_again() -> None:
    """Or a run would take hours, and buy what it cannot see."""
    server = Fair(pauses={GENERATIONS: 4.0})
    report = run(server, replace(PLAN, timeout_s=2.0, programs=False))

    assert 2 == len([call for call in server.requests if (call.method, call.path) == ("POST", GENERATIONS)])
    untried = {check.name for check in CHECKS if check.buys and not check.program}
    assert {name for name in untried if not name.startswith("limits.")} <= names(report, Outcome.UNTRIED)
    assert not report.holds


def test_an_order_without_an_answer_is_not_sent_again() -> None:
    """It may have been made and billed."""
    bought = Purchases(Server("http://127.0.0.1:9/v1", KEY, 2.0), "image-01", frozenset())
    with pytest.raises(UntriedError) as first:
        bought.encoded()
    with pytest.raises(UntriedError) as second:
        bought.encoded()

    assert first.value is second.value


def test_no_key_is_shown_even_where_the_server_repeats_it() -> None:
    def repeat(reply: Reply) -> Reply:
        return Reply(500, {"error": f"{KEY} {WRONG_KEY} Bearer sk-other-0123456789 authorization"}, reply.headers)

    report = run(Fair(when(at("/images/generations"), repeat)))

    seen = " ".join(found.seen for found in report.findings)
    assert "***" in seen
    assert not [secret for secret in (KEY, WRONG_KEY, "sk-other") if secret in seen]


@pytest.mark.parametrize(
    ("url", "key", "reason"),
    [
        ("http://127.0.0.1:9", KEY, "http://127.0.0.1:9/v1 cannot be used: GET /models: "),
        ("127.0.0.1:9", KEY, "URL must be as http://127.0.0.1:8080/v1"),
        ("ftp://127.0.0.1", KEY, "URL must be as http://127.0.0.1:8080/v1"),
        ("http://[::1/v1", KEY, "URL must be as http://127.0.0.1:8080/v1"),
    ],
)
def test_a_run_that_cannot_begin_says_why(url: str, key: str, reason: str) -> None:
    with pytest.raises(UnusableError) as caught:
        conform(Plan(url, key), tell)

    assert str(caught.value).startswith(reason)


@pytest.mark.parametrize(
    "text", ["", "[]", '"text"', "5", '{"data": {}}', '{"data": ["x"]}', '{"data": [[]]}', "<html>", "[" * 9999]
)
def test_answers_of_any_shape_are_findings_and_no_crash(text: str) -> None:
    def strange(reply: Reply) -> Reply:
        return Reply(200, headers=reply.headers, raw=text.encode())

    report = run(Fair(when(always, strange)))

    assert {"models.list", "models.retrieve", "images.one", "sdk.b64_json", "sdk.models"} <= names(
        report, Outcome.FAILS
    ) | names(report, Outcome.UNTRIED)
    assert not report.holds


def test_a_key_that_is_refused_ends_the_run() -> None:
    with pytest.raises(UnusableError, match="the key is refused"):
        run(Fair(), replace(PLAN, key="sk-another-0123456789"))


@pytest.mark.parametrize("model", ["image-01", "dall-e-3", "gpt-image-1"])
def test_the_gateway_keeps_the_contract(gateway: Gateway, simulator: Simulator, model: str) -> None:
    plan = Plan(gateway.base_url, gateway.api_key, model, 60.0, programs=False)
    report = conform(plan, tell)

    assert [] == [(found.check.name, found.seen) for found in report.findings if found.outcome is Outcome.FAILS]
    assert set() == names(report, Outcome.UNTRIED)
    assert report.images_seen == simulator.images_billed()
    assert plan.images_max >= simulator.images_billed()


def test_the_gateway_s_rate_limit_is_told_as_openai_tells_it(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    limits = {"limits": {"images_per_minute": CONTRACT_IMAGES + 2}}
    plan = Plan(
        gateway.base_url, new_key(gateway.url, "narrow", **limits), "image-01", 60.0, programs=False, provoked=8
    )
    report = conform(plan, tell)

    assert set() == names(report, Outcome.FAILS) | names(report, Outcome.UNTRIED)
    assert {"limits.refusal", "limits.code", "limits.retry_after", "headers.rate_limits"} <= names(
        report, Outcome.HOLDS
    )
