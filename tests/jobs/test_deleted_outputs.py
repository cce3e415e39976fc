"""The pictures of a deleted output file go with it, also if the process that deleted it is killed."""

from pathlib import Path

import pytest

from gateway.domain.images import Format
from gateway.generation.memory_budget import ByteBudget
from gateway.jobs.batch_output import refer
from gateway.jobs.deleted_outputs import DeletedOutputs
from gateway.jobs.files import FileRecord
from gateway.observability.metrics import Metrics
from gateway.storage.pictures import PictureStore, StoredPicture
from gateway.storage.quota import StorageQuota, StorageTerms
from tests.support.admissions import connected
from tests.support.storing import in_directory, opened

pytestmark = pytest.mark.anyio
MANIFEST = "files/1/aa/m.manifest"


def link(picture: StoredPicture) -> bytes:
    text = f'"url":"https://g/files/{picture.id}.{picture.extension}?expires={picture.expires_s}&kid=k&signature=s"'
    return text.encode()


async def test_the_reaper_deletes_the_rest_and_nothing_of_another_tenant(redis_url: str, tmp_path: Path) -> None:
    async with connected(redis_url) as client:
        objects, quota, now_s = opened(in_directory(tmp_path)), StorageQuota(client, StorageTerms(24, 1000)), 1000.0
        store = PictureStore(objects, quota, ByteBudget(2**20), Metrics(), 5.0)
        outputs = DeletedOutputs(client, objects, store, lambda: now_s)
        own = [await store.save("acme", b"12345", Format.JPEG) for _ in range(3)]
        other = await store.save("other", b"12345", Format.JPEG)
        [first, second, kept] = filter(None, own)
        assert other
        lines = [refer(first), link(first), link(second), link(other), b'"/files/x.jpg?expires=1&kid=k"']
        await objects.put(MANIFEST, b"\n".join(lines) + b"\n", "text/plain")
        record = FileRecord(
            id="f", tenant="acme", bytes=1, created_ms=1, expires_at=1, filename="f", purpose="p", objects=(MANIFEST,)
        )
        await outputs.add(record)  # and the process is killed
        await outputs.sweep()
        assert 15 == await quota.stored_bytes("acme", 0)
        now_s += 60
        for _ in range(2):
            await outputs.sweep()
        assert 5 == await quota.stored_bytes("acme", 0)
        left = {found.name.rpartition("/")[2] async for found in objects.list("")}
        assert {f"{picture.id}.jpg" for picture in (kept, other)} == left
