"""Deliveries to webhooks: repeated until they are accepted, signed, and to no address of this network."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import openai
import pytest
from standardwebhooks.webhooks import Webhook
from structlog.testing import capture_logs

from gateway.domain.audit import Actor
from gateway.domain.events import EventType
from gateway.events.endpoints import Channel, Endpoint
from gateway.events.outbox import PLATFORM
from gateway.events.sender import DELAYS_S
from gateway.events.texts import body as body_of
from gateway.events.texts import subject
from gateway.generation.transport import AiohttpTransport
from gateway.redis import Client, execute
from tests.support.administering import storing
from tests.support.receiving import CLOSE, HANG, declared, receiving, sending

pytestmark = pytest.mark.anyio
ACTOR = Actor("admin")


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (500, 500, ""),
        (302, 302, ""),
        ((302, {"location": "http://169.254.169.254/latest/meta-data"}, b""), 302, ""),
        (HANG, None, "no response within"),
        (CLOSE, None, "ServerDisconnectedError"),
        (404, 404, ""),
    ],
)
async def test_a_delivery_that_fails_is_repeated_with_the_same_id(
    redis: Client, transport: AiohttpTransport, answer: object, status: int | None, error: str
) -> None:
    with receiving(answer) as receiver, capture_logs() as logs:
        one = sending(redis, transport, [declared("ops", receiver.url)], timeout_s=0.5)
        await one.decide("a")
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        [failed] = await one.latest("ops")
        assert ("pending", 1, status) == (failed.result, failed.attempts, failed.status)
        assert error in failed.error
        assert 4 < await one.hurry("ops") <= 5
        await one.sender.deliver_due("ops")
        assert 2 == len(receiver.received)
        assert 1 == len(set(receiver.webhook_ids))
        assert (1, 1) == (one.count("failed"), one.count("delivered"))
        [delivered] = await one.latest("ops")
        assert ("delivered", 2, 200) == (delivered.result, delivered.attempts, delivered.status)
    [line] = [entry for entry in logs if entry["event"] == "event_delivery_failed"]
    assert ("ops", status, 5) == (line["endpoint"], line["status"], line["retry_in_s"])


async def test_an_event_is_counted_once_with_the_percentage_of_a_threshold(
    redis: Client, transport: AiohttpTransport
) -> None:
    one = sending(redis, transport, [])
    await one.decide("a", "a", "b")
    await one.decide("c", kind=EventType.KEY_ROTATED)
    await one.sender.queue_events()

    def counted(kind: EventType, percent: str) -> float | None:
        labels = {"type": kind.value, "tenant": "acme", "percent": percent}
        return one.metrics.registry.get_sample_value("imagegate_events_total", labels)

    assert (2, 1) == (counted(EventType.QUOTA_THRESHOLD, "80"), counted(EventType.KEY_ROTATED, ""))


async def test_an_answer_of_10_megabytes_is_read_to_64_kilobytes(redis: Client, transport: AiohttpTransport) -> None:
    with receiving((200, {}, b"x" * 10_000_000)) as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide("a")
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        [delivered] = await one.latest("ops")
        assert ("delivered", "x" * 200) == (delivered.result, delivered.answer)


async def test_the_schedule_ends_after_three_days_and_the_platform_hears_by_another_channel(
    redis: Client, transport: AiohttpTransport
) -> None:
    with receiving(*[500] * 10) as receiver, receiving() as other:
        endpoints = [
            declared("ops", receiver.url, "quota.*"),
            declared("chat", other.url, "webhook.*", channel=Channel.SLACK),
        ]
        one = sending(redis, transport, endpoints)
        await one.decide("a")
        await one.sender.queue_events()
        delays = []
        for _ in range(10):
            await one.sender.deliver_due("ops")
            delays.append(await one.hurry("ops"))
        assert [*DELAYS_S, 0] == [round(delay) for delay in delays]
        [failed] = await one.latest("ops")
        assert ("failed", 10, 1) == (failed.result, failed.attempts, one.count("given_up"))
        await one.decide("b")  # a disabled endpoint gets nothing
        await one.sender.queue_events()
        for name in ("ops", "chat"):
            await one.sender.deliver_due(name)
        assert (10, 1) == (len(receiver.received), len(other.received))
        text = json.loads(other.received[0][1])["text"]
        assert text.startswith("Webhook ops was disabled: 10 attempts to deliver an event failed in three days.")
        await one.endpoints.hold("ops", ACTOR, is_disabled=False)
        assert await one.deliveries.replay("ops", failed)
        await one.sender.deliver_due("ops")
        assert [receiver.webhook_ids[0]] * 11 == receiver.webhook_ids


async def test_an_endpoint_that_accepts_other_events_is_not_disabled(
    redis: Client, transport: AiohttpTransport
) -> None:
    with receiving(*[500] * 9, 200, 500) as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide("a")
        await one.sender.queue_events()
        for _ in range(8):
            await one.sender.deliver_due("ops")
            await one.hurry("ops")
        await one.decide("b")
        await one.sender.queue_events()
        for _ in range(2):
            await one.sender.deliver_due("ops")
            await one.hurry("ops")
        assert {"failed", "delivered"} == {found.result for found in await one.latest("ops")}
        assert None is await one.endpoints.disabled("ops")


async def test_410_disables_at_once(redis: Client, transport: AiohttpTransport) -> None:
    with receiving(410) as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide("a", "b")
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        assert 1 == len(receiver.received)
        assert {"failed", "dropped"} == {found.result for found in await one.latest("ops")}
        found = await one.endpoints.disabled("ops")
        assert found is not None
        assert "it answered 410 Gone" == found.reason
        [(_, event)] = await one.outbox.read(PLATFORM)
        assert event is not None
        assert ("webhook.disabled", "ops") == (event.type, event.data["endpoint"])


@pytest.mark.parametrize(
    ("answer", "least_s"), [((429, {"retry-after": "700"}, b""), 700), (429, 60), (502, 60), (504, 60), (503, 0)]
)
async def test_a_busy_endpoint_gets_nothing_for_a_while(
    redis: Client, transport: AiohttpTransport, answer: object, least_s: float
) -> None:
    with receiving(answer) as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.decide("a", "b")
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        await one.decide("c")
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        assert (1 if least_s else 3) == len(receiver.received)
        if least_s:
            assert [] == await one.deliveries.due()
            await one.hurry("ops")
            await one.sender.deliver_due("ops")
        assert 4 - (not least_s) == len(receiver.received)


async def test_a_slow_endpoint_delays_no_other(redis: Client, transport: AiohttpTransport) -> None:
    with receiving(*[HANG] * 4) as slow, receiving() as fast:
        one = sending(redis, transport, [declared("slow", slow.url), declared("fast", fast.url)], timeout_s=30)
        await one.decide("a", "b", "c")
        task = asyncio.create_task(one.sender.run())
        for _ in range(500):
            if len(fast.received) == 3:
                break
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait([task])
        assert (3, 1) == (len(fast.received), len(slow.received))


async def test_a_large_event_is_shortened_to_20_kilobytes(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url)])
        await one.outbox.append(EventType.RELOAD_REFUSED, {"message": "x" * 30_000, "file": "a"})
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        [(_, body)] = receiver.received
    assert len(body) < 20_000
    assert {"file": "a", "is_shortened": True} == json.loads(body)["data"]


async def test_both_secrets_sign_while_one_is_rotated(redis: Client, transport: AiohttpTransport) -> None:
    with receiving() as receiver:
        one = sending(redis, transport, trusted=[receiver.url])
        made = await one.endpoints.create(Endpoint("", receiver.url, Channel.WEBHOOK, ("*",), "shop"), ACTOR)
        rotated = await one.endpoints.rotate(made.id, ACTOR, keeps_old=True)
        await one.decide("a")
        await one.sender.queue_events()
        await one.sender.deliver_due(made.id)
        [(headers, body)] = receiver.received
        assert made.secret is not None
        assert rotated.secret is not None
        secrets = [made.secret.plaintext, rotated.secret.plaintext]
        assert 2 == len(set(secrets))
        for secret in secrets:
            assert Webhook(secret).verify(body, headers)
            assert headers["webhook-id"] == openai.OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=secret).id
        await one.endpoints.rotate(made.id, ACTOR, keeps_old=False)
        result = await one.sender.send_test(await one.endpoints.get(made.id), EventType.BATCH_FAILED)
        assert 200 == result.status
        headers, body = receiver.received[1]
        for secret in secrets:
            with pytest.raises(openai.InvalidWebhookSignatureError):
                openai.OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=secret)
        stored = await execute(redis, redis.hgetall("ig3:{events:}:endpoints"), dict[str, str])
        assert not any(part in str(stored) for part in (*secrets, receiver.url))


async def test_a_name_that_resolves_to_this_machine_the_second_time_is_not_reached(
    redis: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt is refused before a connection, whatever the first look-up said."""
    looked_up = ["93.184.215.14", "127.0.0.1"]
    with receiving() as receiver:

        async def look_up(_: str, port: int, **__: object) -> list[Any]:
            return [(2, 1, 6, "", (looked_up.pop(0), port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up)
        url, errors = f"https://rebinding.example.com:{receiver.port}/", []
        async with AiohttpTransport() as direct:
            for _ in range(2):
                async with AiohttpTransport(public_only=True) as public:
                    one = sending(redis, direct, public=public, timeout_s=0.3, ports=(receiver.port,))
                    endpoint = Endpoint("x", url, Channel.SLACK)
                    errors.append((await one.sender.send_test(endpoint, EventType.QUOTA_EXHAUSTED)).error)
        assert [] == looked_up
        assert [] == receiver.received
    assert "has no public address" in errors[1]


@pytest.mark.parametrize("name", ["acme", "design", "studio"])
async def test_a_renamed_tenant_has_its_present_name_in_events_and_matches_a_filter_on_any_of_its_names(
    redis_url: str, redis: Client, transport: AiohttpTransport, name: str
) -> None:
    async with storing(redis_url) as stores:
        await stores.tenant("acme")
        await stores.tenant("other")
        for later in ("design", "studio"):
            await stores.tenants.claim(later, "acme")
        await stores.tenants.update("acme", lambda had: replace(had, renamed_to="studio"), ACTOR)
    with receiving() as receiver:
        one = sending(redis, transport, [declared("ops", receiver.url, "quota.*", tenant=name)])
        await one.decide("a")
        await one.decide("b", tenant="other")
        await one.sender.queue_events()
        await one.sender.deliver_due("ops")
        assert ["studio"] == [json.loads(body)["data"]["tenant"] for _, body in receiver.received]
    [delivery] = await one.latest("ops")
    assert "tenant: studio" in body_of(delivery, (), None)
    assert subject(delivery).startswith("studio ")
