"""Asking free pages, against the simulator.

What pool and roster know is mostly told by hand, so that every case can be made; the last tests have real ones.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.domain.faults import Fault, GatewayError, State
from gateway.domain.keys import AccountLimits, Secret, UpstreamKey
from gateway.stores.pool import Report
from gateway.stores.pool.status import AccountStatus, KeyStatus, PoolStatus, Standing
from gateway.stores.pool.turns import PROBING, Turn
from gateway.transport import AiohttpTransport
from gateway.upstream import Endpoint
from gateway.upstream.pages import Pages, Probe
from gateway.upstream.prober import Prober
from gateway.wire import DIALECTS
from gateway.wire.links import LinkPolicy
from tests.harness import Simulator, serving, simulating
from tests.pooling import Process, pooling
from tests.pooling import account as owner
from tests.servers import free_port
from tests.stores.test_admission import connected

pytestmark = pytest.mark.anyio


NOW = 1_800_000_000
Told = tuple[str, bool, Fault | None, float | None]
"""ACCOUNT/KEY, whether it works, what it rested for or what was found, seconds."""


@dataclass
class Books:
    """What pool and roster know, and what they were told."""

    lines: list[PoolStatus]
    keys: dict[str, UpstreamKey] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    failures: list[Fault] = field(default_factory=list)
    """What the next tellings fail with."""

    async def look(self) -> list[PoolStatus]:
        return self.lines

    def known(self, upstream: str) -> Mapping[str, UpstreamKey]:
        del upstream
        return self.keys

    async def release_rest(
        self, upstream: str, account: str, key: str, *, works: bool, fault: Fault | None, seconds: float | None
    ) -> None:
        assert "sim" == upstream
        if self.failures:
            raise GatewayError(self.failures.pop())
        self.told.append((f"{account}/{key}", works, fault, seconds))


WELL = Standing()


def quarantined(fault: Fault, held_by: str | None = None) -> Standing:
    return Standing(state=State.QUARANTINED, fault=fault.value, held_by=held_by)


def cooling(fault: Fault, left_s: int = 18_000) -> Standing:
    return Standing(state=State.COOLING, fault=fault.value, until_s=NOW + left_s)


def key(name: str, fault: Fault | None = None, account: str = "main", *, standing: Standing = WELL) -> KeyStatus:
    """One that is well, or quarantined for a fault, or stands otherwise."""
    stands = quarantined(fault) if fault else standing
    return KeyStatus(
        **asdict(stands),
        upstream="sim",
        account=account,
        name=name,
        fingerprint=f"fp-{name}",
        model=None,
        is_declared=True,
    )


def account(*keys: KeyStatus, standing: Standing = WELL) -> AccountStatus:
    return AccountStatus(
        **asdict(standing),
        upstream="sim",
        name=keys[0].account,
        limits=AccountLimits(),
        requests_per_minute_now=10,
        max_concurrency_now=10,
        requests_used=0,
        images_used=0,
        in_flight=0,
        images_today=0,
        usd_micros_today=0,
        keys=keys,
    )


def books(*accounts: AccountStatus, standing: Standing = WELL) -> Books:
    """One upstream, whose keys' secrets are their names."""
    keys = [upstream_key(one.name, one.account) for owner in accounts for one in owner.keys]
    line = PoolStatus(
        **asdict(standing),
        upstream="sim",
        waiting=0,
        free=0,
        calls_last_minute=0,
        retries_last_minute=0,
        accounts=accounts,
    )
    return Books([line], {one.id: one for one in keys})


def upstream_key(name: str, account: str = "main", secret: str = "") -> UpstreamKey:
    return UpstreamKey("sim", account, name, Secret(secret or name, f"fp-{name}"))


def asking(transport: AiohttpTransport, url: str, dialect: str = "minimax") -> Pages:
    endpoint = Endpoint("sim", DIALECTS[dialect], url, LinkPolicy(()))
    return Pages(transport, lambda: {"sim": endpoint}, "tests")


@asynccontextmanager
async def probing(
    redis_url: str, url: str, found: Books, every_s: float = 60.0, dialect: str = "minimax"
) -> AsyncIterator[Prober]:
    """A prober that does not wait between its questions and has the turn."""
    async with connected(redis_url) as redis, AiohttpTransport() as transport:
        turn = Turn(redis, PROBING, "me", every_s)
        await turn.take()
        yield Prober(
            asking(transport, url, dialect), found, found, turn, lambda: 0.0, every_s=every_s, clock=lambda: NOW
        )


async def probe(url: str, key: UpstreamKey, dialect: str = "minimax") -> Probe:
    async with AiohttpTransport() as transport:
        return await asking(transport, url, dialect).probe(key)


