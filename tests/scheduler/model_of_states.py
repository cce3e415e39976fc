"""The states of keys, accounts and the upstream, written once more in Python: on the same tables as the scripts."""

from dataclasses import dataclass, field

from gateway.domain.errors import KeyState
from gateway.domain.health import HOLDS, TRANSITIONS, Event

UPSTREAM = "*"
BREAKER_FAILURES = 3
BREAKER_OPEN_S = 10
SERVED_S = 60
ACCUSATIONS = 3
TRIAL_MAX_S = 30
OUT = (KeyState.COOLING, KeyState.QUARANTINED)


@dataclass
class Fault:
    """As a release reports it."""

    name: str
    scope: str = ""
    """key, model, account or upstream; none of them rests for a fault of no scope."""
    state: KeyState = KeyState.COOLING
    seconds: int = 0
    seconds_max: int = 0
    breaker: str = "well"
    is_busy: bool = False


@dataclass
class Rest:
    state: KeyState
    error_code: Fault
    seconds: int
    until_s: float
    by: tuple[str, ...] = ()
    """The tenants whose calls alone are the reason."""
    is_lifted: bool = False
    """By another tenant, for all."""
    firm_s: float = 0.0
    """Until when it lasts for all tenants."""
    is_ill: bool = False
    """The circuit breaker's."""
    resumes_s: float = 0.0
    """Until when it lasts if the call that tries it before its time fails."""
    probe: str = ""
    probed_s: float = 0.0


@dataclass
class Lease:
    member: str
    """ACCOUNT/KEY."""
    secret: int
    at_s: float
    tenant: str = ""

    def fields(self) -> dict[str, str]:
        account = self.member.partition("/")[0]
        return {"key": self.member, "model": f"{self.member}|m", "account": account, "upstream": UPSTREAM}


