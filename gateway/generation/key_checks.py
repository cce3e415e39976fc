"""Key checks at the upstreams' free endpoints: of unhealthy keys by a leader, of suspects by each process.

Invariant: a key, account or upstream that an operator disabled is not checked.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import httpx
import structlog

from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState
from gateway.generation.exchange import find_proxy, read_reply
from gateway.generation.redaction import redact
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.providers.protocol import DoubleCheckedProvider, KeyCheck, ProviderRequest
from gateway.providers.replies import UpstreamResponse
from gateway.redis import LeaderLock
from gateway.scheduler.status import Health, KeyStatus, PoolStatus

_LOG = structlog.get_logger("imagegate.prober")
_DEADLINE_S: Final = 10.0
_CONNECT_S: Final = 5.0
"""Shorter than the deadline, to distinguish an unreachable host from a silent one."""
_MAX_BYTES: Final = 1024 * 1024
"""302.AI lists every model of every provider: hundreds, at about 100 bytes each."""
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

_Decision = tuple[bool, ErrorCode, float | None]
"""True if the key works; the error code that was checked; the seconds of a cooldown."""


@dataclass(slots=True, eq=False)
class KeyChecker:
    """Checks keys at the free endpoints of all upstreams."""

    _transport: httpx.AsyncBaseTransport
    _endpoints: Callable[[], Mapping[str, UpstreamEndpoint]]
    """Returns those of the current configuration by name."""
    _user_agent: str
    _monotonic: Callable[[], float] = time.monotonic

    async def probe(self, key: ProviderKey) -> KeyCheck:
        """Requests a free page, with a deadline of 10 s; and another one if the first alone cannot reject the key.

        Raises: GatewayError NOT_FOUND if the upstream is no longer configured; nothing else.
        """
        endpoint = self._endpoints().get(key.upstream)
        if endpoint is None:
            raise GatewayError(ErrorCode.NOT_FOUND, f"There is no upstream '{key.upstream}'.")
        started, provider = self._monotonic(), endpoint.provider
        result = await self._request(endpoint, provider.build_key_check(key.secret), provider.read_key_check)
        if (
            result.error_code is ErrorCode.KEY_INVALID
            and isinstance(provider, DoubleCheckedProvider)
            and (second := provider.build_second_check(key.secret))
        ):
            result = _confirm(result, await self._request(endpoint, second, provider.read_second_check))
        return replace(result, detail=redact(result.detail, key.secret), seconds=self._monotonic() - started)

    async def _request(
        self, endpoint: UpstreamEndpoint, asked: ProviderRequest, read: Callable[[UpstreamResponse], KeyCheck]
    ) -> KeyCheck:
        headers = [*asked.headers, ("accept-encoding", "identity"), ("user-agent", self._user_agent)]
        url, body = endpoint.base_url + asked.path, b"".join(asked.body)
        try:
            proxy = find_proxy(endpoint.proxies, url)
            extensions = {"timeout": {"connect": _CONNECT_S, "read": _DEADLINE_S}, "proxy": proxy}
            request = httpx.Request(asked.method, url, headers=headers, content=body, extensions=extensions)
            async with asyncio.timeout(_DEADLINE_S):
                reply = await read_reply(self._transport, request, _MAX_BYTES)
            return read(replace(reply, url=url))
        except TimeoutError:
            return KeyCheck(ErrorCode.READ_TIMEOUT, f"no complete response from {url} within {_DEADLINE_S:.0f} s")
        except httpx.InvalidURL:
            return KeyCheck(ErrorCode.NOT_SENT, "base_url is not a valid URL")
        except GatewayError as error:
            return KeyCheck(error.error_code, error.detail)


def _confirm(refused: KeyCheck, second: KeyCheck) -> KeyCheck:
    """Returns the verdict of two pages. An error that is no verdict on the key leaves it unknown."""
    if second.error_code in {None, ErrorCode.KEY_INVALID}:
        return second if second.error_code is None else refused
    detail = f"the quota page refuses the key ({refused.detail}), the list of models does not ({second.detail})"
    return KeyCheck(ErrorCode.BARE_UNAUTHORIZED, detail)


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
    error_code: ErrorCode | None = None
    """None for a suspect without a cooldown."""
    until_s: int | None = None
    """Unix seconds."""


@dataclass(slots=True, eq=False)
class Suspects:
    """Queue of keys accused by an error without a provider code. Each key is queued once."""

    _monotonic: Callable[[], float]
    _noted_s: dict[tuple[str, str], float] = field(default_factory=dict, init=False)
    """Monotonic time at which each (upstream, key ID) was queued."""
    _waiting: asyncio.Queue[ProviderKey] = field(default_factory=asyncio.Queue, init=False)

    async def next(self) -> ProviderKey:
        return await self._waiting.get()

    def note(self, key: ProviderKey) -> None:
        """Queues a key, unless it was queued within the last minute. Never waits."""
        now = self._monotonic()
        self._noted_s = {other: at for other, at in self._noted_s.items() if now - at < _RETRY_S}
        if (key.upstream, key.id) not in self._noted_s:
            self._noted_s[key.upstream, key.id] = now
            self._waiting.put_nowait(key)


@dataclass(slots=True, eq=False)
class KeyHealthMonitor:
    """A background task that checks keys, in every process."""

    _checker: KeyChecker
    _registry: Registry
    _pool: Pool
    _leader: LeaderLock
    """Has the same `every_s`."""
    _random: Callable[[], float]
    """Returns numbers from 0 to 1."""
    _suspects: Suspects
    every_s: float
    clock: Callable[[], float] = time.time

    async def probe(self, key: ProviderKey) -> KeyCheck:
        """Checks one key on demand. Raises: GatewayError NOT_FOUND."""
        return await self._checker.probe(key)

    async def run(self) -> None:
        """Runs a round every `every_s` on the leader; runs until cancelled."""
        was_well = True
        while True:
            await asyncio.sleep(self.every_s / _TICKS * (1 + self._random()) / 2)
            try:
                if await self._leader.acquire():
                    await self.check_unhealthy()
                was_well = True
            except GatewayError as error:
                if was_well:
                    _LOG.warning("probe_round_failed", detail=error.detail)
                was_well = False

    async def check_suspects(self) -> None:
        """Quarantines a suspect if the endpoint's own error code rejects the key; runs until cancelled."""
        while True:
            await self._settle(_Candidate(await self._suspects.next()))

    async def check_unhealthy(self) -> None:
        """Runs one round. Raises: GatewayError REDIS_UNAVAILABLE."""
        candidates = [candidate for status in await self._pool.snapshot() for candidate in self._candidates(status)]
        for candidate in candidates:
            await asyncio.sleep(self._random() * _SPREAD_S)
            if not await self._leader.renew():
                return
            await self._settle(candidate)

    async def _settle(self, candidate: _Candidate) -> None:
        """Checks a key and applies the result. A failure affects this key only."""
        key, reason = candidate.key, candidate.error_code
        fingerprint = key.secret.fingerprint
        try:
            check = await self._checker.probe(key)
            if decision := self._evaluate(candidate, check):
                works, error_code, seconds = decision
                await self._registry.apply_probe_result(
                    key.upstream, key.account, key.name, works=works, error_code=error_code, seconds=seconds
                )
        except GatewayError as error:
            _LOG.warning("probe_result_not_saved", upstream=key.upstream, key=fingerprint, detail=error.detail)
            return
        _LOG.info(
            "key_probed",
            upstream=key.upstream,
            account=key.account,
            key=fingerprint,
            cooldown_reason=reason and reason.value,
            error_code=check.error_code and check.error_code.value,
            detail=check.detail,
        )

    def _evaluate(self, candidate: _Candidate, check: KeyCheck) -> _Decision | None:
        """Returns the change; None if the response says nothing about the cooldown."""
        reason, found = candidate.error_code, check.error_code
        if reason and reason in _WINDOWS and (found is None or found in _WINDOWS):
            return self._evaluate_window(reason, candidate.until_s, check)
        if found is None:
            is_proven = reason is not ErrorCode.INSUFFICIENT_BALANCE or check.proves_balance
            return (True, reason, None) if reason and is_proven else None
        if check.window_s is not None:
            return False, found, check.window_s
        row = ERROR_SPECS[found]
        cooldown_s = max(float(row.pause_s), 2 * self.every_s)  # it outlasts the next round
        return (False, found, cooldown_s) if row.state is KeyState.QUARANTINED else None

    def _evaluate_window(self, reason: ErrorCode, until_s: int | None, check: KeyCheck) -> _Decision | None:
        """Returns the true end of a used-up window.

        A response may already describe the next window, so it never extends a cooldown.
        """
        if check.window_s is not None:
            return False, reason, check.window_s
        if check.has_plan_left:
            return True, reason, None
        ends_s = check.window_if_spent_s
        if ends_s is None or until_s is None or ends_s >= until_s - self.clock():
            return None
        return False, reason, ends_s

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


def _candidate(keys: Sequence[KeyStatus], known: Mapping[str, ProviderKey], cooldown: Health) -> Iterator[_Candidate]:
    """Yields a known key, preferably a healthy one, for a cooldown that the free endpoint can verify."""
    usable = [key for key in keys if _is_free(key) and f"{key.account}/{key.name}" in known]
    if usable and cooldown.error_code in _VERIFIABLE:
        chosen = min(usable, key=lambda key: key.state is KeyState.QUARANTINED)
        yield _Candidate(known[f"{chosen.account}/{chosen.name}"], ErrorCode(cooldown.error_code), cooldown.until_s)


def _is_free(status: Health) -> bool:
    """Returns True unless an operator disabled it."""
    return status.held_by is None and status.state not in _HELD
