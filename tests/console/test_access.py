"""Which requests a session authorizes: of its own pages only, and of what its role may do."""

import httpx
import pytest

from gateway.api.admin import PREFIX
from gateway.domain.roles import PERMISSIONS, ConsoleRole, admin_permission
from tests.support.admin_routes import ROUTES
from tests.support.console import PAGE, Browser, error_code, person
from tests.support.harness import ADMIN_KEY, Gateway, admin

pytestmark = pytest.mark.shares_gateway
OWN = {"x-imagegate-console": "1"}


@pytest.fixture(scope="module")
def people(module_gateway: Gateway) -> dict[ConsoleRole, Browser]:
    """Returns a browser of each role."""
    return {role: person(module_gateway.url, role.value, "acme" if role.has_tenant else None) for role in ConsoleRole}


@pytest.mark.parametrize(
    ("headers", "is_own"),
    [
        (PAGE, True),
        ({**OWN, "sec-fetch-site": "same-site"}, False),
        ({**OWN, "sec-fetch-site": "cross-site"}, False),
        ({**OWN, "sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-origin"}, False),
        (OWN, False),
        ({**OWN, "origin": "OWN"}, True),
        ({**OWN, "origin": "https://evil.example"}, False),
        ({**OWN, "origin": "null"}, False),
        ({**OWN, "origin": "OWN", "sec-fetch-site": "cross-site"}, False),
        ({"origin": "OWN"}, False),
    ],
)
def test_only_the_consoles_own_pages_change_anything(
    gateway: Gateway, people: dict[ConsoleRole, Browser], headers: dict[str, str], is_own: bool
) -> None:
    sent = {name: gateway.url if value == "OWN" else value for name, value in headers.items()}
    browser = Browser(gateway.url, people[ConsoleRole.ADMIN].cookie, sent)
    before = admin(gateway.url, "GET", "/tenants/acme").json()["weight"]
    answer = browser.call("PATCH", "/admin/v1/tenants/acme", {"weight": before + 1})
    assert before + is_own == admin(gateway.url, "GET", "/tenants/acme").json()["weight"]
    assert (200 if is_own else 403) == answer.status_code
    assert is_own or "cross_site_request" == error_code(answer)
    signing_in = Browser(gateway.url, headers=sent).call("POST", "/console/session", {"key": ADMIN_KEY})
    assert (200 if is_own else 403) == signing_in.status_code
    signing_out = Browser(gateway.url, headers=sent).call("DELETE", "/console/session")
    assert (200 if is_own else 403) == signing_out.status_code


def test_a_form_of_another_page_changes_nothing(gateway: Gateway, people: dict[ConsoleRole, Browser]) -> None:
    """A form sends text/plain without a preflight, its own page's Origin, and no header of the console."""
    cookie = f"__Host-imagegate={people[ConsoleRole.ADMIN].cookie}"
    headers = {"cookie": cookie, "content-type": "text/plain", "origin": gateway.url, "sec-fetch-site": "same-origin"}
    sent = httpx.post(f"{gateway.url}/admin/v1/tenants", content=b'{"name": "evil"}', headers=headers, verify=False)
    assert (403, "cross_site_request") == (sent.status_code, error_code(sent))
    own = headers | OWN
    sent = httpx.post(f"{gateway.url}/admin/v1/tenants", content=b'{"name": "evil"}', headers=own, verify=False)
    assert 415 == sent.status_code


@pytest.mark.parametrize("role", ConsoleRole)
def test_a_role_uses_exactly_what_the_table_permits(
    gateway: Gateway, people: dict[ConsoleRole, Browser], role: ConsoleRole
) -> None:
    """What a permitted change would do is the subject of other tests."""
    for method, path in ROUTES:
        needed = admin_permission(path.replace("/tenants/acme", "/tenants/{name}"), method)
        if needed in PERMISSIONS[role] and not role.has_tenant:
            if method == "GET":
                assert people[role].get(PREFIX + path).status_code in {200, 404}, path
        else:
            answer = people[role].call(method, PREFIX + path, None if method == "GET" else {})
            assert (403, "not_permitted") == (answer.status_code, error_code(answer)), (method, path)


