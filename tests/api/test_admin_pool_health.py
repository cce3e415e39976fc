"""Probes, and what a person's word changes of how upstreams, accounts and keys stand."""

from pathlib import Path

import httpx
import pytest

from tests.support.admin_pool import NEW, pool, refused
from tests.support.harness import Gateway, MakeGateway, Simulator, upstream

MAIN = "/pool/sim/main"
KEY = f"{MAIN}/main-1"


@pytest.fixture
def gateway(make_gateway: MakeGateway, tmp_path: Path) -> Gateway:
    """One to which keys can be added."""
    (tmp_path / "pool_key").write_text("pool-key" * 4)
    return make_gateway(pool={"encryption_keys": [{"file": str(tmp_path / "pool_key")}]})


def test_a_probe_of_a_key_that_works(gateway: Gateway, simulator: Simulator) -> None:
    probed = gateway.admin("POST", "/pool/sim/main/main-1/probe").json()
    assert (True, None, "ready") == (probed["works"], probed["error_code"], probed["key"]["state"])
    assert 0 <= probed["seconds"] < 30
    assert 0 == simulator.images_billed()


def test_a_probe_lets_a_mended_key_be_tried_at_once(gateway: Gateway) -> None:
    assert 503 == gateway.generate(prompt="[code=2049]").status_code
    assert "quarantined" == gateway.admin("GET", "/pool/sim/main/main-1").json()["state"]
    probed = gateway.admin("POST", "/pool/sim/main/main-1/probe").json()
    assert (True, "half_open", "key_invalid") == (probed["works"], probed["key"]["state"], probed["key"]["error_code"])
    assert 200 == gateway.generate(prompt="a lighthouse").status_code
    assert "ready" == gateway.admin("GET", "/pool/sim/main/main-1").json()["state"]


def test_a_probe_tells_why_a_key_does_not_work_and_leaves_it_resting(gateway: Gateway, simulator: Simulator) -> None:
    gateway.admin("POST", "/pool", {**NEW, "secret": "canary-broken"})
    httpx.put(f"{simulator.url}/simulator/keys/canary-broken", json={"answers": 2049}, verify=False)
    probed = gateway.admin("POST", "/pool/sim/main/main-2/probe")
    assert (False, "key_invalid") == (probed.json()["works"], probed.json()["error_code"])
    assert probed.json()["detail"]
    assert "canary" not in probed.text


def test_a_key_that_is_added_and_does_not_work_is_told_and_rests_at_once(
    gateway: Gateway, simulator: Simulator
) -> None:
    httpx.put(f"{simulator.url}/simulator/keys/canary-dead", json={"answers": 2049}, verify=False)
    made = gateway.admin("POST", "/pool", {**NEW, "secret": "canary-dead"})
    assert (201, "quarantined", "key_invalid") == (made.status_code, made.json()["state"], made.json()["error_code"])
    assert (False, "key_invalid") == (made.json()["probe"]["works"], made.json()["probe"]["error_code"])
    assert "canary" not in made.text
    assert [200] * 4 == [gateway.generate(prompt="a lighthouse").status_code for _ in range(4)]


def test_a_secret_that_another_key_has_is_refused(gateway: Gateway) -> None:
    """The configured key's secret is its name."""
    refused(gateway.admin("POST", "/pool", {**NEW, "account": "more", "secret": "main-1"}), 409, "'main/main-1'")
    assert ["main"] == [account["account"] for account in pool(gateway)["accounts"]]


@pytest.mark.parametrize("path", [MAIN, KEY])
def test_what_is_enabled_is_tried_at_once(gateway: Gateway, path: str) -> None:
    """A person knows that it is mended."""
    assert 503 == gateway.generate(prompt="[code=2049]").status_code
    gateway.admin("PATCH", path, {"state": "ready"})
    assert "half_open" == gateway.admin("GET", KEY).json()["state"]
    assert 200 == gateway.generate(prompt="a lighthouse").status_code
    assert "ready" == gateway.admin("GET", KEY).json()["state"]


def test_an_account_and_an_upstream_none_of_whose_parts_can_be_used_stand_as_these_do(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    """As the part that is back first, if one is."""
    gateway = make_gateway(upstream("sim", "minimax", simulator.url, "main:main-1,main-2", "other:other-1"))
    gateway.admin("PATCH", "/pool/sim/other", {"state": "disabled"})
    gateway.admin("PATCH", KEY, {"state": "draining"})
    shown = pool(gateway)
    assert ["ready", "ready", "disabled"] == [shown["state"], *(one["state"] for one in shown["accounts"])]
    httpx.put(f"{simulator.url}/simulator/keys/main-2", json={"answers": 2049}, verify=False)
    gateway.admin("POST", f"{MAIN}/main-2/probe")
    shown = pool(gateway)
    assert ["quarantined"] * 2 + ["disabled"] == [shown["state"], *(one["state"] for one in shown["accounts"])]
    assert ["key_invalid"] * 2 == [shown["error_code"], shown["accounts"][0]["error_code"]]
