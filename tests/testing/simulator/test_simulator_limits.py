import asyncio

import pytest

from gateway.testing.simulator import Minute, create_simulator
from gateway.testing.simulator.accounts import account_of
from tests.testing.simulator.driving import Time, ask, bill_of, code_of, talking

pytestmark = pytest.mark.anyio


async def test_images_per_minute_weigh_a_request_by_n_and_a_refused_one_takes_no_place(time: Time) -> None:
    async with talking(create_simulator(images_per_minute=10, clock=time, sleep=time.sleep)) as client:
        assert [0, 0, 1002, 0, 1002] == [await code_of(client, n=n) for n in (4, 4, 3, 2, 1)]
        assert 0 == await code_of(client, key="other-1", n=9)
        time.now = 1059.9
        assert 1002 == await code_of(client)
        time.now = 1060.0
        assert 0 == await code_of(client, n=9)
        assert ({"1002": 3}, 19) == ((await bill_of(client))["refusals"], (await bill_of(client))["images"])


async def test_without_the_options_only_requests_are_limited(time: Time) -> None:
    async with talking(create_simulator(clock=time, sleep=time.sleep)) as client:
        codes = [await code_of(client, n=9, response_format="url") for _ in range(601)]
        assert [0] * 600 + [1002] == codes


async def test_requests_over_the_concurrency_are_1041_and_take_no_place_in_the_minute() -> None:
    at_work, finish = asyncio.Semaphore(0), asyncio.Event()

    async def sleep(_: float) -> None:
        at_work.release()
        await finish.wait()

    async with talking(create_simulator(requests_per_minute=4, max_concurrency=3, sleep=sleep)) as client:
        working = [asyncio.create_task(code_of(client, key=f"design-{number}")) for number in range(3)]
        for _ in working:
            await at_work.acquire()
        refused = await ask(client, key="design-4")
        assert b'{"base_resp":{"status_code":1041,"status_msg":"conn limit"}}' == refused.content
        assert 1041 == await code_of(client)
        finish.set()
        assert [0] * 3 == await asyncio.gather(*working)
        assert [0, 1002] == [await code_of(client), await code_of(client)]
        bill = await bill_of(client)
        assert ({"1002": 1, "1041": 2}, 4, 4) == (bill["refusals"], bill["peak_concurrency"], bill["peak_per_minute"])


async def test_fixed_minutes_begin_anew_where_the_clock_s_minute_does(time: Time) -> None:
    app = create_simulator(
        requests_per_minute=5, images_per_minute=6, minute=Minute.FIXED, clock=time, sleep=time.sleep
    )
    async with talking(app) as client:
        time.now = 1079.0
        assert [0] * 5 + [1002] == [await code_of(client) for _ in range(6)]
        time.now = 1080.0
        assert [0, 0, 1002] == [await code_of(client, n=3) for _ in range(3)]
        time.now = 1139.9
        assert 1002 == await code_of(client)
        time.now = 1140.0
        assert 0 == await code_of(client)
        assert (await bill_of(client))["peak_per_minute"] == 7


async def test_peak_per_minute_is_of_any_sixty_seconds_and_counts_only_what_was_accepted(time: Time) -> None:
    async with talking(create_simulator(requests_per_minute=5, clock=time, sleep=time.sleep)) as client:
        for moment in (1030.0, 1050.0, 1070.0, 1089.9, 1110.0, 1200.0):
            time.now = moment
            assert 0 == await code_of(client)
        assert 2013 == await code_of(client, n=0)
        assert (await bill_of(client))["peak_per_minute"] == 4
        for _ in range(9):
            await ask(client)
        assert (await bill_of(client))["peak_per_minute"] == 5
        await client.delete("/simulator/invoice")
        assert 0 == await code_of(client)
        assert (await bill_of(client))["peak_per_minute"] == 1


@pytest.mark.parametrize(
    ("key", "account"), [("design-1", "design"), ("a-b-2", "a-b"), ("design", "design"), ("-1", "-1"), ("a-", "a")]
)
def test_account_is_the_part_before_the_last_dash(key: str, account: str) -> None:
    assert account == account_of(key)
