"""A provider that records each call to the byte and replies as scripted."""

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PICTURE = b"\xff\xd8\xff picture"
_OMITTED_HEADERS = ("host", "content-length")


@dataclass(frozen=True)
class Scripted:
    """One reply of a provider. A `str` body is sent as it is, anything else as JSON."""

    name: str
    body: object
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    def response(self, host: str) -> Response:
        text = self.body if isinstance(self.body, str) else json.dumps(self.body)
        content = text.replace("http://upstream", f"http://{host}").encode()
        return Response(content, self.status, {"content-type": "application/json"} | self.headers)


class Provider:
    """Serves `/UPSTREAM/...`; an upstream without a script makes the images it is asked for."""

    def __init__(self) -> None:
        self.scripts: dict[str, Scripted] = {}
        self.calls: dict[str, list[list[object]]] = defaultdict(list)
        """Of each upstream: method, path, body and headers."""
        self.app = Starlette(
            routes=[
                Route("/pictures/{name}", self._picture),
                Route("/{upstream}/{path:path}", self._make, methods=["POST"]),
                Route("/{upstream}/{path:path}", self._check, methods=["GET"]),
            ]
        )

    def take_calls(self, upstream: str) -> list[list[object]]:
        """The calls since the last time, in an order that does not depend on which came first."""
        return sorted(self.calls.pop(upstream, []), key=repr)

    async def _picture(self, request: Request) -> Response:
        if request.path_params["name"].startswith("missing"):
            return Response(status_code=404)
        return Response(PICTURE)

    async def _check(self, _: Request) -> Response:
        return Response(status_code=404)

    async def _make(self, request: Request) -> Response:
        upstream, body = request.path_params["upstream"], await request.body()
        assert str(len(body)) == request.headers["content-length"]
        headers = {name: value for name, value in sorted(request.headers.items()) if name not in _OMITTED_HEADERS}
        headers["user-agent"] = headers["user-agent"].partition("/")[0]
        path = request.url.path.removeprefix(f"/{upstream}")
        self.calls[upstream].append([request.method, path, body.decode(), headers])
        scripted = self.scripts.get(upstream) or Scripted("made", _made(json.loads(body)))
        return scripted.response(request.headers["host"])


def _made(body: dict[str, object]) -> dict[str, object]:
    """A documented success: `n` pictures in the form that was asked for, named by the seed if there is one."""
    count = body.get("n", 1)
    assert isinstance(count, int)
    name = hashlib.sha256(str(body.get("seed", "")).encode()).hexdigest()[:4]
    links = [f"http://upstream/pictures/{name}-{index}.jpg" for index in range(count)]
    encoded = ["/9j/IHBpY3R1cmU="] * count
    data = {"image_base64": encoded} if body["response_format"] == "base64" else {"image_urls": links}
    return {
        "id": "0123456789",
        "data": data,
        "metadata": {"success_count": str(count), "failed_count": "0"},
        "base_resp": {"status_code": 0, "status_msg": "success"},
    }
