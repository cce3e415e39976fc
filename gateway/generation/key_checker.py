"""Checks provider keys at the upstreams' free endpoints: unhealthy ones by a leader, suspects by each process.

Invariant: a key, account or upstream that an operator disabled is not checked.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState
from gateway.generation.key_checks import KeyChecker
from gateway.providers.protocol import KeyCheck
from gateway.redis import LeaderLock
from gateway.scheduler.status import Health, KeyStatus, PoolStatus

_LOG = structlog.get_logger("imagegate.prober")
_RETRY_S: Final = 60.0
"""Minimum interval between suspect checks of a key: a tenant must not make the gateway flood the endpoint."""
_SPREAD_S: Final = 1.0
"""Limit on the random delay between two checks, to spread the load on a host."""
_TICKS: Final = 10
"""Leader lock attempts per `every_s` and process."""
_HELD: Final = frozenset({KeyState.DISABLED, KeyState.DRAINING})
_WINDOWS: Final = frozenset({ErrorCode.QUOTA_EXHAUSTED_PLAN, ErrorCode.QUOTA_EXHAUSTED_DAILY})
_WINDOW_NAMES: Final = frozenset(error_code.value for error_code in _WINDOWS)
_UNVERIFIABLE: Final = frozenset(
    {ErrorCode.KEY_LIMIT_REACHED, ErrorCode.ACCOUNT_UNVERIFIED, ErrorCode.KEY_MODEL_DENIED}
)
"""Errors that no free endpoint shows; their cooldown ends by time alone."""
_VERIFIABLE: Final = frozenset(error_code.value for error_code in ErrorCode if error_code not in _UNVERIFIABLE)


class Pool(Protocol):
    """Status of the pool."""

    async def snapshot(self) -> Sequence[PoolStatus]: ...


class Registry(Protocol):
    """Source of secrets, and sink of check results."""

    def known(self, upstream: str) -> Mapping[str, ProviderKey]: ...
    async def apply_probe_result(
        self, upstream: str, account: str, key: str, *, works: bool, error_code: ErrorCode | None, seconds: float | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A key to check, and the cooldown (its own, its account's or its upstream's) to verify."""

    key: ProviderKey
    error_code: ErrorCode
    until_s: int | None
    """Unix seconds."""

    @property
    def window(self) -> tuple[str, str] | None:
        """The account whose quota window is used up, if that is the reason for the cooldown."""
        return (self.key.upstream, self.key.account) if self.error_code in _WINDOWS else None


@dataclass(frozen=True, slots=True)
class _CheckResult:
    """Arguments of `Registry.apply_probe_result`."""

    works: bool
    error_code: ErrorCode
    seconds: float | None = None


