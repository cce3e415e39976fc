"""The commands that run a server or validate its configuration: their options. Each imports the server when it runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gateway.cli.output import fail, print_error

if TYPE_CHECKING:
    from starlette.types import ASGIApp

ConfigOption = Annotated[
    str | None,
    typer.Option("--config", help="The configuration file. Default: IMAGEGATE_CONFIG, else config/imagegate.toml."),
]


def serve(
    config: ConfigOption = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of the configured one.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port, instead of the configured one.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the port.")] = 1,
) -> None:
    """Run the gateway."""
    _refuse_windows()
    from gateway.server.run import run_gateway

    with _failing_in_one_line():
        run_gateway(config, host, port, workers)


def check(
    config: ConfigOption = None,
    upstreams: Annotated[
        bool, typer.Option("--upstreams/--no-upstreams", help="Check every provider key at its upstream, for free.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Validate the configuration, and try all that the gateway needs, without buying an image.

    Reports every mistake of the file at once. Then writes to Redis and the storage, reads the certificate, connects to
    the endpoints of alerts, and asks the upstreams about the keys. The exit code is 1 if something fails.
    """
    _refuse_windows()
    from gateway.cli.check import run_check

    run_check(config, asks_upstreams=upstreams, prints_json=json)


def demo(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0 takes a free one.")] = 8080,
    simulator_port: Annotated[int, typer.Option(min=0, max=65535, help="The simulator's port.")] = 0,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Directory of the data, which is kept: a new or empty one, or an earlier run's. "
            "By default a run begins and ends without. Each run makes new keys.",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one line of JSON when ready, for programs.")] = False,
    exit_with_parent: Annotated[bool, typer.Option("--exit-with-parent", hidden=True)] = False,
) -> None:
    """Run Redis, the gateway and, without a provider's key such as MINIMAX_API_KEY, the simulator as its upstream."""
    _refuse_windows()
    from gateway.cli.demo import run_demo

    with _failing_in_one_line():
        run_demo(host, port, simulator_port, keep, prints_json=json, exits_with_parent=exit_with_parent)
    if not json:
        print("Stopped.")


def simulator(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9000,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that an image takes.")] = 0.3,
    rpm: Annotated[int, typer.Option(min=1, help="Requests a minute of an account.")] = 600,
    images_per_minute: Annotated[int | None, typer.Option(min=1, help="Images a minute of an account.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Concurrent requests of an account.")] = None,
    minute: Annotated[
        Literal["sliding", "fixed"], typer.Option(help="Count limits in any 60 seconds, or in calendar minutes.")
    ] = "sliding",
    image_bytes: Annotated[int | None, typer.Option(min=1, help="Pad each image to this size.")] = None,
) -> None:
    """Run a fake MiniMax and 302.AI server for testing.

    The server accepts any key. A key that begins with "dead" is invalid, "broke" has no balance, and "window" has used
    up its plan. The account is the part before the last "-". Words in the prompt cause errors: [code=1026], [http=502],
    [delay=3], [hang], [cut], [garbage], [empty], [fail=1]. [http=502] returns a proxy's page, [http=502][code=1000] the
    API's own error with that status. GET /simulator/invoice returns the billed images.

    PUT /simulator/keys/KEY or /simulator/accounts/ACCOUNT with {"answers": 1008} makes the key or account return that
    code; 0 makes it work again. {"answers": 2056, "remains_ms": 5000} expires. PUT /simulator/outage with
    {"kind": "hang", "seconds": 60}, or "cut", "garbage", "502", stops all images; DELETE ends the outage.
    PUT /simulator/edge with {"blocks": 403} returns a page with that status for requests that resemble an attack. With
    {"echoes": true} the server refuses references and repeats their URLs. {} ends both.
    """
    _refuse_windows()
    from gateway.testing.simulator import Minute, create_simulator

    app = create_simulator(
        latency_s=latency,
        requests_per_minute=rpm,
        images_per_minute=images_per_minute,
        max_concurrency=max_concurrency,
        minute=Minute(minute),
        image_bytes=image_bytes,
    )
    _serve_simulator(app, host, port)


def _serve_simulator(app: "ASGIApp", host: str, port: int) -> None:
    """Serves the simulator until Ctrl-C."""
    import uvicorn

    from gateway.observability.logging import configure_logging
    from gateway.server.config import server_config
    from gateway.server.sockets import bind, url_of

    configure_logging("console", "warning")
    with _failing_in_one_line():
        listener = bind(host, port)
    print(f"The simulator listens on {url_of(host, listener.getsockname()[1])}; Ctrl-C stops it.", flush=True)
    uvicorn.Server(server_config(app, 5)).run([listener])


def _refuse_windows() -> None:
    if sys.platform == "win32":
        fail(
            "this command does not run on Windows: use WSL 2 or a container. The commands for a gateway elsewhere, as "
            "`imagegate tenant`, do"
        )


@contextmanager
def _failing_in_one_line() -> Iterator[None]:
    """Turns an error that the user can correct into one line on standard error and exit code 1."""
    from gateway.config import SettingsError
    from gateway.redis.embedded import EmbeddedError
    from gateway.server import StartError

    try:
        yield
    except (EmbeddedError, SettingsError, StartError) as error:
        *first, last = str(error).split("\n")
        for line in first:
            print_error(line)
        fail(last)
