"""The server under test, over plain HTTP. Records every response for the checks of all responses."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import httpx

from gateway.testing.conformance.checks import BrokenError, UntriedError
from gateway.testing.conformance.responses import Answer, without_secrets

GENERATIONS: Final = "/images/generations"
EDITS: Final = "/images/edits"
WRONG_KEY: Final = "sk-conformance-0123456789abcdef-wrong"
_PATIENCE: Final = 2
"""Retries of a rate-limited request, each after the requested pause."""
_PAUSE_MAX_S: Final = 60.0
"""OpenAI's SDKs wait no longer (reference/openai-images.md 6.3)."""
_SILENCES_MAX: Final = 2
"""Timeouts of one address after which it is skipped, so that a run ends."""
_LINK_BYTES_MAX: Final = 64 * 2**20


class Server:
    """Sends requests to one base URL and records the responses."""

    def __init__(self, base_url: str, key: str, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self.base_url = base_url
        self.key = key
        self.timeout_s = timeout_s
        self._sleep = sleep
        self.trusted = httpx.create_ssl_context(trust_env=False)
        self.trusted.load_default_certs()  # and the machine's: an organisation's own CA, SSL_CERT_FILE
        self._client = httpx.Client(timeout=timeout_s, trust_env=self.trusts_environment, verify=self.trusted)
        self._answers: list[Answer] = []
        self._silences: Counter[str] = Counter()
        self._remembered: dict[str, Answer | BrokenError | UntriedError] = {}
        self._lock = threading.Lock()

    @property
    def trusts_environment(self) -> bool:
        """True if a proxy of the environment may see the requests and their API key."""
        return urlsplit(self.base_url).hostname not in {"localhost", "127.0.0.1", "::1"}

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All responses so far."""
        with self._lock:
            return tuple(self._answers)

    def keep(self, answer: Answer) -> Answer:
        with self._lock:
            self._answers.append(answer)
        return answer

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def generate(self, body: object) -> Answer:
        return self.send("POST", GENERATIONS, json=body)

    def send(
        self,
        method: str,
        path: str,
        *,
        authorization: str | None = "",
        headers: Mapping[str, str] | None = None,
        **body: object,
    ) -> Answer:
        """Sends one request, with the API key unless `authorization` is set or None; `body` as httpx takes it.

        Raises: UntriedError without a response, BrokenError if the server closed the connection.
        """
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if authorization is not None:
            sent["authorization"] = authorization or f"Bearer {self.key}"
        return self.patiently(lambda: self.keep(self._send_once(method, path, sent, body)))

    def remember(self, name: str, ask: Callable[[], Answer]) -> Answer:
        """Asks once for each name. Raises: as `send`, and the same again when repeated."""
        if name not in self._remembered:
            try:
                self._remembered[name] = ask()
            except (BrokenError, UntriedError) as error:
                self._remembered[name] = error
        met = self._remembered[name]
        if isinstance(met, Exception):
            raise met
        return met

    def patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Repeats a request a few times after the pause that a busy server requests."""
        answer = ask()
        for _ in range(_PATIENCE):
            pause_s = _pause_s(answer)
            if pause_s is None:
                break
            self._sleep(pause_s)
            answer = ask()
        return answer

    def expect_answer(self, request: str) -> None:
        """Raises: UntriedError if the address has timed out before."""
        if self._silences[request] >= _SILENCES_MAX:
            raise UntriedError(f"{request}: no answer {_SILENCES_MAX} times; it is not asked again")

    def note_silence(self, request: str) -> UntriedError:
        """Returns the exception for a request that timed out."""
        self._silences[request] += 1
        return UntriedError(f"{request}: no answer within {self.timeout_s:g} s")

    def _send_once(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, object]) -> Answer:
        request = f"{method} {path}"
        self.expect_answer(request)
        try:
            built = self._client.build_request(method, self.base_url + path, headers=headers, **body)  # type: ignore[arg-type] # what httpx takes
            response = self._client.send(built, stream=True)
            # Before the body is read: afterwards the connection may be closed and have no port.
            port = _port(response)
            response.read()
            response.close()
        except httpx.TimeoutException as error:
            raise self.note_silence(request) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            raise BrokenError(f"{request}: the connection was closed without an answer") from error
        except httpx.DecodingError as error:
            raise BrokenError(f"{request}: the body is not in its content-encoding") from error
        except httpx.HTTPError as error:
            raise UntriedError(f"{request}: {error}") from error
        return Answer(request, response.status_code, dict(response.headers), response.content, port)

    def fetch(self, url: str) -> Answer:
        """Fetches a link of a response, without the key. Raises: BrokenError."""
        request = f"GET of the link at {urlsplit(url).netloc}"
        content = bytearray()
        try:
            with self._client.stream("GET", url) as response:
                for part in response.iter_bytes():
                    content += part
                    if len(content) > _LINK_BYTES_MAX:
                        break
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise BrokenError(f"{request}: {str(error) or type(error).__name__}") from error
        return Answer(request, response.status_code, dict(response.headers), bytes(content))

    def safe(self, text: str) -> str:
        """Removes the sent keys from a report's text."""
        return without_secrets(text, self.key, WRONG_KEY)


def _port(response: httpx.Response) -> object:
    stream = response.extensions.get("network_stream")
    return None if stream is None else stream.get_extra_info("client_addr")


def _pause_s(answer: Answer) -> float | None:
    """Returns the pause that a busy server requests; None if it is not busy or names none."""
    if answer.status != 429 or answer.headers.get("x-should-retry") == "false":
        return None
    try:
        asked_s = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None
    return asked_s if 0 <= asked_s <= _PAUSE_MAX_S else None
