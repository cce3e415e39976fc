"""The composition root: the only place that constructs collaborators."""

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.administration import build_administration
from gateway.backing import connect_redis
from gateway.configuration import Running
from gateway.domain.billing import BillingRule
from gateway.domain.models import Catalog
from gateway.metrics import Metrics
from gateway.pooling import build_pooling, build_prober
from gateway.settings import Settings
from gateway.stores import Client, ping
from gateway.stores.admission import Admission
from gateway.stores.credentials import Credentials
from gateway.stores.inspection import Inspection
from gateway.stores.ledger import Ledger
from gateway.stores.sweeper import Sweeper
from gateway.stores.tickets import Terms
from gateway.stores.verification import Verifier
from gateway.supply import USER_AGENT, build_catalog, build_supply, build_upstreams, size_policy
from gateway.transport import AiohttpTransport
from gateway.upstream import Upstreams
from gateway.upstream.pages import Pages
from gateway.web.admin.pool import PoolSection
from gateway.web.admin.usage import UsageSection
from gateway.web.bodies import BodyLimits
from gateway.web.errors import ErrorBoundary
from gateway.web.images import Images
from gateway.web.middleware import PublicCors, RequestScope
from gateway.web.ops import Ops, RedisHealth
from gateway.wire import native
from gateway.wire.openai import Manners

_LOG = structlog.get_logger("imagegate.app")
_RESTART_PAUSE_S = 1.0
_SWEEP_ROUND_S = 5.0
"""How often somebody looks for what dead processes left behind."""


def create_app(
    settings: Settings,
    environ: Mapping[str, str],
    companions: Sequence[Callable[[], Awaitable[None]]] = (),
    reload: Callable[[Running], Awaitable[None]] | None = None,
) -> Starlette:
    """The program as an ASGI application. Secrets are read from `environ` and files now.

    `companions` run beside it for as long as it lives; so does `reload`, which may put other configurations in force.
    Raises: SettingsError for a secret that is missing or a Redis URL that is none.
    """
    redis = connect_redis(settings, environ)
    inspection = Inspection(redis)
    metrics = Metrics(CollectorRegistry())
    catalog = build_catalog(settings)
    supply = build_supply(settings, environ)
    pooling = build_pooling(settings, environ, redis, metrics, supply.pools)
    usage = _build_usage(settings, redis)
    admission = _build_admission(settings, redis, metrics)
    certificates = ssl.create_default_context()
    direct, public = AiohttpTransport(certificates), AiohttpTransport(certificates, public_only=True)
    sweeper = _build_sweeper(settings, redis, admission)
    upstreams = build_upstreams(settings, supply, pooling.pool, admission, metrics, direct, public)
    pages = Pages(direct, lambda: upstreams.endpoints, USER_AGENT)
    prober = build_prober(settings, redis, pooling, pages)
    limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
    sections = (PoolSection(pooling.pool, pooling.roster, prober, limits), usage)
    administration = build_administration(
        settings, environ, redis, admission, lambda: pooling.roster.upstreams, catalog, sections
    )
    images = _build_images(settings, administration.credentials, admission, upstreams, catalog, limits)
    health = RedisHealth(partial(ping, redis), lambda: inspection.problems, lambda: redis.guard.breaker.is_open)
    ops = Ops(metrics, pooling.pool, health)
    running = Running(catalog, pooling.roster.declare, upstreams.configure, administration.declaration.reload)
    reloading = (partial(reload, running),) if reload else ()

    lifespan = _lifespan(
        redis,
        (direct, public),
        (
            inspection.run,
            *administration.companions,
            admission.run,
            admission.keep_alive,
            sweeper.run,
            *pooling.companions,
            prober.run,
            *companions,
            *reloading,
        ),
        (pooling.roster.start, administration.declaration.start),
        (admission.flush, pooling.queue.close),
    )
    return _assemble([*_public_routes(images, ops), *administration.admin.routes()], settings, metrics, lifespan)


def _assemble(
    routes: Sequence[Route],
    settings: Settings,
    metrics: Metrics,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]],
) -> Starlette:
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(RequestScope, metrics, time.monotonic, _new_request_id),
            Middleware(PublicCors, settings.server.cors_origins),
            Middleware(ErrorBoundary),
        ],
        exception_handlers={HTTPException: _leave_to_boundary},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # a redirect has no OpenAI error body, and clients lose the request's on it
    return app


def _lifespan(
    redis: Client,
    transports: Sequence[AiohttpTransport],
    companions: Sequence[Callable[[], Awaitable[None]]],
    starts: Sequence[Callable[[], Awaitable[None]]],
    flushes: Sequence[Callable[[], Awaitable[None]]],
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """What is open and what runs beside the program for as long as it serves."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(redis.aclose)
            for transport in transports:
                await stack.enter_async_context(transport)
            async with asyncio.TaskGroup() as group:
                await asyncio.gather(*(start() for start in starts))
                tasks = [group.create_task(_keep_running(companion)) for companion in companions]
                yield
                for flush in flushes:
                    await flush()
                for task in tasks:
                    task.cancel()

    return lifespan


def _build_admission(settings: Settings, redis: Client, metrics: Metrics) -> Admission:
    rule = BillingRule(settings.billing.charge_withheld, settings.billing.charge_unconfirmed)
    terms = Terms(rule, settings.requests.lease_s, settings.ledger.keep_days)
    return Admission(redis, terms, metrics, time.monotonic, _new_id)


def _build_sweeper(settings: Settings, redis: Client, admission: Admission) -> Sweeper:
    round_s = min(_SWEEP_ROUND_S, settings.requests.lease_s / 2)
    return Sweeper(redis, admission.settle_expired, time.time, round_s=round_s, own_id=_new_id())


def _build_usage(settings: Settings, redis: Client) -> UsageSection:
    ledger = Ledger(redis)
    return UsageSection(ledger, Verifier(ledger, settings.ledger.keep_days, time.time), time.time)


def _build_images(
    settings: Settings,
    credentials: Credentials,
    admission: Admission,
    upstreams: Upstreams,
    catalog: Catalog,
    limits: BodyLimits,
) -> Images:
    return Images(
        credentials,
        admission,
        upstreams,
        catalog,
        Manners(size_policy(settings), settings.images.response_format_on_gpt_image == "refuse"),
        limits,
        replace(limits, max_bytes=settings.server.max_native_body_bytes),
        settings.server.stream_keep_alive_s,
        time.time,
        time.monotonic,
    )


def _public_routes(images: Images, ops: Ops) -> list[Route]:
    return [
        Route("/v1/images/generations", images.generate, methods=["POST"]),
        *(Route(path, images.generate_native, methods=["POST"]) for path in sorted(native.PATHS)),
        Route("/v1/models", images.list_models),
        Route("/v1/models/{name:path}", images.get_model),
        Route("/healthz", ops.healthz),
        Route("/readyz", ops.readyz),
        Route("/metrics", ops.metrics),
        Route("/openapi.json", ops.openapi),
    ]


def _new_id() -> str:
    return uuid.uuid4().hex


def _new_request_id() -> str:
    return f"req_{_new_id()}"


async def _keep_running(companion: Callable[[], Awaitable[None]]) -> None:
    """A companion that fails is started again: it must not take the requests under way with it."""
    while True:
        try:
            await companion()
        except Exception:  # noqa: BLE001 - whatever it is, it is logged and tried again
            _LOG.exception("companion_failed")
        await asyncio.sleep(_RESTART_PAUSE_S)


async def _leave_to_boundary(_: object, failure: Exception) -> None:
    """Starlette would answer its own plain text: let the boundary see it."""
    raise failure
