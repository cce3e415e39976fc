"""A faithful stand-in for MiniMax's and 302.AI's image APIs, to develop and test against without a bill.

Accounts have limits, keys have states that can be changed while it runs, and outages can be switched on and off:

    PUT    /simulator/keys/{key}          {"answers": 2056, "remains_ms": 5000}   0 works; without remains_ms it stays
    PUT    /simulator/accounts/{account}  likewise, for all keys of the account
    PUT    /simulator/outage              {"kind": "hang", "seconds": 60}         or "cut", "garbage", "500" to "599"
    DELETE /simulator/outage
    GET    /simulator/invoice             what each account asked and owes; DELETE begins a new one
    GET    /simulator/receipts            what was billed, order by order
    GET    /simulator/calls               every call and how it ended, where `calls_kept` asks for a journal
    GET    /simulator/requests            the last requests as they came

It shares no code with the rest of the gateway, so that a mistake there is not repeated here.
"""

from gateway.testing.simulator.app import create_simulator
from gateway.testing.simulator.limits import Minute

__all__ = ["Minute", "create_simulator"]