async def told_after_a_round(redis_url: str, url: str, found: Books) -> list[Told]:
    async with probing(redis_url, url, found) as prober:
        await prober.probe_resting()
    return found.told


def serving_page(answer: object, status: int = 200, delay_s: float = 0.0) -> tuple[Starlette, list[str]]:
    """A host with a quota page, and the keys that have asked for it."""
    seen: list[str] = []

    async def page(request: Request) -> Response:
        seen.append(request.headers["authorization"].removeprefix("Bearer "))
        await asyncio.sleep(delay_s)
        return Response(json.dumps(answer), status)

    return Starlette(routes=[Route("/v1/token_plan/remains", page)]), seen


async def test_a_good_key_works_and_its_balance_is_proven(simulator: Simulator) -> None:
    found = await probe(simulator.url, upstream_key("good-1"))
    assert (None, "", True, None) == (found.fault, found.detail, found.proves_balance, found.window_s)


@pytest.mark.parametrize(("name", "fault"), [("dead-1", Fault.KEY_INVALID), ("broke-1", Fault.BALANCE_EMPTY)])
async def test_a_bad_key_is_told_by_its_fault(simulator: Simulator, name: str, fault: Fault) -> None:
    assert fault is (await probe(simulator.url, upstream_key(name))).fault


async def test_asking_costs_nothing(simulator: Simulator) -> None:
    await probe(simulator.url, upstream_key("good-1"))
    assert {"requests": 0, "images": 0} == simulator.invoice()["total"]


async def test_a_host_that_cannot_be_reached_is_told_as_that() -> None:
    found = await probe(f"http://127.0.0.1:{free_port()}", upstream_key("good-1"))
    assert Fault.CONNECT_FAILED is found.fault


async def test_a_secret_that_the_page_repeats_is_not_told() -> None:
    app, _ = serving_page({"base_resp": {"status_code": 2049, "status_msg": "invalid api key canary-secret"}})
    with serving(app) as url:
        found = await probe(url, upstream_key("main-1", secret="canary-secret"))
    assert (Fault.KEY_INVALID, "2049 invalid api key <secret fp-main-1>") == (found.fault, found.detail)


async def test_an_endless_page_is_not_read() -> None:
    app, _ = serving_page({"filler": "x" * 2_000_000})
    with serving(app) as url:
        assert Fault.ANSWER_TOO_LARGE is (await probe(url, upstream_key("main-1"))).fault


async def test_an_upstream_that_is_configured_no_more_is_not_found() -> None:
    async with AiohttpTransport() as transport:
        with pytest.raises(GatewayError) as caught:
            await Pages(transport, dict, "tests").probe(upstream_key("main-1"))
    assert Fault.NOT_FOUND is caught.value.fault


async def test_keys_that_work_again_come_back_and_the_others_rest_on(redis_url: str, simulator: Simulator) -> None:
    keys = [
        key("good-1", Fault.KEY_INVALID),
        key("dead-1", Fault.KEY_INVALID),
        key("good-2"),
        key("good-3", standing=cooling(Fault.ACCOUNT_RATE_LIMITED)),
        key("good-4", standing=Standing(state=State.HALF_OPEN, fault=Fault.KEY_INVALID.value)),
    ]
    told = await told_after_a_round(redis_url, simulator.url, books(account(*keys)))
    assert [("main/good-1", True, Fault.KEY_INVALID, None), ("main/dead-1", False, Fault.KEY_INVALID, 900.0)] == told


async def test_a_rest_goes_on_beyond_the_next_round(redis_url: str, simulator: Simulator) -> None:
    """Otherwise somebody's request would be spent on a key that is known to be dead."""
    found = books(account(key("dead-1", Fault.KEY_INVALID)))
    async with probing(redis_url, simulator.url, found, every_s=3600) as prober:
        await prober.probe_resting()
    assert [("main/dead-1", False, Fault.KEY_INVALID, 7200.0)] == found.told


async def test_of_a_quarantined_account_one_key_is_asked_that_is_well_itself(
    redis_url: str, simulator: Simulator
) -> None:
    keys = [key("dead-1", Fault.KEY_INVALID), key("good-1"), key("good-2")]
    found = books(account(*keys, standing=quarantined(Fault.BALANCE_EMPTY)))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("main/good-1", True, Fault.BALANCE_EMPTY, None)] == told


async def test_an_account_without_balance_rests_on(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("broke-1"), key("broke-2"), standing=quarantined(Fault.BALANCE_EMPTY)))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("main/broke-1", False, Fault.BALANCE_EMPTY, 900.0)] == told