def test_finance_sees_the_entries_of_money_alone(gateway: Gateway, people: dict[ConsoleRole, Browser]) -> None:
    admin(gateway.url, "POST", "/tenants", {"name": "paid", "quotas": {"usd_per_month": "5.00"}})
    admin(gateway.url, "POST", "/tenants", {"name": "free", "quotas": {"images_per_day": 5}})
    changes: list[dict[str, object]] = [
        {"weight": 2},
        {"quotas": {"usd_per_month": "6.00"}},
        {"quotas": {"images_per_day": 9}},
        {"cost_centre": "cc1"},
        {"quotas": {"soft_usd_per_month": "3.00"}, "weight": 3},
    ]
    for change in changes:
        assert 200 == admin(gateway.url, "PATCH", "/tenants/paid", change).status_code
    for quotas in ({}, {"usd_per_month": "1.00"}):
        admin(gateway.url, "POST", "/tenants/paid/keys", {"quotas": quotas})
    admin(gateway.url, "POST", "/tenants/paid/credit", {"images": 1, "reason": "outage"})
    finance, viewer = people[ConsoleRole.FINANCE], people[ConsoleRole.VIEWER]
    seen = {
        tenant: [entry["action"] for entry in finance.get(f"/admin/v1/audit?tenant={tenant}").json()["data"]]
        for tenant in ("paid", "free")
    }
    shown = ["tenant.credit", "key.create", *["tenant.update"] * 3, "tenant.create"]
    assert {"paid": shown, "free": []} == seen
    assert 9 == len(viewer.get("/admin/v1/audit?tenant=paid").json()["data"])
    assert {"tenant.credit", "key.create", "tenant.update", "tenant.create", "usage.close"} >= {
        entry["action"] for entry in finance.get("/admin/v1/audit?limit=1000").json()["data"]
    }
    assert 3 == len(finance.get("/admin/v1/audit?tenant=paid&action=tenant.update").json()["data"])


def test_a_viewer_may_read_everything_but_the_configuration() -> None:
    for method, path in ROUTES:
        needed = admin_permission(path.replace("/tenants/acme", "/tenants/{name}"), method)
        is_read = method == "GET" and path != "/configuration"
        assert is_read == (needed in PERMISSIONS[ConsoleRole.VIEWER]), (method, path)
        assert needed in PERMISSIONS[ConsoleRole.ADMIN]


def test_finance_closes_months_and_changes_nothing_else() -> None:
    may = PERMISSIONS[ConsoleRole.FINANCE]
    assert {"months.close"} == {name for name in may if not name.endswith(".read")}
    assert not may & {"pool.read", "keys.read", "settings.read"}


def test_a_session_is_no_key(gateway: Gateway, people: dict[ConsoleRole, Browser]) -> None:
    for role in (ConsoleRole.ADMIN, ConsoleRole.LEAD):
        for path in ("/v1/models", "/v1/usage", "/v1/tenant/keys"):
            assert 401 == people[role].get(path).status_code
        token = {"authorization": f"Bearer {people[role].cookie}"}
        assert 401 == httpx.get(f"{gateway.url}/admin/v1/tenants", headers=token, verify=False).status_code


def test_no_other_page_reads_what_the_console_answers(gateway: Gateway) -> None:
    headers = {"origin": "https://evil.example"}
    for path in ("/console/session", "/console", "/admin/v1/tenants", "/console/images/generations"):
        answer = httpx.get(gateway.url + path, headers=headers, verify=False)
        assert "access-control-allow-origin" not in answer.headers


def test_a_change_is_audited_under_the_persons_name(gateway: Gateway, people: dict[ConsoleRole, Browser]) -> None:
    assert 201 == people[ConsoleRole.ADMIN].call("POST", "/admin/v1/tenants", {"name": "audited"}).status_code
    [entry] = admin(gateway.url, "GET", "/audit?tenant=audited").json()["data"]
    assert ("link:ann", "tenant.create") == (entry["actor"], entry["action"])
