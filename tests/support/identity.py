"""A small OpenID provider on this machine, which answers as a test wants."""

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwk, jwt
from structlog.testing import capture_logs

from tests.support.console import Browser
from tests.support.harness import Gateway

CLIENT: Final = "imagegate"
CLIENT_SECRET: Final = "it-is-a-Client-secret%of+tests"
BASE: Final = "http://localhost:8081"
CODE: Final = "code-1"
CALLBACK: Final = "/console/oidc/callback"
Claims = dict[str, Any]
ROLES: Final = (
    ("bosses", "admin", ""),
    ("books", "finance", ""),
    ("eyes", "viewer", ""),
    ("acme-team", "member", "acme"),
    ("acme-leads", "lead", "acme"),
    ("beta-leads", "lead", "beta"),
    ("ghosts", "lead", "nowhere"),
)


@cache
def rsa_key(kid: str = "k1") -> jwk.RSAKey:
    return jwk.RSAKey.generate_key(2048, {"kid": kid}, auto_kid=False)


@dataclass
class Provider:
    """What the provider says, and what it was asked."""

    port: int = 0
    claims: Claims = field(default_factory=dict)
    """Added to the ID token; None removes a claim."""
    sign: "Callable[[Provider, Claims], str] | None" = None
    """Makes the ID token; by default signed by the provider's key."""
    documents: dict[str, Any] = field(default_factory=dict)
    """Replacements of documents by path: an object, a status, bytes, or `hang`."""
    discovery: dict[str, Any] = field(default_factory=dict)
    """Added to the discovery document."""
    key: jwk.RSAKey = field(default_factory=rsa_key)
    published: list[Any] | None = None
    """The public keys; by default that of `key`."""
    asked: list[tuple[str, dict[str, str], str]] = field(default_factory=list)
    """Path, form and Authorization of each request."""
    request: dict[str, str] = field(default_factory=dict)
    """The query of the last authorization request."""
    redeemed: set[str] = field(default_factory=set)
    ended: Event = field(default_factory=Event)

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def table(self, *roles: tuple[str, str, str], **more: object) -> dict[str, object]:
        """Returns `[console.oidc]` with this provider. Each role is the group, the role, and the tenant or ""."""
        named = [
            {"value": value, "role": role} | ({"tenant": tenant} if tenant else {}) for value, role, tenant in roles
        ]
        return {"issuer": self.issuer, "client_id": CLIENT, "redirect_base": BASE, "roles": named} | more

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _, _ in self.asked)

    def respond(self, path: str, form: dict[str, str]) -> Any:
        if path in self.documents:
            return self.documents[path]
        match path:
            case "/.well-known/openid-configuration":
                places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
                own = {name: f"{self.issuer}/{place}" for name, place in places.items()}
                return {"issuer": self.issuer} | own | self.discovery
            case "/keys":
                return {"keys": [self.key.as_dict(private=False)] if self.published is None else self.published}
            case "/token":
                return self._redeem(form)
        return 404

    def _redeem(self, form: dict[str, str]) -> Any:
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        is_right = challenge == self.request["code_challenge"] and form["redirect_uri"] == self.request["redirect_uri"]
        if form["code"] != CODE or form["code"] in self.redeemed or not is_right:
            return (400, {"error": "invalid_grant"})
        self.redeemed.add(form["code"])
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": CLIENT, "sub": "person-1", "iat": now, "exp": now + 300}
        claims |= {"nonce": self.request["nonce"], "groups": ["staff"]} | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        return {"access_token": "unused", "token_type": "Bearer", "id_token": (self.sign or signed)(self, claims)}


def signed(provider: Provider, claims: Claims, *, alg: str = "RS256", kid: str = "k1", key: Any = None) -> str:
    return jwt.encode({"alg": alg, "kid": kid}, claims, key or provider.key, algorithms=[alg])


def part(value: dict[str, Any]) -> str:
    """Encodes a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@dataclass
class Visitor:
    """A browser that signs in by the provider: it keeps the cookie of the attempt."""

    browser: Browser
    provider: Provider
    cookie: str = ""

    def start(self, to: str = "/console/") -> httpx.Response:
        response = self.browser.call("GET", f"/console/oidc/start?to={to}")
        self._keep(response)
        query = parse_qs(urlsplit(response.headers.get("location", "")).query)
        self.provider.request = {name: values[0] for name, values in query.items()}
        return response

    def finish(self, **query: str) -> httpx.Response:
        """Comes back from the provider, without the session's cookie."""
        sent = {"code": CODE, "state": self.provider.request.get("state", ""), "iss": self.provider.issuer} | query
        sent = {name: value for name, value in sent.items() if value}
        headers = {"cookie": f"__Host-oidc={self.cookie}", "sec-fetch-site": "cross-site"}
        own, self.browser.cookie = self.browser.cookie, ""
        response = self.browser.call("GET", f"{CALLBACK}?{httpx.QueryParams(sent)}", **headers)
        self.browser.cookie = self.browser.cookie or own
        self._keep(response)
        return response

    def sign_in(self, to: str = "/console/") -> httpx.Response:
        self.start(to)
        return self.finish()

    def _keep(self, response: httpx.Response) -> None:
        for text in response.headers.get_list("set-cookie"):
            if text.startswith("__Host-oidc="):
                self.cookie = text.partition(";")[0].partition("=")[2].strip('"')


def leads_to(response: httpx.Response) -> str:
    """Returns where the callback's page leads."""
    assert 200 == response.status_code, response.text
    return response.text.partition('content="0;url=')[2].partition('"')[0]


@dataclass(frozen=True)
class Shared:
    """The gateway of this file with its identity provider, and its Redis."""

    gateway: Gateway
    provider: Provider
    redis_url: str


def refused(visitor: Visitor, **query: str) -> tuple[str, str]:
    """Comes back from the provider. Returns: the problem that the page shows, and the reason in the log."""
    with capture_logs() as logged:
        response = visitor.finish(**query)
    assert "__Host-imagegate" not in str(response.headers.get_list("set-cookie"))
    [told] = [one for one in logged if one["event"] == "console_sign_in_refused"]
    place, _, problem = leads_to(response).partition("?problem=")
    assert ("/console/", told["problem"]) == (place, problem)
    assert CODE not in str(logged)
    return problem, told["reason"]


@contextmanager
def providing() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/authorize":
                provider.asked.append((parts.path, {}, ""))
                return self._authorize({name: values[0] for name, values in parse_qs(parts.query).items()})
            return self._answer({})

        def _authorize(self, query: dict[str, str]) -> None:
            """Signs everybody in at once."""
            provider.request = query
            self.send_response(303)
            back = urlencode({"code": CODE, "state": query["state"], "iss": provider.issuer})
            self.send_header("location", f"{query['redirect_uri']}?{back}")
            self.send_header("content-length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["content-length"])).decode()
            self._answer({name: values[0] for name, values in parse_qs(text).items()})

        def _answer(self, form: dict[str, str]) -> None:
            path = urlsplit(self.path).path
            provider.asked.append((path, form, self.headers.get("authorization", "")))
            answer = provider.respond(path, form)
            if answer == "hang":
                provider.ended.wait(60)
                self.close_connection = True
                return
            status, content = (answer, {}) if isinstance(answer, int) else (200, answer)
            if isinstance(answer, tuple):
                status, content = answer
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the gateway has read enough
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        provider.port = server.server_port
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield provider
        finally:
            provider.ended.set()
            server.shutdown()
