"""Scarce accounts behind several gateway processes: fully used, fairly shared, never overrun; what breaks heals."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import redis

from gateway.testing.simulator import create_simulator
from tests.support.harness import Simulator, new_key, serving, wait_until
from tests.support.overload import Fleet, Upstream, accounts, fleet, keep_asking, refusals, write

pytestmark = pytest.mark.slow

HOLD = "hold [delay=5]"
"""What is sent first, so that all that comes after it waits."""
ROOMY = {"requests_per_minute": 100_000, "images_per_minute": 1_000_000, "max_concurrency": 100}


@contextmanager
def provider(latency_s: float = 0.0, requests_per_minute: int = 100_000) -> Iterator[Simulator]:
    """A simulator of one's own: what is done to it ends with the test."""
    with serving(create_simulator(latency_s=latency_s, requests_per_minute=requests_per_minute)) as url:
        yield Simulator(url)


def receipts(simulator: Simulator) -> list[str]:
    """The prompts that were billed, in order."""
    return [receipt["prompt"] for receipt in httpx.get(f"{simulator.url}/simulator/receipts", verify=False).json()]


def order(simulator: Simulator, path: str, **said: Any) -> None:
    httpx.put(f"{simulator.url}/simulator/{path}", json=said, verify=False).raise_for_status()


async def ask_all(urls: Sequence[str], key: str, prompts: Sequence[str], max_wait_s: float = 60) -> list[int]:
    """All at once, over the gateways in turn; -1 where the gateway went away."""
    headers = {"authorization": f"Bearer {key}", "x-imagegate-max-wait": str(max_wait_s)}

    async def ask(session: aiohttp.ClientSession, index: int, prompt: str) -> int:
        url = f"{urls[index % len(urls)]}/v1/images/generations"
        body = {"model": "image-01", "prompt": prompt, "response_format": "url"}
        try:
            async with session.post(url, json=body, headers=headers) as answer:
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return -1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        return list(await asyncio.gather(*(ask(session, index, prompt) for index, prompt in enumerate(prompts))))


def leftovers(redis_url: str) -> dict[str, int]:
    """What the pool of `sim` holds for requests that are gone."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        counted = {name: client.zcard(f"ig3:{{pool:sim}}:{name}") for name in ("leases", "queue", "active")}
        counted |= {name: client.hlen(f"ig3:{{pool:sim}}:{name}") for name in ("leased", "waiters", "grants")}
    return {name: int(count) for name, count in counted.items() if count}


def test_an_overload_uses_every_account_to_its_limit_and_none_beyond(tmp_path: Path, redis_url: str) -> None:
    """Two minutes' worth of six accounts are had in little more than one: no request is refused by the provider."""
    with provider(0.3, requests_per_minute=10) as simulator:
        upstream = Upstream("sim", simulator.url, accounts(6), {"requests_per_minute": 10}, {"paced_percent": 0})
        with fleet(write(tmp_path, redis_url, upstream), 3, upstream) as started:
            key = new_key(started.urls[0])
            asyncio.run(keep_asking(started.urls, {"acme": key}, {"acme": 200}, 75))
        invoice = simulator.invoice()
    assert Counter() == refusals(invoice)
    assert 120 == invoice["total"]["requests"]
    assert {10} == {bill["peak_per_minute"] for bill in invoice["accounts"].values()}


