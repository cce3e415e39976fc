"""The tables `[[upstreams]]`, `[[models]]` and `[[tenants]]`."""

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
    """One provider key."""

    name: Name
    secret: SecretSource


class Account(Table, frozen=True, kw_only=True):
    """A provider account, the unit of the provider's limits."""

    name: Name
    requests_per_minute: Rate = 10
    images_per_minute: Rate = 60
    max_concurrency: Rate = 10
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    keys: Annotated[tuple[AccountKey, ...], Meta(min_length=1)]


class Capabilities(Table, frozen=True, kw_only=True):
    """The operator's overrides of the provider's known capabilities."""

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
    """A price of a model, valid from a time on. Requests admitted earlier have the previous price."""

    since: Moment
    price_per_image_usd: Price


class Target(Table, frozen=True, kw_only=True):
    """An upstream that offers the model, and the model's name there."""

    upstream: str
    model: ModelName


class Model(Table, frozen=True, kw_only=True):
    """A model that tenants can request."""

    id: ModelName
    aliases: tuple[ModelName, ...] = ()
    price_per_image_usd: Price
    price_changes: tuple[PriceChange, ...] = ()
    targets: Annotated[tuple[Target, ...], Meta(min_length=1)]


class Limits(Table, frozen=True, kw_only=True):
    """Rate and concurrency limits. A missing limit is unlimited; 0 refuses everything."""

    requests_per_minute: Limit | None = None
    images_per_minute: Limit | None = None
    concurrency: Limit | None = None


class Quotas(Table, frozen=True, kw_only=True):
    """Quotas per calendar day or month (UTC)."""

    images_per_day: Limit | None = None
    images_per_month: Limit | None = None
    usd_per_month: Usd | None = None


class ConfiguredKey(Table, frozen=True, kw_only=True):
    """An API key: its hash as printed by `imagegate key hash`, or the source of the key."""

    label: Annotated[str, Meta(max_length=100)] = ""
    hash: KeyHash | None = None
    secret: SecretSource | None = None
    expires_at: Moment | None = None
    limits: Limits = Limits()
    quotas: Quotas = Quotas()


class ConfiguredTenant(Table, frozen=True, kw_only=True):
    """A tenant declared in the configuration."""

    name: Name
    models: tuple[ModelName, ...] | None = None
    limits: Limits = Limits()
    quotas: Quotas = Quotas()
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    disabled: bool = False
    keys: tuple[ConfiguredKey, ...] = ()
