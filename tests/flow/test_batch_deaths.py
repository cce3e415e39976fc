"""Batches while their gateways are killed: every line ends once, nothing is bought twice, and the books agree."""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis

from tests.support.batching import begin, line, read, wait
from tests.support.harness import Simulator, admin, new_key, simulating, wait_until
from tests.support.loading import receipts, wait_until_settled
from tests.support.processes import start_gateway, used, write_configuration
from tests.support.sdks import sdk

pytestmark = pytest.mark.slow

LINES: Final = int(os.environ.get("LINES", "150"))
"""`LINES=2000` runs as many as the files of users have."""
KILL_S: Final = float(os.environ.get("KILL_S", "2"))
"""Pause between two kills."""
PER_MINUTE: Final = 600
LEASE_S: Final = 4


class Pair:
    """Two gateways of one Redis and one storage, which are killed and started again."""

    def __init__(self, folder: Path, redis_url: str, simulator: Simulator, per_minute: int) -> None:
        storage = f'[storage]\nurl = "{(folder / "files").as_uri()}"\n'
        self._configuration = write_configuration(folder, redis_url, simulator.url, LEASE_S, storage)
        text = self._configuration.read_text().replace("minute = 100000\n", f"minute = {per_minute}\n")
        self._configuration.write_text(text)
        self._started = [start_gateway(self._configuration) for _ in range(2)]

    def url(self, index: int = 0) -> str:
        return self._started[index][1]

    def kill(self, index: int) -> None:
        self._started[index][0].kill()
        self._started[index][0].wait()

    def signal(self, index: int, number: signal.Signals) -> None:
        self._started[index][0].send_signal(number)

    def stop(self, index: int) -> None:
        """Shuts down, and waits until the process has ended."""
        self._started[index][0].send_signal(signal.SIGTERM)
        assert 0 == self._started[index][0].wait(60)

    def restart(self, index: int) -> None:
        self.kill(index)
        self._started[index] = start_gateway(self._configuration)


@contextmanager
def pair(folder: Path, redis_url: str, simulator: Simulator, per_minute: int = 100_000) -> Iterator[Pair]:
    running = Pair(folder, redis_url, simulator, per_minute)
    try:
        yield running
    finally:
        for index in range(2):
            running.kill(index)


def test_what_a_killed_gateway_had_sent_is_not_bought_again(redis_url: str, tmp_path: Path) -> None:
    with simulating() as simulator, pair(tmp_path, redis_url, simulator) as gateways:
        gateways.kill(1)  # one alone claims the first lines
        client = sdk(f"{gateways.url()}/v1", key := new_key(gateways.url()))
        batch = begin(client, [line(str(number), f"[delay=2] line {number}") for number in range(12)])
        wait_until(lambda: len(simulator.requests()) == 8, "eight lines are sent")
        gateways.kill(0)
        gateways.restart(1)
        client = sdk(f"{gateways.url(1)}/v1", key)
        batch = wait(client, batch)
        output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
        wait_until_settled(gateways.url(1))
        total = admin(gateways.url(1), "GET", "/usage?by=batch").json()["total"]
        billed = receipts(simulator)
    assert ("completed", 4, 8) == (batch.status, len(output), len(errors)), [
        (k, e["response"]) for k, e in errors.items()
    ][-2:]
    assert {(504, "upstream_timeout")} == {
        (entry["response"]["status_code"], entry["response"]["body"]["error"]["code"]) for entry in errors.values()
    }
    assert ([1] * 12, 4, 8) == (list(billed.values()), total["images"], total["unconfirmed"])


def test_a_line_that_was_claimed_and_not_sent_runs(redis_url: str, tmp_path: Path) -> None:
    """A process that died between its claim and the admission."""
    with simulating() as simulator, pair(tmp_path, redis_url, simulator) as gateways:
        client, now_s = sdk(f"{gateways.url()}/v1", new_key(gateways.url())), time.time()
        batch = begin(client, [line(str(number), "[delay=1] a cat") for number in range(9)])
        wait_until(lambda: len(simulator.requests()) == 8, "eight lines are sent")
        with redis.Redis.from_url(redis_url) as server:
            server.hset(f"ig3:{{acme}}:batch:{batch.id}", "next", 9)
            server.zadd("ig3:{acme}:batch_lines", {f"{batch.id} 9": now_s * 1000})
        batch = wait(client, batch)
        assert {str(number) for number in range(9)} == set(read(client, batch.output_file_id))
        assert 9 == len(simulator.requests())


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_gateway_that_hung_after_its_claim_buys_nothing_with_it(
    redis_url: str, tmp_path: Path, *, is_cancelled: bool
) -> None:
    """It goes on after another one has run its lines, or after their batch was cancelled."""
    with (
        simulating() as simulator,
        pair(tmp_path, redis_url, simulator) as gateways,
        redis.Redis.from_url(redis_url) as server,
        sdk(f"{gateways.url()}/v1", new_key(gateways.url())) as client,
        sdk(f"{gateways.url(1)}/v1", new_key(gateways.url())) as other,
    ):
        gateways.signal(1, signal.SIGSTOP)
        batch = begin(client, [line(str(number), f"line {number}") for number in range(12)])
        wait_until(lambda: claimed(server, batch.id) > 0, "lines are claimed")
        gateways.signal(0, signal.SIGSTOP)
        waiting = claimed(server, batch.id) - len(server.keys(f"ig3:{{acme}}:idempotency:{batch.id}:*"))
        gateways.signal(1, signal.SIGCONT)
        if is_cancelled:
            other.batches.cancel(batch.id)
        batch = wait(other, batch)
        ordered = len(simulator.requests())
        gateways.signal(0, signal.SIGCONT)
        wait_until(lambda: httpx.get(f"{gateways.url()}/readyz", verify=False).is_success, "it goes on")
        time.sleep(2)
        billed = receipts(simulator)
    assert waiting > 0
    assert ordered == sum(billed.values())
    assert ("cancelled" if is_cancelled else "completed", 0 if is_cancelled else 12) == (batch.status, len(billed))


