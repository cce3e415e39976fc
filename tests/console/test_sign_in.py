"""Signing in by a key and by a link, the session's cookie, and signing out."""

import httpx
import pytest

from gateway.domain.roles import PERMISSIONS, ConsoleRole
from tests.support.console import COOKIE, Browser, error_code, invite, person
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, admin

pytestmark = pytest.mark.shares_gateway


def test_without_a_session_it_says_how_to_sign_in(gateway: Gateway) -> None:
    said = Browser(gateway.url).session()
    assert said["signed_in"] is False
    assert {"admin_key": True, "tenant_key": True, "oidc": None} == said["sign_in"]
    assert said["secure"] is True


def test_an_admin_key_opens_a_session_of_its_name(gateway: Gateway) -> None:
    said = Browser(gateway.url).sign_in().session()
    assert (True, "admin", "admin", None) == (said["signed_in"], said["subject"], said["role"], said["tenant"])
    assert sorted(PERMISSIONS[ConsoleRole.ADMIN]) == said["may"]
    assert 12 * 3600 - 60 <= said["expires_at"] - said["idle_expires_at"] + 30 * 60 <= 12 * 3600


def test_a_tenants_key_opens_a_session_of_a_member_and_a_leads_key_that_of_a_lead(gateway: Gateway) -> None:
    lead = admin(gateway.url, "POST", "/tenants/acme/keys", {"role": "lead", "label": "boss"}).json()
    roles = [Browser(gateway.url).sign_in(key).session() for key in (gateway.api_key, lead["key"])]
    assert [("member", "acme"), ("lead", "acme")] == [(said["role"], said["tenant"]) for said in roles]
    assert (f"key:{lead['id']}", "boss") == (roles[1]["subject"], roles[1]["label"])


def test_the_cookie_is_for_this_host_and_no_script(gateway: Gateway) -> None:
    [text] = Browser(gateway.url).call("POST", "/console/session", {"key": ADMIN_KEY}).headers.get_list("set-cookie")
    named, *attributes = text.split("; ")
    assert named.startswith(f"{COOKIE}=")
    assert len(named) > 43  # 256 bits in base64
    kept = {"httponly", "max-age=43200", "path=/", "samesite=strict", "secure"}
    assert kept == {attribute.lower() for attribute in attributes}


@pytest.mark.parametrize("key", ["wrong-key-for-tests", "sk-ig-" + "a" * 42])
def test_a_wrong_key_opens_no_session(gateway: Gateway, key: str) -> None:
    response = Browser(gateway.url).call("POST", "/console/session", {"key": key})
    assert (401, []) == (response.status_code, response.headers.get_list("set-cookie"))
    assert key not in response.text


def test_a_plain_address_that_is_not_this_machine_is_told_to_use_tls(gateway: Gateway) -> None:
    headers = {"host": "gateway.example", "origin": "http://gateway.example", "x-imagegate-console": "1"}
    response = httpx.post(f"{gateway.url}/console/session", json={"key": ADMIN_KEY}, headers=headers, verify=False)
    assert (400, "cookie_not_possible") == (response.status_code, error_code(response))
    shown = httpx.get(f"{gateway.url}/console/session", headers={"host": "gateway.example"}, verify=False)
    assert shown.json()["secure"] is False


def test_each_sign_in_has_an_id_of_its_own_and_ends_the_former_session(gateway: Gateway) -> None:
    fixed = Browser(gateway.url, "chosen-by-an-attacker")
    fixed.sign_in()
    first = fixed.cookie
    assert first != "chosen-by-an-attacker"
    fixed.sign_in()
    assert fixed.cookie != first
    assert [False, True] == [Browser(gateway.url, token).session()["signed_in"] for token in (first, fixed.cookie)]
    assert not Browser(gateway.url, "chosen-by-an-attacker").session()["signed_in"]


def test_signing_out_ends_the_session_and_deletes_the_cookie(gateway: Gateway) -> None:
    browser = Browser(gateway.url).sign_in()
    leaked = browser.cookie
    gone = browser.call("DELETE", "/console/session")
    assert "Max-Age=0" in gone.headers["set-cookie"]
    stolen = Browser(gateway.url, leaked)
    assert stolen.session()["signed_in"] is False
    assert (401, "session_required") == ((answer := stolen.get("/admin/v1/tenants")).status_code, error_code(answer))


