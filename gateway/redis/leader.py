"""Who of several processes has the turn to do what one of them must do now and then."""

from typing import Final

from gateway.redis import PREFIX, Client, execute

KEY_CHECK_LEADER: Final = f"{PREFIX}:key_check_leader"
"""The turn to ask free pages about the keys that rest."""


class LeaderLock:
    """One process at a time, and nobody again before `every_s` have passed; whoever dies loses it by then."""

    def __init__(self, redis: Client, name: str, own_id: str, every_s: float) -> None:
        self._redis = redis
        self._name = name
        self._own_id = own_id
        self._ttl_ms = max(1, round(every_s * 1000))

    async def acquire(self) -> bool:
        """Whether it is this process's turn now. Raises: GatewayError REDIS_UNAVAILABLE."""
        acquired = self._redis.set(self._name, self._own_id, nx=True, px=self._ttl_ms)
        return bool(await execute(self._redis, acquired, object))

    async def renew(self) -> bool:
        """Whether it still is; then for `every_s` from now on. Raises: GatewayError REDIS_UNAVAILABLE."""
        if await execute(self._redis, self._redis.get(self._name), object) != self._own_id:
            return False
        return bool(await execute(self._redis, self._redis.pexpire(self._name, self._ttl_ms), bool))
