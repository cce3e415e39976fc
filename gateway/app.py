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

from gateway import __version__
from gateway import settings as config
from gateway.domain.faults import GatewayError
from gateway.domain.images import Capability, SizePolicy
from gateway.domain.keys import Secret, UpstreamKey
from gateway.domain.models import Catalog, Model, Target
from gateway.metrics import Metrics
from gateway.settings import Settings
from gateway.stores import Client, connect, ping
from gateway.stores.keypool import KeyPool
from gateway.stores.tenants import TenantStore
from gateway.transport import AiohttpTransport
from gateway.upstream import Caller, Endpoint, Policy, ResultFetcher, Upstreams
from gateway.upstream.calls import CallLimits
from gateway.upstream.results import FetchLimits
from gateway.web.admin import Admin
from gateway.web.bodies import BodyLimits
from gateway.web.errors import ErrorBoundary
from gateway.web.images import Images
from gateway.web.middleware import PublicCors, RequestScope
from gateway.web.ops import Ops
from gateway.wire import DIALECTS, native
from gateway.wire.links import LinkPolicy, Trust
from gateway.wire.openai import Manners

_LOG = structlog.get_logger("imagegate.app")
_RESTART_PAUSE_S = 1.0
_USER_AGENT = f"imagegate/{__version__}"


def create_app(
    settings: Settings, environ: Mapping[str, str], companions: Sequence[Callable[[], Awaitable[None]]] = ()
) -> Starlette:
    """The program as an ASGI application. Secrets are read from `environ` and files now.

    `companions` run beside it for as long as it lives.
    Raises: SettingsError for a secret that is missing or a Redis URL that is none.
    """
    redis = connect_redis(settings)
    metrics = Metrics(CollectorRegistry())
    catalog = build_catalog(settings)
    pool = KeyPool(redis, read_keys(settings, environ), time.time)
    pepper = read_pepper(settings, environ)
    tenants = TenantStore(redis, pepper=pepper, clock=time.time, monotonic=time.monotonic)
    certificates = ssl.create_default_context()
    direct, public = AiohttpTransport(certificates), AiohttpTransport(certificates, public_only=True)
    upstreams = _build_upstreams(settings, pool, metrics, direct, public)
    limits = BodyLimits(settings.server.max_body_bytes, settings.server.body_timeout_s)
    images = _build_images(settings, tenants, upstreams, catalog, limits)
    admin = Admin(read_admin_key(settings, environ), tenants, pool, catalog, limits, time.time)
    ops = Ops(metrics, pool, partial(ping, redis))

    app = Starlette(
        routes=[*_public_routes(images, ops), *admin.routes()],
        middleware=[
            Middleware(RequestScope, metrics, time.monotonic, _new_request_id),
            Middleware(PublicCors, settings.server.cors_origins),
            Middleware(ErrorBoundary),
        ],
        exception_handlers={HTTPException: _leave_to_boundary},
        lifespan=_lifespan(redis, (direct, public), (tenants.listen, *companions)),
    )
    app.router.redirect_slashes = False  # a redirect has no OpenAI error body, and clients lose the request's on it
    return app


def _lifespan(
    redis: Client, transports: Sequence[AiohttpTransport], companions: Sequence[Callable[[], Awaitable[None]]]
) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """What is open and what runs beside the program for as long as it serves."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(redis.aclose)
            for transport in transports:
                await stack.enter_async_context(transport)
            async with asyncio.TaskGroup() as group:
                await _warn_without(redis)
                tasks = [group.create_task(_keep_running(companion)) for companion in companions]
                yield
                for task in tasks:
                    task.cancel()

    return lifespan


def build_catalog(settings: Settings) -> Catalog:
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    return Catalog(
        Model(
            model.id,
            model.aliases,
            model.price_usd_micros,
            tuple(
                Target(target.upstream, target.model, _capability(upstreams[target.upstream], target.model))
                for target in model.targets
            ),
        )
        for model in settings.models
    )


def read_keys(settings: Settings, environ: Mapping[str, str]) -> list[UpstreamKey]:
    """Every upstream key with its secret. Raises: SettingsError."""
    return [
        UpstreamKey(
            upstream.name,
            account.name,
            key.name,
            config.read_secret(key.secret, environ, f"upstreams '{upstream.name}': key '{key.name}': secret"),
        )
        for upstream in settings.upstreams
        for account in upstream.accounts
        for key in account.keys
    ]


def read_admin_key(settings: Settings, environ: Mapping[str, str]) -> Secret | None:
    """None closes the admin API: no key is configured, or its environment variable is not set."""
    source = settings.admin.key
    if source is None or (source.env is not None and source.file is None and not environ.get(source.env)):
        return None
    return config.read_secret(source, environ, "admin.key")


def read_pepper(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """The key of the tenants' keyed hashes; None lets Redis keep one. Raises: SettingsError."""
    source = settings.keys.pepper
    return config.read_secret(source, environ, "keys.pepper").reveal() if source else None


