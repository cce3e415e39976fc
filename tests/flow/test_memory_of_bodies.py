"""What a large body costs on its way: how many copies of it there are at a time, and that the budget counts them."""

import platform
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.support.harness import Gateway, MakeGateway, Simulator, new_key, upstream, wait_until
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.memory import MB, begin, held
from tests.support.processes import start_gateway, write_configuration
from tests.support.strangers import connected, private_bytes

pytestmark = pytest.mark.slow

BODY: Final = (
    b'{"model":"image-01","prompt":"x","subject_reference":[{"type":"character","image_file":"data:image/png;base64,'
    + b"A" * 15 * MB
    + b'"}]}'
)
COPIES_COUNTED: Final = 1
"""Of each request whose call is sent: the reference image of the job, which the call's body has as a piece."""
COPIES_ALLOCATED: Final = 1.6
"""The encoder's buffer for the first has up to half as much again, which is never written to."""
COPIES_AT_A_TIME: Final = 2.1
"""More, of one request at a time: its body, and the decoded image. They go before anything is waited for."""
OTHERS_BYTES: Final = 4 * MB


@pytest.fixture(scope="module")
def provider() -> Iterator[Hostile]:
    """It takes every byte, and answers later than the gateway waits."""
    with hostile() as running:
        running.begin(Plan(("hang",), reads="head"))
        yield running


@pytest.fixture
def large(make_gateway: MakeGateway, provider: Hostile) -> Gateway:
    return make_gateway(
        upstream("sim", "minimax", provider.url) | {"breaker_failures": 1000},
        server={"max_memory_bytes": 2048 * MB},
        requests={"call_timeout_s": 60, "max_attempts": 1},
    )


@pytest.mark.parametrize("count", [1, 10])
def test_large_bodies_are_held_as_often_as_they_are_counted(large: Gateway, count: int) -> None:
    assert held(large) == 0
    sent = begin(large, len(BODY), body=BODY)
    tracemalloc.start()
    try:
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(connected(large.url)).sendall(sent)
            wait_until(lambda: held(large) >= (COPIES_COUNTED * count - 0.1) * len(BODY), "all calls are sent")
            allocated = COPIES_ALLOCATED * count * len(BODY) + OTHERS_BYTES
            wait_until(lambda: tracemalloc.get_traced_memory()[0] < allocated, "all bodies have left the connections")
            _, peak = tracemalloc.get_traced_memory()
            assert (COPIES_COUNTED * count - 0.1) * len(BODY) <= held(large)
            assert held(large) < (COPIES_COUNTED * count + 0.1) * len(BODY)
    finally:
        tracemalloc.stop()
    assert peak < (COPIES_ALLOCATED * count + COPIES_AT_A_TIME) * len(BODY) + OTHERS_BYTES


def test_what_of_a_body_is_not_part_of_the_job_is_given_back(large: Gateway, provider: Hostile) -> None:
    padded = b'{"model":"image-01","prompt":"x"}' + b" " * 15 * MB
    provider.requests = 0
    with connected(large.url) as client:
        client.sendall(begin(large, len(padded), body=padded))
        wait_until(lambda: provider.requests == 1, "the call is sent")
        assert held(large) < MB


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="other allocators have no such settings")
def test_what_large_bodies_took_is_returned_to_the_system(tmp_path: Path, redis_url: str, simulator: Simulator) -> None:
    process, url = start_gateway(write_configuration(tmp_path, redis_url, simulator.url))
    try:
        gateway = Gateway(url, new_key(url))
        refused = BODY.replace(b'"prompt":"x"', b'"prompt":""')
        assert 2013 == gateway.post("/v1/image_generation", b"{}").json()["base_resp"]["status_code"]
        before = private_bytes(process.pid)
        with ThreadPoolExecutor(4) as threads:
            answers = threads.map(lambda _: gateway.post("/v1/image_generation", refused), range(12))
        assert {2013} == {answer.json()["base_resp"]["status_code"] for answer in answers}
        wait_until(lambda: private_bytes(process.pid) - before < len(BODY) // 2, "it is returned")
    finally:
        process.kill()
        process.wait()
