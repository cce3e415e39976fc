"""Secrets, read where the configuration says that they are."""

from collections.abc import Mapping
from pathlib import Path

from gateway.config.types import SecretSource, SettingsError
from gateway.domain.accounts import Secret, make_secret


def read_secret(source: SecretSource, environ: Mapping[str, str], where: str) -> Secret:
    """The secret that a source names. Raises: SettingsError naming `where`."""
    if (source.env is None) == (source.file is None):
        raise SettingsError(f'{where}: give either {{ env = "VARIABLE" }} or {{ file = "/path" }}')
    if source.env is not None:
        value = environ.get(source.env, "")
        remedy = f"the environment variable {source.env} is not set; set it, or remove this entry"
    else:
        value, remedy = _read_file(str(source.file)), f"the file {source.file} is missing, unreadable or empty"
    if not value.strip():
        raise SettingsError(f"{where}: {remedy}")
    if not value.strip().isascii() or not value.strip().isprintable():
        raise SettingsError(f"{where}: the secret holds characters that no HTTP header can carry; check its source")
    return make_secret(value.strip())


def _read_file(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
