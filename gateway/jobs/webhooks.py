"""Webhooks of batches, in the form of Standard Webhooks, which OpenAI's SDKs verify with `webhooks.unwrap`.

An event is queued before its batch leaves the list of open batches, and has the same ID however often it is queued. One
process at a time sends: each event until a response is 2xx, at most for 72 hours. So an endpoint gets every event at
least once.
"""

import asyncio
import hashlib
import hmac
import time
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import structlog

from gateway.domain.errors import GatewayError
from gateway.jobs.batches import Batch
from gateway.observability.metrics import Metrics
from gateway.redis import Client, LeaderLock, execute

_LOG = structlog.get_logger("imagegate.webhooks")
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - public, of Standard Webhooks
_QUEUED_MAX: Final = 10_000
"""Limit on the events that wait; the latest due are dropped."""
_PAGE: Final = 20
_TICK_S: Final = 1.0
_LEADER_S: Final = 60.0
"""Longer than a page of events that time out takes, because they are sent together."""
_RETRY_FIRST_S: Final = 5.0
_RETRY_MAX_S: Final = 6 * 3600.0
_GIVEN_UP_S: Final = 72 * 3600.0
_KEPT_S: Final = 4 * 86_400
"""Retention of the queue after its latest event, in case no process has a webhook any more."""

Post = Callable[[str, Mapping[str, str], bytes], Awaitable[int | None]]
"""Sends a body to a URL, and returns the HTTP status."""


class _Event(msgspec.Struct, frozen=True):
    id: str
    type: str
    created_at: int
    batch_id: str
    attempts: int = 0


class Webhooks:
    """Queues events in Redis and sends them."""

    def __init__(self, redis: Client, url: str, secret: str, post: Post, metrics: Metrics, own_id: str) -> None:
        """`secret` is `whsec_` and base64, as `parse_secret` accepts it."""
        self._redis = redis
        self._url = url
        self._secret = parse_secret(secret)
        self._post = post
        self._metrics = metrics
        self._lock = LeaderLock(redis, "webhook_leader", own_id, _LEADER_S)
        self._name = f"{redis.prefix}:webhooks"

    async def queue(self, batch: Batch) -> None:
        """Queues the event of a batch that has ended. Raises: GatewayError REDIS_UNAVAILABLE. Redis: one round trip."""
        name = hashlib.blake2b(f"{batch.id} {batch.status.value}".encode(), digest_size=16).hexdigest()
        ended_at = getattr(batch, f"{batch.status.value}_at") or int(time.time())
        event = _Event(f"evt_{name}", f"batch.{batch.status.value}", ended_at, batch.id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zadd(self._name, {msgspec.json.encode(event).decode(): time.time()}, nx=True)
        pipeline.zremrangebyrank(self._name, _QUEUED_MAX, -1)
        pipeline.expire(self._name, _KEPT_S)
        await execute(self._redis, pipeline.execute(), object)

    async def run(self) -> None:
        """Sends the events that are due, on the process that holds the lock; runs until cancelled."""
        while True:
            await asyncio.sleep(_TICK_S)
            try:
                if await self._lock.acquire() or await self._lock.renew():
                    due = self._redis.zrangebyscore(self._name, "-inf", time.time(), start=0, num=_PAGE)
                    members = await execute(self._redis, due, list[str])
                    await asyncio.gather(*map(self._deliver, members))
            except GatewayError:
                continue  # Redis is unavailable

    async def _deliver(self, member: str) -> None:
        """Sends one event, and removes it or delays its next attempt."""
        event, now_s = msgspec.json.decode(member, type=_Event), time.time()
        status = await self._post(self._url, self._headers(event, body := _render(event), int(now_s)), body)
        pipeline = self._redis.pipeline(transaction=False)
        if status is not None and 200 <= status < 300:
            result = "delivered"
        elif now_s - event.created_at > _GIVEN_UP_S:
            result = "given_up"
            _LOG.error("webhook_given_up", event=event.id, batch=event.batch_id, status=status)
        else:
            result, delay_s = "failed", min(_RETRY_FIRST_S * 4**event.attempts, _RETRY_MAX_S)
            later = msgspec.structs.replace(event, attempts=event.attempts + 1)
            pipeline.zadd(self._name, {msgspec.json.encode(later).decode(): now_s + delay_s})
            _LOG.warning("webhook_failed", event=event.id, batch=event.batch_id, status=status, retry_in_s=delay_s)
        pipeline.zrem(self._name, member)
        self._metrics.webhooks.labels(result).inc()
        await execute(self._redis, pipeline.execute(), object)

    def _headers(self, event: _Event, body: bytes, now_s: int) -> dict[str, str]:
        signed = f"{event.id}.{now_s}.".encode() + body
        signature = b64encode(hmac.digest(self._secret, signed, hashlib.sha256)).decode()
        return {
            "content-type": "application/json",
            "user-agent": "imagegate",
            "webhook-id": event.id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": f"v1,{signature}",
        }


def _render(event: _Event) -> bytes:
    body = {"id": event.id, "object": "event", "created_at": event.created_at, "type": event.type}
    return msgspec.json.encode(body | {"data": {"id": event.batch_id}})


def parse_secret(secret: str) -> bytes:
    """Returns the key of a webhook secret. Raises: ValueError with the expected form."""
    form = f"expected '{SECRET_PREFIX}' and 24 to 64 bytes in base64, as `echo whsec_$(openssl rand -base64 32)` prints"
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(form)
    try:
        key = b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError as error:
        raise ValueError(form) from error
    if not 24 <= len(key) <= 64:
        raise ValueError(form)
    return key
