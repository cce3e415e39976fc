"""Authentication of tenants, and the limit on wrong keys of one address.

Each client address (of IPv6 its /64, which one customer has) has a token bucket of wrong keys a minute in each process,
for tenants and the admin API together. Once it is empty, wrong keys get 429 until a token is back. A missing key is no
guess, and neither is a key that could not be checked because Redis is unavailable.

Clients that share an address with a misconfigured one (behind a proxy, or NAT) must not be locked out by it:

- An admin key is always compared first, which costs no I/O, and a right one passes. So 429 does not slow down guessing;
  the length of the key does, at least 16 characters.
- A tenant's key that was valid recently, from any address, is always checked and passes. It has 190 random bits, too
  many to guess: the limit spares Redis and the log. Other keys are refused unread.
- A misconfigured client repeats itself, a guesser does not. Once a bucket is spent, keys that were just found wrong
  there get none of its lower half: refilled tokens are for other keys.

Invariant: at most as many unverified keys are checked concurrently as there are tokens; the rest wait.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import Final, TypeVar

from starlette.requests import ClientDisconnect, HTTPConnection, Request

from gateway.api.rejection_limits import RejectionLimits
from gateway.api.request_context import context_of
from gateway.api.shutdown import ShutdownState
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Principal
from gateway.metering.admission import Admission
from gateway.metering.transfers import Transfer, Transfers
from gateway.tenants.authentication import Authenticator

_MINUTE_S: Final = 60.0
_WRONG: Final = frozenset({ErrorCode.INVALID_API_KEY, ErrorCode.ADMIN_UNAUTHORIZED})
_BUCKETS_MAX: Final = 4096
"""About 3 MB when each is spent."""
_KNOWN_MAX: Final = 10_000
"""As many as `stores/credentials.py` caches."""
_REPEATS_MAX: Final = 8
_IPV6_NETWORK_BITS: Final = 64
_DIGEST_BYTES: Final = 16
_NAME_MAX_CHARS: Final = 64
"""Of what a proxy says and is no address."""
_TOO_MANY: Final = 429

_T = TypeVar("_T")


@dataclass(slots=True)
class _Bucket:
    """What is left to one address."""

    tokens: float
    since_s: float
    """Up to when `tokens` has grown, monotonic."""
    is_spent: bool = False
    """It ran empty and has not been full since."""
    in_doubt: int = 0
    """Keys that are being checked."""
    wrong: list[bytes] = field(default_factory=list)
    """Digests of the last wrong keys, the newest last."""
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a key in doubt was decided, and then replaced."""


class FailedAuthThrottle:
    """Throttles wrong keys by address, and remembers valid ones. `per_minute` 0 disables it."""

    def __init__(self, per_minute: int, monotonic: Callable[[], float], buckets_max: int = _BUCKETS_MAX) -> None:
        self._per_minute = per_minute
        self._monotonic = monotonic
        self._buckets_max = buckets_max
        self._buckets: dict[str, _Bucket] = {}
        self._known: dict[bytes, None] = {}
        """Digests of right keys, the last used last."""
        self._hash_key = secrets.token_bytes(_DIGEST_BYTES)

    async def check_tenant(self, address: str, authorization: str, check: Callable[[], Awaitable[_T]]) -> _T:
        """What `check` makes of a tenant's key. Raises: GatewayError AUTHENTICATION_THROTTLED, and what it raises."""
        secret = _secret_of(authorization)
        if not self._per_minute or not secret:
            return await check()
        digest = self._digest(secret)
        if digest in self._known:
            return await self._decide(address, digest, check)
        bucket = await self._acquire(address, digest)
        bucket.in_doubt += 1
        try:
            return await self._decide(address, digest, check)
        finally:
            bucket.in_doubt -= 1
            bucket.settled.set()
            bucket.settled = asyncio.Event()

    def check_admin(self, address: str, authorization: str, check: Callable[[], _T]) -> _T:
        """Likewise of an admin key. It is checked first: a spent bucket refuses wrong keys only."""
        try:
            return check()
        except GatewayError as error:
            secret = _secret_of(authorization)
            if self._per_minute and secret and error.error_code in _WRONG:
                digest = self._digest(secret)
                bucket = self._bucket(address)
                self._require_token(bucket, digest)
                self._count(bucket, digest)
            raise

    async def _decide(self, address: str, digest: bytes, check: Callable[[], Awaitable[_T]]) -> _T:
        try:
            found = await check()
        except GatewayError as error:
            if error.error_code in _WRONG:
                self._known.pop(digest, None)
                self._count(self._bucket(address), digest)
            raise
        self._remember(digest)
        return found

    async def _acquire(self, address: str, digest: bytes) -> _Bucket:
        """The bucket, once it has a token for this key, whatever becomes of those in doubt."""
        while True:
            bucket = self._bucket(address)
            if self._require_token(bucket, digest) >= bucket.in_doubt:
                return bucket
            await bucket.settled.wait()

    def _require_token(self, bucket: _Bucket, digest: bytes) -> float:
        """How many tokens are left for others. Raises: GatewayError AUTHENTICATION_THROTTLED."""
        kept = self._per_minute / 2 if bucket.is_spent and digest in bucket.wrong else 0.0
        left = bucket.tokens - max(kept, 1.0)
        if left < 0:
            raise GatewayError(ErrorCode.AUTHENTICATION_THROTTLED, retry_after_s=-left * _MINUTE_S / self._per_minute)
        return left

    def _bucket(self, address: str) -> _Bucket:
        """As it stands now."""
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
        grown = (now_s - bucket.since_s) * self._per_minute / _MINUTE_S
        return min(bucket.tokens + grown, self._per_minute)

    def _count(self, bucket: _Bucket, digest: bytes) -> None:
        bucket.tokens = max(bucket.tokens - 1, 0)  # a key known as right, and now wrong, was let in without one
        bucket.is_spent = bucket.is_spent or bucket.tokens < 1
        bucket.wrong = [*(wrong for wrong in bucket.wrong if wrong != digest), digest][-_REPEATS_MAX:]

    def _drop_fullest(self, now_s: float) -> None:
        """Drops the fullest quarter of the buckets.

        To have an empty bucket dropped, an attacker with many addresses must empty more buckets than are kept.
        """
        idle = [name for name, bucket in self._buckets.items() if not bucket.in_doubt]
        idle.sort(key=lambda name: self._tokens(self._buckets[name], now_s), reverse=True)
        for name in idle[: self._buckets_max // 4 + 1]:
            del self._buckets[name]

    def _remember(self, digest: bytes) -> None:
        self._known.pop(digest, None)
        self._known[digest] = None
        if len(self._known) > _KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def _digest(self, text: str) -> bytes:
        """Hashes a key with a random key of this process: collisions cannot be made, and memory reveals no key."""
        return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES, key=self._hash_key).digest()


