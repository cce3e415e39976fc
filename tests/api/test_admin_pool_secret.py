"""The history of a provider key's states, and a new secret of a key that was added at run time."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway, Simulator
from tests.support.openapi import SCHEMAS, conform

KEY = "/pool/sim/main/main-2"
GOOD = "sk_canary_0123456789"
BAD = "dead_canary_of_main-2"
pytestmark = pytest.mark.shares_gateway


@pytest.fixture
def added(gateway: Gateway, one_simulator: Simulator) -> Iterator[dict[str, Any]]:
    """A key that the provider rejects."""
    httpx.put(f"{one_simulator.url}/simulator/keys/{BAD}", json={"answers": 2049}, verify=False)
    body = {"upstream": "sim", "account": "main", "key": "main-2", "secret": BAD}
    made = gateway.admin("POST", "/pool", body)
    assert 201 == made.status_code, made.text
    yield made.json()
    gateway.admin("DELETE", KEY)


def states(gateway: Gateway, key: str = KEY) -> list[tuple[str, str, str | None, str | None]]:
    answer = gateway.admin("GET", f"{key}/history")
    assert 200 == answer.status_code, answer.text
    conform(answer.json(), SCHEMAS["PoolHistory"], "PoolHistory")
    return [(row["scope"], row["state"], row["error_code"], row["actor"]) for row in answer.json()["data"]]


def test_a_new_secret_ends_the_quarantine_of_the_former_one(gateway: Gateway, added: dict[str, Any]) -> None:
    assert ("quarantined", "key_invalid") == (added["state"], added["error_code"])
    answer = gateway.admin("POST", f"{KEY}/secret", {"secret": GOOD})
    assert 200 == answer.status_code, answer.text
    conform(answer.json(), SCHEMAS["ReplacedPoolSecret"], "ReplacedPoolSecret")
    shown = answer.json()
    assert ("ready", True) == (shown["state"], shown["probe"]["works"])
    assert added["fingerprint"] != shown["fingerprint"]
    assert [("key", "ready", None, "admin"), ("key", "quarantined", "key_invalid", None)] == states(gateway)
    gateway.admin("PATCH", "/pool/sim/main", {"state": "disabled"})
    gateway.admin("PATCH", "/pool/sim/main", {"state": "ready"})
    assert [("account", "ready", None, "admin"), ("account", "disabled", None, "admin")] == states(gateway)[:2]
    entry = next(
        entry
        for entry in gateway.admin("GET", "/audit?upstream=sim").json()["data"]
        if entry["action"] == "pool.replace_secret"
    )
    prints = {"fingerprint": added["fingerprint"]}, {"fingerprint": shown["fingerprint"]}
    assert (*prints, "sim/main/main-2") == (entry["before"], entry["after"], entry["target"])
    assert "canary" not in str(gateway.admin("GET", "/pool").text + answer.text)
    printed = run("pool", "history", "sim/main/main-2", "--url", gateway.url, "--admin-key", ADMIN_KEY).stdout
    assert "key_invalid" in printed


def test_a_secret_in_use_and_one_of_the_configuration_are_refused(gateway: Gateway, added: dict[str, Any]) -> None:
    for path, secret, words in ((KEY, "main-1", "same secret"), ("/pool/sim/main/main-1", GOOD, "is configured")):
        answer = gateway.admin("POST", f"{path}/secret", {"secret": secret})
        assert 409 == answer.status_code, answer.text
        assert words in answer.json()["error"]["message"]
    assert added["fingerprint"] == gateway.admin("GET", KEY).json()["fingerprint"]
    assert 404 == gateway.admin("POST", "/pool/sim/main/none/secret", {"secret": GOOD}).status_code
    assert 404 == gateway.admin("GET", "/pool/sim/main/none/history").status_code
    assert 400 == gateway.admin("POST", f"{KEY}/secret", {"secret": "two words"}).status_code
