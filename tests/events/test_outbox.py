"""Events from their streams to the endpoints that get them: each once, in order, and none lost."""

import asyncio
import json
from datetime import datetime
from typing import Any

import openai
import pytest
from standardwebhooks.webhooks import Webhook

from gateway.domain.events import EventType
from gateway.domain.tenants import Tenant
from gateway.events.deliveries import PENDING_MAX, Delivery
from gateway.events.endpoints import tenant_endpoint
from gateway.generation.transport import AiohttpTransport
from gateway.redis import Client, execute
from gateway.tenants.records import names_record, record, write_tenant
from tests.support.admissions import connected
from tests.support.receiving import SECRET, declared, receiving, sending

pytestmark = pytest.mark.anyio


async def tenant(redis: Client, name: str, **fields: Any) -> None:
    await execute(redis, redis.sadd(names_record(redis.prefix), name), int)
    for field, value in write_tenant(Tenant(name, **fields)).items():
        await execute(redis, redis.hset(f"{redis.prefix}:{{{name}}}:tenant", field, value), int)


async def test_events_arrive_in_their_order_signed_and_once_from_two_processes(
    redis: Client, transport: AiohttpTransport
) -> None:
    with receiving() as receiver:
        endpoints = [declared("ops", receiver.url, "quota.*")]
        processes = [sending(redis, transport, endpoints, own_id=name) for name in ("a", "b")]
        await processes[0].decide(*(str(number) for number in range(20)))
        await processes[0].decide("other", kind=EventType.KEY_REVOKED)
        await asyncio.gather(*(one.sender.queue_events() for one in processes))
        await asyncio.gather(*(one.sender.queue_events() for one in processes))
        await processes[1].sender.deliver_due("ops")
        assert 20 == len(set(receiver.webhook_ids)) == len(receiver.webhook_ids)
        assert await processes[0].outbox.read("acme") == []
        headers, body = receiver.received[0]
    event = Webhook(SECRET).verify(body, headers)
    assert ("quota.threshold_crossed", headers["webhook-id"]) == (event["type"], event["id"])
    assert {"tenant": "acme", "quota": "images_per_month", "percent": 80, "used": 80, "limit": 100} == event["data"]
    assert datetime.fromisoformat(event["timestamp"]).tzinfo is not None
    assert openai.OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=SECRET).id == event["id"]
    stored = [one.event_id for one in await processes[0].latest("ops")]
    assert sorted(stored) == sorted(receiver.webhook_ids)


