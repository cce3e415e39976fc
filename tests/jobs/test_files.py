"""Files on a real Redis and a real directory: until they expire, and with contents that are rendered."""

import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.jobs.file_records import FileRecord
from gateway.jobs.files import Files
from gateway.jobs.uploads import PART_BYTES
from gateway.redis import Client, LeaderLock, execute
from gateway.storage.location import StorageLocation
from gateway.storage.objects import UnsatisfiableRangeError
from gateway.storage.quota import StorageQuota, StorageTerms
from gateway.storage.reaper import StorageReaper
from tests.support import storing
from tests.support.admissions import connected
from tests.support.storing import no_work

pytestmark = pytest.mark.anyio
HOUR_S: Final = 3600


@dataclass
class Desk:
    """Files, with a clock that a test sets."""

    files: Files
    reaper: StorageReaper
    directory: Path
    now_s: float

    def clock(self) -> float:
        return self.now_s

    async def upload(self, content: bytes = b"x", keep_s: int = HOUR_S, tenant: str = "acme") -> FileRecord:
        upload = self.files.begin_upload(tenant, ByteAccount())
        await upload.append(bytearray(content))
        return await self.files.add_upload(upload, "b.jsonl", "batch", keep_s)

    async def listed(self) -> list[str]:
        found, _ = await self.files.list_page(
            "acme", purpose=None, limit=100, after=None, is_ascending=True, take=ByteAccount().take
        )
        return [record.id for record in found]

    def objects(self) -> list[Path]:
        return [path for path in self.directory.rglob("*") if path.is_file()]


@asynccontextmanager
async def opened(
    redis_url: str, directory: Path, max_files: int = 10, location: StorageLocation | None = None
) -> AsyncIterator[Desk]:
    async with connected(redis_url) as client:
        objects = storing.opened(location or storing.in_directory(directory))
        quota, lock = StorageQuota(client, StorageTerms(24, 2**40)), LeaderLock(client, "test", "test", 60)

        def clock() -> float:
            return desk.now_s

        files = Files(client, objects, quota, max_files, clock, lambda: uuid.uuid4().hex)
        reaper = StorageReaper(objects, client, quota, lock, clock, no_work, every_s=60)
        desk = Desk(files, reaper, directory, time.time())
        yield desk


async def read(files: Files, record: FileRecord, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in await files.open(record, start, end)])


async def test_a_file_is_found_until_it_expires_and_then_reaped(redis_url: str, tmp_path: Path) -> None:
    async with opened(redis_url, tmp_path) as desk:
        short, long = await desk.upload(), await desk.upload(b"y" * (PART_BYTES + 1), 3 * HOUR_S)
        desk.now_s += HOUR_S - 2
        assert short == await desk.files.get("acme", short.id)
        desk.now_s += 2
        with pytest.raises(GatewayError) as refused:
            await desk.files.get("acme", short.id)
        assert ErrorCode.NOT_FOUND is refused.value.error_code
        assert [long.id] == await desk.listed()
        desk.now_s += HOUR_S + 60
        assert 1 == await desk.reaper.sweep()
        assert b"y" * (PART_BYTES + 1) == await read(desk.files, long)


async def test_parts_of_an_upload_whose_process_died_are_reaped_within_hours(redis_url: str, tmp_path: Path) -> None:
    async with opened(redis_url, tmp_path) as desk:
        upload = desk.files.begin_upload("acme", ByteAccount())
        await upload.append(bytearray(2 * PART_BYTES))  # and no more: the process is killed
        assert 2 == len(desk.objects())
        desk.now_s += 7 * HOUR_S + 60
        assert 2 == await desk.reaper.sweep()
        assert [] == desk.objects()


async def test_an_upload_counts_for_hours_until_its_file_counts(redis_url: str, tmp_path: Path) -> None:
    """A process may be killed at the end of an upload: no file that could be deleted would count for 30 days."""
    async with opened(redis_url, tmp_path) as desk, connected(redis_url) as client:
        quota, month_s = StorageQuota(client, StorageTerms(24, 2**40)), 30 * 24 * HOUR_S
        upload = desk.files.begin_upload("acme", ByteAccount())
        await upload.append(bytearray(PART_BYTES + 5))
        await upload.finish(int(desk.now_s) + month_s)  # and no more: the process is killed
        kept = await desk.upload(b"x" * 9, month_s)
        counted = [await quota.stored_bytes("acme", desk.now_s + hours * HOUR_S) for hours in (0, 7)]
        assert [PART_BYTES + 5 + 9, 9] == counted
        assert await execute(client, client.ttl("ig3:{acme}:stored"), int) > month_s - 60
        await desk.files.delete(kept)
        assert 0 == await quota.stored_bytes("acme", desk.now_s + 7 * HOUR_S)


async def test_expired_records_make_room_for_new_ones(redis_url: str, tmp_path: Path) -> None:
    async with opened(redis_url, tmp_path, max_files=3) as desk:
        made = {(await desk.upload()).id}
        desk.now_s -= HOUR_S + 1  # Redis has its own clock
        for _ in range(2):
            await desk.upload()
        desk.now_s = time.time()
        made |= {(await desk.upload()).id for _ in range(2)}
        assert made == set(await desk.listed())
        with pytest.raises(GatewayError) as refused:
            await desk.upload()
        assert ErrorCode.REQUEST_EXCEEDS_LIMIT is refused.value.error_code


