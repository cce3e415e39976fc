"""The commands that call the admin API: its client, and the options that they share."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import quote, urlencode

import typer

from gateway.cli.output import SOCKS, fail, print_json, printable

if TYPE_CHECKING:
    import ssl

    import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8081"
_TIMEOUT_S: Final = 30.0
LONG_TIMEOUT_S: Final = 1_900.0
"""For exports and month closes, which read every record before they respond."""
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts called without the proxies of the environment, which would see the admin key."""

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
_JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's response.")]
_LIMITS: Final = {
    "requests_per_minute": "Requests in any 60 seconds",
    "images_per_minute": "Images in any 60 seconds",
    "concurrency": "Concurrent requests",
    "images_per_day": "Images in a calendar day (UTC)",
    "images_per_month": "Images in a calendar month (UTC)",
    "usd_per_month": "US dollars in a calendar month (UTC), as 50.00",
    "soft_usd_per_month": "US dollars in a calendar month (UTC) that warn and refuse nothing",
}
_QUOTAS: Final = frozenset({"images_per_day", "images_per_month", "usd_per_month", "soft_usd_per_month"})
_MONEY: Final = frozenset({"usd_per_month", "soft_usd_per_month"})
_LIMIT_MAX: Final = 1_000_000_000
_NONE: Final = "none"
_UNCONFIRMED: Final = "the change may have been made: before you repeat it, search for it with `imagegate audit`"

Document = dict[str, object]
Command = Callable[..., None]
_Query = Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class AdminApi:
    """The admin API at the address and with the key of a command's options."""

    url: str
    admin_key: str
    json: bool

    @property
    def shown_url(self) -> str:
        """The URL without user and password."""
        return re.sub(r"//[^/?#\s]*@", "//", self.url)

    def ask(
        self,
        method: str,
        *path: str,
        body: Document | None = None,
        query: _Query = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Document:
        """Sends one request. An error ends the command with one line on standard error."""
        with self._sending(method, path, query, body, timeout_s) as response:
            response.read()
            return self._read(response, method)

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

        admin_key = self.admin_key.strip()
        if not admin_key:
            fail("no admin key; use --admin-key or set IMAGEGATE_ADMIN_KEY")
        if problem := find_paste(admin_key) or find_unsendable(admin_key):
            fail(f"--admin-key or IMAGEGATE_ADMIN_KEY: {problem}")
        wanted = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        target = "".join("/" + quote(part, safe="") for part in path) + (f"?{wanted}" if wanted else "")
        try:
            # A URL for OpenAI clients ends in /v1.
            url = httpx.URL(f"{self.url.rstrip('/').removesuffix('/v1')}/admin/v1{target}")
            with httpx.stream(
                method,
                url,
                json=body,
                headers={"authorization": f"Bearer {admin_key}"},
                timeout=timeout_s,
                trust_env=url.host not in _LOCAL,
                verify=_trusted() if url.scheme == "https" else True,
            ) as response:
                yield response
        except ImportError:  # of the package for SOCKS
            fail(SOCKS)
        except (httpx.InvalidURL, ValueError):  # their messages may repeat a password
            fail("--url or IMAGEGATE_URL is no URL; expected http:// or https:// and a host, as http://127.0.0.1:8081")
        except httpx.HTTPError as error:
            not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
            was_sent = isinstance(error, httpx.TransportError) and not isinstance(error, not_sent)
            if was_sent and method != "GET":
                fail(f"the gateway at {self.shown_url} does not respond ({error}); {_UNCONFIRMED}")
            fail(f"the gateway at {self.shown_url} does not respond ({error}); check --url or IMAGEGATE_URL")

    def _read(self, response: "httpx.Response", method: str) -> Document:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            problem = f"{self.shown_url} is not a gateway: HTTP {response.status_code} without a JSON object"
            is_unknown = response.status_code >= 500 and method != "GET"  # as of a proxy that gave up
            fail(f"{problem}; {_UNCONFIRMED if is_unknown else 'check --url or IMAGEGATE_URL'}")
        if response.status_code == 401:
            fail("the gateway rejected the admin key; check --admin-key or IMAGEGATE_ADMIN_KEY")
        if not response.is_success:
            error = body.get("error")
            if isinstance(error, dict) and error.get("code") == "unknown_url":
                fail(f"{self.shown_url} has no admin API; use the port of [admin] port in --url")
            fail(printable(str(error.get("message"))) if isinstance(error, dict) else f"HTTP {response.status_code}")
        return body

    def show(self, answer: Document, render: Callable[[Document], None]) -> None:
        """Prints a response as JSON with --json, else with `render`."""
        if self.json:
            print_json(answer)
        else:
            render(answer)


def _trusted() -> "ssl.SSLContext":
    """Trusts httpx's and this machine's certificate authorities, including SSL_CERT_FILE."""
    import httpx

    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def rows(answer: Document, name: str = "data") -> list[Document]:
    """Returns the objects of a list in a response."""
    data = answer.get(name)
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []


def number(answer: Document, *path: str) -> int:
    """Returns an integer of a response; 0 if there is none."""
    value: object = answer
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, int) else 0


