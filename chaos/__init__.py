"""The chaos test: gateways are killed, disconnected and restarted under load, then all records are reconciled.

One Redis, one simulated provider that bills its images, four gateways behind a balancer, 20 tenants. A seed
decides requests and faults. `python -m chaos --minutes 3 --seed 7`; exit code 1 on any discrepancy.
It knows the gateway by its documentation only. It imports nothing of `gateway` but the simulator, in a separate
process.
"""
