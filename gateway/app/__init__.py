"""The composition root: the only place that constructs collaborators."""

import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
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
from gateway.api.shutdown import DRAIN, ShutdownState
from gateway.app.admin import AdminParts, build_admin
from gateway.app.backends import (
    USER_AGENT,
    build_key_checker,
    build_metering,
    build_scheduler,
    build_upstreams,
    connect_redis,
    redis_id,
)
from gateway.app.reload import ReloadTargets
from gateway.app.telemetry import build_operations, build_telemetry
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.domain.sizes import SizePolicy
from gateway.generation.key_checker import Suspects
from gateway.generation.key_checks import KeyChecker
from gateway.generation.memory_budget import ByteBudget
from gateway.generation.service import GenerationService
from gateway.generation.transport import AiohttpTransport
from gateway.lifespan import AsyncCallback, Lifespan
from gateway.metering.reservations import SETTLE
from gateway.observability.metrics import CONNECTIONS, CONNECTIONS_OVER_BOUND, Metrics
from gateway.redis.journal import Journal
from gateway.redis.journal_replay import JournalReplayer
from gateway.scheduler.unsaved_releases import RELEASE


class _Core:
    """The parts that every request uses."""

    def __init__(self, config: Config, metrics_directory: Path | None) -> None:
        settings, redis = config.settings, connect_redis(config)
        metrics = Metrics(metrics_directory, settings.metrics.max_tenant_series)
        self.settings, self.redis, self.metrics = settings, redis, metrics
        self.drain, self.budget = ShutdownState(), ByteBudget(settings.server.max_memory_bytes)
        self.body_limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
        self.catalog = Catalog([])
        self.catalog.take_over(config.catalog)  # a reload changes it
        # Several gateways may share one directory: each replays the files of its own Redis.
        self.journal = Journal(config.journal_dir, redis_id(config), remedy=config.journal_problem)
        self.scheduling = build_scheduler(config, redis, metrics, self.journal)
        self.metering = build_metering(config, redis, metrics, self.journal)
        certificates = ssl.create_default_context()
        direct, public = AiohttpTransport(certificates), AiohttpTransport(certificates, public_only=True)
        self.transports = (direct, public)
        suspects = Suspects(time.monotonic)
        self.upstreams = build_upstreams(config, self.scheduling, metrics, direct, public, suspects)
        checker = KeyChecker(direct, lambda: self.upstreams.endpoints, USER_AGENT)
        self.key_monitor = build_key_checker(config, redis, self.scheduling, checker, suspects)


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
    core = _Core(config, metrics_directory)
    members, admission = core.scheduling.members, core.metering.admission
    pool = PoolSection(core.scheduling.scheduler, members, core.key_monitor, core.body_limits)
    admin = build_admin(config, core.redis, admission, lambda: members.upstreams, core.catalog, core.body_limits, pool)
    ports = [
        DedicatedPort(table.port, prefix, frozenset(name.lower() for name in (table.host, *table.allowed_hosts)))
        for table, prefix in ((settings.admin, ADMIN), (settings.metrics, METRICS))
        if table.port
    ]
    health, samplers = build_operations(
        core.redis, core.metrics, admission, core.scheduling.scheduler, core.drain, core.budget, ports
    )
    targets = ReloadTargets(core.catalog, members.declare, core.upstreams.configure, admin.provisioner.reload)
    reloading = (partial(reload, targets),) if reload else ()
    tasks = (*samplers, admin.authenticator.listen, admin.provisioner.run, *reloading)
    app = App(
        routes=[*_public_routes(_build_images(core, admin), health), *admin.routes],
        middleware=[
            Middleware(RequestContextMiddleware, core.metrics, time.monotonic, telemetry, core.drain, core.budget),
            Middleware(PublicCors, settings.server.cors_origins),
            Middleware(ErrorMiddleware),
            Middleware(DedicatedPortMiddleware, ports),
        ],
        lifespan=_build_lifespan(core, (admin.provisioner.start, *starts), tasks, closes).lifespan,
    )
    app.router.redirect_slashes = False  # a redirect has no OpenAI error body, and clients lose the request's on it
    return app


def _build_lifespan(
    core: _Core, starts: Sequence[AsyncCallback], tasks: Sequence[AsyncCallback], closes: Sequence[AsyncCallback]
) -> Lifespan:
    journal, scheduling, metering, monitor = core.journal, core.scheduling, core.metering, core.key_monitor
    replays = {SETTLE: metering.admission.replay, RELEASE: scheduling.releases.replay}
    replayer = JournalReplayer(journal, replays, own_kinds=frozenset({RELEASE}))
    return Lifespan(
        core.redis,
        core.transports,
        (journal.start, scheduling.members.start, *starts),
        (
            *(*metering.background_tasks, replayer.run, scheduling.queue.listen, scheduling.queue.run_heartbeat),
            *(scheduling.members.run, monitor.run, monitor.check_suspects, *tasks),
        ),
        (
            *(partial(metering.admission.flush, core.drain.left_s), core.upstreams.flush, metering.transfers.flush),
            *(journal.close, scheduling.queue.close, scheduling.members.withdraw, *closes),
        ),
        {
            CONNECTIONS: core.metrics.connections,
            CONNECTIONS_OVER_BOUND: core.metrics.connections_over_bound,
            DRAIN: core.drain,
        },
    )


def _build_images(core: _Core, admin: AdminParts) -> ImageRoutes:
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
        core.body_limits,
        replace(core.body_limits, max_bytes=settings.server.max_minimax_body_bytes),
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
