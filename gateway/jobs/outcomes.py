"""Stored outcomes of orders: what a repeated request gets instead of buying again.

An outcome is JSON in Redis. Its base64 images are files in the storage, to which the JSON refers. Without a storage, or
if it does not take them, they are one binary value in Redis beside the JSON, within limits. The JSON may outlive the
images: without them it is known that they were bought, and nothing is bought again.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, get_type_hints

import msgspec

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageResult, ImageUrl, Picture, sniff_base64
from gateway.generation.context import OrderNumbers
from gateway.generation.memory_budget import ByteAccount
from gateway.metering.reservations import PARTS, redis_keys
from gateway.redis import Client, execute, load_script
from gateway.storage.objects import ObjectNotFoundError
from gateway.storage.pictures import PictureStore, StoredPicture

_NONE: Final[Mapping[str, StoredPicture]] = MappingProxyType({})
_FIELDS: Final = {name: kind for name, kind in get_type_hints(ImageResult).items() if name != "pictures"}


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """Limits of the images that are stored in Redis."""

    retention_s: int
    max_result_bytes: int
    max_tenant_bytes: int
    """Stored in `retention_s`."""
    max_total_bytes: int
    """Likewise, of all tenants."""


class StoredImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image of a stored outcome."""

    fields: dict[str, str]
    """All but the base64."""
    size_bytes: int | None = None
    """Of the base64; None for a link alone."""
    picture: StoredPicture | None = None
    """The file in the storage; None for base64 in the binary value."""


class _Error(msgspec.Struct, frozen=True, omit_defaults=True):
    error_code: str
    detail: str = ""
    param: str | None = None
    upstream_code: int | None = None


class _Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    result: dict[str, object] | None = None
    images: tuple[StoredImage, ...] = ()
    error: _Error | None = None
    numbers: OrderNumbers | None = None


class OrderStatus(msgspec.Struct, frozen=True):
    """The state of an order, as repeats.lua defines it; `outcome` is JSON."""

    state: str
    outcome: str = ""
    is_read_first: bool = False
    """The outcome is now about to expire, and its room is given back."""


