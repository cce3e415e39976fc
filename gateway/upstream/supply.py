"""What images are made with: where the upstreams are, which accounts they have, how long requests wait there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gateway.domain.keys import Pool, UpstreamKey, WaitTerms
from gateway.upstream.endpoints import Endpoint


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
        """Together with what was there before: who came with the models of then still finds their upstreams."""
        return replace(self, endpoints={**former.endpoints, **self.endpoints}, waits={**former.waits, **self.waits})

    def shared_keys(self) -> list[tuple[UpstreamKey, ...]]:
        """Keys of one secret that stand in several accounts: the provider's limits of it are counted twice."""
        by_secret: dict[str, list[UpstreamKey]] = {}
        for key in self.keys:
            by_secret.setdefault(key.secret.reveal(), []).append(key)
        return [tuple(same) for same in by_secret.values() if len({(key.upstream, key.account) for key in same}) > 1]
