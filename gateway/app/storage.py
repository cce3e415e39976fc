"""Builds the storage of pictures and files, if one is configured."""

import time
import uuid
from dataclasses import dataclass
from typing import Final

from gateway.config import SettingsError
from gateway.config.resolve import Config
from gateway.domain.errors import GatewayError
from gateway.generation.memory_budget import ByteBudget
from gateway.jobs.batch_output import OUTPUT
from gateway.jobs.batches import BatchLimits, BatchStatus, BatchStore
from gateway.jobs.deleted_outputs import DeletedOutputs
from gateway.jobs.files import Files
from gateway.metering.reservations import redis_keys
from gateway.observability.metrics import Metrics
from gateway.redis import STORAGE_LEADER, Client, LeaderLock, execute
from gateway.storage.calls import StorageCalls
from gateway.storage.location import StorageKind, StorageLocation
from gateway.storage.objects import ObjectNotFoundError, ObjectStorage
from gateway.storage.pictures import PictureStore
from gateway.storage.quota import HOUR_S, StorageQuota, StorageTerms
from gateway.storage.reaper import StorageReaper

_REAP_EVERY_S: Final = 60.0
_CHECK_CONTENT: Final = b"imagegate check"
_REMEDIES: Final = {
    StorageKind.DIRECTORY: "give the gateway's user access to the directory, and check that its disk is not full",
    StorageKind.S3: "check bucket, region, endpoint and credentials, which need s3:PutObject, s3:GetObject, "
    "s3:DeleteObject and s3:ListBucket",
    StorageKind.GOOGLE: "check the bucket and GOOGLE_APPLICATION_CREDENTIALS, whose account needs "
    "roles/storage.objectAdmin",
    StorageKind.AZURE: "check the container and the account (AZURE_STORAGE_ACCOUNT_NAME), which needs the role "
    "Storage Blob Data Contributor",
}
_REMEDIES_BY_CODE: Final = {
    "NoSuchBucket": "create the bucket, or correct its name",
    "InvalidAccessKeyId": "correct access_key_id, or AWS_ACCESS_KEY_ID in the environment",
    "SignatureDoesNotMatch": "correct secret_access_key, or AWS_SECRET_ACCESS_KEY in the environment",
    "ContainerNotFound": "create the container, or correct its name",
}
"""By the vendor's code at the beginning of a problem."""


@dataclass(frozen=True, slots=True)
class StorageParts:
    """The storage, and what counts, stores and deletes in it."""

    objects: ObjectStorage
    quota: StorageQuota
    pictures: PictureStore
    files: Files
    reaper: StorageReaper

    async def erase(self, tenant: str) -> None:
        """Begins to delete what a tenant has stored, and ends its batches. Raises: GatewayError REDIS_UNAVAILABLE."""
        await self.reaper.erase(tenant)


@dataclass(frozen=True, slots=True)
class TenantWork:
    """What a deleted tenant has begun, and would store more."""

    redis: Client
    files: Files
    batches: BatchStore
    last_s: float
    """After which no order is open: the longest request and its lease."""

    async def end(self, tenant: str, until_s: int) -> bool:
        """Cancels the batches that were created until a Unix second, and removes the records of files.

        Returns: True if no such batch and no order is open, or if none can be any more.
        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        await self.files.forget(tenant)
        is_open, now_s = False, time.time()
        for batch_id in [batch_id for name, batch_id in await self.batches.open_batches() if name == tenant]:
            batch = await self.batches.find(tenant, batch_id)
            if batch and batch.created_at <= until_s and not batch.status.is_final:
                is_open = True
                await self.batches.advance(batch, BatchStatus.CANCELLING, now_s)
        [orders] = redis_keys(self.redis.prefix, tenant, "open")
        is_open = is_open or await execute(self.redis, self.redis.zcard(orders), int) > 0
        return not is_open or now_s >= until_s + self.last_s


def open_objects(config: Config, metrics: Metrics) -> ObjectStorage | None:
    """Opens the configured storage. Raises: SettingsError if it cannot be used."""
    if config.storage is None:
        return None
    from gateway.storage.backends import open_backend  # noqa: PLC0415 - loads obstore

    timeout_s = config.settings.storage.timeout_s
    try:
        backend = open_backend(config.storage, timeout_s)
    except ValueError as error:
        raise _unusable(config.storage, str(error)) from error
    return ObjectStorage(backend, StorageCalls(backend.errors, timeout_s, metrics, time.monotonic), metrics)


def build_quota(config: Config, redis: Client) -> StorageQuota | None:
    """Returns None if no storage is configured."""
    settings = config.settings.storage
    return StorageQuota(redis, StorageTerms(settings.keep_hours, settings.tenant_bytes)) if config.storage else None


def build_storage(config: Config, redis: Client, metrics: Metrics, budget: ByteBudget) -> StorageParts | None:
    """Returns None if no storage is configured. Raises: SettingsError if it cannot be used."""
    objects, quota, settings = open_objects(config, metrics), build_quota(config, redis), config.settings.storage
    if objects is None or quota is None:
        return None
    pictures = PictureStore(objects, quota, budget, metrics, settings.timeout_s)
    files = Files(redis, objects, quota, config.settings.files.max_files, time.time, lambda: uuid.uuid4().hex)
    lock = LeaderLock(redis, STORAGE_LEADER, uuid.uuid4().hex, _REAP_EVERY_S)
    requests, batches = config.settings.requests, BatchStore(redis, BatchLimits(config.settings.batches.max_open))
    work = TenantWork(redis, files, batches, requests.deadline_s + requests.reservation_lease_s)
    outputs = files.deleters[OUTPUT] = DeletedOutputs(redis, objects, pictures, time.time)
    reaper = StorageReaper(
        *(objects, redis, quota, lock, time.time, work.end), every_s=_REAP_EVERY_S, chores=(outputs.sweep,)
    )
    return StorageParts(objects, quota, pictures, files, reaper)


async def check_storage(config: Config) -> str:
    """Writes, reads, lists and deletes a small object. Returns: a line of the report of `imagegate check`.

    Raises: SettingsError naming what fails and the fix.
    """
    objects = open_objects(config, Metrics())
    if objects is None or config.storage is None:
        return "off, pictures and files are not stored"
    folder = f"files/{int(time.time()) // HOUR_S + 1}/check"  # the reaper deletes it if this process is killed
    name, step = f"{folder}/{uuid.uuid4().hex}", "written"
    try:
        await objects.put(name, _CHECK_CONTENT, "text/plain")
        step = "read"
        content = b"".join([chunk async for chunk in await objects.get(name)])
        step = "listed"
        names = [found.name async for found in objects.list(folder)]
        step = "deleted"
        await objects.delete([name])
    except ObjectNotFoundError:
        raise _unusable(config.storage, f"an object that was written cannot be {step}: not found") from None
    except GatewayError as error:
        problem = error.detail.split(": ", 1)[-1]  # without the operation
        raise _unusable(config.storage, f"{problem} (an object cannot be {step})") from error
    finally:
        await objects.close()
    if content != _CHECK_CONTENT or name not in names:
        raise _unusable(config.storage, "an object that was written is not found, or has other content")
    return f"{config.storage.url}, writable"


def _unusable(location: StorageLocation, problem: str) -> SettingsError:
    by_code = (remedy for code, remedy in _REMEDIES_BY_CODE.items() if problem.startswith(code))
    return SettingsError(f"storage.url: {location.url}: {problem}; {next(by_code, _REMEDIES[location.kind])}")
