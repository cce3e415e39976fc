"""A prompt that provokes a key's fault, in the provider's own words, takes that key from its tenant alone."""

from collections.abc import Iterator

import pytest

from tests.support.edge import keys_called, order, post, resting
from tests.support.harness import Gateway, Simulator, document, gatewaying, new_key, upstream

ACCOUNTS = ("a:a-1", "b:b-1", "c:c-1")
PROVOKED = pytest.mark.parametrize("code", [2061, 2049, 1008, 2056, 2038, 1028])


@pytest.fixture
def gateway(redis_url: str, provider: Simulator) -> Iterator[Gateway]:
    """With a second model, at the same keys."""
    configured = document(redis_url, upstream("sim", "minimax", provider.url, *ACCOUNTS))
    live = {"id": "live", "price_per_image_usd": "0.0035", "targets": [{"upstream": "sim", "model": "image-01-live"}]}
    with gatewaying(configured | {"models": [*configured["models"], live]}) as started:  # type: ignore[misc]
        yield started


def statuses(gateway: Gateway, key: str, count: int, **body: object) -> list[int]:
    return [post(gateway, key, **{"prompt": "a cat"} | body).status_code for _ in range(count)]


@PROVOKED
def test_what_one_tenant_provokes_while_another_is_served_costs_the_other_nothing(gateway: Gateway, code: int) -> None:
    mallory = new_key(gateway.url, "mallory")
    served = []
    for number in range(12):
        served += statuses(gateway, gateway.api_key, 1)
        assert 200 != post(gateway, mallory, prompt=f"[code={code}]").status_code
        assert number > 1 or {} == resting(gateway)
    assert [200] * 12 == served


@PROVOKED
def test_a_tenant_that_comes_later_is_served_by_what_another_has_put_to_rest(
    gateway: Gateway, provider: Simulator, code: int
) -> None:
    mallory = new_key(gateway.url, "mallory")
    for _ in range(2):
        assert 200 != post(gateway, mallory, prompt=f"[code={code}]").status_code
    assert {"a-1", "b-1", "c-1"} == {*keys_called(provider)}
    assert {"a", "b", "c"} <= {*resting(gateway)} or {"": "key_invalid"} == resting(gateway)
    assert [200] * 12 == statuses(gateway, gateway.api_key, 12)


def test_a_model_that_is_denied_rests_for_the_only_tenant_that_uses_it(gateway: Gateway, provider: Simulator) -> None:
    """Beside another tenant, which is served with another model."""
    alone = new_key(gateway.url, "alone")

    def rounds(count: int) -> list[int]:
        both = [statuses(gateway, alone, 1, model="live") + statuses(gateway, gateway.api_key, 1) for _ in range(count)]
        return [status for pair in both for status in pair]

    for key in ("a-1", "b-1"):
        order(provider, f"keys/{key}", answers=2061)
    assert [200] * 24 == rounds(12)
    calls = len(keys_called(provider))
    assert [200] * 8 == rounds(4)
    assert calls + 8 == len(keys_called(provider)), "no call is lost any more"


@pytest.mark.parametrize("turns", [1, 2])
def test_a_key_that_is_dead_rests_after_few_calls(gateway: Gateway, provider: Simulator, turns: int) -> None:
    """Whether one tenant's calls meet it or those of two."""
    tenants = [gateway.api_key, new_key(gateway.url, "second")]
    assert [200] * 6 == [post(gateway, tenants[number % 2], prompt="a cat").status_code for number in range(6)]
    order(provider, "keys/b-1", answers=2038)
    for number in range(12):
        assert 200 == post(gateway, tenants[number // turns % 2], prompt="a lake").status_code
    assert {"b": "account_unverified"} == resting(gateway)
    assert keys_called(provider).count("b-1") <= 2 + 3


def test_a_tenant_alone_puts_a_dead_key_to_rest_with_one_call(gateway: Gateway, provider: Simulator) -> None:
    order(provider, "keys/b-1", answers=2038)
    assert [200] * 6 == statuses(gateway, gateway.api_key, 6)
    assert 1 == keys_called(provider).count("b-1")
