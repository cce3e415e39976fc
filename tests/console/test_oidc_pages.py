"""Signing in by an identity provider in a real browser: cookies on the way back, and the page after a refusal."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.harness import admin, document, environment, serving, upstream
from tests.support.identity import Provider, providing
from tests.support.servers import free_port

pytestmark = pytest.mark.slow
ROLES = (("staff", "viewer", ""), ("acme-leads", "lead", "acme"), ("beta-people", "member", "beta"))


@pytest.fixture
def provider() -> Iterator[Provider]:
    with providing() as provider:
        yield provider


@pytest.fixture
def base_url(redis_url: str, provider: Provider) -> Iterator[str]:
    """A gateway whose console is on a port of its own, which the provider's settings name."""
    base = f"http://localhost:{(port := free_port())}"
    configured = document(
        redis_url,
        upstream("sim", "minimax", provider.issuer),
        admin={"key": {"env": "ADMIN_KEY"}, "port": port},
        console={"oidc": provider.table(*ROLES, redirect_base=base, label="Sign in with Test")},
    )
    environ = environment(configured)
    settings = from_document(configured, environ, "test")
    with serving(create_app(resolve(settings, environ)), settings):
        yield base


def test_the_strict_cookie_works_after_the_way_over_another_site(page: Any, base_url: str, provider: Provider) -> None:
    page.goto(f"{base_url}/console/usage?by=day")
    page.get_by_role("link", name="Sign in with Test").click()
    page.wait_for_selector("#nav")
    assert f"{base_url}/console/usage?by=day" == page.url
    assert "person-1" in page.inner_text("#nav")
    assert 1 == provider.count("/authorize")
    names = {cookie["name"]: cookie["sameSite"] for cookie in page.context.cookies()}
    assert {"__Host-imagegate": "Strict"} == names
    assert "" == page.evaluate("document.cookie")
    page.reload()
    page.wait_for_selector("#nav")


def test_a_refusal_is_a_sentence_that_a_reload_does_not_repeat(page: Any, base_url: str, provider: Provider) -> None:
    provider.claims = {"groups": ["strangers"]}
    page.goto(f"{base_url}/console/")
    page.get_by_role("link", name="Sign in with Test").click()
    page.wait_for_selector(".problem")
    assert page.inner_text(".problem").startswith("None of your groups has a role here.")
    assert f"{base_url}/console/" == page.url
    page.reload()
    page.get_by_role("link", name="Sign in with Test").wait_for()
    assert 0 == page.locator(".problem").count()


def test_a_person_of_two_tenants_switches_between_them(page: Any, base_url: str, provider: Provider) -> None:
    for tenant in ("acme", "beta"):
        admin(base_url, "POST", "/tenants", {"name": tenant})
    provider.claims = {"groups": ["acme-leads", "beta-people"]}
    page.goto(f"{base_url}/console/")
    page.get_by_role("link", name="Sign in with Test").click()
    page.wait_for_selector("#nav")
    assert "lead of acme" in page.inner_text("#nav")
    page.locator("#nav label", has_text="Tenant").locator("select").select_option("beta")
    page.get_by_text("member of beta").wait_for()
    assert page.locator("#nav label", has_text="Tenant").locator("select").input_value() == "beta"
    page.locator("#nav label", has_text="Tenant").locator("select").select_option("acme")
    page.get_by_text("lead of acme").wait_for()
