"""The image routes' own headers, and the list of models."""

from typing import Final
from urllib.parse import quote

import pytest

from tests.support.harness import Gateway, MakeGateway, Simulator, upstream

IMAGE_HEADERS: Final = ("x-imagegate-queue-ms", "x-imagegate-attempts")


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", ["/v1/images/generations", "/v1/image_generation"])
def test_an_answer_tells_its_queue_time_and_attempts(gateway: Gateway, path: str) -> None:
    response = gateway.post(path, {"model": "image-01", "prompt": "x"})
    assert 200 == response.status_code
    assert response.headers["x-imagegate-queue-ms"].isdecimal()
    assert "1" == response.headers["x-imagegate-attempts"]
    assert not {"x-imagegate-missing", "x-imagegate-ignored"} & set(response.headers)


def test_attempts_count_every_call(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(upstream("sim", "minimax", simulator.url, "a:a-1", "b:b-1", "c:c-1"))
    response = gateway.generate(prompt="x [code=1002]")
    assert (429, "3") == (response.status_code, response.headers["x-imagegate-attempts"])
    assert 3 == len(simulator.requests())


@pytest.mark.shares_gateway
def test_ten_images_are_two_calls(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.generate(prompt="x", n=10)
    assert 10 == len(response.json()["data"])
    assert "2" == response.headers["x-imagegate-attempts"]
    assert [1, 9] == sorted(request["body"].get("n", 1) for request in simulator.requests())


@pytest.mark.shares_gateway
def test_a_request_that_was_refused_here_has_no_image_headers(gateway: Gateway) -> None:
    for response in (gateway.generate(prompt=""), gateway.get("/v1/models")):
        assert not set(IMAGE_HEADERS) & set(response.headers)


@pytest.mark.shares_gateway
def test_a_failed_request_tells_its_attempts_too(gateway: Gateway) -> None:
    response = gateway.generate(prompt="[code=1026]")
    assert (400, "1") == (response.status_code, response.headers["x-imagegate-attempts"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quality", "hd"),
        ("moderation", "low"),
        ("complexity", "high"),
        ("style", "vivid"),
        ("output_compression", 80),
        ("partial_images", 2),
    ],
)
def test_what_is_accepted_without_effect_is_named(
    gateway: Gateway, simulator: Simulator, field: str, value: object
) -> None:
    response = gateway.generate(prompt="x", **{field: value})
    assert (200, field) == (response.status_code, response.headers["x-imagegate-ignored"])
    [sent] = simulator.requests()
    assert field not in sent["body"]


@pytest.mark.shares_gateway
def test_several_ignored_parameters_are_one_list(gateway: Gateway) -> None:
    response = gateway.generate(
        prompt="x", quality="low", moderation="auto", style="vivid", size="auto", background="auto"
    )
    assert ["moderation", "quality", "style"] == sorted(response.headers["x-imagegate-ignored"].split(", "))


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    "field", ["quality", "moderation", "user", "style", "partial_images", "n", "size", "stream", "seed"]
)
def test_null_is_absent_and_not_ignored(gateway: Gateway, field: str) -> None:
    response = gateway.generate(prompt="x", **{field: None})
    assert 200 == response.status_code
    assert "x-imagegate-ignored" not in response.headers


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("path", "count", "withheld", "left"),
    [
        ("/v1/images/generations", 3, 1, 2),
        ("/v1/images/generations", 9, 8, 1),
        ("/v1/image_generation", 3, 1, 2),
    ],
)
def test_withheld_images_are_counted_and_the_rest_is_delivered(
    gateway: Gateway, simulator: Simulator, path: str, count: int, withheld: int, left: int
) -> None:
    response = gateway.post(path, {"model": "image-01", "prompt": f"x [fail={withheld}]", "n": count})
    assert (200, str(withheld)) == (response.status_code, response.headers["x-imagegate-missing"])
    assert left == simulator.images_billed()
    body = response.json()
    delivered = body["data"] if path == "/v1/images/generations" else body["data"]["image_urls"]
    assert left == len(delivered)
    assert left == sum(1 for item in delivered if item)


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("model", "code"), [("dall-e-3", "content_policy_violation"), ("gpt-image-1", "moderation_blocked")]
)
def test_all_images_withheld_is_an_error(gateway: Gateway, model: str, code: str) -> None:
    response = gateway.generate(model=model, prompt="x [fail=2]", n=2)
    error = response.json()["error"]
    assert (400, code) == (response.status_code, error["code"])
    assert ("moderation_details" in error) == (code == "moderation_blocked")


def test_no_header_names_an_upstream_or_a_key(gateway: Gateway) -> None:
    for response in (gateway.generate(prompt="x"), gateway.generate(prompt="[code=2049]")):
        text = str(response.headers).lower()
        assert [] == [word for word in ("main-1", "minimax", "302", "'sim'", "fp-") if word in text]


@pytest.mark.shares_gateway
def test_every_id_and_alias_is_listed_and_works(gateway: Gateway) -> None:
    listed = gateway.get("/v1/models").json()
    assert "list" == listed["object"]
    assert ["image-01", "dall-e-2", "dall-e-3", "gpt-image-1"] == [model["id"] for model in listed["data"]]
    for model in listed["data"]:
        assert {"id", "object", "created", "owned_by"} == set(model)
        assert isinstance(model["created"], int)
        assert model == gateway.get(f"/v1/models/{model['id']}").json()
        assert 200 == gateway.generate(prompt="x", model=model["id"], response_format="url").status_code


@pytest.mark.parametrize("name", ["org/image", "a b", "minimax/image-01/live", "bild-é", "100%", "a?b", "a/"])
def test_ids_with_slashes_and_odd_signs_are_found(make_gateway: MakeGateway, name: str) -> None:
    """Some clients encode the slash, some leave it (reference/openai-images.md 4.3)."""
    target = [{"upstream": "sim", "model": "image-01"}]
    gateway = make_gateway(models=[{"id": name, "price_per_image_usd": "0", "targets": target}])
    for spelled in (quote(name, safe=""), quote(name, safe="/")):
        response = gateway.get(f"/v1/models/{spelled}")
        assert (200, name) == (response.status_code, response.json().get("id"))
    assert 200 == gateway.generate(prompt="x", model=name).status_code


@pytest.mark.shares_gateway
@pytest.mark.parametrize("name", ["nope", "nope/", "IMAGE-01", "a%00b", "x" * 3000, "minimaxi-image-01"])
def test_an_unknown_model_is_404_and_names_itself(gateway: Gateway, name: str) -> None:
    response = gateway.get(f"/v1/models/{name}")
    error = response.json()["error"]
    assert (404, "model_not_found", "model") == (response.status_code, error["code"], error["param"])
    assert len(error["message"]) < 120


@pytest.mark.shares_gateway
def test_an_unknown_model_costs_no_call(gateway: Gateway, simulator: Simulator) -> None:
    response = gateway.generate(prompt="x", model="nope")
    assert (400, "model_not_found") == (response.status_code, response.json()["error"]["code"])
    assert [] == simulator.requests()


@pytest.mark.shares_gateway
def test_usage_has_all_its_keys(gateway: Gateway) -> None:
    usage = gateway.generate(prompt="x").json()["usage"]
    assert {
        "total_tokens": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        "output_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    } == usage
