"""A large organisation: tenants, keys, and a ledger written in bulk as lua/settle.lua writes it."""

import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final

import httpx
import redis

from gateway.domain.usage import MEASURES
from gateway.metering.ledger_keys import read_splits
from tests.support.bookkeeping import Settled

TEAMS: Final = ("atlas", "beacon", "cobalt", "delta", "ember", "falcon", "garnet", "harbor", "indigo", "juniper")
AREAS: Final = ("web", "mobile", "research", "ads")
_LABELS: Final = ("ci", "web", "batch", "nightly", "campaigns", "catalogue", "thumbnails", "staging")
_PROJECTS: Final = ("spring", "autumn", "catalogue")
_Fields = dict[Any, int]
_DAYS: Final = 30
_SHAPE: Final = (112, 118, 109, 121, 104, 71, 65)
"""Requests of a weekday, in percent of the average."""
_DAY_MS: Final = 86_400_000
_APPEND: Final = """
-- KEYS[1] the stream; ARGV: JSON of count, first_ms, step_ms, prefix and of kinds, lists of fields that repeat in turn
local o = cjson.decode(ARGV[1])
for i = 0, o.count - 1 do
  local at = string.format('%.0f', o.first_ms + i * o.step_ms)
  local kind = o.kinds[i % #o.kinds + 1]
  redis.call('XADD', KEYS[1], at .. '-' .. i, 'reservation', o.prefix .. i, 'request_id', 'req_' .. o.prefix .. i,
    'admitted_ms', at, unpack(kind))
end
"""


@dataclass(frozen=True)
class Organisation:
    """How much there is of it."""

    tenants: int = 40
    keys: int = 300
    records: int = 100_000


