"""Benchmarks of the README's figures: `make bench`, or the shorter `make bench-quick`.

Every part is a separate process: Redis, upstream, gateway, baselines, load. Figures are ratios of measurements from
one run, side by side, because machines differ and are noisy.
"""
