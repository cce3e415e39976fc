"""Scripted upstreams, and jobs that run on them."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.accounts import AccountLimits, PoolConfig, WaitConfig
from gateway.domain.catalog import Model, PlannedTarget, Target
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageJob, ImageResult, ResponseFormat
from gateway.domain.pricing import PerImage, Price, Rate
from gateway.domain.sizes import SizePolicy
from gateway.domain.tracing import Trace
from gateway.generation.calls import CallLimits, UpstreamClient
from gateway.generation.context import RequestContext
from gateway.generation.conversion import ImageConverter
from gateway.generation.downloads import DownloadLimits, ImageDownloader
from gateway.generation.runner import JobPolicy, Upstreams
from gateway.generation.service import GenerationService
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamEndpoint, UpstreamSet
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy
from gateway.redis import connect
from tests.support.admitting import admitting, put_tenant
from tests.support.pooling import UNLIMITED, account, pooling


@dataclass
class Waiter:
    """The client of a request; by default it never disconnects."""

    seems_gone: Callable[[], Awaitable[bool]] | None = None
    """Called before each call is sent."""
    goes: asyncio.Event = field(default_factory=asyncio.Event)

    async def is_disconnected(self) -> bool:
        return self.goes.is_set() or (self.seems_gone is not None and await self.seems_gone())

    async def left(self) -> None:
        await self.goes.wait()


ONE_AT_ONCE: Final = AccountLimits(100_000, 1_000_000, 1)


NEVER_LEFT_ALONE = PoolConfig(breaker_failures=1000)
"""Without a circuit breaker, so that single calls can be observed."""


JPEG = b"\xff\xd8\xff\xe0" + bytes(200)


@dataclass
class Site:
    """One upstream of a set-up: its keys are "account/name"; a key's secret is its name."""

    name: str
    url: str
    keys: tuple[str, ...] = ("main/main-1",)
    per_call: int = 9
    provider: str = "minimax"
    supports_base64: bool = True
    limits: AccountLimits = UNLIMITED
    """Of each account."""

    def accounts(self) -> list[tuple[str, list[str]]]:
        """Names, with the names of their keys."""
        named: dict[str, list[str]] = {}
        for entry in self.keys:
            owner, _, key = entry.partition("/")
            named.setdefault(owner, []).append(key)
        return list(named.items())

    def target(self) -> Target:
        spelling = {"minimax": "image-01", "302ai": "minimaxi-image-01"}[self.provider]
        declared = {"max_images_per_call": self.per_call, "base64": self.supports_base64}
        capability = PROVIDERS["minimax"].capability("image-01", declared)
        return Target(self.name, spelling, capability)


@dataclass(frozen=True)
class Parsed:
    """A request for images."""

    job: ImageJob
    model: Model

    @property
    def targets(self) -> tuple[PlannedTarget, ...]:
        return self.model.plan(self.job, SizePolicy.NEAREST)


