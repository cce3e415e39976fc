"""`imagegate simulator`."""

from typing import Annotated

import typer
import uvicorn

from gateway import logs
from gateway.cli.serving import bind, server_config, url_of
from gateway.simulator import create_simulator


def simulator(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 9000,
    latency: Annotated[float, typer.Option(min=0, help="Seconds that an image takes.")] = 0.3,
    rpm: Annotated[int, typer.Option(min=1, help="Requests a minute that an account may send.")] = 600,
    image_bytes: Annotated[int | None, typer.Option(min=1, help="Pad each image to this size.")] = None,
) -> None:
    """Run a stand-in for MiniMax and 302.AI that makes pictures for free.

    Any key is accepted. One that begins with "dead" is answered as invalid, "broke" as without balance, "window" as
    used up; the account is the part before the last "-". Words in the prompt make faults: [code=1026], [http=502],
    [delay=3], [hang], [cut], [garbage], [empty], [fail=1]. GET /simulator/invoice tells what was billed.
    """
    logs.configure("console", "warning")
    listener = bind(host, port)
    app = create_simulator(latency_s=latency, requests_per_minute=rpm, image_bytes=image_bytes)
    print(f"The simulator listens on {url_of(host, listener.getsockname()[1])}; Ctrl-C stops it.", flush=True)
    uvicorn.Server(server_config(app, 5)).run([listener])
