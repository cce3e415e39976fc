"""The server of both programs, and how it ends: readiness first, then the listener, then what is being answered."""

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

from gateway.cli.connections import Action, Bound, Connections
from gateway.cli.listener import Listener
from gateway.cli.protocol import BoundedConfig, BoundedProtocol
from gateway.observability.labels import LabeledMetric
from gateway.observability.metrics import CONNECTIONS, CONNECTIONS_OVER_BOUND
from gateway.web.draining import DRAIN, Drain

_LOG = structlog.get_logger("imagegate.serve")
_COLLECT_AFTER: Final = 10_000
"""Objects more than were freed, before the youngest are looked at; Python's 700 are less than one request at each of 32
connections has, and a sixth of the CPU went into looking at what was still in use."""
_LOOK_S: Final = 0.05
_CUT_SHORT_S: Final = 5.0
"""So long requests that are cut short may take to settle and to answer."""


class Server(uvicorn.Server):
    """Leaves signals to whoever runs it, and ends in order; what Redis is owed is settled before the program ends."""

    def __init__(self, config: BoundedConfig) -> None:
        super().__init__(config)
        self._timeout_s = config.drain_timeout_s
        self._grace_s = config.drain_grace_s
        self._late_ports = config.late_ports
        self._listeners: list[Listener] = []
        self._is_in_haste = asyncio.Event()
        self.on_started: Callable[[], None] = lambda: None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """End it; said again, faster."""
        if self.should_exit:
            self.hurry()
        else:
            self.drain()

    def drain(self) -> None:
        """Begin nothing, finish what has begun, and end."""
        self.should_exit = True
        if self.started:
            self._announce()

    def hurry(self) -> None:
        """End now: what still runs is cut short."""
        self.should_exit = True
        self._is_in_haste.set()
        if self.started and (drain := self._drain()):
            drain.hurry()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """In uvicorn's place, which would count no connections.

        What was made up to now lives as long as the program: the garbage collector need not look at it again.
        """
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        self._listeners = [self._listener(listening) for listening in sockets or []]
        for listener in self._listeners:
            listener.start(self.config.backlog)
        self.started = True
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn's
        """In uvicorn's place, which would close the listener first, and not wait for what it cuts short."""
        ends_s = asyncio.get_running_loop().time() + self._timeout_s
        self._announce()
        _LOG.info("draining", requests=len(self.server_state.tasks), up_to_s=math.ceil(self._timeout_s))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_in_haste.wait(), self._grace_s)
        late = [listener for listener in self._listeners if listener.port in self._late_ports]
        _close(listener for listener in self._listeners if listener not in late)
        await self._wait_while(lambda: bool(self.server_state.tasks), ends_s)
        await self._cut_short()
        _close(late)
        await self._hang_up(ends_s)
        await self.lifespan.shutdown()

    def _listener(self, listening: socket.socket) -> Listener:
        config, state = self.config, self.lifespan.state
        assert isinstance(config, BoundedConfig)
        level, counts = state.get(CONNECTIONS), state.get(CONNECTIONS_OVER_BOUND)

        def note(bound: Bound, action: Action) -> None:
            if isinstance(counts, LabeledMetric):
                counts.labels(bound, action).inc()
            if action is Action.REFUSED:
                config.refusals.add(f"too many connections: {bound}")

        bounds = config.own_bounds.get(listening.getsockname()[1], config.bounds)
        return Listener(
            listening,
            Connections(bounds, note, level if isinstance(level, Gauge) else None),
            lambda connection: BoundedProtocol(config, self.server_state, state, None, connection),
            config.certificate,
            config.connection_limits,
        )

    def _announce(self) -> None:
        """Let the program know."""
        if drain := self._drain():
            drain.begin(self._timeout_s)

    def _drain(self) -> Drain | None:
        """The program's; the simulator has nobody who asks."""
        drain = self.lifespan.state.get(DRAIN)
        return drain if isinstance(drain, Drain) else None

    async def _hang_up(self, ends_s: float) -> None:
        """End what is left: who still reads his answer, and kept connections.

        These last so long because whoever sends another request on one is answered, not cut off.
        """
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait_while(lambda: bool(self.server_state.connections), ends_s)

    async def _wait_while(self, is_so: Callable[[], bool], ends_s: float) -> None:
        """Until the time is over, or somebody is in haste."""
        now_s = asyncio.get_running_loop().time
        while is_so() and not self._is_in_haste.is_set() and now_s() < ends_s:  # noqa: ASYNC110 - uvicorn has no event
            await asyncio.sleep(_LOOK_S)

    async def _cut_short(self) -> None:
        tasks = set(self.server_state.tasks)
        if not tasks:
            return
        _LOG.warning("requests_cut_short", requests=len(tasks))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CUT_SHORT_S)


def _close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.close()


async def serve_until_stopped(
    server: Server, listeners: list[socket.socket], signals: Mapping[signal.Signals, Callable[[], None]]
) -> None:
    for number, act in signals.items():
        asyncio.get_running_loop().add_signal_handler(number, act)
    with suppress(SystemExit):  # where the program cannot start, which `started` says
        await server.serve(listeners)
    if not server.started:
        sys.exit("imagegate: the gateway could not start; the log says why")  # also the end of a worker
