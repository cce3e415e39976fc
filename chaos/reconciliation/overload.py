"""Overloads are refused and harmless: Redis stays available, and the work per script bounded."""

from collections.abc import Iterator
from typing import Final

from chaos.observations import Discrepancy, Observations
from chaos.phases import Overload

COMMANDS_MAX: Final = 60.0
"""Average commands per script. Unlike a duration, it does not depend on the machine's load."""

LAG_MAX_S: Final = 0.5
"""Half of the gateways' deadline for Redis. Beyond it, the test itself was too slow for a breaker to stay closed."""


def check_overloads(observed: Observations) -> list[Discrepancy]:
    return [one for overload in observed.overloads for one in _check(observed, overload)]


def _check(observed: Observations, overload: Overload) -> Iterator[Discrepancy]:
    refused = tuple(
        asked.id
        for asked in observed.asked
        if asked.code == "gateway_unavailable"
        and overload.since_s <= asked.sent_s
        and asked.ended_s <= overload.until_s
    )
    if refused:
        yield Discrepancy("gateway_unavailable, and Redis was well", f"{len(refused)} responses", refused)
    if overload.breakers_opened and overload.lag_s < LAG_MAX_S:
        detail = f"{overload.breakers_opened} times"
        yield Discrepancy("a circuit breaker for Redis opened, and Redis was well", detail)
    if overload.scripts.commands_each > COMMANDS_MAX:
        detail = f"{overload.scripts.commands_each:.0f} commands a script, of {overload.scripts.count} scripts"
        yield Discrepancy("the work of scripts grows with the queue", detail)