@asynccontextmanager
async def running(
    redis_url: str,
    *sites: Site,
    max_attempts: int = 3,
    deadline_s: float = 30.0,
    reserve_s: float = 0.0,
    call_timeout_s: float = 20.0,
    download_timeout_s: float = 10.0,
    max_wait_s: float = 2.0,
    fallback_after_s: float = 0.3,
    terms: PoolConfig = NEVER_LEFT_ALONE,
    monotonic: Callable[[], float] = time.monotonic,
    is_new: bool = False,
    admission_url: str | None = None,
    is_flushed: bool = False,
    rate: Rate = PerImage(3500),  # noqa: B008 - frozen
) -> AsyncIterator[Callable[..., Any]]:
    """`make(count=1, prompt=..., delivery=..., context=...)` makes one request at the sites.

    Instead of a context it accepts some fields: trace, disconnected, max_wait_s, deadline_s.

    The accounts are registered in Redis and unused, unless the gateway `is_new`. `is_flushed`: at the end every job is
    settled, including cancelled ones.
    """
    accounts = [
        account(name, *keys, upstream=site.name, limits=site.limits) for site in sites for name, keys in site.accounts()
    ]
    endpoints = {
        site.name: UpstreamEndpoint(site.name, PROVIDERS[site.provider], site.url, LinkPolicy([site.url]))
        for site in sites
    }
    supply = UpstreamSet(endpoints, (), {site.name: WaitConfig(max_wait_s, fallback_after_s) for site in sites})
    model = Model("image-01", (), (Price(0, rate),), tuple(site.target() for site in sites))
    async with AsyncExitStack() as stack:
        redis, counters = connect(redis_url, 1.0), connect(admission_url or redis_url, 1.0)
        for client in (redis, counters):
            stack.push_async_callback(client.aclose)
        process = await stack.enter_async_context(pooling(redis, *accounts, terms=terms, is_new=is_new))
        direct = await stack.enter_async_context(AiohttpTransport())
        public = await stack.enter_async_context(AiohttpTransport(public_only=True))
        admission, customer = admitting(counters, metrics=process.metrics), await put_tenant(counters)
        caller = UpstreamClient(
            direct, process.pool, CallLimits(2, call_timeout_s, 1, 2**26), process.metrics, "test", time.monotonic
        )
        fetcher = ImageDownloader(public, direct, DownloadLimits(2, download_timeout_s, 2**25), "test")
        policy = JobPolicy(deadline_s, reserve_s, max_attempts)
        upstreams = Upstreams(process.pool, caller, fetcher, process.metrics, supply, policy, time.time, monotonic)
        service = GenerationService(admission, upstreams, ImageConverter(process.metrics), None, monotonic)

        async def make(
            count: int = 1,
            prompt: str = "a lake",
            delivery: ResponseFormat = ResponseFormat.URL,
            trace: Trace | None = None,
            supply: UpstreamSet | None = None,
            context: RequestContext | None = None,
            **limits: Any,
        ) -> ImageResult:
            if supply:
                upstreams.configure(supply)
            context = context or RequestContext("req_1", monotonic(), trace=trace or Trace(), **limits)
            return await service.generate(customer, Parsed(ImageJob(prompt, count, delivery), model), context)

        yield make
        if is_flushed:
            await admission.flush()


async def fault_of(make: Callable[..., Any], **job: object) -> ErrorCode:
    with pytest.raises(GatewayError) as caught:
        await make(**job)
    return caught.value.error_code


Answer = int | str | float
"""A MiniMax code, "ok", "cut", "hang", "html" or "empty"; with a status: "http", "json" and "cloudflare" for a proxy's
responses, "own" for the provider's error, "made" for images; "made 200 1004" is images beside a code.
"""


@dataclass
class Scripted:
    """An upstream that responds to each key by its script; the last line of a script repeats."""

    scripts: dict[str, list[Answer]]
    default: list[Answer] = field(default_factory=lambda: ["ok"])
    calls: Counter[str] = field(default_factory=Counter)
    images: int = 0
    url: str = ""

    def app(self) -> Starlette:
        paths = ("/v1/image_generation", "/minimaxi/v1/image_generation")
        return Starlette(routes=[Route(path, self._answer, methods=["POST"]) for path in paths])

    async def _answer(self, request: Request) -> Response:
        body = msgspec.json.decode(await request.body())
        key = request.headers["authorization"].removeprefix("Bearer ")
        script = self.scripts.get(key, self.default)
        answer = script[min(self.calls[key], len(script) - 1)]
        self.calls[key] += 1
        return self._render(answer, body)

    def _render(self, answer: Answer, body: dict[str, Any]) -> Response:
        if isinstance(answer, int):
            return _json({"base_resp": {"status_code": answer, "status_msg": "scripted"}})
        kind, _, status = str(answer).partition(" ")
        if kind in {"http", "cloudflare"}:
            headers = {"cf-ray": "8f0c1d2e3a4b5c6d-FRA"} if kind == "cloudflare" else None
            return Response("<html>", int(status), headers, "text/html")
        if kind in {"json", "own"}:
            error = {"message": "bad gateway"} if kind == "json" else {"base_resp": {"status_code": 1000}}
            return Response(msgspec.json.encode(error), int(status), media_type="application/json")
        if answer == "html":
            return Response("<html>", media_type="text/html")
        if answer == "cut":
            return Response(b"{", headers={"content-length": "100"})
        count = 0 if answer == "empty" else body.get("n", 1)
        self.images += count
        images = [base64.b64encode(JPEG).decode()] * count
        made_status, _, code = status.partition(" ")
        base_resp = {"status_code": int(code or 0), "status_msg": "scripted"}
        return _json({"data": {"image_base64": images}, "base_resp": base_resp}, int(made_status or 200))


def _json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
