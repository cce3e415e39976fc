"""Glif's wire: runs, whose failures are successes (reference/providers.md section 14)."""

import pytest

from gateway.domain.errors import ErrorCode, Outcome
from gateway.domain.images import ImageJob, Size
from tests.support.own_formats import STRANGE, Wire

GLIF = Wire("glif", "clgh1vxtu")
LINK = "https://res.cloudinary.com/x/a.png"
FULL = {"type": "IMAGE", "value": LINK, "width": 1344, "height": 768}
RUN = {"id": "clgh1vxtu", "inputs": {"prompt": "a fox"}, "output": LINK, "outputFull": FULL, "price": 1}
FAILED = RUN | {"output": None, "outputFull": None, "error": "some text", "price": 0}


def test_a_call_runs_the_workflow_with_the_prompt() -> None:
    request = GLIF.request(ImageJob("a fox", size=Size(1536, 1024)))
    assert ("POST", "/") == (request.method, request.path)
    assert {"id": "clgh1vxtu", "inputs": ["a fox"]} == GLIF.body(ImageJob("a fox"))


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (RUN, 200, [LINK]),
        (RUN | {"outputFull": None}, 200, [LINK]),
        (RUN | {"output": None}, 200, [LINK]),
        (
            RUN | {"output": "a poem", "outputFull": {"type": "TEXT", "value": "a poem"}},
            200,
            ErrorCode.INVALID_RESPONSE,
        ),
        (RUN | {"outputFull": FULL | {"type": "VIDEO"}}, 200, ErrorCode.INVALID_RESPONSE),
        (RUN | {"error": "some text"}, 200, ErrorCode.INVALID_RESPONSE),
        (FAILED, 200, ErrorCode.UPSTREAM_ERROR),
        (FAILED | {"price": 1}, 200, ErrorCode.INVALID_RESPONSE),
        (FAILED | {"price": None}, 200, ErrorCode.INVALID_RESPONSE),
        (FAILED | {"price": False}, 200, ErrorCode.INVALID_RESPONSE),
        (FAILED | {"error": ""}, 200, ErrorCode.INVALID_RESPONSE),
        (FAILED | {"images": [LINK]}, 200, ErrorCode.INVALID_RESPONSE),
        ({"error": "x"}, 401, ErrorCode.BARE_UNAUTHORIZED),
        ({"error": "x"}, 404, ErrorCode.UPSTREAM_UNSUPPORTED),
    ],
)
def test_a_run_is_read_by_its_output_its_error_and_its_price(body: object, status: int, expected: object) -> None:
    assert expected == GLIF.outcome(body, status)


@pytest.mark.parametrize(("body", "status"), STRANGE)
def test_a_strange_reply_has_an_unknown_outcome(body: object, status: int) -> None:
    found = GLIF.outcome(body, status)
    assert isinstance(found, ErrorCode)
    assert found.spec.outcome is Outcome.UNKNOWN


def test_the_size_is_the_one_that_the_run_states() -> None:
    assert Size(1344, 768) == GLIF.read(RUN).made
    assert GLIF.read(RUN | {"outputFull": FULL | {"width": 0}}).made is None


def test_a_key_check_shows_only_a_refused_key() -> None:
    assert GLIF.check({"error": "Missing id"}, 400).error_code is None
    assert GLIF.check({"error": "x"}, 401).error_code is ErrorCode.BARE_UNAUTHORIZED
