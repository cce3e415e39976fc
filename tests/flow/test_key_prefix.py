"""Two gateways with different `[redis] key_prefix` on one Redis share nothing."""

from contextlib import ExitStack

import redis as sync_redis

from gateway.app.backends import redis_id
from gateway.config import from_document
from gateway.config.resolve import resolve
from tests.support.harness import Gateway, Simulator, document, environment, gatewaying, upstream

PREFIXES = ("ig3", "team-b")


def configured(redis_url: str, simulator: Simulator, prefix: str) -> dict[str, object]:
    settings = {"url": redis_url, "timeout_ms": 2000, "key_prefix": prefix}
    return document(redis_url, upstream("sim", "minimax", simulator.url), redis=settings)


def test_gateways_with_different_prefixes_do_not_see_each_other(
    redis_url: str, simulator: Simulator, stack: ExitStack
) -> None:
    one, two = (stack.enter_context(gatewaying(configured(redis_url, simulator, prefix))) for prefix in PREFIXES)
    other = Gateway(two.url, one.api_key)
    assert [200, 200, 401] == [each.generate(prompt="a fox").status_code for each in (one, two, other)]
    two.admin("POST", "/tenants", {"name": "only-two"})
    assert [404, 200] == [each.admin("GET", "/tenants/only-two").status_code for each in (one, two)]
    with sync_redis.Redis.from_url(redis_url, decode_responses=True) as client:
        names = [name.split(":", 1) for name in client.scan_iter()]
        channels = [str(name).split(":", 1) for name in client.pubsub_channels()]
    assert set(PREFIXES) == {prefix for prefix, _ in names} == {prefix for prefix, _ in channels}
    kinds = [{name.split(":")[0] for prefix, name in channels if prefix == each} for each in PREFIXES]
    assert [{"revoked", "pool", "jobs"}] * 2 == kinds


def test_the_journal_of_one_prefix_is_not_replayed_into_another(simulator: Simulator) -> None:
    documents = [configured("redis://user:secret@localhost/0", simulator, prefix) for prefix in PREFIXES]
    environs = [environment(each) for each in documents]
    ids = {
        redis_id(resolve(from_document(each, environ, "test"), environ))
        for each, environ in zip(documents, environs, strict=True)
    }
    assert len(PREFIXES) == len(ids)
