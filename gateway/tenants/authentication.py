"""Authentication: resolves an API key to its tenant. Keys are stored as keyed hashes and looked up by key ID.

Invariant: a revoked key, or a key of a disabled tenant, is refused by every process within a second. Changed
limits take effect within a second too. A message on `ig3:revoked` does it immediately; if it is lost, the cached
entry expires in less than a second.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ID_CHARS, KEY_ALPHABET, KEY_PREFIX, SECRET_CHARS, Principal, digest, key_id
from gateway.redis import PREFIX, Client, execute, translate_redis_errors
from gateway.tenants.records import KeyRecord, keys_record, lookup_record, read_key, read_tenant, tenant_record

CHANNEL: Final = f"{PREFIX}:revoked"
_CACHE_S: Final = 0.8
"""Cache lifetime. Below 1 s, so that a lost message cannot extend a revoked key's life further."""
_CACHE_MAX: Final = 10_000
_LISTEN_PAUSE_S: Final = 0.5
_LISTEN_PAUSE_MAX_S: Final = 5.0
"""Without the channel only latency suffers: cached entries expire."""
_LOG = structlog.get_logger("imagegate.tenants")


def generate_api_key(public_id: str = "") -> str:
    """Generates a new API key, with a new key ID or a known one."""
    return KEY_PREFIX + (public_id or _random(ID_CHARS)) + _random(SECRET_CHARS)


def _random(length: int) -> str:
    return "".join(secrets.choice(KEY_ALPHABET) for _ in range(length))


@dataclass(frozen=True, slots=True)
class _Cached:
    caller: Principal
    record: KeyRecord
    until: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True)
class _Load:
    """A lookup in progress, shared by all requests with the same key."""

    task: "asyncio.Task[_Cached | None]"
    until: float
    """Monotonic seconds; later requests start a new lookup."""


