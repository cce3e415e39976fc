from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.testing.simulator import create_simulator
from tests.testing.simulator.driving import AI302, MINIMAX, Time, ask, bearer, bill_of, code_of, talking

pytestmark = pytest.mark.anyio

REMAINS = "/v1/token_plan/remains"


@pytest.fixture
async def client(time: Time) -> AsyncIterator[httpx.AsyncClient]:
    async with talking(create_simulator(clock=time, sleep=time.sleep)) as client:
        yield client


async def order(client: httpx.AsyncClient, what: str, **body: object) -> None:
    answer = await client.put(f"/simulator/{what}", json=body)
    assert (200, body) == (answer.status_code, answer.json())


async def remains(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.get(REMAINS, headers=bearer(key))


async def models(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.get("/v1/models", headers=bearer(key))


@pytest.mark.parametrize("code", [2049, 1008, 2056, 1028, 1002, 4711])
async def test_key_answers_the_ordered_code_and_its_sisters_work(client: httpx.AsyncClient, code: int) -> None:
    await order(client, "keys/design-1", answers=code)
    assert [code, code, 0] == [await code_of(client, key=key) for key in ("design-1", "design-1", "design-2")]
    await order(client, "keys/design-1", answers=0)
    assert 0 == await code_of(client)
    assert ({str(code): 2}, 2) == ((await bill_of(client))["refusals"], (await bill_of(client))["images"])


@pytest.mark.parametrize("word", ["dead", "broke", "window"])
async def test_key_made_good_works_whatever_its_word(client: httpx.AsyncClient, word: str) -> None:
    assert 0 != await code_of(client, key=f"{word}-1")
    await order(client, f"keys/{word}-1", answers=0)
    assert 0 == await code_of(client, key=f"{word}-1")
    assert 0 == (await remains(client, f"{word}-1")).json()["base_resp"]["status_code"]
    assert 0 != await code_of(client, key=f"{word}-2")


async def test_account_s_order_holds_for_all_its_keys_and_the_later_order_counts(client: httpx.AsyncClient) -> None:
    keys = ("design-1", "design-2", "design-3", "other-1")
    await order(client, "keys/design-1", answers=2049)
    await order(client, "accounts/design", answers=1008)
    assert [1008, 1008, 1008, 0] == [await code_of(client, key=key) for key in keys]
    await order(client, "keys/design-2", answers=0)
    assert [1008, 0, 1008, 0] == [await code_of(client, key=key) for key in keys]
    await order(client, "accounts/design", answers=0)
    assert [0] * 4 == [await code_of(client, key=key) for key in keys]


async def test_ordered_state_with_a_time_passes_by_itself(client: httpx.AsyncClient, time: Time) -> None:
    await order(client, "accounts/window", answers=2056, remains_ms=5000)
    time.now = 1004.75
    assert 2056 == await code_of(client, key="window-1")
    assert 250 == (await remains(client, "window-1")).json()["model_remains"][0]["remains_time"]
    time.now = 1005.0
    assert 0 == await code_of(client, key="window-1")
    assert 100 == (await remains(client, "window-1")).json()["model_remains"][0]["current_interval_usage_count"]


async def test_new_invoice_ends_no_state_and_no_outage(client: httpx.AsyncClient) -> None:
    await order(client, "keys/design-1", answers=1008)
    await order(client, "outage", kind="503", seconds=60)
    await client.delete("/simulator/invoice")
    assert 503 == (await ask(client)).status_code
    await client.delete("/simulator/outage")
    assert 1008 == await code_of(client)


@pytest.mark.parametrize("path", [MINIMAX, AI302])
async def test_ordered_codes_take_the_same_form_on_both_paths(client: httpx.AsyncClient, path: str) -> None:
    await order(client, "keys/design-1", answers=1008)
    answer = await ask(client, path=path)
    assert b'{"base_resp":{"status_code":1008,"status_msg":"insufficient balance"}}' == answer.content
    await order(client, "keys/design-1", answers=-10004)
    answer = await ask(client, path=path)
    error = {"err_code": -10004, "message": "insufficient balance", "type": "api_error"}
    assert (500, {"error": error}) == (answer.status_code, answer.json())


@pytest.mark.parametrize(("key", "code"), [("dead-1", 2049), ("broke-1", 1008)])
async def test_quota_page_shows_a_bad_key_s_code(client: httpx.AsyncClient, key: str, code: int) -> None:
    answer = await remains(client, key)
    assert (200, ["base_resp"]) == (answer.status_code, list(answer.json()))
    assert code == answer.json()["base_resp"]["status_code"]


@pytest.mark.parametrize("code", [1028, 1030, 2056, 2067])
async def test_quota_page_of_a_used_up_plan_is_a_success_with_nothing_left(
    client: httpx.AsyncClient, code: int
) -> None:
    await order(client, "keys/design-1", answers=code)
    by_order, by_word = await remains(client, "design-1"), await remains(client, "window-1")
    assert by_word.content == by_order.content
    assert b'{"base_resp":{"status_code":0,"status_msg":"success"},"model_remains":[{"model_name":"image-01",' in (
        by_order.content
    )
    assert (
        b'"current_interval_total_count":100,"current_interval_usage_count":0,"current_interval_remaining_percent":0,"remains_time":3600000}]}'
        in by_order.content
    )


async def test_models_are_listed_for_every_key_that_exists(client: httpx.AsyncClient) -> None:
    for key in ("design-1", "broke-1", "window-1"):
        answer = await models(client, key)
        assert (200, "list") == (answer.status_code, answer.json()["object"])
        assert ["minimaxi-image-01"] == [model["id"] for model in answer.json()["data"]]


@pytest.mark.parametrize(("code", "err_code"), [(2049, -10002), (1004, -10002), (-10001, -10001), (-10005, -10005)])
async def test_models_refuse_an_invalid_key_in_the_forms_of_both_providers(
    client: httpx.AsyncClient, code: int, err_code: int
) -> None:
    await order(client, "keys/design-1", answers=code)
    answer = await models(client, "design-1")
    assert (401, err_code) == (answer.status_code, answer.json()["error"]["err_code"])


async def test_models_refuse_a_missing_key_and_a_dead_one(client: httpx.AsyncClient) -> None:
    missing = {"error": {"err_code": -10001, "message": "API key missing", "type": "api_error"}}
    disabled = {
        "error": {"err_code": -10002, "message": "key disabled or deleted", "type": "api_error"},
        "base_resp": {"status_code": 2049, "status_msg": "invalid api key"},
    }
    answers = [await client.get("/v1/models"), await models(client, "dead-1")]
    assert [(401, missing), (401, disabled)] == [(answer.status_code, answer.json()) for answer in answers]


async def test_free_pages_are_on_no_bill_and_work_in_an_outage(client: httpx.AsyncClient) -> None:
    await order(client, "outage", kind="502", seconds=60)
    for key in ("design-1", "window-1", "broke-1"):
        assert [200, 200] == [(await remains(client, key)).status_code, (await models(client, key)).status_code]
    assert {} == (await client.get("/simulator/invoice")).json()["accounts"]


@pytest.mark.parametrize(("kind", "status"), [("500", 500), ("502", 502), ("599", 599), ("garbage", 200)])
async def test_failing_front_answers_a_page_to_everything_bills_nothing_and_takes_no_place(
    client: httpx.AsyncClient, time: Time, kind: str, status: int
) -> None:
    await order(client, "outage", kind=kind, seconds=60)
    answers = [await ask(client, prompt, path=path) for prompt in ("a fox", "[code=1026]") for path in (MINIMAX, AI302)]
    assert [(status, True)] * 4 == [(answer.status_code, answer.text.startswith("<html>")) for answer in answers]
    assert status == (await ask(client, key="dead-1")).status_code
    bill = await bill_of(client)
    assert (4, 0, {}, 0) == (bill["requests"], bill["images"], bill["refusals"], bill["peak_per_minute"])
    assert [] == (await client.get("/simulator/receipts")).json()
    time.now = 1060.0
    assert 0 == await code_of(client)


@pytest.mark.parametrize("kind", ["hang", "cut"])
async def test_what_hangs_or_is_cut_in_an_outage_had_been_let_in_by_the_rules(
    client: httpx.AsyncClient, kind: str
) -> None:
    await order(client, "outage", kind=kind, seconds=60)
    assert [2013, 2049] == [await code_of(client, n=0), await code_of(client, key="dead-1")]
    assert {"2013": 1} == (await bill_of(client))["refusals"]


async def test_outage_lasts_as_long_as_ordered_or_until_it_is_ended(client: httpx.AsyncClient, time: Time) -> None:
    await order(client, "outage", kind="502", seconds=60)
    time.now = 1059.9
    assert 502 == (await ask(client)).status_code
    time.now = 1060.0
    assert 0 == await code_of(client)
    await order(client, "outage", kind="502", seconds=60)
    await order(client, "outage", kind="503", seconds=0.5)
    assert 503 == (await ask(client)).status_code
    ended = [await client.delete("/simulator/outage") for _ in range(2)]
    assert [(204, b"")] * 2 == [(answer.status_code, answer.content) for answer in ended]
    assert 0 == await code_of(client)


@pytest.mark.parametrize("path", ["keys/design-1", "accounts/design", "outage"])
@pytest.mark.parametrize("raw", [b"", b"{", b"\xff", b'{"\xff":1}'])
async def test_order_that_is_no_json_is_a_400(client: httpx.AsyncClient, path: str, raw: bytes) -> None:
    answer = await client.put(f"/simulator/{path}", content=raw)
    assert (400, {"detail": "The body is not JSON."}) == (answer.status_code, answer.json())


@pytest.mark.parametrize(
    ("path", "body", "detail"),
    [
        ("keys/design-1", [], "Expected `object`, got `array`"),
        ("keys/design-1", {}, "Object missing required field `answers`"),
        ("keys/design-1", {"answers": "2049"}, "answers: Expected `int`, got `str`"),
        ("keys/design-1", {"answers": True}, "answers: Expected `int`, got `bool`"),
        ("keys/design-1", {"answers": 2056, "remains_ms": 0}, "remains_ms: Expected `int` >= 1"),
        ("keys/design-1", {"answers": 0, "remains_ms": 9}, "remains_ms: goes with a code other than 0"),
        ("accounts/design", {"answers": 1008, "for": 3}, "Object contains unknown field `for`"),
        ("outage", {"kind": "hang"}, "Object missing required field `seconds`"),
        ("outage", {"kind": "hang", "seconds": 0}, "seconds: Expected `float` > 0.0"),
        ("outage", {"kind": 502, "seconds": 9}, "kind: Expected `str`, got `int`"),
        (
            "outage",
            {"kind": "404", "seconds": 9},
            "kind: Expected `str` matching regex '^(hang|cut|garbage|5[0-9][0-9])$'",
        ),
    ],
)
async def test_order_that_is_not_understood_is_a_400_that_says_why_and_changes_nothing(
    client: httpx.AsyncClient, path: str, body: object, detail: str
) -> None:
    answer = await client.put(f"/simulator/{path}", json=body)
    assert (400, {"detail": detail}) == (answer.status_code, answer.json())
    assert 0 == await code_of(client)
