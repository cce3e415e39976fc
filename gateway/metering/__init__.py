"""Limits, quotas, reservations and the ledger: who may buy how much, and what it cost."""
