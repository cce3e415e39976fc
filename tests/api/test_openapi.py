"""The document describes what the program does, and nothing else."""

import json
import re
from collections.abc import Iterator, Mapping
from inspect import isfunction
from typing import Any, Final, get_args, get_type_hints

import httpx
import pytest
from openapi_spec_validator import validate
from starlette.routing import Route

from gateway.api import minimax, openai, openai_edits
from gateway.api.admin.keys import GRACE_MAX_S, GRACE_S
from gateway.api.errors import NOT_OFFERED
from gateway.api.fields import STYLES
from gateway.api.images import ImageRoutes
from gateway.api.openai import OpenAIOptions, RequestFields, parse_generation
from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve as resolve_config
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError, KeyState
from gateway.domain.tenants import LIMIT_MAX, LIMIT_NAMES, QUOTA_NAMES, Tenant
from gateway.providers.minimax import PRESETS
from tests.support.harness import Gateway, MakeGateway, document, environment, upstream
from tests.support.openapi import DESCRIBED, OPTIONAL_FIELDS, SCHEMAS, conform, enum, resolve

CONFIGURED: Final = document("redis://localhost:1", upstream("sim", "minimax", "http://127.0.0.1:1"))
METHODS: Final = ("get", "put", "post", "delete", "patch")


def parse(**fields: object) -> None:
    environ = environment(CONFIGURED)
    catalog = resolve_config(from_document(dict(CONFIGURED), environ, "test"), environ).catalog
    parse_generation(json.dumps({"prompt": "x", **fields}).encode(), catalog, Tenant("acme"), OpenAIOptions())


def operations() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, item in DESCRIBED["paths"].items():
        for method, operation in item.items():
            if method in METHODS:
                yield path, method.upper(), operation


def routes() -> set[tuple[str, str]]:
    """The app's own table; HEAD comes with every GET and is described once in the document's head.

    The console's own routes are for its pages only.
    """
    environ = environment(CONFIGURED)
    app = create_app(resolve_config(from_document(dict(CONFIGURED), environ, "test"), environ))
    return {
        (re.sub(r":\w+}", "}", route.path), method)
        for route in app.routes
        if isinstance(route, Route) and not route.path.startswith("/console")
        for method in (route.methods or set()) - {"HEAD"}
    }


def walk(node: object) -> Iterator[Mapping[str, Any]]:
    match node:
        case dict():
            yield node
            for value in node.values():
                yield from walk(value)
        case list():
            for value in node:
                yield from walk(value)


def test_the_document_is_valid_openapi_3_1() -> None:
    validate(DESCRIBED)
    assert DESCRIBED["openapi"].startswith("3.1")


def test_every_route_and_method_is_described_and_nothing_else_is() -> None:
    assert routes() == {(path, method) for path, method, _ in operations()}


def test_every_operation_is_named_once() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert sorted(set(names)) == sorted(names)


def test_no_component_is_unused() -> None:
    used = {node["$ref"] for node in walk(DESCRIBED) if "$ref" in node}
    kinds = {kind: items for kind, items in DESCRIBED["components"].items() if kind != "securitySchemes"}
    assert set() == {f"#/components/{kind}/{name}" for kind, items in kinds.items() for name in items} - used


def test_every_field_of_the_reference_is_in_the_request_schema() -> None:
    assert set(SCHEMAS["GenerationRequest"]["properties"]) == {"prompt", *OPTIONAL_FIELDS}


def test_every_field_that_the_code_reads_is_in_the_request_schema() -> None:
    assert set(SCHEMAS["GenerationRequest"]["properties"]) == set(RequestFields.__struct_fields__)
    assert set(SCHEMAS["NativeRequest"]["properties"]) == set(minimax.NativeFields.__struct_fields__)
    edited = set(openai_edits.EditFields.__struct_fields__) - {"subject_reference"}  # refused beside an image
    assert edited == set(SCHEMAS["EditRequest"]["properties"])
    assert edited - {"images"} | {"image[]"} == set(SCHEMAS["EditForm"]["properties"])


@pytest.mark.parametrize("field", OPTIONAL_FIELDS)
def test_every_described_field_is_known_to_the_code(field: str) -> None:
    parse(**{field: None})
    with pytest.raises(GatewayError) as refused:
        parse(**{field: {"of": ["no", "known", "type"]}})
    assert ErrorCode.UNKNOWN_PARAMETER is not refused.value.error_code
    assert field == refused.value.param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (field, value)
        for field, node in SCHEMAS["GenerationRequest"]["properties"].items()
        for value in resolve(node).get("enum", [])
    ],
)
def test_every_described_choice_is_accepted(field: str, value: str) -> None:
    parse(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("output_format", "PNG"),
        ("output_format", "avif"),
        ("output_format", "gif"),
        ("output_format", "svg"),
        ("background", "transparent"),
        ("quality", "best"),
        ("moderation", "high"),
        ("complexity", "max"),
        ("response_format", "base64"),
        ("aspect_ratio", "5:4"),
        ("style", "gloomy"),
    ],
)
def test_choices_that_are_not_described_are_refused(field: str, value: str) -> None:
    assert value not in (resolve(SCHEMAS["GenerationRequest"]["properties"][field]).get("enum") or [])
    with pytest.raises(GatewayError) as refused:
        parse(**{field: value})
    assert ErrorCode.INVALID_VALUE is refused.value.error_code
    assert field == refused.value.param


