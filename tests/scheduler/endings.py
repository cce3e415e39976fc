"""The end of a history: every lease, grant and place is gone, and what works serves again."""

from typing import TYPE_CHECKING, Final

from gateway.scheduler import channel_of
from tests.scheduler.liveness import check_counts
from tests.scheduler.needs import Need
from tests.scheduler.processes import ALIVE_US, Process
from tests.scheduler.provider import WrongError
from tests.support.pooling import TAKEN_BACK

if TYPE_CHECKING:
    from tests.scheduler.histories import History

ENDS: Final = (*TAKEN_BACK, "processes", "queued", "flows", "recent", "waiting:", "class:")
"""What is empty when nothing waits and nothing is in flight; with a colon, all that begin so."""
LATELY_S: Final = 61.0
"""For which what a tenant held counts for the shares of the others."""
STEP_S: Final = 7.0
"""Between two scripts of the end: shorter than what is taken for an outage."""


def check_end(history: "History") -> None:
    """Raises: WrongError, if something is left when all processes are gone and time has passed."""
    patience_s = 2 * history.plan.lease_s + 30.0 + LATELY_S + history.jumped_back_s
    last = Process(history, "last")
    for _ in range(int(patience_s / STEP_S)):
        history.now_s += STEP_S
        last.run("heartbeat", channel_of("last"), ALIVE_US, history.lease_us, 0)
    left, counts, state = (
        history.pool.left_over(ENDS),
        history.pool.meta("weight", "waiting_i", "waiting_b", "share_weight", "share_unmet"),
        history.pool.state(),
    )
    check_counts(state, history.provider, history.now_s, history.server_s)
    if left or any(counts) or state.loads.keys() - history.provider.accounts:
        raise WrongError(f"left over: {left} {counts} {state.loads.keys()}")
    need = Need("last-0", "t0", 1, 1, history.plan.models[0], "i", ())
    answer = last.run(
        "lease", need.id, channel_of("last"), "t0", 1, 1, need.model, 0, "", 0, history.lease_us, ALIVE_US, "i"
    )
    if answer["decision"] != "leased":
        history.refused(need, answer)
