"""Which open batches a worker looks at next."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class BatchTurns:
    """Turns of tenants, and of the batches of each. However many one tenant has, it delays no other tenant."""

    _round: int = 0
    _taken: dict[tuple[str, str], int] = field(default_factory=dict)
    """The last round of each batch."""

    def take(self, batches: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
        """Returns up to `count` of these batches, each a tenant and an ID: one of each tenant, then a second of each.

        Those that were not taken for longest are chosen. Of the chosen ones of a tenant, the first ones come first.
        """
        self._round += 1
        taken = {batch: self._taken.get(batch, 0) for batch in batches}
        chosen = _interleave(sorted(batches, key=taken.__getitem__))[:count]
        self._taken = taken | dict.fromkeys(chosen, self._round)
        tenants = list(dict.fromkeys(tenant for tenant, _ in batches))
        start = self._round % max(1, len(tenants))
        turn = {tenant: index for index, tenant in enumerate(tenants[start:] + tenants[:start])}
        found = set(chosen)
        return _interleave(sorted((batch for batch in batches if batch in found), key=lambda batch: turn[batch[0]]))


def _interleave(batches: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Orders batches by their place among those of their tenant, and else as they are."""
    counts, places = Counter[str](), {}
    for batch in batches:
        places[batch] = counts[batch[0]]
        counts[batch[0]] += 1
    return sorted(batches, key=places.__getitem__)
