"""Which jobs can be made, how they are split, and what came back."""

import base64
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.domain.catalog import Capability, EditRule, plan_shape
from gateway.domain.images import (
    Base64Image,
    Format,
    ImageJob,
    ImageReply,
    ImageResult,
    ImageUrl,
    InputImage,
    Operation,
    ResponseFormat,
    Role,
    Size,
    sniff,
    sniff_base64,
    split_count,
)
from gateway.domain.prompts import shorten
from gateway.domain.sizes import FixedSize, SizePolicy


@pytest.mark.parametrize(
    ("count", "at_most", "parts"), [(1, 1, [1]), (10, 9, [9, 1]), (9, 9, [9]), (3, 1, [1, 1, 1]), (10, 4, [4, 4, 2])]
)
def test_calls_are_the_fullest_first(count: int, at_most: int, parts: list[int]) -> None:
    assert parts == split_count(count, at_most)


@given(st.integers(1, 100), st.integers(1, 9))
def test_calls_make_exactly_what_was_asked(count: int, at_most: int) -> None:
    parts = split_count(count, at_most)
    assert count == sum(parts)
    assert all(1 <= part <= at_most for part in parts)
    assert math.ceil(count / at_most) == len(parts)


def test_missing_is_what_was_asked_less_what_came() -> None:
    result = ImageResult((ImageUrl("https://x/1.jpg"),), Size(1024, 1024), 3)
    assert result.missing == 2


def test_fields_are_those_that_are_set_even_when_falsy() -> None:
    inputs = (InputImage(Role.CHARACTER, b'"https://x/y.jpg"'),)
    job = ImageJob("p", seed=0, inputs=inputs, options={"minimax.style": b"{}"})

    assert frozenset() == ImageJob("p").fields
    assert {"seed", "input.character", "minimax.style"} == job.fields
    assert len(b'"https://x/y.jpg"') + len(b"{}") == job.held_bytes


SQUARES = Capability((FixedSize(Size(1024, 1024)),))
IMAGE = InputImage(Role.IMAGE, b"", Format.PNG, 9)
EDIT = ImageJob("p", operation=Operation.EDIT, inputs=(IMAGE,))


@pytest.mark.parametrize(
    "rule",
    [
        EditRule(frozenset({Format.PNG}), 8),
        EditRule(frozenset({Format.JPEG}), 9),
        EditRule(frozenset({Format.PNG}), 9, images_max=0),
    ],
)
def test_an_edit_beyond_a_rule_is_not_planned(rule: EditRule) -> None:
    assert None is plan_shape(EDIT, replace(SQUARES, edits=rule), SizePolicy.STRICT)


@pytest.mark.parametrize(
    ("formats", "is_taken", "is_taken_as_it_is"),
    [({Format.WEBP}, True, True), ({Format.PNG, Format.JPEG}, True, False), ({Format.JPEG}, False, False)],
)
def test_webp_is_taken_for_every_model_that_takes_png(
    formats: set[Format], is_taken: bool, is_taken_as_it_is: bool
) -> None:
    inputs, rule = (replace(IMAGE, format=Format.WEBP),), EditRule(frozenset(formats), 9)
    capability = replace(SQUARES, edits=rule)
    shape = plan_shape(replace(EDIT, inputs=inputs), capability, SizePolicy.STRICT)
    assert (is_taken, is_taken_as_it_is) == (shape is not None, rule.accepts(inputs, is_final=True))


@pytest.mark.parametrize(
    ("job", "capability"),
    [
        (EDIT, replace(SQUARES, edits=EditRule(frozenset({Format.PNG}), 9))),
        (
            replace(EDIT, inputs=(IMAGE, IMAGE)),
            replace(SQUARES, edits=EditRule(frozenset({Format.PNG}), 9, images_max=2)),
        ),
        (
            replace(EDIT, inputs=(IMAGE, InputImage(Role.MASK, b"", Format.PNG, 1))),
            replace(SQUARES, edits=EditRule(frozenset({Format.PNG}), 9, supports_mask=True)),
        ),
        (
            replace(EDIT, inputs=(InputImage(Role.IMAGE, b'"https://x"'),)),
            replace(SQUARES, edits=EditRule(frozenset(), 0)),
        ),
        (ImageJob("p", quality="high"), replace(SQUARES, fields=frozenset({"quality.low", "quality.high"}))),
        (
            ImageJob("p", output_format=Format.PNG, delivery=ResponseFormat.URL),
            replace(SQUARES, fields=frozenset({"output_format.png"})),
        ),
        (ImageJob("p", output_format=Format.GIF), replace(SQUARES, fields=frozenset({"output_format.gif"}))),
        (ImageJob("p", background="transparent"), replace(SQUARES, fields=frozenset({"background.transparent"}))),
        (ImageJob("p", seed=1), replace(SQUARES, fields=frozenset({"seed"}))),
        (ImageJob("p" * 1001), replace(SQUARES, prompt_max_chars=1001)),
        (ImageJob("p", size=Size(512, 512)), Capability((FixedSize(Size(512, 512)),))),
        (ImageJob("p", pixels=Size(512, 512)), Capability((FixedSize(Size(512, 512)),))),
    ],
)
def test_a_job_is_made_only_if_every_field_is_honoured(job: ImageJob, capability: Capability) -> None:
    policy = SizePolicy.STRICT
    assert plan_shape(job, capability, policy)
    assert not plan_shape(job, SQUARES, policy) or job.size == Size(512, 512)
    assert plan_shape(ImageJob("p"), SQUARES, policy)


