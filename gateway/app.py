"""The composition root: the only place that constructs collaborators."""

import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from gateway.administration import Administration, build_administration
from gateway.backing import connect_redis
from gateway.bookkeeping import Bookkeeping, build_bookkeeping, build_journal, build_replayer
from gateway.configuration import Running
from gateway.domain.models import Catalog
from gateway.lifespan import Life
from gateway.memory import ByteBudget
from gateway.observability.metrics import CONNECTIONS, CONNECTIONS_OVER_BOUND, Metrics
from gateway.observing import Observing, build_observing, build_ops
from gateway.pooling import build_pooling, build_prober
from gateway.settings import Settings
from gateway.supply import USER_AGENT, build_catalog, build_supply, build_upstreams, size_policy
from gateway.transport import AiohttpTransport
from gateway.upstream import Upstreams
from gateway.upstream.pages import Pages
from gateway.upstream.suspects import Suspects
from gateway.web.admin.pool import PoolSection
from gateway.web.bodies import BodyLimits
from gateway.web.draining import DRAIN, Drain
from gateway.web.errors import ErrorBoundary
from gateway.web.images import Images
from gateway.web.middleware import PublicCors, RequestScope
from gateway.web.ops import Ops
from gateway.web.ports import HEALTHZ, METRICS, OPENAPI, READYZ, OwnPort, Ports, is_admin, is_metrics
from gateway.web.program import Endpoint, Program
from gateway.web.refusals import Refusals
from gateway.wire import native
from gateway.wire.openai import Manners


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
    metrics = Metrics(metrics_directory, settings.metrics.tenants_max)
    catalog = build_catalog(settings)
    supply = build_supply(settings, environ)
    journal = build_journal(settings, environ)
    pooling = build_pooling(settings, environ, redis, metrics, supply.pools, journal)
    books = build_bookkeeping(settings, redis, metrics, journal)
    certificates = ssl.create_default_context()
    direct, public = AiohttpTransport(certificates), AiohttpTransport(certificates, public_only=True)
    suspects = Suspects(time.monotonic)
    upstreams = build_upstreams(
        settings, supply, pooling.pool, books.admission, metrics, direct, public, pooling.releases.keep, suspects.note
    )
    pages = Pages(direct, lambda: upstreams.endpoints, USER_AGENT)
    prober = build_prober(settings, redis, pooling, pages, suspects)
    limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
    sections = (PoolSection(pooling.pool, pooling.roster, prober, limits), books.usage)
    administration = build_administration(
        settings, environ, redis, books.admission, lambda: pooling.roster.upstreams, catalog, sections
    )
    drain, budget = Drain(), ByteBudget(settings.server.max_memory_bytes)
    images = _build_images(settings, administration, books, upstreams, catalog, limits, drain)
    own_ports = _own_ports(settings)
    ops = build_ops(redis, metrics, books.admission, pooling.pool, drain, budget, own_ports)
    running = Running(catalog, pooling.roster.declare, upstreams.configure, administration.declaration.reload)
    reloading = (partial(reload, running),) if reload else ()
    life = Life(
        redis,
        (direct, public),
        (journal.start, pooling.roster.start, administration.declaration.start, *observing.starts),
        (
            *ops.companions,
            *administration.companions,
            *books.companions,
            build_replayer(journal, books.admission, pooling.releases).run,
            *pooling.companions,
            prober.run,
            prober.check_suspects,
            *companions,
            *reloading,
        ),
        (
            partial(books.admission.flush, drain.left_s),
            upstreams.flush,
            books.transfers.flush,
            journal.close,
            pooling.queue.close,
            pooling.roster.withdraw,
            *observing.closes,
        ),
        {
            CONNECTIONS: metrics.connections,
            CONNECTIONS_OVER_BOUND: metrics.connections_over_bound,
            DRAIN: drain,
        },
    )
    routes = [*_public_routes(images, ops.routes), *administration.admin.routes()]
    return _assemble(routes, settings, metrics, observing, drain, budget, life, own_ports)


def _assemble(
    routes: Sequence[Route],
    settings: Settings,
    metrics: Metrics,
    observing: Observing,
    drain: Drain,
    budget: ByteBudget,
    life: Life,
    own_ports: Sequence[OwnPort],
) -> Starlette:
    app = Program(
        routes=routes,
        middleware=[
            Middleware(RequestScope, metrics, time.monotonic, observing, drain, budget),
            Middleware(PublicCors, settings.server.cors_origins),
            Middleware(ErrorBoundary),
            Middleware(Ports, own_ports),
        ],
        lifespan=life.lifespan,
    )
    app.router.redirect_slashes = False  # a redirect has no OpenAI error body, and clients lose the request's on it
    return app


def _own_ports(settings: Settings) -> list[OwnPort]:
    return [
        OwnPort(table.port, owns, frozenset(name.lower() for name in (table.host, *table.allowed_hosts)))
        for table, owns in ((settings.admin, is_admin), (settings.metrics, is_metrics))
        if table.port
    ]


def _build_images(
    settings: Settings,
    administration: Administration,
    books: Bookkeeping,
    upstreams: Upstreams,
    catalog: Catalog,
    limits: BodyLimits,
    drain: Drain,
) -> Images:
    return Images(
        drain,
        administration.credentials,
        administration.guesses,
        Refusals(settings.server.refusals_per_second, time.monotonic),
        books.admission,
        books.transfers,
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
        Route("/v1/images/generations", Endpoint(images.generate), methods=["POST"]),
        *(Route(path, Endpoint(images.generate_native), methods=["POST"]) for path in sorted(native.PATHS)),
        Route("/v1/models", images.list_models),
        Route("/v1/models/{name:path}", images.get_model),
        Route(HEALTHZ, ops.healthz),
        Route(READYZ, ops.readyz),
        Route(METRICS, ops.metrics),
        Route(OPENAPI, ops.openapi),
    ]