class TenantAuthenticator:
    """Authenticates requests, and bounds what refused ones cost."""

    def __init__(
        self,
        drain: ShutdownState,
        credentials: Authenticator,
        guesses: FailedAuthThrottle,
        refusals: RejectionLimits,
        admission: Admission,
        transfers: Transfers,
    ) -> None:
        self._drain = drain
        self._credentials = credentials
        self._guesses = guesses
        self._admission = admission
        self._transfers = transfers
        self._refusals = refusals
        self.count_refusal = refusals.count

    async def begin(self, request: Request) -> Principal:
        """Authenticates a request for images. Raises: GatewayError SHUTTING_DOWN, and what `authenticate` raises."""
        self._drain.refuse()
        return await self.authenticate(request)

    async def authenticate(self, request: Request) -> Principal:
        """Raises: GatewayError INVALID_API_KEY, AUTHENTICATION_THROTTLED, REQUESTS_THROTTLED, REDIS_UNAVAILABLE."""
        given = request.headers.get("authorization", "")
        check = partial(self._credentials.identify, given)
        caller = await self._guesses.check_tenant(address_of(request), given, check)
        context = context_of(request)
        context.tenant, context.key_id = caller.tenant.name, caller.key.id
        context.memory.tenant = context.tenant
        context.transfer = Transfer(self._transfers, caller)
        await self._refusals.check(caller)
        return caller

    @asynccontextmanager
    async def counting_refusals(self, request: Request, caller: Principal) -> AsyncIterator[None]:
        """Counts a request that fails before its admission. Raises: GatewayError RATE_LIMITED."""
        try:
            yield
        except (GatewayError, ClientDisconnect):
            self.count_refusal(caller)
            await self.load_rates(request, caller, is_refused=True)
            raise

    async def load_rates(self, request: Request, caller: Principal, *, is_refused: bool = False) -> None:
        """Loads the status of the rate limits for the response headers. Raises: GatewayError RATE_LIMITED."""
        if not caller.has_rates:
            return
        try:
            context_of(request).rates = await self._admission.peek_rates(caller, is_refused=is_refused)
        except GatewayError as error:
            if error.row.status == _TOO_MANY:
                raise  # every other answer needs no Redis


def _secret_of(authorization: str) -> str:
    """The key that was sent; empty if none was."""
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def network_of(address: str) -> str:
    """Whose an address is: an IPv4 address alone, also inside IPv6; of IPv6 the /64. What is none stands for itself."""
    try:
        found = ip_address(address)
    except ValueError:
        return address[:_NAME_MAX_CHARS]
    if not isinstance(found, IPv6Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    return f"{int(found) >> (128 - _IPV6_NETWORK_BITS):016x}/{_IPV6_NETWORK_BITS}"


def address_of(request: HTTPConnection) -> str:
    """Where a request came from; nothing where its transport has no addresses."""
    return request.client.host if request.client else ""
