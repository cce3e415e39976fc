"""Builds the storage of pictures and files, if one is configured."""

import time
import uuid
from dataclasses import dataclass
from typing import Final

from gateway.config import SettingsError
from gateway.config.resolve import Config
from gateway.generation.memory_budget import ByteBudget
from gateway.observability.metrics import Metrics
from gateway.redis import STORAGE_LEADER, Client, LeaderLock
from gateway.storage.calls import StorageCalls
from gateway.storage.objects import ObjectStorage
from gateway.storage.pictures import PictureStore
from gateway.storage.quota import StorageQuota, StorageTerms
from gateway.storage.reaper import StorageReaper

_REAP_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class StorageParts:
    """The storage, and what counts, stores and deletes in it. obstore has nothing to close at shutdown."""

    objects: ObjectStorage
    quota: StorageQuota
    pictures: PictureStore
    reaper: StorageReaper


def open_objects(config: Config, metrics: Metrics) -> ObjectStorage | None:
    """Opens the configured storage. Raises: SettingsError if it cannot be used."""
    if config.storage is None:
        return None
    from gateway.storage.backends import open_backend  # noqa: PLC0415 - loads obstore

    timeout_s = config.settings.storage.timeout_s
    try:
        backend = open_backend(config.storage, timeout_s)
    except ValueError as error:
        raise SettingsError(f"storage.url: {error}") from error
    return ObjectStorage(backend, StorageCalls(backend.errors, timeout_s, metrics, time.monotonic), metrics)


def build_storage(config: Config, redis: Client, metrics: Metrics, budget: ByteBudget) -> StorageParts | None:
    """Returns None if no storage is configured. Raises: SettingsError if it cannot be used."""
    objects, settings = open_objects(config, metrics), config.settings.storage
    if objects is None:
        return None
    quota = StorageQuota(redis, StorageTerms(settings.keep_hours, settings.tenant_bytes))
    pictures = PictureStore(objects, quota, budget, metrics, settings.timeout_s)
    lock = LeaderLock(redis, STORAGE_LEADER, uuid.uuid4().hex, _REAP_EVERY_S)
    return StorageParts(objects, quota, pictures, StorageReaper(objects, redis, lock, time.time, every_s=_REAP_EVERY_S))
