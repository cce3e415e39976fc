"""Forms with anything changed, cut or put in: each is read or refused, and nothing of any remains."""

import asyncio
from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.errors import ErrorCode, GatewayError
from tests.support.forms import BOUNDARY, JPEG, PNG, PROMPT, form, image, part, temporary_files
from tests.support.profile import fuzzing
from tests.support.reading_forms import Trial

FORM: Final = form(PROMPT, image(PNG), part("n", b"2"), image(JPEG, "mask"), part("stream", b"true"))
MARKS: Final = [
    b"\r\n",
    b"--",
    b"\r\n--" + BOUNDARY.encode(),
    b"--\r\n",
    b";",
    b'"',
    b"=",
    b":",
    b"\0",
    b"\xff",
    b"image",
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    body = FORM
    for _ in range(draw(st.integers(1, 5))):
        at, length = draw(st.integers(0, len(body))), draw(st.integers(0, 40))
        put = draw(st.sampled_from(MARKS) | st.binary(max_size=20))
        body = body[:at] + put + body[at + length :]
    return body


def attempt(trial: Trial, pieces: list[bytes]) -> GatewayError | None:
    """Returns the refusal of a form, if any; every other exception fails the test."""
    try:
        asyncio.run(trial.read(pieces))
    except GatewayError as error:
        return error
    return None


@fuzzing(2000)
@given(mutated(), st.integers(1, 2000))
def test_a_form_with_anything_changed_is_read_or_refused(body: bytes, size: int) -> None:
    trial, before = Trial(), temporary_files()
    error = attempt(trial, [body[at : at + size] for at in range(0, len(body), size)])
    if error:
        assert error.error_code in {ErrorCode.INVALID_JSON, ErrorCode.INVALID_VALUE, ErrorCode.BODY_TOO_LARGE}
        assert len(error.message) < 300
    assert (0, 0, before) == (trial.memory.held_bytes, trial.disk.held_bytes, temporary_files())
