"""When a batch will have ended, from what waits and from what the accounts can make."""

import math
from dataclasses import dataclass
from typing import Final

from gateway.domain.catalog import Catalog
from gateway.domain.errors import GatewayError
from gateway.jobs.batches import Batch, BatchStatus, BatchStore
from gateway.scheduler import Scheduler

_AHEAD_MAX: Final = 50
"""Limit on the older batches that are counted."""


@dataclass(frozen=True, slots=True)
class BatchForecast:
    """Forecasts the ends of batches, as if no interactive request came and no quota were used up."""

    store: BatchStore
    scheduler: Scheduler
    catalog: Catalog

    async def eta_s(self, batch: Batch) -> int | None:
        """Returns the seconds until all lines have run; None if unknown: not validated, ended, or no usable account.

        Redis: two round trips and one for each open batch before it and for each upstream of the model.
        """
        model = self.catalog.find(batch.model) if batch.model else None
        if model is None or batch.status is not BatchStatus.IN_PROGRESS:
            return None
        try:
            images = await self._waiting(batch)
            rates = [
                await self.scheduler.images_per_minute(upstream, name, 1)
                for upstream, name in dict.fromkeys((target.upstream, target.model) for target in model.targets)
            ]
        except GatewayError:
            return None
        return math.ceil(images * 60 / sum(rates)) if sum(rates) else None

    async def _waiting(self, batch: Batch) -> int:
        """Returns the images that the batch and older ones of its model still wait for."""
        found = [batch]
        for tenant, batch_id in (await self.store.open_batches())[:_AHEAD_MAX]:
            if batch_id == batch.id:
                break
            if (other := await self.store.find(tenant, batch_id)) and other.model == batch.model:
                found.append(other)
        return sum(math.ceil(one.images * (1 - (one.completed + one.failed) / one.total)) for one in found if one.total)