def test_a_flood_of_one_tenant_does_not_delay_the_first_request_of_another(tmp_path: Path, redis_url: str) -> None:
    with provider(0.05) as simulator:
        upstream = Upstream("sim", simulator.url, accounts(1), ROOMY | {"max_concurrency": 1})
        with fleet(write(tmp_path, redis_url, upstream), 2, upstream) as started:
            flood, other = new_key(started.urls[0], "flood"), new_key(started.urls[0], "other")

            async def run() -> int:
                holding = asyncio.ensure_future(ask_all(started.urls, flood, [HOLD]))
                await arrived(started, simulator, 1)
                flooding = asyncio.ensure_future(ask_all(started.urls, flood, [f"flood {n}" for n in range(120)]))
                await arrived(started, simulator, 121)
                asking = asyncio.ensure_future(ask_all(started.urls[1:], other, ["other"]))
                before = len(receipts(simulator))
                assert [200] == await asking
                assert [200] * 121 == [*await flooding, *await holding]
                return before

            before = asyncio.run(run())
        place = receipts(simulator).index("other")
    assert place <= before + 10, "those that were served while it was on its way, and the one under way"


def test_who_waits_is_served_by_weight(tmp_path: Path, redis_url: str) -> None:
    """Two tenants of weight 3 and 1 wait with more than they can be served: of 200 slots they get 150 and 50."""
    with provider(0.02) as simulator:
        upstream = Upstream("sim", simulator.url, accounts(1), ROOMY | {"max_concurrency": 1})
        with fleet(write(tmp_path, redis_url, upstream), 2, upstream) as started:
            keys = {name: new_key(started.urls[0], name, weight=weight) for name, weight in (("big", 3), ("small", 1))}

            async def run() -> int:
                asked = [asyncio.ensure_future(ask_all(started.urls, keys["small"], [HOLD]))]
                await arrived(started, simulator, 1)
                asked += [
                    asyncio.ensure_future(ask_all(started.urls, keys[name], [f"{name} [delay=0.02]"] * 240))
                    for name in keys
                ]
                await arrived(started, simulator, 481)
                before = len(receipts(simulator))
                await asyncio.gather(*asked)
                return before

            before = asyncio.run(run())
        served = Counter(prompt.split()[0] for prompt in receipts(simulator)[before + 5 : before + 205])
    assert abs(served["big"] - 150) <= 7, served


def test_a_killed_gateway_takes_its_requests_along_and_nobody_elses(tmp_path: Path, redis_url: str) -> None:
    """Of 60 that wait at three gateways the 40 of the living are served in order, each once, and no lease is left."""
    with provider(0.1) as simulator:
        upstream = Upstream("sim", simulator.url, accounts(1), ROOMY | {"max_concurrency": 2})
        with fleet(write(tmp_path, redis_url, upstream, lease_s=2), 3, upstream) as started:
            key = new_key(started.urls[0])

            async def run() -> list[int]:
                holding = asyncio.ensure_future(ask_all(started.urls[:2], key, [HOLD, HOLD]))
                await arrived(started, simulator, 2)
                asked = []
                for number in range(60):
                    urls = [started.urls[number % 3]]
                    asked.append(asyncio.ensure_future(ask_all(urls, key, [f"{number} [delay=0.1]"])))
                    await arrived(started, simulator, number + 3)
                started.kill(2)
                assert [200, 200] == await holding
                return [status for [status] in await asyncio.gather(*asked)]

            statuses = asyncio.run(run())
            living = [status for number, status in enumerate(statuses) if number % 3 != 2]
            assert [200] * 40 == living
            wait_until(lambda: not leftovers(redis_url), f"nothing is left: {leftovers(redis_url)}")
        sent = [int(prompt.split()[0]) for prompt in receipts(simulator) if prompt != HOLD]
    assert len(set(sent)) == len(sent), "nothing is sent twice"
    served = [number for number in sent if number % 3 != 2]
    assert 40 == len(served)
    assert all(abs(place - number * 2 / 3) <= 6 for place, number in enumerate(served)), served


