"""Key states as the key checker reads and reports them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from gateway.domain.accounts import AccountLimits, ProviderKey
from gateway.domain.errors import ErrorCode, GatewayError, KeyState
from gateway.scheduler.status import AccountStatus, Health, KeyStatus, PoolStatus
from tests.support.pages import upstream_key

Told = tuple[str, bool, ErrorCode | None, float | None]
"""ACCOUNT/KEY, works, cooldown reason or finding, seconds."""


@dataclass
class Books:
    """Fakes of scheduler and registry that record reports."""

    lines: list[PoolStatus]
    keys: dict[str, ProviderKey] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    failures: list[ErrorCode] = field(default_factory=list)
    """Errors of the next reports."""

    async def snapshot(self) -> list[PoolStatus]:
        return self.lines

    def known(self, upstream: str) -> Mapping[str, ProviderKey]:
        del upstream
        return self.keys

    async def apply_probe_result(
        self, upstream: str, account: str, key: str, *, works: bool, error_code: ErrorCode | None, seconds: float | None
    ) -> None:
        assert "sim" == upstream
        if self.failures:
            raise GatewayError(self.failures.pop())
        self.told.append((f"{account}/{key}", works, error_code, seconds))


WELL = Health()


def quarantined(error_code: ErrorCode, held_by: str | None = None) -> Health:
    return Health(state=KeyState.QUARANTINED, error_code=error_code.value, held_by=held_by)


def key(name: str, error_code: ErrorCode | None = None, account: str = "main", *, standing: Health = WELL) -> KeyStatus:
    """Returns a healthy key, or one quarantined for an error, or with another state."""
    stands = quarantined(error_code) if error_code else standing
    return KeyStatus(
        **asdict(stands),
        upstream="sim",
        account=account,
        name=name,
        fingerprint=f"fp-{name}",
        model=None,
        is_declared=True,
    )


def account(*keys: KeyStatus, standing: Health = WELL) -> AccountStatus:
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


def books(*accounts: AccountStatus, standing: Health = WELL) -> Books:
    """Returns one upstream, whose keys' secrets are their names."""
    keys = [upstream_key(one.name, one.account) for owner in accounts for one in owner.keys]
    line = PoolStatus(
        **asdict(standing),
        upstream="sim",
        waiting=0,
        calls_last_minute=0,
        retries_last_minute=0,
        accounts=accounts,
    )
    return Books([line], {one.id: one for one in keys})
