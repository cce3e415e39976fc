"""`imagegate me`: a team and its lead, each with its own API key and no admin key."""

import json
import re
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

from tests.support.commands import check_refused, fits, run
from tests.support.harness import Gateway, new_key

Me = Callable[..., CompletedProcess[str]]


@pytest.fixture
def me(gateway: Gateway) -> Me:
    """A command with the address of a running gateway and a key of the tenant `team`."""

    def asked(*arguments: str, key: str, **variables: str) -> CompletedProcess[str]:
        return run("me", *arguments, **{"IMAGEGATE_URL": gateway.base_url, "IMAGEGATE_API_KEY": key} | variables)

    return asked


@pytest.fixture
def lead(gateway: Gateway) -> str:
    quotas = {"usd_per_month": "0.02", "soft_usd_per_month": "0.01"}
    gateway.admin("POST", "/tenants", {"name": "team", "quotas": quotas, "contact": "jo@example.com"})
    key: str = gateway.admin("POST", "/tenants/team/keys", {"role": "lead", "label": "lead"}).json()["key"]
    return key


def test_a_team_sees_what_is_left(gateway: Gateway, me: Me, lead: str) -> None:
    key = new_key(gateway.url, "team")
    assert (
        200
        == gateway.post("/v1/images/generations", {"prompt": "x", "n": 2}, authorization=f"Bearer {key}").status_code
    )
    shown = me("usage", key=key)
    assert (0, True) == (shown.returncode, fits(shown.stdout)), shown.stderr
    moment = r"\d{4}-\d\d-01T00:00:00Z"
    assert re.search(rf"^tenant +usd per month +{moment} +0\.02 +0\.007 +0\.013 *$", shown.stdout, re.MULTILINE)
    assert re.search(rf"^tenant +soft usd per month +{moment} +0\.01 +0\.007 +0\.003 *$", shown.stdout, re.MULTILINE)
    assert re.search(r"^\d{4}-\d\d-\d\d +image-01 +2 +0\.007 +2 +0\.007 *$", shown.stdout, re.MULTILINE)
    assert re.search(r"^TOTAL +2 +0\.007 +2 +0\.007 *$", shown.stdout, re.MULTILINE)
    assert "usage" == json.loads(me("usage", "--json", key=key).stdout)["object"]
    assert "No usage." in me("usage", "--to", "2026-01-31", key=lead).stdout
    by_key = me("usage", "--by", "key", key=lead).stdout
    assert "No usage." in me("usage", "--by", "key", "--model", "other", key=lead).stdout
    assert re.search(rf"^{key[6:16]} +1 +2 +2 +0\.007 *$", by_key, re.MULTILINE)


def test_a_lead_manages_its_keys_without_an_admin_key(gateway: Gateway, me: Me, lead: str) -> None:
    made = me("key", "create", "--label", "web", "--images-per-day", "5", key=lead)
    secret = made.stdout.strip()
    assert (0, True) == (made.returncode, secret.startswith("sk-ig-")), made.stderr
    assert f"Key {secret[6:16]} of team." in made.stderr
    assert 200 == gateway.get("/v1/models", authorization=f"Bearer {secret}").status_code
    listed = me("key", "list", key=lead).stdout
    day = r"\d{4}-\d\d-\d\d"
    assert re.search(rf"^{secret[6:16]} +web +{day} +{day} +never *$", listed, re.MULTILINE), listed
    assert re.search(r"^images per day +5 *$", me("key", "show", secret[6:16], key=lead).stdout, re.MULTILINE)
    assert 0 == me("key", "update", secret[6:16], "--label", "shop", key=lead).returncode
    rotated = me("key", "rotate", secret[6:16], "--grace", "0", "--yes", key=lead).stdout.strip()
    assert [401, 200] == [
        gateway.get("/v1/models", authorization=f"Bearer {each}").status_code for each in (secret, rotated)
    ]
    assert f"Key {secret[6:16]} of team is revoked." in me("key", "revoke", secret[6:16], "--yes", key=lead).stdout
    assert re.search(rf"^{secret[6:16]} +shop ", me("key", "list", "--revoked", key=lead).stdout, re.MULTILINE)
    entries = me("audit", key=lead).stdout
    assert re.search(rf"key:{lead[6:16]} +key\.revoke +team key {secret[6:16]}", entries)


def test_a_renamed_tenant_sees_its_present_name(gateway: Gateway, me: Me, lead: str) -> None:
    gateway.admin("PATCH", "/tenants/team", {"name": "studio"})
    secret = me("key", "create", key=lead).stdout.strip()
    assert "studio" == json.loads(me("usage", "--json", key=secret).stdout)["tenant"]["name"]
    assert "studio" == json.loads(me("key", "show", secret[6:16], "--json", key=lead).stdout)["tenant"]
    assert re.search(r"^name +studio *$", me("show", key=lead).stdout, re.MULTILINE)
    assert re.search(rf"key\.create +studio key {secret[6:16]}", me("audit", key=lead).stdout)
    credit = {"images": 1, "reason": "a test"}
    assert "studio" == gateway.admin("POST", "/tenants/studio/credit", credit).json()["tenant"]


def test_a_lead_chooses_alerts(me: Me, lead: str) -> None:
    changed = me("update", "--alert-percent", "70", "--alert-to", "mailto:jo@example.com", key=lead)
    assert re.search(r"^alerts to +mailto:jo@example\.com *$", changed.stdout, re.MULTILINE), changed.stderr
    assert re.search(r"^alerts at percent +70 *$", me("show", key=lead).stdout, re.MULTILINE)
    check_refused(me("update", "--alert-to", "https://evil.example/", key=lead), "none is configured")
    assert 2 == me("update", key=lead).returncode


def test_what_goes_wrong_is_said_with_its_remedy(gateway: Gateway, me: Me, lead: str) -> None:
    plain = new_key(gateway.url, "team")
    check_refused(me("key", "list", key=plain), "Use a key of role 'lead', which an administrator creates.")
    check_refused(me("usage", key=""), "no API key; use --key or set IMAGEGATE_API_KEY")
    check_refused(me("usage", key="sk-ig-wrong"), "the gateway rejected the API key; check --key or IMAGEGATE_API_KEY")
    check_refused(me("usage", "--by", "upstream", key=lead), "'upstream'")
    check_refused(me("usage", "--by", "tag", key=lead), "Missing required parameter: 'tag'")
    for option in ("--tag", "--model", "--key-id"):
        assert "need --by" in me("usage", option, "feature", key=plain).stderr
    check_refused(me("key", "show", "unknown000", key=lead), "There is no key 'unknown000'.")
    nobody = me("usage", key=plain, IMAGEGATE_URL="http://127.0.0.1:1")
    check_refused(nobody, "check --url")
    assert plain not in nobody.stderr


def test_a_lead_invites_and_ends_a_member(me: Me, lead: str) -> None:
    made = me("invite", "Bob Lee", key=lead)
    assert 0 == made.returncode, made.stderr
    assert "/console/link#" in made.stdout
    [invited, own] = json.loads(me("members", "--json", key=lead).stdout)["data"]
    assert [("invitation", "Bob Lee"), ("key", "lead")] == [(row["kind"], row["name"]) for row in (invited, own)]
    assert "Bob Lee" in me("members", key=lead).stdout
    assert "The invitation of Bob Lee has ended." in me("end", invited["id"], "--yes", key=lead).stdout
    check_refused(me("end", invited["id"], "--yes", key=lead), "no session or invitation")
