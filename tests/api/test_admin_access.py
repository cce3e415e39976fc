"""Several administrators: each by a key of their own, some of which may only read."""

import itertools
from typing import Any

import httpx
import pytest

from gateway.api.admin import AdminAuthenticator, AdminKey, Role
from gateway.app import create_app
from gateway.config import from_document
from gateway.config.resolve import resolve
from gateway.domain.accounts import Secret
from gateway.domain.errors import ErrorCode, GatewayError
from gateway.domain.roles import PERMISSIONS, ConsoleRole, admin_permission
from tests.support.admin_routes import ROUTES
from tests.support.harness import document, environment, serving, upstream

ALICE, READER, FIRST = "alice-secret-for-tests", "reader-secret-for-tests", "admin-secret-for-tests"


def key(name: str, secret: str, role: Role = Role.ADMIN) -> AdminKey:
    return AdminKey(name, Secret(secret, "fp"), role)


ACCESS = AdminAuthenticator([key("admin", FIRST), key("alice", ALICE), key("board", READER, Role.READ)])


def fault_of(authorization: str, permission: str, access: AdminAuthenticator = ACCESS) -> ErrorCode | None:
    try:
        access.check(authorization, permission)
    except GatewayError as error:
        return error.error_code
    return None


@pytest.mark.parametrize(("secret", "name"), [(FIRST, "admin"), (ALICE, "alice"), (READER, "board")])
def test_each_key_has_its_name(secret: str, name: str) -> None:
    assert name == ACCESS.check(f"Bearer {secret}", "keys.read") == ACCESS.check(f"bearer  {secret} ", "keys.read")


@pytest.mark.parametrize("permission", ["keys.write", "pool.write", "months.close", "configuration.read"])
def test_a_reader_may_do_what_a_viewer_may(permission: str) -> None:
    assert [None, None, ErrorCode.ADMIN_READ_ONLY] == [
        fault_of(f"Bearer {secret}", permission) for secret in (FIRST, ALICE, READER)
    ]


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", f"Basic {ALICE}", ALICE, f"Bearer {ALICE}x", "Bearer ä"])
def test_anything_else_is_no_key(given: str) -> None:
    for permission in ("keys.read", "keys.write"):
        assert ErrorCode.ADMIN_UNAUTHORIZED is fault_of(given, permission)
        assert ErrorCode.ADMIN_API_DISABLED is fault_of(given, permission, AdminAuthenticator([]))


@pytest.fixture
def url(redis_url: str, request: pytest.FixtureRequest) -> Any:
    keys = [
        {"name": "alice", "secret": {"env": "ALICE"}},
        {"name": "board", "secret": {"env": "BOARD"}, "role": "read"},
    ]
    configured = document(
        redis_url,
        upstream("sim", "minimax", "http://127.0.0.1:1"),
        admin={"key": {"env": "ADMIN_KEY"}, "keys": keys},
    )
    environ = environment(configured) | {"ALICE": ALICE, "BOARD": READER}
    with serving(create_app(resolve(from_document(configured, environ, "test"), environ))) as address:
        yield f"{address}/admin/v1"


def call(url: str, secret: str, method: str, path: str, body: object = None) -> httpx.Response:
    return httpx.request(method, url + path, json=body, headers={"authorization": f"Bearer {secret}"})


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_reader_may_use_every_route_that_reads_and_no_other(url: str, method: str, path: str) -> None:
    call(url, ALICE, "POST", "/tenants", {"name": "acme"})
    answer = call(url, READER, method, path)
    permission = admin_permission(path.replace("/tenants/acme", "/tenants/{name}"), method)
    if permission in PERMISSIONS[ConsoleRole.VIEWER]:
        assert answer.status_code in {200, 404}
    else:
        assert (403, "admin_read_only") == (answer.status_code, answer.json()["error"]["code"])
        assert "board" in answer.json()["error"]["message"]


def test_the_audit_names_who_it_was(url: str) -> None:
    for number, secret in enumerate((FIRST, ALICE)):
        call(url, secret, "POST", "/tenants", {"name": f"tenant-{number}"})
    call(url, READER, "POST", "/tenants", {"name": "refused"})
    entries = call(url, READER, "GET", "/audit").json()["data"]
    assert [("alice", "tenant-1"), ("admin", "tenant-0")] == [(entry["actor"], entry["tenant"]) for entry in entries]


def test_no_key_opens_for_another(url: str) -> None:
    for secret, method in itertools.product((FIRST, ALICE, READER), ("GET", "POST")):
        assert 401 == call(url, secret[:-1], method, "/tenants").status_code
