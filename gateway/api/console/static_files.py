"""The console's page and the files that it loads, from the package's directory `static`.

The address of a file has the hash of all files, so browsers keep it for good and a new version changes every address.
The page names the hash as `{hash}`. Files are read and compressed at first use; an unused console costs nothing.
"""

import gzip
import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.api.middleware import AsgiEndpoint
from gateway.domain.errors import ErrorCode, GatewayError

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "ico": "image/x-icon",
    "woff2": "font/woff2",
}
_PAGE: Final = "index.html"
_PLACEHOLDER: Final = b"{hash}"
_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_HEADERS: Final = {
    "content-security-policy": _CSP,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    "vary": "accept-encoding",
}
_DATA: Final = frozenset({"session", "tenant", "images", "models", "oidc", "static"})
"""First parts of paths with data: an unknown one below them is no page."""
_FOREVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    compressed: bytes
    media_type: str


@dataclass(slots=True, repr=False)
class StaticFiles:
    """Request handlers."""

    directory: Traversable = field(default_factory=lambda: files("gateway.api.console") / "static")
    _files: dict[str, _File] = field(default_factory=dict)
    _hash: str = ""

    def routes(self) -> list[Route]:
        page, static = AsgiEndpoint(self.get_page), AsgiEndpoint(self.get_file)
        return [
            Route("/console/static/{hash}/{name:path}", static, methods=["GET"]),
            Route("/console", page, methods=["GET"]),
            Route("/console/{page:path}", page, methods=["GET"]),
        ]

    async def get_page(self, request: Request) -> Response:
        """Serves the page for every path that it may show itself. Raises: GatewayError NOT_FOUND."""
        if request.path_params.get("page", "").partition("/")[0] in _DATA:
            raise GatewayError(ErrorCode.NOT_FOUND)
        self._load()
        return _respond(request, self._files[_PAGE], {"cache-control": "no-store"})

    async def get_file(self, request: Request) -> Response:
        """Raises: GatewayError NOT_FOUND, also for a file of another version."""
        self._load()
        found = self._files.get(request.path_params["name"])
        if found is None or request.path_params["hash"] != self._hash:
            raise GatewayError(ErrorCode.NOT_FOUND, "There is no such file in this version. Reload the console.")
        etag = f'"{self._hash}"'
        if request.headers.get("if-none-match") == etag:
            return Response(None, 304, {**_HEADERS, "etag": etag, "cache-control": _FOREVER})
        return _respond(request, found, {"etag": etag, "cache-control": _FOREVER})

    def _load(self) -> None:
        if self._files:
            return
        contents = dict(_read(self.directory, ""))
        digest = hashlib.sha256()
        for name in sorted(contents):
            digest.update(b"%s %d " % (name.encode(), len(contents[name])) + contents[name])
        self._hash = digest.hexdigest()[:16]
        contents[_PAGE] = contents[_PAGE].replace(_PLACEHOLDER, self._hash.encode())
        self._files = {
            name: _File(content, gzip.compress(content, mtime=0), _TYPES[name.rpartition(".")[2]])
            for name, content in contents.items()
        }


def _read(directory: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found = []
    for entry in directory.iterdir():
        if entry.is_dir():
            found += _read(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in _TYPES:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found


def _respond(request: Request, file: _File, headers: dict[str, str]) -> Response:
    is_small = len(file.compressed) < len(file.content) and "gzip" in request.headers.get("accept-encoding", "")
    coding = {"content-encoding": "gzip"} if is_small else {}
    body = file.compressed if is_small else file.content
    return Response(body, 200, _HEADERS | headers | coding, file.media_type)
