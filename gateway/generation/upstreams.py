"""The upstreams of one configuration: addresses, accounts, and how long requests wait for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.domain.accounts import Pool, UpstreamKey, WaitTerms
from gateway.providers.links import LinkPolicy
from gateway.providers.protocol import Provider


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address and the protocol of one upstream."""

    name: str
    dialect: Provider
    base_url: str
    links: LinkPolicy


@dataclass(frozen=True, slots=True)
class Supply:
    """All upstreams of one configuration, by name; secrets included."""

    endpoints: Mapping[str, Endpoint]
    pools: tuple[Pool, ...]
    waits: Mapping[str, WaitTerms]

    @property
    def keys(self) -> tuple[UpstreamKey, ...]:
        return tuple(key for pool in self.pools for account in pool.accounts for key in account.keys)

    def after(self, former: "Supply") -> "Supply":
        """Adds the former upstreams: requests with former models still find theirs."""
        return replace(self, endpoints={**former.endpoints, **self.endpoints}, waits={**former.waits, **self.waits})

    def shared_keys(self) -> list[tuple[UpstreamKey, ...]]:
        """Keys with the same secret in several accounts: the gateway would count the provider's limits twice."""
        by_secret: dict[str, list[UpstreamKey]] = {}
        for key in self.keys:
            by_secret.setdefault(key.secret.reveal(), []).append(key)
        return [tuple(same) for same in by_secret.values() if len({(key.upstream, key.account) for key in same}) > 1]
