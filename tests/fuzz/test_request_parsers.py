"""Both wires' request parsers under bodies that were real once: a job or one of the table's faults, in few steps."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.api.minimax import TEXTS, parse_native, render_native_error
from gateway.api.openai import OpenAIOptions, parse_generation
from gateway.api.openai_edits import EditFields, FileHead, parse_edit, render_texts
from gateway.api.openai_responses import render_error
from gateway.domain.accounts import make_secret
from gateway.domain.catalog import Catalog, Model, Target
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import CallPlan, ImageJob
from gateway.domain.pricing import PerImage, Price
from gateway.domain.sizes import SizePolicy
from gateway.domain.tenants import Tenant
from gateway.providers import PROVIDERS
from tests.fuzz.bodies import EDITS, NATIVE, OPENAI, bodies
from tests.fuzz.steps import count_steps
from tests.support.profile import fuzzing

_PRICES: Final = (Price(0, PerImage(3500)),)
CATALOG: Final = Catalog(
    [
        Model(name, aliases, _PRICES, (Target(upstream, spelling, PROVIDERS[upstream].capability(spelling, {})),))
        for name, aliases, upstream, spelling in (
            ("image-01", ("dall-e-3", "gpt-image-1"), "minimax", "image-01"),
            ("image-01-live", (), "minimax", "image-01-live"),
            ("relayed", (), "302ai", "minimaxi-image-01"),
        )
    ]
)
ANYONE: Final = Tenant("acme")
OWN_FAULTS: Final = frozenset(
    {
        ErrorCode.INVALID_JSON,
        ErrorCode.MISSING_PARAMETER,
        ErrorCode.UNKNOWN_PARAMETER,
        ErrorCode.INVALID_TYPE,
        ErrorCode.INVALID_VALUE,
        ErrorCode.INTEGER_BELOW_MIN,
        ErrorCode.INTEGER_ABOVE_MAX,
        ErrorCode.STRING_TOO_LONG,
        ErrorCode.EMPTY_STRING,
        ErrorCode.MODEL_UNKNOWN,
        ErrorCode.PROMPT_TOO_LONG,
    }
)
"""What a body alone can be guilty of."""
PICTURE: Final = FileHead("image", 100, b"\xff\xd8\xff\xe0" + b"\0" * 12)
TEXT_FIELDS: Final = [*EditFields.__struct_fields__, "svg[model]", "image[]"]
TEXTS_OF_FIELDS: Final = ["", "null", "true", "False", "2", "-1", "1e3", "[]", "{}", '"x"', "auto", "high", "1024x1024"]
SHOWN_MAX_CHARS: Final = 600
"""Far more than any message says, far less than a body holds."""


def parse_openai(body: bytes) -> tuple[ImageJob, Model]:
    found = parse_generation(body, CATALOG, ANYONE, OpenAIOptions())
    return found.job, found.model


def parse_openai_edit(body: bytes) -> tuple[ImageJob, Model]:
    found = parse_edit(body, CATALOG, ANYONE, OpenAIOptions())
    return found.job, found.model


def parse_minimax(body: bytes) -> tuple[ImageJob, Model]:
    found = parse_native(body, CATALOG, ANYONE, SizePolicy.NEAREST)
    return found.job, found.model


def check_openai_error(error: GatewayError) -> None:
    told = json.loads(render_error(error))["error"]
    assert {"message", "type", "param", "code"} == set(told)
    assert (error.row.type, error.row.code) == (told["type"], told["code"])
    assert 0 < len(told["message"]) < SHOWN_MAX_CHARS


def check_native_error(error: GatewayError) -> None:
    told = json.loads(render_native_error(error))["base_resp"]
    assert told["status_code"] in TEXTS
    assert 0 < len(told["status_msg"]) < SHOWN_MAX_CHARS


def check_calls(job: ImageJob, model: Model) -> None:
    """What was accepted can be sent to every target that was found fit: as JSON, with the prompt as it came."""
    targets = model.plan(job, SizePolicy.NEAREST)
    assert targets
    for target in targets:
        plan = CallPlan(target.model, 1, target.shape, job.delivery)
        body = PROVIDERS["minimax"].build_call(job, plan, make_secret("s-1")).body
        assert job.prompt == json.loads(b"".join(body))["prompt"]


def attempt(parse: Callable[[bytes], tuple[ImageJob, Model]], body: bytes) -> tuple[ImageJob, Model] | GatewayError:
    """What a parser gives, or its GatewayError; every other exception fails the test."""
    try:
        return parse(body)
    except GatewayError as error:
        return error


def check(
    parse: Callable[[bytes], tuple[ImageJob, Model]], check_error: Callable[[GatewayError], None], body: bytes
) -> None:
    outcome = attempt(parse, body)
    if isinstance(outcome, GatewayError):
        assert outcome.error_code in OWN_FAULTS
        assert outcome.row.outcome in {Outcome.NOT_SENT, Outcome.REFUSED}
        check_error(outcome)
    else:
        check_calls(*outcome)


def steps_allowed(body: bytes) -> int:
    """A parser may look at each part of a body a few times, and no more."""
    parts = body.count(b'"') + body.count(b",")
    return 2000 + 5 * parts


def check_steps(parse: Callable[[bytes], tuple[ImageJob, Model]], body: bytes) -> None:
    assert count_steps(lambda: attempt(parse, body)) <= steps_allowed(body)


@given(bodies(OPENAI))
@fuzzing(1200)
def test_openai_bodies_make_a_job_or_a_fault_of_the_caller(body: bytes) -> None:
    check(parse_openai, check_openai_error, body)


@given(bodies(EDITS))
@fuzzing(1200)
def test_bodies_of_edits_make_a_job_or_a_fault_of_the_caller(body: bytes) -> None:
    check(parse_openai_edit, check_openai_error, body)


@given(st.dictionaries(st.sampled_from(TEXT_FIELDS), st.sampled_from(TEXTS_OF_FIELDS) | st.text(max_size=40)))
@fuzzing(1200)
def test_texts_of_a_form_make_a_job_or_a_fault_of_the_caller(texts: dict[str, str]) -> None:
    def parse(body: bytes) -> tuple[ImageJob, Model]:
        found = parse_edit(body, CATALOG, ANYONE, OpenAIOptions(), files=(PICTURE,))
        return replace(found.job, inputs=()), found.model  # a file has no content yet

    check(parse, check_openai_error, render_texts(texts))


@given(bodies(NATIVE))
@fuzzing(1200)
def test_native_bodies_make_a_job_or_a_fault_of_the_caller(body: bytes) -> None:
    check(parse_minimax, check_native_error, body)


@given(bodies(OPENAI))
@fuzzing(200)
def test_openai_bodies_are_read_in_few_steps(body: bytes) -> None:
    check_steps(parse_openai, body)


@given(bodies(NATIVE))
@fuzzing(200)
def test_native_bodies_are_read_in_few_steps(body: bytes) -> None:
    check_steps(parse_minimax, body)


LARGE: Final[Mapping[str, bytes]] = {
    "many fields": b'{"prompt":"x",' + b",".join(b'"k%d":1' % number for number in range(6000)) + b"}",
    "one field often": b'{"prompt":"x",' + b",".join(b'"n":1' for _ in range(6000)) + b"}",
    "many references": b'{"model":"image-01","prompt":"x","subject_reference":['
    + b",".join([b'{"type":"character","image_file":"https://x/"}'] * 1900)
    + b"]}",
    "a long text": b'{"model":"image-01","prompt":"' + b"x" * 2**20 + b'"}',
    "a long escaped text": b'{"model":"image-01","prompt":"' + b"\\u00e9" * 2**17 + b'"}',
    "a long number": b'{"model":"image-01","prompt":"x","seed":' + b"9" * 2**20 + b"}",
    "spaces": b'{"model":"image-01","prompt":"x","n":' + b" " * 2**20 + b"1}",
    "deep": b'{"model":"image-01","prompt":"x","style":' + b"[" * 2**20 + b"}",
}


@pytest.mark.parametrize("kind", list(LARGE))
@pytest.mark.parametrize("wire", ["openai", "native"])
def test_large_bodies_are_read_in_few_steps(wire: str, kind: str) -> None:
    parse, check_error = {
        "openai": (parse_openai, check_openai_error),
        "native": (parse_minimax, check_native_error),
    }[wire]
    check(parse, check_error, LARGE[kind])
    check_steps(parse, LARGE[kind])
