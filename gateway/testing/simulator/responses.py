"""Responses in MiniMax's and 302.AI's formats, and broken ones."""

import base64
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from gateway.testing.simulator.fault_injection import AI302_DISABLED, AI302_UNAUTHORISED, INVALID_KEY, RefusedError

_CLOUDFLARE: Final = range(520, 528)
_NGINX_PAGE: Final = (
    "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n"
    "<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


class CutResponse(Response):
    """Announces the whole body and sends half of it.

    An ASGI server closes the connection of an application that returns before its body is complete.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body[: len(self.body) // 2])
        await send({"type": "http.response.body", "body": half, "more_body": True})


def render_success(trace_id: str, images: list[str], *, spelling: str, failed: int) -> bytes:
    """Renders MiniMax's success; its counters are strings, despite the specification."""
    return msgspec.json.encode(
        {
            "id": trace_id,
            "data": {spelling: images},
            "metadata": {"success_count": str(len(images)), "failed_count": str(failed)},
            "base_resp": {"status_code": 0, "status_msg": "success"},
        }
    )


def render_base64(trace_id: str, pictures: list[bytes], *, failed: int) -> bytes:
    """Renders a success with base64 images; slow enough for a thread."""
    images = [base64.b64encode(picture).decode("ascii") for picture in pictures]
    return render_success(trace_id, images, spelling="image_base64", failed=failed)


def answer(body: bytes, trace_id: str, *, status: int = 200) -> Response:
    return Response(body, status, {"Trace-Id": trace_id}, "application/json")


def answer_json(content: object, *, status: int = 200) -> Response:
    """Renders JSON for the simulator's own endpoints, without a trace ID."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")


def answer_cut(body: bytes, trace_id: str) -> Response:
    return CutResponse(body, 200, {"Trace-Id": trace_id}, "application/json")


def answer_refusal(refusal: RefusedError, trace_id: str) -> Response:
    """Renders MiniMax's error, usually with HTTP 200; a negative code is 302.AI's, with its own HTTP status."""
    if refusal.code >= 0:
        base_resp = {"status_code": refusal.code, "status_msg": refusal.text}
        return answer(msgspec.json.encode({"base_resp": base_resp}), trace_id, status=refusal.status or 200)
    error = {"err_code": refusal.code, "message": refusal.text, "type": "api_error"}
    status = 401 if refusal.code in AI302_UNAUTHORISED else 500
    return answer(msgspec.json.encode({"error": error}), trace_id, status=refusal.status or status)


def answer_unknown_key(trace_id: str) -> Response:
    """Renders the refusal of a page that both providers have, in both formats at once."""
    own, other = RefusedError(AI302_DISABLED), RefusedError(INVALID_KEY)
    error = {"err_code": own.code, "message": own.text, "type": "api_error"}
    base_resp = {"status_code": other.code, "status_msg": other.text}
    return answer(msgspec.json.encode({"error": error, "base_resp": base_resp}), trace_id, status=401)


def answer_page(status: int) -> Response:
    """Renders the page of a proxy in front of the API; Cloudflare's for its own statuses."""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    headers = {"server": "cloudflare", "cf-ray": "8f0c1d2e3a4b5c6d-FRA"} if status in _CLOUDFLARE else None
    return HTMLResponse(_NGINX_PAGE.format(title=f"{status} {phrase}"), status, headers)
