"""Counters and amounts of usage, as every report of the API has them."""

from typing import Final

from gateway.domain.billing import usd
from gateway.domain.usage import Usage, UsageTotals

UNCHARGED: Final = ("withheld", "lost", "unconfirmed")


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


def describe_amounts(amounts: UsageTotals) -> dict[str, object]:
    return {
        "requests": amounts.requests,
        "asked": amounts.asked,
        "images": amounts.delivered,
        **{name: amounts.of(name) for name in UNCHARGED},
        "usd": usd(amounts.usd_micros),
    }
