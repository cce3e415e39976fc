"""Reload of the configuration when its file changes and at SIGHUP, without a restart."""

import asyncio
from collections.abc import Mapping
from typing import Final

import msgspec
import structlog

from gateway.app.reload import RELOADED, ReloadTargets
from gateway.config import Settings, SettingsError, config_path, load, locate
from gateway.config.resolve import Config, resolve
from gateway.domain.errors import GatewayError
from gateway.generation.upstreams import UpstreamSet
from gateway.server.file_watcher import FileWatcher

_LOG = structlog.get_logger("imagegate.reload")
_POLL_S: Final = 0.5
"""A change is in force within 2 s. A supervisor of workers polls as often."""
_WORKER_POLL_S: Final = 0.1
"""A worker only checks whether its supervisor requested a reload."""


class ConfigReloader:
    """Reads the configuration again. An invalid one is logged once, and the previous one stays in force.

    Without a `watcher` it reads only on request and logs nothing: the supervisor logs the reload.
    """

    def __init__(
        self, config: str | None, environ: Mapping[str, str], settings: Settings, watcher: FileWatcher | None = None
    ) -> None:
        self._config = config
        self._environ = environ
        self._settings = settings
        self._watcher = watcher
        self._is_requested = False
        self.refusal = ""
        """Why the latest change was refused; empty if it was not."""

    def request_reload(self, *_signal: object) -> None:
        """Lets the next poll read the configuration even if the file is unchanged: the secrets may have changed."""
        self._is_requested = True

    def poll(self) -> Config | None:
        """Returns: a valid configuration to put in force. Reads files."""
        has_changed = self._watcher is not None and self._watcher.has_changed()
        if not has_changed and not self._is_requested:
            return None
        self._is_requested = False
        if self._watcher:
            self._watcher.mark_read()
        path = config_path(self._config, self._environ)
        try:
            settings = load(self._config, self._environ)
            try:
                resolved = resolve(settings, self._environ)
            except SettingsError as error:
                raise locate(str(error), self._environ, path) from error
        except SettingsError as error:
            self.refusal, remedy = str(error), "correct it; it is read again when it changes, and at SIGHUP"
            if self._watcher:
                _LOG.error("config_reload_rejected", detail=str(error), hint=remedy)
            return None
        self.refusal = ""
        return resolved

    async def run(self, running: ReloadTargets) -> None:
        """Puts every valid configuration in force; runs until it is cancelled."""
        pending: Config | None = None
        noted = ""
        while True:
            await asyncio.sleep(_POLL_S if self._watcher else _WORKER_POLL_S)
            is_logged = pending is not None
            if self._watcher or self._is_requested:
                pending = await asyncio.to_thread(self.poll) or pending
            if noted != self.refusal:
                noted = self.refusal
                await running.note_reload(noted)
            if pending is None:
                continue
            try:
                await running.apply(pending)
            except GatewayError as error:
                if not is_logged:
                    _LOG.warning("config_reload_pending", detail=error.detail, retry_in_s=_POLL_S)
            else:
                self.publish(pending)
                pending = None

    def publish(self, configuration: Config, **details: int) -> None:
        """Logs the settings now in force, and those that require a restart."""
        if self._watcher is None:
            return
        warn_of_shared_keys(configuration.upstreams)
        names = (name for name in Settings.__struct_fields__ if name not in RELOADED)
        changed = [name for name in names if getattr(configuration.settings, name) != getattr(self._settings, name)]
        if changed:
            _LOG.warning("settings_require_restart", settings=changed)
        pools = configuration.upstreams.pools
        _LOG.info(
            "config_reloaded",
            upstreams=len(pools),
            accounts=sum(len(pool.accounts) for pool in pools),
            keys=len(configuration.upstreams.keys),
            models=len(configuration.settings.models),
            tenants=len(configuration.tenants),
            **details,
        )

    def current(self, configuration: Config) -> Settings:
        """The settings of a process that starts beside those that reloaded the configuration."""
        reloaded = {name: getattr(configuration.settings, name) for name in RELOADED}
        return msgspec.structs.replace(self._settings, **reloaded)


def warn_of_shared_keys(supply: UpstreamSet) -> None:
    """Logs keys that several accounts use."""
    for same in supply.shared_keys():
        _LOG.warning(
            "provider_key_in_several_accounts",
            fingerprint=same[0].secret.fingerprint,
            keys=[f"{key.upstream}/{key.id}" for key in same],
            hint="use it once: each account is assumed to have limits of its own",
        )
