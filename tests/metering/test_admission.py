import asyncio
import time
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta

import anyio
import pytest
import redis as sync_redis
from prometheus_client import generate_latest

from gateway.domain.attribution import Attribution
from gateway.domain.billing import AdmissionRequest, BillingRule, Timings
from gateway.domain.errors import ERROR_SPECS, ErrorCode, GatewayError
from gateway.domain.pricing import MadeImages, Offer, PerImage, PerToken, Price
from gateway.domain.tenants import Principal, Rate, Rates
from gateway.metering.admission import Admission
from gateway.metering.reservations import Reservation
from gateway.observability.metrics import Metrics
from gateway.redis import Client, execute
from tests.support.admissions import PRICES, admitted, buy, connected, ledger, not_sent, purchase
from tests.support.admitting import KEY_ID, admitting, put_tenant

pytestmark = pytest.mark.anyio

ALL_LIMITS = {
    "requests_per_minute": 1000,
    "images_per_minute": 1000,
    "concurrency": 1000,
    "images_per_day": 1000,
    "images_per_month": 1000,
    "usd_micros_per_month": 3_500_000,
}


async def refusal(admission: Admission, caller: Principal, images: int = 1) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        async with admitted(admission, caller, images):
            pass
    return caught.value


async def everything(redis: Client) -> dict[str, object]:
    """All that Redis holds but the tenants themselves."""
    found: dict[str, object] = {}
    async for name in redis.scan_iter("ig3:{*"):
        if not name.endswith((":tenant", ":keys")):
            found[name] = await redis.dump(name)
    return found


@pytest.mark.parametrize(
    ("limits", "key_limits", "images", "served"),
    [
        ({"requests_per_minute": 50}, {}, 1, 50),
        ({"images_per_minute": 50}, {}, 3, 16),
        ({"concurrency": 50}, {}, 1, 50),
        ({"images_per_day": 50}, {}, 3, 16),
        ({"images_per_month": 50}, {}, 3, 16),
        ({"usd_micros_per_month": 50 * 3500 - 1}, {}, 1, 49),
        ({}, {"requests_per_minute": 50}, 1, 50),
        ({"images_per_day": 60}, {"images_per_day": 50}, 3, 16),
        ({"images_per_day": 50, "requests_per_minute": 10}, {"concurrency": 20}, 3, 10),
    ],
)
async def test_of_many_at_once_exactly_as_many_are_let_in_as_the_limit_allows(
    each_redis: str, limits: dict[str, int], key_limits: dict[str, int], images: int, served: int
) -> None:
    """Two clients stand for two processes."""
    async with connected(each_redis) as one, connected(each_redis) as other, AsyncExitStack() as held:
        caller = await put_tenant(one, limits=limits, key_limits=key_limits)
        let_in: list[Reservation] = []

        async def ask(admission: Admission) -> None:
            with suppress(GatewayError):
                let_in.append(await held.enter_async_context(admitted(admission, caller, images)))

        async with anyio.create_task_group() as group:
            for admission in (admitting(one), admitting(other)) * 100:
                group.start_soon(ask, admission)
    assert served == len(let_in)


@pytest.mark.parametrize(
    ("limits", "key_limits"),
    [
        ({"requests_per_minute": 0}, {}),
        ({"images_per_minute": 3}, ALL_LIMITS),
        ({"concurrency": 0}, ALL_LIMITS),
        ({"images_per_day": 3}, ALL_LIMITS),
        (ALL_LIMITS, {"images_per_month": 3}),
        (ALL_LIMITS, {"usd_micros_per_month": 4 * 3500 - 1}),
    ],
)
async def test_a_refused_request_consumes_nothing_but_a_request_of_its_minute(
    each_redis: str, limits: dict[str, int], key_limits: dict[str, int]
) -> None:
    async with connected(each_redis) as redis:
        caller = await put_tenant(redis, limits=limits, key_limits=key_limits)
        await refusal(admitting(redis), caller, 4)
        kept = await everything(redis)
        usage = await admitting(redis).usage("acme")
    is_full = limits.get("requests_per_minute") == 0
    rates = set() if is_full else {"ig3:{acme}:rate", f"ig3:{{acme}}:key:{KEY_ID}:rate"}
    assert rates == kept.keys()
    assert usage is not None
    assert (0 if is_full else 1, 0) == (usage.requests_last_minute, usage.images_last_minute)


