"""Image of the dashboard: `python -m bench.dashboard docs/dashboard.png`."""
