"""Signed links to stored pictures, which open without a key until the picture expires.

A link is `/files/{id}.{extension}?expires={Unix seconds}&kid={key ID}&signature={base64url}`. The signature is the
HMAC-SHA256 of all that precedes `&signature=`. It is compared as text, so that no other spelling of it is valid.

The signing keys are configured, or one is made a week and shared through Redis. A key is known for longer than a
picture may be kept. While Redis is unavailable, links are verified with the keys that this process has read.
"""

import asyncio
import hashlib
import hmac
import math
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format
from gateway.redis import Client, execute
from gateway.storage.pictures import EXTENSIONS, StoredPicture

_WEEK_S: Final = 7 * 86_400
_KNOWN_WEEKS: Final = 8
"""Older keys are deleted. No picture is kept for longer than a month."""
_FRESH_S: Final = 60.0
"""Keys are read again after this long: a key that was deleted signs no more links."""
_PAUSE_S: Final = 1.0
"""Wrong links do not make a process read the keys more often than this."""
_KID_CHARS: Final = 8


@dataclass(frozen=True, slots=True)
class Link:
    """A verified link."""

    id: str
    format: Format
    expires_s: int


class SigningKeys:
    """The keys of links by ID: those of a configuration, of which the first one signs, or those in Redis."""

    def __init__(
        self,
        redis: Client,
        configured: Sequence[str],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._name = f"{redis.prefix}:link_keys"
        self._configured = {_fingerprint(secret): secret for secret in configured}
        self._keys: Mapping[str, str] = self._configured
        self._clock = clock
        self._monotonic = monotonic
        self._read_s = self._tried_s = -math.inf
        self._reading = asyncio.Lock()

    async def current(self) -> tuple[str, str]:
        """Returns ID and secret of the key that signs. Raises: GatewayError REDIS_UNAVAILABLE if none is known."""
        if self._configured:
            return next(iter(self._configured.items()))
        week = str(int(self._clock()) // _WEEK_S)
        await self.refresh(week)
        if not self._keys:
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE, "no key to sign links with")
        kid = week if week in self._keys else max(self._keys, key=int)
        return kid, self._keys[kid]

    async def refresh(self, kid: str) -> None:
        """Reads the keys if they are old or `kid` is unknown. Keys that were read remain while Redis is unavailable."""
        if self._configured or self._is_fresh(kid):
            return
        async with self._reading:
            if not self._is_fresh(kid):
                with suppress(GatewayError):
                    await self._read()
                self._tried_s = self._monotonic()

    def find(self, kid: str) -> str | None:
        return self._keys.get(kid)

    def _is_fresh(self, kid: str) -> bool:
        now_s = self._monotonic()
        return now_s - self._tried_s < _PAUSE_S or (kid in self._keys and now_s - self._read_s < _FRESH_S)

    async def _read(self) -> None:
        """Reads all keys, after adding one for this week. Raises: GatewayError REDIS_UNAVAILABLE.

        Redis: one round trip, and once a week another.
        """
        week, started_s = int(self._clock()) // _WEEK_S, self._monotonic()
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hsetnx(self._name, str(week), secrets.token_hex(32))
        pipeline.expire(self._name, _KNOWN_WEEKS * _WEEK_S)
        pipeline.hgetall(self._name)
        *_, keys = await execute(self._redis, pipeline.execute(), tuple[int, int, dict[str, str]])
        self._keys, self._read_s = keys, started_s
        if old := [kid for kid in keys if int(kid) < week - _KNOWN_WEEKS]:
            await execute(self._redis, self._redis.hdel(self._name, *old), int)


class Links:
    """Signs and verifies links."""

    def __init__(self, keys: SigningKeys, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock

    async def sign(self, picture: StoredPicture) -> str:
        """Returns path and query of a picture's link. Raises: GatewayError REDIS_UNAVAILABLE if there is no key."""
        kid, secret = await self._keys.current()
        target = _target(f"{picture.id}.{picture.extension}", str(picture.expires_s), kid)
        return f"{target}&signature={_signature(secret, target)}"

    async def prepare(self, kid: str) -> None:
        """Makes the key of a link known to this process, if it exists."""
        await self._keys.refresh(kid)

    def verify(self, name: str, query: Mapping[str, str]) -> Link:
        """Verifies the link to `{id}.{extension}`, with the keys that this process has read.

        Raises: GatewayError LINK_INVALID, LINK_EXPIRED.
        """
        expires, kid = query.get("expires", ""), query.get("kid", "")
        secret = self._keys.find(kid)
        expected = _signature(secret, _target(name, expires, kid)) if secret else ""
        if not expected or not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
            raise GatewayError(ErrorCode.LINK_INVALID)
        if int(expires) <= self._clock():
            raise GatewayError(ErrorCode.LINK_EXPIRED)
        picture_id, _, extension = name.partition(".")
        return Link(picture_id, EXTENSIONS[extension], int(expires))


def _target(name: str, expires: str, kid: str) -> str:
    return f"/files/{name}?expires={expires}&kid={kid}"


def _signature(secret: str, target: str) -> str:
    digest = hmac.digest(secret.encode(), target.encode(), hashlib.sha256)
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def _fingerprint(secret: str) -> str:
    """Returns the ID of a configured key, which tells nothing of it."""
    return hmac.digest(secret.encode(), b"kid", hashlib.sha256).hex()[:_KID_CHARS]
