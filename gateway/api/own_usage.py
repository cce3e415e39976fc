"""`GET /v1/usage`: what the caller's tenant and key may use, have used, and have left.

A key sees the totals of its tenant and its own part of them, never that of another key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.admin.periods import check_days
from gateway.api.admin.schemas import QueryFields
from gateway.api.admin.usage import UsageSection
from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import context_of, json_response
from gateway.api.middleware import AsgiEndpoint
from gateway.api.response_headers import rfc3339
from gateway.api.usage_amounts import describe_usage
from gateway.domain.billing import usd
from gateway.domain.tenants import ApiKey, QuotaStatus, Tenant
from gateway.domain.usage import Group, GroupBy, UsageFilter, UsageReport, UsageTotals
from gateway.metering.decisions import AdmissionDecision
from gateway.metering.exports import amounts_document

_DAYS_MAX: Final = 92
"""Limit on the days of one response: a quarter."""
_ALL_ROWS: Final = 2**31
"""Days and models bound the rows."""


@dataclass(frozen=True, slots=True, repr=False)
class OwnUsageRoutes:
    """The request handler."""

    authenticator: TenantAuthenticator
    usage: UsageSection
    path: str = "/v1/usage"

    def routes(self) -> list[Route]:
        return [Route(self.path, AsgiEndpoint(self.get), methods=["GET"])]

    async def get(self, request: Request) -> Response:
        caller = await self.authenticator.authenticate_reader(request, allows_lead=True)
        with self.authenticator.counting_refusals(caller):
            query = QueryFields(request)
            first, last = self.usage.parse_days(query)
            check_days(first, last, _DAYS_MAX)
            query.reject_unknown()
        status = await self.authenticator.admission.peek(caller)
        context_of(request).rates = status.rates
        report = UsageReport((GroupBy.DAY, GroupBy.MODEL, GroupBy.KEY), _ALL_ROWS, own_key=caller.key.id)
        with self.authenticator.reporting(caller) as count:
            await self.usage.ledger.fill(report, UsageFilter(first, last, caller.tenant.name))
            count(report.groups_read)
        tenant = {"name": caller.tenant.current_name} | _scope("tenant", caller.tenant, status)
        own: dict[str, object] = {}
        if caller.key.id:  # a person who signed in to the console without a key has none
            identity = {"id": caller.key.id, "label": caller.key.label, "role": caller.key.role}
            own = {"key": identity | _scope("key", caller.key, status)}
        return json_response(
            {"object": "usage", "tenant": tenant}
            | own
            | {"from": first, "to": last, "time_zone": self.usage.calendar.name}
            | _by_day_and_model(report.rows(), caller.key.id)
        )


def _scope(name: str, holder: Tenant | ApiKey, status: AdmissionDecision) -> dict[str, object]:
    """Describes the limits, quotas and budgets of a tenant or key, and its counters."""
    used, limits, soft = status.used[name], holder.limits, holder.quotas.soft_usd_micros_per_month
    rates = {
        "requests_per_minute": (limits.requests_per_minute, used.requests_last_minute, used.requests_free_at_s),
        "images_per_minute": (limits.images_per_minute, used.images_last_minute, used.images_free_at_s),
        "concurrency": (limits.concurrency, used.concurrency, None),
    }
    budget = QuotaStatus(name, "soft_usd_micros_per_month", soft or 0, used.usd_micros_this_month, status.month_ends_s)
    return {
        "limits": {
            rate: _remaining(limit, taken, free_at_s)
            for rate, (limit, taken, free_at_s) in rates.items()
            if limit is not None
        },
        "quotas": dict(_quota(quota) for quota in status.rates.quotas if quota.scope == name),
        "budgets": {} if soft is None else dict([_quota(budget)]),
        "used": describe_usage(used),
    }


def _quota(quota: QuotaStatus) -> tuple[str, dict[str, object]]:
    """Renders the public name of a quota and its status, with money as an exact decimal."""
    described = _remaining(quota.limit, quota.used, quota.resets_at_s)
    if "usd_micros" not in quota.name:
        return quota.name, described
    money = {name: usd(value) for name, value in described.items() if isinstance(value, int)}
    return quota.name.replace("usd_micros", "usd"), described | money


def _remaining(limit: int, used: int, resets_at_s: int | None) -> dict[str, object]:
    resets_at = None if resets_at_s is None else rfc3339(resets_at_s)
    return {"limit": limit, "used": used, "remaining": max(0, limit - used), "resets_at": resets_at}


def _by_day_and_model(rows: Iterable[tuple[Group, UsageTotals]], own_key: str) -> dict[str, object]:
    """Renders one row for each day and model, and the total, each with the part of the caller's key."""
    sums: dict[tuple[str, ...], tuple[UsageTotals, UsageTotals]] = {(): (UsageTotals(), UsageTotals())}
    for (*place, key), amounts in rows:
        for group in ((), tuple(place)):
            total, own = sums.setdefault(group, (UsageTotals(), UsageTotals()))
            total.add(amounts)
            if key == own_key:
                own.add(amounts)
    described = {
        group: amounts_document(total) | {"key": amounts_document(own)} for group, (total, own) in sums.items()
    }
    whole = described.pop(())
    return {"data": [{"day": day, "model": model} | row for (day, model), row in described.items()], "total": whole}
