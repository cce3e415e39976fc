"""What has expired or was erased is deleted, whoever does it, and nothing else."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.redis import STORAGE_LEADER, Client, LeaderLock, execute
from gateway.storage import reaper as reaping
from gateway.storage.objects import ObjectStorage
from gateway.storage.pictures import object_name, tag_of
from gateway.storage.quota import HOUR_S, StorageQuota, StorageTerms
from gateway.storage.reaper import StorageReaper
from tests.support.admissions import connected
from tests.support.storing import in_directory, no_work, opened

pytestmark = pytest.mark.anyio
EVERY_S = 60.0


class Clock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def reaper_of(storage: ObjectStorage, client: Client, clock: Clock) -> StorageReaper:
    lock = LeaderLock(client, STORAGE_LEADER, uuid.uuid4().hex, EVERY_S)
    quota = StorageQuota(client, StorageTerms(24, 10))
    return StorageReaper(storage, client, quota, lock, clock, no_work, every_s=0.02)


async def put(storage: ObjectStorage, tenant: str, hour: int, folder: str = "pictures") -> str:
    name = object_name(folder, hour * HOUR_S, tag_of(tenant) + uuid.uuid4().hex)
    await storage.put(name, b"x", "image/jpeg")
    return name


async def names(storage: ObjectStorage) -> set[str]:
    return {found.name async for found in storage.list("")}


@asynccontextmanager
async def room(redis_url: str, folder: Path) -> AsyncIterator[tuple[ObjectStorage, Client, Clock]]:
    async with connected(redis_url) as client:
        yield opened(in_directory(folder / "files")), client, Clock()


async def test_hours_that_have_passed_are_deleted_with_what_killed_processes_left(
    redis_url: str, tmp_path: Path
) -> None:
    async with room(redis_url, tmp_path) as (storage, client, clock):
        reaper = reaper_of(storage, client, clock)
        passed = [await put(storage, tenant, hour) for tenant in ("a", "b") for hour in (9, 10)]
        passed.append(await put(storage, "a", 10, "files"))
        kept = {await put(storage, "a", 11), await put(storage, "b", 11, "files")}
        await storage.put("pictures/notes", b"of an operator", "text/plain")
        (tmp_path / "files" / f"{passed[1]}#1").write_bytes(b"half")
        clock.now_s = 10 * HOUR_S + 59
        assert 2 == await reaper.sweep()
        clock.now_s = 10 * HOUR_S + 60
        assert 3 == await reaper.sweep()
        assert kept | {"pictures/notes"} == await names(storage)
        assert {"11"} == {path.name for path in (tmp_path / "files/pictures").iterdir() if path.is_dir()}
        assert 0 == await reaper.sweep()


async def test_of_several_processes_one_deletes(redis_url: str, tmp_path: Path) -> None:
    async with room(redis_url, tmp_path) as (storage, client, clock), connected(redis_url) as other:
        clock.now_s = 100 * HOUR_S
        await put(storage, "a", 10)
        swept = list[int]()

        class Counted(StorageReaper):
            async def sweep(self) -> int:
                swept.append(await super().sweep())
                return swept[-1]

        quota = StorageQuota(client, StorageTerms(24, 10))
        locks = [LeaderLock(one, STORAGE_LEADER, uuid.uuid4().hex, EVERY_S) for one in (client, other)]
        tasks = [
            asyncio.create_task(Counted(storage, one, quota, lock, clock, no_work, every_s=0.01).run())
            for one, lock in zip((client, other), locks, strict=True)
        ]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert [1] == swept


async def test_two_sweeps_at_once_do_no_harm(redis_url: str, tmp_path: Path) -> None:
    async with room(redis_url, tmp_path) as (storage, client, clock):
        clock.now_s = 100 * HOUR_S
        for number in range(30):
            await put(storage, f"tenant-{number}", 10)
        kept = await put(storage, "a", 101)
        await asyncio.gather(*(reaper_of(storage, client, clock).sweep() for _ in range(2)))
        assert {kept} == await names(storage)


async def test_a_round_is_bounded_and_the_next_one_continues(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "PAGE", 2)
    monkeypatch.setattr(reaping, "_PAGES_MAX", 2)
    async with room(redis_url, tmp_path) as (storage, client, clock):
        clock.now_s = 100 * HOUR_S
        reaper = reaper_of(storage, client, clock)
        assert await reaper._lock.acquire()
        for number in range(7):
            await put(storage, f"tenant-{number}", 10)
        assert [4, 3, 0] == [await reaper.sweep() for _ in range(3)]
        for number in range(5):
            await put(storage, f"tenant-{number}", 10)
        await execute(client, client.delete(f"{client.prefix}:{STORAGE_LEADER}"), int)
        assert 2 == await reaper.sweep()  # another process leads now


async def test_an_erasure_lasts_until_nothing_can_store_any_more(redis_url: str, tmp_path: Path) -> None:
    async with room(redis_url, tmp_path) as (storage, client, clock):
        quota, lock = StorageQuota(client, StorageTerms(24, 10)), LeaderLock(client, STORAGE_LEADER, "own", EVERY_S)
        is_over, clock.now_s = False, 1000.5

        async def end_work(tenant: str, until_s: int) -> bool:
            assert ("acme", 1001) == (tenant, until_s)
            return is_over

        reaper = StorageReaper(storage, client, quota, lock, clock, end_work, every_s=60)
        for folder in ("pictures", "files"):
            await put(storage, "acme", 10**6, folder)
        other = await put(storage, "other", 10**6)
        await quota.take("acme", 10)
        await reaper.erase("acme")
        assert 2 == await reaper.sweep()
        for _ in range(3):  # written by what was in flight
            await put(storage, "acme", 10**6)
            assert 1 == await reaper.sweep()
        is_over = True
        assert 0 == await reaper.sweep()
        await put(storage, "acme", 10**6)  # by what had just ended
        assert 1001 == await quota.erasing_since("acme")
        assert 1 == await reaper.sweep()
        assert await quota.erasing_since("acme") is None
        assert 0 == await execute(client, client.exists("ig3:erased_tenants", "ig3:{acme}:stored"), int)
        kept = await put(storage, "acme", 10**6)  # it was enabled again
        assert 0 == await reaper.sweep()
        assert {other, kept} == await names(storage)


async def test_a_round_that_was_cut_off_at_its_end_erases_nothing_later(redis_url: str, tmp_path: Path) -> None:
    async with room(redis_url, tmp_path) as (storage, client, clock):
        reaper, quota = reaper_of(storage, client, clock), StorageQuota(client, StorageTerms(24, 10))
        clock.now_s = 1000
        await reaper.erase("acme")
        await quota.end_erasure("acme")
        await quota.take("acme", 10)
        kept = await put(storage, "acme", 10**6)
        assert 0 == await reaper.sweep()
        assert {kept} == await names(storage)
        assert 10 == await quota.stored_bytes("acme", 0)
        assert 0 == await execute(client, client.exists("ig3:erased_tenants"), int)


async def test_objects_whose_tag_two_tenants_share_are_left_to_their_expiry(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaping, "tag_of", lambda _: "12345678")
    async with room(redis_url, tmp_path) as (storage, client, clock):
        await execute(client, client.sadd("ig3:tenants", "acme", "other"), int)
        await storage.put("pictures/1000000/12345678/1", b"x", "image/jpeg")
        clock.now_s = 10**10 // 4
        reaper = reaper_of(storage, client, clock)
        await reaper.erase("acme")
        await reaper.sweep()
        assert {"pictures/1000000/12345678/1"} == await names(storage)
