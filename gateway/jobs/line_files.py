"""The files that a line of a batch names: their contents take the places of their IDs."""

from base64 import b64encode
from typing import Final

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.memory_budget import ByteAccount
from gateway.jobs.files import Files

_FILE_ID: Final = "file_id"
_FIELDS: Final = ("image", "images", "mask")
_FILES_MAX: Final = 17
"""OpenAI's largest number of images in one edit, and a mask."""


async def embed_files(files: Files, tenant: str, body: bytes, memory: ByteAccount, max_bytes: int) -> bytes:
    """Replaces the files that an edit names by data URLs. `max_bytes` limits all of them.

    Returns: the body; unchanged if it names no file, or is no JSON, which its parser refuses.
    Raises: GatewayError INVALID_VALUE, NOT_FOUND, TENANT_MEMORY_FULL, MEMORY_FULL, STORAGE_UNAVAILABLE,
    REDIS_UNAVAILABLE.
    """
    if _FILE_ID.encode() not in body:
        return body
    try:
        fields = msgspec.json.decode(body, type=dict[str, object])
        named = _references(fields)
        urls = await _load(files, tenant, [str(one[_FILE_ID]) for one in named], memory, max_bytes)
        for reference in named:
            reference["image_url"] = urls[str(reference.pop(_FILE_ID))]
        return msgspec.json.encode(fields)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return body


def _references(fields: dict[str, object]) -> list[dict[str, object]]:
    """Raises: GatewayError INVALID_VALUE for too many."""
    values = (fields.get(name) for name in _FIELDS)
    items = (item for value in values for item in (value if isinstance(value, list) else [value]))
    named = [item for item in items if isinstance(item, dict) and isinstance(item.get(_FILE_ID), str)]
    if len(named) > _FILES_MAX:
        text = f"Invalid value for 'image': expected at most 16 images and a mask, but got {len(named)} files."
        raise GatewayError(ErrorCode.INVALID_VALUE, text, param="image")
    return named


async def _load(files: Files, tenant: str, ids: list[str], memory: ByteAccount, max_bytes: int) -> dict[str, str]:
    """Returns the contents as data URLs, by ID. No file is read before the size of all is known."""
    records = {file_id: await files.get(tenant, file_id) for file_id in dict.fromkeys(ids)}
    total_bytes = sum(records[file_id].bytes for file_id in ids)
    if total_bytes > max_bytes:
        text = f"The files of this line have {total_bytes} bytes, but at most {max_bytes} are allowed."
        raise GatewayError(ErrorCode.INVALID_VALUE, text, param=_FILE_ID)
    memory.take(total_bytes * 4)  # their base64, and the copies in the body and in the job
    urls = dict[str, str]()
    for file_id, record in records.items():
        content = b"".join([bytes(chunk) async for chunk in await files.open(record)])
        urls[file_id] = f"data:;base64,{b64encode(content).decode()}"
    return urls
