"""The composition root: the only place that constructs collaborators."""

import asyncio
import ssl
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway import __version__
from gateway.administration import build_administration
from gateway.backing import connect_redis
from gateway.configuration import Running
from gateway.domain.billing import BillingRule
from gateway.domain.models import Catalog
from gateway.metrics import CONNECTIONS, Metrics
from gateway.metrics.pulse import Pulse
from gateway.observing import Observing, build_observing
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
from gateway.web.draining import DRAIN, Drain, Goodbye, NoAdmission
from gateway.web.errors import ErrorBoundary
from gateway.web.images import Images
from gateway.web.middleware import PublicCors, RequestScope
from gateway.web.ops import Ops
from gateway.web.ports import OwnPort
from gateway.web.readiness import Readiness, RedisHealth
from gateway.wire import native
from gateway.wire.openai import Manners

_LOG = structlog.get_logger("imagegate.app")
_HEALTHZ, _METRICS = "/healthz", "/metrics"
_RESTART_PAUSE_S = 1.0
_CANCEL_AGAIN_S = 0.5
_SWEEP_ROUND_S = 5.0
"""How often somebody looks for what dead processes left behind."""


def create_app(
    settings: Settings,
    environ: Mapping[str, str],
    companions: Sequence[Callable[[], Awaitable[None]]] = (),
    reload: Callable[[Running], Awaitable[None]] | None = None,
    metrics_directory: Path | None = None,
) -> Starlette:
    """The program as an ASGI application. Secrets are read from `environ` and files now.

    `companions` run beside it for as long as it lives; so does `reload`, which may put other configurations in force.
    Several processes of one gateway count in one `metrics_directory`.
    Raises: SettingsError for a secret that is missing, a Redis URL that is none, tracing without its extra.
    """
    observing = build_observing(settings)
    redis = connect_redis(settings, environ)
    inspection = Inspection(redis)
    metrics = Metrics(metrics_directory, settings.metrics.tenants_max)
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
    pulse = _build_pulse(metrics, redis, admission)
    health = RedisHealth(partial(ping, redis), lambda: inspection.problems)
    drain = Drain()
    readiness = Readiness(drain, health, pooling.pool, time.monotonic)
    ops = Ops(metrics, pulse, pooling.pool, readiness, __version__)
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
            pulse.run,
            *companions,
            *reloading,
        ),
        (pooling.roster.start, administration.declaration.start, *observing.starts),
        (admission.flush, pooling.queue.close, pooling.roster.withdraw, *observing.closes),
        {CONNECTIONS: metrics.connections, DRAIN: drain},
    )
    routes = [*_public_routes(images, ops, drain), *administration.admin.routes()]
    return _assemble(routes, settings, metrics, observing, drain, lifespan)


def _assemble(
    routes: Sequence[Route],
    settings: Settings,
    metrics: Metrics,
    observing: Observing,
    drain: Drain,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, object]]],
) -> Starlette:
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Goodbye, drain),
            Middleware(RequestScope, metrics, time.monotonic, observing.ids, observing.terms, observing.tell_spans),
            Middleware(PublicCors, settings.server.cors_origins),
            Middleware(ErrorBoundary),
            Middleware(OwnPort, settings.metrics.port, lambda path: path == _METRICS, frozenset({_HEALTHZ})),
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
    state: Mapping[str, object],
) -> Callable[[Starlette], AbstractAsyncContextManager[Mapping[str, object]]]:
    """What is open and what runs beside the program for as long as it serves."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[Mapping[str, object]]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(redis.aclose)
            for transport in transports:
                await stack.enter_async_context(transport)
            async with asyncio.TaskGroup() as group:
                await asyncio.gather(*(start() for start in starts))
                tasks = [group.create_task(_keep_running(companion)) for companion in companions]
                yield state
                for flush in flushes:
                    await flush()
                await _end(tasks)

    return lifespan


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel until all have ended: redis-py swallows a cancellation now and then."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_CANCEL_AGAIN_S)


def _build_admission(settings: Settings, redis: Client, metrics: Metrics) -> Admission:
    rule = BillingRule(settings.billing.charge_withheld, settings.billing.charge_unconfirmed)
    terms = Terms(rule, settings.requests.lease_s, settings.ledger.keep_days)
    return Admission(redis, terms, metrics, time.monotonic, _new_id)


def _build_pulse(metrics: Metrics, redis: Client, admission: Admission) -> Pulse:
    looks = {
        metrics.unsettled: lambda: admission.owed,
        metrics.redis_breaker_open: lambda: int(redis.guard.breaker.is_open),
    }
    return Pulse(metrics, looks, time.monotonic)


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


def _public_routes(images: Images, ops: Ops, drain: Drain) -> list[Route]:
    ends = [Middleware(NoAdmission, drain)]
    return [
        Route("/v1/images/generations", images.generate, methods=["POST"], middleware=ends),
        *(Route(path, images.generate_native, methods=["POST"], middleware=ends) for path in sorted(native.PATHS)),
        Route("/v1/models", images.list_models),
        Route("/v1/models/{name:path}", images.get_model),
        Route(_HEALTHZ, ops.healthz),
        Route("/readyz", ops.readyz),
        Route(_METRICS, ops.metrics),
        Route("/openapi.json", ops.openapi),
    ]


def _new_id() -> str:
    return uuid.uuid4().hex


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
