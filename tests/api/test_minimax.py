"""MiniMax's and 302.AI's own format, in both directions."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.fields import Generation
from gateway.api.minimax import PATHS, TEXTS, parse_native, render_native, render_native_error
from gateway.domain.catalog import Catalog, Model, Target
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, Outcome
from gateway.domain.images import Base64Image, ImageResult, ImageUrl, Picture, ResponseFormat, Size
from gateway.domain.pricing import PerImage, Price
from gateway.domain.sizes import SizePolicy
from gateway.domain.tenants import Tenant
from gateway.providers import PROVIDERS
from tests.support.errors import attempt

DIRECT = PROVIDERS["minimax"]
MODEL = Model(
    "image-01",
    ("dall-e-3",),
    (Price(0, PerImage(3500)),),
    (
        Target("minimax", "image-01", DIRECT.capability("image-01", {})),
        Target("302ai", "minimaxi-image-01", PROVIDERS["302ai"].capability("minimaxi-image-01", {})),
    ),
)
LIVE = Model(
    "live",
    (),
    (Price(0, PerImage(3500)),),
    (Target("minimax", "image-01-live", DIRECT.capability("image-01-live", {})),),
)
CATALOG = Catalog([MODEL, LIVE])
ANYONE = Tenant("acme")
JPEG = b"/9j/4AAQSkZJRg=="
ALL = pytest.mark.parametrize("error_code", list(ErrorCode), ids=lambda error_code: error_code.value)


def parse(body: bytes | None = None, *, tenant: Tenant = ANYONE, **fields: object) -> Generation:
    given = body if body is not None else msgspec.json.encode({"model": "image-01", "prompt": "a fox"} | fields)
    return parse_native(given, CATALOG, tenant, SizePolicy.NEAREST)


def refusal(body: bytes | None = None, **fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        parse(body, **fields)
    return refused.value


def answered(error: GatewayError) -> tuple[int, str]:
    body = msgspec.json.decode(render_native_error(error))
    assert set(body) == {"base_resp"}
    return body["base_resp"]["status_code"], body["base_resp"]["status_msg"]


def rendered(*pictures: Picture, count: int = 1, identity: str = "0f") -> dict[str, object]:
    body: dict[str, object] = msgspec.json.decode(
        b"".join(render_native(ImageResult(pictures, Size(1024, 1024), count, identity)))
    )
    return body


def test_both_vendors_routes_are_served() -> None:
    assert {"/v1/image_generation", "/minimaxi/v1/image_generation"} == PATHS


def test_smallest_request_asks_for_one_link() -> None:
    generation = parse()
    assert (MODEL, "image-01") == (generation.model, generation.name)
    job = generation.job
    assert ("a fox", 1, ResponseFormat.URL, None, None, None) == (
        job.prompt,
        job.count,
        job.delivery,
        job.size,
        job.pixels,
        job.aspect_ratio,
    )
    assert (None, {}, ()) == (job.seed, job.options, job.inputs)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("image-01", MODEL),
        ("minimaxi-image-01", MODEL),
        ("dall-e-3", MODEL),
        ("live", LIVE),
        ("image-01-live", LIVE),
        ("minimaxi-image-01-live", LIVE),
    ],
)
def test_both_spellings_of_a_model_are_understood(name: str, model: Model) -> None:
    assert (model, name) == (parse(model=name).model, parse(model=name).name)


def test_302_only_catalogue_understands_minimaxs_spelling() -> None:
    model = Model("pictures", (), (Price(0, PerImage(1)),), (MODEL.targets[1],))
    for name in ("image-01", "minimaxi-image-01"):
        body = msgspec.json.encode({"model": name, "prompt": "p"})
        assert model == parse_native(body, Catalog([model]), ANYONE, SizePolicy.NEAREST).model


@pytest.mark.parametrize(
    ("fields", "name", "expected"),
    [
        ({"n": 9}, "count", 9),
        ({"n": None}, "count", 1),
        ({"response_format": "base64"}, "delivery", ResponseFormat.BASE64),
        ({"response_format": None}, "delivery", ResponseFormat.URL),
        ({"aspect_ratio": "21:9"}, "aspect_ratio", "21:9"),
        ({"width": 512, "height": 2048}, "pixels", Size(512, 2048)),
        ({"aspect_ratio": "3:2", "width": 512, "height": 512}, "pixels", None),
        ({"prompt": "漫" * 1499}, "prompt", "漫" * 1499),
        ({"seed": -1}, "seed", -1),
        ({"prompt_optimizer": False}, "options", {"minimax.prompt_optimizer": b"false"}),
    ],
)
def test_documented_field_is_taken(fields: dict[str, Any], name: str, expected: object) -> None:
    assert expected == getattr(parse(**fields).job, name)


@pytest.mark.parametrize(
    "pixels", [{"width": 1}, {"width": 1, "height": 1}, {"height": 512}, {"width": 513, "height": 512}]
)
def test_aspect_ratio_wins_and_the_pixels_are_ignored(pixels: dict[str, Any]) -> None:
    """reference/minimax.md 1.2: as the upstream and the simulator have it."""
    assert parse(aspect_ratio="3:2", **pixels).job.aspect_ratio == "3:2"


@pytest.mark.parametrize(
    ("fields", "error_code", "param"),
    [
        ({"model": None}, ErrorCode.MISSING_PARAMETER, "model"),
        ({"model": "image-02"}, ErrorCode.MODEL_UNKNOWN, "model"),
        ({"model": ""}, ErrorCode.MODEL_UNKNOWN, "model"),
        ({"model": 1}, ErrorCode.INVALID_TYPE, "model"),
        ({"prompt": None}, ErrorCode.MISSING_PARAMETER, "prompt"),
        ({"prompt": ""}, ErrorCode.EMPTY_STRING, "prompt"),
        ({"prompt": " \n"}, ErrorCode.EMPTY_STRING, "prompt"),
        ({"prompt": ["p"]}, ErrorCode.INVALID_TYPE, "prompt"),
        ({"prompt": "x" * 1500}, ErrorCode.PROMPT_TOO_LONG, "prompt"),
        ({"n": 0}, ErrorCode.INTEGER_BELOW_MIN, "n"),
        ({"n": 10}, ErrorCode.INTEGER_ABOVE_MAX, "n"),
        ({"n": "1"}, ErrorCode.INVALID_TYPE, "n"),
        ({"n": True}, ErrorCode.INVALID_TYPE, "n"),
        ({"response_format": "b64_json"}, ErrorCode.INVALID_VALUE, "response_format"),
        ({"aspect_ratio": "5:4"}, ErrorCode.INVALID_VALUE, "aspect_ratio"),
        ({"width": 512}, ErrorCode.MISSING_PARAMETER, "height"),
        ({"style": "vivid"}, ErrorCode.INVALID_TYPE, "style"),
        ({"style": {"style_type": "水彩"}}, ErrorCode.UNKNOWN_PARAMETER, "style"),
        ({"model": "live", "width": 512, "height": 512}, ErrorCode.INVALID_VALUE, "width"),
        ({"model": "live", "aspect_ratio": "21:9"}, ErrorCode.INVALID_VALUE, "aspect_ratio"),
        ({"negative_prompt": "x"}, ErrorCode.UNKNOWN_PARAMETER, "negative_prompt"),
        ({"size": "1024x1024"}, ErrorCode.UNKNOWN_PARAMETER, "size"),
    ],
)
def test_what_cannot_be_honoured_is_invalid_params(fields: dict[str, Any], error_code: ErrorCode, param: str) -> None:
    error = refusal(**fields)
    assert (error_code, param) == (error.error_code, error.param)
    code, text = answered(error)
    assert code == 2013
    assert text.startswith("invalid params, ")


def test_too_long_prompt_is_refused_in_minimaxs_words() -> None:
    expected = (2013, "invalid params, prompt length must be less than 1500")
    assert expected == answered(refusal(prompt="x" * 1500))


def test_model_of_another_tenant_does_not_exist() -> None:
    with pytest.raises(GatewayError) as refused:
        parse(tenant=Tenant("acme", frozenset({"live"})))
    assert ErrorCode.MODEL_UNKNOWN is refused.value.error_code


@given(st.binary())
@example(b'{"model":"image-01","prompt":"p","style":{"style_type":"\xff"}}')
@example(b'{"model":"image-01","prompt":"p","style":{"\xff":1}}')
@example(b'{"model":"image-01","prompt":"p","subject_reference":[{"type":"\xff"}]}')
def test_any_bytes_are_a_job_or_a_refusal(body: bytes) -> None:
    outcome = attempt(lambda: parse(body))
    assert not isinstance(outcome, GatewayError) or answered(outcome)[0] == 2013


VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()) | st.just({"style_type": "水彩"})


@given(
    st.dictionaries(
        st.sampled_from(
            ["prompt", "n", "aspect_ratio", "width", "height", "response_format", "style", "seed", "subject_reference"]
        )
        | st.text(),
        VALUES,
    )
)
def test_any_fields_are_a_job_or_a_refusal(fields: dict[str, Any]) -> None:
    body = msgspec.json.encode({"model": "live", "prompt": "a fox"} | fields)
    outcome = attempt(lambda: parse(body))
    if isinstance(outcome, Generation):
        assert 1 <= outcome.job.count <= 9
    else:
        assert isinstance(outcome, GatewayError)
        assert answered(outcome)[0] == 2013


def test_links_are_answered_as_minimax_does() -> None:
    assert {
        "id": "0f",
        "data": {"image_urls": ["https://x/1?a=%2B", 'https://x/"']},
        "metadata": {"success_count": "2", "failed_count": "0"},
        "base_resp": {"status_code": 0, "status_msg": "success"},
    } == rendered(ImageUrl("https://x/1?a=%2B"), ImageUrl('https://x/"'), count=2)


def test_base64_is_answered_as_minimax_does_with_what_is_missing() -> None:
    assert {
        "id": "",
        "data": {"image_base64": [JPEG.decode(), JPEG.decode()]},
        "metadata": {"success_count": "2", "failed_count": "1"},
        "base_resp": {"status_code": 0, "status_msg": "success"},
    } == rendered(Base64Image(memoryview(JPEG)), Base64Image(memoryview(JPEG)), count=3, identity="")


def test_keys_come_in_minimaxs_order() -> None:
    assert ["id", "data", "metadata", "base_resp"] == list(rendered(ImageUrl("https://x/1")))


def test_a_link_never_stands_among_the_base64() -> None:
    """Two calls of one job may have been answered by two upstreams, each in its own way."""
    data = rendered(Base64Image(memoryview(JPEG)), ImageUrl("https://x/1"), count=2)["data"]
    assert isinstance(data, dict)
    assert [JPEG.decode()] == data["image_base64"]


def test_pictures_are_rendered_without_a_copy() -> None:
    picture = Base64Image(memoryview(JPEG))
    chunks = render_native(ImageResult((picture, picture), Size(1, 1), 2))
    assert [picture.base64, picture.base64] == [chunk for chunk in chunks if isinstance(chunk, memoryview)]
    assert all(chunk is picture.base64 for chunk in chunks if isinstance(chunk, memoryview))


@ALL
def test_every_fault_renders_without_showing_what_was_not_meant_for_the_caller(error_code: ErrorCode) -> None:
    code, text = answered(GatewayError(error_code, "sk-planted https://upstream.example", upstream_code=1008))
    assert code in TEXTS
    assert text.startswith(TEXTS[code])
    if not ERROR_SPECS[error_code].shows_detail:
        assert "planted" not in text


EXPECTED = {
    ErrorCode.NO_CREDENTIALS: 1004,
    ErrorCode.INVALID_API_KEY: 2049,
    ErrorCode.CONTENT_INPUT: 1026,
    ErrorCode.CONTENT_OUTPUT: 1027,
    ErrorCode.CONTENT_MODERATED: 1027,
    ErrorCode.INVALID_PROMPT: 1042,
    ErrorCode.PROMPT_TOO_LONG: 2013,
    ErrorCode.UPSTREAM_REJECTED: 2013,
    ErrorCode.INVALID_JSON: 2013,
    ErrorCode.BODY_TOO_LARGE: 2013,
    ErrorCode.ACCOUNT_RATE_LIMITED: 1002,
    ErrorCode.NO_CAPACITY: 1002,
    ErrorCode.KEY_INVALID: 1033,
    ErrorCode.INSUFFICIENT_BALANCE: 1033,
    ErrorCode.QUOTA_EXHAUSTED_PLAN: 1033,
    ErrorCode.NO_HEALTHY_ACCOUNT: 1033,
    ErrorCode.TENANT_MEMORY_FULL: 1002,
    ErrorCode.MEMORY_FULL: 1033,
    ErrorCode.REDIS_UNAVAILABLE: 1033,
    ErrorCode.UPSTREAM_ERROR: 1033,
    ErrorCode.UPSTREAM_TIMEOUT: 1001,
    ErrorCode.READ_TIMEOUT: 1001,
}


@pytest.mark.parametrize("error_code", EXPECTED)
def test_fault_has_the_code_that_fits(error_code: ErrorCode) -> None:
    assert EXPECTED[error_code] == answered(GatewayError(error_code))[0]


@pytest.mark.parametrize(
    "error_code",
    [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].outcome in {Outcome.UNKNOWN, Outcome.DELIVERED}],
)
def test_what_may_have_cost_money_is_never_shown_as_a_failure_that_is_free(error_code: ErrorCode) -> None:
    """1000, 1024 and 1033 count as refused, 1001 as unknown: a client of ours must not buy again (section 3)."""
    assert answered(GatewayError(error_code))[0] == 1001


@pytest.mark.parametrize(
    "error_code", [error_code for error_code in ErrorCode if ERROR_SPECS[error_code].status == 503]
)
def test_trouble_with_our_own_keys_never_looks_like_the_callers(error_code: ErrorCode) -> None:
    for upstream_code in (None, 1004, 1008, 2049, 2056):
        assert answered(GatewayError(error_code, upstream_code=upstream_code))[0] == 1033


@pytest.mark.parametrize(
    ("error_code", "upstream_code", "expected"),
    [
        (ErrorCode.UPSTREAM_ERROR, 1024, 1024),
        (ErrorCode.UPSTREAM_ERROR, 1000, 1000),
        (ErrorCode.UPSTREAM_ERROR, 1013, 1013),
        (ErrorCode.CONTENT_INPUT, 1026, 1026),
        (ErrorCode.UPSTREAM_REJECTED, 2013, 2013),
        (ErrorCode.CONTENT_INPUT, 2013, 1026),
        (ErrorCode.UPSTREAM_ERROR, 777, 1033),
        (ErrorCode.UNEXPECTED_RESPONSE, 1043, 1033),
        (ErrorCode.ACCOUNT_TOKEN_LIMITED, 1039, 1002),
    ],
)
def test_upstreams_code_is_kept_where_it_is_about_the_request(
    error_code: ErrorCode, upstream_code: int, expected: int
) -> None:
    assert expected == answered(GatewayError(error_code, upstream_code=upstream_code))[0]


@pytest.mark.parametrize(
    ("error_code", "body"),
    [
        (ErrorCode.ACCOUNT_RATE_LIMITED, b'{"base_resp":{"status_code":1002,"status_msg":"rate limit exceeded(RPM)"}}'),
        (
            ErrorCode.NO_CREDENTIALS,
            (
                b'{"base_resp":{"status_code":1004,"status_msg":"login fail: Please carry the API secret key in the '
                b"'Authorization' field of the request header\"}}"
            ),
        ),
    ],
)
def test_error_bodies_are_the_observed_ones_to_the_byte(error_code: ErrorCode, body: bytes) -> None:
    assert body == render_native_error(GatewayError(error_code))
