"""What a history is drawn from: accounts, tenants, what they ask for, and how calls end."""

import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from gateway.domain.accounts import AccountLimits
from gateway.domain.errors import ERROR_SPECS, ErrorCode, Outcome
from tests.scheduler.needs import Need

LENGTH_S: Final = 300.0
HOLDING_S: Final = 60.0
CALL_FAULTS: Final = tuple(
    error_code for error_code, row in ERROR_SPECS.items() if row.outcome in {Outcome.REFUSED, Outcome.UNKNOWN}
)
UNSENT_FAULTS: Final = (ErrorCode.NOT_SENT, ErrorCode.CONNECT_FAILED)
SHORT_FAULTS: Final = (
    ErrorCode.ACCOUNT_RATE_LIMITED,
    ErrorCode.ACCOUNT_CONNECTION_LIMITED,
    ErrorCode.ACCOUNT_GROWTH_LIMITED,
    ErrorCode.CONTENT_INPUT,
    ErrorCode.UPSTREAM_ERROR,
    ErrorCode.READ_TIMEOUT,
    ErrorCode.MODEL_UNAVAILABLE,
)


@dataclass(frozen=True)
class Configuration:
    """What one version of the configuration says of the upstream."""

    number: int
    accounts: dict[str, AccountLimits]
    keys: dict[str, dict[str, str]]
    """Account -> key -> fingerprint."""
    terms: Mapping[str, float] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        return f"d{self.number}"

    def describe(self, process: str) -> dict[str, Any]:
        """As lua/members.lua reads it."""
        described = {
            name: asdict(limits)
            | {"keys": [{"name": key, "fingerprint": print_} for key, print_ in self.keys[name].items()]}
            for name, limits in self.accounts.items()
        }
        return hold(process, self) | {"terms": self.terms, "accounts": described}


def hold(process: str, configuration: Configuration) -> dict[str, Any]:
    return {"process": process, "digest": configuration.digest, "until_us": round(HOLDING_S * 1e6)}


class Plan:
    """The character of one history."""

    def __init__(self, rnd: random.Random) -> None:
        self.random = rnd
        self.is_dense = rnd.random() < 0.06
        self.lease_s = rnd.choice((60.0, 60.0, 16.0))
        self.margin_s = rnd.choice((1.0, 1.0, 3.0))
        self.paced = rnd.choice((0, 0, 50))
        self.late_share = rnd.choice((0.0, 0.1))
        self.images = rnd.choice(((1,), (1, 9), (1, 2, 4), tuple(range(1, 10))))
        self.models = ("m1", "m2", "m3")[: rnd.randint(1, 3)]
        self.batch_share = rnd.choice((0.0, 0.0, 0.3))
        self.lengths_s = (1.0, 4.0) if self.is_dense else rnd.choice(((1.0, 8.0), (5.0, 30.0), (1.0, 90.0)))
        self.error_codes = rnd.choice(((), (), SHORT_FAULTS, CALL_FAULTS))
        self.fault_share = rnd.choice((0.05, 0.3))
        self.tenants = [(f"t{number}", rnd.choice((1, 1, 2, 5))) for number in range(rnd.randint(1, 6))]
        self.names = [f"a{number}" for number in range(1 if self.is_dense else rnd.choice((1, 1, 2, 3, 4, 5)))]
        self.configured = 0
        self.configuration = self.draw_configuration()
        self.processes = rnd.choice((1, 2, 2, 3))
        load = rnd.choice((0.4, 1.0, 2.5))
        capacity = sum(limits.requests_per_minute for limits in self.configuration.accounts.values()) / 60
        self.pause_s = max(1 / (load * capacity), 0.4 if self.is_dense else 1.2)
        """Between two requests, on average."""
        self.burst_share = 0.3 if self.is_dense else 0.05
        self.jumps = rnd.choice((0, 0, 1, 2))
        self.outages = rnd.choice((0, 0, 1))
        self.reloads = rnd.choice((0, 0, 1, 3))
        self.holds = rnd.choice((0, 0, 3))
        self.deaths = rnd.choice((0, 0, 1, 2))

    @property
    def what(self) -> str:
        """In a few words."""
        words = {
            name: getattr(self, name) for name in ("paced", "images", "jumps", "outages", "reloads", "holds", "deaths")
        }
        return ", ".join(f"{name} {value}" for name, value in words.items())

    def draw_configuration(self) -> Configuration:
        rnd = self.random
        self.configured += 1
        names = [name for name in self.names if self.configured == 1 or rnd.random() < 0.85] or self.names[:1]
        keys = {
            name: {f"k{key}": f"fp-{name}-k{key}-{int(rnd.random() < 0.1)}" for key in range(rnd.randint(1, 3))}
            for name in names
        }
        terms = {"margin_us": round(self.margin_s * 1e6), "max_queue_length": rnd.choice((1000, 1000, 5))}
        terms |= {"breaker_failures": 5, "breaker_open_us": 10_000_000, "retry_budget_percent": 20, "retries_min": 3}
        accounts = {name: self._draw_limits() for name in names}
        return Configuration(self.configured, accounts, keys, terms | {"paced": self.paced})

    def _draw_limits(self) -> AccountLimits:
        rnd = self.random
        if self.is_dense:
            return AccountLimits(rnd.randint(120, 200), rnd.randint(150, 500), rnd.randint(20, 40))
        requests = rnd.choice((1, 2, 3, 5, 10, 10, 20, 40))
        images = min(100, max(1, round(requests * rnd.choice((0.6, 1, 2, 6)))))
        return AccountLimits(requests, images, rnd.randint(1, 10), rnd.randint(1, 3))

    def draw_need(self) -> Need:
        rnd = self.random
        tenant, weight = rnd.choice(self.tenants)
        priority = "b" if rnd.random() < self.batch_share else "i"
        return Need("", tenant, weight, rnd.choice(self.images), rnd.choice(self.models), priority, ())

    def draw_patience_s(self) -> float:
        return self.random.choice((0.0, 0.0, 5.0, 30.0, 30.0, 120.0, 120.0, 300.0))

    def draw_length_s(self) -> float:
        return self.random.uniform(*self.lengths_s)

    def draw_unsent(self) -> ErrorCode:
        return self.random.choice(UNSENT_FAULTS) if self.error_codes else ErrorCode.NOT_SENT

    def draw_fault(self) -> ErrorCode | None:
        return (
            self.random.choice(self.error_codes)
            if self.error_codes and self.random.random() < self.fault_share
            else None
        )
