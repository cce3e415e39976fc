"""Webhooks as an administrator manages them, by API and by command."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import redis

from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, wait_until
from tests.support.receiving import SECRET, Receiver, receiving


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def gateway(make_gateway: MakeGateway, receiver: Receiver, tmp_path: Path) -> Gateway:
    """One that has the endpoint `ops` and may send to the receiver."""
    (tmp_path / "pool_key").write_text("0123456789abcdef" * 2)
    (tmp_path / "secret").write_text(SECRET)
    declared = {"name": "ops", "url": receiver.url, "secret": {"file": str(tmp_path / "secret")}, "events": ["key.*"]}
    return make_gateway(
        pool={"encryption_keys": [{"file": str(tmp_path / "pool_key")}]}, alerts={"endpoints": [declared]}
    )


def create(gateway: Gateway, receiver: Receiver, **fields: object) -> dict[str, Any]:
    body = {"name": "spend", "url": receiver.url, "event_types": ["webhook.*"], **fields}
    answer = gateway.admin("POST", "/webhooks", body)
    assert 201 == answer.status_code, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_secret_is_shown_when_it_is_created_and_when_it_is_rotated(gateway: Gateway, receiver: Receiver) -> None:
    made = create(gateway, receiver)
    secret, path = made.pop("signing_secret"), f"/webhooks/{made['id']}"
    shown = gateway.admin("GET", path).json()
    assert made == {name: shown[name] for name in made}
    assert secret.endswith(made["signing_secret_hint"])
    assert {"ops", made["id"]} == {one["id"] for one in gateway.admin("GET", "/webhooks").json()["data"]}
    rotated = gateway.admin("POST", f"{path}/rotate_secret", {}).json()
    tested = gateway.admin("POST", f"{path}/test", {"event_type": "batch.completed"}).json()
    assert (200, True, "batch.completed") == tuple(tested[name] for name in ("status_code", "success", "event_type"))
    headers, body = receiver.received[0]
    for one in (secret, rotated["signing_secret"]):
        assert "batch.completed" == openai.OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=one).type
    audited = gateway.admin("GET", "/audit").json()["data"]
    assert ["webhook.test", "webhook.rotate", "webhook.create"] == [
        one["action"] for one in audited if one["target"] == path[1:]
    ]
    everything = json.dumps([audited, gateway.admin("GET", "/webhooks").json(), gateway.admin("GET", path).json()])
    assert not any(one in everything for one in (secret, rotated["signing_secret"], SECRET))


def test_a_webhook_of_a_renamed_tenant_is_made_by_its_present_name(gateway: Gateway, receiver: Receiver) -> None:
    gateway.admin("PATCH", "/tenants/acme", {"name": "design"})
    made = create(gateway, receiver, tenant="design")
    assert "design" == made["tenant"] == gateway.admin("GET", f"/webhooks/{made['id']}").json()["tenant"]
    refused = gateway.admin(
        "POST", "/webhooks", {"name": "x", "url": receiver.url, "event_types": ["*"], "tenant": "acme"}
    )
    assert 404 == refused.status_code
    assert "Its name is 'design'." in refused.json()["error"]["message"]


def test_a_webhook_is_changed_disabled_and_deleted(gateway: Gateway, receiver: Receiver) -> None:
    path = f"/webhooks/{create(gateway, receiver)['id']}"
    changed = gateway.admin("PATCH", path, {"name": "shop", "event_types": ["quota.*"], "enabled": False}).json()
    assert ("shop", ["quota.*"], False, "disabled by admin") == tuple(
        changed[name] for name in ("name", "event_types", "enabled", "disabled_reason")
    )
    assert gateway.admin("PATCH", path, {"enabled": True}).json()["enabled"]
    assert {"id": path.rpartition("/")[2], "object": "webhook_endpoint.deleted", "deleted": True} == gateway.admin(
        "DELETE", path
    ).json()
    assert 404 == gateway.admin("GET", path).status_code
    actions = [one["action"] for one in gateway.admin("GET", "/audit").json()["data"] if one["target"] == path[1:]]
    assert ["webhook.delete", "webhook.enable", "webhook.disable", "webhook.update", "webhook.create"] == actions


def test_redis_holds_no_url_of_a_webhook_in_plain_text(gateway: Gateway, receiver: Receiver, redis_url: str) -> None:
    path = f"/webhooks/{create(gateway, receiver, url=f'{receiver.url}/canary-1')['id']}"
    gateway.admin("PATCH", path, {"url": f"{receiver.url}/canary-2"})
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        stored = f"{client.hgetall('ig3:{events:}:endpoints')} {client.xrange('ig3:{events:}:audit')}"
    assert "webhook.update" in stored
    assert "sealed" in stored
    assert "canary-" not in stored
    update = gateway.admin("GET", "/audit").json()["data"][0]
    assert update["before"]["url"] != update["after"]["url"]


def test_a_webhook_of_the_configuration_can_only_be_enabled_and_disabled(gateway: Gateway) -> None:
    for method, path, body in (
        ("PATCH", "/webhooks/ops", {"name": "x"}),
        ("DELETE", "/webhooks/ops", None),
        ("POST", "/webhooks/ops/rotate_secret", {}),
    ):
        answer = gateway.admin(method, path, body)
        assert (409, "'ops' is declared in the configuration: change [[alerts.endpoints]] there.") == (
            answer.status_code,
            answer.json()["error"]["message"],
        )
    assert not gateway.admin("PATCH", "/webhooks/ops", {"enabled": False}).json()["enabled"]
    assert gateway.admin("PATCH", "/webhooks/ops", {"enabled": True}).json()["enabled"]


def test_a_tenant_with_a_webhook_of_the_configuration_is_not_purged(
    make_gateway: MakeGateway, receiver: Receiver
) -> None:
    declared = {"name": "ops", "url": receiver.url, "channel": "slack", "tenant": "acme"}
    gateway = make_gateway(alerts={"endpoints": [declared]})
    gateway.admin("PATCH", "/tenants/acme", {"name": "design"})
    refused = gateway.admin("POST", "/tenants/design/purge")
    expected = "'ops' gets the events of 'design'. Remove it from [[alerts.endpoints]], and reload, first."
    assert (409, expected) == (refused.status_code, refused.json()["error"]["message"])
    assert not gateway.admin("GET", "/tenants/design").json()["disabled"]


@pytest.mark.slow
def test_a_purge_deletes_the_webhooks_of_the_tenant(gateway: Gateway, receiver: Receiver) -> None:
    gateway.admin("POST", "/tenants", {"name": "other"})
    kept, doomed = (create(gateway, receiver, tenant=tenant)["id"] for tenant in ("acme", "other"))
    assert 202 == gateway.admin("POST", "/tenants/other/purge").status_code
    wait_until(lambda: 404 == gateway.admin("GET", f"/webhooks/{doomed}").status_code, "the webhook is deleted", 60)
    assert 200 == gateway.admin("GET", f"/webhooks/{kept}").status_code


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"url": "http://hooks.example.com/"}, "'url': plain http is refused"),
    ({"url": "https://user:word@hooks.example.com/"}, "'url': expected an https:// URL"),
    ({"url": "https://hooks.example.com:6379/"}, "'url': the port is not one of 443, 8443"),
    ({"url": "https://127.0.0.1/"}, "'url': the address is not public"),
    ({"url": "https://169.254.169.254/latest"}, "'url': the address is not public"),
    ({"url": "https://[::1]/"}, "'url': the address is not public"),
    ({"url": "https://100.64.0.1/"}, "'url': the address is not public"),
    ({"url": "mailto:a@example.com"}, "'url': there is no mail server"),
    ({"url": "https://hooks.example.com/", "channel": "email"}, "'url': an e-mail address is mailto:"),
    ({"event_types": ["quotas.*"]}, "'event_types': no event matches 'quotas.*'. Events: quota.threshold_crossed,"),
    ({"tenant": "nobody"}, "There is no tenant named 'nobody'"),
]


def test_what_cannot_be_sent_is_refused_with_its_reason(gateway: Gateway, receiver: Receiver) -> None:
    body: dict[str, object] = {"name": "x", "url": receiver.url, "event_types": ["*"]}
    for fields, message in REFUSED:
        answer = gateway.admin("POST", "/webhooks", body | fields)
        assert (404 if "tenant" in fields else 400) == answer.status_code
        assert message in answer.json()["error"]["message"]
        assert "user:word" not in answer.text


def test_a_delivery_is_listed_and_replayed_by_command(gateway: Gateway, receiver: Receiver, redis_url: str) -> None:
    def command(*arguments: str) -> str:
        done = run("webhook", *arguments, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    receiver.answers = [200, 410]
    gone = create(gateway, receiver, event_types=["key.*"])["id"]
    secret = command("create", "watcher", receiver.url, "--event", "webhook.*").strip()
    assert secret.startswith("whsec_")
    [watcher] = [one["id"] for one in gateway.admin("GET", "/webhooks").json()["data"] if one["name"] == "watcher"]
    assert "webhook.*" in command("list")
    assert "200" in command("test", watcher)
    gateway.admin("PATCH", "/webhooks/ops", {"enabled": False})
    with redis.Redis.from_url(redis_url) as client:
        client.xadd("ig3:events", {"type": "key.revoked", "at_ms": 1, "data": '{"tenant": "acme", "key_id": "x"}'})
    wait_until(lambda: len(receiver.received) == 3, "the other endpoint hears that the first one was disabled")
    event = json.loads(receiver.received[2][1])
    assert ("webhook.disabled", gone) == (event["type"], event["data"]["endpoint"])
    assert "it answered 410 Gone" in command("show", gone)
    assert "failed" in command("deliveries", gone)
    [delivery] = gateway.admin("GET", f"/webhooks/{gone}/deliveries").json()["data"]
    assert ("key.revoked", 410, 1) == tuple(delivery[name] for name in ("event_type", "status_code", "attempts"))
    command("update", gone, "--enable")
    command("replay", gone, delivery["id"])
    wait_until(lambda: len(receiver.received) == 4, "it is sent again")
    assert receiver.received[1][0]["webhook-id"] == receiver.received[3][0]["webhook-id"] == delivery["event_id"]
    wait_until(lambda: "delivered" in command("deliveries", gone), "the result is stored")
    answer = gateway.admin("POST", f"/webhooks/{gone}/deliveries/dlv_0/replay")
    assert (404, True) == (answer.status_code, "has no delivery 'dlv_0'" in answer.json()["error"]["message"])
    actions = [one["action"] for one in gateway.admin("GET", "/audit").json()["data"]]
    assert [1, 1] == [actions.count(f"webhook.{name}") for name in ("test", "replay")]
    assert "is deleted" in command("delete", gone, "--yes")
    done = run("webhook", "test", gone, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    assert (1, f"imagegate: There is no webhook '{gone}'. See GET /admin/v1/webhooks.\n") == (
        done.returncode,
        done.stderr,
    )


def test_without_an_encryption_key_none_is_created(make_gateway: MakeGateway) -> None:
    body = {"name": "x", "url": "https://hooks.example.com/", "event_types": ["*"]}
    answer = make_gateway().admin("POST", "/webhooks", body)
    assert (409, "Webhooks cannot be created: set [pool] encryption_keys, which encrypt their secrets.") == (
        answer.status_code,
        answer.json()["error"]["message"],
    )


def test_the_metrics_count_what_waits(gateway: Gateway, receiver: Receiver) -> None:
    receiver.answers = [503]
    create(gateway, receiver)
    text = gateway.get("/metrics").text
    assert "imagegate_event_deliveries_pending 0.0" in text
    assert 'imagegate_event_deliveries_total{channel="webhook",result="delivered"} 0.0' in text
