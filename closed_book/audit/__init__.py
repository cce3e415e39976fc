"""The audit: everything is computed again from the evidence alone, with nothing of the gateway's own arithmetic."""

from collections.abc import Callable
from typing import Final

from closed_book.audit.answers import check_answers
from closed_book.audit.books import Books, compare_books
from closed_book.audit.capacity import check_capacity
from closed_book.audit.overload import check_overloads
from closed_book.audit.purchases import check_purchases
from closed_book.audit.remains import check_remains
from closed_book.audit.windows import check_windows
from closed_book.evidence import Discrepancy, Evidence

__all__ = ["Books", "audit"]

_CHECKS: Final[tuple[Callable[[Evidence], list[Discrepancy]], ...]] = (
    check_purchases,
    check_capacity,
    check_overloads,
    check_windows,
    check_answers,
    check_remains,
)


def audit(evidence: Evidence) -> tuple[Books, list[Discrepancy]]:
    """The books side by side, and everything that does not hold."""
    books, found = compare_books(evidence)
    for check in _CHECKS:
        found += check(evidence)
    return books, found
