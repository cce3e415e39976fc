"""The list of `/admin/v1/tenants`: search, order, and pages of it."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.api.admin.schemas import QueryFields
from gateway.api.refusals import refused_value
from gateway.domain.tenants import Tenant
from gateway.domain.usage import Usage
from gateway.tenants.store import TenantStore, batched
from gateway.tenants.tenant_search import TENANTS_MAX, TenantSearch

_PAGE_MAX: Final = 1000
_SORTED_MAX: Final = 2_000
"""Tenants that are sorted by usage, whose counters are read one by one."""
_MEASURES: Final[dict[str, Callable[[Usage], int]]] = {
    "usd": lambda usage: usage.usd_micros_this_month,
    "images": lambda usage: usage.images_this_month,
}
_PLACE: Final = re.compile(r"(-?\d{1,18}):([a-z0-9][a-z0-9._-]{0,62})", re.ASCII)


@dataclass(frozen=True, slots=True)
class TenantPage:
    """Tenants in order. `total` counts all that match; None if more than 10,000 exist."""

    tenants: list[Tenant]
    total: int | None
    next: str | None


@dataclass(frozen=True, slots=True)
class TenantQuery:
    """The parameters of a list."""

    search: str | None
    measure: str | None
    """None sorts by ID."""
    is_descending: bool
    limit: int
    after: str | None

    @staticmethod
    def parse(query: QueryFields) -> "TenantQuery":
        """Raises: GatewayError INVALID_VALUE."""
        sort, order, after = query.text("sort"), query.text("order"), query.text("after")
        if sort not in {None, "name", *_MEASURES}:
            raise refused_value("sort", "expected 'name', 'usd' or 'images'.")
        if order not in {None, "asc", "desc"}:
            raise refused_value("order", "expected 'asc' or 'desc'.")
        measure = sort if sort in _MEASURES else None
        if measure and after and not _PLACE.fullmatch(after):
            raise refused_value("after", "expected the 'next' of an earlier response with the same 'sort'.")
        is_descending = order == "desc" if order else measure is not None
        return TenantQuery(
            query.text("q"), measure, is_descending, query.integer("limit", 1, _PAGE_MAX, _PAGE_MAX), after
        )


@dataclass(frozen=True, slots=True, repr=False)
class TenantLister:
    """Reads pages of the list."""

    tenants: TenantStore
    search: TenantSearch
    usage: Callable[[str], Awaitable[Usage | None]]

    async def page(self, query: TenantQuery) -> TenantPage:
        """Raises: GatewayError INVALID_VALUE if too many tenants are to be searched or sorted, REDIS_UNAVAILABLE.

        Redis: the set of all tenants, and one round trip per 100 of them up to 10,000; sorted by usage, also
        lua/admit.lua for each that matches.
        """
        found = await self.search.find(query.search or "")
        if found is None and query.search:
            raise refused_value("q", f"at most {TENANTS_MAX:,} tenants can be searched. Leave it out.")
        ids = sorted(await self.tenants.names()) if found is None else found
        if query.measure:
            if len(ids) > _SORTED_MAX:
                why = f"at most {_SORTED_MAX:,} tenants can be sorted by it, but {len(ids):,} match; narrow with 'q'."
                raise refused_value("sort", why)
            places = await self._by_usage(ids, _MEASURES[query.measure])
        else:
            places = [(0, tenant_id) for tenant_id in ids]
        places.sort(reverse=query.is_descending)
        if query.after:
            amount, _, after = query.after.rpartition(":")
            start = (int(amount or 0), after)
            places = [place for place in places if (place < start if query.is_descending else place > start)]
        tenants = await self.tenants.read([tenant_id for _, tenant_id in places], query.limit + 1)
        page = tenants[: query.limit]
        following = page[-1].name if len(tenants) > query.limit else None
        if following and query.measure:
            following = next(f"{amount}:{tenant_id}" for amount, tenant_id in places if tenant_id == following)
        return TenantPage(page, None if found is None else len(found), following)

    async def _by_usage(self, ids: list[str], measure: Callable[[Usage], int]) -> list[tuple[int, str]]:
        places: list[tuple[int, str]] = []
        for batch in batched(ids):
            counters = await asyncio.gather(*map(self.usage, batch))
            places += [(measure(usage) if usage else 0, name) for usage, name in zip(counters, batch, strict=True)]
        return places
