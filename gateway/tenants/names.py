"""Names of tenants that were renamed.

A tenant's first name is its ID for good: it names the tenant in Redis, in the storage and in the ledger. Renaming
changes what is shown, so nothing moves and no request meets half a rename. Every name a tenant ever had leads to it
alone.

Invariant: a name is claimed before the record has it. A rename that is interrupted in between has not happened, and
can be repeated.
"""

from collections.abc import Sequence

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis import Client, execute, load_script
from gateway.tenants.records import names_record, record


class TenantNames:
    """Resolves names to IDs, and IDs to names."""

    def __init__(self, redis: Client) -> None:
        self._redis = redis
        self.ids = names_record(redis.prefix)
        self.later = f"{redis.prefix}:{{{self.ids}}}:names"
        """Hash of later names; in a cluster, on the server of the set of IDs."""
        self._claim = load_script(redis, "tenants/claim_name")

    async def resolve(self, name: str) -> str:
        """Returns the ID of a tenant by its current name; an unknown name is an ID.

        Raises: GatewayError NOT_FOUND for a former name, REDIS_UNAVAILABLE.
        Redis: one round trip, two for a tenant that was renamed.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hget(self.later, name)
        pipeline.hget(record(self._redis, name, "tenant"), "renamed_to")
        owner, renamed_to = await execute(self._redis, pipeline.execute(), tuple[str | None, str | None])
        current = await self.current(owner) if owner else renamed_to or name
        if current != name:
            raise renamed(name, current)
        return owner or name

    async def claim(self, name: str, tenant_id: str = "") -> str:
        """Reserves a name for a tenant, or for a new one.

        Returns: the ID of the tenant that has or had the name if it is another one, else "".
        Redis: one round trip, lua/claim_name.lua.
        """
        return str(await self._claim([self.ids, self.later], [name, tenant_id]))

    async def current(self, tenant_id: str) -> str:
        """Returns the current name of a tenant. Raises: GatewayError REDIS_UNAVAILABLE."""
        call = self._redis.hget(record(self._redis, tenant_id, "tenant"), "renamed_to")
        return await execute(self._redis, call, str) or tenant_id

    async def ids_of(self, names: Sequence[str]) -> dict[str, str]:
        """Returns IDs by any name that a tenant has or had; an unknown name is an ID.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip, none without names.
        """
        found = await execute(self._redis, self._redis.hmget(self.later, names), list[str | None]) if names else []
        return {name: owner or name for name, owner in zip(names, found, strict=True)}

    async def show(self, rows: list[dict[str, object]]) -> list[dict[str, object]]:
        """Returns the rows with the current name of each `tenant`. Redis: as `all_current`."""
        if not any("tenant" in row for row in rows):
            return rows
        names = await self.all_current()
        shown = ((row, row.get("tenant")) for row in rows)
        return [row | {"tenant": names.get(had, had)} if isinstance(had, str) else row for row, had in shown]

    async def all_current(self) -> dict[str, str]:
        """Returns the current names of renamed tenants by ID.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip, two if any tenant was renamed.
        """
        ids = sorted(set(await execute(self._redis, self._redis.hvals(self.later), list[str])))
        if not ids:
            return {}
        pipeline = self._redis.pipeline(transaction=False)
        for tenant_id in ids:
            pipeline.hget(record(self._redis, tenant_id, "tenant"), "renamed_to")
        names = await execute(self._redis, pipeline.execute(), list[str | None])
        return {tenant_id: name for tenant_id, name in zip(ids, names, strict=True) if name}


def renamed(name: str, current: str) -> GatewayError:
    return GatewayError(ErrorCode.NOT_FOUND, f"The tenant '{name}' was renamed. Its name is '{current}'.")
