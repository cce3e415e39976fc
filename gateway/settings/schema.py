"""Every setting, its type, its default and its bounds; config/imagegate.toml says what each is for."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535, description="a port, 0 to 65535")]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z",
        description="1 to 63 of the characters a-z, 0-9, '.', '_' and '-', a letter or digit first",
    ),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
HttpUrl = Annotated[
    str, Meta(pattern=r"^https?://[^/?#\s]+(/[^?#\s]*)?\Z", description="http:// or https://, a host, and no query")
]
Price = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?\Z",
        description='a decimal in quotes, not negative, at most 6 digits behind the point, as "0.0035"',
    ),
]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000, description="an integer from 0 to 1000000000")]
Usd = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?\Z",
        description='a decimal in quotes, not negative, at most 6 digits behind the point, as "50.00"',
    ),
]
KeyHash = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9]{10}\.[0-9a-f]{64}\Z", description="a hash as `imagegate key hash` prints it"),
]
Moment = Annotated[datetime, Meta(tz=True, description="a moment with its zone, as 2027-01-01T00:00:00Z")]


class SettingsError(Exception):
    """The configuration cannot be used; the message says where and how to mend it."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: unknown keys are errors."""


class SecretSource(Table, frozen=True, kw_only=True):
    """Where a secret comes from: an environment variable or a file, never the configuration itself."""

    env: str | None = None
    file: str | None = None


class Server(Table, frozen=True, kw_only=True):
    """How clients are served: address, bounds in bytes and seconds."""

    host: str = "127.0.0.1"
    port: Port = 8080
    max_body_bytes: Count = 1024 * 1024
    max_native_body_bytes: Count = 16 * 1024 * 1024
    head_max_bytes: Count = 64 * 1024
    head_timeout_s: Seconds = 30
    body_timeout_s: Seconds = 30
    cors_origins: tuple[str, ...] = ("*",)
    stream_keep_alive_s: Seconds = 10
    send_timeout_s: Seconds = 300
    drain_timeout_s: Seconds = 330
    drain_grace_s: Annotated[float, Meta(ge=0, le=300)] = 2


class Redis(Table, frozen=True, kw_only=True):
    """Where the state is, and who the gateway is there; `timeout_ms` bounds every call."""

    url: str = "redis://localhost:6379/0"
    username: str | None = None
    password: SecretSource | None = None
    sentinel_password: SecretSource | None = None
    timeout_ms: Annotated[int, Meta(ge=10, le=60_000)] = 100
    embedded_dir: str | None = None


class AdminKey(Table, frozen=True, kw_only=True):
    """An administrator's own key, under whose name the audit keeps what is done with it."""

    name: Name
    secret: SecretSource
    role: Literal["admin", "read"] = "admin"


class Admin(Table, frozen=True, kw_only=True):
    """The admin API: closed without a key. `key` is the one named "admin"."""

    key: SecretSource | None = None
    keys: tuple[AdminKey, ...] = ()


class Audit(Table, frozen=True, kw_only=True):
    """How long it is remembered who changed what."""

    keep_days: Annotated[int, Meta(ge=1, le=36_500)] = 730


class Keys(Table, frozen=True, kw_only=True):
    """Tenants' keys: `pepper` is the key of their keyed hashes."""

    pepper: SecretSource | None = None


class Logs(Table, frozen=True, kw_only=True):
    """What goes to standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    prompts: bool = False
    client_address: bool = False


class Tracing(Table, frozen=True, kw_only=True):
    """Spans for OpenTelemetry; off without an endpoint."""

    otlp_endpoint: HttpUrl | None = None
    service_name: Annotated[str, Meta(min_length=1, max_length=100)] = "imagegate"


class Metrics(Table, frozen=True, kw_only=True):
    """What Prometheus is told, and where: with a `port`, there only."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="a port, 1 to 65535")] | None = None
    tenants_max: Annotated[int, Meta(ge=0, le=10_000)] = 200


class Images(Table, frozen=True, kw_only=True):
    """Choices about OpenAI's wire."""

    size_policy: Literal["nearest", "strict"] = "nearest"
    response_format_on_gpt_image: Literal["accept", "refuse"] = "accept"


class Pool(Table, frozen=True, kw_only=True):
    """Upstream keys: how those added at run time are encrypted, how often those in quarantine are probed."""

    encryption_keys: tuple[SecretSource, ...] = ()
    probe_every_s: Seconds = 300


