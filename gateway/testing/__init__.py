"""Test tools that ship with the gateway: the simulator and the conformance checks."""
