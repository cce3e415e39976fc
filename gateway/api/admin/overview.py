"""`/admin/v1/overview`: what operators look at first, in one response.

All requests that wait share one reading. The next one starts at the earliest after 1 s, and after twenty times as long
as the last took, at most 15 s. So consoles cost little, however many are open.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers, may
from gateway.api.bodies import json_response
from gateway.domain.audit import Actor
from gateway.domain.billing import usd
from gateway.domain.calendar import Calendar
from gateway.domain.errors import KeyState
from gateway.domain.errors.faults import fault_of
from gateway.domain.usage import GroupBy, UsageFilter, UsageReport, UsageTotals
from gateway.metering.exports import amounts_document
from gateway.metering.ledger import Ledger
from gateway.metering.refusals import RefusalList
from gateway.scheduler import Scheduler
from gateway.scheduler.status import AccountStatus, Health, KeyStatus, PoolStatus, effective_health
from gateway.tenants.key_list import KeyList, KeyView

_DAYS: Final = 30
_ALL_ROWS: Final = 2**31
"""The days bound the rows."""
_MONEY: Final = frozenset({"at", "today", "month", "days"})
"""What a person without permission for the pool gets."""
_INTERVAL_S: Final = 1.0
_INTERVAL_MAX_S: Final = 15.0
"""How often the console asks."""
_PAUSES_PER_READING: Final = 20
_PAST_S: Final = 300.0
"""Age of the sums of days before yesterday: only late corrections change them."""
_RESTING_MAX: Final = 100
_KEYS_MAX: Final = 20
"""Of at most 1,000 that are read."""
_AMOUNTS: Final = ("usd", "images", "requests")
_Member = PoolStatus | AccountStatus | KeyStatus


@dataclass(slots=True, repr=False)
class SpendByDay:
    """Sums of all tenants by day."""

    ledger: Ledger
    _past: dict[date, UsageTotals] = field(default_factory=dict)
    _past_until_s: float = 0.0

    async def read(self, first: date, today: date, now_s: float) -> dict[date, UsageTotals]:
        """Returns the sums of the days from `first` that have any; today's and yesterday's are exact.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: that of a report by day.
        """
        yesterday = today - timedelta(days=1)
        if now_s >= self._past_until_s or yesterday - timedelta(days=1) not in self._past:
            past = await self._sums(first, yesterday - timedelta(days=1))
            self._past = dict.fromkeys((yesterday - timedelta(days=1),), UsageTotals()) | past
            self._past_until_s = now_s + _PAST_S
        return self._past | await self._sums(yesterday, today)

    async def _sums(self, first: date, last: date) -> dict[date, UsageTotals]:
        report = UsageReport((GroupBy.DAY,), _ALL_ROWS)
        await self.ledger.fill(report, UsageFilter(first, last))
        return {date.fromisoformat(day): totals for (day,), totals in report.rows()}


@dataclass(slots=True, eq=False, repr=False)
class OverviewSection:
    """The route of the overview."""

    spend: SpendByDay
    calendar: Calendar
    pool: Scheduler
    keys: KeyList
    refusals: RefusalList
    certificate: Callable[[], tuple[str, int] | None]
    """Returns the host and the expiry of this process's certificate, in Unix seconds; None without TLS."""
    clock: Callable[[], float]
    _shown: dict[str, object] = field(default_factory=dict)
    _next_s: float = 0.0
    """When the next reading may start, by the event loop's clock."""
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock)

    def handlers(self) -> Handlers:
        return {"/overview": {"GET": self.show}}

    async def show(self, request: Request, _: Actor) -> Response:
        shown = await self._current()
        if not may(request, "pool.read"):
            shown = {name: value for name, value in shown.items() if name in _MONEY}
        return json_response(shown)

    async def _current(self) -> dict[str, object]:
        now = asyncio.get_running_loop().time
        async with self._reading:
            started_s = now()
            if started_s >= self._next_s or not self._shown:
                self._shown = await self._read()
                pause_s = max(_INTERVAL_S, _PAUSES_PER_READING * (now() - started_s))
                self._next_s = started_s + min(pause_s, _INTERVAL_MAX_S)
            return self._shown

    async def _read(self) -> dict[str, object]:
        now_s = self.clock()
        pools, certificate = await self.pool.snapshot(), self.certificate()
        since_s, refused = await self.refusals.counts()
        resting = [_describe_resting(*one) for pool in pools for one in _resting(pool)]
        expiring = (await self.keys.page(None, "", KeyView.EXPIRES_SOON, 1000, None)).keys
        return {
            "at": int(now_s),
            **await self._money(now_s),
            "queue": [_describe_queue(pool) for pool in pools],
            "pool": [_describe_capacity(pool) for pool in pools],
            "resting": resting[:_RESTING_MAX],
            "resting_total": len(resting),
            "expiring_keys": [
                {"id": key.id, "label": key.label, "tenant": key.tenant, "expires_at": key.expires_at}
                for key in sorted(expiring, key=lambda key: key.expires_at or 0)[:_KEYS_MAX]
            ],
            "refusals_24h": [{"code": code, "count": count} for code, count in refused],
            "refusals_since": since_s,
            "certificates": [{"host": certificate[0], "expires_at": certificate[1]}] if certificate else [],
        }

    async def _money(self, now_s: float) -> dict[str, object]:
        today = self.calendar.day(now_s)
        month = today.replace(day=1)
        previous_end = month - timedelta(days=1)
        previous = previous_end.replace(day=1)
        same_day = previous.replace(day=min(today.day, previous_end.day))
        first_shown = today - timedelta(days=_DAYS - 1)
        sums = await self.spend.read(min(previous, first_shown), today, now_s)
        days = [first_shown + timedelta(days=number) for number in range(_DAYS)]
        previous_usd = usd(_total(sums, previous, same_day).usd_micros)
        return {
            "today": _amounts(_total(sums, today, today)),
            "month": _amounts(_total(sums, month, today)) | {"previous_usd_same_days": previous_usd},
            "days": [{"day": day.isoformat()} | _amounts(_total(sums, day, day)) for day in days],
        }


