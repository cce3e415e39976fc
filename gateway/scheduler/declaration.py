"""The accounts and limits of a configuration, as the scripts read them. Secrets appear as fingerprints only."""

import hashlib
from dataclasses import asdict
from typing import Final

import msgspec

from gateway.domain.accounts import Pool, PoolConfig

_RETRIES_MIN: Final = 3
"""Retries that are always allowed per minute, however few calls there are."""


def describe(pool: Pool) -> dict[str, object]:
    """Builds the payload of lua/members.lua."""
    return {"terms": _terms(pool.terms), "accounts": _accounts(pool)}


def digest_of(pool: Pool) -> str:
    """Returns a digest that changes with the configuration."""
    return hashlib.sha256(msgspec.json.encode(describe(pool))).hexdigest()[:16]


def _accounts(pool: Pool) -> dict[str, object]:
    return {
        account.name: {
            **asdict(account.limits),
            "keys": [{"name": key.name, "fingerprint": key.secret.fingerprint} for key in account.keys],
        }
        for account in pool.accounts
    }


def _terms(terms: PoolConfig) -> dict[str, float]:
    """Builds the settings that lua/prelude.lua reads from `meta`."""
    return {
        "margin_us": round(terms.rate_window_margin_s * 1e6),
        "max_queue_length": terms.max_queue_length,
        "breaker_failures": terms.breaker_failures,
        "breaker_open_us": round(terms.breaker_open_s * 1e6),
        "retry_budget_percent": terms.retry_budget_percent,
        "retries_min": _RETRIES_MIN,
        "paced": terms.paced_percent,
    }
