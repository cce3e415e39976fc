"""Reads forms without a server, within budgets that can be looked at."""

from collections.abc import Sequence
from contextlib import closing
from typing import Final

from starlette.requests import Request
from starlette.types import Message

from gateway.api.bodies import BodyLimits
from gateway.api.multipart import FormLimits, read_form
from gateway.domain.images import Format
from gateway.generation.context import RequestContext
from gateway.generation.memory_budget import ByteAccount, ByteBudget
from tests.support.forms import BOUNDARY
from tests.support.memory import MB

LIMITS: Final = FormLimits(BodyLimits(8 * MB, 5), 10_000, file_max_bytes=4 * MB, files_max=3, texts_max=3)
LEFT: Final = object()
"""The client disconnects."""


class Trial:
    """Reads one form, with the budgets that it may take from."""

    def __init__(self, memory_bytes: int = 64 * MB, disk_bytes: int = 64 * MB) -> None:
        self.memory, self.disk = ByteBudget(memory_bytes), ByteBudget(disk_bytes)
        self.files: list[tuple[str, int, bytes]] = []
        self.texts: dict[str, str] = {}
        self.seen_bytes = (0, 0)
        """In memory and on disk, once it is read."""

    async def read(self, pieces: Sequence[object], boundary: str = BOUNDARY, limits: FormLimits = LIMITS) -> None:
        messages = iter(pieces)

        async def receive() -> Message:
            piece = next(messages, None)
            if piece is LEFT:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

        account = ByteAccount(self.memory, "acme")
        context = RequestContext("r", 0.0, account)
        headers = [(b"content-type", f"multipart/form-data; boundary={boundary}".encode())]
        scope = {"type": "http", "method": "POST", "headers": headers, "state": {"context": context}}
        context.tenant = "acme"
        with closing(account):
            async with read_form(Request(scope, receive), limits, self.disk) as read:
                self.seen_bytes = (self.memory.held_bytes, self.disk.held_bytes)
                self.texts = read.texts
                for file in read.files:
                    link = await file.to_data_url(Format.PNG, account)
                    self.files.append((file.name, file.size_bytes, link))
            left = self.memory.held_bytes - sum(len(link) for *_, link in self.files)
        assert (0, 0, 0) == (left, self.disk.held_bytes, self.memory.held_bytes)
