import pytest

from gateway.testing.simulator.fault_injection import RefusedError
from gateway.testing.simulator.requests import parse_request

MINIMAX = "/v1/image_generation"
AI302 = "/minimaxi/v1/image_generation"


def body(**fields: object) -> dict[str, object]:
    return {"model": "image-01", "prompt": "a fox"} | fields


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"model": None}, "model: Expected `str`, got `null`"),
        ({"model": "image-02"}, "model is unknown"),
        ({"model": "minimaxi-image-01"}, "model is unknown"),
        ({"prompt": ""}, "prompt: Expected `str` of length >= 1"),
        ({"prompt": 5}, "prompt: Expected `str`, got `int`"),
        ({"prompt": "x" * 1500}, "prompt length must be less than 1500"),
        ({"n": 0}, "n: Expected `int` >= 1"),
        ({"n": 10}, "n: Expected `int` <= 9"),
        ({"n": "1"}, "n: Expected `int`, got `str`"),
        ({"n": True}, "n: Expected `int`, got `bool`"),
        ({"aspect_ratio": "5:4"}, "aspect_ratio is not supported"),
        ({"aspect_ratio": "21:9", "model": "image-01-live"}, "aspect_ratio is not supported"),
        ({"width": 512}, "height is missing, width and height must come together"),
        ({"height": 512}, "width is missing, width and height must come together"),
        ({"width": 504, "height": 512}, "width must be in 512..2048 and a multiple of 8"),
        ({"width": 512, "height": 2056}, "height must be in 512..2048 and a multiple of 8"),
        ({"width": 513, "height": 512}, "width must be in 512..2048 and a multiple of 8"),
        ({"response_format": "b64_json"}, "response_format: Invalid enum value 'b64_json'"),
        ({"seed": "7"}, "seed: Expected `int | null`, got `str`"),
        ({"style": "vivid"}, "style: Expected `object | null`, got `str`"),
        ({"style": {"style_type": "vivid"}}, "style.style_type: Invalid enum value 'vivid'"),
        (
            {"subject_reference": [{"type": "character"}]},
            "subject_reference[0]: Object missing required field `image_file`",
        ),
    ],
)
def test_invalid_field_is_named(fields: dict[str, object], what: str) -> None:
    with pytest.raises(RefusedError) as refused:
        parse_request(body(**fields), MINIMAX)
    assert (refused.value.code, refused.value.text) == (2013, f"invalid params, {what}")


@pytest.mark.parametrize("model", ["image-01", "image-01-live", "dall-e-3"])
def test_302_knows_only_its_own_model(model: str) -> None:
    assert parse_request(body(model="minimaxi-image-01"), AI302).model == "minimaxi-image-01"
    with pytest.raises(RefusedError, match="2013"):
        parse_request(body(model=model), AI302)


def test_longest_prompt_and_every_documented_field_are_accepted() -> None:
    fields = {
        "n": 9,
        "seed": -1,
        "prompt_optimizer": True,
        "aigc_watermark": False,
        "style": {"style_type": "漫画", "style_weight": 0.5},
        "subject_reference": [{"type": "character", "image_file": "https://example.org/face.jpg"}],
        "unknown": "ignored",
    }
    order = parse_request(body(model="image-01-live", **fields | {"prompt": "漫" * 1499}), MINIMAX)
    assert (order.n, len(order.prompt)) == (9, 1499)


def test_aspect_ratio_wins_over_pixels_that_would_be_refused() -> None:
    assert parse_request(body(aspect_ratio="3:2", width=1), MINIMAX).pixels == (1248, 832)
