from pathlib import Path

import pytest

from docs.generate import DIRECTORY, PAGES, PageError, configuration, logs, render
from docs.generate.annotated import read_meanings
from docs.generate.pages import fill, prose, table
from gateway.config import Settings
from gateway.config.messages import step_type

SECTIONS = list(configuration.sections())


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code_says(name: str) -> None:
    """`make docs` mends it."""
    assert render(name) == (DIRECTORY / name).read_text("utf-8")


def test_every_setting_stands_in_one_section() -> None:
    named = [f"{section.name}.{setting.name}" for section in SECTIONS for setting in section.settings]

    assert len(set(named)) == len(named)
    assert set(Settings.__struct_fields__) == {name.partition(".")[0] for name in named}
    assert {
        "server.tls.key",
        "admin.keys.role",
        "upstreams.accounts.keys.secret",
        "models.price_changes.since",
        "tenants.keys.limits",
    } <= set(named)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_the_variable_of_every_setting_is_understood(section: configuration.Section) -> None:
    for setting in section.settings:
        kind: object = Settings
        for step in f"{section.variable}{setting.name}".removeprefix("IMAGEGATE_").lower().split("__"):
            kind = step_type(kind, step, section.variable)
        assert setting.type == kind


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("server.header_timeout_s", "seconds, above 0, at most 3600"),
        ("server.max_body_bytes", "bytes, at least 1"),
        ("server.cors_origins", "a list: a string in quotes"),
        ("server.port", "a port, 0 to 65535"),
        ("redis.password", '`{ env = "VARIABLE" }` or `{ file = "/path" }`'),
        ("logs.format", "`json` or `console`"),
        ("requests.max_attempts", "a whole number, 1 to 10"),
        ("tracing.service_name", "a string in quotes of 1 to 100 characters"),
        ("billing.charge_moderated", "true or false"),
    ],
)
def test_what_a_setting_takes_is_told_in_words(path: str, words: str) -> None:
    kind: object = Settings
    for step in path.split("."):
        kind = step_type(kind, step, path)
    assert words == configuration.takes(path, kind)


def test_a_setting_of_which_nothing_is_said_is_refused(tmp_path: Path) -> None:
    silent = configuration.ANNOTATED.read_text("utf-8").replace(
        "# seconds to connect to an upstream; nothing has been sent until then", ""
    )
    (tmp_path / "gate.toml").write_text(silent)

    with pytest.raises(PageError, match=r"says nothing of requests\.connect_timeout_s"):
        configuration.blocks(tmp_path / "gate.toml")


def test_the_annotated_file_may_not_explain_what_is_no_setting(tmp_path: Path) -> None:
    more = configuration.ANNOTATED.read_text("utf-8").replace("[logs]\n", "[logs]\n# colour = true  # like a tree\n")
    (tmp_path / "gate.toml").write_text(more)

    with pytest.raises(PageError, match=r"no settings \['logs\.colour'\]"):
        configuration.blocks(tmp_path / "gate.toml")


def test_meanings_are_read_from_behind_a_setting_and_from_above() -> None:
    text = """\
# Of the file.

[a]                         # the table
one = "x # y"               # behind,
#                           # and on
# two = { b = 1 }  # commented out
# three: what stands
# above. And
# A new line.
three = 3
four = 4
[[a.b]]
five = 5                    # the first counts
[[a.b]]
five = 6                    # not the second
"""
    assert {
        "a": "the table",
        "a.one": "behind, and on",
        "a.two": "commented out",
        "a.three": "what stands above. And <br>A new line.",
        "a.four": "",
        "a.b": "",
        "a.b.five": "the first counts",
    } == read_meanings(text)


def test_events_are_found_in_the_code(tmp_path: Path) -> None:
    package = tmp_path / "gateway"
    package.mkdir()
    (package / "a.py").write_text(
        '_LOG.warning("one", key=1, exc_info=error)\n_LOG.exception("two" if x else "three", **more)\nlog("four")\n'
        'math.log(2)\n_OTHER.info("five")\n'
    )
    found = [(event.name, event.level, event.fields, event.where) for event in logs.events(package)]
    assert [
        ("one", "warning", ("key",), "gateway/a.py:1"),
        ("two", "error", (), "gateway/a.py:2"),
        ("three", "error", (), "gateway/a.py:2"),
        ("four", "differs", (), "gateway/a.py:3"),
    ] == found


def test_an_event_that_cannot_be_looked_up_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('_LOG.info(f"one {x}")\n')
    with pytest.raises(PageError, match=r"a\.py:1: the event must be a string literal"):
        list(logs.events(tmp_path))


@pytest.mark.parametrize(
    ("removed", "says"),
    [
        ("settlement_lost", r"\[events\] does not explain settlement_lost"),
        ("queue_ms", r"\[fields\] does not explain queue_ms"),
    ],
)
def test_what_is_logged_and_not_explained_is_refused(removed: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "logs.toml").write_text(logs.MEANINGS.read_text("utf-8").replace(f"{removed} =", "another ="))
    with pytest.raises(PageError, match=says):
        logs.blocks(tmp_path / "logs.toml")


def test_what_is_explained_and_not_logged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs.toml").write_text(logs.MEANINGS.read_text("utf-8") + '\nnever_logged = "x"\n')
    with pytest.raises(PageError, match="explains never_logged, which the code does not log"):
        logs.blocks(tmp_path / "logs.toml")


def test_blocks_stand_between_their_markers_and_nowhere_else() -> None:
    page = "a\n<!-- generated: x-1 -->\nold\n<!-- end of x-1 -->\nb\n"
    filled = "a\n<!-- generated: x-1 -->\n\nnew\n\n<!-- end of x-1 -->\nb\n"

    assert filled == fill(page, {"x-1": "new"}) == fill(filled, {"x-1": "new"})
    for blocks in ({}, {"x-1": "new", "y": "new"}):
        with pytest.raises(PageError, match="blocks of the page"):
            fill(page, blocks)


def test_a_cell_keeps_its_row_together() -> None:
    assert "| a | b |\n| --- | --- |\n| x \\| y | z |" == table(("a", "b"), [("x | y", "z")])


def test_addresses_in_prose_are_no_links() -> None:
    assert 'see `http://a:1/b`, "`redis://c,d/0`" or `http://e` [f: `http://g`]' == prose(
        'see http://a:1/b,\n "redis://c,d/0" or `http://e` [f: http://g]'
    )
