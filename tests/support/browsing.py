"""How tests use the console's pages in a browser."""

from typing import Any, Final

from tests.support.console import Console
from tests.support.harness import admin

PAGES: Final = {
    "/": "Overview",
    "/tenants": "Tenants",
    "/tenants/acme": "acme",
    "/tenants/acme?tab=keys": "acme",
    "/tenants/acme?tab=members": "acme",
    "/keys": "Keys",
    "/usage": "Usage & cost",
    "/usage?by=tenant&then=model": "Usage & cost",
    "/usage?by=hour&range=1d": "Usage & cost",
    "/requests": "Requests",
    "/requests?view=refusals": "Requests",
    "/pool": "Pool",
    "/pool/sim/main/main-1": "main/main-1",
    "/playground?tenant=acme": "Playground",
    "/settings": "Settings",
    "/settings?tab=access": "Settings",
    "/settings?tab=webhooks": "Settings",
    "/settings?tab=audit": "Settings",
    "/settings?tab=configuration": "Settings",
}
"""Path and heading of each page and tab."""


def sign_in(page: Any, console: Console) -> None:
    page.goto(f"{console.base_url}/")
    page.get_by_label("Admin key").fill(console.admin_key)
    page.keyboard.press("Enter")
    page.wait_for_selector("#nav")


def open_page(page: Any, console: Console, path: str) -> None:
    page.goto(console.base_url + path)
    page.wait_for_selector("main:not([aria-busy]) h1")


def follow_link(page: Any, url: str) -> None:
    """Signs in by a one-time link."""
    page.goto(url.replace("127.0.0.1", "localhost"))
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#nav")


def link_of(console: Console, role: str) -> str:
    """Returns a new one-time link."""
    body = {"name": role, "role": role} | ({"tenant": "acme"} if role in {"lead", "member"} else {})
    url: str = admin(console.base_url.removesuffix("/console"), "POST", "/console/invitations", body).json()["url"]
    return url


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
