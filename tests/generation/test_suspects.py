"""A key that a bare fault accuses rests only if the free page's own error code says that it cannot be used."""

import asyncio
from collections.abc import Sequence

import pytest

from gateway.domain.accounts import ProviderKey
from gateway.domain.errors import ErrorCode
from gateway.generation.key_checks import KeyHealthMonitor, Suspects
from gateway.generation.transport import AiohttpTransport
from gateway.redis import KEY_CHECK_LEADER, LeaderLock
from tests.support.admissions import connected
from tests.support.harness import serving
from tests.support.pages import asking, serving_page, upstream_key
from tests.support.probing import Told, account, books, key

pytestmark = pytest.mark.anyio

LAST = "last-1"


async def told_after(redis_url: str, answer: object, status: int, *names: str) -> tuple[Sequence[Told], list[str]]:
    """What the roster is told of suspects, and who asked the page; the last key's question ends the test."""
    app, seen = serving_page(answer, status)
    found, suspects = books(account(key("k-1"))), Suspects(lambda: 0.0)
    for name in (*names, LAST):
        suspects.note(upstream_key(name))
    with serving(app) as url:
        async with AiohttpTransport() as transport, connected(redis_url) as redis, asyncio.timeout(30):
            turn = LeaderLock(redis, KEY_CHECK_LEADER, "me", 60.0)
            prober = KeyHealthMonitor(asking(transport, url), found, found, turn, lambda: 0.0, suspects, every_s=60.0)
            checking = asyncio.create_task(prober.check_suspects())
            while LAST not in seen:  # noqa: ASYNC110 - the page tells no event
                await asyncio.sleep(0.01)
            checking.cancel()
            await asyncio.gather(checking, return_exceptions=True)
    return [line for line in found.told if line[0] != f"main/{LAST}"], seen


@pytest.mark.parametrize(
    ("answer", "status", "error_code"),
    [
        ({"base_resp": {"status_code": 2049, "status_msg": "invalid api key"}}, 200, ErrorCode.KEY_INVALID),
        ({"base_resp": {"status_code": 1004, "status_msg": "login fail"}}, 401, ErrorCode.KEY_INVALID),
        (
            {"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
            200,
            ErrorCode.INSUFFICIENT_BALANCE,
        ),
        (
            {"type": "error", "error": {"type": "authentication_error", "http_code": "401"}, "request_id": "r"},
            401,
            ErrorCode.KEY_INVALID,
        ),
    ],
)
async def test_a_page_that_gives_the_provider_s_own_code_quarantines_the_key(
    redis_url: str, answer: object, status: int, error_code: ErrorCode
) -> None:
    told, _ = await told_after(redis_url, answer, status, "k-1")
    assert [("main/k-1", False, error_code, 900.0)] == told


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("<html>", 401),
        ("<html>", 403),
        ({"error": "invalid api key (2049)"}, 403),
        ({"error": {"type": "authentication_error", "message": "m"}}, 401),
        ({"type": "error", "error": {"type": "authentication_error", "message": "m"}, "request_id": "r"}, 401),
        ({"message": "insufficient balance"}, 402),
        ("<html>", 429),
        ("<html>", 502),
        ({"base_resp": {"status_code": 0}}, 200),
        ({"base_resp": {"status_code": 1000}}, 200),
    ],
)
async def test_a_page_that_gives_no_such_code_changes_nothing(redis_url: str, answer: object, status: int) -> None:
    assert ([], ["k-1", LAST]) == await told_after(redis_url, answer, status, "k-1")


async def test_a_key_is_asked_about_once_however_often_it_is_refused(redis_url: str) -> None:
    _, seen = await told_after(redis_url, {"base_resp": {"status_code": 0}}, 200, *["k-1", "k-2"] * 100)
    assert ["k-1", "k-2", LAST] == seen


async def test_after_a_minute_a_key_is_asked_about_again() -> None:
    moments = iter((0.0, 59.0, 61.0))
    suspects, noted = Suspects(lambda: next(moments)), list[ProviderKey]()
    for _ in range(3):
        suspects.note(upstream_key("k-1"))
    for _ in range(2):
        noted.append(await asyncio.wait_for(suspects.next(), 10))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(suspects.next(), 0.05)
    assert ["k-1", "k-1"] == [one.name for one in noted]
