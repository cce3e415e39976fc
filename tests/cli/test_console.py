"""`imagegate console`: inviting someone, and ending a session."""

import json

from tests.support.commands import Ask
from tests.support.console import Browser
from tests.support.harness import Gateway


def test_an_invited_person_signs_in_and_is_signed_out_again(ask: Ask, gateway: Gateway) -> None:
    made = ask("console", "invite", "Ann Lee", "--role", "lead", "--tenant", "acme")
    assert 0 == made.returncode, made.stderr
    place, _, token = made.stdout.strip().partition("#")
    assert f"{gateway.url}/console/link" == place
    assert token not in made.stderr
    assert "Ann Lee" in ask("console", "links").stdout
    browser = Browser(gateway.url)
    assert 200 == browser.redeem(token).status_code
    members = json.loads(ask("console", "members", "acme", "--json").stdout)["data"]
    assert [("session", "Ann Lee", "lead")] == [(row["kind"], row["name"], row["role"]) for row in members]
    assert "Ann Lee" in ask("console", "members", "acme").stdout
    assert "No unused links." in ask("console", "links").stdout
    [session] = json.loads(ask("console", "sessions", "--json").stdout)["data"]
    assert ("Ann Lee", "lead", "acme") == (session["label"], session["role"], session["tenant"])
    assert "Ann Lee" in ask("console", "sessions").stdout
    assert 0 == ask("console", "end", session["id"], "--yes").returncode
    assert browser.session()["signed_in"] is False


def test_a_link_can_be_deleted(ask: Ask) -> None:
    made = json.loads(ask("console", "invite", "Ann", "--role", "finance", "--json").stdout)
    assert "The link for Ann is deleted." in ask("console", "delete-link", made["id"]).stdout
    assert 1 == ask("console", "delete-link", made["id"]).returncode


def test_a_lead_needs_a_tenant(ask: Ask) -> None:
    refused = ask("console", "invite", "Ann", "--role", "lead")
    assert (1, True) == (refused.returncode, "tenant" in refused.stderr)
