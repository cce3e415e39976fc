"""What the configuration says of upstreams, as the rest of the program takes it."""

from typing import Any

import pytest

from gateway.config import Settings, SettingsError, from_document
from gateway.config.upstream_set import build_catalog, build_supply
from gateway.domain.accounts import AccountLimits, PoolConfig, WaitConfig
from tests.support.harness import UNLIMITED, document, environment, upstream

A = upstream("a", "minimax", "http://127.0.0.1:1/", "one:k1,k2", "two:k3")
B = upstream("b", "302ai", "http://127.0.0.1:2", "one:k4")
DOCUMENT = document("redis://localhost:1", A, B)
SECRETS = environment(DOCUMENT)


def settings(*upstreams: dict[str, Any]) -> Settings:
    return from_document(document("redis://localhost:1", *upstreams), {}, "gate.toml")


def accounts(*images_per_minute: int) -> dict[str, object]:
    """Accounts that take so many images in a minute."""
    source = {"name": "key", "secret": {"env": "SECRET_K1"}}
    return {
        "accounts": [
            {"name": f"account-{number}", **UNLIMITED, "images_per_minute": images, "keys": [source]}
            for number, images in enumerate(images_per_minute)
        ]
    }


def test_every_upstream_has_its_endpoint_its_accounts_and_its_terms() -> None:
    terms = {
        "rate_window_margin_s": 2,
        "max_queue_length": 3,
        "breaker_failures": 4,
        "breaker_open_s": 5.5,
        "retry_budget_percent": 6,
    }
    supply = build_supply(settings(A | terms | {"max_wait_s": 7, "fallback_after_s": 8}, B), SECRETS)
    assert {"a": "http://127.0.0.1:1", "b": "http://127.0.0.1:2"} == {
        name: endpoint.base_url for name, endpoint in supply.endpoints.items()
    }
    assert ["a", "b"] == [pool.upstream for pool in supply.pools]
    assert [PoolConfig(2, 3, 4, 5.5, 6), PoolConfig()] == [pool.terms for pool in supply.pools]
    assert {"a": WaitConfig(7, 8), "b": WaitConfig()} == supply.waits
    unlimited = AccountLimits(100_000, 1_000_000, 10_000, 1)
    assert [("a", "one", unlimited), ("a", "two", unlimited), ("b", "one", unlimited)] == [
        (account.upstream, account.name, account.limits) for pool in supply.pools for account in pool.accounts
    ]


def test_every_key_is_read_with_its_secret() -> None:
    found = build_supply(settings(A, B), SECRETS)
    assert [("a", "one/k1"), ("a", "one/k2"), ("a", "two/k3"), ("b", "one/k4")] == [
        (key.upstream, key.id) for key in found.keys
    ]
    assert ["k1", "k2", "k3", "k4"] == [key.secret.reveal() for key in found.keys]
    with pytest.raises(SettingsError, match=r"upstreams 'b': key 'k4': secret: .* SECRET_K4 is not set"):
        build_supply(settings(A, B), SECRETS | {"SECRET_K4": ""})


@pytest.mark.parametrize(
    ("secrets", "expected"),
    [
        ({}, []),
        ({"SECRET_K2": "k1"}, []),
        ({"SECRET_K3": "k1"}, [["one/k1", "two/k3"]]),
        ({"SECRET_K4": "k1"}, [["one/k1", "one/k4"]]),
        ({"SECRET_K2": "k1", "SECRET_K3": "x", "SECRET_K4": "x"}, [["two/k3", "one/k4"]]),
    ],
)
def test_one_secret_in_several_accounts_is_found(secrets: dict[str, str], expected: list[list[str]]) -> None:
    """In one account it is only superfluous; in two the provider's limits are counted twice."""
    supply = build_supply(settings(A, B), SECRETS | secrets)
    assert expected == [[key.id for key in same] for same in supply.shared_keys()]


@pytest.mark.parametrize(
    ("allowed", "declared", "expected"),
    [
        ((60,), {}, 9),
        ((60, 4), {}, 4),
        ((60, 4), {"max_images_per_call": 2}, 2),
        ((1, 1), {"max_images_per_call": 9}, 1),
    ],
)
def test_no_call_is_larger_than_an_account_can_take_in_a_minute(
    allowed: tuple[int, ...], declared: dict[str, int], expected: int
) -> None:
    found = build_catalog(settings(A | accounts(*allowed) | {"capabilities": declared})).default
    assert [expected] == [target.capability.max_images_per_call for target in found.targets]
