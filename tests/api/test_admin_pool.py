"""Upstream accounts and keys over the admin API: what they are shown as, and how they change while the gateway runs."""

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.support.admin_pool import CANARY, NEW, pool, refused
from tests.support.harness import Gateway, MakeGateway, Simulator, admin, document, gatewaying, upstream, wait_until


@pytest.fixture
def vault(tmp_path: Path) -> dict[str, object]:
    """The table [pool] with an encryption key."""
    (tmp_path / "pool_key").write_text("pool-key" * 4)
    return {"encryption_keys": [{"file": str(tmp_path / "pool_key")}]}


@pytest.fixture
def gateway(make_gateway: MakeGateway, vault: dict[str, object]) -> Gateway:
    """One to which keys can be added."""
    return make_gateway(pool=vault)


def audit(gateway: Gateway) -> list[tuple[str, str, str | None]]:
    """The acts on the pool, the oldest first."""
    entries = gateway.admin("GET", "/audit?upstream=sim").json()["data"]
    return [(entry["actor"], entry["action"], entry["target"]) for entry in reversed(entries)]


def test_an_upstream_is_shown_with_its_accounts_their_room_and_their_keys(make_gateway: MakeGateway) -> None:
    site = upstream("sim", "minimax", "http://127.0.0.1:1", "main:main-1", "other:other-1,other-2")
    for account in site["accounts"]:  # type: ignore[attr-defined]
        account |= {"requests_per_minute": 10, "images_per_minute": 60, "max_concurrency": 5, "weight": 3}
    shown = pool(make_gateway(site))
    calm = {"state": "ready", "error_code": None, "since": None, "until": None}
    [main, other] = shown.pop("accounts")
    [key] = main.pop("keys")
    counts = dict.fromkeys(("waiting", "waiting_batch", "calls_last_minute", "retries_last_minute"), 0)
    assert {"name": "sim", **calm, **counts} == shown
    assert {
        "upstream": "sim",
        "account": "main",
        **calm,
        "held_by": None,
        "weight": 3,
        "requests_per_minute": {"limit": 10, "now": 10, "used": 0, "free": 10},
        "images_per_minute": {"limit": 60, "used": 0, "free": 60},
        "concurrency": {"limit": 5, "now": 5, "used": 0, "free": 5},
        "images_today": 0,
        "spend_today_usd": "0.00",
    } == main
    assert key.pop("fingerprint").startswith("fp-")
    names = {"upstream": "sim", "account": "main", "key": "main-1"}
    assert {**names, **calm, "model": None, "held_by": None, "declared": True} == key
    assert ["other-1", "other-2"] == [entry["key"] for entry in other["keys"]]


def test_what_was_used_is_shown(gateway: Gateway) -> None:
    gateway.generate(prompt="a lighthouse", n=2)
    [account] = pool(gateway)["accounts"]
    assert (1, 2) == (account["requests_per_minute"]["used"], account["images_per_minute"]["used"])
    assert (2, "0.007") == (account["images_today"], account["spend_today_usd"])
    assert 1 == pool(gateway)["calls_last_minute"]


def test_an_added_key_is_used_at_once_and_shown_nowhere(gateway: Gateway, simulator: Simulator, redis_url: str) -> None:
    made = gateway.admin("POST", "/pool", NEW)
    assert (201, "ready", False) == (made.status_code, made.json()["state"], made.json()["declared"])
    assert (probe := made.json()["probe"])["works"]
    assert made.json() == gateway.admin("GET", "/pool/sim/main/main-2").json() | {"probe": probe}
    gateway.admin("PATCH", "/pool/sim/main/main-1", {"state": "disabled"})
    assert 200 == gateway.generate(prompt="a lighthouse").status_code
    assert CANARY == simulator.requests()[-1]["headers"]["authorization"]
    answers = [made.text, *(gateway.admin("GET", path).text for path in ("/pool", "/pool/sim/main", "/audit"))]
    with redis.Redis.from_url(redis_url) as client:
        answers += [str(client.dump(key)) for key in client.scan_iter()]
    assert [] == [answer for answer in answers if CANARY in answer or "canary" in answer]


def test_every_process_uses_an_added_key_within_two_seconds(
    redis_url: str, simulator: Simulator, vault: dict[str, object], stack: ExitStack
) -> None:
    configured = document(redis_url, upstream("sim", "minimax", simulator.url), pool=vault)
    one, other = (stack.enter_context(gatewaying(dict(configured))) for _ in range(2))
    one.admin("POST", "/pool", NEW)
    one.admin("PATCH", "/pool/sim/main/main-1", {"state": "disabled"})
    started = time.monotonic()
    assert 200 == other.generate(prompt="a lighthouse").status_code
    assert CANARY == simulator.requests()[-1]["headers"]["authorization"]
    assert time.monotonic() - started < 2


