"""Client of the admin API."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.cli.output import fail, print_json, printable

if TYPE_CHECKING:
    import ssl

    import httpx

DEFAULT_URL: Final = "http://127.0.0.1:8081"

_TIMEOUT_S: Final = 30.0

Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class AdminApi:
    """The admin API, as the options of a command address it."""

    url: str
    admin_key: str
    json: bool

    def ask(self, method: str, path: str, body: Document | None = None) -> Document:
        """Sends one request; an error ends the command with one line on standard error."""
        import httpx

        if not self.admin_key:
            fail("no admin key; give --admin-key or set IMAGEGATE_ADMIN_KEY")
        try:
            response = httpx.request(
                method,
                f"{self.url.rstrip('/').removesuffix('/v1')}/admin/v1{path}",  # clients of OpenAI know it with /v1
                json=body,
                headers={"authorization": f"Bearer {self.admin_key}"},
                timeout=_TIMEOUT_S,
                trust_env=not _is_local(self.url),
                verify=_trusted() if self.url.startswith("https:") else True,
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
            was_sent = isinstance(error, httpx.TransportError) and not isinstance(error, not_sent)
            if was_sent and method != "GET":
                fail(
                    f"the gateway at {self.url} does not answer ({error}); the change may have been carried out: "
                    "before you repeat it, look for it with `imagegate audit`"
                )
            fail(f"the gateway at {self.url} does not answer ({error}); check --url")
        return self._read(response)

    def _read(self, response: "httpx.Response") -> Document:
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            fail(
                f"{self.url} is no gateway: it answered HTTP {response.status_code} without a JSON object; check --url"
            )
        if response.status_code == 401:
            fail("the gateway refuses the admin key; check --admin-key or IMAGEGATE_ADMIN_KEY")
        if not response.is_success:
            refusal = answer.get("error")
            if isinstance(refusal, dict) and refusal.get("code") == "unknown_url":
                fail(f"{self.url} has no admin API; has it a port of its own ([admin] port)? check --url")
            fail(
                printable(str(refusal.get("message"))) if isinstance(refusal, dict) else f"HTTP {response.status_code}"
            )
        return answer

    def show(self, answer: Document, render: Callable[[Document], None]) -> None:
        """Prints an answer as JSON with --json, else what `render` prints of it."""
        if self.json:
            print_json(answer)
        else:
            render(answer)


def _trusted() -> "ssl.SSLContext":
    """What httpx trusts, and this machine: an organisation's own authority, SSL_CERT_FILE."""
    import httpx

    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def _is_local(url: str) -> bool:
    """Whether a proxy of the environment must not see the call, nor the admin key in it."""
    import httpx

    return httpx.URL(url).host in {"localhost", "127.0.0.1", "::1"}


def rows(answer: Document, name: str = "data") -> list[Document]:
    """The items of a list in an answer."""
    data = answer.get(name)
    return [item for item in data if isinstance(item, dict)] if isinstance(data, list) else []
