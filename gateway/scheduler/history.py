"""The latest states of a key, of its account and of its upstream: why it was out of rotation, and when.

Each script that changes a state keeps it (lua/prelude.lua), so no change is missed, whichever process made it.
"""

import heapq
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.redis import Client, execute
from gateway.scheduler.scripts import record

STATES_MAX: Final = 50
_SCOPES: Final = ("key", "account", "upstream")


class StateChange(msgspec.Struct, frozen=True, kw_only=True):
    """A state that began."""

    at_ms: int
    """Unix milliseconds."""
    state: str
    error_code: str = ""
    model: str = ""
    """Set if it concerns one model only."""
    actor: str = ""
    """Who made it, if an operator did."""
    scope: str = ""
    """What it is the state of: "key", "account" or "upstream"."""


@dataclass(frozen=True, slots=True, repr=False)
class StateHistory:
    """Reads the history."""

    redis: Client

    async def of_key(self, upstream: str, account: str, key: str) -> list[StateChange]:
        """Returns the latest states that a key was used in, newest first, at most 50.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip.
        """
        pipeline = self.redis.pipeline(transaction=False)
        for member in (f"{account}/{key}", account, "*"):
            pipeline.lrange(record(upstream, f"history:{member}", self.redis.prefix), 0, STATES_MAX - 1)
        lists = await execute(self.redis, pipeline.execute(), list[list[str]])
        found = [
            msgspec.structs.replace(msgspec.json.decode(text, type=StateChange), scope=scope)
            for scope, texts in zip(_SCOPES, lists, strict=True)
            for text in texts
        ]
        return heapq.nlargest(STATES_MAX, found, key=lambda change: change.at_ms)
