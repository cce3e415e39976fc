"""Every field of `POST /v1/images/edits`: taken, refused by name, or reported back."""

from base64 import b64encode
from typing import Any

import msgspec
import pytest

from gateway.api.fields import Generation
from gateway.api.openai import OpenAIOptions, parse_generation
from gateway.api.openai_edits import CHARACTER_ONLY, FileHead, parse_edit, render_texts
from gateway.domain.catalog import Capability, Catalog, EditRule, Model, Target
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Format, Operation, ResponseFormat, Role, Size
from gateway.domain.pricing import PerImage, Price
from gateway.domain.sizes import AspectRatios
from gateway.domain.tenants import Tenant
from gateway.providers import PROVIDERS
from gateway.providers.minimax import PRESETS
from tests.support.forms import GIF, JPEG, PNG, WEBP

PRICES = (Price(0, PerImage(3500)),)
TRUE_EDIT = Capability(
    (AspectRatios(PRESETS),),
    edits=EditRule(frozenset({Format.PNG, Format.WEBP}), 1000, images_max=20, supports_mask=True),
)
CATALOG = Catalog(
    [
        Model(
            "image-01", ("gpt-image-1",), PRICES, (Target("m", "image-01", PROVIDERS["minimax"].capability("x", {})),)
        ),
        Model("editor", (), PRICES, (Target("e", "editor", TRUE_EDIT),)),
        Model("no-edits", (), PRICES, (Target("t", "text", Capability((AspectRatios(PRESETS),))),)),
    ]
)
URL = "https://example.org/face.jpg"


def head(name: str = "image", content: bytes = PNG, size_bytes: int | None = None) -> FileHead:
    return FileHead(name, len(content) if size_bytes is None else size_bytes, content[:16])


def parse(*files: FileHead, deployment: str | None = None, **values: Any) -> Generation:
    body = msgspec.json.encode({"prompt": "a sailor"} | values)
    return parse_edit(body, CATALOG, Tenant("acme"), OpenAIOptions(), deployment=deployment, files=files)


def refusal(*files: FileHead, **values: Any) -> GatewayError:
    with pytest.raises(GatewayError) as refused:
        parse(*files, **values)
    return refused.value


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


@pytest.mark.parametrize("name", ["image", "image[]", "image[0]", "image[15]", "images", "images[]"])
def test_every_spelling_of_an_image_file_is_one(name: str) -> None:
    edit = parse(head(name))
    assert (Operation.EDIT, 1) == (edit.job.operation, len(edit.job.inputs))
    assert (Role.IMAGE, Format.PNG, len(PNG)) == (
        edit.job.inputs[0].role,
        edit.job.inputs[0].format,
        edit.job.inputs[0].size_bytes,
    )


def test_a_character_reference_is_said_to_be_one() -> None:
    assert ("input_fidelity", CHARACTER_ONLY) == parse(head(), input_fidelity="high").ignored
    assert () == parse(head(), deployment="editor").ignored
    assert ("quality", CHARACTER_ONLY) == parse(head(), quality="high", input_fidelity=None).ignored


def test_the_deployment_of_the_path_decides() -> None:
    edit = parse(head(), deployment="editor", model="gpt-image-1")
    assert ("editor", ("model",)) == (edit.name, edit.ignored)
    assert () == parse(head(), deployment="editor", model="editor").ignored
    assert "gpt-image-1" == parse(head(), model="gpt-image-1").name


@pytest.mark.parametrize(
    "value",
    [
        {"images": [{"image_url": URL}]},
        {"images": [URL]},
        {"image": URL},
        {"image": {"image_url": URL}},
        {"image": [URL]},
    ],
)
def test_json_has_an_image_in_each_form_that_clients_write(value: dict[str, Any]) -> None:
    (image,) = parse(**value).job.inputs
    assert (Role.IMAGE, msgspec.json.encode(URL), None) == (image.role, image.link, image.format)


@pytest.mark.parametrize(
    "kind", ["image/png", "image/webp", "application/octet-stream", "IMAGE/JPG", "", "image/png;x=y"]
)
def test_the_type_of_a_data_url_is_that_of_its_content(kind: str) -> None:
    (image,) = parse(image=data_url(JPEG, kind)).job.inputs
    assert data_url(JPEG, "image/jpeg") == msgspec.json.decode(image.link)
    assert (Format.JPEG, len(JPEG)) == (image.format, image.size_bytes)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({}, "image"),
        ({"images": []}, "image"),
        ({"image": None, "images": None}, "image"),
        ({"images": [{"image_url": None}]}, "images.image_url"),
        ({"images": [{}]}, "images.image_url"),
    ],
)
def test_an_edit_without_an_image_is_refused(value: dict[str, Any], param: str) -> None:
    error = refusal(**value)
    assert (ErrorCode.MISSING_PARAMETER, param) == (error.error_code, error.param)


