"""Random histories of faults, successes, checks and acts of operators: the scripts and the tables say the same."""

import json
import random
from typing import Final

import msgspec
import pytest
import redis

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import KeyState
from gateway.domain.health import HOLDS, TRANSITIONS, Event, lua_tables
from gateway.redis import script_text
from gateway.scheduler.scripts import PARTS
from gateway.scheduler.status import Health, PoolStatus
from tests.scheduler.clocked_pool import ClockedPool, Mutant, described
from tests.scheduler.model_of_states import BREAKER_FAILURES, OUT, UPSTREAM, Fault, Model

KEYS: Final = ("a/a-1", "a/a-2", "b/b-1")
FAULTS: Final = (
    Fault("account_rate_limited", "account", KeyState.COOLING, 15, 60, is_busy=True),
    Fault("account_token_limited", "account", KeyState.COOLING, 60, is_busy=True),
    Fault("quota_exhausted_plan", "account", KeyState.COOLING, 3600),
    Fault("insufficient_balance", "account", KeyState.QUARANTINED, 900),
    Fault("quota_exhausted_key_hour", "key", KeyState.COOLING, 3600),
    Fault("key_limit_reached", "key", KeyState.QUARANTINED, 900),
    Fault("key_model_denied", "model", KeyState.QUARANTINED, 900),
    Fault("ip_denied", "upstream", KeyState.QUARANTINED, 900),
    Fault("model_unavailable", "upstream", KeyState.COOLING, 30),
    Fault("upstream_error", breaker="ill"),
    Fault("upstream_busy", breaker="ill"),
    Fault("upstream_timeout", breaker="ill"),
    Fault("moderated"),
    Fault("not_sent", breaker=""),
)
ILL: Final = tuple(error_code for error_code in FAULTS if error_code.breaker == "ill")
BY_CHECKS: Final = tuple(error_code for error_code in FAULTS if error_code.scope in {"key", "account", "upstream"})
LIMITS: Final = AccountLimits(10_000, 100_000, 10_000)
LONG_S: Final = 1e8
TENANTS: Final = ("t", "u", "v", "w")
MUTANTS: Final[dict[str, Mutant]] = {
    "the breaker opens beside tenants that are served": ("and not are_others_served() then", "then"),
    "a tenant that fails counts as served": ("redis.call('ZREM', K.served, tenant)", ""),
    "a tenant is served no more for one failure": ("tenant, 1) > 1 then", "tenant, 1) > 0 then"),
    "a failed trial before its time lengthens the rest": (
        "if breaker.resumes and breaker.resumes > now then",
        "if false then",
    ),
    "a tenant that failed before may not try a rest that got longer": (
        "  redis.call('DEL', K.ailing)\n  open",
        "  open",
    ),
    "who opened the breaker may try it": ("redis.call('HSET', touch('ailing'), tenant, 2)", ""),
    "who was served once keeps the breaker closed": (
        "  redis.call('ZREMRANGEBYSCORE', K.served, '-inf', now - MINUTE)\n",
        "",
    ),
    "one tenant puts to rest what serves another": (
        "#found.by == 1 and found.n < ACCUSATIONS and are_others_here()",
        "false",
    ),
    "what one tenant meets again and again never rests": ("found.n < ACCUSATIONS and", ""),
    "another tenant never tries what one tenant put to rest": (
        "    report.by = #found.by < ACCUSERS_MAX and found.by or nil\n",
        "",
    ),
    "what works again stays accused": (
        "  redis.call('HDEL', K.accused, FIELD.key, FIELD.model, FIELD.account, FIELD.upstream)\n",
        "",
    ),
    "a refusal is a success": (
        "if lease and report.is_success then\n      redis.call('ZADD'",
        "if lease then\n      redis.call('ZADD'",
    ),
}


