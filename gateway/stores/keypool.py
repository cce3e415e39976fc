"""The organisation's upstream keys: which one is next, and which ones rest.

Keys are used in turn, least recently used first, over all processes. Invariant: a rest's end only moves outward, and
every rest ends, so that a key comes back without a person.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.domain.faults import TABLE, Fault, Scope, State
from gateway.domain.keys import UpstreamKey, rest_after
from gateway.stores import PREFIX, Client, Value, answer, load_script

_KEPT_S: Final = 40 * 24 * 60 * 60
"""A pool that nobody uses is forgotten: after the longest rest, a month."""
_EMPTY_POOL: Final = -2


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one call with a key."""

    key: UpstreamKey
    model: str
    """The model's name at the upstream."""
    was_resting: bool
    """The key comes back from a rest: its first success clears the record."""


@dataclass(frozen=True, slots=True)
class NoKey:
    """No key of the upstream may be used now."""

    wait_s: float | None
    """Until the first rest ends; None where the job itself has used up every key."""
    is_busy: bool
    """The keys are healthy and will have room soon."""


class Rest(msgspec.Struct, frozen=True):
    """Why a key rests, as Redis keeps it. Times are Unix microseconds."""

    state: str
    fault: str
    since_us: float
    until_us: float


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One key for the admin API."""

    key: UpstreamKey
    state: State
    fault: str | None
    model: str | None
    """The only model that the rest concerns."""
    since_s: int | None
    until_s: int | None


class KeyPool:
    """The keys of every upstream."""

    def __init__(self, redis: Client, keys: Iterable[UpstreamKey], clock: Callable[[], float]) -> None:
        self._redis = redis
        self._clock = clock
        self._keys: dict[str, dict[str, UpstreamKey]] = {}
        for key in keys:
            self._keys.setdefault(key.upstream, {})[key.id] = key
        self._names = {upstream: _names(upstream, roster) for upstream, roster in self._keys.items()}
        self._lease = load_script(redis, "lease")
        self._release = load_script(redis, "release")

    async def lease(self, upstream: str, model: str, avoided: Iterable[str] = ()) -> Lease | NoKey:
        """The key whose turn it is.

        `avoided`: ids of keys, or "ACCOUNT/" for a whole account.
        Raises: GatewayError REDIS_AWAY.
        Redis: one round trip, lua/lease.lua; one more to fill an empty pool.
        """
        args: list[Value] = [model, _KEPT_S, *avoided]
        found = _read_lease(await self._lease(self._names[upstream], args))
        if found.wait_us == _EMPTY_POOL:
            await self._fill(upstream)
            found = _read_lease(await self._lease(self._names[upstream], args))
        if found.member:
            return Lease(self._keys[upstream][found.member], model, was_resting=bool(found.rest))
        if found.wait_us < 0:
            return NoKey(None, is_busy=False)
        is_busy = bool(found.rest) and _is_busy(msgspec.json.decode(found.rest, type=Rest))
        return NoKey(found.wait_us / 1e6, is_busy=is_busy)

    async def release(self, lease: Lease, fault: Fault | None, asked_s: float | None = None) -> None:
        """Give a key back after a call that ended in `fault`, or in success.

        `asked_s`: the pause that the upstream asked for.
        Raises: GatewayError REDIS_AWAY.
        Redis: none for a healthy key, else one round trip, lua/release.lua.
        """
        rest = rest_after(fault, self._clock(), asked_s=asked_s) if fault else None
        names = self._names[lease.key.upstream]
        if rest and fault:
            model = lease.model if rest.scope is Scope.MODEL else ""
            members = self._members(lease.key, rest.scope)
            args: list[Value] = [rest.seconds, rest.seconds_max, rest.state.value, fault.value, model, _KEPT_S]
            await self._release(names, [*args, *members])
        elif lease.was_resting and fault is None:
            await self._release(names, [0, 0, "", "", lease.model, _KEPT_S, lease.key.id])

    async def statuses(self) -> list[KeyStatus]:
        """Every key of every upstream, with its rest. Redis: one round trip an upstream."""
        found: list[KeyStatus] = []
        for upstream, roster in self._keys.items():
            rests = await answer(self._redis, self._redis.hgetall(self._names[upstream][1]), dict[str, str])
            found += [self._status(key, rests) for key in roster.values()]
        return found

    def _status(self, key: UpstreamKey, rests: Mapping[str, str]) -> KeyStatus:
        now_us = self._clock() * 1e6
        for field, value in sorted(rests.items()):
            member, _, model = field.partition("|")
            rest = msgspec.json.decode(value, type=Rest)
            if member == key.id and rest.until_us > now_us:
                since_s, until_s = int(rest.since_us / 1e6), int(rest.until_us / 1e6)
                return KeyStatus(key, _state(rest.state), rest.fault, model or None, since_s, until_s)
        return KeyStatus(key, State.READY, None, None, None, None)

    async def _fill(self, upstream: str) -> None:
        """Put the configured keys into a pool that Redis does not know; other processes may do the same at once."""
        turns = self._names[upstream][0]
        await answer(self._redis, self._redis.zadd(turns, dict.fromkeys(self._keys[upstream], 0), nx=True), int)
        await answer(self._redis, self._redis.expire(turns, _KEPT_S), bool)

    def _members(self, key: UpstreamKey, scope: Scope) -> list[str]:
        roster = self._keys[key.upstream]
        match scope:
            case Scope.UPSTREAM:
                return list(roster)
            case Scope.ACCOUNT:
                return [member for member, other in roster.items() if other.account == key.account]
            case _:
                return [key.id]


@dataclass(frozen=True, slots=True)
class _Found:
    """lease.lua's answer."""

    member: str
    wait_us: float
    rest: str


def _read_lease(answered: object) -> _Found:
    match answered:
        case ["", int() | float() as wait_us, str() as rest]:
            return _Found("", wait_us, rest)
        case [str() as member, str() as rest]:
            return _Found(member, 0, rest)
        case _:
            raise TypeError(f"lease.lua answered {answered!r}")


def _state(name: str) -> State:
    """A state that another version wrote is at least a rest."""
    return State(name) if name in {state.value for state in State} else State.COOLING


def _is_busy(rest: Rest) -> bool:
    """Whether a fault is one that callers see as a rate limit; another version's unknown fault is not."""
    try:
        return TABLE[Fault(rest.fault)].status == 429
    except ValueError:
        return False


def _names(upstream: str, roster: Mapping[str, UpstreamKey]) -> list[str]:
    """The pool's keys in Redis: turns, rests."""
    described = "\n".join(f"{member} {key.secret.fingerprint}" for member, key in sorted(roster.items()))
    digest = hashlib.sha256(described.encode()).hexdigest()[:12]
    return [f"{PREFIX}:{{pool:{upstream}:{digest}}}:{name}" for name in ("turns", "rests")]
