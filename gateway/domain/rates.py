"""How a tenant's rate limits stand, as the headers of an answer tell them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate limit as it stands: the tighter of the tenant's and the key's."""

    limit: int
    remaining: int
    reset_s: int
    """Seconds until nothing of it is used."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What `x-ratelimit-*` tell; None where there is no such limit."""

    requests: Rate | None = None
    images: Rate | None = None