def test_an_administrator_ends_a_leaked_session(gateway: Gateway) -> None:
    leaked, own = person(gateway.url, "viewer", name="leaky"), Browser(gateway.url).sign_in()
    listed = own.get("/admin/v1/console/sessions").json()["data"]
    [found] = [entry for entry in listed if entry["subject"] == "link:leaky"]
    assert ("viewer", "link", None) == (found["role"], found["method"], found["tenant"])
    assert leaked.cookie not in str(listed)
    assert 200 == own.call("DELETE", f"/admin/v1/console/sessions/{found['id']}").status_code
    assert [False, True] == [browser.session()["signed_in"] for browser in (leaked, own)]
    assert 404 == own.call("DELETE", f"/admin/v1/console/sessions/{found['id']}").status_code
    ended = [entry for entry in own.get("/admin/v1/audit").json()["data"] if entry["action"] == "session.end"]
    assert ("admin", f"console/{found['id']}") == (ended[0]["actor"], ended[0]["target"])


def test_a_link_signs_in_once_as_the_person_it_was_made_for(gateway: Gateway) -> None:
    token = invite(gateway.url, "lead", "acme", name="bea")
    browser = Browser(gateway.url)
    assert 200 == browser.redeem(token).status_code
    said = browser.session()
    assert ("link:bea", "bea", "lead", "acme") == tuple(said[name] for name in ("subject", "label", "role", "tenant"))
    again = Browser(gateway.url).redeem(token)
    assert (403, "invitation_invalid") == (again.status_code, error_code(again))


def test_a_link_that_was_deleted_signs_nobody_in(gateway: Gateway) -> None:
    made = admin(gateway.url, "POST", "/console/invitations", {"name": "cat", "role": "finance"}).json()
    listed = admin(gateway.url, "GET", "/console/invitations").json()["data"]
    assert [made["id"]] == [entry["id"] for entry in listed if entry["name"] == "cat"]
    assert "url" not in listed[0]
    assert 200 == admin(gateway.url, "DELETE", f"/console/invitations/{made['id']}").status_code
    assert 403 == Browser(gateway.url).redeem(made["url"].partition("#")[2]).status_code


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "x", "role": "lead"}, "tenant"),
        ({"name": "x", "role": "admin", "tenant": "acme"}, "tenant"),
        ({"name": "x", "role": "owner"}, "role"),
        ({"name": "", "role": "admin"}, "name"),
    ],
)
def test_an_invitation_that_makes_no_sense_is_refused(gateway: Gateway, body: dict[str, str], param: str) -> None:
    response = admin(gateway.url, "POST", "/console/invitations", body)
    assert (400, param) == (response.status_code, response.json()["error"]["param"])


def test_a_key_that_is_revoked_or_replaced_ends_its_sessions(gateway: Gateway) -> None:
    made = [admin(gateway.url, "POST", "/tenants/acme/keys", {}).json() for _ in range(2)]
    browsers = [Browser(gateway.url).sign_in(key["key"]) for key in made]
    admin(gateway.url, "DELETE", f"/keys/{made[0]['id']}")
    admin(gateway.url, "POST", f"/keys/{made[1]['id']}/rotate", {"grace_s": 0})
    assert [False, False] == [browser.session()["signed_in"] for browser in browsers]


def test_a_disabled_tenant_has_no_sessions(gateway: Gateway) -> None:
    admin(gateway.url, "POST", "/tenants", {"name": "shut"})
    browser = person(gateway.url, "lead", "shut")
    admin(gateway.url, "PATCH", "/tenants/shut", {"disabled": True})
    assert browser.session()["signed_in"] is False


def test_wrong_keys_and_links_are_throttled(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(server={"auth_failures_per_minute": 3})
    browser = Browser(gateway.url)
    wrong = [browser.call("POST", "/console/session", {"key": f"wrong-{number}"}) for number in range(2)]
    wrong += [browser.redeem(f"wrong-{number}") for number in range(3)]
    assert [401, 401, 403, 429, 429] == [response.status_code for response in wrong]
    assert 200 == browser.call("POST", "/console/session", {"key": ADMIN_KEY}).status_code


def test_an_admin_key_may_be_barred_from_the_console(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(console={"admin_key_sign_in": False, "organisation": "Acme Ltd"})
    browser = Browser(gateway.url)
    said = browser.session()
    assert (False, "Acme Ltd") == (said["sign_in"]["admin_key"], said["organisation"])
    assert 401 == browser.call("POST", "/console/session", {"key": ADMIN_KEY}).status_code
    assert 200 == admin(gateway.url, "GET", "/tenants").status_code


def test_a_console_that_is_switched_off_has_no_routes(make_gateway: MakeGateway) -> None:
    gateway = make_gateway(console={"enabled": False})
    paths = ("/console", "/console/session", "/admin/v1/console/sessions", "/console/images/generations")
    assert {404} == {httpx.get(gateway.url + path, verify=False).status_code for path in paths}
