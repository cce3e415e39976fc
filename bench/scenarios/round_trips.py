"""Redis round trips of a single request, counted by Redis' own reads."""

import time

import redis as client_library

from bench.results import Row, at_most
from bench.run import Run, press, stage

_QUIET_S = 3.0
_COUNT = 300


def measure(run: Run) -> list[Row]:
    with stage(run) as programs:
        gateway, client = programs.gateway, client_library.Redis(port=programs.redis_port)
        press(gateway, gateway.plan(seconds=30, count=50))
        before = _count(client)
        time.sleep(_QUIET_S)
        quiet = _count(client) - before
        before, scripts_before, began_s = _count(client), _scripts(client), time.monotonic()
        press(gateway, gateway.plan(seconds=60, count=_COUNT))
        scripts = _scripts(client) - scripts_before
        beside = quiet * (time.monotonic() - began_s) / _QUIET_S
        trips = (_count(client) - before - beside) / _COUNT
        client.close()
    run.report(f"{trips:.3f}; {quiet / _QUIET_S:.1f} a second beside them")
    return [
        Row(measure="Redis round trips per request", gateway=round(trips, 1), goal=at_most(4)),
        Row(measure="scripts per request", gateway=round(scripts / _COUNT, 1)),
    ]


def _count(client: "client_library.Redis") -> int:
    """Counts reads from all connections but this one, of which each call is one read, including this one."""
    found: int = client.info("stats")["total_reads_processed"]
    return found


def _scripts(client: "client_library.Redis") -> int:
    counts: dict[str, dict[str, int]] = client.info("commandstats")
    return sum(counts.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))
