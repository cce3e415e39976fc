"""Everything of administration on a Redis Cluster: the keys of one script stand in one slot, others anywhere."""

import asyncio
from dataclasses import replace

import anyio
import pytest

from gateway.domain.errors import ErrorCode
from gateway.domain.tenants import Limits
from tests.support.administering import OPS, Stores, declared, generate_api_key, storing

pytestmark = pytest.mark.anyio

NAMES = [f"tenant-{number}" for number in range(12)]
"""Enough that every node has some."""


async def test_tenants_and_keys_live_as_on_one_server(redis_cluster: str) -> None:
    async with storing(redis_cluster) as stores, storing(redis_cluster) as other:
        await asyncio.gather(*(stores.tenant(name) for name in NAMES))
        made = [await stores.key(name) for name in NAMES]
        assert [None] * 12 == [await other.fault_of(key.secret) for key in made]
        assert sorted(NAMES) == [tenant.name for tenant in await other.tenants.list_tenants()]
        await stores.tenants.update(NAMES[0], lambda had: replace(had, limits=Limits(5)), OPS)
        rotated = [await stores.keys.rotate(key.key.id, 60, OPS) for key in made]
        for key in rotated[:3]:
            await stores.keys.revoke(key.key.id, OPS)
        later = [await stores.fault_of(key.secret) for key in made]
        assert [ErrorCode.INVALID_API_KEY] * 3 + [None] * 9 == later
        assert 12 + 12 + 1 + 12 + 3 == len(await stores.audit())
        assert [key.key.id for key in made[3:]] == [(await stores.keys.list_keys(name))[0].id for name in NAMES[3:]]


async def test_a_declaration_is_applied_by_many_processes_at_once(redis_cluster: str) -> None:
    secrets = {name: generate_api_key() for name in NAMES}
    wanted = [declared(name, [secret]) for name, secret in secrets.items()]
    async with storing(redis_cluster) as one, storing(redis_cluster) as other:
        await asyncio.gather(*(stores.declaration(*wanted).apply() for stores in (one, other) * 3))
        assert [None] * 12 == [await one.fault_of(secret) for secret in secrets.values()]
        assert 24 == len(await one.audit())
        await one.declaration(*wanted[1:]).apply()
        assert ErrorCode.INVALID_API_KEY is await one.fault_of(secrets[NAMES[0]])


async def test_a_message_revokes_at_once_in_other_processes(redis_cluster: str) -> None:
    """The clock of the cache stands still, so only the message can have done it."""
    async with (
        storing(redis_cluster, monotonic=lambda: 0.0) as stores,
        storing(redis_cluster) as other,
        anyio.create_task_group() as group,
    ):
        group.start_soon(stores.credentials.listen)
        for name in NAMES[:4]:
            await other.tenant(name)
            with anyio.fail_after(20):
                while not await is_heard(name, stores, other):
                    pass
        group.cancel_scope.cancel()


async def is_heard(name: str, stores: Stores, other: Stores) -> bool:
    """Whether a key that is in one process's cache ends there when the other revokes it."""
    made = await other.key(name)
    assert None is await stores.fault_of(made.secret)
    await other.keys.revoke(made.key.id, OPS)
    with anyio.move_on_after(1):
        while await stores.fault_of(made.secret) is None:  # noqa: ASYNC110 - seen from outside only
            await anyio.sleep(0.005)
        return True
    return False
