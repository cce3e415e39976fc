"""Authentication: resolves an API key to its tenant. Keys are stored as keyed hashes and looked up by key ID.

Invariant: a revoked key, or a key of a disabled tenant, is refused by every process within a second. Changed
limits take effect within a second too. A message on `ig3:revoked` does it immediately; if it is lost, the cached
entry expires in less than a second.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ID_CHARS, KEY_ALPHABET, KEY_PREFIX, SECRET_CHARS, Principal, digest, key_id
from gateway.redis import Client, execute, subscribe
from gateway.tenants.records import KeyRecord, lookup_record, read_key, read_tenant, record, use_record

_CACHE_S: Final = 0.8
"""Cache lifetime. Below 1 s, so that a lost message cannot extend a revoked key's life further."""
_CACHE_MAX: Final = 10_000
_USE_NOTED_S: Final = 300
"""A key's use is recorded at most this often."""
_USE_KEPT_S: Final = 400 * 86_400
_LISTEN_PAUSE_S: Final = 0.5
_LISTEN_PAUSE_MAX_S: Final = 5.0
"""Without the channel only latency suffers: cached entries expire."""
_LOG = structlog.get_logger("imagegate.tenants")


def revocation_channel(redis: Client) -> str:
    return f"{redis.prefix}:revoked"


def generate_api_key(public_id: str = "") -> str:
    """Generates a new API key, with a new key ID or a known one."""
    length = SECRET_CHARS if public_id else ID_CHARS + SECRET_CHARS
    return KEY_PREFIX + public_id + "".join(secrets.choice(KEY_ALPHABET) for _ in range(length))


_Found = tuple[Principal, KeyRecord]