def test_bad_keys_are_not_noticed_and_come_back_when_they_are_mended(tmp_path: Path, redis_url: str) -> None:
    with provider() as simulator:
        named = {"good": ["good-1", "good-2"], "dead": ["dead-1"], "broke": ["broke-1"], "window": ["window-1"]}
        upstream = Upstream("sim", simulator.url, named, ROOMY)
        with fleet(write(tmp_path, redis_url, upstream, probe_interval_s=1), 2, upstream) as started:
            key = new_key(started.urls[0])
            assert [200] * 60 == asyncio.run(ask_all(started.urls, key, [f"a lake {n}" for n in range(60)]))
            assert {
                "good-1": ("ready", None),
                "good-2": ("ready", None),
                "dead-1": ("quarantined", "key_invalid"),
                "broke-1": ("quarantined", "insufficient_balance"),
                "window-1": ("cooling", "quota_exhausted_plan"),
            } == standing(started)
            for account in ("dead", "broke", "window"):
                order(simulator, f"accounts/{account}", answers=0)
            wait_until(lambda: is_tried(started, "dead") and is_tried(started, "broke"), "a free probe finds them well")
            simulator.reset()
            assert [200] * 60 == asyncio.run(ask_all(started.urls, key, [f"a hill {n}" for n in range(60)]))
            assert {"good", "dead", "broke"} <= set(simulator.invoice()["accounts"])
            assert ("ready", None) == standing(started)["dead-1"] == standing(started)["broke-1"]


@pytest.mark.parametrize("kind", ["502", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cut", "hang"))])
def test_an_ill_upstream_is_left_alone_and_comes_back(tmp_path: Path, redis_url: str, kind: str) -> None:
    """Its model goes on at the second target; the sick one gets few calls, and its share again when it is well."""
    with provider() as first, provider() as second:
        terms = {"breaker_failures": 3, "breaker_open_s": 1, "fallback_after_s": 1}
        limits = ROOMY | {"max_concurrency": 3}
        upstreams = (
            Upstream("sim", first.url, accounts(1), limits, terms),
            Upstream("other", second.url, {"spare": ["spare-1"]}, ROOMY),
        )
        configuration = write(tmp_path, redis_url, *upstreams, call_timeout_s=1)
        with fleet(configuration, 2, *upstreams) as started:
            key = new_key(started.urls[0])
            order(first, "outage", kind=kind, seconds=600)
            statuses = Counter[int]()
            for turn in range(10):
                statuses.update(asyncio.run(ask_all(started.urls, key, [f"{turn} {n}" for n in range(10)])))
            calls = first.invoice()["total"]["requests"]
            assert calls <= 25, "until it is left alone, and one trial now and then"
            assert statuses[200] >= 100 - calls
            assert set(statuses) <= {200, 502, 504}, "a call whose outcome is unknown is not made elsewhere"
            httpx.delete(f"{first.url}/simulator/outage", verify=False)
            first.reset()
            wait_until(lambda: bool(is_served_by(first, started.urls, key)), "it is used again")
            wait_until(lambda: started.pool()["state"] == "ready", "it is well")


def is_served_by(simulator: Simulator, urls: Sequence[str], key: str) -> int:
    asyncio.run(ask_all(urls, key, ["is it well?"]))
    return simulator.images_billed()


async def arrived(started: Fleet, simulator: Simulator, count: int) -> None:
    """Until so many requests wait or were sent."""
    ends = time.monotonic() + 40
    while True:
        waiting = (await asyncio.to_thread(started.pool))["waiting"]
        if waiting + len(await asyncio.to_thread(receipts, simulator)) >= count:
            return
        assert time.monotonic() < ends, (waiting, count)
        await asyncio.sleep(0.005)


def standing(started: Fleet) -> dict[str, tuple[str, str | None]]:
    """State and fault of every key, or of its account where that is what rests."""
    return {
        key["key"]: next(
            ((one["state"], one["error_code"]) for one in (account, key) if one["error_code"]), ("ready", None)
        )
        for account in started.pool()["accounts"]
        for key in account["keys"]
    }


def is_tried(started: Fleet, account: str) -> bool:
    """Its rest is over, or it is well already."""
    return standing(started)[f"{account}-1"][0] in {"half_open", "ready"}
