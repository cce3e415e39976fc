"""The gateways' configuration: short deadlines, so that expiry takes seconds, and two providers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ADMIN_KEY: Final = "admin-key-of-the-chaos-run"
DEADLINE_S: Final = 75.0
"""Longer than an account's minute: requests of an overload wait in the queue until it is over."""
CALL_TIMEOUT_S: Final = 5.0
CALL_TIMEOUT_PER_IMAGE_S: Final = 1.8
"""Per image after the first."""
LEASE_S: Final = 6.0
"""Shorter than a call of 9 images may take, so a call can outlast an outage that outlasts its lease."""
DRAIN_TIMEOUT_S: Final = DEADLINE_S
ACCOUNT_RPM: Final = 240
"""The provider's limit per account, and the maximum configured for a gateway."""
ACCOUNT_IPM: Final = 600
ACCOUNT_LANES: Final = 8
RATE_MARGIN_S: Final = 3.0
"""A slow machine may delay one call and not the next."""
ACCOUNTS: Final = {"minimax": ("north", "east", "south"), "302ai": ("west", "hill", "lake")}
KEYS_AN_ACCOUNT: Final = 2
PRICES: Final = {"image-01": 3500, "minimaxi-image-01": 3500, "image-01-live": 4700}
"""Micro-dollars per image, by the provider's model name."""
LIVE: Final = "image-01-live"
"""A model that only MiniMax has."""
TAG_KEY: Final = "team"
"""Of the only tag, which requests may have."""
FAR: Final = "far-image"
"""A model that only 302.AI has."""

_HEAD: Final = """
[server]
auth_failures_per_minute = 0
sse_keepalive_s = 1
shutdown_timeout_s = {drain_s}
shutdown_delay_s = 2
[redis]
url = "redis://127.0.0.1:{redis_port}/0"
timeout_ms = 1000
[metrics]
port = 0
[admin]
port = 0
key = {{ env = "ADMIN_KEY" }}
[requests]
deadline_s = {deadline_s}
reservation_lease_s = {lease_s}
connect_timeout_s = 2
call_timeout_s = {call_s}
call_timeout_per_image_s = {per_image_s}
download_timeout_s = 5
[pool]
probe_interval_s = 3
[storage]
url = "file://{storage}"
[attribution]
keys = ["{tag_key}"]
[billing]
charge_moderated = true
charge_unknown_outcomes = true
"""
_UPSTREAM: Final = """
[[upstreams]]
name = "{name}"
provider = "{provider}"
base_url = "{url}"
result_hosts = ["{url}"]
max_wait_s = {max_wait_s}
fallback_after_s = 1.5
max_queue_length = {max_queue_length}
breaker_open_s = 1
rate_window_margin_s = {margin_s}
"""
_ACCOUNT: Final = """
  [[upstreams.accounts]]
  name = "{name}"
  requests_per_minute = {rpm}
  images_per_minute = {ipm}
  max_concurrency = {lanes}
  weight = {weight}
"""
_KEY: Final = """
    [[upstreams.accounts.keys]]
    name = "{name}"
    secret = {{ env = "{variable}" }}
"""
_MODELS: Final = """
[[models]]
id = "image-01"
aliases = ["dall-e-3", "gpt-image-1"{more}]
price_per_image_usd = "0.0035"
  [[models.targets]]
  upstream = "minimax"
  model = "image-01"
  [[models.targets]]
  upstream = "302ai"
  model = "minimaxi-image-01"
[[models]]
id = "image-01-live"
price_per_image_usd = "0.0047"
  [[models.targets]]
  upstream = "minimax"
  model = "image-01-live"
[[models]]
id = "far-image"
price_per_image_usd = "0.0035"
  [[models.targets]]
  upstream = "302ai"
  model = "minimaxi-image-01"
"""
_MODEL: Final = """
[[models]]
id = "{model}"
price_per_image_usd = "0.0035"
  [[models.targets]]
  upstream = "{upstream}"
  model = "image-01"
"""


