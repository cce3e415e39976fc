"""Events through gateways that are killed, as an operator runs them."""

import json
import random
import time
from pathlib import Path
from typing import Final

import pytest
import redis

from tests.support.harness import MakeGateway, new_key, wait_until
from tests.support.processes import start_gateway, write_configuration
from tests.support.receiving import HANG, SECRET, Receiver, receiving

ALERTS: Final = """
[[alerts.endpoints]]
name = "ops"
url = "{url}"
secret = {{ file = "{secret}" }}
events = ["quota.*"]
"""


def configure(folder: Path, redis_url: str, receiver: Receiver) -> Path:
    (folder / "secret").write_text(SECRET)
    alerts = ALERTS.format(url=receiver.url, secret=folder / "secret")
    return write_configuration(folder, redis_url, "http://127.0.0.1:1", more=alerts)


def decide(client: redis.Redis, count: int) -> list[str]:
    """Appends events as the scripts do, without an announcement."""
    client.sadd("ig3:tenants", "acme")
    names = [f"evt_{number}" for number in range(count)]
    for name in names:
        fields = {"type": "quota.exhausted", "at_ms": round(time.time() * 1000), "data": "{}", "id": name}
        client.xadd("ig3:{acme}:events", fields)  # type: ignore[arg-type]
    return names


@pytest.mark.slow
def test_a_delivery_in_flight_of_a_killed_process_is_sent_again_with_its_id(redis_url: str, tmp_path: Path) -> None:
    with receiving(HANG) as receiver, redis.Redis.from_url(redis_url) as client:
        configuration = configure(tmp_path, redis_url, receiver)
        names = decide(client, 3)
        process, _ = start_gateway(configuration)
        wait_until(lambda: len(receiver.received) == 1, "it sends the first event")
        process.kill()
        process.wait()
        client.delete("ig3:events_leader")  # as it expires
        process, _ = start_gateway(configuration)
        try:
            wait_until(lambda: len(receiver.received) == 4, "the next one sends all")
        finally:
            process.kill()
            process.wait()
        assert [names[0], *names] == receiver.webhook_ids


def test_what_a_tenant_uses_and_an_administrator_changes_is_sent_before_the_next_sweep(
    make_gateway: MakeGateway, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with receiving() as receiver:
        endpoint = {"name": "ops", "url": receiver.url, "secret": {"file": str(tmp_path / "secret")}}
        gateway = make_gateway(alerts={"endpoints": [endpoint]})
        key = new_key(gateway.url, "team", quotas={"images_per_month": 1})

        def change(path: str, body: object, count: int) -> None:
            gateway.admin("PATCH", path, body)
            wait_until(lambda: len(receiver.received) >= count, f"{count} events are sent", 30)

        change("/tenants/team", {"quotas": {"images_per_month": 2}}, 1)  # the first sweep may have found it
        sent = {"authorization": f"Bearer {key}"}
        assert 200 == gateway.post("/v1/images/generations", {"prompt": "x", "n": 2}, **sent).status_code
        wait_until(lambda: len(receiver.received) >= 4, "the settlement's events are sent", 30)
        assert 429 == gateway.post("/v1/images/generations", {"prompt": "x"}, **sent).status_code
        wait_until(lambda: len(receiver.received) >= 5, "the refusal's event is sent", 30)
        change("/tenants/team", {"limits": {"concurrency": 3}}, 6)
        crossed = ["quota.threshold_crossed"] * 3
        expected = ["quota.raised", *crossed, "quota.exhausted", "limits.changed"]
        assert expected == [json.loads(body)["type"] for _, body in receiver.received]


@pytest.mark.slow
def test_no_event_is_lost_whenever_processes_are_killed(redis_url: str, tmp_path: Path) -> None:
    """Two gateways at a time, one of which is killed at some moment; each event arrives with one ID."""
    draw = random.Random(5)
    with receiving(*[draw.choice((200, 200, 500)) for _ in range(400)]) as receiver:
        with redis.Redis.from_url(redis_url) as client:
            configuration = configure(tmp_path, redis_url, receiver)
            names = decide(client, 200)
            running = [start_gateway(configuration)[0] for _ in range(2)]
            try:
                for _ in range(6):
                    time.sleep(draw.uniform(0.0, 1.5))
                    killed = running.pop(0)
                    killed.kill()
                    killed.wait()
                    client.delete("ig3:events_leader")
                    running.append(start_gateway(configuration)[0])

                def hurry() -> bool:
                    """Makes repetitions due at once."""
                    for name in client.zrange("ig3:{events:}:pending:ops", 0, -1):
                        client.zadd("ig3:{events:}:pending:ops", {name: 1}, xx=True)
                    client.zadd("ig3:{events:}:due", {"ops": 1}, xx=True)
                    return not client.zcard("ig3:{events:}:pending:ops") and not client.xlen("ig3:{acme}:events")

                wait_until(hurry, "all are delivered", 90)
            finally:
                for process in running:
                    process.kill()
                    process.wait()
        assert set(names) == set(receiver.webhook_ids)