@dataclass
class Model:
    """Every rest and hold of a pool of one model."""

    secrets: dict[str, int]
    """ACCOUNT/KEY -> which secret it has."""
    now_s: float = 0.0
    rests: dict[str, Rest] = field(default_factory=dict)
    holds: dict[str, KeyState] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    failures: int = 0
    served: dict[str, float] = field(default_factory=dict)
    """Tenants whose calls have not failed twice since a success, and when that was."""
    ailing: dict[str, int] = field(default_factory=dict)
    """Failures of each tenant's calls since a success."""
    well_since_s: float = 0.0
    accused: dict[str, list[str]] = field(default_factory=dict)
    """What did not work since these tenants' calls met a fault there."""
    blamed: set[str] = field(default_factory=set)
    """What rests because of one tenant's calls."""

    def state(self, name: str) -> KeyState:
        rest = self.rests.get(name)
        if rest is None:
            return KeyState.READY
        return TRANSITIONS[rest.state][Event.ELAPSE] if rest.until_s <= self.now_s else rest.state

    def may_lease(self, member: str) -> bool:
        lease = Lease(member, 0, 0)
        if {member, lease.fields()["account"]} & self.holds.keys():
            return False
        rests = [self.rests[name] for name in lease.fields().values() if name in self.rests]
        return all(self.state(name) not in OUT for name in lease.fields().values()) and not any(
            not rest.is_lifted and rest.probe in self.leases and self.now_s - rest.probed_s < TRIAL_MAX_S
            for rest in rests
        )

    def lease(self, lease_id: str, member: str, tenant: str) -> None:
        self.leases[lease_id] = lease = Lease(member, self.secrets[member], self.now_s, tenant)
        for name in lease.fields().values():
            if name in self.rests:
                self.rests[name].probe, self.rests[name].probed_s = lease_id, self.now_s

    def release(self, lease_id: str, error_code: Fault | None) -> None:
        lease = self.leases.pop(lease_id)
        self._mind_breaker(lease_id, lease, error_code)
        if self.secrets[lease.member] != lease.secret:
            return
        for name in lease.fields().values():
            if error_code is None:
                self.move(name, Event.SUCCEED)
                self.accused.pop(name, None)
            elif name in self.rests and self.rests[name].probe == lease_id:
                self.move(name, Event.INCONCLUSIVE)
        if error_code and error_code.scope:
            self.blame(lease.fields()[error_code.scope], error_code, lease.tenant)

    def blame(self, name: str, error_code: Fault, tenant: str) -> None:
        """One call's fault is enough for what is busy, and where no other tenant is served."""
        by: tuple[str, ...] = ()
        if not error_code.is_busy:
            self.accused.setdefault(name, []).append(tenant)
            by = tuple(set(self.accused[name]))
        if len(by) == 1 and len(self.accused[name]) < ACCUSATIONS and self.are_others_served(tenant):
            return
        self.put_to_rest(name, error_code, by)
        (self.blamed.add if self.rests[name].by else self.blamed.discard)(name)

    def lift_blamed(self, tenant: str) -> None:
        """Where a tenant would be given no lease, what only others' calls put to rest may be tried."""
        for name in list(self.blamed):
            rest = self.rests.get(name)
            if rest and rest.by and not rest.is_lifted:
                if tenant in rest.by or rest.firm_s > self.now_s:
                    continue
                self.move(name, Event.ENABLE)
                rest.is_lifted = True
            self.blamed.remove(name)

    def lift_breaker(self, tenant: str) -> bool:
        """Likewise the circuit breaker, for a tenant whose calls do not fail."""
        star = self.rests.get(UPSTREAM)
        if not (star and star.is_ill and self.state(UPSTREAM) in OUT) or self.ailing.get(tenant, 0) > 1:
            return False
        star.resumes_s = star.until_s
        self.move(UPSTREAM, Event.ENABLE)
        return True

    def put_to_rest(self, name: str, error_code: Fault, by: tuple[str, ...] = ()) -> None:
        self.move(name, Event.QUARANTINE if error_code.state is KeyState.QUARANTINED else Event.COOL, error_code, by)

    def are_others_served(self, tenant: str) -> bool:
        return any(self.now_s - at_s < SERVED_S for other, at_s in self.served.items() if other != tenant)

    def check(self, member: str, error_code: Fault, *, works: bool) -> None:
        lease, is_known = Lease(member, 0, 0), False
        for scope in ("key", "account", "upstream"):
            rest = self.rests.get(lease.fields()[scope])
            if rest is None or rest.error_code.name != error_code.name:
                continue
            is_known = True
            if works:
                self.move(lease.fields()[scope], Event.CHECK_PASSED)
            else:
                rest.seconds, rest.until_s, rest.by = error_code.seconds, self.now_s + error_code.seconds, ()
        if not is_known and not works and error_code.scope != "model":
            self.put_to_rest(lease.fields()[error_code.scope], error_code)

    def hold(self, name: str, event: Event) -> None:
        after = HOLDS[self.holds.pop(name, KeyState.READY)][event]
        if after is not KeyState.READY:
            self.holds[name] = after
            return
        for resting in list(self.rests):
            member = resting.partition("|")[0]
            if name in {member, member.partition("/")[0]} and self.state(resting) in OUT:
                self.move(resting, Event.ENABLE)

    def replace(self, member: str) -> None:
        self.secrets[member] += 1
        for name in [name for name in self.rests if name.partition("|")[0] == member]:
            self.move(name, Event.REPLACE)

    def move(self, name: str, event: Event, error_code: Fault | None = None, by: tuple[str, ...] = ()) -> None:
        before, rest = self.state(name), self.rests.get(name)
        after = TRANSITIONS[before][event]
        if after is KeyState.READY:
            self.rests.pop(name, None)
            if name == UPSTREAM and rest:
                self.well_since_s = self.now_s
        elif after is KeyState.HALF_OPEN and rest:
            rest.until_s = min(rest.until_s, self.now_s)
        elif error_code:
            seconds = error_code.seconds
            if before is KeyState.HALF_OPEN and rest and rest.error_code.name == error_code.name:
                seconds = max(seconds, min(2 * rest.seconds, error_code.seconds_max))
            until_s, firm_s = self.now_s + seconds, 0.0
            if before in OUT and rest:
                firm_s = rest.firm_s if rest.by else rest.until_s
            if not by:
                firm_s = max(firm_s, until_s)
            if before in OUT and rest and rest.until_s >= until_s:
                rest.firm_s = firm_s
                rest.by = () if firm_s >= rest.until_s else rest.by and (by or rest.by)
                return
            self.rests[name] = Rest(after, error_code, seconds, until_s, by, firm_s=firm_s)

    def _mind_breaker(self, lease_id: str, lease: Lease, error_code: Fault | None) -> None:
        star = self.rests.get(UPSTREAM)
        if error_code is None or error_code.breaker == "well":
            self.failures = 0
            if error_code is None:
                self.served[lease.tenant] = self.now_s
                self.ailing.pop(lease.tenant, None)
            if star and star.probe == lease_id and not (error_code and error_code.scope):
                self.move(UPSTREAM, Event.SUCCEED)
        elif error_code.breaker == "ill" and lease.at_s >= self.well_since_s:
            self.failures += 1
            self.ailing[lease.tenant] = self.ailing.get(lease.tenant, 0) + 1
            if self.ailing[lease.tenant] > 1:
                self.served.pop(lease.tenant, None)
            if star and self.state(UPSTREAM) is KeyState.HALF_OPEN and star.probe == lease_id:
                self._fail_trial(star, error_code, lease.tenant)
            elif not star and self.failures >= BREAKER_FAILURES and not self.are_others_served(lease.tenant):
                self._open_breaker(error_code, BREAKER_OPEN_S, lease.tenant)

    def _fail_trial(self, star: Rest, error_code: Fault, tenant: str) -> None:
        if star.resumes_s > self.now_s:
            star.until_s, star.resumes_s, star.probe = star.resumes_s, 0.0, ""
            return
        self.ailing.clear()
        self._open_breaker(error_code, min(2 * star.seconds, 6 * BREAKER_OPEN_S), tenant)

    def _open_breaker(self, error_code: Fault, seconds: int, tenant: str) -> None:
        self.move(UPSTREAM, Event.COOL, Fault(error_code.name, seconds=seconds, seconds_max=seconds))
        self.rests[UPSTREAM].is_ill = True
        self.ailing[tenant] = 2
