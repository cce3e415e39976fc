"""Worker processes that share the sockets, and their supervisor: uvicorn's, with what it lacks.

uvicorn's supervisor pings a thread of the worker, which responds even if the event loop hangs. It blocks on each
unresponsive worker, and restarts workers for a new configuration. This one pings the event loop, counts time in its own
rounds, and reloads running workers.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import structlog
from starlette.applications import Starlette
from uvicorn.supervisors.multiprocess import SIGNALS, Multiprocess, Process

from gateway.config import Settings, SettingsError
from gateway.server import StartError
from gateway.server.config import ServerConfig
from gateway.server.reload import ConfigReloader
from gateway.server.shutdown import Server, ignore_hangups, run_until_stopped

_LOG = structlog.get_logger("imagegate.workers")
_ROUND_S: Final = 0.5
"""uvicorn's pace."""
_POLL_S: Final = 0.05
_HANG_ROUNDS: Final = 10
"""A worker is killed if its event loop hangs for 5 s. Rounds do not advance while the machine is suspended."""
_START_ROUNDS: Final = 240
"""A worker that does not serve within 2 min of its start is killed."""
_EXIT_MARGIN_S: Final = 30.0
"""Time beyond the drain time-out for a worker to abort requests, settle them and exit, before it is killed."""
_MAX_KILLED: Final = 5
"""Limit on consecutive workers killed before they serve. Other programs may kill one, but not every one."""
_STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = frozenset({*_STOP_SIGNALS, signal.SIGHUP})


class _Worker(Process):
    """One process. It drains at each SIGTERM: terminals and service managers signal every process of a group.

    Only its supervisor aborts its requests, with SIGUSR1.
    """

    config: ServerConfig

    def __init__(self, config: ServerConfig, sockets: list[socket.socket]) -> None:
        self.has_served = False
        self._is_pinged = False
        self._rounds_left = _START_ROUNDS
        """Rounds that the worker may still be silent."""
        super().__init__(config, sockets)

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Runs in the new process. Its event loop responds to pings: a thread would respond even if the loop hangs."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._server = server = Server(self.config)
        server.on_started = lambda: asyncio.get_running_loop().add_reader(self.child_conn.fileno(), self.pong)
        run_until_stopped(server, sockets or [], {signal.SIGTERM: server.drain, signal.SIGUSR1: server.force})

    def has_ended(self) -> bool:
        """Returns whether the process has ended, or was killed because it hangs. Call it once a round."""
        if not self.process.is_alive():
            return True
        self._rounds_left -= 1
        if self.parent_conn.poll(0):
            self.parent_conn.recv()
            self.has_served, self._is_pinged, self._rounds_left = True, False, _HANG_ROUNDS
        if not self._is_pinged:
            self.parent_conn.send(b"ping")
            self._is_pinged = True
        if self._rounds_left >= 0:
            return False
        self.kill_hanging()
        return True

    def drain(self) -> None:
        """A worker that is still starting gets the same time as one that serves."""
        self.send_signal(signal.SIGTERM)
        self._rounds_left = _HANG_ROUNDS

    def kill_hanging(self) -> None:
        _LOG.error("worker_unresponsive", pid=self.pid, hint="it is killed")
        self.process.kill()

    def send_signal(self, number: signal.Signals) -> None:
        if self.pid is not None and self.process.is_alive():
            os.kill(self.pid, number)

    def reload(self) -> bool:
        """Passes a reload on. Returns: False if it must be repeated, as a worker that is starting would miss it."""
        if not self.has_served:
            return not self.process.is_alive()  # its successor starts with the new configuration
        self.send_signal(signal.SIGHUP)
        return True


class WorkerSupervisor(Multiprocess):
    """Replaces workers that die, stops all of them together, and reloads a validated configuration in each."""

    config: ServerConfig

    def __init__(
        self,
        config: ServerConfig,
        sockets: list[socket.socket],
        reloader: ConfigReloader,
        create_app: Callable[[Settings], Callable[[], Starlette]],
    ) -> None:
        super().__init__(config, sockets)
        for number in SIGNALS.keys() - _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        self._reloader = reloader
        self._create_app = create_app
        self._workers: list[_Worker] = []
        self._to_reload: list[_Worker] = []
        self._killed_in_a_row = 0
        self._problem = ""
        self._told_refusal = ""

    def run(self) -> None:
        """Runs until it is stopped. Raises: StartError if a worker cannot start."""
        super().run()
        ignore_hangups()
        if self._problem:
            raise StartError(self._problem)

    def init_processes(self) -> None:
        self._workers = [self._start() for _ in range(self.processes_num)]

    def handle_hup(self) -> None:
        self._reloader.request_reload()

    def keep_subprocess_alive(self) -> None:
        if configuration := self._reloader.poll():
            self.config.app = self._create_app(self._reloader.current(configuration))
            self._to_reload = list(self._workers)
            self._reloader.publish(configuration, workers=len(self._workers))
        elif self._told_refusal != self._reloader.refusal:  # the workers refuse it too, and tell it
            self._to_reload = list(self._workers)
        self._told_refusal = self._reloader.refusal
        self._to_reload = [worker for worker in self._to_reload if not worker.reload()]
        for index, worker in enumerate(self._workers):
            if not self.should_exit.is_set() and worker.has_ended():
                self._replace(index, worker)

    def terminate_all(self) -> None:
        for listener in self.sockets:  # the workers' are copies; connections that no process accepts must be refused
            listener.close()
        for worker in self._workers:
            worker.drain()

    def join_all(self) -> None:
        """Waits for the workers. Another signal aborts their requests. Hanging or late ones are killed."""
        ends_s = time.monotonic() + self.config.shutdown_timeout_s + _EXIT_MARGIN_S
        while left := [worker for worker in self._workers if not worker.has_ended()]:
            if _STOP_SIGNALS & set(self.signal_queue):
                self.signal_queue.clear()
                for worker in left:
                    worker.send_signal(signal.SIGUSR1)
            if time.monotonic() > ends_s:
                for worker in left:
                    worker.kill_hanging()
            round_ends_s = time.monotonic() + _ROUND_S
            while any(worker.process.is_alive() for worker in left) and time.monotonic() < round_ends_s:
                time.sleep(_POLL_S)

    def _start(self) -> _Worker:
        if self.config.certificate:
            with suppress(SettingsError):  # it then begins with the last valid files
                self.config.certificate.read()
        worker = _Worker(self.config, self.sockets)
        worker.start()
        return worker

    def _replace(self, index: int, worker: _Worker) -> None:
        worker.join()
        code = worker.exitcode or 0
        _LOG.warning("worker_exited", pid=worker.pid, exit_code=code)
        self._killed_in_a_row = 0 if worker.has_served else self._killed_in_a_row + 1
        if not worker.has_served and (code > 0 or self._killed_in_a_row >= _MAX_KILLED):
            self._problem = f"a worker could not start (exit code {code}); the log says why"
            self.should_exit.set()
            return
        self._workers[index] = self._start()
