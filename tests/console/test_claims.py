"""Roles from the claims of an ID token."""

import pytest

from gateway.api.console.claims import NoRoleError, RoleRule, find_roles
from gateway.domain.roles import ConsoleRole

_ADMIN = RoleRule("admins", ConsoleRole.ADMIN)
_FINANCE = RoleRule("books", ConsoleRole.FINANCE)
_LEAD = RoleRule("acme-leads", ConsoleRole.LEAD, "t1")
_RULES = (_FINANCE, _LEAD, _ADMIN)


@pytest.mark.parametrize(
    ("claims", "path", "expected"),
    [
        ({"roles": ["books"]}, "roles", [_FINANCE]),
        ({"roles": "books"}, "roles", [_FINANCE]),
        ({"realm_access": {"roles": ["x", "acme-leads"]}}, "realm_access.roles", [_LEAD]),
        ({"https://a.example/roles": ["books"]}, "https://a.example/roles", [_FINANCE]),
        ({"roles": ["acme-leads", "books"]}, "roles", [_FINANCE, _LEAD]),
        ({"roles": ["books", "admins", "acme-leads"]}, "roles", [_ADMIN]),
    ],
)
def test_matching_values_grant_the_union_and_admin_beats(
    claims: dict[str, object], path: str, expected: list[RoleRule]
) -> None:
    assert expected == find_roles(claims, path, _RULES)


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({}, "is missing"),
        ({"roles": 7}, "is missing"),
        ({"roles": ["books", 7]}, "is missing"),
        ({"roles": []}, "no value"),
        ({"roles": ["Books", "books2", "book"]}, "no value"),
        ({"_claim_names": {"groups": "src1"}}, "too many"),
        ({"hasgroups": True}, "too many"),
    ],
)
def test_anything_else_grants_nothing_and_has_its_own_reason(claims: dict[str, object], reason: str) -> None:
    with pytest.raises(NoRoleError, match=reason) as caught:
        find_roles(claims, "roles", _RULES)
    assert "ooks" not in str(caught.value)
