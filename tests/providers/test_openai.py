"""The wire of each provider that speaks OpenAI's format: what is sent, and how every kind of response is read."""

import base64
from typing import Any, Final, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.upstreams import ProviderName
from gateway.domain.accounts import make_secret
from gateway.domain.catalog import Model, Target, plan_shape
from gateway.domain.errors import ErrorCode, GatewayError, Outcome
from gateway.domain.images import (
    Base64Image,
    CallPlan,
    Format,
    ImageJob,
    ImageReply,
    ImageUrl,
    InputImage,
    Operation,
    ResponseFormat,
    Role,
    Size,
    TokenUsage,
)
from gateway.domain.sizes import SizePolicy
from gateway.providers import PROVIDERS
from gateway.providers.openai import OpenAI
from gateway.providers.openai.errors import ARK_CODES, AZURE_CODES, OPENAI_CODES, QIANFAN_CODES, ZHIPU_CODES
from gateway.providers.openai.profiles import PROFILES
from gateway.providers.protocol import KeyCheck, ProviderRequest
from gateway.providers.replies import UpstreamResponse
from tests.support.errors import attempt
from tests.support.pictures import drawn

KEY: Final = make_secret("key-1")
URL: Final = "https://img.example.com/a.png?sign=x"
PNG: Final = drawn("PNG", (32, 16))
B64: Final = base64.b64encode(PNG).decode()
DATA_URL: Final = f"data:image/png;base64,{B64}"
INPUT: Final = InputImage(Role.IMAGE, msgspec.json.encode(DATA_URL), Format.PNG, 100)
MASK: Final = InputImage(Role.MASK, msgspec.json.encode(DATA_URL), Format.PNG, 100)
MODELS: Final = {
    "302ai-images": "flux-kontext-pro",
    "302ai-openai": "gpt-image-2",
    "ark": "doubao-seedream-5-0-260128",
    "azure": "pictures",
    "byteplus": "seedream-4-5-251128",
    "generic": "flux",
    "minimax-h3": "MiniMax-H3-Image",
    "openai": "gpt-image-2.5-sunburst",
    "qianfan": "qwen-image",
    "recraft": "recraftv4_1",
    "zai": "glm-image",
    "zhipu": "cogview-4",
}
"""A model of each provider."""


def provider(name: str) -> OpenAI:
    found = PROVIDERS[name]
    assert isinstance(found, OpenAI)
    return found


def call(name: str, model: str = "", images: int = 1, delivery: str = "base64", **fields: Any) -> ProviderRequest:
    """Plans and builds a call, as the runner does."""
    made, model = provider(name), model or MODELS[name]
    job = ImageJob("a fox", images, ResponseFormat(delivery), **fields)
    shape = plan_shape(job, made.capability(model, {}), SizePolicy.STRICT)
    assert shape is not None
    return made.build_call(job, CallPlan(model, images, shape, ResponseFormat(delivery)), KEY)


def body(request: ProviderRequest) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(b"".join(request.body))
    return found


def reply(content: object, status: int = 200, **headers: str) -> UpstreamResponse:
    sent = (msgspec.json.encode({"model": "m", "prompt": "a fox in the snow"}),)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return UpstreamResponse(status, raw, headers=named, sent=sent)


def read(name: str, content: object, status: int = 200, delivery: str = "url") -> ImageReply:
    return provider(name).read_reply(reply(content, status, x_request_id="req_1"), ResponseFormat(delivery))


def error_code_of(found: object) -> ErrorCode | None:
    return found.error_code if isinstance(found, GatewayError | KeyCheck) else None


def refused(name: str, content: object, status: int = 200) -> GatewayError:
    found = attempt(lambda: read(name, content, status))
    assert isinstance(found, GatewayError)
    return found


def test_every_profile_is_a_provider_that_can_be_configured() -> None:
    assert set(get_args(ProviderName)) == set(PROVIDERS)
    assert set(PROFILES) == set(MODELS)


