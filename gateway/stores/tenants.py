"""Tenants and their keys. A key is kept only as a keyed hash, looked up by its public id.

Invariant: a revoked key, or a key of a disabled tenant, is refused everywhere within a second: at once by a message on
the channel `ig1:revoked`, and without it when the cached entry ends, after less than a second.
"""

import asyncio
import hashlib
import hmac
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass
from types import EllipsisType
from typing import Final

import msgspec
import structlog

from gateway.domain.faults import Fault, GatewayError
from gateway.domain.tenants import Caller, Tenant, TenantKey
from gateway.stores import PREFIX, Client, Value, answer, load_script, redis_faults

KEY_PREFIX: Final = "sk-ig-"
_ALPHABET: Final = string.ascii_letters + string.digits
_ID_CHARS: Final = 10
_SECRET_CHARS: Final = 32
"""190 bits in base 62; together 48 characters, so that a line with the key fits a terminal."""
_CACHE_S: Final = 0.8
"""Below a second, so that a lost message cannot keep a revoked key alive longer."""
_CACHE_MAX: Final = 10_000
_CHANNEL: Final = f"{PREFIX}:revoked"
_LISTEN_PAUSE_S: Final = 0.5
_LOG = structlog.get_logger("imagegate.tenants")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is shown, this once."""

    key: TenantKey
    secret: str


@dataclass(frozen=True, slots=True)
class _Cached:
    caller: Caller
    mac: str
    expires_at: int | None
    until: float
    """Monotonic seconds."""


class TenantStore:
    """Who may come in."""

    def __init__(
        self,
        redis: Client,
        *,
        pepper: str | None,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._redis = redis
        self._configured = pepper
        self._pepper = pepper
        self._clock = clock
        self._monotonic = monotonic
        self._cache: dict[str, _Cached] = {}
        self._create = load_script(redis, "create_tenant")
        self._update = load_script(redis, "update_tenant")

    async def identify(self, authorization: str | None) -> Caller:
        """The caller of an `Authorization` header.

        Raises: GatewayError NO_CREDENTIALS, INVALID_API_KEY, REDIS_AWAY.
        Redis: none while cached, else two round trips.
        """
        secret = _bearer(authorization)
        key_id = _key_id(secret)
        if key_id is None:
            raise _invalid(secret)
        entry = self._cache.get(key_id)
        if entry is None or entry.until <= self._monotonic():
            entry = await self._load(key_id)
        if entry is None or not await self._matches(entry.mac, secret):
            raise _invalid(secret)
        if entry.expires_at is not None and entry.expires_at <= self._clock():
            raise _invalid(secret)
        return entry.caller

    async def create(self, tenant: Tenant) -> Tenant:
        """Raises: GatewayError CONFLICT, REDIS_AWAY."""
        await answer(self._redis, self._redis.sadd(f"{PREFIX}:tenants", tenant.name), int)
        fields: list[Value] = ["models", _models_text(tenant.models), "disabled", int(tenant.is_disabled)]
        fields += ["created_at", tenant.created_at]
        if not await self._create([_record(tenant.name)], fields):
            raise GatewayError(Fault.CONFLICT, f"A tenant named '{tenant.name}' exists already.")
        return tenant

    async def get(self, name: str) -> Tenant:
        """Raises: GatewayError NOT_FOUND, REDIS_AWAY."""
        fields = await answer(self._redis, self._redis.hgetall(_record(name)), dict[str, str])
        if not fields:
            raise _no_tenant(name)
        return _read_tenant(name, fields)

    async def list_tenants(self) -> list[Tenant]:
        """Every tenant, by name."""
        names = await answer(self._redis, self._redis.smembers(f"{PREFIX}:tenants"), set[str])
        ordered = sorted(names)
        pipeline = self._redis.pipeline(transaction=False)
        for name in ordered:
            pipeline.hgetall(_record(name))
        records = await answer(self._redis, pipeline.execute(), list[dict[str, str]])
        return [_read_tenant(name, fields) for name, fields in zip(ordered, records, strict=True) if fields]

    async def update(
        self, name: str, *, models: frozenset[str] | EllipsisType | None = ..., is_disabled: bool | None = None
    ) -> Tenant:
        """Change what is given and nothing else.

        Raises: GatewayError NOT_FOUND, REDIS_AWAY.
        """
        fields: list[Value] = []
        if not isinstance(models, EllipsisType):
            fields += ["models", _models_text(models)]
        if is_disabled is not None:
            fields += ["disabled", int(is_disabled)]
        if fields and not await self._update([_record(name)], fields):
            raise _no_tenant(name)
        await self._push(f"@{name}")
        return await self.get(name)

    async def create_key(self, tenant_name: str, label: str, expires_at: int | None = None) -> NewKey:
        """Raises: GatewayError NOT_FOUND, REDIS_AWAY."""
        tenant = await self.get(tenant_name)
        key_id = "".join(secrets.choice(_ALPHABET) for _ in range(_ID_CHARS))
        secret = KEY_PREFIX + key_id + "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_CHARS))
        key = TenantKey(key_id, tenant.name, label, int(self._clock()), expires_at)
        mac = await self._mac(secret, asks_redis=True)
        fields: list[Value] = ["tenant", key.tenant, "mac", mac, "label", label]
        fields += ["created_at", key.created_at]
        if expires_at is not None:
            fields += ["expires_at", expires_at]
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.hset(_key_record(key_id), items=fields)
        if expires_at is not None:
            pipeline.expireat(_key_record(key_id), expires_at)
        await answer(self._redis, pipeline.execute(), list[object])
        # After the record: an id that is listed without one is taken for expired and struck off.
        await answer(self._redis, self._redis.sadd(f"{PREFIX}:{{{tenant.name}}}:keys", key_id), int)
        return NewKey(key, secret)

    async def list_keys(self, tenant_name: str) -> list[TenantKey]:
        """The tenant's valid keys, the oldest first. Raises: GatewayError NOT_FOUND, REDIS_AWAY."""
        await self.get(tenant_name)
        ids = await answer(self._redis, self._redis.smembers(f"{PREFIX}:{{{tenant_name}}}:keys"), set[str])
        found = {key_id: await self._key(key_id) for key_id in sorted(ids)}
        expired = [key_id for key_id, key in found.items() if key is None]
        if expired:
            await answer(self._redis, self._redis.srem(f"{PREFIX}:{{{tenant_name}}}:keys", *expired), int)
        return sorted((key for key in found.values() if key), key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str) -> TenantKey:
        """Raises: GatewayError NOT_FOUND, REDIS_AWAY."""
        key = await self._key(key_id)
        if key is None:
            raise GatewayError(Fault.NOT_FOUND, f"There is no key '{key_id}'.")
        await answer(self._redis, self._redis.delete(_key_record(key_id)), int)
        await answer(self._redis, self._redis.srem(f"{PREFIX}:{{{key.tenant}}}:keys", key_id), int)
        await self._push(key_id)
        return key

    async def listen(self) -> None:
        """Forget what other processes revoke; runs for ever, through every loss of the connection."""
        while True:
            try:
                async with self._redis.pubsub() as messages:
                    with redis_faults():
                        await messages.subscribe(_CHANNEL)
                        self._cache.clear()
                        while True:
                            message = await messages.get_message(ignore_subscribe_messages=True, timeout=30.0)
                            if message:
                                self._forget(str(message["data"]))
            except (GatewayError, UnicodeDecodeError) as error:
                self._cache.clear()
                _LOG.warning("revocations_not_heard", detail=str(error), pause_s=_LISTEN_PAUSE_S)
                await asyncio.sleep(_LISTEN_PAUSE_S)

    async def _push(self, what: str) -> None:
        self._forget(what)
        await answer(self._redis, self._redis.publish(_CHANNEL, what), int)

    def _forget(self, what: str) -> None:
        if what.startswith("@"):
            self._cache = {key: entry for key, entry in self._cache.items() if entry.caller.tenant.name != what[1:]}
        else:
            self._cache.pop(what, None)

    async def _load(self, key_id: str) -> _Cached | None:
        until = self._monotonic() + _CACHE_S
        fields = await answer(self._redis, self._redis.hgetall(_key_record(key_id)), dict[str, str])
        if not fields:
            return None
        record = await answer(self._redis, self._redis.hgetall(_record(fields["tenant"])), dict[str, str])
        tenant = _read_tenant(fields["tenant"], record) if record else None
        if tenant is None or tenant.is_disabled:
            return None
        entry = _Cached(Caller(tenant, key_id), fields["mac"], _expiry(fields), until)
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[key_id] = entry
        return entry

    async def _key(self, key_id: str) -> TenantKey | None:
        fields = await answer(self._redis, self._redis.hgetall(_key_record(key_id)), dict[str, str])
        if not fields:
            return None
        return TenantKey(key_id, fields["tenant"], fields["label"], int(fields["created_at"]), _expiry(fields))

    async def _matches(self, mac: str, secret: str) -> bool:
        """Whether a keyed hash is that of a key, also after Redis lost its pepper and another process made one."""
        if hmac.compare_digest(mac, await self._mac(secret)):
            return True
        return self._configured is None and hmac.compare_digest(mac, await self._mac(secret, asks_redis=True))

    async def _mac(self, secret: str, *, asks_redis: bool = False) -> str:
        """The keyed hash of a key; without a configured pepper, with the one that the first process left in Redis.

        That one guards against guessing, not against somebody who can read Redis.
        """
        if self._configured is not None:
            self._pepper = self._configured
        elif self._pepper is None or asks_redis:
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.set(f"{PREFIX}:pepper", secrets.token_hex(32), nx=True)
            pipeline.get(f"{PREFIX}:pepper")
            self._pepper = str((await answer(self._redis, pipeline.execute(), list[object]))[1])
        return hmac.new(self._pepper.encode(), secret.encode(), hashlib.sha256).hexdigest()


