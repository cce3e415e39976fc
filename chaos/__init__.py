"""The chaos run: gateways are killed, cut off and restarted under load, and then every book must agree.

One Redis, one simulated provider that bills what it makes, four gateways behind a balancer, 20 tenants. A seed decides
what is asked and what is thrown at them. `python -m chaos --minutes 3 --seed 7`; exit code 1 on any discrepancy.
It knows the gateway by its documents alone: nothing of `gateway` is imported here but the simulator, in a process of
its own.
"""
