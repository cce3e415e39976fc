"""Types of settings, each with a description of its valid values, and the tables of upstreams, models and tenants."""

import re
from datetime import datetime
from typing import Annotated, Final, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

_T = TypeVar("_T")
_PATH: Final = re.compile(r"([a-z]\w*(?:\.\w+|\[\d+\])*): ", re.ASCII)
"""The setting at the beginning of a mistake: `storage.signing_keys[0]`."""


def _decimal(digits_max: int, example: str) -> Meta:
    description = f'a non-negative decimal with at most 6 decimals, as {example} or "{example}"'
    return Meta(pattern=rf"^[0-9]{{1,{digits_max}}}(\.[0-9]{{1,6}})?\Z", description=description)


Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z",
        description="1 to 63 characters of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
    ),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
HttpUrl = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^/?#\s@]+(/[^?#\s]*)?\Z",
        description="http:// or https:// and a host, without query, user or password (secrets come from env or file)",
    ),
]
Price = Annotated[str, _decimal(6, "0.0035")]
Usd = Annotated[str, _decimal(9, "50.00")]
Currency = Literal["USD", "CNY"]
SizeText = Annotated[
    str, Meta(pattern=r"^[1-9][0-9]{0,4}x[1-9][0-9]{0,4}\Z", description="WIDTHxHEIGHT in pixels, as 1024x1024")
]
Tokens = Annotated[int, Meta(ge=1, le=100_000_000)]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000, description="an integer from 0 to 1000000000")]
KeepHours = Annotated[int, Meta(ge=1, le=720, description="hours, from 1 to 720")]
LinkSource = Literal["provider", "gateway"]
StorageBytes = Annotated[int, Meta(ge=0, le=2**53, description="bytes, from 0 to 2^53")]
KeyHash = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9]{10}\.[0-9a-f]{64}\Z", description="a hash as `imagegate key hash` prints it"),
]
Moment = Annotated[datetime, Meta(tz=True, description="a date and time with time zone, as 2027-01-01T00:00:00Z")]


class Problem(NamedTuple):
    """One mistake."""

    text: str
    """The path of the setting, a colon, and the reason with the fix."""
    at: str
    """The path; or `line N` of the file, or a variable."""


class SettingsError(Exception):
    """The configuration is invalid. Each line of the message names a setting and the fix."""

    def __init__(self, *problems: Problem | str) -> None:
        self.problems = [problem if isinstance(problem, Problem) else _problem(problem) for problem in problems]
        super().__init__("\n".join(text for text, _ in self.problems))


def _problem(text: str) -> Problem:
    found = _PATH.match(text)
    return Problem(text, found[1] if found else "")


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table. Unknown keys are errors."""


def fields_of(table: Table, kind: type[_T]) -> _T:
    """Copies the settings of a table to a domain value with fields of the same names."""
    return msgspec.convert(table, kind, from_attributes=True)


class SecretSource(Table, frozen=True, kw_only=True):
    """The source of a secret: an environment variable or a file, never the configuration itself."""

    env: str | None = None
    file: str | None = None


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
    alert_usd_per_day: Usd | None = None
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


ProviderName = Literal[
    "302ai",
    "302ai-images",
    "302ai-openai",
    "302ai-tasks",
    "ark",
    "azure",
    "bfl",
    "byteplus",
    "fal",
    "generic",
    "glif",
    "google",
    "ideogram",
    "luma",
    "luma-photon",
    "midjourney",
    "minimax",
    "minimax-h3",
    "openai",
    "qianfan",
    "recraft",
    "replicate",
    "stability",
    "zai",
    "zhipu",
]


class Upstream(Table, frozen=True, kw_only=True):
    """One provider at one address."""

    name: Name
    provider: ProviderName
    base_url: HttpUrl | None = None
    proxy: str | None = None
    proxy_password: SecretSource | None = None
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


class PriceVariant(Table, frozen=True, kw_only=True):
    """The price of an image of one quality and size. Without one of them, it applies to all."""

    quality: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    size: SizeText | None = None
    amount: Price


class RateTable(Table, frozen=True, kw_only=True):
    """A price per image, by variant of the image, per megapixel, per token, or as the provider's answer states it."""

    per: Literal["image", "variant", "megapixel", "token", "answer"]
    currency: Currency = "USD"
    amount: Price | None = None
    variants: tuple[PriceVariant, ...] = ()
    largest_size: SizeText | None = None
    text_input: Price | None = None
    image_input: Price | None = None
    cached_input: Price | None = None
    output: Price | None = None
    input_tokens_max: Tokens | None = None
    output_tokens_max: Tokens | None = None
    amount_max: Price | None = None