def claimed(server: "redis.Redis", batch_id: str) -> int:
    """Returns the lines of a batch that were claimed."""
    return int(server.hget(f"ig3:{{acme}}:batch:{batch_id}", "next") or 0)


def test_a_gateway_that_shuts_down_finishes_what_it_sent_and_leaves_the_rest(redis_url: str, tmp_path: Path) -> None:
    with simulating() as simulator, pair(tmp_path, redis_url, simulator) as gateways:
        gateways.kill(1)
        client = sdk(f"{gateways.url()}/v1", key := new_key(gateways.url()))
        batch = begin(client, [line(str(number), f"[delay=2] line {number}") for number in range(12)])
        wait_until(lambda: len(simulator.requests()) == 8, "eight lines are sent")
        gateways.stop(0)
        assert 8 == len(simulator.requests())
        gateways.restart(1)
        client = sdk(f"{gateways.url(1)}/v1", key)
        batch = wait(client, batch)
        output = read(client, batch.output_file_id)
        billed = receipts(simulator)
    assert ("completed", 12, None) == (batch.status, len(output), batch.error_file_id)
    assert [1] * 12 == list(billed.values())


def test_kills_under_load_lose_no_line_and_buy_none_twice(
    redis_url: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """`--junitxml=F -o junit_family=xunit1` records how long interactive requests waited beside the batch."""
    chance = random.Random(20261130)
    with (
        simulating(latency_s=0.3, requests_per_minute=PER_MINUTE) as simulator,
        pair(tmp_path, redis_url, simulator, PER_MINUTE) as gateways,
    ):
        key, interactive = new_key(gateways.url()), new_key(gateways.url(), "interactive")
        client = sdk(f"{gateways.url()}/v1", key)
        batch = begin(client, [line(str(number), f"line {number}") for number in range(LINES)])
        waits, is_over = list[float](), threading.Event()
        asking = threading.Thread(target=ask, args=(gateways, interactive, waits, is_over))
        asking.start()
        is_killed = 0
        try:
            while True:
                time.sleep(KILL_S * chance.uniform(0.7, 1.3))
                is_killed = 1 - is_killed
                gateways.restart(is_killed)
                client = sdk(f"{gateways.url(is_killed)}/v1", key)
                batch = client.batches.retrieve(batch.id)
                if batch.status == "completed":
                    break
        finally:
            is_over.set()
            asking.join()
        output, errors = read(client, batch.output_file_id), read(client, batch.error_file_id)
        url = gateways.url(is_killed)
        wait_until_settled(url)
        billed = {prompt: images for prompt, images in receipts(simulator).items() if prompt.startswith("line ")}
        counters, verified = used(url, "acme"), admin(url, "GET", "/usage/verify?tenant=acme").json()
        total = admin(url, "GET", "/usage?tenant=acme").json()["total"]
    record_property("interactive_wait_p95_s", sorted(waits)[int(len(waits) * 0.95)] if waits else None)
    record_property("unknown_lines", len(errors))
    assert {str(number) for number in range(LINES)} == {*output, *errors}
    assert LINES == len(output) + len(errors)
    assert {1} == set(billed.values())
    assert {f"line {custom_id}" for custom_id in output} <= set(billed)
    codes = Counter(entry["response"]["status_code"] for entry in errors.values())
    assert {504} >= set(codes), codes
    assert total["images"] <= len(billed) <= total["images"] + total["unconfirmed"]
    assert counters["images_this_month"] == total["images"] + total["unconfirmed"]
    assert [] == verified["differences"]


def ask(gateways: Pair, key: str, waits: list[float], is_over: threading.Event) -> None:
    """Sends an interactive request every second, and notes how long each waited for an account."""
    number = 0
    while not is_over.wait(1.0):
        body: dict[str, Any] = {"prompt": f"interactive {number}", "response_format": "url"}
        headers = {"authorization": f"Bearer {key}"}
        number += 1
        with suppress(httpx.TransportError):  # its gateway was killed
            url = f"{gateways.url(number % 2)}/v1/images/generations"
            answer = httpx.post(url, json=body, headers=headers, timeout=60, verify=False)
            waits.append(int(answer.headers.get("x-imagegate-queue-ms", 0)) / 1000)
