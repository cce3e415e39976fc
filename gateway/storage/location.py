"""The place that `[storage] url` names, and what it takes to reach it."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from gateway.domain.accounts import Secret

FORMS: Final = "file:///DIRECTORY, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX"


class StorageKind(Enum):
    """The protocol of a storage; the value is the scheme of its URL."""

    DIRECTORY = "file"
    S3 = "s3"
    GOOGLE = "gs"
    AZURE = "az"


@dataclass(frozen=True, slots=True)
class StorageLocation:
    """A directory or a bucket. What is None comes from the environment that the vendor's own tools read."""

    kind: StorageKind
    bucket: str
    """Empty for a directory."""
    prefix: str
    """The path of the directory, or the first part of every object's name in the bucket."""
    endpoint: str | None = None
    region: str | None = None
    access_key_id: Secret | None = None
    """Name of the account in Azure."""
    secret_access_key: Secret | None = None

    @property
    def url(self) -> str:
        if self.kind is StorageKind.DIRECTORY:
            return Path(self.prefix).as_uri()
        return f"{self.kind.value}://{self.bucket}{f'/{self.prefix}' if self.prefix else ''}"


def parse_location(url: str) -> StorageLocation:
    """Parses the URL of a storage. Raises: ValueError for any other form; the message does not repeat it."""
    try:
        parts = urlsplit(url)
        kind = StorageKind(parts.scheme)
    except ValueError:
        raise ValueError(f"expected {FORMS}") from None
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(f"expected {FORMS}, without user, password or options")
    path = unquote(parts.path)
    if kind is StorageKind.DIRECTORY:
        if parts.netloc or not path.startswith("/"):
            raise ValueError("expected an absolute path, as in file:///var/lib/imagegate/files")
        return StorageLocation(kind, "", path)
    if not parts.netloc:
        raise ValueError(f"the bucket is missing, as in {kind.value}://BUCKET/PREFIX")
    return StorageLocation(kind, parts.netloc, path.strip("/"))
