"""Opens a storage location. No other module loads obstore, so a gateway without storage does not hold its memory."""

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store

from gateway.storage.calls import brief
from gateway.storage.location import StorageKind, StorageLocation
from gateway.storage.objects import Backend

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, RetryConfig, S3Config

_ERRORS: Final = (BaseError, OSError)
_CONNECT_TIMEOUT_S: Final = 5.0
_STREAM_TIMEOUT: Final = timedelta(days=1)
"""obstore's limit on a whole download. Clients may read slowly: each read has the deadline of ObjectStorage."""
_RETRIES_MAX: Final = 2
"""Within the deadline. Every call may be repeated: names are unique, and an object is written whole."""
_DIRECTORY_MODE: Final = 0o700
_UMASK: Final = 0o077
"""Other users can read no picture, also in a directory that existed: obstore can set no mode."""


def open_backend(location: StorageLocation, timeout_s: float) -> Backend:
    """Opens a storage, and creates a directory that is missing. A bucket is first contacted by the first call.

    Raises: ValueError if the location cannot be used, with the reason.
    """
    try:
        if location.kind is StorageKind.DIRECTORY:
            return _directory(location)
        return _bucket(location, timeout_s)
    except OSError as error:
        raise ValueError(f"{error.strerror or error}: {location.prefix}") from error
    except BaseError as error:
        raise ValueError(brief(error)) from error


def _directory(location: StorageLocation) -> Backend:
    os.umask(_UMASK)
    path = Path(location.prefix)
    try:
        path.mkdir(_DIRECTORY_MODE, parents=True, exist_ok=True)
    except FileExistsError:
        raise ValueError(f"{path} is a file and not a directory") from None
    return Backend(LocalStore(path, automatic_cleanup=True), _ERRORS, path)


def _bucket(location: StorageLocation, timeout_s: float) -> Backend:
    endpoint, key_id, secret = location.endpoint, location.access_key_id, location.secret_access_key
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=min(_CONNECT_TIMEOUT_S, timeout_s)),
        "read_timeout": timedelta(seconds=timeout_s),
        "timeout": _STREAM_TIMEOUT,
        "allow_http": bool(endpoint and endpoint.startswith("http://")),
    }
    retry: RetryConfig = {"max_retries": _RETRIES_MAX, "retry_timeout": timedelta(seconds=timeout_s)}
    prefix = location.prefix or None
    if location.kind is StorageKind.GOOGLE:
        store = GCSStore(location.bucket, prefix=prefix, client_options=client, retry_config=retry)
        return Backend(store, _ERRORS)
    if location.kind is StorageKind.AZURE:
        azure: AzureConfig = {}
        if endpoint:
            azure["endpoint"] = endpoint
        if key_id and secret:
            azure |= {"account_name": key_id.plaintext, "account_key": secret.plaintext}
        blobs = AzureStore(location.bucket, prefix=prefix, config=azure, client_options=client, retry_config=retry)
        return Backend(blobs, _ERRORS)
    s3: S3Config = {}
    if endpoint:
        s3["endpoint"] = endpoint
    if location.region:
        s3["region"] = location.region
    if key_id and secret:
        s3 |= {"access_key_id": key_id.plaintext, "secret_access_key": secret.plaintext}
    objects = S3Store(location.bucket, prefix=prefix, config=s3, client_options=client, retry_config=retry)
    return Backend(objects, _ERRORS, deletes_pages=True)
