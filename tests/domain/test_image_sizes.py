"""The size of an image, from the beginning of its file."""

import io
from base64 import b64encode
from typing import Any

import pytest
from PIL import Image

from gateway.domain.image_sizes import read_size
from gateway.domain.images import Size


def encoded(form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "teal").save(file, form, **options)
    return b64encode(file.getvalue())


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + bytes(60_000), "icc_profile": bytes(90_000)}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0" + bytes(100)}),
    ],
)
def test_the_size_is_read_whatever_precedes_it(form: str, options: dict[str, Any]) -> None:
    assert Size(64, 48) == read_size(memoryview(encoded(form, **options)))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_no_size_is_read_of_a_file_that_ends_too_early(form: str) -> None:
    whole = encoded(form)
    for length in range(32):
        found = read_size(memoryview(whole[:length]))
        assert found in {None, Size(64, 48)}, length


@pytest.mark.parametrize(
    "data", [b"", b"R0lGODdhAQABAA==", b"!!!!", b64encode(b"\xff\xd8\xff" + bytes(1000)), b64encode(b"\xff" * 9000)]
)
def test_no_size_is_read_of_anything_else(data: bytes) -> None:
    assert read_size(memoryview(data)) is None