def _total(sums: dict[date, UsageTotals], first: date, last: date) -> UsageTotals:
    total = UsageTotals()
    for day, totals in sums.items():
        if first <= day <= last:
            total.add(totals)
    return total


def _amounts(totals: UsageTotals) -> dict[str, object]:
    described = amounts_document(totals)
    return {name: described[name] for name in _AMOUNTS}


def _describe_queue(pool: PoolStatus) -> dict[str, object]:
    oldest_s = None if pool.oldest_wait_s is None else round(pool.oldest_wait_s, 1)
    return {
        "upstream": pool.upstream,
        "waiting": pool.waiting,
        "waiting_batch": pool.waiting_batch,
        "oldest_wait_s": oldest_s,
    }


def _describe_capacity(pool: PoolStatus) -> dict[str, object]:
    roomy = [account for account in pool.accounts if account.free]
    images = (account.limits.images_per_minute - account.images_used for account in roomy)
    return {
        "upstream": pool.upstream,
        "accounts": len(pool.accounts),
        "with_room": len(roomy),
        "requests_free": pool.free,
        "images_free": sum(images),
    }


def _resting(pool: PoolStatus) -> Iterator[tuple[_Member, Health]]:
    """Yields what is out of rotation: the whole upstream, or whole accounts, or single keys."""
    if (health := effective_health(pool, pool.accounts)).state is not KeyState.READY:
        yield pool, health
    for account in pool.accounts:
        if account.state is not KeyState.READY:
            yield account, account
        yield from ((key, key) for key in account.keys if key.state is not KeyState.READY)


def _describe_resting(member: _Member, health: Health) -> dict[str, object]:
    key = member if isinstance(member, KeyStatus) else None
    return {
        "upstream": member.upstream,
        "account": key.account if key else member.name if isinstance(member, AccountStatus) else None,
        "key": key.name if key else None,
        "state": health.state.value,
        "error_code": health.error_code,
        "fault": fault_of(health.error_code),
        "model": key.model if key else None,
        "since": health.since_s,
        "retry_at": health.until_s,
        "held_by": health.held_by,
    }