@pytest.mark.parametrize(
    ("value", "param"),
    [
        ({"images": [{"file_id": "file-1"}]}, "images"),
        ({"image": "portrait.png"}, "image"),
        ({"image": 7}, "image"),
        ({"image": {"x" * 1000: 1}}, "image"),
        ({"images": [[URL]]}, "images"),
        ({"images": {"image_url": {"url": URL}}}, "images"),
        ({"image": URL, "mask": [URL]}, "mask"),
        ({"image": b64encode(PNG).decode()}, "image"),
        ({"image": "ftp://example.org/a.png"}, "image"),
        ({"image": "file:///etc/passwd"}, "image"),
        ({"image": "data:image/png,abc"}, "image"),
        ({"image": "data:image/png;base64,"}, "image"),
        ({"image": "data:image/png;base64,iVBORw0KGgoAAAAN!"}, "image"),
        ({"image": data_url(PNG) + "A"}, "image"),
        ({"image": data_url(GIF, "image/png")}, "image"),
        ({"image": "https://example.org/" + "a" * 8192}, "image"),
        ({"image": "https://example.org/\n"}, "image"),
        ({"image": URL, "mask": "x"}, "mask"),
        ({"image": URL, "input_fidelity": "medium"}, "input_fidelity"),
        ({"image": URL, "subject_reference": [{"type": "character", "image_file": URL}]}, "subject_reference"),
        ({"image": [URL] * 17}, "image"),
        ({"image": URL, "size": "9x9"}, "size"),
    ],
)
def test_what_is_no_image_is_refused_by_name(value: dict[str, Any], param: str) -> None:
    error = refusal(**value)
    assert (ErrorCode.INVALID_VALUE, param) == (error.error_code, error.param)
    assert len(error.message) < 400


@pytest.mark.parametrize(
    ("files", "param", "words"),
    [
        ([head(), head()], "image", "takes 1 image per edit, but got 2"),
        ([head("image[]"), head("image[]"), head("image[]")], "image", "but got 3"),
        ([head(), head("mask")], "mask", "does not support masks"),
        ([head(content=WEBP, size_bytes=10 * 1024 * 1024)], "image", "at most 10485759 bytes, but got 10485760"),
        ([head(size_bytes=10 * 1024 * 1024)], "image", "at most 10485759 bytes, but got 10485760"),
    ],
)
def test_what_minimax_cannot_edit_is_refused_by_name(files: list[FileHead], param: str, words: str) -> None:
    error = refusal(*files)
    assert (ErrorCode.INVALID_VALUE, param) == (error.error_code, error.param)
    assert words in error.message


def test_what_another_model_can_edit_is_taken() -> None:
    edit = parse(head(content=WEBP), head("image[]"), head("mask"), deployment="editor")
    assert [Role.IMAGE, Role.IMAGE, Role.MASK] == [image.role for image in edit.job.inputs]


@pytest.mark.parametrize(
    ("files", "param"),
    [
        ([head()] * 17, "image"),
        ([head(), head("mask"), head("mask")], "mask"),
        ([head(content=JPEG)], "image"),
        ([head(content=PNG, size_bytes=1001)], "image"),
    ],
)
def test_the_limits_of_openai_hold_for_every_model(files: list[FileHead], param: str) -> None:
    error = refusal(*files, deployment="editor")
    assert (ErrorCode.INVALID_VALUE, param) == (error.error_code, error.param)


def test_a_model_that_makes_images_from_text_alone_refuses_edits() -> None:
    error = refusal(head(), deployment="no-edits")
    assert (ErrorCode.INVALID_VALUE, "model") == (error.error_code, error.param)
    assert "POST /v1/images/generations" in error.message


@pytest.mark.parametrize(
    ("content", "found"),
    [(GIF, "image/gif"), (b"%PDF-1.7", "application/octet-stream"), (b"<svg/>", "application/octet-stream")],
)
def test_the_type_of_a_file_is_that_of_its_content(content: bytes, found: str) -> None:
    error = refusal(head(content=content))
    expected = (
        f"Invalid file 'image': unsupported mimetype ('{found}'). Supported file formats are 'image/jpeg', "
        "'image/png', and 'image/webp'."
    )
    assert (ErrorCode.INVALID_VALUE, "image", expected) == (error.error_code, error.param, error.message)


