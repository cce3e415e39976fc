"""What is said of keys that do not work, and of accounts that are not used."""

import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.commands import Ask, run
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, Simulator, upstream, wait_until
from tests.support.operators import Shows


@pytest.fixture
def gateway(make_gateway: MakeGateway, tmp_path: Path) -> Gateway:
    """One to which keys can be added."""
    (tmp_path / "pool_key").write_text("0123456789abcdef" * 2)
    return make_gateway(pool={"encryption_keys": [{"file": str(tmp_path / "pool_key")}]})


@pytest.fixture
def ask(gateway: Gateway) -> Ask:
    def asked(*arguments: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        variables |= {"IMAGEGATE_URL": gateway.url, "IMAGEGATE_ADMIN_KEY": ADMIN_KEY}
        return run("pool", *arguments, stdin=stdin, **variables)

    return asked


@pytest.mark.parametrize(
    ("secret", "error_code"),
    [("broke-1", "insufficient_balance"), ("dead-1", "key_invalid"), ("window-1", "quota_exhausted")],
)
def test_a_key_that_does_not_work_is_added_and_not_called_ready(
    ask: Ask, shows: Shows, secret: str, error_code: str
) -> None:
    done = ask("add", "sim/other/other-1", stdin=secret)
    shows(14, f"pool add of the key {secret}", done.stdout)
    if "does not work" in done.stdout:
        assert 1 == done.returncode
        assert error_code in done.stdout
        assert "State: ready" not in done.stdout
    else:  # its free page cannot tell
        assert (0, "window-1") == (done.returncode, secret)


def test_a_probe_of_a_disabled_account_says_that_it_is_disabled(ask: Ask, gateway: Gateway, shows: Shows) -> None:
    assert 0 == ask("disable", "sim/main").returncode
    done = ask("probe", "sim/main/main-1")
    shows(14, "pool probe in a disabled account", done.stdout)
    assert 0 == done.returncode
    assert "works" in done.stdout
    assert "State: disabled" in done.stdout
    state = 'imagegate_upstream_state{upstream="sim",state="disabled"} 1'
    wait_until(lambda: state in httpx.get(f"{gateway.url}/metrics").text, "the metric says what pool list says")
    assert "disabled" in ask("list").stdout


@pytest.mark.parametrize("way", ["enable", "probe"])
def test_an_open_breaker_is_closed_by_hand_or_by_a_good_probe(
    make_gateway: MakeGateway, simulator: Simulator, shows: Shows, way: str
) -> None:
    configured = upstream("sim", "minimax", simulator.url) | {"breaker_failures": 1, "breaker_open_s": 3600}
    gateway = make_gateway(configured)
    assert 200 != gateway.generate(prompt="x [http=502]").status_code
    [pool] = gateway.admin("GET", "/pool").json()["data"]
    assert "cooling" == pool["state"]
    variables = {"IMAGEGATE_URL": gateway.url, "IMAGEGATE_ADMIN_KEY": ADMIN_KEY}
    done = run("pool", way, "sim" if way == "enable" else "sim/main/main-1", **variables)
    shows(12, f"pool {way} while the breaker is open", done.stdout)
    assert 0 == done.returncode
    [pool] = gateway.admin("GET", "/pool").json()["data"]
    assert "half_open" == pool["state"]
    assert 200 == gateway.generate(prompt="x").status_code
    actions = [entry["action"] for entry in gateway.admin("GET", "/audit?upstream=sim").json()["data"]]
    assert "pool.enable" in actions
