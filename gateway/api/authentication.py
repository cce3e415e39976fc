"""Authenticates the requests of tenants, and limits the cost of refused ones.

A refused request costs its parsing, a call to Redis and a log line. A key may have `per_second` of them and its tenant
four times as many, with bursts of ten seconds' worth. Beyond that, this process refuses all its requests for 1 s:
before the body is read, without Redis and without a log line at `info`. Some of these responses are delayed to the end
of that second, which slows down clients that wait for them.

Any request in flight may still be refused, as clients disconnect. While less than half of a bucket is left, at most as
many requests as it has tokens are in flight; others are refused likewise.
"""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request

from gateway.api.auth_throttle import FailedAuthThrottle, secret_of
from gateway.api.bodies import context_of
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import LEAD, Principal
from gateway.metering.admission import Admission
from gateway.metering.transfers import Transfer, Transfers
from gateway.tenants.authentication import Authenticator

KEYS_A_TENANT: Final = 4
READS_PER_SECOND: Final = 20.0
"""Requests of a tenant for its files and batches, with bursts of 10 s: many batches may be polled every few seconds."""
_SUMS_A_READ: Final = 100
"""They take about 5 ms to load."""
_REPORTS_MAX: Final = 4
"""Limit on the concurrent reports of a tenant. Each is counted when it has been read."""
_TOO_MANY: Final = 429
_DELAYED_MAX: Final = 256
"""Limit on delayed responses in this process: each holds a connection."""
_BURST_S: Final = 10.0
"""Seconds' worth of tokens in a full bucket, which allow a burst."""
_BLOCKED_S: Final = 1.0
"""Seconds for which an empty bucket refuses, so that `retry-after` is exact."""
_BUCKETS_MAX: Final = 4096
_NO_IMAGES: Final = (
    "This key manages its tenant and makes no images. Use another key of the tenant: GET /v1/tenant/keys lists them, "
    "and POST /v1/tenant/keys creates one."
)
_NO_LEAD: Final = (
    "This key makes images and does not manage its tenant. Use a key of role 'lead', which an administrator creates. "
    "GET /v1/usage shows what this key may use."
)
_LOG = structlog.get_logger("imagegate.refusals")


def read_authorization(headers: Headers) -> str:
    """Returns the Authorization header; a key in another header is returned as its bearer key.

    Azure's clients send the key in `api-key`. Some programs send it in `x-api-key`, which proxies also use for keys of
    their own: it counts if there is no other.
    Raises: GatewayError NO_CREDENTIALS if Authorization and `api-key` have different keys.
    """
    authorization, azure = headers.get("authorization", ""), headers.get("api-key", "").strip()
    bearer = secret_of(authorization)
    if azure and bearer and azure != bearer:
        raise GatewayError(
            ErrorCode.NO_CREDENTIALS, "The headers Authorization and api-key have different keys. Send only one."
        )
    if not bearer and (key := azure or headers.get("x-api-key", "").strip()):
        return f"Bearer {key}"
    return authorization


@dataclass(slots=True)
class _Bucket:
    tokens: float
    since_s: float
    """Monotonic time of the last refill."""
    blocked_until_s: float = 0.0


