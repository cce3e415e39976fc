"""Tags and end users of requests: which are taken, refused, inherited and recorded."""

from typing import Any, Final

import httpx
import openai
import pytest

from gateway.config import SettingsError
from tests.support.harness import Gateway, MakeGateway, Simulator, admin, new_key
from tests.support.pictures import drawn

GENERATIONS: Final = "/v1/images/generations"
NATIVE: Final = "/v1/image_generation"
HEADER: Final = "x-imagegate-tags"
TERMS: Final[dict[str, object]] = {
    "keys": ["feature", "env", "team"],
    "headers": ["x-litellm-tags", "x-portkey-metadata"],
}
BODY: Final = {"model": "image-01", "prompt": "a cat"}


@pytest.fixture
def tagging(make_gateway: MakeGateway) -> Gateway:
    return make_gateway(attribution=TERMS)


def generate(gateway: Gateway, tags: str | None = None, path: str = GENERATIONS, **fields: object) -> httpx.Response:
    headers = {} if tags is None else {HEADER: tags}
    return gateway.post(path, BODY | fields, **headers)


def record(gateway: Gateway) -> dict[str, Any]:
    """Returns the only record of the newest request."""
    newest: dict[str, Any] = gateway.admin("GET", "/usage/records").json()["data"][-1]
    return newest


def refusal(response: httpx.Response) -> tuple[str, str, str]:
    assert 400 == response.status_code, response.text
    error = response.json()["error"]
    return error["code"], error["param"], error["message"]


@pytest.mark.parametrize(
    "tags", ["feature=hero,env=prod", "Feature = hero ,, ENV:prod", "env=prod,env=prod,feature=hero"]
)
def test_a_header_names_tags(tagging: Gateway, tags: str) -> None:
    response = generate(tagging, tags)
    assert (200, None) == (response.status_code, response.headers.get("x-imagegate-ignored"))
    assert {"env": "prod", "feature": "hero"} == record(tagging)["tags"]


def test_every_route_takes_tags(tagging: Gateway) -> None:
    cases: tuple[tuple[str, dict[str, object], dict[str, str], dict[str, str]], ...] = (
        (GENERATIONS, {"metadata": {"env": "a"}}, {}, {"env": "a"}),
        (
            GENERATIONS,
            {"metadata": {"env": "a", "team": "b=,|%"}},
            {HEADER: "feature=c"},
            {"env": "a", "feature": "c", "team": "b=,|%"},
        ),
        (GENERATIONS, {"metadata": {}}, {HEADER: ""}, {}),
        (NATIVE, {}, {HEADER: "env=d"}, {"env": "d"}),
        ("/openai/deployments/image-01/images/generations", {"metadata": {"env": "e"}}, {}, {"env": "e"}),
        (GENERATIONS, {}, {"x-litellm-tags": "env:f, team"}, {"env": "f", "team": "true"}),
        (GENERATIONS, {}, {"x-portkey-metadata": '{"env": "g", "_user": "ann"}'}, {"env": "g"}),
    )
    for path, fields, headers, expected in cases:
        assert 200 == tagging.post(path, BODY | fields, **headers).status_code
        assert expected == record(tagging)["tags"], (path, fields, headers)
    assert 16 == len(record(tagging)["user"])


def test_the_form_of_an_edit_takes_metadata_as_the_sdk_writes_it(tagging: Gateway) -> None:
    client = openai.OpenAI(base_url=tagging.base_url, api_key=tagging.api_key, max_retries=0)
    image = ("a.png", drawn("PNG"), "image/png")
    client.images.edit(image=image, prompt="x", extra_body={"metadata": {"env": "prod", "team": "null"}})
    assert {"env": "prod", "team": "null"} == record(tagging)["tags"]
    client.images.edit(image=image, prompt="x", extra_body={"metadata": '{"env": "dev"}'})
    assert {"env": "dev"} == record(tagging)["tags"]


