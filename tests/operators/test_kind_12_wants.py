"""Kind 12: things an operator wants to do: rename and delete tenants, page lists, resolve revoked keys."""

import csv
import io
import json
import re
import subprocess

import pytest

from tests.support.commands import check_refused, run
from tests.support.harness import ADMIN_KEY, Gateway, MakeGateway, wait_until
from tests.support.operators import Shows


def ask(gateway: Gateway, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run(*arguments, IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)


def test_a_renamed_tenant_has_its_keys_counters_bill_and_audit(gateway: Gateway, shows: Shows) -> None:
    gateway.admin("PATCH", "/tenants/acme", {"quotas": {"images_per_month": 3}})
    assert 200 == gateway.generate(prompt="a", n=2).status_code
    done = ask(gateway, "tenant", "rename", "acme", "design")
    assert 0 == done.returncode
    assert re.search(r"^name +design$", done.stdout, re.MULTILINE)
    shows(12, "imagegate tenant rename acme design", done.stderr.strip())
    assert 200 == gateway.generate(prompt="a").status_code
    refused = gateway.generate(prompt="a")
    assert 429 == refused.status_code
    assert "tenant 'design': limit 3, used 3" in refused.json()["error"]["message"]
    assert 3 == gateway.admin("GET", "/tenants/design").json()["used"]["images_this_month"]
    [row] = gateway.admin("GET", "/usage?by=tenant&tenant=design").json()["data"]
    assert ("design", 3, "0.0105") == (row["tenant"], row["images"], row["usd"])
    assert {"design"} == {record["tenant"] for record in gateway.admin("GET", "/usage/records").json()["data"]}
    assert [] == gateway.admin("GET", "/usage/verify?tenant=design").json()["differences"]
    entries = gateway.admin("GET", "/audit?tenant=design").json()["data"]
    assert ("tenant.rename", {"design"}) == (entries[0]["action"], {entry["tenant"] for entry in entries})
    assert "    name: acme -> design\n" in ask(gateway, "audit", "--tenant", "design", "--limit", "1").stdout
    assert ["design"] == [key["tenant"] for key in gateway.admin("GET", "/tenants/design/keys").json()["data"]]
    wait_until(lambda: 'tenant="design"' in gateway.get("/metrics").text, "the metrics have the new name")


def test_every_format_of_an_export_has_the_present_name(gateway: Gateway) -> None:
    assert 200 == gateway.generate(prompt="a").status_code
    gateway.admin("PATCH", "/tenants/acme", {"name": "design"})
    files = {form: gateway.admin("GET", f"/usage/export?format={form}").text for form in ("jsonl", "focus")}
    files["csv"] = gateway.admin("GET", "/usage/export?format=csv&by=tenant").text
    assert ["design"] == [json.loads(line)["tenant"] for line in files["jsonl"].splitlines()]
    assert ["design"] == [row["tenant"] for row in csv.DictReader(io.StringIO(files["csv"]))]
    [row] = csv.DictReader(io.StringIO(files["focus"]))
    assert ("acme", "design") == (row["SubAccountId"], row["SubAccountName"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("tenant", "show", "acme"),
        ("tenant", "update", "acme", "--weight", "2"),
        ("tenant", "rename", "acme", "other"),
        ("tenant", "delete", "acme", "--yes"),
        ("tenant", "delete", "acme", "--purge", "--yes"),
        ("key", "list", "acme"),
        ("key", "create", "acme"),
        ("usage", "--tenant", "acme"),
        ("audit", "--tenant", "acme"),
        ("batch", "list", "acme"),
        ("tenant", "create", "acme"),
    ],
)
def test_the_former_name_is_refused_with_the_present_one(
    gateway: Gateway, arguments: tuple[str, ...], shows: Shows
) -> None:
    gateway.admin("PATCH", "/tenants/acme", {"name": "design"})
    done = ask(gateway, *arguments)
    check_refused(done, "The tenant 'acme' was renamed. Its name is 'design'.")
    shows(12, f"imagegate {' '.join(arguments)}", done.stderr.strip())
    assert 200 == gateway.get("/v1/models").status_code


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shop", "A tenant named 'shop' exists already."),
        ("Not A Name", "name: Expected 1 to 63 characters"),
        ("deleted-x", "Names that begin with 'deleted-' are reserved."),
    ],
)
def test_a_name_that_cannot_be_given_is_refused(gateway: Gateway, name: str, message: str, shows: Shows) -> None:
    gateway.admin("POST", "/tenants", {"name": "shop"})
    done = ask(gateway, "tenant", "rename", "acme", name)
    check_refused(done, message)
    shows(12, f"imagegate tenant rename acme '{name}'", done.stderr.strip())
    assert "acme" == gateway.admin("GET", "/tenants/acme").json()["name"]


