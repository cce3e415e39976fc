"""The configuration of a gateway that runs: read whole, then put in the place of the one in force.

Invariant: what is wrong anywhere is taken over nowhere. A request under way keeps the model and the upstream it found.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.app.admin import read_declared
from gateway.config import Settings
from gateway.config.upstream_set import build_catalog, build_supply
from gateway.domain.accounts import Pool
from gateway.domain.catalog import Catalog
from gateway.generation.upstreams import UpstreamSet
from gateway.tenants.provisioning import ProvisionedTenant

RELOADED: Final = ("upstreams", "models", "tenants")
"""The settings that a running process takes over; the others need a restart."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that can be taken over, secrets included."""

    settings: Settings
    catalog: Catalog
    supply: UpstreamSet
    tenants: tuple[ProvisionedTenant, ...]


def read_configuration(settings: Settings, environ: Mapping[str, str]) -> Configuration:
    """What settings mean, with the secrets as they are now. Raises: SettingsError."""
    catalog = build_catalog(settings)
    declared = tuple(read_declared(settings, environ, catalog))
    return Configuration(settings, catalog, build_supply(settings, environ), declared)


@dataclass(frozen=True, slots=True)
class ReloadTargets:
    """The parts of a running program that a configuration is in force in."""

    catalog: Catalog
    declare_accounts: Callable[[Sequence[Pool]], Awaitable[None]]
    configure_upstreams: Callable[[UpstreamSet], None]
    declare_tenants: Callable[[Sequence[ProvisionedTenant]], Awaitable[None]]

    async def take_over(self, configuration: Configuration) -> None:
        """Put it in force. An upstream is known before a model points to it, and tenants come when their models do.

        Addresses come before their accounts: a key that goes may be sent to the new one, but no new key to the old one.
        Raises: GatewayError REDIS_UNAVAILABLE, and models and tenants are as they were.
        """
        self.configure_upstreams(configuration.supply)
        await self.declare_accounts(configuration.supply.pools)
        self.catalog.take_over(configuration.catalog)
        await self.declare_tenants(configuration.tenants)
