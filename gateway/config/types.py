"""What settings are made of: their basic types, each with its bounds in words, and where a secret comes from."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535, description="a port, 0 to 65535")]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z",
        description="1 to 63 of the characters a-z, 0-9, '.', '_' and '-', a letter or digit first",
    ),
]
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
HttpUrl = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^/?#\s@]+(/[^?#\s]*)?\Z",
        description="http:// or https://, a host, and no query, user or password: secrets come from env or file",
    ),
]
Price = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?\Z",
        description='a decimal in quotes, not negative, at most 6 digits behind the point, as "0.0035"',
    ),
]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000, description="an integer from 0 to 1000000000")]
Usd = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?\Z",
        description='a decimal in quotes, not negative, at most 6 digits behind the point, as "50.00"',
    ),
]
KeyHash = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9]{10}\.[0-9a-f]{64}\Z", description="a hash as `imagegate key hash` prints it"),
]
Moment = Annotated[datetime, Meta(tz=True, description="a moment with its zone, as 2027-01-01T00:00:00Z")]


class SettingsError(Exception):
    """The configuration cannot be used; the message says where and how to mend it."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: unknown keys are errors."""


class SecretSource(Table, frozen=True, kw_only=True):
    """Where a secret comes from: an environment variable or a file, never the configuration itself."""

    env: str | None = None
    file: str | None = None
