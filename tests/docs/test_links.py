import re
from pathlib import Path

import pytest

from tests.docs.files import DOCUMENTS, ROOT, read, without_code

LINK = re.compile(r"\]\(([^)\s]+)(?: \"[^\"]*\")?\)|^\[[^\]]+\]: (\S+)|\bsrc=\"([^\"]+)\"", re.MULTILINE)


def links_of(text: str) -> list[str]:
    found = (next(filter(None, groups)) for groups in LINK.findall(without_code(text)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors_of(text: str) -> set[str]:
    """As GitHub makes them of headings; the second of one name gets a number."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", without_code(text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in anchors:
            number += 1
        anchors.add(name)
    return anchors


def problem_of(link: str, document: Path) -> str | None:
    path, _, anchor = link.partition("#")
    target = (ROOT / document).parent / path if path else ROOT / document
    if not target.exists():
        return f"{link}: there is no such file"
    if not target.resolve().is_relative_to(ROOT):
        return f"{link}: it is not in the repository"
    if anchor and (target.suffix != ".md" or anchor not in anchors_of(target.read_text("utf-8"))):
        return f"{link}: there is no such heading"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert [] == [problem for link in links_of(read(document)) if (problem := problem_of(link, document))]


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("errors.md#what-a-client-sees", None),
        ("../README.md", None),
        ("#changing-the-configuration", None),
        ("error.md", "no such file"),
        ("errors.md#what-a-client-saw", "no such heading"),
        ("../config/imagegate.toml#server", "no such heading"),
        ("../../..", "not in the repository"),
    ],
)
def test_a_link_that_leads_nowhere_is_found(link: str, problem: str | None) -> None:
    found = problem_of(link, Path("docs/operating.md"))
    assert (problem or "") in (found or "")
    assert bool(problem) == bool(found)


def test_links_of_every_form_are_read_but_not_those_in_code() -> None:
    text = (
        '[`[x]`](a.md)\n![p](b.png "t") [o](https://example.org)\n[r]: c.md\n<img src="d.png">\n```\n[n](e.md)\n```\n'
    )
    assert ["a.md", "b.png", "c.md", "d.png"] == links_of(text)


def test_anchors_are_made_as_github_makes_them() -> None:
    text = "# A `[code]` & a [link](x.md)\n## Twice\n## Twice\n```\n# no heading\n```\n"
    assert {"a-code--a-link", "twice", "twice-1"} == anchors_of(text)