def connect_redis(settings: Settings) -> Client:
    try:
        return connect(settings.redis.url, settings.redis.timeout_ms / 1000)
    except ValueError as error:
        raise config.SettingsError(
            f"redis.url: {error}. Give redis://, rediss:// or unix://, or 'embedded' for one machine."
        ) from error


def _capability(upstream: config.Upstream, model: str) -> Capability:
    """What the dialect knows, overruled by what the operator declares."""
    base, declared = DIALECTS[upstream.dialect].capability(model), upstream.capabilities
    flags = {
        "seed": declared.seed,
        "prompt_optimizer": declared.prompt_optimizer,
        "aigc_watermark": declared.aigc_watermark,
        "style": declared.style,
        "subject_reference": declared.subject_reference,
    }
    taken = {name for name, flag in flags.items() if flag}
    refused = {name for name, flag in flags.items() if flag is False}
    return replace(
        base,
        max_images_per_call=declared.max_images_per_call or base.max_images_per_call,
        takes_pixels=base.takes_pixels if declared.pixels is None else declared.pixels,
        answers_base64=base.answers_base64 if declared.base64 is None else declared.base64,
        fields=(base.fields | taken) - refused,
    )


def _build_upstreams(
    settings: Settings, pool: KeyPool, metrics: Metrics, direct: AiohttpTransport, public: AiohttpTransport
) -> Upstreams:
    requests = settings.requests
    endpoints = {upstream.name: _endpoint(upstream) for upstream in settings.upstreams}
    caller = Caller(
        direct,
        pool,
        CallLimits(
            requests.connect_timeout_s,
            requests.call_timeout_s,
            requests.call_timeout_per_image_s,
            requests.max_reply_bytes,
        ),
        metrics,
        _USER_AGENT,
    )
    fetcher = ResultFetcher(
        public,
        direct,
        FetchLimits(requests.connect_timeout_s, requests.result_timeout_s, requests.result_max_bytes),
        _USER_AGENT,
    )
    policy = Policy(requests.deadline_s, requests.max_attempts, _size_policy(settings))
    return Upstreams(pool, caller, fetcher, endpoints, policy, time.monotonic)


def unfetchable(settings: Settings) -> list[str]:
    """Upstreams at an address of the operator's own whose result links the gateway would refuse to follow."""
    upstreams = [upstream for upstream in settings.upstreams if upstream.base_url.startswith("http://")]
    return [entry.name for entry in upstreams if _endpoint(entry).links.trust(entry.base_url) is Trust.NONE]


def _build_images(
    settings: Settings, tenants: TenantStore, upstreams: Upstreams, catalog: Catalog, limits: BodyLimits
) -> Images:
    return Images(
        tenants,
        upstreams,
        catalog,
        Manners(_size_policy(settings), settings.images.response_format_on_gpt_image == "refuse"),
        limits,
        replace(limits, max_bytes=settings.server.max_native_body_bytes),
        settings.server.stream_keep_alive_s,
        time.time,
    )


def _endpoint(upstream: config.Upstream) -> Endpoint:
    dialect = DIALECTS[upstream.dialect]
    hosts = dialect.result_hosts if upstream.result_hosts is None else upstream.result_hosts
    return Endpoint(upstream.name, dialect, upstream.base_url.rstrip("/"), LinkPolicy(hosts))


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


def _size_policy(settings: Settings) -> SizePolicy:
    return SizePolicy(settings.images.size_policy)


def _new_request_id() -> str:
    return f"req_{uuid.uuid4().hex}"


async def _warn_without(redis: Client) -> None:
    """Serving may begin before Redis does; whoever reads the log is told."""
    try:
        await ping(redis)
    except GatewayError as error:
        _LOG.warning("redis_does_not_answer", detail=error.detail, remedy="check redis.url; requests are answered 503")


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
