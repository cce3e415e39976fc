"""The providers that speak OpenAI's images format, as data: what each sends and answers differently.

Source of each value: reference/providers.md 16.1, and the section of the provider.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.providers.openai import errors, models
from gateway.providers.openai.errors import ErrorTable
from gateway.providers.protocol import ModelFacts

_AZURE_VERSION: Final = "api-version=2025-04-01-preview"
"""The version that has gpt-image models; general knowledge."""


class ResponseFormatForm(Enum):
    """How a provider is asked for base64 or links."""

    FIELD = "field"  # `response_format` in the body, but for gpt-image models, which refuse it
    QUERY = "query"  # in the query
    OMITTED = "omitted"  # it always answers in one form


class EditForm(Enum):
    """How the images of an edit are sent."""

    FORM = "form"  # multipart/form-data to the path of edits
    JSON = "json"  # `image` in JSON to the path of edits
    IMAGE = "image"  # `image`, one or a list, to the path of generations
    IMAGES = "images"  # `images[].image_url` to the path of generations


class Probe(Enum):
    """The free request that shows the health of a key."""

    MODELS = "models"  # the list of models
    INVALID = "invalid"  # a generation without model and prompt: a valid key gets 400
    BALANCE = "balance"  # Recraft's page of the user, with the balance
    PLAN = "plan"  # MiniMax's quota page


@dataclass(frozen=True, slots=True)
class Profile:
    """One provider."""

    name: str
    errors: ErrorTable
    facts: Mapping[str, ModelFacts]
    default: ModelFacts
    """Of models that are not listed."""
    base_url: str = ""
    """Its address, unless each operator has an own one."""
    path: str = "/images/generations"
    """`{model}` stands for the model's name."""
    edit_path: str = "/images/edits"
    model_paths: Mapping[str, str] = field(default_factory=dict)
    """Paths of models that have their own."""
    query: str = ""
    key_header: str = "authorization"
    sends_count: bool = True
    sends_default_size: bool = True
    """If false, the model chooses the size if the client sets none, and the response shows it."""
    response_format: ResponseFormatForm = ResponseFormatForm.FIELD
    format_field: str = ""
    """Name of `output_format`; empty if it cannot be chosen."""
    sends_compression: bool = False
    seed_field: str = ""
    quality: Mapping[str, str] = field(default_factory=dict)
    """Its own values by OpenAI's."""
    sends_background: bool = False
    user_field: str = ""
    edit_form: EditForm = EditForm.FORM
    constants: Mapping[str, object] = field(default_factory=dict)
    has_item_errors: bool = False
    counts_images: bool = False
    """`usage.generated_images` is the number of billed images."""
    credit_usd_micros: int = 0
    """Price of one unit of the `credits` that a response states."""
    id_header: str = ""
    id_field: str = ""
    probe: Probe = Probe.MODELS
    probe_path: str = "/models"
    result_hosts: tuple[str, ...] = ()