def admin_command(app: typer.Typer, name: str, short_help: str | None = None) -> Callable[[Command], Command]:
    """Registers a command that calls the admin API, with the options that all of these share.

    Its parameter `api` stands for --url, --admin-key and --json; a parameter `limits` for the options of _LIMITS.
    """

    def register(command: Command) -> Command:
        parameters = inspect.signature(command).parameters
        shared = [*(_LIMIT_PARAMETERS if "limits" in parameters else ()), *_API_PARAMETERS]

        def run(**arguments: object) -> None:
            api = AdminApi(str(arguments.pop("url")), str(arguments.pop("admin_key")), bool(arguments.pop("json")))
            if "limits" in parameters:
                arguments["limits"] = _limits_document({limit: arguments.pop(limit) for limit in _LIMITS})
            command(api=api, **arguments)

        own = [parameter for parameter in parameters.values() if parameter.name not in {"api", "limits"}]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined] # typer reads it
        run.__doc__ = command.__doc__
        app.command(name, short_help=short_help)(run)
        return command

    return register


Tags = Annotated[
    list[str] | None,
    typer.Option("--tag", metavar="KEY=VALUE", help="A tag of all its requests; repeatable. KEY= removes one."),
]


def tags_document(tags: list[str] | None) -> Document:
    """Builds the merge patch of tags that were given. Raises: typer.BadParameter."""
    patch: Document = {}
    for tag in tags or ():
        name, equals, value = tag.partition("=")
        if not equals:
            raise typer.BadParameter("expected KEY=VALUE, as feature=shop", param_hint="--tag")
        patch[name] = value or None
    return patch


def about_fields(document: Document) -> list[tuple[str, object]]:
    """Returns names and values of what a tenant or key says about itself; those that are set."""
    alerts = document.get("alerts")
    percents, to = (alerts.get("percent"), alerts.get("to")) if isinstance(alerts, dict) else (None, None)
    tags, required = document.get("tags"), document.get("required_tags")
    lines: list[tuple[str, object]] = [
        (name.replace("_", " "), document.get(name) or None) for name in ("owner", "contact", "cost_centre", "role")
    ]
    pairs = [f"{name}={value}" for name, value in tags.items()] if isinstance(tags, dict) else []
    lines += [
        (name, ", ".join(map(str, values)) if isinstance(values, list) and values else None)
        for name, values in (
            ("tags", pairs),
            ("required tags", required),
            ("alerts at percent", percents),
            ("alerts to", to),
        )
    ]
    return lines


def limit_fields(document: Document) -> list[tuple[str, object]]:
    """Returns names and values of limits and quotas, then their current usage."""
    lines: list[tuple[str, object]] = []
    for part, prefix in (("limits", ""), ("quotas", ""), ("used", "used: ")):
        if part == "used" and not lines:
            lines = [("limits", "none")]
        values = document.get(part)
        for name, value in values.items() if isinstance(values, dict) else ():
            lines.append((prefix + name.replace("_", " ").replace("usd", "US dollars"), str(value)))
    return lines


def _limits_document(limits: Mapping[str, object]) -> Document:
    """Builds the admin API's fields of the limits that were set."""
    given = {name: _read_limit(name, text) for name, text in limits.items() if isinstance(text, str)}
    quotas = {name: value for name, value in given.items() if name in _QUOTAS}
    parts: Document = {"quotas": quotas, "limits": {name: given[name] for name in given if name not in _QUOTAS}}
    return {name: part for name, part in parts.items() if part}


def _read_limit(name: str, text: str) -> int | str | None:
    """Raises: typer.BadParameter."""
    if text == _NONE:
        return None
    if name in _MONEY:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text):
            raise typer.BadParameter("expected US dollars with up to six decimals, as 50.00, or 'none'")
        return text
    if not re.fullmatch(r"[0-9]{1,10}", text) or int(text) > _LIMIT_MAX:
        raise typer.BadParameter(f"expected an integer from 0 to {_LIMIT_MAX}, or 'none'")
    return int(text)


def _check_limit(parameter: typer.CallbackParam, text: str | None) -> str | None:
    if text is not None:
        _read_limit(str(parameter.name), text)
    return text


def _parameter(name: str, default: object, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _limit_option(name: str, what: str) -> object:
    metavar, text = "USD" if name in _MONEY else "N", f"{what}; 'none' for no limit."
    return Annotated[str | None, typer.Option(metavar=metavar, callback=_check_limit, help=text, show_default=False)]


_LIMIT_PARAMETERS: Final = tuple(_parameter(name, None, _limit_option(name, what)) for name, what in _LIMITS.items())
_API_PARAMETERS: Final = (
    _parameter("url", DEFAULT_URL, UrlOption),
    _parameter("admin_key", "", AdminKeyOption),
    _parameter("json", False, _JsonOption),
)
