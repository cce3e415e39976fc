"""What hostile tenants' calls put to rest stays open to the tenants that have nothing to do with it."""

import json

import pytest

from gateway.domain.accounts import AccountLimits
from tests.scheduler.clocked_pool import DENIED, SPENT, ClockedPool, rest
from tests.support.health import ACCUSERS_MAX

LIMITS = AccountLimits(1000, 1000, 100)
BUSY = rest("account_rate_limited", "account", "cooling", 15, busy=True)
REFUSED = rest("key_invalid", "key", "quarantined", 900, is_unauthorized=True)
FAILED = {"error_code": "upstream_error", "breaker": "ill"}
TRIAL_S = 30.0
"""The longest time for which one tenant's trial keeps others from theirs."""
LOOKED_AT_AGAIN_S = 5.0
"""How long after that an account may be found."""


def accuse(clocked: ClockedPool, tenants: int, said: dict[str, object], *avoided: str, model: str = "m") -> None:
    """A call of each of these tenants meets a fault."""
    leases = [f"{tenant}:{model}:{avoided}" for tenant in range(tenants)]
    for tenant, lease in enumerate(leases):
        clocked.take(lease, f"mallory{tenant}", model=model, avoided=avoided)
    for lease in leases:
        clocked.release(lease, **said | {"model": model})


def test_a_short_cooldown_for_all_does_not_make_the_long_rest_of_one_tenant_one_for_all(clocked: ClockedPool) -> None:
    """An account that was busy once, with a call that was sent before."""
    clocked.declare({"a": LIMITS})
    clocked.take("slow", "alice")
    accuse(clocked, 1, SPENT)
    clocked.release("slow", **BUSY)
    clocked.clock.advance(16)
    clocked.take("next", "alice")


def test_a_busy_account_rests_for_all_whatever_one_tenant_says_of_it(clocked: ClockedPool) -> None:
    clocked.declare({"a": LIMITS})
    clocked.take("slow", "alice")
    clocked.take("other", "mallory")
    clocked.release("slow", **BUSY)
    clocked.release("other", **SPENT)
    assert "leased" != clocked.lease("next", "alice")["decision"]
    clocked.clock.advance(16)
    clocked.take("later", "alice")


@pytest.mark.parametrize("tenants", [1, 2, 7])
def test_a_slow_trial_of_one_tenant_keeps_no_other_from_its_own(clocked: ClockedPool, tenants: int) -> None:
    clocked.declare({"a": LIMITS})
    accuse(clocked, tenants, SPENT)
    for number in range(3):
        clocked.take(f"hanging{number}", "eve")
    clocked.take("next", "alice")
    clocked.release("next")
    assert "error_code" not in clocked.account()
    clocked.take("third", "alice")


def test_a_slow_trial_by_a_tenant_that_blamed_the_account_keeps_no_other_out(clocked: ClockedPool) -> None:
    """Its cooldown is over."""
    clocked.declare({"a": LIMITS})
    accuse(clocked, 2, SPENT)
    clocked.clock.advance(901)
    clocked.take("hanging", "mallory0")
    assert "leased" != clocked.lease("again", "mallory1")["decision"]
    clocked.take("next", "alice")
    clocked.take("beside", "bob")


def test_what_hangs_is_tried_by_one_call_in_each_span(clocked: ClockedPool) -> None:
    clocked.declare({"a": LIMITS})
    accuse(clocked, ACCUSERS_MAX, SPENT)
    clocked.clock.advance(901)
    for tenant in ("eve", "alice", "bob"):
        clocked.take(tenant, tenant)
        assert "leased" != clocked.lease("hasty", "carol")["decision"]
        clocked.clock.advance(TRIAL_S - 1)
        assert "leased" != clocked.lease("hasty", "carol")["decision"]
        clocked.clock.advance(1 + LOOKED_AT_AGAIN_S)


def test_what_a_free_page_confirms_rests_for_all(clocked: ClockedPool) -> None:
    clocked.declare({"a": LIMITS})
    accuse(clocked, 1, SPENT)
    clocked.run("members", "probed", "a/a-1", json.dumps(SPENT | {"works": False}))
    assert "down" == clocked.lease("next", "alice")["decision"]


def test_a_slow_trial_of_the_breaker_keeps_no_other_tenant_from_its_own(clocked: ClockedPool) -> None:
    clocked.declare({"a": LIMITS}, breaker_failures=2)
    for number in range(2):
        clocked.take(f"f{number}", "mallory")
        clocked.release(f"f{number}", **FAILED)
    clocked.take("hanging", "eve")
    assert "leased" != clocked.lease("hasty", "alice")["decision"]
    clocked.clock.advance(TRIAL_S + LOOKED_AT_AGAIN_S)
    clocked.take("next", "alice")
    clocked.release("next")
    clocked.take("third", "bob")
    clocked.take("fourth", "bob")


def test_who_waits_for_a_slow_trial_of_another_tenant_is_given_its_own(clocked: ClockedPool) -> None:
    clocked.declare({"a": LIMITS})
    accuse(clocked, ACCUSERS_MAX, SPENT)
    clocked.clock.advance(901)
    clocked.take("hanging", "eve")
    clocked.wait("patient", "alice")
    clocked.clock.advance(TRIAL_S + LOOKED_AT_AGAIN_S)
    assert ["patient"] == clocked.given("patient")


def test_what_is_blamed_of_other_models_hides_nothing_of_ours(clocked: ClockedPool) -> None:
    """A model of which every key is denied to one tenant, among many such."""
    clocked.declare({"a": LIMITS, "b": LIMITS})
    for number in range(60):
        for account in "ab":
            accuse(clocked, 1, DENIED, f"{account}/", model=f"other{number}")
    for number in range(5):
        for account in "ab":
            accuse(clocked, 1, DENIED, f"{account}/")
        clocked.take(f"next{number}", f"alice{number}")
        clocked.release(f"next{number}")


def test_an_alarm_is_for_the_tenants_alone_that_keys_rest_for(clocked: ClockedPool) -> None:
    """One key is really dead, and found so once more when all others rest because of one tenant."""
    clocked.declare({"a": LIMITS, "b": LIMITS, "c": LIMITS})
    accuse(clocked, ACCUSERS_MAX, REFUSED, "b/", "c/")
    clocked.clock.advance(900)
    clocked.take("dead", "mallory0", avoided=["b/", "c/"])
    for account, others in (("b", ("a/", "c/")), ("c", ("a/", "b/"))):
        del account
        accuse(clocked, 1, REFUSED, *others)
    clocked.release("dead", **REFUSED)
    assert "quarantined" == clocked.look()["state"]
    clocked.take("next", "alice", avoided=["a/"])
