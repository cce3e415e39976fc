"""Tasks at providers, in Redis from before the first poll until they end: whichever process lives polls them.

A task keeps its lease, and so its place at the account, until it ends or the provider has forgotten it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import structlog

from gateway.domain.images import ResponseFormat, Size
from gateway.domain.tasks import Task
from gateway.scheduler.scripts import Scripts

_LOG = structlog.get_logger("imagegate.tasks")
RENEWED_S: Final = 20.0
"""Without renewal for this long, another process takes a task over."""


class OpenTask(msgspec.Struct, frozen=True):
    """A task with all that another process needs to end it."""

    lease: str
    """ID of its lease, which is its own, too."""
    upstream: str
    account: str
    key: str
    fingerprint: str
    model: str
    """The upstream's name for the model."""
    images: int
    delivery: ResponseFormat
    """The form requested from the provider."""
    asked: ResponseFormat
    """The form that the client requested."""
    made: Size
    task: Task
    tenant: str
    reservation: str
    request_id: str
    is_repeatable: bool
    """Requests with the same Idempotency-Key get its images: they are all that was ordered."""
    price_usd_micros: int
    """Per image."""
    expires_s: float
    """Unix seconds; then the provider has forgotten it."""


class TaskStore:
    """The tasks of all upstreams. Every call raises GatewayError REDIS_UNAVAILABLE. Redis: lua/task.lua."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def note(self, task: OpenTask, held_s: float) -> None:
        """Records a task of this process, and holds its lease for at most `held_s`."""
        text = msgspec.json.encode(task).decode()
        await self._run(task.upstream, "note", task.lease, text, _us(RENEWED_S), _us(held_s))

    async def renew(self, upstream: str, leases: Sequence[str]) -> Sequence[str]:
        """Keeps tasks of this process. Returns: those that Redis does not know."""
        return await self._run(upstream, "renew", _us(RENEWED_S), *leases)

    async def hand_over(self, upstream: str, leases: Sequence[str]) -> Sequence[str]:
        """Lets other processes take tasks over at once. Returns: those that Redis does not know."""
        return await self._run(upstream, "renew", 0, *leases)

    async def take_due(self, upstream: str, most: int) -> list[OpenTask]:
        """Takes over tasks that no process has renewed."""
        texts = await self._run(upstream, "due", _us(RENEWED_S), most)
        found = list[OpenTask]()
        for text in texts:
            try:
                found.append(msgspec.json.decode(text, type=OpenTask))
            except msgspec.MsgspecError as error:  # of another version: its processes end it
                _LOG.warning("task_unreadable", upstream=upstream, detail=str(error))
        return found

    async def end(self, upstream: str, leases: Sequence[str]) -> None:
        await self._run(upstream, "end", *leases)

    async def _run(self, upstream: str, *args: str | int) -> tuple[str, ...]:
        return (await self._scripts.run("task", upstream, list(args))).tasks


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)
