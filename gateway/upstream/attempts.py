"""What came of the calls of one job, and which of it the caller must know."""

from dataclasses import dataclass

import structlog

from gateway.domain.faults import Fault, GatewayError, Outcome, Retry, Scope
from gateway.domain.images import Picture
from gateway.domain.models import Target
from gateway.domain.sizes import Shape

_LOG = structlog.get_logger("imagegate.upstream")


@dataclass(frozen=True, slots=True)
class Made:
    """One call's delivered pictures."""

    pictures: tuple[Picture, ...]
    shape: Shape
    id: str


Ending = Made | GatewayError


def is_for_another_target(error: GatewayError, others: list[Target]) -> bool:
    """Whether what may be sent again is not to be sent to this upstream: it cannot serve, or seems ill."""
    if error.row.scope is Scope.UPSTREAM and error.row.retry is Retry.FREELY:
        return True
    return bool(others) and error.row.ails_upstream


def read_part(part: list[Ending] | BaseException) -> list[Ending]:
    """A mistake of ours in one part is that part's failure; the end of the program is everybody's."""
    if isinstance(part, Exception):
        _LOG.error("unexpected_failure", exc_info=part)
        return [GatewayError(Fault.INTERNAL, type(part).__name__)]
    if isinstance(part, BaseException):
        raise part
    return part


_WEIGHT = {Outcome.UNKNOWN: 0, Outcome.DELIVERED: 1, Outcome.REFUSED: 2, Outcome.NOT_SENT: 3}


def worst(errors: list[GatewayError]) -> GatewayError:
    """The one that the caller must know: whatever may have cost money first, then what no retry can mend."""
    return min(errors, key=lambda error: (_WEIGHT[error.row.outcome], error.row.may_client_retry))
