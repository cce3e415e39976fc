"""Keys that a bare fault accuses, until the upstream's free page was asked about them."""

import asyncio
from collections.abc import Callable
from typing import Final

from gateway.domain.keys import UpstreamKey

_ASK_AGAIN_S: Final = 60.0
"""Limit of one question a key in this time: a tenant must not make the gateway flood the page."""


class Suspects:
    """A queue of one process, each key at most once."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._noted_s: dict[tuple[str, str], float] = {}
        """When each key, (upstream, key id), was noted; monotonic."""
        self._waiting: asyncio.Queue[UpstreamKey] = asyncio.Queue()

    def note(self, key: UpstreamKey) -> None:
        """Ask about a key, unless that was done lately. Never waits."""
        now = self._monotonic()
        self._noted_s = {other: at for other, at in self._noted_s.items() if now - at < _ASK_AGAIN_S}
        if (key.upstream, key.id) not in self._noted_s:
            self._noted_s[key.upstream, key.id] = now
            self._waiting.put_nowait(key)

    async def next(self) -> UpstreamKey:
        return await self._waiting.get()
