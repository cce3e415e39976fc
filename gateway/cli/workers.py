"""Several processes that share the port, and their supervisor."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Final

import structlog
from starlette.applications import Starlette
from uvicorn.supervisors.multiprocess import Process

from gateway.cli.output import fail
from gateway.cli.protocol import BoundedConfig
from gateway.cli.reloading import Reload
from gateway.cli.server import Server, serve_until_stopped
from gateway.settings import Settings

_LOG = structlog.get_logger("imagegate.workers")
_ROUND_S: Final = 0.5
_LOOK_S: Final = 0.05
_HANG_ROUNDS: Final = 10
"""A worker whose event loop does not answer for 5 s is killed. Counted in the supervisor's own rounds: a machine that
was suspended or is overloaded holds up both."""
_START_ROUNDS: Final = 240
"""A worker that does not begin to serve within 2 min is killed."""
_END_MARGIN_S: Final = 30.0
"""Time beyond the drain's for a worker to cut requests short, settle them and exit, before it is killed."""
_KILLED_MAX: Final = 5
"""So many workers in a row may be killed before they serve: somebody else's deed, but not for ever."""

CreateWorker = Callable[[], Starlette]


class _Worker(Process):
    """One process. It drains at SIGTERM, however often: terminals and service managers signal every process of a group.

    Only its supervisor hurries it, with SIGUSR1.
    """

    def __init__(self, options: BoundedConfig, sockets: list[socket.socket]) -> None:
        self._options = options
        self.has_served = False
        self._is_asked = False
        self._silent_rounds = 0
        self._silent_max = _START_ROUNDS
        super().__init__(options, sockets)

    @property
    def server(self) -> Server:
        if not isinstance(self._server, Server):
            self._server = Server(self._options)
        return self._server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """In the new process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.server.on_started = self._answer_pings
        acts = {signal.SIGTERM: self.server.drain, signal.SIGUSR1: self.server.hurry}
        with asyncio.Runner(loop_factory=self._options.get_loop_factory()) as runner:
            runner.run(serve_until_stopped(self.server, sockets or [], acts))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as it ends, the interpreter gives every other handler back

    def _answer_pings(self) -> None:
        """In the event loop: a thread would answer for a loop that hangs."""
        asyncio.get_running_loop().add_reader(self.child_conn.fileno(), self.pong)

    def has_ended(self) -> bool:
        """Called once a round. Returns: whether the process is dead or was killed because it hangs."""
        if not self.process.is_alive():
            return True
        self._silent_rounds += 1
        if self.parent_conn.poll(0):
            self.parent_conn.recv()
            self.has_served, self._is_asked = True, False
            self._silent_rounds, self._silent_max = 0, _HANG_ROUNDS
        if not self._is_asked:
            self.parent_conn.send(b"ping")
            self._is_asked = True
        if self._silent_rounds <= self._silent_max:
            return False
        self.kill_hanging()
        return True

    def drain(self) -> None:
        """One that is still starting has nothing to finish."""
        self.tell(signal.SIGTERM)
        self._silent_rounds, self._silent_max = 0, _HANG_ROUNDS

    def kill_hanging(self) -> None:
        _LOG.error("worker_hangs", pid=self.pid, remedy="it is killed")
        self.process.kill()

    def tell(self, number: signal.Signals) -> None:
        if self.pid is not None and self.process.is_alive():
            os.kill(self.pid, number)


class Workers:
    """The supervisor: who dies is replaced, all end together, and a changed configuration is told when found right."""

    def __init__(
        self,
        options: BoundedConfig,
        sockets: list[socket.socket],
        reload: Reload,
        worker: Callable[[Settings], CreateWorker],
    ) -> None:
        self._options = options
        self._sockets = sockets
        self._reload = reload
        self._create = worker
        self._workers: list[_Worker] = []
        self._untold: list[_Worker] = []
        self._signals = 0
        self._killed_in_a_row = 0
        self._problem = ""

    def run(self) -> None:
        """Until it is stopped.

        Raises: typer.Exit where a worker cannot start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._count_signal)
        signal.signal(signal.SIGHUP, self._reload.ask)
        self._workers = [self._start() for _ in range(self._options.workers)]
        while not self._is_ending():
            _wait(self._is_ending)
            self._tell_changes()
            for index, worker in enumerate(self._workers):
                if not self._is_ending() and worker.has_ended():
                    self._replace(index, worker)
        self._end()
        if self._problem:
            fail(self._problem)

    def _is_ending(self) -> bool:
        return self._signals > 0 or bool(self._problem)

    def _count_signal(self, *_: object) -> None:
        self._signals += 1

    def _start(self) -> _Worker:
        if self._options.certificate:
            self._options.certificate.refresh()
        worker = _Worker(self._options, self._sockets)
        worker.start()
        return worker

    def _replace(self, index: int, worker: _Worker) -> None:
        worker.join()
        code = worker.exitcode or 0
        _LOG.warning("worker_ended", pid=worker.pid, exit_code=code)
        self._killed_in_a_row = 0 if worker.has_served else self._killed_in_a_row + 1
        if not worker.has_served and (code > 0 or self._killed_in_a_row >= _KILLED_MAX):
            self._problem = f"a worker could not start (exit code {code}); the log says why"
            return
        self._workers[index] = self._start()

    def _tell_changes(self) -> None:
        if configuration := self._reload.look():
            self._options.app = self._create(self._reload.in_force(configuration))
            self._untold = list(self._workers)
            self._reload.tell(configuration, workers=len(self._workers))
        self._untold = [worker for worker in self._untold if not _is_told(worker)]

    def _end(self) -> None:
        """Drain them all; a second signal hurries them."""
        for listener in self._sockets:  # theirs are their own, and what nobody accepts must be refused
            listener.close()
        for worker in self._workers:
            worker.drain()
        told = max(1, self._signals)
        ends_s = time.monotonic() + self._options.drain_timeout_s + _END_MARGIN_S
        while left := [worker for worker in self._workers if not worker.has_ended()]:
            if self._signals > told:
                told = self._signals
                for worker in left:
                    worker.tell(signal.SIGUSR1)
            if time.monotonic() > ends_s:
                for worker in left:
                    worker.kill_hanging()
            _wait(lambda: not any(worker.process.is_alive() for worker in left))


def _wait(is_over: Callable[[], bool]) -> None:
    """A round, or less."""
    ends_s = time.monotonic() + _ROUND_S
    while not is_over() and time.monotonic() < ends_s:
        time.sleep(_LOOK_S)


def _is_told(worker: _Worker) -> bool:
    """Pass the signal on; one that is still starting would miss it, one that died has a successor."""
    if not worker.has_served:
        return not worker.process.is_alive()
    worker.tell(signal.SIGHUP)
    return True
