"""Which accounts and keys there are: declared by the configuration, added by people; and what people hold back.

All of it is in Redis and holds for every process at once. The secrets of the configuration are not: each process has
its own, and gives a key back that it does not know.
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
"""A configuration counts so long after the last sign of life of a process that has it."""
_START_S: Final = 3.0
"""How long serving waits for the first declaration."""


class _AddedKey(msgspec.Struct, frozen=True):
    """A key that was added at run time, as Redis keeps it."""

    sealed: str
    fingerprint: str
    limits: dict[str, int]
    added_at: int = 0
    added_by: str = ""


class AccountRegistry:
    """The accounts and keys of every upstream."""

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
        """Those of the configuration before: Redis may still lease them while the new one is on its way."""
        self._added: dict[str, dict[str, ProviderKey]] = {}
        self._unapplied: set[str] = set()
        self._sealed_with_others: set[str] = set()
        """Keys that this process cannot open: told once."""

    @property
    def upstreams(self) -> tuple[str, ...]:
        return tuple(self._pools)

    def known(self, upstream: str) -> Mapping[str, ProviderKey]:
        """The keys whose secrets this process has, by "ACCOUNT/KEY"."""
        return {**self._added.get(upstream, {}), **self._declared.get(upstream, {})}

    def find(self, upstream: str, account: str, key: str, fingerprint: str) -> ProviderKey | None:
        member = f"{account}/{key}"
        for kept in (self._declared, self._added, self._former):
            found = kept.get(upstream, {}).get(member)
            if found and found.secret.fingerprint == fingerprint:
                return found
        return None

    async def declare(self, pools: Sequence[Pool]) -> None:
        """Make the configuration's accounts and keys those of Redis; what was added or held back stays.

        Raises: GatewayError REDIS_UNAVAILABLE: `keep` does it as soon as it can.
        Redis: one round trip an upstream.
        """
        self.configure(pools)
        for upstream in self._pools:
            await self.restore(upstream)
            await self.refresh(upstream)

    async def start(self) -> None:
        """Declare what it was configured with; where Redis does not answer now, `keep` does it later."""
        try:
            async with asyncio.timeout(_START_S):
                await self.declare(tuple(self._pools.values()))
        except (GatewayError, TimeoutError) as error:
            _LOG.warning("pool_registration_pending", detail=str(error), retry_in_s=_LOOK_S)

    def configure(self, pools: Sequence[Pool]) -> None:
        """Know the accounts and keys, and let `keep` declare them."""
        self._former = self._declared
        self._pools = {pool.upstream: pool for pool in pools}
        self._declared = {
            pool.upstream: {key.id: key for account in pool.accounts for key in account.keys} for pool in pools
        }
        self._unapplied = set(self._pools)

    async def run(self) -> None:
        """Let this process's configuration count, and apply what could not be applied; for ever."""
        while True:
            await asyncio.sleep(_LOOK_S)
            for upstream in self.upstreams:
                try:
                    await self._renew(upstream)
                except GatewayError as error:
                    _LOG.debug("pool_registration_failed", upstream=upstream, detail=error.detail)

    async def withdraw(self) -> None:
        """Let this process's configuration count no more, as the process ends."""
        for pool in self._pools.values():
            with suppress(GatewayError):
                said = msgspec.json.encode(self._heartbeat_fields(pool)).decode()
                await self._scripts.run("members", pool.upstream, ["withdraw", said, ""])

    async def _renew(self, upstream: str) -> None:
        """Raises: GatewayError REDIS_UNAVAILABLE."""
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
        """Declare one upstream: also when Redis has lost its memory. Raises: GatewayError REDIS_UNAVAILABLE."""
        pool = self._pools.get(upstream)
        if pool is None:
            return
        said = self._heartbeat_fields(pool) | describe(pool)
        await self._scripts.run("members", upstream, ["declare", msgspec.json.encode(said).decode(), ""])
        self._unapplied.discard(upstream)

    def _heartbeat_fields(self, pool: Pool) -> dict[str, object]:
        """Which configuration this process has: it counts as long as one that has it lives."""
        return {"process": self._process, "digest": digest_of(pool), "until_us": round(_HOLD_S * 1e6)}

    async def refresh(self, upstream: str) -> None:
        """Learn the keys that were added at run time. Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip."""
        kept = await execute(self._redis, self._redis.hgetall(record(upstream, "added")), dict[str, str])
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
        """Bring in another key, of an account that there is or a new one.

        Raises: GatewayError CONFLICT (there is one of that name, or no secret_box), NOT_FOUND, REDIS_UNAVAILABLE.
        """
        if self._secret_box is None:
            raise GatewayError(
                ErrorCode.CONFLICT,
                "Keys cannot be added: set [pool] encryption_keys, with which their secrets are kept encrypted.",
            )
        sealed = self._secret_box.seal(key.secret.reveal(), f"{key.upstream}/{key.id}")
        given = asdict(limits or AccountLimits())
        kept = _AddedKey(sealed, key.secret.fingerprint, given, int(self._clock()), actor.name)
        after = {"fingerprint": key.secret.fingerprint, **(given if limits else {})}
        args: list[Value] = ["add", key.id, msgspec.json.encode(kept).decode()]
        found = await self._act(key.upstream, args, actor, "pool.add", key.id, after)
        if found.decision == "exists":
            raise GatewayError(ErrorCode.CONFLICT, f"There is a key '{key.id}' at '{key.upstream}' already.")
        if found.decision == "twin":
            raise GatewayError(
                ErrorCode.CONFLICT,
                f"'{found.account}/{found.key}' has the same secret: its account would be used beyond its limits.",
            )
        await self.refresh(key.upstream)

    async def remove(self, upstream: str, account: str, key: str, actor: Actor) -> None:
        """Raises: GatewayError NOT_FOUND, CONFLICT (it stands in the configuration), REDIS_UNAVAILABLE."""
        member = f"{account}/{key}"
        found = await self._act(upstream, ["remove", member, ""], actor, "pool.remove", member, None)
        if found.decision == "declared":
            raise GatewayError(
                ErrorCode.CONFLICT, f"'{member}' stands in the configuration: take it out there, or disable it here."
            )
        await self.refresh(upstream)

    async def set_state(self, upstream: str, account: str, key: str | None, state: KeyState, actor: Actor) -> None:
        """READY lets it be used again, DISABLED and DRAINING do not; without a key, the whole account.

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
        """Tell what a free page said of a key.

        If the key works, a request may try it again. If not, its cooldown goes on, for `seconds` if known.
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
        """Tell the audit that a person had a key probed. Raises: GatewayError REDIS_UNAVAILABLE."""
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
        """A person's act, with its entry in the audit. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        if upstream not in self._pools:
            known = ", ".join(sorted(self._pools))
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no upstream '{upstream}'; there are: {known}.")
        text = msgspec.json.encode(after).decode() if after is not None else ""
        told: list[Value] = [self._audit_keep_s, actor.name, action, member, text, actor.request_id]
        found = await self._scripts.run("members", upstream, [*args, *told])
        if found.decision == "unknown":
            await self.restore(upstream)
            found = await self._scripts.run("members", upstream, [*args, *told])
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
        """Raises: VaultError."""
        if self._secret_box is None:
            raise DecryptionError("no [pool] encryption_keys are set")
        return self._secret_box.open(sealed, name)

    async def _reseal(self, upstream: str, member: str, added: _AddedKey, secret: Secret) -> None:
        """Put what an old encryption key sealed under the present one."""
        if self._secret_box is None or self._secret_box.is_current(added.sealed):
            return
        sealed = self._secret_box.seal(secret.reveal(), f"{upstream}/{member}")
        text = msgspec.json.encode(msgspec.structs.replace(added, sealed=sealed)).decode()
        await self._scripts.run("members", upstream, ["reseal", member, text])
