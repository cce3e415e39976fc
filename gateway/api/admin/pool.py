"""`/admin/v1/pool`: upstream accounts and provider keys, read and changed at run time."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final, Literal, TypeVar

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.schemas import Name, Schema, Weight, read_document
from gateway.api.bodies import BodyLimits, json_response
from gateway.domain.accounts import AccountLimits, ProviderKey, make_secret
from gateway.domain.audit import Actor
from gateway.domain.billing import usd
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState, Scope
from gateway.generation.key_checks import KeyHealthMonitor
from gateway.providers.protocol import KeyCheck
from gateway.scheduler import Scheduler
from gateway.scheduler.history import StateChange, StateHistory
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.status import AccountStatus, Health, KeyStatus, PoolStatus, effective_health, worst_health

_ACCOUNT: Final = "/pool/{upstream}/{account}"
_UPSTREAM: Final = "/pool/{upstream}"
_KEY: Final = "/pool/{upstream}/{account}/{key}"
_LIMITS: Final = ("requests_per_minute", "images_per_minute", "max_concurrency", "weight")
_M = TypeVar("_M", AccountStatus, KeyStatus)
_Secret = Annotated[str, Meta(pattern=r"^[!-~]{1,500}\Z")]
_Rate = Annotated[int, Meta(ge=1, le=1_000_000)]


class _NewKey(Schema):
    """A key, with the limits of its account if the account is new."""

    upstream: Name
    account: Name
    key: Name
    secret: _Secret
    requests_per_minute: _Rate | None = None
    images_per_minute: _Rate | None = None
    max_concurrency: _Rate | None = None
    weight: Weight | None = None


class _NewSecret(Schema):
    """The secret that a key has from now on."""

    secret: _Secret


class _StateUpdate(Schema):
    """The operator's hold on a key or account."""

    state: Literal["ready", "disabled", "draining"]


class _Lift(Schema):
    """Ends the cooldown of an upstream."""

    state: Literal["ready"]