def test_documented_enums_equal_those_of_the_code() -> None:
    style = resolve(SCHEMAS["MinimaxStyle"]["properties"]["style_type"])["enum"]
    for field in ("quality", "moderation", "complexity"):
        choices = [choice for kind in get_args(get_type_hints(RequestFields)[field]) for choice in get_args(kind)]
        assert set(choices) == enum("GenerationRequest", field)
    assert set(PRESETS) == enum("GenerationRequest", "aspect_ratio") == enum("NativeRequest", "aspect_ratio")
    assert list(STYLES) == style
    assert {state.value for state in KeyState} == enum("PoolKey", "state")
    assert {row.type for row in ERROR_SPECS.values()} | {"image_generation_user_error"} == enum("ErrorObject", "type")
    assert {row.code for row in ERROR_SPECS.values() if row.code} | {"moderation_blocked"} == enum(
        "ErrorObject", "code"
    )


def test_the_documented_native_codes_are_those_that_a_client_can_see() -> None:
    upstream_codes = [None, *minimax.TEXTS]
    seen = {
        minimax.native_code(GatewayError(error_code, upstream_code=code))
        for error_code in ErrorCode
        for code in upstream_codes
    }
    documented = resolve(SCHEMAS["BaseResp"]["properties"]["status_code"])["enum"]
    assert seen | {0} == set(documented)


def test_the_bounds_of_n_are_those_of_the_code() -> None:
    assert openai.IMAGES_MAX == SCHEMAS["GenerationRequest"]["properties"]["n"]["maximum"] == 10
    assert minimax.IMAGES_MAX == SCHEMAS["NativeRequest"]["properties"]["n"]["maximum"] == 9


def test_the_limits_and_quotas_are_those_of_the_code() -> None:
    for schema, names in (("Limits", LIMIT_NAMES), ("Quotas", QUOTA_NAMES)):
        shown = {name.replace("usd_micros_", "usd_") for name in names}
        assert shown == set(SCHEMAS[schema]["properties"]) == set(SCHEMAS[f"{schema}Change"]["properties"])
        highest = {node.get("maximum", LIMIT_MAX) for node in SCHEMAS[f"{schema}Change"]["properties"].values()}
        assert {LIMIT_MAX} == highest
    assert (GRACE_MAX_S, GRACE_S) == tuple(
        SCHEMAS["Rotation"]["properties"]["grace_s"][name] for name in ("maximum", "default")
    )


def test_every_status_of_the_table_of_faults_is_described() -> None:
    described = {int(status) for _, _, operation in operations() for status in operation["responses"]}
    told_in_the_head = {status for status in (404, 405, 421, 431) if str(status) in DESCRIBED["info"]["description"]}
    seen_by_nobody = {499}
    assert set() == {row.status for row in ERROR_SPECS.values()} - described - told_in_the_head - seen_by_nobody


@pytest.mark.parametrize(("path", "method", "operation"), list(operations()), ids=lambda value: str(value)[:40])
def test_every_operation_says_which_key_it_needs(path: str, method: str, operation: Mapping[str, Any]) -> None:
    scheme = {"/admin": "adminKey", "/v1": "tenantKey", "/minim": "tenantKey"}
    expected: list[dict[str, list[str]]] = [
        {name: []} for prefix, name in scheme.items() if path.startswith(prefix) and path not in NOT_OFFERED
    ]
    assert expected == operation["security"]
    assert (bool(expected) and path not in minimax.PATHS) == ("401" in operation["responses"])


@pytest.mark.parametrize(("path", "method", "operation"), list(operations()), ids=lambda value: str(value)[:40])
def test_every_answer_has_the_headers_that_are_on_every_answer(
    path: str, method: str, operation: Mapping[str, Any]
) -> None:
    for status, node in operation["responses"].items():
        headers = set(resolve(node)["headers"])
        assert {"x-request-id", "openai-version", "openai-processing-ms"} <= headers
        if status in {"429", "503"} and path != "/readyz":
            assert "retry-after" in headers


def test_the_document_is_served(gateway: Gateway) -> None:
    response = httpx.get(f"{gateway.url}/openapi.json")
    assert 200 == response.status_code
    assert "application/json" == response.headers["content-type"]
    assert DESCRIBED == response.json()


def test_the_documented_answer_is_the_answer(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    answers = {
        "ImagesResponse": gateway.generate(prompt="a lighthouse").json(),
        "ModelList": gateway.get("/v1/models").json(),
        "Model": gateway.get("/v1/models/image-01").json(),
        "Error": gateway.generate().json(),
        "Tenant": gateway.admin("GET", "/tenants/acme").json(),
        "KeyList": gateway.admin("GET", "/tenants/acme/keys").json(),
        "Pool": gateway.admin("GET", "/pool").json(),
        "AuditPage": gateway.admin("GET", "/audit").json(),
        "NativeError": gateway.post("/v1/image_generation", {}).json(),
        "Health": gateway.get("/readyz").json(),
    }
    for name, answer in answers.items():
        conform(answer, {"$ref": f"#/components/schemas/{name}"}, name)


def test_the_images_routes_are_all_there() -> None:
    """The class has no public handler that no route of the document leads to."""
    handlers = {name for name, value in vars(ImageRoutes).items() if isfunction(value) and not name.startswith("_")}
    assert {"generate", "edit", "generate_native", "list_models", "get_model"} == handlers
