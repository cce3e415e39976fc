"""Receivers of events: an HTTP server that misbehaves as told, and the parts that send to it."""

import base64
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Final

from gateway.domain.accounts import make_secret
from gateway.domain.events import EventType
from gateway.events.addresses import AddressRules, origin_of
from gateway.events.channels import Channels
from gateway.events.deliveries import Delivery, DeliveryStore, events_record
from gateway.events.endpoint_store import EndpointStore
from gateway.events.endpoints import Channel, Endpoint
from gateway.events.mail import MailServer
from gateway.events.outbox import Outbox
from gateway.events.sender import LEADER_S, EventSender
from gateway.generation.posts import Poster
from gateway.generation.transport import AiohttpTransport
from gateway.generation.transport.proxies import ProxyRules
from gateway.observability.metrics import Metrics
from gateway.redis import Client, LeaderLock, execute
from gateway.scheduler.encryption import SecretBox

SECRET: Final = "whsec_" + base64.b64encode(bytes(range(32))).decode()
HANG: Final = "hang"
CLOSE: Final = "close"


@dataclass
class Receiver:
    """A server that answers with each of `answers` in turn, then with 200: a status, or one with headers and body."""

    answers: list[Any] = field(default_factory=list)
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    """Headers by their lower-case names, and bodies."""
    port: int = 0
    ended: Event = field(default_factory=Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def webhook_ids(self) -> list[str]:
        """The `webhook-id` of each request."""
        return [headers["webhook-id"] for headers, _ in self.received]


@contextmanager
def receiving(*answers: Any) -> Iterator[Receiver]:
    receiver = Receiver(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
            answer = receiver.answers.pop(0) if receiver.answers else 200
            if answer == HANG:
                receiver.ended.wait(60)
            if answer in (HANG, CLOSE):
                self.close_connection = True
                return
            status, headers, sent = answer if isinstance(answer, tuple) else (answer, {}, b"")
            self.send_response(status)
            for name, value in {"content-length": str(len(sent)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(sent)
            except OSError:  # the gateway has read enough
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.ended.set()
            server.shutdown()


def declared(name: str, url: str, *patterns: str, channel: Channel = Channel.WEBHOOK, tenant: str = "") -> Endpoint:
    secret = make_secret(SECRET) if channel is Channel.WEBHOOK else None
    return Endpoint(name, url, channel, patterns or ("*",), name, tenant, secret, is_declared=True)


@dataclass
class Sending:
    """One process that sends events."""

    redis: Client
    outbox: Outbox
    endpoints: EndpointStore
    deliveries: DeliveryStore
    sender: EventSender
    metrics: Metrics

    async def decide(self, *names: str, tenant: str = "acme", kind: EventType = EventType.QUOTA_THRESHOLD) -> None:
        """Appends events, as a script would."""
        for name in names:
            data = {"tenant": tenant, "quota": "images_per_month", "percent": 80, "used": 80, "limit": 100}
            await self.outbox.append(kind, data, tenant, name=name)

    async def hurry(self, endpoint: str) -> float:
        """Makes all deliveries of an endpoint due. Returns the seconds until the first one would have been."""
        names = [events_record(self.redis.prefix, name) for name in (f"pending:{endpoint}", "due", "holds")]
        found = await execute(self.redis, self.redis.zrange(names[0], 0, -1, withscores=True), list[tuple[str, float]])
        for name, _ in found:
            await execute(self.redis, self.redis.zadd(names[0], {name: 1}), object)
        await execute(self.redis, self.redis.zadd(names[1], {endpoint: 1}, xx=True), object)
        await execute(self.redis, self.redis.hdel(names[2], endpoint), object)
        return min(due_ms for _, due_ms in found) / 1000 - time.time() if found else 0

    async def latest(self, endpoint: str) -> list[Delivery]:
        return await self.deliveries.list_latest(endpoint)

    def count(self, result: str, channel: str = "webhook") -> float | None:
        labels = {"channel": channel, "result": result}
        return self.metrics.registry.get_sample_value("imagegate_event_deliveries_total", labels)


def sending(
    redis: Client,
    transport: AiohttpTransport,
    endpoints: Sequence[Endpoint] = (),
    *,
    public: AiohttpTransport | None = None,
    trusted: Sequence[str] = (),
    timeout_s: float = 20.0,
    ports: Sequence[int] = (443,),
    mail: MailServer | None = None,
    own_id: str = "a",
    proxies: ProxyRules | None = None,
) -> Sending:
    """`trusted` are URLs, besides those of `endpoints`, that may be local."""
    metrics, deliveries = Metrics(), DeliveryStore(redis)
    box = SecretBox([make_secret("0123456789abcdef" * 2)])
    outbox = Outbox(redis, lambda: ("sim",))
    store = EndpointStore(redis, box, endpoints, time.time, 86_400)
    origins = frozenset(map(origin_of, (*trusted, *(one.url for one in endpoints)))) - {""}

    async def spenders(_: str) -> Sequence[tuple[str, str]]:
        return [("KEY1 shop", "12.50"), ("KEY2", "3.00")]

    channels = Channels(
        AddressRules(frozenset(ports), origins),
        Poster(transport, public or transport, proxies or ProxyRules(), timeout_s).post,
        mail.send if mail else None,
        mail.sender if mail else "",
        spenders,
        "https://console.example.com",
        time.time,
    )
    lock = LeaderLock(redis, "events_leader", own_id, LEADER_S)
    sender = EventSender(redis, outbox, store, deliveries, channels, metrics, lock, lambda: 0.0)
    return Sending(redis, outbox, store, deliveries, sender, metrics)
