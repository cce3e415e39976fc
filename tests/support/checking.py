"""Runs `imagegate check --upstreams` on one upstream."""

from pathlib import Path
from typing import Final

from tests.support.commands import run

_CONFIG: Final = """\
{head}
[redis]
url = "{redis_url}"
[[models]]
id = "image-01"
price_per_image_usd = "0.0035"
targets = [{{ upstream = "up", model = "image-01" }}]
[[upstreams]]
name = "up"
provider = "{provider}"
base_url = "{base_url}"
{settings}
[[upstreams.accounts]]
name = "main"
keys = [{{ name = "main-1", secret = {{ env = "UPSTREAM_SECRET" }} }}]
"""


def check(
    folder: Path,
    redis_url: str,
    base_url: str,
    settings: str = "",
    *,
    head: str = "",
    provider: str = "minimax",
    **variables: str,
) -> tuple[int, str]:
    """Returns the exit code and the output in one line, from the first line on that concerns the upstream's key.

    `settings`: lines of the upstream; `head`: of other tables.
    """
    path = folder / "imagegate.toml"
    text = _CONFIG.format(head=head, redis_url=redis_url, provider=provider, base_url=base_url, settings=settings)
    path.write_text(text)
    done = run("check", "--upstreams", IMAGEGATE_CONFIG=str(path), **variables)
    table = done.stdout.partition("RESULT")[2]
    return done.returncode, " ".join(f"{table} {done.stderr}".split()).replace(str(path), "imagegate.toml")
