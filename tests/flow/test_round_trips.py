"""What a request asks of Redis, counted at the server."""

import httpx
import pytest
import redis

from tests.support.harness import Gateway, wait_until

GENERATION = {"model": "image-01", "prompt": "a cat"}
_ROUNDS = 30


def reads(client: "redis.Redis") -> int:
    """How often the server read from anybody: this question is one of them."""
    return int(client.info("stats")["total_reads_processed"])


@pytest.fixture
def client(gateway: Gateway, redis_url: str) -> "redis.Redis":
    return redis.Redis.from_url(redis_url)


@pytest.mark.parametrize(("delivery", "trips"), [("url", 4), ("b64_json", 6)])
def test_a_request_that_finds_room_takes_four(
    gateway: Gateway, client: "redis.Redis", delivery: str, trips: int
) -> None:
    """Its admission, its lease, the note that it is sent, and its end. What runs beside asks now and then too.

    A large response counts for the tenant's concurrency while it is sent: two more, of which it waits for one.
    """
    counted = []
    with httpx.Client(base_url=gateway.url, headers={"authorization": f"Bearer {gateway.api_key}"}) as http:
        for _ in range(_ROUNDS):
            before = reads(client)
            assert (
                200 == http.post("/v1/images/generations", json=GENERATION | {"response_format": delivery}).status_code
            )
            counted.append(reads(client) - before - 1)
    assert min(counted) <= trips


def test_a_refused_request_leases_no_account(gateway: Gateway) -> None:
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"images_per_minute": 0}})
    wait_until(lambda: gateway.generate(prompt="a cat").status_code == 429, "the limit is known")
    assert [429] * 20 == [gateway.generate(prompt="a cat").status_code for _ in range(20)]
    wait_until(lambda: taken(gateway) == 0, "nothing is under way")
    gateway.admin("PATCH", "/tenants/acme", {"limits": {"images_per_minute": None}})
    wait_until(lambda: gateway.generate(prompt="a cat").status_code == 200, "the limit is gone")


def taken(gateway: Gateway) -> int:
    upstreams = gateway.admin("GET", "/pool").json()["data"]
    return sum(account["concurrency"]["used"] for one in upstreams for account in one["accounts"])