def seed(admin_url: str, admin_key: str, redis_url: str, size: Organisation | None = None) -> list[str]:
    """Creates the tenants and keys by the admin API, and writes the ledger of 30 days. Returns the tenants."""
    size = size or Organisation()
    names = [
        f"{TEAMS[number % len(TEAMS)]}-{AREAS[number // len(TEAMS) % len(AREAS)]}" for number in range(size.tenants)
    ]
    headers = {"authorization": f"Bearer {admin_key}"}
    with httpx.Client(base_url=f"{admin_url}/admin/v1", headers=headers, verify=False, timeout=60) as admin:

        def create(number: int) -> tuple[str, list[str]]:
            name, count = names[number], size.keys // size.tenants + (number < size.keys % size.tenants)
            admin.post("/tenants", json=_tenant(number, name)).raise_for_status()
            bodies = [{"label": f"{_LABELS[each % len(_LABELS)]}-{each // len(_LABELS) + 1}"} for each in range(count)]
            made = [admin.post(f"/tenants/{name}/keys", json=body).raise_for_status().json() for body in bodies]
            return name, [key["id"] for key in made]

        with ThreadPoolExecutor(4) as pool:
            keys = dict(pool.map(create, range(size.tenants)))
    with redis.Redis.from_url(redis_url) as client:
        for number, name in enumerate(names):
            _write(client, number, name, keys[name], size.records // size.tenants // _DAYS + 1)
    return names


def _tenant(number: int, name: str) -> dict[str, object]:
    team = name.partition("-")[0].title()
    quotas = {"images_per_month": 20_000 * (number % 4 + 1), "usd_per_month": f"{20 + 15 * (number % 5)}.00"}
    limits = {"requests_per_minute": 60 + 60 * (number % 3)} if number % 3 else {}
    return {
        "name": name,
        "owner": f"Team {team}",
        "contact": f"{name}@example.com",
        "cost_centre": f"CC-{100 + number % 6}",
        "limits": limits,
        "quotas": quotas,
    }


def _write(client: "redis.Redis", number: int, tenant: str, keys: list[str], a_day: int) -> None:
    """Writes records and sums of one tenant, and its counters of the present month."""
    append, now, base = client.register_script(_APPEND), datetime.now(UTC), f"ig3:{{{tenant}}}"
    month = Counter[str]()
    for back in range(_DAYS):
        day = now - timedelta(days=back)
        count = max(1, a_day * _SHAPE[day.weekday()] * (130 - back - number % 7) // 10_000)
        first_ms = int(day.replace(hour=0, minute=0, second=0, microsecond=0).timestamp() * 1000)
        step_ms = max(1, (min(_DAY_MS, int(now.timestamp() * 1000) - first_ms) - 1000) // count)
        kinds = [replace(kind, tenant=tenant, day=day.date()) for kind in _kinds(number + back, keys)]
        times = [count // len(kinds) + (place < count % len(kinds)) for place in range(len(kinds))]
        name, fields = kinds[0].day_name, [list(chain(*_repeated(kind).items())) for kind in kinds]
        order = {"count": count, "first_ms": first_ms, "step_ms": step_ms, "prefix": f"{tenant}-{name}-"}
        append([f"{base}:ledger:{name}"], [json.dumps(order | {"kinds": fields})])
        with client.pipeline(transaction=False) as pipeline:
            pipeline.zadd(f"{base}:days", {name: int(name)})
            pipeline.hset(f"{base}:records_end", name, int(day.timestamp()) + 90 * 86_400)
            pipeline.hset(f"{base}:sums:{name}", mapping=_sums(kinds, times))
            pipeline.hset(f"{base}:split_sums:{name}", mapping=_split_sums(kinds, times))
            pipeline.execute()
        if day.month == now.month:
            month.update(images=_total("delivered", kinds, times), usd_micros=_total("usd_micros", kinds, times))
    client.hset(
        f"{base}:month:{now:%Y%m}",
        mapping=_fields(month | {f"charged_{name}": amount for name, amount in month.items()}),
    )


def _fields(amounts: Mapping[str, int]) -> _Fields:
    return {name: amount for name, amount in amounts.items() if amount}


def _total(measure: str, kinds: list[Settled], times: list[int]) -> int:
    return sum(kind.amounts.of(measure) * count for kind, count in zip(kinds, times, strict=True))


def _sums(kinds: list[Settled], times: list[int]) -> _Fields:
    sums = Counter[str]()
    for kind, count in zip(kinds, times, strict=True):
        sums.update({f"{kind.key}|{name}|{kind.model}": kind.amounts.of(name) * count for name in MEASURES})
    return _fields(sums)


def _split_sums(kinds: list[Settled], times: list[int]) -> _Fields:
    sums = Counter[str]()
    for kind, count in zip(kinds, times, strict=True):
        for split, amounts in read_splits({name: str(value) for name, value in kind.fields().items()}):
            start = split.replace("=", "|")
            sums.update({f"{start}|{kind.key}|{name}|{kind.model}": amounts.of(name) * count for name in MEASURES})
            sums[start] = 1
    return _fields(sums)


def _repeated(kind: Settled) -> dict[str, str | int]:
    """Returns the fields of a record other than those that name it."""
    return {
        name: value for name, value in kind.fields().items() if name not in {"reservation", "request_id", "admitted_ms"}
    }


def _kinds(turn: int, keys: list[str]) -> list[Settled]:
    """Returns requests with different keys and outcomes."""
    made = []
    for place in range(12):
        images = (place + turn) % 4 + 1
        tags, key = json.dumps({"project": _PROJECTS[(place + turn) % 3]}), keys[(place * 5 + turn) % len(keys)]
        plain = Settled(key=key, tags=tags, user=f"user-{place % 5}", summed="tag:project,user")
        if place == 4:
            made.append(
                replace(
                    plain, asked=2, delivered=0, withheld=2, usd_micros=0, outcome="withheld", calls="sim/main:0,2,0,0"
                )
            )
        elif place == 9 and turn % 3 == 0:
            made.append(
                replace(
                    plain, delivered=0, unconfirmed=1, usd_micros=0, outcome="unconfirmed", calls="sim/main:0,0,0,1"
                )
            )
        else:
            calls = f"sim/main:{images},0,0,0"
            made.append(replace(plain, asked=images, delivered=images, usd_micros=3500 * images, calls=calls))
    return made