async def test_memory_holds_one_part_of_an_upload(redis_url: str, tmp_path: Path) -> None:
    async with opened(redis_url, tmp_path) as desk:
        budget = ByteBudget(2**30)
        memory = ByteAccount(budget, "acme")
        upload, most = desk.files.begin_upload("acme", memory), 0
        for _ in range(40):
            await upload.append(bytearray(PART_BYTES // 10 + 1))
            most = max(most, budget.held_bytes)
        assert PART_BYTES // 2 < most <= PART_BYTES
        await desk.files.add_upload(upload, "b.jsonl", "batch", HOUR_S)
        assert 0 == budget.held_bytes


CONTENT: Final = bytes(range(256)) * 10


async def render(record: FileRecord, start: int, end: int, /) -> AsyncIterator[bytes]:
    assert "test:some place" == record.source
    for at in range(start, end, 100):
        yield CONTENT[at : min(at + 100, end)]


async def test_a_content_is_rendered_while_it_is_read(redis_url: str, tmp_path: Path) -> None:
    async with opened(redis_url, tmp_path, max_files=0) as desk:
        desk.files.renderers["test"] = render
        made = "file-" + "a" * 32, "acme", "out.jsonl", "batch_output", len(CONTENT), int(desk.now_s) + 60
        await desk.files.objects.put("files/999999/own.manifest", b"x", "text/plain")
        record = await desk.files.add_rendered(*made, "test:some place", ["files/999999/own.manifest"])
        assert record == await desk.files.get("acme", record.id)
        assert record == await desk.files.add_rendered(*made, "test:some place")
        assert [record.id] == await desk.listed()
        assert CONTENT == await read(desk.files, record)
        assert CONTENT[5:250] == await read(desk.files, record, 5, 250)
        assert CONTENT[-7:] == await read(desk.files, record, -7)
        opened_ = await desk.files.open(record, 5)
        assert (len(CONTENT), f'"{record.id}"', 5, len(CONTENT)) == (
            opened_.size_bytes,
            opened_.etag,
            opened_.start,
            opened_.end,
        )
        with pytest.raises(UnsatisfiableRangeError):
            await desk.files.open(record, len(CONTENT))
        await desk.files.delete(record)
        assert ([], []) == (await desk.listed(), desk.objects())


async def test_a_renderer_that_fails_at_once_fails_the_call(redis_url: str, tmp_path: Path) -> None:
    async def fail(record: FileRecord, start: int, end: int, /) -> AsyncIterator[bytes]:
        if start < end:
            raise GatewayError(ErrorCode.STORAGE_UNAVAILABLE, record.id)
        yield b""

    async with opened(redis_url, tmp_path) as desk:
        desk.files.renderers["test"] = fail
        record = await desk.files.add_rendered(f"file-{'b' * 32}", "acme", "o", "batch_output", 9, 2**31, "test:")
        with pytest.raises(GatewayError):
            await desk.files.open(record)


@pytest.mark.slow
async def test_a_file_and_its_bytes_go_in_one_command(redis_url: str, tmp_path: Path) -> None:
    """So no crash is between them, after which a file that is gone would count for 30 days."""

    async def scripts_run(client: Client) -> int:
        stats = await execute(client, client.info("commandstats"), dict[str, dict[str, int]])
        return stats["cmdstat_evalsha"]["calls"]

    async with opened(redis_url, tmp_path) as desk, connected(redis_url) as client:
        quota, record = StorageQuota(client, StorageTerms(24, 2**40)), await desk.upload(b"x" * 9)
        await desk.files.delete(await desk.upload())  # Redis has the script
        assert 9 == await quota.stored_bytes("acme", 0)
        before = await scripts_run(client)
        await desk.files.delete(record)
        assert (1, 0) == (await scripts_run(client) - before, await quota.stored_bytes("acme", 0))
        await desk.files.delete(record)
        assert 0 == await quota.stored_bytes("acme", 0)


async def test_a_file_in_a_bucket_is_stored_in_parts_read_and_deleted(redis_url: str, tmp_path: Path) -> None:
    with storing.s3_server(tmp_path / "log") as url:
        async with opened(redis_url, tmp_path, location=storing.in_bucket(url, "own/prefix")) as desk:
            content = b"".join(bytes([index]) * PART_BYTES for index in range(3)) + b"the end"
            upload = desk.files.begin_upload("acme", ByteAccount())
            for at in range(0, len(content), 1_000_000):
                await upload.append(bytearray(content[at : at + 1_000_000]))
            record = await desk.files.add_upload(upload, "b.jsonl", "batch", HOUR_S)
            assert content == await read(desk.files, record)
            assert content[-PART_BYTES - 9 :] == await read(desk.files, record, -PART_BYTES - 9)
            names = [found.name async for found in desk.files.objects.list("files")]
            assert 4 == len(names)
            assert {str(record.stored_until // HOUR_S)} == {name.split("/")[1] for name in names}
            await desk.files.delete(record)
            assert [] == [found.name async for found in desk.files.objects.list("files")]
