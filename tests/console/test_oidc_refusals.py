"""Responses of an identity provider, and of others, that open no session; each has its reason in the log."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from gateway.api.console.claims import SignInError
from gateway.api.console.oidc import Attempt
from tests.support.console import Browser
from tests.support.identity import CLIENT_SECRET, Claims, Provider, Shared, Visitor, part, refused, rsa_key, signed


def unsigned(_: Provider, claims: Claims) -> str:
    return f"{part({'alg': 'none'})}.{part(claims)}."


def by_another_key(provider: Provider, claims: Claims) -> str:
    return signed(provider, claims, key=rsa_key("k2"))


@pytest.mark.parametrize(
    ("sign", "claims", "reason"),
    [
        (unsigned, {}, "its algorithm 'none' is not one of RS256, PS256, ES256"),
        (by_another_key, {}, "its signature is not valid (BadSignatureError)"),
        (partial(signed, kid="k2"), {}, "its key (kid) is not one of the provider's"),
        (signed, {"nonce": "another"}, "its nonce is not that of this sign-in"),
        (signed, {"exp": 1}, "it has expired (exp), or has no expiry"),
    ],
)
def test_a_wrong_token_opens_no_session(
    visitor: Visitor, sign: Callable[[Provider, Claims], str], claims: Claims, reason: str
) -> None:
    visitor.provider.claims, visitor.provider.sign = {"groups": ["bosses"]} | claims, sign
    visitor.start()
    assert ("token", f"ID token: {reason}") == refused(visitor)


@pytest.mark.parametrize(
    ("claims", "problem", "reason"),
    [
        ({"groups": None}, "claim", "the claim 'groups' is missing, or is no text or list of texts"),
        (
            {"groups": None, "_claim_names": {"groups": "src1"}, "_claim_sources": {"src1": {"endpoint": "x"}}},
            "groups",
            "the claim 'groups' was left out because it has too many values",
        ),
        ({"groups": ["Bosses", "strangers"]}, "role", "no value of the claim 'groups' has a role"),
        ({"groups": ["ghosts"]}, "tenant", "tenants that do not exist or are disabled: nowhere"),
    ],
)
def test_without_a_role_nobody_enters(visitor: Visitor, claims: Claims, problem: str, reason: str) -> None:
    visitor.provider.claims = claims
    visitor.start()
    assert (problem, reason) == refused(visitor)
    assert visitor.browser.session()["signed_in"] is False


def test_a_state_and_a_code_work_once(visitor: Visitor) -> None:
    visitor.provider.claims = {"groups": ["bosses"]}
    visitor.start()
    stolen = visitor.cookie
    visitor.finish()
    visitor.browser.cookie, visitor.cookie = "", stolen
    assert ("state", "the state was used already") == refused(visitor)
    assert 1 == visitor.provider.count("/token")
    visitor.start()
    problem, reason = refused(visitor)
    assert ("code", True) == (problem, "token_endpoint: HTTP 400 invalid_grant" in reason)


def test_the_state_of_another_browser_is_refused(visitor: Visitor, oidc: Shared) -> None:
    attacker = Visitor(Browser(oidc.gateway.url), visitor.provider)
    attacker.start()
    theirs = visitor.provider.request["state"]
    assert "state" == refused(visitor, state=theirs)[0]  # without a cookie
    visitor.start()
    assert ("state", "the state is not that of this browser's sign-in") == refused(visitor, state=theirs)
    assert 0 == visitor.provider.count("/token")


def test_a_sign_in_lasts_ten_minutes() -> None:
    attempt = Attempt.begin("/console/keys", 1000.0)
    state = attempt.derive("state")
    assert ["/console/keys"] * 2 == [attempt.read(state, now_s) for now_s in (1000.0, 1600.0)]
    for now_s in (1601.0, 998.0):
        with pytest.raises(SignInError, match="began more than 600 s ago"):
            attempt.read(state, now_s)


@pytest.mark.parametrize("cookie", ["", "x", "1.", "x" * 3000, "9999999999.a."])
def test_a_cookie_that_the_gateway_did_not_make_is_refused(visitor: Visitor, cookie: str) -> None:
    visitor.start()
    visitor.cookie = cookie
    assert "state" == refused(visitor)[0]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"iss": "https://evil.example"}, "token"),
        ({"iss": ""}, "token"),
        ({"error": "access_denied", "error_description": "<b>no</b>"}, "denied"),
        ({"code": ""}, "code"),
        ({"code": "x" * 9000}, "code"),
        ({"state": ""}, "state"),
        ({"state": "é"}, "state"),
    ],
)
def test_a_response_that_is_not_the_providers_is_refused(visitor: Visitor, query: dict[str, str], problem: str) -> None:
    visitor.start()
    assert problem == refused(visitor, **query)[0]
    assert 0 == visitor.provider.count("/token")


@pytest.mark.parametrize(
    ("documents", "reason"),
    [
        ({"/token": 500}, "token_endpoint: HTTP 500 "),
        ({"/token": (401, {"error": "invalid_client"})}, "token_endpoint: HTTP 401 invalid_client; check client_id"),
        ({"/token": {"access_token": "x"}}, "token_endpoint: not the expected JSON"),
        ({"/token": b"<html>"}, "token_endpoint: not the expected JSON"),
        ({"/token": b"x" * 300_000}, "token_endpoint: the response has more than 262144 bytes"),
        ({"/token": 302}, "token_endpoint: HTTP 302"),
    ],
)
def test_a_provider_that_fails_opens_no_session(visitor: Visitor, documents: dict[str, Any], reason: str) -> None:
    visitor.provider.documents = documents
    visitor.start()
    problem, told = refused(visitor)
    assert ("provider", reason.strip()) == (problem, told[: len(reason)].strip())
    assert CLIENT_SECRET not in told
