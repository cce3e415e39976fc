"""The reconciliation: recomputes everything from the observations, without the gateway's own arithmetic."""

from collections.abc import Callable
from typing import Final

from chaos.observations import Discrepancy, Observations
from chaos.reconciliation.answers import check_answers
from chaos.reconciliation.batches import check_batches
from chaos.reconciliation.capacity import check_capacity
from chaos.reconciliation.ledgers import Books, compare_books
from chaos.reconciliation.leftovers import check_leftovers
from chaos.reconciliation.overload import check_overloads
from chaos.reconciliation.purchases import check_purchases
from chaos.reconciliation.replays import check_replays
from chaos.reconciliation.windows import check_windows

__all__ = ["Books", "reconcile"]

_CHECKS: Final[tuple[Callable[[Observations], list[Discrepancy]], ...]] = (
    check_purchases,
    check_replays,
    check_batches,
    check_capacity,
    check_overloads,
    check_windows,
    check_answers,
    check_leftovers,
)


def reconcile(observed: Observations) -> tuple[Books, list[Discrepancy]]:
    """Returns all records side by side, and every discrepancy."""
    books, found = compare_books(observed)
    for check in _CHECKS:
        found += check(observed)
    return books, found
