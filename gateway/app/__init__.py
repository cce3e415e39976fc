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
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import BodyLimits
from gateway.api.health import HealthRoutes
from gateway.api.images import ImageOptions, ImageRoutes
from gateway.api.middleware import (
    ADMIN,
    HEALTHZ,
    METRICS,
    OPENAPI,
    READYZ,
    App,
    AsgiEndpoint,
    DedicatedPort,
    DedicatedPortMiddleware,
    ErrorMiddleware,
    PublicCors,
    RequestContextMiddleware,
)
from gateway.api.openai import OpenAIOptions
from gateway.api.request_log import Telemetry
from gateway.api.shutdown import DRAIN, ShutdownState
from gateway.app.admin import AdminParts, build_admin
from gateway.app.backends import (
    USER_AGENT,
    MeteringParts,
    SchedulerParts,
    build_journal,
    build_key_checker,
    build_metering,
    build_replayer,
    build_scheduler,
    build_upstreams,
    connect_redis,
)
from gateway.app.reload import ReloadTargets
from gateway.app.telemetry import build_operations, build_telemetry
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
    """The parts that every request uses."""

    settings: Settings
    metrics: Metrics
    drain: ShutdownState
    budget: ByteBudget
    redis: Client
    catalog: Catalog
    journal: Journal
    scheduling: SchedulerParts
    metering: MeteringParts
    transports: tuple[AiohttpTransport, AiohttpTransport]
    """To configured addresses, and to public ones only."""
    upstreams: Upstreams
    key_monitor: KeyHealthMonitor


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
    telemetry, starts, closes = build_telemetry(settings)
    core = _build_core(config, metrics_directory)
    scheduling, metering, catalog = core.scheduling, core.metering, core.catalog
    limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
    pool = PoolSection(scheduling.scheduler, scheduling.members, core.key_monitor, limits)
    admin = build_admin(config, core.redis, metering.admission, lambda: scheduling.members.upstreams, catalog, pool)
    ports = _dedicated_ports(settings)
    health, samplers = build_operations(
        core.redis, core.metrics, metering.admission, scheduling.scheduler, core.drain, core.budget, ports
    )
    targets = ReloadTargets(catalog, scheduling.members.declare, core.upstreams.configure, admin.provisioner.reload)
    reloading = (partial(reload, targets),) if reload else ()
    tasks = (*samplers, admin.authenticator.listen, admin.provisioner.run, *reloading)
    lifespan = _build_lifespan(core, (admin.provisioner.start, *starts), tasks, closes)
    routes = [*_public_routes(_build_images(core, admin, limits), health), *admin.routes]
    return _assemble(routes, core, telemetry, lifespan, ports)


def _build_core(config: Config, metrics_directory: Path | None) -> _Core:
    settings, redis = config.settings, connect_redis(config)
    metrics = Metrics(metrics_directory, settings.metrics.max_tenant_series)
    catalog = Catalog([])
    catalog.take_over(config.catalog)  # a reload changes it
    journal = build_journal(config)
    scheduling = build_scheduler(config, redis, metrics, journal)
    metering = build_metering(config, redis, metrics, journal)
    certificates = ssl.create_default_context()
    transports = AiohttpTransport(certificates), AiohttpTransport(certificates, public_only=True)
    suspects = Suspects(time.monotonic)
    upstreams = build_upstreams(config, scheduling, metrics, *transports, suspects)
    checker = KeyChecker(transports[0], lambda: upstreams.endpoints, USER_AGENT)
    key_monitor = build_key_checker(config, redis, scheduling, checker, suspects)
    budget = ByteBudget(settings.server.max_memory_bytes)
    parts = (journal, scheduling, metering, transports, upstreams, key_monitor)
    return _Core(settings, metrics, ShutdownState(), budget, redis, catalog, *parts)


def _build_lifespan(
    core: _Core, starts: Sequence[AsyncCallback], tasks: Sequence[AsyncCallback], closes: Sequence[AsyncCallback]
) -> Lifespan:
    """Startup steps, background tasks and shutdown steps, in that order."""
    journal, scheduling, metering, metrics = core.journal, core.scheduling, core.metering, core.metrics
    replayer = build_replayer(journal, metering.admission, scheduling.releases)
    monitor = core.key_monitor
    return Lifespan(
        core.redis,
        core.transports,
        (journal.start, scheduling.members.start, *starts),
        (
            *metering.background_tasks,
            replayer.run,
            *scheduling.background_tasks,
            monitor.run,
            monitor.check_suspects,
            *tasks,
        ),
        (
            partial(metering.admission.flush, core.drain.left_s),
            core.upstreams.flush,
            metering.transfers.flush,
            journal.close,
            scheduling.queue.close,
            scheduling.members.withdraw,
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
    telemetry: Telemetry,
    lifespan: Lifespan,
    ports: Sequence[DedicatedPort],
) -> Starlette:
    app = App(
        routes=routes,
        middleware=[
            Middleware(RequestContextMiddleware, core.metrics, time.monotonic, telemetry, core.drain, core.budget),
            Middleware(PublicCors, core.settings.server.cors_origins),
            Middleware(ErrorMiddleware),
            Middleware(DedicatedPortMiddleware, ports),
        ],
        lifespan=lifespan.lifespan,
    )
    app.router.redirect_slashes = False  # a redirect has no OpenAI error body, and clients lose the request's on it
    return app


def _dedicated_ports(settings: Settings) -> list[DedicatedPort]:
    return [
        DedicatedPort(table.port, prefix, frozenset(name.lower() for name in (table.host, *table.allowed_hosts)))
        for table, prefix in ((settings.admin, ADMIN), (settings.metrics, METRICS))
        if table.port
    ]


def _build_images(core: _Core, admin: AdminParts, limits: BodyLimits) -> ImageRoutes:
    settings, metering = core.settings, core.metering
    authenticator = TenantAuthenticator(
        admin.authenticator,
        admin.throttle,
        settings.server.rejections_per_second,
        metering.admission,
        metering.transfers,
        time.monotonic,
    )
    options = ImageOptions(
        OpenAIOptions(SizePolicy(settings.images.size_policy), settings.images.gpt_image_response_format == "refuse"),
        limits,
        replace(limits, max_bytes=settings.server.max_minimax_body_bytes),
        settings.server.sse_keepalive_s,
    )
    service = GenerationService(metering.admission, core.upstreams, time.monotonic)
    return ImageRoutes(authenticator, service, core.catalog, options, core.drain, time.time)


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
