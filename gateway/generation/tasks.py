"""Polls tasks until they end: those of this process's requests, and those of processes that died.

Invariants: a task is in Redis before the first poll, and keeps its account's place until it ends. A failed poll ends no
task. A task whose request got no images is followed until it ends, and the ledger is then corrected.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import httpx
import structlog

from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import ImageReply, ImageResult
from gateway.generation.downloads import ImageDownloader
from gateway.generation.exchange import find_proxy, read_reply
from gateway.generation.memory_budget import ByteAccount
from gateway.generation.redaction import redact, redact_reply
from gateway.generation.upstreams import UpstreamEndpoint
from gateway.metering.reservations import LateOutcome
from gateway.providers.links import LinkPolicy, LinkTrust
from gateway.providers.protocol import TaskProvider
from gateway.scheduler import CallReport, Lease, Scheduler
from gateway.scheduler.tasks import RENEWED_S, OpenTask, TaskStore

_LOG = structlog.get_logger("imagegate.tasks")
_ROUND_S: Final = 5.0
_POLL_S: Final = 30.0
"""Limit on one poll."""
_CONNECT_S: Final = 5.0
_PAUSE_MAX_S: Final = 60.0
"""Limit on a Retry-After of a poll, and on the waits after failed ones."""
_FOLLOWED_MAX: Final = 200
"""Limit on the tasks that this process follows after their requests; the others wait in Redis."""
_DOWNLOAD_S: Final = 120.0
_SETTLE_S: Final = 3600.0
"""For a request to be settled, by itself or by expiry, before the correction of its task is given up."""

_Outcome = ImageReply | GatewayError


@dataclass(slots=True, eq=False)
class TaskTracker:
    """The tasks of this process."""

    _transport: httpx.AsyncBaseTransport
    _store: TaskStore
    _pool: Scheduler
    _settle_late: Callable[[str, str, LateOutcome], Awaitable[bool]]
    """Corrects the settlement of a tenant's reservation; False if it is not settled yet."""
    _find_key: Callable[[str, str], ProviderKey | None]
    """Returns the key of an upstream by its ID."""
    _endpoints: Callable[[], Mapping[str, UpstreamEndpoint]]
    _max_bytes: int
    _user_agent: str
    _clock: Callable[[], float]
    _monotonic: Callable[[], float]
    _fetcher: ImageDownloader
    keep: Callable[[str, str, ImageResult], Awaitable[bool]] | None = None
    """Keeps the images of a tenant's order, by its reservation ID, for requests that repeat it."""
    _open: dict[str, OpenTask] = field(default_factory=dict, init=False)
    """By lease ID: tasks that this process polls; it renews them."""
    _over: dict[str, tuple[str, Callable[[], bool]]] = field(default_factory=dict, init=False)
    """By lease ID: upstreams of tasks that ended, which stay in Redis until their request is settled."""
    _following: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _is_closed: bool = field(default=False, init=False)

    def holds(self, lease_id: str) -> bool:
        """Returns whether the lease is that of a task that has not ended: it is not to be released."""
        return lease_id in self._open

    async def finish(
        self,
        endpoint: UpstreamEndpoint,
        key: ProviderKey,
        opened: OpenTask,
        ends_s: float,
        memory: ByteAccount,
        is_settled: Callable[[], bool],
    ) -> ImageReply:
        """Polls a task until `ends_s` (monotonic). `is_settled`: whether its request has been settled.

        Raises: GatewayError with which the task ended; TASK_UNFINISHED if it goes on, which is then followed.
        """
        self._open[opened.lease] = opened
        try:
            await self._note(opened)
            outcome = await self._poll(endpoint, key, opened, ends_s, memory)
        except BaseException:  # the request ends, the task does not
            self._follow(endpoint, key, opened)
            raise
        if outcome is None:
            self._follow(endpoint, key, opened)
            raise GatewayError(ErrorCode.TASK_UNFINISHED, f"task {opened.task.id} goes on")
        self._open.pop(opened.lease, None)
        self._over[opened.lease] = (opened.upstream, is_settled)
        if isinstance(outcome, GatewayError):
            raise outcome
        return outcome

    async def _note(self, opened: OpenTask) -> None:
        try:
            await self._store.note(opened, opened.expires_s - self._clock() + RENEWED_S)
        except GatewayError as error:  # it is recorded with its renewal
            _LOG.warning("task_not_recorded", **_named(opened), detail=error.detail)

    async def run(self) -> None:
        """Renews the tasks of this process, and takes over those of dead ones; runs until cancelled."""
        was_well = True
        while True:
            await asyncio.sleep(_ROUND_S * random.uniform(0.8, 1.2))  # noqa: S311 - spreads the processes
            try:
                for name in self._upstreams():
                    await self._renew(name, self._store.renew)
                    if endpoint := self._endpoints().get(name):
                        await self._take_over(endpoint)
                was_well = True
            except GatewayError as error:
                if was_well:
                    _LOG.warning("tasks_not_renewed", detail=error.detail)
                was_well = False

    def _upstreams(self) -> set[str]:
        """Returns those that may have tasks, be it from before a reload."""
        found = {name for name, endpoint in self._endpoints().items() if isinstance(endpoint.provider, TaskProvider)}
        return found | {opened.upstream for opened in self._open.values()} | {name for name, _ in self._over.values()}

    async def _renew(self, name: str, renew: Callable[[str, Sequence[str]], Awaitable[Sequence[str]]]) -> None:
        """Renews its tasks, except those whose request has been settled. Raises: GatewayError REDIS_UNAVAILABLE."""
        if settled := [lease for lease, (of, is_settled) in self._over.items() if of == name and is_settled()]:
            await self._store.end(name, settled)
            for lease in settled:
                self._over.pop(lease, None)
        kept = [lease for lease, opened in self._open.items() if opened.upstream == name]
        kept += [lease for lease, (of, _) in self._over.items() if of == name]
        for lease in await renew(name, kept) if kept else ():
            if opened := self._open.get(lease):
                await self._note(opened)

    async def _take_over(self, endpoint: UpstreamEndpoint) -> None:
        """Raises: GatewayError REDIS_UNAVAILABLE."""
        name = endpoint.name
        room = 0 if self._is_closed else _FOLLOWED_MAX - len(self._following)
        for opened in await self._store.take_due(name, room) if room > 0 else []:
            if opened.lease in self._open or opened.lease in self._over:
                continue  # its renewal was late
            key = self._find_key(name, f"{opened.account}/{opened.key}")
            if key and key.secret.fingerprint == opened.fingerprint:
                _LOG.info("task_taken_over", **_named(opened))
                self._follow(endpoint, key, opened)
            elif self._clock() < opened.expires_s:
                _LOG.warning("task_key_missing", **_named(opened), key=opened.key)
            else:
                await self._store.end(name, [opened.lease])

    async def close(self) -> None:
        """Lets other processes take its tasks over."""
        self._is_closed = True
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        for name in self._upstreams():
            with suppress(GatewayError):  # they do so once no process renews them
                await self._renew(name, self._store.hand_over)
        self._open.clear()
        self._over.clear()

    def _follow(self, endpoint: UpstreamEndpoint, key: ProviderKey, opened: OpenTask) -> None:
        self._open[opened.lease] = opened
        following = asyncio.get_running_loop().create_task(self._follow_to_end(endpoint, key, opened))
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _follow_to_end(self, endpoint: UpstreamEndpoint, key: ProviderKey, opened: OpenTask) -> None:
        """Polls a task until it ends or is forgotten, and then releases its lease and corrects the ledger."""
        ends_s = self._monotonic() + opened.expires_s - self._clock()
        try:
            outcome = await self._poll(endpoint, key, opened, ends_s, ByteAccount())
            if outcome is None:
                outcome = GatewayError(ErrorCode.TASK_LOST, "it did not end in time")
            report = _report(opened, outcome)
            lease = Lease(opened.lease, key, opened.model, opened.images, self._monotonic(), "")
            with suppress(GatewayError):  # it expires
                await self._pool.release(lease, report)
            if truth := await self._judge(endpoint, opened, outcome):
                await self._correct(opened, truth)
            result = outcome.error_code.value if isinstance(outcome, GatewayError) else "made"
            _LOG.info("task_ended_late", **_named(opened), outcome=result, images=report.images)
            self._over[opened.lease] = (opened.upstream, lambda: True)
        except Exception:  # noqa: BLE001 - a bug must not keep others from the task: another process takes it over
            _LOG.exception("task_failed", **_named(opened))
        self._open.pop(opened.lease, None)

    async def _judge(self, endpoint: UpstreamEndpoint, opened: OpenTask, outcome: _Outcome) -> LateOutcome | None:
        """Returns the outcome of its images; None if they stay unconfirmed, as those that no request can get."""
        account = f"{opened.upstream}/{opened.account}"
        if isinstance(outcome, ImageReply):
            withheld = max(0, min(opened.images - outcome.images, outcome.failed or 0))
            kept = await self._keep(endpoint, opened, outcome) if opened.is_repeatable else 0
            return LateOutcome(opened.lease, account, kept + withheld, kept, withheld) if kept + withheld else None
        if outcome.row.withholds_images:
            return LateOutcome(opened.lease, account, opened.images, withheld=opened.images)
        is_free = outcome.row.outcome in {Outcome.REFUSED, Outcome.NOT_SENT}
        return LateOutcome(opened.lease, account, opened.images) if is_free else None

    async def _keep(self, endpoint: UpstreamEndpoint, opened: OpenTask, reply: ImageReply) -> int:
        """Keeps images for requests that repeat the order. Returns: how many."""
        pictures = await self._fetcher.deliver(
            *(reply.pictures[: opened.images], opened.asked, endpoint.links, _DOWNLOAD_S),
            proxies=endpoint.proxies,
            to_cut=reply.to_cut(opened.images),
        )
        result = ImageResult(pictures, opened.made, opened.images, reply.id, int(self._clock()))
        keep = self.keep if pictures else None
        return len(pictures) if keep and await keep(opened.tenant, opened.reservation, result) else 0

    async def _correct(self, opened: OpenTask, truth: LateOutcome) -> None:
        """Corrects the settlement, once there is one."""
        ends_s = self._monotonic() + _SETTLE_S
        while self._monotonic() < ends_s:
            with suppress(GatewayError):
                if await self._settle_late(opened.tenant, opened.reservation, truth):
                    return
            await asyncio.sleep(_ROUND_S)
        _LOG.error("task_not_settled", **_named(opened), hint="its images stay unconfirmed in the ledger")

    async def _poll(
        self, endpoint: UpstreamEndpoint, key: ProviderKey, opened: OpenTask, ends_s: float, memory: ByteAccount
    ) -> _Outcome | None:
        """Polls a task until it ends. Returns: None at `ends_s`."""
        provider, failures = endpoint.provider, 0
        assert isinstance(provider, TaskProvider)
        for wait_s in provider.rhythm.waits():
            pause_s = min(_PAUSE_MAX_S, wait_s * 2**failures) * random.uniform(0.9, 1.1)  # noqa: S311
            left_s = ends_s - self._monotonic()
            await asyncio.sleep(max(0.0, min(pause_s, left_s)))
            if left_s <= pause_s:
                break
            try:
                outcome = await self._poll_once(endpoint, provider, key, opened, memory)
                failures = 0
            except GatewayError as error:
                failures = min(failures + 1, 6)
                detail = redact(error.detail, key.secret)
                _LOG.info("task_poll_failed", **_named(opened), error_code=error.error_code.value, detail=detail)
                retry_s = min(_PAUSE_MAX_S, error.retry_after_s or 0.0, max(0.0, ends_s - self._monotonic()))
                await asyncio.sleep(retry_s)
                continue
            if isinstance(outcome, ImageReply):
                return redact_reply(outcome, key.secret)
            if outcome is not None:
                return outcome
        return None

    async def _poll_once(
        self,
        endpoint: UpstreamEndpoint,
        provider: TaskProvider,
        key: ProviderKey,
        opened: OpenTask,
        memory: ByteAccount,
    ) -> _Outcome | None:
        """Raises: GatewayError if the response says nothing about the task."""
        poll, given = provider.build_poll(opened.task, key.secret), opened.task.poll_url
        trust = LinkPolicy((*provider.poll_hosts, _origin(endpoint.base_url))).trust(given)
        is_trusted = trust is LinkTrust.NAMED or (trust is LinkTrust.PUBLIC and given.startswith("https://"))
        url = given if is_trusted else endpoint.base_url + poll.path
        headers = [*poll.headers, ("accept-encoding", "identity"), ("user-agent", self._user_agent)]
        extensions = {"timeout": {"connect": _CONNECT_S}, "proxy": find_proxy(endpoint.proxies, url)}
        try:
            request = httpx.Request(poll.method, url, headers=headers, extensions=extensions)
            async with asyncio.timeout(_POLL_S):
                reply = await read_reply(self._transport, request, self._max_bytes, memory)
        except TimeoutError as error:
            raise GatewayError(ErrorCode.READ_TIMEOUT, f"no complete response within {_POLL_S:.0f} s") from error
        except httpx.InvalidURL as error:
            raise GatewayError(ErrorCode.NOT_SENT, "the poll URL is invalid") from error
        return provider.read_poll(reply, opened.task, opened.delivery)


def _origin(url: str) -> str:
    parts = httpx.URL(url)
    return f"{parts.scheme}://{parts.netloc.decode('ascii')}"


def _report(opened: OpenTask, outcome: _Outcome) -> CallReport:
    if isinstance(outcome, GatewayError):
        return CallReport(outcome.error_code, outcome.retry_after_s, outcome.cooldown_s)
    images = min(opened.images, outcome.images)
    return CallReport(images=images, usd_micros=images * opened.price_usd_micros)


def _named(opened: OpenTask) -> dict[str, str]:
    named = {"upstream": opened.upstream, "account": opened.account, "task": opened.task.id}
    return named | {"request_id": opened.request_id}
