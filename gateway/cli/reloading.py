"""The configuration is read again when its file changes and at SIGHUP, and taken over while the gateway runs."""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from gateway.cli.watch import Watch
from gateway.configuration import RELOADED, Configuration, Running, read_configuration
from gateway.domain.faults import GatewayError
from gateway.settings import Settings, SettingsError, config_path, load
from gateway.upstream.supply import Supply

_LOG = structlog.get_logger("imagegate.reload")
_LOOK_S: Final = 0.5
"""A change is to be in force within two seconds; a supervisor of workers looks as often, which is uvicorn's pace."""
_LOOK_WHEN_TOLD_S: Final = 0.1
"""Of a worker, which only sees whether it was asked."""


class Reload:
    """Reading the configuration again; a wrong one is logged once, and what was read before stays in force.

    Without a `watch` it reads only when asked, and leaves the telling to the supervisor who asks.
    """

    def __init__(
        self, config: str | None, environ: Mapping[str, str], settings: Settings, watch: Watch | None = None
    ) -> None:
        self._config = config
        self._environ = environ
        self._settings = settings
        self._watch = watch
        self._is_asked = False

    def ask(self, *_signal: object) -> None:
        """Let the next look read the configuration, changed or not: the secrets may have."""
        self._is_asked = True

    def look(self) -> Configuration | None:
        """A configuration that is to be taken over. Reads files."""
        has_changed = self._watch.has_changed() if self._watch else False
        if not has_changed and not self._is_asked:
            return None
        self._is_asked = False
        if self._watch:
            self._watch.note()
        return self._read()

    async def keep(self, running: Running) -> None:
        """Take over every right configuration; runs for ever."""
        waiting: Configuration | None = None
        while True:
            await asyncio.sleep(_LOOK_S if self._watch else _LOOK_WHEN_TOLD_S)
            is_told = waiting is not None
            if self._watch or self._is_asked:
                waiting = await asyncio.to_thread(self.look) or waiting
            if waiting is None:
                continue
            try:
                await running.take_over(waiting)
            except GatewayError as error:
                if not is_told:
                    _LOG.warning("configuration_not_taken_over_yet", detail=error.detail, again_in_s=_LOOK_S)
            else:
                self.tell(waiting)
                waiting = None

    def tell(self, configuration: Configuration, **more: int) -> None:
        """Log what is now in force, and what is not."""
        if self._watch is None:
            return
        tell_shared_keys(configuration.supply)
        names = (name for name in Settings.__struct_fields__ if name not in RELOADED)
        changed = [name for name in names if getattr(configuration.settings, name) != getattr(self._settings, name)]
        if changed:
            _LOG.warning("settings_need_a_restart", settings=changed)
        pools = configuration.supply.pools
        _LOG.info(
            "configuration_reloaded",
            upstreams=len(pools),
            accounts=sum(len(pool.accounts) for pool in pools),
            keys=len(configuration.supply.keys),
            models=len(configuration.settings.models),
            tenants=len(configuration.tenants),
            **more,
        )

    def in_force(self, configuration: Configuration) -> Settings:
        """What a new process is to begin with beside those that took the configuration over."""
        taken = {name: getattr(configuration.settings, name) for name in RELOADED}
        return msgspec.structs.replace(self._settings, **taken)

    def _read(self) -> Configuration | None:
        path = config_path(self._config, self._environ)
        try:
            return read_configuration(load(self._config, self._environ), self._environ)
        except SettingsError as error:
            text = str(error) if str(error).startswith(path) else f"{path}: {error}"
            remedy = "mend it; it is read again when it changes, and at SIGHUP"
            _LOG.error("configuration_not_reloaded", detail=text, remedy=remedy)
            return None


def tell_shared_keys(supply: Supply) -> None:
    """Warn of keys whose account would be used twice."""
    for same in supply.shared_keys():
        _LOG.warning(
            "upstream_key_in_several_accounts",
            fingerprint=same[0].secret.fingerprint,
            keys=[f"{key.upstream}/{key.id}" for key in same],
            remedy="let it stand once: each account is taken to have limits of its own",
        )
