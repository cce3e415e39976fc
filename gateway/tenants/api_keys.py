"""API keys: create, update, rotate, revoke. Every change is audited atomically.

Invariant: a key exists exactly if its tenant's record has it. The lookup by key ID, which a cluster may store on
another node, is written before the record and deleted after it. The lookup alone grants no access.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from gateway.domain.audit import Actor, AuditEvent, describe_key
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import ApiKey, digest, key_id
from gateway.redis import Client, execute, load_script
from gateway.tenants.authentication import Authenticator, generate_api_key
from gateway.tenants.records import KeyRecord, lookup_record, read_key, record, write_key
from gateway.tenants.store import no_tenant
from gateway.tenants.transactions import ConflictError, FieldUpdate, HashKind, TenantTransactions, retrying


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
        self, redis: Client, credentials: Authenticator, changes: TenantTransactions, clock: Callable[[], float]
    ) -> None:
        self._redis = redis
        self._credentials = credentials
        self._changes = changes
        self._clock = clock
        self._unindex = load_script(redis, "tenants/delete_lookup")

    @retrying
    async def create(self, new: ApiKey, actor: Actor) -> CreatedApiKey:
        """Creates a key; it gets an ID. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        secret = generate_api_key()
        key, tenant = replace(new, id=key_id(secret) or ""), new.tenant
        keyed_hash = await self._credentials.keyed_hash(digest(secret), asks_redis=True)
        await self.index(key)
        call = self._redis.hget(record(self._redis, tenant, "tenant"), "created_at")
        created_at = await execute(self._redis, call, str)
        if not created_at:
            await self.unindex(key.id, tenant)
            raise no_tenant(tenant)
        act = AuditEvent(actor, "key.create", tenant, key.id, after=describe_key(key))
        is_there = FieldUpdate(HashKind.TENANT, "created_at", created_at, created_at)
        await self._changes.make(act, [is_there, FieldUpdate(HashKind.KEYS, key.id, None, write_key(key, keyed_hash))])
        return CreatedApiKey(key, secret)

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
        stored = [self._parse_stored(key_id, tenant, text) for key_id, text in texts.items()]
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
            text = await execute(self._redis, self._redis.hget(record(self._redis, tenant, "keys"), key_id), str)
            stored = self._parse_stored(key_id, tenant, text) if text else None
            if stored and not self._is_over(stored.key):
                return stored
        if key_id.startswith("sk-"):  # a secret is not repeated
            raise GatewayError(
                ErrorCode.NOT_FOUND, "Expected a key ID, got an API key. The ID is the 10 characters after 'sk-ig-'."
            )
        raise GatewayError(ErrorCode.NOT_FOUND, f"There is no key '{key_id[:64]}'.")

    def _parse_stored(self, key_id: str, tenant: str, text: str) -> _StoredKey:
        record = read_key(text)
        key = record.key(key_id, tenant)
        has_old = key.old_secret_until is not None and key.old_secret_until > self._clock()
        return _StoredKey(key if has_old else replace(key, old_secret_until=None), record, text)

    def _is_over(self, key: ApiKey) -> bool:
        return key.expires_at is not None and key.expires_at <= self._clock()
