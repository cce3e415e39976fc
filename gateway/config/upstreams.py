"""The tables of whom the gateway buys from and sells to: upstreams, models and tenants."""

from typing import Annotated, Literal

from msgspec import Meta

from gateway.config.types import (
    HttpUrl,
    KeyHash,
    Limit,
    ModelName,
    Moment,
    Name,
    Price,
    Rate,
    SecretSource,
    Table,
    Usd,
)


class AccountKey(Table, frozen=True, kw_only=True):
    """One credential."""

    name: Name
    secret: SecretSource


class Account(Table, frozen=True, kw_only=True):
    """What the provider counts its limits on."""

    name: Name
    requests_per_minute: Rate = 10
    images_per_minute: Rate = 60
    max_concurrency: Rate = 10
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    keys: Annotated[tuple[AccountKey, ...], Meta(min_length=1)]


class Capabilities(Table, frozen=True, kw_only=True):
    """What an upstream takes, where the operator knows better than the provider."""

    max_images_per_call: Annotated[int, Meta(ge=1, le=9)] | None = None
    exact_sizes: bool | None = None
    base64_response: bool | None = None
    seed: bool | None = None
    prompt_optimizer: bool | None = None
    aigc_watermark: bool | None = None
    style: bool | None = None
    subject_reference: bool | None = None


class Upstream(Table, frozen=True, kw_only=True):
    """One provider at one address."""

    name: Name
    provider: Literal["302ai", "minimax"]
    base_url: HttpUrl
    result_hosts: tuple[str, ...] | None = None
    capabilities: Capabilities = Capabilities()
    max_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 120
    fallback_after_s: Annotated[float, Meta(ge=0, le=3600)] = 5
    max_queue_length: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    rate_window_margin_s: Annotated[float, Meta(ge=0, le=60)] = 1
    breaker_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    breaker_open_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10
    retry_budget_percent: Annotated[int, Meta(ge=0, le=100)] = 20
    paced_percent: Annotated[int, Meta(ge=0, le=90)] = 50
    accounts: Annotated[tuple[Account, ...], Meta(min_length=1)]


class PriceChange(Table, frozen=True, kw_only=True):
    """Another price of a model, from a moment on; what was admitted before keeps its own."""

    since: Moment
    price_per_image_usd: Price


class Target(Table, frozen=True, kw_only=True):
    """Where a model is made, under the upstream's name for it."""

    upstream: str
    model: ModelName


class Model(Table, frozen=True, kw_only=True):
    """What tenants ask for."""

    id: ModelName
    aliases: tuple[ModelName, ...] = ()
    price_per_image_usd: Price
    price_changes: tuple[PriceChange, ...] = ()
    targets: Annotated[tuple[Target, ...], Meta(min_length=1)]


class Limits(Table, frozen=True, kw_only=True):
    """How fast; what is left out is unlimited, 0 lets nothing through."""

    requests_per_minute: Limit | None = None
    images_per_minute: Limit | None = None
    concurrency: Limit | None = None


class Quotas(Table, frozen=True, kw_only=True):
    """How much in a calendar day or month, UTC."""

    images_per_day: Limit | None = None
    images_per_month: Limit | None = None
    usd_per_month: Usd | None = None


class ConfiguredKey(Table, frozen=True, kw_only=True):
    """A tenant's key: its hash as `imagegate key hash` prints it, or where the key itself comes from."""

    label: Annotated[str, Meta(max_length=100)] = ""
    hash: KeyHash | None = None
    secret: SecretSource | None = None
    expires_at: Moment | None = None
    limits: Limits = Limits()
    quotas: Quotas = Quotas()


class ConfiguredTenant(Table, frozen=True, kw_only=True):
    """A tenant that stands in the configuration."""

    name: Name
    models: tuple[ModelName, ...] | None = None
    limits: Limits = Limits()
    quotas: Quotas = Quotas()
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    disabled: bool = False
    keys: tuple[ConfiguredKey, ...] = ()