async def test_what_comes_to_nothing_is_given_back_in_every_window_but_for_the_request(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis, limits=ALL_LIMITS, key_limits=ALL_LIMITS)
        with pytest.raises(GatewayError):
            async with admitted(admission, caller, 4):
                raise GatewayError(ErrorCode.NO_CAPACITY)
        usage = await admission.usage("acme")
    assert usage is not None
    assert 1 == usage.requests_last_minute
    assert {0} == {
        usage.images_last_minute,
        usage.images_today,
        usage.images_this_month,
        usage.usd_micros_this_month,
        usage.concurrency,
        usage.open_requests,
    }


async def test_a_request_that_an_upstream_refused_counts_as_a_request_and_costs_nothing(each_redis: str) -> None:
    """It has used capacity; its images were not made."""
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        async with admitted(admission, caller, 4) as reservation:
            share = (await reservation.mark_sent("sim", "main", 4)).share
            assert share.fail(4, ERROR_SPECS[ErrorCode.CONTENT_INPUT])
        usage = await admission.usage("acme")
    assert usage is not None
    assert (1, 0, 0) == (usage.requests_last_minute, usage.images_last_minute, usage.usd_micros_this_month)


@pytest.mark.parametrize(
    ("rule", "became", "charged"),
    [
        (BillingRule(), {"delivered": 2, "withheld": 1}, 2),
        (BillingRule(charges_withheld=True), {"delivered": 2, "withheld": 1}, 3),
        (BillingRule(), {"delivered": 2, "unconfirmed": 2}, 4),
        (BillingRule(charges_unconfirmed=False), {"delivered": 2, "unconfirmed": 2}, 2),
        (BillingRule(charges_withheld=True), {"withheld": 4}, 4),
    ],
)
async def test_what_is_charged_is_the_operator_s_rule(
    redis_url: str, rule: BillingRule, became: dict[str, int], charged: int
) -> None:
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis, rule=rule), await put_tenant(redis)
        await buy(admission, caller, 4, **became)
        usage = await admission.usage("acme")
    assert usage is not None
    assert (charged, charged * 3500) == (usage.images_today, usage.usd_micros_this_month)


async def test_a_repeated_admission_takes_nothing_more(each_redis: str) -> None:
    """The client sends a script again when the connection broke before its answer."""
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis, limits={"images_per_day": 4})
        async with admitted(admission, caller, 4) as reservation:
            before = await everything(redis)
            again = await admission._ask("acme", KEY_ID, reservation.id, purchase(4))
            assert "admitted" == again.decision
            assert before == await everything(redis)


async def test_a_request_is_settled_when_it_is_cancelled(each_redis: str) -> None:
    """What was sent and is not known to be free is charged; the settlement itself may be cut off too."""
    async with connected(each_redis) as redis:
        admission, caller, is_sent = admitting(redis), await put_tenant(redis), asyncio.Event()

        async def ask() -> None:
            async with admitted(admission, caller, 3) as reservation:
                await reservation.mark_sent("sim", "main", 2)
                is_sent.set()
                await asyncio.sleep(60)

        task = asyncio.ensure_future(ask())
        await asyncio.wait_for(is_sent.wait(), 20)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await admission.flush()
        usage = await admission.usage("acme")
        [(_, line)] = await ledger(redis)
    assert usage is not None
    assert (0, 2) == (usage.open_requests, usage.images_today)
    assert ("unconfirmed", "2", "sim/main:0,0,0,2") == (line["outcome"], line["unconfirmed"], line["calls"])


