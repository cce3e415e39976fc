"""Throttles failed authentication attempts per client address: wrong keys, and wrong signatures of links.

Each client address has a token bucket of wrong keys a minute in each process, shared by the tenant and admin APIs. IPv6
addresses count by /64, which belongs to one customer. Once the bucket is empty, wrong keys get 429 until it has a token
again. A missing key does not count, nor does a key that could not be checked because Redis is unavailable.

A misconfigured client must not lock out others at its address (behind a proxy or NAT):

- An admin key and a link are always compared first, without I/O, and a valid one passes. So the key's length of at
  least 16 characters, and the signature's 256 bits, protect them from guessing, not the 429.
- An API key that was valid recently, from any address, is always checked. It has 190 random bits and cannot be guessed:
  the limit protects Redis and the log. Other keys are refused unread.
- A misconfigured client repeats its key; an attacker does not. Once a bucket was empty, recent wrong keys cannot use
  its lower half: refilled tokens are reserved for other keys.

Invariant: at most as many unverified keys are checked concurrently as there are tokens; the rest wait.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeVar

from gateway.domain.errors import ErrorCode, GatewayError

_MINUTE_S: Final = 60.0
_WRONG: Final = frozenset(
    {ErrorCode.INVALID_API_KEY, ErrorCode.ADMIN_UNAUTHORIZED, ErrorCode.LINK_INVALID, ErrorCode.INVITATION_INVALID}
)
_BUCKETS_MAX: Final = 4096
"""About 3 MB if every bucket is empty."""
_KNOWN_MAX: Final = 10_000
"""The cache size of `tenants/authentication.py`."""
_REPEATS_MAX: Final = 8
_IPV6_NETWORK_BITS: Final = 64
_DIGEST_BYTES: Final = 16
_NAME_MAX_CHARS: Final = 64
"""Limit on a proxy's text that is not an address."""
_T = TypeVar("_T")


@dataclass(slots=True)
class _Bucket:
    """The tokens of one address."""

    tokens: float
    since_s: float
    """Monotonic time of the last refill."""
    is_spent: bool = False
    """The bucket was empty and has not been full since."""
    in_doubt: int = 0
    """Number of unverified keys that are being checked."""
    wrong: list[bytes] = field(default_factory=list)
    """Digests of the latest wrong keys, newest last."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the check of an unverified key ends, and then replaced."""


class FailedAuthThrottle:
    """Throttles wrong keys by address, and remembers valid ones. `per_minute` 0 disables the throttle."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float], buckets_max: int = _BUCKETS_MAX) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._buckets_max = buckets_max
        self._buckets: dict[str, _Bucket] = {}
        self._known: dict[bytes, None] = {}
        """Digests of valid keys, most recently used last."""
        self._hash = partial(hashlib.blake2b, digest_size=_DIGEST_BYTES, key=secrets.token_bytes(_DIGEST_BYTES))
        """Has a random key of this process: collisions cannot be forged, and memory reveals no key."""

    async def check_tenant(self, address: str, authorization: str, check: Callable[[], Awaitable[_T]]) -> _T:
        """Runs `check` for an API key. Raises: GatewayError AUTHENTICATION_THROTTLED, and those of `check`."""
        secret = secret_of(authorization)
        if not self._per_minute or not secret:
            return await check()
        digest = self._hash(secret.encode()).digest()
        bucket = None if digest in self._known else await self._acquire(address, digest)
        try:
            result = await check()
        except GatewayError as error:
            if error.error_code in _WRONG:
                self._known.pop(digest, None)
                self._count(self._bucket(address), digest)
            raise
        finally:
            if bucket:
                bucket.in_doubt -= 1
                bucket.settled.set()
                bucket.settled = asyncio.Event()
        self._known.pop(digest, None)  # the most recently used is the last
        self._known[digest] = None
        if len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]
        return result

    def check_first(self, address: str, secret: str, check: Callable[[], _T]) -> _T:
        """Runs `check`, which needs no I/O, for an admin key or a link: an empty bucket refuses wrong ones only.

        Raises: GatewayError AUTHENTICATION_THROTTLED, and those of `check`.
        """
        try:
            return check()
        except GatewayError as error:
            if self._per_minute and secret and error.error_code in _WRONG:
                digest = self._hash(secret.encode()).digest()
                bucket = self._bucket(address)
                self._require_token(bucket, digest)
                self._count(bucket, digest)
            raise

    async def _acquire(self, address: str, digest: bytes) -> _Bucket:
        """Waits for a token for this key even if all keys in doubt are wrong; then it is in doubt too."""
        while True:
            bucket = self._bucket(address)
            if self._require_token(bucket, digest) >= bucket.in_doubt:
                bucket.in_doubt += 1
                return bucket
            await bucket.settled.wait()

    def _require_token(self, bucket: _Bucket, digest: bytes) -> float:
        """Returns the tokens that remain for others. Raises: GatewayError AUTHENTICATION_THROTTLED."""
        reserved = self._per_minute / 2 if bucket.is_spent and digest in bucket.wrong else 0.0
        remaining = bucket.tokens - max(reserved, 1.0)
        if remaining < 0:
            wait_s = -remaining * _MINUTE_S / self._per_minute
            raise GatewayError(ErrorCode.AUTHENTICATION_THROTTLED, retry_after_s=wait_s)
        return remaining

    def _bucket(self, address: str) -> _Bucket:
        """Returns the refilled bucket."""
        name, now_s = network_of(address), self._monotonic()
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= self._buckets_max:
                self._drop_fullest(now_s)
            bucket = self._buckets[name] = _Bucket(self._per_minute, now_s)
        bucket.tokens = self._tokens(bucket, now_s)
        bucket.since_s = now_s
        if bucket.tokens >= self._per_minute:
            bucket.is_spent = False
        return bucket

    def _tokens(self, bucket: _Bucket, now_s: float) -> float:
        refilled = (now_s - bucket.since_s) * self._per_minute / _MINUTE_S
        return min(bucket.tokens + refilled, self._per_minute)

    def _count(self, bucket: _Bucket, digest: bytes) -> None:
        bucket.tokens = max(bucket.tokens - 1, 0)  # a known key that has become invalid was checked without a token
        bucket.is_spent = bucket.is_spent or bucket.tokens < 1
        bucket.wrong = [*(wrong for wrong in bucket.wrong if wrong != digest), digest][-_REPEATS_MAX:]

    def _drop_fullest(self, now_s: float) -> None:
        """Drops the fullest quarter of the buckets.

        An attacker with many addresses would have to empty more buckets than the limit to get an empty one dropped.
        """
        idle = [name for name, bucket in self._buckets.items() if not bucket.in_doubt]
        idle.sort(key=lambda name: self._tokens(self._buckets[name], now_s), reverse=True)
        for name in idle[: self._buckets_max // 4 + 1]:
            del self._buckets[name]


def secret_of(authorization: str) -> str:
    """Returns the bearer key; empty if there is none."""
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def network_of(address: str) -> str:
    """Returns an IPv4 address, also if mapped into IPv6, or the /64 of an IPv6 address. Other text stays unchanged."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address[:_NAME_MAX_CHARS]
    if not isinstance(parsed, IPv6Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return f"{int(parsed) >> (128 - _IPV6_NETWORK_BITS):016x}/{_IPV6_NETWORK_BITS}"
