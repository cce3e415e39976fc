from pathlib import Path

import pytest

from docs.generate import DIRECTORY, PAGES, PageError, logs, render
from docs.generate.pages import fill, prose, table


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_as_the_code_says(name: str) -> None:
    """`make docs` mends it."""
    assert render(name) == (DIRECTORY / name).read_text("utf-8")


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
