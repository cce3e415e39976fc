"""The server under test, over plain HTTP. Keeps every answer, for the checks that judge them all."""

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
WRONG_KEY: Final = "sk-conformance-0123456789abcdef-wrong"
_PATIENCE: Final = 2
"""How often a request that is refused for its rate is sent again, after the pause that the server asks for."""
_PAUSE_MAX_S: Final = 60.0
"""OpenAI's SDKs wait no longer (reference/openai-images.md 6.3)."""
_SILENCES_MAX: Final = 2
"""Requests to one address that got no answer in time, after which it is not asked again: a run must end."""
_LINK_BYTES_MAX: Final = 64 * 2**20


class Server:
    """Requests to one base URL, and the answers to them."""

    def __init__(self, base_url: str, key: str, timeout_s: float, sleep: Callable[[float], None] = time.sleep) -> None:
        self.base_url = base_url
        self.key = key
        self.timeout_s = timeout_s
        self._sleep = sleep
        self.trusted = httpx.create_ssl_context(trust_env=False)
        self.trusted.load_default_certs()  # and this machine's: an organisation's own authority, SSL_CERT_FILE
        self._client = httpx.Client(timeout=timeout_s, trust_env=self.trusts_environment, verify=self.trusted)
        self._answers: list[Answer] = []
        self._silences: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def trusts_environment(self) -> bool:
        """Whether a proxy of the environment may see the requests, and the key in them."""
        return urlsplit(self.base_url).hostname not in {"localhost", "127.0.0.1", "::1"}

    @property
    def answers(self) -> tuple[Answer, ...]:
        """All so far."""
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
        """One request, with the key unless another `authorization`, or None, is given; `body` as httpx takes it.

        Raises: UntriedError without an answer, BrokenError where the server hung up instead of answering.
        """
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if authorization is not None:
            sent["authorization"] = authorization or f"Bearer {self.key}"
        return self.patiently(lambda: self.keep(self._send_once(method, path, sent, body)))

    def patiently(self, ask: Callable[[], Answer]) -> Answer:
        """Ask again after the pause that a busy server wants, a few times."""
        answer = ask()
        for _ in range(_PATIENCE):
            pause_s = _pause_s(answer)
            if pause_s is None:
                break
            self._sleep(pause_s)
            answer = ask()
        return answer

    def expect_answer(self, request: str) -> None:
        """Raises: UntriedError where the address has been silent before."""
        if self._silences[request] >= _SILENCES_MAX:
            raise UntriedError(f"{request}: no answer {_SILENCES_MAX} times; it is not asked again")

    def note_silence(self, request: str) -> UntriedError:
        """What to raise of a request that got no answer in time."""
        self._silences[request] += 1
        return UntriedError(f"{request}: no answer within {self.timeout_s:g} s")

    def _send_once(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, object]) -> Answer:
        request = f"{method} {path}"
        self.expect_answer(request)
        try:
            built = self._client.build_request(method, self.base_url + path, headers=headers, **body)  # type: ignore[arg-type] # what httpx takes
            response = self._client.send(built, stream=True)
            # Before the body is read: after it the connection may be closed, and tells no port.
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
        """A link of an answer, without the key. Raises: BrokenError."""
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
        """Text of a report without the keys that were sent."""
        return without_secrets(text, self.key, WRONG_KEY)


def _port(response: httpx.Response) -> object:
    stream = response.extensions.get("network_stream")
    return None if stream is None else stream.get_extra_info("client_addr")


def _pause_s(answer: Answer) -> float | None:
    """How long a busy server asks to wait; None where it is not busy, or does not say."""
    if answer.status != 429 or answer.headers.get("x-should-retry") == "false":
        return None
    try:
        asked_s = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None
    return asked_s if 0 <= asked_s <= _PAUSE_MAX_S else None
