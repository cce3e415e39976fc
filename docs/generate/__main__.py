"""`python -m docs.generate`: regenerates the tables of every page."""

import sys

from docs.generate import DIRECTORY, PAGES, PageError, render

for name in PAGES:
    try:
        page = render(name)
    except PageError as error:
        sys.exit(f"docs/{name}: {error}")
    (DIRECTORY / name).write_text(page, "utf-8")
