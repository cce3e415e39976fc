"""Describes the settings of a configuration for administrators. Invariant: no secret is in it.

A secret appears as its source, with the fingerprint of a provider key or of one that is too long to guess. Of a URL,
the user, the password and the query are hidden; of an alert's, the path too, which is a password for Slack.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.config.problems import ENV_PREFIX
from gateway.config.resolve import Config
from gateway.config.schema import Settings
from gateway.config.upstreams import SecretSource, Table
from gateway.domain.accounts import make_secret

_COUNTED: Final = "tenants"
"""Only counted: there may be 100,000, and the routes of tenants show them."""
_USER: Final = re.compile(r"(?<=://)\S*@")
_QUERY: Final = re.compile(r"\?\S*")
_PATH: Final = re.compile(r"(https?://[^/\s]+/).+", re.DOTALL)
_ALERT_URL: Final = re.compile(r"alerts\.endpoints\[\d+\]\.url")
_HIDDEN: Final = "***"


@dataclass(slots=True, repr=False)
class ConfigInForce:
    """The configuration with which a process started, and the latest that was put in force."""

    started: Config
    reloaded: frozenset[str]
    """Names of the tables that a reload applies."""
    latest: Config | None = None

    def take_over(self, config: Config) -> None:
        self.latest = config

    def describe(self) -> list[dict[str, object]]:
        """Returns every setting with its value, its default, what set it, and the variable that may set it.

        The source is "default" for a value that equals the default.
        """
        found: list[dict[str, object]] = []
        for name in Settings.__struct_fields__:
            can_reload = name in self.reloaded
            config = self.latest if self.latest and can_reload else self.started
            found += _describe_table(name, config, needs_restart=not can_reload)
        return found


def _describe_table(name: str, config: Config, *, needs_restart: bool) -> Iterator[dict[str, object]]:
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    value, fingerprints = getattr(config.settings, name), _fingerprints(config)
    for steps, leaf, default in _leaves((name,), value, _default(fields[name])):
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
        shown, shown_default = _show(path, leaf, fingerprints), _show(path, default, {})
        variable = ENV_PREFIX + "__".join(map(str, steps)).upper()
        source = "default" if leaf == default else "file"
        if any(variable == held or variable.startswith(f"{held}__") for held in config.variables):
            source = "environment"
        yield {
            "setting": path,
            "value": shown,
            "default": shown_default,
            "source": source,
            "variable": variable,
            "needs_restart": needs_restart,
        }


def _leaves(
    steps: tuple[str | int, ...], value: object, default: object
) -> Iterator[tuple[tuple[str | int, ...], object, object]]:
    """Yields every setting below a table or a list of tables with its value and its default."""
    if isinstance(value, Table) and not isinstance(value, SecretSource):
        for field in msgspec.structs.fields(type(value)):
            is_same = isinstance(default, type(value))
            own = getattr(default, field.name) if is_same else _default(field)
            yield from _leaves((*steps, field.encode_name), getattr(value, field.name), own)
    elif isinstance(value, tuple) and steps[0] != _COUNTED and any(isinstance(item, Table) for item in value):
        for number, item in enumerate(value):
            yield from _leaves((*steps, number), item, None)
    else:
        yield steps, value, default


def _default(field: msgspec.structs.FieldInfo) -> object:
    """Returns None for a required setting."""
    if field.default_factory is not msgspec.NODEFAULT:
        made: object = field.default_factory()
        return made
    return None if field.default is msgspec.NODEFAULT else field.default


def _show(path: str, value: object, fingerprints: Mapping[str, str]) -> object:
    if path == _COUNTED and isinstance(value, tuple):
        return len(value)
    if isinstance(value, SecretSource):
        source = {"env": value.env} if value.env else {"file": value.file}
        return source | ({"fingerprint": fingerprints[path]} if path in fingerprints else {})
    if isinstance(value, str) and "://" in value:
        hidden = _QUERY.sub(f"?{_HIDDEN}", _USER.sub(f"{_HIDDEN}@", value))
        return _PATH.sub(rf"\1{_HIDDEN}", hidden) if _ALERT_URL.fullmatch(path) else hidden
    if isinstance(value, tuple):
        return [_show(f"{path}[{at}]", item, fingerprints) for at, item in enumerate(value)]
    return msgspec.to_builtins(value)


def _fingerprints(config: Config) -> dict[str, str]:
    """Returns the fingerprints of keys by their setting: of none that people may have chosen."""
    found = {f"storage.signing_keys[{at}]": make_secret(key).fingerprint for at, key in enumerate(config.signing_keys)}
    for number, pool in enumerate(config.upstreams.pools):
        for at, account in enumerate(pool.accounts):
            where = f"upstreams[{number}].accounts[{at}]"
            found |= {f"{where}.keys[{i}].secret": key.secret.fingerprint for i, key in enumerate(account.keys)}
    if config.pepper:
        found["api_keys.hash_pepper"] = make_secret(config.pepper).fingerprint
    return found
