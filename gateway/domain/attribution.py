"""What a request is attributed to, beside its tenant and API key: tags and an end user."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

TAGS_MAX: Final = 8
"""Limit on the tags of a tenant, of an API key, and of a request that adds to both."""
OTHER: Final = "_other"
"""Sums the values of a tenant day beyond the 1,000 that have sums of their own."""
TAG_KEY: Final = re.compile(r"[a-z0-9_.-]{1,32}", re.ASCII)
TAG_VALUE: Final = re.compile(r"[ -~]{1,64}", re.ASCII)
USER: Final = "user"
UPSTREAM: Final = "upstream"
BATCH: Final = "batch"
CHARGE_CLASS: Final = "charge_class"
CORRECTION: Final = "Correction"
"""The charge class of a difference that was settled after its month was closed; other usage has none."""


def tag_dimension(key: str) -> str:
    """Returns the name of a tag's sums; those of users and upstreams are USER and UPSTREAM."""
    return f"tag:{key}"


@dataclass(frozen=True, slots=True)
class TagFilter:
    """A tag by whose value usage is grouped, or, with a value, the only requests that count."""

    key: str
    value: str | None = None

    def __str__(self) -> str:
        return self.key if self.value is None else f"{self.key}={self.value}"


@dataclass(frozen=True, slots=True)
class RequestFilter:
    """Selects requests by exact values; None selects all."""

    model: str | None = None
    key: str | None = None
    """ID of the API key."""
    tag: TagFilter | None = None
    """Selects all without a value."""

    def takes(self, key: str, model: str, value: str) -> bool:
        """Returns whether requests with this key and model, and with this value of the tag, are selected."""
        is_tagged = self.tag is None or self.tag.value in {None, value}
        return is_tagged and self.key in {None, key} and self.model in {None, model}


EVERY_REQUEST: Final = RequestFilter()


@dataclass(frozen=True, slots=True)
class Attribution:
    """The tags and the end user of a request."""

    tags: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    """A keyed hash, or the user's own name if the operator wants it; "" if the request names none."""
    summed: tuple[str, ...] = ()
    """The dimensions in whose sums it counts."""