@dataclass(slots=True, repr=False)
class Buckets:
    """Token buckets of this process. Each name may take `per_second` tokens a second, with bursts of 10 s."""

    per_second: float
    monotonic: Callable[[], float]
    in_flight: Counter[str] = field(default_factory=Counter)
    """Requests that may take a token when they end."""
    _buckets: dict[str, _Bucket] = field(default_factory=dict)

    def blocked_s(self, name: str) -> float:
        """Returns the seconds until this name may take a token; 0 if it may now."""
        bucket, now_s = self._buckets.get(name), self.monotonic()
        if bucket is None:
            return 0.0
        tokens = bucket.tokens + (now_s - bucket.since_s) * self.per_second
        if 0 < self.in_flight[name] >= tokens and tokens < self.per_second * _BURST_S / 2:
            return _BLOCKED_S
        return max(0.0, bucket.blocked_until_s - now_s)

    def take(self, name: str, tokens: int = 1) -> bool:
        """Takes tokens; more than there are delay the next request. Returns: whether the last one is among them."""
        now_s, full = self.monotonic(), self.per_second * _BURST_S
        bucket = self._buckets.get(name)
        if bucket is None:
            if len(self._buckets) >= _BUCKETS_MAX:  # buckets that are full again equal new ones
                recent = (item for item in self._buckets.items() if now_s - item[1].since_s < _BURST_S)
                self._buckets = dict(recent)
            bucket = self._buckets[name] = _Bucket(full, now_s)
        grown = bucket.tokens + (now_s - bucket.since_s) * self.per_second
        bucket.tokens, bucket.since_s = max(min(grown, full) - tokens, 1.0 - tokens), now_s
        if bucket.tokens >= 1 or now_s < bucket.blocked_until_s:
            return False
        bucket.blocked_until_s = now_s + max(_BLOCKED_S, -bucket.tokens / self.per_second)
        return True


