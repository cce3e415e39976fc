"""Builds the requests of a profile."""

from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import msgspec
import pybase64

from gateway.domain.accounts import Secret
from gateway.domain.images import CallPlan, Format, ImageJob, InputImage, ResponseFormat, Role
from gateway.providers.forms import build_form
from gateway.providers.openai.profiles import EditForm, Profile, ResponseFormatForm
from gateway.providers.protocol import ProviderRequest

_ACCEPT: Final = ("accept", "application/json")
_FORMATS: Final = {ResponseFormat.URL: "url", ResponseFormat.BASE64: "b64_json"}
_WITHOUT_RESPONSE_FORMAT: Final = ("gpt-image-", "chatgpt-image-")
"""Names of models that refuse `response_format` (reference/openai-images.md 1.4)."""


def authenticate(profile: Profile, secret: Secret) -> tuple[tuple[str, str], ...]:
    """Returns the headers of every request."""
    bearer = "Bearer " if profile.key_header == "authorization" else ""
    return (profile.key_header, f"{bearer}{secret.plaintext}"), _ACCEPT


def build_request(profile: Profile, job: ImageJob, plan: CallPlan, secret: Secret) -> ProviderRequest:
    """Builds the request of one call. A JSON body shares its images with the job; a form has them decoded."""
    form = profile.edit_form if job.inputs else None
    path = profile.edit_path if form in {EditForm.FORM, EditForm.JSON} else profile.path
    path = profile.model_paths.get(plan.model, path).replace("{model}", quote(plan.model, safe=""))
    if profile.response_format is ResponseFormatForm.QUERY:
        path += f"?response_format={_FORMATS[plan.delivery]}"
    fields, headers = _fields(profile, job, plan), authenticate(profile, secret)
    if form is EditForm.FORM:
        texts = {name: value if isinstance(value, str) else _text(value) for name, value in fields.items()}
        files = [*_files(job.inputs)]
        kind, pieces = build_form(texts, files, secret)
        size_bytes = sum(len(content) for _, _, content in files)
        return ProviderRequest("POST", path, (*headers, ("content-type", kind)), pieces, size_bytes)
    body = [msgspec.json.encode(fields)[:-1], *(_images(form, job.inputs) if form else ()), b"}"]
    return ProviderRequest("POST", path, (*headers, ("content-type", "application/json")), tuple(body))


def _fields(profile: Profile, job: ImageJob, plan: CallPlan) -> dict[str, object]:
    """Returns the fields besides images. Fields that neither the job nor the provider needs are omitted."""
    size = plan.shape.pixels or (plan.shape.made if profile.sends_default_size else None)
    is_gpt_image = plan.model.startswith(_WITHOUT_RESPONSE_FORMAT)
    sends_format = profile.response_format is ResponseFormatForm.FIELD and not is_gpt_image
    fields: dict[str, object | None] = {
        "model": plan.model,
        "prompt": job.prompt,
        "n": plan.images if profile.sends_count and plan.images > 1 else None,
        "size": str(size) if size else None,
        "response_format": _FORMATS[plan.delivery] if sends_format else None,
        "quality": profile.quality.get(job.quality) if job.quality else None,
        "background": job.background if profile.sends_background else None,
        "moderation": job.moderation,
        **profile.constants,
    }
    if profile.format_field and job.output_format:
        fields[profile.format_field] = job.output_format.value
        fields["output_compression"] = job.output_compression if profile.sends_compression else None
    if profile.seed_field:
        fields[profile.seed_field] = job.seed
    if profile.user_field:
        fields[profile.user_field] = job.end_user or None
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: object) -> str:
    """Renders a number or boolean as a form has it."""
    return msgspec.json.encode(value).decode()


def _files(inputs: tuple[InputImage, ...]) -> Iterator[tuple[str, str, bytes]]:
    """Yields field, media type and content of each image. One image is `image`, several are `image[]`."""
    images = sum(image.role is Role.IMAGE for image in inputs)
    for image in inputs:
        field = "mask" if image.role is Role.MASK else "image" if images == 1 else "image[]"
        form = image.format or Format.PNG
        data = memoryview(image.link)[image.link.index(b",") + 1 : -1]  # of a data URL in a JSON string
        yield field, f"image/{form.value}", pybase64.b64decode(data)


def _images(form: EditForm, inputs: tuple[InputImage, ...]) -> Iterator[bytes]:
    """Yields the field with the images of an edit, for the end of a JSON object."""
    if form is EditForm.IMAGES:
        start, before, after, end = b',"images":[', b'{"image_url":', b"}", b"]"
    elif len(inputs) > 1:
        start, before, after, end = b',"image":[', b"", b"", b"]"
    else:
        start, before, after, end = b',"image":', b"", b"", b""
    for index, image in enumerate(inputs):
        yield (b"," if index else start) + before
        yield image.link
        yield after
    yield end