class History:
    """One random history, lived through by the scripts and by the model."""

    def __init__(self, clocked: ClockedPool, seed: int) -> None:
        self.random = random.Random(seed)
        self.tenants = TENANTS[: self.random.choice((1, 2, 4))]
        self.is_failing = self.random.random() < 0.3
        self.outcomes = (
            (None, *ILL, Fault("moderated")) if self.is_failing else (None, None, *self.random.sample(FAULTS, 4))
        )
        self.provoked = None if self.is_failing else self.random.choice((None, None, None, *FAULTS[5:9]))
        """A fault that all calls of the first tenant meet, and no others."""
        self.pool = clocked
        self.model = Model(dict.fromkeys(KEYS, 0), clocked.clock.now_s)
        self.log: list[str] = []
        self.declare()

    def declare(self) -> None:
        accounts = {}
        for name in ("a", "b"):
            keys = [{"name": m[2:], "fingerprint": f"{m}#{n}"} for m, n in self.model.secrets.items() if m[0] == name]
            accounts[name] = described(LIMITS) | {"keys": keys}
        terms = {"breaker_failures": BREAKER_FAILURES}
        self.pool.declare_as("p1", str(self.model.secrets), accounts, **terms)

    def step(self) -> None:
        acts = [self.lease] * 6 + [self.release] * 6 + [self.wait] * 4
        acts += [] if self.is_failing else [self.check, self.check, self.hold, self.replace]
        self.random.choice(acts)()
        self.pass_time(0.001)

    def pass_time(self, seconds: float) -> None:
        self.pool.clock.advance(seconds)
        self.model.now_s = self.pool.clock.now_s

    def wait(self) -> None:
        is_short = self.is_failing or self.provoked
        seconds = self.random.choice((1, 8, 16, 31, 61, 901, 3601)[: 4 if is_short else 7])
        self.log.append(f"wait {seconds}")
        self.pass_time(seconds)

    def lease(self) -> None:
        member, lease_id = self.random.choice(KEYS), f"lease{len(self.log)}"
        tenant, avoided = self.random.choice(self.tenants), [key for key in KEYS if key != member]
        found = self.pool.lease(lease_id, tenant, avoided=avoided, lease_s=LONG_S)["decision"]
        self.log.append(f"{lease_id} {member} {tenant}: {found}")
        if not self.model.may_lease(member) and not self.model.lift_breaker(tenant):
            self.model.lift_blamed(tenant)
        assert self.model.may_lease(member) == (found == "leased"), self.log
        if found == "leased":
            self.model.lease(lease_id, member, tenant)

    def release(self) -> None:
        if not self.model.leases:
            return
        lease_id, error_code = self.random.choice(list(self.model.leases)), self.random.choice(self.outcomes)
        if self.provoked:
            error_code = self.provoked if self.model.leases[lease_id].tenant == TENANTS[0] else None
        self.log.append(f"{lease_id} ends: {error_code.name if error_code else 'well'}")
        self.pool.release(lease_id, **(said(error_code) if error_code else {}))
        self.model.release(lease_id, error_code)

    def check(self) -> None:
        member, error_code, works = self.random.choice(KEYS), self.random.choice(BY_CHECKS), self.random.random() < 0.5
        self.log.append(f"check {member} {error_code.name}: {works}")
        asked = said(error_code) | {"works": works, "seconds": 0 if works else error_code.seconds}
        self.pool.run("members", "probed", member, json.dumps(asked))
        self.model.check(member, error_code, works=works)

    def hold(self) -> None:
        name = self.random.choice((*KEYS, "a", "b"))
        event = self.random.choice((Event.DISABLE, Event.DRAIN, Event.ENABLE, Event.ENABLE, Event.ENABLE))
        self.log.append(f"{event.value} {name}")
        self.pool.hold(name, event.value)
        self.model.hold(name, event)

    def replace(self) -> None:
        member = self.random.choice(KEYS)
        self.log.append(f"replace {member}")
        self.model.replace(member)
        self.declare()


def said(error_code: Fault) -> dict[str, object]:
    found: dict[str, object] = {"error_code": error_code.name}
    if error_code.breaker:
        found["breaker"] = error_code.breaker
    if error_code.scope:
        found |= {"scope": error_code.scope, "state": error_code.state.value, "seconds": error_code.seconds}
        found |= {"seconds_max": error_code.seconds_max, "busy": error_code.is_busy}
    return found


def seen(clocked: ClockedPool) -> dict[str, tuple[KeyState, str | None, int | None]]:
    """What `look` shows of the upstream, accounts and keys: state, fault, end."""
    pool = msgspec.convert(clocked.look(), PoolStatus, strict=False)
    found: dict[str, Health] = {UPSTREAM: pool}
    for account in pool.accounts:
        found |= {account.name: account} | {f"{key.account}/{key.name}": key for key in account.keys}
    return {name: (one.state, one.error_code, one.until_s) for name, one in found.items()}


def expected_of(model: Model) -> dict[str, tuple[KeyState, str | None, int | None]]:
    found: dict[str, tuple[KeyState, str | None, int | None]] = {}
    for name in (UPSTREAM, "a", "b", *KEYS):
        shown = name if name in model.rests else f"{name}|m"
        if name in model.holds:
            found[name] = model.holds[name], None, None
        elif rest := model.rests.get(shown):
            found[name] = model.state(shown), rest.error_code.name, round(rest.until_s)
        else:
            found[name] = KeyState.READY, None, None
    return found


def test_the_scripts_run_on_the_tables(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        found = json.loads(str(client.eval(f"{lua_tables()}\nreturn cjson.encode({{TRANSITIONS, HOLDS}})", 0)))
    expected = [
        {state.value: {event.value: after.value for event, after in row.items()} for state, row in table.items()}
        for table in (TRANSITIONS, HOLDS)
    ]
    assert expected == found


@pytest.mark.parametrize("seed", range(40))
def test_random_histories_lead_to_the_states_of_the_tables(clocked: ClockedPool, seed: int) -> None:
    history = History(clocked, seed)
    for _ in range(80):
        history.step()
        assert expected_of(history.model) == seen(clocked), history.log


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_script_that_is_wrong_is_found_out(clocked: ClockedPool, mutant: str) -> None:
    def is_found(seed: int) -> bool:
        clocked.client.flushall()
        history = History(ClockedPool(clocked.client, MUTANTS[mutant]), seed)
        try:
            for _ in range(80):
                history.step()
                assert expected_of(history.model) == seen(history.pool)
        except AssertionError:
            return True
        return False

    assert MUTANTS[mutant][0] in script_text("scheduler/release", PARTS["release"], lua_tables())
    assert any(is_found(seed) for seed in range(60))


@pytest.mark.parametrize("seed", range(10))
def test_an_end_moves_outward_only_whatever_is_released(clocked: ClockedPool, seed: int) -> None:
    """Faults of leases that were sent before; no check, no operator, no other secret, no other tenant."""
    history = History(clocked, seed)
    history.tenants = TENANTS[:1]
    for _ in range(60):
        before = seen(clocked)
        history.random.choice((history.lease, history.release, history.release))()
        after = seen(clocked)
        for name, (state, _, until_s) in before.items():
            if state in OUT:
                assert after[name][0] in OUT, history.log
                assert (after[name][2] or 0) >= (until_s or 0), history.log
        history.pass_time(1)
