"""The pages in a real browser: sign-in, every page, keys by keyboard, accessibility, the budget of the first view."""

from typing import Any, Final

import pytest

from tests.clients.programs import Packages, install
from tests.support.console import Console
from tests.support.harness import admin

pytestmark = pytest.mark.slow
AXE: Final = Packages("axe-core", ("axe-core@4.14.1",), node=20)
PAGES: Final = {
    "/": "Overview",
    "/tenants": "Tenants",
    "/tenants/acme": "acme",
    "/keys": "Keys",
    "/usage": "Usage & cost",
    "/usage?by=tenant&then=model": "Usage & cost",
    "/requests": "Requests",
    "/requests?view=refusals": "Requests",
    "/pool": "Pool",
    "/playground?tenant=acme": "Playground",
    "/settings": "Settings",
    "/settings?tab=access": "Settings",
    "/settings?tab=webhooks": "Settings",
    "/settings?tab=audit": "Settings",
    "/settings?tab=configuration": "Settings",
}
NEEDS: Final = {
    "/": "GET /admin/v1/overview",
    "/requests": "GET /admin/v1/usage/records?order",
    "/requests?view=refusals": "GET /admin/v1/refusals",
    "/settings?tab=configuration": "GET /admin/v1/configuration",
}
"""Routes without which a page is absent."""
_RULES: Final = "{runOnly: {type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']}}"
_VIOLATIONS: Final = f"axe.run({_RULES}).then(found => found.violations.map(each => [each.id, each.nodes[0].html]))"
_REQUESTS_MAX: Final = 8


def sign_in(page: Any, console: Console) -> None:
    page.goto(f"{console.base_url}/")
    page.get_by_label("Admin key").fill(console.admin_key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#nav")


def open_page(page: Any, console: Console, path: str) -> None:
    page.goto(console.base_url + path)
    page.wait_for_selector("main:not([aria-busy]) h1")


def pages(page: Any) -> dict[str, str]:
    """Returns the pages of which this gateway serves the data."""
    api = page.evaluate("fetch('/console/session').then(answer => answer.json()).then(session => session.api)")
    return {path: title for path, title in PAGES.items() if path not in NEEDS or NEEDS[path] in api}


def test_each_page_says_its_title_and_shows_no_error(page: Any, console: Console) -> None:
    sign_in(page, console)
    for path, title in pages(page).items():
        open_page(page, console, path)
        assert title == page.inner_text("h1")
        assert page.title().startswith(f"{title} · ")
        assert 0 == page.locator(".problem").count(), (path, page.inner_text("main"))
        assert "" == page.evaluate("document.cookie")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(page: Any, console: Console, theme: str) -> None:
    source = (install(AXE) / "node_modules" / "axe-core" / "axe.min.js").read_text()
    sign_in(page, console)
    page.emulate_media(color_scheme=theme)
    shown = pages(page)
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for path in shown:
            open_page(page, console, path)
            assert [] == page.evaluate(f"{source}; {_VIOLATIONS}"), (path, width)
            assert 0 >= page.evaluate("document.documentElement.scrollWidth - innerWidth"), (path, width)


def test_a_key_is_created_and_revoked_without_a_mouse(page: Any, console: Console) -> None:
    sign_in(page, console)
    open_page(page, console, "/tenants/acme?tab=keys")
    press(page, "Create key")
    page.keyboard.type("by-keyboard")
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog .told.done")
    assert page.inner_text("dialog pre >> nth=0").startswith("sk-ig-")
    press(page, "I have stored it")
    page.wait_for_selector("dialog", state="detached")
    assert "sk-ig-" not in page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, location.href])")
    press(page, "Revoke by-keyboard")
    label = page.inner_text("dialog .field label")
    page.keyboard.type(label.removeprefix("Type ").removesuffix(" to confirm"))
    page.keyboard.press("Enter")
    page.wait_for_selector("dialog", state="detached")
    page.wait_for_selector("text=by-keyboard", state="detached")


def press(page: Any, name: str) -> None:
    """Moves the focus by the Tab key until it is on a button, then presses it."""
    page.get_by_role("button", name=name, exact=True).wait_for()
    for _ in range(200):
        if name == page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"
        ):
            page.keyboard.press("Enter")
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not reach '{name}'")


@pytest.mark.parametrize("role", ["finance", "viewer", "lead", "member"])
def test_each_role_sees_pages_without_an_error(page: Any, console: Console, role: str) -> None:
    tenant = {"tenant": "acme"} if role in {"lead", "member"} else {}
    made = admin(
        console.base_url.removesuffix("/console"), "POST", "/console/invitations", {"name": role, "role": role} | tenant
    )
    page.goto(made.json()["url"].replace("127.0.0.1", "localhost"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#nav")
    for path in page.eval_on_selector_all("#nav a", "links => links.map(each => each.getAttribute('href'))"):
        open_page(page, console, path.removeprefix("/console"))
        assert 0 == page.locator(".problem").count(), (path, page.inner_text("main"))
        assert page.inner_text("#nav [aria-current]") in {page.inner_text("h1"), "Overview"}


def test_html_in_a_label_stays_text(page: Any, console: Console) -> None:
    sign_in(page, console)
    open_page(page, console, "/tenants/acme?tab=keys")
    page.get_by_role("button", name="Create key").click()
    page.get_by_label("Label").fill("<img src=x onerror=alert(1)>")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="I have stored it").click()
    page.wait_for_selector("text=<img src=x onerror=alert(1)>")
    assert 0 == page.locator("main img").count()


def test_state_is_in_the_address_and_the_back_button_restores_it(page: Any, console: Console) -> None:
    sign_in(page, console)
    open_page(page, console, "/usage")
    page.get_by_label("Group by").select_option("model")
    page.wait_for_url("**/usage?by=model")
    page.wait_for_selector("#filter-by >> css=option[value=model]:checked", state="attached")
    page.go_back()
    page.wait_for_selector("#filter-by >> css=option:checked:not([value=model])", state="attached")


def test_a_session_that_is_over_asks_to_sign_in_and_returns_to_the_page(page: Any, console: Console) -> None:
    sign_in(page, console)
    open_page(page, console, "/keys")
    page.context.clear_cookies()
    page.get_by_role("link", name="Tenants").click()
    page.wait_for_selector("text=The session has ended")
    page.get_by_label("Admin key").fill(console.admin_key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#nav")
    assert "Tenants" == page.inner_text("h1")


def test_the_first_view_needs_few_requests(page: Any, console: Console) -> None:
    sign_in(page, console)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if not request.url.startswith("data:") else None)
    open_page(page, console, "/")
    page.wait_for_load_state("networkidle")
    assert _REQUESTS_MAX >= len(asked), asked


def test_without_javascript_the_page_names_the_command_line(chromium: Any, console: Console) -> None:
    context = chromium.new_context(java_script_enabled=False, ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"{console.base_url}/")
    assert "imagegate --help" in page.inner_text("body")
    context.close()
