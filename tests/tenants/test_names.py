"""Renaming tenants: the ID stays, and every name a tenant ever had leads to it alone."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.tenants import Tenant
from gateway.tenants.names import TenantNames
from tests.support.administering import OPS, Stores, declared, generate_api_key, storing

pytestmark = pytest.mark.anyio


def named(name: str) -> Callable[[Tenant], Tenant]:
    return lambda tenant: replace(tenant, renamed_to="" if name == tenant.name else name)


async def rename(stores: Stores, tenant_id: str, name: str) -> None:
    await stores.tenants.claim(name, tenant_id)
    await stores.tenants.update(tenant_id, named(name), OPS)


async def resolved(stores: Stores, name: str) -> str:
    """Returns the ID of a name, or the message of its refusal."""
    try:
        return await TenantNames(stores.redis).resolve(name)
    except GatewayError as error:
        return error.detail


async def test_each_name_leads_to_the_tenant_and_only_the_last_is_accepted(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant("acme")
        assert "acme" == await resolved(stores, "acme")
        await rename(stores, "acme", "design")
        assert "acme" == await resolved(stores, "design")
        assert "The tenant 'acme' was renamed. Its name is 'design'." == await resolved(stores, "acme")
        await rename(stores, "acme", "studio")
        assert "acme" == await resolved(stores, "studio")
        for former in ("acme", "design"):
            assert f"The tenant '{former}' was renamed. Its name is 'studio'." == await resolved(stores, former)
        await rename(stores, "acme", "acme")
        assert "acme" == await resolved(stores, "acme")
        assert "The tenant 'design' was renamed. Its name is 'acme'." == await resolved(stores, "design")
        assert {} == await TenantNames(stores.redis).all_current()
        assert ["tenant.create", *["tenant.rename"] * 3] == [action for _, action in await stores.actions()]


async def test_a_rename_that_was_interrupted_has_not_happened_and_can_be_repeated(each_redis: str) -> None:
    async with storing(each_redis) as stores:
        await stores.tenant("acme")
        await stores.tenants.claim("design", "acme")  # and the process dies
        assert "acme" == await resolved(stores, "acme")
        assert "The tenant 'design' was renamed. Its name is 'acme'." == await resolved(stores, "design")
        await rename(stores, "acme", "design")
        assert "acme" == await resolved(stores, "design")
        assert {"acme": "design"} == await TenantNames(stores.redis).all_current()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop", "A tenant named 'shop' exists already."),
        ("atelier", "A tenant named 'atelier' exists already."),
        (
            "gallery",
            "The tenant 'gallery' was renamed. Its name is 'atelier'. A former name cannot be given to another tenant.",
        ),
    ],
)
async def test_a_name_of_another_tenant_is_refused(each_redis: str, name: str, message: str) -> None:
    async with storing(each_redis) as stores:
        for tenant in ("acme", "shop", "gallery"):
            await stores.tenant(tenant)
        await rename(stores, "gallery", "atelier")
        for attempt in (rename(stores, "acme", name), stores.tenant(name)):
            with pytest.raises(GatewayError) as refused:
                await attempt
            assert (ErrorCode.CONFLICT, message) == (refused.value.error_code, refused.value.detail)
        assert "acme" == await resolved(stores, "acme")


async def test_of_many_at_once_one_tenant_gets_the_name(each_redis: str) -> None:
    async with storing(each_redis) as one, storing(each_redis) as other:
        for number in range(8):
            await one.tenant(f"team-{number}")
        renames = [rename((one, other)[number % 2], f"team-{number}", "design") for number in range(8)]
        creations = [stores.tenant("design") for stores in (one, other)]
        outcomes = await asyncio.gather(*renames, *creations, return_exceptions=True)
        assert 1 == sum(not isinstance(outcome, GatewayError) for outcome in outcomes)
        shown = [tenant.current_name for tenant in await one.tenants.list_tenants()]
        assert 1 == shown.count("design")


async def test_a_renamed_tenant_is_declared_by_any_of_its_names(each_redis: str) -> None:
    """A configuration with the former name, and later one with the new name, change neither tenant nor keys."""
    secret = generate_api_key()
    async with storing(each_redis) as stores:
        await stores.declaration(declared("acme", [secret])).apply()
        await rename(stores, "acme", "design")
        for name in ("acme", "design"):
            await stores.declaration(declared(name, [secret])).apply()
            tenant = (await stores.credentials.identify(f"Bearer {secret}")).tenant
            assert ("acme", "design", False) == (tenant.name, tenant.current_name, tenant.is_disabled)
        assert ["acme"] == [tenant.name for tenant in await stores.tenants.list_tenants()]
        actions = [action for _, action in await stores.actions()]
        assert ["tenant.create", "key.create", "tenant.rename"] == actions
