"""The gateways' configuration: short deadlines, so that what expires does so in seconds, and two kinds of provider."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

ADMIN_KEY: Final = "admin-key-of-the-closed-book"
DEADLINE_S: Final = 20.0
CALL_TIMEOUT_S: Final = 5.0
LEASE_S: Final = 6.0
DRAIN_TIMEOUT_S: Final = 30.0
ACCOUNT_RPM: Final = 240
"""The provider's limit of each account, and the most that a gateway is told."""
ACCOUNT_IPM: Final = 600
ACCOUNT_LANES: Final = 8
RATE_MARGIN_S: Final = 3.0
"""A slow machine delays one call and not the next."""
ACCOUNTS: Final = {"minimax": ("north", "east", "south"), "302ai": ("west", "hill", "lake")}
KEYS_AN_ACCOUNT: Final = 2
PRICES: Final = {"image-01": 3500, "minimaxi-image-01": 3500, "image-01-live": 4700}
"""Micro-dollars of one image, by the provider's name of the model."""
LIVE: Final = "image-01-live"
"""The model that only MiniMax makes."""
FAR: Final = "far-image"
"""The model that only 302.AI makes."""

_HEAD: Final = """
[server]
failed_keys_per_minute = 0
stream_keep_alive_s = 1
drain_timeout_s = {drain_s}
drain_grace_s = 2
[redis]
url = "redis://127.0.0.1:{redis_port}/0"
timeout_ms = 500
[admin]
key = {{ env = "ADMIN_KEY" }}
[requests]
deadline_s = {deadline_s}
lease_s = {lease_s}
connect_timeout_s = 2
call_timeout_s = {call_s}
call_timeout_per_image_s = 0.5
result_timeout_s = 5
[pool]
probe_every_s = 3
[billing]
charge_withheld = true
charge_unconfirmed = true
"""
_UPSTREAM: Final = """
[[upstreams]]
name = "{name}"
dialect = "{name}"
base_url = "{url}"
result_hosts = ["{url}"]
max_wait_s = 8
spill_after_s = 1.5
queue_max = 60
breaker_open_s = 1
rate_margin_s = {margin_s}
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


@dataclass(frozen=True)
class Configuration:
    """The file that all gateways read; `vary` changes what may be changed while they run."""

    path: Path
    redis_port: int
    provider_url: str

    def vary(self, version: int) -> None:
        """Other limits, weights and aliases, never above what the provider allows; written at once as a whole."""
        share = (1.0, 0.7, 0.85)[version % 3]
        parts = [
            _HEAD.format(
                drain_s=DRAIN_TIMEOUT_S,
                redis_port=self.redis_port,
                deadline_s=DEADLINE_S,
                lease_s=LEASE_S,
                call_s=CALL_TIMEOUT_S,
            )
        ]
        for name, accounts in ACCOUNTS.items():
            parts.append(_UPSTREAM.format(name=name, url=self.provider_url, margin_s=RATE_MARGIN_S))
            for place, account in enumerate(accounts):
                weight = 1 + (place + version) % 3
                rpm, ipm = round(ACCOUNT_RPM * share), round(ACCOUNT_IPM * share)
                parts.append(_ACCOUNT.format(name=account, rpm=rpm, ipm=ipm, lanes=ACCOUNT_LANES, weight=weight))
                parts += [_KEY.format(name=key, variable=variable(key)) for key in keys_of(account)]
        parts.append(_MODELS.format(more=f', "house-{version}"' if version else ""))
        self.write("".join(parts))

    def write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)

    def read(self) -> str:
        return self.path.read_text()


def keys_of(account: str) -> list[str]:
    """The provider's keys, each its own secret: the simulator takes what stands before the dash for the account."""
    return [f"{account}-{number + 1}" for number in range(KEYS_AN_ACCOUNT)]


def variable(key: str) -> str:
    return "KEY_" + key.upper().replace("-", "_")


def secrets() -> dict[str, str]:
    """The gateways' environment."""
    keys = [key for accounts in ACCOUNTS.values() for account in accounts for key in keys_of(account)]
    return {variable(key): key for key in keys} | {"ADMIN_KEY": ADMIN_KEY}