@dataclass(frozen=True, slots=True, repr=False)
class PoolSection:
    """Routes that report capacity and state of upstreams, accounts and keys, and that add, remove and hold keys."""

    pool: Scheduler
    roster: AccountRegistry
    prober: KeyHealthMonitor
    limits: BodyLimits
    history: StateHistory

    def handlers(self) -> Handlers:
        return {
            "/pool": {"GET": self.list_pool, "POST": self.add},
            _UPSTREAM: {"PATCH": self.lift},
            _ACCOUNT: {"GET": self.get, "PATCH": self.hold},
            _KEY: {"GET": self.get, "PATCH": self.hold, "DELETE": self.remove},
            f"{_KEY}/probe": {"POST": self.probe},
            f"{_KEY}/secret": {"POST": self.replace_secret},
            f"{_KEY}/history": {"GET": self.list_states},
        }

    async def list_pool(self, _: Request, __: Actor) -> Response:
        return json_response({"data": [_describe_pool(pool) for pool in await self.pool.snapshot()]})

    async def add(self, request: Request, actor: Actor) -> Response:
        """Only a new account takes limits from the request."""
        new = await read_document(request, self.limits, _NewKey)
        limits = {name: value for name in _LIMITS if (value := getattr(new, name)) is not None}
        pool = await self._pool_status(new.upstream)
        if limits and any(known.name == new.account for known in pool.accounts):
            raise GatewayError(
                ErrorCode.CONFLICT,
                f"Account '{pool.upstream}/{new.account}' already has limits. Omit them, or change them in the "
                "configuration.",
            )
        key = ProviderKey(new.upstream, new.account, new.key, make_secret(new.secret))
        check = await self.prober.probe(key)
        await self.roster.add(key, AccountLimits(**limits) if limits else None, actor)
        await self._settle(key, check)
        described = await self._describe_in_place(key.upstream, key.account, key.name)
        return json_response(described | {"probe": _describe_probe(check)}, 201)

    async def lift(self, request: Request, actor: Actor) -> Response:
        """Ends the cooldown of a whole upstream, as the circuit breaker's. Accounts and keys keep theirs."""
        await read_document(request, self.limits, _Lift)
        upstream = request.path_params["upstream"]
        await self.roster.lift(upstream, actor)
        return json_response(_describe_pool(await self._pool_status(upstream)))

    async def get(self, request: Request, _: Actor) -> Response:
        return json_response(_describe(await self._member(**request.path_params)))

    async def hold(self, request: Request, actor: Actor) -> Response:
        change, path = await read_document(request, self.limits, _StateUpdate), request.path_params
        state = KeyState(change.state)
        await self.roster.set_state(path["upstream"], path["account"], path.get("key"), state, actor)
        return json_response(_describe(await self._member(**path)))

    async def remove(self, request: Request, actor: Actor) -> Response:
        key = await self._key(**request.path_params)
        await self.roster.remove(key.upstream, key.account, key.name, actor)
        return json_response(_describe(key) | {"removed": True})

    async def probe(self, request: Request, actor: Actor) -> Response:
        """Checks a key at the provider, and ends a working key's quarantine. The audit records the result."""
        key = await self._secret_of(await self._key(**request.path_params))
        check = await self.prober.probe(key)
        described = _describe_probe(check)
        await self.roster.note_probe(key, actor, {name: described[name] for name in ("works", "error_code")})
        await self._settle(key, check)
        if check.error_code is None and (await self._pool_status(key.upstream)).state is KeyState.COOLING:
            await self.roster.lift(key.upstream, actor)  # it can be reached
        return json_response(described | {"key": await self._describe_in_place(**request.path_params)})

    async def replace_secret(self, request: Request, actor: Actor) -> Response:
        """Replaces the secret of a key that was added at run time, then checks it at the provider."""
        secret = make_secret((await read_document(request, self.limits, _NewSecret)).secret)
        status = await self._key(**request.path_params)
        key = ProviderKey(status.upstream, status.account, status.name, secret)
        await self.roster.replace(key, actor)
        check = await self.prober.probe(key)
        await self._settle(key, check)
        described = await self._describe_in_place(**request.path_params)
        return json_response(described | {"probe": _describe_probe(check)})

    async def list_states(self, request: Request, _: Actor) -> Response:
        key = await self._key(**request.path_params)
        changes = await self.history.of_key(key.upstream, key.account, key.name)
        return json_response({"data": [_describe_change(change) for change in changes]})

    async def _settle(self, key: ProviderKey, check: KeyCheck) -> None:
        """Ends the quarantines that a working key disproves, or begins the cooldown of a key that does not work."""
        release = partial(self.roster.apply_probe_result, key.upstream, key.account, key.name, seconds=check.window_s)
        if check.error_code is not None:
            if ERROR_SPECS[check.error_code].scope in {Scope.KEY, Scope.ACCOUNT}:
                await release(works=False, error_code=check.error_code)
            return
        pool = await self._pool_status(key.upstream)
        account = _account_in(pool, key.account)
        codes = {error_code.value: error_code for error_code in ErrorCode}
        for health in (pool, account, _key_in(account, key.name)):
            error_code = codes.get(health.error_code or "")  # None also if this version does not know the code
            if health.state is KeyState.QUARANTINED and (
                check.proves_balance or error_code is not ErrorCode.INSUFFICIENT_BALANCE
            ):
                await release(works=True, error_code=error_code)

    async def _secret_of(self, status: KeyStatus) -> ProviderKey:
        """Raises: GatewayError CONFLICT if this process cannot read the secret."""
        member = f"{status.account}/{status.name}"
        if member not in self.roster.known(status.upstream):
            await self.roster.refresh(status.upstream)
        key = self.roster.known(status.upstream).get(member)
        if key is None:
            raise GatewayError(
                ErrorCode.CONFLICT,
                f"This process cannot read the secret of '{status.upstream}/{member}': its encryption key is not in "
                "[pool] encryption_keys, or only other processes have the secret in their configuration.",
            )
        return key

    async def _pool_status(self, upstream: str) -> PoolStatus:
        """Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE; so do the next two."""
        pools = {pool.upstream: pool for pool in await self.pool.snapshot()}
        if upstream not in pools:
            problem = f"Upstream '{upstream}' not found. Configured: {', '.join(pools)}."
            raise GatewayError(ErrorCode.NOT_FOUND, f"{problem} See GET /admin/v1/pool.")
        return pools[upstream]

    async def _key(self, upstream: str, account: str, key: str) -> KeyStatus:
        return _key_in(_account_in(await self._pool_status(upstream), account), key)

    async def _describe_in_place(self, upstream: str, account: str, key: str) -> dict[str, object]:
        """Describes a key in the state in which it is used: the worst of its own, its account's and its upstream's."""
        pool = await self._pool_status(upstream)
        found = _account_in(pool, account)
        worst = worst_health(own := _key_in(found, key), found, pool)
        return _describe(own) | _describe_health(worst) | {"held_by": worst.held_by}

    async def _member(self, upstream: str, account: str, key: str | None = None) -> AccountStatus | KeyStatus:
        found = _account_in(await self._pool_status(upstream), account)
        return found if key is None else _key_in(found, key)


