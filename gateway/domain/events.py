"""Events for notifications: quotas, budgets, keys, provider accounts, the gateway and batches.

The script that detects an event appends it to a Redis stream of the tenant, the pool or the gateway.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class EventType(Enum):
    """Names of events, as webhooks have them."""

    QUOTA_THRESHOLD = "quota.threshold_crossed"
    QUOTA_EXHAUSTED = "quota.exhausted"
    QUOTA_RAISED = "quota.raised"
    LIMITS_CHANGED = "limits.changed"
    BUDGET_THRESHOLD = "budget.threshold_crossed"
    BUDGET_FORECAST = "budget.forecast_exceeded"
    KEY_EXPIRING = "key.expiring"
    KEY_ROTATED = "key.rotated"
    KEY_REVOKED = "key.revoked"
    ACCOUNT_SPENT = "pool.account_spent"
    KEY_QUARANTINED = "pool.key_quarantined"
    NO_CAPACITY = "pool.no_capacity"
    CAPACITY_RESTORED = "pool.capacity_restored"
    UPSTREAM_SPEND = "upstream.spend_threshold_crossed"
    RELOAD_REFUSED = "config.reload_refused"
    CERTIFICATE_EXPIRING = "certificate.expiring"
    WEBHOOK_DISABLED = "webhook.disabled"
    BATCH_COMPLETED = "batch.completed"
    BATCH_FAILED = "batch.failed"
    BATCH_EXPIRED = "batch.expired"
    BATCH_CANCELLED = "batch.cancelled"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. It holds no secret and no prompt."""

    id: str  # the same however often it is sent
    type: EventType
    at_ms: int  # Unix milliseconds
    data: Mapping[str, object]


def event_id(stream: str, entry: str) -> str:
    """Returns the ID of the event that one entry of a stream is."""
    return f"evt_{hashlib.blake2b(f'{stream} {entry}'.encode(), digest_size=16).hexdigest()}"
