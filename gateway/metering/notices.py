"""Events that time brings about: budgets that a month's spend will exceed, and keys that expire.

One process an hour checks every tenant. lua/announce.lua emits each event once, whichever process reports it again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import msgspec
import structlog

from gateway.domain.billing import usd
from gateway.domain.calendar import Calendar
from gateway.domain.errors import GatewayError
from gateway.domain.events import EventType
from gateway.domain.tenants import Quotas
from gateway.redis import Client, LeaderLock, execute, load_script
from gateway.tenants.records import names_record, record
from gateway.tenants.store import batched

NOTICE_LEADER: Final = "notice_leader"
ROUND_S: Final = 3600.0
_TRY_S: Final = 60.0
"""How often each process tries to become the one of the next round."""
_DAY_S: Final = 86_400
_FIRST_DAY: Final = 4
"""Of a month, for forecasts: the spend of fewer days says little."""
_EXPIRY_DAYS: Final = ((0, 1), (3, 3), (14, 14))
"""Days that a notice states, and the days left from which on it applies."""
_LOG = structlog.get_logger("imagegate.notices")


@dataclass(frozen=True, slots=True)
class _Notice:
    """An event, emitted if its value differs from the last one of its name."""

    name: str
    value: str
    type: EventType
    data: Mapping[str, object]


class _Key(msgspec.Struct, frozen=True):
    """What a notice says of a key's record."""

    label: str = ""
    expires_at: int | None = None


class Notices:
    """Checks budgets and expiries of all tenants."""

    def __init__(
        self,
        redis: Client,
        lock: LeaderLock,
        clock: Callable[[], float],
        calendar: Calendar,
        notify: Callable[[str], Awaitable[None]] | None = None,
    ) -> None:
        """`lock` lasts for one round; `notify` is called with a tenant for which events were emitted."""
        self._redis = redis
        self._lock = lock
        self._clock = clock
        self._calendar = calendar
        self._notify = notify
        self._announce = load_script(redis, "metering/announce", ("tenants/streams",))

    async def run(self) -> None:
        """Checks once an hour on one process; runs until cancelled."""
        while True:
            await asyncio.sleep(_TRY_S)
            try:
                if await self._lock.acquire():
                    await self.check()
            except GatewayError as error:
                _LOG.warning("notices_failed", detail=error.detail, retry_in_s=ROUND_S)

    async def check(self) -> None:
        """Emits what is due. Raises: GatewayError REDIS_UNAVAILABLE.

        Redis: two round trips per 100 tenants, and one per tenant with a notice.
        """
        names = await execute(self._redis, self._redis.smembers(names_record(self._redis.prefix)), set[str])
        now_s = self._clock()
        month = f"month:{self._calendar.day(now_s):%Y%m}"
        for batch in batched(sorted(names)):
            terms, keys = (self._redis.pipeline(transaction=False) for _ in range(2))
            for name in batch:
                terms.hmget(record(self._redis, name, "tenant"), "disabled", "limits")
                terms.hmget(record(self._redis, name, month), "charged_usd_micros", "credited_usd_micros")
                keys.hgetall(record(self._redis, name, "keys"))
            found = iter(await execute(self._redis, terms.execute(), list[list[str | None]]))
            texts = await execute(self._redis, keys.execute(), list[dict[str, str]])
            for name, (disabled, limits), spent, own_keys in zip(batch, found, found, texts, strict=True):
                if disabled == "0":
                    charged, credited = (int(amount or 0) for amount in spent)
                    due = [*self._forecasts(name, limits or "{}", charged - credited, now_s)]
                    await self._emit(name, [*due, *_expiries(name, own_keys, now_s)])

    def _forecasts(self, tenant: str, limits: str, spent: int, now_s: float) -> Iterator[_Notice]:
        """Yields the forecast of the soft budget, or of the quota without one, if the month's spend will exceed it."""
        quotas, today = msgspec.json.decode(limits, type=Quotas), self._calendar.day(now_s)
        subject, limit = {"budget": "soft_usd_per_month"}, quotas.soft_usd_micros_per_month
        if limit is None:
            subject, limit = {"quota": "usd_per_month"}, quotas.usd_micros_per_month
        begin_s, end_s = _month_s(self._calendar, today)
        projected = spent * (end_s - begin_s) // max(1, round(now_s) - begin_s)
        if limit and today.day >= _FIRST_DAY and projected > limit:
            amounts = {"used": usd(spent), "limit": usd(limit), "projected": usd(projected)}
            window = {"window": f"{today:%Y-%m}", "resets_at": end_s, "percent": spent * 100 // limit}
            data = {"tenant": tenant, **subject, **amounts, **window}
            yield _Notice("forecast", today.isoformat(), EventType.BUDGET_FORECAST, data)

    async def _emit(self, tenant: str, due: list[_Notice]) -> None:
        if not due:
            return
        notices = [[one.name, one.value, one.type.value, msgspec.json.encode(one.data).decode()] for one in due]
        stream = record(self._redis, tenant, "events")
        if await self._announce([stream], [msgspec.json.encode(notices)]) and self._notify:
            with suppress(GatewayError):  # the events are found without it, later
                await self._notify(tenant)


def _month_s(calendar: Calendar, today: date) -> tuple[int, int]:
    """Returns the first second of a day's month, and of the next."""
    first = today.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    before, end = (calendar.end_s(day - timedelta(days=1)) for day in (first, following))
    return before, end


def _expiries(tenant: str, keys: Mapping[str, str], now_s: float) -> Iterator[_Notice]:
    for key_id, text in keys.items():
        key = msgspec.json.decode(text, type=_Key)
        left_s = (key.expires_at or 0) - now_s
        days = next((days for days, least in _EXPIRY_DAYS if 0 < left_s <= least * _DAY_S), None)
        if days is not None:
            data = {"tenant": tenant, "key_id": key_id, "label": key.label, "expires_at": key.expires_at, "days": days}
            yield _Notice(f"key:{key_id}", f"{key.expires_at}:{days}", EventType.KEY_EXPIRING, data)
