"""Secrets stay inside: planted ones are looked for in all that a real process logs and answers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import redis

from tests.api.echoing import ECHOES, echoing
from tests.support.harness import Gateway, Simulator, admin, new_key, serving, wait_until
from tests.support.servers import free_port

pytestmark = pytest.mark.slow

ADMIN_CANARY: Final = "admin-secret-for-tests"
CANARIES: Final = {
    "SECRET_A": "canaryupstreamalpha-1",
    "SECRET_B": "deadcanaryupstream-2",
    "SECRET_C": "brokecanaryupstream-3",
    "SECRET_D": "windowcanaryupstream-4",
    "SECRET_E": "canaryofthelastaccount-5",
    "SECRET_PEPPER": "canarypepperofthehashes",
    "ADMIN_KEY": ADMIN_CANARY,
    "SECRET_ADMIN_TWO": "canarysecondadmin",
    "SECRET_TENANT": "sk-ig-canarykey0canarysecretofadeclaredtenant000",
}
HEADERS: Final = {
    "cookie": "session=canarycookieofabrowser",
    "x-api-key": "canaryxapikeyofaclient",
    "api-key": "canaryapikeyofaclient",
    "proxy-authorization": "Basic canaryproxyauthorization",
    "x-forwarded-authorization": "Bearer canaryforwardedauthorization",
    "user-agent": "canaryuseragent-of-a-client",
    "referer": "https://example.org/?token=canaryrefererofapage",
    "traceparent": "canarytraceparent-of-a-client",
    "tracestate": "canarytracestate=of-a-client",
}
"""What clients send besides, and nobody needs."""
HEADER_CANARIES: Final = [value[-16:] for value in HEADERS.values()]
PROMPT: Final = "canaryprompt of a private picture"

FAULTS: Final = (
    *(f"[code={code}]" for code in (1000, 1001, 1002, 1004, 1008, 1013, 1024, 1026, 1027, 1033, 1039, 1041, 1042)),
    *(f"[code={code}]" for code in (2013, 2038, 2045, 2049, 2054, 2056, 2061, 99999, 1400010161)),
    *(f"[code=-{code}]" for code in (*range(10001, 10019), 1024, 99)),
    *(f"[http={status}]" for status in (400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504)),
    "[garbage]",
    "[empty]",
    "[cut]",
    "[hang]",
    "[fail=1]",
    "",
)


TOLD: Final = (
    *("/tenants", "/tenants/acme", "/tenants/acme/keys", "/tenants/declared/keys", "/pool", "/audit"),
    *("/overview", "/refusals", "/configuration"),
    *("/usage", "/usage?format=csv", "/usage/records", "/usage/records?format=csv", "/usage/verify"),
)
"""What the admin API reads out."""


@contextmanager
def running(
    directory: Path, redis_url: str, base_url: str, provider: str, log_format: str
) -> Iterator[tuple[str, Path]]:
    """`imagegate serve` as a process of its own; yields its address and the file of its standard error."""
    accounts = "".join(
        f'[[upstreams.accounts]]\nname = "{name.lower()}"\n'
        f'[[upstreams.accounts.keys]]\nname = "{name.lower()}-1"\nsecret = {{ env = "SECRET_{name}" }}\n'
        for name in "ABCDE"
    )
    model = {"302ai": "minimaxi-image-01", "minimax": "image-01"}[provider]
    config = directory / "imagegate.toml"
    config.write_text(
        f'[server]\nport = 0\n[redis]\nurl = "{redis_url}"\n'
        f'[metrics]\nport = 0\n[admin]\nport = 0\nkey = {{ env = "ADMIN_KEY" }}\n'
        f'[api_keys]\nhash_pepper = {{ env = "SECRET_PEPPER" }}\n[logs]\nformat = "{log_format}"\nlevel = "debug"\n'
        f"[requests]\ncall_timeout_s = 0.5\nmax_attempts = 10\n"
        f'[[upstreams]]\nname = "sim"\nprovider = "{provider}"\n'
        f'base_url = "{base_url}"\nresult_hosts = ["{base_url}"]\n'
        f"max_wait_s = 0\n"
        f"{accounts}"
        f'[[models]]\nid = "image-01"\naliases = ["dall-e-3"]\nprice_per_image_usd = "0.0035"\n'
        f'[[models.targets]]\nupstream = "sim"\nmodel = "{model}"\n'
        f'[[admin.keys]]\nname = "two"\nsecret = {{ env = "SECRET_ADMIN_TWO" }}\n'
        f'[[tenants]]\nname = "declared"\n[[tenants.keys]]\nsecret = {{ env = "SECRET_TENANT" }}\n'
    )
    log = directory / "stderr.log"
    with httpx.Client() as client, log.open("wb") as stderr:
        port = free_port()
        command = [sys.executable, "-m", "gateway", "serve", "--config", str(config), "--port", str(port)]
        process = subprocess.Popen(command, stdout=stderr, stderr=stderr, env=os.environ | CANARIES)
        try:
            wait_until(lambda: is_alive(client, port), "imagegate serve answers")
            yield f"http://127.0.0.1:{port}", log
        finally:
            process.terminate()
            process.wait(20)


def is_alive(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def rest_no_more(redis_url: str) -> None:
    """Wake every upstream key, so that the next fault is met and not a resting pool."""
    with redis.Redis.from_url(redis_url) as client:
        for name in client.keys("ig3:{pool:*"):
            client.delete(name)


def collect(url: str, redis_url: str, secrets: list[str]) -> str:
    """Every answer that the gateway gives, to every fault that the simulator can make."""
    key = new_key(url)
    secrets.append(key)
    gateway = Gateway(url, key)
    answers = []
    for error_code in FAULTS:
        rest_no_more(redis_url)
        answers.append(gateway.generate(prompt=f"{PROMPT} {error_code}", model="dall-e-3"))
        answers.append(gateway.post("/v1/image_generation", {"model": "image-01", "prompt": f"{PROMPT} {error_code}"}))
    for secret in (ADMIN_CANARY, CANARIES["SECRET_A"], key[:-1] + "0", key):
        answers.append(httpx.get(f"{url}/v1/nope", headers={"authorization": f"Bearer {secret}"}))
        answers.append(httpx.get(f"{url}/admin/v1/pool", headers={"authorization": f"Bearer {secret}x"}))
    answers.append(gateway.post("/v1/images/generations", b"{"))
    answers += [admin(url, "GET", path) for path in TOLD]
    answers += [httpx.get(url + path) for path in ("/metrics", "/readyz", "/openapi.json")]
    answers += strangers(url, key)
    assert [] == [answer.status_code for answer in answers if answer.status_code == 500]
    assert {200, 400, 401, 404, 503} <= {answer.status_code for answer in answers}
    return "\n".join(f"{dict(answer.headers)} {answer.text}" for answer in answers)


def strangers(url: str, key: str) -> list[httpx.Response]:
    """Requests with credentials where none belong, refused and served ones."""
    held = {"authorization": f"Bearer {key}"}
    told = [
        httpx.get(f"{url}{path}?token={key}&key={CANARIES['SECRET_A']}", headers=headers)
        for headers in (HEADERS, HEADERS | held, HEADERS | {"authorization": f"Basic {key}"})
        for path in ("/v1/models", "/v1/nope", "/healthz", "/admin/v1/tenants")
    ]
    body = {"prompt": PROMPT, "model": "dall-e-3"}
    told.append(httpx.post(f"{url}/v1/images/generations", json=body, headers=HEADERS | held, timeout=30))
    return told


def leaks(text: str, secrets: list[str]) -> list[str]:
    """The planted secrets that a text holds, whole or in large part."""
    return [secret for secret in secrets if secret in text or secret[-16:] in text]


def check_nothing_leaked(answers: str, log: Path, secrets: list[str]) -> None:
    logged = log.read_text("utf-8")
    assert "upstream_call_failed" in logged
    assert [] == leaks(answers, secrets)
    assert [] == leaks(logged, [*secrets, *HEADER_CANARIES, PROMPT])
    assert [] == leaks(answers, HEADER_CANARIES)
    assert [] == [word for word in ("Traceback", "b64_json", "image_base64", "Bearer ") if word in logged]


@pytest.mark.parametrize("log_format", ["json", pytest.param("console", marks=pytest.mark.slow)])
@pytest.mark.parametrize("provider", ["minimax", "302ai"])
def test_no_fault_shows_a_secret(
    tmp_path: Path, redis_url: str, simulator: Simulator, provider: str, log_format: str
) -> None:
    secrets = list(CANARIES.values())
    with running(tmp_path, redis_url, simulator.url, provider, log_format) as (url, log):
        answers = collect(url, redis_url, secrets)
    check_nothing_leaked(answers, log, secrets)
    if log_format == "json":
        lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        fingerprints = {line["key"] for line in lines if line["event"] == "upstream_call_failed"}
        assert fingerprints
        assert all(fingerprint.startswith("fp-") for fingerprint in fingerprints)


def ask_everywhere(url: str, redis_url: str, secrets: list[str]) -> str:
    """Every kind of answer of such an upstream, on both wires and to probes; and all that is told afterwards."""
    secrets.append(key := new_key(url))
    gateway = Gateway(url, key)
    answers = []
    for delivery, native in (("b64_json", "base64"), ("url", "url")):
        for _ in ECHOES:
            rest_no_more(redis_url)
            body = {"prompt": PROMPT, "model": "dall-e-3", "response_format": delivery}
            answers.append(gateway.post("/v1/images/generations", body))
            body = {"model": "image-01", "prompt": PROMPT, "response_format": native}
            answers.append(gateway.post("/v1/image_generation", body))
    answers += [admin(url, "POST", "/pool/sim/a/a-1/probe") for _ in ECHOES]
    answers += [admin(url, "GET", path) for path in TOLD]
    answers.append(httpx.get(f"{url}/metrics"))
    assert {200, 502} <= {answer.status_code for answer in answers}
    return "\n".join(f"{dict(answer.headers)} {answer.text}" for answer in answers)


@pytest.mark.parametrize("provider", ["minimax", "302ai"])
def test_an_upstream_that_repeats_what_it_is_sent_gets_it_no_further(
    tmp_path: Path, redis_url: str, provider: str
) -> None:
    """Its words go into the log for operators, its links and ids to the tenant: with neither keys nor prompts."""
    secrets = list(CANARIES.values())
    with serving(echoing()) as base_url, running(tmp_path, redis_url, base_url, provider, "json") as (url, log):
        answers = ask_everywhere(url, redis_url, secrets)
    logged = log.read_text("utf-8")
    upstream = [secret for name, secret in CANARIES.items() if name in {f"SECRET_{letter}" for letter in "ABCDE"}]
    assert [] == leaks(answers, secrets)
    assert [] == leaks(logged, [*secrets, PROMPT])
    assert [] == [secret for secret in upstream if secret[:12] in answers + logged]
    assert "<request>" in logged
    assert "<secret fp-" in logged
