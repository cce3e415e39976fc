"""The composition root: the only place that constructs collaborators."""

import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware

from gateway import __version__
from gateway.api import middleware
from gateway.api.addresses import Addresses, AddressMiddleware
from gateway.api.authentication import KEYS_A_TENANT, READS_PER_SECOND, Buckets, TenantAuthenticator
from gateway.api.batches import batch_routes
from gateway.api.bodies import BodyLimits
from gateway.api.health import HealthRoutes
from gateway.api.images import ImageOptions, ImageRoutes
from gateway.api.multipart import FormLimits
from gateway.api.openai import OpenAIOptions
from gateway.api.pool_gauges import PoolGauges
from gateway.api.request_log import Telemetry
from gateway.api.scrape import Scrape
from gateway.api.shutdown import DRAIN, ShutdownState
from gateway.api.stored_files import StoredFileRoutes
from gateway.app import backends
from gateway.app.admin import AdminParts, build_admin
from gateway.app.batches import BatchParts, build_batches
from gateway.app.events import build_events
from gateway.app.files import build_file_routes
from gateway.app.operators import build_operators_sections, build_refusal_recorder
from gateway.app.process_events import ProcessEvents
from gateway.app.reload import RELOADED, ReloadTargets
from gateway.app.replays import build_replays
from gateway.app.routes import console_routes, image_routes, operators_routes, self_service_routes
from gateway.app.storage import build_storage
from gateway.config import Settings, SettingsError
from gateway.config.described import ConfigInForce
from gateway.config.resolve import Config
from gateway.domain.catalog import Catalog
from gateway.domain.images import Format
from gateway.domain.sizes import SizePolicy
from gateway.events.outbox import Outbox
from gateway.generation.conversion import ImageConverter
from gateway.generation.fetches import Fetcher
from gateway.generation.key_checks import KeyChecker, Suspects
from gateway.generation.memory_budget import ByteBudget, return_freed_memory
from gateway.generation.result_links import ResultLinks
from gateway.generation.service import GenerationService
from gateway.generation.transport import AiohttpTransport, trusted_authorities
from gateway.lifespan import AsyncCallback, Lifespan
from gateway.metering.reservations import SETTLE
from gateway.metering.time_zone import find_zone_problems
from gateway.observability.logging import count_dropped_lines
from gateway.observability.metrics import CONNECTIONS, CONNECTIONS_OVER_BOUND, Metrics
from gateway.observability.process import ProcessCollector
from gateway.redis.journal import Journal, JournalReplayer
from gateway.redis.preflight import PreflightMonitor, write_refusal
from gateway.scheduler.leases import RELEASE
from gateway.storage.links import Links, SigningKeys