TWICE = {"model": "m", "prompt": "a fox", "n": 2}
BODIES: Final = [
    ("openai", {}, "/images/generations", {}),
    ("openai", {"images": 2, "delivery": "url"}, "/images/generations", {"n": 2}),
    (
        "openai",
        {
            "size": Size(1536, 1024),
            "quality": "xhigh",
            "background": "transparent",
            "moderation": "low",
            "output_format": Format.WEBP,
            "output_compression": 80,
            "end_user": "u1",
        },
        "/images/generations",
        {
            "size": "1536x1024",
            "quality": "xhigh",
            "background": "transparent",
            "moderation": "low",
            "output_format": "webp",
            "output_compression": 80,
            "user": "u1",
        },
    ),
    (
        "azure",
        {"end_user": "u1"},
        "/openai/deployments/pictures/images/generations?api-version=2025-04-01-preview",
        {"user": "u1"},
    ),
    (
        "minimax-h3",
        {
            "images": 3,
            "size": Size(1000, 700),
            "output_format": Format.JPEG,
            "output_compression": 50,
            "end_user": "u1",
        },
        "/images/generations",
        {"n": 3, "size": "1000x700", "response_format": "b64_json", "output_format": "jpeg", "output_compression": 50},
    ),
    (
        "ark",
        {"delivery": "url", "output_format": Format.PNG, "output_compression": 5},
        "/images/generations",
        {"size": "2048x2048", "response_format": "url", "watermark": False, "output_format": "png"},
    ),
    (
        "byteplus",
        {"size": Size(2304, 1728)},
        "/images/generations",
        {"size": "2304x1728", "response_format": "b64_json", "watermark": False},
    ),
    (
        "zhipu",
        {"quality": "high", "end_user": "u1"},
        "/images/generations",
        {"size": "1024x1024", "quality": "hd", "user_id": "u1", "watermark_enabled": False},
    ),
    (
        "zai",
        {"quality": "medium"},
        "/images/generations",
        {"size": "1280x1280", "quality": "standard", "watermark_enabled": False},
    ),
    ("qianfan", {"seed": 7, "end_user": "u1"}, "/images/generations", {"size": "1024x1024", "seed": 7, "user": "u1"}),
    (
        "recraft",
        {"images": 6, "seed": 7, "output_format": Format.PNG, "delivery": "url"},
        "/images/generations",
        {"n": 6, "size": "1024x1024", "response_format": "url", "image_format": "png", "random_seed": 7},
    ),
    ("302ai-openai", {"delivery": "url"}, "/v1/images/generations?response_format=url", {}),
    ("302ai-openai", {"images": 2}, "/v1/images/generations?response_format=b64_json", {"n": 2}),
    ("302ai-images", {}, "/302/images/generations", {"size": "1024x1024", "response_format": "b64_json"}),
    ("generic", {"delivery": "url"}, "/images/generations", {"size": "1024x1024", "response_format": "url"}),
]


@pytest.mark.parametrize(("name", "fields", "path", "expected"), BODIES)
def test_a_call_has_the_fields_of_its_provider_only(
    name: str, fields: dict[str, Any], path: str, expected: dict[str, Any]
) -> None:
    request = call(name, **fields)
    assert ("POST", path) == (request.method, request.path)
    assert {"model": MODELS[name], "prompt": "a fox", **expected} == body(request)
    assert ("content-type", "application/json") in request.headers
    key = ("api-key", "key-1") if name == "azure" else ("authorization", "Bearer key-1")
    assert key in request.headers


@pytest.mark.parametrize(
    ("name", "model", "path", "expected"),
    [
        ("qianfan", "musesteamer-air-image", "/musesteamer/images/generations", {}),
        ("generic", "gpt-image-2", "/images/generations", {}),
        (
            "azure",
            "a/b?c",
            "/openai/deployments/a%2Fb%3Fc/images/generations?api-version=2025-04-01-preview",
            {"model": "a/b?c"},
        ),
        ("ark", "doubao-seedream-3-0-t2i-250415", "/images/generations", {"size": "1024x1024", "watermark": False}),
    ],
)
def test_some_models_differ(name: str, model: str, path: str, expected: dict[str, Any]) -> None:
    request = call(name, model)
    assert path == request.path
    assert expected == {key: value for key, value in body(request).items() if key in expected}
    assert (name == "ark") == ("response_format" in body(request))