async def test_the_ledger_s_line_holds_what_an_auditor_asks_for(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        before_ms = time.time() * 1000
        attribution = Attribution({"team": "a|b", "env": "prod"}, "0123456789abcdef", ("tag:env", "user"))
        asked = AdmissionRequest("req_abc", "image|01", 4, (Offer(PRICES, MadeImages(4)),), attribution=attribution)
        async with admission.admit(caller, asked) as reservation:
            reservation.spent = Timings(5, 300, 310)
            (await reservation.mark_sent("sim", "b", 1)).share.deliver(1, 1, 0)
            (await reservation.mark_sent("sim", "a", 3)).share.deliver(3, 1, 1)
        [(_, line)] = await ledger(redis)
        sums = await execute(redis, redis.hgetall(f"ig3:{{acme}}:sums:{_today(line)}"), dict[str, str])
    assert before_ms - 2000 < int(line.pop("admitted_ms")) < time.time() * 1000 + 2000
    assert {
        "reservation": reservation.id,
        "request_id": "req_abc",
        "key_id": KEY_ID,
        "model": "image|01",
        "asked": "4",
        "delivered": "2",
        "withheld": "1",
        "lost": "1",
        "unconfirmed": "0",
        "price_usd_micros": "3500",
        "usd_micros": "7000",
        "outcome": "delivered",
        "calls": "sim/a:1,1,1,0;sim/b:1,0,0,0",
        "queue_ms": "5",
        "upstream_ms": "300",
        "total_ms": "310",
        "tags": '{"env":"prod","team":"a|b"}',
        "user": "0123456789abcdef",
        "summed": "tag:env,user",
    } == line
    measures = {"requests": 1, "asked": 4, "delivered": 2, "withheld": 1, "lost": 1, "usd_micros": 7000}
    assert {f"{KEY_ID}|{name}|image|01": str(value) for name, value in measures.items()} == sums


def _today(line: dict[str, str]) -> str:
    return datetime.fromtimestamp(int(line["admitted_ms"]) / 1000, UTC).strftime("%Y%m%d")


async def test_a_settlement_runs_twice_and_moves_nothing_the_second_time(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        reservation = await buy(admission, caller, 2)
        before = await everything(redis)
        for _ in range(3):
            admission._unsettled[reservation.id] = reservation
            await admission._settle_all()
        await admission.settle_expired("acme", reservation.id)
        assert before == await everything(redis)


async def test_a_dead_process_s_ticket_is_settled_by_its_expiry_and_by_what_it_says_itself(each_redis: str) -> None:
    """Before sending: given back, with no record. After: unconfirmed, with the account they were ordered from."""
    async with connected(each_redis) as redis:
        dead, heir = admitting(redis, lease_s=0.2), admitting(redis)
        caller = await put_tenant(redis, limits={"images_per_day": 10})
        held = [admitted(dead, caller, 3) for _ in range(2)]
        first, sent = [await one.__aenter__() for one in held]
        await sent.mark_sent("sim", "main", 2)
        await heir.settle_expired("acme", first.id)
        usage = await heir.usage("acme")
        assert usage is not None
        assert (2, 6) == (usage.open_requests, usage.images_today)  # nothing was over yet
        await asyncio.sleep(0.3)
        for reservation in (first, sent):
            await heir.settle_expired("acme", reservation.id)
        usage = await heir.usage("acme")
        lines = {line["reservation"]: line for _, line in await ledger(redis)}
        never_sent = await not_sent(redis)
        for one in held:
            await one.__aexit__(None, None, None)
    assert usage is not None
    assert (0, 2, 2 * 3500) == (usage.open_requests, usage.images_today, usage.usd_micros_this_month)
    assert (1, {sent.id}) == (never_sent, set(lines))
    assert ("unconfirmed", "7000", "sim/main:0,0,0,2") == tuple(
        lines[sent.id][name] for name in ("outcome", "usd_micros", "calls")
    )
    assert int(lines[sent.id]["total_ms"]) >= 300


async def test_an_order_that_was_free_is_a_request_of_its_minute_also_by_expiry(each_redis: str) -> None:
    """It may have reached its account: given back, the limit would let one too many through."""
    async with connected(each_redis) as redis:
        dead, caller = admitting(redis, lease_s=0.1), await put_tenant(redis, limits={"requests_per_minute": 1})
        held = admitted(dead, caller, 3)
        reservation = await held.__aenter__()
        await reservation.mark_sent("sim", "main", 3)
        await reservation.revert_order("sim", "main", 3)
        await asyncio.sleep(0.2)
        await dead.settle_expired("acme", reservation.id)
        usage, [(_, line)] = await dead.usage("acme"), await ledger(redis)
        await held.__aexit__(None, None, None)
    assert usage is not None
    assert (1, 0, 0) == (usage.requests_last_minute, usage.images_last_minute, usage.images_today)
    assert ("refused", "0", "0") == (line["outcome"], line["unconfirmed"], line["usd_micros"])


async def test_an_answer_after_the_expiry_corrects_the_bill_by_the_difference(each_redis: str) -> None:
    """A process that was stopped, not dead: its pictures are delivered after all, and charged once."""
    async with connected(each_redis) as redis:
        slow, heir = admitting(redis, lease_s=0.1), admitting(redis)
        caller = await put_tenant(redis)
        async with admitted(slow, caller, 3) as reservation:
            share = (await reservation.mark_sent("sim", "main", 3)).share
            await asyncio.sleep(0.2)
            await heir.settle_expired("acme", reservation.id)
            share.deliver(3, 2, 1)
        usage = await heir.usage("acme")
        [(_, line)] = await ledger(redis)
        sums = await execute(redis, redis.hgetall(f"ig3:{{acme}}:sums:{_today(line)}"), dict[str, str])
    assert usage is not None
    assert (2, 7000) == (usage.images_today, usage.usd_micros_this_month)
    assert ("delivered", "2", "1", "0") == tuple(
        line[name] for name in ("outcome", "delivered", "withheld", "unconfirmed")
    )
    kept = {name.split("|")[1]: int(value) for name, value in sums.items()}
    assert {"requests": 1, "asked": 3, "delivered": 2, "withheld": 1, "unconfirmed": 0, "usd_micros": 7000} == kept


async def test_a_settlement_whose_answer_was_lost_is_metered_once(redis_url: str) -> None:
    """The first call settles and is never heard; the second moves nothing and tells what the first did."""
    metrics = Metrics()
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis, metrics=metrics), await put_tenant(redis)
        async with admitted(admission, caller, 2) as reservation:
            (await reservation.mark_sent("sim", "main", 2)).share.deliver(2, 2, 0)
            reservation.tally.close()
            await admitting(redis)._settle(reservation)
        await admission.settle_expired("acme", reservation.id)
    assert (
        'imagegate_spend_usd_total{model="image-01",tenant="acme"} 0.007' in generate_latest(metrics.registry).decode()
    )


async def test_nothing_may_be_sent_on_a_ticket_that_others_have_settled(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        slow, heir = admitting(redis, lease_s=0.1), admitting(redis)
        caller = await put_tenant(redis)
        async with admitted(slow, caller) as reservation:
            await asyncio.sleep(0.2)
            await heir.settle_expired("acme", reservation.id)
            with pytest.raises(GatewayError) as caught:
                await reservation.mark_sent("sim", "main", 1)
    assert ErrorCode.RESERVATION_EXPIRED is caught.value.error_code


async def test_a_sign_of_life_keeps_a_ticket_open(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis, lease_s=1.0), await put_tenant(redis)
        async with anyio.create_task_group() as group:
            group.start_soon(admission.keep_alive)
            async with admitted(admission, caller) as reservation:
                await asyncio.sleep(2.5)
                await admission.settle_expired("acme", reservation.id)
                usage = await admission.usage("acme")
            group.cancel_scope.cancel()
    assert usage is not None
    assert (1, 1) == (usage.open_requests, usage.concurrency)


async def test_an_expired_ticket_holds_its_place_until_it_is_settled(each_redis: str) -> None:
    """Its process may be alive and only cut off from Redis, with its call under way: two would be one too many."""
    async with connected(each_redis) as redis:
        dead, caller = admitting(redis, lease_s=0.1), await put_tenant(redis, limits={"concurrency": 1})
        held = admitted(dead, caller)
        reservation = await held.__aenter__()
        await asyncio.sleep(0.2)
        assert ErrorCode.RATE_LIMITED is (await refusal(dead, caller)).error_code
        await dead.settle_expired("acme", reservation.id)
        async with admitted(dead, caller):
            pass
        await held.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("limits", "images", "error_code", "text"),
    [
        (
            {"requests_per_minute": 1},
            1,
            ErrorCode.RATE_LIMITED,
            "Rate limit reached for requests per minute of tenant 'acme': limit 1, used 1, requested 1. It frees at ",
        ),
        (
            {"images_per_minute": 5},
            2,
            ErrorCode.RATE_LIMITED,
            "Rate limit reached for images per minute of tenant 'acme': limit 5, used 4, requested 2. It frees at ",
        ),
        (
            {"images_per_minute": 5},
            6,
            ErrorCode.REQUEST_EXCEEDS_LIMIT,
            "Request too large for images per minute of tenant 'acme': limit 5, used 4, requested 6. Waiting does not ",
        ),
        (
            {"images_per_day": 5},
            2,
            ErrorCode.QUOTA_EXHAUSTED,
            "Quota exceeded for images per day of tenant 'acme': limit 5, used 4, requested 2. It resets at ",
        ),
        (
            {"usd_micros_per_month": 15_000},
            1,
            ErrorCode.QUOTA_EXHAUSTED,
            "Quota exceeded for US dollars per month of tenant 'acme': limit 0.015, used 0.014, requested 0.0035. It ",
        ),
    ],
)
async def test_a_refusal_says_which_limit_and_how_it_stands(
    redis_url: str, limits: dict[str, int], images: int, error_code: ErrorCode, text: str
) -> None:
    async with connected(redis_url) as redis:
        admission = admitting(redis)
        caller = await put_tenant(redis, limits=limits)
        await buy(admission, caller, 4)
        refused = await refusal(admission, caller, images)
    assert error_code is refused.error_code
    assert refused.message.startswith(text), refused.message


async def test_a_rate_tells_when_it_frees(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis, limits={"requests_per_minute": 1})
        before = datetime.now(UTC)
        await buy(admission, caller)
        refused = await refusal(admission, caller)
    moment = datetime.fromisoformat(refused.message.partition("frees at ")[2].partition(". ")[0])
    assert before + timedelta(seconds=59) < moment <= datetime.now(UTC) + timedelta(seconds=62)
    assert 55 <= (refused.retry_after_s or 0) <= 61


async def test_a_place_tells_that_somebody_must_end(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis, key_limits={"concurrency": 1})
        async with admitted(admission, caller):
            refused = await refusal(admission, caller)
    assert f"concurrent requests of key '{KEY_ID}': limit 1, used 1" in refused.message
    assert 2 == refused.retry_after_s


async def test_the_quotas_of_tenant_and_key_are_told_with_this_request_and_exactly(redis_url: str) -> None:
    most = 999_999_999_999_999
    async with connected(redis_url) as redis:
        admission = admitting(redis)
        tenant_limits = {"images_per_month": 7, "usd_micros_per_month": most}
        caller = await put_tenant(redis, limits=tenant_limits, key_limits={"images_per_day": 5})
        began_s = time.time()
        async with admitted(admission, caller, 4) as reservation:
            during = [(quota.scope, quota.name, quota.limit, quota.used) for quota in reservation.rates.quotas]
        refused = await refusal(admission, caller, 8)
        plain = await put_tenant(redis, "globex")
        async with admitted(admission, plain) as other:
            pass
    assert [
        ("tenant", "images_per_month", 7, 4),
        ("tenant", "usd_micros_per_month", most, 4 * 3500),
        ("key", "images_per_day", 5, 4),
    ] == during
    resets = [quota.resets_at_s for quota in reservation.rates.quotas]
    assert 0 < resets[2] - began_s <= 86_401
    assert (resets[0], 0) == (resets[1], resets[0] % 86_400)
    assert refused.rates
    assert [0, 0, 0] == [quota.used for quota in refused.rates.quotas]  # the first request came to nothing
    assert () == other.rates.quotas


async def test_the_rates_are_those_of_the_tighter_scope_after_this_request(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission = admitting(redis)
        caller = await put_tenant(
            redis, limits={"requests_per_minute": 10, "images_per_minute": 9}, key_limits={"images_per_minute": 20}
        )
        async with admitted(admission, caller, 4) as reservation:
            pass
        looked = (await admission.peek(caller)).rates
        refused = await refusal(admission, caller, 10)
    assert Rates(Rate(10, 9, 61), Rate(9, 5, 61)) == reservation.rates
    assert looked.images == Rate(9, 9, 0)  # the request came to nothing
    assert refused.rates
    assert refused.rates.images == Rate(9, 9, 0)
    assert [(10, 9), (10, 8)] == [
        (rate.limit, rate.remaining) for rate in (looked.requests, refused.rates.requests) if rate
    ]


@pytest.mark.parametrize(
    "spoil",
    [
        ("hset", "ig3:{acme}:tenant", "disabled", "1"),
        ("del", "ig3:{acme}:tenant"),
        ("hdel", "ig3:{acme}:keys", KEY_ID),
        ("hset", "ig3:{acme}:keys", KEY_ID, '{"label": "", "created_at": 1, "expires_at": 2, "limits": {}}'),
    ],
)
async def test_who_is_gone_is_not_let_in_whatever_a_cache_says(each_redis: str, spoil: tuple[str, ...]) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        with sync_redis.Redis.from_url(each_redis) as other:
            other.execute_command(*spoil)
        assert ErrorCode.INVALID_API_KEY is (await refusal(admission, caller)).error_code
        assert {} == await everything(redis)


async def test_a_changed_limit_counts_what_was_used_before_it(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        await buy(admission, caller, 5)
        await put_tenant(redis, limits={"images_per_month": 6}, key_limits={"images_per_minute": 6})
        assert ErrorCode.QUOTA_EXHAUSTED is (await refusal(admission, caller, 2)).error_code
        await buy(admission, caller, 1)
        await put_tenant(redis, limits={"images_per_month": 100}, key_limits={"images_per_minute": 6})
        assert ErrorCode.RATE_LIMITED is (await refusal(admission, caller, 1)).error_code
        await put_tenant(redis, limits={"images_per_month": 100})
        await buy(admission, caller, 94)
        assert ErrorCode.QUOTA_EXHAUSTED is (await refusal(admission, caller, 1)).error_code


async def test_everything_transient_ends_by_itself_and_a_tenant_is_one_slot(each_redis: str) -> None:
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis, limits=ALL_LIMITS, key_limits=ALL_LIMITS)
        await buy(admission, caller)
        held = admitted(admission, caller)
        await held.__aenter__()
        names = [name async for name in redis.scan_iter("ig3:{*")]
        kept = {name: await redis.ttl(name) for name in names}
        await held.__aexit__(None, None, None)
    lasting = {name for name, ttl_s in kept.items() if ttl_s < 0}
    assert {f"ig3:{{acme}}:{name}" for name in ("tenant", "keys", "days", "records_end")} == {
        name for name in lasting if ":sums:" not in name
    }
    assert {"acme"} == {name.partition("{")[2].partition("}")[0] for name in names}
    assert len(kept) > 12


async def test_an_admission_is_one_round_trip_whose_cost_does_not_grow_with_tenants(redis_url: str) -> None:
    """Counted on the server: the same few commands among 10,000 tenants as among one."""
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis, limits=ALL_LIMITS, key_limits=ALL_LIMITS)
        await buy(admission, caller)
        counts = []
        for crowd in (0, 10_000):
            pipeline = redis.pipeline(transaction=False)
            for number in range(crowd):
                pipeline.sadd("ig3:tenants", f"t{number}")
                pipeline.hset(f"ig3:{{t{number}}}:tenant", mapping={"created_at": "1", "disabled": "0", "models": ""})
            await pipeline.execute()
            await redis.config_resetstat()
            async with admitted(admission, caller):
                stats = await redis.info("commandstats")
            counts.append({name: stat["calls"] for name, stat in stats.items()})
    ours = [{name: calls for name, calls in count.items() if name != "cmdstat_info"} for count in counts]
    assert 1 == ours[0].pop("cmdstat_evalsha")
    assert 1 == ours[1].pop("cmdstat_evalsha")
    assert {name: ours[0].get(name) for name in ("cmdstat_hincrby", "cmdstat_zadd", "cmdstat_hgetall")} == {
        name: ours[1].get(name) for name in ("cmdstat_hincrby", "cmdstat_zadd", "cmdstat_hgetall")
    }
    assert sum(ours[1].values()) < 60


async def test_what_redis_does_not_take_is_settled_when_it_is_back(redis_url: str) -> None:
    metrics = Metrics()
    async with connected(redis_url, 0.3) as redis:
        admission, caller = admitting(redis, metrics=metrics), await put_tenant(redis)
        with sync_redis.Redis.from_url(redis_url) as other:
            async with anyio.create_task_group() as group:
                group.start_soon(admission.run)
                async with admitted(admission, caller, 2) as reservation:
                    (await reservation.mark_sent("sim", "main", 2)).share.deliver(2, 2, 0)
                    other.client_pause(1200)
                assert 1 == len(admission._unsettled)
                with anyio.fail_after(20):
                    while admission._unsettled:  # noqa: ASYNC110 - the program has no event for its tests
                        await asyncio.sleep(0.05)
                group.cancel_scope.cancel()
        usage = await admission.usage("acme")
    assert usage is not None
    assert (0, 2) == (usage.open_requests, usage.images_today)
    rendered = generate_latest(metrics.registry).decode()
    assert 'imagegate_settlements_total{outcome="delivered"} 1.0' in rendered
    assert 'imagegate_spend_usd_total{model="image-01",tenant="acme"} 0.007' in rendered


async def test_an_admission_that_was_given_up_is_taken_back_when_redis_has_run_it_after_all(redis_url: str) -> None:
    async with connected(redis_url, 0.3) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        with sync_redis.Redis.from_url(redis_url) as other:
            other.client_pause(900)
            assert ErrorCode.REDIS_UNAVAILABLE is (await refusal(admission, caller)).error_code
        await asyncio.sleep(0.9)
        await admission.flush()
        usage = await admission.usage("acme")
    assert usage is not None
    assert (0, 0) == (usage.open_requests, usage.images_today)


async def test_a_settlement_that_fails_has_moved_nothing_and_comes_again(each_redis: str) -> None:
    """A ledger that is no ledger stands for whatever makes a script fail: a slot on the move, a damaged key."""
    async with connected(each_redis) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        held = admitted(admission, caller, 5)
        reservation = await held.__aenter__()
        (await reservation.mark_sent("sim", "main", 5)).share.deliver(5, 1, 4)
        day = time.strftime("%Y%m%d", time.gmtime())
        await redis.set(f"ig3:{{acme}}:ledger:{day}", "damaged")
        before = await everything(redis)
        await held.__aexit__(None, None, None)
        for _ in range(3):
            assert not await admission._settle_all()
        assert before == await everything(redis)
        await redis.delete(f"ig3:{{acme}}:ledger:{day}")
        assert await admission._settle_all()
        usage = await admission.usage("acme")
        assert 1 == len(await ledger(redis))
    assert usage is not None
    assert (0, 1, 1) == (usage.open_requests, usage.images_today, usage.images_last_minute)


async def test_one_that_cannot_be_settled_keeps_no_other_from_its_lease(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission = admitting(redis, lease_s=1.0)
        bad, good = await put_tenant(redis, "bad"), await put_tenant(redis, "good")
        day = time.strftime("%Y%m%d", time.gmtime())
        await redis.set(f"ig3:{{bad}}:ledger:{day}", "damaged")
        async with anyio.create_task_group() as group:
            group.start_soon(admission.run)
            group.start_soon(admission.keep_alive)
            async with admitted(admission, bad):
                pass
            async with admitted(admission, good) as reservation:
                await asyncio.sleep(2.5)
                await admission.settle_expired("good", reservation.id)
                usage = await admission.usage("good")
            group.cancel_scope.cancel()
    assert usage is not None
    assert 1 == usage.open_requests


async def test_what_a_returning_redis_has_forgotten_is_settled_again(redis_url: str) -> None:
    """It comes back from a snapshot in which a settled request is still open: it must not be charged as unconfirmed."""
    metrics = Metrics()
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis, metrics=metrics), await put_tenant(redis)
        async with admitted(admission, caller, 4) as reservation:
            share = (await reservation.mark_sent("sim", "main", 4)).share
            assert share.fail(4, ERROR_SPECS[ErrorCode.CONTENT_INPUT])
            snapshot = {name: await _dumped(redis_url, name) async for name in redis.scan_iter("ig3:{*")}
        with sync_redis.Redis.from_url(redis_url) as other:
            other.flushall()
            for name, value in snapshot.items():
                other.restore(name, 0, value)
        assert 1 == await _open_requests(admission)
        admission.mark_data_suspect()
        async with anyio.create_task_group() as group:
            group.start_soon(admission.run)
            with anyio.fail_after(20):
                while await _open_requests(admission):  # noqa: ASYNC110 - the program has no event for its tests
                    await asyncio.sleep(0.1)
            group.cancel_scope.cancel()
        [(_, line)] = await ledger(redis)
    assert (reservation.id, "refused", "0") == (line["reservation"], line["outcome"], line["usd_micros"])
    assert 'imagegate_settlements_total{outcome="refused"} 1.0' in generate_latest(metrics.registry).decode()


async def _dumped(url: str, name: str) -> bytes:
    with sync_redis.Redis.from_url(url) as other:
        return bytes(other.dump(name) or b"")


async def _open_requests(admission: Admission) -> int:
    usage = await admission.usage("acme")
    assert usage is not None
    return usage.open_requests


async def test_a_dead_process_never_leaves_more_than_was_reserved(each_redis: str) -> None:
    """Its note that the first order was free did not arrive before it ordered elsewhere, and died."""
    async with connected(each_redis) as redis:
        dead, caller = admitting(redis, lease_s=0.1), await put_tenant(redis)
        held = admitted(dead, caller, 3)
        reservation = await held.__aenter__()
        for account in ("a", "b"):
            await reservation.mark_sent("sim", account, 3)
        await asyncio.sleep(0.2)
        await dead.settle_expired("acme", reservation.id)
        usage = await dead.usage("acme")
        [(_, line)] = await ledger(redis)
        await held.__aexit__(None, None, None)
    assert usage is not None
    assert (3, "3") == (usage.images_today, line["unconfirmed"])


async def test_the_end_of_the_program_waits_for_requests_that_are_leaving(redis_url: str) -> None:
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)

        async def ask() -> None:
            async with admitted(admission, caller):
                await asyncio.sleep(0.5)

        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            while not admission._in_progress:  # noqa: ASYNC110 - the program has no event for its tests
                await asyncio.sleep(0.01)
            await admission.flush()
            assert 0 == await _open_requests(admission)


