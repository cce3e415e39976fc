"""The project's Lua scripts on a real server with a settable clock.

Each script reads the server's time by `redis.call('TIME')`. Here that call reads a key instead, and nothing else
changes. A test of hours runs in milliseconds, and its clock may jump both ways.
"""

from typing import Any, Final

import redis

from gateway.redis import script_text

_TIME: Final = "redis.call('TIME')"
_READ: Final = "redis.call('HMGET', 'test:clock', 's', 'us')"


class Clock:
    """The time of one server's scripts, in Unix seconds."""

    def __init__(self, client: "redis.Redis", now_s: float = 1_785_000_000.0) -> None:
        self._client = client
        self.now_s = now_s
        self.set(now_s)

    def set(self, now_s: float) -> None:
        self.now_s = now_s
        seconds, us = divmod(round(now_s * 1e6), 1_000_000)
        self._client.hset("test:clock", mapping={"s": seconds, "us": us})

    def advance(self, seconds: float) -> None:
        """Advances the clock; negative values set it back."""
        self.set(self.now_s + seconds)


def clocked_script(client: "redis.Redis", name: str, shared: tuple[str, ...] = (), tables: str = "") -> Any:
    """Returns a callable of (keys, args), as `gateway.redis.load_script` does, on the test's clock."""
    text = script_text(name, shared, tables)
    assert _TIME in text
    return client.register_script(text.replace(_TIME, _READ))
