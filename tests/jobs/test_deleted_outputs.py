"""The pictures of a deleted output file go with it, also if the process that deleted it is killed."""

from pathlib import Path

import msgspec
import pytest

from gateway.domain.errors import GatewayError
from gateway.domain.images import Format
from gateway.generation.memory_budget import ByteBudget
from gateway.jobs.batch_output import refer, render_line, render_unsent
from gateway.jobs.deleted_outputs import DeletedOutputs
from gateway.jobs.file_records import FileRecord
from gateway.observability.metrics import Metrics
from gateway.redis import execute
from gateway.storage.pictures import PictureName, PictureStore, StoredPicture
from gateway.storage.quota import StorageQuota, StorageTerms
from tests.support.admissions import connected
from tests.support.storing import in_directory, opened

pytestmark = pytest.mark.anyio
MANIFEST = "files/1/aa/m.manifest"


def rendered(*pictures: StoredPicture, custom_id: str = "a") -> bytes:
    """Returns a line with the links of pictures."""
    data = [{"url": f"https://g{path(picture)}"} for picture in pictures]
    return render_line("b", 1, custom_id, (200, "r", [msgspec.json.encode({"data": data})]))


def path(picture: StoredPicture) -> str:
    return f"/files/{picture.id}.{picture.extension}?expires={picture.expires_s}&kid=k&signature=s"


async def test_the_reaper_deletes_the_rest_and_nothing_of_another_tenant(redis_url: str, tmp_path: Path) -> None:
    async with connected(redis_url) as client:
        objects, quota, now_s = opened(in_directory(tmp_path)), StorageQuota(client, StorageTerms(24, 1000)), 1000.0
        store = PictureStore(objects, quota, ByteBudget(2**20), Metrics(), 5.0)
        outputs = DeletedOutputs(client, objects, store, lambda: now_s)
        own = [await store.save("acme", b"12345", Format.JPEG) for _ in range(3)]
        other = await store.save("other", b"12345", Format.JPEG)
        [first, second, kept] = filter(None, own)
        assert other
        encoded = render_line("b", 1, "a", (200, "r", [b'{"data":[{"b64_json":"', refer(first), b'"}]}']))
        lines = [encoded, rendered(second, other, custom_id=path(kept)), render_unsent("b", 2, path(kept), "c", "m")]
        await objects.put(MANIFEST, b"".join(lines), "text/plain")
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


async def test_the_bytes_of_pictures_are_given_back_once_however_their_deletion_ends(
    redis_url: str, tmp_path: Path
) -> None:
    """It is interrupted by an outage of Redis, and repeated."""
    async with connected(redis_url) as client, connected(redis_url) as operator:
        objects, quota = opened(in_directory(tmp_path)), StorageQuota(client, StorageTerms(24, 1000))
        store = PictureStore(objects, quota, ByteBudget(2**20), Metrics(), 5.0)
        saved = [await store.save("acme", b"12345", Format.JPEG) for _ in range(9)]
        names = [PictureName(one.id, one.format, one.expires_s) for one in saved if one]
        await execute(operator, operator.execute_command("CLIENT", "PAUSE", "60000", "WRITE"), object)  # type: ignore[no-untyped-call]
        with pytest.raises(GatewayError):
            await store.delete("acme", names[:4])
        await execute(operator, operator.execute_command("CLIENT", "UNPAUSE"), object)  # type: ignore[no-untyped-call]
        for _ in range(2):
            await store.delete("acme", names[:4])
        assert 5 * 5 == await quota.stored_bytes("acme", 0)
        assert 5 == len([found async for found in objects.list("")])
        assert 0 == await execute(client, client.exists("ig3:{acme}:deleting"), int)
