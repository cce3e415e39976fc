"""Status of the pool for the admin API and metrics, parsed from lua/snapshot.lua's reply."""

from dataclasses import dataclass
from typing import Final, TypedDict

import msgspec

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import ErrorCode, KeyState

_TENANTS_MANY: Final = 8
"""Number of tenants whose calls must meet an error before no prompt can be its cause: ACCUSERS_MAX in Lua."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """State of a key, account or upstream, with its reason."""

    state: KeyState = KeyState.READY
    error_code: str | None = None
    since_s: int | None = None
    """Unix seconds."""
    until_s: int | None = None
    held_by: str | None = None
    """Name of the admin key that disabled it."""
    others_may_try: bool = False
    """Only the calls of a few tenants are the reason: requests of other tenants may use it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStatus(Health):
    """Status of one key."""

    upstream: str
    account: str
    name: str
    fingerprint: str
    model: str | None
    """Set if its cooldown concerns one model only."""
    is_declared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountStatus(Health):
    """Status of one account: configured limits, current estimates and usage."""

    upstream: str
    name: str
    limits: AccountLimits
    requests_per_minute_now: int
    max_concurrency_now: int
    requests_used: int
    """In the last minute."""
    images_used: int
    in_flight: int
    images_today: int
    usd_micros_today: int
    keys: tuple[KeyStatus, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolStatus(Health):
    """Status of one upstream."""

    upstream: str
    waiting: int
    free: int
    """Requests that could be sent now."""
    calls_last_minute: int
    retries_last_minute: int
    accounts: tuple[AccountStatus, ...]


class _Cooldown(msgspec.Struct, frozen=True):
    state: str
    error_code: str
    since_us: float
    until_us: float
    by: tuple[str, ...] = ()
    """Tenants, as in lua/health.lua; `met` too."""
    ill: bool = False
    met: tuple[str, ...] = ()

    @property
    def others_may_try(self) -> bool:
        """No request makes an upstream refuse connections."""
        is_provoked = self.ill and self.error_code != ErrorCode.CONNECT_FAILED.value and len(self.met) < _TENANTS_MANY
        return bool(self.by) or is_provoked


class _StateOverride(msgspec.Struct, frozen=True):
    state: str
    since_us: float
    by: str


class _Key(msgspec.Struct, frozen=True):
    name: str
    fingerprint: str
    is_added: bool = False
    held: _StateOverride | None = None
    rest: _Cooldown | None = None


class _Limits(msgspec.Struct, frozen=True):
    requests_per_minute: int
    images_per_minute: int
    max_concurrency: int
    weight: int


class _Account(msgspec.Struct, frozen=True):
    name: str
    limits: _Limits
    rate: int
    lanes: int
    used: int
    images: int
    flying: int
    keys: tuple[_Key, ...]
    images_today: int = 0
    usd_micros_today: int = 0
    held: _StateOverride | None = None
    rest: _Cooldown | None = None


class _ModelCooldown(msgspec.Struct, frozen=True):
    member: str
    model: str
    rest: _Cooldown


class _Snapshot(msgspec.Struct, frozen=True):
    decision: str
    now_us: float = 0
    waiting: int = 0
    free: int = 0
    calls: float = 0
    retries: float = 0
    rest: _Cooldown | None = None
    accounts: tuple[_Account, ...] = ()
    models: tuple[_ModelCooldown, ...] = ()


def read_status(upstream: str, text: str) -> PoolStatus:
    """Parses a snapshot. An upstream unknown to Redis has no accounts."""
    snapshot = msgspec.json.decode(text, type=_Snapshot, strict=False)
    models = {entry.member: entry for entry in snapshot.models}
    accounts = tuple(
        _account(upstream, account, models, snapshot.now_us)
        for account in sorted(snapshot.accounts, key=lambda one: one.name)
    )
    return PoolStatus(
        **_health(None, snapshot.rest, snapshot.now_us),
        upstream=upstream,
        waiting=snapshot.waiting,
        free=snapshot.free,
        calls_last_minute=round(snapshot.calls),
        retries_last_minute=round(snapshot.retries),
        accounts=accounts,
    )


def _account(upstream: str, account: _Account, models: dict[str, _ModelCooldown], now_us: float) -> AccountStatus:
    limits = account.limits
    return AccountStatus(
        **_health(account.held, account.rest, now_us),
        upstream=upstream,
        name=account.name,
        limits=AccountLimits(
            limits.requests_per_minute, limits.images_per_minute, limits.max_concurrency, limits.weight
        ),
        requests_per_minute_now=account.rate,
        max_concurrency_now=account.lanes,
        requests_used=account.used,
        images_used=account.images,
        in_flight=account.flying,
        images_today=account.images_today,
        usd_micros_today=account.usd_micros_today,
        keys=tuple(_key(upstream, account.name, key, models, now_us) for key in account.keys),
    )


def _key(upstream: str, account: str, key: _Key, models: dict[str, _ModelCooldown], now_us: float) -> KeyStatus:
    health, model = _health(key.held, key.rest, now_us), None
    concerned = models.get(f"{account}/{key.name}")
    if health["state"] is KeyState.READY and concerned:
        health, model = _health(None, concerned.rest, now_us), concerned.model
    return KeyStatus(
        **health,
        upstream=upstream,
        account=account,
        name=key.name,
        fingerprint=key.fingerprint,
        model=model,
        is_declared=not key.is_added,
    )


class _Fields(TypedDict):
    """The fields of Health."""

    state: KeyState
    error_code: str | None
    since_s: int | None
    until_s: int | None
    held_by: str | None
    others_may_try: bool


def _health(hold: _StateOverride | None, rest: _Cooldown | None, now_us: float) -> _Fields:
    """Returns the state; one set by an operator takes precedence."""
    if hold:
        since_s = round(hold.since_us / 1e6)
        return _Fields(
            state=_state(hold.state),
            error_code=None,
            since_s=since_s,
            until_s=None,
            held_by=hold.by,
            others_may_try=False,
        )
    if rest is None:
        return _Fields(
            state=KeyState.READY, error_code=None, since_s=None, until_s=None, held_by=None, others_may_try=False
        )
    since_s, until_s = round(rest.since_us / 1e6), round(rest.until_us / 1e6)
    state = KeyState.HALF_OPEN if rest.until_us <= now_us else _state(rest.state)
    others = rest.others_may_try
    return _Fields(
        state=state, error_code=rest.error_code, since_s=since_s, until_s=until_s, held_by=None, others_may_try=others
    )


def _state(name: str) -> KeyState:
    """Parses a state. An unknown one, written by another version, counts as a cooldown."""
    return KeyState(name) if name in {state.value for state in KeyState} else KeyState.COOLING