class Suspects:
    """Queue of keys accused by an error without a provider code. Each key is queued once."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._noted_s: dict[tuple[str, str], float] = {}
        """Monotonic time at which each (upstream, key ID) was queued."""
        self._waiting: asyncio.Queue[ProviderKey] = asyncio.Queue()

    def note(self, key: ProviderKey) -> None:
        """Queues a key, unless it was queued within the last minute. Never waits."""
        now = self._monotonic()
        self._noted_s = {other: at for other, at in self._noted_s.items() if now - at < _RETRY_S}
        if (key.upstream, key.id) not in self._noted_s:
            self._noted_s[key.upstream, key.id] = now
            self._waiting.put_nowait(key)

    async def next(self) -> ProviderKey:
        return await self._waiting.get()


class KeyHealthMonitor:
    """A background task that checks keys, in every process."""

    def __init__(
        self,
        checker: KeyChecker,
        registry: Registry,
        pool: Pool,
        leader: LeaderLock,
        random: Callable[[], float],
        suspects: Suspects,
        *,
        every_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`leader` has the same `every_s`; `draw` returns random numbers from 0 to 1, `clock` Unix seconds."""
        self._checker = checker
        self._registry = registry
        self._pool = pool
        self._leader = leader
        self._suspects = suspects
        self._clock = clock
        self._random = random
        self._every_s = every_s

    async def run(self) -> None:
        """Runs a round every `every_s` on the leader; runs until cancelled."""
        was_well = True
        while True:
            await asyncio.sleep(self._every_s / _TICKS * (1 + self._random()) / 2)
            try:
                if await self._leader.acquire():
                    await self.check_unhealthy()
                was_well = True
            except GatewayError as error:
                if was_well:
                    _LOG.warning("probe_round_failed", detail=error.detail)
                was_well = False

    async def probe(self, key: ProviderKey) -> KeyCheck:
        """Checks one key on demand. Raises: GatewayError NOT_FOUND."""
        return await self._checker.probe(key)

    async def check_suspects(self) -> None:
        """Quarantines a suspect if the endpoint's own error code rejects the key; runs until cancelled."""
        while True:
            key = await self._suspects.next()
            await self._settle(key, None)

    async def check_unhealthy(self) -> None:
        """Runs one round. Raises: GatewayError REDIS_UNAVAILABLE."""
        candidates = [candidate for status in await self._pool.snapshot() for candidate in self._candidates(status)]
        for candidate in candidates:
            await asyncio.sleep(self._random() * _SPREAD_S)
            if not await self._leader.renew():
                return
            await self._settle(candidate.key, candidate)

    async def _settle(self, key: ProviderKey, candidate: _Candidate | None) -> None:
        """Checks a key and applies the result. A failure affects this key only. `candidate`: its cooldown."""
        try:
            probe = await self._checker.probe(key)
            decision = self._evaluate(candidate, probe) if candidate else self._quarantine(probe)
            if decision:
                await self._registry.apply_probe_result(
                    key.upstream,
                    key.account,
                    key.name,
                    works=decision.works,
                    error_code=decision.error_code,
                    seconds=decision.seconds,
                )
        except GatewayError as error:
            _LOG.warning(
                "probe_result_not_saved", upstream=key.upstream, key=key.secret.fingerprint, detail=error.detail
            )
        else:
            _LOG.info(
                "key_probed",
                upstream=key.upstream,
                account=key.account,
                key=key.secret.fingerprint,
                cooldown_reason=candidate.error_code.value if candidate else None,
                error_code=probe.error_code.value if probe.error_code else None,
                detail=probe.detail,
            )

    def _evaluate(self, candidate: _Candidate, probe: KeyCheck) -> _CheckResult | None:
        """Returns the change; None if the reply says nothing about the cooldown. A cooldown outlasts the next round."""
        if candidate.window and (probe.error_code is None or probe.error_code in _WINDOWS):
            return self._evaluate_window(candidate, probe)
        if probe.error_code is None:
            is_proven = candidate.error_code is not ErrorCode.INSUFFICIENT_BALANCE or probe.proves_balance
            return _CheckResult(True, candidate.error_code) if is_proven else None
        return self._quarantine(probe)

    def _quarantine(self, probe: KeyCheck) -> _CheckResult | None:
        """Returns the cooldown for the endpoint's own error code, if any."""
        if probe.error_code is None:
            return None
        if probe.window_s is not None:
            return _CheckResult(False, probe.error_code, probe.window_s)
        row = ERROR_SPECS[probe.error_code]
        rest_s = max(float(row.pause_s), 2 * self._every_s)
        return _CheckResult(False, probe.error_code, rest_s) if row.state is KeyState.QUARANTINED else None

    def _evaluate_window(self, candidate: _Candidate, probe: KeyCheck) -> _CheckResult | None:
        """Returns the true end of the window.

        A reply may already describe the next window, so it never extends a cooldown.
        """
        if probe.window_s is not None:
            return _CheckResult(False, candidate.error_code, probe.window_s)
        if probe.has_plan_left:
            return _CheckResult(True, candidate.error_code)
        ends_s = probe.window_if_spent_s
        if ends_s is None or candidate.until_s is None or ends_s >= candidate.until_s - self._clock():
            return None
        return _CheckResult(False, candidate.error_code, ends_s)

    def _candidates(self, status: PoolStatus) -> Iterator[_Candidate]:
        """Yields what to check at an upstream: one key for the whole upstream, one per account, or single keys."""
        known = self._registry.known(status.upstream)
        accounts = [account for account in status.accounts if _is_free(account)]
        if status.state is KeyState.QUARANTINED:
            yield from _candidate([key for account in accounts for key in account.keys], known, status)
            return
        for account in accounts:
            if account.state is KeyState.QUARANTINED:
                yield from _candidate(account.keys, known, account)
                continue
            if account.state is KeyState.COOLING and account.error_code in _WINDOW_NAMES:
                yield from _candidate(account.keys, known, account)
            for key in account.keys:
                if key.state is KeyState.QUARANTINED and key.model is None:
                    yield from _candidate([key], known, key)


def _candidate(keys: Sequence[KeyStatus], known: Mapping[str, ProviderKey], resting: Health) -> Iterator[_Candidate]:
    """Yields a known key, preferably a healthy one, for a cooldown that the free endpoint can verify."""
    usable = [key for key in keys if _is_free(key) and f"{key.account}/{key.name}" in known]
    if usable and resting.error_code in _VERIFIABLE:
        chosen = min(usable, key=lambda key: key.state is KeyState.QUARANTINED)
        yield _Candidate(known[f"{chosen.account}/{chosen.name}"], ErrorCode(resting.error_code), resting.until_s)


def _is_free(status: Health) -> bool:
    """Returns True unless an operator disabled it."""
    return status.held_by is None and status.state not in _HELD