def _bearer(authorization: str | None) -> str:
    if not authorization:
        raise GatewayError(
            Fault.NO_CREDENTIALS,
            "You did not provide an API key. Send it in an Authorization header: 'Authorization: Bearer YOUR_KEY'.",
        )
    scheme, _, secret = authorization.partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise GatewayError(
            Fault.NO_CREDENTIALS, "The Authorization header is malformed. Send 'Authorization: Bearer YOUR_KEY'."
        )
    return secret.strip()


def _key_id(secret: str) -> str | None:
    """The public id inside a well-formed key."""
    body = secret.removeprefix(KEY_PREFIX)
    is_key = secret.startswith(KEY_PREFIX) and len(body) == _ID_CHARS + _SECRET_CHARS
    return body[:_ID_CHARS] if is_key and body.isascii() and body.isalnum() else None


def _invalid(secret: str) -> GatewayError:
    masked = (
        f"{secret[:6]}...{secret[-4:]}" if len(secret) > 16 and secret.isascii() and secret.isprintable() else "***"
    )
    return GatewayError(Fault.INVALID_API_KEY, f"Incorrect API key provided: {masked}.")


def _no_tenant(name: str) -> GatewayError:
    return GatewayError(Fault.NOT_FOUND, f"There is no tenant named '{name[:64]}'.")


def _record(name: str) -> str:
    return f"{PREFIX}:{{{name}}}:tenant"


def _key_record(key_id: str) -> str:
    return f"{PREFIX}:key:{key_id}"


def _models_text(models: frozenset[str] | None) -> str:
    return "" if models is None else msgspec.json.encode(sorted(models)).decode()


def _expiry(fields: dict[str, str]) -> int | None:
    return int(fields["expires_at"]) if "expires_at" in fields else None


def _read_tenant(name: str, fields: dict[str, str]) -> Tenant:
    models = frozenset(msgspec.json.decode(fields["models"], type=list[str])) if fields.get("models") else None
    return Tenant(name, models, fields.get("disabled") == "1", int(fields.get("created_at", 0)))