def test_an_added_key_is_there_after_a_restart_and_after_a_rotation_of_the_encryption_key(
    redis_url: str, simulator: Simulator, vault: dict[str, Any], tmp_path: Path
) -> None:
    site = upstream("sim", "minimax", simulator.url)
    with gatewaying(document(redis_url, site, pool=vault)) as first:
        first.admin("POST", "/pool", NEW)
        first.admin("PATCH", "/pool/sim/main/main-1", {"state": "disabled"})
    (tmp_path / "new_key").write_text("new-keys" * 4)
    new = {"file": str(tmp_path / "new_key")}
    for keys in ([new, *vault["encryption_keys"]], [new]):
        with gatewaying(document(redis_url, site, pool={"encryption_keys": keys})) as later:
            assert 200 == later.generate(prompt="a lighthouse").status_code


def test_without_an_encryption_key_nothing_can_be_added(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    refused(gateway.admin("POST", "/pool", NEW), 409, "[pool] encryption_keys")
    assert [] == audit(gateway)


def test_a_new_account_has_the_limits_that_are_given(gateway: Gateway) -> None:
    limits = {"requests_per_minute": 20, "images_per_minute": 30, "max_concurrency": 4, "weight": 7}
    assert 201 == gateway.admin("POST", "/pool", {**NEW, "account": "more", **limits}).status_code
    shown = gateway.admin("GET", "/pool/sim/more").json()
    rates = [shown[name]["limit"] for name in ("requests_per_minute", "images_per_minute", "concurrency")]
    assert [20, 30, 4, 7] == [*rates, shown["weight"]]


def test_the_limits_of_an_account_that_is_there_are_not_given_again(gateway: Gateway) -> None:
    refused(gateway.admin("POST", "/pool", {**NEW, "weight": 2}), 409, "sim/main", "configuration")


def test_a_key_is_added_once(gateway: Gateway) -> None:
    assert 201 == gateway.admin("POST", "/pool", NEW).status_code
    for name in ("main-1", "main-2"):
        refused(gateway.admin("POST", "/pool", {**NEW, "key": name}), 409, name)


@pytest.mark.parametrize("field", ["upstream", "account", "key"])
@pytest.mark.parametrize("name", ["", "Main", "a b", "a/b", "a" * 64, "a\n", "*", None, 7])
def test_a_name_that_is_none_is_refused_with_its_field(module_gateway: Gateway, field: str, name: object) -> None:
    assert field == refused(module_gateway.admin("POST", "/pool", {**NEW, field: name}), 400, "1 to 63")["param"]


@pytest.mark.parametrize("secret", ["", " ", "sk a", "sk\n", "s" * 501, "sk-é", None, 7])
def test_a_secret_that_is_none_is_refused_and_not_repeated(module_gateway: Gateway, secret: object) -> None:
    error = refused(module_gateway.admin("POST", "/pool", {**NEW, "secret": secret}), 400, "without spaces")
    assert "secret" == error["param"]
    assert "sss" not in error["message"]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"images_per_minute": 1_000_001}, "images_per_minute"),
        ({"max_concurrency": "4"}, "max_concurrency"),
        ({"weight": 1001}, "weight"),
        ({"nope": 1}, "nope"),
    ],
)
def test_a_limit_that_is_none_is_refused_with_its_field(
    module_gateway: Gateway, change: dict[str, object], param: str
) -> None:
    assert param == refused(module_gateway.admin("POST", "/pool", {**NEW, **change}), 400)["param"]


def test_an_unknown_upstream_is_404_and_the_known_ones_are_named(module_gateway: Gateway) -> None:
    refused(module_gateway.admin("POST", "/pool", {**NEW, "upstream": "nowhere"}), 404, "nowhere", "sim")
    for path in ("/pool/nowhere/main", "/pool/nowhere/main/main-1"):
        refused(module_gateway.admin("GET", path), 404, "nowhere", "sim")
        refused(module_gateway.admin("PATCH", path, {"state": "ready"}), 404, "nowhere", "sim")


@pytest.mark.parametrize("path", ["/pool/sim/nobody", "/pool/sim/main/nobody", "/pool/sim/nobody/main-1"])
def test_what_is_not_there_is_404(module_gateway: Gateway, path: str) -> None:
    refused(module_gateway.admin("GET", path), 404, "nobody")
    refused(module_gateway.admin("PATCH", path, {"state": "disabled"}), 404, "nobody")
    if path.count("/") == 4:
        refused(module_gateway.admin("DELETE", path), 404, "nobody")
        refused(module_gateway.admin("POST", f"{path}/probe"), 404, "nobody")


@pytest.mark.parametrize("body", [{}, {"state": "cooling"}, {"state": None}, {"state": "ready", "x": 1}])
@pytest.mark.parametrize("path", ["/pool/sim/main", "/pool/sim/main/main-1"])
def test_a_state_that_no_person_can_give_is_refused(
    module_gateway: Gateway, path: str, body: dict[str, object]
) -> None:
    assert refused(module_gateway.admin("PATCH", path, body), 400)["param"] in {"state", "x"}
    assert "ready" == module_gateway.admin("GET", path).json()["state"]


