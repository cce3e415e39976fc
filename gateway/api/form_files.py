"""Files of forms: in memory or, beyond 1 MiB, on disk."""

import asyncio
from base64 import b64encode
from dataclasses import dataclass, field
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format
from gateway.generation.memory_budget import ByteAccount

_IN_MEMORY_BYTES: Final = 1024 * 1024
"""Size up to which a file stays in memory."""
_START_BYTES: Final = 16
_ENCODED_BYTES: Final = 3 * 64 * 1024
"""Bytes that are encoded in one step: a multiple of 3, as base64 has no padding within."""


@dataclass(slots=True, eq=False, repr=False)
class FormFile:
    """A file of a form. It is open as long as its form."""

    name: str
    memory: ByteAccount
    disk: ByteAccount
    size_bytes: int = 0
    start: bytes = b""
    """Its first 16 bytes."""
    _file: SpooledTemporaryFile[bytes] = field(default_factory=SpooledTemporaryFile)
    _is_on_disk: bool = False

    async def append(self, data: bytearray) -> None:
        """Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL."""
        size_bytes = self.size_bytes + len(data)
        try:
            if size_bytes <= _IN_MEMORY_BYTES:
                self.memory.take(len(data))
                self._file.write(data)
            else:
                self.disk.take(len(data) if self._is_on_disk else size_bytes)
                await self._write_to_disk(data)
        except OSError as error:
            raise GatewayError(ErrorCode.MEMORY_FULL, f"a temporary file: {error.strerror}") from error
        self.size_bytes = size_bytes
        self.start += data[: _START_BYTES - len(self.start)]

    async def _write_to_disk(self, data: bytearray) -> None:
        if not self._is_on_disk:
            await asyncio.to_thread(self._file.rollover)
            self._is_on_disk = True
            self.memory.note(-self.size_bytes)
        await asyncio.to_thread(self._file.write, data)

    async def to_data_url(self, kind: Format, memory: ByteAccount) -> bytes:
        """Returns the file as a data URL in a JSON string. Its bytes are counted before it is made.

        Raises: GatewayError TENANT_MEMORY_FULL, MEMORY_FULL.
        """
        head = b'"data:image/%b;base64,' % kind.value.encode()
        memory.take(len(head) + (self.size_bytes + 2) // 3 * 4 + 1)
        return await asyncio.to_thread(self._encode, head)

    def _encode(self, head: bytes) -> bytes:
        """Holds the result once: `BytesIO` returns its buffer without copying it."""
        made = BytesIO()
        made.write(head)
        self._file.seek(0)
        while piece := self._file.read(_ENCODED_BYTES):
            made.write(b64encode(piece))
        made.write(b'"')
        return made.getvalue()

    def close(self) -> None:
        self._file.close()
        if not self._is_on_disk:
            self.memory.note(-self.size_bytes)
