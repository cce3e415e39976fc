"""A changed configuration that is refused is told by a metric and an event, also by workers."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis as redis_py
from cryptography import x509

from gateway.api.pool_gauges import PoolGauges
from gateway.app.process_events import ProcessEvents
from gateway.events.outbox import Outbox
from gateway.observability.metrics import Metrics
from tests.support.asking import connected
from tests.support.certificates import certify
from tests.support.harness import Simulator, wait_until
from tests.support.operators import Shows
from tests.support.processes import EACH_OPTIONS, running, scrape, total, write_configuration
from tests.support.receiving import SECRET, Receiver, receiving

ALERTS: Final = """
[[alerts.endpoints]]
name = "ops"
url = "{url}"
secret = {{ file = "{secret}" }}
events = ["config.*"]
"""


@contextmanager
def stream(redis_url: str) -> Iterator[Any]:
    with redis_py.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def rewrite(path: Path, text: str) -> None:
    path.write_text(text)
    later = time.time() + 5
    os.utime(path, (later, later))


@pytest.mark.slow
@EACH_OPTIONS
def test_a_refused_reload_is_told_until_one_is_accepted(
    redis_url: str, simulator: Simulator, tmp_path: Path, shows: Shows, options: tuple[str, ...]
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with receiving() as receiver:
        alerts = ALERTS.format(url=receiver.url, secret=tmp_path / "secret")
        configuration = write_configuration(tmp_path, redis_url, simulator.url, more=alerts)
        told = refuse_and_accept(configuration, receiver, options)
    shows(12, "a reload of requests_per_minute = 0", told)
    assert "requests_per_minute" in told


def refuse_and_accept(configuration: Path, receiver: Receiver, options: tuple[str, ...]) -> str:
    """Returns what the event says."""
    valid = configuration.read_text()
    with running(configuration, *options) as (_, url):
        processes = int(options[1]) if options else 1
        wait_until(lambda: total(scrape(url), "imagegate_workers") == processes, "all serve")
        rewrite(configuration, valid.replace("requests_per_minute = 100000", "requests_per_minute = 0"))
        wait_until(lambda: total(scrape(url), "imagegate_config_reload_refused") == processes, "all refuse it")
        wait_until(lambda: bool(receiver.received), "the event arrives")
        rewrite(configuration, valid)
        wait_until(lambda: total(scrape(url), "imagegate_config_reload_refused") == 0, "the valid one is accepted")
    [event] = [json.loads(body) for _, body in receiver.received]  # whatever the number of processes
    assert "config.reload_refused" == event["type"]
    return str(event["data"]["message"])


@pytest.mark.anyio
@pytest.mark.parametrize(("days", "is_told"), [(30, True), (29, False), (14, True), (7, True), (1, True), (-3, True)])
async def test_a_certificate_that_expires_is_told_once_a_day(
    redis_url: str, tmp_path: Path, days: int, is_told: bool
) -> None:
    file = certify(tmp_path, days=days + 0.1).certificate
    async with connected(redis_url) as redis:
        outbox = Outbox(redis, list)
        gauges = PoolGauges("1")
        for _ in range(2):  # as two processes do
            await ProcessEvents(outbox, Metrics(None, 10), gauges).check_certificate("gateway.example", file)
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    assert certificate.not_valid_after_utc.timestamp() == gauges.certificate_end_s
    with stream(redis_url) as client:
        entries = [fields for _, fields in client.xrange("ig3:events")]
    assert ({"certificate.expiring"} if is_told else set()) == {fields["type"] for fields in entries}
    assert len({fields["id"] for fields in entries}) == int(is_told)
    assert {max(days, 0)} >= {json.loads(fields["data"])["days"] for fields in entries}
