"""Storages of the tests: a directory, and a real S3 server over HTTP, behind a line that can be slow or cut."""

import asyncio
import resource
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from gateway.domain.accounts import make_secret
from gateway.observability.metrics import Metrics
from gateway.storage.backends import open_backend
from gateway.storage.calls import StorageCalls
from gateway.storage.location import StorageKind, StorageLocation
from gateway.storage.objects import ObjectStorage
from tests.support.harness import wait_until
from tests.support.servers import free_port

BUCKET: Final = "pictures"


@contextmanager
def s3_server(log: Path) -> Iterator[str]:
    """Runs moto's server with an empty bucket; yields its URL."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", url.rpartition(":")[2]]
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=written)
    try:
        wait_until(lambda: _has_bucket(url), "the S3 server starts")
        yield url
    finally:
        process.kill()
        process.wait()


def _has_bucket(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.put(f"{url}/{BUCKET}", verify=False).status_code == 200
    return False


def in_directory(path: Path) -> StorageLocation:
    return StorageLocation(StorageKind.DIRECTORY, "", str(path))


def in_bucket(url: str, prefix: str = "", bucket: str = BUCKET) -> StorageLocation:
    secret = make_secret("testing")
    return StorageLocation(StorageKind.S3, bucket, prefix, url, "us-east-1", secret, secret)


def opened(location: StorageLocation, timeout_s: float = 20.0, metrics: Metrics | None = None) -> ObjectStorage:
    backend, metrics = open_backend(location, timeout_s), metrics or Metrics()
    return ObjectStorage(backend, StorageCalls(backend.errors, timeout_s, metrics, time.monotonic), metrics)


@dataclass
class Line:
    """A TCP proxy. Nothing passes until `is_open`; `cut_after_bytes` of a request close the connection."""

    url: str
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    cut_after_bytes: int | None = None
    connections: int = 0


@asynccontextmanager
async def line_to(server_url: str) -> AsyncIterator[Line]:
    port, tasks, ends_of_lines = (
        int(server_url.rpartition(":")[2]),
        list[asyncio.Task[None]](),
        list[asyncio.StreamWriter](),
    )

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_request: bool) -> None:
        passed = 0
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await line.is_open.wait()
                passed += len(data)
                if is_request and line.cut_after_bytes is not None and passed > line.cut_after_bytes:
                    break
                writer.write(data)
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", port)
        ends_of_lines.extend((writer, back))
        for ends in ((reader, back, True), (there, writer, False)):
            tasks.append(asyncio.create_task(pass_on(*ends[:2], is_request=ends[2])))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    line = Line(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    line.is_open.set()
    try:
        yield line
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends_of_lines:
            end.transport.abort()
        await asyncio.sleep(0)


@contextmanager
def full_disk(max_bytes: int) -> Iterator[None]:
    """Lets this process write no file beyond a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def no_work(_: str, __: int) -> bool:
    """An EndWork of tenants that have begun nothing."""
    return True


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
