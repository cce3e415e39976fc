"""Client API in MiniMax's and 302.AI's format. Errors are `base_resp` with HTTP 200."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from gateway.api.fields import Generation, ProviderFields, Style, parse_fields
from gateway.api.openai_responses import Chunks
from gateway.api.refusals import missing, unknown_model
from gateway.api.targets import plan_targets
from gateway.domain.catalog import Catalog
from gateway.domain.errors import CooldownKind, ErrorCode, GatewayError, Outcome
from gateway.domain.images import Base64Image, ImageJob, ImageResult, ImageUrl, ResponseFormat
from gateway.domain.sizes import SizePolicy
from gateway.domain.tenants import Tenant
from gateway.providers.minimax import CODES

PATHS: Final = frozenset({"/v1/image_generation", "/minimaxi/v1/image_generation"})
"""Routes of MiniMax and 302.AI, which share one format."""

IMAGES_MAX: Final = 9
"""MiniMax's largest `n`."""

TEXTS: Final[Mapping[int, str]] = MappingProxyType(
    {
        1000: "unknown error",
        1001: "request timeout",
        1002: "rate limit exceeded(RPM)",
        1004: "login fail: Please carry the API secret key in the 'Authorization' field of the request header",
        1008: "insufficient balance",
        1013: "internal service error",
        1024: "internal error",
        1026: "input new_sensitive",
        1027: "output new_sensitive",
        1033: "system error",
        1039: "token limit",
        1041: "conn limit",
        1042: "invisible character ratio limit",
        2013: "invalid params",
        2045: "rate growth limit",
        2049: "invalid api key",
    }
)
"""MiniMax's texts of the codes that clients may see (reference/minimax.md section 3)."""

_CODES_BY_ERROR: Final[Mapping[ErrorCode, int]] = MappingProxyType(
    {
        ErrorCode.NO_CREDENTIALS: 1004,
        ErrorCode.INVALID_API_KEY: 2049,
        ErrorCode.CONTENT_INPUT: 1026,
        ErrorCode.CONTENT_OUTPUT: 1027,
        ErrorCode.CONTENT_MODERATED: 1027,
        ErrorCode.INVALID_PROMPT: 1042,
        ErrorCode.PROMPT_TOO_LONG: 2013,
        ErrorCode.QUOTA_EXHAUSTED: 1008,  # MiniMax's clients stop on it, and retry on 1002
    }
)
_SPELLING_302: Final = "minimaxi-"
"""302.AI's prefix of MiniMax's model names (reference/minimax.md 5.1)."""
_INVALID_PARAMS: Final = 2013


class NativeFields(ProviderFields):
    """The body of a request in MiniMax's format."""

    n: Annotated[int, Meta(ge=1, le=IMAGES_MAX)] | None = None
    response_format: Literal["url", "base64"] | None = None
    style: Style | None = None


def parse_native(body: bytes | bytearray, catalog: Catalog, tenant: Tenant, policy: SizePolicy) -> Generation:
    """Parses a request body in MiniMax's format. Model names may have MiniMax's or 302.AI's form.

    Raises: GatewayError for an invalid request, with the parameter's name.
    """
    fields = parse_fields(body, NativeFields, overridden=("width", "height"))  # reference/minimax.md 1.2
    name = fields.model
    if name is None:
        raise missing("model")
    plain = name.removeprefix(_SPELLING_302)
    candidates = (catalog.find_native(spelling) for spelling in (name, plain, _SPELLING_302 + plain))
    model = next((model for model in candidates if model), None)
    if model is None or (tenant.models is not None and model.id not in tenant.models):
        raise unknown_model(name)
    if len(fields.prompt or "") > model.prompt_max_chars:
        raise GatewayError(ErrorCode.PROMPT_TOO_LONG)
    ratio, pixels = fields.read_shape(model, name, prefers_ratio=True)
    job = ImageJob(
        prompt=fields.read_prompt(model.prompt_max_chars),
        count=fields.n or 1,
        delivery=ResponseFormat(fields.response_format or "url"),
        aspect_ratio=ratio,
        pixels=pixels,
        seed=fields.seed,
        options=fields.read_options(fields.style),
        inputs=fields.read_inputs(),
    )
    return Generation(job, model, plan_targets(job, model, policy, name), name)


def render_native(result: ImageResult) -> Chunks:
    """Renders a response in MiniMax's format. Counters are strings, as in MiniMax's own responses."""
    links = [image.url for image in result.pictures if isinstance(image, ImageUrl)]
    encoded = [image.base64 for image in result.pictures if isinstance(image, Base64Image)]
    chunks: Chunks = [b'{"id":' + msgspec.json.encode(result.id) + b',"data":{']
    if links:
        chunks.append(b'"image_urls":' + msgspec.json.encode(links) + (b"," if encoded else b""))
    if encoded:
        chunks.append(b'"image_base64":[')
        for index, data in enumerate(encoded):
            chunks += [b',"' if index else b'"', data, b'"']
        chunks.append(b"]")
    metadata = {"success_count": str(len(result.pictures)), "failed_count": str(result.missing)}
    tail = {"metadata": metadata, "base_resp": {"status_code": 0, "status_msg": "success"}}
    chunks.append(b"}," + msgspec.json.encode(tail)[1:])
    return chunks


def render_native_error(error: GatewayError) -> bytes:
    """Renders `{"base_resp": {...}}`: the upstream's own code if it concerns the request, else the closest one."""
    code = native_code(error)
    text = TEXTS[code]
    if code == _INVALID_PARAMS:
        is_too_long = error.error_code is ErrorCode.PROMPT_TOO_LONG
        text += f", {'prompt length must be less than 1500' if is_too_long else error.message}"
    return msgspec.json.encode({"base_resp": {"status_code": code, "status_msg": text}})


def native_code(error: GatewayError) -> int:
    """Returns MiniMax's code for an error. Errors of provider keys never appear as the caller's."""
    row = error.row
    code = error.upstream_code
    if code is not None and code in TEXTS and row.pause is CooldownKind.NONE and CODES.get(code) is error.error_code:
        return code
    if error.error_code in _CODES_BY_ERROR:
        return _CODES_BY_ERROR[error.error_code]
    if row.outcome in {Outcome.UNKNOWN, Outcome.DELIVERED} or row.status == 504:
        return 1001  # the only code that leaves open whether images were generated and billed
    if row.status == 429:
        return 1002
    return _INVALID_PARAMS if row.status < 500 else 1033
