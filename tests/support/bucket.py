"""A fake S3 server with one bucket, whose writes a test can hold."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.support.harness import serving

_WRITE_MAX_S = 20


@dataclass(eq=False)
class Bucket:
    """Objects by path. A write waits while `writes` is not set."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    writes: threading.Event = field(default_factory=threading.Event)
    held: int = 0
    """Writes that have arrived, and wait or are done."""
    is_away: bool = False
    """Every write fails."""

    @property
    def settings(self) -> dict[str, Any]:
        """The table [storage] of a gateway that uses it. The keys are those of the tests' admin."""
        secret = {"env": "ADMIN_KEY"}
        keys = {"access_key_id": secret, "secret_access_key": secret}
        return {"url": "s3://bucket/images", "endpoint": self.url, "region": "test", **keys}

    async def answer(self, request: Request) -> Response:
        path = request.path_params["path"]
        if request.method == "PUT":
            self.held += 1
            if self.is_away:
                return Response(status_code=403)
            data = await request.body()
            with anyio.move_on_after(_WRITE_MAX_S):
                while not self.writes.is_set():  # noqa: ASYNC110 - set by another thread
                    await anyio.sleep(0.01)
            self.objects[path] = data
            return Response(headers={"etag": _etag(data)})
        if request.method == "DELETE":
            self.objects.pop(path, None)
            return Response(status_code=204)
        if path not in self.objects:
            return Response("<Error><Code>NoSuchKey</Code></Error>", 404, media_type="application/xml")
        data = self.objects[path]
        return Response(data, headers={"etag": _etag(data), "last-modified": formatdate(usegmt=True)})


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


@contextmanager
def bucketing() -> Iterator[Bucket]:
    bucket = Bucket()
    bucket.writes.set()
    routes = [Route("/bucket/{path:path}", bucket.answer, methods=["GET", "PUT", "DELETE"])]
    with serving(Starlette(routes=routes)) as bucket.url:
        yield bucket
        bucket.writes.set()