@pytest.mark.parametrize(
    ("limits", "images", "text"),
    [
        (
            {"requests_per_minute": 0},
            1,
            "No usage is allowed for requests per minute of tenant 'acme': limit 0, used 0, ",
        ),
        (
            {"images_per_day": 3},
            5,
            "Request too large for images per day of tenant 'acme': limit 3, used 0, requested 5.",
        ),
        (
            {"usd_micros_per_month": 0},
            1,
            "No usage is allowed for US dollars per month of tenant 'acme': limit 0.00, used ",
        ),
    ],
)
async def test_what_no_waiting_mends_does_not_speak_of_waiting(
    redis_url: str, limits: dict[str, int], images: int, text: str
) -> None:
    async with connected(redis_url) as redis:
        refused = await refusal(admitting(redis), await put_tenant(redis, limits=limits), images)
    assert refused.message.startswith(text), refused.message
    assert not refused.row.may_client_retry
    assert "resets" not in refused.message


@pytest.mark.parametrize(("delivered", "usd_micros"), [(0, 0), (1, 33), (2, 66), (3, 100)])
async def test_images_cost_their_part_of_what_was_reserved(redis_url: str, delivered: int, usd_micros: int) -> None:
    """Redis knows the cost of the request, not how it is made up: here 100 for three images."""
    tokens = PerToken(1_000_000, 0, input_tokens_max=100, output_tokens_max=0)
    bought = AdmissionRequest(
        "req_1", "image-01", 3, (Offer((Price(0, PerImage(1)), Price(1, tokens)), MadeImages(3)),)
    )
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        async with admission.admit(caller, bought) as reservation:
            reserved = await admission.usage("acme")
            (await reservation.mark_sent("sim", "main", 3)).share.deliver(3, delivered, 0)
        usage = await admission.usage("acme")
    assert reserved is not None
    assert usage is not None
    assert (100, usd_micros) == (reserved.usd_micros_this_month, usage.usd_micros_this_month)


