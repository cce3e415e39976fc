"""An upstream that repeats what it was sent, in every kind of answer: the key, and the prompt."""

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PATHS: Final = ("/v1/image_generation", "/minimaxi/v1/image_generation")
Echo = Callable[[str, str], Response]


def _refusal(text: str, code: int = 1004, status: int = 200) -> Response:
    return JSONResponse({"id": text, "base_resp": {"status_code": code, "status_msg": text}}, status)


def _made(told: str, **fields: object) -> Response:
    return JSONResponse({"id": told, **fields, "base_resp": {"status_code": 0, "status_msg": told}})


ECHOES: Final[Mapping[str, Echo]] = {
    "code": lambda told, prompt: _refusal(f"bad {told} for {prompt}"),
    "unknown code": lambda told, prompt: _refusal(f"bad {told} for {prompt}", 99999),
    "withheld": lambda told, prompt: _refusal(f"'{prompt}' is not allowed to {told}", 1026),
    "a code cut inside the key": lambda told, _: _refusal("x" * (1000 - len(told) + 6) + told),
    "newer error": lambda told, prompt: JSONResponse(
        {"type": "error", "error": {"type": "authentication_error", "message": f"{told} {prompt}"}}, 401
    ),
    "the type of an error": lambda told, _: JSONResponse({"error": {"type": told, "message": "no"}}, 400),
    "302.AI's": lambda told, prompt: JSONResponse({"error": {"err_code": -10005, "message": told + prompt}}, 401),
    "text": lambda told, _: Response(told, 502),
    "text cut inside the key": lambda told, _: Response("x" * (80 - len(told) + 6) + told, 500),
    "no JSON after all": lambda told, prompt: Response(f"{told} {prompt}"),
    "encoding": lambda told, _: Response(b"x", headers={"content-encoding": told.replace(" ", "-")}),
    "headers": lambda told, prompt: Response(
        "{}", 429, {"retry-after": told, "www-authenticate": told, "set-cookie": f"k={told}", "x-prompt": prompt}
    ),
    "redirect": lambda told, _: Response("", 302, {"location": f"/elsewhere?{told}"}),
    "a link": lambda told, _: _made(told, data={"image_urls": [f"https://cdn.example/1.jpg?key={told}"]}),
    "a host": lambda told, _: _made(told, data={"image_urls": [f"https://{told.split()[-1]}.example/1.jpg"]}),
    "a field": lambda told, _: _made("1", **{told: told}, data={"image_base64": [told]}),
}


def echoing() -> Starlette:
    """Each answer in its turn, over and over."""
    turns = itertools.cycle(ECHOES.values())

    async def answer(request: Request) -> Response:
        prompt = json.loads(await request.body())["prompt"]
        return next(turns)(request.headers["authorization"], prompt)

    async def probe(request: Request) -> Response:
        return next(turns)(request.headers["authorization"], "")

    routes = [Route(path, answer, methods=["POST"]) for path in PATHS]
    return Starlette(routes=[*routes, Route("/{path:path}", probe)])
