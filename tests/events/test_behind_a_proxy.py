"""Webhooks behind an HTTP proxy: every origin through it but this machine's own, and no literal private address."""

from pathlib import Path

import pytest

from gateway.domain.audit import Actor
from gateway.events.endpoints import Channel, Endpoint
from gateway.generation.transport import AiohttpTransport
from gateway.generation.transport.proxies import ProxyRules
from gateway.redis import Client
from tests.support.certificates import certify
from tests.support.proxying import proxying, with_tls
from tests.support.receiving import Sending, declared, receiving, sending
from tests.support.servers import free_port

pytestmark = pytest.mark.anyio
NAME = "hooks.example.com"


async def deliver(one: Sending, endpoint: str) -> str:
    """Sends one event; returns the result, or the reason why it is pending."""
    await one.decide("a")
    await one.sender.queue_events()
    await one.sender.deliver_due(endpoint)
    [delivery] = await one.latest(endpoint)
    return delivery.error or delivery.result


async def create(one: Sending, url: str) -> str:
    """Creates an endpoint as `imagegate webhook create` does; returns its ID."""
    made = Endpoint("", url, Channel.WEBHOOK)
    return (await one.endpoints.create(made, Actor("admin"))).id


async def test_a_webhook_that_a_command_created_is_posted_through_the_proxy(redis: Client, tmp_path: Path) -> None:
    files = certify(tmp_path, NAME)
    with (
        receiving() as receiver,
        with_tls(receiver.url.removesuffix("/hook"), files) as address,
        proxying({f"{NAME}:443": address}) as proxy,
    ):
        direct, public = AiohttpTransport(files.trusted), AiohttpTransport(files.trusted, public_only=True)
        rules = ProxyRules.of_environment({"HTTPS_PROXY": proxy.url})
        async with direct, public:
            one = sending(redis, direct, public=public, proxies=rules)
            assert "delivered" == await deliver(one, await create(one, f"https://{NAME}/hook"))
    assert ([f"CONNECT {NAME}:443"], 1) == (proxy.requests, len(receiver.received))


async def test_a_declared_origin_uses_the_proxy_and_this_machine_does_not(
    redis: Client, transport: AiohttpTransport
) -> None:
    with receiving() as receiver, proxying({"chat.internal:80": f"127.0.0.1:{receiver.port}"}) as proxy:
        endpoint = declared("ops", "http://chat.internal/hook")
        one = sending(redis, transport, [endpoint], proxies=ProxyRules.of_environment({"ALL_PROXY": proxy.url}))
        assert "delivered" == await deliver(one, "ops")
        assert ["POST http://chat.internal/hook"] == proxy.requests
        here = sending(
            *(redis, transport, [declared("here", receiver.url)]),
            proxies=ProxyRules.of_environment({"ALL_PROXY": proxy.url}),
        )
        await here.decide("b")
        await here.sender.queue_events()
        await here.sender.deliver_due("here")
        assert ["delivered"] == [delivery.result for delivery in await here.latest("here")]
    assert (1, 2) == (len(proxy.requests), len(receiver.received))


@pytest.mark.parametrize("host", ["10.0.0.1", "169.254.169.254", "[::1]", "0x7f000001", "127.1"])
async def test_no_literal_private_address_reaches_the_proxy(
    redis: Client, transport: AiohttpTransport, host: str
) -> None:
    with proxying() as proxy:
        one = sending(redis, transport, proxies=ProxyRules.of_environment({"ALL_PROXY": proxy.url}))
        assert "the address is not public" in await deliver(one, await create(one, f"https://{host}/hook"))
    assert [] == proxy.requests


async def test_the_reason_names_the_proxy_and_the_remedy(redis: Client, transport: AiohttpTransport) -> None:
    with proxying(refusal=403) as proxy:
        one = sending(redis, transport, proxies=ProxyRules.of_environment({"HTTPS_PROXY": proxy.url}))
        reason = await deliver(one, await create(one, f"https://{NAME}/hook"))
    assert f"(HTTPS_PROXY) refuses CONNECT to {NAME}:443 with 403" in reason
    assert "ask its operators to allow this host" in reason


async def test_without_a_proxy_the_reason_names_the_endpoint_and_no_upstream(
    redis: Client, transport: AiohttpTransport
) -> None:
    one = sending(redis, transport, [declared("ops", f"http://127.0.0.1:{free_port()}/hook")])
    reason = await deliver(one, "ops")
    assert "refuses the connection; check host and port in the endpoint's URL" in reason
    assert "base_url" not in reason
