"""What `/readyz` says of the pool: nothing, as long as some tenant's requests could be served."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.edge import post, resting
from tests.support.harness import Gateway, Simulator, document, gatewaying, new_key, upstream
from tests.support.health import ACCUSERS_MAX
from tests.support.servers import free_port

READINESS_S = 1.1
"""After which `/readyz` has looked again."""
PROVOKED = pytest.mark.parametrize("words", ["[code=2049]", "[code=1008]", "[code=2056]", "[code=2061]", "[http=500]"])


@pytest.fixture
def own_port() -> int:
    """Of the metrics, where `/readyz` gives its reasons."""
    return free_port()


@pytest.fixture
def gateway(redis_url: str, provider: Simulator, own_port: int) -> Iterator[Gateway]:
    site = upstream("sim", "minimax", provider.url, "a:a-1", "b:b-1") | {"breaker_open_s": 60}
    sent_again: dict[str, dict[str, object]] = {"requests": {"max_attempts": 1}, "replays": {"unknown_outcome_s": 0}}
    with gatewaying(document(redis_url, site, metrics={"port": own_port}, **sent_again)) as started:
        yield started


def readiness(own_port: int) -> tuple[int, str]:
    answer = httpx.get(f"http://127.0.0.1:{own_port}/readyz", verify=False)
    return answer.status_code, answer.json()["status"]


@PROVOKED
def test_a_tenant_whose_calls_meet_faults_does_not_degrade_a_gateway_for_the_others(
    gateway: Gateway, own_port: int, words: str
) -> None:
    mallory = new_key(gateway.url, "mallory")
    for _ in range(12):
        assert 200 != post(gateway, mallory, prompt=words).status_code
    assert {} != resting(gateway)
    assert (200, "ok") == readiness(own_port)
    assert 200 == post(gateway, gateway.api_key, prompt="a cat").status_code


@PROVOKED
def test_what_the_calls_of_many_tenants_meet_is_a_reason_and_leaves_a_gateway_ready(
    gateway: Gateway, own_port: int, words: str
) -> None:
    for number in range(ACCUSERS_MAX):
        key = new_key(gateway.url, f"tenant{number}")
        for _ in range(4):
            post(gateway, key, prompt=words)
    assert (200, "ok" if words == "[code=2061]" else "degraded") == readiness(own_port)
