"""Signing in by an identity provider: roles, tenants, and every response that must open no session."""

import json
from typing import Final

import pytest
import redis

from tests.support.console import Browser, error_code
from tests.support.harness import admin, document, gatewaying, upstream
from tests.support.identity import BASE, CODE, ROLES, Shared, Visitor, leads_to, refused

SESSIONS: Final = "ig3:{console:}:sessions"


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


def test_a_person_of_several_tenants_switches_between_them_until_the_same_end(visitor: Visitor, oidc: Shared) -> None:
    visitor.provider.claims = {"groups": ["beta-leads", "acme-team", "ghosts"]}
    visitor.sign_in()
    end_earlier(oidc.redis_url, 3600)
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


def end_earlier(redis_url: str, seconds: int) -> None:
    """Moves the end of every session."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        for session_id, text in client.hgetall(SESSIONS).items():
            session = json.loads(text)
            client.hset(SESSIONS, session_id, json.dumps(session | {"expires_at": session["expires_at"] - seconds}))


def test_other_terms_end_the_sessions(visitor: Visitor, oidc: Shared) -> None:
    visitor.provider.claims = {"groups": ["bosses"]}
    visitor.sign_in()
    described = upstream("sim", "minimax", visitor.provider.issuer)
    for roles, is_valid in ((ROLES[1:], False), (ROLES, True)):
        table = visitor.provider.table(*roles)
        with gatewaying(document(oidc.redis_url, described, console={"oidc": table})) as other:
            if is_valid:
                visitor.browser.cookie = ""
                visitor.provider.redeemed.clear()
                visitor.sign_in()
            assert is_valid is Browser(other.url, visitor.browser.cookie).session()["signed_in"]


def test_the_session_ends_with_its_tenant(visitor: Visitor, oidc: Shared) -> None:
    visitor.provider.claims = {"groups": ["beta-leads"]}
    visitor.sign_in()
    admin(oidc.gateway.url, "PATCH", "/tenants/beta", {"disabled": True})
    try:
        assert visitor.browser.session()["signed_in"] is False
        visitor.provider.redeemed.clear()
        visitor.start()
        assert ("tenant", "tenants that do not exist or are disabled: beta") == refused(visitor)
    finally:
        admin(oidc.gateway.url, "PATCH", "/tenants/beta", {"disabled": False})


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