def test_a_tag_that_cannot_be_recorded_is_refused_for_free(tagging: Gateway, simulator: Simulator) -> None:
    unknown = "Remove it, or ask the operator of the server to name it in [attribution] keys."
    value = "the value of 'env' must have 1 to 64 printable ASCII characters."
    cases: tuple[tuple[str | None, object, str, str, str], ...] = (
        ("feture=x", None, "unknown_parameter", HEADER, f"this server takes 'env', 'feature', and 'team'. {unknown}"),
        ("=x", None, "unknown_parameter", HEADER, "Unknown tag '' in"),
        ("a b", None, "unknown_parameter", HEADER, "Unknown tag 'a b' in"),
        ("env=", None, "invalid_value", HEADER, value),
        (f"env={'x' * 65}", None, "invalid_value", HEADER, value),
        ("env=a,env=b", None, "invalid_value", HEADER, "the tag 'env' has two values. Send one."),
        ("env=a", {"env": "b"}, "invalid_value", "metadata", "the tag 'env' has two values. Send one."),
        ('{"env": 1}', None, "invalid_value", HEADER, "expected KEY=VALUE,KEY=VALUE or a JSON object of strings."),
        ("{", None, "invalid_value", HEADER, "expected KEY=VALUE,KEY=VALUE or a JSON object of strings."),
        (None, {"x": "y"}, "unknown_parameter", "metadata", "Unknown tag 'x' in 'metadata'"),
        (None, {"env": "\u56fe"}, "invalid_value", "metadata", value),
        (None, {"env": 1}, "invalid_value", "metadata", "expected an object of at most 16 pairs of strings"),
        (None, ["env"], "invalid_value", "metadata", "expected an object of at most 16 pairs of strings"),
        (None, {str(number): "" for number in range(17)}, "invalid_value", "metadata", "at most 16 pairs"),
    )
    for tags, metadata, code, param, text in cases:
        found = refusal(generate(tagging, tags, metadata=metadata))
        assert (code, param) == found[:2], (tags, metadata, found)
        assert text in found[2], found
    assert 0 == simulator.images_billed()


