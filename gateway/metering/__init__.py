"""Rate limits, quotas, reservations and the ledger."""
