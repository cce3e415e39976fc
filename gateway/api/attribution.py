"""Reads what a request is attributed to: the tags of its headers and of `metadata`, and its end user.

Tags of the tenant come before those of the API key, and these before those of the request, which only add to them.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from starlette.datastructures import Headers

from gateway.api.fields import Generation
from gateway.api.refusals import excerpt, header_names, listed, refused_value
from gateway.domain.attribution import TAG_KEY, TAG_VALUE, TAGS_MAX, USER, Attribution, tag_dimension
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal
from gateway.providers.replies import JSON_DECODE_ERRORS

HEADER: Final = "x-imagegate-tags"
ANY_KEY: Final = "*"
_METADATA: Final = "metadata"
_USER_TAG: Final = "_user"
"""Portkey's name of the end user, beside its tags."""
_SEPARATOR: Final = re.compile(r"[=:]")
"""A tag is KEY=VALUE, or as clients of LiteLLM write it, KEY:VALUE, or KEY for KEY=true."""
_PLAIN_USER: Final = re.compile(r"[ -~]{1,128}", re.ASCII)
_HASH_CHARS: Final = 16


SentTag = tuple[str, str, str]
"""The parameter that names a tag, its key and its value, as the client sent them."""


@dataclass(frozen=True, slots=True, repr=False)
class Attributor:
    """Attributes requests by the operator's rules."""

    keys: frozenset[str]
    """Of the tags that requests may send, ANY_KEY for all; the others of these have sums."""
    headers: tuple[str, ...]
    """Read as HEADER is."""
    ignores_unknown: bool
    keeps_users: bool
    """Users are recorded as they are named, and not as keyed hashes."""
    keyed_hash: Callable[[str], Awaitable[str]]

    def read_headers(self, headers: Headers) -> list[SentTag]:
        """Raises: GatewayError INVALID_VALUE."""
        named = [(name, text) for name in (HEADER, *self.headers) for text in headers.getlist(name)]
        return [(name, *pair) for name, text in named for pair in _parse(name, text)]

    async def attribute(
        self, caller: Principal, generation: Generation, sent: Sequence[SentTag]
    ) -> tuple[Attribution, tuple[str, ...]]:
        """Returns what a request is attributed to, and the tags that are ignored. `sent` are those of its headers.

        Raises: GatewayError UNKNOWN_PARAMETER, INVALID_VALUE, MISSING_PARAMETER, REDIS_UNAVAILABLE.
        """
        metadata = [(_METADATA, key, value) for key, value in generation.metadata.items()]
        own, user, ignored = self.check(caller, [*sent, *metadata])
        tags = dict(sorted({**own, **caller.key.tags, **caller.tenant.tags}.items()))
        if own and len(tags) > TAGS_MAX:
            raise refused_value(
                HEADER,
                f"expected at most {TAGS_MAX} tags, with those of the tenant and the API key: {', '.join(tags)}.",
            )
        if missing := sorted(caller.tenant.required_tags - tags.keys()):
            text = (
                f"Missing required parameter: '{HEADER}'. Tenant '{caller.tenant.current_name}' requires the tag "
                f"'{missing[0]}'. Send it in this header, as '{missing[0]}=VALUE', or in 'metadata'."
            )
            raise GatewayError(ErrorCode.MISSING_PARAMETER, text, param=HEADER)
        user = await self._name_user(generation.user or user)
        summed = [tag_dimension(key) for key in tags if key in self.keys]
        return Attribution(tags, user, (*summed, *([USER] if user else []))), ignored

    def check(self, caller: Principal, sent: Sequence[SentTag]) -> tuple[dict[str, str], str, tuple[str, ...]]:
        """Returns the tags that a request adds, its end user, and the tags that are ignored.

        A tag of the tenant or the API key keeps its value.
        Raises: GatewayError UNKNOWN_PARAMETER, INVALID_VALUE.
        """
        tags: dict[str, str] = {}
        user, ignored, fixed = (
            "",
            list[str](),
            {**caller.key.tags, **caller.tenant.tags},
        )  # the tenant's take precedence
        allowed = self.keys | caller.tenant.required_tags | fixed.keys()
        for param, name, value in sent:
            key = name.lower()
            if key == _USER_TAG and key not in allowed:
                user = value
            elif not TAG_KEY.fullmatch(key) or allowed.isdisjoint({key, ANY_KEY}):
                if not self.ignores_unknown:
                    raise self._unknown(param, name, caller)
                ignored += header_names([f"{param}.{name}"])
            elif not TAG_VALUE.fullmatch(value):
                raise refused_value(param, f"the value of '{key}' must have 1 to 64 printable ASCII characters.")
            elif key in fixed:
                ignored += [f"{param}.{key}"] * (fixed[key] != value)
            elif tags.setdefault(key, value) != value:
                raise refused_value(param, f"the tag '{key}' has two values. Send one.")
        return tags, user, tuple(ignored)

    def _unknown(self, param: str, name: str, caller: Principal) -> GatewayError:
        keys = [f"'{key}'" for key in sorted((self.keys | caller.tenant.required_tags) - {ANY_KEY})]
        taken = f"takes {listed(keys)}" if keys else "takes no tags of requests"
        if ANY_KEY in self.keys:
            taken = "takes keys of 1 to 32 characters of a-z, 0-9, '_', '.' and '-'"
        return GatewayError(
            ErrorCode.UNKNOWN_PARAMETER,
            f"Unknown tag '{excerpt(name)}' in '{param}': this server {taken}. Remove it, or ask the operator of the "
            "server to name it in [attribution] keys.",
            param=param,
        )

    async def _name_user(self, name: str) -> str:
        if not name or (self.keeps_users and _PLAIN_USER.fullmatch(name)):
            return name
        return (await self.keyed_hash(f"user {name}"))[:_HASH_CHARS]


def _parse(name: str, text: str) -> list[tuple[str, str]]:
    """Parses a header of tags joined by commas, or of a JSON object as Portkey's clients send it."""
    if text.lstrip().startswith("{"):
        try:
            return list(msgspec.json.decode(text, type=dict[str, str]).items())
        except JSON_DECODE_ERRORS:
            raise refused_value(name, "expected KEY=VALUE,KEY=VALUE or a JSON object of strings.") from None
    items = (_SEPARATOR.split(item, maxsplit=1) for item in text.split(",") if item.strip())
    return [(key.strip(), value[0].strip() if value else "true") for key, *value in items]