def _account_in(pool: PoolStatus, name: str) -> AccountStatus:
    return _named(name, pool.accounts, f"Upstream '{pool.upstream}' has no account")


def _key_in(account: AccountStatus, name: str) -> KeyStatus:
    return _named(name, account.keys, f"Account '{account.upstream}/{account.name}' has no key")


def _named(name: str, members: Sequence[_M], problem: str) -> _M:
    for member in members:
        if member.name == name:
            return member
    raise GatewayError(ErrorCode.NOT_FOUND, f"{problem} '{name}'. See GET /admin/v1/pool.")


def _describe_pool(pool: PoolStatus) -> dict[str, object]:
    return {
        "name": pool.upstream,
        **_describe_health(effective_health(pool, pool.accounts)),
        "waiting": pool.waiting,
        "waiting_batch": pool.waiting_batch,
        "calls_last_minute": pool.calls_last_minute,
        "retries_last_minute": pool.retries_last_minute,
        "accounts": [_describe(account) for account in pool.accounts],
    }


def _describe(member: AccountStatus | KeyStatus) -> dict[str, object]:
    if isinstance(member, KeyStatus):
        return {
            "upstream": member.upstream,
            "account": member.account,
            "key": member.name,
            "fingerprint": member.fingerprint,
            **_describe_health(member),
            "model": member.model,
            "held_by": member.held_by,
            "declared": member.is_declared,
        }
    limits, health = member.limits, effective_health(member, member.keys)
    return {
        "upstream": member.upstream,
        "account": member.name,
        **_describe_health(health),
        "held_by": health.held_by,
        "weight": limits.weight,
        "requests_per_minute": _room(limits.requests_per_minute, member.requests_used, member.requests_per_minute_now),
        "images_per_minute": _room(limits.images_per_minute, member.images_used),
        "concurrency": _room(limits.max_concurrency, member.in_flight, member.max_concurrency_now),
        "images_today": member.images_today,
        "spend_today_usd": usd(member.usd_micros_today),
        "keys": [_describe(key) for key in member.keys],
    }


def _describe_probe(probe: KeyCheck) -> dict[str, object]:
    return {
        "works": probe.error_code is None,
        "error_code": probe.error_code.value if probe.error_code else None,
        "detail": probe.detail,
        "seconds": round(probe.seconds, 3),
    }


def _describe_change(change: StateChange) -> dict[str, object]:
    return {
        "at": change.at_ms // 1000,
        "scope": change.scope,
        "state": change.state,
        "error_code": change.error_code or None,
        "model": change.model or None,
        "actor": change.actor or None,
    }


def _describe_health(health: Health) -> dict[str, object]:
    return {
        "state": health.state.value,
        "error_code": health.error_code,
        "since": health.since_s,
        "until": health.until_s,
    }


def _room(limit: int, used: int, now: int | None = None) -> dict[str, object]:
    """`now`: the estimated current limit, if there is one."""
    estimate: dict[str, object] = {} if now is None else {"now": now}
    return {"limit": limit, **estimate, "used": used, "free": max(0, (limit if now is None else now) - used)}
