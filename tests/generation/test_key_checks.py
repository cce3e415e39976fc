"""What a free page says of one key, asked of the simulator and of hosts that are none."""

import pytest

from gateway.domain.accounts import UpstreamKey
from gateway.domain.errors import Fault, GatewayError
from gateway.generation.key_checks import Pages
from gateway.generation.transport import AiohttpTransport
from gateway.providers.protocol import KeyCheck
from tests.support.harness import Simulator, serving
from tests.support.pages import asking, serving_page, upstream_key
from tests.support.servers import free_port

pytestmark = pytest.mark.anyio


async def probe(url: str, key: UpstreamKey, dialect: str = "minimax") -> KeyCheck:
    async with AiohttpTransport() as transport:
        return await asking(transport, url, dialect).probe(key)


async def test_a_good_key_works_and_its_balance_is_proven(simulator: Simulator) -> None:
    found = await probe(simulator.url, upstream_key("good-1"))
    assert (None, "", True, None) == (found.fault, found.detail, found.proves_balance, found.window_s)


@pytest.mark.parametrize(("name", "fault"), [("dead-1", Fault.KEY_INVALID), ("broke-1", Fault.BALANCE_EMPTY)])
async def test_a_bad_key_is_told_by_its_fault(simulator: Simulator, name: str, fault: Fault) -> None:
    assert fault is (await probe(simulator.url, upstream_key(name))).fault


async def test_asking_costs_nothing(simulator: Simulator) -> None:
    await probe(simulator.url, upstream_key("good-1"))
    assert {"requests": 0, "images": 0} == simulator.invoice()["total"]


async def test_a_host_that_cannot_be_reached_is_told_as_that() -> None:
    found = await probe(f"http://127.0.0.1:{free_port()}", upstream_key("good-1"))
    assert Fault.CONNECT_FAILED is found.fault


async def test_a_secret_that_the_page_repeats_is_not_told() -> None:
    app, _ = serving_page({"base_resp": {"status_code": 2049, "status_msg": "invalid api key canary-secret"}})
    with serving(app) as url:
        found = await probe(url, upstream_key("main-1", secret="canary-secret"))
    assert (Fault.KEY_INVALID, "2049 invalid api key <secret fp-main-1>") == (found.fault, found.detail)


async def test_an_endless_page_is_not_read() -> None:
    app, _ = serving_page({"filler": "x" * 2_000_000})
    with serving(app) as url:
        assert Fault.ANSWER_TOO_LARGE is (await probe(url, upstream_key("main-1"))).fault


async def test_an_upstream_that_is_configured_no_more_is_not_found() -> None:
    async with AiohttpTransport() as transport:
        with pytest.raises(GatewayError) as caught:
            await Pages(transport, dict, "tests").probe(upstream_key("main-1"))
    assert Fault.NOT_FOUND is caught.value.fault
