"""MiniMax's and 302.AI's own format, in both directions."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.api.minimax import PATHS, TEXTS, NativeGeneration, parse_native, render_native, render_native_error
from gateway.domain.catalog import Catalog, Model, Target
from gateway.domain.errors import TABLE, Fault, GatewayError, Outcome
from gateway.domain.images import Delivery, Encoded, ImageResult, Link, Picture
from gateway.domain.pricing import PerImage, Price
from gateway.domain.sizes import Size, SizePolicy
from gateway.domain.tenants import Tenant
from gateway.providers import PROVIDERS

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
ALL = pytest.mark.parametrize("fault", list(Fault), ids=lambda fault: fault.value)


def parse(body: bytes | None = None, *, tenant: Tenant = ANYONE, **fields: object) -> NativeGeneration:
    given = body if body is not None else msgspec.json.encode({"model": "image-01", "prompt": "a fox"} | fields)
    return parse_native(given, CATALOG, tenant, SizePolicy.NEAREST)


def refusal(body: bytes | None = None, **fields: Any) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        parse(body, **fields)
    return refused.value


def attempt(act: Callable[[], object]) -> object:
    """What an act gives, or its GatewayError; any other exception fails the test."""
    try:
        return act()
    except GatewayError as error:
        return error


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
    assert ("a fox", 1, Delivery.URL, None, None, None) == (
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
        ({"response_format": "base64"}, "delivery", Delivery.BASE64),
        ({"response_format": None}, "delivery", Delivery.URL),
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
    ("fields", "fault", "param"),
    [
        ({"model": None}, Fault.MISSING_PARAMETER, "model"),
        ({"model": "image-02"}, Fault.MODEL_UNKNOWN, "model"),
        ({"model": ""}, Fault.MODEL_UNKNOWN, "model"),
        ({"model": 1}, Fault.INVALID_TYPE, "model"),
        ({"prompt": None}, Fault.MISSING_PARAMETER, "prompt"),
        ({"prompt": ""}, Fault.EMPTY_STRING, "prompt"),
        ({"prompt": " \n"}, Fault.EMPTY_STRING, "prompt"),
        ({"prompt": ["p"]}, Fault.INVALID_TYPE, "prompt"),
        ({"prompt": "x" * 1500}, Fault.PROMPT_TOO_LONG, "prompt"),
        ({"n": 0}, Fault.INTEGER_BELOW_MIN, "n"),
        ({"n": 10}, Fault.INTEGER_ABOVE_MAX, "n"),
        ({"n": "1"}, Fault.INVALID_TYPE, "n"),
        ({"n": True}, Fault.INVALID_TYPE, "n"),
        ({"response_format": "b64_json"}, Fault.INVALID_VALUE, "response_format"),
        ({"aspect_ratio": "5:4"}, Fault.INVALID_VALUE, "aspect_ratio"),
        ({"width": 512}, Fault.MISSING_PARAMETER, "height"),
        ({"style": "vivid"}, Fault.INVALID_TYPE, "style"),
        ({"style": {"style_type": "水彩"}}, Fault.UNKNOWN_PARAMETER, "style"),
        ({"model": "live", "width": 512, "height": 512}, Fault.INVALID_VALUE, "width"),
        ({"model": "live", "aspect_ratio": "21:9"}, Fault.INVALID_VALUE, "aspect_ratio"),
        ({"negative_prompt": "x"}, Fault.UNKNOWN_PARAMETER, "negative_prompt"),
        ({"size": "1024x1024"}, Fault.UNKNOWN_PARAMETER, "size"),
    ],
)
def test_what_cannot_be_honoured_is_invalid_params(fields: dict[str, Any], fault: Fault, param: str) -> None:
    error = refusal(**fields)
    assert (fault, param) == (error.fault, error.param)
    code, text = answered(error)
    assert code == 2013
    assert text.startswith("invalid params, ")


def test_too_long_prompt_is_refused_in_minimaxs_words() -> None:
    expected = (2013, "invalid params, prompt length must be less than 1500")
    assert expected == answered(refusal(prompt="x" * 1500))


def test_model_of_another_tenant_does_not_exist() -> None:
    with pytest.raises(GatewayError) as refused:
        parse(tenant=Tenant("acme", frozenset({"live"})))
    assert Fault.MODEL_UNKNOWN is refused.value.fault


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
    if isinstance(outcome, NativeGeneration):
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
    } == rendered(Link("https://x/1?a=%2B"), Link('https://x/"'), count=2)


def test_base64_is_answered_as_minimax_does_with_what_is_missing() -> None:
    assert {
        "id": "",
        "data": {"image_base64": [JPEG.decode(), JPEG.decode()]},
        "metadata": {"success_count": "2", "failed_count": "1"},
        "base_resp": {"status_code": 0, "status_msg": "success"},
    } == rendered(Encoded(memoryview(JPEG)), Encoded(memoryview(JPEG)), count=3, identity="")


def test_keys_come_in_minimaxs_order() -> None:
    assert ["id", "data", "metadata", "base_resp"] == list(rendered(Link("https://x/1")))


def test_a_link_never_stands_among_the_base64() -> None:
    """Two calls of one job may have been answered by two upstreams, each in its own way."""
    data = rendered(Encoded(memoryview(JPEG)), Link("https://x/1"), count=2)["data"]
    assert isinstance(data, dict)
    assert [JPEG.decode()] == data["image_base64"]


def test_pictures_are_rendered_without_a_copy() -> None:
    picture = Encoded(memoryview(JPEG))
    chunks = render_native(ImageResult((picture, picture), Size(1, 1), 2))
    assert [picture.base64, picture.base64] == [chunk for chunk in chunks if isinstance(chunk, memoryview)]
    assert all(chunk is picture.base64 for chunk in chunks if isinstance(chunk, memoryview))


@ALL
def test_every_fault_renders_without_showing_what_was_not_meant_for_the_caller(fault: Fault) -> None:
    code, text = answered(GatewayError(fault, "sk-planted https://upstream.example", upstream_code=1008))
    assert code in TEXTS
    assert text.startswith(TEXTS[code])
    if not TABLE[fault].shows_detail:
        assert "planted" not in text


EXPECTED = {
    Fault.NO_CREDENTIALS: 1004,
    Fault.INVALID_API_KEY: 2049,
    Fault.CONTENT_INPUT: 1026,
    Fault.CONTENT_OUTPUT: 1027,
    Fault.CONTENT_WITHHELD: 1027,
    Fault.PROMPT_UNREADABLE: 1042,
    Fault.PROMPT_TOO_LONG: 2013,
    Fault.UPSTREAM_REJECTED: 2013,
    Fault.INVALID_JSON: 2013,
    Fault.BODY_TOO_LARGE: 2013,
    Fault.ACCOUNT_RATE_LIMITED: 1002,
    Fault.POOL_BUSY: 1002,
    Fault.KEY_INVALID: 1033,
    Fault.BALANCE_EMPTY: 1033,
    Fault.WINDOW_SPENT: 1033,
    Fault.POOL_DOWN: 1033,
    Fault.TENANT_MEMORY_FULL: 1002,
    Fault.MEMORY_FULL: 1033,
    Fault.REDIS_AWAY: 1033,
    Fault.UPSTREAM_ERROR: 1033,
    Fault.UPSTREAM_TIMEOUT: 1001,
    Fault.READ_TIMEOUT: 1001,
}


@pytest.mark.parametrize("fault", EXPECTED)
def test_fault_has_the_code_that_fits(fault: Fault) -> None:
    assert EXPECTED[fault] == answered(GatewayError(fault))[0]


@pytest.mark.parametrize(
    "fault", [fault for fault in Fault if TABLE[fault].outcome in {Outcome.UNKNOWN, Outcome.DELIVERED}]
)
def test_what_may_have_cost_money_is_never_shown_as_a_failure_that_is_free(fault: Fault) -> None:
    """1000, 1024 and 1033 count as refused, 1001 as unknown: a client of ours must not buy again (section 3)."""
    assert answered(GatewayError(fault))[0] == 1001


@pytest.mark.parametrize("fault", [fault for fault in Fault if TABLE[fault].status == 503])
def test_trouble_with_our_own_keys_never_looks_like_the_callers(fault: Fault) -> None:
    for upstream_code in (None, 1004, 1008, 2049, 2056):
        assert answered(GatewayError(fault, upstream_code=upstream_code))[0] == 1033


@pytest.mark.parametrize(
    ("fault", "upstream_code", "expected"),
    [
        (Fault.UPSTREAM_ERROR, 1024, 1024),
        (Fault.UPSTREAM_ERROR, 1000, 1000),
        (Fault.UPSTREAM_ERROR, 1013, 1013),
        (Fault.CONTENT_INPUT, 1026, 1026),
        (Fault.UPSTREAM_REJECTED, 2013, 2013),
        (Fault.CONTENT_INPUT, 2013, 1026),
        (Fault.UPSTREAM_ERROR, 777, 1033),
        (Fault.UPSTREAM_MISPLACED, 1043, 1033),
        (Fault.ACCOUNT_TOKEN_LIMITED, 1039, 1002),
    ],
)
def test_upstreams_code_is_kept_where_it_is_about_the_request(fault: Fault, upstream_code: int, expected: int) -> None:
    assert expected == answered(GatewayError(fault, upstream_code=upstream_code))[0]


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Fault.ACCOUNT_RATE_LIMITED, b'{"base_resp":{"status_code":1002,"status_msg":"rate limit exceeded(RPM)"}}'),
        (
            Fault.NO_CREDENTIALS,
            (
                b'{"base_resp":{"status_code":1004,"status_msg":"login fail: Please carry the API secret key in the '
                b"'Authorization' field of the request header\"}}"
            ),
        ),
    ],
)
def test_error_bodies_are_the_observed_ones_to_the_byte(fault: Fault, body: bytes) -> None:
    assert body == render_native_error(GatewayError(fault))
