"""Endpoints that get events: those of the configuration, those that administrators create, and tenants' `alert_to`."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from gateway.domain.accounts import Secret, make_secret
from gateway.domain.events import EventType
from gateway.events.addresses import MAIL, origin_of

ALERTS: Final = ("quota.*", "budget.*", "limits.changed", "key.*")
"""What the addresses of a tenant's `alert_to` get."""
ADDRESS_PREFIX: Final = "to_"
"""Of the IDs of such addresses."""
ADDRESSES_MAX: Final = 20
"""Addresses of a tenant's `alert_to` that get events."""
_ID_BYTES: Final = 12


class Channel(Enum):
    """The form in which an endpoint gets events."""

    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address, and the events that it gets. The configuration names the address if it `is_declared`."""

    id: str
    url: str = field(repr=False)
    channel: Channel
    event_types: tuple[str, ...] = ("*",)
    name: str = ""
    tenant: str = ""
    """Its events only; empty for all events."""
    secret: Secret | None = None
    old_secret: Secret | None = None
    """The secret before the last rotation, which signs too until `old_until`."""
    old_until: int = 0  # Unix seconds
    is_declared: bool = False
    created_at: int = 0
    updated_at: int = 0
    problem: str = ""
    """Why it cannot be used, if its stored form cannot be decrypted."""

    @property
    def shown_url(self) -> str:
        """The URL, without what is secret of a Slack webhook's."""
        return f"{origin_of(self.url)}/..." if self.channel is Channel.SLACK else self.url

    @property
    def audited_url(self) -> str:
        """The host and a fingerprint that differs with the URL, which is a secret of many services."""
        if self.channel is Channel.EMAIL:
            return self.url
        return f"{origin_of(self.url)}/... ({make_secret(self.url).fingerprint})"

    def secrets(self, now_s: float) -> list[str]:
        """Returns the secrets that sign, the current one first."""
        old = self.old_secret if now_s < self.old_until else None
        return [secret.plaintext for secret in (self.secret, old) if secret]


@dataclass(frozen=True, slots=True)
class Disabled:
    """Since when an endpoint gets nothing, and why."""

    at: int  # Unix seconds
    reason: str


def unknown_pattern(patterns: Iterable[str]) -> str | None:
    """Returns a pattern that matches no type of event."""
    known = [kind.value for kind in EventType]
    return next((one for one in patterns if not any(fnmatchcase(kind, one) for kind in known)), None)


def wants(patterns: Iterable[str], kind: str) -> bool:
    return any(fnmatchcase(kind, pattern) for pattern in patterns)


def channel_of(url: str, name: str | None) -> Channel:
    """Raises: ValueError if the channel cannot use the URL."""
    channel = Channel(name) if name else Channel.EMAIL if url.startswith(MAIL) else Channel.WEBHOOK
    if (channel is Channel.EMAIL) != url.startswith(MAIL):
        raise ValueError("an e-mail address is mailto:NAME@HOST, and only that is; the other channels need https://")
    return channel


def tenant_endpoint(target: str, tenant: str) -> Endpoint:
    """The endpoint of an address in a tenant's `alert_to`: e-mail, or the text form of Slack, which needs no secret."""
    name = ADDRESS_PREFIX + hashlib.blake2b(f"{tenant} {target}".encode(), digest_size=_ID_BYTES).hexdigest()
    channel = Channel.EMAIL if target.startswith(MAIL) else Channel.SLACK
    return Endpoint(name, target, channel, ALERTS, "alert_to", tenant)
