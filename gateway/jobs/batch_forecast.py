"""When a batch will have ended, from what waits and from what the accounts can make."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from gateway.domain.catalog import Catalog, Model, Target
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
    measured_s: Callable[[Target, int], float | None]
    """Returns the usual duration of a call for a number of images; None before this process has made one."""
    tenant_lines_max: int
    """Lines of a tenant that run at one time."""

    async def eta_s(self, batch: Batch) -> int | None:
        """Returns the seconds until all lines have run; None if unknown.

        Unknown: not validated, ended, no usable account, or no call of its kind has succeeded yet.
        It never raises: a forecast that fails is unknown too.

        It is the longer of two times: that in which the accounts make the images of this and older batches of the
        model, and that in which the tenant's lines of this and older batches run, side by side.
        Redis: two round trips and one for each open batch before it and for each upstream of the model.
        """
        model = self.catalog.find(batch.model) if batch.model else None
        if model is None or batch.status is not BatchStatus.IN_PROGRESS:
            return None
        try:
            return await self._forecast_s(batch, model)
        except (GatewayError, ArithmeticError, ValueError):  # also of another batch's record
            return None

    async def _forecast_s(self, batch: Batch, model: Model) -> int | None:
        found = await self._with_older(batch)
        rates = [
            await self.scheduler.images_per_minute(upstream, name, 1)
            for upstream, name in dict.fromkeys((target.upstream, target.model) for target in model.targets)
        ]
        if not sum(rates):
            return None
        images = sum(math.ceil(_waiting(one) * one.images / one.total) for one in found if one.model == batch.model)
        of_tenant = [one for one in found if one.tenant == batch.tenant and _waiting(one)]
        lines_s = sum(_waiting(one) * self._line_s(one) for one in of_tenant)
        last_s = self._line_s(batch) if _waiting(batch) else 0.0
        return math.ceil(max(images * 60 / sum(rates), lines_s / self.tenant_lines_max, last_s))

    async def _with_older(self, batch: Batch) -> list[Batch]:
        """Returns the batch and the older ones, whose lines run first."""
        found = [batch]
        for tenant, batch_id in (await self.store.open_batches())[:_AHEAD_MAX]:
            if batch_id == batch.id:
                break
            if (other := await self.store.find(tenant, batch_id)) and other.total:
                found.append(other)
        return found

    def _line_s(self, batch: Batch) -> float:
        """Returns the usual duration of a line, whose calls run side by side. Raises: ValueError before any call."""
        model = self.catalog.find(batch.model) if batch.model else None
        if model is None:
            return 0.0
        target = model.targets[0]
        images = min(math.ceil(batch.images / batch.total), target.capability.max_images_per_call)
        if (measured_s := self.measured_s(target, images)) is None:
            raise ValueError("no call of this kind has succeeded yet")
        return measured_s


def _waiting(batch: Batch) -> int:
    """Returns the lines that have not ended and will run."""
    return batch.total - batch.completed - batch.failed if batch.status is BatchStatus.IN_PROGRESS else 0