def test_a_server_without_keys_refuses_every_tag_and_says_so(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    for tags, metadata in (("env=a", None), (None, {"env": "a"})):
        code, _, text = refusal(generate(gateway, tags, metadata=metadata))
        assert ("unknown_parameter", True) == (code, "this server takes no tags of requests. " in text)


def test_a_server_that_takes_any_key_sums_those_that_it_names(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(attribution={"keys": ["*", "env"]})
    assert 200 == generate(gateway, "env=prod,any.thing_1=x").status_code
    assert {"env": "prod", "any.thing_1": "x"} == record(gateway)["tags"]
    assert "takes keys of 1 to 32 characters" in refusal(generate(gateway, "a/b=x"))[2]
    assert "Tags with sums: env." in refusal(gateway.admin("GET", "/usage?by=tag&tag=any.thing_1"))[2]
    nine = ",".join(f"k{number}=x" for number in range(9))
    assert "at most 8 tags" in refusal(generate(gateway, nine))[2]


def test_unknown_tags_are_ignored_where_unknown_parameters_are(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(attribution=TERMS, images={"unknown_parameters": "ignore"})
    response = generate(gateway, "env=prod,x=y", metadata={"a\nb": "c", "feature": "hero"})
    assert (200, f"{HEADER}.x, ?") == (response.status_code, response.headers["x-imagegate-ignored"])
    assert {"env": "prod", "feature": "hero"} == record(gateway)["tags"]


def test_a_request_adds_to_the_tags_of_its_tenant_and_key_and_changes_none(tagging: Gateway) -> None:
    admin(tagging.url, "PATCH", "/tenants/acme", {"tags": {"team": "ads", "unit": "eu"}})
    made = admin(tagging.url, "POST", "/tenants/acme/keys", {"tags": {"team": "not-ads", "env": "prod"}}).json()
    many = {"tags": {f"k{number}": "x" for number in range(8)}}
    other = admin(tagging.url, "POST", "/tenants/acme/keys", many).json()["key"]
    assert 200 == generate(Gateway(tagging.url, other)).status_code
    assert {**many["tags"], "team": "ads", "unit": "eu"} == record(tagging)["tags"]
    assert "at most 8 tags" in refusal(generate(Gateway(tagging.url, other), "env=prod"))[2]
    response = tagging.post(
        GENERATIONS, BODY, authorization=f"Bearer {made['key']}", **{HEADER: "env=dev,team=ads,feature=hero"}
    )
    assert (200, f"{HEADER}.env") == (response.status_code, response.headers["x-imagegate-ignored"])
    assert {"team": "ads", "unit": "eu", "env": "prod", "feature": "hero"} == record(tagging)["tags"]
    assert [{"tag": ""}, {"tag": "env=prod"}] == rows(tagging, "by=tag&tag=env")


def rows(gateway: Gateway, query: str) -> list[dict[str, Any]]:
    """Returns the groups of a report."""
    found = gateway.admin("GET", f"/usage?{query}").json()
    return [{name: row[name] for name in found["by"]} for row in found["data"]]


def test_a_required_tag_that_is_missing_is_refused_for_free_and_may_come_from_anywhere(
    tagging: Gateway, simulator: Simulator
) -> None:
    key = new_key(tagging.url, "strict", required_tags=["project", "env"])
    strict = Gateway(tagging.url, key)
    code, param, text = refusal(generate(strict, "project=p"))
    assert ("missing_required_parameter", HEADER) == (code, param)
    assert "Tenant 'strict' requires the tag 'env'. Send it in this header, as 'env=VALUE', or in 'metadata'." in text
    native = generate(strict, path=NATIVE).json()["base_resp"]
    assert (2013, 0) == (native["status_code"], simulator.images_billed())
    assert 200 == generate(strict, "project=p", metadata={"env": "prod"}).status_code
    admin(tagging.url, "PATCH", "/tenants/strict", {"tags": {"env": "prod"}})
    made = admin(tagging.url, "POST", "/tenants/strict/keys", {"tags": {"project": "q"}}).json()
    assert 200 == generate(Gateway(tagging.url, made["key"])).status_code
    assert {"env": "prod", "project": "q"} == record(tagging)["tags"]


def test_an_end_user_is_recorded_as_a_keyed_hash(tagging: Gateway) -> None:
    users = []
    for fields in (
        {"user": "ann"},
        {"safety_identifier": "ann"},
        {"safety_identifier": "", "user": "ann"},
        {"user": "bob"},
    ):
        response = generate(tagging, **fields)
        assert (200, None) == (response.status_code, response.headers.get("x-imagegate-ignored"))
        users.append(record(tagging)["user"])
    assert users[0] == users[1] == users[2] != users[3]
    assert set(users[0]) <= set("0123456789abcdef")
    both = generate(tagging, user="bob", safety_identifier="ann")
    assert ("user", users[0]) == (both.headers["x-imagegate-ignored"], record(tagging)["user"])
    assert sorted([{"user": users[0]}, {"user": users[3]}], key=str) == rows(tagging, "by=user")
    assert 200 == generate(tagging, user="").status_code
    assert record(tagging)["user"] is None


def test_an_end_user_is_recorded_as_sent_if_the_operator_wants_it(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(attribution={"plain_user": True})
    for user, expected in (("ann|1", "ann|1"), ("x" * 128, "x" * 128)):
        assert 200 == generate(gateway, user=user).status_code
        assert expected == record(gateway)["user"]
    for user in ("x" * 129, "a\nb"):
        assert 200 == generate(gateway, user=user).status_code
        assert 16 == len(record(gateway)["user"])


@pytest.mark.parametrize(
    "terms",
    [
        {"keys": ["Env"]},
        {"keys": ["a" * 33]},
        {"keys": [f"k{number}" for number in range(17)]},
        {"headers": ["Authorization"]},
        {"headers": ["x-api-key"]},
        {"headers": ["a b"]},
    ],
)
def test_a_setting_that_cannot_work_is_refused(make_gateway: MakeGateway, terms: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"attribution.{next(iter(terms))}"):
        make_gateway(attribution=terms)
