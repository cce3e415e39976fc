"""Reads one TOML file and the environment into frozen settings; no other room reads either.

Every mistake is reported, each with the file and line or the variable, the path inside it, and what to do.
"""

from gateway.config.environment import misspelled_variables
from gateway.config.loading import config_path, from_document, load
from gateway.config.problems import locate
from gateway.config.schema import Admin, Metrics, Settings, Tls
from gateway.config.upstreams import SecretSource, SettingsError, Table

__all__ = [
    "Admin",
    "Metrics",
    "SecretSource",
    "Settings",
    "SettingsError",
    "Table",
    "Tls",
    "config_path",
    "from_document",
    "load",
    "locate",
    "misspelled_variables",
]
