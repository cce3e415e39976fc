"""Roles and the label from the claims of an ID token."""

import pytest

from gateway.api.console.claims import Problem, RoleRule, SignInError, find_label, find_roles
from gateway.domain.roles import ConsoleRole

_ADMIN = RoleRule("admins", ConsoleRole.ADMIN)
_FINANCE = RoleRule("books", ConsoleRole.FINANCE)
_VIEWER = RoleRule("eyes", ConsoleRole.VIEWER)
_MEMBER = RoleRule("acme", ConsoleRole.MEMBER, "t1")
_LEAD = RoleRule("acme-leads", ConsoleRole.LEAD, "t1")
_BETA = RoleRule("beta", ConsoleRole.MEMBER, "t2")
_RULES = (_MEMBER, _BETA, _VIEWER, _FINANCE, _LEAD, _ADMIN)


@pytest.mark.parametrize(
    ("claims", "path", "expected"),
    [
        ({"roles": ["books"]}, "roles", [_FINANCE]),
        ({"roles": "books"}, "roles", [_FINANCE]),
        ({"realm_access": {"roles": ["x", "acme-leads"]}}, "realm_access.roles", [_LEAD]),
        ({"https://a.example/roles": ["books"]}, "https://a.example/roles", [_FINANCE]),
        ({"roles": ["acme-leads", "books", "eyes"]}, "roles", [_FINANCE]),
        ({"roles": ["acme-leads", "eyes"]}, "roles", [_VIEWER]),
        ({"roles": ["books", "admins", "acme-leads"]}, "roles", [_ADMIN]),
        ({"roles": ["beta", "acme"]}, "roles", [_MEMBER, _BETA]),
        ({"roles": ["beta", "acme-leads"]}, "roles", [_BETA, _LEAD]),
        ({"roles": ["acme", "beta", "acme-leads"]}, "roles", [_LEAD, _BETA]),
    ],
)
def test_the_highest_role_wins_and_each_tenant_is_a_choice(
    claims: dict[str, object], path: str, expected: list[RoleRule]
) -> None:
    assert expected == find_roles(claims, path, _RULES)


@pytest.mark.parametrize(
    ("claims", "problem", "reason"),
    [
        ({}, Problem.CLAIM, "is missing"),
        ({"roles": 7}, Problem.CLAIM, "is missing"),
        ({"roles": ["books", 7]}, Problem.CLAIM, "is missing"),
        ({"roles": []}, Problem.ROLE, "no value"),
        ({"roles": ["Books", "books2", "book"]}, Problem.ROLE, "no value"),
        ({"_claim_names": {"groups": "src1"}}, Problem.GROUPS, "too many"),
        ({"hasgroups": True}, Problem.GROUPS, "too many"),
    ],
)
def test_anything_else_grants_nothing_and_has_its_own_reason(
    claims: dict[str, object], problem: Problem, reason: str
) -> None:
    with pytest.raises(SignInError, match=reason) as caught:
        find_roles(claims, "roles", _RULES)
    assert problem is caught.value.problem
    assert "ooks" not in str(caught.value)


@pytest.mark.parametrize("verified", [True, False, "true", None])
def test_an_address_grants_a_role_only_if_it_is_verified(verified: object) -> None:
    rules, claims = [RoleRule("ann@example.com", ConsoleRole.VIEWER)], {"email": "ann@example.com"}
    if verified is True:
        assert rules == find_roles(claims | {"email_verified": True}, "email", rules)
        return
    with pytest.raises(SignInError, match="email_verified"):
        find_roles(claims | {"email_verified": verified}, "email", rules)


@pytest.mark.parametrize(
    ("claims", "label"),
    [
        ({"email": "ann@example.com", "email_verified": True, "name": "Ann"}, "ann@example.com"),
        ({"email": "ann@example.com", "name": "Ann"}, "Ann"),
        ({"email": "ann@example.com", "email_verified": "true"}, ""),
        ({"email": ["ann@example.com"], "email_verified": True}, ""),
        ({"name": "boss@example.com"}, ""),
        ({"name": "A\n\x1b[1mnn" + "x" * 200}, "A[1mnn" + "x" * 94),
        ({"name": 7}, ""),
    ],
)
def test_an_address_that_is_not_verified_is_no_label(claims: dict[str, object], label: str) -> None:
    assert label == find_label(claims)
