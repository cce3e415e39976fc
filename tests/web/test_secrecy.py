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
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.harness import Gateway, Simulator, admin, new_key, serving, wait_until

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


async def tell_everything(request: Request) -> Response:
    """An upstream that repeats the key it was given, as some do."""
    key = request.headers["authorization"]
    return JSONResponse({"base_resp": {"status_code": 1004, "status_msg": f"login fail: bad key {key}"}})


async def tell_everything_302(request: Request) -> Response:
    key = request.headers["authorization"]
    return JSONResponse({"error": {"err_code": -10005, "message": f"expired: {key}", "type": "api_error"}}, 401)


@contextmanager
def running(
    directory: Path, redis_url: str, base_url: str, dialect: str, log_format: str
) -> Iterator[tuple[str, Path]]:
    """`imagegate serve` as a process of its own; yields its address and the file of its standard error."""
    accounts = "".join(
        f'[[upstreams.accounts]]\nname = "{name.lower()}"\n'
        f'[[upstreams.accounts.keys]]\nname = "{name.lower()}-1"\nsecret = {{ env = "SECRET_{name}" }}\n'
        for name in "ABCDE"
    )
    model = {"302ai": "minimaxi-image-01", "minimax": "image-01"}[dialect]
    config = directory / "imagegate.toml"
    config.write_text(
        f'[server]\nport = 0\n[redis]\nurl = "{redis_url}"\n[admin]\nkey = {{ env = "ADMIN_KEY" }}\n'
        f'[keys]\npepper = {{ env = "SECRET_PEPPER" }}\n[logs]\nformat = "{log_format}"\nlevel = "debug"\n'
        f"[requests]\ncall_timeout_s = 0.5\nmax_attempts = 10\n"
        f'[[upstreams]]\nname = "sim"\ndialect = "{dialect}"\nbase_url = "{base_url}"\nresult_hosts = ["{base_url}"]\n'
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


def free_port() -> int:
    import socket  # noqa: PLC0415 - only here

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_alive(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.TransportError:
        return False


def rest_no_more(redis_url: str) -> None:
    """Wake every upstream key, so that the next fault is met and not a resting pool."""
    with redis.Redis.from_url(redis_url) as client:
        for name in client.keys("ig2:{pool:*"):
            client.delete(name)


def collect(url: str, redis_url: str, secrets: list[str]) -> str:
    """Every answer that the gateway gives, to every fault that the simulator can make."""
    key = new_key(url)
    secrets.append(key)
    gateway = Gateway(url, key)
    answers = []
    for fault in FAULTS:
        rest_no_more(redis_url)
        answers.append(gateway.generate(prompt=f"{PROMPT} {fault}", model="dall-e-3"))
        answers.append(gateway.post("/v1/image_generation", {"model": "image-01", "prompt": f"{PROMPT} {fault}"}))
    for secret in (ADMIN_CANARY, CANARIES["SECRET_A"], key[:-1] + "0", key):
        answers.append(httpx.get(f"{url}/v1/nope", headers={"authorization": f"Bearer {secret}"}))
        answers.append(httpx.get(f"{url}/admin/v1/pool", headers={"authorization": f"Bearer {secret}x"}))
    answers.append(gateway.post("/v1/images/generations", b"{"))
    answers += [
        admin(url, "GET", path)
        for path in ("/tenants", "/tenants/acme", "/tenants/acme/keys", "/tenants/declared/keys", "/pool", "/audit")
    ]
    answers += [httpx.get(url + path) for path in ("/metrics", "/readyz", "/openapi.json")]
    assert [] == [answer.status_code for answer in answers if answer.status_code == 500]
    assert {200, 400, 401, 404, 503} <= {answer.status_code for answer in answers}
    return "\n".join(f"{dict(answer.headers)} {answer.text}" for answer in answers)


def leaks(text: str, secrets: list[str]) -> list[str]:
    """The planted secrets that a text holds, whole or in large part."""
    return [secret for secret in secrets if secret in text or secret[-16:] in text]


def check_nothing_leaked(answers: str, log: Path, secrets: list[str]) -> None:
    logged = log.read_text("utf-8")
    assert "upstream_call_failed" in logged
    assert [] == leaks(answers, secrets)
    assert [] == leaks(logged, [*secrets, PROMPT])
    assert [] == [word for word in ("Traceback", "b64_json", "image_base64", "Bearer ") if word in logged]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("dialect", ["minimax", "302ai"])
def test_no_fault_shows_a_secret(
    tmp_path: Path, redis_url: str, simulator: Simulator, dialect: str, log_format: str
) -> None:
    secrets = list(CANARIES.values())
    with running(tmp_path, redis_url, simulator.url, dialect, log_format) as (url, log):
        answers = collect(url, redis_url, secrets)
    check_nothing_leaked(answers, log, secrets)
    if log_format == "json":
        lines: list[dict[str, Any]] = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
        fingerprints = {line["key"] for line in lines if line["event"] == "upstream_call_failed"}
        assert fingerprints
        assert all(fingerprint.startswith("fp-") for fingerprint in fingerprints)


@pytest.mark.parametrize(
    ("dialect", "path", "tell"),
    [
        ("minimax", "/v1/image_generation", tell_everything),
        ("302ai", "/minimaxi/v1/image_generation", tell_everything_302),
    ],
)
def test_an_upstream_that_repeats_the_key_does_not_get_it_into_a_log(
    tmp_path: Path, redis_url: str, dialect: str, path: str, tell: Any
) -> None:
    """Upstream text is outside data: it goes to the log for operators, and a key may be in it."""
    secrets = list(CANARIES.values())
    upstream = Starlette(routes=[Route(path, tell, methods=["POST"])])
    with serving(upstream) as base_url, running(tmp_path, redis_url, base_url, dialect, "json") as (url, log):
        secrets.append(key := new_key(url))
        answer = Gateway(url, key).generate(prompt=PROMPT)
        assert 503 == answer.status_code
    assert [] == leaks(answer.text, secrets)
    assert [] == leaks(log.read_text("utf-8"), secrets)
