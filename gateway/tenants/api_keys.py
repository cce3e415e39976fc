"""API keys: create, update, rotate, revoke. Every change is audited atomically.

Invariant: a key exists exactly if its tenant's record has it. The lookup by key ID, which a cluster may store on
another node, is written before the record and deleted after it. The lookup alone grants no access.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from gateway.domain.audit import Actor, AuditEvent, describe_key
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ApiKey, digest, key_id
from gateway.redis import Client, execute, load_script
from gateway.tenants.authentication import Authenticator, generate_api_key
from gateway.tenants.records import KeyRecord, lookup_record, read_key, record, use_record, write_key
from gateway.tenants.store import no_tenant
from gateway.tenants.transactions import ConflictError, FieldUpdate, FullError, HashKind, TenantTransactions, retrying

_CONSOLE_KEY: Final = "console_key"
"""Field of a tenant's record: ID of the key that the console buys as."""
_CONSOLE_LABEL: Final = "console"


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A new key with its secret, which is shown only once."""

    key: ApiKey
    secret: str


@dataclass(frozen=True, slots=True)
class _StoredKey:
    """A key's record and its raw text."""

    key: ApiKey
    record: KeyRecord
    text: str


class ApiKeyStore:
    """The API keys of all tenants."""

    def __init__(
        self,
        redis: Client,
        credentials: Authenticator,
        changes: TenantTransactions,
        clock: Callable[[], float],
        keys_max: int,
    ) -> None:
        """`keys_max` limits the keys of one tenant."""
        self._redis = redis
        self._credentials = credentials
        self._changes = changes
        self._clock = clock
        self._keys_max = keys_max
        self._unindex = load_script(redis, "tenants/delete_lookup")

    @retrying
    async def create(self, new: ApiKey, actor: Actor) -> CreatedApiKey:
        """Creates a key; it gets an ID. Raises: GatewayError NOT_FOUND, TOO_MANY_KEYS, REDIS_UNAVAILABLE."""
        return await self._add(new, actor)

    async def _add(self, new: ApiKey, actor: Actor, field: str = "", known: str | None = None) -> CreatedApiKey:
        """Adds a key, and its ID as a field of the tenant's record in place of the `known` one.

        Raises: ConflictError, and as `create`.
        """
        secret = generate_api_key()
        key, tenant = replace(new, id=key_id(secret) or ""), new.tenant
        keyed_hash = await self._credentials.keyed_hash(digest(secret), asks_redis=True)
        call = self._redis.hget(record(self._redis, tenant, "tenant"), "created_at")
        created_at = await execute(self._redis, call, str)
        if not created_at:
            raise no_tenant(tenant)
        await self.index(key)
        act = AuditEvent(actor, "key.create", tenant, key.id, after=describe_key(key))
        is_there = FieldUpdate(HashKind.TENANT, "created_at", created_at, created_at)
        added = FieldUpdate(HashKind.KEYS, key.id, None, write_key(key, keyed_hash))
        named = [FieldUpdate(HashKind.TENANT, field, known, key.id)] if field else []
        try:
            await self._changes.make(act, [is_there, added, *named], keys_max=self._keys_max)
        except (ConflictError, FullError):
            await self.unindex(key.id, tenant)
            await self._require_room(tenant)
            raise ConflictError from None
        return CreatedApiKey(key, secret)

    @retrying
    async def console_key(self, tenant: str, actor: Actor) -> str:
        """Returns the ID of the key as which people of a tenant buy in the console; creates it at the first purchase.

        Nothing holds its secret. Two processes create one key, because the tenant's record names it.
        Raises: GatewayError NOT_FOUND, TOO_MANY_KEYS, REDIS_UNAVAILABLE. Redis: one round trip once it exists.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.hmget(record(self._redis, tenant, "tenant"), "created_at", _CONSOLE_KEY)
        pipeline.hkeys(record(self._redis, tenant, "keys"))
        replies = await execute(self._redis, pipeline.execute(), tuple[list[str | None], list[str]])
        (created_at, key_id), key_ids = replies
        if not created_at:
            raise no_tenant(tenant)
        if key_id in key_ids:
            return str(key_id)
        key = ApiKey("", tenant, _CONSOLE_LABEL, int(self._clock()))
        return (await self._add(key, actor, _CONSOLE_KEY, key_id)).key.id

    async def _require_room(self, tenant: str) -> None:
        """Deletes the tenant's expired keys. Raises: GatewayError TOO_MANY_KEYS, NOT_FOUND, REDIS_UNAVAILABLE."""
        if len(await self.list_keys(tenant)) >= self._keys_max:
            text = (
                f"Tenant '{tenant}' has {self._keys_max} keys, its limit ([api_keys] max_per_tenant). Revoke one first."
            )
            raise GatewayError(ErrorCode.TOO_MANY_KEYS, text)

    async def get(self, key_id: str) -> ApiKey:
        """Returns a key. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        return (await self._read(key_id)).key

    async def list_keys(self, tenant: str) -> list[ApiKey]:
        """Returns the tenant's valid keys by creation second, then label.

        Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE.
        """
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.exists(record(self._redis, tenant, "tenant"))
        pipeline.hgetall(record(self._redis, tenant, "keys"))
        exists, texts = await execute(self._redis, pipeline.execute(), tuple[int, dict[str, str]])
        if not exists:
            raise no_tenant(tenant)
        pipeline = self._redis.pipeline(transaction=False)
        for name in texts:
            pipeline.get(use_record(self._redis, tenant, name))
        used = await execute(self._redis, pipeline.execute(), list[str | None]) if texts else []
        found = zip(texts.items(), used, strict=True)
        stored = [self._parse_stored(key_id, tenant, text, used_at) for (key_id, text), used_at in found]
        expired = [entry for entry in stored if self._is_over(entry.key)]
        if expired:
            edits = [FieldUpdate(HashKind.KEYS, entry.key.id, entry.text, None) for entry in expired]
            with suppress(ConflictError):  # they are being changed
                await self._changes.make(AuditEvent(Actor(""), "", tenant), edits)
        valid = [entry.key for entry in stored if not self._is_over(entry.key)]
        return sorted(valid, key=lambda key: (key.created_at, key.label, key.id))

    @retrying
    async def update(self, key_id: str, change: Callable[[ApiKey], ApiKey], actor: Actor) -> ApiKey:
        """Replaces a key by `change(key)`. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        stored = await self._read(key_id)
        after = change(stored.key)
        if after == stored.key:
            return after
        had, has = stored.key.expires_at, after.expires_at
        longest = replace(after, expires_at=None if had is None or has is None else max(had, has))
        await self.index(longest)
        act = AuditEvent(actor, "key.update", after.tenant, key_id, describe_key(stored.key), describe_key(after))
        text = write_key(after, stored.record.keyed_hash, stored.record.old_mac, stored.record.old_until)
        await self._changes.make(act, [FieldUpdate(HashKind.KEYS, key_id, stored.text, text)])
        if after.expires_at != longest.expires_at:
            await self.index(after)
        return after

    @retrying
    async def rotate(self, key_id: str, grace_s: int, actor: Actor) -> CreatedApiKey:
        """Gives a key a new secret. The old one remains valid for `grace_s`; an even older one becomes invalid.

        Raises: GatewayError NOT_FOUND, INVALID_VALUE for a configured key, REDIS_UNAVAILABLE.
        """
        stored = await self._read(key_id)
        if stored.key.is_declared:
            raise GatewayError(
                ErrorCode.INVALID_VALUE,
                f"The key '{key_id}' is configured: add a second one to [[tenants.keys]], "
                "and remove this one when it is no longer used.",
            )
        secret = generate_api_key(key_id)
        keyed_hash = await self._credentials.keyed_hash(digest(secret), asks_redis=True)
        until = int(self._clock()) + grace_s
        text = write_key(stored.key, keyed_hash, stored.record.keyed_hash if grace_s else "", until if grace_s else 0)
        before = describe_key(stored.key)
        act = AuditEvent(actor, "key.rotate", stored.key.tenant, key_id, before, before | {"old_secret_until": until})
        await self._changes.make(act, [FieldUpdate(HashKind.KEYS, key_id, stored.text, text)])
        return CreatedApiKey(replace(stored.key, old_secret_until=until if grace_s else None), secret)

    @retrying
    async def revoke(self, key_id: str, actor: Actor) -> ApiKey:
        """Revokes a key. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        stored = await self._read(key_id)
        act = AuditEvent(actor, "key.revoke", stored.key.tenant, key_id, before=describe_key(stored.key))
        gone = FieldUpdate(HashKind.KEYS, key_id, stored.text, None)
        await self._changes.make(act, [gone], revoked_key=key_id if stored.key.is_declared else "")
        await self.unindex(key_id, stored.key.tenant)
        return stored.key

    async def index(self, key: ApiKey) -> str:
        """Adds the key to the lookup index until it expires. Returns: the previous owner of the ID."""
        call = self._redis.set(lookup_record(self._redis, key.id), key.tenant, exat=key.expires_at, get=True)
        return await execute(self._redis, call, str) or ""

    async def unindex(self, key_id: str, tenant: str) -> None:
        """Removes the key from the lookup index, unless another tenant owns the ID now."""
        await self._unindex([lookup_record(self._redis, key_id)], [tenant])

    async def _read(self, key_id: str) -> _StoredKey:
        tenant = await execute(self._redis, self._redis.get(lookup_record(self._redis, key_id)), str)
        if tenant:
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hget(record(self._redis, tenant, "keys"), key_id)
            pipeline.get(use_record(self._redis, tenant, key_id))
            text, used_at = await execute(self._redis, pipeline.execute(), tuple[str | None, str | None])
            stored = self._parse_stored(key_id, tenant, text, used_at) if text else None
            if stored and not self._is_over(stored.key):
                return stored
        if key_id.startswith("sk-"):  # a secret is not repeated
            raise GatewayError(
                ErrorCode.NOT_FOUND, "Expected a key ID, got an API key. The ID is the 10 characters after 'sk-ig-'."
            )
        raise GatewayError(ErrorCode.NOT_FOUND, f"There is no key '{key_id[:64]}'.")

    def _parse_stored(self, key_id: str, tenant: str, text: str, used_at: str | None) -> _StoredKey:
        record = read_key(text)
        key = replace(record.key(key_id, tenant), last_used_at=int(used_at) if used_at else None)
        has_old = key.old_secret_until is not None and key.old_secret_until > self._clock()
        return _StoredKey(key if has_old else replace(key, old_secret_until=None), record, text)

    def _is_over(self, key: ApiKey) -> bool:
        return key.expires_at is not None and key.expires_at <= self._clock()
