"""The journal: what every call was, what decided it, and what it cost."""

from typing import Any

import httpx
import pytest

from gateway.testing.simulator import create_simulator
from tests.testing.simulator.driving import MINIMAX, Time, ask, talking

pytestmark = pytest.mark.anyio


async def calls_of(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get("/simulator/calls")).json()
    return found


async def test_a_call_stands_in_it_with_its_account_and_what_was_billed() -> None:
    time = Time()
    async with talking(create_simulator(calls_kept=10, clock=time, sleep=time.sleep)) as client:
        await ask(client, "a fox [fail=1]", n=3)
        assert await calls_of(client) == [
            {
                "at": 1000.0,
                "account": "design",
                "key": "design-1",
                "path": MINIMAX,
                "model": "image-01",
                "prompt": "a fox [fail=1]",
                "rule": "words",
                "asked": 3,
                "images": 2,
                "withheld": 1,
                "code": 0,
                "page": 0,
                "faults": [],
                "ended": 1000.0,
            }
        ]


@pytest.mark.parametrize(
    ("prompt", "given", "rule", "code", "page", "faults"),
    [
        ("a fox", {"key": "dead-1"}, "key", 2049, 0, []),
        ("a fox", {"n": 99}, "fields", 2013, 0, []),
        ("[code=1002]", {}, "words", 1002, 0, []),
        ("[http=502]", {}, "words", 0, 502, []),
        ("[http=502][code=1000]", {}, "words", 1000, 0, []),
        ("[garbage]", {}, "words", 0, 0, ["garbage"]),
    ],
)
async def test_what_made_nothing_is_told_with_the_rule_that_decided_it(
    prompt: str, given: dict[str, Any], rule: str, code: int, page: int, faults: list[str]
) -> None:
    async with talking(create_simulator(calls_kept=10, latency_s=0)) as client:
        await ask(client, prompt, **given)
        [call] = await calls_of(client)
    assert (rule, code, page, faults) == (call["rule"], call["code"], call["page"], call["faults"])
    assert (prompt, 0, 0) == (call["prompt"], call["images"], call["withheld"])


async def test_a_limit_that_refuses_is_not_taken_for_a_prompt_that_asks_for_it() -> None:
    async with talking(create_simulator(calls_kept=10, latency_s=0, requests_per_minute=1)) as client:
        for _ in range(2):
            await ask(client)
        found = [(call["rule"], call["code"]) for call in await calls_of(client)]
    assert [("words", 0), ("limits", 1002)] == found


async def test_a_front_that_fails_tells_of_the_prompt_that_it_did_not_read() -> None:
    async with talking(create_simulator(calls_kept=10, latency_s=0)) as client:
        await client.put("/simulator/outage", json={"kind": "502", "seconds": 60})
        await ask(client, "a fox")
        [call] = await calls_of(client)
    assert ("front", 502, "a fox", 0) == (call["rule"], call["page"], call["prompt"], call["images"])


async def test_it_keeps_the_latest_calls_and_none_where_nobody_asked_for_it() -> None:
    kept: list[list[str]] = []
    for most in (2, 0):
        async with talking(create_simulator(calls_kept=most, latency_s=0)) as client:
            for prompt in ("one", "two", "three"):
                await ask(client, prompt)
            kept.append([call["prompt"] for call in await calls_of(client)])
    assert [["two", "three"], []] == kept


async def test_it_is_forgotten_with_the_bill() -> None:
    async with talking(create_simulator(calls_kept=10, latency_s=0)) as client:
        await ask(client)
        await client.delete("/simulator/invoice")
        assert [] == await calls_of(client)


async def test_a_prompt_is_kept_by_its_beginning() -> None:
    async with talking(create_simulator(calls_kept=10, latency_s=0)) as client:
        await ask(client, "x" * 1000)
        [call] = await calls_of(client)
    assert "x" * 200 == call["prompt"]