async def test_large_sums_are_told_exactly(redis_url: str) -> None:
    prices = (Price(0, PerImage(999_999_999_999)),)
    async with connected(redis_url) as redis:
        admission = admitting(redis)
        caller = await put_tenant(redis, limits={"usd_micros_per_month": 999_999_999_999_999})
        bought = AdmissionRequest("req_1", "image-01", 9, (Offer(prices, MadeImages(9)),))
        for _ in range(111):
            async with admission.admit(caller, bought) as reservation:
                (await reservation.mark_sent("sim", "main", 9)).share.deliver(9, 9, 0)
        with pytest.raises(GatewayError) as caught:
            await admission.admit(caller, bought).__aenter__()
        usage = await admission.usage("acme")
    assert usage is not None
    assert 111 * 9 * 999_999_999_999 == usage.usd_micros_this_month
    assert "limit 999999999.999999, used 998999999.999001, requested 8999999.999991" in caught.value.message


async def test_an_outage_forgets_nothing_however_long_it_lasts(redis_url: str) -> None:
    """What was settled shortly before it is settled again after it, not only where the outage was short."""
    async with connected(redis_url) as redis:
        admission, caller = admitting(redis), await put_tenant(redis)
        reservation = await buy(admission, caller)
        reservation.settled_s = time.monotonic() - 3600
        admission.mark_data_suspect()
        admission._resettle_recent(is_back=False)
        admission._resettle_recent(is_back=True)
        assert {reservation.id} == set(admission._unsettled)
        assert await admission._settle_all()
        admission._resettle_recent(is_back=False)
        assert ([], {}) == (list(admission._recent), admission._unsettled)
        assert 1 == len(await ledger(redis))


async def test_an_admission_that_was_never_sent_is_not_owed(redis_url: str) -> None:
    """The breaker is open: no script can have run, so there is nothing to take back."""
    async with connected(redis_url, 0.1) as redis, connected(redis_url) as patient:
        admission, caller = admitting(redis), await put_tenant(redis)
        await patient.client_pause(2000)
        while not redis.guard.breaker.is_open:
            await refusal(admission, caller)
        doubtful = len(admission._unsettled)
        for _ in range(20):
            await refusal(admission, caller)
        assert len(admission._unsettled) <= doubtful + 1  # a probe may have been among them
        await asyncio.sleep(2.5)
        await admission.flush()
