"""The budget bounds a real process: what the system says that it holds, and what the refused are told meanwhile."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.support.harness import Gateway, new_key
from tests.support.hostile import Hostile, Plan, hostile
from tests.support.memory import HEAD, MB
from tests.support.processes import start_gateway, write_configuration
from tests.support.strangers import connected, private_bytes, received

pytestmark = pytest.mark.slow

BUDGET_BYTES: Final = 128 * MB
OTHERS_BYTES: Final = 32 * MB
"""What one request at a time is parsed with: its body, the decoded texts, the encoder's buffer; and what connections
read ahead, up to 0.5 MiB each."""
EACH: Final = 16
BODY: Final = (
    b'{"model":"image-01","prompt":"x","subject_reference":[{"type":"character","image_file":"data:image/png;base64,'
    + b"A" * 6 * MB
    + b'"}]}'
)
SLOW_S: Final = 3.0


@pytest.fixture
def provider() -> Iterator[Hostile]:
    """It takes every byte, and answers late that it made nothing."""
    refusal = b'{"base_resp":{"status_code":1000,"status_msg":"unknown error"}}'
    with hostile() as running:
        running.begin(Plan((SLOW_S, HEAD + b"content-length: %d\r\n\r\n" % len(refusal) + refusal, "close")))
        yield running


def send(gateway: Gateway) -> bytes:
    """A large request that is to end its connection; what it is answered."""
    head = f"POST /v1/image_generation HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.api_key}\r\n"
    with connected(gateway.url) as client:
        client.settimeout(120)
        client.sendall(f"{head}connection: close\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY)
        return received(client)


def test_large_bodies_and_slow_calls_stay_within_the_budget(tmp_path: Path, redis_url: str, provider: Hostile) -> None:
    """Two tenants with 16 requests of 6 MiB each: all get an answer, and the process does not outgrow its budget."""
    path = write_configuration(tmp_path, redis_url, provider.url)
    path.write_text(f"[server]\nmax_memory_bytes = {BUDGET_BYTES}\n" + path.read_text())
    process, url = start_gateway(path)
    try:
        tenants = [Gateway(url, new_key(url, name)) for name in ("one", "two")]
        sizes, is_over = [private_bytes(process.pid)], threading.Event()

        def watch() -> None:
            while not is_over.is_set():
                sizes.append(private_bytes(process.pid))
                time.sleep(0.01)

        with ThreadPoolExecutor(2 * EACH + 1) as threads:
            watching = threads.submit(watch)
            answers = list(threads.map(send, tenants * EACH))
            is_over.set()
            watching.result()
    finally:
        process.kill()
        process.wait()
    found = Counter(answer.partition(b"\r\n")[0] for answer in answers)
    assert {b"HTTP/1.1 200 OK"} == set(found), found  # the native route's status, of refusals too
    assert max(sizes) - sizes[0] < 1.2 * BUDGET_BYTES + OTHERS_BYTES, (sizes[0] // MB, max(sizes) // MB)