class ExchangeRate(Table, frozen=True, kw_only=True):
    """The value of one unit of a currency in dollars, valid from a time on."""

    currency: Literal["CNY"]
    usd: Price
    since: Moment | None = None


class PriceChange(Table, frozen=True, kw_only=True):
    """A price of a model, valid from a time on. Requests admitted earlier have the previous price."""

    since: Moment
    price_per_image_usd: Price | None = None
    price: RateTable | None = None


class Target(Table, frozen=True, kw_only=True):
    """An upstream that offers the model, the model's name there, and what the provider takes for it."""

    upstream: str
    model: ModelName
    cost: RateTable | None = None


class Model(Table, frozen=True, kw_only=True):
    """A model that tenants can request."""

    id: ModelName
    aliases: tuple[ModelName, ...] = ()
    price_per_image_usd: Price | None = None
    price: RateTable | None = None
    prefer: Literal["first", "cheapest"] = "first"
    price_changes: tuple[PriceChange, ...] = ()
    edits: bool = True
    links: LinkSource | None = None
    targets: Annotated[tuple[Target, ...], Meta(min_length=1)]


class Limits(Table, frozen=True, kw_only=True):
    """Rate and concurrency limits. A missing limit is unlimited; 0 refuses everything."""

    requests_per_minute: Limit | None = None
    images_per_minute: Limit | None = None
    concurrency: Limit | None = None


class Quotas(Table, frozen=True, kw_only=True):
    """Quotas per calendar day or month, in [metering] time_zone. The soft one is a budget: it refuses nothing."""

    images_per_day: Limit | None = None
    images_per_month: Limit | None = None
    usd_per_month: Usd | None = None
    soft_usd_per_month: Usd | None = None


TagKey = Annotated[
    str, Meta(pattern=r"^[a-z0-9_.-]{1,32}\Z", description="1 to 32 characters of a-z, 0-9, '_', '.' and '-'")
]
TagValue = Annotated[str, Meta(pattern=r"^[ -~]{1,64}\Z", description="1 to 64 printable ASCII characters")]
Tags = Annotated[dict[TagKey, TagValue], Meta(max_length=8)]
Percents = tuple[Annotated[int, Meta(ge=1, le=1000, description="a percentage, 1 to 1000")], ...]
AlertAddress = Annotated[
    str,
    Meta(
        max_length=2000,
        pattern=r"^(mailto:[^\s@]+@[^\s@]+|https?://\S+)\Z",
        description='"mailto:" and an address, or a URL',
    ),
]
Text = Annotated[str, Meta(max_length=100)]


class TenantAlerts(Table, frozen=True, kw_only=True):
    """The percentages of a quota that raise alerts, and where they go; default: those of [alerts]."""

    percent: Percents | None = None
    to: tuple[AlertAddress, ...] = ()


class ConfiguredKey(Table, frozen=True, kw_only=True):
    """An API key: its hash as printed by `imagegate key hash`, or the source of the key."""

    label: Text = ""
    role: Literal["", "lead"] = ""
    tags: Tags = {}
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
    keep_hours: KeepHours | None = None
    storage_bytes: StorageBytes | None = None
    owner: Text = ""
    contact: Text = ""
    cost_centre: Text = ""
    tags: Tags = {}
    required_tags: tuple[TagKey, ...] = ()
    alerts: TenantAlerts = TenantAlerts()
    weight: Annotated[int, Meta(ge=1, le=1000)] = 1
    disabled: bool = False
    keys: tuple[ConfiguredKey, ...] = ()
