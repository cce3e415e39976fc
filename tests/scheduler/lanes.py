"""Whether a request may be kept waiting beside room as its tenant holds its share of the lanes, which are counted.

Stated soundly, not tightly: of accounts that can surely serve a request, a tenant may always hold its share.
"""

import math
from collections import Counter

from tests.scheduler.needs import Need
from tests.scheduler.provider import WrongError
from tests.scheduler.scripted_pool import State


def may_be_kept(need: Need, lanes: int, state: State, paced: int) -> bool:
    """`lanes`: of accounts that can serve it. A batch request may be kept as soon as interactive ones came."""
    held = _held(state)
    all_weight = sum(flow["w"] for name, flow in state.flows.items() if flow.get("is_counted") and name != need.flow)
    part = need.weight / (all_weight + need.weight) if all_weight else 1 - paced / 100
    is_batch_kept = need.priority == "b" and state.interactive_at_us > 0
    return is_batch_kept or held[need.flow] >= max(1, math.ceil(lanes * part))


def check_lanes(state: State, lane_weight: float, lane_unmet: float) -> None:
    """Raises: WrongError, if what is kept of the flows is not what they hold, or the sums are not theirs."""
    held = {flow: count for flow, count in _held(state).items() if count}
    kept = {name: flow["h"] for name, flow in state.flows.items() if flow["h"]}
    if held != kept:
        raise WrongError(f"flows hold {held}, and are kept as {kept}")
    weight = sum(flow["w"] for flow in state.flows.values() if flow.get("is_counted"))
    unmet = sum(flow["u"] for flow in state.flows.values())
    if (weight, unmet) != (lane_weight, lane_unmet):
        raise WrongError(f"weight {lane_weight}, unmet {lane_unmet} in the place of {weight}, {unmet}")


def _held(state: State) -> Counter[str]:
    return Counter(f"{lease['q']}:{lease['o']}" for lease in state.leased.values())
