"""The accounts and keys of every upstream: configured, added at run time, and disabled or draining ones.

The registry is in Redis and shared by all processes. Configured secrets are not: each process has its own, and
releases a leased key that it does not know.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Final

import msgspec
import structlog

from gateway.domain.accounts import AccountLimits, Pool, ProviderKey, cooldown_for
from gateway.domain.audit import Actor
from gateway.domain.errors import ErrorCode, GatewayError, KeyState
from gateway.domain.health import Event
from gateway.redis import Client, Value, execute
from gateway.scheduler.added_keys import AddedKey, AddedKeySecrets
from gateway.scheduler.encryption import SecretBox
from gateway.scheduler.scripts import Reply, Scripts, record

_LOG = structlog.get_logger("imagegate.pool")
_RENEWAL_S: Final = 2.0
_HOLD_S: Final = 15.0
"""A configuration stays in effect for this long after the last renewal by a process that has it."""
_START_S: Final = 3.0
"""Limit on how long startup waits for the first registration."""
_RETRIES_MIN: Final = 3
"""Retries that are always allowed per minute, however few calls there are."""
_EVENTS: Final = {KeyState.READY: Event.ENABLE, KeyState.DISABLED: Event.DISABLE, KeyState.DRAINING: Event.DRAIN}
_Change = tuple[str, str, bytes]
"""The first arguments of lua/members.lua."""


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
        self._secrets = AddedKeySecrets(secret_box, clock)
        self._process = process
        self._audit_keep_s = audit_keep_s
        self.pools: dict[str, Pool] = {}
        self._declared: dict[str, dict[str, ProviderKey]] = {}
        self._former: dict[str, dict[str, ProviderKey]] = {}
        """Keys of the previous configuration: Redis may lease them until the new one is registered."""
        self._added: dict[str, dict[str, ProviderKey]] = {}
        self.keys: dict[tuple[str, str, str, str], ProviderKey] = {}
        """All of these by (upstream, account, key, fingerprint)."""
        self._unapplied: set[str] = set()

    @property
    def upstreams(self) -> tuple[str, ...]:
        return tuple(self.pools)

    def known(self, upstream: str) -> Mapping[str, ProviderKey]:
        """Returns the keys whose secrets this process has, by "ACCOUNT/KEY"."""
        return {**self._added.get(upstream, {}), **self._declared.get(upstream, {})}

    async def declare(self, pools: Sequence[Pool]) -> None:
        """Registers the configured accounts and keys in Redis. Added keys and disabled states are preserved.

        Raises: GatewayError REDIS_UNAVAILABLE; `run` retries.
        Redis: two round trips per upstream.
        """
        self.configure(pools)
        for upstream in self.pools:
            await self.restore(upstream)

    async def start(self) -> None:
        """Registers the configuration; if Redis is unavailable, `run` retries."""
        try:
            async with asyncio.timeout(_START_S):
                await self.declare(tuple(self.pools.values()))
        except (GatewayError, TimeoutError) as error:
            _LOG.warning("pool_registration_pending", detail=str(error), retry_in_s=_RENEWAL_S)

    def configure(self, pools: Sequence[Pool]) -> None:
        """Replaces the accounts and keys; `run` registers them."""
        self._former = self._declared
        self.pools = {pool.upstream: pool for pool in pools}
        self._declared = {
            pool.upstream: {key.id: key for account in pool.accounts for key in account.keys} for pool in pools
        }
        self._unapplied = set(self.pools)
        self._index_keys()

    async def run(self) -> None:
        """Renews this process's configuration and retries failed registrations; runs until cancelled."""
        while True:
            await asyncio.sleep(_RENEWAL_S)
            for upstream in self.upstreams:
                pool = self.pools.get(upstream)  # a reload may have replaced it
                try:
                    is_new = upstream in self._unapplied
                    reply = await self._register("renew", pool) if pool and not is_new else None
                    if reply is None or reply.decision == "unknown":
                        await self.restore(upstream)
                except GatewayError as error:
                    _LOG.debug("pool_registration_failed", upstream=upstream, detail=error.detail)

    async def withdraw(self) -> None:
        """Withdraws this process's configuration at shutdown."""
        for pool in self.pools.values():
            with suppress(GatewayError):
                await self._register("withdraw", pool)

    async def restore(self, upstream: str) -> None:
        """Registers one upstream, also after Redis lost its data. Raises: GatewayError REDIS_UNAVAILABLE."""
        if pool := self.pools.get(upstream):
            await self._register("declare", pool)
            self._unapplied.discard(upstream)
            await self.refresh(upstream)

    async def _register(self, act: str, pool: Pool) -> Reply:
        """Registers, renews or withdraws this process's configuration of an upstream."""
        described = _describe(pool)
        digest = hashlib.sha256(msgspec.json.encode(described)).hexdigest()[:16]
        payload = {"process": self._process, "digest": digest, "until_us": round(_HOLD_S * 1e6)}
        text = msgspec.json.encode(payload | described if act == "declare" else payload)
        return await self._scripts.run("members", pool.upstream, [act, text, ""])

    async def refresh(self, upstream: str) -> None:
        """Loads keys added at run time, and seals them with the current encryption key.

        Raises: GatewayError REDIS_UNAVAILABLE.
        Redis: one round trip, and one for each key that is sealed again.
        """
        kept = await execute(
            self._redis, self._redis.hgetall(record(upstream, "added", self._redis.prefix)), dict[str, str]
        )
        found: dict[str, ProviderKey] = {}
        for member, text in kept.items():
            added = msgspec.json.decode(text, type=AddedKey)
            secret = self._secrets.open(f"{upstream}/{member}", added)
            if secret is None:
                continue
            account, _, name = member.partition("/")
            found[member] = ProviderKey(upstream, account, name, secret)
            if renewed := self._secrets.renew(f"{upstream}/{member}", added, secret):
                await self._scripts.run("members", upstream, ["reseal", member, msgspec.json.encode(renewed)])
        self._added[upstream] = found
        self._index_keys()

    def _index_keys(self) -> None:
        self.keys = {
            (upstream, key.account, key.name, key.secret.fingerprint): key
            for kept in (self._former, self._added, self._declared)
            for upstream, keys in kept.items()
            for key in keys.values()
        }

    async def add(self, key: ProviderKey, limits: AccountLimits | None, actor: Actor) -> None:
        """Adds a key to an existing or a new account.

        Raises: GatewayError CONFLICT (the name exists, or no encryption key), NOT_FOUND, REDIS_UNAVAILABLE.
        """
        kept = self._secrets.seal(key, limits or AccountLimits(), actor)
        after = {"fingerprint": key.secret.fingerprint, **(kept.limits if limits else {})}
        change = ("add", key.id, msgspec.json.encode(kept))
        found = await self._act(key.upstream, change, actor, "pool.add", after)
        if found.decision == "exists":
            raise GatewayError(ErrorCode.CONFLICT, f"There is already a key '{key.id}' at '{key.upstream}'.")
        _refuse_twin(found)
        await self.refresh(key.upstream)

    async def replace(self, key: ProviderKey, actor: Actor) -> None:
        """Replaces the secret of an added key. New calls use it at once; cooldowns of the former one end.

        Raises: GatewayError NOT_FOUND, CONFLICT (it is configured, the secret is in use, or no encryption key),
        REDIS_UNAVAILABLE.
        """
        kept = self._secrets.seal(key, AccountLimits(), actor)
        after = {"fingerprint": key.secret.fingerprint}
        change = ("replace", key.id, msgspec.json.encode(kept))
        found = await self._act(key.upstream, change, actor, "pool.replace_secret", after)
        if found.decision == "declared":
            raise GatewayError(
                ErrorCode.CONFLICT, f"'{key.id}' is configured: replace its secret where the configuration reads it."
            )
        _refuse_twin(found)
        await self.refresh(key.upstream)

    async def remove(self, upstream: str, account: str, key: str, actor: Actor) -> None:
        """Removes an added key. Raises: GatewayError NOT_FOUND, CONFLICT (it is configured), REDIS_UNAVAILABLE."""
        member = f"{account}/{key}"
        found = await self._act(upstream, ("remove", member, b""), actor, "pool.remove", None)
        if found.decision == "declared":
            raise GatewayError(
                ErrorCode.CONFLICT, f"'{member}' is configured: remove it from the configuration, or disable it here."
            )
        await self.refresh(upstream)

    async def set_state(self, upstream: str, account: str, key: str | None, state: KeyState, actor: Actor) -> None:
        """Sets a state: READY enables, DISABLED and DRAINING take out of rotation. Without a key: the whole account.

        Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE.
        """
        member, event = f"{account}/{key}" if key else account, _EVENTS[state].value
        payload = {"event": event, "since_us": round(self._clock() * 1e6), "by": actor.name}
        change = ("hold", member, msgspec.json.encode(payload))
        await self._act(upstream, change, actor, f"pool.{event}", {"state": state.value})

    async def lift(self, upstream: str, actor: Actor) -> None:
        """Ends the cooldown of a whole upstream: the next request may try it.

        Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE.
        """
        await self._act(upstream, ("lift", "*", b""), actor, "pool.enable", {"state": KeyState.READY.value})

    async def apply_probe_result(
        self, upstream: str, account: str, key: str, *, works: bool, error_code: ErrorCode | None, seconds: float | None
    ) -> None:
        """Applies the result of a key check.

        A key that works becomes half-open: a request may try it. Otherwise its cooldown continues, for `seconds` if
        known.
        Raises: GatewayError REDIS_UNAVAILABLE.
        """
        if error_code is None or (cooldown := cooldown_for(error_code, self._clock())) is None:
            return
        payload = {
            "works": works,
            "error_code": error_code.value,
            "scope": cooldown.scope.value,
            "state": cooldown.state.value,
            "seconds": cooldown.seconds if seconds is None else seconds,
        }
        await self._scripts.run("members", upstream, ["probed", f"{account}/{key}", msgspec.json.encode(payload)])

    async def note_probe(self, key: ProviderKey, actor: Actor, after: Mapping[str, object]) -> None:
        """Records a manual key check in the audit log. Raises: GatewayError REDIS_UNAVAILABLE."""
        await self._act(key.upstream, ("note", key.id, b""), actor, "pool.probe", after)

    async def _act(
        self, upstream: str, change: _Change, actor: Actor, action: str, after: Mapping[str, object] | None
    ) -> Reply:
        """Runs an admin change with its audit entry. Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        if upstream not in self.pools:
            known = ", ".join(sorted(self.pools))
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no upstream '{upstream}'; there are: {known}.")
        member, text = change[1], msgspec.json.encode(after) if after is not None else ""
        args: list[Value] = [*change, self._audit_keep_s, actor.name, action, member, text, actor.request_id]
        found = await self._scripts.run("members", upstream, args)
        if found.decision == "unknown":
            await self.restore(upstream)
            found = await self._scripts.run("members", upstream, args)
        if found.decision == "missing":
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no '{member}' at '{upstream}'.")
        return found


def _refuse_twin(found: Reply) -> None:
    """Raises: GatewayError CONFLICT if another key has the secret."""
    if found.decision == "twin":
        twin = f"{found.account}/{found.key}"
        raise GatewayError(
            ErrorCode.CONFLICT, f"'{twin}' has the same secret: its account would be used beyond its limits."
        )


def _describe(pool: Pool) -> dict[str, object]:
    """Returns what lua/members.lua registers, and the digest covers. Secrets appear as fingerprints only."""
    terms = pool.terms
    return {
        "terms": {
            "margin_us": round(terms.rate_window_margin_s * 1e6),
            "max_queue_length": terms.max_queue_length,
            "breaker_failures": terms.breaker_failures,
            "breaker_open_us": round(terms.breaker_open_s * 1e6),
            "retry_budget_percent": terms.retry_budget_percent,
            "retries_min": _RETRIES_MIN,
            "paced": terms.paced_percent,
        },
        "accounts": {
            account.name: asdict(account.limits)
            | {"keys": [{"name": key.name, "fingerprint": key.secret.fingerprint} for key in account.keys]}
            for account in pool.accounts
        },
    }