@pytest.mark.parametrize(
    ("name", "model", "images", "path", "expected"),
    [
        ("ark", "", 1, "/images/generations", {"image": DATA_URL}),
        ("ark", "", 2, "/images/generations", {"image": [DATA_URL, DATA_URL]}),
        ("minimax-h3", "", 1, "/images/generations", {"images": [{"image_url": DATA_URL}]}),
        ("minimax-h3", "", 2, "/images/generations", {"images": [{"image_url": DATA_URL}] * 2}),
        ("qianfan", "qwen-image-edit", 1, "/images/edits", {"image": DATA_URL}),
    ],
)
def test_an_edit_in_json_shares_its_images_with_the_job(
    name: str, model: str, images: int, path: str, expected: dict[str, Any]
) -> None:
    request = call(name, model, operation=Operation.EDIT, inputs=(INPUT,) * images)
    assert path == request.path
    assert expected == {key: body(request)[key] for key in expected}
    assert images == sum(piece is INPUT.link for piece in request.body)
    assert 0 == request.copied_bytes


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("openai", "/images/edits"),
        ("azure", "/openai/deployments/pictures/images/edits?api-version=2025-04-01-preview"),
        ("302ai-openai", "/v1/images/edits?response_format=b64_json"),
        ("302ai-images", "/302/images/edits"),
        ("generic", "/images/edits"),
    ],
)
@pytest.mark.parametrize("inputs", [(INPUT,), (INPUT, MASK), (INPUT, INPUT, MASK)])
def test_an_edit_as_a_form_has_its_files_decoded(name: str, path: str, inputs: tuple[InputImage, ...]) -> None:
    request = call(name, operation=Operation.EDIT, inputs=inputs)
    form = b"".join(request.body)
    field = b'name="image"' if len(inputs) < 3 else b'name="image[]"'
    assert path == request.path
    assert len(inputs) - (MASK in inputs) == form.count(field)
    assert (MASK in inputs) == (b'name="mask"' in form)
    assert len(inputs) == form.count(PNG)
    assert b'name="prompt"\r\n\r\na fox\r\n' in form
    assert len(inputs) * len(PNG) == request.copied_bytes
    [kind] = [value for key, value in request.headers if key == "content-type"]
    assert kind.startswith("multipart/form-data; boundary=")


@pytest.mark.parametrize("name", ["openai", "azure", "generic"])
def test_a_form_takes_no_links(name: str) -> None:
    linked = InputImage(Role.IMAGE, b'"https://example.com/a.png"')
    rule = provider(name).capability(MODELS[name], {}).edits
    assert rule
    assert not rule.accepts((linked,))
    assert rule.accepts((INPUT,))


@pytest.mark.parametrize("name", PROFILES)
def test_images_are_read_as_links_or_as_slices_of_the_response(name: str) -> None:
    linked = read(name, {"created": 1, "data": [{"url": URL}, {"url": URL, "b64_json": ""}]})
    assert (ImageUrl(URL), ImageUrl(URL)) == linked.pictures
    encoded = read(name, {"created": 1, "data": [{"b64_json": B64}]}, delivery="base64")
    [image] = encoded.pictures
    assert isinstance(image, Base64Image)
    assert (B64, Size(32, 16)) == (bytes(image.base64).decode(), encoded.made)
    both = read(name, {"data": [{"b64_json": B64, "url": URL}]}, delivery="url")
    assert (ImageUrl(URL),) == both.pictures


USAGE: Final = {
    "input_tokens": 50,
    "output_tokens": 4160,
    "total_tokens": 4210,
    "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
}


