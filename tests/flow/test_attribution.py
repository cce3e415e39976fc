"""Tags and users from the request to the report: they are counted once, and reach nothing but the ledger."""

from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest

from tests.support.batching import begin, line, read, wait
from tests.support.harness import Gateway, MakeGateway, Simulator, upstream
from tests.support.logging_aside import logging_aside

TERMS: Final[dict[str, object]] = {"keys": ["feature", "env"], "headers": ["x-litellm-tags"]}
CANARY: Final = "canary-4711"


def usage(gateway: Gateway, query: str) -> list[tuple[Any, ...]]:
    """Returns a report's rows: its groups, requests, images and dollars."""
    report = gateway.admin("GET", f"/usage?{query}").json()
    return [
        (*(row[name] for name in report["by"]), row["requests"], row["images"], row["usd"]) for row in report["data"]
    ]


def check_books(gateway: Gateway) -> None:
    assert [] == gateway.admin("GET", "/usage/verify").json()["differences"]


def test_tags_and_users_reach_no_provider_no_metric_and_no_log(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(
        upstream("a", "minimax", simulator.url), upstream("b", "302ai", simulator.url), attribution=TERMS
    )
    gateway.admin("PATCH", "/tenants/acme", {"tags": {"team": f"{CANARY}-team"}, "cost_centre": f"{CANARY}-centre"})
    user = f"{CANARY}-user"
    fields = {"metadata": {"feature": f"{CANARY}-feature"}, "user": user, "model": "image-01", "prompt": "a cat"}
    tags = f"env={CANARY}-env"
    with logging_aside(level="info") as log:
        made = [
            gateway.post("/v1/images/generations", fields, **{"x-imagegate-tags": tags}),
            gateway.post("/v1/images/generations", fields | {"n": 9}, **{"x-litellm-tags": tags}),
            gateway.post("/v1/images/generations", fields | {"metadata": {CANARY: ""}}),
            gateway.post("/v1/image_generation", {"model": "image-01", "prompt": "x"}, **{"x-imagegate-tags": tags}),
        ]
        metrics = gateway.get("/metrics").text
    assert [200, 200, 400, 200] == [response.status_code for response in made]
    sent = simulator.requests()
    assert 3 == len(sent)
    seen = f"{sent} {metrics} {log.text}"
    assert CANARY not in seen
    assert all(hashed["user"] is None or hashed["user"] not in seen for hashed in records(gateway))
    assert [f"{CANARY}-env", f"{CANARY}-env", f"{CANARY}-env"] == [each["tags"]["env"] for each in records(gateway)]
    check_books(gateway)


def records(gateway: Gateway) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.admin("GET", "/usage/records").json()["data"]
    return found


def test_usage_is_reported_by_all_that_requests_are_attributed_to(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    gateway = make_gateway(attribution=TERMS)
    gateway.admin("PATCH", "/tenants/acme", {"owner": "Ann", "cost_centre": "4711"})
    for tags, count, user in (("env=prod,feature=hero", 2, "u1"), ("env=dev", 1, "u1"), ("", 1, "u2")):
        body = {"model": "image-01", "prompt": "a cat", "n": count, "user": user}
        assert 200 == gateway.post("/v1/images/generations", body, **{"x-imagegate-tags": tags}).status_code
    month = records(gateway)[0]["time"][:7]
    assert [("", 1, 1, "0.0035"), ("env=dev", 1, 1, "0.0035"), ("env=prod", 1, 2, "0.007")] == usage(
        gateway, "by=tag&tag=env"
    )
    assert [("acme", "", 1, 1, "0.0035"), ("acme", "env=prod", 1, 2, "0.007")] == [
        row for row in usage(gateway, "by=tenant,tag&tag=env") if "dev" not in row[1]
    ]
    assert [("image-01", 1, 2, "0.007")] == usage(gateway, "by=model&tag=feature=hero")
    assert [("env=prod", 1, 2, "0.007")] == usage(gateway, f"by=tag&tag=env=prod&month={month}")
    assert [("4711", "Ann", 3, 4, "0.014")] == usage(gateway, "by=cost_centre,owner&last=2d")
    assert [(month, "sim", 3, 4, "0.014")] == usage(gateway, f"by=month,upstream&month={month}")
    assert [1, 2] == sorted(row[1] for row in usage(gateway, "by=user"))
    assert "0.007" == gateway.admin("GET", "/usage?by=day&tag=env=prod").json()["total"]["usd"]
    pages = [gateway.admin("GET", "/usage?by=tag&tag=env&limit=1&last=2d").json()]
    while cursor := pages[-1]["next_cursor"]:
        other = gateway.admin("GET", f"/usage?tag=feature&cursor={cursor}")
        assert "it belongs to a request with another 'tag'" in other.json()["error"]["message"]
        pages.append(gateway.admin("GET", f"/usage?by=tag&tag=env&limit=1&last=2d&cursor={cursor}").json())
    assert [["", "0.014"], ["env=dev", "0.014"], ["env=prod", "0.014"]] == [
        [page["data"][0]["tag"], page["total"]["usd"]] for page in pages
    ]
    check_books(gateway)


def test_a_request_that_repeats_an_order_adds_nothing_to_the_tags_of_that_order(
    make_gateway: MakeGateway, simulator: Simulator
) -> None:
    gateway = make_gateway(attribution=TERMS)
    for tags in ("env=prod", "env=prod", "env=dev"):
        headers = {"x-imagegate-tags": tags, "idempotency-key": "k1"}
        made = gateway.post("/v1/images/generations", {"model": "image-01", "prompt": "a cat"}, **headers)
        assert 200 == made.status_code
    assert [("env=prod", 1, 1, "0.0035")] == usage(gateway, "by=tag&tag=env")
    assert 1 == simulator.images_billed()
    check_books(gateway)


def test_lines_of_a_batch_have_its_tags_and_their_own(
    make_gateway: MakeGateway, simulator: Simulator, tmp_path: Path
) -> None:
    gateway = make_gateway(storage={"url": f"file://{tmp_path}"}, attribution=TERMS)
    headers = {"x-imagegate-tags": "env=batch"}
    client = openai.OpenAI(base_url=gateway.base_url, api_key=gateway.api_key, max_retries=0, default_headers=headers)
    lines = [
        line("1"),
        line("2", metadata={"feature": "hero"}, user="ann"),
        line("3", metadata={"env": "batch"}),
        line("4", metadata={"env": "other"}),
        line("5", metadata={"x": "y"}),
    ]
    batch = wait(client, begin(client, lines))
    counts = batch.request_counts
    assert counts is not None
    assert ("completed", 3, 2) == (batch.status, counts.completed, counts.failed)
    failed = read(client, batch.error_file_id)
    assert {"4": "metadata", "5": "metadata"} == {
        name: each["response"]["body"]["error"]["param"] for name, each in failed.items()
    }
    assert [("", 2, 2, "0.007"), ("feature=hero", 1, 1, "0.0035")] == usage(gateway, "by=tag&tag=feature")
    assert [("env=batch", 3, 3, "0.0105")] == usage(gateway, "by=tag&tag=env")
    assert [(batch.id, 3, 3, "0.0105")] == usage(gateway, "by=batch")
    check_books(gateway)
    with pytest.raises(openai.BadRequestError, match="Unknown tag 'x'"):
        client.batches.create(
            input_file_id=batch.input_file_id,
            endpoint="/v1/images/generations",
            completion_window="24h",
            extra_headers={"x-imagegate-tags": "x=y"},
        )


@pytest.mark.shares_gateway
@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("by=tag", "Missing required parameter: 'tag', the key of the tag to group by. No tag has sums"),
        ("tag=env", "expected KEY or KEY=VALUE of a tag with sums, but got 'env'. No tag has sums"),
        ("by=user,batch", "usage by user and batch has separate sums. Ask for one of them at a time."),
        ("by=upstream&tag=env", "usage by upstream and tag has separate sums."),
        ("from=2026-13-01", "expected a day, YYYY-MM-DD, as 2026-01-31, but got '2026-13-01'."),
        ("to=2026-02-30", "expected a day, YYYY-MM-DD, as 2026-01-31, but got '2026-02-30'."),
        ("month=2026-13", "expected a month, YYYY-MM, as 2026-01, but got '2026-13'."),
        ("month=2026-01-01", "expected a month, YYYY-MM, as 2026-01, but got '2026-01-01'."),
        ("last=30", "expected a number of days, today included, as 30d, but got '30'."),
        ("last=0d", "expected a number of days, today included, as 30d, but got '0d'."),
        ("last=3d&month=2026-01", "it cannot be combined with another period. Use it alone."),
        ("from=2026-01-01&last=3d", "it cannot be combined with another period. Use it alone."),
    ],
)
def test_a_report_that_cannot_be_made_says_what_can(gateway: Gateway, query: str, text: str) -> None:
    response: httpx.Response = gateway.admin("GET", f"/usage?{query}")
    assert 400 == response.status_code
    assert text in response.json()["error"]["message"]


@pytest.mark.shares_gateway
def test_a_month_has_all_its_days(gateway: Gateway) -> None:
    for month, last in (("2024-02", "29"), ("2026-02", "28"), ("2026-12", "31"), ("9999-12", "31"), ("0001-01", "31")):
        report = gateway.admin("GET", f"/usage?month={month}").json()
        assert (f"{month}-01", f"{month}-{last}") == (report["from"], report["to"])
