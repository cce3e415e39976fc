"""`python -m chaos.provider`: the simulated provider, with a log of every call."""

import socket
import sys

import uvicorn

from chaos.configuration import ACCOUNT_IPM, ACCOUNT_LANES, ACCOUNT_RPM
from gateway.testing.simulator import create_simulator

_CALLS_KEPT = 500_000
_LATENCY_S = 0.25


def main() -> None:
    app = create_simulator(
        latency_s=_LATENCY_S,
        requests_per_minute=ACCOUNT_RPM,
        images_per_minute=ACCOUNT_IPM,
        max_concurrency=ACCOUNT_LANES,
        calls_kept=_CALLS_KEPT,
    )
    listener = socket.create_server(("127.0.0.1", 0), backlog=1000)
    sys.stdout.write(f"listens on http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_keep_alive=75)
    uvicorn.Server(config).run([listener])


if __name__ == "__main__":
    main()
