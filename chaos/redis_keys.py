"""Redis keys after the run, read directly: leftovers and counters.

The keys are those of the table in docs/upgrading.md.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import redis

from chaos.ledger_records import Counters

_LASTING: Final = re.compile(
    r"ig3:(pepper|tenants|provisioned_tenants|provisioning_digest|key:[^:]+|events)"
    r"|ig3:\{[^}:]+\}:(tenant|keys|revoked_keys|sums:\d{8}|days|records_end|audit|events)"
    r"|ig3:\{events:\}:(due|endpoints|audit|disabled:.+)"
    r"|ig3:\{pool:[^}]+\}:(added|held|audit)"
)
"""Persistent keys, or trimmed ones (audit logs and events). All others must have a TTL."""
_NAME: Final = re.compile(r"ig3:\{(pool:)?([^}]+)\}:(.*)")
_IN_FLIGHT: Final = re.compile(
    r"leases|leased|grants|queue|waiters|active|waits|weights|queued|classes|class:.+|waiting:.+"
)
"""Scheduler keys that exist only while a request waits or a call is in flight."""


class Keys:
    """A direct connection to the server."""

    def __init__(self, socket: Path) -> None:
        self._redis = redis.Redis(unix_socket_path=str(socket))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._redis.close()

    def leftovers(self) -> list[str]:
        """Returns orphaned reservations, leases and waiting requests, and keys without a TTL, as texts."""
        return [told for name in self._names() for told in self._look(name)]

    def counters(self, window: str) -> dict[str, Counters]:
        """Returns the window counters by tenant, without those of API keys; `window` is "day" or "month"."""
        images, micros = Counter[str](), Counter[str]()
        for name in self._names():
            found = re.fullmatch(rf"ig3:\{{([^}}:]+)\}}:{window}:\d+", name)
            if found:
                fields: Any = self._redis.hgetall(name)
                images[found[1]] += int(fields.get(b"images", 0))
                micros[found[1]] += int(fields.get(b"usd_micros", 0))
        return {tenant: Counters(images[tenant], micros[tenant]) for tenant in images}

    def _names(self) -> Iterator[str]:
        for name in self._redis.scan_iter(match="*", count=1000):
            yield name.decode()

    def _look(self, name: str) -> Iterator[str]:
        ttl: Any = self._redis.ttl(name)
        if ttl == -1 and not _LASTING.fullmatch(name):
            yield f"{name} has no end"
        found = _NAME.fullmatch(name)
        if not found:
            return
        pool, _, rest = found.groups()
        if pool and _IN_FLIGHT.fullmatch(rest):
            yield f"{name}: {self._size(name)} left"
        elif pool and rest == "loads":
            yield from self._look_at_loads(name)
        elif not pool and re.fullmatch(r"(key:[^:]+:)?(batch_)?open", rest):
            yield f"{name}: {self._size(name)} reservations left"
        elif not pool and rest in {"batch_lines", "batches_open"}:
            yield f"{name}: {self._size(name)} left"
        elif not pool and rest.startswith("reservation:") and not self._redis.hexists(name, "settled"):
            yield f"{name}: not settled"

    def _look_at_loads(self, name: str) -> Iterator[str]:
        loads: Any = self._redis.hgetall(name)
        for account, packed in loads.items():
            in_flight = msgspec.msgpack.decode(packed)["in_flight"]
            if in_flight:
                yield f"{name}: {account.decode()} has {in_flight} calls in flight"

    def _size(self, name: str) -> int:
        kind: Any = self._redis.type(name)
        count: Any = {b"zset": self._redis.zcard, b"set": self._redis.scard}.get(kind, self._redis.hlen)(name)
        return int(count)