class Billing(Table, frozen=True, kw_only=True):
    """What tenants pay for besides delivered images."""

    charge_withheld: bool = False
    charge_unconfirmed: bool = True


class Ledger(Table, frozen=True, kw_only=True):
    """How long the record of each request is kept; sums are kept for ever."""

    keep_days: Annotated[int, Meta(ge=1, le=3660)] = 400


class Requests(Table, frozen=True, kw_only=True):
    """Bounds of one request and of its upstream calls, in seconds and bytes."""

    deadline_s: Seconds = 300
    lease_s: Annotated[float, Meta(ge=1, le=3600)] = 60
    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    connect_timeout_s: Seconds = 5
    call_timeout_s: Seconds = 150
    call_timeout_per_image_s: Annotated[float, Meta(ge=0, le=600)] = 10
    max_reply_bytes: Count = 64 * 1024 * 1024
    result_timeout_s: Seconds = 30
    result_max_bytes: Count = 32 * 1024 * 1024


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
    """What an upstream takes, where the operator knows better than the dialect."""

    max_images_per_call: Annotated[int, Meta(ge=1, le=9)] | None = None
    pixels: bool | None = None
    base64: bool | None = None
    seed: bool | None = None
    prompt_optimizer: bool | None = None
    aigc_watermark: bool | None = None
    style: bool | None = None
    subject_reference: bool | None = None


class Upstream(Table, frozen=True, kw_only=True):
    """One provider at one address."""

    name: Name
    dialect: Literal["302ai", "minimax"]
    base_url: HttpUrl
    result_hosts: tuple[str, ...] | None = None
    capabilities: Capabilities = Capabilities()
    max_wait_s: Annotated[float, Meta(ge=0, le=3600)] = 120
    spill_after_s: Annotated[float, Meta(ge=0, le=3600)] = 5
    queue_max: Annotated[int, Meta(ge=1, le=100_000)] = 1000
    rate_margin_s: Annotated[float, Meta(ge=0, le=60)] = 1
    breaker_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    breaker_open_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10
    retry_percent: Annotated[int, Meta(ge=0, le=100)] = 20
    accounts: Annotated[tuple[Account, ...], Meta(min_length=1)]


class PriceChange(Table, frozen=True, kw_only=True):
    """Another price of a model, from a moment on; what was admitted before keeps its own."""

    since: Moment
    price_per_image_usd: Price

    @property
    def price_usd_micros(self) -> int:
        return _usd_micros(self.price_per_image_usd)


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

    @property
    def price_usd_micros(self) -> int:
        return _usd_micros(self.price_per_image_usd)


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


class DeclaredKey(Table, frozen=True, kw_only=True):
    """A tenant's key: its hash as `imagegate key hash` prints it, or where the key itself comes from."""

    label: Annotated[str, Meta(max_length=100)] = ""
    hash: KeyHash | None = None
    secret: SecretSource | None = None
    expires_at: Moment | None = None
    limits: Limits = Limits()
    quotas: Quotas = Quotas()


class DeclaredTenant(Table, frozen=True, kw_only=True):
    """A tenant that stands in the configuration."""

    name: Name
    models: tuple[ModelName, ...] | None = None
    limits: Limits = Limits()
    quotas: Quotas = Quotas()
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    disabled: bool = False
    keys: tuple[DeclaredKey, ...] = ()


class Settings(Table, frozen=True, kw_only=True):
    """The whole configuration; config/imagegate.toml explains every setting."""

    server: Server = Server()
    redis: Redis = Redis()
    admin: Admin = Admin()
    keys: Keys = Keys()
    audit: Audit = Audit()
    logs: Logs = Logs()
    tracing: Tracing = Tracing()
    metrics: Metrics = Metrics()
    images: Images = Images()
    requests: Requests = Requests()
    pool: Pool = Pool()
    billing: Billing = Billing()
    ledger: Ledger = Ledger()
    upstreams: Annotated[tuple[Upstream, ...], Meta(min_length=1)]
    models: Annotated[tuple[Model, ...], Meta(min_length=1)]
    tenants: tuple[DeclaredTenant, ...] = ()


def _usd_micros(text: str) -> int:
    return int(Decimal(text) * 1_000_000)
