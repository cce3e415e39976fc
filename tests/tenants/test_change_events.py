"""Events of changes: written in the same step as their audit entry."""

import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.domain.errors import GatewayError
from gateway.domain.tenants import ApiKey, Limits, Quotas
from gateway.redis import execute
from tests.support.administering import OPS, Stores, storing

pytestmark = pytest.mark.anyio


async def events(stores: Stores) -> list[tuple[str, dict[str, Any]]]:
    entries = await execute(stores.redis, stores.redis.xrange("ig3:{acme}:events"), list[tuple[str, dict[str, str]]])
    return [(fields["type"], json.loads(fields["data"])) for _, fields in entries]


async def test_a_raised_quota_and_other_limits_are_told_apart(redis_url: str) -> None:
    async with storing(redis_url) as stores:
        await stores.tenant(quotas=Quotas(5, 50, 2_000_000), limits=Limits(9))
        assert [] == await events(stores)
        quotas = Quotas(6, None, 1_500_000, 7_000_000)
        await stores.tenants.update("acme", lambda tenant: replace(tenant, quotas=quotas), OPS)
        about = {"tenant": "acme", "by": "ops"}
        raised = {"before": {"images_per_day": 5, "images_per_month": 50}}
        raised["after"] = {"images_per_day": 6, "images_per_month": None}  # type: ignore[dict-item]
        changed = {"before": {"soft_usd_per_month": None, "usd_per_month": "2.00"}}
        changed["after"] = {"soft_usd_per_month": "7.00", "usd_per_month": "1.50"}
        assert [("quota.raised", about | raised), ("limits.changed", about | changed)] == await events(stores)


async def test_a_new_quota_raises_nothing_and_a_change_of_none_emits_nothing(redis_url: str) -> None:
    async with storing(redis_url) as stores:
        await stores.tenant()
        await stores.tenants.update("acme", lambda tenant: replace(tenant, weight=7), OPS)
        assert [] == await events(stores)
        await stores.tenants.update("acme", lambda tenant: replace(tenant, quotas=Quotas(5)), OPS)
        assert ["limits.changed"] == [kind for kind, _ in await events(stores)]


async def test_keys_that_are_rotated_and_revoked_are_named_and_not_shown(redis_url: str) -> None:
    async with storing(redis_url) as stores:
        await stores.tenant()
        made = await stores.keys.create(ApiKey("", "acme", "web shop", 0), OPS)
        new = await stores.keys.rotate(made.key.id, 60, OPS)
        await stores.keys.revoke(made.key.id, OPS)
        found = await events(stores)
        assert ["key.rotated", "key.revoked"] == [kind for kind, _ in found]
        about = {"tenant": "acme", "key_id": made.key.id, "by": "ops", "label": "web shop"}
        assert [about | {"old_secret_until": new.key.old_secret_until}, about] == [data for _, data in found]
        assert made.secret not in str(found)
        assert new.secret not in str(found)


async def test_a_change_that_is_not_made_emits_nothing(redis_url: str) -> None:
    async with storing(redis_url) as stores:
        await stores.tenant()
        with pytest.raises(GatewayError):
            await stores.keys.revoke("unknown000", OPS)
        assert [] == await events(stores)
