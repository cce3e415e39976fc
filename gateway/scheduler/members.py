"""The accounts and keys of every upstream: configured, added at run time, and disabled or draining ones.

The registry is in Redis and shared by all processes. Configured secrets are not: each process has its own, and
releases a leased key that it does not know.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Final

import msgspec
import structlog

from gateway.domain.accounts import AccountLimits, Pool, ProviderKey, Secret, cooldown_for
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError, KeyState
from gateway.domain.health import Event
from gateway.redis import Client, Value, execute
from gateway.scheduler.declaration import describe, digest_of
from gateway.scheduler.encryption import DecryptionError, SecretBox
from gateway.scheduler.scripts import LeaseReply, Scripts, record

_LOG = structlog.get_logger("imagegate.pool")
_LOOK_S: Final = 2.0
_HOLD_S: Final = 15.0
"""A configuration stays in effect for this long after the last heartbeat of a process that has it."""
_START_S: Final = 3.0
"""Limit on how long startup waits for the first registration."""


class _AddedKey(msgspec.Struct, frozen=True):
    """A key added at run time, as stored in Redis."""

    sealed: str
    fingerprint: str
    limits: dict[str, int]
    added_at: int = 0
    added_by: str = ""


class AccountRegistry:
    """Registers the accounts and keys of every upstream."""

    def __init__(
        self,
        redis: Client,
        scripts: Scripts,
        secret_box: SecretBox | None,
        clock: Callable[[], float],
        *,
        process: str,
        audit_keep_s: int,
    ) -> None:
        self._redis = redis
        self._clock = clock
        self._scripts = scripts
        self._secret_box = secret_box
        self._process = process
        self._audit_keep_s = audit_keep_s
        self._pools: dict[str, Pool] = {}
        self._declared: dict[str, dict[str, ProviderKey]] = {}
        self._former: dict[str, dict[str, ProviderKey]] = {}
        """Keys of the previous configuration: Redis may lease them until the new one is registered."""
        self._added: dict[str, dict[str, ProviderKey]] = {}
        self._unapplied: set[str] = set()
        self._sealed_with_others: set[str] = set()
        """Keys that this process cannot decrypt; each is logged once."""

    @property
    def upstreams(self) -> tuple[str, ...]:
        return tuple(self._pools)

    def known(self, upstream: str) -> Mapping[str, ProviderKey]:
        """Returns the keys whose secrets this process has, by "ACCOUNT/KEY"."""
        return {**self._added.get(upstream, {}), **self._declared.get(upstream, {})}

    def find(self, upstream: str, account: str, key: str, fingerprint: str) -> ProviderKey | None:
        member = f"{account}/{key}"
        for kept in (self._declared, self._added, self._former):
            found = kept.get(upstream, {}).get(member)
            if found and found.secret.fingerprint == fingerprint:
                return found
        return None

    async def declare(self, pools: Sequence[Pool]) -> None:
        """Registers the configured accounts and keys in Redis. Added keys and disabled states are preserved.

        Raises: GatewayError REDIS_UNAVAILABLE; `run` retries.
        Redis: one round trip per upstream.
        """
        self.configure(pools)
        for upstream in self._pools:
            await self.restore(upstream)
            await self.refresh(upstream)

    async def start(self) -> None:
        """Registers the configuration; if Redis is unavailable, `run` retries."""
        try:
            async with asyncio.timeout(_START_S):
                await self.declare(tuple(self._pools.values()))
        except (GatewayError, TimeoutError) as error:
            _LOG.warning("pool_registration_pending", detail=str(error), retry_in_s=_LOOK_S)

    def configure(self, pools: Sequence[Pool]) -> None:
        """Replaces the accounts and keys; `run` registers them."""
        self._former = self._declared
        self._pools = {pool.upstream: pool for pool in pools}
        self._declared = {
            pool.upstream: {key.id: key for account in pool.accounts for key in account.keys} for pool in pools
        }
        self._unapplied = set(self._pools)

    async def run(self) -> None:
        """Renews this process's configuration and retries failed registrations; runs until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for upstream in self.upstreams:
                try:
                    await self._renew(upstream)
                except GatewayError as error:
                    _LOG.debug("pool_registration_failed", upstream=upstream, detail=error.detail)

    async def withdraw(self) -> None:
        """Withdraws this process's configuration at shutdown."""
        for pool in self._pools.values():
            with suppress(GatewayError):
                said = msgspec.json.encode(self._heartbeat_fields(pool)).decode()
                await self._scripts.run("members", pool.upstream, ["withdraw", said, ""])

    async def _renew(self, upstream: str) -> None:
        """Renews an upstream's registration. Raises: GatewayError REDIS_UNAVAILABLE."""
        pool = self._pools.get(upstream)
        if pool is None:
            return
        if upstream not in self._unapplied:
            said = msgspec.json.encode(self._heartbeat_fields(pool)).decode()
            found = await self._scripts.run("members", upstream, ["renew", said, ""])
            if found.decision != "unknown":
                return
        await self.restore(upstream)
        await self.refresh(upstream)

    async def restore(self, upstream: str) -> None:
        """Registers one upstream, also after Redis lost its data. Raises: GatewayError REDIS_UNAVAILABLE."""
        pool = self._pools.get(upstream)
        if pool is None:
            return
        said = self._heartbeat_fields(pool) | describe(pool)
        await self._scripts.run("members", upstream, ["declare", msgspec.json.encode(said).decode(), ""])
        self._unapplied.discard(upstream)

    def _heartbeat_fields(self, pool: Pool) -> dict[str, object]:
        """Returns this process's configuration digest and heartbeat timeout."""
        return {"process": self._process, "digest": digest_of(pool), "until_us": round(_HOLD_S * 1e6)}

    async def refresh(self, upstream: str) -> None:
        """Loads keys added at run time. Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip."""
        kept = await execute(
            self._redis, self._redis.hgetall(record(upstream, "added", self._redis.prefix)), dict[str, str]
        )
        found: dict[str, ProviderKey] = {}
        for member, text in kept.items():
            added = msgspec.json.decode(text, type=_AddedKey)
            secret = self._open(upstream, member, added)
            if secret:
                account, _, name = member.partition("/")
                found[member] = ProviderKey(upstream, account, name, secret)
                await self._reseal(upstream, member, added, secret)
        self._added[upstream] = found

    async def add(self, key: ProviderKey, limits: AccountLimits | None, actor: Actor) -> None:
        """Adds a key to an existing or a new account.

        Raises: GatewayError CONFLICT (the name exists, or no encryption key), NOT_FOUND, REDIS_UNAVAILABLE.
        """
        if self._secret_box is None:
            raise GatewayError(
                ErrorCode.CONFLICT,
                "Keys cannot be added: set [pool] encryption_keys, which encrypt their secrets.",
            )
        sealed = self._secret_box.seal(key.secret.plaintext, f"{key.upstream}/{key.id}")
        given = asdict(limits or AccountLimits())
        kept = _AddedKey(sealed, key.secret.fingerprint, given, int(self._clock()), actor.name)
        after = {"fingerprint": key.secret.fingerprint, **(given if limits else {})}
        args: list[Value] = ["add", key.id, msgspec.json.encode(kept).decode()]
        found = await self._act(key.upstream, args, actor, "pool.add", key.id, after)
        if found.decision == "exists":
            raise GatewayError(ErrorCode.CONFLICT, f"There is already a key '{key.id}' at '{key.upstream}' already.")
        if found.decision == "twin":
            raise GatewayError(
                ErrorCode.CONFLICT,
                f"'{found.account}/{found.key}' has the same secret: its account would be used beyond its limits.",
            )
        await self.refresh(key.upstream)

    async def remove(self, upstream: str, account: str, key: str, actor: Actor) -> None:
        """Removes an added key. Raises: GatewayError NOT_FOUND, CONFLICT (it is configured), REDIS_UNAVAILABLE."""
        member = f"{account}/{key}"
        found = await self._act(upstream, ["remove", member, ""], actor, "pool.remove", member, None)
        if found.decision == "declared":
            raise GatewayError(
                ErrorCode.CONFLICT, f"'{member}' is configured: remove it from the configuration, or disable it here."
            )
        await self.refresh(upstream)

    async def set_state(self, upstream: str, account: str, key: str | None, state: KeyState, actor: Actor) -> None:
        """Sets a state: READY enables, DISABLED and DRAINING take out of rotation. Without a key: the whole account.

        Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE.
        """
        member = f"{account}/{key}" if key else account
        event = {KeyState.READY: Event.ENABLE, KeyState.DISABLED: Event.DISABLE, KeyState.DRAINING: Event.DRAIN}[state]
        said = {"event": event.value, "since_us": round(self._clock() * 1e6), "by": actor.name}
        args: list[Value] = ["hold", member, msgspec.json.encode(said).decode()]
        await self._act(upstream, args, actor, f"pool.{event.value}", member, {"state": state.value})

    async def apply_probe_result(
        self, upstream: str, account: str, key: str, *, works: bool, error_code: ErrorCode | None, seconds: float | None
    ) -> None:
        """Applies the result of a key check.

        A key that works becomes half-open: a request may try it. Otherwise its cooldown continues, for `seconds` if
        known.
        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        rest = cooldown_for(error_code, self._clock()) if error_code else None
        if rest is None or error_code is None:
            return
        rest_s = 0.0 if works else rest.seconds if seconds is None else seconds
        said = {
            "works": works,
            "error_code": error_code.value,
            "scope": rest.scope.value,
            "state": rest.state.value,
            "seconds": rest_s,
        }
        await self._scripts.run("members", upstream, ["probed", f"{account}/{key}", msgspec.json.encode(said).decode()])

    async def note_probe(self, key: ProviderKey, actor: Actor, after: Mapping[str, object]) -> None:
        """Records a manual key check in the audit log. Raises: GatewayError REDIS_UNAVAILABLE."""
        args: list[Value] = ["note", key.id, ""]
        await self._act(key.upstream, args, actor, "pool.probe", key.id, after)

    async def _act(
        self,
        upstream: str,
        args: list[Value],
        actor: Actor,
        action: str,
        member: str,
        after: Mapping[str, object] | None,
    ) -> LeaseReply:
        """Runs an admin change with its audit entry. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        if upstream not in self._pools:
            known = ", ".join(sorted(self._pools))
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no upstream '{upstream}'; there are: {known}.")
        text = msgspec.json.encode(after).decode() if after is not None else ""
        audit_args: list[Value] = [self._audit_keep_s, actor.name, action, member, text, actor.request_id]
        found = await self._scripts.run("members", upstream, [*args, *audit_args])
        if found.decision == "unknown":
            await self.restore(upstream)
            found = await self._scripts.run("members", upstream, [*args, *audit_args])
        if found.decision == "missing":
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no '{member}' at '{upstream}'.")
        return found

    def _open(self, upstream: str, member: str, added: _AddedKey) -> Secret | None:
        name = f"{upstream}/{member}"
        try:
            secret = Secret(self._unseal(added.sealed, name), added.fingerprint)
        except DecryptionError as error:
            if name not in self._sealed_with_others:
                self._sealed_with_others.add(name)
                _LOG.error("pool_key_decryption_failed", upstream=upstream, key=member, detail=str(error))
            return None
        self._sealed_with_others.discard(name)
        return secret

    def _unseal(self, sealed: str, name: str) -> str:
        """Decrypts a secret. Raises: DecryptionError."""
        if self._secret_box is None:
            raise DecryptionError("no [pool] encryption_keys are set")
        return self._secret_box.open(sealed, name)

    async def _reseal(self, upstream: str, member: str, added: _AddedKey, secret: Secret) -> None:
        """Seals a secret again with the current encryption key."""
        if self._secret_box is None or self._secret_box.is_current(added.sealed):
            return
        sealed = self._secret_box.seal(secret.plaintext, f"{upstream}/{member}")
        text = msgspec.json.encode(msgspec.structs.replace(added, sealed=sealed)).decode()
        await self._scripts.run("members", upstream, ["reseal", member, text])
