"""Stored pictures: by an ID of their tenant, counted in memory, and never a reason for an error."""

import base64
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, Format
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from gateway.observability.metrics import Metrics
from gateway.storage.objects import ObjectNotFoundError
from gateway.storage.pictures import EXTENSIONS, PictureStore, StoredPicture, tag_of
from gateway.storage.quota import HOUR_S, StorageQuota, StorageTerms
from tests.support.admissions import connected
from tests.support.storing import full_disk, in_directory, opened

pytestmark = pytest.mark.anyio
PICTURE = os.urandom(6_000_000)
ENCODED = Base64Image(memoryview(base64.b64encode(PICTURE)))


class Room:
    """A picture store in a directory."""

    def __init__(self, store: PictureStore, budget: ByteBudget, quota: StorageQuota, metrics: Metrics) -> None:
        self.store, self.budget, self.quota, self._metrics = store, budget, quota, metrics

    async def saved(self, picture: Base64Image | bytes = ENCODED, keep_s: int | None = None) -> StoredPicture:
        found = await self.store.save("acme", picture, Format.JPEG, keep_s)
        assert found
        return found

    def results(self) -> dict[str, float]:
        """Returns the pictures that were to be stored, by result."""
        samples = [sample for metric in self._metrics.registry.collect() for sample in metric.samples]
        return {
            sample.labels["result"]: sample.value
            for sample in samples
            if sample.name == "imagegate_stored_pictures_total"
        }


@asynccontextmanager
async def room(
    redis_url: str, folder: Path, tenant_bytes: int = 10**9, budget_bytes: int = 2**28
) -> AsyncIterator[Room]:
    async with connected(redis_url) as client:
        metrics, budget = Metrics(), ByteBudget(budget_bytes)
        quota = StorageQuota(client, StorageTerms(24, tenant_bytes))
        objects = opened(in_directory(folder / "files"), metrics=metrics)
        yield Room(PictureStore(objects, quota, budget, metrics, 0.2), budget, quota, metrics)


@pytest.mark.parametrize("picture", [ENCODED, PICTURE])
async def test_a_picture_is_found_by_what_its_link_says(
    redis_url: str, tmp_path: Path, picture: Base64Image | bytes
) -> None:
    async with room(redis_url, tmp_path) as its:
        before_s = time.time()
        stored = await its.saved(picture)
        assert re.fullmatch(r"[0-9a-f]{40}", stored.id)
        assert stored.id.startswith(tag_of("acme"))
        assert (len(PICTURE), "jpg", 0) == (stored.size_bytes, stored.extension, stored.expires_s % HOUR_S)
        assert before_s + 24 * HOUR_S <= stored.expires_s <= before_s + 25 * HOUR_S + 1
        form = EXTENSIONS[stored.extension]
        found = await its.store.open(stored.id, form, stored.expires_s, 5_999_990)
        assert PICTURE[-10:] == b"".join([chunk async for chunk in found])
        for wrong in (
            replace(stored, id="0" * 40),
            replace(stored, format=Format.PNG),
            replace(stored, expires_s=stored.expires_s + HOUR_S),
        ):
            with pytest.raises(ObjectNotFoundError):
                await its.store.open(wrong.id, wrong.format, wrong.expires_s)
        assert ({"stored": 1}, 0) == (its.results(), its.budget.held_bytes)
        assert (await its.saved(picture)).id != stored.id


async def test_base64_is_loaded_into_the_memory_of_its_reader(redis_url: str, tmp_path: Path) -> None:
    async with room(redis_url, tmp_path) as its:
        stored, memory = await its.saved(), ByteAccount()
        assert ENCODED.base64 == await its.store.load_base64(stored, memory)
        assert len(ENCODED.base64) == memory.held_bytes
        small = ByteAccount(ByteBudget(1_000_000), "acme")
        with pytest.raises(GatewayError) as caught:
            await its.store.load_base64(stored, small)
        assert (ErrorCode.TENANT_MEMORY_FULL, 0) == (caught.value.error_code, small.held_bytes)
        memory = ByteAccount()
        for wrong in (replace(stored, size_bytes=stored.size_bytes - 1), replace(stored, id="0" * 40)):
            with pytest.raises(ObjectNotFoundError):
                await its.store.load_base64(wrong, memory)
        assert 0 == memory.held_bytes


@pytest.mark.parametrize("size", range(1, 5))
async def test_every_length_is_decoded_and_encoded(redis_url: str, tmp_path: Path, size: int) -> None:
    async with room(redis_url, tmp_path) as its:
        encoded, memory = base64.b64encode(PICTURE[:size]), ByteAccount()
        stored = await its.saved(Base64Image(memoryview(encoded)))
        assert size == stored.size_bytes
        assert encoded == await its.store.load_base64(stored, memory)
        assert len(encoded) == memory.held_bytes


async def test_what_cannot_be_stored_is_counted_with_its_reason_and_raises_nothing(
    redis_url: str, tmp_path: Path
) -> None:
    async with room(redis_url, tmp_path, tenant_bytes=7_000_000) as its:
        await its.saved()
        assert await its.store.save("acme", ENCODED, Format.JPEG) is None
        assert await its.store.save("acme", Base64Image(memoryview(b"not base64")), Format.JPEG) is None
        assert {"stored": 1, "storage_quota_exhausted": 1, "unreadable": 1} == its.results()
        assert len(PICTURE) == await its.quota.stored_bytes("acme", 0)
    async with room(redis_url, tmp_path) as its:
        with full_disk(1_000_000):
            assert await its.store.save("other", ENCODED, Format.JPEG) is None
        assert await its.store.save("other", ENCODED, Format.JPEG) is None  # not tried again at once
        assert {"storage_unavailable": 2} == its.results()
        assert 0 == await its.quota.stored_bytes("other", 0)
    async with room(redis_url, tmp_path, budget_bytes=5_000_000) as its:
        first = ByteAccount(its.budget, "third")
        await first.wait_for(4_900_000)
        assert await its.store.save("acme", ENCODED, Format.JPEG) is None
        assert {"memory_full": 1} == its.results()
        first.close()
        assert await its.store.save("acme", ENCODED, Format.JPEG)
    async with room("unix:///absent", tmp_path) as its:
        assert await its.store.save("acme", ENCODED, Format.JPEG) is None
        assert {"redis_unavailable": 1} == its.results()