_QUALITIES: Final = {name: name for name in ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")}
_302_HOSTS: Final = ("file.302ai.cn", "file.302.ai")
_OPENAI: Final = Profile(
    "openai",
    errors.OPENAI,
    models.OPENAI,
    models.OPENAI["gpt-image-2"],
    "https://api.openai.com/v1",
    sends_default_size=False,
    response_format=ResponseFormatForm.OMITTED,
    format_field="output_format",
    sends_compression=True,
    quality=_QUALITIES,
    sends_background=True,
    user_field="user",
    id_header="x-request-id",
)
_ARK: Final = Profile(
    "ark",
    errors.ARK,
    models.ARK,
    models.ARK_DEFAULT,
    "https://ark.cn-beijing.volces.com/api/v3",
    sends_count=False,
    format_field="output_format",
    seed_field="seed",
    edit_form=EditForm.IMAGE,
    constants={"watermark": False},  # true by default: a stamp on the image
    has_item_errors=True,
    counts_images=True,
    id_header="x-request-id",
    probe=Probe.INVALID,
    result_hosts=("*.tos-cn-beijing.volces.com",),
)
_ZHIPU: Final = Profile(
    "zhipu",
    errors.ZHIPU,
    models.ZHIPU,
    models.ZHIPU_DEFAULT,
    "https://open.bigmodel.cn/api/paas/v4",
    sends_count=False,
    response_format=ResponseFormatForm.OMITTED,
    quality={"standard": "standard", "hd": "hd", "low": "standard", "medium": "standard", "high": "hd"},
    user_field="user_id",
    constants={"watermark_enabled": False},
    id_field="request_id",
    result_hosts=("aigc-files.bigmodel.cn", "sfile.chatglm.cn"),
)
_302: Final = Profile(
    "302ai-openai",
    errors.AI302,
    models.OPENAI,
    models.RELAYED,
    "https://api.302.ai",
    path="/v1/images/generations",
    edit_path="/v1/images/edits",
    sends_default_size=False,
    response_format=ResponseFormatForm.QUERY,
    format_field="output_format",
    sends_compression=True,
    quality=_QUALITIES,
    sends_background=True,
    id_header="request-id",
    probe_path="/v1/models",
    result_hosts=_302_HOSTS,
)
_ALL: Final = (
    _OPENAI,
    Profile(
        "azure",
        errors.AZURE,
        {},
        models.RELAYED,
        path=f"/openai/deployments/{{model}}/images/generations?{_AZURE_VERSION}",
        edit_path=f"/openai/deployments/{{model}}/images/edits?{_AZURE_VERSION}",
        key_header="api-key",
        sends_default_size=False,
        response_format=ResponseFormatForm.OMITTED,
        format_field="output_format",
        sends_compression=True,
        quality=_QUALITIES,
        sends_background=True,
        user_field="user",
        id_header="apim-request-id",
        probe_path=f"/openai/models?{_AZURE_VERSION}",
    ),
    Profile(
        "minimax-h3",
        errors.H3,
        models.H3,
        models.H3["MiniMax-H3-Image"],
        "https://api.minimax.io/v1",
        sends_default_size=False,
        format_field="output_format",
        sends_compression=True,
        edit_form=EditForm.IMAGES,
        has_item_errors=True,
        id_header="trace-id",
        probe=Probe.PLAN,
        probe_path="/token_plan/remains",
        result_hosts=("hailuo-image-algeng-data.oss-*.aliyuncs.com", "hailuo-image-algeng-data-us.oss-*.aliyuncs.com"),
    ),
    _ARK,
    Profile(
        "byteplus",
        errors.ARK,
        models.BYTEPLUS,
        models.ARK_DEFAULT,
        "https://ark.ap-southeast.bytepluses.com/api/v3",
        sends_count=False,
        format_field="output_format",
        seed_field="seed",
        edit_form=EditForm.IMAGE,
        constants=_ARK.constants,
        has_item_errors=True,
        counts_images=True,
        id_header="x-request-id",
        probe=Probe.INVALID,
        result_hosts=("*.tos-ap-southeast-1.bytepluses.com", "*.tos-ap-southeast-1.volces.com"),
    ),
    _ZHIPU,
    Profile(
        "zai",
        errors.ZHIPU,
        models.ZHIPU,
        models.ZHIPU_DEFAULT,
        "https://api.z.ai/api/paas/v4",
        sends_count=False,
        response_format=ResponseFormatForm.OMITTED,
        quality=_ZHIPU.quality,
        user_field="user_id",
        constants=_ZHIPU.constants,
        id_field="request_id",
        result_hosts=("mfile.z.ai", *_ZHIPU.result_hosts),
    ),
    Profile(
        "qianfan",
        errors.QIANFAN,
        models.QIANFAN,
        models.QIANFAN_DEFAULT,
        "https://qianfan.baidubce.com/v2",
        model_paths={"musesteamer-air-image": "/musesteamer/images/generations"},
        response_format=ResponseFormatForm.OMITTED,
        seed_field="seed",
        user_field="user",
        edit_form=EditForm.JSON,
        id_field="id",
        probe=Probe.INVALID,
        result_hosts=("*.bj.bcebos.com",),
    ),
    Profile(
        "recraft",
        errors.RECRAFT,
        models.RECRAFT,
        models.RECRAFT_DEFAULT,
        "https://external.api.recraft.ai/v1",
        format_field="image_format",
        seed_field="random_seed",
        credit_usd_micros=1000,
        id_header="x-request-id",
        probe=Probe.BALANCE,
        probe_path="/users/me",
        result_hosts=("img.recraft.ai",),
    ),
    _302,
    Profile(
        "302ai-images",
        errors.AI302,
        {},
        models.GENERIC,
        "https://api.302.ai",
        path="/302/images/generations",
        edit_path="/302/images/edits",
        id_header="request-id",
        probe_path="/v1/models",
        result_hosts=_302_HOSTS,
    ),
    Profile("generic", errors.RELAY, {}, models.GENERIC, seed_field="seed", id_header="x-request-id"),
)
PROFILES: Final[Mapping[str, Profile]] = {profile.name: profile for profile in _ALL}
"""By the value of `provider`."""
