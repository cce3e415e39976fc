"""Scripts that change several keys write none of them if one holds another type."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import redis

from gateway.redis import script_text

_EDITS = ["1", "name", "", "=acme", "2", "KEY1", "", "={}", "6", "202607", "", "={}"]
_DELIVERY = {"endpoint": "one", "id": "dlv_1", "text": "{}"}
_MOVE = _DELIVERY | {"from": "pending", "delay_ms": -1, "hold_ms": 1000, "ended_max": 100, "kept_s": 60}
_QUEUE = {"event_id": "evt_1", "deliveries": [_DELIVERY], "pending_max": 9, "known_s": 60, "known_max": 9, "kept_s": 60}
_ENDPOINT = {"id": "one", "before": "", "after": "{}", "endpoints_max": 9, "audit_s": 60, "entry": ["action", "x"]}


@dataclass(frozen=True)
class Case:
    """A script with arguments by which it writes to every key. `kept` are fields that it needs, by index of the key."""

    name: str
    kinds: Sequence[str]
    args: Sequence[object]
    shared: Sequence[str] = ()
    kept: Mapping[int, Mapping[str, Any]] | None = None


def _packed(args: Mapping[str, object]) -> list[object]:
    return [msgspec.msgpack.encode(args)]


CASES = [
    Case(
        "tenants/compare_and_set",
        ("hash", "hash", "set", "stream", "stream", "hash"),
        ["channel", "m", 60, "a", "b", "c", "d", "", "", "KEY2", "", "", '[["key.revoked", "{}"]]', *_EDITS],
        ("tenants/streams",),
    ),
    Case("tenants/claim_name", ("set", "hash"), ["design", "acme"]),
    Case("tenants/replace_name", ("set", "hash"), ["acme", "deleted-1"]),
    Case("tenants/delete_lookup", ("string",), ["acme"]),
    Case("events/change_endpoint", ("hash", "stream", "string"), _packed(_ENDPOINT | {"disabled": "{}"})),
    Case("events/change_endpoint", ("hash", "stream", "string"), _packed(_ENDPOINT | {"disabled": ""})),
    Case("events/queue", ("zset", "zset", "hash", "zset", "hash"), _packed(_QUEUE)),
    Case(
        "events/move",
        ("zset", "hash", "zset", "hash", "zset"),
        _packed(_MOVE),
        kept={3: {"dlv_1": 1}, 4: {"dlv_1": "{}"}},
    ),
    Case(
        "events/move",
        ("zset", "hash", "zset", "hash", "zset"),
        _packed(_MOVE | {"text": ""}),
        kept={3: {"dlv_1": 1}, 4: {"dlv_1": "{}"}},
    ),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{at}-{case.name}" for at, case in enumerate(CASES)])
def test_a_key_of_another_type_leaves_all_as_it_was(redis_url: str, case: Case) -> None:
    names = [f"t:{{x}}:{at}" for at in range(1, len(case.kinds) + 1)]
    with redis.Redis.from_url(redis_url) as client:
        for wrong in names:
            client.delete(*names)
            for at, fields in (case.kept or {}).items():
                if case.kinds[at - 1] == "zset":
                    client.zadd(names[at - 1], fields)
                else:
                    client.hset(names[at - 1], mapping=fields)
            client.delete(wrong)
            client.rpush(wrong, "a list")
            before = {name: client.dump(name) for name in names}
            with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
                client.eval(script_text(case.name, case.shared), len(names), *names, *case.args)
            assert before == {name: client.dump(name) for name in names}, wrong
