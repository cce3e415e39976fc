"""What is left over is seen: on a real server, with what the gateway would leave there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from chaos.ledger_records import Counters
from chaos.redis_keys import Keys

Client = Any


def keys(redis_url: str) -> Keys:
    return Keys(Path(redis_url.removeprefix("unix://")))


def test_what_is_kept_for_ever_is_nothing_left_over(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client, keys(redis_url) as found:
        client.set("ig3:pepper", "x")
        client.hset("ig3:{acme}:tenant", "limits", "{}")
        client.hset("ig3:{acme}:sums:20261124", "key|requests|image-01", 1)
        client.hset("ig3:{pool:sim}:added", "a/b", "{}")
        client.hset("ig3:{acme}:day:20261124", mapping={"images": 3, "usd_micros": 10_500})
        client.expire("ig3:{acme}:day:20261124", 60)
        client.hset("ig3:{acme}:reservation:1", mapping={"model": "image-01", "settled": "by itself"})
        client.expire("ig3:{acme}:reservation:1", 60)
        client.hset("ig3:{pool:sim}:loads", "main", msgspec.msgpack.encode({"log": [], "in_flight": 0}))
        client.expire("ig3:{pool:sim}:loads", 60)
        client.zadd("ig3:{pool:sim}:ready:1", {"main": 16_000_000})
        client.expire("ig3:{pool:sim}:ready:1", 60)
        client.zadd("ig3:{pool:sim}:idle", {"i:acme": 3})
        client.expire("ig3:{pool:sim}:idle", 60)
        assert [] == found.leftovers()
        assert {"acme": Counters(3, 10_500)} == found.counters("day")


@pytest.mark.parametrize(
    ("leave", "told"),
    [
        (lambda client: client.set("ig3:recovery_leader", "x"), "ig3:recovery_leader has no end"),
        (lambda client: client.zadd("ig3:{acme}:open", {"1": 1}), "ig3:{acme}:open: 1 reservations left"),
        (lambda client: client.zadd("ig3:{acme}:key:k:open", {"1": 1}), "ig3:{acme}:key:k:open: 1 reservations left"),
        (lambda client: client.zadd("ig3:{acme}:batch_open", {"1": 1}), "ig3:{acme}:batch_open: 1 reservations left"),
        (lambda client: client.zadd("ig3:{acme}:batch_lines", {"b 1": 1}), "ig3:{acme}:batch_lines: 1 left"),
        (lambda client: client.sadd("ig3:{acme}:batches_open", "b"), "ig3:{acme}:batches_open: 1 left"),
        (lambda client: client.hset("ig3:{acme}:reservation:1", "model", "m"), "ig3:{acme}:reservation:1: not settled"),
        (lambda client: client.zadd("ig3:{pool:sim}:leases", {"1": 1}), "ig3:{pool:sim}:leases: 1 left"),
        (lambda client: client.hset("ig3:{pool:sim}:waiters", "1", "x"), "ig3:{pool:sim}:waiters: 1 left"),
        (lambda client: client.zadd("ig3:{pool:sim}:ready:1", {"a": 1}), "ig3:{pool:sim}:ready:1 has no end"),
        (lambda client: client.hset("ig3:{pool:sim}:waits", "i:acme", 2), "ig3:{pool:sim}:waits: 1 left"),
        (lambda client: client.hset("ig3:{pool:sim}:queued", "7", 1.5), "ig3:{pool:sim}:queued: 1 left"),
        (lambda client: client.zadd("ig3:{pool:sim}:queue", {"x": 0}), "ig3:{pool:sim}:queue: 1 left"),
        (lambda client: client.zadd("ig3:{pool:sim}:classes", {"7": 1}), "ig3:{pool:sim}:classes: 1 left"),
        (lambda client: client.zadd("ig3:{pool:sim}:class:7", {"i:acme": 1}), "ig3:{pool:sim}:class:7: 1 left"),
        (lambda client: client.sadd("ig3:{pool:sim}:waiting:p", "1", "2"), "ig3:{pool:sim}:waiting:p: 2 left"),
        (
            lambda client: client.hset("ig3:{pool:sim}:loads", "main", msgspec.msgpack.encode({"in_flight": 2})),
            "ig3:{pool:sim}:loads: main has 2 calls in flight",
        ),
    ],
)
def test_what_is_left_over_is_told(redis_url: str, leave: Callable[[Client], object], told: str) -> None:
    with redis.Redis.from_url(redis_url) as client, keys(redis_url) as found:
        leave(client)
        assert told in found.leftovers()
