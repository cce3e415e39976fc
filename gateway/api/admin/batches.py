"""`/admin/v1/tenants/{name}/batches`: batches of tenants, for operators."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from gateway.api.admin import Handlers
from gateway.api.batches import cancel_batch, describe_batch, list_page
from gateway.api.bodies import json_response
from gateway.domain.audit import Actor, AuditEvent
from gateway.jobs.batches import TRANSITIONS, Batch, BatchStatus, BatchStore
from gateway.tenants.store import no_tenant, read_fields


@dataclass(frozen=True, slots=True, repr=False)
class BatchSection:
    """Routes of batches. A batch is OpenAI's object, and what operators see besides."""

    store: BatchStore
    audit: Callable[[AuditEvent], Awaitable[None]]
    """Writes an entry of the audit log."""

    def handlers(self) -> Handlers:
        return {
            "/tenants/{name}/batches": {"GET": self.list_batches},
            "/tenants/{name}/batches/{id}": {"GET": self.get},
            "/tenants/{name}/batches/{id}/cancel": {"POST": self.cancel},
        }

    async def list_batches(self, request: Request, _: Actor) -> Response:
        return await list_page(request, self.store, await self._tenant(request), _describe)

    async def get(self, request: Request, _: Actor) -> Response:
        return json_response(_describe(await self.store.get(await self._tenant(request), request.path_params["id"])))

    async def cancel(self, request: Request, actor: Actor) -> Response:
        """Cancels a batch. The audit entry precedes the change, so that none is missing."""
        name, batch_id = await self._tenant(request), request.path_params["id"]
        batch = await self.store.get(name, batch_id)
        if BatchStatus.CANCELLING in TRANSITIONS[batch.status]:
            before, after = ({"id": batch_id, "status": one.value} for one in (batch.status, BatchStatus.CANCELLING))
            await self.audit(AuditEvent(actor, "batch.cancel", name, batch.key_id, before, after))
        return json_response(_describe(await cancel_batch(self.store, name, batch_id, time.time())))

    async def _tenant(self, request: Request) -> str:
        """Raises: GatewayError NOT_FOUND. Redis: one round trip."""
        name: str = request.path_params["name"]
        if not await read_fields(self.store.redis, name):
            raise no_tenant(name)
        return name


def _describe(batch: Batch) -> dict[str, object]:
    is_paused = batch.pause_reason and batch.paused_until_ms > time.time() * 1000
    paused = {"reason": batch.pause_reason, "until": batch.paused_until_ms // 1000} if is_paused else None
    return describe_batch(batch) | {"key_id": batch.key_id, "paused": paused}
