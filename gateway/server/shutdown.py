"""The server of both programs, and its shutdown: readiness fails, the listeners close, in-flight requests finish."""

import asyncio
import gc
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import structlog
import uvicorn
from prometheus_client import Gauge
from uvicorn.config import STARTUP_FAILURE

from gateway.api.shutdown import DRAIN, ShutdownState
from gateway.observability.metrics import CONNECTIONS, CONNECTIONS_OVER_BOUND, LabeledMetric
from gateway.server.config import ServerConfig
from gateway.server.connections import Action, Bound, Connections
from gateway.server.listener import Listener
from gateway.server.protocol import LimitedHttpProtocol

_LOG = structlog.get_logger("imagegate.serve")
_COLLECT_AFTER: Final = 10_000
"""Garbage collector's first threshold. With Python's 700, less than one request at each of 32 connections allocates, a
sixth of the CPU went into traversing objects in use."""
_POLL_S: Final = 0.05
_ABORT_S: Final = 5.0
"""Time for aborted requests to settle and respond."""

SignalHandlers = Mapping[signal.Signals, Callable[[], None]]


class Server(uvicorn.Server):
    """Leaves signals to its caller, and shuts down in order: debts to Redis are settled before the process exits."""

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self._options = config
        self._listeners: list[Listener] = []
        self._is_hurried = asyncio.Event()
        self.on_started: Callable[[], None] = lambda: None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Drains. A second call aborts the in-flight requests."""
        if self.should_exit:
            self.force()
        else:
            self.drain()

    def drain(self) -> None:
        """Refuses new requests, finishes the in-flight ones and exits."""
        self.should_exit = True
        if self.started:
            self._begin_drain()

    def force(self) -> None:
        """Aborts the in-flight requests and exits."""
        self.should_exit = True
        self._is_hurried.set()
        if self.started and (drain := self._drain()):
            drain.force()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replaces uvicorn's, which does not count connections.

        Objects created so far live as long as the process: the garbage collector skips them.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        if self._options.certificate:
            self._options.certificate.load()
        self._listeners = [self._listener(listening) for listening in sockets or []]
        for listener in self._listeners:
            listener.start(self.config.backlog)
        self.started = True
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """Replaces uvicorn's, which closes the listeners first and does not wait for aborted requests."""
        timeout_s = self._options.shutdown_timeout_s
        ends_s = asyncio.get_running_loop().time() + timeout_s
        self._begin_drain()
        _LOG.info("draining", requests=len(self.server_state.tasks), timeout_s=math.ceil(timeout_s))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_hurried.wait(), self._options.shutdown_delay_s)
        late = [listener for listener in self._listeners if listener.port in self._options.late_ports]
        _close(listener for listener in self._listeners if listener not in late)
        await self._wait_while(lambda: bool(self.server_state.tasks), ends_s)
        await self._abort_requests()
        _close(late)
        await self._close_idle(ends_s)
        await self.lifespan.shutdown()

    def _listener(self, listening: socket.socket) -> Listener:
        options, state = self._options, self.lifespan.state
        level, counts = state.get(CONNECTIONS), state.get(CONNECTIONS_OVER_BOUND)

        def count(bound: Bound, action: Action) -> None:
            if isinstance(counts, LabeledMetric):
                counts.labels(bound, action).inc()
            if action is Action.REFUSED:
                options.rejections.add(f"too many connections: {bound}")

        bounds = options.own_bounds.get(listening.getsockname()[1], options.bounds)
        return Listener(
            listening,
            Connections(bounds, count, level if isinstance(level, Gauge) else None),
            lambda connection: LimitedHttpProtocol(options, self.server_state, state, None, connection),
            options.certificate,
            options.connection_limits,
        )

    def _begin_drain(self) -> None:
        if drain := self._drain():
            drain.begin(self._options.shutdown_timeout_s)

    def _drain(self) -> ShutdownState | None:
        """The gateway's readiness; the simulator has none."""
        drain = self.lifespan.state.get(DRAIN)
        return drain if isinstance(drain, ShutdownState) else None

    async def _close_idle(self, ends_s: float) -> None:
        """Closes idle connections, and those whose client still reads a response.

        They stay open until now, because a request that arrives on one meanwhile gets a response.
        """
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait_while(lambda: bool(self.server_state.connections), ends_s)

    async def _wait_while(self, is_pending: Callable[[], bool], ends_s: float) -> None:
        now_s = asyncio.get_running_loop().time
        while is_pending() and not self._is_hurried.is_set() and now_s() < ends_s:  # noqa: ASYNC110 - no event to await
            await asyncio.sleep(_POLL_S)

    async def _abort_requests(self) -> None:
        tasks = set(self.server_state.tasks)
        if not tasks:
            return
        _LOG.warning("requests_aborted_at_shutdown", requests=len(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_ABORT_S)


def _close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.close()


def run_until_stopped(server: Server, listeners: list[socket.socket], handlers: SignalHandlers) -> None:
    """Runs the server in an event loop of its own. Exits with code 1 if it cannot start."""
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(_serve(server, listeners, handlers))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the interpreter restores the default at exit, which would kill it


async def _serve(server: Server, listeners: list[socket.socket], handlers: SignalHandlers) -> None:
    add_signal_handlers(handlers)
    with suppress(SystemExit):  # the program cannot start; see `started`
        await server.serve(listeners)
    if not server.started:
        sys.exit("imagegate: the gateway could not start; the log says why")  # also ends a worker


def add_signal_handlers(handlers: SignalHandlers) -> None:
    for number, handler in handlers.items():
        asyncio.get_running_loop().add_signal_handler(number, handler)
