"""The simulator's formats of single providers: what their schemas refuse, it refuses in their own words."""

from typing import Any, Final

import httpx
import pytest

from tests.support.harness import Simulator
from tests.support.pictures import drawn

STABILITY: Final = "/v2beta/stable-image/generate"
GOOGLE: Final = "/v1beta/models/gemini-2.5-flash-image:generateContent"
IMAGE: Final = {"image": ("a.png", drawn("PNG"), "image/png")}
BEARER: Final = {"authorization": "Bearer main-1", "accept": "application/json"}
PART: Final = {"text": "a fox"}


def ask(simulator: Simulator, path: str, **sent: Any) -> httpx.Response:
    return httpx.post(simulator.url + path, timeout=30, verify=False, **sent)


@pytest.mark.parametrize(
    ("service", "fields", "files", "text"),
    [
        ("core", {"prompt": ""}, {}, "prompt: must be 1 to 10000 characters"),
        ("core", {"prompt": "a" * 10_001}, {}, "prompt: must be 1 to 10000 characters"),
        ("core", {"prompt": "a", "output_format": "gif"}, {}, "output_format: must be jpeg, png or webp"),
        ("core", {"prompt": "a", "aspect_ratio": "4:3"}, {}, "aspect_ratio: is not supported"),
        ("core", {"prompt": "a", "seed": "4294967295"}, {}, "seed: must be 0 to 4294967294"),
        ("core", {"prompt": "a", "size": "1024x1024"}, {}, "unknown: size"),
        ("core", {"prompt": "a", "strength": "0.5"}, IMAGE, "unknown: image, strength"),
        ("ultra", {"prompt": "a"}, IMAGE, "strength: goes with image"),
        ("sd3", {"prompt": "a", "strength": "0.5"}, IMAGE, "mode: must be image-to-image with image"),
        ("sd3", {"prompt": "a", "model": "sd2"}, {}, "model: is unknown"),
        (
            "sd3",
            {"prompt": "a", "strength": "0.5", "mode": "image-to-image", "aspect_ratio": "1:1"},
            IMAGE,
            "aspect_ratio: goes with text-to-image",
        ),
    ],
)
def test_stability_refuses_what_its_schema_does(
    simulator: Simulator, service: str, fields: dict[str, str], files: dict[str, Any], text: str
) -> None:
    form = {name: (None, value) for name, value in fields.items()} | files
    answer = ask(simulator, f"{STABILITY}/{service}", headers=BEARER, files=form)
    assert (400, "bad_request", [text]) == (answer.status_code, answer.json()["name"], answer.json()["errors"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"contents": []}, "contents"),
        ({"contents": [{"parts": []}]}, "parts"),
        ({"contents": [{"parts": [PART | {"mask": "x"}]}]}, "mask"),
        ({"contents": [{"parts": [PART]}], "generationConfig": {"imageConfig": {"imageSize": "8K"}}}, "imageSize"),
        ({"contents": [{"parts": [PART]}], "generationConfig": {"candidateCount": 4}}, "candidateCount"),
        ({"contents": [{"parts": [PART]}], "generationConfig": {"imageConfig": {"aspectRatio": "7:1"}}}, "argument"),
        ({"contents": [{"parts": [PART]}], "generationConfig": {"responseModalities": ["TEXT"]}}, "argument"),
    ],
)
def test_google_refuses_what_its_schema_does(simulator: Simulator, body: object, field: str) -> None:
    answer = ask(simulator, GOOGLE, headers={"x-goog-api-key": "main-1"}, json=body)
    error = answer.json()["error"]
    assert (400, 400, "INVALID_ARGUMENT") == (answer.status_code, error["code"], error["status"])
    assert field in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/v1/ideogram-v3/generate", {}, "prompt is required"),
        ("/v1/ideogram-v3/generate", {"prompt": "a", "num_images": 9}, "num_images is out of range"),
        ("/v1/ideogram-v3/generate", {"prompt": "a", "seed": 2**31}, "seed is out of range"),
        ("/v1/ideogram-v3/generate", {"prompt": "a", "resolution": "2048x2048"}, "resolution is not supported"),
        ("/v1/ideogram-v3/remix", {"prompt": "a"}, "image is required"),
        ("/v1/ideogram-v4/generate", {"prompt": "a"}, "prompt is required"),
        ("/v1/ideogram-v4/generate", {"text_prompt": "a", "seed": 1}, "unknown fields: seed"),
        (
            "/v1/ideogram-v4/generate",
            {"text_prompt": "a", "rendering_speed": "FLASH"},
            "rendering_speed is not supported",
        ),
    ],
)
def test_ideogram_refuses_what_its_schema_does(
    simulator: Simulator, path: str, body: dict[str, object], text: str
) -> None:
    answer = ask(simulator, path, headers={"api-key": "main-1"}, json=body)
    assert (400, 400, text) == (answer.status_code, answer.json()["status"], answer.json()["detail"])


@pytest.mark.parametrize("body", [{}, {"id": "x"}, {"id": "x", "inputs": []}, {"inputs": ["a fox"]}])
def test_glif_refuses_a_run_without_a_workflow_or_inputs(simulator: Simulator, body: object) -> None:
    answer = ask(simulator, "/", headers=BEARER, json=body)
    assert (400, {"error": "Missing required fields: id, inputs"}) == (answer.status_code, answer.json())


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        (f"{STABILITY}/core", {"data": {"prompt": "a"}}, 401),
        (GOOGLE, {"json": {"contents": [{"parts": [PART]}]}}, 403),
        ("/v1/ideogram-v4/generate", {"json": {"text_prompt": "a"}}, 401),
        ("/", {"json": {"id": "x", "inputs": ["a"]}}, 401),
    ],
)
def test_a_request_without_a_key_is_refused_and_not_billed(
    simulator: Simulator, path: str, sent: dict[str, Any], status: int
) -> None:
    assert status == ask(simulator, path, **sent).status_code
    assert 0 == simulator.images_billed()


def test_a_filtered_image_of_stability_is_blurred_and_billed(simulator: Simulator) -> None:
    form = {"prompt": (None, "a fox [fail=1]"), "output_format": (None, "jpeg")}
    answer = ask(simulator, f"{STABILITY}/core", headers=BEARER, files=form).json()
    assert ("CONTENT_FILTERED", True) == (answer["finish_reason"], bool(answer["image"]))
    assert 1 == simulator.invoice()["accounts"]["main"]["withheld"]