@dataclass(frozen=True, slots=True)
class Group:
    """A separate upstream for one kind of fault; other faults do not affect it. One key per account."""

    name: str
    model: str
    accounts: tuple[str, ...]
    requests_per_minute: int
    images_per_minute: int
    max_wait_s: float


CROWD: Final = Group("crowd", "crowd-image", tuple(f"crowd{number:02}" for number in range(40)), 10, 60, 70)
"""For overloads. Six calls of 9 images leave 6 images in a minute, too few for another call of 9."""
STEADY: Final = Group("steady", "steady-image", ("steady0", "steady1"), ACCOUNT_RPM, ACCOUNT_IPM, 8)
"""For outages that outlast a lease."""
GROUPS: Final = (CROWD, STEADY)


@dataclass(frozen=True)
class Configuration:
    """The configuration file of all gateways; `vary` changes reloadable settings."""

    path: Path
    redis_port: int
    provider_url: str

    def vary(self, version: int) -> None:
        """Writes other limits, weights and aliases atomically, never above the provider's limits."""
        share = (1.0, 0.7, 0.85)[version % 3]
        parts = [
            _HEAD.format(
                drain_s=DRAIN_TIMEOUT_S,
                redis_port=self.redis_port,
                deadline_s=DEADLINE_S,
                lease_s=LEASE_S,
                call_s=CALL_TIMEOUT_S,
                per_image_s=CALL_TIMEOUT_PER_IMAGE_S,
                storage=self.path.parent / "files",
                tag_key=TAG_KEY,
            )
        ]
        for name, accounts in ACCOUNTS.items():
            parts.append(self._upstream(name, name, max_wait_s=8, max_queue_length=60))
            for place, account in enumerate(accounts):
                weight = 1 + (place + version) % 3
                parts += _account(account, round(ACCOUNT_RPM * share), round(ACCOUNT_IPM * share), weight)
        for group in GROUPS:
            parts.append(self._upstream(group.name, "minimax", max_wait_s=group.max_wait_s, max_queue_length=1000))
            for account in group.accounts:
                parts += _account(account, group.requests_per_minute, group.images_per_minute, 1)
            parts.append(_MODEL.format(model=group.model, upstream=group.name))
        parts.append(_MODELS.format(more=f', "house-{version}"' if version else ""))
        self.write("".join(parts))

    def _upstream(self, name: str, provider: str, *, max_wait_s: float, max_queue_length: int) -> str:
        return _UPSTREAM.format(
            name=name,
            provider=provider,
            url=self.provider_url,
            max_wait_s=max_wait_s,
            max_queue_length=max_queue_length,
            margin_s=RATE_MARGIN_S,
        )

    def write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def read(self) -> str:
        return self.path.read_text()


def _account(name: str, rpm: int, ipm: int, weight: int) -> list[str]:
    keys = [_KEY.format(name=key, variable=variable(key)) for key in keys_of(name)]
    return [_ACCOUNT.format(name=name, rpm=rpm, ipm=ipm, lanes=ACCOUNT_LANES, weight=weight), *keys]


def keys_of(account: str) -> list[str]:
    """Returns an account's provider keys; the simulator takes the part before the dash as the account."""
    count = 1 if any(account in group.accounts for group in GROUPS) else KEYS_AN_ACCOUNT
    return [f"{account}-{number + 1}" for number in range(count)]


def variable(key: str) -> str:
    return "KEY_" + key.upper().replace("-", "_")


def secrets() -> dict[str, str]:
    """Returns the gateways' environment."""
    named = [*ACCOUNTS.values(), *(group.accounts for group in GROUPS)]
    accounts = [account for accounts in named for account in accounts]
    keys = [key for account in accounts for key in keys_of(account)]
    return {variable(key): key for key in keys} | {"ADMIN_KEY": ADMIN_KEY}