@pytest.mark.parametrize("state", ["disabled", "draining"])
@pytest.mark.parametrize("path", ["/pool/sim/main", "/pool/sim/main/main-1"])
def test_what_is_held_back_is_not_used_until_it_is_let_go(gateway: Gateway, path: str, state: str) -> None:
    held = gateway.admin("PATCH", path, {"state": state}).json()
    assert (state, "admin", None) == (held["state"], held["held_by"], held["error_code"])
    assert abs(time.time() - held["since"]) < 60
    assert 503 == gateway.generate(prompt="a lighthouse").status_code
    freed = gateway.admin("PATCH", path, {"state": "ready"}).json()
    assert ("ready", None) == (freed["state"], freed["held_by"])
    assert 200 == gateway.generate(prompt="a lighthouse").status_code


def test_a_removed_key_is_gone(gateway: Gateway) -> None:
    gateway.admin("POST", "/pool", NEW)
    made = gateway.admin("GET", "/pool/sim/main/main-2").json()
    assert made | {"removed": True} == gateway.admin("DELETE", "/pool/sim/main/main-2").json()
    refused(gateway.admin("GET", "/pool/sim/main/main-2"), 404)
    assert ["main-1"] == [key["key"] for key in pool(gateway)["accounts"][0]["keys"]]
    assert 201 == gateway.admin("POST", "/pool", NEW).status_code


def test_a_key_of_the_configuration_is_not_removed(gateway: Gateway) -> None:
    refused(gateway.admin("DELETE", "/pool/sim/main/main-1"), 409, "configuration", "disable")
    assert 200 == gateway.generate(prompt="a lighthouse").status_code


def test_every_act_is_in_the_audit_with_its_target(gateway: Gateway) -> None:
    gateway.admin("POST", "/pool", NEW)
    for state in ("disabled", "draining", "ready"):
        gateway.admin("PATCH", "/pool/sim/main/main-2", {"state": state})
    gateway.admin("PATCH", "/pool/sim/main", {"state": "draining"})
    gateway.admin("POST", "/pool/sim/main/main-2/probe")
    gateway.admin("DELETE", "/pool/sim/main/main-2")
    gateway.admin("DELETE", "/pool/sim/main/main-1")
    key = "sim/main/main-2"
    acts = [("add", key), ("disable", key), ("drain", key), ("enable", key), ("drain", "sim/main")]
    acts += [("probe", key), ("remove", key)]
    assert [("admin", f"pool.{act}", target) for act, target in acts] == audit(gateway)
    everything = gateway.admin("GET", "/audit").json()["data"]
    assert {"tenant.create", "key.create", "pool.add"} <= {entry["action"] for entry in everything}
    assert CANARY not in str(everything)


def test_the_audit_is_asked_for_a_tenant_or_an_upstream(gateway: Gateway) -> None:
    assert "upstream" == refused(gateway.admin("GET", "/audit?tenant=acme&upstream=sim"), 400, "together")["param"]
    refused(gateway.admin("GET", "/audit?upstream=nowhere"), 404, "sim")


def test_an_admin_key_that_may_only_read_changes_nothing(
    make_gateway: MakeGateway, vault: dict[str, object], tmp_path: Path
) -> None:
    (tmp_path / "reader").write_text("reader-secret-for-tests")
    reader = {"name": "reader", "role": "read", "secret": {"file": str(tmp_path / "reader")}}
    gateway = make_gateway(pool=vault, admin={"key": {"env": "ADMIN_KEY"}, "keys": [reader]})
    headers = {"authorization": "Bearer reader-secret-for-tests"}
    base = f"{gateway.url}/admin/v1/pool"
    assert 200 == httpx.get(base, headers=headers, verify=False).status_code
    for method, path in (("POST", ""), ("PATCH", "/sim/main"), ("DELETE", "/sim/main/main-1")):
        answer = httpx.request(method, base + path, headers=headers, json={}, verify=False)
        assert "admin_read_only" == answer.json()["error"]["code"]
    assert 403 == httpx.post(f"{base}/sim/main/main-1/probe", headers=headers, verify=False).status_code
    assert 200 == admin(gateway.url, "GET", "/pool").status_code


def test_a_key_that_is_added_while_requests_run_drops_none(gateway: Gateway, simulator: Simulator) -> None:
    gateway.admin("POST", "/pool", NEW)

    def is_used() -> bool:
        assert 200 == gateway.generate(prompt="a lighthouse").status_code
        return CANARY in [request["headers"].get("authorization") for request in simulator.requests()]

    wait_until(is_used, "the added key has its turn")
    gateway.admin("DELETE", "/pool/sim/main/main-2")
    assert 200 == gateway.generate(prompt="a lighthouse").status_code
