"""`imagegate simulator`."""

from typing import Annotated

import typer
import uvicorn

from gateway.cli.serving import bind, server_config, url_of
from gateway.observability.logging import configure_logging
from gateway.simulator import Minute, create_simulator


def simulator(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9000,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that an image takes.")] = 0.3,
    rpm: Annotated[int, typer.Option(min=1, help="Requests a minute that an account may send.")] = 600,
    images_per_minute: Annotated[int | None, typer.Option(min=1, help="Images a minute, likewise.")] = None,
    max_concurrency: Annotated[int | None, typer.Option(min=1, help="Requests of an account at once.")] = None,
    minute: Annotated[Minute, typer.Option(help="Any 60 seconds, or the clock's minutes.")] = Minute.SLIDING,
    image_bytes: Annotated[int | None, typer.Option(min=1, help="Pad each image to this size.")] = None,
) -> None:
    """Run a stand-in for MiniMax and 302.AI that makes pictures for free.

    Any key is accepted. One that begins with "dead" is answered as invalid, "broke" as without balance, "window" as
    used up; the account is the part before the last "-". Words in the prompt make faults: [code=1026], [http=502],
    [delay=3], [hang], [cut], [garbage], [empty], [fail=1]. [http=502] is a proxy's page, [http=502][code=1000] the
    API's own error with that status. GET /simulator/invoice tells what was billed.

    While it runs, PUT /simulator/keys/KEY or /simulator/accounts/ACCOUNT with {"answers": 1008} makes them answer that
    code, 0 makes them work; {"answers": 2056, "remains_ms": 5000} passes by itself. PUT /simulator/outage with
    {"kind": "hang", "seconds": 60}, or "cut", "garbage", "502", stops all images; DELETE ends it. PUT /simulator/edge
    with {"blocks": 403} answers what looks like an attack with a page of that status; with {"echoes": true} it refuses
    references and repeats their addresses; {} ends both.
    """
    configure_logging("console", "warning")
    listener = bind(host, port)
    app = create_simulator(
        latency_s=latency,
        requests_per_minute=rpm,
        images_per_minute=images_per_minute,
        max_concurrency=max_concurrency,
        minute=minute,
        image_bytes=image_bytes,
    )
    print(f"The simulator listens on {url_of(host, listener.getsockname()[1])}; Ctrl-C stops it.", flush=True)
    uvicorn.Server(server_config(app, 5)).run([listener])
