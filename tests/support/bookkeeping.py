"""Settled requests, written into Redis as lua/settle.lua writes them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

import redis

from gateway.domain.usage import MEASURES, UsageTotals
from gateway.metering.ledger_keys import read_splits

TODAY = date(2026, 7, 28)


@dataclass(frozen=True)
class Settled:
    """One settled request."""

    tenant: str = "acme"
    day: date = TODAY
    key: str = "key1"
    model: str = "image-01"
    asked: int = 1
    delivered: int = 1
    withheld: int = 0
    lost: int = 0
    unconfirmed: int = 0
    usd_micros: int = 3500
    outcome: str = "delivered"
    calls: str = "sim/main:1,0,0,0"
    reservation: str = "t1"
    request_id: str = "req_1"
    admitted_ms: int | None = None
    batch: str = ""
    idempotency: str = ""
    """The keyed hash of its idempotency key."""
    tags: str = ""
    """As JSON."""
    user: str = ""
    summed: str | None = None
    """The dimensions in whose sums it counts; None for a record of an earlier version."""

    @property
    def amounts(self) -> UsageTotals:
        images = (self.asked, self.delivered, self.withheld, self.lost, self.unconfirmed)
        return UsageTotals(1, *images, self.usd_micros)

    @property
    def day_name(self) -> str:
        return self.day.isoformat().replace("-", "")

    def fields(self) -> dict[str, str | int]:
        noon_ms = int(datetime.combine(self.day, datetime.min.time(), UTC).timestamp() + 43_200) * 1000
        counts = {name: self.amounts.of(name) for name in MEASURES if name != "requests"}
        line: dict[str, str | int] = {"batch_id": self.batch, "custom_id": self.request_id} if self.batch else {}
        named = {"idempotency": self.idempotency, "tags": self.tags, "user": self.user}
        line |= {name: value for name, value in named.items() if value}
        line |= {} if self.summed is None else {"summed": self.summed}
        return line | {
            "reservation": self.reservation,
            "admitted_ms": noon_ms if self.admitted_ms is None else self.admitted_ms,
            "request_id": self.request_id,
            "key_id": self.key,
            "model": self.model,
            **counts,
            "price_usd_micros": 3500,
            "outcome": self.outcome,
            "calls": self.calls,
            "queue_ms": 1,
            "upstream_ms": 20,
            "total_ms": 22,
        }


def numbered(settled: Settled, count: int, first: int = 0) -> list[Settled]:
    """Returns a number of equal requests with different request IDs."""
    numbers = range(first, first + count)
    return [replace(settled, reservation=f"t{number}", request_id=f"req_{number}") for number in numbers]


def know(client: "redis.Redis", *tenants: str) -> None:
    client.sadd("ig3:tenants", *tenants)


def settle(client: "redis.Redis | redis.RedisCluster", requests: Iterable[Settled], *, with_sums: bool = True) -> None:
    """Writes the records, and their sums."""
    pipeline = client.pipeline(transaction=False)
    for request in requests:
        base = f"ig3:{{{request.tenant}}}"
        pipeline.sadd("ig3:tenants", request.tenant)
        pipeline.xadd(f"{base}:ledger:{request.day_name}", request.fields())  # type: ignore[arg-type]
        if with_sums:
            pipeline.zadd(f"{base}:days", {request.day_name: int(request.day_name)})
            for name in MEASURES:
                if amount := request.amounts.of(name):
                    field = f"{request.key}|{name}|{request.model}"
                    pipeline.hincrby(f"{base}:sums:{request.day_name}", field, amount)
                    if request.batch:
                        pipeline.hincrby(f"{base}:batch_sums:{request.day_name}", f"{request.batch}|{field}", amount)
            for split, amounts in read_splits({name: str(value) for name, value in request.fields().items()}):
                dimension, _, value = split.partition("=")
                escaped = value.replace("%", "%25").replace("|", "%7C")
                for name in MEASURES:
                    field = f"{dimension}|{escaped}|{request.key}|{name}|{request.model}"
                    pipeline.hincrby(f"{base}:split_sums:{request.day_name}", field, amounts.of(name))
    pipeline.execute()
