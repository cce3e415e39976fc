"""What leads and members do in the console, and the playground."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest

from gateway.domain.roles import PERMISSIONS, ConsoleRole, tenant_permission
from tests.support.console import Browser, error_code, person
from tests.support.harness import Gateway, MakeGateway, Simulator, admin
from tests.support.scarce import ask, scarce, wait_for_queue

PROMPT = {"prompt": "a lighthouse", "response_format": "b64_json"}
ROUTES = [
    ("GET", ""),
    ("PATCH", ""),
    ("GET", "/keys"),
    ("POST", "/keys"),
    ("GET", "/keys/abc"),
    ("PATCH", "/keys/abc"),
    ("DELETE", "/keys/abc"),
    ("POST", "/keys/abc/rotate"),
    ("GET", "/usage"),
    ("GET", "/usage_now"),
    ("GET", "/refusals"),
    ("GET", "/requests"),
    ("GET", "/requests/req_unknown"),
    ("GET", "/audit"),
    ("GET", "/requests"),
    ("GET", "/requests/req_1"),
    ("GET", "/members"),
    ("POST", "/members"),
    ("DELETE", "/members/abc"),
]


@pytest.mark.shares_gateway
@pytest.mark.parametrize("role", ConsoleRole)
def test_only_a_lead_manages_the_tenant_and_a_member_reads_its_usage(gateway: Gateway, role: ConsoleRole) -> None:
    browser = person(gateway.url, role.value, "acme" if role.has_tenant else None)
    for method, path in ROUTES:
        answer = browser.call(method, f"/console/tenant{path}", None if method == "GET" else {})
        may = role.has_tenant and tenant_permission(path, method) in PERMISSIONS[role]
        assert may == (answer.status_code != 403), (method, path, answer.text)
        assert 500 > answer.status_code, (method, path, answer.text)


@pytest.mark.shares_gateway
def test_a_lead_creates_and_revokes_a_key_under_its_own_name(gateway: Gateway) -> None:
    lead = person(gateway.url, "lead", "acme", name="bea")
    made = lead.call("POST", "/console/tenant/keys", {"label": "ci"}).json()
    assert 200 == httpx.get(f"{gateway.url}/v1/models", headers={"authorization": f"Bearer {made['key']}"}).status_code
    assert 200 == lead.call("DELETE", f"/console/tenant/keys/{made['id']}").status_code
    entries = [entry for entry in lead.get("/console/tenant/audit").json()["data"] if entry["key_id"] == made["id"]]
    assert [("link:bea", "key.revoke"), ("link:bea", "key.create")] == [(e["actor"], e["action"]) for e in entries]
    refused = lead.call("POST", "/console/tenant/keys", {"role": "lead"})
    assert (403, "not_permitted") == (refused.status_code, error_code(refused))


@pytest.mark.shares_gateway
def test_the_playground_knows_price_and_capabilities_of_the_models_that_the_tenant_may_use(gateway: Gateway) -> None:
    admin(gateway.url, "POST", "/tenants", {"name": "initech", "models": ["image-01"]})
    [model] = person(gateway.url, "member", "initech").get("/console/models").json()["data"]
    assert {"id", "aliases", "price_per_image_usd", "capabilities"} == model.keys()
    assert ("image-01", "0.0035", True) == (model["id"], model["price_per_image_usd"], model["capabilities"]["edits"])


@pytest.mark.shares_gateway
def test_a_lead_sees_no_other_tenant(gateway: Gateway) -> None:
    admin(gateway.url, "POST", "/tenants", {"name": "globex"})
    other = admin(gateway.url, "POST", "/tenants/globex/keys", {}).json()
    lead = person(gateway.url, "lead", "acme")
    assert 404 == lead.get(f"/console/tenant/keys/{other['id']}").status_code
    assert "acme" == lead.get("/console/tenant").json()["name"]


def test_the_playground_buys_as_the_tenants_key_of_the_console(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    member, lead = Browser(gateway.url).sign_in(gateway.api_key), person(gateway.url, "lead", "acme")
    chief, found = Browser(gateway.url).sign_in(), member.get("/console/models")
    assert found.json()["data"] == chief.get("/console/models?tenant=acme").json()["data"] != []
    assert "console" not in [key["label"] for key in admin(gateway.url, "GET", "/tenants/acme/keys").json()["data"]]
    answers = [browser.call("POST", "/console/images/generations", PROMPT) for browser in (member, lead, member)]
    assert [200, 200, 200] == [answer.status_code for answer in answers], answers[0].text
    assert "0.0035" == answers[0].headers["x-imagegate-cost-usd"]
    keys = admin(gateway.url, "GET", "/tenants/acme/keys").json()["data"]
    [console] = [key for key in keys if key["label"] == "console"]
    report = admin(gateway.url, "GET", "/usage?by=key").json()["data"]
    assert [(console["id"], 3)] == [(row["key"], row["images"]) for row in report]
    entries = admin(gateway.url, "GET", "/audit?tenant=acme").json()["data"]
    assert [f"key:{key['id']}" for key in keys if key["label"] == ""] == [
        entry["actor"] for entry in entries if entry["key_id"] == console["id"]
    ]


def test_two_people_who_begin_at_once_get_one_key(two_gateways: tuple[str, str]) -> None:
    first, _ = two_gateways
    admin(first, "POST", "/tenants", {"name": "acme"})
    browsers = [person(url, "member", "acme", name=f"p{number}") for number, url in enumerate(two_gateways * 3)]
    with ThreadPoolExecutor(6) as pool:
        buy = partial(Browser.call, method="POST", path="/console/images/generations", body=PROMPT)
        answers = list(pool.map(buy, browsers))
    assert {200} == {answer.status_code for answer in answers}
    assert ["console"] == [key["label"] for key in admin(first, "GET", "/tenants/acme/keys").json()["data"]]


def test_a_waiting_purchase_has_a_place_and_a_forecast(make_gateway: MakeGateway, simulator: Simulator) -> None:
    gateway = make_gateway(scarce(simulator.url, limits={"requests_per_minute": 1}, max_wait_s=170))
    admin(gateway.url, "POST", "/tenants", {"name": "globex"})
    member, path = Browser(gateway.url).sign_in(gateway.api_key), "/console/images/waiting/play-1"
    none = {"waiting": False, "place": None, "forecast_s": None}
    assert none == member.get(path).json()
    assert 200 == member.call("POST", "/console/images/generations", PROMPT).status_code  # takes the minute
    with ThreadPoolExecutor(1) as pool:
        ahead = ask(gateway, prompt="x")
        wait_for_queue(gateway, 1)
        sent = pool.submit(member.call, "POST", "/console/images/generations", PROMPT, **{"x-request-id": "play-1"})
        wait_for_queue(gateway, 2)
        found = member.get(path).json()
        assert [True, 2] == [found["waiting"], found["place"]]
        assert 110 < found["forecast_s"] < 130
        chief = Browser(gateway.url).sign_in()
        assert 2 == chief.get(f"{path}?tenant=acme").json()["place"]
        assert (
            none == chief.get(f"{path}?tenant=globex").json() == person(gateway.url, "lead", "globex").get(path).json()
        )
        assert 403 == person(gateway.url, "viewer").get(f"{path}?tenant=acme").status_code
        admin(gateway.url, "PATCH", "/pool/sim/main", {"state": "disabled"})
        assert [503, 503] == [sent.result(30).status_code, ahead.answer().status_code]
    assert none == member.get(path).json()


def test_a_page_can_read_what_a_purchase_came_to(make_gateway: MakeGateway) -> None:
    member = Browser((gateway := make_gateway()).url).sign_in(gateway.api_key)
    body = PROMPT | {"background": "auto", "user": "ann", "quality": "high"}
    answer = member.call("POST", "/console/images/generations", body, **{"x-request-id": "play-2"})
    assert 200 == answer.status_code, answer.text
    named = {
        name: answer.headers.get(f"x-{name}") for name in ("request-id", "imagegate-cost-usd", "imagegate-ignored")
    }
    assert {"request-id": "play-2", "imagegate-cost-usd": "0.0035", "imagegate-ignored": "quality"} == named
    assert answer.headers["x-imagegate-queue-ms"].isdecimal()


def test_an_admin_names_the_tenant_and_its_limits_hold(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    admin(gateway.url, "PATCH", "/tenants/acme", {"quotas": {"images_per_day": 1}})
    browser = Browser(gateway.url).sign_in()
    unnamed = browser.call("POST", "/console/images/generations", PROMPT)
    assert (400, "tenant") == (unnamed.status_code, unnamed.json()["error"]["param"])
    path = "/console/images/generations?tenant=acme"
    answers = [browser.call("POST", path, PROMPT) for _ in range(2)]
    assert [200, 429] == [answer.status_code for answer in answers]
    assert 404 == browser.call("POST", "/console/images/generations?tenant=nobody", PROMPT).status_code
    assert 403 == person(gateway.url, "viewer").call("POST", path, PROMPT).status_code


def test_a_member_cannot_name_another_tenant(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    admin(gateway.url, "POST", "/tenants", {"name": "globex"})
    member = Browser(gateway.url).sign_in(gateway.api_key)
    assert 200 == member.call("POST", "/console/images/generations?tenant=globex", PROMPT).status_code
    report = admin(gateway.url, "GET", "/usage?by=tenant").json()["data"]
    assert ["acme"] == [row["tenant"] for row in report]


def test_a_revoked_key_of_the_console_is_replaced_at_the_next_purchase(make_gateway: MakeGateway) -> None:
    gateway = make_gateway()
    member = Browser(gateway.url).sign_in(gateway.api_key)
    ids = []
    for _ in range(2):
        assert 200 == member.call("POST", "/console/images/generations", PROMPT).status_code
        keys = admin(gateway.url, "GET", "/tenants/acme/keys").json()["data"]
        [found] = [key["id"] for key in keys if key["label"] == "console"]
        admin(gateway.url, "DELETE", f"/keys/{found}")
        ids.append(found)
    assert 2 == len(set(ids))
