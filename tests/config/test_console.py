"""`[console.oidc]`: each mistake with its place, and what the settings mean."""

import sys
from typing import Final

import pytest

from gateway.api.console.claims import OidcTerms
from gateway.app.oidc import require_extra
from gateway.config import SettingsError, from_document
from gateway.config.resolve import resolve
from tests.support.harness import document, environment, upstream
from tests.support.identity import BASE, CLIENT

OIDC: Final[dict[str, object]] = {
    "issuer": "https://login.example.com",
    "client_id": CLIENT,
    "roles": [{"value": "a", "role": "admin"}],
}


def terms(oidc: dict[str, object], **tables: dict[str, object]) -> OidcTerms:
    upstreams = upstream("sim", "minimax", "http://localhost")
    configured = document("redis://localhost", upstreams, console={"oidc": oidc}, **tables)
    environ = environment(configured)
    found = resolve(from_document(configured, environ, "test"), environ).oidc
    assert found
    return found


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"issuer": "http://login.example.com"}, "console.oidc.issuer: must be https"),
        ({"redirect_base": None}, "console.oidc.redirect_base: is not set, nor is server.public_url"),
        ({"redirect_base": "http://gateway.example"}, "console.oidc.redirect_base: 'http://gateway.example' must be"),
        (
            {"redirect_base": "https://a.example/path"},
            "console.oidc.redirect_base: 'https://a.example/path' has a path",
        ),
        ({"scopes": ["profile"]}, 'console.oidc.scopes: must include "openid"'),
        ({"client_secret": {"env": "UNSET"}}, "console.oidc.client_secret: the environment variable UNSET is not set"),
        ({"roles": []}, "console.oidc.roles: "),
        ({"roles": [{"value": "a", "role": "lead"}]}, "console.oidc.roles[0].tenant: a lead belongs to a tenant"),
        (
            {"roles": [{"value": "a", "role": "admin", "tenant": "acme"}]},
            "console.oidc.roles[0].tenant: the role 'admin' sees all tenants",
        ),
        (
            {"roles": [{"value": "a", "role": "admin"}, {"value": "a", "role": "viewer"}]},
            "console.oidc.roles[1].value: 'a' has another role already",
        ),
        ({"roles": [{"value": "a", "role": "owner"}]}, "console.oidc.roles[0].role: "),
        ({"audience": "x"}, "console.oidc: unknown setting `audience`"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_its_place(change: dict[str, object], place: str) -> None:
    oidc = OIDC | {"redirect_base": BASE} | change
    with pytest.raises(SettingsError) as caught:
        terms({name: value for name, value in oidc.items() if value is not None})
    assert place in str(caught.value)
    assert 1 == len(caught.value.problems)


def test_browsers_come_back_to_the_public_url_unless_another_is_set() -> None:
    server: dict[str, object] = {"public_url": "https://images.example.com/"}
    found = [terms(each, server=server) for each in (OIDC, OIDC | {"redirect_base": BASE})]
    places = ["https://images.example.com/console/oidc/callback", f"{BASE}/console/oidc/callback"]
    assert places == [one.redirect_uri for one in found]


def test_what_a_role_depends_on_changes_the_proof() -> None:
    changes: list[dict[str, object]] = [
        {},
        {"label": "x", "redirect_base": "https://other.example", "scopes": ["openid"]},
        {"claim": "roles"},
        {"client_id": "x"},
        {"issuer": "https://other.example"},
        {"roles": [{"value": "a", "role": "viewer"}]},
    ]
    proofs = [terms(OIDC | {"redirect_base": BASE} | change).proof for change in changes]
    assert (len(changes), len(changes) - 1, proofs[0]) == (len(proofs), len(set(proofs)), proofs[1])


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "joserfc", None)
    with pytest.raises(SettingsError, match=r'console\.oidc: needs .* pip install "imagegate\[console\]"'):
        require_extra()
