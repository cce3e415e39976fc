"""Uploads of 200 MB, in memory that does not grow with them, and through the death of a process."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.forms import BOUNDARY, form, part
from tests.support.harness import Gateway, Simulator, new_key, wait_until
from tests.support.memory import MB
from tests.support.processes import start_gateway, write_configuration
from tests.support.strangers import private_bytes

pytestmark = pytest.mark.slow

SIZE_MB = 200
GROWTH_MAX_BYTES = 64 * MB
"""A part of 8 MiB twice, what the allocator keeps, and what the first request of a process loads."""


def storing(directory: Path) -> str:
    return f'[storage]\nurl = "{directory.as_uri()}"\n'


def body(size_mb: int = SIZE_MB, pause_s: float = 0.0) -> Iterator[bytes]:
    """A form with its file first, as openai-node sends it: chunked."""
    framed = form(part("file", b"\0", file_name="b.jsonl"), part("purpose", b"batch"))
    head, _, tail = framed.partition(b"\0")
    yield head
    for at in range(size_mb):
        yield bytes([at % 256]) * MB
        time.sleep(pause_s)
    yield tail


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def configuration(tmp_path: Path, directory: Path, redis_url: str, simulator: Simulator) -> Path:
    return write_configuration(tmp_path, redis_url, simulator.url, more=storing(directory))


def send(gateway: Gateway, content: Iterator[bytes]) -> httpx.Response:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    headers = {"authorization": f"Bearer {gateway.api_key}", "content-type": kind}
    return httpx.post(f"{gateway.base_url}/files", content=content, headers=headers, timeout=60, verify=False)


def test_memory_does_not_grow_with_a_file(configuration: Path, directory: Path) -> None:
    process, url = start_gateway(configuration)
    try:
        gateway = Gateway(url, new_key(url))
        assert 200 == send(gateway, body(1)).status_code
        before, most = private_bytes(process.pid), 0

        def watched() -> Iterator[bytes]:
            nonlocal most
            for piece in body():
                yield piece
                most = max(most, private_bytes(process.pid))

        made = send(gateway, watched())
        assert (200, SIZE_MB * MB) == (made.status_code, made.json()["bytes"])
        stored = sum(found.stat().st_size for found in directory.rglob("*") if found.is_file())
        assert (SIZE_MB + 1) * MB == stored
        path, headers = (
            f"{gateway.base_url}/files/{made.json()['id']}/content",
            {"authorization": f"Bearer {gateway.api_key}"},
        )
        with httpx.stream("GET", path, headers=headers, verify=False) as answer:
            size = 0
            for chunk in answer.iter_bytes(MB):
                assert {size // MB % 256} == set(chunk)
                size += len(chunk)
                most = max(most, private_bytes(process.pid))
        assert SIZE_MB * MB == size
        assert most - before < GROWTH_MAX_BYTES
    finally:
        process.kill()
        process.wait()


def test_a_process_that_is_killed_in_an_upload_leaves_parts_that_expire_within_hours(
    configuration: Path, directory: Path
) -> None:
    process, url = start_gateway(configuration)
    other, other_url = start_gateway(configuration)
    try:
        gateway = Gateway(url, new_key(url))

        def killing() -> Iterator[bytes]:
            for piece in body():
                yield piece
                if len(parts(directory)) > 2:
                    process.kill()

        with contextlib.suppress(httpx.TransportError):
            send(gateway, killing())
        left = parts(directory)
        assert left
        hours = {int(found.relative_to(directory).parts[1]) for found in left}
        assert all(hour * 3600 - time.time() < 7 * 3600 for hour in hours)
        survivor = Gateway(other_url, gateway.api_key)
        assert [] == survivor.get("/v1/files").json()["data"]
        assert 200 == send(survivor, body(9)).status_code
        wait_until(lambda: len(parts(directory)) == len(left) + 2, "the new file is stored beside them")
    finally:
        for started in (process, other):
            started.kill()
            started.wait()


def parts(directory: Path) -> list[Path]:
    return [found for found in directory.rglob("*") if found.is_file()]