@pytest.mark.parametrize(
    ("name", "extra", "expected"),
    [
        ("openai", {"usage": USAGE}, ("req_1", TokenUsage(50, 4160, 10, 40), None)),
        ("302ai-openai", {"usage": USAGE | {"prompt_tokens": 0}}, ("", TokenUsage(50, 4160, 10, 40), None)),
        ("zhipu", {"request_id": "r1"}, ("r1", None, None)),
        ("qianfan", {"id": "as-1"}, ("as-1", None, None)),
        ("recraft", {"credits": 40}, ("req_1", None, 40_000)),
        ("recraft", {"credits": True}, ("req_1", None, None)),
        ("openai", {"credits": 40, "usage": {"input_tokens": -1, "output_tokens": 3}}, ("req_1", None, None)),
        ("ark", {"usage": {"generated_images": 1, "output_tokens": 9}}, ("req_1", None, None)),
    ],
)
def test_what_a_response_states_is_read(name: str, extra: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = read(name, {"created": 1, "data": [{"url": URL}], **extra})
    assert expected == (found.id, found.usage, found.stated_usd_micros)


def test_the_size_behind_a_link_is_the_stated_one() -> None:
    assert Size(2048, 1536) == read("ark", {"data": [{"url": URL, "size": "2048x1536"}]}).made
    assert Size(1024, 1536) == read("openai", {"data": [{"url": URL}], "size": "1024x1536"}).made
    assert read("openai", {"data": [{"url": URL}], "size": "auto"}).made is None


BLOCKED: Final = {"error": {"code": "OutputImageSensitiveContentDetected.Violence", "message": "no"}}
FAILED: Final = {"error": {"code": "InternalServiceError", "message": "no"}}
STRANGE: Final = {"error": {"code": "Strange", "message": "no"}}
NONE_MADE: Final = {"usage": {"generated_images": 0}}


@pytest.mark.parametrize(
    ("name", "items", "extra", "expected"),
    [
        ("ark", [{"url": URL}, BLOCKED], {}, 1),
        ("ark", [{"url": URL}, FAILED, STRANGE], {}, 0),
        ("ark", [BLOCKED, BLOCKED], NONE_MADE, ErrorCode.CONTENT_OUTPUT),
        ("ark", [BLOCKED], {}, ErrorCode.CONTENT_MODERATED),
        ("ark", [FAILED], NONE_MADE, ErrorCode.UPSTREAM_ERROR),
        ("ark", [FAILED], {}, ErrorCode.INVALID_RESPONSE),
        ("ark", [STRANGE], NONE_MADE, ErrorCode.INVALID_RESPONSE),
        ("ark", [], NONE_MADE, ErrorCode.EMPTY_RESPONSE),
        ("ark", [], {"usage": {"generated_images": 1}}, ErrorCode.INVALID_RESPONSE),
        ("ark", [], NONE_MADE | {"image_urls": [URL]}, ErrorCode.INVALID_RESPONSE),
        ("minimax-h3", [{"error": {"code": "moderation_blocked"}}], {}, ErrorCode.CONTENT_MODERATED),
    ],
)
def test_an_error_in_place_of_an_image(
    name: str, items: list[object], extra: dict[str, Any], expected: int | ErrorCode
) -> None:
    found = attempt(lambda: read(name, {"data": items, **extra}))
    assert expected == (found.failed if isinstance(found, ImageReply) else error_code_of(found))


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize(
    "content",
    [
        {},
        {"data": []},
        {"data": None},
        {"data": [{}]},
        {"data": [{"revised_prompt": "a fox"}]},
        {"data": [{"b64_json": "not base64"}]},
        {"data": [{"url": "ftp://example.com/a"}]},
        {"data": {"url": URL}},
        {"images": [{"url": URL}]},
        {"created": 1, "output": URL},
        {"error": {"message": "something else"}},
        b"",
        b"[]",
        b"ok",
    ],
)
def test_a_success_without_images_may_have_been_billed(name: str, content: object) -> None:
    assert Outcome.UNKNOWN is refused(name, content).row.outcome


@pytest.mark.parametrize(
    "content",
    [
        {"error": {"code": "invalid_value", "message": "no"}, "data": [{"b64_json": B64}]},
        {"error": {"code": "invalid_value", "message": "no"}, "data": [{"url": URL}]},
        {"error": {"code": "insufficient_quota"}, "images": [f"data:image/png;base64,{B64}"]},
    ],
)
def test_images_beside_a_refusal_may_have_been_billed(content: object) -> None:
    assert ErrorCode.INVALID_RESPONSE is refused("openai", content, 400).error_code


def test_an_error_that_repeats_the_prompt_is_a_refusal() -> None:
    prompt = f"like {URL}"
    sent = call("openai", operation=Operation.EDIT, inputs=(INPUT,))
    made = provider("openai")
    job = ImageJob(prompt, operation=Operation.EDIT, inputs=(INPUT,))
    shape = plan_shape(job, made.capability("gpt-image-2", {}), SizePolicy.NEAREST)
    assert shape
    sent = made.build_call(job, CallPlan("gpt-image-2", 1, shape, ResponseFormat.BASE64), KEY)
    content = {"error": {"code": "moderation_blocked", "message": "no", "input": [prompt.removeprefix("like ")]}}
    answer = UpstreamResponse(400, msgspec.json.encode(content), sent=sent.body)
    found = attempt(lambda: made.read_reply(answer, ResponseFormat.BASE64))
    assert isinstance(found, GatewayError)
    assert ErrorCode.CONTENT_INPUT is found.error_code


def error(code: object = None, kind: str = "", **more: object) -> dict[str, object]:
    return {"error": {"code": code, "type": kind, "message": "no", **more}}


REFUSALS: Final = [
    ("openai", 401, error("invalid_api_key", "invalid_request_error"), ErrorCode.KEY_INVALID),
    ("openai", 401, error(None, "invalid_request_error"), ErrorCode.BARE_UNAUTHORIZED),
    ("openai", 403, error(None, "invalid_request_error"), ErrorCode.BARE_FORBIDDEN),
    ("openai", 429, error("insufficient_quota", "insufficient_quota"), ErrorCode.INSUFFICIENT_BALANCE),
    ("openai", 400, error("billing_hard_limit_reached", "invalid_request_error"), ErrorCode.INSUFFICIENT_BALANCE),
    ("openai", 429, error("rate_limit_exceeded", "requests"), ErrorCode.ACCOUNT_RATE_LIMITED),
    ("openai", 429, error("slow_down", "rate_limit_error"), ErrorCode.ACCOUNT_GROWTH_LIMITED),
    ("openai", 503, error("server_is_overloaded", "service_unavailable_error"), ErrorCode.MODEL_UNAVAILABLE),
    ("openai", 500, error(None, "server_error"), ErrorCode.UPSTREAM_ERROR),
    ("openai", 500, error("strange"), ErrorCode.INVALID_RESPONSE),
    ("openai", 504, error(None, "server_error"), ErrorCode.UPSTREAM_TIMEOUT),
    ("openai", 502, b"<html><title>Bad gateway</title></html>", ErrorCode.INVALID_RESPONSE),
    ("openai", 404, error("model_not_found", "invalid_request_error"), ErrorCode.KEY_MODEL_DENIED),
    ("openai", 400, error("moderation_blocked", "image_generation_user_error"), ErrorCode.CONTENT_INPUT),
    (
        "openai",
        400,
        error("moderation_blocked", moderation_details={"moderation_stage": "output", "categories": []}),
        ErrorCode.CONTENT_OUTPUT,
    ),
    ("openai", 400, error(None, "image_generation_user_error"), ErrorCode.UPSTREAM_REJECTED),
    ("openai", 429, b'{"error":{"code":"insufficient_quota","code":"x"}}', ErrorCode.BARE_RATE_LIMITED),
    ("azure", 401, error("401"), ErrorCode.KEY_INVALID),
    ("azure", 404, error("DeploymentNotFound"), ErrorCode.KEY_MODEL_DENIED),
    ("azure", 400, error("contentFilter"), ErrorCode.CONTENT_INPUT),
    (
        "minimax-h3",
        401,
        {
            "type": "error",
            "error": {"type": "authentication_error", "message": "no", "http_code": "401"},
            "request_id": "1",
        },
        ErrorCode.KEY_INVALID,
    ),
    ("minimax-h3", 200, {"base_resp": {"status_code": 1008, "status_msg": "no"}}, ErrorCode.INSUFFICIENT_BALANCE),
    ("minimax-h3", 200, {"base_resp": {"status_code": 0, "status_msg": "success"}}, ErrorCode.INVALID_RESPONSE),
    ("minimax-h3", 402, {"base_resp": {"status_code": 1008, "status_msg": "no"}}, ErrorCode.INSUFFICIENT_BALANCE),
    ("ark", 401, error("AuthenticationError"), ErrorCode.KEY_INVALID),
    ("ark", 403, error("AccountOverdueError"), ErrorCode.INSUFFICIENT_BALANCE),
    ("ark", 429, error("RateLimitExceeded.EndpointRPMExceeded"), ErrorCode.ACCOUNT_RATE_LIMITED),
    ("ark", 429, error("ServerOverloaded"), ErrorCode.MODEL_UNAVAILABLE),
    ("ark", 400, error("InvalidParameter.Size"), ErrorCode.UPSTREAM_REJECTED),
    ("ark", 400, error("InputTextSensitiveContentDetected.SevereViolation"), ErrorCode.CONTENT_INPUT),
    ("ark", 200, error("InputImageRiskDetection"), ErrorCode.CONTENT_INPUT),
    ("ark", 500, error("InternalServiceError"), ErrorCode.UPSTREAM_ERROR),
    ("byteplus", 404, error("InvalidEndpointOrModel.NotFound"), ErrorCode.UPSTREAM_UNSUPPORTED),
    ("zhipu", 401, error("1002"), ErrorCode.KEY_INVALID),
    ("zhipu", 429, error("1113"), ErrorCode.INSUFFICIENT_BALANCE),
    ("zhipu", 429, error(1113), ErrorCode.INSUFFICIENT_BALANCE),
    ("zhipu", 429, error("1302"), ErrorCode.ACCOUNT_RATE_LIMITED),
    ("zhipu", 429, error("1305"), ErrorCode.MODEL_UNAVAILABLE),
    ("zhipu", 429, error("1308"), ErrorCode.QUOTA_EXHAUSTED_PLAN),
    ("zhipu", 400, error("1301"), ErrorCode.CONTENT_INPUT),
    ("zai", 400, error("1214"), ErrorCode.UPSTREAM_REJECTED),
    ("qianfan", 401, error("invalid_iam_token"), ErrorCode.KEY_INVALID),
    ("qianfan", 404, error("invalid_model"), ErrorCode.UPSTREAM_UNSUPPORTED),
    ("recraft", 401, {"code": "unauthorized", "message": "no"}, ErrorCode.BARE_UNAUTHORIZED),
    ("recraft", 429, {"message": "no"}, ErrorCode.BARE_RATE_LIMITED),
    ("302ai-openai", 500, {"error": {"err_code": -10004, "message": "no"}}, ErrorCode.INSUFFICIENT_BALANCE),
    ("302ai-images", 401, {"error": {"err_code": -10002, "message": "no"}}, ErrorCode.KEY_INVALID),
    ("302ai-openai", 429, error("insufficient_quota"), ErrorCode.BARE_RATE_LIMITED),
    ("302ai-openai", 400, error("moderation_blocked"), ErrorCode.CONTENT_INPUT),
    ("generic", 401, error("invalid_api_key"), ErrorCode.BARE_UNAUTHORIZED),
    ("generic", 500, error(None, "server_error"), ErrorCode.INVALID_RESPONSE),
    ("generic", 400, error("content_policy_violation"), ErrorCode.CONTENT_INPUT),
]


@pytest.mark.parametrize(("name", "status", "content", "expected"), REFUSALS)
def test_the_code_decides_before_the_status(name: str, status: int, content: object, expected: ErrorCode) -> None:
    assert expected is refused(name, content, status).error_code


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("openai", OPENAI_CODES),
        ("azure", AZURE_CODES),
        ("ark", ARK_CODES),
        ("byteplus", ARK_CODES),
        ("zhipu", ZHIPU_CODES),
        ("zai", ZHIPU_CODES),
        ("qianfan", QIANFAN_CODES),
    ],
)
def test_every_code_of_a_table_has_its_meaning(name: str, codes: dict[str, ErrorCode]) -> None:
    assert codes == {code: refused(name, error(code), 400).error_code for code in codes}