class _Core:
    """The parts that every request uses."""

    def __init__(self, config: Config, metrics_directory: Path | None) -> None:
        settings, redis = config.settings, backends.connect_redis(config)
        metrics = Metrics(metrics_directory, settings.metrics.max_tenant_series)
        self.settings, self.redis, self.metrics = settings, redis, metrics
        self.gauges = PoolGauges(__version__)
        self.drain, self.budget = ShutdownState(), ByteBudget(settings.server.max_memory_bytes)
        self.body_limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
        self.ports = [
            middleware.DedicatedPort(port.port, prefixes, frozenset(map(str.lower, (port.host, *port.allowed_hosts))))
            for port, prefixes in (
                (settings.admin, (middleware.ADMIN, middleware.CONSOLE)),
                (settings.metrics, (middleware.METRICS,)),
            )
            if port.port
        ]
        self.catalog = Catalog([])
        self.catalog.take_over(config.catalog)  # a reload changes it
        # Several gateways may share one directory: each replays the files of its own Redis.
        self.journal = Journal(config.journal_dir, backends.redis_id(config), remedy=config.journal_problem)
        self.outbox = Outbox(redis, lambda: self.scheduling.members.upstreams)
        self.scheduling = backends.build_scheduler(config, redis, metrics, self.journal)
        self.metering = backends.build_metering(config, redis, metrics, self.journal, self.outbox.notify)
        authorities, idle_s = trusted_authorities(settings.requests.ca_file), settings.requests.idle_timeout_s
        direct = AiohttpTransport(authorities, idle_s=idle_s)
        public = AiohttpTransport(authorities, idle_s=idle_s, public_only=True)
        self.transports = (direct, public)
        self.fetch = Fetcher(direct, config.alerts.proxies).fetch
        self.events = build_events(config, redis, self.outbox, direct, public, metrics, authorities)
        self.converter = ImageConverter(metrics)
        suspects = Suspects(time.monotonic)
        self.upstreams, self.tasks = backends.build_upstreams(
            config, self.scheduling, self.metering.admission, metrics, direct, public, suspects, self.converter
        )
        self.storage = build_storage(config, redis, metrics, self.budget)
        self.links = Links(SigningKeys(redis, config.signing_keys, time.time, time.monotonic), time.time)
        pictures = self.storage.pictures if self.storage else None
        links = ResultLinks(pictures, self.links, metrics) if pictures else None
        self.service = GenerationService(self.metering.admission, self.upstreams, self.converter, links, time.monotonic)
        self.replays = build_replays(config, redis, self.metering, self.service, self.budget, metrics, pictures)
        self.tasks.keep = self.replays.keep_late
        checker = KeyChecker(direct, lambda: self.upstreams.supply.endpoints, backends.USER_AGENT)
        self.key_monitor = backends.build_key_checker(config, redis, self.scheduling, checker, suspects)


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
    recorder = build_refusal_recorder(core.redis, core.metrics)
    telemetry, closes = replace(telemetry, note_refusal=recorder.note), (*closes, recorder.flush)
    members, limits, storage = core.scheduling.members, core.body_limits, core.storage
    admission, upstreams = core.metering.admission, lambda: members.upstreams
    erase = storage.erase if storage else None
    in_force = ConfigInForce(config, frozenset(RELOADED))
    own = build_operators_sections(in_force, core.redis, core.scheduling, core.key_monitor, core.gauges, limits)
    admin = build_admin(
        config, core.redis, admission, upstreams, core.catalog, limits, own, erase, core.events, core.fetch
    )
    health, samplers = _build_operations(core, config.calendar.name)
    told = ProcessEvents(core.outbox, core.metrics, core.gauges)
    declare = (members.declare, core.upstreams.configure, admin.provisioner.reload)
    targets = ReloadTargets(core.catalog, *declare, told.note_reload, in_force.take_over)
    reloading = (partial(reload, targets),) if reload else ()
    reaping = (storage.reaper.run,) if storage else ()
    tasks = (*samplers, *admin.background_tasks, core.events.sender.run, recorder.run, *reloading, *reaping)
    images = _build_images(core, admin)
    pictures, redirects = storage.pictures if storage else None, settings.storage.redirect
    links = StoredFileRoutes(pictures, core.links, admin.throttle, time.time, redirects=redirects)
    files = build_file_routes(settings, core.redis, storage, images.authenticator, core.drain)
    batches = _build_batches(config, core, images)
    tasks = (*tasks, *(batches.background_tasks if batches else ()))
    if tls := settings.server.tls:
        tasks = (*tasks, partial(told.watch_certificate, settings.server.host, Path(tls.certificate)))
    webhook_hosts = frozenset(settings.alerts.webhook_hosts)
    tenant_routes = [
        *image_routes(images, links),
        *self_service_routes(admin, images.authenticator, webhook_hosts),
        *files.routes(),
        *batch_routes(batches.routes if batches else None),
    ]
    addresses = Addresses(tenant_routes)
    app = middleware.App(
        routes=[
            *(*tenant_routes, *operators_routes(health), *admin.routes),
            *console_routes(admin, images, webhook_hosts, core.scheduling.scheduler),
        ],
        middleware=[
            Middleware(
                middleware.RequestContextMiddleware, core.metrics, time.monotonic, telemetry, core.drain, core.budget
            ),
            Middleware(middleware.PublicCors, settings.server.cors_origins, [port.number for port in core.ports]),
            Middleware(middleware.ErrorMiddleware),
            Middleware(middleware.DedicatedPortMiddleware, core.ports),
            Middleware(AddressMiddleware, addresses),
        ],
        lifespan=_build_lifespan(core, (admin.provisioner.start, *starts), tasks, closes, batches).lifespan,
    )
    app.router.default = addresses.refuse
    app.router.redirect_slashes = False  # a redirect has no OpenAI error body, and clients lose the request's on it
    return app


def _build_lifespan(
    core: _Core,
    starts: Sequence[AsyncCallback],
    tasks: Sequence[AsyncCallback],
    closes: Sequence[AsyncCallback],
    batches: BatchParts | None,
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
            *(core.replays.held.listen, scheduling.members.run, monitor.run, monitor.check_suspects),
            *(core.tasks.run, *tasks),
        ),
        (
            *((partial(batches.worker.close, core.drain.left_s),) if batches else ()),
            *(partial(metering.admission.flush, core.drain.left_s), core.upstreams.flush, metering.transfers.flush),
            *(core.tasks.close, core.replays.held.flush),
            *(core.converter.close, journal.close, scheduling.queue.close, scheduling.members.withdraw, *closes),
            *((core.storage.objects.close,) if core.storage else ()),
        ),
        {
            CONNECTIONS: core.metrics.connections,
            CONNECTIONS_OVER_BOUND: core.metrics.connections_over_bound,
            DRAIN: core.drain,
        },
    )


