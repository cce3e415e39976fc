"""Client of the admin API."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlencode

from gateway.cli.output import fail, print_json, printable

if TYPE_CHECKING:
    import ssl

    import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8081"
_TIMEOUT_S: Final = 30.0
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Hosts called without the proxies of the environment, which would see the admin key."""

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class AdminApi:
    """The admin API at the address and with the key of a command's options."""

    url: str
    admin_key: str
    json: bool

    def ask(
        self, method: str, *path: str, body: Document | None = None, query: Mapping[str, object] | None = None
    ) -> Document:
        """Sends one request. An error ends the command with one line on standard error."""
        import httpx

        if not self.admin_key:
            fail("no admin key; use --admin-key or set IMAGEGATE_ADMIN_KEY")
        target = "".join("/" + quote(part, safe="") for part in path) + (f"?{urlencode(query)}" if query else "")
        try:
            url = httpx.URL(
                f"{self.url.rstrip('/').removesuffix('/v1')}/admin/v1{target}"
            )  # a URL for OpenAI clients ends in /v1
            response = httpx.request(
                method,
                url,
                json=body,
                headers={"authorization": f"Bearer {self.admin_key}"},
                timeout=_TIMEOUT_S,
                trust_env=url.host not in _LOCAL,
                verify=_trusted() if url.scheme == "https" else True,
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
            was_sent = isinstance(error, httpx.TransportError) and not isinstance(error, not_sent)
            if was_sent and method != "GET":
                fail(
                    f"the gateway at {self.url} does not respond ({error}); the change may have been made: "
                    "before you repeat it, search for it with `imagegate audit`"
                )
            fail(f"the gateway at {self.url} does not respond ({error}); check --url")
        return self._read(response)

    def _read(self, response: "httpx.Response") -> Document:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            fail(f"{self.url} is not a gateway: HTTP {response.status_code} without a JSON object; check --url")
        if response.status_code == 401:
            fail("the gateway rejected the admin key; check --admin-key or IMAGEGATE_ADMIN_KEY")
        if not response.is_success:
            error = body.get("error")
            if isinstance(error, dict) and error.get("code") == "unknown_url":
                fail(f"{self.url} has no admin API; use the port of [admin] port in --url")
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
