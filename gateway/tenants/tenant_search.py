"""Finds tenants by a part of name, owner or cost centre, and counts them."""

from typing import Final

from gateway.domain.tenants import Tenant
from gateway.redis import Client, execute
from gateway.tenants.records import names_record, read_tenant, record
from gateway.tenants.store import batched

TENANTS_MAX: Final = 10_000
"""Tenants that one search reads, 100 per round trip: about a second."""


class TenantSearch:
    """Reads the IDs of tenants, not their whole records."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis

    async def find(self, search: str) -> list[str] | None:
        """Returns the IDs of tenants that match, in order; None if there are more than 10,000 tenants.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: the set of all tenants, one round trip per 100.
        """
        call = self._redis.smembers(names_record(self._redis.prefix))
        ids = sorted(await execute(self._redis, call, set[str]))
        if len(ids) > TENANTS_MAX:
            return None
        found: list[str] = []
        for batch in batched(ids):
            pipeline = self._redis.pipeline(transaction=False)
            for tenant_id in batch:
                pipeline.hmget(record(self._redis, tenant_id, "tenant"), "created_at", "renamed_to", "about")
            replies = await execute(self._redis, pipeline.execute(), list[list[str | None]])
            for tenant_id, (created_at, renamed_to, about) in zip(batch, replies, strict=True):
                fields = {"renamed_to": renamed_to or "", "about": about or ""}
                if created_at is not None and _matches(read_tenant(tenant_id, fields), search):
                    found.append(tenant_id)
        return found


def _matches(tenant: Tenant, search: str) -> bool:
    wanted = search.casefold()
    return any(wanted in text.casefold() for text in (tenant.current_name, tenant.owner, tenant.cost_centre))
