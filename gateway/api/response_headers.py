"""The response headers that are rendered from a request's context, for results and errors alike."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from gateway.domain.billing import usd
from gateway.domain.tenants import QuotaStatus, Rates
from gateway.generation.context import RequestContext

OPENAI_VERSION: Final = "2020-10-01"
"""The only version that OpenAI has ever sent (reference/openai-images.md 6.2)."""
_WARNED_PERCENT: Final = 80
_MONEY: Final = "usd_micros_per_month"
_SHOWN_NAMES: Final = {_MONEY: "usd_per_month"}


def context_headers(context: RequestContext, elapsed_s: float) -> dict[str, str]:
    values = {
        "x-request-id": context.id,
        "openai-version": OPENAI_VERSION,
        "openai-processing-ms": str(round(1000 * elapsed_s)),
    }
    if context.rates:
        values.update(rate_headers(context.rates))
        values.update(quota_headers(context.rates.quotas))
    numbers = context.numbers
    if numbers.ignored:
        values["x-imagegate-ignored"] = ", ".join(numbers.ignored)
    if context.replayed:
        values["idempotent-replayed"] = values["x-imagegate-replayed"] = "true"
    if context.cut_prompt:
        values["x-imagegate-prompt"] = "{} of {} characters".format(*context.cut_prompt)
    if context.size_change:
        values["x-imagegate-size"] = str(context.size_change)
    if numbers.links:
        values["x-imagegate-links"] = numbers.links
    if context.missing:
        values["x-imagegate-missing"] = str(context.missing)
    if context.asked:
        values["x-imagegate-queue-ms"] = str(numbers.queue_ms)
        values["x-imagegate-attempts"] = str(numbers.attempts)
    if context.charged_usd_micros is not None:
        values["x-imagegate-cost-usd"] = usd(context.charged_usd_micros)
    return values


def rate_headers(rates: Rates) -> Iterator[tuple[str, str]]:
    """Renders `x-ratelimit-*`, in requests and in images."""
    for unit, rate in (("requests", rates.requests), ("images", rates.images)):
        if rate:
            minutes, seconds = divmod(rate.reset_s, 60)  # OpenAI writes "1s", "1m1s" (reference/openai-images.md 6.2)
            yield f"x-ratelimit-limit-{unit}", str(rate.limit)
            yield f"x-ratelimit-remaining-{unit}", str(rate.remaining)
            yield f"x-ratelimit-reset-{unit}", f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def quota_headers(quotas: Sequence[QuotaStatus]) -> Iterator[tuple[str, str]]:
    """Renders the least that remains of images and of money, and what the quota is with the largest share used."""
    if not quotas:
        return
    if images := [quota.remaining for quota in quotas if quota.name != _MONEY]:
        yield "x-imagegate-quota-remaining-images", str(min(images))
    if money := [quota.remaining for quota in quotas if quota.name == _MONEY]:
        yield "x-imagegate-quota-remaining-usd", usd(min(money))
    tightest = max(quotas, key=lambda quota: (quota.percent, quota.resets_at_s))
    yield "x-imagegate-quota-reset", rfc3339(tightest.resets_at_s)
    if tightest.percent >= _WARNED_PERCENT:
        owner = " of this key" if tightest.scope == "key" else ""
        name = _SHOWN_NAMES.get(tightest.name, tightest.name)
        yield "x-imagegate-warning", f"quota {tightest.percent}% of {name}{owner}"


def rfc3339(at_s: int) -> str:
    """Renders Unix seconds in UTC."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"
