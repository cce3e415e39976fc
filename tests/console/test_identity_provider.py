"""An identity provider's endpoints and keys: how often they are read, and what is not accepted."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.api.console.claims import OidcTerms, Problem, RoleRule, SignInError
from gateway.api.console.id_tokens import Header
from gateway.api.console.identity_provider import IdentityProvider
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import ConsoleRole
from gateway.generation.fetches import Fetcher
from gateway.generation.transport import AiohttpTransport
from tests.support.identity import BASE, CLIENT, CLIENT_SECRET, Provider, providing

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
async def discovering(secret: str, patience_s: float) -> AsyncIterator[tuple[Provider, IdentityProvider, Clock]]:
    """A provider, what this process knows of it, and the time that passes for it."""
    clock, rules = Clock(), (RoleRule("a", ConsoleRole.ADMIN),)
    with providing() as provider:
        async with AiohttpTransport() as transport:
            terms = OidcTerms(provider.issuer, CLIENT, secret, ("openid",), "groups", rules, BASE, "Sign in")
            yield provider, IdentityProvider(terms, Fetcher(transport, timeout_s=patience_s).fetch, clock), clock


@pytest.fixture
def secret() -> str:
    return CLIENT_SECRET


@pytest.fixture
def patience_s() -> float:
    return 20


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
    ("path", "content", "reason", "patience_s"),
    [
        ("/.well-known/openid-configuration", 503, "discovery: HTTP 503", 20),
        ("/.well-known/openid-configuration", 302, "discovery: HTTP 302", 20),
        ("/.well-known/openid-configuration", "hang", "discovery: no response within", 0.2),
        ("/.well-known/openid-configuration", b"[" * 250_000, "discovery: not the expected JSON", 20),
        ("/.well-known/openid-configuration", b"x" * 300_000, "discovery: the response has more than", 20),
        ("/keys", {"keys": "none"}, "jwks_uri: not the expected JSON", 20),
        ("/keys", "hang", "jwks_uri: no response within", 0.2),
        (
            "issuer",
            "https://evil.example",
            "discovery: its issuer is 'https://evil.example'; configure exactly that",
            20,
        ),
        ("token_endpoint", "http://evil.example/token", "discovery: token_endpoint is not https", 20),
        ("jwks_uri", "file:///etc/passwd", "discovery: jwks_uri is not https", 20),
        ("authorization_endpoint", "javascript:alert(1)", "discovery: authorization_endpoint is not https", 20),
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


@pytest.mark.parametrize(
    ("secret", "methods", "sent", "is_basic"),
    [
        (CLIENT_SECRET, None, set(), True),
        (CLIENT_SECRET, ["client_secret_basic", "client_secret_post"], set(), True),
        (CLIENT_SECRET, ["client_secret_post"], {"client_id", "client_secret"}, False),
        ("", ["none"], {"client_id"}, False),
    ],
)
async def test_the_client_proves_itself_as_the_provider_supports(
    discovering: tuple[Provider, IdentityProvider, Clock], methods: list[str] | None, sent: set[str], is_basic: bool
) -> None:
    provider, known, _ = discovering
    provider.request = {"code_challenge": "", "redirect_uri": known.terms.redirect_uri}
    provider.discovery = {"token_endpoint_auth_methods_supported": methods} if methods else {}
    with pytest.raises(GatewayError) as caught:
        await known.redeem("x", "y")
    assert ErrorCode.INVITATION_INVALID is caught.value.error_code
    [(form, login)] = [(form, login) for path, form, login in provider.asked if path == "/token"]
    assert (sent, is_basic) == (sent & form.keys(), login.startswith("Basic "))
    assert sent == form.keys() & {"client_id", "client_secret"}
