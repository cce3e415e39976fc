"""A faithful stand-in for MiniMax's and 302.AI's image APIs, to develop and test against without a bill.

It shares no code with the rest of the gateway, so that a mistake there is not repeated here.
"""

from gateway.simulator.app import create_simulator

__all__ = ["create_simulator"]
