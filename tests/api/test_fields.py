"""Taking a JSON object apart: types, ranges, words, and nothing but GatewayError for any bytes."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Meta

from gateway.api.fields import parse_fields
from gateway.api.refusals import missing, refused_value, unknown_model, unknown_parameter
from gateway.domain.errors import ErrorCode, GatewayError
from tests.support.errors import attempt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Fields(msgspec.Struct, forbid_unknown_fields=True):
    """One field of each type."""

    string: str | None = None
    boolean: bool | None = None
    integer: Annotated[int, Meta(ge=1, le=10)] | None = None
    even: Annotated[int, Meta(multiple_of=2)] | None = None
    choice: Literal["a", "b", "c"] | None = None
    single: Literal["a"] | None = None


FIELDS = Fields.__struct_fields__


def refusal(read: Callable[[], object]) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        read()
    return refused.value


def parse(**values: object) -> Fields:
    return parse_fields(msgspec.json.encode(values), Fields)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "it is empty."),
        (b"{", "it ends too early."),
        (b"null", "it must be an object."),
        (b"[1]", "it must be an object."),
        (b'"text"', "it must be an object."),
        (b"prompt=a+fox&n=1", "invalid character (byte 0)."),
        (b"{'prompt': 1}", "object keys must be strings (byte 1)."),
        (b'{"a": 1} {"b": 2}', "trailing characters (byte 10)."),
        (b'{"a": NaN}', "invalid character (byte 6)."),
        (b'{"\xff": 1}', "it is not UTF-8."),
        (b"\xff\xfe{\x00}\x00", "it is UTF-16, not UTF-8."),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "it is nested too deeply."),
    ],
)
def test_body_that_is_no_json_object_is_refused_with_the_reason(body: bytes, why: str) -> None:
    error = refusal(lambda: parse_fields(body, Fields))
    assert (error.error_code, error.param) == (ErrorCode.INVALID_JSON, None)
    assert f"We could not parse the JSON body of your request: {why}" == error.message


@pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\x80"'])
def test_text_that_is_not_utf_8_is_refused_by_name(text: bytes) -> None:
    error = refusal(lambda: parse_fields(b'{"string": ' + text + b"}", Fields))
    assert error.error_code is ErrorCode.INVALID_JSON
    assert error.message == "We could not parse 'string' in the JSON body of your request: it is not UTF-8."


@pytest.mark.parametrize("name", [*FIELDS, "unknown"])
@pytest.mark.parametrize("body", [b"{}", b'{"%s":null}', b'{ "%s" : null }'])
def test_null_means_absent(name: str, body: bytes) -> None:
    assert Fields() == parse_fields(body.replace(b"%s", name.encode()), Fields)


def test_of_two_equal_names_the_last_counts() -> None:
    assert Fields(integer=2) == parse_fields(b'{"integer":"x","string":"y","integer":2,"string":null}', Fields)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "a boolean"),
        (7, "an integer"),
        (1.5, "a decimal number"),
        (2.0, "a decimal number"),
        ("2", "a string"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_wrong_type_is_named(value: object, kind: str) -> None:
    expected = {"string": "a string", "boolean": "a boolean", "integer": "an integer", "choice": "a string"}
    for field, name in expected.items():
        if name == kind:
            continue
        error = refusal(partial(parse, **{field: value}))
        assert (error.error_code, error.param) == (ErrorCode.INVALID_TYPE, field)
        assert f"Invalid type for '{field}': expected {name}, but got {kind} instead." == error.message


@pytest.mark.parametrize(
    ("value", "error_code", "end"),
    [
        (0, ErrorCode.INTEGER_BELOW_MIN, "integer below minimum value. Expected a value >= 1, but got 0 instead."),
        (-1, ErrorCode.INTEGER_BELOW_MIN, "integer below minimum value. Expected a value >= 1, but got -1 instead."),
        (11, ErrorCode.INTEGER_ABOVE_MAX, "integer above maximum value. Expected a value <= 10, but got 11 instead."),
    ],
)
def test_integer_out_of_range_is_refused(value: int, error_code: ErrorCode, end: str) -> None:
    error = refusal(lambda: parse(integer=value))
    assert (error.error_code, error.param, error.message) == (error_code, "integer", f"Invalid 'integer': {end}")


@pytest.mark.parametrize("digits", [20, 100, 4000, 5000])
def test_huge_integer_is_refused_shortly(digits: int) -> None:
    error = refusal(lambda: parse_fields(b'{"integer":' + b"9" * digits + b"}", Fields))
    assert error.error_code in {ErrorCode.INTEGER_ABOVE_MAX, ErrorCode.INVALID_JSON}
    assert len(error.message) < 200


def test_ends_of_a_range_belong_to_it() -> None:
    assert [1, 10] == [parse(integer=value).integer for value in (1, 10)]


def test_choice_lists_what_is_supported() -> None:
    assert parse(choice="a").choice == "a"
    error = refusal(lambda: parse(choice="d"))
    assert (error.error_code, error.param) == (ErrorCode.INVALID_VALUE, "choice")
    assert error.message == "Invalid value: 'd'. Supported values are: 'a', 'b', and 'c'."
    assert refusal(lambda: parse(single="d")).message.endswith("Supported value is: 'a'.")


def test_integer_that_is_no_multiple_is_refused_with_the_step() -> None:
    error = refusal(lambda: parse(even=3))
    assert (error.error_code, error.param) == (ErrorCode.INVALID_VALUE, "even")
    assert error.message == "Invalid value for 'even': it must be a multiple of 2."


def test_every_unknown_field_is_named() -> None:
    error = refusal(lambda: parse(string="x", zebra=1, apple=2, nothing=None))
    assert (error.error_code, error.param) == (ErrorCode.UNKNOWN_PARAMETER, "apple")
    assert error.message == "Unknown parameters: 'apple' and 'zebra'."


def test_callers_own_words_are_cut_before_they_are_read_back() -> None:
    name = "x" * 10_000
    for error in (
        refusal(lambda: parse(choice=name)),
        unknown_parameter(name),
        unknown_model(name),
    ):
        assert len(error.message) < 200
        assert len(error.param or "") < 100


@pytest.mark.parametrize(
    ("error", "error_code", "param", "message"),
    [
        (missing("p"), ErrorCode.MISSING_PARAMETER, "p", "Missing required parameter: 'p'."),
        (refused_value("p", "why."), ErrorCode.INVALID_VALUE, "p", "Invalid value for 'p': why."),
        (unknown_parameter("p", " Why."), ErrorCode.UNKNOWN_PARAMETER, "p", "Unknown parameter: 'p'. Why."),
        (unknown_model("m"), ErrorCode.MODEL_UNKNOWN, "model", "The model 'm' does not exist. See GET /v1/models."),
    ],
)
def test_refusals_read_as_openais(error: GatewayError, error_code: ErrorCode, param: str, message: str) -> None:
    assert (error_code, param, message) == (error.error_code, error.param, error.message)


@given(st.binary())
@example(b'{"string":"\\ud800"}')
@example(b'{"choice":"\\ud800\\u0041"}')
@example(b'{"integer":1e999}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    outcome = attempt(partial(parse_fields, body, Fields))
    assert not isinstance(outcome, GatewayError) or outcome.row.status == 400


@given(st.sampled_from(FIELDS), JSON)
def test_any_value_is_parsed_or_refused(name: str, value: object) -> None:
    outcome = attempt(partial(parse, **{name: value}))
    assert not isinstance(outcome, GatewayError) or outcome.row.status == 400
