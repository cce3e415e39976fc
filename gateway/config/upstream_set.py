"""Composes what images are made with: the catalog of models, the upstream keys, and who speaks to the upstreams."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final

import httpx
from msgspec.structs import asdict

from gateway import __version__, config
from gateway.config import Settings
from gateway.domain.accounts import Account, AccountLimits, Pool, PoolConfig, ProviderKey, WaitConfig
from gateway.domain.billing import usd_micros
from gateway.domain.catalog import Catalog, Model, Target
from gateway.domain.images import Capability
from gateway.domain.pricing import PerImage, Price
from gateway.domain.sizes import SizePolicy
from gateway.generation import ImageDownloader, JobPolicy, UpstreamClient, UpstreamEndpoint, Upstreams
from gateway.generation.calls import CallLimits
from gateway.generation.downloads import DownloadLimits
from gateway.generation.transport import AiohttpTransport
from gateway.generation.upstreams import UpstreamSet
from gateway.observability.metrics import Metrics
from gateway.providers import PROVIDERS
from gateway.providers.links import LinkPolicy, LinkTrust
from gateway.scheduler import CallReport, Lease, Scheduler

USER_AGENT: Final = f"imagegate/{__version__}"


def build_catalog(settings: Settings) -> Catalog:
    upstreams = {upstream.name: upstream for upstream in settings.upstreams}
    return Catalog(
        Model(
            model.id,
            model.aliases,
            _prices(model),
            tuple(
                Target(target.upstream, target.model, _capability(upstreams[target.upstream], target.model))
                for target in model.targets
            ),
        )
        for model in settings.models
    )


def build_supply(settings: Settings, environ: Mapping[str, str]) -> UpstreamSet:
    """Every upstream; the secrets of its keys are read now. Raises: SettingsError."""
    return UpstreamSet(
        {upstream.name: _endpoint(upstream) for upstream in settings.upstreams},
        tuple(_pool(upstream, environ) for upstream in settings.upstreams),
        {upstream.name: WaitConfig(upstream.max_wait_s, upstream.fallback_after_s) for upstream in settings.upstreams},
    )


def build_upstreams(
    settings: Settings,
    supply: UpstreamSet,
    pool: Scheduler,
    metrics: Metrics,
    direct: AiohttpTransport,
    public: AiohttpTransport,
    keep_release: Callable[[Lease, CallReport], Awaitable[None]],
    suspect: Callable[[ProviderKey], None],
) -> Upstreams:
    requests = settings.requests
    caller = UpstreamClient(
        direct,
        pool,
        CallLimits(
            requests.connect_timeout_s,
            requests.call_timeout_s,
            requests.call_timeout_per_image_s,
            requests.max_response_bytes,
        ),
        metrics,
        USER_AGENT,
        time.monotonic,
        keep_release,
        suspect,
    )
    fetcher = ImageDownloader(
        public,
        direct,
        DownloadLimits(requests.connect_timeout_s, requests.download_timeout_s, requests.max_download_bytes),
        USER_AGENT,
    )
    reserve_s = min(requests.call_timeout_s, requests.deadline_s / 2)
    policy = JobPolicy(requests.deadline_s, reserve_s, requests.max_attempts)
    return Upstreams(pool, caller, fetcher, metrics, supply, policy, time.time, time.monotonic)


def unfetchable(settings: Settings) -> list[str]:
    """Upstreams at an address of the operator's own whose result links the gateway would refuse to follow."""
    upstreams = [upstream for upstream in settings.upstreams if upstream.base_url.startswith("http://")]
    return [entry.name for entry in upstreams if _endpoint(entry).links.trust(entry.base_url) is LinkTrust.NONE]


def size_policy(settings: Settings) -> SizePolicy:
    return SizePolicy(settings.images.size_policy)


def _prices(model: config.Model) -> tuple[Price, ...]:
    """The configuration knows prices per image only: what else there is cannot be settled yet."""
    changes = ((int(change.since.timestamp()), change.price_per_image_usd) for change in model.price_changes)
    dated = ((0, model.price_per_image_usd), *changes)
    return tuple(Price(since_s, PerImage(usd_micros(price))) for since_s, price in dated)


def _capability(upstream: config.Upstream, model: str) -> Capability:
    """What the provider knows, overridden by what the operator declares.

    No call is larger than every account can take in a minute: it would never be sent.
    """
    declared = {name: value for name, value in asdict(upstream.capabilities).items() if value is not None}
    capability = PROVIDERS[upstream.provider].capability(model, declared)
    smallest = min(account.images_per_minute for account in upstream.accounts)
    return replace(capability, max_images_per_call=min(capability.max_images_per_call, smallest))


def _pool(upstream: config.Upstream, environ: Mapping[str, str]) -> Pool:
    accounts = tuple(_account(upstream, account, environ) for account in upstream.accounts)
    terms = PoolConfig(
        upstream.rate_window_margin_s,
        upstream.max_queue_length,
        upstream.breaker_failures,
        upstream.breaker_open_s,
        upstream.retry_budget_percent,
        upstream.paced_percent,
    )
    return Pool(upstream.name, accounts, terms)


def _account(upstream: config.Upstream, account: config.Account, environ: Mapping[str, str]) -> Account:
    limits = AccountLimits(
        account.requests_per_minute, account.images_per_minute, account.max_concurrency, account.weight
    )
    return Account(
        upstream.name,
        account.name,
        limits,
        tuple(
            ProviderKey(
                upstream.name,
                account.name,
                key.name,
                config.read_secret(key.secret, environ, f"upstreams '{upstream.name}': key '{key.name}': secret"),
            )
            for key in account.keys
        ),
    )


def _endpoint(upstream: config.Upstream) -> UpstreamEndpoint:
    provider = PROVIDERS[upstream.provider]
    hosts = provider.result_hosts if upstream.result_hosts is None else upstream.result_hosts
    base_url = upstream.base_url.rstrip("/")
    try:
        httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise config.SettingsError(
            f"upstreams '{upstream.name}': base_url: '{upstream.base_url}' is no address ({error})"
        ) from error
    return UpstreamEndpoint(upstream.name, provider, base_url, LinkPolicy(hosts))
