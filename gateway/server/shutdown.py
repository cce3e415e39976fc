"""The server of both programs, and its shutdown: readiness fails, the listeners close, in-flight requests finish."""

import asyncio
import gc
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Final

import structlog
import uvicorn
from prometheus_client import Counter, Gauge
from uvicorn.config import STARTUP_FAILURE

from gateway.api.shutdown import DRAIN, ShutdownState
from gateway.observability.metrics import CONNECTIONS, CONNECTIONS_OVER_BOUND, LabeledMetric
from gateway.server.config import ServerConfig
from gateway.server.connections import Action, Bound, Connection, Connections, Listener
from gateway.server.protocol import LimitedHttpProtocol
from gateway.server.tls_protocol import TlsProtocol

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

    config: ServerConfig

    def __init__(self, config: ServerConfig) -> None:
        super().__init__(config)
        self._listeners: list[Listener] = []
        self._is_hurried = asyncio.Event()
        self._shutdown_state = ShutdownState()
        """The gateway's own once it has started; nothing reads the simulator's."""
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
        self._shutdown_state.begin(self.config.shutdown_timeout_s)

    def force(self) -> None:
        """Aborts the in-flight requests and exits."""
        self.should_exit = True
        self._is_hurried.set()
        self._shutdown_state.force()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Replaces uvicorn's, which does not count connections.

        Objects created so far live as long as the process: the garbage collector skips them.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self._shutdown_state = self.lifespan.state.get(DRAIN, self._shutdown_state)
        if self.config.certificate:
            self.config.certificate.load()
        self._listeners = [self._listener(listening) for listening in sockets or []]
        for listener in self._listeners:
            listener.start()
        self.started = True
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
        self.on_started()

    def _listener(self, listening: socket.socket) -> Listener:
        config, state = self.config, self.lifespan.state
        level: Gauge | None = state.get(CONNECTIONS)
        counts: LabeledMetric[Counter] | None = state.get(CONNECTIONS_OVER_BOUND)

        def count(bound: Bound, action: Action) -> None:
            if counts:
                counts.labels(bound, action).inc()
            if action == "refused":
                config.rejections.add(f"too many connections: {bound}")

        def make_protocol(connection: Connection) -> asyncio.BaseProtocol:
            protocol, limits = (
                LimitedHttpProtocol(config, self.server_state, state, connection),
                config.connection_limits,
            )
            if not config.certificate:
                return protocol
            timeouts_s = limits.header_timeout_s, limits.write_timeout_s
            return TlsProtocol(connection, protocol, config.certificate.context, *timeouts_s)

        bounds = config.own_bounds.get(listening.getsockname()[1], config.bounds)
        return Listener(listening, Connections(bounds, count, level), make_protocol, config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """Replaces uvicorn's, which closes the listeners first and does not wait for aborted requests.

        Idle connections stay open until the requests are done: one that arrives on them meanwhile gets a response.
        """
        timeout_s = self.config.shutdown_timeout_s
        ends_s = asyncio.get_running_loop().time() + timeout_s
        self._shutdown_state.begin(timeout_s)
        tasks = self.server_state.tasks
        _LOG.info("draining", requests=len(tasks), timeout_s=math.ceil(timeout_s))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_hurried.wait(), self.config.shutdown_delay_s)
        late = [listener for listener in self._listeners if listener.port in self.config.late_ports]
        for listener in self._listeners:
            if listener not in late:
                listener.close()
        await self._wait_while(lambda: bool(tasks), ends_s)
        if aborted := set(tasks):
            _LOG.warning("requests_aborted_at_shutdown", requests=len(aborted))
            for task in aborted:
                task.cancel()
            await asyncio.wait(aborted, timeout=_ABORT_S)
        for listener in late:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait_while(lambda: bool(self.server_state.connections), ends_s)
        await self.lifespan.shutdown()

    async def _wait_while(self, is_pending: Callable[[], bool], ends_s: float) -> None:
        now_s = asyncio.get_running_loop().time
        while is_pending() and not self._is_hurried.is_set() and now_s() < ends_s:  # noqa: ASYNC110 - no event to await
            await asyncio.sleep(_POLL_S)


def run_until_stopped(server: Server, listeners: list[socket.socket], handlers: SignalHandlers) -> None:
    """Runs the server in an event loop of its own. Exits with code 1 if it cannot start."""

    async def serve() -> None:
        add_signal_handlers(handlers)
        with suppress(SystemExit):  # the program cannot start; see `started`
            await server.serve(listeners)
        if not server.started:
            sys.exit("imagegate: the gateway could not start; the log says why")  # also ends a worker

    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(serve())
    ignore_hangups()


def ignore_hangups() -> None:
    """For a process that ends: the interpreter restores the default action at exit, which would kill it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def add_signal_handlers(handlers: SignalHandlers) -> None:
    for number, handler in handlers.items():
        asyncio.get_running_loop().add_signal_handler(number, handler)
