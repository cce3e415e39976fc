"""Replays journals: those of dead processes on this machine, and own entries that nothing else retries."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.domain.errors import GatewayError
from gateway.redis.call_guard import CallNotStartedError
from gateway.redis.journal import Journal
from gateway.redis.journal_file import Entry, JournalFile

_LOG = structlog.get_logger("imagegate.journal")
_ROUND_S: Final = 2.0

Act = Callable[[msgspec.Raw], Awaitable[None]]
"""Replays an entry by its body. Raises: GatewayError REDIS_UNAVAILABLE, msgspec.ValidationError."""


class JournalReplayer:
    """Adopts files whose lock is free, and removes each when Redis has confirmed every entry."""

    def __init__(self, journal: Journal, acts: Mapping[str, Act], own_kinds: frozenset[str]) -> None:
        self._journal = journal
        self._acts = acts
        self._own_kinds = own_kinds
        """Kinds that this process does not retry elsewhere."""
        self._adopted: dict[JournalFile, dict[str, Entry]] = {}
        self._unreadable: set[Path] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
        await asyncio.to_thread(self._journal.log_other_journals)
        try:
            while True:
                await self.replay()
                await asyncio.sleep(_ROUND_S)
        finally:
            for file in self._adopted:
                file.close()
            self._adopted.clear()

    async def replay(self) -> None:
        """Runs one round. Entries that Redis does not accept remain for the next."""
        await self._journal.start()
        for path in await asyncio.to_thread(self._journal.files):
            await asyncio.to_thread(self._adopt, path)
        for kind in self._own_kinds:
            for key in await self._repeat({entry.key: entry for entry in self._journal.entries(kind)}):
                self._journal.done(key)
        for file in list(self._adopted):
            await self._settle(file)

    async def _settle(self, file: JournalFile) -> None:
        entries = self._adopted[file]
        done = await self._repeat(entries)
        lines = b"".join(entries.pop(key).done_line() for key in done)
        if done:
            _LOG.warning("journal_replayed", file=file.path.name, entries=len(done), left=len(entries))
        if not entries:
            del self._adopted[file]
            await asyncio.to_thread(file.remove)
        elif lines:
            with suppress(OSError):  # a failed write only causes a repeated replay
                await asyncio.to_thread(file.write, lines)

    async def _repeat(self, entries: dict[str, Entry]) -> list[str]:
        """Replays each entry. Failures move to the end, so that the next round starts with others.

        Returns: the keys of entries that are finished.
        """
        done: list[str] = []
        for key, entry in list(entries.items()):
            act = self._acts.get(entry.kind, _refuse)
            try:
                await act(entry.body)
            except msgspec.ValidationError as error:
                _LOG.error("journal_entry_unsupported", entry=key, detail=str(error))
            except GatewayError as error:
                entries[key] = entries.pop(key)
                if isinstance(error.__cause__, CallNotStartedError):
                    break
                continue
            done.append(key)
        return done

    def _adopt(self, path: Path) -> None:
        try:
            file = JournalFile.adopt(path)
        except OSError as error:
            if path not in self._unreadable:
                _LOG.error("journal_unreadable", file=str(path), detail=str(error))
            self._unreadable.add(path)
            return
        if file:
            self._adopted[file], damaged = file.read()
            if damaged:
                _LOG.warning("journal_damaged", file=path.name, lines=damaged)


async def _refuse(_: msgspec.Raw) -> None:
    raise msgspec.ValidationError("unknown kind")
