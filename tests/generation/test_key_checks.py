"""What a free page says of one key, asked of the simulator and of hosts that are none."""

import pytest

from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.generation.key_checks import KeyChecker
from gateway.generation.transport import AiohttpTransport
from gateway.providers.protocol import KeyCheck
from tests.support.harness import Simulator, serving
from tests.support.pages import asking, serving_page, upstream_key
from tests.support.servers import free_port

pytestmark = pytest.mark.anyio


async def probe(url: str, key: ProviderKey, provider: str = "minimax") -> KeyCheck:
    async with AiohttpTransport() as transport:
        return await asking(transport, url, provider).probe(key)


async def test_a_good_key_works_and_its_balance_is_proven(simulator: Simulator) -> None:
    found = await probe(simulator.url, upstream_key("good-1"))
    assert (None, "", True, None) == (found.error_code, found.detail, found.proves_balance, found.window_s)


@pytest.mark.parametrize(
    ("name", "error_code"), [("dead-1", ErrorCode.KEY_INVALID), ("broke-1", ErrorCode.INSUFFICIENT_BALANCE)]
)
async def test_a_bad_key_is_told_by_its_fault(simulator: Simulator, name: str, error_code: ErrorCode) -> None:
    assert error_code is (await probe(simulator.url, upstream_key(name))).error_code


async def test_asking_costs_nothing(simulator: Simulator) -> None:
    await probe(simulator.url, upstream_key("good-1"))
    assert {"requests": 0, "images": 0} == simulator.invoice()["total"]


async def test_a_host_that_cannot_be_reached_is_told_as_that() -> None:
    found = await probe(f"http://127.0.0.1:{free_port()}", upstream_key("good-1"))
    assert ErrorCode.CONNECT_FAILED is found.error_code


async def test_a_secret_that_the_page_repeats_is_not_told() -> None:
    app, _ = serving_page({"base_resp": {"status_code": 2049, "status_msg": "invalid api key canary-secret"}})
    with serving(app) as url:
        found = await probe(url, upstream_key("main-1", secret="canary-secret"))
    assert (ErrorCode.KEY_INVALID, "2049 invalid api key <secret fp-main-1>") == (found.error_code, found.detail)


async def test_an_endless_page_is_not_read() -> None:
    app, _ = serving_page({"filler": "x" * 2_000_000})
    with serving(app) as url:
        assert ErrorCode.RESPONSE_TOO_LARGE is (await probe(url, upstream_key("main-1"))).error_code


async def test_an_upstream_that_is_configured_no_more_is_not_found() -> None:
    async with AiohttpTransport() as transport:
        with pytest.raises(GatewayError) as caught:
            await KeyChecker(transport, dict, "tests").probe(upstream_key("main-1"))
    assert ErrorCode.NOT_FOUND is caught.value.error_code
