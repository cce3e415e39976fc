"""Reads what a request says of itself as a repetition: `Idempotency-Key`, and the retry count of OpenAI's SDKs.

Two requests are the same if they have the same format and the same parsed parameters. Their bytes may differ: a retry
with a multipart body has a new boundary. Fields without effect do not matter. Only keyed hashes reach Redis, because a
plain hash confirms a guessed prompt.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import msgspec
from starlette.datastructures import Headers
from starlette.requests import Request

from gateway.api import minimax
from gateway.api.fields import Generation
from gateway.domain.billing import OrderIdentity, Repetition
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import ImageJob
from gateway.domain.tenants import Principal

_KEY_HEADER: Final = "idempotency-key"
_KEY_MAX_CHARS: Final = 255
_RETRY_HEADER: Final = "x-stainless-retry-count"
_HASHED_AT_ONCE_BYTES: Final = 256 * 1024
"""Hashing more takes a thread: 1 MiB takes up to 3 ms."""


async def identify(
    request: Request, caller: Principal, generation: Generation, keyed_hash: Callable[[str], Awaitable[str]]
) -> OrderIdentity:
    """Returns the identity of a request. A key is the tenant's; without one, only the same API key repeats a request.

    Raises: GatewayError INVALID_VALUE for a malformed key, REDIS_UNAVAILABLE.
    """
    key = read_idempotency_key(request.headers)
    form = "native" if request.url.path in minimax.PATHS else "openai"
    head = msgspec.msgpack.encode(
        (form, generation.name, generation.is_stream, replace(generation.job, inputs=(), options={}, end_user=""))
    )
    if generation.job.held_bytes > _HASHED_AT_ONCE_BYTES:
        digest = await asyncio.to_thread(_digest, head, generation.job)
    else:
        digest = _digest(head, generation.job)
    fingerprint = await keyed_hash(digest)
    if key is not None:
        return OrderIdentity(Repetition.KEYED, await keyed_hash(f"{_KEY_HEADER} {key}"), fingerprint)
    count = request.headers.get(_RETRY_HEADER, "")
    kind = Repetition.PLAIN
    if count.isdecimal():
        kind = Repetition.FIRST if count.strip("0") == "" else Repetition.RETRY
    return OrderIdentity(kind, f"{caller.key.id}:{fingerprint}", fingerprint)


def read_idempotency_key(headers: Headers) -> str | None:
    """Returns the key, without the quotes of a structured field (draft-ietf-httpapi-idempotency-key-header).

    Raises: GatewayError INVALID_VALUE.
    """
    values = headers.getlist(_KEY_HEADER)
    if not values:
        return None
    key = values[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]
    if len(values) > 1 or not 0 < len(key) <= _KEY_MAX_CHARS or not (key.isascii() and key.isprintable()):
        raise GatewayError(
            ErrorCode.INVALID_VALUE,
            f"Invalid Idempotency-Key: send it once, with 1 to {_KEY_MAX_CHARS} printable ASCII characters, as a UUID.",
            param=_KEY_HEADER,
        )
    return key


def _digest(head: bytes, job: ImageJob) -> str:
    """Hashes a request. Each part begins with its length, so that no two requests have the same parts."""
    digest = hashlib.sha256(head)
    options = [part for name, value in sorted(job.options.items()) for part in (name.encode(), value)]
    for part in (*options, *(part for image in job.inputs for part in (image.role.value.encode(), image.link))):
        digest.update(len(part).to_bytes(8))
        digest.update(part)
    return digest.hexdigest()
