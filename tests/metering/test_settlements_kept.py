"""What is remembered of settlements that Redis did not confirm, or forgot, and what is said of those that are lost."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
import pytest
import redis as sync_redis

from gateway.domain.errors import ERROR_SPECS, ErrorCode
from gateway.metering.admission import Admission
from gateway.metering.reservations import SETTLE, Reservation, ReservationOutcome
from gateway.redis import Client
from gateway.redis.journal import Journal
from gateway.redis.journal_file import files_of
from tests.support.admissions import admitted, buy, connected, ledger
from tests.support.admitting import admitting, put_tenant
from tests.support.logging_aside import Log, logging_aside

pytestmark = pytest.mark.anyio

DAYS_S = 86_400


@pytest.fixture
def log() -> Iterator[Log]:
    with logging_aside() as log:
        yield log


def lost(log: Log) -> list[str]:
    lines = [json.loads(line) for line in log.text.splitlines()]
    return [line["calls"] for line in lines if line["event"] == "settlement_lost"]


async def settled_again(admission: Admission) -> None:
    """After an outage, by the companion that the program has."""
    admission.mark_data_suspect()
    async with anyio.create_task_group() as group:
        group.start_soon(admission.run)
        with anyio.fail_after(20):
            while admission._was_unavailable or admission._unsettled or admission._lost._suspects:  # noqa: ASYNC110 - none
                await asyncio.sleep(0.05)
        group.cancel_scope.cancel()


async def forget_ticket(redis: Client, reservation: Reservation) -> None:
    """As Redis does 15 minutes after the settlement."""
    assert 1 == await redis.delete(f"ig3:{{acme}}:reservation:{reservation.id}")


async def test_a_settlement_whose_ticket_has_run_out_is_not_called_lost(redis_url: str, log: Log) -> None:
    """The process was cut off for longer than Redis keeps settled tickets; the bill has them."""
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        for _ in range(3):
            await forget_ticket(redis, await buy(admission, caller, 2))
        await settled_again(admission)
        assert (3, []) == (len(await ledger(redis)), lost(log))
        assert {} == admission._unsettled


async def test_a_settlement_that_redis_lost_with_its_admission_is_called_lost_once(redis_url: str, log: Log) -> None:
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        await forget_ticket(redis, await buy(admission, caller, 2))
        gone = await buy(admission, caller, 3)
        await forget_ticket(redis, gone)
        [stream] = await redis.keys("*:ledger:*")
        [(entry, _)] = [(name, fields) for name, fields in await ledger(redis) if fields["reservation"] == gone.id]
        await redis.xdel(stream, entry)
        await settled_again(admission)
        await settled_again(admission)
    assert ["sim/main:3,0,0,0"] == lost(log)


async def test_what_expiry_has_settled_may_be_corrected_for_a_week(redis_url: str) -> None:
    """By a journal that is replayed; what the process itself has settled is corrected within 15 minutes, or never."""
    async with connected(redis_url) as redis:
        dead, caller = admitting(redis, lease_s=0.1), await put_tenant(redis)
        held = admitted(dead, caller, 3)
        reservation = await held.__aenter__()
        (await reservation.mark_sent("sim", "main", 3)).share.deliver(3, 3, 0)
        await asyncio.sleep(0.2)
        await dead.settle_expired("acme", reservation.id)
        kept_s = await redis.ttl(f"ig3:{{acme}}:reservation:{reservation.id}")
        assert 7 * DAYS_S - 60 < kept_s <= 7 * DAYS_S
        reservation.tally.close()
        body = msgspec.Raw(msgspec.json.encode(ReservationOutcome.of(reservation, dead._terms.rule)))
        for _ in range(2):
            await admitting(redis).replay(body)
        [(_, line)] = await ledger(redis)
        usage = await dead.usage("acme")
        assert 800 < await redis.ttl(f"ig3:{{acme}}:reservation:{reservation.id}") <= 900
        await held.__aexit__(None, None, None)
    assert usage is not None
    assert ("delivered", "3", 3, 0) == (line["outcome"], line["delivered"], usage.images_today, usage.open_requests)


async def test_only_what_expiry_would_not_know_is_journaled(redis_url: str, tmp_path: Path) -> None:
    """Not what ordered nothing, which is free either way; a refusal is, which expiry would charge."""
    journal = Journal(tmp_path, "redis")
    await journal.start()
    async with connected(redis_url, 0.3) as redis:
        admission, caller = admitting(redis, journal=journal), await put_tenant(redis)
        with sync_redis.Redis.from_url(redis_url) as other:
            async with admitted(admission, caller), admitted(admission, caller) as refused:
                share = (await refused.mark_sent("sim", "main", 1)).share
                assert share.fail(1, ERROR_SPECS[ErrorCode.CONTENT_INPUT])
                other.client_pause(1500)
        assert [refused.id] == [entry.id for entry in journal.entries(SETTLE)]
        await asyncio.sleep(1.5)
        await admission.flush()
        assert [] == journal.entries(SETTLE)
    await journal.close()
    assert [] == files_of(tmp_path)


async def test_a_settlement_that_is_cancelled_is_journaled(redis_url: str, tmp_path: Path) -> None:
    """The end of a program cuts requests short, also while they wait for Redis."""
    journal = Journal(tmp_path, "redis")
    await journal.start()
    async with connected(redis_url, 5.0) as redis:
        admission, caller = admitting(redis, journal=journal), await put_tenant(redis)
        is_sent = asyncio.Event()

        async def ask() -> None:
            async with admitted(admission, caller) as reservation:
                (await reservation.mark_sent("sim", "main", 1)).share.deliver(1, 1, 0)
                is_sent.set()
                with sync_redis.Redis.from_url(redis_url) as other:
                    other.client_pause(1000)

        task = asyncio.ensure_future(ask())
        await is_sent.wait()
        await asyncio.sleep(0.1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        [entry] = journal.entries(SETTLE)
        assert "delivered" == msgspec.json.decode(entry.body, type=ReservationOutcome).settlement
        [path] = files_of(tmp_path)
        assert entry.id in path.read_text()
        await admission.flush()
    await journal.close()


async def test_what_was_settled_shortly_before_an_outage_is_journaled_while_it_lasts(
    redis_url: str, tmp_path: Path
) -> None:
    """A replica that takes over may lack it, and this process may be killed meanwhile."""
    journal = Journal(tmp_path, "redis")
    await journal.start()
    async with connected(redis_url, 0.2) as redis:
        admission, caller = admitting(redis, journal=journal), await put_tenant(redis)
        reservation = await buy(admission, caller, 2)
        assert [] == journal.entries(SETTLE)
        with sync_redis.Redis.from_url(redis_url) as other:
            other.client_pause(2000)
        async with anyio.create_task_group() as group:
            group.start_soon(admission.run)
            admission.mark_data_suspect()
            admission._unsettled[reservation.id] = reservation  # something is owed, so it sees that Redis is away
            with anyio.fail_after(20):
                while not journal.entries(SETTLE):  # noqa: ASYNC110 - it tells nobody
                    await asyncio.sleep(0.05)
                while journal.entries(SETTLE):  # noqa: ASYNC110 - likewise
                    await asyncio.sleep(0.05)
            group.cancel_scope.cancel()
        assert 1 == len(await ledger(redis))
    await journal.close()
