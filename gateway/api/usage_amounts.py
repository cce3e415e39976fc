"""Counters and records of usage, as every report of the API has them."""

import math
from datetime import UTC, datetime
from typing import Final

from gateway.domain.billing import usd
from gateway.domain.usage import LedgerEntry, Usage

_UNCHARGED: Final = ("withheld", "lost", "unconfirmed")
_LAST_MS: Final = 253_402_300_799_999
"""End of the year 9999, the last that ISO 8601 dates of four digits can express."""


def describe_usage(usage: Usage) -> dict[str, object]:
    """Describes the counters of a tenant or key. Images and money include what is reserved, less what was credited."""
    return {
        "requests_last_minute": usage.requests_last_minute,
        "images_last_minute": usage.images_last_minute,
        "concurrency": usage.concurrency,
        "images_today": usage.images_today,
        "images_this_month": usage.images_this_month,
        "usd_this_month": usd(usage.usd_micros_this_month),
        "open_requests": usage.open_requests,
    }


def describe_record(record: LedgerEntry) -> dict[str, object]:
    amounts = record.amounts
    seconds, ms = divmod(min(max(record.admitted_ms, 0), _LAST_MS), 1000)
    return {
        "id": record.reservation,
        "time": f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{ms:03}Z",
        "request_id": record.request_id,
        "tenant": record.tenant,
        "correction_of": record.correction_of,
        "key_id": record.key_id,
        "user": record.user or None,
        "tags": record.tags,
        "batch_id": record.line and record.line.batch_id,
        "custom_id": record.line and record.line.custom_id,
        "model": record.model,
        "upstream": ",".join(dict.fromkeys(upstream for upstream, _ in record.calls)),
        "account": ",".join(dict.fromkeys(account for _, account in record.calls)),
        "asked": amounts.asked,
        "delivered": amounts.delivered,
        **{name: amounts.of(name) for name in _UNCHARGED},
        "usd": usd(amounts.usd_micros),
        "price_per_image_usd": usd(record.price_usd_micros),
        "price_basis": record.basis.value,
        "cost_usd": None if record.cost_usd_micros is None else usd(record.cost_usd_micros),
        "outcome": record.outcome,
        "calls": [
            {"upstream": upstream, "account": account, "delivered": share.delivered}
            | {name: getattr(share, name) for name in _UNCHARGED}
            | {"cost_usd": None if share.cost is None else usd(math.ceil(share.cost))}
            for (upstream, account), share in record.calls.items()
        ],
        "queue_ms": record.durations.queue_ms,
        "upstream_ms": record.durations.upstream_ms,
        "total_ms": record.durations.total_ms,
    }
