import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.exceptions import ResponseError

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.redis.call_guard import CallNotStartedError
from gateway.redis.journal import MAX_BYTES, Journal, JournalReplayer
from gateway.redis.journal_file import Entry, JournalFile, files_of
from tests.support.logging_aside import Log, logging_aside

pytestmark = pytest.mark.anyio

REDIS = "0123456789ab"


def entry(number: int, kind: str = "settle", text: str = "") -> Entry:
    return Entry(kind, f"ticket-{number}", msgspec.Raw(json.dumps({"n": number, "text": text}).encode()))


@asynccontextmanager
async def opened(directory: Path, redis_id: str = REDIS, max_bytes: int = MAX_BYTES) -> AsyncIterator[Journal]:
    journal = Journal(directory, redis_id, max_bytes)
    await journal.start()
    try:
        yield journal
    finally:
        await journal.close()


@pytest.fixture
def log() -> Iterator[Log]:
    with logging_aside() as log:
        yield log


def events(log: Log) -> list[str]:
    return [json.loads(line)["event"] for line in log.text.splitlines()]


def kept(directory: Path) -> list[str]:
    """The keys of what a process that dies now leaves."""
    return [key for path in files_of(directory) for key in _read(path)]


def _read(path: Path) -> dict[str, Entry]:
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    adopted = JournalFile.adopt(copy)
    assert adopted is not None
    found, _ = adopted.read()
    adopted.remove()
    return found


