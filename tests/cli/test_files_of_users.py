"""Files that commands read: of `apply`, and of contexts."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run
from tests.support.harness import ADMIN_KEY, Gateway

PARTLY = """
[[tenants]]
name = "first-half"
keys = [{ label = "web" }]

[[tenants]]
name = "second-half"
models = ["no-such-model"]
"""


@pytest.mark.shares_gateway
def test_the_keys_made_before_a_change_fails_are_printed(gateway: Gateway, tmp_path: Path) -> None:
    (file := tmp_path / "teams.toml").write_text(PARTLY)
    done = run(*("apply", "-f", str(file), "--yes", "--json"), IMAGEGATE_URL=gateway.url, IMAGEGATE_ADMIN_KEY=ADMIN_KEY)
    assert 1 == done.returncode
    assert "model 'no-such-model' is not configured" in done.stderr
    [key] = json.loads(done.stdout)["keys"]
    assert ("first-half", "web", "sk-ig-") == (key["tenant"], key["label"], key["key"][:6])


def test_a_file_of_contexts_with_wrong_values_is_refused(tmp_path: Path) -> None:
    (file := tmp_path / "imagegate" / "contexts.toml").parent.mkdir()
    file.write_text('[contexts.one]\nurl = "http://127.0.0.1:9"\nadmin_key_file = 7\n')
    done = run("tenant", "list", "--context", "one", XDG_CONFIG_HOME=str(tmp_path))
    assert (1, "") == (done.returncode, done.stdout)
    assert "contexts.one.admin_key_file: expected a text); correct" in done.stderr