def test_the_field_at_fault_is_named() -> None:
    assert "size" == refused("openai", error("invalid_value", param="size"), 400).param
    assert refused("openai", error("invalid_value", param="response_format"), 400).param is None


@pytest.mark.parametrize("name", ["openai", "ark", "302ai-openai"])
@given(
    content=st.binary(max_size=60) | st.just(b'{"data":[' + b'{"url":1},' * 40 + b"{}]}"), status=st.integers(200, 599)
)
def test_any_bytes_are_read_or_refused(name: str, content: bytes, status: int) -> None:
    assert isinstance(attempt(lambda: read(name, content, status)), GatewayError)


CHECKS: Final = [
    ("openai", {"data": []}, 200, None),
    ("openai", {}, 200, ErrorCode.INVALID_RESPONSE),
    ("openai", error("invalid_api_key"), 401, ErrorCode.KEY_INVALID),
    ("ark", error("MissingParameter"), 400, None),
    ("ark", error("AuthenticationError"), 401, ErrorCode.KEY_INVALID),
    ("ark", {"data": [{"url": URL}]}, 200, ErrorCode.INVALID_RESPONSE),
    ("qianfan", error("invalid_model"), 404, None),
    ("qianfan", error("invalid_iam_token"), 401, ErrorCode.KEY_INVALID),
    ("zhipu", {"data": []}, 200, None),
    ("recraft", {"credits": 1000, "email": "a@example.com"}, 200, None),
    ("recraft", {"credits": 0}, 200, ErrorCode.INSUFFICIENT_BALANCE),
    ("recraft", {}, 200, ErrorCode.INVALID_RESPONSE),
    ("minimax-h3", {"base_resp": {"status_code": 0}, "model_remains": []}, 200, None),
    ("generic", {"data": []}, 200, None),
    ("generic", b"<html>", 404, ErrorCode.UPSTREAM_UNSUPPORTED),
]