class Acts:
    """What is repeated, and what of it fails."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.failures: dict[int, Exception | None] = {}

    async def take(self, body: msgspec.Raw) -> None:
        number = msgspec.json.decode(body)["n"]
        if number in self.failures:
            raise GatewayError(ErrorCode.REDIS_UNAVAILABLE) from self.failures[number]
        self.taken.append(number)

    def replayer(self, journal: Journal) -> JournalReplayer:
        return JournalReplayer(journal, {"settle": self.take, "release": self.take}, frozenset({"release"}))


async def test_what_is_noted_is_on_disk_until_it_is_done(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        await journal.note([entry(1), entry(2)])
        await journal.note([entry(3), entry(2)])
        assert ["settle ticket-1", "settle ticket-2", "settle ticket-3"] == kept(tmp_path)
        journal.done("settle ticket-2")
        journal.done("settle ticket-9")
        await journal.note([entry(4)])
        assert ["settle ticket-1", "settle ticket-3", "settle ticket-4"] == kept(tmp_path)
        for number in (1, 3, 4):
            journal.done(f"settle ticket-{number}")
        await journal.start()
        [path] = files_of(tmp_path)
        assert 0 == path.stat().st_size
        await journal.note([entry(5)])
        assert ["settle ticket-5"] == kept(tmp_path)
        journal.done("settle ticket-5")
    assert [] == files_of(tmp_path)


async def test_many_at_once_are_all_on_disk_when_their_notes_return(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:

        async def note(number: int) -> bool:
            await journal.note([entry(number)])
            return f"settle ticket-{number}" in kept_now()

        def kept_now() -> str:
            return b"\n".join(path.read_bytes() for path in files_of(tmp_path)).decode().replace('","id":"', " ")

        assert all(await asyncio.gather(*(note(number) for number in range(200))))


async def test_a_note_that_is_cancelled_is_written_all_the_same(tmp_path: Path) -> None:
    async with opened(tmp_path) as journal:
        task = asyncio.ensure_future(journal.note([entry(1)]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        await journal.start()
        assert ["settle ticket-1"] == kept(tmp_path)


async def test_what_is_noted_before_the_end_is_written_when_the_disk_was_slow(tmp_path: Path) -> None:
    """The end does not wait for it."""
    journal = Journal(tmp_path, REDIS)
    await journal.note([entry(1)])
    slow = journal._writer.submit(time.sleep, 3)
    await journal.note([entry(2)])
    assert not slow.done()
    await journal.close()
    await asyncio.to_thread(journal._writer.shutdown)
    assert ["settle ticket-1", "settle ticket-2"] == kept(tmp_path)


async def test_a_directory_that_cannot_be_made_is_logged_once_and_used_when_it_can(tmp_path: Path, log: Log) -> None:
    (tmp_path / "taken").write_text("")
    async with opened(tmp_path / "taken" / "journal") as journal:
        for number in range(5):
            await journal.note([entry(number)])
        assert ["journal_failed"] == events(log)
        assert not journal.holds("settle ticket-0")
        journal.done("settle ticket-2")
        (tmp_path / "taken").unlink()
        await journal.start()
        assert [f"settle ticket-{number}" for number in (0, 1, 3, 4)] == kept(tmp_path / "taken" / "journal")
    assert ["journal_failed", "journal_restored"] == events(log)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full behind that: a write is cut short, then fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_disk_that_is_full_costs_nothing_of_what_was_written_before_nor_comes_after(
    tmp_path: Path, log: Log
) -> None:
    async with opened(tmp_path) as journal:
        await journal.note([entry(1)])
        [path] = files_of(tmp_path)
        with files_of_at_most(path.stat().st_size + 20):
            await journal.note([entry(2)])
            await journal.note([entry(3)])
        assert ["settle ticket-1"] == kept(tmp_path)
        await journal.note([entry(4)])
        assert [f"settle ticket-{number}" for number in (1, 2, 3, 4)] == kept(tmp_path)
    assert ["journal_failed", "journal_restored"] == events(log)


async def test_a_journal_has_a_bound_and_logs_once_that_it_is_full(tmp_path: Path, log: Log) -> None:
    async with opened(tmp_path, max_bytes=4096) as journal:
        for number in range(100):
            await journal.note([entry(number, text="x" * 200)])
        [path] = files_of(tmp_path)
        assert 3000 < path.stat().st_size <= 4096
        assert ["journal_full"] == events(log)
        for key in kept(tmp_path):
            journal.done(key)
        await journal.note([entry(200)])
        assert ["settle ticket-200"] == kept(tmp_path)


async def test_without_a_directory_there_is_no_journal(tmp_path: Path) -> None:
    journal, acts = Journal(), Acts()
    await journal.start()
    await journal.note([entry(1)])
    assert not journal.wants("settle ticket-1")
    await acts.replayer(journal).replay()
    await journal.close()
    assert [] == acts.taken


async def left(directory: Path, *entries: Entry, redis_id: str = REDIS) -> Path:
    """The file of a process that ended with these."""
    async with opened(directory, redis_id) as journal:
        await journal.note(entries)
        [path] = journal.files()
    return path


async def test_what_a_dead_process_left_is_replayed_once_and_its_file_goes(tmp_path: Path) -> None:
    acts = Acts()
    await left(tmp_path, *map(entry, range(3)))
    async with opened(tmp_path) as one, opened(tmp_path) as other:
        await asyncio.gather(*(acts.replayer(journal).replay() for journal in (one, other)))
        assert [0, 1, 2] == sorted(acts.taken)
        assert [] == kept(tmp_path)
        assert 2 == len(files_of(tmp_path))


async def test_a_living_process_keeps_its_own(tmp_path: Path) -> None:
    acts = Acts()
    async with opened(tmp_path) as living, opened(tmp_path) as other:
        await living.note([entry(1), entry(2, "release")])
        await acts.replayer(other).replay()
        assert [] == acts.taken
        await acts.replayer(living).replay()
        assert [2] == acts.taken, "its settlements are its requests' affair"
        await living.start()
        assert ["settle ticket-1"] == kept(tmp_path)


async def test_a_replay_that_redis_cuts_off_goes_on_where_it_was(tmp_path: Path) -> None:
    acts = Acts()
    acts.failures = {2: CallNotStartedError()}
    path = await left(tmp_path, *map(entry, range(4)))
    async with opened(tmp_path) as journal:
        replayer = acts.replayer(journal)
        await replayer.replay()
        assert ["settle ticket-2", "settle ticket-3"] == list(_read(path))
        await replayer.replay()
        assert [0, 1, 3] == acts.taken, "it begins with another"
        acts.failures = {}
        await replayer.replay()
        assert ([0, 1, 3, 2], False) == (acts.taken, path.exists())


async def test_an_entry_that_cannot_be_settled_keeps_no_other(tmp_path: Path) -> None:
    acts = Acts()
    acts.failures = {1: ResponseError("WRONGTYPE")}
    path = await left(tmp_path, *map(entry, range(4)))
    async with opened(tmp_path) as journal:
        await acts.replayer(journal).replay()
        assert ([0, 2, 3], ["settle ticket-1"]) == (acts.taken, list(_read(path)))


@pytest.mark.parametrize("damage", [b"", b"0000", b"deadbeef {}\n", b"\0" * 4096, b"x" * 100 + b"\n"])
async def test_damaged_lines_are_skipped_and_logged(tmp_path: Path, log: Log, damage: bytes) -> None:
    acts = Acts()
    path = await left(tmp_path, entry(1), entry(2))
    first, second, _ = path.read_bytes().split(b"\n")
    path.write_bytes(first + b"\n" + (damage.rstrip(b"\n") + b"\n" if damage else b"") + second + b"\n" + first[:30])
    async with opened(tmp_path) as journal:
        await acts.replayer(journal).replay()
    assert ([1, 2], False) == (acts.taken, path.exists())
    [line] = [json.loads(line) for line in log.text.splitlines() if "journal_damaged" in line]
    assert 1 + bool(damage) == line["lines"]


async def test_entries_of_another_version_are_logged_and_keep_no_other(tmp_path: Path, log: Log) -> None:
    acts = Acts()
    await left(tmp_path, entry(1, "unheard_of"), entry(2))
    async with opened(tmp_path) as journal:
        await acts.replayer(journal).replay()
    assert ([2], []) == (acts.taken, files_of(tmp_path))
    assert 1 == events(log).count("journal_entry_unsupported")


async def test_what_is_for_another_redis_is_left_alone_and_said(tmp_path: Path, log: Log) -> None:
    acts = Acts()
    path = await left(tmp_path, entry(1), redis_id="ffffffffffff")
    async with opened(tmp_path) as journal:
        task: asyncio.Task[Any] = asyncio.ensure_future(acts.replayer(journal).run())
        while "journal_of_other_redis" not in log.text:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task})
    assert ([], True) == (acts.taken, path.exists())


async def test_files_that_are_not_the_gateways_own_are_not_read(tmp_path: Path, log: Log) -> None:
    """Whoever can write into the directory must not settle anything."""
    acts, foreign = Acts(), tmp_path / "elsewhere"
    foreign.mkdir()
    path = await left(foreign, entry(1))
    directory = tmp_path / "journal"
    directory.mkdir()
    (directory / path.name).symlink_to(path)
    async with opened(directory) as journal:
        replayer = acts.replayer(journal)
        for _ in range(3):
            await replayer.replay()
    assert ([], ["journal_unreadable"]) == (acts.taken, events(log))