@dataclass(slots=True, eq=False, repr=False)
class TenantAuthenticator:
    """Authenticates requests, and refuses those of tenants with too many refused ones."""

    authenticator: Authenticator
    throttle: FailedAuthThrottle
    admission: Admission
    transfers: Transfers
    by_key: Buckets
    """Refused requests of each key; a limit of 0 is none."""
    by_tenant: Buckets
    reads: Buckets
    """Requests of each tenant for its files and batches. They do not count in its limits per minute."""
    reports: Counter[str] = field(default_factory=Counter)
    """Reports of usage in progress, by tenant."""
    _delayed: int = 0

    async def authenticate(self, request: Request, *, allows_lead: bool = False) -> Principal:
        """Authenticates a request for images, or, if `allows_lead`, for what a lead may also do.

        Raises: GatewayError INVALID_API_KEY, AUTHENTICATION_THROTTLED, REQUESTS_THROTTLED, NOT_PERMITTED,
        REDIS_UNAVAILABLE.
        """
        caller = await self.identify(request)
        tenant, key, context = caller.tenant.current_name, caller.key.id, context_of(request)
        context.tenant, context.key_id, context.memory.tenant = tenant, key, tenant
        context.transfer = Transfer(self.transfers, caller)
        if wait_s := self._blocked_s(caller):
            if self._delayed < _DELAYED_MAX:
                self._delayed += 1
                try:
                    await asyncio.sleep(wait_s)
                finally:
                    self._delayed -= 1
            raise self._throttled(caller, wait_s)
        if caller.key.role == LEAD and not allows_lead:
            self.count_refusal(caller)
            raise GatewayError(ErrorCode.NOT_PERMITTED, _NO_IMAGES)
        return caller

    async def identify(self, request: Request) -> Principal:
        """Returns whose request it is. Raises: GatewayError INVALID_API_KEY, AUTHENTICATION_THROTTLED."""
        authorization = read_authorization(request.headers)
        check = partial(self.authenticator.identify, authorization)
        address = request.client.host if request.client else ""
        return await self.throttle.check_tenant(address, authorization, check)

    def actor(self, request: Request, caller: Principal) -> Actor:
        """Returns who is recorded for the changes of a request."""
        return Actor(f"key:{caller.key.id}", context_of(request).id)

    async def authenticate_reader(self, request: Request, *, allows_lead: bool = False) -> Principal:
        """Authenticates a request that is not admitted, and limits how many there are.

        Raises: GatewayError RATE_LIMITED, and those of `authenticate`.
        """
        caller = await self.authenticate(request, allows_lead=allows_lead)
        name, reads = caller.tenant.name, self.reads
        if wait_s := reads.blocked_s(name):
            owner = caller.tenant.current_name
            what = f"reads of files, batches, keys and usage of tenant '{owner}': limit {reads.per_second:g} per second"
            raise _too_many(what, wait_s)
        reads.take(name)
        return caller

    async def authenticate_lead(self, request: Request) -> Principal:
        """Raises: GatewayError NOT_PERMITTED for another key, and those of `authenticate_reader`."""
        caller = await self.authenticate_reader(request, allows_lead=True)
        if caller.key.role != LEAD:
            self.count_refusal(caller)
            raise GatewayError(ErrorCode.NOT_PERMITTED, _NO_LEAD)
        return caller

    @contextmanager
    def reporting(self, caller: Principal) -> Iterator[Callable[[int], None]]:
        """Bounds the reports of a tenant that run concurrently in this process.

        Yields a function that counts a report as many reads, by the number of the ledger's sums that it took.
        Raises: GatewayError RATE_LIMITED.
        """
        name, owner, running = caller.tenant.name, caller.tenant.current_name, self.reports

        def count(sums: int) -> None:
            if reads := sums // _SUMS_A_READ:
                self.reads.take(name, reads)

        if running[name] >= _REPORTS_MAX:
            raise _too_many(f"concurrent reports of usage of tenant '{owner}': limit {_REPORTS_MAX}", _BLOCKED_S)
        running[name] += 1
        try:
            yield count
        finally:
            running[name] -= 1
            if not running[name]:
                del running[name]

    @contextmanager
    def counting_refusals(self, caller: Principal) -> Iterator[None]:
        """Counts a request that is refused for its content."""
        try:
            yield
        except (GatewayError, ClientDisconnect):
            self.count_refusal(caller)
            raise

    @contextmanager
    def in_flight(self, caller: Principal) -> Iterator[None]:
        """Counts a request that may be refused until this ends. Raises: GatewayError REQUESTS_THROTTLED."""
        if wait_s := self._blocked_s(caller):
            raise self._throttled(caller, wait_s)
        counts = [(buckets.in_flight, name) for buckets, name in self._buckets_of(caller)]
        for count, name in counts:
            count[name] += 1
        try:
            yield
        finally:
            for count, name in counts:
                count[name] -= 1
                if not count[name]:
                    del count[name]

    def count_refusal(self, caller: Principal) -> None:
        if not self.by_key.per_second:
            return
        are_spent = [buckets.take(name) for buckets, name in self._buckets_of(caller)]
        if any(are_spent):
            _LOG.warning("requests_throttled", tenant=caller.tenant.current_name, key_id=caller.key.id)

    async def load_rates(self, request: Request, caller: Principal, *, is_counted: bool = False) -> None:
        """Loads the status of the rate limits for the response headers.

        `is_counted` counts a request that is never admitted, for example because it was refused for its content.
        Raises: GatewayError RATE_LIMITED if it is counted and the minute is full.
        """
        if not caller.has_rates or (is_counted and self._blocked_s(caller)):
            return
        try:
            context_of(request).rates = (await self.admission.peek(caller, is_refused=is_counted)).rates
        except GatewayError as error:
            if error.row.status == _TOO_MANY:
                raise  # other errors only omit the headers

    def _buckets_of(self, caller: Principal) -> tuple[tuple[Buckets, str], ...]:
        tenant = caller.tenant.name
        return (self.by_key, f"{tenant} {caller.key.id}"), (self.by_tenant, tenant)

    def _blocked_s(self, caller: Principal) -> float:
        return max(buckets.blocked_s(name) for buckets, name in self._buckets_of(caller))

    def _throttled(self, caller: Principal, wait_s: float) -> GatewayError:
        return GatewayError(
            ErrorCode.REQUESTS_THROTTLED,
            f"Too many requests of key '{caller.key.id}' or of its tenant were refused (limit {self.by_key.per_second} "
            "per second and key). Please try again in 1 s.",
            retry_after_s=wait_s,
        )


def _too_many(what: str, wait_s: float) -> GatewayError:
    text = f"Rate limit reached for {what}. Please try again in {math.ceil(wait_s)} s."
    return GatewayError(ErrorCode.RATE_LIMITED, text, retry_after_s=wait_s)
