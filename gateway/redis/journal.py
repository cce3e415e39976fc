"""The journal: operations that Redis did not confirm in time, on local disk before the response is sent.

Each process appends to its own file, and writes nothing while Redis confirms in time. Entries are idempotent,
because the scripts are. The journal fails no request: if it is unwritable, full or slow, the process logs that
once and continues without it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import structlog

from gateway.domain.errors import GatewayError
from gateway.redis.call_guard import CallNotStartedError
from gateway.redis.journal_file import Entry, JournalFile, files_of

_LOG = structlog.get_logger("imagegate.journal")
MAX_BYTES: Final = 16 * 1024 * 1024
"""Limit of one file: about 30,000 settlements. Redis being down also stops new requests, so far fewer accumulate."""
_WRITE_TIMEOUT_S: Final = 2.0
"""A response waits at most this long for the disk."""
_REPLAY_INTERVAL_S: Final = 2.0
_REMEDY: Final = "free disk space, or set requests.journal_dir to a directory that this user can write"

Act = Callable[[msgspec.Raw], Awaitable[None]]
"""Replays an entry by its body. Raises: GatewayError REDIS_UNAVAILABLE, msgspec.ValidationError."""


class Journal:
    """The entries of one process. Off without a directory, which is logged if there is a hint."""

    def __init__(
        self, directory: Path | None = None, redis_id: str = "", max_bytes: int = MAX_BYTES, remedy: str = ""
    ) -> None:
        self._directory = directory
        self._redis_id = redis_id
        self._max_bytes = max_bytes
        self._remedy = remedy
        self._file: JournalFile | None = None
        self.unconfirmed: dict[str, Entry] = {}
        """Entries that Redis has not confirmed, by key."""
        self._bytes = 0
        self._waiting: deque[bytes | None] = deque()
        """Lines for the writer thread. None: everything before it is confirmed, and the file is truncated."""
        self._writer = ThreadPoolExecutor(1, "journal")
        self._slow: asyncio.Future[None] | None = None
        """A write that timed out and is still running."""
        self._problem = ""
        self._is_full = False

    async def start(self) -> None:
        """Opens the file, so that an unusable directory is logged early; later calls retry failed writes."""
        if self._directory:
            await self._in_writer(self._write)
        elif self._remedy:
            _LOG.warning("journal_disabled", hint=self._remedy)
            self._remedy = ""

    async def note(self, entries: Iterable[Entry]) -> None:
        """Returns when the entries are on disk or the write failed. Cancelling the caller does not stop the write."""
        is_new = False
        for entry in entries:
            if self._directory is None or entry.key in self.unconfirmed:
                continue
            line = entry.line()
            if self._bytes + len(line) <= self._max_bytes:
                self.unconfirmed[entry.key] = entry
                self._bytes += len(line)
                self._waiting.append(line)
                is_new = True
            elif not self._is_full:
                _LOG.error("journal_full", directory=str(self._directory), hint="settlements beyond its size expire")
                self._is_full = True
        if is_new:
            await self._in_writer(self._write)

    def done(self, key: str) -> None:
        """Removes an entry that Redis has confirmed."""
        entry = self.unconfirmed.pop(key, None)
        if entry is None:
            return
        if self.unconfirmed:
            self._waiting.append(entry.done_line())
        else:
            self._waiting.append(None)
            self._bytes, self._is_full = 0, False
        self._writer.submit(self._write)

    def wants(self, key: str) -> bool:
        """Returns True if the entry is not in the journal yet."""
        return self._directory is not None and key not in self.unconfirmed and not self._is_full

    def holds(self, key: str) -> bool:
        """Returns True if the next process that starts here will replay the entry."""
        return key in self.unconfirmed and not self._problem

    def files(self) -> list[Path]:
        """Returns the files of all processes on this machine that use this Redis."""
        return files_of(self._directory, self._redis_id) if self._directory else []

    def log_other_journals(self) -> None:
        """Logs journals of other Redis servers: a changed redis.url must not orphan settlements silently."""
        if self._directory is None:
            return
        own = set(self.files())
        with suppress(FileNotFoundError):  # its process is exiting
            others = [path for path in files_of(self._directory) if path not in own and path.stat().st_size]
            if others:
                _LOG.warning("journal_of_other_redis", directory=str(self._directory), files=len(others))

    def entries(self, kind: str) -> list[Entry]:
        """Returns the unconfirmed entries of a kind."""
        return [entry for entry in self.unconfirmed.values() if entry.kind == kind]

    async def close(self) -> None:
        """Closes the file, which remains for the next process unless it is empty."""
        if self._directory:
            await self._in_writer(partial(self._end, is_owing=bool(self.unconfirmed)))
            self._directory = None
            self.unconfirmed.clear()
            self._writer.shutdown(wait=False)

    async def _in_writer(self, act: Callable[[], None]) -> None:
        """Runs in the writer thread, which batches writes: many callers share one fsync."""
        job = asyncio.wrap_future(self._writer.submit(act))
        if self._slow is None or self._slow.done():
            await asyncio.wait({job}, timeout=_WRITE_TIMEOUT_S)
            if not job.done():
                self._slow = job
                self._log_problem(f"a write takes longer than {_WRITE_TIMEOUT_S:g} s")

    def _write(self) -> None:
        """Runs in the writer thread."""
        taken = [self._waiting.popleft() for _ in range(len(self._waiting))]
        start = len(taken) - taken[::-1].index(None) if None in taken else 0
        lines = b"".join(line for line in taken[start:] if line)
        try:
            if self._file is None:
                assert self._directory is not None  # nothing is written when the journal is off
                self._file = JournalFile.create(self._directory, self._redis_id)
            if start:
                self._file.clear()
            if lines:
                self._file.write(lines)
        except OSError as error:
            self._waiting.extendleft(reversed(taken))
            self._log_problem(str(error))
        else:
            self._log_problem("")

    def _end(self, *, is_owing: bool) -> None:
        """Runs in the writer thread."""
        self._write()
        if self._file and is_owing:
            self._file.close()
        elif self._file:
            self._file.remove()

    def _log_problem(self, problem: str) -> None:
        """Logs changes only, not every write."""
        if problem and not self._problem:
            _LOG.error("journal_failed", directory=str(self._directory), detail=problem, hint=_REMEDY)
        elif self._problem and not problem:
            _LOG.warning("journal_restored", directory=str(self._directory))
        self._problem = problem


class JournalReplayer:
    """Replays journals of dead processes on this machine, and own entries that nothing else retries.

    Adopts files whose lock is free, and removes each when Redis has confirmed every entry.
    """

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
                await asyncio.sleep(_REPLAY_INTERVAL_S)
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
            try:
                if entry.kind not in self._acts:
                    raise msgspec.ValidationError("unknown kind")  # noqa: TRY301 - as a body that the act rejects
                await self._acts[entry.kind](entry.body)
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
