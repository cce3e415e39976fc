"""What was used, as the admin API tells it: reports, records, verification."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
import redis
from starlette.requests import Request

from gateway.api.admin.usage import UsageSection
from gateway.domain.billing import RequestOutcome, usd
from gateway.domain.usage import MEASURES, PURCHASES, GroupBy
from gateway.metering.ledger import Ledger
from gateway.metering.verification import LedgerVerifier
from gateway.redis import connect
from gateway.tenants.key_list import KeyList
from gateway.tenants.names import TenantNames
from tests.support.bookkeeping import TODAY, Settled, know, numbered, settle
from tests.support.harness import Gateway
from tests.support.openapi import SCHEMAS, conform, enum

PATHS: Final = ("/usage", "/usage/records", "/usage/verify")
JULY: Final = "from=2026-07-01&to=2026-07-31"
STRANGE: Final[tuple[Any, ...]] = (
    None,
    -1,
    10**30,
    "",
    "x" * 1000,
    "2026-07-28",
    "9999999999999999999-0",
    [],
    {},
    ["a"],
)
COUNTS: Final = ("requests", "asked", "images", "withheld", "lost", "unconfirmed", "usd")


@pytest.fixture
def books(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


def get(gateway: Gateway, path: str, query: str = "") -> dict[str, Any]:
    response = gateway.admin("GET", f"{path}?{query}")
    assert 200 == response.status_code, response.text
    found: dict[str, Any] = response.json()
    return found


def all_pages(gateway: Gateway, path: str, query: str) -> list[dict[str, Any]]:
    answers = [get(gateway, path, query)]
    while answers[-1]["next_cursor"]:
        answers.append(get(gateway, path, f"{query}&cursor={answers[-1]['next_cursor']}"))
    return answers


def refused(gateway: Gateway, path: str, query: str, status: int = 400) -> dict[str, Any]:
    response = gateway.admin("GET", f"{path}?{query}")
    assert status == response.status_code, response.text
    assert {"message", "type", "param", "code"} == set(response.json()["error"])
    found: dict[str, Any] = response.json()["error"]
    return found


def counts(*values: object) -> dict[str, object]:
    return dict(zip(COUNTS, values, strict=True))


def test_a_report_has_rows_and_a_total(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, numbered(Settled(), 2))
    settle(books, [Settled(tenant="b", key="k2", model="a|b", asked=9, delivered=3, withheld=2, lost=1, unconfirmed=3)])
    settle(books, [Settled(day=date(2026, 7, 1), usd_micros=1), Settled(day=date(2026, 6, 30)), Settled(tenant="b")])
    answer = get(gateway, "/usage", JULY)
    assert {
        "from": "2026-07-01",
        "to": "2026-07-31",
        "time_zone": "UTC",
        "by": ["day"],
        "data": [
            {"day": "2026-07-01"} | counts(1, 1, 1, 0, 0, 0, "0.000001"),
            {"day": "2026-07-28"} | counts(4, 12, 6, 2, 1, 3, "0.014"),
        ],
        "total": counts(5, 13, 7, 2, 1, 3, "0.014001"),
        "next_cursor": None,
    } == answer
    assert counts(1, 9, 3, 2, 1, 3, "0.0035").items() <= get(gateway, "/usage", f"{JULY}&by=model")["data"][0].items()


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("day", [{"day": "2026-07-01"}, {"day": "2026-07-28"}]),
        ("tenant", [{"tenant": "acme"}, {"tenant": "b"}]),
        ("model", [{"model": "a|b"}, {"model": "image-01"}]),
        ("key", [{"key": "k2", "label": None}, {"key": "key1", "label": None}]),
        (
            "key,%20model",
            [{"key": "k2", "model": "a|b", "label": None}, {"key": "key1", "model": "image-01", "label": None}],
        ),
        ("batch", [{"batch": ""}, {"batch": "batch_1"}]),
        ("batch,key", [{"batch": "", "key": "k2", "label": None}, {"batch": "batch_1", "key": "key1", "label": None}]),
        ("tenant,day,tenant", [{"tenant": "acme", "day": "2026-07-01"}, {"tenant": "b", "day": "2026-07-28"}]),
    ],
)
def test_a_report_is_grouped_as_asked(
    gateway: Gateway, books: "redis.Redis", by: str, expected: list[dict[str, str]]
) -> None:
    settle(books, [Settled(day=date(2026, 7, 1), batch="batch_1"), Settled(tenant="b", key="k2", model="a|b")])
    answer = get(gateway, "/usage", f"{JULY}&by={by}")
    assert expected == [{name: row[name] for name in row if name not in COUNTS} for row in answer["data"]]
    assert [name for name in expected[0] if name != "label"] == answer["by"]


@pytest.mark.parametrize("by", ["day", "tenant", "model", "key", "batch", "day,tenant,model,key", "model,tenant"])
@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
def test_pages_together_are_the_whole_report(gateway: Gateway, books: "redis.Redis", by: str, limit: int) -> None:
    for number in range(7):
        request = Settled(tenant="ab"[number % 2], day=date(2026, 7, 1 + number), key=f"k{number % 3}", model="x" * 100)
        more = replace(request, key="k9", batch=f"batch_{number}")
        settle(books, [request, replace(request, model=f"{number}|图"), more])
    whole = get(gateway, "/usage", f"{JULY}&by={by}")
    pages = all_pages(gateway, "/usage", f"{JULY}&by={by}&limit={limit}")
    assert whole["data"] == [row for page in pages for row in page["data"]]
    assert -(-len(whole["data"]) // limit) == len(pages)
    assert [whole["total"]] * len(pages) == [page["total"] for page in pages]


def test_a_report_is_compared_with_as_many_days_before(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, numbered(Settled(), 2))
    day = TODAY + timedelta(days=1)
    compared = get(gateway, "/usage", f"from={day}&to={day}&compare=previous")
    before = get(gateway, "/usage", f"from={TODAY}&to={TODAY}")
    assert compared["previous"] == {"from": str(TODAY), "to": str(TODAY), "total": before["total"]}
    assert before["total"]["requests"] > 0 == compared["total"]["requests"]
    assert "previous" not in before
    assert refused(gateway, "/usage", "compare=next")["param"] == "compare"
    assert refused(gateway, "/usage", "from=0001-01-01&to=0001-01-01&compare=previous")["param"] in {"from", "compare"}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("month=2026-07", ("2026-06-01", "2026-06-30")),
        ("month=2024-03", ("2024-02-01", "2024-02-29")),
        ("from=2026-07-01&to=2026-07-30", ("2026-06-01", "2026-06-30")),
        ("from=2026-07-02&to=2026-07-31", ("2026-06-02", "2026-07-01")),
    ],
)
def test_a_whole_month_is_compared_with_the_month_before(
    gateway: Gateway, query: str, expected: tuple[str, str]
) -> None:
    previous = get(gateway, "/usage", f"{query}&compare=previous")["previous"]
    assert expected == (previous["from"], previous["to"])


def test_money_is_exact(gateway: Gateway, books: "redis.Redis") -> None:
    amounts = [1, 10, 999_999, 1_000_000, 1_500_000, 123_456_789_012_345_678]
    settle(books, [Settled(key=f"k{number}", usd_micros=amount) for number, amount in enumerate(amounts)])
    answer = get(gateway, "/usage", f"{JULY}&by=key")
    expected = ["0.000001", "0.00001", "0.999999", "1.00", "1.50", "123456789012.345678"]
    assert expected == [row["usd"] for row in answer["data"]]
    assert usd(sum(amounts)) == answer["total"]["usd"]


@pytest.mark.parametrize(
    ("now", "query", "expected"),
    [
        ("2026-07-28T12:00", "", ("2026-07-01", "2026-07-28")),
        ("2026-08-01T00:00", "", ("2026-08-01", "2026-08-01")),
        ("2026-07-31T23:59", "", ("2026-07-01", "2026-07-31")),
        ("2026-01-01T00:00", "", ("2026-01-01", "2026-01-01")),
        ("2025-12-31T23:59", "", ("2025-12-01", "2025-12-31")),
        ("2024-02-29T12:00", "", ("2024-02-01", "2024-02-29")),
        ("2026-07-28T12:00", "to=2026-02-28", ("2026-02-01", "2026-02-28")),
        ("2026-07-28T12:00", "from=2025-12-31", ("2025-12-31", "2026-07-28")),
        ("2026-07-28T12:00", "from=0001-01-01&to=9999-12-31", ("0001-01-01", "9999-12-31")),
    ],
)
@pytest.mark.anyio
async def test_days_that_are_not_given_are_this_month_up_to_today(
    redis_url: str, now: str, query: str, expected: tuple[str, str]
) -> None:
    client = connect(redis_url, 2.0)
    clock = datetime.fromisoformat(now).replace(tzinfo=UTC).timestamp
    ledger, names = Ledger(client), TenantNames(client)
    section = UsageSection(ledger, LedgerVerifier(ledger, 400, clock), clock, names, KeyList(client, names, clock))
    for path, handlers in section.handlers().items():
        transport = httpx.ASGITransport(_only(handlers["GET"]))
        async with httpx.AsyncClient(transport=transport, base_url="http://test", verify=False) as http:
            answer = (await http.get(f"{path}?{query}")).json()
        assert expected == (answer["from"], answer["to"])
    await client.aclose()


def _only(handler: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        response = await handler(Request(scope), None)
        await response(scope, receive, send)

    return app


def test_the_borders_of_months_and_years_are_days_like_others(gateway: Gateway, books: "redis.Redis") -> None:
    first = date(2025, 12, 30)
    settle(books, [Settled(day=first + timedelta(days=number), usd_micros=10**number) for number in range(5)])
    for start, end, expected in [
        ("2025-12-30", "2026-01-03", "0.011111"),
        ("2025-12-31", "2025-12-31", "0.00001"),
        ("2026-01-01", "2026-01-01", "0.0001"),
        ("2025-12-31", "2026-01-01", "0.00011"),
        ("2026-01-04", "2027-12-31", "0.00"),
    ]:
        assert expected == get(gateway, "/usage", f"from={start}&to={end}")["total"]["usd"]


def test_a_disabled_tenant_is_reported(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [Settled()])
    gateway.admin("DELETE", "/tenants/acme")
    for query in (JULY, f"{JULY}&tenant=acme"):
        assert 1 == get(gateway, "/usage", query)["total"]["requests"]
        assert 1 == get(gateway, "/usage/records", query)["total"]
        assert 1 == get(gateway, "/usage/verify", query)["days"]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("from=yesterday", "from"),
        ("from=2026-7-1", "from"),
        ("from=20260701", "from"),
        ("from=2026-W27-1", "from"),
        ("from=2026-02-29", "from"),
        ("from=2026-07-01T00:00:00", "from"),
        ("from=%D9%A2%D9%A0%D9%A2%D9%A6-07-01", "from"),
        ("to=2026-13-01", "to"),
        ("to=0000-01-01", "to"),
        ("from=2026-07-02&to=2026-07-01", "from"),
        ("from=9999-01-01", "from"),
        ("from=", "from"),
        ("to=", "to"),
        ("tenant=", "tenant"),
        ("cursor=", "cursor"),
        ("from=2026-07-01&from=2026-07-02", "from"),
        ("to=2026-07-02&to=2026-07-02", "to"),
        ("tenant=acme&tenant=b", "tenant"),
        ("cursor=x&cursor=x", "cursor"),
        ("cursor=x", "cursor"),
        ("cursor=é", "cursor"),
        ("cursor=bnVsbA", "cursor"),
        ("cursor=W10", "cursor"),
        ("cursor=" + "W1tb" * 500, "cursor"),
    ],
)
def test_wrong_questions_are_refused_by_name(gateway: Gateway, path: str, query: str, param: str) -> None:
    found = refused(gateway, path, query)
    assert ("invalid_value", param) == (found["code"], found["param"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", PATHS)
def test_unknown_parameters_and_tenants_are_refused_by_name(gateway: Gateway, path: str) -> None:
    unknown = refused(gateway, path, "form=2026-07-01")
    assert ("unknown_parameter", "form") == (unknown["code"], unknown["param"])
    for name in ("nobody", "{acme}", "*", "%00", "x" * 500):
        found = refused(gateway, path, f"tenant={name}", 404)
        assert ("not_found", "tenant") == (found["code"], found["param"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize("by", ["minute", "Day", "day,", "day;tenant", "day,minute", ","])
def test_an_unknown_group_is_refused_with_the_known_ones(gateway: Gateway, by: str) -> None:
    found = refused(gateway, "/usage", f"by={by.replace(';', '%3B')}")
    assert ("invalid_value", "by") == (found["code"], found["param"])
    assert (
        "Supported values are: 'day', 'hour', 'month', 'tenant', 'cost_centre', 'owner', 'model'," in found["message"]
    )


@pytest.mark.shares_gateway
@pytest.mark.parametrize("query", ["by=", "by", "by=day&by=tenant"])
def test_groups_are_given_once_or_not_at_all(gateway: Gateway, query: str) -> None:
    found = refused(gateway, "/usage", query)
    assert ("invalid_value", "by") == (found["code"], found["param"])


@pytest.mark.shares_gateway
@pytest.mark.parametrize("path", PATHS[:2])
@pytest.mark.parametrize("limit", ["0", "-1", "1001", "x", "1.5", "", "1&limit=1", "9" * 100])
def test_a_limit_out_of_bounds_is_refused(gateway: Gateway, path: str, limit: str) -> None:
    assert "limit" == refused(gateway, path, f"limit={limit}")["param"]


def cursors(gateway: Gateway, books: "redis.Redis") -> dict[str, str]:
    """One of every kind."""
    settle(books, numbered(Settled(), 3000) + numbered(Settled(tenant="b"), 3000, 3000))
    found = {path: get(gateway, path, f"{JULY}&limit=1&by=tenant")["next_cursor"] for path in PATHS[:1]}
    found |= {PATHS[1]: get(gateway, PATHS[1], f"{JULY}&limit=1")["next_cursor"]}
    return found | {PATHS[2]: get(gateway, PATHS[2], JULY)["next_cursor"]}


def test_a_cursor_continues_its_own_question_only(gateway: Gateway, books: "redis.Redis") -> None:
    found = cursors(gateway, books)
    for path, cursor in found.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
        alone = get(gateway, path, f"cursor={cursor}")
        assert ("2026-07-01", "2026-07-31") == (alone["from"], alone["to"])
        for other in ("from=2026-07-02", "to=2026-07-30", "tenant=acme"):
            assert "cursor" == refused(gateway, path, f"cursor={cursor}&{other}")["param"]
        for elsewhere in set(PATHS) - {path}:
            assert "cursor" == refused(gateway, elsewhere, f"cursor={cursor}")["param"]
    assert "cursor" == refused(gateway, "/usage", f"cursor={found['/usage']}&by=day")["param"]


def test_no_change_to_a_cursor_is_a_fault_of_the_gateway(gateway: Gateway, books: "redis.Redis") -> None:
    """Whatever is made of one, it is refused or answered."""
    for path, cursor in cursors(gateway, books).items():
        items: list[Any] = json.loads(base64.urlsafe_b64decode(cursor + "=="))
        for place in range(len(items)):
            for value in STRANGE:
                made = json.dumps([*items[:place], value, *items[place + 1 :]]).encode()
                text = base64.urlsafe_b64encode(made).decode().rstrip("=")
                response = gateway.admin("GET", f"{path}?cursor={text}")
                assert response.status_code in {200, 400, 404}, (made, response.text)


def test_a_record_is_told_whole(gateway: Gateway, books: "redis.Redis") -> None:
    calls = "sim/main:1,1,0,0;sim/second:0,0,1,0;other/main:1,0,0,1"
    settled = Settled(
        model="a|b", asked=5, delivered=2, withheld=1, lost=1, unconfirmed=1, usd_micros=10_501, calls=calls
    )
    settled = replace(settled, tags='{"env":"prod"}', user="ann")
    settle(books, [replace(settled, admitted_ms=1_785_196_799_007, key="k2", reservation="t9")])
    assert {
        "from": "2026-07-01",
        "to": "2026-07-31",
        "time_zone": "UTC",
        "data": [
            {
                "id": "t9",
                "time": "2026-07-27T23:59:59.007Z",
                "request_id": "req_1",
                "tenant": "acme",
                "correction_of": None,
                "key_id": "k2",
                "user": "ann",
                "tags": {"env": "prod"},
                "batch_id": None,
                "custom_id": None,
                "model": "a|b",
                "upstream": "sim,other",
                "account": "main,second",
                "asked": 5,
                "delivered": 2,
                "withheld": 1,
                "lost": 1,
                "unconfirmed": 1,
                "usd": "0.010501",
                "price_per_image_usd": "0.0035",
                "price_basis": "answer",
                "cost_usd": None,
                "outcome": "delivered",
                "calls": [
                    {"upstream": "sim", "account": "main"} | shares(1, 1, 0, 0),
                    {"upstream": "sim", "account": "second"} | shares(0, 0, 1, 0),
                    {"upstream": "other", "account": "main"} | shares(1, 0, 0, 1),
                ],
                "queue_ms": 1,
                "upstream_ms": 20,
                "total_ms": 22,
            }
        ],
        "total": 1,
        "next_cursor": None,
    } == get(gateway, "/usage/records", JULY)


def shares(delivered: int, withheld: int, lost: int, unconfirmed: int) -> dict[str, int | None]:
    return {"delivered": delivered, "withheld": withheld, "lost": lost, "unconfirmed": unconfirmed, "cost_usd": None}


def test_a_record_of_nothing_has_no_upstream(gateway: Gateway, books: "redis.Redis") -> None:
    settle(books, [Settled(delivered=0, usd_micros=0, outcome="not_sent", calls="", admitted_ms=10**18)])
    [record] = get(gateway, "/usage/records", JULY)["data"]
    assert ("", "", [], "0.00", "not_sent") == tuple(
        record[name] for name in ("upstream", "account", "calls", "usd", "outcome")
    )
    assert "9999-12-31T23:59:59.999Z" == record["time"]


def test_every_record_comes_once_with_the_total_of_the_beginning(gateway: Gateway, books: "redis.Redis") -> None:
    before = numbered(Settled(), 1200) + numbered(Settled(tenant="b", day=TODAY - timedelta(days=1)), 30, 1200)
    settle(books, before)
    answer = get(gateway, "/usage/records", JULY)
    found, totals = answer["data"], {answer["total"]}
    assert 1000 == len(found)
    while answer["next_cursor"]:
        settle(books, numbered(Settled(), 5, 10_000))
        answer = get(gateway, "/usage/records", f"limit=70&cursor={answer['next_cursor']}")
        found += answer["data"]
        totals.add(answer["total"])
    assert {1230} == totals
    ids = [record["request_id"] for record in found]
    assert [f"req_{number}" for number in (*range(1200, 1230), *range(1200))] == ids[:1230]
    assert ["b"] * 30 == [record["tenant"] for record in found[:30]]


def test_a_record_that_is_corrected_between_two_pages_is_on_one_of_them(gateway: Gateway, books: "redis.Redis") -> None:
    stream = "ig3:{acme}:ledger:20260728"
    settle(books, numbered(Settled(), 4))
    entries: Any = books.xrange(stream)
    answer = get(gateway, "/usage/records", f"{JULY}&tenant=acme&limit=2")
    for number in (0, 2):
        name = entries[number][0]
        moved: Any = numbered(Settled(delivered=0, lost=1), 1, number)[0].fields() | {"corrects": name}
        books.xdel(stream, name)
        books.xadd(stream, moved)
    rest = get(gateway, "/usage/records", f"cursor={answer['next_cursor']}")
    found = [(record["id"], record["lost"]) for record in answer["data"] + rest["data"]]
    assert [("t0", 0), ("t1", 0), ("t3", 0), ("t2", 1)] == found
    assert rest["next_cursor"] is None


def test_a_verification_tells_what_it_compared_and_found(gateway: Gateway, books: "redis.Redis") -> None:
    today = datetime.now(UTC).date()
    settle(books, numbered(Settled(day=today), 3000) + numbered(Settled(tenant="b", day=today), 3000))
    settle(books, [Settled(tenant="c", day=today - timedelta(days=500)), Settled(tenant="c", day=today, model="a|b")])
    books.delete(f"ig3:{{c}}:ledger:{today - timedelta(days=500):%Y%m%d}")
    query = f"from={today - timedelta(days=600)}"
    first, second = all_pages(gateway, "/usage/verify", query)
    assert {"days": 2, "records": 6000, "expired_days": 0, "busy_days": 0, "differences": []}.items() <= first.items()
    assert {"days": 1, "records": 1, "expired_days": 1, "differences": []}.items() <= second.items()
    books.hincrby(f"ig3:{{c}}:sums:{today:%Y%m%d}", "key1|usd_micros|a|b", 7)
    [difference] = all_pages(gateway, "/usage/verify", f"{query}&tenant=c")[0]["differences"]
    assert {
        "tenant": "c",
        "day": str(today),
        "key": "key1",
        "model": "a|b",
        "batch": "",
        "split": "",
        "measure": "usd_micros",
        "sums": 3507,
        "records": 3500,
    } == difference


def test_the_setting_counts_for_a_day_that_does_not_say_how_long_its_records_are_kept(
    make_gateway: Any, books: "redis.Redis"
) -> None:
    day = datetime.now(UTC).date() - timedelta(days=20)
    for retention_days, expected in ((10, (1, 0)), (400, (0, 4))):
        gateway = make_gateway(ledger={"retention_days": retention_days})
        know(books, "acme")
        settle(books, [Settled(day=day)])
        books.delete(f"ig3:{{acme}}:ledger:{day:%Y%m%d}")
        answer = get(gateway, "/usage/verify", f"from={day}")
        assert expected == (answer["expired_days"], len(answer["differences"]))
        books.delete(f"ig3:{{acme}}:sums:{day:%Y%m%d}")


def test_a_request_that_was_served_is_reported_recorded_and_proved(gateway: Gateway) -> None:
    assert 200 == gateway.generate(prompt="a lighthouse", n=2).status_code
    assert 400 == gateway.generate(prompt="[code=1026]").status_code
    total = get(gateway, "/usage", "tenant=acme&by=model")["total"]
    assert counts(2, 3, 2, 0, 0, 0, "0.007") == total
    made, refused_one = get(gateway, "/usage/records")["data"]
    assert ("sim", "main", "delivered", "0.007", "0.0035") == tuple(
        made[name] for name in ("upstream", "account", "outcome", "usd", "price_per_image_usd")
    )
    assert ("refused", "0.00", made["key_id"]) == tuple(refused_one[name] for name in ("outcome", "usd", "key_id"))
    assert {"days": 1, "records": 2, "differences": []}.items() <= get(gateway, "/usage/verify").items()


def test_the_documented_answers_are_the_answers(gateway: Gateway, books: "redis.Redis") -> None:
    today = datetime.now(UTC).date()
    settle(books, [*numbered(Settled(day=today), 2), Settled(day=today, outcome="not_sent", calls="")])
    settle(books, [Settled(day=today, batch="batch_1")])
    books.hincrby(f"ig3:{{acme}}:sums:{today:%Y%m%d}", "key1|lost|image-01", 1)
    answers = {
        "UsageReport": get(gateway, "/usage", "by=day,tenant,model,key,batch"),
        "UsageRecords": get(gateway, "/usage/records"),
        "UsageVerification": get(gateway, "/usage/verify"),
    }
    for name, answer in answers.items():
        conform(answer, {"$ref": f"#/components/schemas/{name}"}, name)
    assert {*MEASURES, PURCHASES} == enum("UsageDifference", "measure")
    assert {outcome.value for outcome in RequestOutcome} == enum("UsageRecord", "outcome")
    assert [one.value for one in GroupBy] == SCHEMAS["UsageReport"]["properties"]["by"]["items"]["enum"]
