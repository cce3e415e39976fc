"""A faithful simulator of image APIs, for development and tests without cost.

It speaks the formats of MiniMax, 302.AI, Stability, Google, Ideogram and Glif, and of the
providers that speak OpenAI's (openai_wires.py). Faults are named by MiniMax's codes.

Accounts have limits, key states can be changed at run time, and outages can be switched on and off:

    PUT    /simulator/keys/{key}          {"answers": 2056, "remains_ms": 5000}   0 works; permanent without remains_ms
    PUT    /simulator/accounts/{account}  the same for all keys of the account
    PUT    /simulator/outage              {"kind": "hang", "seconds": 60}         or "cut", "garbage", "500" to "599"
    DELETE /simulator/outage
    GET    /simulator/invoice             requests and cost of each account; DELETE resets it
    GET    /simulator/receipts            billed requests
    GET    /simulator/calls               every call and its outcome, if `calls_kept` is above 0
    GET    /simulator/requests            the latest raw requests

It shares no code with the rest of the gateway, so that a bug there is not repeated here.
"""

from gateway.testing.simulator.app import create_simulator
from gateway.testing.simulator.limits import Minute

__all__ = ["Minute", "create_simulator"]