class Outcomes:
    """The stored outcomes of all tenants. Each call raises GatewayError REDIS_UNAVAILABLE."""

    def __init__(self, redis: Client, limits: StorageLimits, pictures: PictureStore | None = None) -> None:
        self._redis = redis
        self._limits = limits
        self._pictures = pictures
        self._poll = load_script(redis, "jobs/poll", PARTS["admit"])
        self._take_room = load_script(redis, "jobs/take_room")

    @property
    def has_storage(self) -> bool:
        return self._pictures is not None

    async def store_images(
        self,
        tenant: str,
        order_id: str,
        pictures: Sequence[Picture],
        kept_s: float,
        stored: Mapping[str, StoredPicture] = _NONE,
    ) -> tuple[StoredImage, ...] | None:
        """Stores the images of a result, in the storage for `kept_s`, else in Redis if there is room.

        `stored` are those in the storage already, by their links.
        Returns: None if they cannot be stored. Links count as stored.
        Redis: three round trips for images in base64 that the storage does not take.
        """
        encoded = [image for image in pictures if isinstance(image, Base64Image)]
        if encoded and (files := await self._save(tenant, encoded, kept_s, stored)):
            return tuple(_describe_image(image, files) for image in pictures)
        if encoded:
            if not await self._has_room(tenant, sum(len(image.base64) for image in encoded)):
                return None
            [result_key] = redis_keys(self._redis.prefix, tenant, f"result:{order_id}")
            data = b"".join(image.base64 for image in encoded)
            await execute(self._redis, self._redis.set(result_key, data, ex=self._limits.retention_s), object)
        return tuple(_describe_image(image) for image in pictures)

    async def store(
        self,
        tenant: str,
        order_id: str,
        outcome: ImageResult | GatewayError,
        numbers: OrderNumbers,
        kept_s: float,
        images: tuple[StoredImage, ...] | None = None,
    ) -> None:
        """Stores an outcome for `kept_s`, after its `images`; None if they are not stored. Redis: one round trip."""
        [key] = redis_keys(self._redis.prefix, tenant, f"outcome:{order_id}")
        text = msgspec.json.encode(_describe(outcome, numbers, images))
        await execute(self._redis, self._redis.set(key, text, px=round(kept_s * 1000)), object)

    async def poll(self, tenant: str, order_id: str, read_kept_s: float) -> OrderStatus:
        """Returns the status of an order, whose process is asked to store its outcome if it has not.

        If `read_kept_s` is not 0, the outcome expires that long after it was read.
        Redis: one round trip, lua/poll.lua.
        """
        keys = redis_keys(self._redis.prefix, tenant, "open")
        return msgspec.json.decode(str(await self._poll(keys, [order_id, round(read_kept_s * 1000)])), type=OrderStatus)

    async def load(
        self, tenant: str, order_id: str, status: OrderStatus, memory: ByteAccount
    ) -> tuple[ImageResult | GatewayError, OrderNumbers | None]:
        """Returns a polled outcome, RESULT_NOT_KEPT if its images are not stored, and the numbers of its response.

        Raises: GatewayError REDIS_UNAVAILABLE, STORAGE_UNAVAILABLE, TENANT_MEMORY_FULL, MEMORY_FULL.
        Redis: one round trip if it has images in base64, and two more if they are read first.
        """
        outcome = msgspec.json.decode(status.outcome, type=_Outcome)
        if error := outcome.error:
            code = ErrorCode(error.error_code)
            failure = GatewayError(code, error.detail, param=error.param, upstream_code=error.upstream_code)
            return failure, outcome.numbers
        pictures = await self._load_images(tenant, order_id, outcome.images, status, memory)
        if not pictures:
            return GatewayError(ErrorCode.RESULT_NOT_KEPT), outcome.numbers
        rest = {name: msgspec.convert(value, _FIELDS[name]) for name, value in (outcome.result or {}).items()}
        return ImageResult(pictures=pictures, **rest), outcome.numbers

    async def _save(
        self, tenant: str, images: Sequence[Base64Image], kept_s: float, stored: Mapping[str, StoredPicture]
    ) -> Iterator[StoredPicture] | None:
        """Saves images in the storage. Returns: None if it does not take all of them."""
        pictures = self._pictures
        if pictures is None:
            return None

        async def save(image: Base64Image) -> StoredPicture | None:
            form = sniff_base64(image.base64)
            return stored.get(image.url) or (form and await pictures.save(tenant, image, form, round(kept_s)))

        files = [file for file in await asyncio.gather(*map(save, images)) if file]
        return iter(files) if len(files) == len(images) else None

    async def _load_images(
        self, tenant: str, order_id: str, images: Sequence[StoredImage], status: OrderStatus, memory: ByteAccount
    ) -> tuple[Picture, ...]:
        """Returns the images of an outcome; nothing if they are not stored."""
        files, encoded = [image.picture for image in images if image.picture], list[memoryview]()
        if files:
            if self._pictures is None:
                return ()
            try:
                encoded = [await self._pictures.load_base64(file, memory) for file in files]
            except ObjectNotFoundError:
                return ()
        elif size := sum(image.size_bytes or 0 for image in images):
            [name] = redis_keys(self._redis.prefix, tenant, f"result:{order_id}")
            memory.take(size)
            call = self._redis.execute_command("GET", name, NEVER_DECODE=True)  # type: ignore[no-untyped-call] # redis-py's
            value = await execute(self._redis, call, bytes)
            if not value:
                return ()
            encoded = list(_slices(images, memoryview(value)))
            if status.is_read_first:
                for keys in self._rooms(tenant):
                    await self._take_room(keys, [-size, 0, self._limits.retention_s])
        data = iter(encoded)
        return tuple(
            ImageUrl(**image.fields) if image.size_bytes is None else Base64Image(next(data), **image.fields)
            for image in images
        )

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


def _describe(
    outcome: ImageResult | GatewayError, numbers: OrderNumbers, images: tuple[StoredImage, ...] | None
) -> _Outcome:
    """Renders an outcome without its base64. The detail of an error is stored only if callers may see it."""
    if isinstance(outcome, GatewayError):
        detail = outcome.detail if outcome.row.shows_detail else ""
        error = _Error(outcome.error_code.value, detail, outcome.param, outcome.upstream_code)
        return _Outcome(error=error, numbers=numbers)
    known = {name: value for name in _FIELDS if (value := getattr(outcome, name)) is not None}
    return _Outcome(known, images or (), numbers=numbers)


def _describe_image(image: Picture, files: Iterator[StoredPicture] | None = None) -> StoredImage:
    own = {field.name: getattr(image, field.name) for field in fields(image) if field.name != "base64"}
    if not isinstance(image, Base64Image):
        return StoredImage(own)
    return StoredImage(own, len(image.base64), next(files) if files else None)


def _slices(images: Sequence[StoredImage], data: memoryview) -> Iterator[memoryview]:
    """Yields the base64 of each image that has one: consecutive slices of `data`."""
    for image in images:
        if image.size_bytes is not None:
            yield data[: image.size_bytes]
            data = data[image.size_bytes :]
