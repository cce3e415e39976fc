"""Stored outcomes of orders, in Redis: what a repeated request gets instead of buying again.

An outcome is JSON, and its base64 images are one binary value beside it. The JSON may outlive the images: without them
it is known that they were bought, and nothing is bought again.
"""

from dataclasses import dataclass, fields
from typing import Final, get_type_hints

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageResult, ImageUrl, Picture
from gateway.generation.memory_budget import ByteAccount
from gateway.metering.reservations import PARTS, redis_keys
from gateway.redis import Client, execute, load_script

_FIELDS: Final = {name: kind for name, kind in get_type_hints(ImageResult).items() if name != "pictures"}


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """Limits of the stored images."""

    retention_s: int
    max_result_bytes: int
    max_tenant_bytes: int
    """Stored in `retention_s`."""
    max_total_bytes: int
    """Likewise, of all tenants."""


class _Image(msgspec.Struct, frozen=True, omit_defaults=True):
    fields: dict[str, str]
    """All but the base64."""
    size_bytes: int | None = None
    """Of the base64 in the binary value; None for a link alone."""


class _Error(msgspec.Struct, frozen=True, omit_defaults=True):
    error_code: str
    detail: str = ""
    param: str | None = None
    upstream_code: int | None = None


class _Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    result: dict[str, object] | None = None
    images: tuple[_Image, ...] = ()
    error: _Error | None = None


class OrderStatus(msgspec.Struct, frozen=True):
    """The state of an order, as repeats.lua defines it; `outcome` is JSON."""

    state: str
    outcome: str = ""
    is_read_first: bool = False
    """The outcome is now about to expire, and its room is given back."""


class Outcomes:
    """The stored outcomes of all tenants. Each call raises GatewayError REDIS_UNAVAILABLE."""

    def __init__(self, redis: Client, limits: StorageLimits) -> None:
        self._redis = redis
        self._limits = limits
        self._poll = load_script(redis, "jobs/poll", PARTS["admit"])
        self._take_room = load_script(redis, "jobs/take_room")

    async def store(self, tenant: str, order_id: str, outcome: ImageResult | GatewayError, kept_s: float) -> None:
        """Stores an outcome for `kept_s`, and its images if there is room for them.

        Redis: one round trip, with images in base64 three more. The images precede the outcome that refers to them.
        """
        outcome_key, result_key = redis_keys(self._redis.prefix, tenant, f"outcome:{order_id}", f"result:{order_id}")
        if isinstance(outcome, ImageResult):
            encoded = [image.base64 for image in outcome.pictures if isinstance(image, Base64Image)]
            if encoded and await self._has_room(tenant, sum(map(len, encoded))):
                stored = self._redis.set(result_key, b"".join(encoded), ex=self._limits.retention_s)
                await execute(self._redis, stored, object)
        text = msgspec.json.encode(_describe(outcome))
        await execute(self._redis, self._redis.set(outcome_key, text, px=round(kept_s * 1000)), object)

    async def poll(self, tenant: str, order_id: str, read_kept_s: float) -> OrderStatus:
        """Returns the status of an order, whose process is asked to store its outcome if it has not.

        If `read_kept_s` is not 0, the outcome expires that long after it was read.
        Redis: one round trip, lua/poll.lua.
        """
        keys = redis_keys(self._redis.prefix, tenant, "open")
        return msgspec.json.decode(str(await self._poll(keys, [order_id, round(read_kept_s * 1000)])), type=OrderStatus)

    async def load(
        self, tenant: str, order_id: str, status: OrderStatus, memory: ByteAccount
    ) -> ImageResult | GatewayError:
        """Returns a polled outcome; RESULT_NOT_KEPT if its images are not stored.

        Raises: GatewayError REDIS_UNAVAILABLE, TENANT_MEMORY_FULL, MEMORY_FULL.
        Redis: one round trip if there are images in base64, and two more if they are read first.
        """
        outcome, data = msgspec.json.decode(status.outcome, type=_Outcome), memoryview(b"")
        if error := outcome.error:
            code = ErrorCode(error.error_code)
            return GatewayError(code, error.detail, param=error.param, upstream_code=error.upstream_code)
        if size := sum(image.size_bytes or 0 for image in outcome.images):
            [name] = redis_keys(self._redis.prefix, tenant, f"result:{order_id}")
            memory.take(size)
            call = self._redis.execute_command("GET", name, NEVER_DECODE=True)  # type: ignore[no-untyped-call] # redis-py's
            value = await execute(self._redis, call, bytes)
            if not value:
                return GatewayError(ErrorCode.RESULT_NOT_KEPT)
            data = memoryview(value)
            if status.is_read_first:
                for keys in self._rooms(tenant):
                    await self._take_room(keys, [-size, 0, self._limits.retention_s])
        rest = {name: msgspec.convert(value, _FIELDS[name]) for name, value in (outcome.result or {}).items()}
        return ImageResult(pictures=tuple(_slices(outcome.images, data)), **rest)

    async def _has_room(self, tenant: str, size: int) -> bool:
        """Takes room for a result, from the tenant's and from the gateway's."""
        limits = self._limits
        if size > limits.max_result_bytes:
            return False
        for keys, max_bytes in zip(self._rooms(tenant), (limits.max_tenant_bytes, limits.max_total_bytes), strict=True):
            if not await self._take_room(keys, [size, max_bytes, limits.retention_s]):
                return False
        return True

    def _rooms(self, tenant: str) -> tuple[list[str], list[str]]:
        """Returns the keys that count the bytes of a tenant, and of all."""
        prefix = self._redis.prefix
        return redis_keys(prefix, tenant, "results"), [f"{prefix}:results"]


def _describe(outcome: ImageResult | GatewayError) -> _Outcome:
    """Renders an outcome without its base64. The detail of an error is stored only if callers may see it."""
    if isinstance(outcome, GatewayError):
        detail = outcome.detail if outcome.row.shows_detail else ""
        error = _Error(outcome.error_code.value, detail, outcome.param, outcome.upstream_code)
        return _Outcome(error=error)
    images = tuple(_describe_image(image) for image in outcome.pictures)
    return _Outcome({name: getattr(outcome, name) for name in _FIELDS}, images)


def _describe_image(image: Picture) -> _Image:
    names = [field.name for field in fields(image) if field.name != "base64"]
    size_bytes = len(image.base64) if isinstance(image, Base64Image) else None
    return _Image({name: getattr(image, name) for name in names}, size_bytes)


def _slices(images: tuple[_Image, ...], data: memoryview) -> list[Picture]:
    """Returns the images, whose base64 are consecutive slices of `data`."""
    pictures: list[Picture] = []
    for image in images:
        if image.size_bytes is None:
            pictures.append(ImageUrl(**image.fields))
        else:
            pictures.append(Base64Image(data[: image.size_bytes], **image.fields))
            data = data[image.size_bytes :]
    return pictures
