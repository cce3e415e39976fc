"""Basic types of settings, each with a description of its valid values."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535, description="a port, 0 to 65535")]
Name = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,62}\Z",
        description="1 to 63 characters of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
    ),
]
KeyPrefix = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._-]{1,32}\Z", description="1 to 32 characters of A-Z, a-z, 0-9, '.', '_' and '-'")
]
"""Without ':', which ends the prefix: no key of one prefix can begin with another."""
ModelName = Annotated[str, Meta(min_length=1, max_length=128)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[int, Meta(ge=1, le=1_000_000)]
HttpUrl = Annotated[
    str,
    Meta(
        pattern=r"^https?://[^/?#\s@]+(/[^?#\s]*)?\Z",
        description="http:// or https:// and a host, without query, user or password (secrets come from env or file)",
    ),
]
Price = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,6}(\.[0-9]{1,6})?\Z",
        description='a non-negative decimal in quotes with at most 6 decimals, as "0.0035"',
    ),
]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000, description="an integer from 0 to 1000000000")]
Usd = Annotated[
    str,
    Meta(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,6})?\Z",
        description='a non-negative decimal in quotes with at most 6 decimals, as "50.00"',
    ),
]
KeyHash = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9]{10}\.[0-9a-f]{64}\Z", description="a hash as `imagegate key hash` prints it"),
]
Moment = Annotated[datetime, Meta(tz=True, description="a date and time with time zone, as 2027-01-01T00:00:00Z")]


class SettingsError(Exception):
    """The configuration is invalid. The message names the setting and the fix."""


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table. Unknown keys are errors."""


class SecretSource(Table, frozen=True, kw_only=True):
    """The source of a secret: an environment variable or a file, never the configuration itself."""

    env: str | None = None
    file: str | None = None
