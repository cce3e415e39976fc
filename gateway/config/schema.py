"""Every setting with its type, default and bounds; config/imagegate.toml describes each."""

from typing import Annotated, Literal

from msgspec import Meta

from gateway.config.alerts import Alerts
from gateway.config.console import Console
from gateway.config.upstreams import (
    ConfiguredTenant,
    ExchangeRate,
    HttpUrl,
    KeepHours,
    LinkSource,
    Model,
    Name,
    SecretSource,
    StorageBytes,
    Table,
    Upstream,
)

Port = Annotated[int, Meta(ge=0, le=65535, description="a port, 0 to 65535")]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
Host = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9._-]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%\w+)?)\Z",
        description="an address or a name without port, as 127.0.0.1; 0.0.0.0 or :: for all addresses",
    ),
]
KeyPrefix = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._-]{1,32}\Z", description="1 to 32 characters of A-Z, a-z, 0-9, '.', '_' and '-'")
]
"""Without ':', which ends the prefix: no key of one prefix can begin with another."""


AttributionKey = Annotated[
    str,
    Meta(pattern=r"^([a-z0-9_.-]{1,32}|\*)\Z", description="'*', or 1 to 32 characters of a-z, 0-9, '_', '.' and '-'"),
]
HeaderName = Annotated[
    str,
    Meta(
        pattern=r"^(?!(?i:authorization|(x-)?api-key|cookie)\Z)[A-Za-z0-9-]{1,64}\Z",
        description="1 to 64 characters of A-Z, a-z, 0-9 and '-', and no header of credentials",
    ),
]


class Tls(Table, frozen=True, kw_only=True):
    """PEM files of the gateway's certificate chain and private key."""

    certificate: str
    key: str


class Server(Table, frozen=True, kw_only=True):
    """The client-facing server: address, and limits in bytes and seconds."""

    host: Host = "127.0.0.1"
    port: Port = 8080
    max_body_bytes: Count = 1024 * 1024
    max_minimax_body_bytes: Count = 16 * 1024 * 1024
    max_form_bytes: Count = 128 * 1024 * 1024
    max_memory_bytes: Count = 512 * 1024 * 1024
    max_spooled_bytes: Count = 256 * 1024 * 1024
    max_connections: Count = 8192
    max_connections_per_address: Count | None = None
    max_header_bytes: Count = 64 * 1024
    header_timeout_s: Seconds = 30
    body_timeout_s: Seconds = 30
    cors_origins: tuple[str, ...] = ("*",)
    sse_keepalive_s: Seconds = 10
    keep_alive_blanks_s: Annotated[float, Meta(ge=0, le=3600)] = 0
    write_timeout_s: Seconds = 60
    shutdown_timeout_s: Seconds = 330
    shutdown_delay_s: Annotated[float, Meta(ge=0, le=300)] = 2
    trusted_proxies: tuple[str, ...] = ()
    public_url: HttpUrl | None = None
    auth_failures_per_minute: Annotated[int, Meta(ge=0, le=100_000)] = 60
    rejections_per_second: Annotated[int, Meta(ge=0, le=100_000)] = 50
    tls: Tls | None = None


class Redis(Table, frozen=True, kw_only=True):
    """Redis connection. Redis is considered unavailable after `timeout_ms` without a reply."""

    url: str = "redis://localhost:6379/0"
    username: str | None = None
    password: SecretSource | None = None
    sentinel_password: SecretSource | None = None
    timeout_ms: Annotated[int, Meta(ge=10, le=60_000)] = 1000
    key_prefix: KeyPrefix = "ig3"
    embedded_dir: str | None = None


class AdminKey(Table, frozen=True, kw_only=True):
    """A named admin key. The audit records its changes under this name."""

    name: Name
    secret: SecretSource
    role: Literal["admin", "read"] = "admin"


class Admin(Table, frozen=True, kw_only=True):
    """The admin API, disabled without a key. `key` has the name "admin"; `port` 0 shares the gateway's port."""

    key: SecretSource | None = None
    keys: tuple[AdminKey, ...] = ()
    requests_per_second: Annotated[int, Meta(ge=0, le=100_000)] = 100
    host: Host = "127.0.0.1"
    port: Port = 8081
    allowed_hosts: tuple[str, ...] = ()


class Audit(Table, frozen=True, kw_only=True):
    """Retention of the audit log."""

    retention_days: Annotated[int, Meta(ge=1, le=36_500)] = 730


class ApiKeys(Table, frozen=True, kw_only=True):
    """API keys: `hash_pepper` is the key of their keyed hashes; a tenant gets at most `max_per_tenant`."""

    hash_pepper: SecretSource | None = None
    max_per_tenant: Annotated[int, Meta(ge=1, le=100_000)] = 1000


class Logs(Table, frozen=True, kw_only=True):
    """Logs on standard error."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"
    prompts: bool = False
    client_address: bool = False


class Tracing(Table, frozen=True, kw_only=True):
    """OpenTelemetry spans; disabled without an endpoint."""

    otlp_endpoint: HttpUrl | None = None
    service_name: Annotated[str, Meta(min_length=1, max_length=100)] = "imagegate"


class Metrics(Table, frozen=True, kw_only=True):
    """The Prometheus endpoint; `port` 0 shares the gateway's port."""

    host: Host = "127.0.0.1"
    port: Port = 9464
    allowed_hosts: tuple[str, ...] = ()
    max_tenant_series: Annotated[int, Meta(ge=0, le=10_000)] = 200