async def test_of_a_quarantined_upstream_one_key_is_asked(redis_url: str, simulator: Simulator) -> None:
    accounts = [account(key(f"good-{name}", Fault.KEY_INVALID, name)) for name in ("a", "b")]
    found = books(*accounts, standing=quarantined(Fault.KEY_INVALID))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("a/good-a", True, Fault.KEY_INVALID, None)] == told


async def test_a_rest_for_a_fault_of_another_version_is_left_to_its_time(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("good-1", standing=Standing(state=State.QUARANTINED, fault="fault_of_tomorrow"))))
    assert [] == await told_after_a_round(redis_url, simulator.url, found)


async def test_a_key_is_told_to_rest_for_what_is_wrong_with_it_now(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("broke-1", Fault.KEY_INVALID)))
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert [("main/broke-1", False, Fault.BALANCE_EMPTY, 900.0)] == told


async def test_what_a_person_holds_back_or_nobody_here_knows_is_not_asked(redis_url: str) -> None:
    app, seen = serving_page({"base_resp": {"status_code": 0}})
    invalid = Fault.KEY_INVALID
    found = books(
        account(key("good-1", invalid, "off"), standing=Standing(state=State.DISABLED, held_by="alice")),
        account(key("good-2", invalid, "draining"), standing=Standing(state=State.DRAINING, held_by="alice")),
        account(key("good-3", standing=quarantined(invalid, held_by="alice")), key("good-4", invalid)),
        account(key("good-5", account="b", standing=Standing(state=State.DISABLED)), standing=quarantined(invalid)),
    )
    del found.keys["main/good-4"]
    with serving(app) as url:
        assert [] == await told_after_a_round(redis_url, url, found)
    assert [] == seen


@pytest.mark.parametrize("fault", [Fault.KEY_LIMIT_REACHED, Fault.KEY_MODEL_DENIED, Fault.KEY_UNVERIFIED])
async def test_what_no_page_shows_is_left_to_its_time(redis_url: str, simulator: Simulator, fault: Fault) -> None:
    found = books(account(key("good-1", fault)))
    assert [] == await told_after_a_round(redis_url, simulator.url, found)


async def test_a_list_of_models_brings_back_a_key_and_not_its_balance(redis_url: str) -> None:
    async def models(_: Request) -> Response:
        return Response(json.dumps({"object": "list", "data": []}))

    broke = quarantined(Fault.BALANCE_EMPTY)
    found = books(account(key("good-1", Fault.KEY_INVALID)), account(key("good-2", account="b"), standing=broke))
    with serving(Starlette(routes=[Route("/v1/models", models)])) as url:
        async with probing(redis_url, url, found, dialect="302ai") as prober:
            await prober.probe_resting()
    assert [("main/good-1", True, Fault.KEY_INVALID, None)] == found.told


@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_an_answer_that_says_nothing_of_the_key_changes_nothing(redis_url: str, status: int) -> None:
    app, seen = serving_page({}, status)
    with serving(app) as url:
        found = books(account(key("good-1", Fault.KEY_INVALID)))
        assert [] == await told_after_a_round(redis_url, url, found)
    assert ["good-1"] == seen


async def test_the_end_of_a_used_up_window_is_asked_for_once(redis_url: str) -> None:
    row = {
        "model_name": "image-01",
        "remains_time": 7_200_000,
        "current_interval_total_count": 100,
        "current_interval_usage_count": 100,
        "current_interval_remaining_percent": 0,
    }
    app, seen = serving_page({"base_resp": {"status_code": 0}, "model_remains": [row]})
    found = books(account(key("good-1"), standing=cooling(Fault.WINDOW_SPENT)))
    with serving(app) as url:
        async with probing(redis_url, url, found) as prober:
            await prober.probe_resting()
            await prober.probe_resting()
            spent, found.lines = found.lines, []
            await prober.probe_resting()
            found.lines = spent
            await prober.probe_resting()
    assert [("main/good-1", False, Fault.WINDOW_SPENT, 7200.0)] * 2 == found.told
    assert ["good-1"] * 2 == seen


@pytest.mark.parametrize(("left_s", "told"), [(7201, [("main/good-1", False, Fault.DAY_SPENT, 7200.0)]), (7200, [])])
async def test_a_page_that_leaves_doubt_can_only_shorten_the_rest(
    redis_url: str, left_s: int, told: list[Told]
) -> None:
    """Its counts may be those of the next window already, which ends much later."""
    row = {
        "model_name": "image-01",
        "remains_time": 7_200_000,
        "current_interval_total_count": 100,
        "current_interval_usage_count": 0,
    }
    app, _ = serving_page({"base_resp": {"status_code": 0}, "model_remains": [row]})
    found = books(account(key("good-1"), standing=cooling(Fault.DAY_SPENT, left_s)))
    with serving(app) as url:
        assert told == await told_after_a_round(redis_url, url, found)