@dataclass(slots=True)
class _Lookup:
    """The lookup of a key, shared by all requests with it that begin before `until`."""

    task: "asyncio.Task[_Found | None]"
    until: float
    """Monotonic seconds."""
    found: _Found | None = None
    """Set once the lookup has ended."""


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
        self._lookups: dict[str, _Lookup] = {}
        """By key ID: in progress, or cached. `forget` removes them."""
        self._used: dict[str, int] = {}
        """By key ID: its last recorded use, in Unix seconds."""

    async def identify(self, authorization: str | None) -> Principal:
        """Returns the principal of an `Authorization` header.

        Raises: GatewayError NO_CREDENTIALS, INVALID_API_KEY, REDIS_UNAVAILABLE.
        Redis: none if cached, else two round trips, shared by concurrent requests with the same key; and one every 5
        minutes to record the use of the key.
        """
        secret = _bearer(authorization)
        public_id = key_id(secret)
        found = await self._find(public_id) if public_id else None
        if found is None or not await self._matches(found[1], secret):
            raise _invalid(secret)
        principal, record = found
        if record.expires_at is not None and record.expires_at <= self._clock():
            raise _invalid(secret)
        await self._note_use(principal)
        return principal

    async def find(self, public_id: str) -> Principal | None:
        """Returns the principal of a key ID, for what was begun with that key; None if the key cannot be used any more.

        Raises: GatewayError REDIS_UNAVAILABLE. Redis: as `identify`.
        """
        found = await self._find(public_id)
        if found is None:
            return None
        principal, record = found
        return None if record.expires_at is not None and record.expires_at <= self._clock() else principal

    async def proof_of(self, authorization: str) -> str:
        """Returns the keyed hash of a key, by which `find_proved` recognises it later."""
        return await self.keyed_hash(digest(_bearer(authorization)), asks_redis=True)

    async def find_proved(self, public_id: str, proof: str) -> Principal | None:
        """Returns the principal of a key ID, as `find`, unless the key has another secret now."""
        principal, found = await self.find(public_id), await self._find(public_id)
        if principal is None or found is None:
            return None
        record = found[1]
        is_old = hmac.compare_digest(record.old_mac, proof) and self._clock() < record.old_until
        return principal if hmac.compare_digest(record.keyed_hash, proof) or is_old else None

    async def listen(self) -> None:
        """Drops cached keys that other processes change; runs until cancelled and reconnects after failures."""
        is_logged, pause_s = False, _LISTEN_PAUSE_S
        while True:
            try:
                async for message in subscribe(self._redis, revocation_channel(self._redis)):
                    if message is not None:
                        self.forget(message)
                        continue
                    self._forget_all()
                    if is_logged:
                        _LOG.info("revocation_channel_restored")
                    is_logged, pause_s = False, _LISTEN_PAUSE_S
            except (GatewayError, UnicodeDecodeError) as error:
                self._forget_all()
                if not is_logged:
                    _LOG.warning(
                        "revocation_channel_lost",
                        detail=str(error),
                        hint="reconnecting; until then revocations take effect when the cached key expires (0.8 s)",
                    )
                is_logged = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LISTEN_PAUSE_MAX_S)

    def forget(self, what: str) -> None:
        """Drops a cached key, or every cached key of "@TENANT"."""
        if what.startswith("@"):  # the tenants of lookups in progress are unknown
            self._lookups = {
                key: lookup
                for key, lookup in self._lookups.items()
                if lookup.found and lookup.found[0].tenant.name != what[1:]
            }
        else:
            self._lookups.pop(what, None)

    def _forget_all(self) -> None:
        self._lookups.clear()
        self._on_break()

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
        name = f"{self._redis.prefix}:pepper"
        await execute(self._redis, self._redis.set(name, secrets.token_hex(32), nx=True), object)
        self._pepper = await execute(self._redis, self._redis.get(name), str)
        return self._pepper

    async def _note_use(self, caller: Principal) -> None:
        """Records that a key is used, unless a process did so recently. Without Redis it is not recorded."""
        key_id, now_s = caller.key.id, int(self._clock())
        if 0 <= now_s - self._used.get(key_id, 0) < _USE_NOTED_S:
            return
        self._used[key_id] = now_s
        call = self._redis.set(use_record(self._redis, caller.tenant.name, key_id), now_s, ex=_USE_KEPT_S)
        with suppress(GatewayError):
            await execute(self._redis, call, bool)

    async def _find(self, public_id: str) -> _Found | None:
        lookup = self._lookups.get(public_id)
        if lookup is None or lookup.found is None or lookup.until <= self._monotonic():
            return await self._look_up(public_id)
        return lookup.found

    async def _look_up(self, public_id: str) -> _Found | None:
        """Runs one lookup per key. Cancelling a waiter does not cancel the lookup."""
        now = self._monotonic()
        lookup = self._lookups.get(public_id)
        if lookup is None or lookup.until <= now:
            if len(self._lookups) >= _CACHE_MAX:
                self._lookups.clear()
                self._used.clear()
            lookup = self._lookups[public_id] = _Lookup(asyncio.ensure_future(self._load(public_id)), now + _CACHE_S)
            lookup.task.add_done_callback(partial(self._end_lookup, public_id, lookup))
        await asyncio.wait({lookup.task})
        if lookup.task.cancelled():
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE, "the key lookup was cancelled")
        return lookup.task.result()

    def _end_lookup(self, public_id: str, lookup: _Lookup, task: "asyncio.Task[_Found | None]") -> None:
        """Caches only what was found."""
        lookup.found = None if task.cancelled() or task.exception() else task.result()
        if lookup.found is None and self._lookups.get(public_id) is lookup:
            del self._lookups[public_id]

    async def _load(self, public_id: str) -> _Found | None:
        if self._pepper is None:
            await self._ask_pepper()
        name = await execute(self._redis, self._redis.get(lookup_record(self._redis, public_id)), str)
        if not name:
            return None
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hgetall(record(self._redis, name, "tenant"))
        pipeline.hget(record(self._redis, name, "keys"), public_id)
        pipeline.get(use_record(self._redis, name, public_id))
        fields, text, used_at = await execute(self._redis, pipeline.execute(), tuple[dict[str, str], str, str | None])
        if not fields or not text:
            return None
        tenant, key = read_tenant(name, fields), read_key(text)
        if tenant.is_disabled:
            return None
        self._used[public_id] = max(int(used_at or 0), self._used.get(public_id, 0))
        return Principal(tenant, key.key(public_id, name)), key

    async def _matches(self, record: KeyRecord, secret: str) -> bool:
        """Compares a secret with a record, also after Redis lost its pepper and another process created a new one.

        Compares with both hashes in any case, to keep the timing constant.
        """
        hashed = digest(secret)
        for asks_redis in (False,) if self._configured is not None else (False, True):
            keyed_hash = await self.keyed_hash(hashed, asks_redis=asks_redis)
            is_current = hmac.compare_digest(record.keyed_hash, keyed_hash)
            is_old = hmac.compare_digest(record.old_mac, keyed_hash)
            if is_current or (is_old and self._clock() < record.old_until):
                return True
        return False


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise GatewayError(
            ErrorCode.NO_CREDENTIALS,
            "You did not provide an API key. Send it in an Authorization header: 'Authorization: Bearer sk-ig-...'.",
        )
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise GatewayError(
            ErrorCode.NO_CREDENTIALS, "The Authorization header is malformed. Send 'Authorization: Bearer sk-ig-...'."
        )
    return secret.strip()


def _invalid(secret: str) -> GatewayError:
    masked = (
        f"{secret[:6]}...{secret[-4:]}" if len(secret) > 16 and secret.isascii() and secret.isprintable() else "***"
    )
    text = f"Incorrect API key provided: {masked}. Keys of this gateway begin with '{KEY_PREFIX}'."
    return GatewayError(ErrorCode.INVALID_API_KEY, text)
