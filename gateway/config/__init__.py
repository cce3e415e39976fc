"""Reads one TOML file and the environment into frozen settings; no other room reads either.

Every error names the file or variable, the path inside it, and what to do.
"""

from gateway.config.loading import config_path, from_document, load
from gateway.config.schema import Admin, Metrics, Settings, Tls
from gateway.config.types import SecretSource, SettingsError, Table
from gateway.config.upstreams import Account, ConfiguredKey, ConfiguredTenant, Limits, Model, Quotas, Upstream

__all__ = [
    "Account",
    "Admin",
    "ConfiguredKey",
    "ConfiguredTenant",
    "Limits",
    "Metrics",
    "Model",
    "Quotas",
    "SecretSource",
    "Settings",
    "SettingsError",
    "Table",
    "Tls",
    "Upstream",
    "config_path",
    "from_document",
    "load",
]