async def test_a_key_that_cannot_be_settled_keeps_no_other(redis_url: str, simulator: Simulator) -> None:
    found = books(account(*(key(f"good-{number}", Fault.KEY_INVALID) for number in range(3))))
    found.failures = [Fault.REDIS_AWAY]
    told = await told_after_a_round(redis_url, simulator.url, found)
    assert ["main/good-1", "main/good-2"] == [name for name, *_ in told]


async def test_who_has_lost_the_turn_asks_no_more(redis_url: str, simulator: Simulator) -> None:
    found = books(account(key("good-1", Fault.KEY_INVALID)))
    async with connected(redis_url) as redis, probing(redis_url, simulator.url, found) as prober:
        await redis.set(PROBING, "you")
        await prober.probe_resting()
    assert [] == found.told


async def test_of_many_processes_one_asks_and_a_redis_that_fails_ends_none(redis_url: str) -> None:
    app, seen = serving_page({"base_resp": {"status_code": 0}}, delay_s=0.05)

    async def told(found: Books, count: int) -> None:
        while len(found.told) < count:  # noqa: ASYNC110 - the books know no event
            await asyncio.sleep(0.01)

    found = books(account(*(key(f"good-{number}", Fault.KEY_INVALID) for number in range(3))))
    found.failures = [Fault.REDIS_AWAY, Fault.REDIS_AWAY]
    with serving(app) as url:
        async with AiohttpTransport() as transport, connected(redis_url) as redis:
            turns = [Turn(redis, PROBING, f"process-{number}", 1.0) for number in range(4)]
            pages = asking(transport, url)
            companions = [Prober(pages, found, found, turn, lambda: 0.0, every_s=1.0) for turn in turns]
            tasks = [asyncio.create_task(companion.run()) for companion in companions]
            await asyncio.wait_for(told(found, 7), 30)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*tasks, return_exceptions=True)
            )
    assert [f"good-{at % 3}" for at in range(len(seen))] == seen


@pytest.fixture
def provider() -> Iterator[Simulator]:
    """A simulator of the test's own: it remembers what was ordered."""
    with simulating() as simulator:
        yield simulator


def order(provider: Simulator, path: str, code: int, **more: int) -> None:
    """Let a key or an account answer a code from now on."""
    httpx.put(f"{provider.url}/simulator/{path}", json={"answers": code} | more, verify=False).raise_for_status()


@asynccontextmanager
async def pool_and_prober(redis_url: str, provider: Simulator, *keys: str) -> AsyncIterator[tuple[Process, Prober]]:
    """The real pool of one account, and a prober that has the turn."""
    async with connected(redis_url) as redis, AiohttpTransport() as transport:
        turn = Turn(redis, PROBING, "me", 60)
        await turn.take()
        async with pooling(redis, owner("main", *keys)) as process:
            pages = asking(transport, provider.url)
            yield process, Prober(pages, process.roster, process.pool, turn, lambda: 0.0, every_s=60)


async def fail_with(process: Process, fault: Fault) -> None:
    await process.pool.release(await process.take(), Report(fault))


@pytest.mark.parametrize(
    ("code", "path", "fault"),
    [(2049, "keys/main-1", Fault.KEY_INVALID), (1008, "accounts/main", Fault.BALANCE_EMPTY)],
)
async def test_what_is_mended_at_the_provider_comes_back_by_itself(
    redis_url: str, provider: Simulator, code: int, path: str, fault: Fault
) -> None:
    async with pool_and_prober(redis_url, provider, "main-1") as (process, prober):
        order(provider, path, code)
        await fail_with(process, fault)
        await prober.probe_resting()
        await process.refuse()
        order(provider, path, 0)
        await prober.probe_resting()
        lease = await process.take()
        await process.pool.release(lease, Report(images=1))
        [line] = await process.pool.look()
    assert (State.READY, State.READY) == (line.accounts[0].state, line.accounts[0].keys[0].state)


async def test_a_used_up_plan_rests_until_the_page_says_that_it_is_released(
    redis_url: str, provider: Simulator
) -> None:
    async with pool_and_prober(redis_url, provider, "main-1") as (process, prober):
        order(provider, "accounts/main", 2056, remains_ms=600_000)
        await fail_with(process, Fault.WINDOW_SPENT)
        await prober.probe_resting()
        [line] = await process.pool.look()
    left_s = (line.accounts[0].until_s or 0) - time.time()
    assert State.COOLING is line.accounts[0].state
    assert 500 < left_s < 602
