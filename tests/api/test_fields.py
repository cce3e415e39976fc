"""Taking a JSON object apart: types, ranges, words, and nothing but GatewayError for any bytes."""

from collections.abc import Callable
from functools import partial

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.fields import JsonFields, empty, missing, refused_value, too_long, unknown_model, unknown_parameter
from gateway.domain.errors import ErrorCode, GatewayError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
READERS: list[Callable[[JsonFields], object]] = [
    lambda fields: fields.value("x"),
    lambda fields: fields.string("x"),
    lambda fields: fields.boolean("x"),
    lambda fields: fields.integer("x", 1, 10),
    lambda fields: fields.choice("x", ("a", "b")),
]


def refusal(read: Callable[[], object]) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        read()
    return refused.value


def attempt(act: Callable[[], object]) -> object:
    """What an act gives, or its GatewayError; any other exception fails the test."""
    try:
        return act()
    except GatewayError as error:
        return error


def read_field(read: Callable[[JsonFields], object], body: bytes) -> object:
    return read(JsonFields(body))


def fields_of(value: object) -> JsonFields:
    return JsonFields(msgspec.json.encode({"x": value}))


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "Input data was truncated."),
        (b"{", "Input data was truncated."),
        (b"null", "it must be an object."),
        (b"[1]", "it must be an object."),
        (b'"text"', "it must be an object."),
        (b"prompt=a+fox&n=1", "invalid character (byte 0)."),
        (b"{'prompt': 1}", "object keys must be strings (byte 1)."),
        (b'{"a": 1} {"b": 2}', "trailing characters (byte 10)."),
        (b'{"a": NaN}', "invalid character (byte 6)."),
        (b'{"\xff": 1}', "it is not UTF-8."),
        (b"\xff\xfe{\x00}\x00", "invalid character (byte 0)."),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "it is nested too deeply."),
    ],
)
def test_body_that_is_no_json_object_is_refused_with_the_reason(body: bytes, why: str) -> None:
    error = refusal(lambda: JsonFields(body))
    assert (error.error_code, error.param) == (ErrorCode.INVALID_JSON, None)
    assert f"We could not parse the JSON body of your request: {why}" == error.message


@pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\x80"'])
def test_text_that_is_not_utf_8_is_refused_by_name(text: bytes) -> None:
    error = refusal(lambda: JsonFields(b'{"x": ' + text + b"}").string("x"))
    assert error.error_code is ErrorCode.INVALID_JSON
    assert error.message == "We could not parse 'x' in the JSON body of your request: it is not UTF-8."


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("body", [b"{}", b'{"x":null}', b'{ "x" : null }'])
def test_null_means_absent(reader: Callable[[JsonFields], object], body: bytes) -> None:
    fields = JsonFields(body)
    assert reader(fields) is None
    fields.reject_unknown()


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
    expected = {
        "a string": lambda: fields_of(value).string("x"),
        "a boolean": lambda: fields_of(value).boolean("x"),
        "an integer": lambda: fields_of(value).integer("x", 1, 10),
    }
    for name, read in expected.items():
        if name == kind:
            continue
        error = refusal(read)
        assert (error.error_code, error.param) == (ErrorCode.INVALID_TYPE, "x")
        assert f"Invalid type for 'x': expected {name}, but got {kind} instead." == error.message


@pytest.mark.parametrize(
    ("value", "error_code", "end"),
    [
        (0, ErrorCode.INTEGER_BELOW_MIN, "integer below minimum value. Expected a value >= 1, but got 0 instead."),
        (-1, ErrorCode.INTEGER_BELOW_MIN, "integer below minimum value. Expected a value >= 1, but got -1 instead."),
        (11, ErrorCode.INTEGER_ABOVE_MAX, "integer above maximum value. Expected a value <= 10, but got 11 instead."),
    ],
)
def test_integer_out_of_range_is_refused(value: int, error_code: ErrorCode, end: str) -> None:
    error = refusal(lambda: fields_of(value).integer("x", 1, 10))
    assert (error.error_code, error.param, error.message) == (error_code, "x", f"Invalid 'x': {end}")


@pytest.mark.parametrize("digits", [20, 100, 4000, 5000])
def test_huge_integer_is_refused_shortly(digits: int) -> None:
    error = refusal(lambda: JsonFields(b'{"x":' + b"9" * digits + b"}").integer("x", 1, 10))
    assert error.error_code in {ErrorCode.INTEGER_ABOVE_MAX, ErrorCode.INVALID_JSON}
    assert len(error.message) < 200


def test_ends_of_a_range_belong_to_it() -> None:
    assert [1, 10] == [fields_of(value).integer("x", 1, 10) for value in (1, 10)]


def test_choice_lists_what_is_supported() -> None:
    assert fields_of("a").choice("x", ("a", "b")) == "a"
    error = refusal(lambda: fields_of("d").choice("x", ("a", "b", "c")))
    assert (error.error_code, error.param) == (ErrorCode.INVALID_VALUE, "x")
    assert error.message == "Invalid value: 'd'. Supported values are: 'a', 'b', and 'c'."
    assert refusal(lambda: fields_of("d").choice("x", ("a",))).message.endswith("Supported value is: 'a'.")


def test_raw_is_the_value_as_it_stands() -> None:
    raw = JsonFields(b'{"x":  {"b": 1.50}  }').raw("x")
    assert raw == msgspec.Raw(b'{"b": 1.50}')


def test_first_unknown_field_by_name_is_refused() -> None:
    fields = JsonFields(b'{"x":1,"zebra":1,"apple":2,"nothing":null}')
    assert fields.value("x") == 1
    error = refusal(fields.reject_unknown)
    assert (error.error_code, error.param) == (ErrorCode.UNKNOWN_PARAMETER, "apple")
    assert error.message == "Unknown parameter: 'apple'."


def test_callers_own_words_are_cut_before_they_are_read_back() -> None:
    name = "x" * 10_000
    for error in (
        refusal(lambda: fields_of(name).choice("x", ("a",))),
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
        (
            too_long("p", 5, 6),
            ErrorCode.STRING_TOO_LONG,
            "p",
            (
                "Invalid 'p': string too long. Expected a string with maximum length 5, "
                "but got a string with length 6 instead."
            ),
        ),
        (
            empty("p"),
            ErrorCode.EMPTY_STRING,
            "p",
            "Invalid 'p': empty string. Expected a string with minimum length 1, but got an empty string instead.",
        ),
    ],
)
def test_refusals_read_as_openais(error: GatewayError, error_code: ErrorCode, param: str, message: str) -> None:
    assert (error_code, param, message) == (error.error_code, error.param, error.message)


@given(st.binary())
@example(b'{"x":"\\ud800"}')
@example(b'{"x":"\\ud800\\u0041"}')
@example(b'{"x":1e999}')
@example(b"\xef\xbb\xbf{}")
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in READERS:
        outcome = attempt(partial(read_field, read, body))
        assert not isinstance(outcome, GatewayError) or outcome.row.status == 400


@given(JSON)
def test_any_value_is_read_or_refused(value: object) -> None:
    body = msgspec.json.encode({"x": value})
    for read in READERS:
        outcome = attempt(partial(read_field, read, body))
        assert not isinstance(outcome, GatewayError) or outcome.row.status == 400
