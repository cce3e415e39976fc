"""The admin API as the commands speak to it."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.cli.output import fail, printable

if TYPE_CHECKING:
    import ssl

UrlOption = Annotated[
    str, typer.Option("--url", envvar="IMAGEGATE_URL", help="The address of the admin API.", show_default=True)
]
AdminKeyOption = Annotated[
    str,
    typer.Option(
        "--admin-key",
        envvar="IMAGEGATE_ADMIN_KEY",
        help="The admin key; other users see it in the list of processes, so prefer the variable.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the API's answer.")]
DEFAULT_URL: Final = "http://127.0.0.1:8081"

_TIMEOUT_S: Final = 30.0

Document = dict[str, object]


def ask(url: str, admin_key: str, method: str, path: str, body: Document | None = None) -> Document:
    """One call of the admin API; a refusal or failure ends the command with one clear line."""
    import httpx

    if not admin_key:
        fail("no admin key; give --admin-key or set IMAGEGATE_ADMIN_KEY")
    try:
        response = httpx.request(
            method,
            f"{url.rstrip('/').removesuffix('/v1')}/admin/v1{path}",  # clients of OpenAI know it with /v1
            json=body,
            headers={"authorization": f"Bearer {admin_key}"},
            timeout=_TIMEOUT_S,
            trust_env=not _is_local(url),
            verify=_trusted() if url.startswith("https:") else True,
        )
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        not_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
        was_sent = isinstance(error, httpx.TransportError) and not isinstance(error, not_sent)
        if was_sent and method != "GET":
            fail(
                f"the gateway at {url} does not answer ({error}); the change may have been carried out: before you "
                "repeat it, look for it with `imagegate audit`"
            )
        fail(f"the gateway at {url} does not answer ({error}); check --url")
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        fail(f"{url} is no gateway: it answered HTTP {response.status_code} without a JSON object; check --url")
    if response.status_code == 401:
        fail("the gateway refuses the admin key; check --admin-key or IMAGEGATE_ADMIN_KEY")
    if not response.is_success:
        refusal = answer.get("error")
        if isinstance(refusal, dict) and refusal.get("code") == "unknown_url":
            fail(f"{url} has no admin API; has it a port of its own ([admin] port)? check --url")
        fail(printable(str(refusal.get("message"))) if isinstance(refusal, dict) else f"HTTP {response.status_code}")
    return answer


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