def test_creating_a_disabled_tenant_says_how_to_enable_it_and_enabling_which_keys_are_valid(
    gateway: Gateway, shows: Shows
) -> None:
    gateway.admin("PATCH", "/tenants/acme", {"disabled": True})
    done = ask(gateway, "tenant", "create", "acme")
    check_refused(done, "exists already and is disabled. To enable it: imagegate tenant update acme --enable")
    shows(12, "imagegate tenant create acme", done.stderr.strip())
    enabled = ask(gateway, "tenant", "update", "acme", "--enable")
    assert f"Keys that are valid: {gateway.api_key[6:16]}.\n" == enabled.stderr
    shows(12, "imagegate tenant update acme --enable", enabled.stderr.replace(gateway.api_key[6:16], "KEY").strip())


def test_a_revoked_key_is_found_with_its_label_and_who_revoked_it(gateway: Gateway) -> None:
    made = gateway.admin("POST", "/tenants/acme/keys", {"label": "old shop"}).json()["id"]
    ask(gateway, "key", "revoke", "acme", made, "--yes")
    listed = ask(gateway, "key", "list", "acme", "--revoked").stdout
    assert re.search(rf"^{made} +old shop +\d{{4}}-\d\d-\d\d \d\d:\d\d UTC +admin$", listed, re.MULTILINE)
    assert gateway.api_key[6:16] not in listed


def test_the_pages_of_tenants_are_all_of_them(gateway: Gateway) -> None:
    for number in range(6):
        gateway.admin("POST", "/tenants", {"name": f"team-{number}", "quotas": {"images_per_month": 10 + number}})
    names, after = list[str](), "0"
    while after:
        page = gateway.admin("GET", f"/tenants?limit=3&used=true&after={after}").json()
        names += [tenant["name"] for tenant in page["data"]]
        assert [0] * len(page["data"]) == [tenant["used"]["images_this_month"] for tenant in page["data"]]
        after = page["next"]
    assert ["acme", *(f"team-{number}" for number in range(6))] == names
    listed = ask(gateway, "tenant", "list").stdout
    assert re.search(r"^team-5 +enabled +all +0/15 +0\.00", listed, re.MULTILINE)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "used=yes", "after=", "page=2"])
def test_a_wrong_query_of_the_list_is_refused(gateway: Gateway, query: str) -> None:
    assert 400 == gateway.admin("GET", f"/tenants?{query}").status_code


def test_a_declared_tenant_is_not_deleted_for_good(make_gateway: MakeGateway, shows: Shows) -> None:
    gateway = make_gateway(tenants=[{"name": "shop"}])
    done = ask(gateway, "tenant", "delete", "shop", "--purge", "--yes")
    check_refused(done, "'shop' is declared in the configuration. Remove it there, and reload, first.")
    shows(12, "imagegate tenant delete shop --purge --yes", done.stderr.strip())
    assert not gateway.admin("GET", "/tenants/shop").json()["disabled"]


def test_a_tenant_that_never_asked_is_deleted_for_good_within_seconds(gateway: Gateway) -> None:
    done = ask(gateway, "tenant", "delete", "acme", "--purge", "--yes")
    assert re.search(r"Its bill stays as 'deleted-[0-9a-f]{8}'\.", done.stdout)
    wait_until(lambda: gateway.admin("GET", "/tenants/acme").status_code == 404, "the tenant is deleted", 60.0)
    assert 401 == gateway.get("/v1/models").status_code
