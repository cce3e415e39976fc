"""The composition root: the only place that constructs collaborators."""

import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.api import minimax
from gateway.api.admin.pool import PoolSection
from gateway.api.asgi import App, AsgiEndpoint
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import BodyLimits
from gateway.api.dedicated_ports import (
    HEALTHZ,
    METRICS,
    OPENAPI,
    READYZ,
    DedicatedPort,
    DedicatedPortMiddleware,
    is_admin,
    is_metrics,
)
from gateway.api.errors import ErrorMiddleware
from gateway.api.health import HealthRoutes
from gateway.api.images import ImageOptions, ImageRoutes
from gateway.api.middleware import PublicCors, RequestContextMiddleware
from gateway.api.openai import OpenAIOptions
from gateway.api.rejection_limits import RejectionLimits
from gateway.api.shutdown import DRAIN, ShutdownState
from gateway.app.admin import AdminParts, build_admin
from gateway.app.metering import MeteringParts, build_journal, build_metering, build_replayer
from gateway.app.redis import connect_redis
from gateway.app.reload import ReloadTargets
from gateway.app.scheduler import USER_AGENT, SchedulerParts, build_key_checker, build_scheduler, build_upstreams
from gateway.app.telemetry import Telemetry, build_observing, build_ops
from gateway.config import Settings
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.domain.sizes import SizePolicy
from gateway.generation import Upstreams
from gateway.generation.key_checker import KeyHealthMonitor, Suspects
from gateway.generation.key_checks import KeyChecker
from gateway.generation.memory_budget import ByteBudget
from gateway.generation.service import GenerationService
from gateway.generation.transport import AiohttpTransport
from gateway.lifespan import AsyncCallback, Lifespan
from gateway.observability.metrics import CONNECTIONS, CONNECTIONS_OVER_BOUND, Metrics
from gateway.redis import Client
from gateway.redis.journal import Journal


@dataclass(frozen=True, slots=True)
class _Core:
    """What serves every request, whichever route it came by."""

    settings: Settings
    metrics: Metrics
    drain: ShutdownState
    budget: ByteBudget
    redis: Client
    catalog: Catalog
    journal: Journal
    pooling: SchedulerParts
    books: MeteringParts
    transports: tuple[AiohttpTransport, AiohttpTransport]
    """To configured addresses, and to public ones only."""
    upstreams: Upstreams
    prober: KeyHealthMonitor


def create_app(
    config: Config,
    reload: Callable[[ReloadTargets], Awaitable[None]] | None = None,
    metrics_directory: Path | None = None,
) -> Starlette:
    """Builds the gateway as an ASGI application.

    `reload` is a background task of the caller, which may apply other configurations.
    The processes of one gateway share one `metrics_directory`.
    Raises: SettingsError for an invalid Redis URL, or tracing without its extra.
    """
    settings = config.settings
    observing = build_observing(settings)
    core = _build_core(config, metrics_directory)
    pooling, books, catalog = core.pooling, core.books, core.catalog
    limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
    sections = (PoolSection(pooling.pool, pooling.roster, core.prober, limits), books.usage)
    administration = build_admin(
        config, core.redis, books.admission, lambda: pooling.roster.upstreams, catalog, sections
    )
    own_ports = _own_ports(settings)
    ops = build_ops(core.redis, core.metrics, books.admission, pooling.pool, core.drain, core.budget, own_ports)
    running = ReloadTargets(
        catalog, pooling.roster.declare, core.upstreams.configure, administration.declaration.reload
    )
    reloading = (partial(reload, running),) if reload else ()
    tasks = (*ops.background_tasks, *administration.background_tasks, *reloading)
    starts = (administration.declaration.start, *observing.starts)
    life = _build_life(core, starts, tasks, observing.closes)
    routes = [*_public_routes(_build_images(core, administration, limits), ops.routes), *administration.admin.routes()]
    return _assemble(routes, core, observing, life, own_ports)


