"""The upstreams of one configuration: addresses, accounts and maximum waits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gateway.domain.accounts import Pool, ProviderKey, WaitConfig
from gateway.generation.transport.proxies import ProxyRules
from gateway.providers.links import LinkPolicy
from gateway.providers.protocol import Provider


@dataclass(frozen=True, slots=True)
class UpstreamEndpoint:
    """Address and protocol of one upstream."""

    name: str
    provider: Provider
    base_url: str
    links: LinkPolicy
    proxies: ProxyRules = field(default_factory=ProxyRules)
    """Of its calls, key checks and downloads."""


@dataclass(frozen=True, slots=True)
class UpstreamSet:
    """All upstreams of one configuration by name, with secrets."""

    endpoints: Mapping[str, UpstreamEndpoint]
    pools: tuple[Pool, ...]
    waits: Mapping[str, WaitConfig]

    @property
    def keys(self) -> tuple[ProviderKey, ...]:
        return tuple(key for pool in self.pools for account in pool.accounts for key in account.keys)

    def after(self, former: "UpstreamSet") -> "UpstreamSet":
        """Adds former upstreams, for requests that still use former models."""
        return replace(self, endpoints={**former.endpoints, **self.endpoints}, waits={**former.waits, **self.waits})

    def shared_keys(self) -> list[tuple[ProviderKey, ...]]:
        """Returns keys with the same secret in several accounts: the provider's limits would count twice."""
        by_secret: dict[str, list[ProviderKey]] = {}
        for key in self.keys:
            by_secret.setdefault(key.secret.plaintext, []).append(key)
        return [tuple(same) for same in by_secret.values() if len({(key.upstream, key.account) for key in same}) > 1]
