"""Resolves where the gateway stores pictures and its journal."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from gateway.config.schema import Settings, Storage
from gateway.config.secrets import read_secret
from gateway.config.upstreams import SettingsError
from gateway.storage.location import StorageKind, StorageLocation, parse_location

_STORAGE_SETTINGS: Final = {
    StorageKind.DIRECTORY: (),
    StorageKind.S3: ("endpoint", "region", "access_key_id", "secret_access_key"),
    StorageKind.GOOGLE: (),
    StorageKind.AZURE: ("endpoint", "access_key_id", "secret_access_key"),
}
"""What a location may have besides its URL. Google's credentials come from its usual environment."""


def storage_location(storage: Storage, environ: Mapping[str, str]) -> StorageLocation | None:
    if storage.url is None:
        return None
    try:
        location = parse_location(storage.url)
    except ValueError as error:
        raise SettingsError(f"storage.url: {error}") from error
    if (storage.access_key_id is None) != (storage.secret_access_key is None):
        raise SettingsError("storage: give access_key_id and secret_access_key, or neither to use the environment's")
    if storage.redirect and location.kind is StorageKind.DIRECTORY:
        raise SettingsError(
            "storage.redirect: a directory has no links of its own; use a bucket, or remove this setting"
        )
    taken = _STORAGE_SETTINGS[location.kind]
    for name in _STORAGE_SETTINGS[StorageKind.S3]:
        if getattr(storage, name) is not None and name not in taken:
            raise SettingsError(f"storage.{name}: {location.kind.value}:// has no such setting; remove it")
    key_id, secret = (
        read_secret(source, environ, f"storage.{name}") if source else None
        for name, source in (("access_key_id", storage.access_key_id), ("secret_access_key", storage.secret_access_key))
    )
    return replace(
        location, endpoint=storage.endpoint, region=storage.region, access_key_id=key_id, secret_access_key=secret
    )


def journal_directory(settings: Settings, environ: Mapping[str, str]) -> tuple[Path | None, str]:
    """Returns: the directory of this user's journals, None for no journal, and the problem if none was found."""
    directory = settings.requests.journal_dir
    if directory is not None:
        return (Path(directory).expanduser().absolute() if directory not in {"", "none"} else None), ""
    state, home = (Path(environ.get(name, "")) for name in ("XDG_STATE_HOME", "HOME"))
    if state.is_absolute():
        return state / "imagegate" / "journal", ""
    if home.is_absolute():
        return home / ".local" / "state" / "imagegate" / "journal", ""
    return None, 'requests.journal_dir: there is no HOME to put it in; set it, or "none"'