class Images(Table, frozen=True, kw_only=True):
    """Behaviour of the image endpoints."""

    links: LinkSource = "provider"
    size_policy: Literal["nearest", "strict"] = "nearest"
    gpt_image_response_format: Literal["accept", "refuse"] = "accept"
    default_output_format: Literal["as_made", "png", "jpeg", "webp"] = "as_made"
    default_response_format: Literal["both", "openai"] = "both"
    long_prompt: Literal["refuse", "truncate"] = "refuse"
    unknown_parameters: Literal["refuse", "ignore"] = "refuse"


class Pool(Table, frozen=True, kw_only=True):
    """Provider keys: encryption of keys added at run time, and the probe interval of quarantined ones."""

    encryption_keys: tuple[SecretSource, ...] = ()
    probe_interval_s: Seconds = 300


class Billing(Table, frozen=True, kw_only=True):
    """Images that tenants are charged for besides delivered ones."""

    charge_moderated: bool = False
    charge_unknown_outcomes: bool = True


class Metering(Table, frozen=True, kw_only=True):
    """The calendar of quotas and reports."""

    time_zone: Annotated[str, Meta(min_length=1, max_length=100)] = "UTC"


class Attribution(Table, frozen=True, kw_only=True):
    """What requests may be attributed to besides tenant and API key."""

    keys: Annotated[tuple[AttributionKey, ...], Meta(max_length=16)] = ()
    headers: tuple[HeaderName, ...] = ()
    plain_user: bool = False


class Ledger(Table, frozen=True, kw_only=True):
    """Retention of request records, and limits on one tenant's data in Redis. Sums do not expire."""

    retention_days: Annotated[int, Meta(ge=1, le=3660)] = 400
    max_records_per_day: Count = 1_000_000
    max_recent_requests: Count = 100_000
    billing_account: Annotated[str, Meta(min_length=1, max_length=100)] = "imagegate"


class Requests(Table, frozen=True, kw_only=True):
    """Limits of one request and of its upstream calls, in seconds and bytes."""

    deadline_s: Seconds = 300
    reservation_lease_s: Annotated[float, Meta(ge=1, le=3600)] = 60
    max_attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    connect_timeout_s: Seconds = 5
    call_timeout_s: Seconds = 150
    call_timeout_per_image_s: Annotated[float, Meta(ge=0, le=600)] = 10
    max_response_bytes: Count = 64 * 1024 * 1024
    download_timeout_s: Seconds = 30
    max_download_bytes: Count = 32 * 1024 * 1024
    idle_timeout_s: Seconds = 15
    ca_file: str | None = None
    journal_dir: str | None = None


class Replays(Table, frozen=True, kw_only=True):
    """Outcomes that requests get which repeat an order, and limits on the images stored for them in Redis."""

    unknown_outcome_s: Annotated[float, Meta(ge=0, le=3600)] = 30
    key_retention_hours: Annotated[int, Meta(ge=1, le=720)] = 24
    max_keys_per_tenant: Count = 10_000
    result_retention_s: Annotated[int, Meta(ge=60, le=86_400)] = 600
    max_result_bytes: Annotated[int, Meta(ge=0)] = 32 * 1024 * 1024
    max_tenant_bytes: Annotated[int, Meta(ge=0)] = 64 * 1024 * 1024
    max_total_bytes: Annotated[int, Meta(ge=0)] = 128 * 1024 * 1024


class Batches(Table, frozen=True, kw_only=True):
    """Limits on the batches of one tenant."""

    max_concurrency: Annotated[int, Meta(ge=1, le=1000)] = 8
    max_lines: Annotated[int, Meta(ge=1, le=50_000)] = 5000
    max_open: Annotated[int, Meta(ge=1, le=1000)] = 20


class Storage(Table, frozen=True, kw_only=True):
    """Where pictures and files are stored, and for how long; without `url` nothing is."""

    url: Annotated[str, Meta(min_length=1)] | None = None
    keep_hours: KeepHours = 24
    tenant_bytes: StorageBytes = 10 * 1024**3
    timeout_s: Annotated[float, Meta(gt=0, le=300)] = 5
    endpoint: HttpUrl | None = None
    region: str | None = None
    access_key_id: SecretSource | None = None
    secret_access_key: SecretSource | None = None
    redirect: bool = False
    signing_keys: tuple[SecretSource, ...] = ()


class Files(Table, frozen=True, kw_only=True):
    """Uploaded files of batches."""

    max_file_bytes: Annotated[int, Meta(ge=1, le=512 * 1024**2)] = 200 * 1024**2
    max_files: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class Settings(Table, frozen=True, kw_only=True):
    """The whole configuration; config/imagegate.toml describes every setting."""

    server: Server = Server()
    redis: Redis = Redis()
    admin: Admin = Admin()
    console: Console = Console()
    api_keys: ApiKeys = ApiKeys()
    audit: Audit = Audit()
    logs: Logs = Logs()
    tracing: Tracing = Tracing()
    metrics: Metrics = Metrics()
    images: Images = Images()
    requests: Requests = Requests()
    replays: Replays = Replays()
    batches: Batches = Batches()
    alerts: Alerts = Alerts()
    storage: Storage = Storage()
    files: Files = Files()
    pool: Pool = Pool()
    billing: Billing = Billing()
    exchange_rates: tuple[ExchangeRate, ...] = ()
    metering: Metering = Metering()
    ledger: Ledger = Ledger()
    attribution: Attribution = Attribution()
    upstreams: Annotated[tuple[Upstream, ...], Meta(min_length=1)]
    models: Annotated[tuple[Model, ...], Meta(min_length=1)]
    tenants: tuple[ConfiguredTenant, ...] = ()
