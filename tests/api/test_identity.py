"""Which requests are the same: those with the same format and effective parameters."""

import hashlib
from typing import Any, Final

import pytest
from starlette.requests import Request

from gateway.api.fields import Generation
from gateway.api.identity import identify
from gateway.api.openai import OpenAIOptions, parse_generation
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.domain.billing import OrderIdentity, Repetition
from gateway.domain.tenants import ApiKey, Principal, Tenant
from tests.support.harness import document, environment, upstream

pytestmark = pytest.mark.anyio

CONFIGURED: Final = document("redis://localhost:1", upstream("sim", "minimax", "http://127.0.0.1:1"))
CALLER: Final = Principal(Tenant("acme"), ApiKey("key0000001", "acme", "", 1))
PATH: Final = "/v1/images/generations"


async def keyed_hash(text: str) -> str:
    return hashlib.sha256(b"pepper" + text.encode()).hexdigest()


def parsed(body: bytes) -> Generation:
    environ = environment(CONFIGURED)
    catalog = resolve(from_document(dict(CONFIGURED), environ, "test"), environ).catalog
    return parse_generation(body, catalog, Tenant("acme"), OpenAIOptions())


async def identity(body: bytes, caller: Principal = CALLER, **headers: str) -> OrderIdentity:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": PATH, "headers": sent, "query_string": b""}
    return await identify(Request(scope | {"server": ("x", 80), "scheme": "http"}), caller, parsed(body), keyed_hash)


@pytest.mark.parametrize(
    "other",
    [
        b'{"n": 1, "prompt": "a"}',
        b'{"prompt":"a","n":null,"size":"auto"}',
        b'{"prompt":"\\u0061","user":"u-1","quality":"high"}',
        b'{"prompt":"a","model":"image-01","stream":false}',
    ],
)
async def test_another_spelling_is_the_same_request(other: bytes) -> None:
    assert await identity(b'{"prompt":"a"}') == await identity(other)


REFERENCE: Final = b'"subject_reference":[{"type":"character","image_file":"https://x.example/%s.jpg"}]'


@pytest.mark.parametrize(
    "other",
    [
        b'{"prompt":"b"}',
        b'{"prompt":"a","n":2}',
        b'{"prompt":"a","seed":1}',
        b'{"prompt":"a","size":"1024x1024"}',
        b'{"prompt":"a","stream":true}',
        b'{"prompt":"a","response_format":"url"}',
        b'{"prompt":"a","model":"dall-e-3","response_format":"b64_json"}',
        b'{"prompt":"a","prompt_optimizer":true}',
        b'{"prompt":"a",' + REFERENCE % b"1" + b"}",
    ],
)
async def test_another_parameter_is_another_request(other: bytes) -> None:
    one, another = await identity(b'{"prompt":"a"}'), await identity(other)
    assert one.fingerprint != another.fingerprint
    assert one.name != another.name


async def test_the_input_images_are_part_of_a_request() -> None:
    bodies = [b'{"prompt":"a",' + REFERENCE % name + b"}" for name in (b"1", b"2", b"1")]
    first, second, third = [await identity(body) for body in bodies]
    assert first == third != second


async def test_large_inputs_are_hashed_too() -> None:
    names = (b"data:image/png;base64," + b"A" * 600_000 + end for end in (b"AA==", b"AQ==", b"AA=="))
    bodies = [b'{"prompt":"a",' + REFERENCE.replace(b"https://x.example/%s.jpg", name) + b"}" for name in names]
    first, second, third = [await identity(body) for body in bodies]
    assert first == third != second


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, Repetition.PLAIN),
        ({"x_stainless_retry_count": "0"}, Repetition.FIRST),
        ({"x_stainless_retry_count": "1"}, Repetition.RETRY),
        ({"x_stainless_retry_count": "12"}, Repetition.RETRY),
        ({"x_stainless_retry_count": "false"}, Repetition.PLAIN),
        ({"x_stainless_retry_count": "-1"}, Repetition.PLAIN),
        ({"x_stainless_retry_count": "1", "idempotency_key": "k"}, Repetition.KEYED),
    ],
)
async def test_the_headers_say_what_a_request_repeats(headers: dict[str, str], kind: Repetition) -> None:
    assert kind is (await identity(b'{"prompt":"a"}', CALLER, **headers)).kind


async def test_a_request_belongs_to_its_api_key_and_an_idempotency_key_to_its_tenant() -> None:
    other = Principal(Tenant("acme"), ApiKey("key0000002", "acme", "", 1))
    body = b'{"prompt":"a"}'
    assert (await identity(body)).name != (await identity(body, caller=other)).name
    keyed = [await identity(body, caller=caller, idempotency_key="k") for caller in (CALLER, other)]
    assert keyed[0] == keyed[1]


async def test_nothing_of_a_request_or_of_its_key_is_in_its_identity() -> None:
    found = str(await identity(b'{"prompt":"a secret cat"}', idempotency_key="secret-key"))
    assert "secret" not in found
    assert hashlib.sha256(b"secret-key").hexdigest() not in found
