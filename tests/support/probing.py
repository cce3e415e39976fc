"""Key states as the prober reads and reports them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from gateway.domain.accounts import AccountLimits, UpstreamKey
from gateway.domain.errors import Fault, GatewayError, State
from gateway.scheduler.status import AccountStatus, KeyStatus, PoolStatus, Standing
from tests.support.pages import upstream_key

Told = tuple[str, bool, Fault | None, float | None]
"""ACCOUNT/KEY, whether it works, what it rested for or what was found, seconds."""


@dataclass
class Books:
    """What pool and roster know, and what they were told."""

    lines: list[PoolStatus]
    keys: dict[str, UpstreamKey] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    failures: list[Fault] = field(default_factory=list)
    """What the next tellings fail with."""

    async def look(self) -> list[PoolStatus]:
        return self.lines

    def known(self, upstream: str) -> Mapping[str, UpstreamKey]:
        del upstream
        return self.keys

    async def release_rest(
        self, upstream: str, account: str, key: str, *, works: bool, fault: Fault | None, seconds: float | None
    ) -> None:
        assert "sim" == upstream
        if self.failures:
            raise GatewayError(self.failures.pop())
        self.told.append((f"{account}/{key}", works, fault, seconds))


WELL = Standing()


def quarantined(fault: Fault, held_by: str | None = None) -> Standing:
    return Standing(state=State.QUARANTINED, fault=fault.value, held_by=held_by)


def key(name: str, fault: Fault | None = None, account: str = "main", *, standing: Standing = WELL) -> KeyStatus:
    """One that is well, or quarantined for a fault, or stands otherwise."""
    stands = quarantined(fault) if fault else standing
    return KeyStatus(
        **asdict(stands),
        upstream="sim",
        account=account,
        name=name,
        fingerprint=f"fp-{name}",
        model=None,
        is_declared=True,
    )


def account(*keys: KeyStatus, standing: Standing = WELL) -> AccountStatus:
    return AccountStatus(
        **asdict(standing),
        upstream="sim",
        name=keys[0].account,
        limits=AccountLimits(),
        requests_per_minute_now=10,
        max_concurrency_now=10,
        requests_used=0,
        images_used=0,
        in_flight=0,
        images_today=0,
        usd_micros_today=0,
        keys=keys,
    )


def books(*accounts: AccountStatus, standing: Standing = WELL) -> Books:
    """One upstream, whose keys' secrets are their names."""
    keys = [upstream_key(one.name, one.account) for owner in accounts for one in owner.keys]
    line = PoolStatus(
        **asdict(standing),
        upstream="sim",
        waiting=0,
        free=0,
        calls_last_minute=0,
        retries_last_minute=0,
        accounts=accounts,
    )
    return Books([line], {one.id: one for one in keys})
