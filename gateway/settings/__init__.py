"""One TOML file and the environment, read into frozen values; the only place that reads either.

Every error names the file or variable, the path inside it, and what to do.
"""

from gateway.domain.keys import make_secret
from gateway.settings.kinds import SecretSource, SettingsError, Table
from gateway.settings.reading import config_path, from_document, load
from gateway.settings.schema import Admin, Metrics, Settings, Tls
from gateway.settings.secrets import read_secret
from gateway.settings.supplies import Account, DeclaredKey, DeclaredTenant, Limits, Model, Quotas, Upstream

__all__ = [
    "Account",
    "Admin",
    "DeclaredKey",
    "DeclaredTenant",
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
    "make_secret",
    "read_secret",
]