async def test_the_order_of_events_is_kept(each_redis: str, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        async with connected(each_redis) as redis:
            one = sending(redis, transport, [declared("ops", receiver.url)])
            for percent in (50, 80, 100, 120):
                await one.outbox.append(EventType.QUOTA_THRESHOLD, {"percent": percent}, "acme")
            await one.sender.queue_events()
            await one.sender.deliver_due("ops")
            assert [50, 80, 100, 120] == [json.loads(body)["data"]["percent"] for _, body in receiver.received]


async def test_an_event_that_was_queued_is_never_queued_again(redis: Client, transport: AiohttpTransport) -> None:
    """A process that is killed after it queued, and before it deleted the entry, leaves the entry to the next one."""
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide("a", "a")  # and two decisions with one name are one event
        entries = await one.outbox.read("acme")
        for _, event in entries:
            assert event is not None
            await one.sender._queue(event)
        await one.sender.queue_events()
        for _ in range(2):
            await one.sender.deliver_due("ops")
        assert 1 == len(receiver.received)
        assert [] == await one.outbox.read("acme")


async def test_what_a_dead_process_did_not_announce_is_found(redis: Client, transport: AiohttpTransport) -> None:
    await tenant(redis, "acme")
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide("a")
        assert "acme" in await one.outbox.owners()  # and then it was killed
        assert "acme" not in await one.outbox.owners()
        await one.sender.queue_events()  # the first round sweeps
        await one.sender.deliver_due("ops")
        assert 1 == len(receiver.received)


async def test_more_events_than_a_page_are_all_queued(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide(*(str(number) for number in range(130)))
        for _ in range(2):
            await one.sender.queue_events()
        assert 130 == await one.deliveries.count_pending()
        assert 0 == await one.outbox.count()


async def test_an_endpoint_has_at_most_a_thousand_pending_deliveries(
    redis: Client, transport: AiohttpTransport
) -> None:
    one = sending(redis, transport)
    event = Delivery(id="d", event_id="e", type="quota.exhausted", at_ms=1, data={})
    numbers = range(PENDING_MAX + 2)
    dropped = [await one.deliveries.queue(f"e{number}", [("ops", _with_id(event, number))]) for number in numbers]
    assert [[]] * PENDING_MAX + [["ops"], ["ops"]] == dropped
    assert PENDING_MAX == await one.deliveries.count_pending()
    first = await one.deliveries.next_due("ops")
    assert first is not None
    assert "d2" == first.id


def _with_id(event: Delivery, number: int) -> Delivery:
    return Delivery(id=f"d{number}", event_id=f"e{number}", type=event.type, at_ms=1, data={})


async def test_an_entry_that_is_no_event_blocks_no_other(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        stream = one.outbox.stream("acme")
        for fields in (
            {"type": "x"},
            {"type": "a b", "at_ms": "1", "data": "{}"},
            {"type": "a.b", "at_ms": "1", "data": "["},
        ):
            await execute(redis, redis.xadd(stream, fields), str)  # type: ignore[arg-type]
        await one.decide("a")
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        assert (1, []) == (len(receiver.received), await one.outbox.read("acme"))


async def test_the_streams_of_upstreams_and_of_the_gateway_are_read(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url), declared("acme", receiver.url, tenant="acme")])
        fields = {"type": "pool.no_capacity", "at_ms": "1700000000000", "data": '{"upstream": "sim"}'}
        await execute(redis, redis.xadd("ig3:{pool:sim}:events", fields), str)  # type: ignore[arg-type]
        await one.outbox.append(EventType.RELOAD_REFUSED, {"message": "x"})
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        assert {"pool.no_capacity", "config.reload_refused"} == {
            json.loads(body)["type"] for _, body in receiver.received
        }
        assert [] == await one.latest("acme")  # it gets the events of its tenant only


async def test_a_tenants_addresses_get_its_alerts(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        await tenant(redis, "acme", alert_to=(receiver.url,))
        one = sending(redis, transport, trusted=[receiver.url])
        await one.decide("a")
        await one.decide("b", kind=EventType.BATCH_COMPLETED)
        await one.decide("c", tenant="other")
        await one.sender.queue_events()
        await one.sender.deliver_due(tenant_endpoint(receiver.url, "acme").id)
        [(headers, body)] = receiver.received
    assert "webhook-signature" not in headers
    text = json.loads(body)["text"]
    assert text.startswith("acme has used 80 % of images_per_month.\n\ntenant: acme\nused: 80\nlimit: 100\n")


@pytest.mark.parametrize("change", ["removed", "purged"])
async def test_a_pending_alert_is_dropped_once_the_tenant_lacks_the_address(
    redis: Client, transport: AiohttpTransport, change: str
) -> None:
    with receiving(500) as receiver:
        kept = f"{receiver.url}/kept"
        await tenant(redis, "acme", alert_to=(receiver.url, kept))
        name, other = tenant_endpoint(receiver.url, "acme").id, tenant_endpoint(kept, "acme").id
        one = sending(redis, transport, trusted=[receiver.url])
        await one.decide("a")
        await one.sender.queue_events()
        await one.sender.deliver_due(name)
        assert 1 == one.count("failed", "slack")
        if change == "purged":
            await execute(redis, redis.delete(record(redis, "acme", "tenant")), int)
        else:
            await tenant(redis, "acme", alert_to=(kept,))
        await one.hurry(name)
        await one.sender.deliver_due(name)
        [dropped] = await one.latest(name)
        assert (1, "dropped", 1) == (len(receiver.received), dropped.result, dropped.attempts)
        await one.sender.deliver_due(other)
        assert (2 if change == "removed" else 1) == len(receiver.received)
        assert 0 == await one.deliveries.count_pending()


async def test_a_delivery_that_cannot_be_read_blocks_no_other(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide("a", "b", "c")
        await one.sender.queue_events()
        first = await one.deliveries.next_due("ops")
        assert first is not None
        stored = "ig3:{events:}:deliveries:ops"
        await execute(redis, redis.hset(stored, first.id, "{"), int)
        await one.sender.deliver_due("ops")
        assert (2, 0) == (len(receiver.received), await one.deliveries.count_pending())
        assert 2 == await execute(redis, redis.hlen(stored), int)


async def test_one_process_delivers_at_a_time(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        processes = [
            sending(redis, transport, [declared("ops", receiver.url)], own_id=name) for name in ("a", "b", "c")
        ]
        await processes[0].decide(*(str(number) for number in range(30)))
        tasks = [asyncio.create_task(one.sender.run()) for one in processes]
        for _ in range(1000):
            if sum(one.count("delivered") or 0 for one in processes) >= 30:
                break
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert 30 == len(receiver.received) == len(set(receiver.webhook_ids))
        assert [0, 0, 30] == sorted(one.count("delivered") or 0 for one in processes)
