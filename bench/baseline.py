"""Shared code of the baseline servers: uvicorn, as the gateway runs it."""

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from gateway.server.sockets import bind


def serve(create: Callable[[str], ASGIApp]) -> None:
    """Serves the app that `create` returns for the upstream's address, until SIGTERM."""
    given = _arguments()
    config = uvicorn.Config(
        create(given.upstream),
        loop="uvloop",
        http="httptools",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
    )
    listener = bind("127.0.0.1", given.port)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve([listener]))


def _arguments() -> Namespace:
    parser = ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="its address, as http://127.0.0.1:9000")
    return parser.parse_args()
