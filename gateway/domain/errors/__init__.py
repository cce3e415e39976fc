"""The one table of faults: everything that follows from a fault is read from its row.

Retry, key state, response, metric label and log field all read `TABLE`; nothing else in the program
decides by status or code. The dialects own the dictionaries *their code -> Fault*.
"""

from gateway.domain.errors.codes import Fault, Lowers, Origin, Outcome, Pause, Retry, Row, Scope, State
from gateway.domain.errors.exception import GatewayError, detach
from gateway.domain.errors.table import TABLE

__all__ = [
    "TABLE",
    "Fault",
    "GatewayError",
    "Lowers",
    "Origin",
    "Outcome",
    "Pause",
    "Retry",
    "Row",
    "Scope",
    "State",
    "detach",
]
