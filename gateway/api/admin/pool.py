"""`/admin/v1/pool`: upstream accounts and provider keys, read and changed at run time."""

from functools import partial
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.admin.pool_schemas import (
    NewProviderKey,
    StateUpdate,
    describe_account,
    describe_key,
    describe_pool,
    describe_probe,
)
from gateway.api.admin.schemas import read_document
from gateway.api.bodies import BodyLimits, json_response
from gateway.domain.accounts import ProviderKey, make_secret
from gateway.domain.audit import Actor
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState
from gateway.generation.key_checker import KeyHealthMonitor
from gateway.providers.protocol import KeyCheck
from gateway.scheduler import Scheduler
from gateway.scheduler.members import AccountRegistry
from gateway.scheduler.status import AccountStatus, Health, KeyStatus, PoolStatus

_ACCOUNT: Final = "/pool/{upstream}/{account}"
_KEY: Final = "/pool/{upstream}/{account}/{key}"


class PoolSection:
    """Routes that report capacity and state of upstreams, accounts and keys, and that add, remove and hold keys."""

    def __init__(self, pool: Scheduler, roster: AccountRegistry, prober: KeyHealthMonitor, limits: BodyLimits) -> None:
        self._pool = pool
        self._roster = roster
        self._prober = prober
        self._limits = limits

    def handlers(self) -> Handlers:
        return {
            "/pool": {"GET": self.list_pool, "POST": self.add},
            _ACCOUNT: {"GET": self.get_account, "PATCH": self.hold_account},
            _KEY: {"GET": self.get_key, "PATCH": self.hold_key, "DELETE": self.remove},
            f"{_KEY}/probe": {"POST": self.probe},
        }

    async def list_pool(self, _: Request, __: Actor) -> Response:
        return json_response({"data": [describe_pool(pool) for pool in await self._pool.snapshot()]})

    async def add(self, request: Request, actor: Actor) -> Response:
        new = await read_document(request, self._limits, NewProviderKey)
        limits = new.limits()
        pool = await self._pool_status(new.upstream)
        if limits:
            _reject_limits_of_existing(pool, new.account)
        key = ProviderKey(new.upstream, new.account, new.key, make_secret(new.secret))
        check = await self._prober.probe(key)
        await self._roster.add(key, limits, actor)
        await self._settle(key, check)
        described = describe_key(await self._key(key.upstream, key.account, key.name))
        return json_response(described | {"probe": describe_probe(check)}, 201)

    async def get_account(self, request: Request, _: Actor) -> Response:
        return json_response(describe_account(await self._account(*_account_path(request))))

    async def hold_account(self, request: Request, actor: Actor) -> Response:
        change = await read_document(request, self._limits, StateUpdate)
        upstream, account = _account_path(request)
        await self._roster.set_state(upstream, account, None, KeyState(change.state), actor)
        return json_response(describe_account(await self._account(upstream, account)))

    async def get_key(self, request: Request, _: Actor) -> Response:
        return json_response(describe_key(await self._key(*_key_path(request))))

    async def hold_key(self, request: Request, actor: Actor) -> Response:
        change = await read_document(request, self._limits, StateUpdate)
        path = _key_path(request)
        await self._roster.set_state(*path, KeyState(change.state), actor)
        return json_response(describe_key(await self._key(*path)))

    async def remove(self, request: Request, actor: Actor) -> Response:
        path = _key_path(request)
        key = await self._key(*path)
        await self._roster.remove(*path, actor)
        return json_response(describe_key(key) | {"removed": True})

    async def probe(self, request: Request, actor: Actor) -> Response:
        """Checks a key at the provider, and ends a working key's quarantine. The audit records the result."""
        path = _key_path(request)
        key = await self._secret_of(await self._key(*path))
        check = await self._prober.probe(key)
        error_code = check.error_code.value if check.error_code else None
        await self._roster.note_probe(key, actor, {"works": check.error_code is None, "error_code": error_code})
        await self._settle(key, check)
        return json_response(describe_probe(check) | {"key": describe_key(await self._key(*path))})

    async def _settle(self, key: ProviderKey, check: KeyCheck) -> None:
        """Ends the quarantines that a working key disproves, or quarantines a broken key."""
        release = partial(self._roster.apply_probe_result, key.upstream, key.account, key.name, seconds=check.window_s)
        if check.error_code is not None:
            if ERROR_SPECS[check.error_code].state is KeyState.QUARANTINED:
                await release(works=False, error_code=check.error_code)
            return
        pool = await self._pool_status(key.upstream)
        account = _account_in(pool, key.account)
        for health in (pool, account, _key_in(account, key.name)):
            error_code = _error_code_of(health)
            if health.state is KeyState.QUARANTINED and (
                check.proves_balance or error_code is not ErrorCode.INSUFFICIENT_BALANCE
            ):
                await release(works=True, error_code=error_code)

    async def _secret_of(self, status: KeyStatus) -> ProviderKey:
        """Raises: GatewayError CONFLICT if this process cannot read the secret."""
        member = f"{status.account}/{status.name}"
        key = self._roster.known(status.upstream).get(member)
        if key is None:
            await self._roster.refresh(status.upstream)
            key = self._roster.known(status.upstream).get(member)
        if key is None:
            raise GatewayError(
                ErrorCode.CONFLICT,
                f"This process cannot read the secret of '{status.upstream}/{member}': its encryption key is not in "
                "[pool] encryption_keys, or only other processes have the secret in their configuration.",
            )
        return key

    async def _pool_status(self, upstream: str) -> PoolStatus:
        pools = {pool.upstream: pool for pool in await self._pool.snapshot()}
        if upstream not in pools:
            raise _not_found(f"Upstream '{upstream}' not found. Configured: {', '.join(pools)}.")
        return pools[upstream]

    async def _account(self, upstream: str, account: str) -> AccountStatus:
        """Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        return _account_in(await self._pool_status(upstream), account)

    async def _key(self, upstream: str, account: str, key: str) -> KeyStatus:
        """Raises: GatewayError NOT_FOUND, REDIS_UNAVAILABLE."""
        return _key_in(await self._account(upstream, account), key)


def _reject_limits_of_existing(pool: PoolStatus, account: str) -> None:
    """Raises: GatewayError CONFLICT if the account exists: only a new account takes limits from this request."""
    if any(known.name == account for known in pool.accounts):
        raise GatewayError(
            ErrorCode.CONFLICT,
            f"Account '{pool.upstream}/{account}' already has limits. Omit them, or change them in the configuration.",
        )


def _account_in(pool: PoolStatus, name: str) -> AccountStatus:
    for account in pool.accounts:
        if account.name == name:
            return account
    raise _not_found(f"Upstream '{pool.upstream}' has no account '{name}'.")


def _key_in(account: AccountStatus, name: str) -> KeyStatus:
    for key in account.keys:
        if key.name == name:
            return key
    raise _not_found(f"Account '{account.upstream}/{account.name}' has no key '{name}'.")


def _error_code_of(health: Health) -> ErrorCode | None:
    """Returns None also if this version does not know the code."""
    return next((error_code for error_code in ErrorCode if error_code.value == health.error_code), None)


def _not_found(message: str) -> GatewayError:
    return GatewayError(ErrorCode.NOT_FOUND, f"{message} See GET /admin/v1/pool.")


def _account_path(request: Request) -> tuple[str, str]:
    return request.path_params["upstream"], request.path_params["account"]


def _key_path(request: Request) -> tuple[str, str, str]:
    return *_account_path(request), request.path_params["key"]
