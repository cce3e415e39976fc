"""Who has access to a tenant: its leads and administrators see, invite and end."""

import httpx
import pytest

from tests.support.console import Browser, error_code, person
from tests.support.harness import Gateway, MakeGateway, admin
from tests.support.openapi import conform

OWN = "/console/tenant/members"


def rows(response: httpx.Response) -> list[tuple[str, str, str]]:
    assert 200 == response.status_code, response.text
    conform(response.json(), {"$ref": "#/components/schemas/MemberList"}, "MemberList")
    return [(row["kind"], row["name"], row["role"]) for row in response.json()["data"]]


@pytest.fixture
def own(make_gateway: MakeGateway) -> Gateway:
    gateway = make_gateway()
    admin(gateway.url, "POST", "/tenants", {"name": "team"})
    admin(gateway.url, "POST", "/tenants/team/keys", {"role": "lead", "label": "boss"})
    return gateway


def test_a_lead_invites_a_member_and_ends_its_access(own: Gateway) -> None:
    lead, key = person(own.url, "lead", "team", name="bea"), ("key", "boss", "lead")
    person(own.url, "member", "acme", name="stranger")
    made = lead.call("POST", OWN, {"name": "Bob", "role": "member"})
    assert 201 == made.status_code, made.text
    conform(made.json(), {"$ref": "#/components/schemas/CreatedMember"}, "CreatedMember")
    invited = [("session", "bea", "lead"), ("invitation", "Bob", "member"), key]
    assert invited == rows(lead.get(OWN)) == rows(admin(own.url, "GET", "/tenants/team/members"))
    url, _, token = made.json()["url"].partition("#")
    assert f"{own.url}/console/link" == url
    assert token not in lead.get(OWN).text
    bob = Browser(own.url)
    assert 200 == bob.redeem(token).status_code
    assert {("session", "bea", "lead"), ("session", "Bob", "member"), key} == set(rows(lead.get(OWN)))
    ids = {row["name"]: row["id"] for row in lead.get(OWN).json()["data"]}
    ended = lead.call("DELETE", f"{OWN}/{ids['Bob']}").json()
    conform(ended, {"$ref": "#/components/schemas/Member"}, "Member")
    assert bob.session()["signed_in"] is False
    entries = lead.get("/console/tenant/audit?action=member.").json()["data"]
    assert [("link:bea", "member.end"), ("link:bea", "member.invite")] == [(e["actor"], e["action"]) for e in entries]
    assert (404, "not_found") == (
        (refused := lead.call("DELETE", f"{OWN}/{ids['boss']}")).status_code,
        error_code(refused),
    )


def test_a_lead_reaches_neither_other_tenants_nor_the_role_of_a_lead(own: Gateway) -> None:
    lead, other = person(own.url, "lead", "team"), person(own.url, "lead", "acme", name="other")
    refused = lead.call("POST", OWN, {"name": "Eve", "role": "lead"})
    assert (403, "not_permitted") == (refused.status_code, error_code(refused))
    assert 201 == admin(own.url, "POST", "/tenants/team/members", {"name": "Eve", "role": "lead"}).status_code
    [foreign] = [row["id"] for row in other.get(OWN).json()["data"] if row["kind"] == "session"]
    assert 404 == lead.call("DELETE", f"{OWN}/{foreign}").status_code
    assert 404 == admin(own.url, "DELETE", f"/tenants/team/members/{foreign}").status_code
    assert other.session()["signed_in"] is True
    assert 404 == admin(own.url, "POST", "/tenants/nobody/members", {"name": "x", "role": "member"}).status_code
    assert 400 == admin(own.url, "POST", "/tenants/team/members", {"name": "x", "role": "admin"}).status_code


def test_a_tenant_uses_up_no_others_invitations(own: Gateway) -> None:
    lead = person(own.url, "lead", "team")
    made = [lead.call("POST", OWN, {"name": f"p{number}", "role": "member"}) for number in range(21)]
    assert [201] * 20 + [409] == [answer.status_code for answer in made]
    assert 200 == lead.call("DELETE", f"{OWN}/{made[0].json()['id']}").status_code
    assert 201 == lead.call("POST", OWN, {"name": "p21", "role": "member"}).status_code


def test_the_session_of_a_key_that_was_revoked_is_none(own: Gateway) -> None:
    made = admin(own.url, "POST", "/tenants/team/keys", {"label": "web"}).json()
    Browser(own.url).sign_in(made["key"])
    assert [("session", "web", "member"), ("key", "boss", "lead")] == rows(
        admin(own.url, "GET", "/tenants/team/members")
    )
    admin(own.url, "DELETE", f"/keys/{made['id']}")
    assert [("key", "boss", "lead")] == rows(admin(own.url, "GET", "/tenants/team/members"))
