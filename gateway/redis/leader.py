"""Leader lock: one process at a time runs a periodic task."""

from typing import Final

from gateway.redis import Client, execute

KEY_CHECK_LEADER: Final = "key_check_leader"
"""Lock for checking unhealthy provider keys."""


class LeaderLock:
    """Elects one process per `every_s`. A dead leader loses the lock within `every_s`."""

    def __init__(self, redis: Client, name: str, own_id: str, every_s: float) -> None:
        self._redis = redis
        self._name = f"{redis.prefix}:{name}"
        self._own_id = own_id
        self._ttl_ms = max(1, round(every_s * 1000))

    async def acquire(self) -> bool:
        """Returns True if this process became the leader. Raises: GatewayError REDIS_UNAVAILABLE."""
        acquired = self._redis.set(self._name, self._own_id, nx=True, px=self._ttl_ms)
        return bool(await execute(self._redis, acquired, object))

    async def renew(self) -> bool:
        """Extends the lock by `every_s`; False if this process lost it. Raises: GatewayError REDIS_UNAVAILABLE."""
        if await execute(self._redis, self._redis.get(self._name), object) != self._own_id:
            return False
        return bool(await execute(self._redis, self._redis.pexpire(self._name, self._ttl_ms), bool))
