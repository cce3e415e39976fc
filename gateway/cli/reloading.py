"""SIGHUP: the configuration is read again, and what can change while the gateway runs does."""

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from uvicorn.supervisors import Multiprocess

from gateway.administration import read_declared
from gateway.settings import Settings, SettingsError, config_path, load
from gateway.stores.declared import Declaration, DeclaredTenant
from gateway.supply import build_catalog

_LOG = structlog.get_logger("imagegate.reload")
_RELOADED: Final = "tenants"
"""The one part that a running process takes over."""
_OF_THE_SUPERVISOR: Final = ("server", "redis")
"""What new workers do not take over: the supervisor holds the listener and the embedded Redis."""


class Reload:
    """Reading the configuration again; a wrong one is logged, and what was read before stays in force."""

    def __init__(self, config: str | None, environ: Mapping[str, str], settings: Settings) -> None:
        self._config = config
        self._environ = environ
        self._settings = settings

    def read(self) -> tuple[Settings, list[DeclaredTenant]] | None:
        """None where it is wrong."""
        path = config_path(self._config, self._environ)
        try:
            settings = load(self._config, self._environ)
            declared = read_declared(settings, self._environ, build_catalog(settings))
        except SettingsError as error:
            text = str(error) if str(error).startswith(path) else f"{path}: {error}"
            _LOG.error("configuration_not_reloaded", detail=text, remedy="mend it and send SIGHUP again")
            return None
        return settings, declared

    def warn_of_others(self, settings: Settings, names: tuple[str, ...]) -> None:
        """Say which settings differ from those in force and need a restart."""
        changed = [name for name in names if getattr(settings, name) != getattr(self._settings, name)]
        if changed:
            _LOG.warning("settings_need_a_restart", settings=changed)

    async def on_signal(self, declaration: Declaration, hang_up: asyncio.Event) -> None:
        """Apply the configuration's tenants whenever `hang_up` is set; runs for ever."""
        while True:
            await hang_up.wait()
            hang_up.clear()
            if found := await asyncio.to_thread(self.read):
                settings, declared = found
                names = (name for name in Settings.__struct_fields__ if name != _RELOADED)
                self.warn_of_others(settings, tuple(names))
                await declaration.reload(declared)
                _LOG.info("configuration_reloaded", tenants=len(declared))


class Workers(Multiprocess):
    """Several processes, which are not restarted with a configuration that they cannot run with."""

    reload: Reload | None = None

    def handle_hup(self) -> None:
        if self.reload and (found := self.reload.read()):
            self.reload.warn_of_others(found[0], _OF_THE_SUPERVISOR)
            _LOG.info("configuration_reloaded", tenants=len(found[1]), workers=self.processes_num)
            super().handle_hup()