@pytest.mark.parametrize("form", [Format.JPEG, Format.PNG, Format.WEBP])
def test_the_gateway_makes_the_format_of_what_it_delivers_itself(form: Format) -> None:
    job = ImageJob("p", output_format=form)
    assert plan_shape(job, SQUARES, SizePolicy.STRICT)
    assert not plan_shape(replace(job, delivery=ResponseFormat.URL), SQUARES, SizePolicy.STRICT)


def test_prompt_and_pictures_stay_out_of_logs() -> None:
    assert "fox" not in repr(ImageJob("a fox"))
    assert "9j" not in repr(Base64Image(memoryview(b"/9j/")))


@pytest.mark.parametrize(
    ("text", "at_most", "expected"),
    [
        ("a red fox", 9, "a red fox"),
        ("a red fox", 8, "a red"),
        ("a red fox", 5, "a red"),
        ("a red fox", 6, "a red"),
        ("a red  \n fox", 6, "a red"),
        ("a red fox", 1, "a"),
        ("  a fox  ", 5, "a fox"),
        ("  a fox  ", 9, "  a fox  "),
        ("x" * 200, 150, "x" * 150),
        ("a " + "x" * 200, 150, "a " + "x" * 148),
        ("a " + "x" * 200, 90, "a"),
        ("狐狸" * 10, 7, "狐狸狐狸狐狸狐"),
        ("x e\u0301", 3, "x"),
        ("狐" * 5 + "e\u0301", 6, "狐" * 5),
        ("狐" * 5 + "👩\u200d🚀", 7, "狐" * 5),
        ("狐" * 5 + "👍🏽", 6, "狐" * 5),
        ("\u0301" * 50, 40, "\u0301" * 8),
    ],
)
def test_a_text_is_cut_at_a_word_or_between_characters(text: str, at_most: int, expected: str) -> None:
    assert expected == shorten(text, at_most)


@given(st.text(min_size=1).filter(str.strip), st.integers(1, 50))
def test_a_cut_text_is_a_beginning_that_fits_and_is_not_empty(text: str, at_most: int) -> None:
    cut = shorten(text, at_most)
    assert 0 < len(cut) <= at_most
    assert cut == text or text.strip().startswith(cut)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\xd8\xff\xe0" + b"\0" * 12, Format.JPEG),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 8, Format.PNG),
        (b"RIFF\x10\0\0\0WEBPVP8 ", Format.WEBP),
        (b"GIF89a" + b"\0" * 10, Format.GIF),
        (b"GIF87a" + b"\0" * 10, Format.GIF),
        (b"<html></html>   ", None),
        (b"", None),
    ],
)
def test_format_is_sniffed_plain_and_in_base64(head: bytes, expected: Format | None) -> None:
    assert expected == sniff(head)
    assert expected == sniff_base64(memoryview(base64.b64encode(head)))


def test_a_sound_file_is_no_picture() -> None:
    """RIFF is also the container of WAV and AVI: bytes 8 to 11 tell them apart."""
    assert sniff(b"RIFF\x24\0\0\0WAVEfmt ") is None


@pytest.mark.parametrize(("parts", "wanted", "expected"), [(1, 3, 0), (4, 1, 1), (4, 4, 4), (4, 9, 4)])
def test_as_many_images_are_cut_as_are_wanted(parts: int, wanted: int, expected: int) -> None:
    reply = ImageReply((ImageUrl("https://a.example/a.png"),), parts=parts)
    assert (expected, parts) == (reply.to_cut(wanted), reply.images)
