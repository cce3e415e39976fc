"""Applies a new configuration to a running gateway.

Invariant: an invalid configuration changes nothing. An in-flight request uses the model and upstream that it found.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config.resolve import Config
from gateway.domain.accounts import Pool
from gateway.domain.catalog import Catalog
from gateway.generation.upstreams import UpstreamSet
from gateway.tenants.provisioning import ProvisionedTenant

RELOADED: Final = ("upstreams", "models", "tenants")
"""The settings that a running process applies; the others require a restart."""


@dataclass(frozen=True, slots=True)
class ReloadTargets:
    """The parts of a running program that a reload updates."""

    catalog: Catalog
    declare_accounts: Callable[[Sequence[Pool]], Awaitable[None]]
    configure_upstreams: Callable[[UpstreamSet], None]
    declare_tenants: Callable[[Sequence[ProvisionedTenant]], Awaitable[None]]
    note_reload: Callable[[str], Awaitable[None]]
    """Takes the reason for which a changed configuration was refused; empty if it was accepted."""
    show: Callable[[Config], None]
    """Takes the configuration that is in force."""

    async def apply(self, config: Config) -> None:
        """Applies upstreams before the models that use them, and models before the tenants that may use them.

        Addresses precede their accounts: a removed key may be sent to the new address, but no new key to the old one.
        Raises: GatewayError REDIS_UNAVAILABLE; models and tenants are then unchanged.
        """
        self.configure_upstreams(config.upstreams)
        await self.declare_accounts(config.upstreams.pools)
        self.catalog.take_over(config.catalog)
        await self.declare_tenants(config.tenants)
        self.show(config)