def _build_batches(config: Config, core: _Core, images: ImageRoutes) -> BatchParts | None:
    if core.storage is None:
        return None
    batches = build_batches(
        *(config, core.redis, core.storage, images, core.service, core.scheduling.scheduler, core.upstreams.measured_s),
        *(core.links, core.outbox, core.budget, core.metrics),
    )
    core.gauges.count_batches = batches.worker.count_open
    return batches


def _build_images(core: _Core, admin: AdminParts) -> ImageRoutes:
    settings, images, metering = core.settings, core.settings.images, core.metering
    per_second = settings.server.rejections_per_second
    authenticator = TenantAuthenticator(
        *(admin.authenticator, admin.throttle, metering.admission, metering.transfers),
        *(Buckets(per_second, time.monotonic), Buckets(per_second * KEYS_A_TENANT, time.monotonic)),
        Buckets(READS_PER_SECOND, time.monotonic),
    )
    limits, server, images = core.body_limits, settings.server, settings.images
    native_limits = replace(limits, max_bytes=server.max_minimax_body_bytes)
    form = None if images.default_output_format == "as_made" else Format(images.default_output_format)
    options = ImageOptions(
        OpenAIOptions(
            SizePolicy(images.size_policy),
            refuses_response_format_on_gpt_image=images.gpt_image_response_format == "refuse",
            delivers_both=images.default_response_format == "both",
            shortens_prompts=images.long_prompt == "truncate",
            ignores_unknown_parameters=images.unknown_parameters == "ignore",
            default_output_format=form,
        ),
        limits,
        native_limits,
        replace(native_limits, content_types="'application/json' and 'multipart/form-data'"),
        FormLimits(replace(limits, max_bytes=server.max_form_bytes), limits.max_bytes),
        server.sse_keepalive_s,
        server.keep_alive_blanks_s,
        server.public_url or "",
    )
    spooled, attributor = ByteBudget(server.max_spooled_bytes), backends.build_attributor(settings, admin.authenticator)
    return ImageRoutes(authenticator, core.replays, core.catalog, options, core.drain, spooled, attributor)


def build_telemetry(settings: Settings) -> tuple[Telemetry, tuple[AsyncCallback, ...], tuple[AsyncCallback, ...]]:
    """Returns what the middleware logs and traces with, and its startup and shutdown steps.

    Raises: SettingsError if tracing is configured and its extra is not installed.
    """
    build = partial(
        Telemetry,
        lambda: f"req_{uuid.uuid4().hex}",
        lambda: uuid.uuid4().hex,
        lambda: secrets.token_hex(8),
        settings.logs.prompts,
        settings.logs.client_address,
    )
    endpoint = settings.tracing.otlp_endpoint
    if endpoint is None:
        return build(), (), ()
    try:
        from gateway.observability.tracing import SpanSender  # noqa: PLC0415 - an extra of hundreds of modules
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tracing.otlp_endpoint: needs the package {error.name}, which is not installed: "
            'pip install "imagegate[otel]", or take the setting out'
        ) from error
    sender = SpanSender(endpoint, settings.tracing.service_name, __version__, time.time_ns, time.monotonic)
    return build(sender.send), (sender.start,), (sender.close,)


def _build_operations(core: _Core, zone: str) -> tuple[HealthRoutes, tuple[AsyncCallback, ...]]:
    """Returns the routes of operators, and the background tasks that sample what they report."""
    metrics, redis, scheduler = core.metrics, core.redis, core.scheduling.scheduler
    preflight = PreflightMonitor(redis, partial(find_zone_problems, redis, zone, is_recorded=True))
    sampled = {
        metrics.pending_settlements: lambda: core.metering.admission.unsettled,
        metrics.held_bytes: lambda: core.budget.held_bytes,
        metrics.log_lines_dropped: count_dropped_lines,
        metrics.redis_breaker_open: lambda: int(redis.guard.breaker.is_open),
    }
    if storage := core.storage:
        for access, breaker in storage.objects.breakers.items():
            sampled[metrics.storage_breaker_open.labels(access)] = partial(getattr, breaker, "is_open")
    process = ProcessCollector(metrics, sampled, time.monotonic)
    scrape = Scrape(metrics.registry, process, scheduler, lambda: preflight.memory, core.gauges, core.events.count)
    redis_health = (partial(write_refusal, redis), lambda: preflight.problems)
    routes = HealthRoutes(scrape, core.ports, core.drain, scheduler, *redis_health, time.monotonic)
    return routes, (preflight.run, process.run, return_freed_memory)
