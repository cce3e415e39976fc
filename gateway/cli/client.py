"""The commands that call the gateway's API, as an administrator or as a tenant: its client, and shared options."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote, urlencode

import typer

from gateway.cli.connections import open_response, read_url
from gateway.cli.limit_options import LIMIT_PARAMETERS, LIMITS, limits_document, parameter
from gateway.cli.output import fail, print_json, printable

if TYPE_CHECKING:
    import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8081"
_TENANT_URL: Final = "http://127.0.0.1:8080"
_TIMEOUT_S: Final = 30.0
LONG_TIMEOUT_S: Final = 1_900.0
"""For exports and month closes, which read every record before they respond."""
_PAGES_MAX: Final = 1000

UrlOption = Annotated[
    str, typer.Option("--url", envvar="IMAGEGATE_URL", help="URL of the admin API.", show_default=True)
]
AdminKeyOption = Annotated[
    str,
    typer.Option(
        "--admin-key",
        envvar="IMAGEGATE_ADMIN_KEY",
        help="The admin key. Other users can see it in the process list; prefer the variable.",
        show_default=False,
    ),
]
_TenantUrlOption = Annotated[str, typer.Option("--url", envvar="IMAGEGATE_URL", help="URL of the gateway.")]
_ApiKeyOption = Annotated[
    str,
    typer.Option(
        "--key",
        envvar="IMAGEGATE_API_KEY",
        help="Your API key. Other users can see it in the process list; prefer the variable.",
        show_default=False,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's response.")]

Document = dict[str, object]
Command = Callable[..., None]
_Query = Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class Surface:
    """A part of the API, and the words for its key."""

    prefix: str
    key: str
    option: str
    variable: str
    audit: str
    """The command that shows changes."""
    absence: str
    """Why its routes may be missing."""


_ADMIN: Final = Surface(
    *("/admin/v1", "admin key", "--admin-key", "IMAGEGATE_ADMIN_KEY", "imagegate audit"),
    "has no admin API; use the port of [admin] port in --url",
)
_TENANT: Final = Surface(
    *("/v1/tenant", "API key", "--key", "IMAGEGATE_API_KEY", "imagegate me audit"),
    "does not serve tenants; use the URL of the gateway, not that of its admin API, in --url",
)


@dataclass(frozen=True, slots=True)
class AdminApi:
    """The API at the address and with the key of a command's options: the admin API, or a tenant's own."""

    url: str
    admin_key: str
    json: bool
    surface: Surface = _ADMIN
    place: str = ""
    """The context, if one was chosen."""

    @property
    def shown_url(self) -> str:
        """The URL without user and password."""
        return re.sub(r"//[^/?#\s]*@", "//", self.url)

    @property
    def _unconfirmed(self) -> str:
        return f"the change may have been made: before you repeat it, search for it with `{self.surface.audit}`"

    def ask(
        self,
        method: str,
        *path: str,
        body: Document | None = None,
        query: _Query = None,
        timeout_s: float = _TIMEOUT_S,
        accepts: int = 200,
    ) -> Document:
        """Sends one request. An error that is not the status it `accepts` ends the command with one line."""
        with self._sending(method, path, query, body, timeout_s) as response:
            response.read()
            return self._read(response, method, accepts)

    def find_problem(self, *path: str) -> str:
        """Returns why a GET finds nothing; "" if it finds something."""
        error = self.ask("GET", *path, accepts=404).get("error")
        return str(error.get("message")) if isinstance(error, dict) else ""

    @contextmanager
    def download(self, *path: str, query: Mapping[str, object]) -> "Iterator[httpx.Response]":
        """Yields the response whose body is a file. An error ends the command, also while the body is read."""
        with self._sending("GET", path, query, None, LONG_TIMEOUT_S) as response:
            if not response.is_success:
                response.read()
                self._read(response, "GET")
            yield response

    @contextmanager
    def _sending(
        self, method: str, path: Sequence[str], query: _Query, body: Document | None, timeout_s: float
    ) -> "Iterator[httpx.Response]":
        import httpx

        from gateway.domain.secret_shapes import find_paste, find_unsendable

        surface, sent_key = self.surface, self.admin_key.strip()
        if not sent_key:
            fail(f"no {surface.key}; use {surface.option} or set {surface.variable}")
        if problem := find_paste(sent_key) or find_unsendable(sent_key):
            fail(f"{surface.option} or {surface.variable}: {problem}")
        if surface is _TENANT and path[:1] == ("tenants",):
            path = path[2:]  # its own
        hidden = {"tenant"} if surface is _TENANT else set()
        wanted = urlencode(
            {name: value for name, value in (query or {}).items() if value is not None and name not in hidden}
        )
        target = "".join("/" + quote(part, safe="") for part in path) + (f"?{wanted}" if wanted else "")
        # A URL for OpenAI clients ends in /v1.
        url = read_url(f"{self.url.rstrip('/').removesuffix('/v1')}{surface.prefix}{target}")
        try:
            with ExitStack() as opened:
                yield open_response(opened, method, url, body, sent_key, timeout_s)
        except httpx.HTTPError as error:
            not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
            was_sent = isinstance(error, httpx.TransportError) and not isinstance(error, not_sent)
            if was_sent and method != "GET":
                fail(f"the gateway at {self.shown_url} does not respond ({error}); {self._unconfirmed}")
            fail(f"the gateway at {self.shown_url} does not respond ({error}); check --url or IMAGEGATE_URL")

    def _read(self, response: "httpx.Response", method: str, accepts: int = 200) -> Document:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            problem = f"{self.shown_url} is not a gateway: HTTP {response.status_code} without a JSON object"
            is_unknown = response.status_code >= 500 and method != "GET"  # as of a proxy that gave up
            fail(f"{problem}; {self._unconfirmed if is_unknown else 'check --url or IMAGEGATE_URL'}")
        if response.status_code == 401:
            words = self.surface
            fail(f"the gateway rejected the {words.key}; check {words.option} or {words.variable}")
        if not response.is_success and response.status_code != accepts:
            error = body.get("error")
            if isinstance(error, dict) and error.get("code") == "unknown_url":
                fail(f"{self.shown_url} {self.surface.absence}")
            fail(printable(str(error.get("message"))) if isinstance(error, dict) else f"HTTP {response.status_code}")
        return body

    def show(self, answer: Document, render: Callable[[Document], None]) -> None:
        """Prints a response as JSON with --json, else with `render`."""
        if self.json:
            print_json(answer)
        else:
            render(answer)


def rows(answer: Document, name: str = "data") -> list[Document]:
    """Returns the objects of a list in a response."""
    data = answer.get(name)
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def pages(api: AdminApi, *path: str, query: Mapping[str, object], cursor: str = "after") -> Document:
    """Returns all pages of a list as one, up to _PAGES_MAX."""
    data: list[Document] = []
    following: object = None
    for _ in range(_PAGES_MAX):
        answer = api.ask("GET", *path, query={**query, cursor: following})
        data += rows(answer)
        if not (following := answer.get("next")):
            break
    return {"data": data, "next": following}


def number(answer: Document, *path: str) -> int:
    """Returns an integer of a response; 0 if there is none."""
    value: object = answer
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int) else 0


def admin_command(
    app: typer.Typer, name: str, short_help: str | None = None, surface: Surface = _ADMIN
) -> Callable[[Command], Command]:
    """Registers a command that calls the API, with the options that all of these share.

    Its parameter `api` stands for --url, --admin-key and --json; a parameter `limits` for the options of LIMITS. A
    tenant's command has --key instead of --admin-key, and no option that only administrators have.
    """

    def register(command: Command) -> Command:
        parameters = inspect.signature(command).parameters
        shared = [*(LIMIT_PARAMETERS if "limits" in parameters else ()), *_API_PARAMETERS[surface]]

        def run(context: typer.Context, **arguments: object) -> None:
            given = (str(arguments.pop("url")), str(arguments.pop("admin_key")), bool(arguments.pop("json")))
            api = AdminApi(*given, surface, str(context.find_root().obj or ""))
            if "limits" in parameters:
                arguments["limits"] = limits_document({limit: arguments.pop(limit) for limit in LIMITS})
            if surface is _TENANT and "tenant" in parameters:
                arguments["tenant"] = None if parameters["tenant"].default is None else api.ask("GET")["name"]
            command(api=api, **arguments)

        hidden = {"api", "limits", *(_ADMINISTRATORS if surface is _TENANT else ())}
        own = [_CONTEXT_PARAMETER, *(parameter for parameter in parameters.values() if parameter.name not in hidden)]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined] # typer reads it
        run.__doc__ = command.__doc__
        app.command(name, short_help=short_help)(run)
        return command

    return register


tenant_command: Final = partial(admin_command, surface=_TENANT)
"""Registers a command that calls the API of a tenant with one of its keys."""


_CONTEXT_PARAMETER: Final = inspect.Parameter(
    "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
)
_API_PARAMETERS: Final = {
    surface: (
        parameter("url", address, url_option),
        parameter("admin_key", "", key_option),
        parameter("json", False, _JsonOption),
    )
    for surface, address, url_option, key_option in (
        (_ADMIN, DEFAULT_URL, UrlOption, AdminKeyOption),
        (_TENANT, _TENANT_URL, _TenantUrlOption, _ApiKeyOption),
    )
}
_ADMINISTRATORS: Final = frozenset({"tenant", "upstream", "lead"})
"""Parameters that a tenant's commands lack."""
