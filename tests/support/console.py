"""A browser of the console: cookies, and the headers that a browser's page sends."""

from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.support.harness import ADMIN_KEY, admin

PAGE = {"x-imagegate-console": "1", "sec-fetch-site": "same-origin"}
COOKIE = "__Host-imagegate"


@dataclass
class Browser:
    """Keeps the cookie itself: httpx stores no `Secure` cookie of a plain address, as browsers do on localhost."""

    url: str
    cookie: str = ""
    headers: dict[str, str] = field(default_factory=lambda: dict(PAGE))

    def call(self, method: str, path: str, body: object = None, **headers: str) -> httpx.Response:
        sent = self.headers | ({"cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}) | headers
        response = httpx.request(method, self.url + path, json=body, headers=sent, verify=False, timeout=30)
        for text in response.headers.get_list("set-cookie"):
            if text.startswith(f"{COOKIE}="):
                self.cookie = text.partition(";")[0].partition("=")[2].strip('"')
        return response

    def get(self, path: str) -> httpx.Response:
        return self.call("GET", path)

    def session(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/console/session").json()
        return found

    def sign_in(self, key: str = ADMIN_KEY) -> "Browser":
        response = self.call("POST", "/console/session", {"key": key})
        assert 200 == response.status_code, response.text
        return self

    def redeem(self, token: str) -> httpx.Response:
        return self.call("POST", "/console/session/link", {"token": token})


def invite(url: str, role: str, tenant: str | None = None, name: str = "ann") -> str:
    """Returns the token of a new one-time link."""
    body = {"name": name, "role": role} | ({"tenant": tenant} if tenant else {})
    made = admin(url, "POST", "/console/invitations", body)
    assert 201 == made.status_code, made.text
    token: str = made.json()["url"].partition("#")[2]
    return token


def person(url: str, role: str, tenant: str | None = None, name: str = "ann") -> Browser:
    """Returns the browser of someone who signed in by a link."""
    browser = Browser(url)
    response = browser.redeem(invite(url, role, tenant, name))
    assert 200 == response.status_code, response.text
    return browser


def error_code(response: httpx.Response) -> str:
    code: str = response.json()["error"]["code"]
    return code


@dataclass(frozen=True)
class Console:
    """Where the console is, and the admin key that signs in."""

    base_url: str
    admin_key: str = ADMIN_KEY