class Authenticator:
    """Authenticates API keys."""

    def __init__(
        self,
        redis: Client,
        *,
        pepper: str | None,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        on_break: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_break` is called when the channel is lost and when it is restored: Redis may have restarted."""
        self._redis = redis
        self._on_break = on_break
        self._configured = pepper
        self._pepper = pepper
        self._clock = clock
        self._monotonic = monotonic
        self._cache: dict[str, _Cached] = {}
        self._loads: dict[str, _Load] = {}
        """Lookups that may still be shared and cached; `forget` removes them."""

    async def identify(self, authorization: str | None) -> Principal:
        """Returns the principal of an `Authorization` header.

        Raises: GatewayError NO_CREDENTIALS, INVALID_API_KEY, REDIS_UNAVAILABLE.
        Redis: none if cached, else two round trips, shared by concurrent requests with the same key.
        """
        secret = _bearer(authorization)
        public_id = key_id(secret)
        if public_id is None:
            raise _invalid(secret)
        entry = self._cache.get(public_id)
        if entry is None or entry.until <= self._monotonic():
            entry = await self._shared(public_id)
        if entry is None or not await self._matches(entry.record, secret):
            raise _invalid(secret)
        if entry.record.expires_at is not None and entry.record.expires_at <= self._clock():
            raise _invalid(secret)
        return entry.caller

    async def listen(self) -> None:
        """Drops cached keys that other processes change; runs until cancelled and reconnects after failures."""
        is_told, pause_s = False, _LISTEN_PAUSE_S
        while True:
            try:
                async for message in self._messages():
                    if message is not None:
                        self.forget(message)
                        continue
                    self._forget_all()
                    self._on_break()
                    if is_told:
                        _LOG.info("revocation_channel_restored")
                    is_told, pause_s = False, _LISTEN_PAUSE_S
            except (GatewayError, UnicodeDecodeError) as error:
                self._forget_all()
                self._on_break()
                if not is_told:
                    _LOG.warning(
                        "revocation_channel_lost",
                        detail=str(error),
                        hint="reconnecting; until then revocations take effect when the cached key expires (0.8 s)",
                    )
                is_told = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LISTEN_PAUSE_MAX_S)

    async def _messages(self) -> AsyncGenerator[str | None]:
        """Yields messages, after None for each new subscription. Raises: GatewayError REDIS_UNAVAILABLE."""
        async with self._redis.pubsub() as messages:
            with translate_redis_errors():
                await messages.subscribe(CHANNEL)
                while True:
                    message = await messages.get_message(timeout=30.0)
                    if message:
                        yield str(message["data"]) if message["type"] == "message" else None

    def forget(self, what: str) -> None:
        """Drops a cached key, or every cached key of "@TENANT"."""
        if what.startswith("@"):
            self._cache = {key: entry for key, entry in self._cache.items() if entry.caller.tenant.name != what[1:]}
            self._loads.clear()  # the tenants of lookups in progress are unknown
        else:
            self._cache.pop(what, None)
            self._loads.pop(what, None)

    def _forget_all(self) -> None:
        self._cache.clear()
        self._loads.clear()

    async def keyed_hash(self, hashed: str, *, asks_redis: bool = False) -> str:
        """Returns the keyed hash of a key's hash.

        Without a configured pepper it uses the one that the first process stored in Redis. That one resists guessing,
        but not an attacker who can read Redis.
        """
        pepper = self._pepper
        if pepper is None or (asks_redis and self._configured is None):
            pepper = await self._ask_pepper()
        return hmac.new(pepper.encode(), hashed.encode(), hashlib.sha256).hexdigest()

    async def _ask_pepper(self) -> str:
        name = f"{PREFIX}:pepper"
        await execute(self._redis, self._redis.set(name, secrets.token_hex(32), nx=True), object)
        self._pepper = await execute(self._redis, self._redis.get(name), str)
        return self._pepper

    async def _shared(self, public_id: str) -> _Cached | None:
        """Runs one lookup per key. Cancelling a waiter does not cancel the lookup."""
        now = self._monotonic()
        load = self._loads.get(public_id)
        if load is None or load.until <= now:
            task = asyncio.ensure_future(self._load(public_id, now + _CACHE_S))
            load = self._loads[public_id] = _Load(task, now + _CACHE_S)
            task.add_done_callback(partial(self._cache_result, public_id, load))
        await asyncio.wait({load.task})
        if load.task.cancelled():
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE, "the key lookup was cancelled")
        return load.task.result()

    def _cache_result(self, public_id: str, load: _Load, task: "asyncio.Task[_Cached | None]") -> None:
        """Caches a lookup's result, unless `forget` removed it meanwhile."""
        is_failed = task.cancelled() or task.exception() is not None
        if self._loads.get(public_id) is not load:
            return
        del self._loads[public_id]
        entry = None if is_failed else task.result()
        if entry is None:
            return
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[public_id] = entry

    async def _load(self, public_id: str, until: float) -> _Cached | None:
        if self._pepper is None:
            await self._ask_pepper()
        name = await execute(self._redis, self._redis.get(lookup_record(public_id)), str)
        if not name:
            return None
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(tenant_record(name))
        pipeline.hget(keys_record(name), public_id)
        fields, text = await execute(self._redis, pipeline.execute(), tuple[dict[str, str], str])
        if not fields or not text:
            return None
        tenant, record = read_tenant(name, fields), read_key(text)
        if tenant.is_disabled:
            return None
        return _Cached(Principal(tenant, record.key(public_id, name)), record, until)

    async def _matches(self, record: KeyRecord, secret: str) -> bool:
        """Compares a secret with a record, also after Redis lost its pepper and another process created a new one."""
        hashed = digest(secret)
        if self._is_of(record, await self.keyed_hash(hashed)):
            return True
        return self._configured is None and self._is_of(record, await self.keyed_hash(hashed, asks_redis=True))

    def _is_of(self, record: KeyRecord, keyed_hash: str) -> bool:
        """Compares with both hashes in any case, to keep the timing constant."""
        is_current = hmac.compare_digest(record.keyed_hash, keyed_hash)
        is_old = hmac.compare_digest(record.old_mac, keyed_hash)
        return is_current or (is_old and self._clock() < record.old_until)


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise GatewayError(
            ErrorCode.NO_CREDENTIALS,
            "You did not provide an API key. Send it in an Authorization header: 'Authorization: Bearer YOUR_KEY'.",
        )
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise GatewayError(
            ErrorCode.NO_CREDENTIALS, "The Authorization header is malformed. Send 'Authorization: Bearer YOUR_KEY'."
        )
    return secret.strip()


def _invalid(secret: str) -> GatewayError:
    masked = (
        f"{secret[:6]}...{secret[-4:]}" if len(secret) > 16 and secret.isascii() and secret.isprintable() else "***"
    )
    return GatewayError(ErrorCode.INVALID_API_KEY, f"Incorrect API key provided: {masked}.")
