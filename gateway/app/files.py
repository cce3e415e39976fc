"""Builds the routes of files, with the limits of their uploads."""

from typing import Final

from gateway.api.authentication import TenantAuthenticator
from gateway.api.bodies import BodyLimits
from gateway.api.files import FileRoutes
from gateway.api.multipart import FormLimits
from gateway.api.shutdown import ShutdownState
from gateway.app.storage import StorageParts
from gateway.config import Settings
from gateway.jobs.batches import BatchLimits, BatchStore
from gateway.redis import Client

_TEXTS_MAX_BYTES: Final = 16 * 1024
"""Fields of an upload."""
_FRAMING_BYTES: Final = 64 * 1024
"""What a form may have besides its file: fields, boundaries and headers of parts."""
_PROGRESS_BYTES: Final = 1024 * 1024
"""What must arrive in each `body_timeout_s`. At 30 s, 200 MiB take at most 100 minutes."""


def build_file_routes(
    settings: Settings,
    redis: Client,
    storage: StorageParts | None,
    authenticator: TenantAuthenticator,
    drain: ShutdownState,
) -> FileRoutes:
    max_bytes = settings.files.max_file_bytes
    body = BodyLimits(
        max_bytes + _FRAMING_BYTES,
        settings.server.body_timeout_s,
        content_types="'multipart/form-data'",
        progress_bytes=_PROGRESS_BYTES,
    )
    limits = FormLimits(body, _TEXTS_MAX_BYTES, file_max_bytes=max_bytes, files_max=1, texts_max=16)
    batches = BatchStore(redis, BatchLimits(settings.batches.max_open))
    return FileRoutes(authenticator, storage.files if storage else None, batches, limits, drain)