def _build_core(config: Config, metrics_directory: Path | None) -> _Core:
    settings, redis = config.settings, connect_redis(config)
    metrics = Metrics(metrics_directory, settings.metrics.max_tenant_series)
    catalog = Catalog([])
    catalog.take_over(config.catalog)  # a reload changes it
    journal = build_journal(config)
    pooling = build_scheduler(config, redis, metrics, journal)
    books = build_metering(config, redis, metrics, journal)
    certificates = ssl.create_default_context()
    transports = AiohttpTransport(certificates), AiohttpTransport(certificates, public_only=True)
    suspects = Suspects(time.monotonic)
    upstreams = build_upstreams(config, pooling, metrics, *transports, suspects)
    pages = KeyChecker(transports[0], lambda: upstreams.endpoints, USER_AGENT)
    prober = build_key_checker(config, redis, pooling, pages, suspects)
    drain, budget = ShutdownState(), ByteBudget(settings.server.max_memory_bytes)
    return _Core(
        *(settings, metrics, drain, budget, redis, catalog, journal, pooling, books, transports, upstreams, prober)
    )


def _build_life(
    core: _Core, starts: Sequence[AsyncCallback], tasks: Sequence[AsyncCallback], closes: Sequence[AsyncCallback]
) -> Lifespan:
    """Startup steps, background tasks and shutdown steps, in that order."""
    journal, pooling, books, metrics = core.journal, core.pooling, core.books, core.metrics
    replayer = build_replayer(journal, books.admission, pooling.releases)
    prober = core.prober
    return Lifespan(
        core.redis,
        core.transports,
        (journal.start, pooling.roster.start, *starts),
        (*books.background_tasks, replayer.run, *pooling.background_tasks, prober.run, prober.check_suspects, *tasks),
        (
            partial(books.admission.flush, core.drain.left_s),
            core.upstreams.flush,
            books.transfers.flush,
            journal.close,
            pooling.queue.close,
            pooling.roster.withdraw,
            *closes,
        ),
        {
            CONNECTIONS: metrics.connections,
            CONNECTIONS_OVER_BOUND: metrics.connections_over_bound,
            DRAIN: core.drain,
        },
    )


def _assemble(
    routes: Sequence[Route],
    core: _Core,
    observing: Telemetry,
    life: Lifespan,
    own_ports: Sequence[DedicatedPort],
) -> Starlette:
    app = App(
        routes=routes,
        middleware=[
            Middleware(RequestContextMiddleware, core.metrics, time.monotonic, observing, core.drain, core.budget),
            Middleware(PublicCors, core.settings.server.cors_origins),
            Middleware(ErrorMiddleware),
            Middleware(DedicatedPortMiddleware, own_ports),
        ],
        lifespan=life.lifespan,
    )
    app.router.redirect_slashes = False  # a redirect has no OpenAI error body, and clients lose the request's on it
    return app


def _own_ports(settings: Settings) -> list[DedicatedPort]:
    return [
        DedicatedPort(table.port, owns, frozenset(name.lower() for name in (table.host, *table.allowed_hosts)))
        for table, owns in ((settings.admin, is_admin), (settings.metrics, is_metrics))
        if table.port
    ]


def _build_images(core: _Core, administration: AdminParts, limits: BodyLimits) -> ImageRoutes:
    settings, books = core.settings, core.books
    authenticator = TenantAuthenticator(
        core.drain,
        administration.credentials,
        administration.guesses,
        RejectionLimits(settings.server.rejections_per_second, time.monotonic),
        books.admission,
        books.transfers,
    )
    options = ImageOptions(
        OpenAIOptions(SizePolicy(settings.images.size_policy), settings.images.gpt_image_response_format == "refuse"),
        limits,
        replace(limits, max_bytes=settings.server.max_minimax_body_bytes),
        settings.server.sse_keepalive_s,
    )
    service = GenerationService(books.admission, core.upstreams, time.monotonic)
    return ImageRoutes(authenticator, service, core.catalog, options, time.time)


def _public_routes(images: ImageRoutes, ops: HealthRoutes) -> list[Route]:
    return [
        Route("/v1/images/generations", AsgiEndpoint(images.generate), methods=["POST"]),
        *(Route(path, AsgiEndpoint(images.generate_native), methods=["POST"]) for path in sorted(minimax.PATHS)),
        Route("/v1/models", images.list_models),
        Route("/v1/models/{name:path}", images.get_model),
        Route(HEALTHZ, ops.healthz),
        Route(READYZ, ops.readyz),
        Route(METRICS, ops.metrics),
        Route(OPENAPI, ops.openapi),
    ]
