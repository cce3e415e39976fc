"""The figures of the README, measured again: `make bench`, or `make bench-quick` in less time.

Everything is a process of its own: Redis, an upstream, the gateway, the programs that it is compared with, the load.
Figures are ratios of what was measured in one run, side by side, because machines differ and are noisy.
"""
