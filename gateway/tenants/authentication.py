"""Whose key is it? A key is kept only as a keyed hash, looked up by its public id.

Invariant: a revoked key, or a key of a disabled tenant, is refused everywhere within a second, and a change of limits
is known everywhere within a second: at once by a message on the channel `ig3:revoked`, and without it when the cached
entry ends, after less than a second.
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
"""Below a second, so that a lost message cannot keep a revoked key alive longer."""
_CACHE_MAX: Final = 10_000
_LISTEN_PAUSE_S: Final = 0.5
_LISTEN_PAUSE_MAX_S: Final = 5.0
"""Nothing but time is lost while nobody listens: what is cached ends by itself."""
_LOG = structlog.get_logger("imagegate.tenants")


def generate_api_key(public_id: str = "") -> str:
    """A key that nobody has had, with a new public id or a known one."""
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
    """A look-up under way, for all who ask for the same key."""

    task: "asyncio.Task[_Cached | None]"
    until: float
    """Monotonic seconds; who comes later asks anew."""


class Authenticator:
    """Who may come in."""

    def __init__(
        self,
        redis: Client,
        *,
        pepper: str | None,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        on_break: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_break` is told when the channel is lost and when it is heard (again): Redis may have been restarted."""
        self._redis = redis
        self._on_break = on_break
        self._configured = pepper
        self._pepper = pepper
        self._clock = clock
        self._monotonic = monotonic
        self._cache: dict[str, _Cached] = {}
        self._loads: dict[str, _Load] = {}
        """Those whose result may be kept and shared: what is forgotten is taken out."""

    async def identify(self, authorization: str | None) -> Principal:
        """The caller of an `Authorization` header.

        Raises: GatewayError NO_CREDENTIALS, INVALID_API_KEY, REDIS_UNAVAILABLE.
        Redis: none while cached, else two round trips, shared by all who ask for the same key meanwhile.
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
        """Forget what other processes change; runs for ever, through every loss of the connection."""
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
                    _LOG.warning("revocation_channel_lost", detail=str(error), remedy="tried again, until it is heard")
                is_told = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LISTEN_PAUSE_MAX_S)

    async def _messages(self) -> AsyncGenerator[str | None]:
        """What is said on the channel, after None for the beginning. Raises: GatewayError REDIS_UNAVAILABLE."""
        async with self._redis.pubsub() as messages:
            with translate_redis_errors():
                await messages.subscribe(CHANNEL)
                while True:
                    message = await messages.get_message(timeout=30.0)
                    if message:
                        yield str(message["data"]) if message["type"] == "message" else None

    def forget(self, what: str) -> None:
        """Read a key, or every key of "@TENANT", again at its next use."""
        if what.startswith("@"):
            self._cache = {key: entry for key, entry in self._cache.items() if entry.caller.tenant.name != what[1:]}
            self._loads.clear()  # whose keys they look up is not known yet
        else:
            self._cache.pop(what, None)
            self._loads.pop(what, None)

    def _forget_all(self) -> None:
        self._cache.clear()
        self._loads.clear()

    async def keyed_hash(self, hashed: str, *, asks_redis: bool = False) -> str:
        """The keyed hash of a key's hash.

        Without a configured pepper, with the one that the first process left in Redis: it guards against guessing,
        not against somebody who can read Redis.
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
        """One look-up of a key at a time. None of those who wait for it can end it, as none of them owns it."""
        now = self._monotonic()
        load = self._loads.get(public_id)
        if load is None or load.until <= now:
            task = asyncio.ensure_future(self._load(public_id, now + _CACHE_S))
            load = self._loads[public_id] = _Load(task, now + _CACHE_S)
            task.add_done_callback(partial(self._keep, public_id, load))
        await asyncio.wait({load.task})
        if load.task.cancelled():
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE, "the look-up of the key was ended")
        return load.task.result()

    def _keep(self, public_id: str, load: _Load, task: "asyncio.Task[_Cached | None]") -> None:
        """Cache what a look-up found, unless it was told to forget it meanwhile."""
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
        """Whether a record is that of a key, also after Redis lost its pepper and another process made one."""
        hashed = digest(secret)
        if self._is_of(record, await self.keyed_hash(hashed)):
            return True
        return self._configured is None and self._is_of(record, await self.keyed_hash(hashed, asks_redis=True))

    def _is_of(self, record: KeyRecord, keyed_hash: str) -> bool:
        """Both hashes are compared whatever the first one says, so that the time tells nothing."""
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
