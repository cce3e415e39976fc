"""Objects in a real directory and on a real S3 server: whole or not at all, within deadlines."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.observability.metrics import Metrics
from gateway.redis import STORAGE_LEADER, LeaderLock
from gateway.storage.location import StorageLocation
from gateway.storage.objects import ObjectNotFoundError, ObjectStorage, UnsatisfiableRangeError
from gateway.storage.quota import HOUR_S, StorageQuota, StorageTerms
from gateway.storage.reaper import StorageReaper
from tests.support.admissions import connected
from tests.support.harness import wait_until
from tests.support.storing import (
    BUCKET,
    chunks,
    full_disk,
    in_bucket,
    in_directory,
    line_to,
    no_work,
    opened,
    s3_server,
)

pytestmark = pytest.mark.anyio
LARGE = os.urandom(1024 * 1024) * 9
"""More than one part of an upload."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as url:
        yield url


@pytest.fixture(params=["directory", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> StorageLocation:
    if request.param == "directory":
        return in_directory(tmp_path / "files")
    return in_bucket(request.getfixturevalue("s3"), f"at/{tmp_path.name}")


@pytest.fixture
def storage(location: StorageLocation) -> ObjectStorage:
    return opened(location)


async def read(storage: ObjectStorage, name: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in await storage.get(name, start, end)])


async def names(storage: ObjectStorage, prefix: str) -> set[str]:
    return {found.name async for found in storage.list(prefix)}


async def code_of(call: AsyncIterator[object] | object) -> ErrorCode:
    with pytest.raises(GatewayError) as caught:
        await call  # type: ignore[misc]
    return caught.value.error_code


@pytest.mark.parametrize("content", [b"", b"x", LARGE, memoryview(LARGE)[1:], bytearray(b"abc")])
async def test_what_was_put_is_read(storage: ObjectStorage, content: bytes) -> None:
    await storage.put("pictures/1/a.jpg", content, "image/jpeg")
    found = await storage.get("pictures/1/a.jpg")
    assert (len(content), 0, len(content)) == (found.size_bytes, found.start, found.end)
    assert bytes(content) == b"".join([chunk async for chunk in found])
    info = await storage.head("pictures/1/a.jpg")
    assert (found.etag, found.size_bytes) == (info.etag, info.size_bytes)
    assert found.etag.startswith('"')
    assert found.etag.endswith('"')


async def test_slices_and_an_iterator_are_joined(storage: ObjectStorage) -> None:
    await storage.put("files/1/slices", [memoryview(b"ab"), b"cd"], "text/plain")
    assert b"abcd" == await read(storage, "files/1/slices")
    await storage.put("files/1/parts", chunks(b"ab", LARGE, b"cd"), "text/plain")
    assert b"ab" + LARGE + b"cd" == await read(storage, "files/1/parts")
    await storage.put("files/1/parts", chunks(), "text/plain")
    assert b"" == await read(storage, "files/1/parts")


async def test_ranges_are_read_and_one_behind_the_end_is_told_with_the_size(storage: ObjectStorage) -> None:
    await storage.put("a", b"0123456789", "text/plain")
    assert b"34" == await read(storage, "a", 3, 5)
    assert b"89" == await read(storage, "a", 8)
    assert b"89" == await read(storage, "a", 8, 100)
    assert b"789" == await read(storage, "a", -3)
    found = await storage.get("a", 8, 100)
    assert (10, 8, 10) == (found.size_bytes, found.start, found.end)
    for start, end in ((10, None), (10, 12), (11, 12)):
        with pytest.raises(UnsatisfiableRangeError) as caught:
            await storage.get("a", start, end)
        assert 10 == caught.value.size_bytes
    with pytest.raises(ObjectNotFoundError):
        await storage.get("b", 5)


async def test_what_is_absent_is_not_found_and_deleting_it_is_no_error(storage: ObjectStorage) -> None:
    await storage.put("a/1", b"1", "text/plain")
    await storage.put("a/b/2", b"2", "text/plain")
    await storage.put("ab/3", b"3", "text/plain")
    assert {"a/1", "a/b/2"} == await names(storage, "a")
    assert ["a", "ab"] == [*await storage.list_folders("")]
    await storage.delete(["a/1", "a/none", "a/b/2"])
    assert (set(), {"ab/3"}) == (await names(storage, "a"), await names(storage, ""))
    for call in (storage.get("a/1"), storage.head("a/1")):
        with pytest.raises(ObjectNotFoundError):
            await call
    assert not storage.breakers["read"].is_open


async def test_an_upload_that_its_source_ends_leaves_nothing(storage: ObjectStorage, s3: str) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield LARGE
        yield LARGE
        raise GatewayError(ErrorCode.BODY_TIMEOUT)

    assert ErrorCode.BODY_TIMEOUT == await code_of(storage.put("files/1/a", broken(), "text/plain"))
    assert set() == await names(storage, "")
    assert not storage.breakers["write"].is_open
    async with httpx.AsyncClient(verify=False) as client:
        assert "<Upload>" not in (await client.get(f"{s3}/{BUCKET}?uploads")).text


async def test_the_time_of_a_slow_source_is_not_the_storages(location: StorageLocation) -> None:
    async def slow() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"abc"
            await asyncio.sleep(0.5)

    storage = opened(location, timeout_s=1.0)
    await storage.put("files/1/a", slow(), "text/plain")
    assert b"abcabcabc" == await read(storage, "files/1/a")


async def test_what_has_expired_is_deleted_from_a_bucket(s3: str, tmp_path: Path, redis_url: str) -> None:
    storage = opened(in_bucket(s3, tmp_path.name))
    for name in ("pictures/10/aa/1.jpg", "pictures/11/aa/2.jpg", "files/10/aa/3"):
        await storage.put(name, b"x", "image/jpeg")
    async with connected(redis_url) as client:
        lock = LeaderLock(client, STORAGE_LEADER, "own", 60)
        quota = StorageQuota(client, StorageTerms(24, 10))
        reaper = StorageReaper(storage, client, quota, lock, lambda: 11.0 * HOUR_S, no_work, every_s=60)
        assert 2 == await reaper.sweep()
        assert 0 == await reaper.sweep()
    assert {"pictures/11/aa/2.jpg"} == await names(storage, "")


async def test_content_types_are_kept_in_a_bucket(s3: str, tmp_path: Path) -> None:
    storage = opened(in_bucket(s3, tmp_path.name))
    await storage.put("a.png", b"x", "image/png")
    await storage.put("b.png", chunks(b"x"), "image/png")
    for name in ("a.png", "b.png"):
        assert "image/png" == (await storage._store.get_async(name)).attributes["Content-Type"]


async def test_a_storage_that_does_not_answer_is_given_up_and_then_left_alone(s3: str, tmp_path: Path) -> None:
    metrics = Metrics()
    async with line_to(s3) as line:
        storage = opened(in_bucket(line.url, tmp_path.name), 1.5, metrics)
        await storage.put("a", b"1", "text/plain")
        line.is_open.clear()
        assert ErrorCode.STORAGE_UNAVAILABLE == await code_of(storage.put("b", b"2", "text/plain"))
        connections = line.connections
        for _ in range(5):
            assert ErrorCode.STORAGE_UNAVAILABLE == await code_of(storage.put("b", b"2", "text/plain"))
        assert connections == line.connections
        assert (True, False) == (storage.breakers["write"].is_open, storage.breakers["read"].is_open)
        line.is_open.set()
        storage.breakers["write"]._refuses_until_s = 0
        await storage.put("b", b"2", "text/plain")
        assert not storage.breakers["write"].is_open
    counted = {
        sample.labels["result"]: sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "imagegate_storage_operations_total" and sample.labels["operation"] == "put"
    }
    assert {"ok": 2, "timeout": 1, "refused": 5} == counted


async def test_a_connection_that_breaks_in_an_upload_leaves_no_object(s3: str, tmp_path: Path) -> None:
    async with line_to(s3) as line:
        storage = opened(in_bucket(line.url, tmp_path.name), 5)
        line.cut_after_bytes = 100_000
        assert ErrorCode.STORAGE_UNAVAILABLE == await code_of(storage.put("a", LARGE[:4_000_000], "text/plain"))
    assert set() == await names(opened(in_bucket(s3, tmp_path.name)), "")


async def test_a_download_that_stalls_is_told_to_its_reader(s3: str, tmp_path: Path) -> None:
    async with line_to(s3) as line:
        storage = opened(in_bucket(line.url, tmp_path.name), 1.5)
        await opened(in_bucket(s3, tmp_path.name)).put("a", LARGE, "text/plain")
        found = aiter(await storage.get("a"))
        await anext(found)
        line.is_open.clear()
        with pytest.raises(GatewayError) as caught:
            async for _ in found:
                pass
    assert ErrorCode.STORAGE_UNAVAILABLE == caught.value.error_code


async def test_a_file_that_is_deleted_while_it_is_read_is_told_to_its_reader(tmp_path: Path) -> None:
    storage = opened(in_directory(tmp_path / "files"))
    await storage.put("a", LARGE, "text/plain")
    found = aiter(await storage.get("a"))
    assert LARGE.startswith(await anext(found))
    await storage.delete(["a"])
    with pytest.raises(GatewayError) as caught:
        await anext(found)
    assert ErrorCode.STORAGE_UNAVAILABLE == caught.value.error_code
    assert not storage.breakers["read"].is_open


async def test_a_full_disk_fails_what_is_written_and_is_still_read(tmp_path: Path) -> None:
    storage = opened(in_directory(tmp_path / "files"))
    await storage.put("a", b"kept", "text/plain")
    with full_disk(1_000_000):
        assert ErrorCode.STORAGE_UNAVAILABLE == await code_of(storage.put("b", LARGE[:2_000_000], "text/plain"))
    assert (True, False) == (storage.breakers["write"].is_open, storage.breakers["read"].is_open)
    assert b"kept" == await read(storage, "a")
    assert {"a"} == await names(storage, "")


@pytest.mark.parametrize("bucket", ["absent", BUCKET])
async def test_a_bucket_that_cannot_be_used_fails_each_call(s3: str, bucket: str) -> None:
    url = s3 if bucket == "absent" else "http://127.0.0.1:1"
    storage = opened(in_bucket(url, bucket=bucket), 5)
    assert ErrorCode.STORAGE_UNAVAILABLE == await code_of(storage.put("a", b"1", "text/plain"))
    assert ErrorCode.STORAGE_UNAVAILABLE == await code_of(anext(storage.list("")))


UPLOAD = """
import asyncio, sys
from pathlib import Path
from tests.support.storing import in_directory, opened

async def endless():
    while True:
        yield b"x" * 9_000_000
        await asyncio.sleep(0.05)

asyncio.run(opened(in_directory(Path(sys.argv[1]))).put("pictures/1/aa/a.jpg", endless(), "image/jpeg"))
"""


def files_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_process_that_is_killed_while_it_writes_leaves_no_object_and_its_folder_can_be_removed(
    tmp_path: Path,
) -> None:
    process = subprocess.Popen([sys.executable, "-c", UPLOAD, str(tmp_path)])
    wait_until(lambda: bool(files_of(tmp_path)), "something is written")
    process.send_signal(signal.SIGKILL)
    process.wait()

    async def clean() -> None:
        storage = opened(in_directory(tmp_path))
        assert set() == await names(storage, "")
        assert ["1"] == [*await storage.list_folders("pictures")]
        await storage.remove_folder("pictures/1")

    asyncio.run(clean())
    assert [] == files_of(tmp_path)


WRITE = """
import asyncio, sys
from pathlib import Path
from tests.support.storing import in_directory, opened

async def write():
    storage = opened(in_directory(Path(sys.argv[1])))
    await storage.put("pictures/1/aa/a.jpg", b"x" * 100, "image/jpeg")
    await storage.close()

asyncio.run(write())
"""


@pytest.mark.slow
def test_a_process_that_has_just_written_ends_without_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [0] * 4 == [process.wait() for process in processes]


async def test_no_call_blocks_the_event_loop(tmp_path: Path) -> None:
    storage, gaps, last = opened(in_directory(tmp_path)), list[float](), asyncio.get_running_loop().time()

    async def tick() -> None:
        nonlocal last
        while True:
            await asyncio.sleep(0)
            now = asyncio.get_running_loop().time()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    await storage.put("a", LARGE, "text/plain")
    ticking.cancel()
    assert len(gaps) > 10  # the loop ran while 9 MB were written


async def test_other_users_can_read_nothing_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir(0o755)
    before = os.umask(0o022)
    try:
        storage = opened(in_directory(tmp_path / "files"))
        await storage.put("pictures/1/aa/a.jpg", b"x", "image/jpeg")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "files").rglob("*")}
    assert {"pictures": 0o700, "1": 0o700, "aa": 0o700, "a.jpg": 0o600} == modes