@pytest.mark.parametrize(("name", "content", "status", "expected"), CHECKS)
def test_a_free_request_shows_the_health_of_a_key(
    name: str, content: object, status: int, expected: ErrorCode | None
) -> None:
    made = provider(name)
    request = made.build_key_check(KEY)
    assert ("POST" if name in {"ark", "byteplus", "qianfan"} else "GET") == request.method
    assert b"" == b"".join(request.body) or b"{}" == b"".join(request.body)
    found = attempt(lambda: made.read_key_check(reply(content, status)))
    assert expected is error_code_of(found)


@pytest.mark.parametrize(
    ("name", "model", "overrides", "why"),
    [
        ("openai", "gpt-image-2", {"prompt_optimizer": True}, "prompt_optimizer: provider 'openai'"),
        ("openai", "gpt-image-2", {"seed": True}, "seed: "),
        ("zhipu", "cogview-4", {"base64_response": True}, "base64_response: "),
        ("recraft", "recraftv3_vector", {}, "makes SVG"),
    ],
)
def test_what_a_provider_cannot_do_is_refused_in_the_configuration(
    name: str, model: str, overrides: dict[str, int], why: str
) -> None:
    with pytest.raises((ValueError, LookupError), match=why):
        provider(name).capability(model, overrides)


@pytest.mark.parametrize(
    ("name", "size", "images"),
    [
        ("openai", "1024x1024", 10),
        ("openai", "1536x1024", 10),
        ("openai", "3840x2160", 2),
        ("minimax-h3", "4096x4096", 1),
        ("recraft", "1024x1024", 6),
        ("generic", "1024x1024", 1),
    ],
)
def test_the_images_of_a_call_fit_into_a_response(name: str, size: str, images: int) -> None:
    width, _, height = size.partition("x")
    job = ImageJob("x", 10, size=Size(int(width), int(height)))
    model = Model("m", (), (), (Target("a", MODELS[name], provider(name).capability(MODELS[name], {})),))
    [planned] = model.plan(job, SizePolicy.STRICT)
    assert images == planned.capability.max_images_per_call
    pixels = images * planned.shape.made.width * planned.shape.made.height
    assert images == 1 or pixels * 4 <= 67_108_864


def test_an_operator_describes_a_relay() -> None:
    capability = provider("generic").capability(
        "flux", {"max_images_per_call": 4, "seed": True, "exact_sizes": True, "base64_response": False}
    )
    assert (4, False) == (capability.max_images_per_call, capability.supports_base64)
    assert "seed" in capability.fields
    assert plan_shape(ImageJob("x", size=Size(777, 555)), capability, SizePolicy.STRICT)