def test_an_edit_of_a_batch_names_what_its_images_may_be() -> None:
    def told(**values: Any) -> tuple[str | None, str]:
        body = msgspec.json.encode({"prompt": "a sailor"} | values)
        with pytest.raises(GatewayError) as refused:
            parse_edit(body, CATALOG, Tenant("acme"), OpenAIOptions(), is_batch_line=True)
        return refused.value.param, refused.value.message

    assert "images" == told()[0]
    assert "images" == told(images=["x"])[0]
    assert "or the 'file_id' of an uploaded image." in told(images=["x"])[1]
    assert "image" == refusal().param
    assert "or a file of a form." in refusal(images=["x"]).message


def test_an_empty_file_is_refused() -> None:
    assert "Invalid file 'image': it is empty." == refusal(head(content=b"")).message


def test_a_file_elsewhere_is_refused_by_name() -> None:
    assert (ErrorCode.INVALID_TYPE, "prompt") == (refusal(head("prompt")).error_code, refusal(head("prompt")).param)
    assert (ErrorCode.UNKNOWN_PARAMETER, "file") == (refusal(head("file")).error_code, refusal(head("file")).param)


def parse_texts(**texts: str) -> Generation:
    body = render_texts({"prompt": "a sailor"} | texts)
    return parse_edit(body, CATALOG, Tenant("acme"), OpenAIOptions(), files=(head(),))


def test_texts_of_a_form_become_the_values_of_their_fields() -> None:
    edit = parse_texts(
        model="gpt-image-1",
        n="2",
        stream="False",
        size="1024x1536",
        seed="-7",
        quality="high",
        partial_images="0",
        user="12",
        response_format="b64_json",
        prompt_optimizer="true",
    )
    job = edit.job
    assert (2, Size(1024, 1536), -7, ResponseFormat.BASE64) == (job.count, job.size, job.seed, job.delivery)
    assert ("gpt-image-1", False) == (edit.name, edit.is_stream)
    assert {"minimax.prompt_optimizer": b"true"} == job.options
    assert {"quality", CHARACTER_ONLY} == set(edit.ignored)
    assert "12" == edit.user


@pytest.mark.parametrize("blank", ["", "null"])
def test_a_blank_text_of_a_form_means_absent(blank: str) -> None:
    fields = dict.fromkeys(("model", "n", "size", "stream", "mask", "user", "seed", "response_format"), blank)
    assert parse_texts() == parse_texts(**fields)


@pytest.mark.parametrize(
    ("name", "text", "error_code"),
    [
        ("prompt", "", ErrorCode.EMPTY_STRING),
        ("n", "abc", ErrorCode.INVALID_TYPE),
        ("n", "2.5", ErrorCode.INVALID_TYPE),
        ("n", "11", ErrorCode.INTEGER_ABOVE_MAX),
        ("n", "0", ErrorCode.INTEGER_BELOW_MIN),
        ("n", "[" * 5000, ErrorCode.INVALID_TYPE),
        ("stream", "1", ErrorCode.INVALID_TYPE),
        ("stream", "yes", ErrorCode.INVALID_TYPE),
        ("quality", "best", ErrorCode.INVALID_VALUE),
        ("size", "large", ErrorCode.INVALID_VALUE),
        ("image", "abc", ErrorCode.INVALID_VALUE),
        ("negative_prompt", "x", ErrorCode.UNKNOWN_PARAMETER),
        ("svg[model]", "x", ErrorCode.UNKNOWN_PARAMETER),
    ],
)
def test_texts_of_a_form_are_refused_like_json(name: str, text: str, error_code: ErrorCode) -> None:
    with pytest.raises(GatewayError) as refused:
        parse_texts(**{name: text})
    assert (error_code, name) == (refused.value.error_code, refused.value.param)


@pytest.mark.parametrize("name", ["image", "images", "mask"])
@pytest.mark.parametrize("value", [URL, [URL], 7, {}, ""])
def test_a_generation_with_an_image_is_told_where_to_go(name: str, value: object) -> None:
    body = msgspec.json.encode({"prompt": "x", name: value})
    with pytest.raises(GatewayError) as refused:
        parse_generation(body, CATALOG, Tenant("acme"), OpenAIOptions())
    error = refused.value
    assert (ErrorCode.UNKNOWN_PARAMETER, name) == (error.error_code, error.param)
    assert f"Unknown parameter: '{name}'. Images are edited at POST /v1/images/edits." in error.message
    assert "'subject_reference'" in error.message


def test_a_generation_may_say_that_it_has_no_image() -> None:
    body = b'{"prompt":"x","image":null,"images":null,"mask":null}'
    assert Operation.GENERATE is parse_generation(body, CATALOG, Tenant("acme"), OpenAIOptions()).job.operation
